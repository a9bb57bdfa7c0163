//! A save's side of the repository: chunks into packs, then tables, root, and the record last.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::error::{Error, Result};
use crate::image::codec::Stored;
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::Root;
use crate::image::pack::{Entry, PackBuilder};
use crate::image::record::Record;
use crate::repo::index::{Index, PackFile, Slot, list_packs, pack_path, prefix};
use crate::repo::locations::{self, Lookup, Place, locate, locations_path};
use crate::repo::lock::{Lock, LockKind, leftovers};
use crate::repo::parent::Parent;
use crate::repo::read::Read;
use crate::repo::write::Draft;
use crate::repo::{ImageInfo, Repository, catalog, images, root_path, table_path, trash};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// What became of a chunk that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Added {
    /// It was stored.
    New,
    /// The repository had it already.
    Known,
}

/// The chunks that need not be stored: those of the repository's packs and those of this save.
///
/// Every worker may ask at any time.
pub struct Known {
    pub(super) index: Index,
    relied: Vec<AtomicBool>,
    fresh: RwLock<HashMap<ChunkId, Fresh>>,
}

/// A chunk that this session stored.
#[derive(Clone, Copy)]
struct Fresh {
    slot: Slot,
    is_full: bool,
}

impl Known {
    fn new(index: Index) -> Self {
        let relied = index.packs.iter().map(|_| AtomicBool::new(false)).collect();
        Self { index, relied, fresh: RwLock::default() }
    }

    /// Whether the chunk is stored already; if so, this save relies on it, and on its pack.
    pub fn contains(&self, id: &ChunkId) -> bool {
        let Some(slot) = self.find(id) else { return false };
        if let Some(relied) = usize::try_from(slot.pack).ok().and_then(|at| self.relied.get(at)) {
            relied.store(true, Ordering::Relaxed);
        }
        true
    }

    /// The same for a chunk that is stored in full, which needs no other one and can be a base.
    pub(super) fn contains_full(&self, id: &ChunkId) -> bool {
        self.find_full(id).is_some() && self.contains(id)
    }

    /// In full, where it is.
    fn find(&self, id: &ChunkId) -> Option<Slot> {
        let fresh = || self.fresh().get(id).map(|fresh| fresh.slot);
        self.find_full(id).or_else(fresh).or_else(|| self.index.find(id))
    }

    fn find_full(&self, id: &ChunkId) -> Option<Slot> {
        let fresh = || self.fresh().get(id).filter(|fresh| fresh.is_full).map(|fresh| fresh.slot);
        self.index.find_full(&prefix(id)).or_else(fresh)
    }

    fn fresh(&self) -> RwLockReadGuard<'_, HashMap<ChunkId, Fresh>> {
        self.fresh.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The places of chunks of the repository's packs, and of their bases.
    pub(super) fn locate(&self, files: &dyn Read, ids: &[ChunkId]) -> Result<Vec<Place>> {
        self.index.locate(files, ids.iter().copied())
    }

    /// Notes a new chunk; beyond the index's limit it is forgotten, and perhaps stored again.
    fn insert(&self, id: ChunkId, chunk: Fresh) -> bool {
        let mut fresh = self.fresh.write().unwrap_or_else(PoisonError::into_inner);
        let room = self.index.has_room_beside(fresh.len());
        if room {
            fresh.insert(id, chunk);
        }
        room
    }
}

/// One save into a repository. Dropped before its record was put, it leaves packs for the next save.
pub struct Saver {
    repository: Repository,
    lock: Lock,
    known: Arc<Known>,
    all_remembered: bool,
    open: Option<OpenPack>,
    written: Vec<PackFile>,
}

struct OpenPack {
    draft: Draft,
    builder: PackBuilder,
}

impl Saver {
    pub(super) fn new(repository: &Repository, report: &dyn Report) -> Result<Self> {
        let session = repository.session()?;
        let lock = Lock::take(session, LockKind::Shared)?;
        for leftover in leftovers(session.files().as_ref())? {
            match session.delete(&format!("tmp/{}", leftover.name)) {
                // A server looks after what its guests left.
                Err(Error::Refused(_)) => {}
                other => other?,
            }
        }
        report.stage(Stage::Index, None);
        let files = repository.files.as_ref();
        let index = Index::build(files, list_packs(files)?, report)?;
        for (_, error) in &index.damaged {
            report.warning(&format!("{error}; its chunks are stored again"));
        }
        Ok(Self {
            repository: repository.clone(),
            lock,
            all_remembered: index.complete,
            known: Arc::new(Known::new(index)),
            open: None,
            written: Vec::new(),
        })
    }

    /// The chunks that need not be compressed and added.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known)
    }

    /// The image `parent` as a source of bases for deltas: for the volumes of this save, in order, each with
    /// the volume of the parent that it was before, or none. Where the parent cannot be read, there are no
    /// bases, and a warning.
    pub fn bases(
        &self,
        parent: &ImageInfo,
        window: Bytes,
        pair: impl FnOnce(&Root) -> Vec<Option<usize>>,
        report: &dyn Report,
    ) -> Option<Parent> {
        match self.repository.root(parent) {
            Ok(root) if root.window == window => {
                let pairs = pair(&root);
                Some(Parent::new(self.repository.clone(), self.known(), root, pairs))
            }
            Ok(_) => None,
            Err(error) => {
                report.warning(&format!("{error}; what changed since is stored in full"));
                None
            }
        }
    }

    /// Stores a chunk in the pack that is open, unless it is known.
    ///
    /// After an error the save cannot be finished: [`Saver::put_root`] would miss chunks.
    pub fn add(&mut self, id: ChunkId, stored: &Stored<'_>) -> Result<Added> {
        if self.known.contains(&id) {
            return Ok(Added::Known);
        }
        self.append(id, stored.bytes, stored.base.is_none(), |pack| pack.add(id, stored))?;
        Ok(Added::New)
    }

    /// Stores a chunk as it is stored elsewhere, known or not; errors as of [`Saver::add`].
    pub(super) fn put(&mut self, entry: &Entry, bytes: &[u8]) -> Result<()> {
        self.append(entry.id, bytes, entry.base.is_none(), |pack| pack.put(entry))
    }

    fn append(
        &mut self,
        id: ChunkId,
        bytes: &[u8],
        is_full: bool,
        enter: impl FnOnce(&mut PackBuilder) -> Result<u32>,
    ) -> Result<()> {
        // Taken out: after an error it is dropped, and with it the draft.
        let mut pack = match self.open.take() {
            Some(pack) => pack,
            None => {
                OpenPack { draft: self.repository.session()?.draft()?, builder: PackBuilder::new() }
            }
        };
        let entry = enter(&mut pack.builder)?;
        pack.draft.append(bytes)?;
        let slot = Slot { pack: self.pack_number(), entry };
        self.all_remembered &= self.known.insert(id, Fresh { slot, is_full });
        let full = pack.builder.is_full();
        self.open = Some(pack);
        if full { self.finish_packs() } else { Ok(()) }
    }

    fn pack_number(&self) -> u32 {
        u32::try_from(self.known.index.packs.len() + self.written.len()).unwrap_or(u32::MAX)
    }

    /// Closes the pack that is open and makes it durable.
    pub fn finish_packs(&mut self) -> Result<()> {
        let Some(OpenPack { mut draft, builder }) = self.open.take() else { return Ok(()) };
        let data_len = builder.data_len();
        let (name, tail) = builder.finish();
        draft.append(&tail)?;
        draft.finish(&pack_path(name))?;
        self.written.push(PackFile { name, size: data_len + Bytes::of(&tail) });
        Ok(())
    }

    /// Stores a table segment; its name.
    pub fn put_segment(&mut self, bytes: &[u8]) -> Result<Hash> {
        let hash = Hash::of(bytes);
        self.repository.session()?.put(&table_path(hash), bytes)?;
        Ok(hash)
    }

    /// Stores the root, after every chunk of its tables was found in a durable pack; its name.
    ///
    /// # Errors
    /// `Corrupt` where a table or a chunk is missing: nothing looks like an image then.
    pub fn put_root(&mut self, root: &Root) -> Result<Hash> {
        self.put_root_as(&root.encode()?)
    }

    /// The same for a root's bytes, which may say more than this program knows.
    pub(super) fn put_root_as(&mut self, bytes: &[u8]) -> Result<Hash> {
        self.finish_packs()?;
        let root = Root::parse(bytes)?;
        let mut seen = HashSet::new();
        for (volume, number, segment) in root.segments() {
            if seen.insert(segment) {
                let repository = &self.repository;
                let put = repository
                    .segment_chunks(root.window, volume, number, segment)
                    .and_then(|ids| self.put_locations(segment, &ids));
                // What is missing may be gone because this session was taken for dead.
                put.or_else(|error| self.lock.held().and(Err(error)))?;
            }
        }
        let hash = Hash::of(bytes);
        self.repository.session()?.put(&root_path(hash), bytes)?;
        Ok(hash)
    }

    fn put_locations(&self, segment: Hash, ids: &HashSet<ChunkId>) -> Result<()> {
        let mut packs = self.known.index.packs.clone();
        packs.extend(&self.written);
        let find = |id: &ChunkId| self.known.find(id);
        let lookup = Lookup { packs: &packs, complete: self.all_remembered, find: &find };
        let files = self.repository.files.as_ref();
        let places = locate(files, &lookup, ids.iter().copied())?;
        let there = places.iter().filter(|place| ids.contains(&place.entry.id)).count();
        if there != ids.len() {
            let found = format!("only {there}");
            let expected = format!("{} chunks in intact packs", ids.len());
            let error = Error::corrupt("table segment", Bytes::ZERO, expected, found);
            return Err(error.on(&table_path(segment)));
        }
        let bytes = locations::encode(segment, &places);
        self.repository.session()?.put(&locations_path(segment), &bytes)
    }

    /// Stores the record: from now on the image exists. The catalog is only a cache, so what goes wrong
    /// with it is a warning.
    ///
    /// # Errors
    /// `Refused` where the lock, the root or a pack that this image needs went away meanwhile.
    pub fn put_record(self, record: Record, report: &dyn Report) -> Result<ImageInfo> {
        self.put_record_as(&record.encode()?, report)
    }

    /// The same for a record's bytes.
    pub(super) fn put_record_as(&self, bytes: &[u8], report: &dyn Report) -> Result<ImageInfo> {
        self.lock.held()?;
        self.recheck_packs()?;
        let info = ImageInfo { id: Hash::of(bytes), record: Record::parse(bytes)? };
        self.repository.root(&info)?;
        let session = self.repository.session()?;
        let path = images::record_path(info.id);
        if let Err(error) = session.put(&path, bytes) {
            // Its name may be there, and only not be durable: nobody may take that for an image.
            drop(session.delete(&path));
            return Err(error);
        }
        // A machine that slept since the first look lost its lock, and with it perhaps what the image needs.
        if let Err(error) = self.lock.held().and_then(|()| self.recheck_packs()) {
            session.delete(&path)?;
            return Err(error);
        }
        self.put_catalog(report)?;
        Ok(info)
    }

    /// Writes the catalog, which is only a cache: what goes wrong is a warning.
    pub(super) fn put_catalog(&self, report: &dyn Report) -> Result<()> {
        if let Err(error) = catalog::write(self.repository.session()?) {
            report.warning(&format!("the catalog was not written: {error}"));
        }
        Ok(())
    }

    /// Whether this save's lock is seen in a place: then that is the repository into which it saves.
    pub(super) fn is_in(&self, files: &dyn Read) -> Result<bool> {
        self.lock.is_in(files)
    }

    /// Every pack that this image needs is there; one that was thrown away meanwhile is taken back.
    fn recheck_packs(&self) -> Result<()> {
        let session = self.repository.session()?;
        let files = session.files();
        let packs = list_packs(files.as_ref())?;
        let there: HashSet<Hash> = packs.into_iter().map(|pack| pack.name).collect();
        let relied = self.known.index.packs.iter().zip(&self.known.relied);
        let relied = relied.filter(|(_, relied)| relied.load(Ordering::Relaxed));
        let needed = relied.map(|(pack, _)| pack).chain(&self.written);
        for gone in needed.filter(|pack| !there.contains(&pack.name)) {
            let path = pack_path(gone.name);
            match trash::list(files.as_ref())?.iter().find(|one| one.origin() == path) {
                Some(one) => trash::take_back(files.as_ref(), one)?,
                None => {
                    let why = format!("{path} went away during the save; save again");
                    return Err(Error::refused(why));
                }
            }
        }
        Ok(())
    }
}
