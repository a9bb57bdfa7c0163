//! What the journal's own blocks have in common: the header, and the checksum in the tail.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`, `include/linux/jbd2.h`. Big-endian.

use super::super::checksum::crc32c;
use super::superblock::{Checksums, MAGIC};
use crate::error::Result;
use crate::fields::Structure;

/// Bytes of the header; what is in the block stands behind it.
pub(super) const LENGTH: usize = 12;
/// Bytes of the tail that descriptor and revoke blocks have with checksums v2 and v3.
const TAIL: usize = 4;

/// What a block of the journal's own is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Descriptor,
    Commit,
    Revoke,
}

/// The kind of `block`, where it belongs to transaction `sequence`; `None` where the log ends before it,
/// because it is data, or left over from an earlier turn, or nothing that recovery knows.
pub(super) fn kind(block: &Structure<'_>, sequence: u32) -> Result<Option<Kind>> {
    if block.be32(0)? != MAGIC || block.be32(8)? != sequence {
        return Ok(None);
    }
    Ok(match block.be32(4)? {
        1 => Some(Kind::Descriptor),
        2 => Some(Kind::Commit),
        5 => Some(Kind::Revoke),
        _ => None,
    })
}

/// How many bytes of a descriptor or revoke block may hold records.
pub(super) fn records_end(block: &Structure<'_>, checksums: Checksums) -> usize {
    let tail = match checksums {
        Checksums::Not | Checksums::V1 => 0,
        Checksums::V2(_) | Checksums::V3(_) => TAIL,
    };
    block.all().len().saturating_sub(tail)
}

/// Compares the checksum in the tail of a descriptor or revoke block, where there is one.
///
/// # Errors
/// [`crate::error::Error::Corrupt`].
pub(super) fn verify_tail(block: &Structure<'_>, checksums: Checksums) -> Result<()> {
    verify(block, checksums, records_end(block, checksums), "t_checksum")
}

/// Compares the CRC-32C of a block, which stands in it at `at` and counts as zero there.
///
/// # Errors
/// [`crate::error::Error::Corrupt`].
pub(super) fn verify(
    block: &Structure<'_>,
    checksums: Checksums,
    at: usize,
    field: &str,
) -> Result<()> {
    let (Checksums::V2(seed) | Checksums::V3(seed)) = checksums else { return Ok(()) };
    let behind = block.all().get(at.saturating_add(4)..).unwrap_or_default();
    let parts = [block.slice(0, at)?, &[0; 4], behind];
    let expected = parts.iter().fold(seed, |crc, part| crc32c(crc, part));
    let found = block.be32(at)?;
    if found == expected {
        return Ok(());
    }
    let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
    Err(block.corrupt(field, at, expected, found))
}
