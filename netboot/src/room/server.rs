//! The side of the room that has the image.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use image_core::error::{Error, Result};
use image_core::image::hash::Hash;
use image_core::repo::{ImageInfo, Repository, Sequence};
use image_core::report::Report;

use super::blocks::{self, Block};
use super::{Joined, Names, Offer, file};
use crate::files::{Answers, Made, Question};
use crate::multicast::sender::Seen;
use crate::multicast::server::{Pace, Place, SYSTEM, Server, Source};

/// Who is silent for so long is switched off, or has another number by now.
const SILENT: Duration = Duration::from_secs(15);

/// A room that is open; it closes when dropped.
#[derive(Debug)]
pub struct Room {
    names: Names,
    offer: Bytes,
    blocks: Bytes,
    count: u32,
    server: Server,
}

impl Room {
    /// Opens a room for an image, on the interface with this address and at one of the places of sessions.
    ///
    /// # Errors
    /// The image is damaged or cannot be read, the port is taken.
    pub fn open(
        repo: &Repository,
        image: &ImageInfo,
        way: ((Ipv4Addr, Place), &Pace),
        report: &dyn Report,
    ) -> Result<Self> {
        let root = repo.root(image)?;
        let volumes: Vec<usize> = super::shared(&root).collect();
        let sequence = Sequence::new(repo, &root, &volumes, report)?;
        if let Some(lost) = sequence.lost().first() {
            let why = format!("{} of its chunks are damaged: {}", sequence.lost().len(), lost.why);
            return Err(Error::refused(format!("image {image} cannot be served: {why}")));
        }
        let list = blocks::pack(sequence.chunks());
        let bytes = blocks::to_bytes(&list);
        let source = Arc::new(Pieces::new(sequence, &list));
        Self::of(image.id, source, bytes, way)
    }

    /// Opens a room for a file, of which no list of blocks is needed.
    ///
    /// # Errors
    /// The port is taken.
    pub fn of_file(file: Bytes, (interface, pace): (Ipv4Addr, &Pace)) -> Result<Self> {
        let source = Arc::new(file::Pieces(file.clone()));
        Self::of(Hash::of(&file), source, Vec::new(), ((interface, SYSTEM), pace))
    }

    fn of(
        id: Hash,
        source: Arc<dyn Source>,
        list: Vec<u8>,
        (at, pace): ((Ipv4Addr, Place), &Pace),
    ) -> Result<Self> {
        let count = u32::try_from(source.lengths().len()).unwrap_or(u32::MAX);
        let server = Server::start(source, at, pace)?;
        let offer = serde_json::to_vec(&Offer::new(server.terms(), Hash::of(&list)))
            .map_err(|error| Error::io("room", "describe", error.into()))?;
        let (names, offer, blocks) = (Names::of(id), offer.into(), list.into());
        Ok(Self { names, offer, blocks, count, server })
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.count
    }

    /// The machines in it, those that are silent for long left out.
    pub fn clients(&self) -> Vec<Seen> {
        let mut clients = self.server.clients();
        clients.retain(|client| client.silent < SILENT);
        clients
    }

    /// What is sent.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

impl Answers for Room {
    /// For names in the repository. Who asks to join has joined once it speaks.
    fn answer(&self, question: &Question<'_>) -> Option<Made> {
        let name = Some(question.name).filter(|_| question.posted.is_none())?;
        if name == self.names.offer {
            self.server.expect();
            return Some(Made::new("application/json", self.offer.clone()));
        }
        if name == self.names.blocks {
            return Some(Made::new("application/octet-stream", self.blocks.clone()));
        }
        (name == self.names.join).then(|| Made::json(&Joined { slot: self.server.join() }))
    }
}

/// The image as a session sends it.
struct Pieces {
    sequence: Sequence,
    /// The length of each block in bytes, and where its chunks stand in the sequence.
    blocks: Vec<(u32, Range<usize>)>,
}

impl Pieces {
    fn new(sequence: Sequence, list: &[Block]) -> Self {
        let mut next = 0;
        let range = |block: &Block| {
            let start = next;
            next += block.chunks.len();
            (block.length, start..next)
        };
        Self { sequence, blocks: list.iter().map(range).collect() }
    }
}

impl Source for Pieces {
    fn lengths(&self) -> Vec<u32> {
        self.blocks.iter().map(|(length, _)| *length).collect()
    }

    fn read(&self, block: u32) -> Result<Vec<u8>> {
        let gone = |why: String| {
            Error::io("room", "read a block of the image", std::io::Error::other(why))
        };
        let (length, range) = self
            .blocks
            .get(block as usize)
            .ok_or_else(|| gone(format!("there is no block {block}")))?;
        let chunks = self.sequence.read(range.clone())?.into_iter();
        let chunks =
            chunks.collect::<std::result::Result<Vec<_>, _>>().map_err(|lost| gone(lost.why))?;
        let bytes = blocks::encode(&chunks);
        if bytes.len() != *length as usize {
            return Err(gone(format!("block {block} changed its length")));
        }
        Ok(bytes)
    }
}
