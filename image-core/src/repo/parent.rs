//! What a save finds of the image before it: for a window that changed, the chunk to store it against.
//!
//! It affects size only. Whatever is missing, damaged or odd means that a window is stored in full; a warning
//! says so once for each reason.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::image::SEGMENT_WINDOWS;
use crate::image::codec::Decoder;
use crate::image::hash::ChunkId;
use crate::image::manifest::{Root, VolumeEntry};
use crate::image::segment::{SegmentReader, segment_span};
use crate::repo::batch::verified;
use crate::repo::index::pack_path;
use crate::repo::locations::{self, Place};
use crate::repo::{Known, Repository, table_path};
use crate::report::Report;
use crate::units::Bytes;

/// Segments in memory: of the windows that are in work together, some may be behind a segment's end.
const SEGMENTS: usize = 2;

/// The chunks of an earlier image, by the windows of a save; every worker may ask at any time.
pub struct Parent {
    repository: Repository,
    known: Arc<Known>,
    root: Root,
    /// For each volume of the save, the index of the volume in `root`.
    pairs: Vec<Option<usize>>,
    segments: Mutex<Vec<(Key, Arc<Segment>)>>,
    warned: Mutex<BTreeSet<String>>,
}

/// A volume of the parent, and the number of a segment.
type Key = (usize, u64);

/// Which chunk each window of a segment has, and where the bases lie.
#[derive(Default)]
struct Segment {
    chunks: HashMap<u64, ChunkId>,
    places: HashMap<ChunkId, Place>,
}

/// A full chunk whose plain bytes were read and verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// Its id.
    pub id: ChunkId,
    /// What it takes in its pack.
    pub stored_len: Bytes,
}

impl Parent {
    pub(super) fn new(
        repository: Repository,
        known: Arc<Known>,
        root: Root,
        pairs: Vec<Option<usize>>,
    ) -> Self {
        let (segments, warned) = (Mutex::default(), Mutex::default());
        Self { repository, known, root, pairs, segments, warned }
    }

    /// Puts the plain bytes of the base for window `number` of the save's volume `volume` into `plain`: those
    /// of the chunk that the window had, or where that is a delta, of *its* base.
    pub fn read(
        &self,
        (volume, number): (usize, u64),
        decoder: &mut Decoder,
        plain: &mut Vec<u8>,
        report: &dyn Report,
    ) -> Option<Base> {
        let segment = self.segment(volume, number / SEGMENT_WINDOWS, report)?;
        let chunk = segment.chunks.get(&number)?;
        let place = segment.places.get(chunk)?;
        let base = match place.entry.base {
            Some(base) => segment.places.get(&base)?,
            None => place,
        };
        // Marks its pack as one that this save relies on.
        if !self.known.contains(&base.entry.id) {
            return None;
        }
        match self.read_place(base, decoder, plain) {
            Ok(()) => {
                Some(Base { id: base.entry.id, stored_len: Bytes::from(base.entry.stored_len) })
            }
            Err(error) => {
                self.warn(&error, report);
                None
            }
        }
    }

    fn read_place(&self, place: &Place, decoder: &mut Decoder, plain: &mut Vec<u8>) -> Result<()> {
        let path = pack_path(place.pack);
        let stored = self.repository.files.range(&path, place.range())?;
        verified(decoder, place, &stored, None, plain).map_err(|error| error.on(&path))
    }

    fn warn(&self, error: &Error, report: &dyn Report) {
        let subject = error.subject().to_owned();
        if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(subject) {
            report.warning(&format!("{error}; what changed there is stored in full"));
        }
    }

    fn segment(&self, volume: usize, number: u64, report: &dyn Report) -> Option<Arc<Segment>> {
        let pair = (*self.pairs.get(volume)?)?;
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (pair, number);
        if let Some((_, segment)) = segments.iter().find(|(other, _)| *other == key) {
            return Some(Arc::clone(segment));
        }
        let entry = self.root.volumes.get(pair)?;
        let segment = Arc::new(self.load(entry, number).unwrap_or_else(|error| {
            self.warn(&error, report);
            Segment::default()
        }));
        if segments.len() >= SEGMENTS {
            segments.remove(0);
        }
        segments.push((key, Arc::clone(&segment)));
        Some(segment)
    }

    fn load(&self, volume: &VolumeEntry, number: u64) -> Result<Segment> {
        let index = usize::try_from(number).ok();
        let Some(hash) = index.and_then(|at| volume.segments.get(at)).copied().flatten() else {
            return Ok(Segment::default());
        };
        let bytes = self.repository.segment(hash)?;
        let span = segment_span(number, self.root.window, volume.size).len();
        let read = || -> Result<HashMap<u64, ChunkId>> {
            let windows = SegmentReader::new(&bytes, self.root.window, span)?;
            let first = number * SEGMENT_WINDOWS;
            let chunk = |(index, chunk)| Some((first + index, chunk?));
            windows
                .filter_map(|next| {
                    next.map(|(index, state)| chunk((index, state.chunk))).transpose()
                })
                .collect()
        };
        let chunks = read().map_err(|error| error.on(&table_path(hash)))?;
        let ids: HashSet<ChunkId> = chunks.values().copied().collect();
        let files = self.repository.files.as_ref();
        let places = locations::resolve(
            files,
            hash,
            &ids,
            &mut |pack| Ok(self.known.index.is_intact(pack)),
            &mut |ids| self.known.locate(files, ids),
        )?;
        Ok(Segment { chunks, places: places.found })
    }
}
