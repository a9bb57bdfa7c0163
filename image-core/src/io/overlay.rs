//! A container seen through changes that are not written to it.

use super::BlockSource;
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// `inner` with some ranges reading as zeros: a gap without the partition table's own bytes.
#[derive(Debug)]
pub struct Masked<T> {
    inner: T,
    zeros: ExtentSet,
}

impl<T> Masked<T> {
    /// `inner`, whose bytes in `zeros` read as zero.
    pub fn new(inner: T, zeros: ExtentSet) -> Self {
        Self { inner, zeros }
    }
}

impl<T: BlockSource> BlockSource for Masked<T> {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn size(&self) -> Bytes {
        self.inner.size()
    }
    fn sector_size(&self) -> Bytes {
        self.inner.sector_size()
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buffer)?;
        self.mask(offset, buffer);
        Ok(())
    }
    fn read_around(
        &self,
        offset: Bytes,
        buffer: &mut [u8],
        wanted: &[Extent],
    ) -> Result<ExtentSet> {
        let seen = |part: &Extent| {
            let seen = self.zeros.missing_in(part.shifted(offset));
            seen.iter().map(|part| part.relative_to(offset)).collect::<Vec<_>>()
        };
        let wanted: Vec<Extent> = wanted.iter().flat_map(seen).collect();
        let unreadable = self.inner.read_around(offset, buffer, &wanted)?;
        self.mask(offset, buffer);
        Ok(unreadable)
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        self.inner.allocated(range)
    }
}

impl<T> Masked<T> {
    fn mask(&self, offset: Bytes, buffer: &mut [u8]) {
        let range = Extent::new(offset, offset.saturating_add(Bytes::of(buffer)));
        for zero in self.zeros.within(range).map(|zero| zero.relative_to(offset)) {
            if let (Some(start), Some(end)) = (zero.start.index(), zero.end.index())
                && let Some(part) = buffer.get_mut(start..end)
            {
                part.fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Masked;
    use crate::error::Result;
    use crate::extent::{Extent, ExtentSet};
    use crate::io::{BlockSource, memory::Memory};
    use crate::units::Bytes;

    #[test]
    fn masked_bytes_read_as_zero_and_no_others() {
        let zeros = Extent::new(Bytes::new(3), Bytes::new(6)).into();
        let masked = Masked::new(Memory::new(vec![7; 10]), zeros);
        assert_eq!(masked.read(Bytes::ZERO, 10).unwrap(), [7, 7, 7, 0, 0, 0, 7, 7, 7, 7]);
        assert_eq!(masked.read(Bytes::new(4), 3).unwrap(), [0, 0, 7]);
    }

    /// A disk of which nothing can be read.
    struct Dead;

    impl BlockSource for Dead {
        fn name(&self) -> String {
            "dead".to_owned()
        }
        fn size(&self) -> Bytes {
            Bytes::new(10)
        }
        fn sector_size(&self) -> Bytes {
            Bytes::new(1)
        }
        fn read_at(&self, _: Bytes, _: &mut [u8]) -> Result<()> {
            unreachable!()
        }
        fn read_around(&self, _: Bytes, _: &mut [u8], wanted: &[Extent]) -> Result<ExtentSet> {
            Ok(wanted.iter().copied().collect())
        }
    }

    #[test]
    fn what_is_masked_is_never_unreadable() {
        let range = |start, end| Extent::new(Bytes::new(start), Bytes::new(end));
        let masked = Masked::new(Dead, range(3, 6).into());
        let mut buffer = [7; 6];
        let lost = masked.read_around(Bytes::new(2), &mut buffer, &[range(0, 5)]).unwrap();
        assert_eq!(lost, [range(0, 1), range(4, 5)].into_iter().collect());
        assert_eq!(buffer[1..4], [0, 0, 0]);
        let lost = masked.read_around(Bytes::new(3), &mut buffer, &[range(0, 3)]).unwrap();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
