//! bnobt: the btree of an AG's free extents by block number. Its complement is what is in use.
//! cntbt, the tree of the same extents by length, has to agree: version 4 has no other proof of a single record.

use super::agf::Agf;
use super::superblock::Superblock;
use super::{check, check_crc, check_owner};
use crate::error::{Error, Result};
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

/// Calls `visit` for every free extent of the AG in ascending order, then compares with the AGF's counters and with
/// the other tree.
///
/// Ends on any input: levels go down by one, and no record may stand before the one that was read before it.
pub(super) fn walk(
    source: &dyn BlockSource,
    superblock: &Superblock,
    agf: &Agf,
    visit: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<()> {
    let by_block = Walk::run(source, superblock, agf, &BY_BLOCK, visit)?;
    let by_count = Walk::run(source, superblock, agf, &BY_COUNT, &mut |_| Ok(()))?;
    let name = format!("XFS AGF {}", agf.number);
    let position = superblock.ag_sector(agf.number, 1)?;
    let header = Structure::new(&name, position, &[]);
    check(&header, ("agf_freeblks", 52), u64::from(agf.free_blocks), by_block.free)?;
    check(&header, ("agf_longest", 56), agf.longest, by_block.longest)?;
    if by_block == by_count {
        return Ok(());
    }
    let position =
        superblock.ag_extent(agf.number, agf.cnt_root, agf.cnt_root.saturating_add(1))?;
    let name = format!("XFS cntbt of AG {}", agf.number);
    let expected = format!("the {} free extents of the bnobt", by_block.records);
    Err(Error::corrupt(name, position.start, expected, format!("{} others", by_count.records)))
}

/// One of an AG's two trees of free extents: the same records in two orders.
struct Tree {
    name: &'static str,
    /// Of version 4 and of version 5.
    magic: [&'static [u8; 4]; 2],
    /// Ordered by their length, then their start.
    by_count: bool,
}

const BY_BLOCK: Tree = Tree { name: "bnobt", magic: [b"ABTB", b"AB3B"], by_count: false };
const BY_COUNT: Tree = Tree { name: "cntbt", magic: [b"ABTC", b"AB3C"], by_count: true };

/// What all records of a tree come to; equal for trees with the same ones.
#[derive(PartialEq, Eq, Default, Debug)]
struct Sum {
    free: u64,
    longest: u32,
    records: u64,
    /// Of each record's numbers mixed, so that a record which moved shows.
    mixed: u64,
}

impl Sum {
    fn add(&mut self, start: u32, count: u32) {
        self.free += u64::from(count);
        self.longest = self.longest.max(count);
        self.records += 1;
        // The finalizer of SplitMix64.
        let mut mixed = u64::from(start) << 32 | u64::from(count);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.mixed = self.mixed.wrapping_add(mixed ^ mixed >> 31);
    }
}

struct Walk<'a> {
    source: &'a dyn BlockSource,
    superblock: &'a Superblock,
    agf: &'a Agf,
    tree: &'a Tree,
    visit: &'a mut dyn FnMut(Record) -> Result<()>,
    /// The first block that the next record may have, in the tree by block.
    next: u32,
    /// Length and start of the last record, in the tree by count.
    last: (u32, u32),
    sum: Sum,
}

impl<'a> Walk<'a> {
    fn run(
        source: &'a dyn BlockSource,
        superblock: &'a Superblock,
        agf: &'a Agf,
        tree: &'a Tree,
        visit: &'a mut dyn FnMut(Record) -> Result<()>,
    ) -> Result<Sum> {
        let headers = HEADER_SECTORS.saturating_mul(superblock.sector_size);
        let next = headers.div_ceil(superblock.block_size);
        let (root, level) = match tree.by_count {
            false => (agf.bno_root, agf.bno_level),
            true => (agf.cnt_root, agf.cnt_level),
        };
        let (last, sum) = ((0, 0), Sum::default());
        let mut walk = Walk { source, superblock, agf, tree, visit, next, last, sum };
        walk.block(root, level - 1, None)?;
        Ok(walk.sum)
    }

    /// Walks the subtree at `block`; `key` is its first startblock as the parent has it.
    fn block(&mut self, block: u32, level: u32, key: Option<u64>) -> Result<()> {
        let after = block.saturating_add(1);
        let extent = self.superblock.ag_extent(self.agf.number, block, after)?;
        let bytes = self.source.read(extent.start, extent.len().index().unwrap_or(0))?;
        let name = format!("XFS {} block {block} of AG {}", self.tree.name, self.agf.number);
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
            check(&node, ("first record", header), self.key(&node, header)?, key)?;
        }
        for index in 0..count {
            let at = header + index * RECORD;
            if level == 0 {
                self.record(&node, at)?;
            } else {
                let child = node.be32(header + most * RECORD + index * 4)?;
                self.block(child, level - 1, Some(self.key(&node, at)?))?;
            }
        }
        Ok(())
    }

    /// What a record is found by.
    fn key(&self, node: &Structure<'_>, at: usize) -> Result<u64> {
        if self.tree.by_count { node.be64(at) } else { node.be32(at).map(u64::from) }
    }

    fn header(&self) -> usize {
        if self.superblock.v5 { V5_HEADER } else { V4_HEADER }
    }

    fn check_header(&self, node: &Structure<'_>, level: u32) -> Result<()> {
        let v5 = self.superblock.v5;
        check_owner(
            node,
            self.tree.magic[usize::from(v5)],
            v5.then_some((UUID, &self.superblock.meta_uuid)),
        )?;
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
        let follows = match self.tree.by_count {
            false => start >= self.next,
            true => (count, start) > self.last,
        };
        let (true, Some(end)) = (follows, end) else {
            let expected = format!("a free extent within {}..{}", self.next, self.agf.length);
            return Err(node.corrupt("record", at, expected, format!("{count} blocks at {start}")));
        };
        if !self.tree.by_count {
            self.next = end;
        }
        self.last = (count, start);
        self.sum.add(start, count);
        (self.visit)(Record { start, end })
    }
}
