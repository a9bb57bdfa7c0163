//! Puts the windows of a table segment onto a volume, and reads them back.

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
use crate::repo::{ChunkFeed, Delivery, Lost, Repository};
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
    /// more. Returns what could not be had; everything else is written.
    ///
    /// # Errors
    /// [`Error::Io`] of the target, or of a repository that cannot be read at all; what `written` returns.
    pub fn write(
        &self,
        segment: &Segment,
        sink: &dyn BlockSink,
        feed: &mut dyn ChunkFeed,
        report: &dyn Report,
        written: Written<'_>,
    ) -> Result<Vec<Damage>> {
        let zeros: ExtentSet = segment
            .windows
            .iter()
            .flat_map(|(number, state)| {
                state
                    .zero
                    .union(&state.unreadable)
                    .shifted(self.start(*number))
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
            written(*number)?;
        }
        self.receive(segment, feed, report, &mut |id, plain| {
            for number in self.write_chunk(segment, id, plain, sink, report)? {
                written(number)?;
            }
            Ok(())
        })
    }

    /// Hands every chunk that the segment needs to `each`. Returns what could not be had.
    ///
    /// # Errors
    /// [`Error::Io`] of a repository that cannot be read at all, or what `each` returns.
    pub fn receive(
        &self,
        segment: &Segment,
        feed: &mut dyn ChunkFeed,
        report: &dyn Report,
        each: &mut dyn FnMut(&ChunkId, &[u8]) -> Result<()>,
    ) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        let mut wanted = segment.want_set();
        while !wanted.is_empty() {
            report.checkpoint()?;
            // A feed that ends early is out of order: what it did not deliver must not pass for written.
            let delivery = feed.next(&wanted)?.ok_or_else(|| self.unfed(wanted.len()))?;
            match delivery {
                Delivery::Chunk { id, plain } => {
                    if !wanted.remove(&id) {
                        continue;
                    }
                    match segment.misfit(&id, Bytes::of(&plain)) {
                        None => each(&id, &plain)?,
                        Some(lost) => damage.extend(self.damage(segment, &lost)),
                    }
                }
                Delivery::Lost(lost) => {
                    wanted.remove(&lost.id);
                    damage.extend(self.damage(segment, &lost));
                }
            }
        }
        Ok(damage)
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

    fn unfed(&self, missing: usize) -> Error {
        let source = std::io::Error::other(format!("{missing} chunks were not delivered"));
        Error::io(self.id, "read its chunks", source)
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
