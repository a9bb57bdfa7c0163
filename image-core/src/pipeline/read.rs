//! Cuts volumes into windows and reads the used bytes of each.

use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::io::{BlockSource, Source};
use crate::units::Bytes;

/// Unused bytes up to this length are read along with their neighbours: one large read is cheaper.
const READ_THROUGH: Bytes = Bytes::kib(64);

/// The container is asked for its holes in steps of this size, so that the answer stays small.
const HOLES_STEP: Bytes = Bytes::gib(4);

/// A volume to be read.
pub struct Volume<'a> {
    /// Its bytes.
    pub source: &'a Source,
    /// Which of them are used.
    pub used: &'a ExtentSet,
}

/// One or more windows of a volume, in ascending order.
pub enum Piece {
    /// A window to be read: its number and its used ranges, counted from its start.
    Window {
        /// Its number in the volume.
        number: u64,
        /// How many bytes it has: the last one of a volume may be short.
        length: usize,
        /// Its used ranges.
        used: Vec<Extent>,
    },
    /// Whole windows that are used and lie in a hole: they read as zero.
    Zeros {
        /// Number of the first.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// All windows of `volume` that hold used bytes, in ascending order.
///
/// # Errors
/// What `each` returns, or [`crate::error::Error::Io`] where holes cannot be asked for.
pub fn windows(
    volume: &Volume<'_>,
    window: Bytes,
    each: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let size = volume.source.size();
    let mut next = Bytes::ZERO;
    while next < size {
        // Jump over what is unused, so that time follows the used bytes.
        let rest = Extent::new(next, size);
        let Some(used) = volume.used.within(rest).next() else { break };
        let start = used.start.align_down(window).max(next);
        let step = Extent::new(start, start.saturating_add(HOLES_STEP).min(size));
        let allocated = volume.source.allocated(step)?;
        cut(volume, step, &allocated, window, each)?;
        next = step.end;
    }
    Ok(())
}

fn cut(
    volume: &Volume<'_>,
    step: Extent,
    allocated: &ExtentSet,
    window: Bytes,
    each: &mut dyn FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let mut start = step.start;
    while start < step.end {
        let Some(used) = volume.used.within(Extent::new(start, step.end)).next() else { break };
        start = start.max(used.start.align_down(window));
        let extent = Extent::new(start, start.saturating_add(window).min(step.end));
        let number = start.units(window);
        let whole = used.contains(extent) && extent.len() == window;
        let data = allocated.within(Extent::new(start, used.end.min(step.end))).next();
        let hole_end = data.map_or(used.end.min(step.end), |data| data.start);
        let hole = hole_end.saturating_sub(start).units(window);
        if whole && hole > 0 {
            each(Piece::Zeros { first: number, count: hole })?;
            start += Bytes::new(window.get() * hole);
        } else {
            let used = volume.used.within(extent).map(|part| part.relative_to(start)).collect();
            let length = extent.len().index().unwrap_or(0);
            each(Piece::Window { number, length, used })?;
            start = extent.end;
        }
    }
    Ok(())
}

/// Reads the used ranges of the window that starts at `start` into their places in `buffer`; which parts of them
/// could not be read.
///
/// # Errors
/// [`crate::error::Error::Io`] of a source that is not read around its bad sectors, or is gone.
pub fn fill(
    source: &dyn BlockSource,
    start: Bytes,
    used: &[Extent],
    buffer: &mut [u8],
) -> Result<Vec<Extent>> {
    let mut unreadable = Vec::new();
    let mut rest = used;
    while let Some(first) = rest.first() {
        let together = rest.windows(2).take_while(|two| match two {
            [before, behind] => behind.start - before.end <= READ_THROUGH,
            _ => false,
        });
        let (parts, behind) = rest.split_at(together.count() + 1);
        rest = behind;
        let range = Extent::new(first.start, parts.last().map_or(first.end, |last| last.end));
        if let (Some(from), Some(to)) = (range.start.index(), range.end.index())
            && let Some(part) = buffer.get_mut(from..to)
        {
            let wanted: Vec<Extent> =
                parts.iter().map(|part| part.relative_to(range.start)).collect();
            let holes = source.read_around(start + range.start, part, &wanted)?;
            unreadable.extend(holes.shifted(range.start).iter());
        }
    }
    Ok(unreadable)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Piece, Volume, fill, windows};
    use crate::error::Result;
    use crate::extent::{Extent, ExtentSet};
    use crate::io::{BlockSource, Source, memory::Memory};
    use crate::units::Bytes;

    /// A container whose second half is a hole.
    struct Sparse(Memory);

    impl BlockSource for Sparse {
        fn name(&self) -> String {
            "sparse".to_owned()
        }
        fn size(&self) -> Bytes {
            BlockSource::size(&self.0)
        }
        fn sector_size(&self) -> Bytes {
            Bytes::new(512)
        }
        fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
            self.0.read_at(offset, buffer)
        }
        fn allocated(&self, range: Extent) -> Result<ExtentSet> {
            let half = Extent::first(Bytes::new(BlockSource::size(&self.0).get() / 2));
            Ok(range.intersect(half).into_iter().collect())
        }
    }

    fn pieces(used: &[(u64, u64)]) -> Vec<String> {
        let used: ExtentSet =
            used.iter().map(|(a, b)| Extent::new(Bytes::kib(*a), Bytes::kib(*b))).collect();
        let source: Source = Arc::new(Sparse(Memory::new(vec![0; 640 << 10])));
        let mut seen = Vec::new();
        windows(&Volume { source: &source, used: &used }, Bytes::kib(64), &mut |piece| {
            seen.push(match piece {
                Piece::Window { number, length, used } => {
                    format!("{number}:{length}:{}", used.len())
                }
                Piece::Zeros { first, count } => format!("{first}+{count}"),
            });
            Ok(())
        })
        .unwrap();
        seen
    }

    #[test]
    fn unused_windows_are_skipped_and_holes_are_runs() {
        assert_eq!(pieces(&[(4, 8), (12, 16), (130, 140)]), ["0:65536:2", "2:65536:1"]);
        let whole = pieces(&[(0, 640)]);
        assert_eq!(whole.len(), 6);
        assert_eq!(whole[5], "5+5");
        assert_eq!(pieces(&[(330, 600)]), ["5:65536:1", "6+3", "9:65536:1"]);
    }

    #[test]
    fn used_ranges_come_to_their_places() {
        let bytes: Vec<u8> = (0..1 << 18).map(|at: u32| at.to_le_bytes()[1]).collect();
        let source: Source = Arc::new(Memory::new(bytes.clone()));
        let mut buffer = vec![9; 1 << 17];
        let used = [(0, 100), (200, 300), (100_000, 100_004)]
            .map(|(a, b)| Extent::new(Bytes::new(a), Bytes::new(b)));
        fill(source.as_ref(), Bytes::new(1 << 17), &used, &mut buffer).unwrap();
        for range in [0..100, 200..300, 100_000..100_004] {
            assert_eq!(
                buffer[range.clone()],
                bytes[range.start + (1 << 17)..range.end + (1 << 17)]
            );
        }
        assert_eq!(buffer[99_999], 9);
    }
}
