//! Writes volumes, but for what the target holds already.
//!
//! With `--only-changed` every window is looked at before it is written; a restore that continues looks at
//! those that it called done. What is believed is what was read, never a record.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use super::journal::{EVERY, SOON};
use super::{Part, Restore, WITHHELD};
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::VolumeEntry;
use crate::io::{BlockSink, Sink};
use crate::pipeline::fetch::Segment;
use crate::pipeline::write::{self, Damage};
use crate::repo::ChunkFeed;
use crate::report::Report;
use crate::units::Bytes;

/// How far a volume is that is being written.
struct Course<'a> {
    /// Its index in the plan.
    at: usize,
    /// Its index in the root.
    volume: usize,
    entry: &'a VolumeEntry,
    written: Bytes,
    /// How many segments of it were handed over.
    handed: usize,
    is_damaged: bool,
    is_closed: bool,
}

impl Course<'_> {
    /// Whether every segment that the root names was handed over, and nothing of them was damaged.
    fn is_whole(&self) -> bool {
        self.handed >= self.entry.segments.iter().flatten().count() && !self.is_damaged
    }
}

/// What is missing of a segment, and where it goes.
struct Missing<'a> {
    at: usize,
    entry: &'a VolumeEntry,
    segment: Cow<'a, Segment>,
    sink: Sink,
}

impl<'a> Restore<'a> {
    /// Writes what is missing of planned volumes.
    pub(super) fn write(&mut self, volumes: &[usize], report: &dyn Report) -> Result<()> {
        let mut courses: Vec<Course<'a>> =
            volumes.iter().filter_map(|at| self.course(*at)).collect();
        let entries: Vec<usize> = courses.iter().map(|course| course.volume).collect();
        let ended = self.job.windows.each(&entries, report, &mut |parts, feed| {
            self.close_before(&mut courses, parts)?;
            self.write_parts(&mut courses, parts, feed, report)
        });
        if let Ok(damage) = &ended {
            // Of a segment that is damaged itself nothing was handed over: its volume is told here only.
            let is_damaged = |id: &str| damage.iter().any(|one| one.volume == id);
            let open = courses.iter().filter(|course| !course.is_closed);
            open.filter(|course| !is_damaged(&course.entry.id))
                .for_each(|course| self.note_whole(course));
        }
        // Whoever is interrupted may want to go on; what keeps that from being noted matters less.
        let settled =
            self.journal.borrow_mut().settle(if ended.is_ok() { SOON } else { Duration::ZERO });
        let damage = ended.and_then(|damage| settled.map(|()| damage))?;
        self.note(damage);
        for Course { entry, written, .. } in courses {
            self.result.written = self.result.written.saturating_add(written);
            let skipped = entry.size.saturating_sub(written);
            self.result.skipped = self.result.skipped.saturating_add(skipped);
        }
        Ok(())
    }

    fn course(&self, at: usize) -> Option<Course<'a>> {
        let (volume, entry) = (self.volume(at)?.entry, self.entry(at)?);
        let (is_damaged, is_closed) = (false, false);
        Some(Course { at, volume, entry, written: Bytes::ZERO, handed: 0, is_damaged, is_closed })
    }

    /// Notes the volumes as complete that stand before those of `parts`: of these nothing comes any more.
    fn close_before(&self, courses: &mut [Course<'_>], parts: &[Part]) -> Result<()> {
        let first = parts.first().map(|part| part.volume);
        let first = courses.iter().position(|course| Some(course.volume) == first).unwrap_or(0);
        let passed = courses.iter_mut().take(first);
        let whole = passed.filter(|course| !course.is_closed && course.is_whole());
        let mut any = false;
        for course in whole {
            self.note_whole(course);
            (course.is_closed, any) = (true, true);
        }
        if any { self.journal.borrow_mut().settle(SOON) } else { Ok(()) }
    }

    fn note_whole(&self, course: &Course<'_>) {
        if self.begins_early.get(course.at) == Some(&false) {
            self.journal.borrow_mut().note(course.at, Extent::first(course.entry.size));
        }
    }

    /// Writes what is missing of some segments, all from one feed.
    fn write_parts(
        &self,
        courses: &mut [Course<'a>],
        parts: &[Part],
        feed: &mut dyn ChunkFeed,
        report: &dyn Report,
    ) -> Result<Vec<Damage>> {
        let mut all = Vec::with_capacity(parts.len());
        for Part { volume, segment } in parts {
            let course = courses.iter_mut().find(|course| course.volume == *volume);
            let Some(course) = course else { continue };
            let (at, entry) = (course.at, course.entry);
            let Some(volume) = self.volume(at) else { continue };
            self.note_unused(at, entry, segment);
            let present = self.present(at, entry, segment, report)?;
            let missing = segment.without(&present);
            let bytes = missing.used_bytes();
            report.advance(segment.used_bytes().saturating_sub(bytes));
            course.written = course.written.saturating_add(bytes);
            course.handed += 1;
            all.push(Missing { at, entry, segment: missing, sink: self.places.sink(volume)? });
        }
        let onto: Vec<_> = all
            .iter()
            .map(|Missing { at, entry, segment, sink }| {
                let part = write::Part { target: self.target(*at, entry), segment };
                (part, sink.as_ref() as &dyn BlockSink)
            })
            .collect();
        let damage = write::write(&onto, feed, report, &|part, number| {
            let Some(Missing { at, entry, .. }) = all.get(part) else { return Ok(()) };
            self.note_window(*at, entry, number)?;
            self.journal.borrow_mut().settle(EVERY)
        })?;
        for course in courses {
            course.is_damaged |= damage.iter().any(|one| one.volume == course.entry.id);
        }
        Ok(damage)
    }

    /// The windows of a segment that need not be written.
    fn present(
        &self,
        at: usize,
        entry: &VolumeEntry,
        segment: &Segment,
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
        let Some(volume) = self.volume(at).filter(|_| !asked.is_empty()) else {
            return Ok(HashSet::new());
        };
        let source = self.places.source(volume)?;
        let present = self.target(at, entry).present(segment, source.as_ref(), &asked, report)?;
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
