//! The layout that a superblock describes: where groups, descriptors and backups lie.
//!
//! Source: Linux `Documentation/filesystems/ext4/blockgroup.rst`, `bigalloc.rst`; e2fsprogs
//! `lib/ext2fs/openfs.c` and `alloc_sb.c` for the rules of `meta_bg` and of 1 KiB blocks with bigalloc.

use std::ops::Range;

use super::features::{compat, incompat, ro_compat};
use super::superblock::Superblock;
use crate::error::Result;
use crate::extent::Extent;
use crate::units::Bytes;

/// Which groups hold a copy of the superblock, beside group 0.
#[derive(PartialEq, Eq, Debug)]
enum Backups {
    All,
    /// Group 1 and the powers of 3, 5 and 7.
    Sparse,
    Two([u32; 2]),
}

/// Checked figures: every block of every group lies in the filesystem, whose size fits 64 bits.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) block_size: Bytes,
    blocks_count: u64,
    /// 1 with 1 KiB blocks unless bigalloc, else 0.
    first_data_block: u64,
    blocks_per_group: u64,
    /// One bit of a block bitmap stands for so many blocks; 1 without bigalloc.
    pub(super) cluster_blocks: u64,
    pub(super) clusters_per_group: u32,
    pub(super) groups: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: u16,
    pub(super) inode_table_blocks: u64,
    pub(super) desc_size: usize,
    pub(super) descs_per_block: u32,
    /// Number of blocks that hold group descriptors.
    pub(super) desc_blocks: u32,
    /// Descriptor blocks from this one on lie in their meta group, those before it behind the superblock.
    first_meta_bg: u32,
    /// Blocks behind a (backup) superblock: the descriptor blocks below `first_meta_bg` and what is
    /// reserved for their growth.
    table_blocks: u64,
    backups: Backups,
}

/// How blocks are grouped into clusters and groups.
struct Groups {
    first_data_block: u64,
    cluster_blocks: u64,
    blocks_per_group: u64,
    clusters_per_group: u32,
    count: u32,
}

impl Layout {
    /// The layout of `superblock`'s filesystem (which is not a journal device).
    ///
    /// # Errors
    /// [`crate::error::Error::Corrupt`] naming the first field that cannot be.
    pub(super) fn new(superblock: &Superblock) -> Result<Self> {
        let fields = superblock.fields();
        let groups = Groups::new(superblock)?;
        let (inodes_per_group, inode_size) = inodes(superblock, groups.count)?;
        let table_bytes = u64::from(inodes_per_group) * u64::from(inode_size);
        let desc_size = desc_size(superblock)?;
        let descs_per_block = superblock.block_size.units(Bytes::from(desc_size));
        let descs_per_block = u32::try_from(descs_per_block).unwrap_or(u32::MAX);
        let desc_blocks = groups.count.div_ceil(descs_per_block);
        let (first_meta_bg, reserved) = if superblock.features.has_incompat(incompat::META_BG) {
            (fields.le32(0x104)?, 0)
        } else {
            (desc_blocks, fields.le16(0xCE)?)
        };
        if first_meta_bg > desc_blocks {
            let expected = format!("at most {desc_blocks} descriptor blocks");
            return Err(fields.corrupt("s_first_meta_bg", 0x104, expected, first_meta_bg));
        }
        let layout = Self {
            block_size: superblock.block_size,
            blocks_count: superblock.blocks_count,
            first_data_block: groups.first_data_block,
            blocks_per_group: groups.blocks_per_group,
            cluster_blocks: groups.cluster_blocks,
            clusters_per_group: groups.clusters_per_group,
            groups: groups.count,
            inodes_per_group,
            inode_size,
            inode_table_blocks: table_bytes.div_ceil(superblock.block_size.get()),
            desc_size,
            descs_per_block,
            desc_blocks,
            first_meta_bg,
            table_blocks: u64::from(first_meta_bg) + u64::from(reserved),
            backups: backups(superblock)?,
        };
        let base_blocks = layout.boot_blocks() + 1 + layout.table_blocks;
        if base_blocks > layout.blocks_per_group {
            let expected = format!("at least the {base_blocks} of superblock and descriptors");
            let found = layout.blocks_per_group;
            return Err(fields.corrupt("s_blocks_per_group", 0x20, expected, found));
        }
        Ok(layout)
    }

    /// How many blocks the filesystem has.
    pub(super) fn blocks_in_all(&self) -> u64 {
        self.blocks_count
    }

    /// The block that holds the superblock.
    fn superblock_block(&self) -> u64 {
        u64::from(self.block_size == Bytes::KIB)
    }

    /// How many blocks of group 0 precede the superblock: one with 1 KiB blocks and bigalloc.
    fn boot_blocks(&self) -> u64 {
        self.superblock_block() - self.first_data_block
    }

    /// The bytes of `count` blocks from `first`; `None` where they leave the filesystem.
    pub(super) fn blocks(&self, first: u64, count: u64) -> Option<Extent> {
        let end = first.checked_add(count).filter(|end| *end <= self.blocks_count)?;
        Some(Extent::new(self.block_size.checked_mul(first)?, self.block_size.checked_mul(end)?))
    }

    /// The blocks of `group`, which is below [`Layout::groups`]; the last group may be short.
    pub(super) fn group(&self, group: u32) -> Range<u64> {
        let start = self.first_data_block + u64::from(group) * self.blocks_per_group;
        start..(start + self.blocks_per_group).min(self.blocks_count)
    }

    /// How many bits of `group`'s block bitmap count.
    pub(super) fn clusters_in(&self, group: u32) -> u32 {
        let blocks = self.group(group);
        let clusters = (blocks.end - blocks.start).div_ceil(self.cluster_blocks);
        u32::try_from(clusters).unwrap_or(self.clusters_per_group)
    }

    fn has_super(&self, group: u32) -> bool {
        let power_of = |base: u32| {
            let mut rest = group;
            while rest > 1 && rest.is_multiple_of(base) {
                rest /= base;
            }
            rest == 1
        };
        group == 0
            || match self.backups {
                Backups::All => true,
                Backups::Sparse => power_of(3) || power_of(5) || power_of(7),
                Backups::Two(groups) => groups.contains(&group),
            }
    }

    /// The block that holds descriptor block `index`, which is below [`Layout::desc_blocks`].
    pub(super) fn desc_block(&self, index: u32) -> u64 {
        if index < self.first_meta_bg {
            return self.superblock_block() + 1 + u64::from(index);
        }
        let group = index * self.descs_per_block;
        match group {
            0 => self.superblock_block() + 1,
            _ => self.group(group).start + u64::from(self.has_super(group)),
        }
    }

    /// The blocks at the start of `group` that hold a superblock and group descriptors (copies too).
    pub(super) fn base_blocks(&self, group: u32) -> Range<u64> {
        let blocks = self.group(group);
        let has_super = u64::from(self.has_super(group));
        let descriptors = if group / self.descs_per_block < self.first_meta_bg {
            has_super * self.table_blocks
        } else {
            // The first, second and last group of a meta group hold its descriptor block.
            let place = group % self.descs_per_block;
            u64::from(place <= 1 || place == self.descs_per_block - 1)
        };
        let boot_blocks = if group == 0 { self.boot_blocks() } else { 0 };
        let end = blocks.start + boot_blocks + has_super + descriptors;
        blocks.start..end.min(blocks.end)
    }
}

impl Groups {
    fn new(superblock: &Superblock) -> Result<Self> {
        let fields = superblock.fields();
        let (log_block_size, log_cluster_size) = (fields.le32(0x18)?, fields.le32(0x1C)?);
        let bigalloc = superblock.features.has_ro_compat(ro_compat::BIGALLOC);
        // At most 512 MiB a cluster (e2fsprogs: EXT2_MAX_CLUSTER_LOG_SIZE).
        let ratio = match log_cluster_size.checked_sub(log_block_size) {
            Some(ratio) if ratio == 0 || (bigalloc && log_cluster_size <= 19) => ratio,
            _ => {
                let expected = format!("{log_block_size} (more only with bigalloc, up to 19)");
                return Err(fields.corrupt("s_log_cluster_size", 0x1C, expected, log_cluster_size));
            }
        };
        let first_data_block = fields.le32(0x14)?;
        let expected = u32::from(log_cluster_size == 0);
        if first_data_block != expected {
            let expected = expected.to_string();
            return Err(fields.corrupt("s_first_data_block", 0x14, expected, first_data_block));
        }
        let clusters_per_group = fields.le32(0x24)?;
        let bits = superblock.block_size.get() * 8;
        if clusters_per_group == 0
            || u64::from(clusters_per_group) > bits
            || !clusters_per_group.is_multiple_of(8)
        {
            let expected = format!("a multiple of 8 up to {bits}");
            return Err(fields.corrupt("s_clusters_per_group", 0x24, expected, clusters_per_group));
        }
        let (blocks_per_group, expected) =
            (u64::from(fields.le32(0x20)?), u64::from(clusters_per_group) << ratio);
        if blocks_per_group != expected {
            let expected = expected.to_string();
            return Err(fields.corrupt("s_blocks_per_group", 0x20, expected, blocks_per_group));
        }
        let grouped = superblock.blocks_count.saturating_sub(u64::from(first_data_block));
        let count = u32::try_from(grouped.div_ceil(blocks_per_group)).ok().filter(|n| *n > 0);
        let count = count.ok_or_else(|| {
            let expected = "a count that makes 1 to 2^32 groups";
            fields.corrupt("s_blocks_count", 0x04, expected, superblock.blocks_count)
        })?;
        Ok(Self {
            first_data_block: u64::from(first_data_block),
            cluster_blocks: 1 << ratio,
            blocks_per_group,
            clusters_per_group,
            count,
        })
    }
}

/// Inodes a group and the size of one.
fn inodes(superblock: &Superblock, groups: u32) -> Result<(u32, u16)> {
    let fields = superblock.fields();
    let (count, per_group) = (fields.le32(0x00)?, fields.le32(0x28)?);
    if per_group == 0 || per_group.checked_mul(groups) != Some(count) {
        let expected = format!("{count} inodes over {groups} groups");
        return Err(fields.corrupt("s_inodes_per_group", 0x28, expected, per_group));
    }
    // Revision 0 has no such field: its inodes have 128 bytes.
    let size = if fields.le32(0x4C)? == 0 { 128 } else { fields.le16(0x58)? };
    if !size.is_power_of_two() || size < 128 || Bytes::new(size.into()) > superblock.block_size {
        let expected = "a power of two from 128 to the block size";
        return Err(fields.corrupt("s_inode_size", 0x58, expected, size));
    }
    Ok((per_group, size))
}

fn desc_size(superblock: &Superblock) -> Result<usize> {
    if !superblock.features.has_incompat(incompat::BITS64) {
        return Ok(32);
    }
    let size = superblock.fields().le16(0xFE)?;
    if !size.is_power_of_two() || !(64..=1024).contains(&size) {
        let expected = "a power of two from 64 to 1024";
        return Err(superblock.fields().corrupt("s_desc_size", 0xFE, expected, size));
    }
    Ok(size.into())
}

fn backups(superblock: &Superblock) -> Result<Backups> {
    let (features, fields) = (superblock.features, superblock.fields());
    Ok(if features.has_compat(compat::SPARSE_SUPER2) {
        Backups::Two([fields.le32(0x24C)?, fields.le32(0x250)?])
    } else if features.has_ro_compat(ro_compat::SPARSE_SUPER) {
        Backups::Sparse
    } else {
        Backups::All
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;

    #[test]
    fn an_impossible_layout_is_an_error() {
        let sample = Sample::new("meta_bg");
        for (at, bytes, message) in [
            (0x14, &[0][..], "s_first_data_block at byte 1044: expected 1, found 0"),
            (
                0x1C,
                &[1],
                "s_log_cluster_size at byte 1052: expected 0 (more only with bigalloc, up to 19), found 1",
            ),
            (
                0x24,
                &[4],
                "s_clusters_per_group at byte 1060: expected a multiple of 8 up to 8192, found 1028",
            ),
            (0x21, &[8], "s_blocks_per_group at byte 1056: expected 1024, found 2048"),
            (
                0x04,
                &[1, 0, 0, 0],
                "s_blocks_count at byte 1028: expected a count that makes 1 to 2^32 groups, found 1",
            ),
            (
                0x28,
                &[17],
                "s_inodes_per_group at byte 1064: expected 96 inodes over 6 groups, found 17",
            ),
            (
                0x58,
                &[0, 8],
                "s_inode_size at byte 1112: expected a power of two from 128 to the block size, found 2048",
            ),
            (
                0xFE,
                &[96],
                "s_desc_size at byte 1278: expected a power of two from 64 to 1024, found 96",
            ),
            (
                0x104,
                &[2],
                "s_first_meta_bg at byte 1284: expected at most 1 descriptor blocks, found 2",
            ),
        ] {
            let damaged = sample.clone().superblock(at, bytes);
            assert_eq!(damaged.refusal(), format!("superblock {message}"));
        }
        let crowded = Sample::new("").superblock(0xCE, &1023_u16.to_le_bytes());
        assert_eq!(
            crowded.refusal(),
            "superblock s_blocks_per_group at byte 1056: \
             expected at least the 1025 of superblock and descriptors, found 1024"
        );
    }
}
