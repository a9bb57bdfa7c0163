//! Which files some bytes belong to: every folder is read, and the chain of every entry followed.

use std::collections::{BTreeMap, BTreeSet};

use super::boot_sector::BootSector;
use super::fat_table;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::fields::Structure;
use crate::fs::owners::Owners;
use crate::io::BlockSource;
use crate::units::Bytes;

const ENTRY: usize = 32;
/// A folder has at most 65536 entries.
const LARGEST_FOLDER: Bytes = Bytes::mib(2);
/// Folders that are remembered to be looked through.
const MOST_FOLDERS: usize = 1 << 20;
const DELETED: u8 = 0xE5;
/// Stands for 0xE5 at the start of a name.
const KANJI: u8 = 0x05;
const VOLUME_LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
const LONG_NAME: u8 = 0x0F;
/// Pieces of the FAT that are kept: 64 KiB each.
const PIECE: Bytes = Bytes::kib(64);
const PIECES: usize = 256;

/// The owners of `lost`.
///
/// # Errors
/// A source that is gone.
pub(super) fn of(source: &dyn BlockSource, boot: &BootSector, lost: &ExtentSet) -> Result<Owners> {
    // Boot sectors, FATs, and the root folder of FAT12 and FAT16.
    let structures = lost.within(Extent::first(boot.data_start)).next().is_some();
    let owners = Owners { structures, ..Owners::default() };
    let mut search = Search {
        source,
        boot,
        lost,
        owners,
        paths: BTreeSet::new(),
        pieces: BTreeMap::new(),
        // In a filesystem that is sound no two files share a cluster.
        left: u64::from(boot.clusters).saturating_mul(2),
    };
    let mut folders = vec![(Vec::new(), boot.root_cluster)];
    while let Some((path, first)) = folders.pop() {
        let bytes = search.folder(&path, first)?;
        for (name, first, is_folder) in entries(&bytes)? {
            let path = [&path[..], b"/", name.as_bytes()].concat();
            // The upper half stands for something else on FAT12 and FAT16.
            let first = if boot.root_cluster.is_some() { first } else { first & 0xFFFF };
            if !is_folder && search.chain(first, None)? {
                search.paths.insert(path);
            } else if is_folder && folders.len() < MOST_FOLDERS && path.len() < 65_536 {
                folders.push((path, Some(first)));
            } else if is_folder {
                search.owners.doubt(&Error::unsupported("so many folders, or so deep ones"));
            }
        }
    }
    let Search { mut owners, paths, .. } = search;
    owners.name(paths);
    Ok(owners)
}

struct Search<'a> {
    source: &'a dyn BlockSource,
    boot: &'a BootSector,
    lost: &'a ExtentSet,
    owners: Owners,
    paths: BTreeSet<Vec<u8>>,
    /// Pieces of the first FAT, by position; what could not be read of one is zeros.
    pieces: BTreeMap<Bytes, Vec<u8>>,
    left: u64,
}

impl Search<'_> {
    fn is_lost(&self, extent: Extent) -> bool {
        self.lost.within(extent).next().is_some()
    }

    /// Reads around what cannot be read.
    fn read(&mut self, extent: Extent) -> Result<Vec<u8>> {
        let mut bytes = vec![0; extent.len().index().unwrap_or(0)];
        let whole = [Extent::first(extent.len())];
        let holes = self.source.read_around(extent.start, &mut bytes, &whole)?;
        for hole in holes.iter().filter_map(|hole| Some(hole.start.index()?..hole.end.index()?)) {
            bytes.get_mut(hole).unwrap_or_default().fill(0);
            self.owners.doubt(&Error::unsupported("reading all folders and chains"));
        }
        Ok(bytes)
    }

    /// The bytes of a folder; `None` is the fixed root of FAT12 and FAT16.
    fn folder(&mut self, path: &[u8], first: Option<u32>) -> Result<Vec<u8>> {
        let Some(first) = first else { return self.read(self.boot.root) };
        let mut extents = Vec::new();
        if self.chain(first, Some(&mut extents))? {
            self.owners.structures = true;
            let path = if path.is_empty() { b"/" } else { path };
            self.paths.insert(path.to_vec());
        }
        let mut bytes = Vec::new();
        for extent in extents {
            if Bytes::of(&bytes) < LARGEST_FOLDER {
                bytes.extend(self.read(extent)?);
            }
        }
        Ok(bytes)
    }

    /// Follows the chain from cluster `first`: whether some of it is lost, and into `extents` its clusters.
    fn chain(&mut self, first: u32, mut extents: Option<&mut Vec<Extent>>) -> Result<bool> {
        let (mut cluster, mut is_hit) = (first, false);
        // An empty file has none; what is behind the last one ends a chain.
        while let Some(extent) = self.boot.cluster_extent(cluster) {
            let Some(left) = self.left.checked_sub(1) else {
                let expected = "each cluster once";
                let error = Error::corrupt("FAT", Bytes::ZERO, expected, "chains that share some");
                self.owners.doubt(&error);
                break;
            };
            self.left = left;
            is_hit |= self.is_lost(extent);
            if let Some(extents) = &mut extents {
                extents.push(extent);
            }
            cluster = self.next(cluster)?;
        }
        Ok(is_hit)
    }

    fn next(&mut self, cluster: u32) -> Result<u32> {
        let at = fat_table::position(self.boot, cluster);
        let start = at.align_down(PIECE);
        if !self.pieces.contains_key(&start) {
            if self.pieces.len() >= PIECES {
                self.pieces.clear();
            }
            // An entry may reach into the next piece.
            let end = start.saturating_add(PIECE).saturating_add(Bytes::new(4));
            let end = end.min(self.source.size());
            let piece = self.read(Extent::new(start, end))?;
            self.pieces.insert(start, piece);
        }
        let piece = self.pieces.get(&start).map(Vec::as_slice).unwrap_or_default();
        fat_table::entry_at(&Structure::new("FAT", start, piece), self.boot, cluster, at - start)
    }
}

/// Name, first cluster and kind of what is in a folder, but for the folder itself and the one it is in.
fn entries(folder: &[u8]) -> Result<Vec<(String, u32, bool)>> {
    let mut found = Vec::new();
    let mut long: Vec<u16> = Vec::new();
    for entry in folder.chunks_exact(ENTRY) {
        let entry = Structure::new("FAT directory entry", Bytes::ZERO, entry);
        let (first, attributes) = (entry.u8(0)?, entry.u8(11)?);
        if first == 0 {
            // Also what could not be read: behind it there may be more.
            continue;
        }
        if first != DELETED && attributes & 0x3F == LONG_NAME {
            // The last part comes first, marked by this bit.
            if first & 0x40 != 0 {
                long.clear();
            }
            let mut part = Vec::new();
            for at in (1..11).chain(14..26).chain(28..32).filter(|at| is_char(*at)) {
                part.push(entry.le16(at)?);
            }
            part.append(&mut long);
            long = part;
            continue;
        }
        let name = std::mem::take(&mut long);
        if first == DELETED || first == b'.' || attributes & VOLUME_LABEL != 0 {
            continue;
        }
        let name = if name.is_empty() { short(&entry)? } else { decoded(&name) };
        let cluster = u32::from(entry.le16(20)?) << 16 | u32::from(entry.le16(26)?);
        found.push((name, cluster, attributes & FOLDER != 0));
    }
    Ok(found)
}

/// Whether a character of a long name's part stands at this offset.
fn is_char(at: usize) -> bool {
    at % 2 == usize::from(at < 11)
}

/// Up to the zero behind it.
fn decoded(name: &[u16]) -> String {
    let name = name.split(|unit| *unit == 0).next().unwrap_or_default();
    String::from_utf16_lossy(name)
}

/// The name in eight and three letters, of which each part may be in small ones.
fn short(entry: &Structure<'_>) -> Result<String> {
    let case = entry.u8(12)?;
    let part = |from: usize, length: usize, small: u8| -> Result<String> {
        let mut bytes = entry.slice(from, length)?.to_vec();
        if let (0, Some(first @ &mut KANJI)) = (from, bytes.first_mut()) {
            *first = DELETED;
        }
        let text = bytes.trim_ascii_end().escape_ascii().to_string();
        Ok(if case & small != 0 { text.to_ascii_lowercase() } else { text })
    };
    let (name, extension) = (part(0, 8, 0x08)?, part(8, 3, 0x10)?);
    Ok(if extension.is_empty() { name } else { format!("{name}.{extension}") })
}

#[cfg(test)]
mod tests {
    use super::entries;

    #[test]
    fn names_are_long_or_short() {
        let mut folder = vec![0; 6 * 32];
        let long: Vec<u16> = "a name of more than thirteen".encode_utf16().chain([0]).collect();
        for (at, part) in long.chunks(13).enumerate() {
            let entry = &mut folder[(2 - at) * 32..][..32];
            entry[0] = [1, 2, 0x43][at];
            entry[11] = 0x0F;
            let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
            for (unit, place) in part.iter().zip(places) {
                entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        folder[96..107].copy_from_slice(b"ANAMEO~1   ");
        folder[96 + 26] = 7;
        folder[128..139].copy_from_slice(b"README  TXT");
        folder[128 + 12] = 0x18;
        folder[160..171].copy_from_slice(b"SUB        ");
        folder[160 + 11] = 0x10;
        folder[160 + 20] = 1;
        let found = entries(&folder).unwrap();
        let expected = [
            ("a name of more than thirteen", 7, false),
            ("readme.txt", 0, false),
            ("SUB", 65536, true),
        ];
        assert_eq!(found, expected.map(|(name, at, folder)| (name.to_owned(), at, folder)));
    }
}
