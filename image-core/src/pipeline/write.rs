//! Puts the windows of table segments onto volumes, and reads them back.
//!
//! Several segments, of several volumes, may be written from one feed at once: [`write`] and [`receive`] take them
//! together. What [`Target`] has of the same names is for one segment.

use std::collections::HashSet;

use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;

use super::fetch::Segment;
use super::read;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::chunk::{self, WindowState};
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::VolumeEntry;
use crate::image::segment::segment_span;
use crate::io::aligned::AlignedBuf;
use crate::io::{BlockSink, BlockSource};
use crate::repo::{ChunkFeed, Delivery, Lost, Repository, WantSet};
use crate::report::Report;
use crate::units::Bytes;

/// Bytes of a volume that are not as they were saved: a header made anew, a sector number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Where in the volume.
    pub offset: Bytes,
    /// What was saved there.
    pub saved: Vec<u8>,
    /// What is written there instead; as long as `saved`.
    pub bytes: Vec<u8>,
}

impl Patch {
    fn extent(&self) -> Extent {
        Extent::new(self.offset, self.offset.saturating_add(Bytes::of(&self.bytes)))
    }
}

/// Bytes of a volume that could not be had from the repository.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Damage {
    /// The volume's id.
    pub volume: String,
    /// Where in the volume; the range of the damaged window's data.
    #[serde(skip)]
    pub range: Extent,
    /// The damaged file of the repository.
    pub pack: String,
    /// Where in that file.
    pub offset: Bytes,
    /// What is wrong with it.
    pub why: String,
}

impl Damage {
    /// Segment `number` of `volume`; or, where it is damaged or missing, all of its windows as lost.
    ///
    /// # Errors
    /// [`Error::Io`] of a repository that cannot be read at all.
    pub fn or_segment(
        repo: &Repository,
        volume: &VolumeEntry,
        number: u64,
        hash: Hash,
        window: Bytes,
    ) -> Result<Result<Segment, Self>> {
        match Segment::load(repo, volume, number, hash, window) {
            Ok(segment) => Ok(Ok(segment)),
            Err(error @ (Error::Io { .. } | Error::Interrupted)) => Err(error),
            Err(error) => Ok(Err(Self {
                volume: volume.id.clone(),
                range: segment_span(number, window, volume.size),
                pack: format!("tables/{hash}"),
                offset: Bytes::ZERO,
                why: error.to_string(),
            })),
        }
    }
}

/// Is told the number of a window that is complete.
pub type Written<'a> = &'a dyn Fn(u64) -> Result<()>;

/// A volume and how it is written.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Its id, for messages.
    pub id: &'a str,
    /// Window size of the image.
    pub window: Bytes,
    /// What is laid over the saved bytes.
    pub patches: &'a [Patch],
}

impl Target<'_> {
    fn start(&self, number: u64) -> Bytes {
        Bytes::new(self.window.get().saturating_mul(number))
    }

    /// Writes one segment, and tells `written` the number of each window of which nothing is missing any
    /// more; as [`write`] does for several.
    ///
    /// # Errors
    /// As [`write`].
    pub fn write(
        &self,
        segment: &Segment,
        sink: &dyn BlockSink,
        feed: &mut dyn ChunkFeed,
        report: &dyn Report,
        written: Written<'_>,
    ) -> Result<Vec<Damage>> {
        let part = Part { target: *self, segment };
        write(&[(part, sink)], feed, report, &|_, number| written(number))
    }

    /// Hands every chunk that the segment needs to `each`; as [`receive`] does for several.
    ///
    /// # Errors
    /// As [`receive`].
    pub fn receive(
        &self,
        segment: &Segment,
        feed: &mut dyn ChunkFeed,
        report: &dyn Report,
        each: &mut dyn FnMut(&ChunkId, &[u8]) -> Result<()>,
    ) -> Result<Vec<Damage>> {
        let part = Part { target: *self, segment };
        receive(&[part], feed, report, &mut |_, id, plain| each(id, plain))
    }

    fn write_chunk(
        &self,
        segment: &Segment,
        id: &ChunkId,
        plain: &[u8],
        sink: &dyn BlockSink,
        report: &dyn Report,
    ) -> Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for at in segment.wanted.get(id).into_iter().flatten() {
            let Some((number, state)) = segment.windows.get(*at) else { continue };
            let start = self.start(*number);
            for (range, bytes) in state.pieces(plain)? {
                sink.write_at(start + range.start, bytes)?;
            }
            let window = Extent::new(start, start.saturating_add(self.window));
            for patch in
                self.patches.iter().filter(|patch| patch.extent().intersect(window).is_some())
            {
                sink.write_at(patch.offset, &patch.bytes)?;
            }
            report.advance(state.plain_len());
            numbers.push(*number);
        }
        Ok(numbers)
    }

    fn damage(&self, segment: &Segment, lost: &Lost) -> Vec<Damage> {
        let windows = segment.wanted.get(&lost.id).into_iter().flatten();
        windows
            .filter_map(|at| segment.windows.get(*at))
            .flat_map(|(number, state)| {
                state.data.shifted(self.start(*number)).iter().collect::<Vec<_>>()
            })
            .map(|range| Damage {
                volume: self.id.to_owned(),
                range,
                pack: lost.pack.map_or_else(|| "packs".to_owned(), |pack| format!("packs/{pack}")),
                offset: lost.offset.unwrap_or_default(),
                why: lost.why.clone(),
            })
            .collect()
    }

    /// Reads the windows of a segment back from `source` and compares them with what was saved: all of
    /// them, or with `sample` one in a hundred, the first and the last.
    ///
    /// # Errors
    /// [`Error::Io`] where the target cannot be read or holds something else than was written.
    pub fn read_back(
        &self,
        segment: &Segment,
        source: &dyn BlockSource,
        sample: bool,
        report: &dyn Report,
    ) -> Result<()> {
        let last = segment.windows.len().saturating_sub(1);
        let window = self.window.index().unwrap_or(0);
        segment.windows.par_iter().enumerate().try_for_each_init(
            || AlignedBuf::zeroed(window),
            |buffer, (at, (number, state))| {
                if !sample || at % 100 == 0 || at == last {
                    report.checkpoint()?;
                    if let Some(at) = self.difference(*number, state, source, buffer)? {
                        return Err(self.differs(at));
                    }
                }
                report.advance(state.plain_len() + state.zero.total() + state.unreadable.total());
                Ok(())
            },
        )
    }

    /// Which windows of a segment, among those with a number that is `asked` for, `source` holds as they
    /// would be written. One that cannot be read is none of them.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn present(
        &self,
        segment: &Segment,
        source: &dyn BlockSource,
        asked: &HashSet<u64>,
        report: &dyn Report,
    ) -> Result<HashSet<u64>> {
        let window = self.window.index().unwrap_or(0);
        let asked = segment.windows.par_iter().filter(|(number, _)| asked.contains(number));
        let looked = asked.map_init(
            || AlignedBuf::zeroed(window),
            |buffer, (number, state)| {
                report.checkpoint()?;
                let same = match self.difference(*number, state, source, buffer) {
                    Ok(found) => found.is_none(),
                    Err(Error::Io { .. }) => false,
                    Err(error) => return Err(error),
                };
                Ok(same.then_some(*number))
            },
        );
        looked.filter_map(Result::transpose).collect()
    }

    /// Where `source` holds something else than would be written, if anywhere; of data the window's start.
    fn difference(
        &self,
        number: u64,
        state: &WindowState,
        source: &dyn BlockSource,
        buffer: &mut [u8],
    ) -> Result<Option<Bytes>> {
        let start = self.start(number);
        let mut hasher = blake3::Hasher::new();
        let ranges: Vec<Extent> = state.data.iter().collect();
        if let Some(hole) = read::fill(source, start, &ranges, buffer)?.first() {
            return Ok(Some(start + hole.start));
        }
        for range in ranges {
            let part = part_mut(buffer, range);
            if let Some(at) = self.undo_patches(range.shifted(start), part) {
                return Ok(Some(at));
            }
            hasher.update(part);
        }
        if state.chunk.is_some_and(|id| id.0 != *hasher.finalize().as_bytes()) {
            return Ok(Some(start));
        }
        for range in state.zero.union(&state.unreadable).shifted(start).iter() {
            for allocated in source.allocated(range)?.iter() {
                if !chunk::is_zero(self.read(source, allocated, buffer)?) {
                    return Ok(Some(allocated.start));
                }
            }
        }
        Ok(None)
    }

    /// Reads `range`, which lies within one window, to the start of `buffer`, which is as long as that.
    fn read<'b>(
        &self,
        source: &dyn BlockSource,
        range: Extent,
        buffer: &'b mut [u8],
    ) -> Result<&'b mut [u8]> {
        let part = range.len().index().and_then(|length| buffer.get_mut(..length));
        let part = part.ok_or_else(|| self.differs(range.start))?;
        source.read_at(range.start, part)?;
        Ok(part)
    }

    /// Puts the saved bytes back where a patch stands, after checking that the patch does; where it does
    /// not, if anywhere.
    fn undo_patches(&self, range: Extent, bytes: &mut [u8]) -> Option<Bytes> {
        for patch in self.patches {
            let Some(common) = patch.extent().intersect(range) else { continue };
            let within = common.relative_to(patch.offset);
            let here = part_mut(bytes, common.relative_to(range.start));
            if here != part(&patch.bytes, within) {
                return Some(common.start);
            }
            here.copy_from_slice(part(&patch.saved, within));
        }
        None
    }

    fn differs(&self, offset: Bytes) -> Error {
        let source = std::io::Error::other("the target returns other bytes than were written");
        Error::io_at(self.id, "read back", offset, source)
    }
}

/// Is told which part needs a chunk, the chunk, and its plain bytes.
pub type Received<'a> = &'a mut dyn FnMut(usize, &ChunkId, &[u8]) -> Result<()>;

/// A table segment, and the volume that it belongs to.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// The volume.
    pub target: Target<'a>,
    /// The segment; of what it leaves out of the volume's windows nothing is written.
    pub segment: &'a Segment,
}

/// Writes segments, each onto its own volume, and tells `written` which part and which window of it has nothing missing
/// any more. A chunk that several windows need goes to all of them at once. Returns what could not be had; everything
/// else is written.
///
/// # Errors
/// [`Error::Io`] of a target, or of a repository that cannot be read at all; what `written` returns.
pub fn write(
    parts: &[(Part<'_>, &dyn BlockSink)],
    feed: &mut dyn ChunkFeed,
    report: &dyn Report,
    written: &dyn Fn(usize, u64) -> Result<()>,
) -> Result<Vec<Damage>> {
    for (at, (Part { target, segment }, sink)) in parts.iter().enumerate() {
        let zeros: ExtentSet = segment
            .windows
            .iter()
            .flat_map(|(number, state)| {
                state
                    .zero
                    .union(&state.unreadable)
                    .shifted(target.start(*number))
                    .iter()
                    .collect::<Vec<_>>()
            })
            .collect();
        for extent in zeros.iter() {
            report.checkpoint()?;
            sink.zero(extent)?;
            report.advance(extent.len());
        }
        for (number, _) in segment.windows.iter().filter(|(_, state)| state.chunk.is_none()) {
            written(at, *number)?;
        }
    }
    let only: Vec<Part<'_>> = parts.iter().map(|(part, _)| *part).collect();
    receive(&only, feed, report, &mut |at, id, plain| {
        let Some((Part { target, segment }, sink)) = parts.get(at) else { return Ok(()) };
        for number in target.write_chunk(segment, id, plain, *sink, report)? {
            written(at, number)?;
        }
        Ok(())
    })
}

/// Hands every chunk that the segments need to `each`, once for each part that needs it, with the part's index. Returns
/// what could not be had. Where nothing is needed the feed is not asked.
///
/// # Errors
/// [`Error::Io`] of a repository that cannot be read at all, or what `each` returns.
pub fn receive(
    parts: &[Part<'_>],
    feed: &mut dyn ChunkFeed,
    report: &dyn Report,
    each: Received<'_>,
) -> Result<Vec<Damage>> {
    let mut damage = Vec::new();
    let mut wanted = want_set(parts);
    while !wanted.is_empty() {
        report.checkpoint()?;
        // A feed that ends early is out of order: what it did not deliver must not pass for written.
        let delivery = feed.next(&wanted)?.ok_or_else(|| unfed(parts, &wanted))?;
        let id = delivery.id();
        if !wanted.remove(&id) {
            continue;
        }
        let needing = parts.iter().enumerate().filter(|(_, part)| part.segment.wants(&id));
        for (at, Part { target, segment }) in needing {
            match &delivery {
                Delivery::Chunk { plain, .. } => match segment.misfit(&id, Bytes::of(plain)) {
                    None => each(at, &id, plain)?,
                    Some(lost) => damage.extend(target.damage(segment, &lost)),
                },
                Delivery::Lost(lost) => damage.extend(target.damage(segment, lost)),
            }
        }
    }
    Ok(damage)
}

/// What all parts want; the first one's segment names it, which is where a feed looks first.
fn want_set(parts: &[Part<'_>]) -> WantSet {
    let segment = parts.first().map_or_else(|| Hash::of(&[]), |part| part.segment.hash);
    WantSet::new(segment, parts.iter().flat_map(|part| part.segment.wanted.keys().copied()))
}

fn unfed(parts: &[Part<'_>], wanted: &WantSet) -> Error {
    let lacks = |part: &&Part<'_>| part.segment.wanted.keys().any(|id| wanted.contains(id));
    let id = parts.iter().find(lacks).map_or("volume", |part| part.target.id);
    let source = std::io::Error::other(format!("{} chunks were not delivered", wanted.len()));
    Error::io(id, "read its chunks", source)
}

fn part_mut(bytes: &mut [u8], extent: Extent) -> &mut [u8] {
    let range = extent.start.index().zip(extent.end.index());
    range.and_then(|(start, end)| bytes.get_mut(start..end)).unwrap_or_default()
}

fn part(bytes: &[u8], extent: Extent) -> &[u8] {
    let range = extent.start.index().zip(extent.end.index());
    range.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
