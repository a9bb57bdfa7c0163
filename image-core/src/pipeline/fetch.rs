//! The windows of one table segment, and the chunks that they need, from any feed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::image::SEGMENT_WINDOWS;
use crate::image::chunk::WindowState;
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::VolumeEntry;
use crate::image::segment::{SegmentReader, segment_span};
use crate::repo::{Lost, Repository};
use crate::units::Bytes;

/// One table segment, decoded.
#[derive(Clone)]
pub struct Segment {
    /// Its name.
    pub hash: Hash,
    /// Its windows: number within the volume, and state.
    pub windows: Vec<(u64, WindowState)>,
    /// Which windows (by index in `windows`) need a chunk.
    pub wanted: HashMap<ChunkId, Vec<usize>>,
}

impl Segment {
    /// Reads and checks segment `number` of `volume`.
    ///
    /// # Errors
    /// [`crate::error::Error::Corrupt`] naming the volume where the segment is damaged or missing.
    pub fn load(
        repo: &Repository,
        volume: &VolumeEntry,
        number: u64,
        hash: Hash,
        window: Bytes,
    ) -> Result<Self> {
        let read = || Self::parse(hash, &repo.segment(hash)?, number, volume.size, window);
        read().map_err(|error| error.on(&volume.id))
    }

    /// Checks and decodes segment `number` of a volume of `size` bytes.
    ///
    /// # Errors
    /// [`crate::error::Error::Corrupt`].
    pub fn parse(
        hash: Hash,
        bytes: &[u8],
        number: u64,
        size: Bytes,
        window: Bytes,
    ) -> Result<Self> {
        let span = segment_span(number, window, size).len();
        let first = number * SEGMENT_WINDOWS;
        let mut segment = Self::empty(hash);
        for entry in SegmentReader::new(bytes, window, span)? {
            let (index, state) = entry?;
            segment.push(first + index, state);
        }
        Ok(segment)
    }

    /// A segment without windows.
    pub fn empty(hash: Hash) -> Self {
        Self { hash, windows: Vec::new(), wanted: HashMap::new() }
    }

    /// Adds window `number` of the volume.
    pub fn push(&mut self, number: u64, state: WindowState) {
        if let Some(id) = state.chunk {
            self.wanted.entry(id).or_default().push(self.windows.len());
        }
        self.windows.push((number, state));
    }

    /// Bytes that the segment's windows use.
    pub fn used_bytes(&self) -> Bytes {
        let used = |state: &WindowState| {
            state.data.total() + state.zero.total() + state.unreadable.total()
        };
        self.windows.iter().map(|(_, state)| used(state)).sum()
    }

    /// Forgets all windows but those whose number within the volume is `wanted`.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        let windows = std::mem::take(&mut self.windows);
        self.wanted.clear();
        for (number, state) in windows.into_iter().filter(|(number, _)| wanted(*number)) {
            self.push(number, state);
        }
    }

    /// The segment without the windows whose number within the volume is in `present`.
    pub fn without(&self, present: &HashSet<u64>) -> Cow<'_, Self> {
        if present.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut missing = Self::empty(self.hash);
        for (number, state) in self.windows.iter().filter(|(number, _)| !present.contains(number)) {
            missing.push(*number, state.clone());
        }
        Cow::Owned(missing)
    }

    /// The chunk `id` as lost, if its plain bytes are not as many as a window that needs it has data.
    pub(super) fn misfit(&self, id: &ChunkId, plain_len: Bytes) -> Option<Lost> {
        let windows = self.wanted.get(id).into_iter().flatten();
        let mut states = windows.filter_map(|at| self.windows.get(*at)).map(|(_, state)| state);
        let state = states.find(|state| state.plain_len() != plain_len)?;
        let (expected, found) = (state.plain_len().get(), plain_len.get());
        let why = format!("chunk {id}: expected {expected} plain bytes, found {found}");
        Some(Lost::nowhere(*id, why))
    }

    /// Whether a window needs the chunk `id`.
    pub fn wants(&self, id: &ChunkId) -> bool {
        self.wanted.contains_key(id)
    }
}
