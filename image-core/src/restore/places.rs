//! Planned volumes as something to write to and to read from.

use std::sync::Arc;

use super::{Job, no_target};
use crate::error::Result;
use crate::extent::Extent;
use crate::io::window::Window;
use crate::io::withheld::{Preview, Withheld};
use crate::io::{Sink, Source};
use crate::lvm::map::{LvMap, LvSink, LvSource};
use crate::plan::restore::{Place, RestorePlan, VolumePlan};

/// The targets of a restore, with what is kept back of each.
pub(super) struct Places<'a> {
    job: &'a Job<'a>,
    pub(super) withheld: Vec<Arc<Withheld>>,
}

impl<'a> Places<'a> {
    pub(super) fn new(job: &'a Job<'a>) -> Self {
        let withheld = job
            .targets
            .iter()
            .map(|medium| Arc::new(Withheld::new(Arc::clone(medium) as Sink, super::WITHHELD)));
        Self { job, withheld: withheld.collect() }
    }

    /// Where a volume is written.
    pub(super) fn sink(&self, volume: &VolumePlan) -> Result<Sink> {
        let target = |at: usize| -> Result<Sink> {
            self.withheld.get(at).map(|w| Arc::clone(w) as Sink).ok_or_else(no_target)
        };
        let part =
            |inner: Sink, extent, name: &str| Arc::new(Window::new(inner, extent, name)) as Sink;
        let lv = |name: &str, map, pvs| Ok(Arc::new(LvSink::new(name, map, pvs)?) as Sink);
        whole(self.job.plan, volume, &target, &part, &lv)
    }

    /// Where a volume is read back from: past the page cache, and with what is still kept back.
    pub(super) fn source(&self, volume: &VolumePlan) -> Result<Source> {
        let target = |at: usize| self.preview(at).map(|preview| Arc::new(preview) as Source);
        let part = |inner: Source, extent, name: &str| {
            Arc::new(Window::new(inner, extent, name)) as Source
        };
        let lv = |name: &str, map, pvs| Ok(Arc::new(LvSource::new(name, map, pvs)?) as Source);
        whole(self.job.plan, volume, &target, &part, &lv)
    }

    /// A target as it will be once nothing is kept back.
    pub(super) fn preview(&self, target: usize) -> Result<Preview<Source>> {
        let places = self.job.targets.get(target).zip(self.withheld.get(target));
        let (medium, withheld) = places.ok_or_else(no_target)?;
        Ok(Preview { target: medium.direct()?, withheld: Arc::clone(withheld) })
    }
}

/// Makes a part of a container, with a name for messages.
type Part<'a, T> = &'a dyn Fn(Arc<T>, Extent, &str) -> Arc<T>;

/// Makes a logical volume of its physical volumes, in the order of its group.
type Joined<'a, T> = &'a dyn Fn(&str, LvMap, Vec<Option<Arc<T>>>) -> Result<Arc<T>>;

/// A volume as a part of its target, or put together from its physical volumes.
fn whole<T: ?Sized>(
    plan: &RestorePlan,
    volume: &VolumePlan,
    target: &dyn Fn(usize) -> Result<Arc<T>>,
    part: Part<'_, T>,
    lv: Joined<'_, T>,
) -> Result<Arc<T>> {
    let (group, name) = match &volume.place {
        Place::Target(at, extent) => return Ok(part(target(*at)?, *extent, &volume.id)),
        Place::Lv(group, name) => (plan.groups.get(*group).ok_or_else(no_target)?, name),
    };
    let map = LvMap::new(&group.vg, group.vg.lv(name).ok_or_else(no_target)?)?;
    let mut pvs = Vec::new();
    for pv in &group.pvs {
        pvs.push(Some(part(target(pv.target)?, pv.extent, &pv.head.uuid)));
    }
    lv(&volume.id, map, pvs)
}
