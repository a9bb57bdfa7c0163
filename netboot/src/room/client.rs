//! The side of the room that is restored: the windows of an image, whose chunks come by multicast as far as they do.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use image_core::error::{Error, Result};
use image_core::extent::ExtentSet;
use image_core::image::hash::{ChunkId, Hash};
use image_core::image::manifest::Hit;
use image_core::pipeline::fetch::Segment;
use image_core::pipeline::write::Damage;
use image_core::repo::{ChunkFeed, Delivery, PackFeed, Read, StoredChunk, WantSet};
use image_core::report::Report;
use image_core::restore::{Stored, Windows, Work};
use image_core::units::Bytes;

use super::blocks::{self, Block};
use super::session::Session;
use super::{Names, Offer};

/// Segments that are written at once: 256 GiB of volumes with windows of 1 MiB.
const SEGMENTS: usize = 16;
/// For so long no block may come; then what is missing is fetched.
const PATIENCE: Duration = Duration::from_secs(15);

/// The windows of an image in a room.
pub struct Room<'a> {
    files: Arc<dyn Read>,
    stored: Stored<'a>,
    names: Names,
    /// BLAKE3 of the list of blocks.
    list: Hash,
    blocks: Vec<Block>,
}

impl<'a> Room<'a> {
    /// The room of `image` in the repository `files`; none where there is none. `stored` is the same image.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Unsupported`]: there is one that cannot be used; [`Error::Io`].
    pub fn find(
        files: Arc<dyn Read>,
        image: Hash,
        stored: Stored<'a>,
        report: &dyn Report,
    ) -> Result<Option<Self>> {
        let names = Names::of(image);
        let Some(offer) = Offer::find(files.as_ref(), &names, report)? else { return Ok(None) };
        offer.terms()?;
        let bytes = files.get(&names.blocks, blocks::MOST)?;
        if Hash::of(&bytes) != offer.blocks {
            let (expected, found) = (offer.blocks.to_string(), Hash::of(&bytes).to_string());
            return Err(Error::corrupt("list of blocks", Bytes::ZERO, expected, found));
        }
        let blocks = blocks::from_bytes(&bytes)?;
        Ok(Some(Self { files, stored, names, list: offer.blocks, blocks }))
    }

    /// Joins, for blocks with chunks that are `wanted`; none where there are none.
    fn join(&self, wanted: &WantSet, report: &dyn Report) -> Result<Option<Session>> {
        let blocks = (0..).zip(&self.blocks);
        let lacking =
            |(_, block): &(u32, &Block)| block.chunks.iter().any(|id| wanted.contains(id));
        let lacking: HashSet<u32> = blocks.filter(lacking).map(|(number, _)| number).collect();
        if lacking.is_empty() {
            return Ok(None);
        }
        // While somebody looked at the plan the room may have closed; it opens again with the same blocks, as another session.
        let offer = Offer::find(self.files.as_ref(), &self.names, report)?;
        let gone = || Error::refused("the server does not send this image any more");
        let offer = offer.filter(|offer| offer.blocks == self.list).ok_or_else(gone)?;
        self.session(&self.names, &offer, lacking).map(Some)
    }

    /// Joins the lane, for these blocks; none where there is none.
    fn join_lane(&self, lacking: HashSet<u32>, report: &dyn Report) -> Result<Option<Session>> {
        let names = self.names.lane();
        let offer = Offer::find(self.files.as_ref(), &names, report)?;
        let offer = offer.filter(|offer| offer.blocks == self.list);
        offer.map(|offer| self.session(&names, &offer, lacking)).transpose()
    }

    fn session(&self, names: &Names, offer: &Offer, lacking: HashSet<u32>) -> Result<Session> {
        let lengths = self.blocks.iter().map(|block| block.length).collect();
        Session::join((self.files.as_ref(), names, offer.terms()?), lengths, lacking)
    }
}

impl Windows for Room<'_> {
    fn each(&self, volumes: &[usize], report: &dyn Report, work: Work<'_>) -> Result<Vec<Damage>> {
        self.stored.parts(volumes, SEGMENTS, report, &mut |parts| {
            let segments = parts.iter().map(|part| &part.segment).collect();
            work(parts, &mut Feed::new(self, segments, report))
        })
    }

    fn again(&self, volume: usize, work: &mut dyn FnMut(&Segment) -> Result<()>) -> Result<()> {
        self.stored.again(volume, work)
    }

    fn used(&self, volume: usize, places: &ExtentSet) -> Result<ExtentSet> {
        self.stored.used(volume, places)
    }

    fn first(&self, volume: usize) -> Result<(Vec<u8>, Vec<Damage>)> {
        self.stored.first(volume)
    }

    fn unreadable(&self, volume: usize) -> ExtentSet {
        self.stored.unreadable(volume)
    }

    fn hit(&self, volume: usize) -> Option<Hit> {
        self.stored.hit(volume)
    }
}

/// The chunks of some segments, as they come.
struct Feed<'r, 'a> {
    room: &'r Room<'a>,
    segments: Vec<&'r Segment>,
    report: &'r dyn Report,
    ready: VecDeque<Delivery>,
    way: Way,
    /// Whether it has left the session of all for its lane.
    is_slow: bool,
    /// Whether it was said that something wrong came.
    is_told: bool,
}

/// How chunks come.
enum Way {
    /// Nobody was asked yet.
    Unasked,
    Multicast(Session),
    /// From the files of the repository, segment by segment.
    Files(HashMap<Hash, PackFeed>),
}

impl<'r, 'a> Feed<'r, 'a> {
    fn new(room: &'r Room<'a>, segments: Vec<&'r Segment>, report: &'r dyn Report) -> Self {
        let (ready, way) = (VecDeque::new(), Way::Unasked);
        Self { room, segments, report, ready, way, is_slow: false, is_told: false }
    }

    /// The way for what is `wanted`, which is the files where nothing comes by multicast.
    fn ask(&self, wanted: &WantSet) -> Way {
        match self.room.join(wanted, self.report) {
            Ok(Some(session)) => Way::Multicast(session),
            Ok(None) => Way::Files(HashMap::new()),
            Err(error) => {
                self.report.note(&format!("no multicast, everything is fetched: {error}"));
                Way::Files(HashMap::new())
            }
        }
    }

    /// Blocks from the session, decoded; whether more are to come.
    fn hear(&mut self) -> Result<bool> {
        let Way::Multicast(session) = &mut self.way else { return Ok(false) };
        if session.lacking.is_empty() {
            return Ok(false);
        }
        self.report.checkpoint()?;
        if session.loses_most() {
            let lacking = std::mem::take(&mut session.lacking);
            return Ok(self.leave(lacking));
        }
        let came = session.take();
        if came.is_empty() && !session.is_silent(PATIENCE) {
            return Ok(true);
        }
        if came.is_empty() {
            let count = session.lacking.len();
            // The server may have been started again, or a switch have forgotten who listens. Where it still speaks, it has no more.
            if session.is_deaf() && session.has_taken() {
                self.report.note("nothing comes by multicast any more; it is joined again");
                (self.way, self.is_slow) = (Way::Unasked, false);
                return Ok(true);
            }
            self.report.note(&format!(
                "nothing comes by multicast any more; the {count} blocks that are missing are fetched"
            ));
            return Ok(false);
        }
        let window = self.room.stored.root.window;
        for (number, block) in came {
            let known = self.room.blocks.get(number as usize);
            let chunks = known
                .zip(block.whole())
                .map(|(known, bytes)| blocks::decode(&bytes, &known.chunks));
            // What is wrong is fetched in the end: it is still wanted.
            let chunks = match chunks {
                Some(Ok(chunks)) => StoredChunk::decode_all(&chunks, window)?,
                _ => Vec::new(),
            };
            let sound = |chunk: &Delivery| matches!(chunk, Delivery::Chunk { .. });
            let before = self.ready.len();
            self.ready.extend(chunks.into_iter().flatten().filter(sound));
            let came = self.ready.len() - before;
            let is_whole = known.is_some_and(|known| known.chunks.len() == came);
            if !is_whole && !std::mem::replace(&mut self.is_told, true) {
                self.report.note(
                    "wrong bytes come by multicast; they are fetched instead. Is somebody else sending to this session?",
                );
            }
        }
        Ok(true)
    }

    /// Leaves a session that is too fast, for its lane; whether that sends what is `lacking`.
    fn leave(&mut self, lacking: HashSet<u32>) -> bool {
        let why = "the way to this machine carries a part of what is sent";
        let count = lacking.len();
        // The session ends before another one begins.
        self.way = Way::Unasked;
        let lane = match std::mem::replace(&mut self.is_slow, true) {
            true => None,
            false => self.room.join_lane(lacking, self.report).ok().flatten(),
        };
        if let Some(lane) = lane {
            self.report.note(&format!("{why}; the {count} blocks that are missing come slower"));
            self.way = Way::Multicast(lane);
            return true;
        }
        self.report.note(&format!("{why}; the {count} blocks that are missing are fetched"));
        false
    }

    /// A chunk from the files of the repository.
    fn fetch(&mut self, wanted: &WantSet) -> Result<Option<Delivery>> {
        let Way::Files(feeds) = &mut self.way else { return Ok(None) };
        for segment in &self.segments {
            let ids: Vec<ChunkId> =
                segment.wanted.keys().filter(|id| wanted.contains(id)).copied().collect();
            if ids.is_empty() {
                continue;
            }
            let feed = match feeds.entry(segment.hash) {
                std::collections::hash_map::Entry::Occupied(feed) => feed.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(self.room.stored.repo.feed(self.room.stored.root.window)?)
                }
            };
            return feed.next(&WantSet::new(segment.hash, ids));
        }
        Ok(None)
    }
}

impl ChunkFeed for Feed<'_, '_> {
    fn next(&mut self, wanted: &WantSet) -> Result<Option<Delivery>> {
        loop {
            while let Some(chunk) = self.ready.pop_front() {
                if wanted.contains(&chunk.id()) {
                    return Ok(Some(chunk));
                }
            }
            if wanted.is_empty() {
                return Ok(None);
            }
            match self.way {
                Way::Unasked => self.way = self.ask(wanted),
                Way::Multicast(_) => {
                    if !self.hear()? {
                        self.way = Way::Files(HashMap::new());
                    }
                }
                Way::Files(_) => return self.fetch(wanted),
            }
        }
    }
}
