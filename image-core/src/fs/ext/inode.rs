//! Inodes: only as much as leads to the first block of a file.
//!
//! Source: Linux `Documentation/filesystems/ext4/inodes.rst`, `ifork.rst`. Little-endian.

use super::group_desc;
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::units::Bytes;

/// What is read of an inode: the part that every inode size has.
const LENGTH: usize = 128;
/// `EXT4_EXTENTS_FL` in `i_flags`.
const EXTENTS: u32 = 0x8_0000;
const EXTENT_MAGIC: u16 = 0xF30A;
/// The deepest tree that the kernel makes.
const MAX_DEPTH: u16 = 5;

/// Position of block 0 of the file with inode `number`.
///
/// # Errors
/// Where the inode or its extent tree contradict themselves, or the file begins with a hole.
pub(super) fn first_block(volume: &Volume<'_>, number: u32) -> Result<Bytes> {
    let (at, bytes) = read(volume, number)?;
    let name = format!("inode {number}");
    let inode = Structure::new(&name, at, &bytes);
    const I_BLOCK: usize = 0x28;
    if inode.le32(0x20)? & EXTENTS == 0 {
        return volume.locate(
            inode.le32(I_BLOCK)?.into(),
            &format!("{name} i_block[0]"),
            at + Bytes::from(I_BLOCK),
        );
    }
    let root = inode.slice(I_BLOCK, 60)?;
    first_of_tree(volume, &name, at + Bytes::from(I_BLOCK), root.to_vec())
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

/// Follows the leftmost path of the extent tree whose root node is `node`, read at `at`.
fn first_of_tree(volume: &Volume<'_>, name: &str, at: Bytes, node: Vec<u8>) -> Result<Bytes> {
    let (mut at, mut node, mut above) = (at, node, MAX_DEPTH + 1);
    loop {
        let name = format!("{name} extent tree node");
        let fields = Structure::new(&name, at, &node);
        let (magic, entries, depth) = (fields.le16(0)?, fields.le16(2)?, fields.le16(6)?);
        if magic != EXTENT_MAGIC {
            let found = format!("{magic:#06x}");
            return Err(fields.corrupt("eh_magic", 0, format!("{EXTENT_MAGIC:#06x}"), found));
        }
        if depth >= above {
            return Err(fields.corrupt("eh_depth", 6, format!("below {above}"), depth));
        }
        if entries == 0 || fields.le32(12)? != 0 {
            return Err(fields.corrupt("first entry", 12, "one for block 0", "none"));
        }
        // An index entry and an extent entry hold their block in other places.
        let (low, high) = if depth == 0 { (20, 18) } else { (16, 20) };
        let block = u64::from(fields.le16(high)?) << 32 | u64::from(fields.le32(low)?);
        let next = volume.locate(block, &name, at + Bytes::from(low))?;
        if depth == 0 {
            return Ok(next);
        }
        node = volume.read(next, volume.layout.block_size.index().unwrap_or_default())?;
        (at, above) = (next, depth);
    }
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
            (2, &[0], "first entry at byte 17204: expected one for block 0, found none"),
            (12, &[1], "first entry at byte 17204: expected one for block 0, found none"),
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
