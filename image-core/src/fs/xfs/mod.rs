//! XFS, versions 4 and 5; all numbers big-endian, checksums little-endian.
//!
//! Answers: every block that no free-space btree calls free, checked against the counters of each
//! allocation group and of the superblock. Refuses: a dirty log (its replay would change the map), unless
//! somebody has replayed it on a copy; an external log, a realtime device, features that are not known.
//!
//! - [`superblock`]: geometry and features. - [`log`]: whether it was unmounted cleanly.
//! - [`owners`]: which files some bytes belong to.
//! - [`replayed`]: the map of one with a dirty log. - [`agf`], [`agfl`], [`bnobt`]: header, reserve list and free-space btree of an allocation group (AG).
//!
//! Source of the layout: Linux `fs/xfs/libxfs/xfs_format.h` and `xfs_log_format.h`.

mod agf;
mod agfl;
mod bnobt;
mod log;
mod owners;
mod replayed;
mod superblock;

use std::sync::Arc;

pub use self::replayed::replayed;

use self::agf::Agf;
use self::superblock::Superblock;
use super::{Filesystem, GrowthTool, Identity, Owners, State};
use crate::error::{Error, Result};
use crate::extent::ExtentSet;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

/// Why a filesystem is not believed that was not unmounted.
pub const LOG_IS_DIRTY: &str = "the log is dirty";

struct Xfs {
    source: Arc<dyn BlockSource>,
    superblock: Superblock,
    identity: Identity,
    doubt: Option<String>,
}

/// The XFS on `source`; `None` where its magic is not there.
///
/// Reads the whole log (at most 2 GiB, usually 64 MiB).
///
/// # Errors
/// Reading; a superblock that contradicts itself, its checksum or the volume's size.
pub fn probe(source: &Arc<dyn BlockSource>) -> Result<Option<Box<dyn Filesystem>>> {
    let Some(superblock) = Superblock::read(source)? else { return Ok(None) };
    Ok(Some(Box::new(Xfs::new(source, superblock)?)))
}

fn log_doubt(source: &Arc<dyn BlockSource>, superblock: &Superblock) -> Result<Option<String>> {
    match log::is_clean(source, superblock) {
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(LOG_IS_DIRTY.to_owned())),
        Err(damage @ Error::Corrupt { .. }) => Ok(Some(damage.to_string())),
        Err(other) => Err(other),
    }
}

impl Filesystem for Xfs {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn state(&self) -> Result<State> {
        Ok(self.doubt.clone().map_or(State::Clean, State::Raw))
    }

    fn used(&self) -> Result<ExtentSet> {
        if let Some(doubt) = &self.doubt {
            return Err(Error::refused(doubt));
        }
        let mut used = ExtentSet::new();
        let mut free = 0u64;
        for number in 0..self.superblock.ag_count {
            free = free.saturating_add(self.add_group(number, &mut used)?);
        }
        self.superblock.check_free_blocks(free)?;
        let log = self.superblock.log_extent()?;
        if !used.contains(log) {
            let expected = format!("the log's bytes {log} to be in use");
            return Err(Error::corrupt("XFS bnobt", log.start, expected, "some called free"));
        }
        Ok(used.rounded_out(Bytes::BLOCK, self.source.size()))
    }

    fn owners(&self, lost: &ExtentSet) -> Result<Option<Owners>> {
        owners::of(&self.source, &self.superblock, lost).map(Some)
    }

    fn growth(&self) -> Option<GrowthTool> {
        // Version 4 is no longer mounted by new kernels, and xfs_growfs works on mounted filesystems only.
        (self.superblock.v5 && self.doubt.is_none()).then_some(GrowthTool::XfsGrowfs)
    }
}

impl Xfs {
    fn new(source: &Arc<dyn BlockSource>, superblock: Superblock) -> Result<Self> {
        let doubt = match superblock.doubt.clone() {
            None => log_doubt(source, &superblock)?,
            doubt => doubt,
        };
        let identity = superblock.identity();
        Ok(Self { source: Arc::clone(source), superblock, identity, doubt })
    }

    /// Adds the used blocks of AG `number`; returns its free blocks as the superblock counts them.
    fn add_group(&self, number: u32, used: &mut ExtentSet) -> Result<u64> {
        let superblock = &self.superblock;
        let agf = Agf::read(&self.source, superblock, number)?;
        let mut at = 0;
        let mut next_used = |free: bnobt::Record| -> Result<()> {
            used.insert(superblock.ag_extent(number, at, free.start)?);
            at = free.end;
            Ok(())
        };
        bnobt::walk(&self.source, superblock, &agf, &mut next_used)?;
        used.insert(superblock.ag_extent(number, at, agf.length)?);
        for block in agfl::blocks(&self.source, superblock, &agf)? {
            let extent = superblock.ag_extent(number, block, block.saturating_add(1))?;
            if !used.contains(extent) {
                let expected = format!("block {block} of the AGFL to be in use");
                return Err(Error::corrupt("XFS bnobt", extent.start, expected, "a free block"));
            }
        }
        Ok(agf.counted_free())
    }
}

/// Checks the little-endian CRC32C at `at` of a structure, which covers it with that field as zeros.
fn check_crc(structure: &Structure<'_>, at: usize) -> Result<()> {
    let stored = structure.le32(at)?;
    let before = structure.slice(0, at)?;
    let after = structure.all().get(at.saturating_add(4)..).unwrap_or_default();
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    let crc = crc32c::crc32c_append(crc, after);
    if crc != stored {
        return Err(structure.corrupt(
            "crc",
            at,
            format!("{crc:#010x}"),
            format!("{stored:#010x}"),
        ));
    }
    Ok(())
}

/// Checks that the field at `offset` holds `expected`.
fn check<T: PartialEq + std::fmt::Display>(
    structure: &Structure<'_>,
    (field, offset): (&str, usize),
    found: T,
    expected: T,
) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(structure.corrupt(field, offset, expected.to_string(), found))
}

/// Checks the magic and, in version 5, the uuid that metadata carries at `uuid`.
fn check_owner(
    structure: &Structure<'_>,
    magic: &[u8; 4],
    uuid: Option<(usize, &[u8; 16])>,
) -> Result<()> {
    let found: [u8; 4] = structure.array(0)?;
    if found != *magic {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        return Err(structure.corrupt("magic", 0, text(magic), text(&found)));
    }
    if let Some((offset, uuid)) = uuid {
        let text = |bytes: [u8; 16]| uuid::Uuid::from_bytes(bytes);
        check(structure, ("uuid", offset), text(structure.array(offset)?), text(*uuid))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
