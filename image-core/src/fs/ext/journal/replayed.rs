//! The filesystem as it will be once its journal is replayed, without replaying it.

use super::recovery::{Blocks, Logged};
use super::superblock::MAGIC;
use crate::error::Result;
use crate::extent::Extent;
use crate::io::{BlockSource, Source};
use crate::units::Bytes;

/// A volume whose journaled blocks read as the journal has them.
pub(in super::super) struct Replayed {
    pub(super) source: Source,
    pub(super) block_size: Bytes,
    pub(super) blocks: Blocks,
}

impl Replayed {
    /// The journaled blocks that touch `range`, where they belong, and what is there.
    fn within(&self, range: Extent) -> impl Iterator<Item = (Extent, Logged)> + '_ {
        let numbers = range.start.units(self.block_size)..=range.end.units(self.block_size);
        self.blocks.range(numbers).filter_map(move |(number, copy)| {
            let start = self.block_size.checked_mul(*number)?;
            let block = Extent::at(start, self.block_size)?;
            block.intersect(range).map(|_| (block, *copy))
        })
    }

    fn content(&self, copy: Logged) -> Result<Vec<u8>> {
        let size = self.block_size.index().unwrap_or_default();
        let mut content = self.source.read(copy.at, size)?;
        if let Some(magic) = content.get_mut(..4).filter(|_| copy.escaped) {
            magic.copy_from_slice(&MAGIC.to_be_bytes());
        }
        Ok(content)
    }
}

impl BlockSource for Replayed {
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
        self.source.read_at(offset, buffer)?;
        let range = Extent::new(offset, offset.saturating_add(Bytes::of(buffer)));
        for (block, copy) in self.within(range) {
            let Some(shared) = block.intersect(range) else { continue };
            let content = self.content(copy)?;
            let [from, to] = [shared.relative_to(block.start), shared.relative_to(offset)];
            let part = |extent: Extent| Some(extent.start.index()?..extent.end.index()?);
            if let (Some(from), Some(to)) = (part(from), part(to))
                && let (Some(from), Some(to)) = (content.get(from), buffer.get_mut(to))
            {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }
}
