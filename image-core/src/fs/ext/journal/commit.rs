//! Commit blocks: from here on a transaction counts.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`, `struct commit_header`; big-endian.

use super::header;
use super::superblock::{Checksums, Log};
use crate::error::Result;
use crate::fields::Structure;

const H_CHKSUM: usize = 16;
/// `JBD2_CRC32_CHKSUM` and its size.
const CRC32: [u8; 2] = [1, 4];

/// When the transaction was committed, in seconds.
pub(super) fn time(block: &Structure<'_>) -> Result<u64> {
    block.be64(48)
}

/// Compares the checksum: of the block itself, or (v1) `crc32` of all descriptors and blocks of its
/// transaction; v1 may also have been off, which is three fields of zeros.
///
/// # Errors
/// [`crate::error::Error::Corrupt`].
pub(super) fn verify(block: &Structure<'_>, log: &Log, crc32: u32) -> Result<()> {
    if log.checksums != Checksums::V1 {
        return header::verify(block, log.checksums, H_CHKSUM, "h_chksum");
    }
    let (kind, found) = (block.array::<2>(12)?, block.be32(H_CHKSUM)?);
    if (kind == CRC32 && found == crc32) || (kind == [0, 0] && found == 0) {
        return Ok(());
    }
    let (expected, found) = (format!("{crc32:#010x}"), format!("{found:#010x}"));
    Err(block.corrupt("h_chksum", H_CHKSUM, expected, found))
}
