//! The side of the room that has the image.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use image_core::error::{Error, Result};
use image_core::image::hash::Hash;
use image_core::repo::{ImageInfo, Lost, Repository, Sequence};
use image_core::report::Report;

use super::blocks::{self, Block};
use super::{Joined, Names, Offer, file};
use crate::files::{Answers, Made, Question};
use crate::multicast::pace::Pace;
use crate::multicast::sender::Seen;
use crate::multicast::server::{MORE, Place, SYSTEM, Sent, Server, Source};

/// Who is silent for so long is switched off, or has another number by now.
const SILENT: Duration = Duration::from_secs(15);

/// A room that is open; it closes when dropped.
pub struct Room {
    names: Names,
    blocks: Bytes,
    count: u32,
    pass: Sent,
    main: Session,
    /// For those whose way carries only a part of what is sent, once one of them asks.
    lane: Mutex<Option<Session>>,
    source: Arc<dyn Source>,
    interface: Ipv4Addr,
    pace: Pace,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({})", self.names.offer)
    }
}

/// A session, and what is told of it.
struct Session {
    offer: Bytes,
    server: Server,
}

impl Session {
    fn start(
        source: &Arc<dyn Source>,
        way: (Ipv4Addr, Place),
        pace: &Pace,
        list: Hash,
    ) -> Result<Self> {
        let server = Server::start(Arc::clone(source), way, pace)?;
        let offer = serde_json::to_vec(&Offer::new(server.terms(), list))
            .map_err(|error| Error::io("room", "describe", error.into()))?;
        Ok(Self { offer: offer.into(), server })
    }

    /// The answer to a question for one of these names. Who asks to join has joined once it speaks.
    fn answer(&self, name: &str, names: &Names) -> Option<Made> {
        if name == names.offer {
            self.server.expect();
            return Some(Made::new("application/json", self.offer.clone()));
        }
        (name == names.join).then(|| Made::json(&Joined { slot: self.server.join() }))
    }
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
        let lengths = source.lengths();
        let count = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
        let (pass, pace) = (Sent::once(&lengths), pace.session());
        let main = Session::start(&source, at, &pace, Hash::of(&list))?;
        let (names, blocks, lane) = (Names::of(id), list.into(), Mutex::default());
        Ok(Self { names, blocks, count, pass, main, lane, source, interface: at.0, pace })
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u32 {
        self.count
    }

    /// What its sessions know, one after the other.
    fn each<T>(&self, of: impl Fn(&Server) -> T) -> Vec<T> {
        let lane = lock(&self.lane);
        let sessions = [Some(&self.main), lane.as_ref()];
        sessions.into_iter().flatten().map(|session| of(&session.server)).collect()
    }

    /// All of its blocks, sent once.
    pub fn pass(&self) -> Sent {
        self.pass
    }

    /// How fast may be sent to all.
    pub fn pace(&self) -> &Pace {
        &self.pace
    }

    /// All machines in it, also those that are silent by now.
    pub fn known(&self) -> Vec<Seen> {
        let mut known = self.main.server.clients();
        if let Some(lane) = lock(&self.lane).as_ref() {
            let slow = lane.server.clients().into_iter();
            known.extend(slow.map(|seen| Seen { is_slow: true, ..seen }));
        }
        known
    }

    /// The machines in it.
    pub fn clients(&self) -> Vec<Seen> {
        let mut clients = self.known();
        clients.retain(|client| client.silent < SILENT);
        clients
    }

    /// Those that have left, and how many blocks each had.
    pub fn left(&self) -> Vec<(Ipv4Addr, u32)> {
        self.each(Server::left).concat()
    }

    /// What was sent.
    pub fn sent(&self) -> Sent {
        self.each(Server::sent).into_iter().sum()
    }

    /// What people are to be told of it, once.
    pub fn news(&self) -> Vec<String> {
        self.each(Server::news).concat()
    }

    /// Whether a part of it came to an end, so that somebody gets nothing any more.
    pub fn has_ended(&self) -> bool {
        self.each(Server::has_ended).contains(&true)
    }

    /// The answer of the lane, which begins when somebody asks for its offer; none where it cannot.
    fn slower(&self, name: &str) -> Option<Made> {
        let names = self.names.lane();
        let mut lane = lock(&self.lane);
        if lane.is_none() && name == names.offer {
            let (way, pace) = ((self.interface, MORE), self.pace.lane());
            *lane = Session::start(&self.source, way, &pace, Hash::of(&self.blocks)).ok();
        }
        lane.as_ref()?.answer(name, &names)
    }
}

fn lock(lane: &Mutex<Option<Session>>) -> MutexGuard<'_, Option<Session>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers for Room {
    /// For names in the repository.
    fn answer(&self, question: &Question<'_>) -> Option<Made> {
        let name = Some(question.name).filter(|_| question.posted.is_none())?;
        if name == self.names.blocks {
            return Some(Made::new("application/octet-stream", self.blocks.clone()));
        }
        self.main.answer(name, &self.names).or_else(|| self.slower(name))
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
        let none = || Error::refused(format!("there is no block {block}"));
        let (length, range) = self.blocks.get(block as usize).ok_or_else(none)?;
        let chunks = self.sequence.read(range.clone())?.into_iter();
        let chunks = chunks.collect::<Result<Vec<_>, _>>().map_err(error)?;
        let bytes = blocks::encode(&chunks);
        if bytes.len() != *length as usize {
            return Err(Error::refused(format!("block {block} changed its length")));
        }
        Ok(bytes)
    }
}

/// What could not be read may be so later; what was read and is wrong stays so.
fn error(lost: Lost) -> Error {
    let chunk = format!("chunk {}", lost.id);
    match lost.is_unread {
        true => Error::io(chunk, "be had", std::io::Error::other(lost.why)),
        false => Error::refused(format!("{chunk}: {}", lost.why)),
    }
}
