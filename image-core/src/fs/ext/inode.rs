//! Inodes: only as much as leads to the blocks of a file without holes, which a journal is.
//!
//! Source: Linux `Documentation/filesystems/ext4/inodes.rst`, `ifork.rst`. Little-endian.

use super::group_desc;
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::fields::Structure;
use crate::units::Bytes;

/// What is read of an inode: the part that every inode size has.
const LENGTH: usize = 128;
const I_BLOCK: usize = 0x28;
/// `EXT4_EXTENTS_FL` in `i_flags`.
const EXTENTS: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xF30A;
/// Longer extents are unwritten ones (`EXT_INIT_MAX_LEN`): what a file says to have there are zeros.
const MAX_WRITTEN: u16 = 1 << 15;
/// The deepest tree that the kernel makes.
const MAX_DEPTH: u16 = 5;
/// Pieces of a file that are kept in memory; mke2fs makes a journal of one or two.
const MAX_RUNS: usize = 1 << 16;

/// Where the blocks of a file lie.
pub(super) struct File {
    block_size: Bytes,
    /// How many blocks the file has (`i_size`).
    count: u64,
    /// How many were found yet.
    found: u64,
    /// Number of the first block and its position, ascending.
    runs: Vec<(u64, Bytes)>,
    /// All its blocks; no two are the same.
    pub(super) blocks: ExtentSet,
    /// The blocks of its extent tree, or its indirect blocks.
    pub(super) nodes: ExtentSet,
}

impl File {
    /// How many blocks it has.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Position of its block `number`; `None` behind its end.
    pub(super) fn locate(&self, number: u64) -> Option<Bytes> {
        let next = self.runs.partition_point(|(first, _)| *first <= number);
        let (first, at) = *self.runs.get(next.checked_sub(1)?)?;
        let offset = self.block_size.checked_mul(number.checked_sub(first)?)?;
        at.checked_add(offset).filter(|_| number < self.count)
    }

    fn is_whole(&self) -> bool {
        self.found >= self.count
    }

    /// Adds the blocks in `extent`, which the field at `field` of the structure `name` names.
    fn push(&mut self, extent: Extent, name: &str, field: Bytes) -> Result<()> {
        if let Some(twice) = self.blocks.within(extent).next() {
            let found = format!("bytes {twice} twice");
            return Err(Error::corrupt(name, field, "blocks that the file has once", found));
        }
        let follows = self.runs.last().is_some_and(|(first, at)| {
            let length = self.block_size.checked_mul(self.found.saturating_sub(*first));
            length.and_then(|length| at.checked_add(length)) == Some(extent.start)
        });
        if !follows {
            self.runs.push((self.found, extent.start));
        }
        if self.runs.len() > MAX_RUNS {
            return Err(Error::unsupported(format!("a journal in more than {MAX_RUNS} pieces")));
        }
        self.found = self.found.saturating_add(extent.len().units(self.block_size));
        self.blocks.insert(extent);
        Ok(())
    }
}

/// The blocks of the file with inode `number`.
///
/// # Errors
/// Where the inode, its extent tree or its indirect blocks contradict themselves, or the file has holes.
pub(super) fn map(volume: &Volume<'_>, number: u32) -> Result<File> {
    let (at, bytes) = read(volume, number)?;
    let name = format!("inode {number}");
    let inode = Structure::new(&name, at, &bytes);
    let size = u64::from(inode.le32(0x6C)?) << 32 | u64::from(inode.le32(0x04)?);
    let block_size = volume.layout.block_size;
    let mut file = File {
        block_size,
        count: Bytes::new(size).units(block_size),
        found: 0,
        runs: Vec::new(),
        blocks: ExtentSet::new(),
        nodes: ExtentSet::new(),
    };
    let root = inode.slice(I_BLOCK, 60)?;
    let root_at = at + Bytes::from(I_BLOCK);
    if inode.le32(0x20)? & EXTENTS == 0 {
        let name = format!("{name} i_block");
        block_map(volume, &mut file, &Structure::new(&name, root_at, root))?;
    } else {
        let name = format!("{name} extent tree node");
        let root = Structure::new(&name, root_at, root);
        extent_node(volume, &mut file, &root, MAX_DEPTH + 1)?;
    }
    if file.count == 0 || !file.is_whole() {
        let expected = format!("1 to {} blocks of {}", file.found, block_size.get());
        return Err(inode.corrupt("i_size", 0x04, expected, size));
    }
    Ok(file)
}

/// Position and content of inode `number`.
fn read(volume: &Volume<'_>, number: u32) -> Result<(Bytes, Vec<u8>)> {
    let layout = &volume.layout;
    let index = number.wrapping_sub(1);
    let group = index / layout.inodes_per_group;
    if group >= layout.groups {
        return Err(Error::corrupt("inode number", Bytes::ZERO, "an inode", number.to_string()));
    }
    let desc_block = group / layout.descs_per_block;
    let descs = group_desc::read(volume, desc_block..desc_block + 1)?;
    let desc = descs.into_iter().find(|desc| desc.group == group).ok_or_else(|| {
        Error::corrupt("group descriptor block", Bytes::ZERO, format!("group {group}"), "none")
    })?;
    let offset = u64::from(index % layout.inodes_per_group) * u64::from(layout.inode_size);
    let at = desc.inode_table + Bytes::new(offset);
    Ok((at, volume.read(at, LENGTH)?))
}

/// Adds what the extent tree node `node` leads to; it is nearer to the leaves than `above`.
fn extent_node(
    volume: &Volume<'_>,
    file: &mut File,
    node: &Structure<'_>,
    above: u16,
) -> Result<()> {
    let (magic, entries, depth) = (node.le16(0)?, node.le16(2)?, node.le16(6)?);
    if magic != EXTENT_MAGIC {
        let found = format!("{magic:#06x}");
        return Err(node.corrupt("eh_magic", 0, format!("{EXTENT_MAGIC:#06x}"), found));
    }
    if depth >= above {
        return Err(node.corrupt("eh_depth", 6, format!("below {above}"), depth));
    }
    if entries == 0 {
        return Err(node.corrupt("eh_entries", 2, "at least one", entries));
    }
    for index in 0..usize::from(entries) {
        if file.is_whole() {
            break;
        }
        let entry = 12 + 12 * index;
        let first = node.le32(entry)?;
        if u64::from(first) != file.found {
            return Err(node.corrupt("ee_block", entry, file.found.to_string(), first));
        }
        match depth {
            0 => leaf(volume, file, node, entry)?,
            _ => {
                let at = locate(volume, node, [entry + 4, entry + 8])?;
                let bytes = child(volume, file, at)?;
                let child = Structure::new(node.name(), at, &bytes);
                extent_node(volume, file, &child, depth)?;
            }
        }
    }
    Ok(())
}

/// Adds the extent at `entry` of a leaf.
fn leaf(volume: &Volume<'_>, file: &mut File, node: &Structure<'_>, entry: usize) -> Result<()> {
    let length = node.le16(entry + 4)?;
    if length == 0 || length > MAX_WRITTEN {
        return Err(node.corrupt("ee_len", entry + 4, format!("1 to {MAX_WRITTEN}"), length));
    }
    let start = locate(volume, node, [entry + 8, entry + 6])?;
    // What may lie behind the file's end is not its content.
    let count = u64::from(length).min(file.count - file.found);
    let first = start.units(volume.layout.block_size);
    let extent = volume.layout.blocks(first, count).ok_or_else(|| {
        let expected = format!("{count} blocks of the filesystem");
        node.corrupt("ee_start", entry + 8, expected, first)
    })?;
    file.push(extent, node.name(), node.position() + Bytes::from(entry))
}

/// The position of the block whose number stands in the fields at `low` (32 bits) and `high` (16 bits).
fn locate(volume: &Volume<'_>, node: &Structure<'_>, [low, high]: [usize; 2]) -> Result<Bytes> {
    let block = u64::from(node.le16(high)?) << 32 | u64::from(node.le32(low)?);
    volume.locate(block, node.name(), node.position() + Bytes::from(low))
}

/// The block at `at`, which leads to blocks of `file`.
fn child(volume: &Volume<'_>, file: &mut File, at: Bytes) -> Result<Vec<u8>> {
    let size = volume.layout.block_size;
    file.nodes.insert(Extent::new(at, at + size));
    volume.read(at, size.index().unwrap_or_default())
}

/// Adds what the twelve direct and three indirect block numbers in `root` lead to.
fn block_map(volume: &Volume<'_>, file: &mut File, root: &Structure<'_>) -> Result<()> {
    for (index, level) in [0; 12].into_iter().chain(1..=3).enumerate() {
        follow(volume, file, root, (index, level))?;
    }
    Ok(())
}

/// Adds what block number `index` of `node` leads to, over `level` indirect blocks.
fn follow(
    volume: &Volume<'_>,
    file: &mut File,
    node: &Structure<'_>,
    (index, level): (usize, u8),
) -> Result<()> {
    if file.is_whole() {
        return Ok(());
    }
    let name = format!("{}[{index}]", node.name());
    let field = node.position() + Bytes::from(4 * index);
    let at = volume.locate(node.le32(4 * index)?.into(), &name, field)?;
    let size = volume.layout.block_size;
    let Some(below) = level.checked_sub(1) else {
        return file.push(Extent::new(at, at + size), &name, field);
    };
    let bytes = child(volume, file, at)?;
    let indirect = Structure::new(&name, at, &bytes);
    (0..bytes.len() / 4).try_for_each(|index| follow(volume, file, &indirect, (index, below)))
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;

    /// Position of inode 8 in the sample: the table of group 0 stands in block 15.
    const JOURNAL: usize = 15 * 1024 + 7 * 256;
    const TREE: usize = JOURNAL + 0x28;

    #[test]
    fn a_damaged_extent_tree_is_an_error() {
        let sample = Sample::new("");
        for (at, bytes, message) in [
            (0, &[0, 0][..], "eh_magic at byte 17192: expected 0xf30a, found 0x0000"),
            (2, &[0], "eh_entries at byte 17194: expected at least one, found 0"),
            (12, &[1], "ee_block at byte 17204: expected 0, found 1"),
            (16, &[0, 0], "ee_len at byte 17208: expected 1 to 32768, found 0"),
            (17, &[0x84], "ee_len at byte 17208: expected 1 to 32768, found 33792"),
            (6, &[6], "eh_depth at byte 17198: expected below 6, found 6"),
            (21, &[0xFF], "at byte 17212: expected a block of the filesystem, found 65281"),
        ] {
            let mut damaged = sample.clone();
            damaged.put(TREE + at, bytes);
            let error = damaged.open().state().unwrap_err().to_string();
            assert_eq!(error, format!("inode 8 extent tree node {message}"));
        }
    }

    #[test]
    fn deeper_trees_are_followed_and_cannot_loop() {
        let mut sample = Sample::new("");
        let leaf = 6000;
        let node = sample.bytes[TREE..TREE + 60].to_vec();
        sample.put(leaf * 1024, &node);
        sample.put(TREE + 6, &[1]);
        sample.put(TREE + 16, &6000_u32.to_le_bytes());
        sample.put(TREE + 20, &[0; 4]);
        assert!(sample.open().state().is_ok());
        let root = sample.bytes[TREE..TREE + 60].to_vec();
        sample.put(leaf * 1024, &root);
        assert_eq!(
            sample.open().state().unwrap_err().to_string(),
            "inode 8 extent tree node eh_depth at byte 6144006: expected below 1, found 1"
        );
    }

    #[test]
    fn the_journal_of_ext3_is_found_by_its_block_map() {
        let mut sample = Sample::new("^extents,^64bit,^metadata_csum");
        assert!(sample.open().state().is_ok());
        sample.put(TREE, &6144_u32.to_le_bytes());
        assert_eq!(
            sample.open().state().unwrap_err().to_string(),
            "inode 8 i_block[0] at byte 17192: expected a block of the filesystem, found 6144"
        );
    }
}
