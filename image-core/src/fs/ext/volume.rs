//! The blocks of a volume, with what its superblock says of them.

use super::layout::Layout;
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::BlockSource;
use crate::units::Bytes;

/// Neighbouring blocks are read together, up to this much: a flex group's bitmaps are neighbours.
const READ: Bytes = Bytes::mib(1);

/// A source of blocks (the volume, or an overlay of it) with the figures to find them by.
pub(super) struct Volume<'a> {
    source: &'a dyn BlockSource,
    pub(super) superblock: &'a Superblock,
    pub(super) layout: Layout,
}

impl<'a> Volume<'a> {
    /// The blocks of `source`, which holds the filesystem of `superblock`.
    ///
    /// # Errors
    /// Where the superblock describes no possible layout.
    pub(super) fn new(source: &'a dyn BlockSource, superblock: &'a Superblock) -> Result<Self> {
        Ok(Self { source, superblock, layout: Layout::new(superblock)? })
    }

    /// Where `block` starts; `name` is the field at `at` that names it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it lies outside the filesystem.
    pub(super) fn locate(&self, block: u64, name: &str, at: Bytes) -> Result<Bytes> {
        self.layout
            .blocks(block, 1)
            .filter(|_| block != 0)
            .map(|extent| extent.start)
            .ok_or_else(|| Error::corrupt(name, at, "a block of the filesystem", block.to_string()))
    }

    /// `length` bytes from `at`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn read(&self, at: Bytes, length: usize) -> Result<Vec<u8>> {
        self.source.read(at, length)
    }

    /// Reads as much as can be read of `buffer` from `at` on; what not, counted from its start, is zeros.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn read_around(&self, at: Bytes, buffer: &mut [u8]) -> Result<ExtentSet> {
        let whole = [Extent::first(Bytes::of(buffer))];
        let holes = self.source.read_around(at, buffer, &whole)?;
        for hole in holes.iter().filter_map(|hole| Some(hole.start.index()?..hole.end.index()?)) {
            buffer.get_mut(hole).unwrap_or_default().fill(0);
        }
        Ok(holes)
    }

    /// Hands every one of `blocks` to `each` in this order: its index in `blocks`, position and content.
    ///
    /// # Errors
    /// [`Error::Io`], and what `each` returns.
    pub(super) fn read_blocks(
        &self,
        blocks: &[Bytes],
        mut each: impl FnMut(usize, Bytes, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let size = self.layout.block_size;
        let (bytes, most) = (size.index().unwrap_or(usize::MAX), READ.units(size));
        let mut index = 0;
        while let Some(&first) = blocks.get(index) {
            let run = (0..most).map(|n| first.checked_add(size.checked_mul(n)?));
            let rest = blocks.get(index..).unwrap_or_default();
            let count = rest.iter().zip(run).take_while(|(at, next)| Some(**at) == *next).count();
            let buffer = self.source.read(first, count * bytes)?;
            for (at, content) in rest.iter().zip(buffer.chunks_exact(bytes)) {
                each(index, *at, content)?;
                index += 1;
            }
        }
        Ok(())
    }
}
