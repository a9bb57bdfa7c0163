//! A volume that can be written though its targets are only read: what is written stays in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::serve::Surface;
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::BlockSource;
use crate::units::Bytes;

/// What is changed is kept in blocks of this size.
const BLOCK: Bytes = Bytes::BLOCK;
/// So much may be changed: a log of 2 GiB, the largest that XFS has, need not fit.
const MOST: Bytes = Bytes::mib(512);

/// A volume, what was written since, and what was touched.
pub(super) struct Overlay {
    volume: Volume,
    changes: Mutex<Changes>,
}

#[derive(Default)]
struct Changes {
    /// By number; the last block may be short.
    blocks: BTreeMap<u64, Vec<u8>>,
    touched: ExtentSet,
}

impl Overlay {
    /// Over `volume`, which is never written.
    pub(super) fn new(volume: Volume) -> Self {
        Self { volume, changes: Mutex::default() }
    }

    /// What was read or written until now.
    pub(super) fn touched(&self) -> ExtentSet {
        self.locked().touched.clone()
    }

    fn locked(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &str, offset: Bytes, errno: Errno) -> Error {
        Error::io_at(self.volume.name(), action, offset, errno.into())
    }

    /// Block `number` as it is on the targets.
    fn original(&self, number: u64) -> Result<Vec<u8>> {
        let start = BLOCK.checked_mul(number).unwrap_or(Bytes::MAX);
        let length = BLOCK.min(self.volume.size().saturating_sub(start));
        self.volume.read(start, length.index().unwrap_or_default())
    }
}

/// The blocks of `range`: number, the part of the block, and the part of the range.
fn parts(range: Extent) -> impl Iterator<Item = (u64, Extent, Extent)> {
    let first = range.start.units(BLOCK);
    let after = range.end.align_up(BLOCK).units(BLOCK);
    (first..after).filter_map(move |number| {
        let block = Extent::at(BLOCK.checked_mul(number)?, BLOCK)?;
        let both = block.intersect(range)?;
        Some((number, both.relative_to(block.start), both.relative_to(range.start)))
    })
}

/// `bytes` of an extent that lies in memory.
fn slots(extent: Extent) -> Option<std::ops::Range<usize>> {
    Some(extent.start.index()?..extent.end.index()?)
}

impl BlockSource for Overlay {
    fn name(&self) -> String {
        self.volume.name()
    }

    fn size(&self) -> Bytes {
        self.volume.size()
    }

    fn sector_size(&self) -> Bytes {
        self.volume.sector_size()
    }

    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let mut changes = self.locked();
        self.volume.read_at(offset, buffer)?;
        let range = Extent::new(offset, offset.saturating_add(Bytes::of(buffer)));
        changes.touched.insert(range);
        for (number, inside, within) in parts(range) {
            let Some(block) = changes.blocks.get(&number) else { continue };
            let from = slots(inside).and_then(|part| block.get(part));
            let to = slots(within).and_then(|part| buffer.get_mut(part));
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }
}

impl Surface for Overlay {
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        let range = Extent::at(offset, Bytes::of(bytes))
            .filter(|range| range.end <= self.volume.size())
            .ok_or_else(|| self.failed("write past the end", offset, Errno::INVAL))?;
        let mut changes = self.locked();
        changes.touched.insert(range);
        for (number, inside, within) in parts(range) {
            if !changes.blocks.contains_key(&number) {
                if Bytes::from(changes.blocks.len()) >= Bytes::new(MOST.units(BLOCK)) {
                    return Err(self.failed("keep more changes in memory", offset, Errno::NOSPC));
                }
                let original = self.original(number)?;
                changes.blocks.insert(number, original);
            }
            let block = changes.blocks.get_mut(&number);
            let to = block.and_then(|block| block.get_mut(slots(inside)?));
            let from = slots(within).and_then(|part| bytes.get(part));
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn allocate(&self, range: Extent, _: FallocateFlags) -> Result<()> {
        // Who is refused a hole or zeros writes zeros, or does without.
        Err(self.failed("deallocate", range.start, Errno::OPNOTSUPP))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Overlay, Surface};
    use crate::extent::{Extent, ExtentSet};
    use crate::io::BlockSource;
    use crate::units::Bytes;
    use crate::view::{Layout, Piece, Place, Volume};

    #[test]
    fn what_is_written_is_read_again_and_the_target_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        let original = vec![7; 10_000];
        std::fs::write(&path, &original).unwrap();
        let place = Place { path: path.clone(), offset: Bytes::ZERO };
        let piece = Piece::linear(Bytes::ZERO, Bytes::new(10_000), place);
        let layout = Layout::new(vec![piece]).unwrap();
        let overlay = Overlay::new(Volume::open_to_read(&layout).unwrap());
        overlay.write_at(Bytes::new(4000), &[1; 200]).unwrap();
        overlay.write_at(Bytes::new(9990), &[2; 10]).unwrap();
        assert!(overlay.write_at(Bytes::new(9991), &[2; 10]).is_err());
        let mut expected = original.clone();
        expected[4000..4200].fill(1);
        expected[9990..].fill(2);
        let mut found = vec![0; 6100];
        overlay.read_at(Bytes::new(3900), &mut found).unwrap();
        assert_eq!(found, expected[3900..]);
        assert_eq!(std::fs::read(&path).unwrap(), original);
        let touched: ExtentSet = Extent::new(Bytes::new(3900), Bytes::new(10_000)).into();
        assert_eq!(overlay.touched(), touched);
    }
}
