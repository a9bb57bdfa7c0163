//! Writes a volume, but for what the target holds already.
//!
//! With `--only-changed` every window is looked at before it is written; a restore that continues looks at
//! those that it called done. What is believed is what was read, never a record.

use std::collections::HashSet;
use std::time::Duration;

use super::journal::{EVERY, SOON};
use super::{Restore, WITHHELD};
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::VolumeEntry;
use crate::io::BlockSource;
use crate::pipeline::fetch::Segment;
use crate::report::Report;
use crate::units::Bytes;

impl Restore<'_> {
    /// Writes what is missing of a volume.
    pub(super) fn write(&mut self, at: usize, report: &dyn Report) -> Result<()> {
        let (Some(volume), Some(entry)) = (self.volume(at), self.entry(at)) else { return Ok(()) };
        let (sink, source) = (self.places.sink(volume)?, self.places.source(volume)?);
        let mut written = Bytes::ZERO;
        let ended = self.job.windows.each(volume.entry, report, &mut |segment, feed| {
            self.note_unused(at, entry, segment);
            let present = self.present(at, entry, segment, source.as_ref(), report)?;
            let mut missing = segment.clone();
            missing.retain(|number| !present.contains(&number));
            report.advance(segment.used_bytes().saturating_sub(missing.used_bytes()));
            written += missing.used_bytes();
            self.target(at, entry).write(&missing, sink.as_ref(), feed, report, &|number| {
                self.note_window(at, entry, number)?;
                self.journal.borrow_mut().settle(EVERY)
            })
        });
        if ended.as_ref().is_ok_and(Vec::is_empty) && self.begins_early.get(at) == Some(&false) {
            self.journal.borrow_mut().note(at, Extent::first(entry.size));
        }
        // Whoever is interrupted may want to go on; what keeps that from being noted matters less.
        let settled =
            self.journal.borrow_mut().settle(if ended.is_ok() { SOON } else { Duration::ZERO });
        let damage = ended.and_then(|damage| settled.map(|()| damage))?;
        self.note(damage);
        self.result.written = self.result.written.saturating_add(written);
        let skipped = entry.size.saturating_sub(written);
        self.result.skipped = self.result.skipped.saturating_add(skipped);
        Ok(())
    }

    /// The windows of a segment that need not be written.
    fn present(
        &self,
        at: usize,
        entry: &VolumeEntry,
        segment: &Segment,
        source: &dyn BlockSource,
        report: &dyn Report,
    ) -> Result<HashSet<u64>> {
        let asked = {
            let journal = self.journal.borrow();
            let is_asked = |number: &u64| {
                self.job.only_changed || journal.was_done(at, self.extent(entry, *number))
            };
            segment
                .windows
                .iter()
                .map(|(number, _)| *number)
                .filter(is_asked)
                .collect::<HashSet<u64>>()
        };
        let present = match asked.is_empty() {
            true => HashSet::new(),
            false => self.target(at, entry).present(segment, source, &asked, report)?,
        };
        present.iter().try_for_each(|number| self.note_window(at, entry, *number))?;
        Ok(present)
    }

    /// The bytes of a window.
    fn extent(&self, entry: &VolumeEntry, number: u64) -> Extent {
        let window = self.job.root.window;
        let start = Bytes::new(window.get().saturating_mul(number));
        Extent::new(start, start.saturating_add(window).min(entry.size))
    }

    /// Notes a window that is complete; one that lies in a target's start is not, that is kept back.
    fn note_window(&self, at: usize, entry: &VolumeEntry, number: u64) -> Result<()> {
        let (extent, Some(volume)) = (self.extent(entry, number), self.volume(at)) else {
            return Ok(());
        };
        if self.begins_early.get(at) == Some(&true) {
            let places = self.job.plan.on_targets(volume, &extent.into())?;
            if places.iter().any(starts_early) {
                return Ok(());
            }
        }
        self.journal.borrow_mut().note(at, extent);
        Ok(())
    }

    /// Notes the windows between those of a segment: nothing of them is used.
    fn note_unused(&self, at: usize, entry: &VolumeEntry, segment: &Segment) {
        let mut journal = self.journal.borrow_mut();
        for pair in segment.windows.windows(2) {
            if let [(before, _), (behind, _)] = pair {
                let start = self.extent(entry, *before).end;
                journal.note(at, Extent::new(start, self.extent(entry, *behind).start));
            }
        }
    }
}

/// Whether some of these bytes of a target are among those that are kept back.
pub(super) fn starts_early(places: &ExtentSet) -> bool {
    places.within(Extent::first(WITHHELD)).next().is_some()
}
