//! Filling: the holes of an image are read again, and nothing else of the disk.
//!
//! The new image is what the old one has, and what can be read by now of what it lacks. So it is right only where
//! nothing changed since: another disk, another table, another used map or other first bytes of any volume are
//! refused. A filesystem that was mounted to be written says so in its first bytes (ext the time, XFS a sequence
//! number), whatever it wrote elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Request, value};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::chunk::{self, WindowState};
use crate::image::codec::Stored;
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::{EXCLUDED, Root, VolumeEntry, unreadable_list};
use crate::image::segment::{SegmentWriter, segment_span};
use crate::image::{SEGMENT_WINDOWS, WINDOW};
use crate::io::{BlockSource, Source};
use crate::pipeline::encode::ChunkEncoder;
use crate::pipeline::fetch::Segment;
use crate::pipeline::write::{Damage, Target};
use crate::repo::{Added, Repository, Saver};
use crate::report::{Quiet, Report, Stage};
use crate::survey::gaps;
use crate::survey::model::{Coverage, Survey, Volume};
use crate::units::Bytes;

/// So much of the start of every volume is read again, to see that it is what it was.
const HEAD: Bytes = Bytes::kib(64);

/// The image that is filled.
#[derive(Clone, Copy)]
pub struct Old<'a> {
    /// Where it is.
    pub repo: &'a Repository,
    /// What it says of itself.
    pub root: &'a Root,
}

/// What was filled.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filled {
    /// Ranges that can be read by now, by volume.
    pub ranges: Vec<(String, Extent)>,
    pub(super) counts: super::Counts,
}

/// Refuses, naming what differs, unless `survey` is of the disks of the image `old`, unchanged. Otherwise where to
/// read each of its volumes.
///
/// # Errors
/// [`Error::Refused`]; [`Error::Io`] of the disk or the repository, [`Error::Corrupt`] where the image is damaged.
pub fn same(survey: &Survey, old: Old<'_>, report: &dyn Report) -> Result<Vec<Source>> {
    if old.root.unreadable_bytes().is_zero() {
        return Err(Error::refused("this image has no holes: there is nothing to fill"));
    }
    if old.root.window != WINDOW {
        return Err(Error::refused("this image has windows of another size: save the disk anew"));
    }
    same_disks(survey, old.root)?;
    same_groups(survey, old.root)?;
    let mut sources = Vec::new();
    for entry in &old.root.volumes {
        report.checkpoint()?;
        let volume = survey.volumes.iter().find(|volume| volume.id == entry.id);
        let source = match volume {
            Some(volume) => same_volume(entry, volume).map(|()| Arc::clone(&volume.source))?,
            None => gap(survey, entry)?,
        };
        if entry.state != EXCLUDED {
            same_content(old, entry, volume, &source)?;
        }
        sources.push(source);
    }
    Ok(sources)
}

fn other(id: &str, what: &str) -> Error {
    Error::refused(format!("{id} is not what the image was saved of: {what}; save the disk anew"))
}

fn changed(id: &str, what: &str) -> Error {
    Error::refused(format!(
        "{id} changed since it was saved ({what}); what is read now would not fit what was saved then; save the \
         disk anew"
    ))
}

fn same_disks(survey: &Survey, root: &Root) -> Result<()> {
    let slots: Vec<_> = survey.slots.iter().filter(|slot| slot.whole).collect();
    if slots.len() != root.disks.len() {
        let (now, then) = (slots.len(), root.disks.len());
        return Err(other("what is named", &format!("{now} disks, then {then}")));
    }
    for (slot, disk) in slots.into_iter().zip(&root.disks) {
        let path = slot.path.display().to_string();
        let (hardware, source) = (&slot.hardware, &slot.source);
        if (source.size(), source.sector_size()) != (disk.size, disk.sector_size) {
            return Err(other(&path, "it has another size"));
        }
        if (&hardware.serial, &hardware.wwn) != (&disk.serial, &disk.wwn) {
            let [then, now] = [&disk.serial, &hardware.serial].map(|id| format!("{id:?}"));
            return Err(other(&path, &format!("its serial number is {now}, then {then}")));
        }
        if slot.table.as_ref().map(value).transpose()? != disk.table {
            return Err(other(&path, "it has another partition table"));
        }
    }
    Ok(())
}

fn same_groups(survey: &Survey, root: &Root) -> Result<()> {
    for old in &root.volume_groups {
        let same = |group: &&crate::survey::model::Group| {
            group.vg.uuid == old.uuid && group.text == old.text
        };
        if survey.groups.iter().find(same).is_none() {
            return Err(changed(&old.name, "its metadata"));
        }
    }
    Ok(())
}

fn same_volume(entry: &VolumeEntry, volume: &Volume) -> Result<()> {
    let place = if entry.disk.is_some() { volume.extent.start } else { Bytes::ZERO };
    if (place, volume.size()) != (entry.offset, entry.size) {
        return Err(other(&entry.id, "it lies elsewhere"));
    }
    // What could not be recognized then may be now.
    let known = entry.content != "raw" && volume.content != "raw";
    if known && (&volume.content, &volume.uuid) != (&entry.content, &entry.uuid) {
        return Err(other(
            &entry.id,
            &format!("{} is in it, then {}", volume.content, entry.content),
        ));
    }
    Ok(())
}

/// A gap that is all zeros by now is no volume of a survey.
fn gap(survey: &Survey, entry: &VolumeEntry) -> Result<Source> {
    let slot = survey.slots.iter().find(|slot| Some(&slot.id) == entry.disk.as_ref());
    let extent = Extent::at(entry.offset, entry.size).filter(|_| entry.kind == "gap");
    match (slot, extent) {
        (Some(slot), Some(extent)) => Ok(gaps::source(slot, extent, &entry.id)),
        _ => Err(other(&entry.id, "it is not there")),
    }
}

/// Compares what is in use, and the volume's first bytes.
fn same_content(
    old: Old<'_>,
    entry: &VolumeEntry,
    volume: Option<&Volume>,
    source: &Source,
) -> Result<()> {
    let was_mapped = !matches!(entry.state.as_str(), "raw" | "hibernated" | "locked");
    let is_mapped = |volume: &&Volume| {
        matches!(volume.coverage, Coverage::Mapped(_) | Coverage::Head(_)) && was_mapped
    };
    let used = volume.filter(is_mapped).map(Volume::used);
    let others = || changed(&entry.id, "other bytes are in use");
    if used.as_ref().is_some_and(|used| used.total() != entry.used_bytes) {
        return Err(others());
    }
    for (number, hash) in (0..).zip(&entry.segments) {
        let Some(hash) = hash else { continue };
        let mut segment = Segment::load(old.repo, entry, number, *hash, WINDOW)?;
        let uses = |(number, state): &(u64, WindowState), used: &ExtentSet| {
            let start = Bytes::new(WINDOW.get().saturating_mul(*number));
            let here = Extent::new(start, start.saturating_add(WINDOW));
            used.within(here).map(|part| part.relative_to(start)).eq(all(state).iter())
        };
        let same = |used: &ExtentSet| segment.windows.iter().all(|window| uses(window, used));
        if !used.as_ref().is_none_or(same) {
            return Err(others());
        }
        if number == 0 {
            segment.retain(|number| number == 0);
            same_head(old, entry, &segment, source)?;
        }
    }
    Ok(())
}

/// All used bytes of a window.
fn all(state: &WindowState) -> ExtentSet {
    state.data.union(&state.zero).union(&state.unreadable)
}

fn same_head(old: Old<'_>, entry: &VolumeEntry, first: &Segment, source: &Source) -> Result<()> {
    let Some((_, state)) = first.windows.first() else { return Ok(()) };
    let head = Extent::first(HEAD.min(entry.size));
    let known = state.data.union(&state.zero);
    let wanted: Vec<Extent> = known.within(head).collect();
    let mut now = vec![0; HEAD.min(entry.size).index().unwrap_or(0)];
    let holes = source.read_around(Bytes::ZERO, &mut now, &wanted)?;
    let mut then = vec![0; WINDOW.index().unwrap_or(0)];
    each(old, entry, first, &mut |_, state, plain| place(state, plain, &mut then))?;
    let differs = |part: Extent| {
        let range = part.start.index()?..part.end.index()?;
        Some(now.get(range.clone())? != then.get(range)?)
    };
    let mut parts =
        wanted.into_iter().flat_map(|part| holes.missing_in(part).iter().collect::<Vec<_>>());
    match parts.any(|part| differs(part).unwrap_or(true)) {
        true => Err(changed(&entry.id, "its first bytes")),
        false => Ok(()),
    }
}

/// Puts a window's plain bytes to their places.
fn place(state: &WindowState, plain: &[u8], window: &mut [u8]) -> Result<()> {
    for (range, bytes) in state.pieces(plain)? {
        if let (Some(start), Some(end)) = (range.start.index(), range.end.index())
            && let Some(to) = window.get_mut(start..end)
        {
            to.copy_from_slice(bytes);
        }
    }
    Ok(())
}

type Each<'a> = &'a mut dyn FnMut(u64, &WindowState, &[u8]) -> Result<()>;

/// Hands out every window of `segment` that has a chunk, with its plain bytes.
fn each(old: Old<'_>, entry: &VolumeEntry, segment: &Segment, work: Each<'_>) -> Result<()> {
    let target = Target { id: &entry.id, window: WINDOW, patches: &[] };
    let mut feed = old.repo.feed(WINDOW)?;
    let damage = target.receive(segment, &mut feed, &Quiet::default(), &mut |id, plain| {
        let windows = segment.wanted.get(id).into_iter().flatten();
        for (number, state) in windows.filter_map(|at| segment.windows.get(*at)) {
            work(*number, state, plain)?;
        }
        Ok(())
    })?;
    match damage.into_iter().next() {
        None => Ok(()),
        Some(Damage { pack, offset, why, .. }) => {
            Err(Error::corrupt("chunk", offset, "the image's bytes", why).on(&pack))
        }
    }
}

/// Makes the root of the filled image; its tables and chunks are stored by then.
pub(super) fn run(
    old: Old<'_>,
    sources: &[Source],
    saver: &mut Saver,
    request: &Request,
    report: &dyn Report,
) -> Result<(Root, Filled)> {
    report.stage(Stage::Save, Some(old.root.unreadable_bytes()));
    let mut root = old.root.clone();
    root.tool.clone_from(&request.tool);
    let encoder = ChunkEncoder::new(WINDOW, request.level, None, report)?;
    let mut filling = Filling { old, saver, encoder, report, filled: Filled::default() };
    for ((entry, old), source) in
        root.volumes.iter_mut().zip(&filling.old.root.volumes).zip(sources)
    {
        if old.unreadable.is_empty() {
            filling.rely(old)?;
        } else {
            let holes = filling.volume(old, source, &mut entry.segments)?;
            entry.unreadable = unreadable_list(&holes);
            entry.hit = super::hit(entry, source);
        }
    }
    let filled = filling.filled;
    Ok((root, filled))
}

struct Filling<'a> {
    old: Old<'a>,
    saver: &'a mut Saver,
    encoder: ChunkEncoder<'a>,
    report: &'a dyn Report,
    filled: Filled,
}

impl Filling<'_> {
    /// Notes that the chunks of a volume are needed as they are.
    fn rely(&mut self, entry: &VolumeEntry) -> Result<()> {
        for (number, hash) in (0..).zip(&entry.segments) {
            let Some(hash) = hash else { continue };
            self.report.checkpoint()?;
            let segment = Segment::load(self.old.repo, entry, number, *hash, WINDOW)?;
            self.known(&segment)?;
        }
        Ok(())
    }

    fn known(&mut self, segment: &Segment) -> Result<()> {
        let known = self.saver.known();
        match segment.wanted.keys().find(|id| !known.contains(id)) {
            None => Ok(()),
            Some(id) => Err(Error::corrupt(
                format!("chunk {id}"),
                Bytes::ZERO,
                "an intact pack that has it",
                "none",
            )),
        }
    }

    /// Reads the holes of a volume again; those that remain.
    fn volume(
        &mut self,
        entry: &VolumeEntry,
        source: &Source,
        segments: &mut [Option<Hash>],
    ) -> Result<ExtentSet> {
        let mut remain = ExtentSet::new();
        for ((number, hash), to) in (0..).zip(&entry.segments).zip(segments) {
            let Some(hash) = hash else { continue };
            let segment = Segment::load(self.old.repo, entry, number, *hash, WINDOW)?;
            self.known(&segment)?;
            let new = self.windows(entry, source, &segment)?;
            let span = segment_span(number, WINDOW, entry.size);
            let mut writer = SegmentWriter::new(WINDOW, span.len());
            for (window, state) in &segment.windows {
                let state = new.get(window).unwrap_or(state);
                let start = Bytes::new(WINDOW.get().saturating_mul(*window));
                state.unreadable.shifted(start).iter().for_each(|hole| remain.insert(hole));
                writer.push(window - number * SEGMENT_WINDOWS, state)?;
            }
            if let Some(bytes) = writer.finish()?.filter(|_| !new.is_empty()) {
                *to = Some(self.saver.put_segment(&bytes)?);
            }
        }
        Ok(remain)
    }

    /// The new states of the windows of a segment of whose holes something can be read.
    fn windows(
        &mut self,
        entry: &VolumeEntry,
        source: &Source,
        segment: &Segment,
    ) -> Result<HashMap<u64, WindowState>> {
        let mut holed = Segment::empty(segment.hash);
        let mut empty = Vec::new();
        for (number, state) in
            segment.windows.iter().filter(|(_, state)| !state.unreadable.is_empty())
        {
            match state.chunk {
                Some(_) => holed.push(*number, state.clone()),
                None => empty.push((*number, state)),
            }
        }
        let mut new = HashMap::new();
        for (number, state) in empty {
            new.extend(self.window(entry, source, (number, state), &[])?);
        }
        let old = self.old;
        each(old, entry, &holed, &mut |number, state, plain| {
            new.extend(self.window(entry, source, (number, state), plain)?);
            Ok(())
        })?;
        Ok(new)
    }

    /// Reads the holes of one window, and stores it anew where something could be read.
    fn window(
        &mut self,
        entry: &VolumeEntry,
        source: &Source,
        (number, state): (u64, &WindowState),
        plain: &[u8],
    ) -> Result<Option<(u64, WindowState)>> {
        self.report.checkpoint()?;
        let start = Bytes::new(WINDOW.get().saturating_mul(number));
        let length = WINDOW.min(entry.size.saturating_sub(start));
        let mut window = vec![0; length.index().unwrap_or(0)];
        place(state, plain, &mut window)?;
        let mut remain = ExtentSet::new();
        for hole in state.unreadable.iter() {
            let (Some(from), Some(to)) = (hole.start.index(), hole.end.index()) else { continue };
            let part = window.get_mut(from..to).unwrap_or_default();
            let bad = source.read_around(start + hole.start, part, &[Extent::first(hole.len())])?;
            bad.shifted(hole.start).iter().for_each(|bad| remain.insert(bad));
        }
        self.report.advance(state.unreadable.total());
        if remain == state.unreadable {
            return Ok(None);
        }
        let filled = state.unreadable.subtract(&remain).shifted(start);
        self.filled.ranges.extend(filled.iter().map(|range| (entry.id.clone(), range)));
        self.filled.counts.read += filled.total();
        let used: Vec<Extent> = all(state).iter().collect();
        let remain: Vec<Extent> = remain.iter().collect();
        let (mut state, plain_len) = chunk::compact(&mut window, &used, &remain);
        let plain = window.get(..plain_len).unwrap_or_default();
        if !plain.is_empty() {
            state.chunk = Some(self.store(number, plain)?);
        }
        Ok(Some((number, state)))
    }

    fn store(&mut self, number: u64, plain: &[u8]) -> Result<ChunkId> {
        let (id, counts) = (ChunkId::of(plain), &mut self.filled.counts);
        if self.saver.known().contains(&id) {
            counts.known += 1;
            return Ok(id);
        }
        let mut bytes = Vec::new();
        let (codec, base) = self.encoder.encode((0, number), plain, &mut bytes)?;
        let stored = Stored { codec, base, plain_len: Bytes::of(plain), bytes: &bytes };
        if self.saver.add(id, &stored)? == Added::New {
            counts.new += 1;
            counts.stored += Bytes::of(&bytes);
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{gap, same_disks, same_groups, same_volume};
    use crate::disk::fixtures::{gpt_bytes, wanted};
    use crate::image::manifest::{Root, VolumeGroupEntry};
    use crate::io::memory::Memory;
    use crate::report::Quiet;
    use crate::save::outline;
    use crate::survey::model::{Hardware, Survey};
    use crate::survey::{Input, Wishes, survey};
    use crate::units::Bytes;

    const SECTOR: Bytes = Bytes::new(512);

    fn disk(mib: u64, second: u64) -> Vec<u8> {
        gpt_bytes(Bytes::mib(mib), SECTOR, 128, &[wanted(1, 1, 2), wanted(2, second, 1)])
    }

    fn surveyed(disks: Vec<Vec<u8>>, serial: &str) -> Survey {
        let hardware = Hardware { serial: Some(serial.to_owned()), ..Hardware::default() };
        let input = |bytes| Input {
            path: "disk".into(),
            source: Arc::new(Memory::new(bytes)),
            hardware: hardware.clone(),
            select: None,
            whole: true,
        };
        let inputs: Vec<Input> = disks.into_iter().map(input).collect();
        survey(&inputs, Wishes::default(), &Quiet::default()).unwrap()
    }

    #[test]
    fn holes_are_not_filled_from_another_disk() {
        let root: Root = outline(&surveyed(vec![disk(6, 3)], "A1")).unwrap();
        same_disks(&surveyed(vec![disk(6, 3)], "A1"), &root).unwrap();
        for (disks, serial, word) in [
            (vec![disk(6, 3), disk(6, 3)], "A1", "2 disks, then 1"),
            (vec![disk(7, 3)], "A1", "it has another size"),
            (vec![disk(6, 3)], "A2", "its serial number is"),
            (vec![disk(6, 4)], "A1", "it has another partition table"),
            (vec![vec![0; 6 << 20]], "A1", "it has another partition table"),
        ] {
            let why = same_disks(&surveyed(disks, serial), &root).unwrap_err();
            assert!(why.to_string().contains(word), "{why}");
            assert_eq!(why.kind(), "refused");
        }
    }

    #[test]
    fn holes_are_not_filled_of_a_volume_that_is_another_one() {
        let mut now = surveyed(vec![disk(6, 3)], "A1");
        let root = outline(&now).unwrap();
        same_groups(&now, &root).unwrap();
        let at = now.volumes.iter().position(|volume| volume.id == "d0:2").unwrap();
        let volume = &mut now.volumes[at];
        let entry = root.volumes.iter().find(|entry| entry.id == "d0:2").unwrap();
        same_volume(entry, volume).unwrap();
        let mut moved = entry.clone();
        moved.offset += Bytes::MIB;
        let why = same_volume(&moved, volume).unwrap_err().to_string();
        assert!(why.contains("it lies elsewhere"), "{why}");
        // What could not be told is no difference; what was told and is another thing now, is.
        let mut known = entry.clone();
        known.content = "xfs".to_owned();
        same_volume(&known, volume).unwrap();
        volume.content = "ext4".to_owned();
        let why = same_volume(&known, volume).unwrap_err().to_string();
        assert!(why.contains("ext4 is in it, then xfs"), "{why}");
        // A volume group that is no more, or whose metadata changed.
        let mut grouped = root.clone();
        grouped.volume_groups.push(VolumeGroupEntry {
            name: "vg".to_owned(),
            uuid: "u".to_owned(),
            extent_size: Bytes::MIB,
            text: String::new(),
            pvs: Vec::new(),
            lvs: Vec::new(),
        });
        let why = same_groups(&now, &grouped).unwrap_err().to_string();
        assert!(why.contains("vg changed since it was saved"), "{why}");
    }

    #[test]
    fn a_gap_is_looked_for_where_it_was() {
        let now = surveyed(vec![disk(6, 3)], "A1");
        let root = outline(&now).unwrap();
        let mut entry = root.volumes.iter().find(|entry| entry.kind == "gap").unwrap().clone();
        (entry.offset, entry.size) = (Bytes::mib(4), Bytes::MIB);
        assert_eq!(gap(&now, &entry).unwrap().size(), Bytes::MIB);
        for (disk, kind) in [("d1", "gap"), ("d0", "partition")] {
            let mut other = entry.clone();
            (other.disk, other.kind) = (Some(disk.to_owned()), kind.to_owned());
            let why = gap(&now, &other).err().unwrap().to_string();
            assert!(why.contains("it is not there"), "{why}");
        }
    }
}
