//! The chunks of an image in the order of its disks, each once, as a server sends them: as they are stored, but never as
//! deltas, so that each can be decoded alone.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::error::{Error, Result};
use crate::image::codec::{Codec, Decoder, Encoder};
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::Root;
use crate::image::pack::Entry;
use crate::image::segment::segment_span;
use crate::repo::batch::{Order, batches, check_id, read_stored};
use crate::repo::copy::{encoded, wanted};
use crate::repo::locations::Place;
use crate::repo::lock::Lock;
use crate::repo::{ChunkFeed, Delivery, Lost, PackFeed, Read, Repository, WantSet, table_path};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// No pack, no base.
const NONE: u32 = u32::MAX;

/// The chunks of an image in the order of its disks, each where it comes first.
///
/// It takes 96 bytes of memory for each chunk, and 152 for each base of deltas; about 64 more for each chunk while it is made.
/// Where chunks lie is remembered: it holds a lock, so that nothing is pruned meanwhile.
pub struct Sequence {
    files: Arc<dyn Read>,
    window: Bytes,
    packs: Vec<Hash>,
    items: Vec<Item>,
    bases: Vec<Place>,
    lost: Vec<Lost>,
    /// Finds other copies of what became damaged.
    feed: Mutex<PackFeed>,
    _lock: Option<Lock>,
}

/// A chunk: its place, small.
struct Item {
    id: ChunkId,
    stored_hash: Hash,
    offset: Bytes,
    /// Index of the pack; [`NONE`] where its place changes from time to time.
    pack: u32,
    /// Index of the base, of a delta.
    base: u32,
    plain_len: u32,
    stored_len: u32,
    /// Number of bytes in the form in which it is sent.
    sent_len: u32,
    codec: Codec,
    cipher: u8,
}

impl Item {
    /// Whether it is encoded in full each time that it is read.
    fn is_encoded(&self) -> bool {
        self.pack == NONE || self.base != NONE
    }

    /// Whether the chunk is what was announced: the same plain bytes always give the same encoded ones.
    fn is(&self, chunk: &StoredChunk) -> bool {
        length(&chunk.stored) == self.sent_len
            && (self.is_encoded() || Hash::of(&chunk.stored) == self.stored_hash)
    }
}

/// A chunk as it is sent: in full, compressed or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredChunk {
    /// BLAKE3 of the plain bytes.
    pub id: ChunkId,
    /// How the bytes are stored.
    pub codec: Codec,
    /// Number of plain bytes.
    pub plain_len: Bytes,
    /// The stored bytes.
    pub stored: Vec<u8>,
}

impl StoredChunk {
    /// Its plain bytes, checked; for what came over a network. Nothing is allocated that is larger than the decoder's
    /// window.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the bytes are not those of the chunk, [`Error::Unsupported`] for deltas and unknown codecs.
    pub fn decode(&self, decoder: &mut Decoder) -> Result<Delivery> {
        if self.codec == Codec::STORED && Bytes::of(&self.stored) != self.plain_len {
            let (expected, found) = (self.plain_len.get().to_string(), self.stored.len());
            let what = format!("chunk {}, plain bytes", self.id);
            return Err(Error::corrupt(what, Bytes::ZERO, expected, found.to_string()));
        }
        let mut plain = Vec::new();
        decoder.decode(self.codec, &self.stored, self.plain_len, &mut plain)?;
        check_id(&self.id, Bytes::ZERO, &plain)?;
        Ok(Delivery::Chunk { id: self.id, plain })
    }

    /// Decodes chunks of an image whose windows have `window` bytes, on all cores; in their order, as
    /// [`StoredChunk::decode`] does.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where no image has such windows; what is wrong with a chunk stands in its place.
    pub fn decode_all(chunks: &[Self], window: Bytes) -> Result<Vec<Result<Delivery>>> {
        Decoder::new(window)?;
        let decode = |decoder: &mut Option<Decoder>, chunk: &Self| {
            let decoder = match decoder {
                Some(decoder) => decoder,
                none => none.insert(Decoder::new(window)?),
            };
            chunk.decode(decoder)
        };
        Ok(chunks.par_iter().map_init(|| None, decode).collect())
    }
}

impl Sequence {
    /// Finds the chunks of `volumes`, which are indices in `root`. Tables are read, and those chunks that are stored as
    /// deltas; they are encoded in full to learn what they take, and not kept.
    ///
    /// # Errors
    /// [`Error::Corrupt`] of a damaged table segment, [`Error::Refused`] where the repository is being pruned, [`Error::Io`]; a chunk
    /// that cannot be had is no error.
    pub fn new(
        repo: &Repository,
        root: &Root,
        volumes: &[usize],
        report: &dyn Report,
    ) -> Result<Self> {
        report.stage(Stage::Index, None);
        let sequence = Self {
            files: Arc::clone(&repo.files),
            window: root.window,
            packs: Vec::new(),
            items: Vec::new(),
            bases: Vec::new(),
            lost: Vec::new(),
            feed: Mutex::new(repo.feed(root.window)?),
            _lock: Lock::of_images(repo, report)?,
        };
        let (packs, bases) = (HashMap::new(), HashMap::new());
        let mut making = Making { sequence, packs, bases, feed: repo.feed(root.window)? };
        let mut seen = HashSet::new();
        for entry in volumes.iter().filter_map(|volume| root.volumes.get(*volume)) {
            for (number, hash) in (0..).zip(&entry.segments) {
                report.checkpoint()?;
                let Some(hash) = *hash else { continue };
                let span = segment_span(number, root.window, entry.size).len();
                let table = repo.segment(hash)?;
                let chunks = wanted(&table, root.window, span);
                let chunks = chunks.map_err(|error| error.on(&table_path(hash)))?;
                let new = chunks.into_iter().map(|(id, _)| id).filter(|id| seen.insert(*id));
                making.add(hash, &new.collect::<Vec<_>>(), report)?;
            }
        }
        Ok(making.sequence)
    }

    /// Every chunk with the number of bytes that it takes as it is sent.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = (ChunkId, Bytes)> + '_ {
        self.items.iter().map(|item| (item.id, Bytes::from(item.sent_len)))
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The chunks that cannot be had, as far as that was seen when the sequence was made; they are not in it.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Reads chunks by their numbers, verified, with few reads; each has the same bytes every time. One that is damaged by
    /// now is taken from another pack that has it, and is lost where it cannot be made the same of that.
    ///
    /// All that is asked for is in memory at once. Any thread may call it, several at a time too.
    ///
    /// # Errors
    /// [`Error::Refused`] for numbers of no chunks; [`Error::Io`] of a repository that cannot be read at all.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<Result<StoredChunk, Lost>>> {
        let items = self.items.get(range).ok_or_else(|| Error::refused("no such chunks"))?;
        let places = items.iter().filter_map(|item| self.place(item)).collect();
        let bases = items.iter().filter_map(|item| self.base(item));
        let bases = bases.map(|base| (base.entry.id, *base)).collect();
        let plan = batches(places, &bases, Order::Named);
        let mut read = HashMap::with_capacity(items.len());
        read_stored(self.files.as_ref(), self.window, &plan, Made::new, |batch| {
            read.extend(sent(batch)?);
            Ok(true)
        })?;
        let chunk = |item: &Item| match read.remove(&item.id) {
            // Its bytes were verified as they are stored; of what is encoded again, the length is what was announced.
            Some(Ok(chunk)) if length(&chunk.stored) == item.sent_len => Ok(Ok(chunk)),
            Some(Err(lost)) => self.elsewhere(item, lost),
            _ => self.elsewhere(item, nowhere(item.id)),
        };
        items.iter().map(chunk).collect()
    }

    fn base(&self, item: &Item) -> Option<&Place> {
        self.bases.get(usize::try_from(item.base).ok()?)
    }

    fn place(&self, item: &Item) -> Option<Place> {
        let pack = *self.packs.get(usize::try_from(item.pack).ok()?)?;
        let entry = Entry {
            id: item.id,
            stored_hash: item.stored_hash,
            codec: item.codec,
            cipher: item.cipher,
            plain_len: item.plain_len,
            stored_len: item.stored_len,
            base: self.base(item).map(|base| base.entry.id),
        };
        Some(Place { pack, offset: item.offset, entry })
    }

    /// A chunk from any other place, with the very bytes that it had.
    fn elsewhere(&self, item: &Item, lost: Lost) -> Result<Result<StoredChunk, Lost>> {
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Delivery::Chunk { id, plain }) = feed.any_copy(item.id)? else {
            return Ok(Err(lost));
        };
        let plain_len = Bytes::of(&plain);
        let chunk = Made::Plain(id, plain).sent(&mut None)?;
        if item.is(&chunk) {
            return Ok(Ok(chunk));
        }
        // It was encoded at another level: where the copy was too, it is the same.
        let stored = feed.stored_elsewhere(item.id, item.stored_hash)?;
        let stored = stored.filter(|_| !item.is_encoded());
        Ok(stored
            .map(|stored| StoredChunk { id, codec: item.codec, plain_len, stored })
            .ok_or(lost))
    }
}

/// A sequence that is being made.
struct Making {
    sequence: Sequence,
    /// Numbers of what is in the sequence.
    packs: HashMap<Hash, u32>,
    bases: HashMap<ChunkId, u32>,
    feed: PackFeed,
}

impl Making {
    /// Adds chunks of the table segment `segment`.
    fn add(&mut self, segment: Hash, ids: &[ChunkId], report: &dyn Report) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let found = self.feed.resolve(&WantSet::new(segment, ids.iter().copied()))?.found;
        let deltas = self.deltas(ids, &found, report)?;
        for id in ids {
            let place = found.get(id);
            let item = match place.map(|place| (place, place.entry.base)) {
                Some((place, None)) => Some((place, None, place.entry.stored_len)),
                Some((place, Some(base))) => deltas
                    .get(id)
                    .zip(found.get(&base))
                    .map(|(length, base)| (place, Some(base), *length)),
                None => None,
            };
            match item {
                Some((place, base, length)) => self.push(place, base, length)?,
                None => self.search(segment, *id)?,
            }
        }
        Ok(())
    }

    /// The lengths in full of those chunks that are stored as deltas, as far as they can be decoded there.
    fn deltas(
        &self,
        ids: &[ChunkId],
        found: &HashMap<ChunkId, Place>,
        report: &dyn Report,
    ) -> Result<HashMap<ChunkId, u32>> {
        let places = ids.iter().filter_map(|id| found.get(id));
        let places = places.filter(|place| place.entry.base.is_some()).copied().collect();
        let plan = batches(places, found, Order::Named);
        let mut lengths = HashMap::new();
        let (files, window) = (self.sequence.files.as_ref(), self.sequence.window);
        read_stored(files, window, &plan, Made::new, |batch| {
            report.checkpoint()?;
            for (id, chunk) in sent(batch)? {
                if let Ok(chunk) = chunk {
                    lengths.insert(id, length(&chunk.stored));
                }
            }
            Ok(true)
        })?;
        Ok(lengths)
    }

    fn push(&mut self, place: &Place, base: Option<&Place>, sent_len: u32) -> Result<()> {
        let pack = number(&mut self.packs, place.pack, &mut self.sequence.packs, place.pack)?;
        let base = match base {
            None => NONE,
            Some(base) => number(&mut self.bases, base.entry.id, &mut self.sequence.bases, *base)?,
        };
        let Entry { id, stored_hash, codec, cipher, plain_len, stored_len, .. } = place.entry;
        let offset = place.offset;
        self.sequence.items.push(Item {
            id,
            stored_hash,
            offset,
            pack,
            base,
            plain_len,
            stored_len,
            sent_len,
            codec,
            cipher,
        });
        Ok(())
    }

    /// Adds a chunk that is not where it should be: of another copy, if there is one.
    fn search(&mut self, segment: Hash, id: ChunkId) -> Result<()> {
        let plain = match self.feed.next(&WantSet::new(segment, [id]))? {
            Some(Delivery::Chunk { plain, .. }) => plain,
            Some(Delivery::Lost(lost)) => {
                self.sequence.lost.push(lost);
                return Ok(());
            }
            None => {
                self.sequence.lost.push(nowhere(id));
                return Ok(());
            }
        };
        let chunk = Made::Plain(id, plain).sent(&mut None)?;
        self.sequence.items.push(Item {
            id,
            stored_hash: Hash::of(&chunk.stored),
            offset: Bytes::ZERO,
            pack: NONE,
            base: NONE,
            plain_len: u32::try_from(chunk.plain_len.get()).unwrap_or(u32::MAX),
            stored_len: length(&chunk.stored),
            sent_len: length(&chunk.stored),
            codec: chunk.codec,
            cipher: 0,
        });
        Ok(())
    }
}

/// The number of `key`; the first time `value` is put down under it.
fn number<K: Copy + Eq + std::hash::Hash, V>(
    numbers: &mut HashMap<K, u32>,
    key: K,
    values: &mut Vec<V>,
    value: V,
) -> Result<u32> {
    if let Some(number) = numbers.get(&key) {
        return Ok(*number);
    }
    let number = u32::try_from(values.len()).ok().filter(|number| *number != NONE);
    let number = number.ok_or_else(|| Error::unsupported("an image of more than 2^32 chunks"))?;
    values.push(value);
    numbers.insert(key, number);
    Ok(number)
}

fn length(stored: &[u8]) -> u32 {
    u32::try_from(stored.len()).unwrap_or(u32::MAX)
}

fn nowhere(id: ChunkId) -> Lost {
    Lost::nowhere(id, "it is not the same any more".to_owned())
}

/// A chunk that was read.
enum Made {
    Stored(StoredChunk),
    /// Of a delta: it is yet to be encoded.
    Plain(ChunkId, Vec<u8>),
}

impl Made {
    fn new(place: &Place, stored: &[u8], plain: Vec<u8>) -> Self {
        let Entry { id, codec, base, .. } = place.entry;
        match base {
            Some(_) => Self::Plain(id, plain),
            None => Self::Stored(StoredChunk {
                id,
                codec,
                plain_len: Bytes::of(&plain),
                stored: stored.to_vec(),
            }),
        }
    }

    /// As it is sent; the encoder is made at the first need.
    fn sent(self, encoder: &mut Option<Encoder>) -> Result<StoredChunk> {
        let (id, plain) = match self {
            Self::Stored(chunk) => return Ok(chunk),
            Self::Plain(id, plain) => (id, plain),
        };
        let (codec, stored) = encoded(encoder, &plain)?;
        Ok(StoredChunk { id, codec, plain_len: Bytes::of(&plain), stored })
    }
}

/// Chunks as they are sent, and which of them are damaged.
fn sent(batch: Vec<Result<Made, Lost>>) -> Result<Vec<(ChunkId, Result<StoredChunk, Lost>)>> {
    let sent = |encoder: &mut Option<Encoder>, made: Result<Made, Lost>| match made {
        Ok(made) => Made::sent(made, encoder).map(|chunk| (chunk.id, Ok(chunk))),
        Err(lost) => Ok((lost.id, Err(lost))),
    };
    batch.into_par_iter().map_init(|| None, sent).collect()
}

#[cfg(test)]
mod tests;
