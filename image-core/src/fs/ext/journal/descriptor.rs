//! Descriptor blocks: for each block that follows in the log, a tag that says where it belongs.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`, and `include/linux/jbd2.h` for the layouts of
//! the tags, of which the document knows fewer. Big-endian.

use super::super::checksum::crc32c;
use super::header;
use super::superblock::{Checksums, Log};
use crate::error::Result;
use crate::fields::Structure;

/// `JBD2_FLAG_ESCAPE`: the block began with the journal's magic, which was replaced by zeros.
const ESCAPE: u16 = 1;
/// `JBD2_FLAG_SAME_UUID`: no UUID follows. With one, the kernel looks at none of them.
const SAME_UUID: u16 = 2;
/// `JBD2_FLAG_LAST_TAG`.
const LAST: u16 = 8;
const UUID: usize = 16;

/// Where one block of the log belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag {
    /// Its number in the filesystem.
    pub(super) block: u64,
    pub(super) escaped: bool,
    /// Where in the descriptor block the tag stands.
    pub(super) offset: usize,
    /// As the tag has it; of v2 only 16 bits.
    checksum: u32,
}

/// The tags of a descriptor block, in the order of the blocks that follow.
///
/// # Errors
/// None that the length of a block does not already exclude.
pub(super) fn tags(block: &Structure<'_>, log: &Log) -> Result<Vec<Tag>> {
    let (end, length) = (header::records_end(block, log.checksums), tag_length(log));
    let (mut offset, mut tags) = (header::LENGTH, Vec::new());
    while offset + length <= end {
        // In every layout the low 16 bits of the flags stand here.
        let flags = block.be16(offset + 6)?;
        let high = if log.wide { block.be32(offset + 8)? } else { 0 };
        tags.push(Tag {
            block: u64::from(high) << 32 | u64::from(block.be32(offset)?),
            escaped: flags & ESCAPE != 0,
            offset,
            checksum: match log.checksums {
                Checksums::Not | Checksums::V1 => 0,
                Checksums::V2(_) => block.be16(offset + 4)?.into(),
                Checksums::V3(_) => block.be32(offset + 12)?,
            },
        });
        offset += length;
        if flags & SAME_UUID == 0 {
            offset += UUID;
        }
        if flags & LAST != 0 {
            break;
        }
    }
    Ok(tags)
}

/// `journal_tag_bytes`: with v2, two bytes more than its fields have.
fn tag_length(log: &Log) -> usize {
    let high = if log.wide { 4 } else { 0 };
    match log.checksums {
        Checksums::Not | Checksums::V1 => 8 + high,
        Checksums::V2(_) => 10 + high,
        Checksums::V3(_) => 16,
    }
}

impl Tag {
    /// Compares the checksum of `content`, the block as it stands in the log of transaction `sequence`;
    /// `block` is the descriptor block.
    ///
    /// # Errors
    /// [`crate::error::Error::Corrupt`].
    pub(super) fn verify(
        &self,
        block: &Structure<'_>,
        log: &Log,
        sequence: u32,
        content: &[u8],
    ) -> Result<()> {
        let (seed, kept) = match log.checksums {
            Checksums::Not | Checksums::V1 => return Ok(()),
            Checksums::V2(seed) => (seed, 0xFFFF),
            Checksums::V3(seed) => (seed, u32::MAX),
        };
        let expected = crc32c(crc32c(seed, &sequence.to_be_bytes()), content) & kept;
        if self.checksum == expected {
            return Ok(());
        }
        let found = format!("{:#010x}", self.checksum);
        Err(block.corrupt("tag's t_checksum", self.offset, format!("{expected:#010x}"), found))
    }
}
