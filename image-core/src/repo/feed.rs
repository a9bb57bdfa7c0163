//! Verified plain chunks in any order: what a writer needs, whoever delivers them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};
use crate::image::checked_window;
use crate::image::hash::{ChunkId, Hash};
use crate::image::pack::Trailer;
use crate::repo::batch::{Order, batches, read_batches};
use crate::repo::index::{Index, PackFile, is_damage, pack_path, read_trailer};
use crate::repo::locations::{self, Place, Places};
use crate::repo::read::Read;
use crate::repo::trash;
use crate::report::Quiet;
use crate::units::Bytes;

/// The chunks of a table segment, or of several, that are still wanted.
#[derive(Clone, Debug)]
pub struct WantSet {
    segment: Hash,
    ids: HashSet<ChunkId>,
}

impl WantSet {
    /// The chunks `ids`. In the locations of the table segment `segment` it is looked first where they lie; chunks of
    /// other segments are found too, by the trailers of all packs.
    pub fn new(segment: Hash, ids: impl IntoIterator<Item = ChunkId>) -> Self {
        Self { segment, ids: ids.into_iter().collect() }
    }

    /// Notes that a chunk was delivered or lost; whether it had been wanted.
    pub fn remove(&mut self, id: &ChunkId) -> bool {
        self.ids.remove(id)
    }

    /// Whether a chunk is wanted.
    pub fn contains(&self, id: &ChunkId) -> bool {
        self.ids.contains(id)
    }

    /// Number of chunks that are wanted.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether everything was delivered or lost.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// What became of a wanted chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Its plain bytes, which have the hash that their id says.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Its bytes.
        plain: Vec<u8>,
    },
    /// It cannot be had; asking again is useless.
    Lost(Lost),
}

impl Delivery {
    /// The chunk that this is about.
    pub fn id(&self) -> ChunkId {
        match self {
            Self::Chunk { id, .. } => *id,
            Self::Lost(lost) => lost.id,
        }
    }
}

/// A chunk whose bytes are damaged or gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// The chunk.
    pub id: ChunkId,
    /// The pack in which it should be; `None` where no pack is known to have it.
    pub pack: Option<Hash>,
    /// Where it should begin in the pack.
    pub offset: Option<Bytes>,
    /// What is wrong, as a message.
    pub why: String,
    /// Whether it could not be read, which may pass.
    pub is_unread: bool,
}

impl Lost {
    /// One that no pack is known to have.
    pub(crate) fn nowhere(id: ChunkId, why: String) -> Self {
        Self { id, pack: None, offset: None, why, is_unread: false }
    }

    pub(super) fn at(place: &Place, why: String) -> Self {
        let (pack, offset) = (Some(place.pack), Some(place.offset));
        Self { pack, offset, ..Self::nowhere(place.entry.id, why) }
    }
}

/// Delivers chunks.
pub trait ChunkFeed {
    /// One of the wanted chunks; `None` when nothing is wanted.
    ///
    /// The caller removes what it got from `wanted` before it calls again. What is delivered was wanted at
    /// this call, and is verified. The set changes to other segments once it has become empty.
    fn next(&mut self, wanted: &WantSet) -> Result<Option<Delivery>>;
}

/// Reads chunks from a repository's packs, in the order in which they lie there.
///
/// A thread of its own reads ahead and decodes on all cores. At most two batches of up to 1.5 MiB stored and 3 MiB plain
/// bytes for each core are in memory, the bases of deltas included, and the stored bytes of one more. A chunk that is
/// damaged in one pack is taken from another one that has it too. It decodes in rayon's pool, so nobody may wait for it
/// inside that pool.
pub struct PackFeed {
    files: Arc<dyn Read>,
    window: Bytes,
    ready: VecDeque<Delivery>,
    reader: Option<Reader>,
    packs: Packs,
    index: Option<Index>,
    retried: HashSet<ChunkId>,
    /// The trailer that was read last: damage comes in heaps.
    trailer: Option<(Hash, Trailer)>,
}

/// What is known about the packs: their sizes, and why those that were looked at cannot be believed.
#[derive(Default)]
struct Packs {
    sizes: Option<HashMap<Hash, Bytes>>,
    verdicts: HashMap<Hash, Option<String>>,
}

impl Packs {
    /// Why a pack cannot be believed; its trailer is read the first time.
    fn damage(&mut self, files: &dyn Read, name: Hash) -> Result<Option<String>> {
        if let Some(verdict) = self.verdicts.get(&name) {
            return Ok(verdict.clone());
        }
        let sizes = match self.sizes.take() {
            Some(sizes) => sizes,
            None => {
                trash::all_packs(files)?.into_iter().map(|pack| (pack.name, pack.size)).collect()
            }
        };
        let verdict = match sizes.get(&name) {
            None => Some(format!("{}: no such pack", pack_path(name))),
            Some(size) => match read_trailer(files, PackFile { name, size: *size }) {
                Err(error) if is_damage(&error) => Some(error.to_string()),
                other => other.map(|_| None)?,
            },
        };
        self.sizes = Some(sizes);
        self.verdicts.insert(name, verdict.clone());
        Ok(verdict)
    }
}

struct Reader {
    batches: Receiver<Vec<Delivery>>,
    thread: JoinHandle<Result<()>>,
}

impl PackFeed {
    /// A feed for images whose root says `window`.
    pub(super) fn new(files: Arc<dyn Read>, window: Bytes) -> Result<Self> {
        Ok(Self {
            files,
            window: checked_window(window)?,
            ready: VecDeque::new(),
            reader: None,
            packs: Packs::default(),
            index: None,
            retried: HashSet::new(),
            trailer: None,
        })
    }

    /// Finds out where all wanted chunks lie and begins to read them.
    fn start(&mut self, wanted: &WantSet) -> Result<()> {
        let (places, bases) = self.places(wanted)?;
        let plan = batches(places, &bases, Order::OfPacks);
        let (sender, receiver) = sync_channel(0);
        let (files, window) = (Arc::clone(&self.files), self.window);
        let read = move || {
            read_batches(files.as_ref(), window, &plan, |batch| Ok(sender.send(batch).is_ok()))
        };
        let thread = thread::Builder::new()
            .name("packs".to_owned())
            .spawn(read)
            .map_err(|error| Error::io("pack reader", "start its thread", error))?;
        self.reader = Some(Reader { batches: receiver, thread });
        Ok(())
    }

    /// Where the wanted chunks lie, in order, and all places by chunk; what lies nowhere is put down as lost.
    fn places(&mut self, wanted: &WantSet) -> Result<(Vec<Place>, HashMap<ChunkId, Place>)> {
        let Places { found, hints } = self.resolve(wanted)?;
        let mut places = Vec::with_capacity(wanted.ids.len());
        for id in &wanted.ids {
            match found.get(id) {
                Some(place) => places.push(*place),
                None => {
                    let lost = self.lost(*id, &hints, true)?;
                    self.ready.push_back(Delivery::Lost(lost));
                }
            }
        }
        places.sort_unstable_by_key(|place| (place.pack, place.offset));
        Ok((places, found))
    }

    /// Where the wanted chunks and the bases that they need lie.
    pub(super) fn resolve(&mut self, wanted: &WantSet) -> Result<Places> {
        let files = Arc::clone(&self.files);
        let (packs, index) = (&mut self.packs, &mut self.index);
        locations::resolve(
            files.as_ref(),
            wanted.segment,
            &wanted.ids,
            &mut |pack| Ok(packs.damage(files.as_ref(), pack)?.is_none()),
            &mut |ids| built(index, files.as_ref())?.locate(files.as_ref(), ids.iter().copied()),
        )
    }

    fn index(&mut self) -> Result<&Index> {
        built(&mut self.index, self.files.as_ref())
    }

    fn lost(&mut self, id: ChunkId, hints: &HashMap<ChunkId, Place>, own: bool) -> Result<Lost> {
        if let Some(place) = hints.get(&id) {
            let damage = self.packs.damage(self.files.as_ref(), place.pack)?;
            return Ok(match (damage, place.entry.base) {
                (Some(why), _) => Lost::at(place, why),
                (None, Some(base)) if own => {
                    let lost = self.lost(base, hints, false)?;
                    let why = format!("its base, chunk {base}: {}", lost.why);
                    Lost { id, why, ..lost }
                }
                (None, _) => Lost::at(place, "not in its pack".to_owned()),
            });
        }
        let damaged = &self.index()?.damaged;
        let suspects: Vec<String> = damaged.iter().map(|(_, error)| error.to_string()).collect();
        let pack = damaged.first().map(|(name, _)| *name);
        let why = match suspects.as_slice() {
            [] => "in no pack of this repository".to_owned(),
            some => format!("in no intact pack ({})", some.join("; ")),
        };
        Ok(Lost { pack, ..Lost::nowhere(id, why) })
    }

    /// A chunk that is damaged in one pack, from any other one that has it, or with another copy of its base.
    fn elsewhere(&mut self, lost: Lost) -> Result<Delivery> {
        if !self.retried.insert(lost.id) {
            return Ok(Delivery::Lost(lost));
        }
        Ok(self.any_copy(lost.id)?.unwrap_or(Delivery::Lost(lost)))
    }

    /// A chunk from any pack that has it, those included that came since the packs were listed.
    pub(super) fn any_copy(&mut self, id: ChunkId) -> Result<Option<Delivery>> {
        loop {
            if let Some(chunk) = self.copy(id)? {
                return Ok(Some(chunk));
            }
            // Pruning may have moved it into another pack.
            if !self.forget_old_packs()? {
                return Ok(None);
            }
        }
    }

    /// The stored bytes of a chunk that have this hash, from any pack that has them; as the packs were listed last.
    pub(super) fn stored_elsewhere(&mut self, id: ChunkId, hash: Hash) -> Result<Option<Vec<u8>>> {
        let mut places = self.copies(id)?;
        places.retain(|place| place.entry.stored_hash == hash);
        for place in places {
            match self.files.range(&pack_path(place.pack), place.range()) {
                Ok(stored) if Hash::of(&stored) == hash => return Ok(Some(stored)),
                Err(error) if !is_damage(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether packs came or went since they were listed; they are listed again then.
    fn forget_old_packs(&mut self) -> Result<bool> {
        let there = trash::all_packs(self.files.as_ref())?;
        let changed = self.index.as_ref().is_none_or(|index| index.packs != there);
        if changed {
            (self.index, self.packs, self.trailer) = (None, Packs::default(), None);
        }
        Ok(changed)
    }

    /// A chunk from any pack that has it, with any copy of its base.
    fn copy(&mut self, id: ChunkId) -> Result<Option<Delivery>> {
        let files = Arc::clone(&self.files);
        for place in self.copies(id)? {
            let bases = match place.entry.base {
                None => vec![None],
                Some(base) => self.copies(base)?.into_iter().map(Some).collect(),
            };
            for base in bases {
                let base = base.map(|base| (base.entry.id, base)).into_iter().collect();
                let plan = batches(vec![place], &base, Order::OfPacks);
                let mut found = None;
                read_batches(files.as_ref(), self.window, &plan, |deliveries| {
                    found = deliveries.into_iter().next();
                    Ok(true)
                })?;
                if let Some(chunk @ Delivery::Chunk { .. }) = found {
                    return Ok(Some(chunk));
                }
            }
        }
        Ok(None)
    }

    /// Every place of a chunk.
    fn copies(&mut self, id: ChunkId) -> Result<Vec<Place>> {
        let files = Arc::clone(&self.files);
        let index = built(&mut self.index, files.as_ref())?;
        let mut places = Vec::new();
        for slot in index.find_all(&id) {
            let pack = usize::try_from(slot.pack).ok().and_then(|at| index.packs.get(at));
            let Some(pack) = pack else { continue };
            let trailer = match self.trailer.take() {
                Some((name, trailer)) if name == pack.name => trailer,
                _ => match read_trailer(files.as_ref(), *pack) {
                    Err(error) if is_damage(&error) => continue,
                    other => other?,
                },
            };
            let (_, trailer) = self.trailer.insert((pack.name, trailer));
            let entry = usize::try_from(slot.entry).ok().and_then(|at| trailer.chunks.get(at));
            let place = |(offset, entry): &(Bytes, _)| Place {
                pack: pack.name,
                offset: *offset,
                entry: *entry,
            };
            places.extend(entry.map(place).filter(|place| place.entry.id == id));
        }
        Ok(places)
    }
}

/// The index, made at the first need.
fn built<'a>(index: &'a mut Option<Index>, files: &dyn Read) -> Result<&'a Index> {
    let made = match index.take() {
        Some(index) => index,
        None => Index::build(files, trash::all_packs(files)?, &Quiet::default())?,
    };
    Ok(index.insert(made))
}

impl ChunkFeed for PackFeed {
    fn next(&mut self, wanted: &WantSet) -> Result<Option<Delivery>> {
        loop {
            while let Some(delivery) = self.ready.pop_front() {
                match delivery {
                    _ if !wanted.contains(&delivery.id()) => {}
                    Delivery::Lost(lost) => return self.elsewhere(lost).map(Some),
                    chunk => return Ok(Some(chunk)),
                }
            }
            match self.reader.take() {
                None if wanted.is_empty() => return Ok(None),
                None => self.start(wanted)?,
                Some(reader) => match reader.batches.recv() {
                    Ok(batch) => {
                        self.ready.extend(batch);
                        self.reader = Some(reader);
                    }
                    // All was delivered, or the thread ended with an error.
                    Err(_) => reader.thread.join().unwrap_or_else(|_| Err(panicked()))?,
                },
            }
        }
    }
}

fn panicked() -> Error {
    Error::io("pack reader", "go on", std::io::Error::other("its thread panicked"))
}
