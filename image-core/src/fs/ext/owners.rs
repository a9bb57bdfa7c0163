//! Which files some bytes belong to: all inodes' block maps, then all folders' entries.
//!
//! Source: Linux `Documentation/filesystems/ext4/inodes.rst`, `ifork.rst`, `directory.rst`. Little-endian.

use super::features::incompat;
use super::group_desc::{self, GroupDesc};
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::fields::Structure;
use crate::fs::owners::{Names, Owners};
use crate::units::Bytes;

const ROOT: u64 = 2;
/// The inodes below the first one of a user (11) but the root folder: journal, resizing, quotas.
const RESERVED: u64 = 11;
const I_BLOCK: usize = 0x28;
const EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;
const EXTENT_MAGIC: u16 = 0xF30A;
const MAX_DEPTH: u16 = 5;
/// An unwritten extent has this added to its length (`EXT_INIT_MAX_LEN`).
const MAX_WRITTEN: u16 = 1 << 15;
/// What is read of an inode table or a folder at once.
const PIECE: Bytes = Bytes::mib(1);
/// The kernel's limit for a folder (`i_size` of 2 GiB without `largedir`).
const LARGEST_FOLDER: Bytes = Bytes::gib(2);

/// The owners of `lost`.
///
/// # Errors
/// Where the group descriptors cannot be read or trusted.
pub(super) fn of(volume: &Volume<'_>, lost: &ExtentSet) -> Result<Owners> {
    let groups = group_desc::read(volume, 0..volume.layout.desc_blocks)?;
    let mut search = Search {
        volume,
        lost,
        owners: Owners::default(),
        names: Names::new(ROOT),
        folders: Vec::new(),
        // In a filesystem that is sound no two nodes share a block.
        nodes_left: volume.layout.blocks_in_all(),
    };
    for group in &groups {
        search.structures(group);
        search.inodes(group)?;
    }
    if search.names.any() {
        for (inode, extents) in std::mem::take(&mut search.folders) {
            search.folder(inode, &extents)?;
        }
    }
    let Search { mut owners, names, .. } = search;
    names.tell(&mut owners);
    Ok(owners)
}

struct Search<'a> {
    volume: &'a Volume<'a>,
    lost: &'a ExtentSet,
    owners: Owners,
    names: Names,
    /// Folders and where their blocks lie.
    folders: Vec<(u64, ExtentSet)>,
    nodes_left: u64,
}

/// Notes an entry of a folder.
type Take = fn(&mut Names, u64, u64, &[u8]);

/// What the blocks of one inode are.
#[derive(Default)]
struct Blocks {
    is_hit: bool,
    hits_nodes: bool,
    /// Only of a folder.
    kept: Option<ExtentSet>,
}

impl Search<'_> {
    fn is_lost(&self, extent: Extent) -> bool {
        self.lost.within(extent).next().is_some()
    }

    /// Takes what cannot be read or contradicts itself for a doubt; a disk that is gone ends it.
    fn doubt(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(error @ Error::Interrupted) => Err(error),
            Err(error) => {
                self.owners.doubt(&error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn structures(&mut self, group: &GroupDesc) {
        let layout = &self.volume.layout;
        let block = layout.block_size;
        let base = layout.base_blocks(group.group);
        let table = block.checked_mul(layout.inode_table_blocks).unwrap_or_default();
        let own = [
            layout.blocks(base.start, base.end.saturating_sub(base.start)),
            Extent::at(group.block_bitmap, block),
            Extent::at(group.inode_bitmap, block),
            Extent::at(group.inode_table, table),
        ];
        let hit = own.into_iter().flatten().any(|own| self.is_lost(own));
        self.owners.structures |= hit;
    }

    /// Looks at the inodes of a group that were ever used.
    fn inodes(&mut self, group: &GroupDesc) -> Result<()> {
        let layout = &self.volume.layout;
        let size = Bytes::new(u64::from(layout.inode_size));
        let first = u64::from(group.group) * u64::from(layout.inodes_per_group) + 1;
        let per_piece = PIECE.units(size).max(1);
        let inodes = u64::from(group.inodes);
        let mut index = 0;
        while index < inodes {
            let count = per_piece.min(inodes - index);
            let offset = size.checked_mul(index).unwrap_or_default();
            let at = group.inode_table.saturating_add(offset);
            let length = size.checked_mul(count).and_then(Bytes::index).unwrap_or_default();
            let (bytes, holes) = self.read(at, length)?;
            if !holes.is_empty() {
                let why = Error::unsupported("reading all of its inodes");
                self.owners.doubt(&why);
            }
            let step = size.index().unwrap_or(usize::MAX);
            for ((bytes, number), at) in bytes.chunks_exact(step).zip(first + index..).zip(0_u64..)
            {
                let place = Bytes::new(at.saturating_mul(size.get()));
                if holes.within(Extent::new(place, place.saturating_add(size))).next().is_none() {
                    let looked = self.inode(number, bytes);
                    self.doubt(looked)?;
                }
            }
            index += count;
        }
        Ok(())
    }

    /// Reads around what cannot be read.
    fn read(&self, at: Bytes, length: usize) -> Result<(Vec<u8>, ExtentSet)> {
        let mut bytes = vec![0; length];
        let holes = self.volume.read_around(at, &mut bytes)?;
        Ok((bytes, holes))
    }

    fn inode(&mut self, number: u64, bytes: &[u8]) -> Result<()> {
        let name = format!("inode {number}");
        let inode = Structure::new(&name, Bytes::ZERO, bytes);
        let (mode, links, flags) = (inode.le16(0)?, inode.le16(0x1A)?, inode.le32(0x20)?);
        let is_reserved = number < RESERVED && number != ROOT;
        if links == 0 && !is_reserved {
            return Ok(());
        }
        let is_folder = mode & 0xF000 == 0x4000;
        let is_file = mode & 0xF000 == 0x8000;
        let is_link = mode & 0xF000 == 0xA000;
        let mut blocks = Blocks::default();
        if is_folder && self.names.folder(number) {
            blocks.kept = Some(ExtentSet::new());
        }
        let root = inode.slice(I_BLOCK, 60)?;
        // A short link's target, or a device's number, stands in place of the map.
        let in_inode = flags & INLINE_DATA != 0 || (is_link && inode.le32(0x1C)? == 0);
        let mapped = if in_inode || !(is_folder || is_file || is_link || is_reserved) {
            Ok(())
        } else if flags & EXTENTS != 0 {
            let name = format!("{name} extent tree node");
            let root = Structure::new(&name, Bytes::ZERO, root);
            self.extent_node(&root, MAX_DEPTH + 1, &mut blocks)
        } else {
            let name = format!("{name} i_block");
            self.block_map(&Structure::new(&name, Bytes::ZERO, root), &mut blocks)
        };
        let attributes = u64::from(inode.le16(0x76)?) << 32 | u64::from(inode.le32(0x68)?);
        if attributes != 0
            && let Some(extent) = self.volume.layout.blocks(attributes, 1)
        {
            blocks.is_hit |= self.is_lost(extent);
        }
        self.owners.structures |= blocks.hits_nodes;
        if blocks.is_hit || blocks.hits_nodes {
            self.owners.structures |= is_folder || is_reserved;
            if !is_reserved {
                self.names.hit(number);
            }
        }
        if flags & INLINE_DATA != 0 && is_folder {
            // Behind the parent's number.
            self.entries(number, root.get(4..).unwrap_or_default(), Names::early);
        }
        self.folders.extend(blocks.kept.map(|kept| (number, kept)));
        mapped
    }

    fn take(&self, extent: Extent, blocks: &mut Blocks) {
        blocks.is_hit |= self.is_lost(extent);
        if let Some(kept) = &mut blocks.kept {
            kept.insert(extent);
        }
    }

    /// The block `number`, which leads to others; nothing where it is lost.
    fn node(&mut self, number: u64, blocks: &mut Blocks) -> Result<Option<(Bytes, Vec<u8>)>> {
        let layout = &self.volume.layout;
        let Some(extent) = layout.blocks(number, 1).filter(|_| number != 0) else {
            let expected = "a block of the filesystem";
            return Err(Error::corrupt("block map", Bytes::ZERO, expected, number.to_string()));
        };
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or_else(|| {
            Error::corrupt("block maps", extent.start, "each block once", "more than there are")
        })?;
        let length = layout.block_size.index().unwrap_or_default();
        let (bytes, holes) = self.read(extent.start, length)?;
        if self.is_lost(extent) || !holes.is_empty() {
            blocks.hits_nodes = true;
            return Ok(None);
        }
        Ok(Some((extent.start, bytes)))
    }

    fn extent_node(&mut self, node: &Structure<'_>, above: u16, blocks: &mut Blocks) -> Result<()> {
        let (magic, entries, depth) = (node.le16(0)?, node.le16(2)?, node.le16(6)?);
        if magic != EXTENT_MAGIC || depth >= above {
            let found = format!("{magic:#06x}, depth {depth}");
            return Err(node.corrupt("eh_magic", 0, format!("{EXTENT_MAGIC:#06x}"), found));
        }
        for entry in (0..usize::from(entries)).map(|index| 12 + 12 * index) {
            if depth == 0 {
                let length = node.le16(entry + 4)?;
                let length = if length > MAX_WRITTEN { length - MAX_WRITTEN } else { length };
                let start =
                    u64::from(node.le16(entry + 6)?) << 32 | u64::from(node.le32(entry + 8)?);
                let extent = self.volume.layout.blocks(start, u64::from(length));
                let expected = || node.corrupt("ee_start", entry + 8, "the filesystem's", start);
                self.take(extent.ok_or_else(expected)?, blocks);
                continue;
            }
            let child = u64::from(node.le16(entry + 8)?) << 32 | u64::from(node.le32(entry + 4)?);
            if let Some((at, bytes)) = self.node(child, blocks)? {
                self.extent_node(&Structure::new(node.name(), at, &bytes), depth, blocks)?;
            }
        }
        Ok(())
    }

    fn block_map(&mut self, map: &Structure<'_>, blocks: &mut Blocks) -> Result<()> {
        for index in 0..15_usize {
            let number = u64::from(map.le32(index * 4)?);
            let levels = index.saturating_sub(11);
            if number != 0 {
                self.pointed(number, levels, map.name(), blocks)?;
            }
        }
        Ok(())
    }

    /// Takes the block `number`, or where it is `levels` above them, those that it leads to.
    fn pointed(
        &mut self,
        number: u64,
        levels: usize,
        name: &str,
        blocks: &mut Blocks,
    ) -> Result<()> {
        if levels == 0 {
            let extent = self.volume.layout.blocks(number, 1).ok_or_else(|| {
                let expected = "a block of the filesystem";
                Error::corrupt(name, Bytes::ZERO, expected, number.to_string())
            })?;
            self.take(extent, blocks);
            return Ok(());
        }
        let Some((at, bytes)) = self.node(number, blocks)? else { return Ok(()) };
        let node = Structure::new(name, at, &bytes);
        for index in 0..bytes.len() / 4 {
            let number = u64::from(node.le32(index * 4)?);
            if number != 0 {
                self.pointed(number, levels - 1, name, blocks)?;
            }
        }
        Ok(())
    }

    fn folder(&mut self, inode: u64, extents: &ExtentSet) -> Result<()> {
        if extents.total() > LARGEST_FOLDER {
            self.owners.doubt(&Error::unsupported(format!("a folder as large as inode {inode}")));
            return Ok(());
        }
        let block = self.volume.layout.block_size;
        for extent in extents.iter() {
            let mut at = extent.start;
            while at < extent.end {
                let piece = Extent::new(at, at.saturating_add(PIECE.max(block)).min(extent.end));
                at = piece.end;
                let (bytes, holes) = self.read(piece.start, piece.len().index().unwrap_or(0))?;
                if !holes.is_empty() {
                    let why = format!("reading all of the folder inode {inode}");
                    self.owners.doubt(&Error::unsupported(why));
                }
                let size = block.index().unwrap_or(usize::MAX);
                bytes.chunks_exact(size).for_each(|block| self.entries(inode, block, Names::entry));
            }
        }
        Ok(())
    }

    /// The entries of one block of a folder, up to the first that is none: an index block has none, and a block
    /// that could not be read is zeros.
    fn entries(&mut self, folder: u64, block: &[u8], take: Take) {
        let mut at = 0;
        while let Some(next) = self.entry((folder, take), block, at) {
            at = next;
        }
    }

    /// The entry at `at`; where the next one starts.
    fn entry(&mut self, (folder, take): (u64, Take), block: &[u8], at: usize) -> Option<usize> {
        let rest = Structure::new("folder", Bytes::ZERO, block.get(at..)?);
        let (inode, length) = (rest.le32(0).ok()?, usize::from(rest.le16(4).ok()?));
        // 64 KiB do not fit: both of these stand for it.
        let length =
            if matches!(length, 0 | 0xFFFF) && block.len() > 0xFFFF { block.len() } else { length };
        if length < 8 {
            return None;
        }
        let mut name = usize::from(rest.u8(6).ok()?);
        if !self.volume.superblock.features.has_incompat(incompat::FILETYPE) {
            name |= usize::from(rest.u8(7).ok()?) << 8;
        }
        if inode != 0
            && let Ok(name) = rest.slice(8, name.min(length - 8))
        {
            take(&mut self.names, folder, u64::from(inode), name);
        }
        at.checked_add(length)
    }
}
