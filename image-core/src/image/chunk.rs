//! One window of a volume: which of its bytes stand in its chunk, which are zero, which could not be read.

use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::hash::ChunkId;
use crate::units::Bytes;

/// Shorter runs of zeros stay in the chunk, where they compress to almost nothing.
pub const MIN_ZERO_RUN: Bytes = Bytes::kib(64);

/// What is known about the bytes of one window; ranges count from the window's start and are disjoint.
///
/// Bytes in none of the ranges are unused and promise nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WindowState {
    /// Ranges whose bytes, one after another, are the chunk's plain bytes.
    pub data: ExtentSet,
    /// Ranges that read as zero.
    pub zero: ExtentSet,
    /// Used ranges that could not be read; restored as zeros.
    pub unreadable: ExtentSet,
    /// The chunk that holds `data`; `None` exactly where `data` is empty.
    pub chunk: Option<ChunkId>,
}

impl WindowState {
    /// Whether every byte of the window is unused.
    pub fn is_unused(&self) -> bool {
        self.data.is_empty() && self.zero.is_empty() && self.unreadable.is_empty()
    }

    /// Number of plain bytes in the chunk.
    pub fn plain_len(&self) -> Bytes {
        self.data.total()
    }

    /// Cuts the chunk's plain bytes into the ranges of the window where they belong.
    ///
    /// # Errors
    /// `Corrupt` where `plain` has another length than the window's data.
    pub fn pieces<'a>(
        &'a self,
        plain: &'a [u8],
    ) -> Result<impl Iterator<Item = (Extent, &'a [u8])>> {
        if Bytes::of(plain) != self.plain_len() {
            let expected = format!("{} plain bytes", self.plain_len().get());
            return Err(Error::corrupt("chunk", Bytes::ZERO, expected, plain.len().to_string()));
        }
        let mut rest = plain;
        Ok(self.data.iter().map_while(move |range| {
            let (piece, behind) = rest.split_at_checked(range.len().index()?)?;
            rest = behind;
            Some((range, piece))
        }))
    }
}

/// Finds the zeros in a window that was read, and moves the bytes of its chunk to the buffer's start.
///
/// `window` holds the window's bytes (the volume's last window may be short), `used` the used ranges,
/// `unreadable` those that could not be read, all counted from the window's start. Zero runs are whole
/// 4 KiB blocks of the volume, at least [`MIN_ZERO_RUN`] long and within one used range; the volume's
/// end ends a block. So the state depends on the content and the used map alone. Returns the state, still
/// without its chunk's id, and the number of plain bytes that now stand at the start of `window`.
pub fn compact(window: &mut [u8], used: &[Extent], unreadable: &[Extent]) -> (WindowState, usize) {
    let whole = Extent::first(Bytes::of(window));
    let clip = |ranges: &[Extent]| -> ExtentSet {
        ranges.iter().filter_map(|range| range.intersect(whole)).collect()
    };
    let used = clip(used);
    let unreadable = clip(unreadable).intersect(&used);
    let readable = used.subtract(&unreadable);
    let zero: ExtentSet = readable.iter().flat_map(|range| zero_runs(window, range)).collect();
    let data = readable.subtract(&zero);
    let plain_len = move_to_front(window, &data);
    (WindowState { data, zero, unreadable, chunk: None }, plain_len)
}

/// The zero runs within one readable range.
fn zero_runs(window: &[u8], range: Extent) -> Vec<Extent> {
    if range.len() < MIN_ZERO_RUN {
        return Vec::new();
    }
    let start = range.start.align_up(Bytes::BLOCK);
    let end =
        if range.end == Bytes::of(window) { range.end } else { range.end.align_down(Bytes::BLOCK) };
    let blocks = slice(window, Extent::new(start, end));
    let count = blocks.len().div_ceil(BLOCK);
    let is_zero = |number: usize| blocks.chunks(BLOCK).nth(number).is_some_and(is_zero);
    let mut runs = Vec::new();
    let mut first = 0;
    // Of as many blocks as the shortest run has, only the last one is looked at: where it is not zero, they are none.
    while first + SHORTEST <= count {
        let probe = first + SHORTEST - 1;
        if !is_zero(probe) {
            first = probe + 1;
            continue;
        }
        let from = (first..probe).rev().find(|number| !is_zero(*number)).map_or(first, |at| at + 1);
        let to = (probe + 1..count).find(|number| !is_zero(*number)).unwrap_or(count);
        let at = |number: usize| start + Bytes::from(number * BLOCK);
        let run = Extent::new(at(from), at(to).min(end));
        if run.len() >= MIN_ZERO_RUN {
            runs.push(run);
        }
        first = to + 1;
    }
    runs
}

const BLOCK: usize = 4096;

/// How many blocks the shortest zero run has.
const SHORTEST: usize = 16;

/// Whether all bytes are zero.
///
/// Pieces of 256 bytes are or-folded without a branch (the compiler makes vector code of it); most
/// blocks that are not zero show it in the first piece.
pub fn is_zero(block: &[u8]) -> bool {
    block.chunks(256).all(|piece| piece.iter().fold(0, |or, byte| or | byte) == 0)
}

fn slice(window: &[u8], range: Extent) -> &[u8] {
    indices(range).and_then(|range| window.get(range)).unwrap_or_default()
}

fn indices(range: Extent) -> Option<std::ops::Range<usize>> {
    Some(range.start.index()?..range.end.index()?)
}

fn move_to_front(window: &mut [u8], data: &ExtentSet) -> usize {
    let mut filled = 0;
    for range in data.iter().filter_map(indices) {
        let length = range.len();
        if range.start != filled {
            window.copy_within(range, filled);
        }
        filled += length;
    }
    filled
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BLOCK, MIN_ZERO_RUN, WindowState, compact, indices, zero_runs};
    use crate::extent::{Extent, ExtentSet};
    use crate::units::Bytes;

    fn extent(start: usize, end: usize) -> Extent {
        Extent::new(Bytes::from(start), Bytes::from(end))
    }

    fn set(ranges: &[(usize, usize)]) -> ExtentSet {
        ranges.iter().map(|(start, end)| extent(*start, *end)).collect()
    }

    /// What a target full of garbage looks like after the window was written onto it.
    fn restored(state: &WindowState, plain: &[u8], length: usize) -> Vec<Option<u8>> {
        let mut target = vec![None; length];
        let mut put = |range: Extent, bytes: &mut dyn Iterator<Item = u8>| {
            for byte in &mut target[indices(range).unwrap()] {
                assert!(byte.is_none(), "{range} overlaps another range");
                *byte = bytes.next();
            }
        };
        for (range, piece) in state.pieces(plain).unwrap() {
            put(range, &mut piece.iter().copied());
        }
        for range in state.zero.iter().chain(state.unreadable.iter()) {
            put(range, &mut std::iter::repeat(0));
        }
        target
    }

    #[test]
    fn zero_runs_start_at_64_kib_and_at_blocks() {
        let mut window = vec![1; 64 * BLOCK];
        window[BLOCK + 1..17 * BLOCK + 4095].fill(0);
        window[20 * BLOCK..36 * BLOCK].fill(0);
        let (state, plain) = compact(&mut window, &[extent(0, 64 * BLOCK)], &[]);
        assert_eq!(state.zero, set(&[(20 * BLOCK, 36 * BLOCK)]), "the first run is a block short");
        assert_eq!(plain, 48 * BLOCK);
    }

    #[test]
    fn the_end_of_the_volume_ends_a_block() {
        let length = 16 * BLOCK + 512;
        let (state, plain) = compact(&mut vec![0; length], &[extent(0, length)], &[]);
        assert_eq!((state.zero, plain), (set(&[(0, length)]), 0));
    }

    #[test]
    fn unreadable_bytes_are_neither_data_nor_zero() {
        let mut window = vec![0; 64 * BLOCK];
        let used = [extent(0, 40 * BLOCK)];
        let bad = [extent(20 * BLOCK + 512, 20 * BLOCK + 1024), extent(50 * BLOCK, 51 * BLOCK)];
        let (state, plain) = compact(&mut window, &used, &bad);
        assert_eq!(state.unreadable, set(&[(20 * BLOCK + 512, 20 * BLOCK + 1024)]));
        assert_eq!(state.zero, set(&[(0, 20 * BLOCK), (21 * BLOCK, 40 * BLOCK)]));
        assert_eq!(plain, BLOCK - 512);
    }

    #[test]
    fn a_chunk_of_another_length_is_refused() {
        let state = WindowState { data: set(&[(0, 4)]), ..WindowState::default() };
        assert!(state.pieces(&[0; 5]).is_err());
        assert_eq!(state.pieces(&[1; 4]).unwrap().count(), 1);
    }

    /// Every run of zero blocks, looked at one by one.
    fn runs_by_looking(window: &[u8], range: Extent) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        let first = range.start.align_up(Bytes::BLOCK).index().unwrap();
        let mut previous = false;
        for (at, block) in
            (first..).step_by(BLOCK).zip(window.get(first..).unwrap_or_default().chunks(BLOCK))
        {
            let here = extent(at, at + block.len());
            let whole =
                here.end <= range.end && (block.len() == BLOCK || at + block.len() == window.len());
            let is_zero = whole && block.iter().all(|byte| *byte == 0);
            match runs.last_mut().filter(|_| is_zero && previous) {
                Some(run) => run.end = here.end,
                None if is_zero => runs.push(here),
                None => {}
            }
            previous = is_zero;
        }
        runs.retain(|run| run.len() >= MIN_ZERO_RUN);
        runs
    }

    prop_compose! {
        fn windows()(
            blocks in prop::collection::vec(0u8..4, 1..80),
            tail in 1usize..=BLOCK,
            used in prop::collection::vec((0usize..80 * BLOCK, 0usize..80 * BLOCK), 0..6),
            bad in prop::collection::vec((0usize..80 * BLOCK, 0usize..2 * BLOCK), 0..3),
        ) -> (Vec<u8>, ExtentSet, ExtentSet) {
            let length = (blocks.len() - 1) * BLOCK + tail;
            let mut window: Vec<u8> =
                blocks.iter().flat_map(|kind| vec![u8::from(*kind == 3); BLOCK]).collect();
            window.truncate(length);
            let whole = extent(0, length);
            let used = used.iter().map(|(a, b)| extent(*a.min(b), *a.max(b)));
            let bad = bad.iter().map(|(start, length)| extent(*start, start + length));
            let clip = |range: Extent| range.intersect(whole);
            (window, used.filter_map(clip).collect(), bad.filter_map(clip).collect())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn no_run_of_zeros_is_overlooked(
            parts in prop::collection::vec((any::<bool>(), 1usize..40), 1..9),
            last in prop::sample::select(vec![0, 1, 17, 512, 4095]),
            stray in 0usize..BLOCK,
            cut in (0usize..9 * BLOCK, 0usize..9 * BLOCK),
        ) {
            let mut window = Vec::new();
            for (is_zero, blocks) in parts {
                for _ in 0..blocks {
                    window.extend([0; BLOCK]);
                    let at = window.len() - BLOCK + stray;
                    window[at] = u8::from(!is_zero);
                }
            }
            window.extend(vec![0; last]);
            let end = window.len().saturating_sub(cut.1).max(cut.0.min(window.len()));
            for range in [extent(0, window.len()), extent(cut.0.min(end), end)] {
                prop_assert_eq!(zero_runs(&window, range), runs_by_looking(&window, range));
            }
        }

        #[test]
        fn every_used_byte_comes_back((window, used, bad) in windows()) {
            let mut buffer = window.clone();
            let used_list: Vec<Extent> = used.iter().collect();
            let bad_list: Vec<Extent> = bad.iter().collect();
            let (state, plain_len) = compact(&mut buffer, &used_list, &bad_list);
            let target = restored(&state, &buffer[..plain_len], window.len());
            for (at, byte) in target.iter().enumerate() {
                let here = extent(at, at + 1);
                let expected = if !used.contains(here) {
                    None
                } else if bad.contains(here) {
                    Some(0)
                } else {
                    Some(window[at])
                };
                prop_assert_eq!(*byte, expected, "byte {}", at);
            }
        }
    }
}
