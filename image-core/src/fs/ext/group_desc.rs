//! Block group descriptors: where a group's bitmaps and inode table lie, and how much of it is free.
//!
//! Source: Linux `Documentation/filesystems/ext4/group_descr.rst`. Little-endian; 32 bytes, 64 or more with
//! the feature `64bit`. Only `gdt_csum` and `metadata_csum` give the flags a meaning, and a checksum.

use std::ops::Range;

use super::checksum::{crc16, crc32c};
use super::features::ro_compat;
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::units::Bytes;

/// `EXT4_BG_BLOCK_UNINIT`: the block bitmap was never written.
const BLOCK_UNINIT: u16 = 2;
/// `EXT4_BG_INODE_UNINIT`: no inode of the group is in use.
const INODE_UNINIT: u16 = 1;

/// One descriptor, its checksum verified and its blocks known to lie in the filesystem.
pub(super) struct GroupDesc {
    pub(super) group: u32,
    /// Position of the descriptor.
    pub(super) at: Bytes,
    /// Position of the block bitmap.
    pub(super) block_bitmap: Bytes,
    /// Position of the inode bitmap.
    pub(super) inode_bitmap: Bytes,
    /// Position of the inode table, all of which lies in the filesystem.
    pub(super) inode_table: Bytes,
    /// How many inodes at the start of the table may be in use; the others were never written.
    pub(super) inodes: u32,
    /// Free clusters.
    pub(super) free_blocks_count: u32,
    /// Whether the block bitmap is to be computed instead of read.
    pub(super) block_uninit: bool,
    /// Of the block bitmap; its low 16 bits only where the descriptor has 32 bytes.
    pub(super) block_bitmap_csum: u32,
}

/// The descriptors that the descriptor blocks `indices` hold, by group.
///
/// # Errors
/// The first descriptor whose checksum or block numbers are wrong.
pub(super) fn read(volume: &Volume<'_>, indices: Range<u32>) -> Result<Vec<GroupDesc>> {
    let layout = &volume.layout;
    let first = indices.start;
    let blocks = indices
        .map(|index| volume.locate(layout.desc_block(index), "group descriptor block", Bytes::ZERO))
        .collect::<Result<Vec<_>>>()?;
    let verify = Verify::new(volume)?;
    let mut groups = first * layout.descs_per_block..layout.groups;
    let mut descs = Vec::new();
    volume.read_blocks(&blocks, |_, block, content| {
        let positions = (0..).map(|n| block + Bytes::from(layout.desc_size * n));
        let raw = content.chunks_exact(layout.desc_size).zip(positions);
        // In this order the end of the block does not use up a group's number.
        for ((bytes, at), group) in raw.zip(groups.by_ref()) {
            let name = format!("group {group} descriptor");
            let fields = Structure::new(&name, at, bytes);
            verify.check(&fields, group)?;
            descs.push(parse(volume, &fields, group)?);
        }
        Ok(())
    })?;
    Ok(descs)
}

fn parse(volume: &Volume<'_>, fields: &Structure<'_>, group: u32) -> Result<GroupDesc> {
    let layout = &volume.layout;
    let wide = layout.desc_size >= 64;
    let block = |low, high| -> Result<u64> {
        let high = if wide { fields.le32(high)? } else { 0 };
        Ok(u64::from(high) << 32 | u64::from(fields.le32(low)?))
    };
    let half = |low, high| -> Result<u32> {
        let high = if wide { fields.le16(high)? } else { 0 };
        Ok(u32::from(high) << 16 | u32::from(fields.le16(low)?))
    };
    let locate = |field: &str, low, high| {
        let name = format!("group {group} descriptor {field}");
        volume.locate(block(low, high)?, &name, fields.position() + Bytes::from(low))
    };
    let inode_table = locate("bg_inode_table", 0x08, 0x28)?;
    if layout.blocks(block(0x08, 0x28)?, layout.inode_table_blocks).is_none() {
        let expected = format!("{} blocks of the filesystem", layout.inode_table_blocks);
        return Err(fields.corrupt("bg_inode_table", 0x08, expected, block(0x08, 0x28)?));
    }
    let checked = volume.superblock.features.has_ro_compat(CHECKSUMS);
    Ok(GroupDesc {
        group,
        at: fields.position(),
        block_bitmap: locate("bg_block_bitmap", 0x00, 0x20)?,
        inode_bitmap: locate("bg_inode_bitmap", 0x04, 0x24)?,
        inode_table,
        inodes: if !checked {
            layout.inodes_per_group
        } else if fields.le16(0x12)? & INODE_UNINIT != 0 {
            0
        } else {
            layout.inodes_per_group.saturating_sub(half(0x1C, 0x32)?)
        },
        free_blocks_count: half(0x0C, 0x2C)?,
        block_uninit: checked && fields.le16(0x12)? & BLOCK_UNINIT != 0,
        block_bitmap_csum: half(0x18, 0x38)?,
    })
}

const CHECKSUMS: u32 = ro_compat::GDT_CSUM | ro_compat::METADATA_CSUM;

/// How descriptors are checksummed.
enum Verify {
    Not,
    /// CRC-16 from this seed.
    GdtCsum(u16),
    /// The low half of a CRC-32C from this seed.
    MetadataCsum(u32),
}

impl Verify {
    fn new(volume: &Volume<'_>) -> Result<Self> {
        let (superblock, features) = (volume.superblock, volume.superblock.features);
        // Where both are set, metadata_csum wins.
        Ok(if features.has_ro_compat(ro_compat::METADATA_CSUM) {
            Self::MetadataCsum(superblock.checksum_seed()?)
        } else if features.has_ro_compat(ro_compat::GDT_CSUM) {
            Self::GdtCsum(crc16(u16::MAX, &superblock.uuid))
        } else {
            Self::Not
        })
    }

    fn check(&self, fields: &Structure<'_>, group: u32) -> Result<(), Error> {
        const CHECKSUM: usize = 0x1E;
        let number = group.to_le_bytes();
        let before = fields.slice(0, CHECKSUM)?;
        let behind = fields.all().get(CHECKSUM + 2..).unwrap_or_default();
        let expected = match *self {
            Self::Not => return Ok(()),
            Self::GdtCsum(seed) => crc16(crc16(crc16(seed, &number), before), behind),
            Self::MetadataCsum(seed) => {
                // Its own field counts as zero.
                let crc = [&number, before, &[0, 0], behind]
                    .iter()
                    .fold(seed, |crc, part| crc32c(crc, part));
                let [low, high, ..] = crc.to_le_bytes();
                u16::from_le_bytes([low, high])
            }
        };
        let found = fields.le16(CHECKSUM)?;
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (format!("{expected:#06x}"), format!("{found:#06x}"));
        Err(fields.corrupt("bg_checksum", CHECKSUM, expected, found))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;

    #[test]
    fn descriptors_are_verified() {
        let sample = Sample::new("");
        let mut unsigned = sample.clone();
        unsigned.put(2048 + 64 + 0x0C, &[1]);
        let error = unsigned.refusal();
        assert!(error.starts_with("group 1 descriptor bg_checksum at byte 2142: expected 0x"));
        let (first, end) = (sample.block_bitmap(0) / 1024, 6144_u32.to_le_bytes());
        let first = u8::try_from(first).unwrap();
        for (damaged, message) in [
            (
                sample.clone().desc(1, 0x00, &end),
                "bg_block_bitmap at byte 2112: expected a block of the filesystem, found 6144",
            ),
            (
                sample.clone().desc(1, 0x04, &[0; 4]),
                "bg_inode_bitmap at byte 2116: expected a block of the filesystem, found 0",
            ),
            (
                sample.clone().desc(1, 0x28, &[1]),
                "bg_inode_table at byte 2120: expected a block of the filesystem, found 4294967315",
            ),
            (
                sample.clone().desc(1, 0x08, &6141_u32.to_le_bytes()),
                "bg_inode_table at byte 2120: expected 4 blocks of the filesystem, found 6141",
            ),
            (
                sample.clone().desc(1, 0x00, &[first]),
                "at byte 2112: expected bitmaps and tables of its own, found bytes 3072..4096 for two of them",
            ),
        ] {
            assert_eq!(damaged.refusal(), format!("group 1 descriptor {message}"));
        }
    }

    #[test]
    fn a_16_bit_checksum_counts_too() {
        let mut sample = Sample::new("^metadata_csum,uninit_bg,^64bit");
        assert!(sample.open().used().is_ok());
        sample.put(2048 + 32 + 0x1C, &[9]);
        let error = sample.refusal();
        assert!(error.starts_with("group 1 descriptor bg_checksum at byte 2110: expected 0x"));
    }
}
