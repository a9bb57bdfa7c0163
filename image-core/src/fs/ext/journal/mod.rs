//! The journal (jbd2) of an ext filesystem, inside of it: what waits there to be replayed.
//!
//! Answers: whether transactions wait ([`superblock`]), and how the filesystem reads once they are replayed
//! ([`replayed`]), without a byte being written. Refuses: fast commits, features that are not known, and
//! every contradiction that makes the kernel give up, or go on in a way that cannot be told from here.
//!
//! - [`superblock`]: where the log is. - [`header`]: what its blocks have in common.
//! - [`descriptor`], [`revoke`], [`commit`]: these blocks. - [`recovery`]: walks from block to block.

mod commit;
mod descriptor;
mod header;
mod recovery;
mod replayed;
mod revoke;
mod superblock;
#[cfg(test)]
mod tests;

pub(super) use replayed::Replayed;
pub(super) use superblock::JournalSuperblock;

use super::inode::{self, File};
use super::volume::Volume;
use crate::error::Result;
use crate::extent::ExtentSet;
use crate::io::Source;
use crate::units::Bytes;

/// An internal journal.
pub(super) struct Journal {
    pub(super) superblock: JournalSuperblock,
    file: File,
}

impl Journal {
    /// Finds the journal in inode `number` and reads its superblock.
    ///
    /// # Errors
    /// Where it cannot be found or is not one.
    pub(super) fn open(volume: &Volume<'_>, number: u32) -> Result<Self> {
        let file = inode::map(volume, number)?;
        let at = file.locate(0).unwrap_or_default();
        let superblock = JournalSuperblock::parse(at, volume.read(at, 1024)?)?;
        Ok(Self { superblock, file })
    }

    /// All its blocks, and those that lead to them.
    pub(super) fn extents(&self) -> ExtentSet {
        self.file.blocks.union(&self.file.nodes)
    }

    /// `source`, which `volume` reads, as it is once this journal is replayed.
    ///
    /// # Errors
    /// The module says what is refused.
    pub(super) fn replayed(&self, volume: &Volume<'_>, source: &Source) -> Result<Replayed> {
        let block_size: Bytes = volume.layout.block_size;
        let log = self.superblock.log(block_size, self.file.count())?;
        let blocks = recovery::replay(volume, &self.file, &log)?;
        Ok(Replayed { source: Source::clone(source), block_size, blocks })
    }
}
