//! Many chunks with few reads, verified and decoded on all cores.
//!
//! The bases of deltas among them are read along: what is changed together lies together, so they lie close to
//! each other too, in another pack.

use std::collections::HashMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::codec::Decoder;
use crate::image::hash::{ChunkId, Hash};
use crate::repo::feed::{Delivery, Lost};
use crate::repo::index::{is_damage, pack_path};
use crate::repo::locations::Place;
use crate::repo::read::Read;
use crate::units::Bytes;

/// The chunks that are read at once, and their bases, have at most so many plain bytes for each core, and half as many
/// stored ones; a single chunk may be longer. More of them would take memory and no less time.
const PLAIN: Bytes = Bytes::mib(3);

/// With how many cores that grows: with more, two decoded batches take 100 MiB.
const CORES: usize = 16;

/// Bytes that nobody wants are read along up to here: a seek costs more.
const GAP: Bytes = Bytes::kib(512);

/// The same between bases, of which a batch may have many.
const BASE_GAP: Bytes = Bytes::kib(64);

/// The largest window: a pack does not say of which its chunks are.
const MAX_WINDOW: Bytes = Bytes::mib(4);

/// Chunks that are read at once, and the bases that they need.
pub(super) struct Batch {
    parts: Vec<Part>,
    bases: Vec<Part>,
}

/// In which order chunks are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// As they lie in the packs: the places are in that order, and a batch is one read.
    OfPacks,
    /// As they are named, batch by batch; within a batch as they lie.
    Named,
}

/// One read.
struct Part {
    pack: Hash,
    range: Extent,
    places: Vec<Place>,
}

impl Part {
    fn new(place: Place) -> Self {
        Self { pack: place.pack, range: place.range(), places: vec![place] }
    }

    /// Whether the place, which lies behind, is close enough.
    fn is_near(&self, place: &Place, gap: Bytes, longest: Bytes) -> bool {
        let range = place.range();
        self.pack == place.pack
            && range.start.saturating_sub(self.range.end) <= gap
            && range.end.saturating_sub(self.range.start) <= longest
    }

    fn push(&mut self, place: Place) {
        self.range.end = self.range.end.max(place.range().end);
        self.places.push(place);
    }
}

/// Places as few reads.
fn parts(mut places: Vec<Place>, gap: Bytes, longest: Bytes) -> Vec<Part> {
    places.sort_unstable_by_key(|place| (place.pack, place.offset));
    let mut parts: Vec<Part> = Vec::new();
    for place in places {
        match parts.last_mut().filter(|part| part.is_near(&place, gap, longest)) {
            Some(part) => part.push(place),
            None => parts.push(Part::new(place)),
        }
    }
    parts
}

/// A batch that is being put together.
struct Group {
    part: Part,
    bases: HashMap<ChunkId, Place>,
    stored: Bytes,
    plain: Bytes,
}

impl Group {
    /// What it would take with another chunk, and that one's base.
    fn with(&self, place: &Place, base: Option<&Place>) -> (Bytes, Bytes) {
        let base = base.filter(|base| !self.bases.contains_key(&base.entry.id));
        let (stored, plain) = sizes_with(place, base);
        (self.stored.saturating_add(stored), self.plain.saturating_add(plain))
    }
}

/// Groups places; `bases` are the places of their bases.
pub(super) fn batches(
    places: Vec<Place>,
    bases: &HashMap<ChunkId, Place>,
    order: Order,
) -> Vec<Batch> {
    let cores = u64::try_from(rayon::current_num_threads().min(CORES)).unwrap_or(1);
    let most = Bytes::new(PLAIN.get().saturating_mul(cores));
    let most_stored = Bytes::new(most.get() / 2);
    let mut groups: Vec<Group> = Vec::new();
    for place in places {
        let base = place.entry.base.and_then(|base| bases.get(&base));
        let also = base.map(|base| (base.entry.id, *base));
        if let Some(group) = groups.last_mut() {
            let (stored, plain) = group.with(&place, base);
            let is_near = order == Order::Named || group.part.is_near(&place, GAP, most_stored);
            if is_near && stored <= most_stored && plain <= most {
                group.part.push(place);
                group.bases.extend(also);
                (group.stored, group.plain) = (stored, plain);
                continue;
            }
        }
        let (stored, plain) = sizes_with(&place, base);
        let (part, bases) = (Part::new(place), also.into_iter().collect());
        groups.push(Group { part, bases, stored, plain });
    }
    // Of many reads in one batch none may read much that nobody wants.
    let gap = if order == Order::Named { BASE_GAP } else { GAP };
    let batch = |group: Group| Batch {
        parts: parts(group.part.places, gap, most_stored),
        bases: parts(group.bases.into_values().collect(), BASE_GAP, most_stored),
    };
    groups.into_iter().map(batch).collect()
}

fn sizes_with(place: &Place, base: Option<&Place>) -> (Bytes, Bytes) {
    let (stored, plain) = sizes(place);
    let (of_base, plain_of_base) = base.map_or((Bytes::ZERO, Bytes::ZERO), sizes);
    (stored.saturating_add(of_base), plain.saturating_add(plain_of_base))
}

fn sizes(place: &Place) -> (Bytes, Bytes) {
    (Bytes::from(place.entry.stored_len), Bytes::from(place.entry.plain_len))
}

/// What was read of a part's range, and which chunks could not be.
struct Raw {
    bytes: Vec<u8>,
    failed: HashMap<ChunkId, String>,
}

/// Reads and decodes one batch after another, the next one while the one before is decoded.
///
/// Stops early where `deliver` says that nobody listens any more.
pub(super) fn read_batches(
    files: &dyn Read,
    window: Bytes,
    plan: &[Batch],
    mut deliver: impl FnMut(Vec<Delivery>) -> Result<bool>,
) -> Result<()> {
    let make = |place: &Place, _: &[u8], plain| Delivery::Chunk { id: place.entry.id, plain };
    read_stored(files, window, plan, make, |batch| {
        deliver(batch.into_iter().map(|made| made.unwrap_or_else(Delivery::Lost)).collect())
    })
}

/// The same, with what `make` makes of each chunk's place, its stored and its plain bytes: on all cores.
pub(super) fn read_stored<T: Send>(
    files: &dyn Read,
    window: Bytes,
    plan: &[Batch],
    make: impl Fn(&Place, &[u8], Vec<u8>) -> T + Sync,
    mut deliver: impl FnMut(Vec<Result<T, Lost>>) -> Result<bool>,
) -> Result<()> {
    let read = |number: usize| plan.get(number).map(|batch| read_batch(files, batch)).transpose();
    let mut raw = read(0)?;
    for (number, batch) in (1..).zip(plan) {
        let Some(bytes) = raw.take() else { return Ok(()) };
        let (next, deliveries) =
            rayon::join(|| read(number), || decode_batch(window, batch, bytes, &make));
        if !deliver(deliveries?)? {
            return Ok(());
        }
        raw = next?;
    }
    Ok(())
}

/// Reads and decodes all chunks at these places in one pack; `told` gets what is wrong with some of them, batch by batch.
pub(super) fn find_damage(
    files: &dyn Read,
    places: Vec<Place>,
    bases: &HashMap<ChunkId, Place>,
    mut told: impl FnMut(Vec<Error>) -> Result<()>,
) -> Result<()> {
    let plan = batches(places, bases, Order::OfPacks);
    read_batches(files, MAX_WINDOW, &plan, |deliveries| {
        let lost = deliveries.into_iter().filter_map(|delivery| match delivery {
            Delivery::Chunk { .. } => None,
            Delivery::Lost(lost) => Some(damage(&lost)),
        });
        told(lost.collect()).map(|()| true)
    })
}

fn damage(lost: &Lost) -> Error {
    let path = lost.pack.map(pack_path).unwrap_or_default();
    let why = lost.why.trim_start_matches(&format!("{path}: "));
    let at = lost.offset.unwrap_or_default();
    Error::corrupt("stored data", at, "an intact chunk", why).on(&path)
}

/// The parts themselves, then the bases.
fn read_batch(files: &dyn Read, batch: &Batch) -> Result<Vec<Raw>> {
    batch.parts.iter().chain(&batch.bases).map(|part| read_part(files, part)).collect()
}

/// Where the range cannot be read as a whole, each chunk is tried alone: only those on bad sectors, or behind
/// the end of a pack that was cut short, are lost.
fn read_part(files: &dyn Read, part: &Part) -> Result<Raw> {
    let path = pack_path(part.pack);
    match files.range(&path, part.range) {
        Ok(bytes) => return Ok(Raw { bytes, failed: HashMap::new() }),
        Err(error) if is_damage(&error) => {}
        Err(error) => return Err(error),
    }
    let length = part.range.len().index().unwrap_or_default();
    let mut raw = Raw { bytes: vec![0; length], failed: HashMap::new() };
    for place in &part.places {
        match files.range(&path, place.range()) {
            Ok(bytes) => {
                if let Some(slot) = within(part, place).and_then(|at| raw.bytes.get_mut(at)) {
                    slot.copy_from_slice(&bytes);
                }
            }
            Err(error) if is_damage(&error) => {
                raw.failed.insert(place.entry.id, error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(raw)
}

/// A chunk's stored bytes as indices into the bytes of its part.
fn within(part: &Part, place: &Place) -> Option<std::ops::Range<usize>> {
    let start = place.offset.checked_sub(part.range.start)?.index()?;
    Some(start..start.checked_add(usize::try_from(place.entry.stored_len).ok()?)?)
}

/// Bases that were read for a batch.
type Bases = HashMap<ChunkId, Result<Vec<u8>, Lost>>;

fn decode_batch<T: Send>(
    window: Bytes,
    batch: &Batch,
    mut raw: Vec<Raw>,
    make: &(impl Fn(&Place, &[u8], Vec<u8>) -> T + Sync),
) -> Result<Vec<Result<T, Lost>>> {
    let of_bases = raw.split_off(batch.parts.len().min(raw.len()));
    let mut bases = Bases::new();
    for (part, raw) in batch.bases.iter().zip(of_bases) {
        let plain = |place: &Place, _: &[u8], plain| (place.entry.id, plain);
        for base in decode_part((window, &Bases::new()), part, &raw, &plain)? {
            match base {
                Ok((id, plain)) => bases.insert(id, Ok(plain)),
                Err(lost) => bases.insert(lost.id, Err(lost)),
            };
        }
    }
    let mut made = Vec::new();
    for (part, raw) in batch.parts.iter().zip(raw) {
        made.extend(decode_part((window, &bases), part, &raw, make)?);
    }
    Ok(made)
}

fn decode_part<T: Send>(
    (window, bases): (Bytes, &Bases),
    part: &Part,
    raw: &Raw,
    make: &(impl Fn(&Place, &[u8], Vec<u8>) -> T + Sync),
) -> Result<Vec<Result<T, Lost>>> {
    let decode = |decoder: &mut Result<Decoder>, place: &Place| {
        let decoder = decoder.as_mut().map_err(|error| {
            Error::io("decoder", "set up", std::io::Error::other(error.to_string()))
        })?;
        let id = place.entry.id;
        let base = match place.entry.base.map(|base| (base, bases.get(&base))) {
            None => None,
            Some((_, Some(Ok(base)))) => Some(base.as_slice()),
            // The damaged file is the one to be named.
            Some((base, Some(Err(lost)))) => {
                let why = format!("its base, chunk {base}: {}", lost.why);
                return Ok(Err(Lost { id, why, ..lost.clone() }));
            }
            Some((base, None)) => {
                let why = format!("its base, chunk {base}, is in no intact pack");
                return Ok(Err(Lost::at(place, why)));
            }
        };
        let made = match (raw.failed.get(&id), within(part, place)) {
            (None, Some(at)) => {
                let stored = raw.bytes.get(at).unwrap_or_default();
                let mut plain = Vec::new();
                verified(decoder, place, stored, base, &mut plain)
                    .map(|()| make(place, stored, plain))
                    .map_err(|error| Lost::at(place, error.on(&pack_path(place.pack)).to_string()))
            }
            (Some(why), _) => Err(Lost { is_unread: true, ..Lost::at(place, why.clone()) }),
            (None, None) => Err(Lost::at(place, "its place contradicts itself".to_owned())),
        };
        Ok(made)
    };
    part.places.par_iter().map_init(|| Decoder::new(window), decode).collect()
}

/// Puts the chunk's bytes into `plain`: the stored ones are checked before a decompressor sees them, the plain
/// ones after. A base was verified before.
pub(super) fn verified(
    decoder: &mut Decoder,
    place: &Place,
    stored: &[u8],
    base: Option<&[u8]>,
    plain: &mut Vec<u8>,
) -> Result<()> {
    let entry = &place.entry;
    if entry.cipher != 0 {
        return Err(Error::unsupported(format!("chunk cipher {}", entry.cipher)));
    }
    let found = Hash::of(stored);
    if found != entry.stored_hash {
        let what = format!("chunk {}, hash of the stored bytes", entry.id);
        let (expected, found) = (entry.stored_hash.to_string(), found.to_string());
        return Err(Error::corrupt(what, place.offset, expected, found));
    }
    let plain_len = Bytes::from(entry.plain_len);
    match base {
        None => decoder.decode(entry.codec, stored, plain_len, plain)?,
        Some(base) => decoder.decode_delta(entry.codec, base, stored, plain_len, plain)?,
    }
    check_id(&entry.id, place.offset, plain)
}

/// Refuses plain bytes that are not those of the chunk `id`, which stands at `offset`.
pub(super) fn check_id(id: &ChunkId, offset: Bytes, plain: &[u8]) -> Result<()> {
    let found = ChunkId::of(plain);
    if found == *id {
        return Ok(());
    }
    let what = format!("chunk {id}, hash of the plain bytes");
    Err(Error::corrupt(what, offset, id.to_string(), found.to_string()))
}
