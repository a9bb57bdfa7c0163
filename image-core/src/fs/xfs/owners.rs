//! Which files some bytes belong to: all inodes' extent maps, then all folders' entries.
//!
//! Source: Linux `fs/xfs/libxfs/xfs_format.h`, `xfs_da_format.h`.

use super::superblock::Superblock;
use super::{check_crc, check_owner};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::fields::Structure;
use crate::fs::owners::{Names, Owners};
use crate::io::BlockSource;
use crate::units::Bytes;

const AGI_CRC: usize = 312;
const AGI_UUID: usize = 296;
const MAX_LEVELS: u32 = 9;
/// An inode record and chunk.
const CHUNK: u64 = 64;
const RECORD: usize = 16;
/// A folder's entries lie below this position of it (`XFS_DIR2_LEAF_OFFSET`), all of them.
const LARGEST_FOLDER: u64 = 1 << 35;
/// What is kept of one folder's entries at once.
const MOST_OF_A_FOLDER: Bytes = Bytes::mib(256);
const FTYPE: u32 = 0x1;
const SPARSE_INODES: u32 = 0x2;
const LARGE_COUNTERS: u64 = 0x10;
const FTYPE_V4: u32 = 0x200;

/// How inodes and folders are laid out; read from the superblock beside what maps need.
struct Geometry {
    inode_size: usize,
    inodes_per_block_log: u32,
    ag_block_log: u32,
    folder_block: Bytes,
    has_type: bool,
    is_sparse: bool,
    root: u64,
}

impl Geometry {
    fn read(source: &dyn BlockSource, superblock: &Superblock) -> Result<Self> {
        let bytes = source.read(Bytes::ZERO, 512)?;
        let sb = Structure::new("XFS superblock", Bytes::ZERO, &bytes);
        let (inode_size, log) = (u32::from(sb.be16(104)?), u32::from(sb.u8(123)?));
        let fits = inode_size.is_power_of_two()
            && (256..=2048).contains(&inode_size)
            && inode_size.checked_shl(log) == Some(superblock.block_size);
        if !fits {
            return Err(sb.corrupt("sb_inodesize", 104, "a part of a block", inode_size));
        }
        let folder_log = u32::from(sb.u8(192)?);
        let folder_block = superblock.block_size.checked_shl(folder_log);
        let folder_block = folder_block.filter(|size| *size <= 65_536 && folder_log < 8);
        let v5 = superblock.v5;
        let incompat = if v5 { sb.be32(216)? } else { 0 };
        Ok(Self {
            inode_size: Bytes::from(inode_size).index().unwrap_or(256),
            inodes_per_block_log: log,
            ag_block_log: u32::from(sb.u8(124)?),
            folder_block: Bytes::from(folder_block.ok_or_else(|| {
                sb.corrupt("sb_dirblklog", 192, "blocks up to 64 KiB", folder_log)
            })?),
            has_type: if v5 { incompat & FTYPE != 0 } else { sb.be32(200)? & FTYPE_V4 != 0 },
            is_sparse: incompat & SPARSE_INODES != 0,
            root: sb.be64(56)?,
        })
    }
}

/// The owners of `lost`, all of which is in use.
///
/// # Errors
/// Where the superblock cannot be read or trusted.
pub(super) fn of(
    source: &dyn BlockSource,
    superblock: &Superblock,
    lost: &ExtentSet,
) -> Result<Owners> {
    let geometry = Geometry::read(source, superblock)?;
    let mut search = Search {
        source,
        superblock,
        lost,
        owners: Owners::default(),
        names: Names::new(geometry.root),
        geometry,
        folders: Vec::new(),
        of_files: Vec::new(),
        // In a filesystem that is sound no two nodes share a block.
        nodes_left: u64::from(superblock.ag_blocks).saturating_mul(u64::from(superblock.ag_count)),
    };
    for number in 0..superblock.ag_count {
        let looked = search.group(number);
        search.doubt(looked)?;
    }
    if search.names.any() {
        for (inode, map) in std::mem::take(&mut search.folders) {
            let looked = search.folder(inode, map);
            search.doubt(looked)?;
        }
    }
    let Search { mut owners, names, mut of_files, .. } = search;
    of_files.sort_unstable();
    let of_files: ExtentSet = of_files.into_iter().collect();
    // Whatever is in use and no file's content is the filesystem's own.
    owners.structures |= !lost.subtract(&of_files).is_empty();
    names.tell(&mut owners);
    Ok(owners)
}

/// Position in a file, in blocks, and place of an extent.
type Map = Vec<(u64, Extent)>;

struct Search<'a> {
    source: &'a dyn BlockSource,
    superblock: &'a Superblock,
    geometry: Geometry,
    lost: &'a ExtentSet,
    owners: Owners,
    names: Names,
    folders: Vec<(u64, Map)>,
    /// What of `lost` is the content of files.
    of_files: Vec<Extent>,
    nodes_left: u64,
}

/// An inode as far as it is needed.
struct Inode<'a> {
    number: u64,
    fields: Structure<'a>,
    is_folder: bool,
    is_hit: bool,
    map: Map,
}

impl Search<'_> {
    /// Takes what cannot be read or contradicts itself for a doubt.
    fn doubt(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                self.owners.doubt(&error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn group(&mut self, number: u32) -> Result<()> {
        let position = self.superblock.ag_sector(number, 2)?;
        let length = Bytes::from(self.superblock.sector_size).index().unwrap_or(512);
        let sector = self.source.read(position, length)?;
        let name = format!("XFS AGI {number}");
        let agi = Structure::new(&name, position, &sector);
        let v5 = self.superblock.v5;
        check_owner(&agi, b"XAGI", v5.then_some((AGI_UUID, &self.superblock.meta_uuid)))?;
        if v5 {
            check_crc(&agi, AGI_CRC)?;
        }
        let (root, levels) = (agi.be32(20)?, agi.be32(24)?);
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(agi.corrupt("agi_level", 24, format!("1 to {MAX_LEVELS}"), levels));
        }
        self.inode_btree(number, root, levels - 1)
    }

    /// A block of metadata; every one is used up once.
    fn node(&mut self, extent: Extent) -> Result<Vec<u8>> {
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or_else(|| {
            Error::corrupt("XFS btrees", extent.start, "each block once", "more than there are")
        })?;
        self.source.read(extent.start, extent.len().index().unwrap_or(0))
    }

    /// What cannot be read of the inode btree only hides its part of the inodes.
    fn inode_btree(&mut self, group: u32, block: u32, level: u32) -> Result<()> {
        let extent = self.superblock.ag_extent(group, block, block.saturating_add(1))?;
        let bytes = self.node(extent)?;
        let name = format!("XFS inobt block {block} of AG {group}");
        let node = Structure::new(&name, extent.start, &bytes);
        let v5 = self.superblock.v5;
        let (magic, header) = if v5 { (b"IAB3", 56) } else { (b"IABT", 16) };
        check_owner(&node, magic, v5.then_some((32, &self.superblock.meta_uuid)))?;
        if u32::from(node.be16(4)?) != level {
            return Err(node.corrupt("bb_level", 4, level.to_string(), node.be16(4)?));
        }
        let count = usize::from(node.be16(6)?);
        let most = bytes.len().saturating_sub(header) / if level == 0 { RECORD } else { 8 };
        if count > most {
            return Err(node.corrupt("bb_numrecs", 6, format!("at most {most}"), count));
        }
        for index in 0..count {
            let looked = if level == 0 {
                self.chunk(group, &node, header + index * RECORD)
            } else {
                let child = node.be32(header + most * 4 + index * 4)?;
                self.inode_btree(group, child, level - 1)
            };
            self.doubt(looked)?;
        }
        Ok(())
    }

    /// The 64 inodes of the record at `at`.
    fn chunk(&mut self, group: u32, node: &Structure<'_>, at: usize) -> Result<()> {
        let (first, free) = (node.be32(at)?, node.be64(at + 8)?);
        let holes = if self.geometry.is_sparse { node.be16(at + 4)? } else { 0 };
        let (log, size) = (self.geometry.inodes_per_block_log, self.geometry.inode_size);
        let per_block = 1_u64.checked_shl(log).unwrap_or(1);
        let mut index = 0;
        while index < CHUNK {
            // A bit of the hole mask stands for four inodes.
            let missing =
                holes.checked_shr(u32::try_from(index / 4).unwrap_or(16)).unwrap_or(0) & 1;
            let inode = u64::from(first).saturating_add(index);
            let step = per_block.min(CHUNK - index);
            if missing == 0 {
                let block = u32::try_from(inode >> log).unwrap_or(u32::MAX);
                let extent = self.superblock.ag_extent(group, block, block.saturating_add(1))?;
                let looked = self.node(extent);
                match looked {
                    Ok(bytes) => {
                        let skip = inode % per_block;
                        let numbers = (inode - skip..).zip(bytes.chunks_exact(size));
                        for (number, bytes) in numbers.filter(|(number, _)| *number >= inode) {
                            let bit = number - u64::from(first);
                            let bit = u32::try_from(bit).ok().filter(|bit| *bit < 64);
                            if bit.is_some_and(|bit| free.checked_shr(bit).unwrap_or(1) & 1 == 0) {
                                let looked = self.inode(group, number, bytes);
                                self.doubt(looked)?;
                            }
                        }
                    }
                    Err(error) => self.doubt(Err(error))?,
                }
            }
            index += step;
        }
        Ok(())
    }

    fn inode(&mut self, group: u32, number: u64, bytes: &[u8]) -> Result<()> {
        let shift = self.geometry.ag_block_log + self.geometry.inodes_per_block_log;
        let number = u64::from(group).checked_shl(shift).unwrap_or(0) | number;
        let name = format!("XFS inode {number}");
        let fields = Structure::new(&name, Bytes::ZERO, bytes);
        if fields.slice(0, 2)? != b"IN" {
            return Err(fields.corrupt("di_magic", 0, "IN", fields.slice(0, 2)?.escape_ascii()));
        }
        let kind = fields.be16(2)? & 0xF000;
        let is_folder = kind == 0x4000 && self.names.folder(number);
        let mut inode = Inode { number, fields, is_folder, is_hit: false, map: Vec::new() };
        let is_v3 = inode.fields.u8(4)? >= 3;
        let core = if is_v3 { 176 } else { 100 };
        let split = usize::from(inode.fields.u8(82)?) * 8;
        let room = bytes.len().saturating_sub(core);
        let data = if split == 0 { room } else { split.min(room) };
        let (extents, attributes) = if is_v3 && inode.fields.be64(120)? & LARGE_COUNTERS != 0 {
            (inode.fields.be64(24)?, u64::from(inode.fields.be32(76)?))
        } else {
            (u64::from(inode.fields.be32(76)?), u64::from(inode.fields.be16(80)?))
        };
        if is_folder && inode.fields.u8(5)? == 1 {
            self.short_folder(&inode, core, data)?;
        }
        let mapped = self.fork(&mut inode, (core, data), extents, 5);
        let in_data = inode.is_hit;
        let mapped = mapped.and_then(|()| match split {
            0 => Ok(()),
            _ => {
                let mut other = Inode { map: Vec::new(), is_folder: false, is_hit: false, ..inode };
                let room = room.saturating_sub(split);
                let done = self.fork(&mut other, (core + split, room), attributes, 83);
                inode = Inode { is_hit: other.is_hit, ..other };
                done
            }
        });
        if in_data || inode.is_hit {
            self.names.hit(number);
        }
        mapped
    }

    /// One of the two forks of an inode: `count` extents or a btree of them, as the byte at `format` says.
    fn fork(
        &mut self,
        inode: &mut Inode<'_>,
        (at, length): (usize, usize),
        count: u64,
        format: usize,
    ) -> Result<()> {
        let fork =
            Structure::new(inode.fields.name(), Bytes::ZERO, inode.fields.slice(at, length)?);
        let found = match inode.fields.u8(format)? {
            2 => {
                let most = length / RECORD;
                let count = usize::try_from(count).ok().filter(|count| *count <= most);
                let expected = || inode.fields.corrupt("di_nextents", 76, "as many as fit", most);
                let count = count.ok_or_else(expected)?;
                (0..count).try_for_each(|index| self.extent(inode, &fork, index * RECORD))
            }
            3 => {
                let (level, count) = (fork.be16(0)?, usize::from(fork.be16(2)?));
                let most = length.saturating_sub(4) / RECORD;
                self.children(inode, &fork, (4 + most * 8, count.min(most)), u32::from(level))
            }
            _ => Ok(()),
        };
        if inode.is_folder && format == 5 && !inode.map.is_empty() {
            self.folders.push((inode.number, std::mem::take(&mut inode.map)));
        }
        found
    }

    /// The children of a node of `level`, whose pointers stand at `at`.
    fn children(
        &mut self,
        inode: &mut Inode<'_>,
        node: &Structure<'_>,
        (at, count): (usize, usize),
        level: u32,
    ) -> Result<()> {
        let Some(level) = level.checked_sub(1).filter(|level| *level < MAX_LEVELS) else {
            return Err(node.corrupt("bb_level", 0, format!("1 to {MAX_LEVELS}"), level));
        };
        for index in 0..count {
            let pointer = node.be64(at + index * 8)?;
            let extent = self.blocks(pointer, 1, node)?;
            if self.lost.within(extent).next().is_some() {
                inode.is_hit = true;
            }
            let bytes = self.node(extent)?;
            let name = format!("XFS bmbt block of inode {}", inode.number);
            let child = Structure::new(&name, extent.start, &bytes);
            let v5 = self.superblock.v5;
            let (magic, header) = if v5 { (b"BMA3", 72) } else { (b"BMAP", 24) };
            check_owner(&child, magic, v5.then_some((40, &self.superblock.meta_uuid)))?;
            if u32::from(child.be16(4)?) != level {
                return Err(child.corrupt("bb_level", 4, level.to_string(), child.be16(4)?));
            }
            let most = bytes.len().saturating_sub(header) / RECORD;
            let count = usize::from(child.be16(6)?).min(most);
            if level == 0 {
                (0..count).try_for_each(|at| self.extent(inode, &child, header + at * RECORD))?;
            } else {
                self.children(inode, &child, (header + most * 8, count), level)?;
            }
        }
        Ok(())
    }

    /// Takes the extent record at `at`.
    fn extent(&mut self, inode: &mut Inode<'_>, node: &Structure<'_>, at: usize) -> Result<()> {
        let (high, low) = (node.be64(at)?, node.be64(at + 8)?);
        let position = (high & (u64::MAX >> 1)) >> 9;
        let start = (high & 0x1FF) << 43 | low >> 21;
        let extent = self.blocks(start, low & 0x1F_FFFF, node)?;
        let hits: Vec<Extent> = self.lost.within(extent).collect();
        inode.is_hit |= !hits.is_empty();
        if inode.is_folder {
            inode.map.push((position, extent));
        } else {
            self.of_files.extend(hits);
        }
        Ok(())
    }

    /// `count` blocks from the filesystem's block `start`, whose number has that of its AG in the upper bits.
    fn blocks(&self, start: u64, count: u64, node: &Structure<'_>) -> Result<Extent> {
        let log = self.geometry.ag_block_log;
        let group = u32::try_from(start.checked_shr(log).unwrap_or(0)).ok();
        let first = u32::try_from(start & !u64::MAX.checked_shl(log).unwrap_or(0)).ok();
        let end = first.and_then(|first| first.checked_add(u32::try_from(count).ok()?));
        match (group.filter(|group| *group < self.superblock.ag_count), first, end) {
            (Some(group), Some(first), Some(end)) => self.superblock.ag_extent(group, first, end),
            _ => Err(node.corrupt("startblock", 0, "blocks of the filesystem", start)),
        }
    }

    /// A folder in its inode (`xfs_dir2_sf_hdr`).
    fn short_folder(&mut self, inode: &Inode<'_>, at: usize, length: usize) -> Result<()> {
        let folder = Structure::new("XFS folder", Bytes::ZERO, inode.fields.slice(at, length)?);
        let (count, wide) = (folder.u8(0)?, folder.u8(1)? != 0);
        let width = if wide { 8 } else { 4 };
        let mut at = 2 + width;
        for _ in 0..count {
            let length = usize::from(folder.u8(at)?);
            let name = folder.slice(at + 3, length)?;
            at += 3 + length + usize::from(self.geometry.has_type);
            let number = if wide { folder.be64(at)? } else { u64::from(folder.be32(at)?) };
            at += width;
            self.names.early(inode.number, number & (u64::MAX >> 8), name);
        }
        Ok(())
    }

    /// A folder in blocks: those with entries come first.
    fn folder(&mut self, inode: u64, mut map: Map) -> Result<()> {
        map.sort_unstable();
        let block = u64::from(self.superblock.block_size);
        let entries =
            map.into_iter().take_while(|(at, _)| at.saturating_mul(block) < LARGEST_FOLDER);
        let mut bytes = Vec::new();
        for (_, extent) in entries {
            if Bytes::of(&bytes).saturating_add(extent.len()) > MOST_OF_A_FOLDER {
                return Err(Error::unsupported(format!("a folder as large as inode {inode}")));
            }
            let start = bytes.len();
            bytes.resize(start.saturating_add(extent.len().index().unwrap_or(0)), 0);
            let part = bytes.get_mut(start..).unwrap_or_default();
            let whole = [Extent::first(extent.len())];
            let holes = self.source.read_around(extent.start, part, &whole)?;
            for hole in holes.iter().filter_map(|hole| Some(hole.start.index()?..hole.end.index()?))
            {
                part.get_mut(hole).unwrap_or_default().fill(0);
                let why = format!("reading all of the folder inode {inode}");
                self.owners.doubt(&Error::unsupported(why));
            }
        }
        for block in bytes.chunks_exact(self.geometry.folder_block.index().unwrap_or(4096)) {
            let looked = self.folder_block(inode, block);
            self.doubt(looked)?;
        }
        Ok(())
    }

    fn folder_block(&mut self, inode: u64, bytes: &[u8]) -> Result<()> {
        let block = Structure::new("XFS folder block", Bytes::ZERO, bytes);
        let (start, with_index) = match block.slice(0, 4)? {
            b"XDB3" => (64, true),
            b"XDD3" => (64, false),
            b"XD2B" => (16, true),
            b"XD2D" => (16, false),
            // Zeros where it could not be read.
            _ => return Ok(()),
        };
        let mut end = bytes.len();
        if with_index {
            let tail = end.saturating_sub(8);
            let index = usize::try_from(block.be32(tail)?).unwrap_or(usize::MAX).saturating_mul(8);
            end = tail.saturating_sub(index);
        }
        let mut at = start;
        while at < end {
            if block.be16(at)? == 0xFFFF {
                // Unused; its length stands behind that.
                at += usize::from(block.be16(at + 2)?).max(8);
                continue;
            }
            let length = usize::from(block.u8(at + 8)?);
            self.names.entry(inode, block.be64(at)?, block.slice(at + 9, length)?);
            let taken = 8 + 1 + length + usize::from(self.geometry.has_type) + 2;
            at += taken.next_multiple_of(8);
        }
        Ok(())
    }
}
