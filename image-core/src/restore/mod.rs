//! Restoring: an image comes onto its targets as the plan says, in an order that keeps a disk from booting
//! before it is whole.
//!
//! Invalidate the start and the end, remove stale signatures; chunks at their final places; flush; read
//! back; the withheld start of bare volumes; growth; volume group metadata, its labels last; boot code;
//! backup table, primary table, MBR; flush; let the kernel read the table again.
//!
//! `windows` is where the data comes from, `places` gives planned volumes to write to, `patches` says what is written differently, `growths` what
//! grows, `renewals` what gets new identifiers, and `finish` makes the labels and tables.

mod finish;
mod growths;
mod patches;
mod places;
mod renewals;
mod windows;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Serialize;

pub use growths::growths;
pub use renewals::renewals;
pub use windows::{Stored, Windows, Work};

use crate::disk::probe;
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::extent::{Extent, ExtentSet};
use crate::fixup::{self, Traits};
use crate::fs::GrowthTool;
use crate::grow;
use crate::image::manifest::{Root, VolumeEntry};
use crate::io::{BlockSink, BlockSource, Medium};
use crate::pipeline::write::{Damage, Patch, Target};
use crate::plan::identity::IdKind;
use crate::plan::restore::{RestorePlan, VolumePlan};
use crate::report::{Report, Stage};
use crate::survey::carriers::Identifiers;
use crate::units::Bytes;
use finish::Finish;
use places::Places;

/// How much of a target's start is written last.
const WITHHELD: Bytes = Bytes::MIB;

/// What happens to bytes of a target that the image does not use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Unused {
    /// They stay.
    #[default]
    Keep,
    /// The whole target is discarded before data is written.
    Discard,
    /// The whole target is zeroed before data is written.
    Zero,
}

/// How much is read back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ReadBack {
    /// Everything.
    #[default]
    Full,
    /// One window in a hundred.
    Sample,
    /// Nothing.
    None,
}

/// What a restore works with.
pub struct Job<'a> {
    /// Where the data comes from.
    pub windows: &'a dyn Windows,
    /// The image.
    pub root: &'a Root,
    /// What is done.
    pub plan: &'a RestorePlan,
    /// The claimed targets, in the order of the plan.
    pub targets: Vec<Arc<dyn Medium>>,
    /// What happens to unused bytes.
    pub unused: Unused,
    /// How much is read back.
    pub read_back: ReadBack,
    /// Starts filesystem tools.
    pub runner: &'a dyn Runner,
    /// Serves a volume to them: this program with its hidden verb (see [`crate::view::OpenView::open`]).
    pub server: Call,
}

/// A volume that became larger.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Grown {
    /// Its id.
    pub id: String,
    /// Its size on the source.
    pub from: Bytes,
    /// Its size on the target.
    pub to: Bytes,
    /// Whether its filesystem fills it.
    pub filesystem_grown: bool,
}

/// What a restore did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Restored {
    /// Bytes that were written, zeros included.
    pub written: Bytes,
    /// Bytes of the image's volumes that are unused.
    pub skipped: Bytes,
    /// Volumes that became larger.
    pub grown: Vec<Grown>,
    /// Whether everything was read back.
    pub verified: bool,
    /// What the repository no longer has: then the restore stopped before growth, labels and tables.
    pub damaged: Vec<Damage>,
    /// What the user has to do still, each with its command.
    pub steps: Vec<String>,
}

/// The identifiers that the targets will have, as far as two attached disks must not share them.
pub fn identifiers(root: &Root, plan: &RestorePlan) -> Identifiers {
    let stays = |id: &String| !plan.new_ids.iter().any(|new| new.old == *id);
    let groups = root.volume_groups.iter();
    let tables = root.disks.iter().filter_map(|disk| {
        let table: Table = serde_json::from_value(disk.table.clone()?).ok()?;
        Some(table.id().to_owned())
    });
    Identifiers {
        volume_groups: groups
            .map(|group| (group.name.clone(), group.uuid.clone()))
            .filter(|(_, uuid)| stays(uuid))
            .collect(),
        names: plan
            .new_ids
            .iter()
            .filter(|new| new.kind == IdKind::VgName)
            .map(|new| new.new.clone())
            .collect(),
        tables: tables.filter(stays).collect(),
        filesystems: root.volumes.iter().filter_map(|v| v.uuid.clone()).filter(stays).collect(),
    }
}

/// Carries out `job.plan`.
///
/// # Errors
/// [`Error::Refused`] before anything is written; any other of the targets or the repository: then the
/// targets have no partition table.
pub fn restore(job: &Job<'_>, report: &dyn Report) -> Result<Restored> {
    Restore::new(job)?.run(report)
}

struct Restore<'a> {
    job: &'a Job<'a>,
    places: Places<'a>,
    finish: Finish<'a>,
    /// The patches of each planned volume.
    patches: Vec<Vec<Patch>>,
    result: Restored,
}

impl<'a> Restore<'a> {
    /// Makes everything that can fail without a target being written.
    fn new(job: &'a Job<'a>) -> Result<Self> {
        check_targets(job)?;
        let (places, finish) = (Places::new(job), Finish::new(job)?);
        let mut restore =
            Self { job, places, finish, patches: Vec::new(), result: Restored::default() };
        for volume in &job.plan.volumes {
            restore.places.sink(volume)?;
            let (patches, damage) = patches::of(job, volume)?;
            restore.patches.push(patches);
            restore.note(damage);
        }
        Ok(restore)
    }

    fn run(mut self, report: &dyn Report) -> Result<Restored> {
        let (boot, data): (Vec<usize>, Vec<usize>) = (0..self.job.plan.volumes.len())
            .filter(|at| self.has_data(*at))
            .partition(|at| self.is_boot_code(*at));
        self.wipe(report)?;
        report.stage(Stage::Write, Some(self.used(&data)));
        for at in &data {
            self.write(*at, report)?;
        }
        for at in &boot {
            self.look(*at, report)?;
        }
        self.flush()?;
        if !self.result.damaged.is_empty() {
            return Ok(self.result);
        }
        if self.job.read_back != ReadBack::None {
            report.stage(Stage::Verify, Some(self.used(&data)));
        }
        self.read_back(&data, report)?;
        self.release()?;
        report.stage(Stage::Grow, None);
        self.grow(report)?;
        self.renew(&boot, report)?;
        report.stage(Stage::Finish, None);
        report.checkpoint()?;
        self.finish.volume_groups()?;
        for at in &boot {
            self.write(*at, report)?;
        }
        self.flush()?;
        if !self.result.damaged.is_empty() {
            return Ok(self.result);
        }
        self.read_back(&boot, report)?;
        self.finish.tables(report)?;
        self.result.verified = self.job.read_back == ReadBack::Full;
        Ok(self.result)
    }

    fn volume(&self, at: usize) -> Option<&'a VolumePlan> {
        self.job.plan.volumes.get(at)
    }

    fn entry(&self, at: usize) -> Option<&'a VolumeEntry> {
        self.job.root.volumes.get(self.volume(at)?.entry)
    }

    /// Whether bytes of the image belong on the volume.
    fn has_data(&self, at: usize) -> bool {
        let empty = self.volume(at).is_none_or(|volume| volume.empty.is_some());
        !empty && self.entry(at).is_some_and(|entry| !entry.is_container)
    }

    /// Whether the volume is the space before the first partition.
    fn is_boot_code(&self, at: usize) -> bool {
        self.entry(at).is_some_and(|entry| entry.kind == "gap" && entry.offset.is_zero())
    }

    fn used(&self, volumes: &[usize]) -> Bytes {
        let entries = volumes.iter().filter_map(|at| self.entry(*at));
        entries.fold(Bytes::ZERO, |sum, entry| sum.saturating_add(entry.used_bytes))
    }

    /// Remembers damage, each range once.
    fn note(&mut self, damage: Vec<Damage>) {
        for one in damage {
            if !self.result.damaged.contains(&one) {
                self.result.damaged.push(one);
            }
        }
    }

    /// Removes everything that could be taken for a table, a filesystem or a member of something.
    fn wipe(&self, report: &dyn Report) -> Result<()> {
        let sizes = self.job.targets.iter().map(|medium| medium.size());
        let zeroed = (self.job.unused == Unused::Zero).then(|| sizes.sum());
        report.stage(Stage::Wipe, zeroed);
        for medium in &self.job.targets {
            let (size, target): (Bytes, &dyn BlockSink) = (medium.size(), medium.as_ref());
            zero_all(target, &ends(size), report)?;
            target.flush()?;
            match self.job.unused {
                Unused::Keep => {}
                Unused::Discard => target.discard(Extent::first(size))?,
                Unused::Zero => zero_slowly(target, report)?,
            }
            zero_all(target, &stale_places(size), report)?;
        }
        for (at, volume) in self.job.plan.volumes.iter().enumerate() {
            if self.entry(at).is_some_and(|entry| entry.kind != "gap") {
                let sink = self.places.sink(volume)?;
                zero_all(sink.as_ref(), &stale_places(volume.to), report)?;
            }
        }
        self.flush()
    }

    /// Writes a volume.
    fn write(&mut self, at: usize, report: &dyn Report) -> Result<()> {
        let (Some(volume), Some(entry)) = (self.volume(at), self.entry(at)) else { return Ok(()) };
        let sink = self.places.sink(volume)?;
        let mut written = Bytes::ZERO;
        let damage = self.job.windows.each(volume.entry, report, &mut |segment, feed| {
            written += segment.used_bytes();
            self.target(at, entry).write(segment, sink.as_ref(), feed, report)
        })?;
        self.note(damage);
        self.result.written = self.result.written.saturating_add(written);
        let skipped = entry.size.saturating_sub(written);
        self.result.skipped = self.result.skipped.saturating_add(skipped);
        Ok(())
    }

    /// Looks whether a volume that is written late can be had at all, before anything depends on it.
    fn look(&mut self, at: usize, report: &dyn Report) -> Result<()> {
        let (Some(volume), Some(entry)) = (self.volume(at), self.entry(at)) else { return Ok(()) };
        let damage = self.job.windows.each(volume.entry, report, &mut |segment, feed| {
            self.target(at, entry).receive(segment, feed, report, &mut |_, _| Ok(()))
        })?;
        self.note(damage);
        Ok(())
    }

    fn target<'t>(&'t self, at: usize, entry: &'t VolumeEntry) -> Target<'t> {
        let patches = self.patches.get(at).map_or(&[][..], Vec::as_slice);
        Target { id: &entry.id, window: self.job.root.window, patches }
    }

    /// Reads volumes back, as much of them as the user asked for.
    fn read_back(&self, volumes: &[usize], report: &dyn Report) -> Result<()> {
        if self.job.read_back == ReadBack::None {
            return Ok(());
        }
        let sample = self.job.read_back == ReadBack::Sample;
        for at in volumes {
            let (Some(volume), Some(entry)) = (self.volume(*at), self.entry(*at)) else { continue };
            let source = self.places.source(volume)?;
            self.job.windows.again(volume.entry, &mut |segment| {
                self.target(*at, entry).read_back(segment, source.as_ref(), sample, report)
            })?;
        }
        Ok(())
    }

    /// Writes the start of every target as far as volumes lie there, and compares it.
    fn release(&self) -> Result<()> {
        for (at, (withheld, medium)) in
            self.places.withheld.iter().zip(&self.job.targets).enumerate()
        {
            let length = WITHHELD.min(medium.size()).index().unwrap_or(0);
            let expected = self.places.preview(at)?.read(Bytes::ZERO, length)?;
            withheld.release()?;
            medium.flush()?;
            if medium.direct()?.read(Bytes::ZERO, length)? != expected {
                let source =
                    std::io::Error::other("the target returns other bytes than were written");
                return Err(Error::io(medium.name(), "read back its start", source));
            }
        }
        Ok(())
    }

    fn grow(&mut self, report: &dyn Report) -> Result<()> {
        let growths = growths(self.job.plan)?;
        for volume in self.job.plan.volumes.iter().filter(|volume| volume.to > volume.from) {
            report.checkpoint()?;
            let planned = self.job.plan.grow.iter().find(|growth| growth.id == volume.id);
            // The header of a swap area was written for its new size.
            let mut filesystem_grown =
                planned.is_some_and(|growth| growth.tool == GrowthTool::Swap);
            if let Some(growth) = growths.iter().find(|growth| growth.volume == volume.id) {
                match grow::grow(self.job.runner, &self.job.server, growth) {
                    Ok(_) => filesystem_grown = true,
                    Err(error @ Error::Corrupt { .. }) => return Err(spoilt(&error)),
                    Err(Error::Interrupted) => return Err(Error::Interrupted),
                    Err(error) => {
                        report.warning(&error.to_string());
                        self.result.steps.push(growths::by_hand(growth.tool, &volume.id));
                    }
                }
            }
            let (id, from, to) = (volume.id.clone(), volume.from, volume.to);
            self.result.grown.push(Grown { id, from, to, filesystem_grown });
        }
        self.flush()
    }

    /// Gives filesystems their new UUIDs, and rewrites what names an old identifier.
    fn renew(&mut self, boot: &[usize], report: &dyn Report) -> Result<()> {
        let references = renewals::references(self.job.plan);
        let mut traits = Traits::default();
        for renewal in renewals(self.job.root, self.job.plan)? {
            report.checkpoint()?;
            match fixup::renew(self.job.runner, &self.job.server, &renewal, &references) {
                Ok(renewed) => traits = traits.or(renewed.traits),
                Err(error @ Error::Corrupt { .. }) => return Err(spoilt(&error)),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    report.warning(&error.to_string());
                    self.result.steps.push(renewals::by_hand(&renewal));
                }
            }
        }
        if !references.is_empty() {
            let bios = self.has_boot_code(boot)?;
            self.result.steps.extend(renewals::remaining(traits, bios));
        }
        self.flush()
    }

    /// Whether a BIOS would find GRUB in the first sector of a disk.
    fn has_boot_code(&self, boot: &[usize]) -> Result<bool> {
        for at in boot.iter().filter_map(|at| self.volume(*at)) {
            let (start, _) = self.job.windows.first(at.entry)?;
            // The words that its boot.img says when something is wrong.
            let sector = start.get(..512).unwrap_or_default();
            if sector.windows(4).any(|word| word == b"GRUB") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn flush(&self) -> Result<()> {
        self.job.targets.iter().try_for_each(|medium| medium.flush())
    }
}

/// What was written is damaged on the target: no fault of the image, which was read back from there.
fn spoilt(error: &Error) -> Error {
    let source = std::io::Error::other(error.to_string());
    Error::io(error.subject(), "grow its filesystem", source)
}

/// Refuses targets that are not those of the plan.
fn check_targets(job: &Job<'_>) -> Result<()> {
    let geometry = |medium: &Arc<dyn Medium>| (medium.size(), medium.sector_size());
    let planned = job.plan.targets.iter().map(|target| (target.size, target.sector_size));
    if job.targets.iter().map(geometry).eq(planned) {
        return Ok(());
    }
    Err(Error::refused("the targets are not of the size that was planned for; plan again"))
}

fn no_target() -> Error {
    Error::refused("the plan names a target that it does not have")
}

/// The start and the end of a container.
fn ends(size: Bytes) -> ExtentSet {
    let first = Extent::first(WITHHELD.min(size));
    [first, Extent::new(size.saturating_sub(WITHHELD), size)].into_iter().collect()
}

/// Every place of a volume of `size` bytes where a stale signature could stand.
fn stale_places(size: Bytes) -> ExtentSet {
    probe::places(size).union(&ends(size))
}

fn zero_all(sink: &dyn BlockSink, places: &ExtentSet, report: &dyn Report) -> Result<()> {
    places.iter().try_for_each(|extent| {
        report.checkpoint()?;
        sink.zero(extent)
    })
}

/// Zeroes a whole target, piece by piece: on a large disk that takes hours.
fn zero_slowly(target: &dyn BlockSink, report: &dyn Report) -> Result<()> {
    let (mut at, size) = (Bytes::ZERO, target.size());
    while at < size {
        report.checkpoint()?;
        let piece = Extent::new(at, size.min(at + Bytes::mib(64)));
        target.zero(piece)?;
        report.advance(piece.len());
        at = piece.end;
    }
    Ok(())
}
