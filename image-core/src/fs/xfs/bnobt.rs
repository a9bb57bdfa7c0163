//! bnobt: the btree of an AG's free extents by block number. Its complement is what is in use.

use super::agf::Agf;
use super::superblock::Superblock;
use super::{check, check_crc, check_owner};
use crate::error::Result;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

const V4_HEADER: usize = 16;
const V5_HEADER: usize = 56;
const UUID: usize = 32;
const CRC: usize = 52;
/// A record or key: startblock u32, blockcount u32.
const RECORD: usize = 8;
/// A key with its pointer u32.
const KEY_AND_POINTER: usize = 12;
/// AG headers (superblock, AGF, AGI, AGFL) are never free.
const HEADER_SECTORS: u32 = 4;

/// A free extent: AG blocks `start..end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub start: u32,
    pub end: u32,
}

/// Calls `visit` for every free extent of the AG in ascending order, then compares with the AGF's counters.
///
/// Ends on any input: levels go down by one, and no record may start before the one before it ends.
pub(super) fn walk(
    source: &dyn BlockSource,
    superblock: &Superblock,
    agf: &Agf,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<()> {
    let headers = HEADER_SECTORS.saturating_mul(superblock.sector_size);
    let next = headers.div_ceil(superblock.block_size);
    let mut walk = Walk { source, superblock, agf, visit, next, free: 0, longest: 0 };
    walk.block(agf.bno_root, agf.bno_level - 1, None)?;
    let (free, longest) = (walk.free, walk.longest);
    let name = format!("XFS AGF {}", agf.number);
    let position = superblock.ag_sector(agf.number, 1)?;
    let header = Structure::new(&name, position, &[]);
    check(&header, ("agf_freeblks", 52), u64::from(agf.free_blocks), free)?;
    check(&header, ("agf_longest", 56), agf.longest, longest)
}

struct Walk<'a> {
    source: &'a dyn BlockSource,
    superblock: &'a Superblock,
    agf: &'a Agf,
    visit: &'a mut dyn FnMut(Record) -> Result<()>,
    /// The first block that the next record may start at.
    next: u32,
    free: u64,
    longest: u32,
}

impl Walk<'_> {
    /// Walks the subtree at `block`; `key` is its first startblock as the parent has it.
    fn block(&mut self, block: u32, level: u32, key: Option<u32>) -> Result<()> {
        let after = block.saturating_add(1);
        let extent = self.superblock.ag_extent(self.agf.number, block, after)?;
        let bytes = self.source.read(extent.start, extent.len().index().unwrap_or(0))?;
        let name = format!("XFS bnobt block {block} of AG {}", self.agf.number);
        let node = Structure::new(&name, extent.start, &bytes);
        self.check_header(&node, level)?;
        let header = self.header();
        let room = bytes.len().saturating_sub(header);
        let most = room / if level == 0 { RECORD } else { KEY_AND_POINTER };
        let count = usize::from(node.be16(6)?);
        // Only the root of a full AG is empty.
        let least = usize::from(level != 0 || key.is_some());
        if !(least..=most).contains(&count) {
            return Err(node.corrupt("bb_numrecs", 6, format!("{least} to {most}"), count));
        }
        if let Some(key) = key {
            check(&node, ("first startblock", header), node.be32(header)?, key)?;
        }
        for index in 0..count {
            let at = header + index * RECORD;
            if level == 0 {
                self.record(&node, at)?;
            } else {
                let child = node.be32(header + most * RECORD + index * 4)?;
                self.block(child, level - 1, Some(node.be32(at)?))?;
            }
        }
        Ok(())
    }

    fn header(&self) -> usize {
        if self.superblock.v5 { V5_HEADER } else { V4_HEADER }
    }

    fn check_header(&self, node: &Structure<'_>, level: u32) -> Result<()> {
        let v5 = self.superblock.v5;
        let magic = if v5 { b"AB3B" } else { b"ABTB" };
        check_owner(node, magic, v5.then_some((UUID, &self.superblock.meta_uuid)))?;
        if v5 {
            check_crc(node, CRC)?;
            let place = node.position().units(Bytes::new(512));
            check(node, ("bb_blkno", 16), node.be64(16)?, place)?;
            check(node, ("bb_owner", 48), node.be32(48)?, self.agf.number)?;
        }
        check(node, ("bb_level", 4), u32::from(node.be16(4)?), level)
    }

    fn record(&mut self, node: &Structure<'_>, at: usize) -> Result<()> {
        let (start, count) = (node.be32(at)?, node.be32(at + 4)?);
        let end = start.checked_add(count).filter(|end| *end <= self.agf.length && count > 0);
        let (true, Some(end)) = (start >= self.next, end) else {
            let expected = format!("a free extent within {}..{}", self.next, self.agf.length);
            return Err(node.corrupt("record", at, expected, format!("{count} blocks at {start}")));
        };
        self.next = end;
        self.free += u64::from(count);
        self.longest = self.longest.max(count);
        (self.visit)(Record { start, end })
    }
}
