//! The log: whether its newest record says that the filesystem was unmounted.

use uuid::Uuid;

use super::check;
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

/// The log counts in these, whatever the sector size (`BBSIZE`).
const BASIC_BLOCK: Bytes = Bytes::new(512);
/// `XLOG_HEADER_MAGIC_NUM`; a basic block of a record's body starts with its cycle, which is never this.
const MAGIC: [u8; 4] = 0xFEED_BABE_u32.to_be_bytes();
/// A record header holds the first words of this much body (`XLOG_HEADER_CYCLE_SIZE`).
const HEADER_COVERS: u32 = 32 << 10;
const VERSION_2: u32 = 2;
/// `XLOG_UNMOUNT_TRANS` in the flags of an operation header.
const UNMOUNT: u8 = 0x20;
const PIECE: usize = 1 << 20;

/// Whether the record with the highest LSN is an unmount record and nothing was written behind it.
///
/// Reads the whole log: the kernel's binary search for its head relies on what is to be proven here. A
/// crash image may hold records that recovery would not reach; those make it dirty too.
///
/// # Errors
/// [`Error::Corrupt`] where no record is found, or the newest contradicts itself.
pub(super) fn is_clean(source: &dyn BlockSource, superblock: &Superblock) -> Result<bool> {
    let log = superblock.log_extent()?;
    let Some(block) = newest_record(source, log)? else {
        return Err(Error::corrupt("XFS log", log.start, "a log record", "none"));
    };
    let log = Log { source, extent: log, blocks: log.len().units(BASIC_BLOCK) };
    let bytes = log.read(block)?;
    let header = Structure::new("XFS log record", log.position(block), &bytes);
    let cycle = header.be32(4)?;
    check(&header, ("h_lsn", 16), header.be64(16)?, u64::from(cycle) << 32 | block)?;
    let owner = Uuid::from_bytes(header.array(304)?);
    check(&header, ("h_fs_uuid", 304), owner, Uuid::from_bytes(superblock.uuid))?;
    if header.be32(40)? != 1 {
        return Ok(false);
    }
    let (version, size) = (header.be32(8)?, header.be32(320)?);
    let header_blocks = match version & VERSION_2 {
        0 => 1,
        _ => u64::from(size.div_ceil(HEADER_COVERS).max(1)),
    };
    let body = block + header_blocks;
    let operation = log.read(body % log.blocks)?;
    if operation.get(9).is_none_or(|flags| flags & UNMOUNT == 0) {
        return Ok(false);
    }
    let length = Bytes::from(header.be32(12)?);
    if length > log.extent.len() {
        let most = format!("at most the log's {} bytes", log.extent.len().get());
        return Err(header.corrupt("h_len", 12, most, length.get()));
    }
    log.ends_before(body + length.align_up(BASIC_BLOCK).units(BASIC_BLOCK), cycle)
}

/// The block of the record header with the highest LSN.
fn newest_record(source: &dyn BlockSource, log: Extent) -> Result<Option<u64>> {
    let mut newest = None;
    let mut piece = vec![0; PIECE];
    let mut at = log.start;
    while at < log.end {
        let length = (log.end - at).index().unwrap_or(PIECE).min(PIECE);
        let bytes = piece.get_mut(..length).unwrap_or_default();
        source.read_at(at, bytes)?;
        for block in bytes.chunks_exact(512) {
            if block.starts_with(&MAGIC) {
                let lsn = Structure::new("XFS log record", at, block).be64(16)?;
                newest = newest.max(Some((lsn, (at - log.start).units(BASIC_BLOCK))));
            }
            at += BASIC_BLOCK;
        }
    }
    Ok(newest.map(|(_, block)| block))
}

struct Log<'a> {
    source: &'a dyn BlockSource,
    extent: Extent,
    blocks: u64,
}

impl Log<'_> {
    fn position(&self, block: u64) -> Bytes {
        let offset = BASIC_BLOCK.checked_mul(block).unwrap_or(Bytes::MAX);
        self.extent.start.saturating_add(offset)
    }

    fn read(&self, block: u64) -> Result<Vec<u8>> {
        self.source.read(self.position(block), 512)
    }

    /// Whether block `after` (counted on past the log's end) was not yet written in the turn that `cycle` is.
    fn ends_before(&self, after: u64, cycle: u32) -> Result<bool> {
        let bytes = self.read(after % self.blocks)?;
        let block = Structure::new("XFS log", self.position(after % self.blocks), &bytes);
        let found = if bytes.starts_with(&MAGIC) { block.be32(4)? } else { block.be32(0)? };
        let turn = u64::from(cycle) + after / self.blocks;
        Ok(u64::from(found) != turn)
    }
}
