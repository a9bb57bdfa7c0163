//! Reading a disk that has unreadable sectors: around them, and not again and again.
//!
//! A disk is read as usual until a read fails. From then on tables and bitmaps are read past the page cache too, for
//! the kernel reads ahead, and reading ahead into bad sectors takes a failing disk's time. What failed is read again in
//! smaller pieces, down to the logical sector. Each failing read may take seconds, so they are counted:
//!
//! - After [`RUN`] bad sectors in a row the next ones are leaped over, by growing steps. From the first sector that
//!   can be read again it is read backwards, so that both edges of the hole are exact. What was leaped over is
//!   tried sector by sector as long as [`Effort`] allows.
//! - Where nothing of a whole read could be had, the end of the dead zone is looked for further behind, by growing
//!   steps, and narrowed down. The zone is then taken as unreadable without trying all of it.
//! - What was found to be unreadable is not tried again by the same [`Rescue`].
//!
//! Where a whole read failed, what could be read before is read once more: a disk that cannot do that is gone,
//! which is an error and no hole.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::{BlockSource, Source};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// A read that failed is cut into pieces of the first size, such a piece into pieces of the second; then come
/// sectors.
const PIECES: [Bytes; 2] = [Bytes::kib(64), Bytes::BLOCK];

/// So many bad sectors in a row are the start of a hole whose end is worth looking for.
const RUN: u64 = 8;

/// Dead zones are measured by so much.
const ZONE: Bytes = Bytes::MIB;

/// How many failing reads a disk is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// How often a sector is read before it counts as unreadable.
    pub tries: u32,
    /// Failing reads within one read for the sectors that were leaped over; an eighth of it where nothing else of
    /// that read could be had.
    pub per_read: u64,
    /// Failing reads in all; behind that, pieces of 64 KiB are given up as a whole.
    pub in_all: u64,
}

impl Effort {
    /// For a first save: what can be had in some hours at most.
    pub const SAVE: Self = Self { tries: 2, per_read: 128, in_all: 2048 };

    /// For filling holes: every sector of them.
    pub const FILL: Self = Self { tries: 3, per_read: 16_384, in_all: 65_536 };
}

/// Whether `error` says that sectors cannot be read, and not that the disk is gone or the read was wrong.
///
/// What the kernel makes of the answers of disks is in block/blk-core.c, `blk_errors`: a medium error is
/// ENODATA, a failed protection check EILSEQ, a target's failure EREMOTEIO. Through the page cache all are EIO.
pub fn is_bad_sector(error: &Error) -> bool {
    let Error::Io { source, .. } = error else { return false };
    let of = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO, Errno::TIMEDOUT];
    of.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
}

/// A disk that is read around its bad sectors.
pub struct Rescue {
    source: Source,
    effort: Effort,
    is_faulty: AtomicBool,
    /// Where something could be read: the first and the last place.
    alive: [AtomicU64; 2],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bad: ExtentSet,
    failed: u64,
}

/// No position: nothing was read yet.
const NOWHERE: u64 = u64::MAX;

impl Rescue {
    /// The disk `source`.
    pub fn new(source: Source, effort: Effort) -> Self {
        Self {
            source,
            effort,
            is_faulty: AtomicBool::new(false),
            alive: [AtomicU64::new(NOWHERE), AtomicU64::new(NOWHERE)],
            state: Mutex::default(),
        }
    }

    /// One read, past the page cache: whether it succeeded. Any other error than bad sectors ends everything.
    fn attempt(&self, offset: Bytes, buffer: &mut [u8]) -> Result<bool> {
        match self.source.read_once(offset, buffer) {
            Ok(()) => {
                let [first, last] = &self.alive;
                let order = Ordering::Relaxed;
                let _ = first.compare_exchange(NOWHERE, offset.get(), order, order);
                last.store(offset.get(), order);
                Ok(true)
            }
            Err(error) if is_bad_sector(&error) => {
                self.is_faulty.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// An error unless the disk can read what it could read before.
    fn still_there(&self, offset: Bytes, length: usize) -> Result<()> {
        let gone = |why: &str| {
            let source = std::io::Error::new(std::io::ErrorKind::NotConnected, why);
            Error::io_at(self.name(), format!("read {length} bytes"), offset, source)
        };
        let mut places = self.alive.each_ref().map(|at| at.load(Ordering::Relaxed)).to_vec();
        if places.contains(&NOWHERE) {
            let size = self.size().get();
            places = vec![size / 2, size / 8, size / 8 * 7];
        }
        let mut sector = vec![0; self.sector_size().index().unwrap_or(512)];
        for at in places.into_iter().map(|at| Bytes::new(at).align_down(self.sector_size())) {
            let left = self.size().saturating_sub(at).index().unwrap_or(usize::MAX);
            let length = sector.len().min(left);
            if self.attempt(at, sector.get_mut(..length).unwrap_or_default())? {
                return Ok(());
            }
        }
        Err(gone("nothing else of it can be read any more either: it fails as a whole, or is gone"))
    }

    /// Reads `wanted` parts of the buffer, which stands for the disk from `offset` on, piece by piece.
    fn salvage(&self, offset: Bytes, buffer: &mut [u8], wanted: &[Extent]) -> Result<ExtentSet> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let sector = self.sector_size();
        let mut salvage = Salvage {
            rescue: self,
            state: &mut state,
            whole: Extent::new(offset, offset.saturating_add(Bytes::of(buffer))),
            buffer,
            sector,
            good: Bytes::ZERO,
            run: 0,
            leaped: Vec::new(),
        };
        salvage.state.failed += 1;
        let mut tried = Bytes::ZERO;
        for part in wanted.iter().map(|part| part.shifted(offset)) {
            for rest in salvage.state.bad.missing_in(part).iter() {
                tried += rest.len();
                salvage.part(rest)?;
            }
        }
        let is_dead = salvage.good.is_zero() && !tried.is_zero();
        if is_dead {
            self.still_there(offset, salvage.buffer.len())?;
        }
        let per_read = self.effort.per_read;
        salvage.leaped_over(if is_dead { per_read / 8 } else { per_read })?;
        if salvage.good.is_zero() && tried >= Bytes::BLOCK {
            let end = salvage.whole.end;
            self.dead_zone(end, &mut state)?;
        }
        let bad = |part: &Extent| state.bad.within(part.shifted(offset)).collect::<Vec<_>>();
        Ok(wanted.iter().flat_map(bad).map(|bad| bad.relative_to(offset)).collect())
    }

    /// Looks for the end of a dead zone that reaches `from` at least.
    fn dead_zone(&self, from: Bytes, state: &mut State) -> Result<()> {
        let mut sector = vec![0; self.sector_size().index().unwrap_or(512)];
        let mut can_read = |at: Bytes, state: &mut State| {
            let read = self.attempt(at.align_down(self.sector_size()), &mut sector)?;
            state.failed += u64::from(!read);
            Ok::<bool, Error>(read)
        };
        let end = self.size().align_down(self.sector_size());
        let (mut dead, mut step) = (from, ZONE);
        let mut live = end;
        while dead < end {
            let next = dead.saturating_add(step);
            if next >= end {
                break;
            }
            if can_read(next, state)? {
                live = next;
                break;
            }
            (dead, step) = (next, step.saturating_add(step));
        }
        while live.saturating_sub(dead) > ZONE {
            let middle = dead + Bytes::new((live - dead).get() / 2).align_down(ZONE).max(ZONE);
            if can_read(middle, state)? { live = middle } else { dead = middle }
        }
        state.bad.insert(Extent::new(from, dead));
        Ok(())
    }
}

impl BlockSource for Rescue {
    fn name(&self) -> String {
        self.source.name()
    }
    fn size(&self) -> Bytes {
        self.source.size()
    }
    fn sector_size(&self) -> Bytes {
        self.source.sector_size()
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        // Through the page cache as long as nothing failed: tables and bitmaps are asked for again.
        if !self.is_faulty.load(Ordering::Relaxed) {
            match self.source.read_at(offset, buffer) {
                Err(error) if is_bad_sector(&error) => {}
                other => return other,
            }
        }
        let length = buffer.len();
        let bad = self.read_around(offset, buffer, &[Extent::first(Bytes::from(length))])?;
        bad.iter().next().map_or(Ok(()), |first| {
            let source = std::io::Error::from(Errno::IO);
            let action = format!("read {length} bytes");
            Err(Error::io_at(self.name(), action, offset + first.start, source))
        })
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        self.source.allocated(range)
    }
    fn read_around(
        &self,
        offset: Bytes,
        buffer: &mut [u8],
        wanted: &[Extent],
    ) -> Result<ExtentSet> {
        let known = self.is_faulty.load(Ordering::Relaxed) && {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let whole = Extent::new(offset, offset.saturating_add(Bytes::of(buffer)));
            state.bad.within(whole).next().is_some()
        };
        if !known && self.attempt(offset, buffer)? {
            return Ok(ExtentSet::new());
        }
        self.salvage(offset, buffer, wanted)
    }
}

/// One read around bad sectors.
struct Salvage<'a> {
    rescue: &'a Rescue,
    state: &'a mut State,
    whole: Extent,
    buffer: &'a mut [u8],
    sector: Bytes,
    /// How much could be read.
    good: Bytes,
    /// Bad sectors in a row, up to here.
    run: u64,
    leaped: Vec<Extent>,
}

impl Salvage<'_> {
    /// Reads `range`; whether it could be read.
    fn read(&mut self, range: Extent) -> Result<bool> {
        let place = range.relative_to(self.whole.start);
        let (Some(start), Some(end)) = (place.start.index(), place.end.index()) else {
            return Ok(false);
        };
        let part = self.buffer.get_mut(start..end).unwrap_or_default();
        let read = self.rescue.attempt(range.start, part)?;
        if read {
            self.good += range.len();
            self.run = 0;
        } else {
            self.state.failed += 1;
        }
        Ok(read)
    }

    fn is_worn_out(&self) -> bool {
        self.state.failed >= self.rescue.effort.in_all
    }

    /// A sector that fails is bad as a whole.
    fn mark(&mut self, range: Extent) {
        let end = range.end.align_up(self.sector).min(self.rescue.size());
        self.state.bad.insert(Extent::new(range.start.align_down(self.sector), end));
    }

    /// Reads `range` in pieces, and leaps over runs of bad sectors.
    fn part(&mut self, range: Extent) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            at = self.pieces(Extent::new(at, range.end), 0)?;
            if self.run >= RUN {
                at = self.leap(at, range.end)?;
            }
        }
        Ok(())
    }

    /// Reads `range` in pieces of the size of `level`, and what fails of them in smaller ones, up to a run of bad
    /// sectors; where it ended.
    fn pieces(&mut self, range: Extent, level: usize) -> Result<Bytes> {
        let size = PIECES.get(level).copied().unwrap_or(self.sector).max(self.sector);
        let mut at = range.start;
        while at < range.end && self.run < RUN {
            let piece = Extent::new(at, (at + Bytes::new(1)).align_up(size).min(range.end));
            at = piece.end;
            if self.read(piece)? {
                continue;
            }
            if size > self.sector && !self.is_worn_out() {
                at = self.pieces(piece, level + 1)?;
            } else {
                self.lose(piece)?;
            }
        }
        Ok(at)
    }

    /// A piece that will not be cut any more: read once more or twice, then it is a hole.
    fn lose(&mut self, piece: Extent) -> Result<()> {
        for _ in 1..self.rescue.effort.tries {
            if self.is_worn_out() {
                break;
            }
            if self.read(piece)? {
                return Ok(());
            }
        }
        self.run += 1;
        self.mark(piece);
        Ok(())
    }

    /// From a run of bad sectors that ends at `from` to what can be read again, `end` at most; where to go on.
    fn leap(&mut self, from: Bytes, end: Bytes) -> Result<Bytes> {
        let mut step = self.sector;
        let mut at = from;
        while at < end {
            let probe = Extent::new(at, (at + self.sector).min(end));
            if self.read(probe)? {
                return self.back(from, probe);
            }
            self.mark(probe);
            step = step.saturating_add(step);
            at = probe.start.saturating_add(step);
        }
        self.leap_over(Extent::new(from, end));
        Ok(end)
    }

    /// Reads backwards from `good`, down to `from` at most; where to go on.
    fn back(&mut self, from: Bytes, good: Extent) -> Result<Bytes> {
        let mut start = good.start;
        while start > from {
            let piece = Extent::new(start.saturating_sub(self.sector).max(from), start);
            if self.state.bad.contains(piece) || !self.read(piece)? {
                self.mark(piece);
                break;
            }
            start = piece.start;
        }
        self.leap_over(Extent::new(from, start));
        Ok(good.end)
    }

    fn leap_over(&mut self, range: Extent) {
        self.leaped.extend(self.state.bad.missing_in(range).iter());
        self.run = 0;
    }

    /// Tries what was leaped over, the smallest holes first, as long as it is worth it.
    fn leaped_over(&mut self, limit: u64) -> Result<()> {
        let mut holes = std::mem::take(&mut self.leaped);
        holes.sort_unstable_by_key(|hole| hole.len());
        let limit = self.state.failed.saturating_add(limit);
        for hole in holes {
            let mut at = hole.start;
            while at < hole.end {
                let piece = Extent::new(at, (at + self.sector).min(hole.end));
                at = piece.end;
                if self.is_worn_out() || self.state.failed >= limit {
                    self.mark(Extent::new(piece.start, hole.end));
                    break;
                }
                if !self.read(piece)? {
                    self.mark(piece);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
