//! ext2 to ext4 as a slow reader sees them: every bit of every block bitmap, nothing proven; and their checksums
//! made right again.
//!
//! Source: Linux `Documentation/filesystems/ext4`.

use image_core::extent::{Extent, ExtentSet};
use image_core::units::Bytes;

use super::edited::Edited;

const SUPERBLOCK: usize = 1024;
const CSUM_SEED: u64 = 0x2000;
const META_BG: u64 = 0x10;
const BITS64: u64 = 0x80;
const SPARSE_SUPER: u64 = 1;
const GDT_CSUM: u64 = 0x10;
const BIGALLOC: u64 = 0x200;
const METADATA_CSUM: u64 = 0x400;
const SPARSE_SUPER2: u64 = 0x200;
const BLOCK_UNINIT: u64 = 2;

/// The figures of a superblock that say where bitmaps lie.
struct Figures<'a> {
    volume: &'a Edited<'a>,
    block: usize,
    first: u64,
    blocks: u64,
    per_group: u64,
    desc_size: usize,
    groups: u64,
}

impl<'a> Figures<'a> {
    /// `None` where they make no filesystem.
    fn read(volume: &'a Edited<'a>) -> Option<Self> {
        let field = |at: usize, length| volume.little(SUPERBLOCK + at, length);
        let block = 1024_usize.checked_shl(u32::try_from(field(0x18, 4)).ok()?)?;
        let wide = field(0x60, 4) & BITS64 != 0;
        let high = if wide { field(0x150, 4) } else { 0 };
        let desc_size = if wide { usize::try_from(field(0xFE, 2)).ok()? } else { 32 };
        let (first, blocks, per_group) = (field(0x14, 4), field(4, 4) | high << 32, field(0x20, 4));
        let is_sane = block <= 65536 && per_group > 0 && (32..=1024).contains(&desc_size);
        let groups = blocks.checked_sub(first).filter(|_| is_sane)?.div_ceil(per_group);
        Some(Self { volume, block, first, blocks, per_group, desc_size, groups })
    }

    fn field(&self, at: usize, length: usize) -> u64 {
        self.volume.little(SUPERBLOCK + at, length)
    }

    fn has_super(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.field(0x5C, 4) & SPARSE_SUPER2 != 0 {
            return [0x24C, 0x250].iter().any(|at| self.field(*at, 4) == group);
        }
        let is_power = |base: u64| {
            std::iter::successors(Some(1), |power: &u64| power.checked_mul(base))
                .take_while(|power| *power <= group)
                .any(|power| power == group)
        };
        self.field(0x64, 4) & SPARSE_SUPER == 0 || [3, 5, 7].into_iter().any(is_power)
    }

    /// Where the descriptor of `group` lies.
    fn desc(&self, group: u64) -> Option<usize> {
        let per_block =
            u64::try_from(self.block / self.desc_size).ok().filter(|count| *count > 0)?;
        let number = group / per_block;
        let first_block = u64::from(self.block == 1024);
        let block = if self.field(0x60, 4) & META_BG == 0 || number < self.field(0x104, 4) {
            first_block + 1 + number
        } else {
            let home = number * per_block;
            let own = u64::from(self.has_super(home));
            let shift = u64::from(number == 0 && self.block == 1024 && self.first == 0);
            self.first + home * self.per_group + own + shift
        };
        let within = usize::try_from(group % per_block).ok()? * self.desc_size;
        Some(usize::try_from(block).ok()?.checked_mul(self.block)? + within)
    }

    fn has_checksums(&self) -> bool {
        self.field(0x64, 4) & (METADATA_CSUM | GDT_CSUM) != 0
    }

    /// The position of a group's block bitmap, where it has one.
    fn bitmap(&self, desc: usize) -> Option<usize> {
        let flags = self.volume.little(desc + 0x12, 2);
        if self.has_checksums() && flags & BLOCK_UNINIT != 0 {
            return None;
        }
        let high = if self.desc_size >= 64 { self.volume.little(desc + 0x20, 4) } else { 0 };
        let block = usize::try_from(self.volume.little(desc, 4) | high << 32).ok()?;
        block.checked_mul(self.block).filter(|at| *at < self.volume.len())
    }

    /// Blocks of one bit.
    fn cluster(&self) -> u64 {
        let logs = (self.field(0x64, 4) & BIGALLOC != 0)
            .then(|| self.field(0x1C, 4).checked_sub(self.field(0x18, 4)).filter(|log| *log < 20));
        logs.flatten().map_or(1, |log| 1 << log)
    }

    fn seed(&self) -> u32 {
        if self.field(0x60, 4) & CSUM_SEED != 0 {
            return u32::try_from(self.field(0x270, 4)).unwrap_or_default();
        }
        crc(u32::MAX, &self.volume.bytes(SUPERBLOCK + 0x68, 16))
    }
}

/// CRC-32C as ext counts: neither inverted at its start nor at its end.
fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// What the bitmaps mark; `None` where they cannot be found.
pub fn used(volume: &Edited<'_>) -> Option<ExtentSet> {
    let figures = Figures::read(volume)?;
    let cluster = figures.cluster();
    let mut used = ExtentSet::new();
    for group in 0..figures.groups.min(4096) {
        let Some(bitmap) = figures.desc(group).and_then(|desc| figures.bitmap(desc)) else {
            continue;
        };
        let start = figures.first + group * figures.per_group;
        let end = figures.blocks.min(start + figures.per_group);
        let bits = volume.bytes(bitmap, figures.block);
        for bit in 0..(end - start).div_ceil(cluster).min(8 * u64::try_from(bits.len()).ok()?) {
            if bits[usize::try_from(bit / 8).ok()?] >> (bit % 8) & 1 == 1 {
                let block = u64::try_from(figures.block).ok()?;
                let first = start + bit * cluster;
                let past = (first + cluster).min(end);
                used.insert(Extent::new(Bytes::new(first * block), Bytes::new(past * block)));
            }
        }
    }
    Some(used)
}

/// Makes the checksums of superblock, descriptors and bitmaps right.
pub fn sign(volume: &mut Edited<'_>) {
    let edits = Figures::read(volume).filter(|figures| figures.field(0x64, 4) & METADATA_CSUM != 0);
    let Some(figures) = edits else { return };
    let (seed, desc_size) = (figures.seed(), figures.desc_size);
    let bits = usize::try_from(figures.field(0x24, 4) / 8).unwrap_or(0).min(65536);
    let mut puts = Vec::new();
    for group in 0..figures.groups.min(64) {
        let Some(at) = figures.desc(group) else { break };
        let mut desc = volume.bytes(at, desc_size);
        if let Some(bitmap) = figures.bitmap(at) {
            let sum = crc(seed, &volume.bytes(bitmap, bits)).to_le_bytes();
            desc[0x18..0x1A].copy_from_slice(&sum[..2]);
            if desc_size >= 64 {
                desc[0x38..0x3A].copy_from_slice(&sum[2..]);
            }
        }
        desc[0x1E..0x20].fill(0);
        let number = u32::try_from(group).unwrap_or_default().to_le_bytes();
        let sum = crc(crc(seed, &number), &desc).to_le_bytes();
        desc[0x1E..0x20].copy_from_slice(&sum[..2]);
        puts.push((at, desc));
    }
    puts.into_iter().for_each(|(at, desc)| volume.put(at, &desc));
    let sum = crc(u32::MAX, &volume.bytes(SUPERBLOCK, 0x3FC));
    volume.put(SUPERBLOCK + 0x3FC, &sum.to_le_bytes());
}
