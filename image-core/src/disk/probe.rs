//! Signatures: what stands on a volume, and every place where something could.
//!
//! Both answers come from one table (`known`), which follows libblkid's. Unlike `blkid`, [`signatures`]
//! does not stop at the first hit and never picks: several are the caller's to judge.

use std::collections::BTreeMap;

use super::known::{KNOWN, Known, Mark};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::BlockSource;
use crate::units::Bytes;

/// What kind of thing a signature belongs to, as libblkid sorts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// Holds files.
    Filesystem,
    /// Part of something larger: RAID, LVM.
    Raid,
    /// Encrypted.
    Crypto,
    /// Swap, caches, journals.
    Other,
    /// A partition table.
    Table,
}

/// One signature that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// blkid's TYPE (for tables its PTTYPE): `ext4`, `LVM2_member`, `gpt`.
    pub name: &'static str,
    /// What kind of thing it is.
    pub usage: Usage,
    /// Position of the structure that holds it.
    pub offset: Bytes,
    /// A second copy of a structure: it stays behind when another filesystem overwrites the first, and
    /// no tool takes a volume for this because of it alone.
    pub copy: bool,
    /// Label, for those that Keiki does not map (btrfs, ntfs, exfat, LUKS, md).
    pub label: Option<String>,
    /// UUID or serial as blkid writes it, for the same.
    pub uuid: Option<String>,
}

/// All signatures on a volume, by position.
///
/// # Errors
/// [`Error::Io`] where a place cannot be read.
pub fn signatures(source: &dyn BlockSource) -> Result<Vec<Signature>> {
    let mut pages = Pages { source, read: BTreeMap::new() };
    let mut found: Vec<Signature> = Vec::new();
    for known in KNOWN {
        for mark in known.marks {
            let Some(offset) = mark.structure(source.size()) else { continue };
            let known_already =
                found.iter().any(|have| have.offset == offset && known.is_called(have.name));
            if !known_already && let Some(signature) = look(&mut pages, known, mark, offset)? {
                found.push(signature);
            }
        }
    }
    found.sort_by_key(|signature| signature.offset);
    Ok(found)
}

/// Every place of a volume of `size` where a signature could stand: to be zeroed where nothing else is
/// written, so that nothing of a former life is found. Whole blocks of 4 KiB, clipped at the end.
pub fn places(size: Bytes) -> ExtentSet {
    let marks = KNOWN.iter().flat_map(|known| known.marks);
    let mut places: Vec<Extent> = marks.flat_map(|mark| mark.places(size)).collect();
    places.sort_unstable();
    places.into_iter().collect::<ExtentSet>().rounded_out(Bytes::BLOCK, size)
}

fn look(
    pages: &mut Pages<'_>,
    known: &Known,
    mark: &Mark,
    offset: Bytes,
) -> Result<Option<Signature>> {
    for place in mark.places(pages.source.size()) {
        let bytes = pages.bytes(place.start, place.len())?;
        let held =
            bytes.is_some_and(|bytes| mark.magics.iter().any(|magic| bytes.starts_with(magic)));
        if held && let Some(identity) = (known.confirm)(pages, offset, place.start)? {
            return Ok(Some(Signature {
                name: identity.name.unwrap_or(known.name),
                usage: known.usage,
                offset,
                copy: mark.copy,
                label: identity.label,
                uuid: identity.uuid,
            }));
        }
    }
    Ok(None)
}

/// The volume's bytes, read once in pages of 64 KiB: most signatures are neighbours.
pub(super) struct Pages<'a> {
    source: &'a dyn BlockSource,
    read: BTreeMap<Bytes, Vec<u8>>,
}

const PAGE: Bytes = Bytes::kib(64);

/// What cannot be read carries no signature, neither for us nor for anybody else: it counts as zeros.
fn read(source: &dyn BlockSource, start: Bytes, length: usize) -> Result<Vec<u8>> {
    let mut page = vec![0; length];
    let holes = source.read_around(start, &mut page, &[Extent::first(Bytes::from(length))])?;
    for hole in holes.iter().filter_map(|hole| Some(hole.start.index()?..hole.end.index()?)) {
        page.get_mut(hole).unwrap_or_default().fill(0);
    }
    Ok(page)
}

impl Pages<'_> {
    /// `length` bytes at `offset` (64 KiB at most); `None` beyond the end.
    pub(super) fn bytes(&mut self, offset: Bytes, length: Bytes) -> Result<Option<Vec<u8>>> {
        let size = self.source.size();
        let wanted = Extent::at(offset, length).filter(|wanted| wanted.end <= size);
        let Some(wanted) = wanted.filter(|_| length <= PAGE) else { return Ok(None) };
        let mut bytes = Vec::new();
        while bytes.len() < length.index().unwrap_or(0) {
            let at = wanted.start.saturating_add(Bytes::of(&bytes));
            let start = at.align_down(PAGE);
            let page = match self.read.entry(start) {
                std::collections::btree_map::Entry::Occupied(have) => have.into_mut(),
                std::collections::btree_map::Entry::Vacant(free) => {
                    let end = start.saturating_add(PAGE).min(size);
                    let length = end.saturating_sub(start).index().unwrap_or(0);
                    free.insert(read(self.source, start, length)?)
                }
            };
            let page = Extent::new(start, start.saturating_add(Bytes::of(page)))
                .intersect(Extent::new(at, wanted.end))
                .map(|part| part.relative_to(start))
                .and_then(|part| page.get(part.start.index()?..part.end.index()?))
                .ok_or_else(|| Error::corrupt("probe", at, "a page", "none"))?;
            bytes.extend_from_slice(page);
        }
        Ok(Some(bytes))
    }

    /// `N` bytes at `offset`; `None` beyond the end.
    pub(super) fn array<const N: usize>(&mut self, offset: Bytes) -> Result<Option<[u8; N]>> {
        let bytes = self.bytes(offset, Bytes::from(N))?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::io::memory::Memory;

    proptest! {
        #[test]
        fn no_bytes_and_no_size_panic(
            size in 0..300_000usize,
            fill in any::<u8>(),
            plants in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200),
        ) {
            let mut bytes = vec![fill; size];
            for (index, value) in damage.iter().filter(|_| size > 0) {
                bytes[index.index(size)] = *value;
            }
            for (known, mark) in plants {
                let marks = KNOWN[known.index(KNOWN.len())].marks;
                let mark = &marks[mark.index(marks.len())];
                for place in mark.places(Bytes::from(size)) {
                    let magic = mark.magics[0];
                    let start = place.start.index().unwrap();
                    bytes[start..start + magic.len()].copy_from_slice(magic);
                }
            }
            let found = signatures(&Memory::new(bytes.clone())).unwrap();
            // And what was found lies in the places: without these there is nothing.
            for place in places(Bytes::from(size)).iter() {
                bytes[place.start.index().unwrap()..place.end.index().unwrap()].fill(0);
            }
            prop_assert_eq!(signatures(&Memory::new(bytes)).unwrap(), []);
            prop_assert!(found.iter().all(|signature| signature.offset < Bytes::from(size)));
        }
    }
}
