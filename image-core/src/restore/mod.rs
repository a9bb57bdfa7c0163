//! Restoring: an image comes onto its targets as the plan says, in an order that keeps a disk from booting
//! before it is whole.
//!
//! Invalidate the start and the end, remove stale signatures; chunks at their final places; flush; read
//! back; the withheld start of bare volumes; growth; volume group metadata, its labels last; boot code;
//! backup table, primary table, MBR; flush; let the kernel read the table again.
//!
//! Before all of that each target gets a restore record, by which a restore that was killed goes on; after
//! all of it the record is gone.
//!
//! `before` tells what is on a target, `record` is the restore record's format and `journal` keeps it;
//! `wipe` invalidates; `windows` is where the data comes from, `places` gives planned volumes to write to,
//! `patches` says what is written differently, `boot_code` what of that is in GRUB's cores, `changed` writes what is missing, `growths` says what grows,
//! `renewals` what gets new identifiers, and `finish` makes the labels and tables. `mark` remembers on a disk that an order
//! was carried out.

mod before;
mod boot_code;
mod changed;
mod finish;
mod growths;
mod journal;
pub mod mark;
mod patches;
mod places;
mod record;
mod renewals;
mod windows;
mod wipe;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

pub use before::{Before, Interrupted, before};
pub use growths::growths;
pub use renewals::renewals;
pub use windows::{Part, Stored, Windows, Work};

use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::extent::{Extent, ExtentSet};
use crate::fixup::{self, Traits};
use crate::fs::GrowthTool;
use crate::grow;
use crate::image::manifest::{PvEntry, Root, VolumeEntry};
use crate::image::time::Timestamp;
use crate::io::guarded::Guarded;
use crate::io::memory::Memory;
use crate::io::{BlockSink, BlockSource, Medium};
use crate::pipeline::write::{self, Damage, Patch, Target};
use crate::plan::extents::ENDS;
use crate::plan::identity::IdKind;
use crate::plan::restore::{RestorePlan, VolumePlan};
use crate::report::{Report, Stage};
use crate::survey::carriers::Identifiers;
use crate::units::Bytes;
use finish::Finish;
use journal::Journal;
use places::Places;

/// How much of a target's start is written last.
const WITHHELD: Bytes = ENDS;

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
    /// Whether each window is looked at first, and only written where it differs.
    pub only_changed: bool,
    /// Whether everything is written, also where this restore was interrupted before.
    pub fresh: bool,
    /// Set as soon as a target may have been written to.
    pub touched: &'a AtomicBool,
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
    /// Bytes of the image's volumes that were not written: unused, or there already.
    pub skipped: Bytes,
    /// When the restore that this one continued was last known to run.
    pub continued: Option<Timestamp>,
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
    let lives = |pv: &PvEntry| plan.volumes.iter().any(|volume| volume.id == pv.volume);
    let groups = root.volume_groups.iter().filter(|group| group.pvs.iter().any(lives));
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
        filesystems: root
            .volumes
            .iter()
            .filter(|volume| !plan.replaced.contains(&volume.id))
            .filter_map(|volume| volume.uuid.clone())
            .filter(stays)
            .collect(),
    }
}

/// Carries out `job.plan`.
///
/// # Errors
/// [`Error::Refused`] before anything is written; any other of the targets or the repository: then the
/// targets have no partition table.
pub fn restore(job: &Job<'_>, report: &dyn Report) -> Result<Restored> {
    let guarded = (0..).zip(&job.targets).map(|(at, medium)| {
        let guarded = Guarded::new(Arc::clone(medium), job.plan.kept_on(at));
        Arc::new(guarded) as Arc<dyn Medium>
    });
    let job = Job { targets: guarded.collect(), server: job.server.clone(), ..*job };
    Restore::new(&job)?.run(report)
}

struct Restore<'a> {
    job: &'a Job<'a>,
    places: Places<'a>,
    finish: Finish<'a>,
    journal: RefCell<Journal<'a>>,
    /// Whether some of each planned volume lies in a target's start.
    begins_early: Vec<bool>,
    /// The patches of each planned volume.
    patches: Vec<Vec<Patch>>,
    /// Why a core of GRUB keeps what it names.
    kept_cores: Vec<Error>,
    result: Restored,
}

impl<'a> Restore<'a> {
    /// Makes everything that can fail without a target being written.
    fn new(job: &'a Job<'a>) -> Result<Self> {
        check_targets(job)?;
        let (places, finish) = (Places::new(job), Finish::new(job)?);
        let (_, data) = order(job);
        let mut cores = boot_code::of(job, &renewals::references(job.root, job.plan))?;
        let mut restore = Self {
            job,
            places,
            finish,
            journal: RefCell::new(Journal::new(job, &data)?),
            begins_early: Vec::new(),
            patches: Vec::new(),
            kept_cores: cores.kept,
            result: Restored::default(),
        };
        for (at, volume) in job.plan.volumes.iter().enumerate() {
            restore.places.sink(volume)?;
            let all = ExtentSet::from(Extent::first(volume.to));
            let places = job.plan.on_targets(volume, &all)?;
            restore.begins_early.push(places.iter().any(changed::starts_early));
            let (mut patches, damage) = patches::of(job, volume)?;
            patches.extend(cores.patches.remove(&at).unwrap_or_default());
            restore.patches.push(patches);
            restore.note(damage);
        }
        Ok(restore)
    }

    fn run(mut self, report: &dyn Report) -> Result<Restored> {
        let (boot, data) = order(self.job);
        self.result.continued = self.journal.borrow().continues();
        if let Some(at) = self.result.continued {
            report.note(&format!("continuing a restore that was interrupted at {at}"));
        }
        report.checkpoint()?;
        self.job.touched.store(true, Ordering::Relaxed);
        self.journal.borrow_mut().start()?;
        self.wipe(report)?;
        self.journal.borrow_mut().wiped()?;
        report.stage(Stage::Write, Some(self.used(&data)));
        self.write(&data, report)?;
        self.look(&boot, report)?;
        self.flush()?;
        self.journal.borrow_mut().settle(Duration::ZERO)?;
        if !self.result.damaged.is_empty() {
            return Ok(self.result);
        }
        if self.job.read_back != ReadBack::None {
            report.stage(Stage::Verify, Some(self.used(&data)));
        }
        self.read_back(&data, report)?;
        self.journal.borrow_mut().make_way()?;
        self.release()?;
        report.stage(Stage::Grow, None);
        self.grow(report)?;
        self.renew(report)?;
        report.stage(Stage::Finish, None);
        report.checkpoint()?;
        self.finish.volume_groups()?;
        self.journal.borrow_mut().close()?;
        self.write(&boot, report)?;
        self.flush()?;
        if !self.result.damaged.is_empty() {
            return Ok(self.result);
        }
        self.read_back(&boot, report)?;
        self.finish.tables()?;
        self.journal.borrow_mut().end()?;
        self.release_all()?;
        self.finish.reread(report);
        self.result.verified = self.job.read_back == ReadBack::Full;
        Ok(self.result)
    }

    fn volume(&self, at: usize) -> Option<&'a VolumePlan> {
        self.job.plan.volumes.get(at)
    }

    fn entry(&self, at: usize) -> Option<&'a VolumeEntry> {
        self.job.root.volumes.get(self.volume(at)?.entry)
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

    /// Looks whether volumes that are written late can be had at all, before anything depends on them.
    fn look(&mut self, volumes: &[usize], report: &dyn Report) -> Result<()> {
        let entries = volumes.iter().filter_map(|at| Some(self.volume(*at)?.entry));
        let entries: Vec<usize> = entries.collect();
        let damage = self.job.windows.each(&entries, report, &mut |parts, feed| {
            let parts: Vec<_> = parts
                .iter()
                .filter_map(|Part { volume, segment }| {
                    let id = &self.job.root.volumes.get(*volume)?.id;
                    let target = Target { id, window: self.job.root.window, patches: &[] };
                    Some(write::Part { target, segment })
                })
                .collect();
            write::receive(&parts, feed, report, &mut |_, _, _| Ok(()))
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

    /// Writes the start of every target as far as volumes lie there, and compares it. Where volumes are
    /// kept, the record by which they are found again and the boot code wait for the table.
    fn release(&self) -> Result<()> {
        for (at, withheld) in self.places.withheld.iter().enumerate() {
            let later = match self.job.plan.kept_on(at).is_empty() {
                true => ExtentSet::new(),
                false => self.journal.borrow().slots(at).union(&Table::boot_code_extent().into()),
            };
            self.released(at, &later, &|| withheld.release_but(&later))?;
        }
        Ok(())
    }

    /// Writes what is still kept back, and compares it.
    fn release_all(&self) -> Result<()> {
        let nothing = ExtentSet::new();
        for (at, withheld) in self.places.withheld.iter().enumerate() {
            if self.job.plan.kept_on(at).is_empty() {
                continue;
            }
            self.released(at, &nothing, &|| withheld.release())?;
        }
        Ok(())
    }

    /// Does `release`, and compares the start of a target, but for what is released `later`.
    fn released(
        &self,
        at: usize,
        later: &ExtentSet,
        release: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let Some(medium) = self.job.targets.get(at) else { return Ok(()) };
        let length = WITHHELD.min(medium.size());
        let read = |source: &dyn BlockSource| -> Result<Vec<u8>> {
            let bytes = Memory::new(source.read(Bytes::ZERO, length.index().unwrap_or(0))?);
            later.within(Extent::first(length)).try_for_each(|extent| bytes.zero(extent))?;
            Ok(bytes.into_bytes())
        };
        let expected = read(&self.places.preview(at)?)?;
        release()?;
        medium.flush()?;
        if read(medium.direct()?.as_ref())? == expected {
            return Ok(());
        }
        let source = std::io::Error::other("the target returns other bytes than were written");
        Err(Error::io(medium.name(), "read back its start", source))
    }

    fn grow(&mut self, report: &dyn Report) -> Result<()> {
        let growths = growths::claimed(self.job)?;
        for volume in self.job.plan.volumes.iter().filter(|volume| volume.to > volume.from) {
            report.checkpoint()?;
            let planned = self.job.plan.grow.iter().find(|growth| growth.id == volume.id);
            // The header of a swap area was written for its new size.
            let mut filesystem_grown =
                planned.is_some_and(|growth| growth.tool == GrowthTool::Swap);
            let growth = growths.iter().find(|growth| growth.volume == volume.id);
            if let Some(growth) = growth.filter(|_| !self.is_holed(volume)) {
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

    /// Whether a clone found bad sectors in what it was to grow. No tool can be trusted with what it would find.
    fn is_holed(&mut self, volume: &VolumePlan) -> bool {
        let holed = !self.job.windows.unreadable(volume.entry).is_empty();
        if holed {
            let id = &volume.id;
            self.result.steps.push(format!(
                "check {id}, of which not all could be read (fsck), then grow it; it was not grown"
            ));
        }
        holed
    }

    /// Gives filesystems their new UUIDs, and rewrites what names an old identifier.
    fn renew(&mut self, report: &dyn Report) -> Result<()> {
        let references = renewals::references(self.job.root, self.job.plan);
        let windows = !references.is_empty() && renewals::starts_windows(self.job.plan);
        let mut traits = Traits { windows, ..Traits::default() };
        for renewal in renewals::claimed(self.job)? {
            report.checkpoint()?;
            match fixup::renew(self.job.runner, &self.job.server, &renewal, &references) {
                Ok(renewed) => {
                    traits = traits.or(renewed.traits);
                    self.result.steps.extend(renewals::unsteady(&renewed));
                }
                Err(error @ Error::Corrupt { .. }) => return Err(spoilt(&error)),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    report.warning(&error.to_string());
                    self.result.steps.push(renewals::by_hand(&renewal));
                }
            }
        }
        for why in &self.kept_cores {
            report.warning(&why.to_string());
        }
        self.result.steps.extend(renewals::kept(self.job.root, self.job.plan));
        self.result.steps.extend(renewals::remaining(traits, !self.kept_cores.is_empty()));
        self.flush()
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

/// The planned volumes that hold data, apart from the boot code that is written late: those first.
fn order(job: &Job<'_>) -> (Vec<usize>, Vec<usize>) {
    let entry = |at: usize| {
        let volume = job.plan.volumes.get(at).filter(|volume| volume.empty.is_none())?;
        job.root.volumes.get(volume.entry)
    };
    (0..job.plan.volumes.len())
        .filter(|at| entry(*at).is_some_and(|entry| !entry.is_container))
        .partition(|at| entry(*at).is_some_and(is_boot_code))
}

fn is_boot_code(entry: &VolumeEntry) -> bool {
    entry.kind == "gap" && entry.offset.is_zero()
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
