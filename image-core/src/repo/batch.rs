//! Many chunks of one pack with one read, verified and decoded on all cores.

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

/// One read is at most so long, unless a single chunk is longer.
const STORED: Bytes = Bytes::mib(8);

/// And its chunks have at most so many plain bytes.
const PLAIN: Bytes = Bytes::mib(16);

/// Bytes that nobody wants are read along up to here: a seek costs more.
const GAP: Bytes = Bytes::kib(512);

/// Chunks of one pack that are read at once.
pub(super) struct Batch {
    pack: Hash,
    range: Extent,
    plain: Bytes,
    places: Vec<Place>,
}

/// Groups places, which are in the order of packs and offsets.
pub(super) fn batches(places: Vec<Place>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for place in places {
        let (stored, plain) = (place.entry.stored_len, place.entry.plain_len);
        let range = Extent::new(place.offset, place.offset.saturating_add(Bytes::from(stored)));
        let plain = Bytes::from(plain);
        match batches.last_mut() {
            Some(batch)
                if batch.pack == place.pack
                    && range.start.saturating_sub(batch.range.end) <= GAP
                    && range.end.saturating_sub(batch.range.start) <= STORED
                    && batch.plain.saturating_add(plain) <= PLAIN =>
            {
                batch.range.end = batch.range.end.max(range.end);
                batch.plain += plain;
                batch.places.push(place);
            }
            _ => batches.push(Batch { pack: place.pack, range, plain, places: vec![place] }),
        }
    }
    batches
}

/// What was read of a batch's range, and which chunks could not be.
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
            rayon::join(|| read(number), || decode_batch(window, batch, &bytes));
        if !deliver(deliveries?)? {
            return Ok(());
        }
        raw = next?;
    }
    Ok(())
}

/// Where the range cannot be read as a whole, each chunk is tried alone: only those on bad sectors, or behind
/// the end of a pack that was cut short, are lost.
fn read_batch(files: &dyn Read, batch: &Batch) -> Result<Raw> {
    let path = pack_path(batch.pack);
    match files.range(&path, batch.range) {
        Ok(bytes) => return Ok(Raw { bytes, failed: HashMap::new() }),
        Err(error) if is_damage(&error) => {}
        Err(error) => return Err(error),
    }
    let length = batch.range.len().index().unwrap_or_default();
    let mut raw = Raw { bytes: vec![0; length], failed: HashMap::new() };
    for place in &batch.places {
        let stored = Bytes::from(place.entry.stored_len);
        let range = Extent::new(place.offset, place.offset.saturating_add(stored));
        match files.range(&path, range) {
            Ok(bytes) => {
                if let Some(slot) = within(batch, place).and_then(|at| raw.bytes.get_mut(at)) {
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

/// A chunk's stored bytes as indices into the bytes of its batch.
fn within(batch: &Batch, place: &Place) -> Option<std::ops::Range<usize>> {
    let start = place.offset.checked_sub(batch.range.start)?.index()?;
    Some(start..start.checked_add(usize::try_from(place.entry.stored_len).ok()?)?)
}

fn decode_batch(window: Bytes, batch: &Batch, raw: &Raw) -> Result<Vec<Delivery>> {
    let decode = |decoder: &mut Result<Decoder>, place: &Place| {
        let decoder = decoder.as_mut().map_err(|error| {
            Error::io("decoder", "set up", std::io::Error::other(error.to_string()))
        })?;
        let id = place.entry.id;
        let plain = match (raw.failed.get(&id), within(batch, place)) {
            (None, Some(at)) => verified(decoder, place, raw.bytes.get(at).unwrap_or_default())
                .map_err(|error| error.on(&pack_path(place.pack)).to_string()),
            (Some(why), _) => Err(why.clone()),
            (None, None) => Err("its place contradicts itself".to_owned()),
        };
        Ok(match plain {
            Ok(plain) => Delivery::Chunk { id, plain },
            Err(why) => {
                let (pack, offset) = (Some(place.pack), Some(place.offset));
                Delivery::Lost(Lost { id, pack, offset, why })
            }
        })
    };
    batch.places.par_iter().map_init(|| Decoder::new(window), decode).collect()
}

/// The plain bytes: the stored ones are checked before a decompressor sees them, the plain ones after.
fn verified(decoder: &mut Decoder, place: &Place, stored: &[u8]) -> Result<Vec<u8>> {
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
    let mut plain = Vec::new();
    decoder.decode(entry.codec, stored, Bytes::from(entry.plain_len), &mut plain)?;
    let found = ChunkId::of(&plain);
    if found != entry.id {
        return Err(wrong("hash of the plain bytes", entry.id.to_string(), found.to_string()));
    }
    Ok(plain)
}
