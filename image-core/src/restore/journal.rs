//! Keeps the restore records of all targets while a restore runs.
//!
//! A record is written before anything else is, and says nothing is done before that is durable: every
//! target is flushed first, then all records are written, each into the slot that is not its newest.

use std::time::{Duration, Instant};

use super::record::{self, About, Found};
use super::{Job, before};
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::hash::Hash;
use crate::image::time::Timestamp;
use crate::io::BlockSource;
use crate::lvm::write::pv_image;
use crate::plan::extents::ENDS;
use crate::plan::old::Old;
use crate::units::Bytes;

/// How often the records are brought up to date. Tests want to see every step.
pub(super) const EVERY: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(2) };

/// Between two volumes it may be a little earlier.
pub(super) const SOON: Duration =
    if cfg!(test) { Duration::ZERO } else { Duration::from_millis(250) };

/// The records of a restore.
pub(super) struct Journal<'a> {
    job: &'a Job<'a>,
    targets: Vec<Option<OnTarget>>,
    /// Where each planned volume begins when all that are journalled are laid end to end.
    bases: Vec<Option<Bytes>>,
    total: Bytes,
    sequence: u64,
    done: ExtentSet,
    /// What the records that were found called done, and when.
    before: Option<(Timestamp, ExtentSet)>,
    wiped: bool,
    stale: bool,
    written: Instant,
}

/// The record of one target.
struct OnTarget {
    slots: [Extent; 2],
    next: usize,
    about: About,
    /// Whether data of a volume lies where the record is, so that it cannot outlive it.
    in_the_way: bool,
}

impl<'a> Journal<'a> {
    /// Looks for records, and for places for them; writes nothing. `data` are the plan's volumes that are
    /// journalled.
    ///
    /// # Errors
    /// [`Error::Refused`] where volumes are kept and nothing could remember them; [`Error::Io`].
    pub(super) fn new(job: &'a Job<'a>, data: &[usize]) -> Result<Self> {
        let (mut bases, mut total) = (vec![None; job.plan.volumes.len()], Bytes::ZERO);
        for at in data {
            let entry = job.plan.volumes.get(*at).and_then(|v| job.root.volumes.get(v.entry));
            if let (Some(base), Some(entry)) = (bases.get_mut(*at), entry) {
                *base = Some(total);
                total = total.saturating_add(entry.size.align_up(job.root.window));
            }
        }
        let mut journal = Self {
            job,
            targets: Vec::new(),
            bases,
            total,
            sequence: 0,
            done: ExtentSet::new(),
            before: None,
            wiped: false,
            stale: false,
            written: Instant::now(),
        };
        let plan = plan_hash(job)?;
        let mut found = Vec::new();
        for target in 0..job.targets.len() {
            let here = journal.look(target, plan)?;
            journal.sequence = journal.sequence.max(here.as_ref().map_or(0, |f| f.sequence));
            found.push(here);
        }
        journal.go_on(plan, &found);
        Ok(journal)
    }

    /// Finds the record of a target, and where the new one goes.
    fn look(&mut self, target: usize, plan: Hash) -> Result<Option<Found>> {
        let Some(medium) = self.job.targets.get(target) else { return Ok(None) };
        let source = medium.direct()?;
        let found = record::find(source.as_ref())?;
        let old = before(&source)?.old;
        let kept = self.job.plan.kept_on(target);
        if let Some(found) = found.as_ref().filter(|_| !self.job.fresh) {
            check_kept(&medium.name(), &kept, found)?;
        }
        let about = About {
            plan,
            target,
            at: Timestamp::now(),
            wiped: false,
            grain: Bytes::ZERO,
            old,
            kept: kept.iter().collect(),
        };
        let slot = found.as_ref().map(|found| found.slot);
        let free = self.free(target, &about.old, source.as_ref())?;
        let outlives = record::slots(&free, slot).map(|slots| (slots, false));
        let dies = || {
            let first = ExtentSet::from(Extent::first(ENDS.min(medium.size())));
            let free = first.subtract(&table_of(self.job, target, &about.old));
            record::slots(&free, slot).map(|slots| (slots, true))
        };
        let place = match outlives {
            // A target as small as this has no time to be interrupted.
            _ if medium.size() < ENDS + ENDS => None,
            None if kept.is_empty() => dies(),
            place => place,
        };
        let on = place.and_then(|place| self.on_target(about, place, slot));
        if on.is_none() && !kept.is_empty() {
            return Err(Error::refused(format!(
                "{}: volumes on it cannot be kept: its first MiB has no room for the record by which an \
                 interrupted restore finds them again",
                medium.name()
            )));
        }
        self.targets.push(on);
        Ok(found)
    }

    /// The record of a target with as much in it as there is room for.
    fn on_target(
        &self,
        mut about: About,
        (slots, in_the_way): ([Extent; 2], bool),
        found: Option<Extent>,
    ) -> Option<OnTarget> {
        let [first, _] = slots;
        let grain =
            |about: &About| record::grain(about, first.len(), self.total, self.job.root.window);
        // What was on the disk is only needed where something of it is kept.
        if grain(&about).is_none() && about.kept.is_empty() {
            about.old = Old::default();
        }
        about.grain = grain(&about)?;
        let next = usize::from(found == Some(first));
        Some(OnTarget { slots, next, about, in_the_way })
    }

    /// What of a target's start nobody needs, neither before nor after the restore, but for the space
    /// before the first partition, which is written last of all.
    fn free(&self, target: usize, old: &Old, source: &dyn BlockSource) -> Result<ExtentSet> {
        let first = Extent::first(ENDS.min(source.size()));
        let mut taken: Vec<Extent> = self.job.plan.kept_on(target).iter().collect();
        taken.extend(table_of(self.job, target, old).iter());
        for (base, volume) in self.bases.iter().zip(&self.job.plan.volumes) {
            if base.is_some() {
                let all = ExtentSet::from(Extent::first(volume.to));
                let all = self.job.plan.on_targets(volume, &all)?;
                taken.extend(all.get(target).into_iter().flat_map(|set| set.within(first)));
            }
        }
        for group in &self.job.plan.groups {
            let text = group.vg.text(Timestamp::now().seconds())?;
            for (index, pv) in group.pvs.iter().enumerate().filter(|(_, pv)| pv.target == target) {
                let image = pv_image(&group.vg, index, &pv.head, &text)?;
                let parts = image.text.iter().chain(&image.area_headers).chain([&image.label]);
                let place = |(at, bytes): &(Bytes, Vec<u8>)| {
                    Some(Extent::at(*at, Bytes::of(bytes))?.shifted(pv.extent.start))
                };
                taken.extend(parts.filter_map(place));
            }
        }
        let start = source.read(Bytes::ZERO, first.len().index().unwrap_or(0))?;
        for text in old.pvs.iter().filter_map(|pv| pv.head.text.as_deref()) {
            taken.extend(find_text(&start, text.as_bytes()));
        }
        taken.sort_unstable();
        Ok(ExtentSet::from(first).subtract(&taken.into_iter().collect()))
    }

    /// Adopts what was found, where all targets carry the record of this very restore.
    fn go_on(&mut self, plan: Hash, found: &[Option<Found>]) {
        let same = |(target, found): (usize, &Option<Found>)| {
            found.as_ref().is_some_and(|f| f.about.plan == plan && f.about.target == target)
        };
        if self.job.fresh || found.is_empty() || !found.iter().enumerate().all(same) {
            return;
        }
        let mut done = ExtentSet::from(Extent::first(self.total));
        for found in found.iter().flatten() {
            done = done.intersect(&found.done(self.total));
        }
        self.wiped = found.iter().flatten().all(|found| found.about.wiped);
        if !self.wiped {
            done = ExtentSet::new();
        }
        let at = found.iter().flatten().map(|found| found.about.at).max();
        self.done.clone_from(&done);
        self.before = at.map(|at| (at, done));
    }

    /// When the restore that this one continues was last known to run.
    pub(super) fn continues(&self) -> Option<Timestamp> {
        self.before.as_ref().map(|(at, _)| *at)
    }

    /// Whether the restore that this one continues had wiped everything.
    pub(super) fn was_wiped(&self) -> bool {
        self.before.is_some() && self.wiped
    }

    /// Where the record of a target is.
    pub(super) fn slots(&self, target: usize) -> ExtentSet {
        let on = self.targets.get(target).and_then(Option::as_ref);
        on.into_iter().flat_map(|on| on.slots).collect()
    }

    /// Writes the first records: from here on the restore can be continued.
    pub(super) fn start(&mut self) -> Result<()> {
        self.put()
    }

    /// Notes that only data is missing now.
    pub(super) fn wiped(&mut self) -> Result<()> {
        self.wiped = true;
        self.stale = true;
        self.settle(Duration::ZERO)
    }

    /// Whether the restore that this one continues called this part of a volume done.
    pub(super) fn was_done(&self, volume: usize, part: Extent) -> bool {
        let place = self.place(volume, part);
        place.is_some_and(|part| self.before.as_ref().is_some_and(|(_, done)| done.contains(part)))
    }

    /// Notes that a part of a volume, a whole number of windows or up to its end, needs nothing more.
    pub(super) fn note(&mut self, volume: usize, part: Extent) {
        if let Some(part) = self.place(volume, part) {
            self.done.insert(part);
            self.stale = true;
        }
    }

    fn place(&self, volume: usize, part: Extent) -> Option<Extent> {
        let base = self.bases.get(volume).copied().flatten()?;
        let window = self.job.root.window;
        Some(Extent::new(part.start, part.end.align_up(window)).shifted(base))
    }

    /// Makes what was written durable and notes it, where that was not done so lately.
    pub(super) fn settle(&mut self, lately: Duration) -> Result<()> {
        if !self.stale || self.written.elapsed() < lately {
            return Ok(());
        }
        self.job.targets.iter().try_for_each(|medium| medium.flush())?;
        self.put()
    }

    fn put(&mut self) -> Result<()> {
        self.sequence = self.sequence.saturating_add(1);
        for (on, medium) in self.targets.iter_mut().zip(&self.job.targets) {
            let Some(on) = on else { continue };
            (on.about.at, on.about.wiped) = (Timestamp::now(), self.wiped);
            let Some(slot) = on.slots.get(on.next) else { continue };
            let record =
                record::encode(&on.about, &self.done, (self.sequence, slot.len()), self.total);
            if let Some(record) = record {
                medium.write_at(slot.start, &record)?;
            }
            on.next = 1 - on.next;
        }
        for (_, medium) in self.targets.iter().zip(&self.job.targets).filter(|(on, _)| on.is_some())
        {
            medium.flush()?;
        }
        (self.stale, self.written) = (false, Instant::now());
        Ok(())
    }

    /// Removes the records from places where a volume's data goes.
    pub(super) fn make_way(&mut self) -> Result<()> {
        self.erase(&|on| on.in_the_way)
    }

    /// Removes the records of targets on which nothing is kept.
    pub(super) fn close(&mut self) -> Result<()> {
        self.erase(&|on| on.about.kept.is_empty())
    }

    /// Removes all records.
    pub(super) fn end(&mut self) -> Result<()> {
        self.erase(&|_| true)
    }

    fn erase(&mut self, which: &dyn Fn(&OnTarget) -> bool) -> Result<()> {
        for (on, medium) in self.targets.iter_mut().zip(&self.job.targets) {
            if let Some(gone) = on.take_if(|on| which(on)) {
                gone.slots.iter().try_for_each(|slot| medium.zero(*slot))?;
                medium.flush()?;
            }
        }
        Ok(())
    }
}

/// Refuses to write over what an interrupted restore kept: its table may be gone, so that only that record
/// knows that it is there.
fn check_kept(target: &str, kept: &ExtentSet, found: &Found) -> Result<()> {
    match found.about.kept.iter().find(|extent| !kept.contains(**extent)) {
        None => Ok(()),
        Some(extent) => Err(Error::refused(format!(
            "{target}: the restore that was interrupted at {} kept what lies at the bytes {extent}, and this \
             one would not; name it with --keep again, or give it up with --fresh",
            found.about.at
        ))),
    }
}

/// The bytes of the old and the new partition table of a target.
fn table_of(job: &Job<'_>, target: usize, old: &Old) -> ExtentSet {
    let new = job.plan.tables.get(target).and_then(Option::as_ref);
    let Some(medium) = job.targets.get(target) else { return ExtentSet::new() };
    let own = |table: &Table| table.own_bytes(medium.size(), medium.sector_size());
    let both = old.table.as_ref().into_iter().chain(new).map(own);
    // Without any, the sector of an MBR stays free all the same.
    both.fold(Extent::first(Bytes::BLOCK).into(), |all: ExtentSet, own| all.union(&own))
}

/// Where `text` stands in the `start` of a target.
fn find_text(start: &[u8], text: &[u8]) -> Option<Extent> {
    let at = start.windows(text.len().max(1)).position(|bytes| bytes == text)?;
    Extent::at(Bytes::from(at), Bytes::of(text))
}

/// What makes two restores the same: the image, what goes where, and the targets.
fn plan_hash(job: &Job<'_>) -> Result<Hash> {
    let plan = job.plan;
    let mut said = vec![env!("CARGO_PKG_VERSION").to_owned(), format!("{:?}", job.unused)];
    for (target, medium) in plan.targets.iter().zip(&job.targets) {
        let (slot, size, sector_size) = (&target.slot, target.size, target.sector_size);
        said.push(format!("{slot} {size:?} {sector_size:?} {}", medium.hardware()?));
    }
    said.push(format!("{:?} {:?} {:?}", plan.volumes, plan.grow, plan.kept));
    said.push(format!("{:?}", plan.new_ids));
    said.push(format!("{:?}", plan.tables));
    for group in &plan.groups {
        said.push(group.vg.text(0)?);
        said.push(format!("{:?}", group.pvs));
    }
    let mut bytes = job.root.encode()?;
    bytes.extend(said.join("\n").as_bytes());
    Ok(Hash::of(&bytes))
}
