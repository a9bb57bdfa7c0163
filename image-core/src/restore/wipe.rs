//! Removes everything from the targets that could be taken for a table, a filesystem or a member of
//! something.

use super::{Restore, Unused, is_boot_code};
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::io::BlockSink;
use crate::plan::extents::{ENDS, ends, stale_places};
use crate::plan::restore::Place;
use crate::report::{Report, Stage};
use crate::units::Bytes;

impl Restore<'_> {
    /// Invalidates tables, then wipes. Where data of the image may be on a target already, only its start
    /// and what the image does not write is touched.
    pub(super) fn wipe(&self, report: &dyn Report) -> Result<()> {
        let was_wiped = self.journal.borrow().was_wiped();
        let gentle = self.job.only_changed || was_wiped;
        let zeroes = self.job.unused == Unused::Zero && !was_wiped;
        let sizes = self.job.targets.iter().map(|medium| medium.size());
        report.stage(Stage::Wipe, zeroes.then(|| sizes.sum()));
        for (at, medium) in self.job.targets.iter().enumerate() {
            let (size, target): (Bytes, &dyn BlockSink) = (medium.size(), medium.as_ref());
            let spared = self.job.plan.kept_on(at).union(&self.journal.borrow().slots(at));
            let start = ExtentSet::from(Extent::first(ENDS.min(size)));
            let first = if gentle { start.clone() } else { ends(size) };
            zero_all(target, &first.subtract(&spared), report)?;
            target.flush()?;
            let whole = ExtentSet::from(Extent::first(size)).subtract(&spared);
            match self.job.unused {
                _ if was_wiped => {}
                Unused::Keep => {}
                Unused::Discard => whole.iter().try_for_each(|extent| target.discard(extent))?,
                Unused::Zero => zero_slowly(target, &whole, report)?,
            }
            let mut places = self.job.plan.wiped(self.job.root, at)?;
            if gentle {
                places =
                    places.subtract(&self.written_of(at, &places, was_wiped)?.subtract(&start));
            }
            zero_all(target, &places.subtract(&spared), report)?;
        }
        self.flush()
    }

    /// What the image writes of `places` on a target, as far as that is easily told: of partitions all of
    /// it, of logical volumes the places of their own signatures.
    fn written_of(&self, target: usize, places: &ExtentSet, was_wiped: bool) -> Result<ExtentSet> {
        let mut used = ExtentSet::new();
        for (at, volume) in self.job.plan.volumes.iter().enumerate() {
            let Some(entry) = self.entry(at) else { continue };
            if entry.is_container || volume.empty.is_some() || is_boot_code(entry) {
                continue;
            }
            let asked: ExtentSet = match &volume.place {
                Place::Target(on, extent) if *on == target => {
                    places.within(*extent).map(|part| part.relative_to(extent.start)).collect()
                }
                Place::Target(..) => continue,
                Place::Lv(..) => stale_places(volume.to),
            };
            let mut ranges = self.job.windows.used(volume.entry, &asked)?;
            if was_wiped && matches!(volume.place, Place::Lv(..)) {
                // What their physical volumes have there was wiped, and may be data by now.
                ranges = ranges.union(&asked.missing_in(Extent::first(volume.to)));
            }
            let here = self.job.plan.on_targets(volume, &ranges)?;
            used = here.get(target).map_or(used.clone(), |here| used.union(here));
        }
        Ok(used)
    }
}

fn zero_all(sink: &dyn BlockSink, places: &ExtentSet, report: &dyn Report) -> Result<()> {
    places.iter().try_for_each(|extent| {
        report.checkpoint()?;
        sink.zero(extent)
    })
}

/// Zeroes a whole target, piece by piece: on a large disk that takes hours.
fn zero_slowly(target: &dyn BlockSink, whole: &ExtentSet, report: &dyn Report) -> Result<()> {
    for extent in whole.iter() {
        let mut at = extent.start;
        while at < extent.end {
            report.checkpoint()?;
            let piece = Extent::new(at, extent.end.min(at + Bytes::mib(64)));
            target.zero(piece)?;
            report.advance(piece.len());
            at = piece.end;
        }
    }
    Ok(())
}
