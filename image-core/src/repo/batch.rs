//! Many chunks of one pack with one read, verified and decoded on all cores.
//!
//! The bases of deltas among them are read along: what is changed together lies together, so they lie close to
//! each other too, in another pack.

use std::collections::{HashMap, HashSet};

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

/// Chunks of one pack that are read at once, and the bases that they need.
pub(super) struct Batch {
    part: Part,
    bases: Vec<Part>,
    stored: Bytes,
    plain: Bytes,
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

/// Groups places, which are in the order of packs and offsets; `bases` are the places of their bases.
pub(super) fn batches(places: Vec<Place>, bases: &HashMap<ChunkId, Place>) -> Vec<Batch> {
    let cores = u64::try_from(rayon::current_num_threads().min(CORES)).unwrap_or(1);
    let most = Bytes::new(PLAIN.get().saturating_mul(cores));
    let most_stored = Bytes::new(most.get() / 2);
    let mut batches: Vec<Batch> = Vec::new();
    let mut needed: Vec<HashSet<ChunkId>> = Vec::new();
    for place in places {
        let base = place.entry.base.and_then(|base| bases.get(&base));
        let batch = batches.last_mut().zip(needed.last_mut());
        if let Some((batch, needed)) = batch {
            let base = base.filter(|base| !needed.contains(&base.entry.id));
            let (stored, plain) = base.map_or((Bytes::ZERO, Bytes::ZERO), sizes);
            let stored = batch.stored.saturating_add(stored).saturating_add(sizes(&place).0);
            let plain = batch.plain.saturating_add(plain).saturating_add(sizes(&place).1);
            if batch.part.is_near(&place, GAP, most_stored)
                && stored <= most_stored
                && plain <= most
            {
                batch.part.push(place);
                needed.extend(base.map(|base| base.entry.id));
                (batch.stored, batch.plain) = (stored, plain);
                continue;
            }
        }
        let (stored, plain) = base.map_or((Bytes::ZERO, Bytes::ZERO), sizes);
        let (stored, plain) =
            (stored.saturating_add(sizes(&place).0), plain.saturating_add(sizes(&place).1));
        needed.push(base.map(|base| base.entry.id).into_iter().collect());
        batches.push(Batch { part: Part::new(place), bases: Vec::new(), stored, plain });
    }
    for (batch, needed) in batches.iter_mut().zip(needed) {
        let mut places: Vec<Place> =
            needed.iter().filter_map(|id| bases.get(id)).copied().collect();
        places.sort_unstable_by_key(|place| (place.pack, place.offset));
        for place in places {
            match batch.bases.last_mut().filter(|part| part.is_near(&place, BASE_GAP, most_stored))
            {
                Some(part) => part.push(place),
                None => batch.bases.push(Part::new(place)),
            }
        }
    }
    batches
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
    let read = |number: usize| plan.get(number).map(|batch| read_batch(files, batch)).transpose();
    let mut raw = read(0)?;
    for (number, batch) in (1..).zip(plan) {
        let Some(bytes) = raw.take() else { return Ok(()) };
        let (next, deliveries) =
            rayon::join(|| read(number), || decode_batch(window, batch, bytes));
        if !deliver(deliveries?)? {
            return Ok(());
        }
        raw = next?;
    }
    Ok(())
}

/// The part itself, then the bases.
fn read_batch(files: &dyn Read, batch: &Batch) -> Result<Vec<Raw>> {
    std::iter::once(&batch.part).chain(&batch.bases).map(|part| read_part(files, part)).collect()
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

fn decode_batch(window: Bytes, batch: &Batch, raw: Vec<Raw>) -> Result<Vec<Delivery>> {
    let mut raw = raw.into_iter();
    let own = raw.next();
    let mut bases = Bases::new();
    for (part, raw) in batch.bases.iter().zip(raw) {
        for delivery in decode_part(window, part, &raw, &Bases::new())? {
            bases.insert(
                delivery.id(),
                match delivery {
                    Delivery::Chunk { plain, .. } => Ok(plain),
                    Delivery::Lost(lost) => Err(lost),
                },
            );
        }
    }
    own.map_or(Ok(Vec::new()), |raw| decode_part(window, &batch.part, &raw, &bases))
}

fn decode_part(window: Bytes, part: &Part, raw: &Raw, bases: &Bases) -> Result<Vec<Delivery>> {
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
                return Ok(Delivery::Lost(Lost { id, why, ..lost.clone() }));
            }
            Some((base, None)) => {
                let why = format!("its base, chunk {base}, is in no intact pack");
                return Ok(Delivery::Lost(Lost::at(place, why)));
            }
        };
        let plain = match (raw.failed.get(&id), within(part, place)) {
            (None, Some(at)) => {
                let stored = raw.bytes.get(at).unwrap_or_default();
                let mut plain = Vec::new();
                verified(decoder, place, stored, base, &mut plain)
                    .map(|()| plain)
                    .map_err(|error| error.on(&pack_path(place.pack)).to_string())
            }
            (Some(why), _) => Err(why.clone()),
            (None, None) => Err("its place contradicts itself".to_owned()),
        };
        Ok(match plain {
            Ok(plain) => Delivery::Chunk { id, plain },
            Err(why) => Delivery::Lost(Lost::at(place, why)),
        })
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
    let wrong = |what: &str, expected: String, found: String| {
        Error::corrupt(format!("chunk {}, {what}", entry.id), place.offset, expected, found)
    };
    if entry.cipher != 0 {
        return Err(Error::unsupported(format!("chunk cipher {}", entry.cipher)));
    }
    let found = Hash::of(stored);
    if found != entry.stored_hash {
        let (expected, found) = (entry.stored_hash.to_string(), found.to_string());
        return Err(wrong("hash of the stored bytes", expected, found));
    }
    let plain_len = Bytes::from(entry.plain_len);
    match base {
        None => decoder.decode(entry.codec, stored, plain_len, plain)?,
        Some(base) => decoder.decode_delta(entry.codec, base, stored, plain_len, plain)?,
    }
    let found = ChunkId::of(plain);
    if found != entry.id {
        return Err(wrong("hash of the plain bytes", entry.id.to_string(), found.to_string()));
    }
    Ok(())
}
