//! A target whose start is written last, so that a half-restored disk does not boot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BlockSink, BlockSource, Sink};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// Passes everything on to `inner` but what falls into its first bytes, which is kept in memory until
/// [`Withheld::release`].
pub struct Withheld {
    inner: Sink,
    kept: Mutex<Kept>,
}

struct Kept {
    /// What is kept back of the target; nothing once all of it was released.
    held: ExtentSet,
    bytes: Vec<u8>,
    written: ExtentSet,
}

impl Withheld {
    /// Keeps back the first `length` bytes of `inner` (all of it, where it is smaller).
    pub fn new(inner: Sink, length: Bytes) -> Self {
        let range = Extent::first(length.min(inner.size()));
        let bytes = vec![0; range.len().index().unwrap_or(0)];
        Self {
            inner,
            kept: Mutex::new(Kept { held: range.into(), bytes, written: ExtentSet::new() }),
        }
    }

    /// Writes what was kept back; only what falls into `later` is still kept back.
    ///
    /// # Errors
    /// As [`BlockSink::write_at`]; then everything is still kept back.
    pub fn release_but(&self, later: &ExtentSet) -> Result<()> {
        let mut kept = self.lock();
        for extent in kept.written.subtract(later).iter() {
            self.inner.write_at(extent.start, part(&kept.bytes, extent)?)?;
        }
        kept.held = kept.held.intersect(later);
        kept.written = kept.written.intersect(later);
        Ok(())
    }

    /// Writes all that is kept back.
    ///
    /// # Errors
    /// As [`Withheld::release_but`].
    pub fn release(&self) -> Result<()> {
        self.release_but(&ExtentSet::new())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The parts of `range` that are kept back, and those that are not.
    fn split(&self, range: Extent) -> (ExtentSet, ExtentSet) {
        (self.held.within(range).collect(), self.held.missing_in(range))
    }
}

/// `extent` of `bytes`.
fn part(bytes: &[u8], extent: Extent) -> Result<&[u8]> {
    let range = extent.start.index().zip(extent.end.index());
    range.and_then(|(start, end)| bytes.get(start..end)).ok_or_else(|| {
        let source = std::io::Error::other("outside the bytes that are kept back");
        Error::io_at("target", format!("write {} bytes", extent.len().get()), extent.start, source)
    })
}

fn part_mut(bytes: &mut [u8], extent: Extent) -> &mut [u8] {
    let range = extent.start.index().zip(extent.end.index());
    range.and_then(|(start, end)| bytes.get_mut(start..end)).unwrap_or_default()
}

impl BlockSink for Withheld {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn size(&self) -> Bytes {
        self.inner.size()
    }
    fn sector_size(&self) -> Bytes {
        self.inner.sector_size()
    }
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        let range = Extent::new(offset, offset.saturating_add(Bytes::of(bytes)));
        let mut kept = self.lock();
        let (kept_back, through) = kept.split(range);
        for extent in through.iter() {
            self.inner.write_at(extent.start, part(bytes, extent.relative_to(offset))?)?;
        }
        for extent in kept_back.iter() {
            let from = part(bytes, extent.relative_to(offset))?;
            part_mut(&mut kept.bytes, extent).copy_from_slice(from);
            kept.written.insert(extent);
        }
        Ok(())
    }
    fn zero(&self, range: Extent) -> Result<()> {
        let mut kept = self.lock();
        let (kept_back, through) = kept.split(range);
        through.iter().try_for_each(|extent| self.inner.zero(extent))?;
        for extent in kept_back.iter() {
            part_mut(&mut kept.bytes, extent).fill(0);
            kept.written.insert(extent);
        }
        Ok(())
    }
    fn discard(&self, range: Extent) -> Result<()> {
        let through = self.lock().split(range).1;
        through.iter().try_for_each(|extent| self.inner.discard(extent))
    }
    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
}

/// What a target will read like once nothing is kept back: for reading back before that.
pub struct Preview<S> {
    /// The target as it is.
    pub target: S,
    /// What is kept back of it.
    pub withheld: Arc<Withheld>,
}

impl<S: BlockSource> BlockSource for Preview<S> {
    fn name(&self) -> String {
        self.target.name()
    }
    fn size(&self) -> Bytes {
        self.target.size()
    }
    fn sector_size(&self) -> Bytes {
        self.target.sector_size()
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        self.target.read_at(offset, buffer)?;
        let range = Extent::new(offset, offset.saturating_add(Bytes::of(buffer)));
        let kept = self.withheld.lock();
        for extent in kept.written.within(range) {
            let from = part(&kept.bytes, extent)?;
            part_mut(buffer, extent.relative_to(offset)).copy_from_slice(from);
        }
        Ok(())
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        let kept = self.withheld.lock().written.clone();
        Ok(self.target.allocated(range)?.union(&kept.intersect(&range.into())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Preview, Withheld};
    use crate::extent::Extent;
    use crate::io::crash::Power;
    use crate::io::memory::Memory;
    use crate::io::{BlockSink, BlockSource, Medium};
    use crate::units::Bytes;

    #[test]
    fn the_start_arrives_only_when_released() {
        let target = Arc::new(Memory::new(vec![9; 4096]));
        let sink: crate::io::Sink = Arc::clone(&target) as _;
        let withheld = Arc::new(Withheld::new(sink, Bytes::new(1024)));
        withheld.write_at(Bytes::new(1000), &[1; 100]).unwrap();
        withheld.zero(Extent::new(Bytes::new(10), Bytes::new(20))).unwrap();
        let now = |at, length| target.read(Bytes::new(at), length).unwrap();
        assert_eq!(now(1000, 24), [9; 24]);
        assert_eq!(now(1024, 76), [1; 76]);
        let preview = Preview { target: Arc::clone(&target), withheld: Arc::clone(&withheld) };
        assert_eq!(preview.read(Bytes::new(999), 3).unwrap(), [9, 1, 1]);
        assert_eq!(preview.read(Bytes::new(19), 2).unwrap(), [0, 9]);
        withheld.release().unwrap();
        assert_eq!(now(1000, 100), [1; 100]);
        assert_eq!(now(9, 12), [9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        withheld.write_at(Bytes::new(5), &[7]).unwrap();
        assert_eq!(now(5, 1), [7]);
        assert_eq!((now(5, 1), preview.read(Bytes::new(5), 1).unwrap()), (vec![7], vec![7]));
    }

    #[test]
    fn discarding_leaves_what_is_kept_back() {
        let target = Power::new(vec![vec![9; 4096]]).disk(0);
        let withheld = Withheld::new(Arc::clone(&target) as _, Bytes::new(1024));
        withheld.write_at(Bytes::new(100), &[1; 8]).unwrap();
        withheld.discard(Extent::first(Bytes::new(2048))).unwrap();
        withheld.flush().unwrap();
        let now = |at, length| target.direct().unwrap().read(Bytes::new(at), length).unwrap();
        assert_eq!(now(0, 1024), [9; 1024]);
        assert_eq!(now(1024, 1024), [0xdd; 1024]);
        withheld.release().unwrap();
        withheld.flush().unwrap();
        assert_eq!(now(99, 10), [9, 1, 1, 1, 1, 1, 1, 1, 1, 9]);
    }

    #[test]
    fn a_part_may_be_released_later() {
        let target = Arc::new(Memory::new(vec![9; 4096]));
        let withheld = Withheld::new(Arc::clone(&target) as _, Bytes::new(1024));
        withheld.write_at(Bytes::ZERO, &[1; 500]).unwrap();
        let later = Extent::new(Bytes::new(100), Bytes::new(700));
        withheld.release_but(&later.into()).unwrap();
        withheld.write_at(Bytes::new(600), &[2; 200]).unwrap();
        let expected = |at: usize| match at {
            0..100 => 1,
            700..800 => 2,
            _ => 9,
        };
        let now = || target.read(Bytes::ZERO, 4096).unwrap();
        assert!(now().iter().enumerate().all(|(at, byte)| *byte == expected(at)));
        withheld.release().unwrap();
        assert_eq!((now()[499], now()[500], now()[650], now()[801]), (1, 9, 2, 9));
    }

    #[test]
    fn a_target_may_be_smaller_than_what_is_kept_back() {
        let target = Arc::new(Memory::new(vec![9; 1000]));
        let withheld = Withheld::new(Arc::clone(&target) as _, Bytes::MIB);
        withheld.write_at(Bytes::new(990), &[1; 10]).unwrap();
        assert!(withheld.write_at(Bytes::new(991), &[1; 10]).is_err());
        assert!(withheld.zero(Extent::new(Bytes::new(900), Bytes::new(1001))).is_err());
        assert_eq!(target.read(Bytes::new(990), 10).unwrap(), [9; 10]);
        withheld.release().unwrap();
        assert_eq!(target.read(Bytes::new(990), 10).unwrap(), [1; 10]);
    }
}
