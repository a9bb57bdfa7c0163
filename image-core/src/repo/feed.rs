//! Verified plain chunks in any order: what a writer needs, whoever delivers them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::error::{Error, Result};
use crate::image::checked_window;
use crate::image::hash::{ChunkId, Hash};
use crate::repo::batch::{batches, read_batches};
use crate::repo::index::{Index, PackFile, is_damage, list_packs, pack_path, read_trailer};
use crate::repo::locations::{self, Place};
use crate::repo::read::Read;
use crate::report::Quiet;
use crate::units::Bytes;

/// The chunks of one table segment that are still wanted.
#[derive(Clone, Debug)]
pub struct WantSet {
    segment: Hash,
    ids: HashSet<ChunkId>,
}

impl WantSet {
    /// `ids` of the table segment that is named `segment`.
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
}

/// Delivers chunks.
pub trait ChunkFeed {
    /// One of the wanted chunks; `None` when nothing is wanted.
    ///
    /// The caller removes what it got from `wanted` before it calls again. What is delivered was wanted at
    /// this call, and is verified. The set changes to another segment once it has become empty.
    fn next(&mut self, wanted: &WantSet) -> Result<Option<Delivery>>;
}

/// Reads chunks from a repository's packs, in the order in which they lie there.
///
/// A thread of its own reads ahead and decodes on all cores; at most four batches of up to 8 MiB stored and
/// 16 MiB plain are in memory. It decodes in rayon's pool, so nobody may wait for it inside that pool.
pub struct PackFeed {
    files: Arc<dyn Read>,
    window: Bytes,
    ready: VecDeque<Delivery>,
    reader: Option<Reader>,
    packs: Packs,
    index: Option<Index>,
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
            None => list_packs(files)?.into_iter().map(|pack| (pack.name, pack.size)).collect(),
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
        })
    }

    /// Finds out where all wanted chunks lie and begins to read them.
    fn start(&mut self, wanted: &WantSet) -> Result<()> {
        let places = self.places(wanted)?;
        let plan = batches(places);
        let (sender, receiver) = sync_channel(1);
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

    /// Where the wanted chunks lie; what lies nowhere is put down as lost.
    fn places(&mut self, wanted: &WantSet) -> Result<Vec<Place>> {
        let hints = match locations::read(self.files.as_ref(), wanted.segment) {
            Err(error) if is_damage(&error) => Vec::new(),
            other => other?,
        };
        let mut missing: HashMap<ChunkId, Option<Place>> =
            wanted.ids.iter().map(|id| (*id, None)).collect();
        let mut places = Vec::with_capacity(missing.len());
        for place in hints {
            let Some(hint) = missing.get_mut(&place.entry.id) else { continue };
            *hint = Some(place);
            if self.packs.damage(self.files.as_ref(), place.pack)?.is_none() {
                missing.remove(&place.entry.id);
                places.push(place);
            }
        }
        if missing.is_empty() {
            return Ok(places);
        }
        let files = Arc::clone(&self.files);
        let found = self.index()?.locate(files.as_ref(), missing.keys().copied())?;
        for place in &found {
            missing.remove(&place.entry.id);
        }
        places.extend(found);
        places.sort_unstable_by_key(|place| (place.pack, place.offset));
        for (id, hint) in missing {
            let lost = self.lost(id, hint)?;
            self.ready.push_back(Delivery::Lost(lost));
        }
        Ok(places)
    }

    fn index(&mut self) -> Result<&Index> {
        let index = match self.index.take() {
            Some(index) => index,
            None => Index::build(self.files.as_ref(), &Quiet::default())?,
        };
        Ok(self.index.insert(index))
    }

    fn lost(&mut self, id: ChunkId, hint: Option<Place>) -> Result<Lost> {
        if let Some(place) = hint {
            let why = self
                .packs
                .damage(self.files.as_ref(), place.pack)?
                .unwrap_or_else(|| "not in its pack".to_owned());
            return Ok(Lost { id, pack: Some(place.pack), offset: Some(place.offset), why });
        }
        let damaged = &self.index()?.damaged;
        let suspects: Vec<String> = damaged.iter().map(|(_, error)| error.to_string()).collect();
        let pack = damaged.first().map(|(name, _)| *name);
        let why = match suspects.as_slice() {
            [] => "in no pack of this repository".to_owned(),
            some => format!("in no intact pack ({})", some.join("; ")),
        };
        Ok(Lost { id, pack, offset: None, why })
    }
}

impl ChunkFeed for PackFeed {
    fn next(&mut self, wanted: &WantSet) -> Result<Option<Delivery>> {
        loop {
            while let Some(delivery) = self.ready.pop_front() {
                if wanted.contains(&delivery.id()) {
                    return Ok(Some(delivery));
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
