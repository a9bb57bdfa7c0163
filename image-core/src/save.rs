//! Saving: what a survey found goes into a repository as one image.
//!
//! survey, then windows to chunks, chunks to packs, states to table segments, the root, and the record
//! last: without it there is no image.

pub mod fill;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::extent::{Extent, ExtentSet};
use crate::fs::{self, State};
use crate::image::chunk::WindowState;
use crate::image::hash::Hash;
use crate::image::header::Version;
use crate::image::manifest::{
    DiskEntry, EXCLUDED, Hit, PvEntry, Root, VolumeEntry, VolumeGroupEntry, unreadable_list,
};
use crate::image::record::{ImageName, Record};
use crate::image::segment::{SegmentWriter, segment_count, segment_span};
use crate::image::time::Timestamp;
use crate::image::{SEGMENT_WINDOWS, WINDOW};
use crate::io::Source;
use crate::pipeline::encode::ChunkEncoder;
use crate::pipeline::pack::{self, Packed, Packing};
use crate::pipeline::{estimate, read};
use crate::repo::{Added, ImageInfo, Parent, Saver};
use crate::report::{Report, Stage};
use crate::survey::model::{Group, Survey, Volume};
use crate::units::Bytes;
use fill::{Filled, Old};

/// What a save needs to know besides the survey.
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the image.
    pub name: ImageName,
    /// zstd level.
    pub level: i32,
    /// Worker threads.
    pub workers: usize,
    /// The newest image of that name: it counts as older than this one, and what changed since may be stored
    /// as a delta of it.
    pub parent: Option<ImageInfo>,
    /// This machine's name.
    pub host: String,
    /// Program and version, for the root.
    pub tool: String,
    /// How the saving machine boots, where it saves disks of its own.
    pub firmware: Firmware,
}

/// How a machine boots: advice for whoever makes a restored disk boot again.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Firmware {
    /// `uefi` or `bios`.
    pub boot_mode: Option<String>,
    /// What efibootmgr(8) says of the boot entries.
    pub efibootmgr: Option<String>,
}

impl Firmware {
    /// Asks this machine. A machine without efibootmgr has no entries to tell.
    pub fn of_this_machine(runner: &dyn Runner) -> Self {
        let uefi = Path::new("/sys/firmware/efi").exists();
        let entries = || {
            runner.find("efibootmgr")?;
            let outcome = runner.run(&Call::new("efibootmgr", ["-v"])).ok()?;
            outcome.success().then(|| outcome.text())
        };
        Self {
            boot_mode: Some(if uefi { "uefi" } else { "bios" }.to_owned()),
            efibootmgr: if uefi { entries() } else { None },
        }
    }
}

/// A volume that was copied whole.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct RawVolume {
    /// Its id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What a save did.
#[derive(Clone, PartialEq, Debug)]
pub struct Saved {
    /// The image.
    pub image: ImageInfo,
    /// How many volumes it has.
    pub volumes: usize,
    /// Bytes in use.
    pub used_bytes: Bytes,
    /// Bytes that were read and are not zero.
    pub read_bytes: Bytes,
    /// Chunks that the repository did not have.
    pub new_chunks: u64,
    /// Chunks that it had.
    pub known_chunks: u64,
    /// How many of the new ones are deltas.
    pub delta_chunks: u64,
    /// Bytes that the new chunks take there.
    pub stored_bytes: Bytes,
    /// Volumes that were copied whole, with the reason.
    pub raw_volumes: Vec<RawVolume>,
    /// What the image says of its disks and volumes, and of what could not be read.
    pub root: Root,
}

/// Roughly what a save of `survey` would store.
///
/// # Errors
/// [`Error::Io`] where a source cannot be read.
pub fn estimate(
    survey: &Survey,
    saver: &Saver,
    request: &Request,
    report: &dyn Report,
) -> Result<Bytes> {
    report.stage(Stage::Estimate, None);
    let parent = parent(survey, saver, request, report);
    let mut encoder = ChunkEncoder::new(WINDOW, request.level, parent.as_ref(), report)?;
    let used: Vec<_> = survey.volumes.iter().map(Volume::used).collect();
    let known = saver.known();
    let known = |id: &_| known.contains(id);
    estimate::stored_bytes(&to_read(survey, &used), WINDOW, &known, &mut encoder, report)
}

/// The parent's volumes beside those of the survey.
fn parent(
    survey: &Survey,
    saver: &Saver,
    request: &Request,
    report: &dyn Report,
) -> Option<Parent> {
    saver.bases(request.parent.as_ref()?, WINDOW, |root| pairs(&survey.volumes, root), report)
}

/// Which volume of an earlier image each volume was: the one with the same content and UUID, else with the same
/// id, if nobody else took it.
fn pairs(volumes: &[Volume], root: &Root) -> Vec<Option<usize>> {
    let mut taken = HashSet::new();
    let mut pair = |fits: &dyn Fn(&VolumeEntry) -> bool| {
        let mut free = root.volumes.iter().enumerate().filter(|(at, _)| !taken.contains(at));
        let at = free.find(|(_, old)| fits(old)).map(|(at, _)| at)?;
        taken.insert(at);
        Some(at)
    };
    let same_filesystem = |new: &Volume| {
        new.uuid.is_some().then_some(())?;
        pair(&|old| old.content == new.content && old.uuid == new.uuid)
    };
    let mut pairs: Vec<Option<usize>> = volumes.iter().map(same_filesystem).collect();
    for (new, found) in volumes.iter().zip(&mut pairs) {
        *found = found.or_else(|| pair(&|old| old.id == new.id));
    }
    pairs
}

fn to_read<'a>(survey: &'a Survey, used: &'a [ExtentSet]) -> Vec<read::Volume<'a>> {
    let both = survey.volumes.iter().zip(used);
    both.map(|(volume, used)| read::Volume { source: &volume.source, used }).collect()
}

/// Saves everything in `survey`.
///
/// # Errors
/// Any: then there is no image, but what was stored is used by the next save.
pub fn save(
    survey: &Survey,
    saver: Saver,
    request: &Request,
    report: &dyn Report,
) -> Result<Saved> {
    let used: Vec<_> = survey.volumes.iter().map(Volume::used).collect();
    let volumes = to_read(survey, &used);
    let total = used.iter().map(|used| used.total()).sum();
    report.stage(Stage::Save, Some(total));
    let index = saver.known();
    let known = |id: &_| index.contains(id);
    let parent = parent(survey, &saver, request, report);
    let packing = Packing {
        window: WINDOW,
        level: request.level,
        workers: request.workers,
        known: &known,
        parent: parent.as_ref(),
    };
    let mut tables = Tables::new(survey, saver, report);
    let packed = pack::run(&volumes, &packing, report, &mut |packed| tables.take(packed))
        .and_then(|()| tables.finish());
    if let Err(error) = packed {
        // For the next save, which need not store it again; where this fails too it is lost.
        drop(tables.saver.finish_packs());
        return Err(error);
    }
    let Tables { saver, segments, counts, unreadable, .. } = tables;
    let mut root = root(survey, &used, segments, &request.tool, &request.firmware)?;
    for (entry, holes) in root.volumes.iter_mut().zip(&unreadable) {
        entry.unreadable = unreadable_list(holes);
    }
    for (entry, volume) in root.volumes.iter_mut().zip(&survey.volumes) {
        report.checkpoint()?;
        entry.hit = hit(entry, &volume.source);
    }
    finish((saver, counts), root, request, report)
}

/// Saves an image again, with what can be read by now of what it lacks; `sources` are those of [`fill::same`].
///
/// # Errors
/// As [`save`]; [`Error::Corrupt`] where the image is damaged.
pub fn fill(
    mut saver: Saver,
    (old, sources): (Old<'_>, &[Source]),
    request: &Request,
    report: &dyn Report,
) -> Result<(Saved, Filled)> {
    let run = fill::run(old, sources, &mut saver, request, report);
    let (root, filled) = match run {
        Ok(run) => run,
        Err(error) => {
            drop(saver.finish_packs());
            return Err(error);
        }
    };
    let saved = finish((saver, filled.counts), root, request, report)?;
    Ok((saved, filled))
}

/// The root, and last the record.
fn finish(
    (mut saver, counts): (Saver, Counts),
    root: Root,
    request: &Request,
    report: &dyn Report,
) -> Result<Saved> {
    let root_hash = saver.put_root(&root)?;
    report.checkpoint()?;
    let record = Record {
        version: Version::CURRENT,
        name: request.name.clone(),
        created: created(Timestamp::now(), request.parent.as_ref(), report),
        host: request.host.clone(),
        parent: request.parent.as_ref().map(|parent| parent.id),
        root: root_hash,
        used_bytes: root.used_bytes(),
    };
    let image = saver.put_record(record, report)?;
    let raw = |volume: &VolumeEntry| {
        let reason = volume.reason.clone().filter(|_| volume.state != EXCLUDED)?;
        Some(RawVolume { id: volume.id.clone(), reason })
    };
    let raw_volumes = root.volumes.iter().filter_map(raw).collect();
    Ok(Saved {
        image,
        volumes: root.volumes.len(),
        used_bytes: root.used_bytes(),
        read_bytes: counts.read,
        new_chunks: counts.new,
        known_chunks: counts.known,
        delta_chunks: counts.deltas,
        stored_bytes: counts.stored,
        raw_volumes,
        root,
    })
}

/// Adds what could not be read of window `number` to a volume's `holes`; the first one if there was none.
pub(crate) fn lost(holes: &mut ExtentSet, number: u64, state: &WindowState) -> Option<Extent> {
    let start = Bytes::new(WINDOW.get().saturating_mul(number));
    let here = state.unreadable.shifted(start);
    let first = here.iter().next().filter(|_| holes.is_empty());
    here.iter().for_each(|hole| holes.insert(hole));
    first
}

/// What the unreadable ranges of a volume hit, as far as it can be told.
pub(crate) fn hit(entry: &VolumeEntry, source: &Source) -> Option<Hit> {
    if entry.unreadable.is_empty() || entry.is_container {
        return None;
    }
    let lost: ExtentSet = entry.unreadable.iter().copied().collect();
    let owners = match fs::probe(source) {
        Ok(filesystem) => filesystem?.owners(&lost),
        Err(error) => Err(error),
    };
    match owners {
        Ok(owners) => owners.map(|owners| Hit {
            files: owners.files,
            more_files: owners.more_files,
            structures: owners.structures,
            incomplete: owners.incomplete,
        }),
        Err(error) => Some(Hit { incomplete: Some(error.to_string()), ..Hit::default() }),
    }
}

/// What a person is told at the first bad sector of a volume.
pub(crate) fn reading_on(volume: &str, first: Extent) -> String {
    let (at, length) = (first.start.get(), first.len().get());
    format!(
        "{volume}: cannot read {length} bytes at byte {at}; going on around bad sectors, which takes time"
    )
}

/// Clocks of two machines may differ by so many seconds without a word.
const DRIFT: u64 = 60;

/// When the image was made: by this machine's clock, but after the one before it, which would pass for the newest
/// of that name otherwise, and be restored.
fn created(now: Timestamp, parent: Option<&ImageInfo>, report: &dyn Report) -> Timestamp {
    let before = parent.map(|parent| parent.record.created);
    let Some(before) = before.filter(|before| *before > now) else { return now };
    let created = before.later(1);
    if before > now.later(DRIFT) {
        report.warning(&format!(
            "this machine's clock says {now}, but the newest image of that name is of {before}: the new \
             one is dated {created}, so that it is the newest; set the clock"
        ));
    }
    created
}

#[derive(Clone, Copy, PartialEq, Default, Debug)]
struct Counts {
    read: Bytes,
    new: u64,
    deltas: u64,
    known: u64,
    stored: Bytes,
}

/// Turns window states into table segments, volume by volume.
struct Tables<'a> {
    survey: &'a Survey,
    saver: Saver,
    current: Option<(usize, u64, SegmentWriter)>,
    segments: Vec<BTreeMap<u64, Hash>>,
    /// What could not be read of each volume.
    unreadable: Vec<ExtentSet>,
    counts: Counts,
    report: &'a dyn Report,
}

impl<'a> Tables<'a> {
    fn new(survey: &'a Survey, saver: Saver, report: &'a dyn Report) -> Self {
        let segments = vec![BTreeMap::new(); survey.volumes.len()];
        let unreadable = vec![ExtentSet::new(); survey.volumes.len()];
        let counts = Counts::default();
        Self { survey, saver, current: None, segments, unreadable, counts, report }
    }

    /// Remembers what could not be read of a window, and says so when it begins: reading on takes time.
    fn lose(&mut self, volume: usize, number: u64, state: &WindowState) {
        let Some(holes) = self.unreadable.get_mut(volume) else { return };
        let first = lost(holes, number, state);
        if let (Some(first), Some(volume)) = (first, self.survey.volumes.get(volume)) {
            self.report.warning(&reading_on(&volume.id, first));
        }
    }

    fn take(&mut self, packed: Packed<'_>) -> Result<()> {
        match packed {
            Packed::Window { volume, number, state, stored, .. } => {
                self.counts.read += state.plain_len();
                self.lose(volume, number, &state);
                if let Some(id) = &state.chunk {
                    let added = stored
                        .as_ref()
                        .map_or(Ok(Added::Known), |stored| self.saver.add(*id, stored))?;
                    match added {
                        Added::New => {
                            self.counts.new += 1;
                            let is_delta = stored.is_some_and(|stored| stored.base.is_some());
                            self.counts.deltas += u64::from(is_delta);
                            self.counts.stored +=
                                stored.map_or(Bytes::ZERO, |s| Bytes::of(s.bytes));
                        }
                        Added::Known => self.counts.known += 1,
                    }
                }
                self.push(volume, number, &state)
            }
            Packed::Zeros { volume, first, count } => {
                let zero = Extent::first(WINDOW).into();
                let state = WindowState { zero, ..WindowState::default() };
                (first..first + count).try_for_each(|number| self.push(volume, number, &state))
            }
        }
    }

    fn push(&mut self, volume: usize, number: u64, state: &WindowState) -> Result<()> {
        let (segment, index) = (number / SEGMENT_WINDOWS, number % SEGMENT_WINDOWS);
        if self.current.as_ref().is_none_or(|(v, s, _)| (*v, *s) != (volume, segment)) {
            self.finish()?;
            let size = self.survey.volumes.get(volume).map_or(Bytes::ZERO, Volume::size);
            let writer = SegmentWriter::new(WINDOW, segment_span(segment, WINDOW, size).len());
            self.current = Some((volume, segment, writer));
        }
        match &mut self.current {
            Some((_, _, writer)) => writer.push(index, state),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<()> {
        let Some((volume, segment, writer)) = self.current.take() else { return Ok(()) };
        if let (Some(bytes), Some(list)) = (writer.finish()?, self.segments.get_mut(volume)) {
            list.insert(segment, self.saver.put_segment(&bytes)?);
        }
        Ok(())
    }
}

/// The root that an image of `survey` would have, without tables and what only a save knows.
///
/// # Errors
/// As [`root`].
pub fn outline(survey: &Survey) -> Result<Root> {
    let used: Vec<ExtentSet> = survey.volumes.iter().map(Volume::used).collect();
    let segments = vec![BTreeMap::new(); survey.volumes.len()];
    root(survey, &used, segments, "", &Firmware::default())
}

/// The root of an image of everything in `survey`; of each volume its used bytes and its table segments by
/// number.
///
/// # Errors
/// [`Error::Unsupported`] where something cannot be put down as JSON.
pub fn root(
    survey: &Survey,
    used: &[ExtentSet],
    segments: Vec<BTreeMap<u64, Hash>>,
    tool: &str,
    firmware: &Firmware,
) -> Result<Root> {
    let mut root = Root::empty(tool);
    root.boot_mode.clone_from(&firmware.boot_mode);
    root.efibootmgr.clone_from(&firmware.efibootmgr);
    for slot in survey.slots.iter().filter(|slot| slot.whole) {
        root.disks.push(DiskEntry {
            id: slot.id.clone(),
            path: slot.path.display().to_string(),
            size: slot.source.size(),
            sector_size: slot.source.sector_size(),
            model: slot.hardware.model.clone(),
            serial: slot.hardware.serial.clone(),
            wwn: slot.hardware.wwn.clone(),
            table: slot.table.as_ref().map(value).transpose()?,
        });
    }
    for ((volume, used), segments) in survey.volumes.iter().zip(used).zip(segments) {
        root.volumes.push(volume_entry(survey, volume, used.total(), segments));
    }
    for group in &survey.groups {
        root.volume_groups.push(group_entry(group)?);
    }
    Ok(root)
}

fn volume_entry(
    survey: &Survey,
    volume: &Volume,
    used: Bytes,
    segments: BTreeMap<u64, Hash>,
) -> VolumeEntry {
    let slot = volume.slot.and_then(|at| survey.slots.get(at));
    let in_group = |name: &&String| survey.groups.iter().any(|group| group.vg.name == **name);
    let disk = slot.filter(|slot| slot.whole).map(|slot| slot.id.clone());
    // A volume that was picked out of its disk or group stands alone: it restores onto one target.
    let container = match volume.slot {
        Some(_) => disk.clone().filter(|disk| *disk != volume.id),
        None => volume.group.as_ref().filter(in_group).cloned(),
    };
    let count = segment_count(WINDOW, volume.size());
    let (needs, excluded) = (volume.needs.as_ref(), volume.is_excluded());
    VolumeEntry {
        id: volume.id.clone(),
        offset: if disk.is_some() { volume.extent.start } else { Bytes::ZERO },
        disk,
        container,
        kind: name_of(&volume.kind),
        name: volume.name.clone(),
        size: volume.size(),
        content: volume.content.clone(),
        label: volume.label.clone(),
        uuid: volume.uuid.clone(),
        used_bytes: used,
        min_bytes: volume.min_bytes(),
        state: if excluded { EXCLUDED } else { state_name(&volume.state) }.to_owned(),
        reason: if excluded {
            Some("it was excluded by name".to_owned())
        } else {
            volume.reason().map(str::to_owned)
        },
        block_size: needs.map(|needs| needs.block_size),
        sector_limit: needs.map(|needs| needs.sector_limit),
        growth: needs.and_then(|needs| needs.growth).map(|tool| name_of(&tool)),
        last_mounted: needs.and_then(|needs| needs.last_mounted.clone()),
        is_container: volume.is_container(),
        unreadable: Vec::new(),
        hit: None,
        segments: (0..count).map(|number| segments.get(&number).copied()).collect(),
    }
}

fn group_entry(group: &Group) -> Result<VolumeGroupEntry> {
    let mut pvs = Vec::new();
    for pv in &group.pvs {
        let head = value(&pv.head)?;
        pvs.push(PvEntry { uuid: pv.head.uuid.clone(), volume: pv.volume.clone(), head });
    }
    let vg = &group.vg;
    Ok(VolumeGroupEntry {
        name: vg.name.clone(),
        uuid: vg.uuid.clone(),
        extent_size: vg.extent_size,
        text: group.text.clone(),
        pvs,
        lvs: vg.lvs.iter().map(|lv| format!("{}/{}", vg.name, lv.name)).collect(),
    })
}

/// The state as JSON names it.
pub fn state_name(state: &State) -> &'static str {
    match state {
        State::Clean => "clean",
        State::Replayable => "replayable",
        State::Hibernated => "hibernated",
        State::Locked => "locked",
        State::Raw(_) => "raw",
    }
}

/// The name that serde gives a unit variant.
pub fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

fn value(value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::unsupported(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::created;
    use crate::image::hash::Hash;
    use crate::image::record::Record;
    use crate::image::time::Timestamp;
    use crate::repo::ImageInfo;
    use crate::report::Quiet;

    #[test]
    fn an_image_is_newer_than_the_one_before_it_whatever_the_clock_says() {
        let json = serde_json::json!({"format": 1, "must_understand_to_read": 0,
            "must_understand_to_write": 0, "name": "a", "created": "2026-11-20T10:00:00Z",
            "host": "h", "parent": null, "root": Hash::of(b""), "used_bytes": 0});
        let record: Record = serde_json::from_value(json).unwrap();
        let before = ImageInfo { id: Hash::of(b"a"), record };
        let seen = |now: &str, before| {
            let report = Quiet::default();
            let now: Timestamp = now.parse().unwrap();
            (created(now, before, &report).to_string(), report.warnings().len())
        };
        let at = |time: &str, warnings| (time.to_owned(), warnings);
        let (early, late) = ("2025-11-20T10:00:00Z", "2026-11-20T10:00:05Z");
        assert_eq!(seen(early, None), at(early, 0));
        assert_eq!(seen(late, Some(&before)), at(late, 0));
        assert_eq!(seen(early, Some(&before)), at("2026-11-20T10:00:01Z", 1));
        // Of images of one second the parent is the older one.
        let same = "2026-11-20T10:00:00Z";
        assert_eq!(seen(same, Some(&before)), at(same, 0));
        assert_eq!(seen("2026-11-20T09:59:30Z", Some(&before)), at("2026-11-20T10:00:01Z", 0));
    }
}
