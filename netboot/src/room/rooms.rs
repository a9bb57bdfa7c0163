//! The rooms of a repository: each opens when somebody asks for its image, and closes when nobody was in it for a while.
//!
//! Opening reads tables, and what is stored as deltas, so a thread of its own does it; who asks meanwhile is told to ask again.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use image_core::error::Result;
use image_core::image::hash::Hash;
use image_core::repo::{ImageInfo, Repository};
use image_core::report::{Report, Stage};
use image_core::units::Bytes;

use super::server::Room;
use super::{FOLDER, Names, OPENS};
use crate::files::{Answers, Made, Question};
use crate::multicast::pace::Pace;
use crate::multicast::server::{IMAGE, MORE, Place};

/// So many images are sent beside the one that always is; others are fetched.
pub const MOST: usize = 4;

/// For so long a room stays open with nobody in it.
pub const IDLE: Duration = Duration::from_secs(300);

/// An image that is sent, as people write it, and its room.
pub type Sent = (String, Arc<Room>);

/// The rooms of a repository.
pub struct Rooms {
    maker: Maker,
    known: Arc<Mutex<Known>>,
    ends: Arc<AtomicBool>,
}

/// What opens a room.
#[derive(Clone)]
struct Maker {
    repo: Repository,
    interface: Ipv4Addr,
    pace: Pace,
}

#[derive(Default)]
struct Known {
    table: Table<Sent>,
    opening: Vec<JoinHandle<()>>,
    /// Why rooms could not be opened, until it is told.
    refused: Vec<String>,
    /// Blocks that could not be read in rooms that are closed.
    unreadable: u32,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rooms({})", self.maker.repo.location())
    }
}

impl Rooms {
    /// Those of a repository, on the interface with this address; none is open.
    pub fn new(repo: Repository, (interface, pace): (Ipv4Addr, &Pace)) -> Self {
        let maker = Maker { repo, interface, pace: pace.clone() };
        Self { maker, known: Arc::default(), ends: Arc::default() }
    }

    /// Opens the room of the image that is always sent.
    ///
    /// # Errors
    /// The image is damaged or cannot be read, the port is taken.
    pub fn open(&self, image: &ImageInfo, report: &dyn Report) -> Result<()> {
        let room = self.maker.open(image, IMAGE, report)?;
        lock(&self.known).table.add(image.id, room);
        Ok(())
    }

    /// Those that are open, in the order in which they were opened.
    pub fn sent(&self) -> Vec<Sent> {
        lock(&self.known).table.open().cloned().collect()
    }

    /// How many blocks cannot be read now, and could not in rooms that are closed.
    pub fn unreadable(&self) -> u32 {
        let known = lock(&self.known);
        known.unreadable + known.table.open().map(|(_, room)| unreadable(room)).sum::<u32>()
    }

    /// What people are to be told, once: rooms that could not be opened, what cannot be read.
    pub fn news(&self) -> Vec<String> {
        let mut known = lock(&self.known);
        let mut news = std::mem::take(&mut known.refused);
        for (name, room) in known.table.open() {
            news.extend(room.news().into_iter().map(|told| format!("{name}: {told}")));
        }
        news
    }

    /// Closes the rooms that nobody was in for [`IDLE`], but the one of the image that is always sent.
    pub fn close_idle(&self, now: Instant) {
        let mut known = lock(&self.known);
        let closed = known.table.idle(now, |(_, room)| !room.clients().is_empty());
        known.unreadable += closed.iter().map(|(_, room)| unreadable(room)).sum::<u32>();
        // The threads of a room take a moment to end.
        drop(known);
        drop(closed);
    }

    /// Closes all rooms; no more are opened.
    pub fn close(&self) {
        let mut known = lock(&self.known);
        self.ends.store(true, Ordering::Relaxed);
        let opening = std::mem::take(&mut known.opening);
        drop(known);
        // One that panicked has said so.
        opening.into_iter().for_each(|thread| drop(thread.join()));
        let closed = std::mem::take(&mut lock(&self.known).table);
        drop(closed);
    }

    /// Begins to open the room of an image that is there, where there may be one more.
    fn begin(&self, known: &mut Known, id: Hash, now: Instant) -> Option<Made> {
        if self.ends.load(Ordering::Relaxed) {
            return None;
        }
        let image = self.maker.repo.image(id).ok()??;
        if !known.table.begin(id, now) {
            return None;
        }
        let (maker, shared, ends) = (self.maker.clone(), self.known.clone(), self.ends.clone());
        let work = move || {
            let opened = maker.open(&image, MORE, &Until(ends));
            let why = opened
                .as_ref()
                .err()
                .map(|why| format!("{image} is not sent, machines fetch it one by one: {why}"));
            let mut known = lock(&shared);
            known.table.end(id, opened.ok(), Instant::now());
            known.refused.extend(why);
        };
        known.opening.retain(|thread| !thread.is_finished());
        match thread::Builder::new().name("room".to_owned()).spawn(work) {
            Ok(thread) => known.opening.push(thread),
            Err(_) => known.table.end(id, None, now),
        }
        Some(opens())
    }
}

impl Answers for Rooms {
    fn answer(&self, question: &Question<'_>) -> Option<Made> {
        let name = question.name.strip_prefix(FOLDER)?.strip_prefix('/')?;
        let id = name.split('.').next()?.parse().ok()?;
        let is_wish = question.posted.is_none() && question.name == Names::of(id).offer;
        let now = Instant::now();
        let mut known = lock(&self.known);
        let has_threads = known.opening.iter().any(|thread| !thread.is_finished());
        let room = match known.table.find(id, now) {
            Some(State::Open((_, room))) => Arc::clone(room),
            Some(State::Opens) if has_threads => return is_wish.then(opens),
            // Its thread panicked, and has said so.
            Some(State::Opens) => {
                known.table.end(id, None, now);
                return None;
            }
            Some(State::Refused) => return None,
            None if is_wish => return self.begin(&mut known, id, now),
            None => return None,
        };
        drop(known);
        room.answer(question)
    }
}

impl Maker {
    fn open(&self, image: &ImageInfo, place: Place, report: &dyn Report) -> Result<Sent> {
        let way = ((self.interface, place), &self.pace);
        let room = Room::open(&self.repo, image, way, report)?;
        Ok((image.to_string(), Arc::new(room)))
    }
}

fn unreadable(room: &Room) -> u32 {
    room.sent().unreadable
}

fn opens() -> Made {
    Made::new("application/json", OPENS)
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nobody watches how a room is opened; it stops when this program ends.
struct Until(Arc<AtomicBool>);

impl Report for Until {
    fn stage(&self, _: Stage, _: Option<Bytes>) {}
    fn advance(&self, _: Bytes) {}
    fn warning(&self, _: &str) {}

    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What became of the wish for a room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State<T> {
    Opens,
    Open(T),
    /// It cannot be opened; after [`IDLE`] it is tried again.
    Refused,
}

#[derive(Debug)]
struct Entry<T> {
    id: Hash,
    state: State<T>,
    /// When somebody asked for it or was in it; of one that was refused, when that was.
    used: Instant,
    stays: bool,
}

/// Which rooms there are. Time is input.
#[derive(Debug)]
struct Table<T>(Vec<Entry<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Table<T> {
    /// Adds one that stays.
    fn add(&mut self, id: Hash, room: T) {
        let (state, used) = (State::Open(room), Instant::now());
        self.0.push(Entry { id, state, used, stays: true });
    }

    /// Looks for a room that somebody asks for.
    fn find(&mut self, id: Hash, now: Instant) -> Option<&State<T>> {
        let entry = self.0.iter_mut().find(|entry| entry.id == id)?;
        if !matches!(entry.state, State::Refused) {
            entry.used = now;
        }
        Some(&entry.state)
    }

    /// Notes that a room opens; not where there are so many already.
    fn begin(&mut self, id: Hash, now: Instant) -> bool {
        let counts = |entry: &&Entry<T>| !entry.stays && !matches!(entry.state, State::Refused);
        if self.0.iter().filter(counts).count() >= MOST {
            return false;
        }
        self.0.push(Entry { id, state: State::Opens, used: now, stays: false });
        true
    }

    /// Notes what came of that.
    fn end(&mut self, id: Hash, opened: Option<T>, now: Instant) {
        if let Some(entry) = self.0.iter_mut().find(|entry| entry.id == id) {
            (entry.state, entry.used) = (opened.map_or(State::Refused, State::Open), now);
        }
    }

    /// Takes out what was not used for [`IDLE`]; those rooms that were open.
    fn idle(&mut self, now: Instant, is_used: impl Fn(&T) -> bool) -> Vec<T> {
        for entry in &mut self.0 {
            if matches!(&entry.state, State::Open(room) if is_used(room)) {
                entry.used = now;
            }
        }
        let is_idle = |entry: &mut Entry<T>| {
            let waits = entry.stays || matches!(entry.state, State::Opens);
            !waits && now.saturating_duration_since(entry.used) >= IDLE
        };
        let room = |entry: Entry<T>| match entry.state {
            State::Open(room) => Some(room),
            _ => None,
        };
        self.0.extract_if(.., is_idle).filter_map(room).collect()
    }

    fn open(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|entry| match &entry.state {
            State::Open(room) => Some(room),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Hash, IDLE, MOST, State, Table};

    fn id(number: usize) -> Hash {
        Hash::of(&number.to_le_bytes())
    }

    #[test]
    fn rooms_open_once_and_close_when_nobody_is_in_them() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut table: Table<usize> = Table::default();
        table.add(id(0), 0);
        for number in 1..=MOST {
            assert_eq!(table.find(id(number), begin), None);
            assert!(table.begin(id(number), begin));
            assert_eq!(table.find(id(number), begin), Some(&State::Opens));
        }
        assert!(!table.begin(id(9), begin), "there are enough");
        // However long it takes to open one.
        assert!(table.idle(at(9999), |_| false).is_empty());
        table.end(id(1), None, at(9999));
        assert_eq!(table.find(id(1), at(9999)), Some(&State::Refused));
        assert!(table.begin(id(9), at(9999)), "one that was refused takes no place");
        for number in [2, 3, 4, 9] {
            table.end(id(number), Some(number), at(9999));
        }
        assert_eq!(table.open().copied().collect::<Vec<_>>(), [0, 2, 3, 4, 9]);

        // In 2 somebody is, for 3 somebody asked.
        let late = at(9999) + IDLE;
        assert_eq!(table.find(id(3), late), Some(&State::Open(3)));
        assert_eq!(table.find(id(1), at(10_000)), Some(&State::Refused));
        assert_eq!(table.idle(late, |room| *room == 2), [4, 9]);
        assert_eq!(table.find(id(1), late), None, "it is tried again");
        assert_eq!(table.find(id(4), late), None);
        assert_eq!(table.idle(late + IDLE, |_| false), [2, 3]);
        assert_eq!(table.open().copied().collect::<Vec<_>>(), [0], "that one stays");
        assert!(table.begin(id(4), late + IDLE));
    }
}
