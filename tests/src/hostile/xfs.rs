//! XFS as a slow reader sees it: all that no record of the free space trees names; and its checksums made right.
//!
//! Source: "XFS Algorithms & Data Structures", chapters "Allocation Groups" and "Free Space B+trees".

use image_core::extent::{Extent, ExtentSet};
use image_core::units::Bytes;

use super::edited::Edited;

/// Magic of a sector, and where its checksum stands.
const SECTORS: [(&[u8; 4], usize); 4] =
    [(b"XFSB", 224), (b"XAGF", 216), (b"XAFL", 32), (b"XAGI", 312)];
/// Magic of a block of a short tree, and where its checksum stands.
const BLOCKS: [&[u8; 4]; 2] = [b"AB3B", b"AB3C"];
const BLOCK_CRC: usize = 52;
/// Where an AGF says the root and the height of its tree by block number.
pub const BY_BLOCK: (usize, usize) = (16, 28);
/// The same of its tree by count.
pub const BY_COUNT: (usize, usize) = (20, 32);

/// The figures of a superblock.
struct Figures<'a> {
    volume: &'a Edited<'a>,
    block: usize,
    sector: usize,
    blocks: u64,
    ag_blocks: u64,
    header: usize,
}

impl<'a> Figures<'a> {
    fn read(volume: &'a Edited<'a>) -> Option<Self> {
        let number = |at, length| usize::try_from(volume.big(at, length)).ok();
        let (block, sector) = (number(4, 4)?, number(102, 2)?);
        let (blocks, ag_blocks) = (volume.big(8, 8), volume.big(84, 4));
        let is_sane = (512..=65536).contains(&block) && sector >= 512 && ag_blocks > 0;
        let header = if volume.big(100, 2) & 15 == 5 { 56 } else { 16 };
        is_sane.then_some(Self { volume, block, sector, blocks, ag_blocks, header })
    }

    fn groups(&self) -> impl Iterator<Item = (u64, usize)> {
        let starts =
            (0..).map(|group| group * self.ag_blocks).take_while(|start| *start < self.blocks);
        let size = self.block;
        starts
            .take(64)
            .filter_map(move |start| Some((start, usize::try_from(start).ok()?.checked_mul(size)?)))
    }

    /// Puts the records below `block` of the group at `start` into `free`.
    fn walk(
        &self,
        start: u64,
        block: u64,
        level: u64,
        left: &mut u32,
        free: &mut ExtentSet,
    ) -> Option<()> {
        *left = left.checked_sub(1)?;
        let at = usize::try_from(start + block).ok()?.checked_mul(self.block)?;
        let (count, room) = (self.volume.big(at + 6, 2), self.block - self.header);
        for index in 0..usize::try_from(count).ok()?.min(room / 8) {
            let record = at + self.header + index * 8;
            if level == 0 {
                let first = start + self.volume.big(record, 4);
                let past = first + self.volume.big(record + 4, 4);
                let size = u64::try_from(self.block).ok()?;
                free.insert(Extent::new(Bytes::new(first * size), Bytes::new(past * size)));
            } else {
                let pointer = at + self.header + room / 12 * 8 + index * 4;
                // In the tree by count, keys have 8 bytes as well.
                self.walk(start, self.volume.big(pointer, 4), level - 1, left, free)?;
            }
        }
        Some(())
    }
}

/// What the free space trees of one kind leave; `None` where they cannot be found.
pub fn used(volume: &Edited<'_>, (root, levels): (usize, usize)) -> Option<ExtentSet> {
    let figures = Figures::read(volume)?;
    let mut free = ExtentSet::new();
    for (start, at) in figures.groups() {
        let agf = at + figures.sector;
        let level = volume.big(agf + levels, 4).checked_sub(1).filter(|level| *level < 9)?;
        figures.walk(start, volume.big(agf + root, 4), level, &mut 10_000, &mut free)?;
    }
    let size = Bytes::new(figures.blocks.checked_mul(u64::try_from(figures.block).ok()?)?);
    Some(ExtentSet::from(Extent::first(size)).subtract(&free))
}

/// Makes the checksums of every header and of every tree block right.
pub fn sign(volume: &mut Edited<'_>) {
    let Some(figures) = Figures::read(volume).filter(|figures| figures.header == 56) else {
        return;
    };
    let (block, sector) = (figures.block, figures.sector);
    let mut places = Vec::new();
    for (start, at) in figures.groups() {
        places.extend((0..4).map(|number| (at + number * sector, sector)));
        for (root, _) in [BY_BLOCK, BY_COUNT] {
            let number = start.saturating_add(volume.big(at + sector + root, 4));
            let root = usize::try_from(number).ok().and_then(|number| number.checked_mul(block));
            places.extend(root.map(|at| (at, block)));
        }
    }
    for (at, length) in places {
        let mut bytes = volume.bytes(at, length);
        let crc = SECTORS.iter().find(|(magic, _)| bytes.starts_with(*magic)).map(|(_, crc)| *crc);
        let is_block = BLOCKS.iter().any(|magic| bytes.starts_with(*magic));
        let Some(crc) = crc.or(is_block.then_some(BLOCK_CRC)) else { continue };
        bytes[crc..crc + 4].fill(0);
        let sum = crc32c::crc32c(&bytes);
        volume.put(at + crc, &sum.to_le_bytes());
    }
}
