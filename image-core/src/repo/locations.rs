//! Where the chunks of one table segment lie: so that a restore need not read every pack's trailer.
//!
//! A cache: made from the trailers, rebuilt from them, believed only as far as the packs agree. The places of
//! the chunks that deltas are based on stand beside theirs.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fields::Structure;
use crate::image::hash::{ChunkId, Hash};
use crate::image::header::{HEADER, check_header, encode_header};
use crate::image::pack::Entry;
use crate::repo::index::{PackFile, Slot, is_damage, read_trailer};
use crate::repo::read::Read;
use crate::units::Bytes;

/// The largest file of locations that a reader takes.
pub(super) const MAX_LOCATIONS: Bytes = Bytes::mib(8);

const MAGIC: &[u8; 8] = b"KeikiLoc";
/// Header, segment, number of packs, of places, and of places with a base.
const HEAD: usize = HEADER + 48;
const HASH: usize = 32;
const PLACE: usize = 12 + Entry::SIZE;

/// Where a chunk's stored bytes begin, and its trailer's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub pack: Hash,
    pub offset: Bytes,
    pub entry: Entry,
}

impl Place {
    /// The stored bytes within the pack.
    pub fn range(&self) -> Extent {
        let length = Bytes::from(self.entry.stored_len);
        Extent::new(self.offset, self.offset.saturating_add(length))
    }
}

/// The path of a segment's locations.
pub(super) fn locations_path(segment: Hash) -> String {
    format!("locations/{segment}")
}

/// The file's bytes; `places` are in the order of packs and offsets.
pub(super) fn encode(segment: Hash, places: &[Place]) -> Vec<u8> {
    let numbers: BTreeMap<Hash, u32> = places.iter().map(|place| (place.pack, 0)).collect();
    let numbers: BTreeMap<Hash, u32> = numbers.into_keys().zip(0..).collect();
    let mut bytes = encode_header(MAGIC).to_vec();
    bytes.extend_from_slice(&segment.0);
    let bases = places.iter().filter_map(|place| place.entry.base);
    for count in [numbers.len(), places.len(), bases.clone().count(), 0] {
        bytes.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes.extend(numbers.keys().flat_map(|pack| pack.0));
    for place in places {
        let number = numbers.get(&place.pack).copied().unwrap_or_default();
        bytes.extend_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&place.offset.get().to_le_bytes());
        place.entry.encode(&mut bytes);
    }
    bytes.extend(bases.flat_map(|base| base.0));
    bytes.extend(Hash::of(&bytes).0);
    bytes
}

/// Parses and checks the locations of `segment`.
pub(super) fn parse(segment: Hash, bytes: &[u8]) -> Result<Vec<Place>> {
    let (body, hash) = bytes.split_last_chunk::<HASH>().unwrap_or((bytes, &[0; HASH]));
    let structure = Structure::new("locations", Bytes::ZERO, body);
    let found = Hash::of(body);
    if found != Hash(*hash) {
        return Err(structure.corrupt("hash", body.len(), Hash(*hash).to_string(), found));
    }
    check_header(&structure, MAGIC)?;
    let claimed = Hash(structure.array(HEADER)?);
    if claimed != segment {
        return Err(structure.corrupt("segment", HEADER, segment.to_string(), claimed));
    }
    let count = |at| structure.le32(at).map(|count| usize::try_from(count).unwrap_or(usize::MAX));
    let (packs, places, bases) = (count(HEADER + 32)?, count(HEADER + 36)?, count(HEADER + 40)?);
    let behind =
        |at: Option<usize>, size: usize, count: usize| size.checked_mul(count)?.checked_add(at?);
    let first = behind(Some(HEAD), HASH, packs);
    let first_base = behind(first, PLACE, places);
    let end = behind(first_base, HASH, bases);
    let (Some(first), Some(mut base_at), true) = (first, first_base, end == Some(body.len()))
    else {
        let expected = format!("{packs} packs, {places} places, {bases} bases");
        return Err(structure.corrupt("length", HEADER + 32, expected, body.len()));
    };
    let place = |number: usize| {
        let at = first + number * PLACE;
        let pack = usize::try_from(structure.le32(at)?).unwrap_or(usize::MAX);
        if pack >= packs {
            return Err(structure.corrupt("pack number", at, format!("below {packs}"), pack));
        }
        let offset = Bytes::new(structure.le64(at + 4)?);
        let mut entry = Entry::parse(&structure, at + 12)?;
        if entry.codec.has_base() {
            entry.base = Some(ChunkId(structure.array(base_at)?));
            base_at += HASH;
        }
        Ok(Place { pack: Hash(structure.array(HEAD + pack * HASH)?), offset, entry })
    };
    let places: Vec<Place> = (0..places).map(place).collect::<Result<_>>()?;
    if base_at != body.len() {
        let with_base = places.iter().filter(|place| place.entry.base.is_some()).count();
        return Err(structure.corrupt("bases", HEADER + 40, with_base.to_string(), bases));
    }
    Ok(places)
}

/// How chunks are looked up: in which pack and where there, as far as memory allowed to keep that.
pub(super) struct Lookup<'a> {
    pub packs: &'a [PackFile],
    pub complete: bool,
    pub find: &'a dyn Fn(&ChunkId) -> Option<Slot>,
}

/// Finds chunks by the packs' trailers, and the bases of those that are deltas; what is in no intact pack is
/// left out, and deltas whose base is.
pub(super) fn locate(
    files: &dyn Read,
    lookup: &Lookup<'_>,
    ids: impl Iterator<Item = ChunkId>,
) -> Result<Vec<Place>> {
    let mut places = locate_alone(files, lookup, ids, false)?;
    let is_full = |place: &&Place| place.entry.base.is_none();
    let full: HashSet<ChunkId> =
        places.iter().filter(is_full).map(|place| place.entry.id).collect();
    let bases: HashSet<ChunkId> = places.iter().filter_map(|place| place.entry.base).collect();
    places.extend(locate_alone(files, lookup, bases.difference(&full).copied(), true)?);
    let full: HashSet<ChunkId> =
        places.iter().filter(is_full).map(|place| place.entry.id).collect();
    // Where there is a full chunk, a delta of the same bytes is not needed.
    let has_base = |place: &Place, base| full.contains(&base) && !full.contains(&place.entry.id);
    places.retain(|place| place.entry.base.is_none_or(|base| has_base(place, base)));
    places.sort_unstable_by_key(|place| (place.pack, place.offset));
    Ok(places)
}

/// Finds chunks that stand in full in one of these packs: trailers are read until no chunk is looked for any more.
pub(super) fn find_full(
    files: &dyn Read,
    packs: &[PackFile],
    ids: HashSet<ChunkId>,
) -> Result<HashMap<ChunkId, Place>> {
    let lookup = Lookup { packs, complete: false, find: &|_| None };
    let places = locate_alone(files, &lookup, ids.into_iter(), true)?;
    Ok(places.into_iter().map(|place| (place.entry.id, place)).collect())
}

fn locate_alone(
    files: &dyn Read,
    lookup: &Lookup<'_>,
    ids: impl Iterator<Item = ChunkId>,
    full_only: bool,
) -> Result<Vec<Place>> {
    let mut slots: Vec<(Slot, ChunkId)> = Vec::new();
    let mut rest = HashSet::new();
    for id in ids {
        match (lookup.find)(&id) {
            Some(slot) => slots.push((slot, id)),
            None => {
                rest.insert(id);
            }
        }
    }
    slots.sort_unstable();
    slots.dedup();
    let mut places = Vec::with_capacity(slots.len());
    let fits = |entry: &Entry| !full_only || entry.base.is_none();
    for of_one_pack in slots.chunk_by(|one, other| one.0.pack == other.0.pack) {
        let wanted: HashMap<u32, ChunkId> =
            of_one_pack.iter().map(|(slot, id)| (slot.entry, *id)).collect();
        let number = of_one_pack.first().and_then(|(slot, _)| usize::try_from(slot.pack).ok());
        if let Some(pack) = number.and_then(|number| lookup.packs.get(number)) {
            take_places(files, *pack, &mut places, |number, entry| {
                wanted.get(&number) == Some(&entry.id) && fits(entry)
            })?;
        }
    }
    if !lookup.complete {
        // A delta may be what was remembered of a chunk that is in full elsewhere.
        if full_only {
            let found: HashSet<ChunkId> = places.iter().map(|place| place.entry.id).collect();
            rest.extend(slots.iter().map(|(_, id)| *id).filter(|id| !found.contains(id)));
        }
        for pack in lookup.packs {
            if rest.is_empty() {
                break;
            }
            let mut wanted = |_, entry: &Entry| fits(entry) && rest.remove(&entry.id);
            take_places(files, *pack, &mut places, &mut wanted)?;
        }
    }
    Ok(places)
}

fn take_places(
    files: &dyn Read,
    pack: PackFile,
    places: &mut Vec<Place>,
    mut wanted: impl FnMut(u32, &Entry) -> bool,
) -> Result<()> {
    let trailer = match read_trailer(files, pack) {
        Err(error) if is_damage(&error) => return Ok(()),
        other => other?,
    };
    let chunks = (0..).zip(trailer.chunks).filter(|(number, (_, entry))| wanted(*number, entry));
    places.extend(chunks.map(|(_, (offset, entry))| Place { pack: pack.name, offset, entry }));
    Ok(())
}

/// Reads the locations of a segment.
///
/// # Errors
/// `Corrupt` where the file is damaged, `Io` of kind `NotFound` where there is none.
pub(super) fn read(files: &dyn Read, segment: Hash) -> Result<Vec<Place>> {
    let path = locations_path(segment);
    let bytes = files.get(&path, MAX_LOCATIONS)?;
    parse(segment, &bytes).map_err(|error: Error| error.on(&path))
}

/// Where wanted chunks and their bases lie, and what is known of those that could not be placed.
#[derive(Default)]
pub(super) struct Places {
    /// By chunk; the base of each delta is there too, and is none itself.
    pub found: HashMap<ChunkId, Place>,
    /// Places that are not believed.
    pub hints: HashMap<ChunkId, Place>,
}

/// Finds the chunks `ids` of a segment by its locations, as far as `believe` takes their packs for intact; the
/// rest by `locate`, which knows all trailers.
pub(super) fn resolve(
    files: &dyn Read,
    segment: Hash,
    ids: &HashSet<ChunkId>,
    believe: &mut dyn FnMut(Hash) -> Result<bool>,
    locate: &mut dyn FnMut(&[ChunkId]) -> Result<Vec<Place>>,
) -> Result<Places> {
    let hints = match read(files, segment) {
        Err(error) if is_damage(&error) => Vec::new(),
        other => other?,
    };
    let mut places = Places::default();
    let mut believed = HashMap::new();
    for place in hints {
        if believe(place.pack)? {
            believed.insert(place.entry.id, place);
        } else {
            places.hints.insert(place.entry.id, place);
        }
    }
    let mut missing = Vec::new();
    for id in ids {
        let place = believed.get(id);
        let base = place.and_then(|place| place.entry.base);
        let base_place = base.and_then(|base| believed.get(&base));
        match (place, base_place) {
            (Some(place), None) if base.is_none() => {
                places.found.insert(*id, *place);
            }
            (Some(place), Some(of_base)) if of_base.entry.base.is_none() => {
                places.found.insert(*id, *place);
                places.found.insert(of_base.entry.id, *of_base);
            }
            _ => {
                places.hints.extend(place.map(|place| (*id, *place)));
                missing.push(*id);
            }
        }
    }
    if !missing.is_empty() {
        let located = locate(&missing)?;
        places.found.extend(located.into_iter().map(|place| (place.entry.id, place)));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Place, encode, parse};
    use crate::image::codec::Codec;
    use crate::image::hash::{ChunkId, Hash};
    use crate::image::header::encode_header;
    use crate::image::pack::Entry;
    use crate::units::Bytes;

    fn place((pack, offset): (u8, u64)) -> Place {
        let entry = Entry {
            id: ChunkId([pack; 32]),
            stored_hash: Hash([7; 32]),
            codec: Codec::ZSTD,
            cipher: 0,
            plain_len: 9,
            stored_len: 5,
            base: None,
        };
        let is_delta = offset % 2 == 1;
        let (codec, base) = match is_delta {
            true => (Codec::PREFIX, Some(ChunkId([pack + 1; 32]))),
            false => (Codec::ZSTD, None),
        };
        let entry = Entry { codec, base, ..entry };
        Place { pack: Hash([pack; 32]), offset: Bytes::new(offset), entry }
    }

    proptest! {
        #[test]
        fn locations_round_trip(mut places in prop::collection::vec((0u8..5, any::<u64>()), 0..20)) {
            places.sort_unstable();
            let places: Vec<Place> = places.into_iter().map(place).collect();
            let bytes = encode(Hash([1; 32]), &places);
            prop_assert_eq!(parse(Hash([1; 32]), &bytes).unwrap(), places);
            prop_assert!(parse(Hash([2; 32]), &bytes).is_err(), "of another segment");
        }

        #[test]
        fn hostile_locations_never_panic(counts: (u32, u32, u32), tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = encode_header(super::MAGIC).to_vec();
            bytes.extend([1; 32]);
            bytes.extend(counts.0.to_le_bytes());
            bytes.extend(counts.1.to_le_bytes());
            bytes.extend(counts.2.to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(tail);
            bytes.extend(Hash::of(&bytes).0);
            prop_assert!(parse(Hash([1; 32]), &bytes).is_err() || counts == (0, 0, 0));
        }

        #[test]
        fn hostile_places_never_panic(pack in 0u32..3, bytes in prop::array::uniform32(any::<u8>())) {
            let mut file = encode(Hash([1; 32]), &[place((1, 2))]);
            file.truncate(file.len() - 32);
            let at = file.len() - super::PLACE;
            file[at..at + 4].copy_from_slice(&pack.to_le_bytes());
            let end = file.len();
            file[end - 32..].copy_from_slice(&bytes);
            file.extend(Hash::of(&file).0);
            if pack > 0 {
                prop_assert!(parse(Hash([1; 32]), &file).is_err());
            } else {
                let _ = parse(Hash([1; 32]), &file);
            }
        }
    }
}
