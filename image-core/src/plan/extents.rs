//! What a plan touches, as sets of each target's bytes: where volumes lie, and what is wiped.

use super::restore::{Place, RestorePlan, VolumePlan};
use crate::disk::probe;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::Root;
use crate::lvm::map::LvMap;
use crate::units::Bytes;

/// How much of a target's start is written last, and of both ends invalidated first.
pub const ENDS: Bytes = Bytes::MIB;

/// The start and the end of a container of `size`.
pub fn ends(size: Bytes) -> ExtentSet {
    let first = Extent::first(ENDS.min(size));
    [first, Extent::new(size.saturating_sub(ENDS), size)].into_iter().collect()
}

/// Every place of a volume of `size` where a stale signature could stand.
pub fn stale_places(size: Bytes) -> ExtentSet {
    probe::places(size).union(&ends(size))
}

impl RestorePlan {
    /// The bytes of each target on which `ranges` of `volume` lie; what is behind its end is left out.
    ///
    /// # Errors
    /// [`Error::Refused`] for a plan that contradicts itself.
    pub fn on_targets(&self, volume: &VolumePlan, ranges: &ExtentSet) -> Result<Vec<ExtentSet>> {
        let mut found: Vec<Vec<Extent>> = vec![Vec::new(); self.targets.len()];
        let mut add = |target: usize, extent: Extent| {
            found.get_mut(target).ok_or_else(nowhere).map(|list| list.push(extent))
        };
        match &volume.place {
            Place::Target(target, place) => {
                for range in ranges.iter() {
                    let Some(range) = range.intersect(Extent::first(place.len())) else { continue };
                    add(*target, range.shifted(place.start))?;
                }
            }
            Place::Lv(group, name) => {
                let group = self.groups.get(*group).ok_or_else(nowhere)?;
                let map = LvMap::new(&group.vg, group.vg.lv(name).ok_or_else(nowhere)?)?;
                for (pv, span) in ranges.iter().flat_map(|range| map.spans(range)) {
                    let pv = group.pvs.get(pv).ok_or_else(nowhere)?;
                    add(pv.target, span.shifted(pv.extent.start))?;
                }
            }
        }
        Ok(found
            .into_iter()
            .map(|mut list| {
                list.sort_unstable();
                list.into_iter().collect()
            })
            .collect())
    }

    /// What is wiped of the target with this index: both ends, and every place where a signature of a
    /// former life could stand, on the target and in each volume.
    ///
    /// # Errors
    /// As [`RestorePlan::on_targets`].
    pub fn wiped(&self, root: &Root, target: usize) -> Result<ExtentSet> {
        let size = self.targets.get(target).ok_or_else(nowhere)?.size;
        let mut wiped = stale_places(size);
        for volume in &self.volumes {
            if root.volumes.get(volume.entry).is_some_and(|entry| entry.kind != "gap") {
                let places = self.on_targets(volume, &stale_places(volume.to))?;
                wiped = places.get(target).map_or(wiped.clone(), |places| wiped.union(places));
            }
        }
        Ok(wiped)
    }
}

fn nowhere() -> Error {
    Error::refused("the plan names a place that it does not have")
}
