//! Block bitmaps: one block a group, one bit a cluster (a block without bigalloc), least significant first.
//!
//! Source: Linux `Documentation/filesystems/ext4/bitmaps.rst`; for bitmaps that were never written,
//! e2fsprogs `lib/ext2fs/rw_bitmaps.c`.

use std::ops::Range;

use super::checksum::crc32c;
use super::features::ro_compat;
use super::group_desc::{self, GroupDesc};
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::extent::ExtentSet;
use crate::fields::Structure;
use crate::units::Bytes;

/// So many descriptor blocks are held in memory at a time: 1 MiB of 4 KiB blocks, for up to 4 TiB.
const DESC_BLOCKS: u32 = 256;

/// What the bitmaps of all groups say.
pub(super) struct Allocation {
    /// Bytes of used clusters, clipped at the filesystem's end.
    pub(super) used: ExtentSet,
    /// Free blocks, a cluster counted as its full number of blocks: as the superblock counts them.
    pub(super) free_blocks: u64,
}

/// Reads every group's bitmap and proves it: by its checksum where there is one, by the free count of its
/// descriptor, and by the filesystem's own structures, which must be marked and must not overlap.
///
/// # Errors
/// The first proof that failed, naming the group.
pub(super) fn read(volume: &Volume<'_>) -> Result<Allocation> {
    let map = Map::new(volume, true)?.filled()?;
    map.own.check(&map.used)?;
    let free_blocks = map.free * volume.layout.cluster_blocks;
    Ok(Allocation { used: map.used, free_blocks })
}

/// What the bitmaps mark and what the descriptors point to, proven by the descriptors' checksums only: for
/// a filesystem whose journal still has newer ones.
///
/// # Errors
/// A descriptor that is damaged; reading.
pub(super) fn marked(volume: &Volume<'_>) -> Result<ExtentSet> {
    let map = Map::new(volume, false)?.filled()?;
    Ok(map.used.union(&map.own.extents))
}

struct Map<'a> {
    volume: &'a Volume<'a>,
    /// Bitmaps, counts and places must agree.
    proven: bool,
    /// Of the bitmap checksums, where there are any.
    seed: Option<u32>,
    used: ExtentSet,
    /// Free clusters.
    free: u64,
    own: Own,
}

impl<'a> Map<'a> {
    fn new(volume: &'a Volume<'a>, proven: bool) -> Result<Self> {
        let checksums = volume.superblock.features.has_ro_compat(ro_compat::METADATA_CSUM);
        let seed = match proven && checksums {
            true => Some(volume.superblock.checksum_seed()?),
            false => None,
        };
        Ok(Self { volume, proven, seed, used: ExtentSet::new(), free: 0, own: Own::default() })
    }

    /// The map with every group added.
    fn filled(mut self) -> Result<Self> {
        let volume = self.volume;
        let layout = &volume.layout;
        for piece in 0..layout.desc_blocks.div_ceil(DESC_BLOCKS) {
            let first = piece * DESC_BLOCKS;
            let indices = first..layout.desc_blocks.min(first.saturating_add(DESC_BLOCKS));
            let descs = group_desc::read(volume, indices)?;
            for desc in &descs {
                self.own.add(volume, desc, self.proven)?;
            }
            for alike in descs.chunk_by(|a, b| a.block_uninit == b.block_uninit) {
                self.add(alike)?;
            }
        }
        Ok(self)
    }
}

impl Map<'_> {
    /// Adds neighbouring groups whose bitmaps are all to be read, or all to be computed.
    fn add(&mut self, descs: &[GroupDesc]) -> Result<()> {
        let volume = self.volume;
        if descs.iter().any(|desc| desc.block_uninit) {
            return descs.iter().try_for_each(|desc| self.add_group(desc, &compute(volume, desc)));
        }
        let bitmaps: Vec<Bytes> = descs.iter().map(|desc| desc.block_bitmap).collect();
        volume.read_blocks(&bitmaps, |index, at, bitmap| {
            let Some(desc) = descs.get(index) else { return Ok(()) };
            self.verify(desc, at, bitmap)?;
            self.add_group(desc, bitmap)
        })
    }

    fn verify(&self, desc: &GroupDesc, at: Bytes, bitmap: &[u8]) -> Result<()> {
        let Some(seed) = self.seed else { return Ok(()) };
        let name = format!("group {} block bitmap", desc.group);
        let bytes = Bytes::from(self.volume.layout.clusters_per_group / 8).index();
        let covered = Structure::new(&name, at, bitmap).slice(0, bytes.unwrap_or(usize::MAX))?;
        let kept = if self.volume.layout.desc_size >= 64 { u32::MAX } else { 0xFFFF };
        let (expected, found) = (crc32c(seed, covered) & kept, desc.block_bitmap_csum);
        if found == expected {
            return Ok(());
        }
        let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
        Err(Error::corrupt(format!("{name}'s checksum"), at, expected, found))
    }

    fn add_group(&mut self, desc: &GroupDesc, bitmap: &[u8]) -> Result<()> {
        let layout = &self.volume.layout;
        let (blocks, clusters) = (layout.group(desc.group), layout.clusters_in(desc.group));
        let mut free = clusters;
        for run in used_runs(bitmap, clusters) {
            free -= run.end - run.start;
            let first = blocks.start + u64::from(run.start) * layout.cluster_blocks;
            let end = blocks.start + u64::from(run.end) * layout.cluster_blocks;
            // The last cluster of the filesystem may be short.
            if let Some(extent) = layout.blocks(first, end.min(blocks.end) - first) {
                self.used.insert(extent);
            }
        }
        if self.proven && free != desc.free_blocks_count {
            return Err(Error::corrupt(
                format!("group {} descriptor bg_free_blocks_count", desc.group),
                desc.at + Bytes::new(0x0C),
                format!("{free} as its block bitmap says"),
                desc.free_blocks_count.to_string(),
            ));
        }
        self.free += u64::from(free);
        Ok(())
    }
}

/// The runs of set bits among the first `count` bits.
fn used_runs(bitmap: &[u8], count: u32) -> Vec<Range<u32>> {
    let mut runs = Vec::new();
    let mut start = None;
    for (first, byte) in (0..count).step_by(8).zip(bitmap) {
        // Most bytes are all used or all free.
        if matches!((byte, start), (0x00, None) | (0xFF, Some(_))) {
            continue;
        }
        for at in first..count.min(first + 8) {
            match (byte >> (at - first) & 1, start) {
                (1, None) => start = Some(at),
                (0, Some(from)) => {
                    runs.push(from..at);
                    start = None;
                }
                _ => {}
            }
        }
    }
    runs.extend(start.map(|from| from..count));
    runs
}

/// The bitmap of a group that has none yet: nothing but the filesystem's own structures within the group.
fn compute(volume: &Volume<'_>, desc: &GroupDesc) -> Vec<u8> {
    let layout = &volume.layout;
    let group = layout.group(desc.group);
    let mut bitmap = vec![0; layout.block_size.index().unwrap_or_default()];
    for own in own_blocks(volume, desc) {
        for block in own.start.max(group.start)..own.end.min(group.end) {
            let bit = (block - group.start) / layout.cluster_blocks;
            let byte = usize::try_from(bit / 8).ok().and_then(|at| bitmap.get_mut(at));
            if let Some(byte) = byte {
                *byte |= 1_u8 << (bit % 8);
            }
        }
    }
    bitmap
}

/// Where the filesystem's own structures of one group are: not always within that group (`flex_bg`).
fn own_blocks(volume: &Volume<'_>, desc: &GroupDesc) -> [Range<u64>; 4] {
    let layout = &volume.layout;
    let from = |at: Bytes, count: u64| {
        let first = at.units(layout.block_size);
        first..first + count
    };
    [
        layout.base_blocks(desc.group),
        from(desc.block_bitmap, 1),
        from(desc.inode_bitmap, 1),
        from(desc.inode_table, layout.inode_table_blocks),
    ]
}

/// The filesystem's own structures of all groups.
#[derive(Default)]
struct Own {
    extents: ExtentSet,
}

impl Own {
    /// Adds those of one group, which overlap no other: else its descriptor points elsewhere.
    fn add(&mut self, volume: &Volume<'_>, desc: &GroupDesc, proven: bool) -> Result<()> {
        for blocks in own_blocks(volume, desc) {
            let count = blocks.end - blocks.start;
            let Some(extent) = volume.layout.blocks(blocks.start, count) else { continue };
            if let Some(shared) = self.extents.within(extent).next().filter(|_| proven) {
                let name = format!("group {} descriptor", desc.group);
                let found = format!("bytes {shared} for two of them");
                return Err(Error::corrupt(name, desc.at, "bitmaps and tables of its own", found));
            }
            self.extents.insert(extent);
        }
        Ok(())
    }

    /// The bitmaps know of them: else a bitmap is not what it seems.
    fn check(&self, used: &ExtentSet) -> Result<()> {
        match self.extents.subtract(used).iter().next() {
            Some(free) => Err(Error::corrupt(
                "superblocks, descriptors, bitmaps and inode tables",
                free.start,
                "marked as used in the block bitmap",
                "marked as free",
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::Sample;
    use super::used_runs;
    use crate::extent::Extent;
    use crate::units::Bytes;

    proptest! {
        #[test]
        fn runs_agree_with_bits(bytes in prop::collection::vec(prop_oneof![Just(0), Just(255), any::<u8>()], 0..6), cut in 0..8_u32) {
            let count = u32::try_from(bytes.len() * 8).unwrap().saturating_sub(cut);
            let runs = used_runs(&bytes, count);
            prop_assert!(runs.iter().all(|run| run.start < run.end && run.end <= count));
            let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
            for (at, bit) in (0..count).zip(bits) {
                prop_assert_eq!(bit, runs.iter().any(|run| run.contains(&at)));
            }
        }
    }

    #[test]
    fn bitmaps_are_proven() {
        let sample = Sample::new("");
        let bitmap = sample.block_bitmap(0);
        let mut unsigned = sample.clone();
        unsigned.put(bitmap + 0x7F, &[0x80]);
        let error = unsigned.refusal();
        assert!(error.starts_with("group 0 block bitmap's checksum at byte 3072: expected 0x"));
        for (damaged, message) in [
            (
                sample.clone().bitmap(0, 0x7F, &[0x80]),
                "group 0 descriptor bg_free_blocks_count at byte 2060: \
                 expected 972 as its block bitmap says, found 973",
            ),
            (
                // The superblock's bit against a free one.
                sample.clone().bitmap(0, 0, &[0xFE]).bitmap(0, 0x7F, &[0x80]),
                "superblocks, descriptors, bitmaps and inode tables at byte 1024: \
                 expected marked as used in the block bitmap, found marked as free",
            ),
            (
                sample.superblock(0x0C, &[0, 0]),
                "superblock s_free_blocks_count at byte 1036: \
                 expected 5062 as the block bitmaps say, found 0",
            ),
        ] {
            assert_eq!(damaged.refusal(), message);
        }
    }

    #[test]
    fn bitmaps_that_were_never_written_are_computed() {
        let mut sample = Sample::new("");
        let pristine = sample.open().used().unwrap();
        // Group 3 holds nothing but copies of superblock and descriptors.
        let copies = Extent::new(Bytes::kib(1 + 3 * 1024), Bytes::kib(3 + 3 * 1024));
        assert!(pristine.contains(copies));
        let bitmap = sample.block_bitmap(3);
        sample.put(bitmap, &[0x5A; 128]);
        assert_eq!(sample.open().used().unwrap(), pristine);
        let written = sample.desc(3, 0x12, &[0, 0]);
        assert!(written.refusal().starts_with("group 3 block bitmap's checksum"));
    }

    #[test]
    fn orphans_excuse_the_superblocks_count() {
        let stale = Sample::new("").superblock(0x0C, &[0, 0]);
        assert!(stale.open().used().is_err());
        assert!(stale.clone().superblock(0xE8, &[12]).open().used().is_ok());
        assert!(stale.flags(0x64, 0x1_0000).open().used().is_ok());
    }
}
