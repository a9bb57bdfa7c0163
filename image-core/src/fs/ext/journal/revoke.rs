//! Revoke blocks: numbers of blocks that must not be replayed from this or an earlier transaction.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`. Big-endian.

use super::header;
use super::superblock::Log;
use crate::error::Result;
use crate::fields::Structure;

/// Where the records begin, behind the header and the count of bytes in use.
const RECORDS: usize = header::LENGTH + 4;

/// The numbers in a revoke block.
///
/// # Errors
/// [`crate::error::Error::Corrupt`] where it counts more bytes than the block has.
pub(super) fn blocks(block: &Structure<'_>, log: &Log) -> Result<Vec<u64>> {
    let (most, end) = (header::records_end(block, log.checksums), block.be32(header::LENGTH)?);
    let Some(end) = usize::try_from(end).ok().filter(|end| *end <= most) else {
        let expected = format!("at most {most}");
        return Err(block.corrupt("r_count", header::LENGTH, expected, end));
    };
    let length = if log.wide { 8 } else { 4 };
    let records = (RECORDS..).step_by(length).take_while(|at| at + length <= end);
    records
        .map(|at| if log.wide { block.be64(at) } else { block.be32(at).map(u64::from) })
        .collect()
}
