//! A repository in memory that can lose power: the fake of this room's tests and its callers'.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::repo::read::{FileInfo, Read, check_path, too_long};
use crate::repo::write::{Append, Write};
use crate::units::Bytes;

/// Files, names and folders, each with what a crash would leave of them; clones are the same place.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default, Debug)]
struct State {
    files: Vec<Contents>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
    steps_left: Option<u64>,
    space_left: Option<usize>,
    unreadable: Option<(String, Extent, Errno)>,
}

#[derive(Clone, Debug)]
struct Contents {
    bytes: Vec<u8>,
    flushed: usize,
    modified: SystemTime,
}

/// What became of names that were not flushed when the power went; bytes not flushed are always gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unflushed {
    /// Created, renamed and deleted names are as they were at the last flush of their folder.
    NamesLost,
    /// The names are there already, before the bytes they name.
    NamesKept,
}

impl Memory {
    /// A place without files.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `steps` more changes succeed; all later ones fail, as if the process were dead.
    pub fn stop_after(&self, steps: u64) {
        self.state().steps_left = Some(steps);
    }

    /// Lets `space` more bytes be written; then the place is full.
    pub fn fill_after(&self, space: usize) {
        self.state().space_left = Some(space);
    }

    /// Lets every read of these bytes of a file fail.
    pub fn fail_reads(&self, path: &str, bytes: Extent, error: Errno) {
        self.state().unreadable = Some((path.to_owned(), bytes, error));
    }

    /// What is there after the power came back.
    pub fn after_crash(&self, unflushed: Unflushed) -> Self {
        let mut state = self.state().clone();
        match unflushed {
            Unflushed::NamesLost => state.live = state.durable.clone(),
            Unflushed::NamesKept => state.durable = state.live.clone(),
        }
        for file in &mut state.files {
            file.bytes.truncate(file.flushed);
        }
        (state.steps_left, state.space_left) = (None, None);
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes a file's bytes behind the repository's back.
    pub fn damage(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if let Some(file) = state.live.get(path).copied().and_then(|at| state.files.get_mut(at)) {
            change(&mut file.bytes);
            file.flushed = file.bytes.len();
        }
    }

    /// Makes a file look as if it had been written `age` earlier.
    pub fn age(&self, path: &str, age: Duration) {
        let mut state = self.state();
        if let Some(file) = state.live.get(path).copied().and_then(|at| state.files.get_mut(at)) {
            file.modified -= age;
        }
    }

    /// Makes all locks, and what was to become one, look as if a machine that died an hour ago had left them: the
    /// process that is said to hold them, this one, is alive.
    #[cfg(test)]
    pub(super) fn forget_locks(&self) {
        for path in self.paths() {
            if path.starts_with("locks/") || path.starts_with("tmp/lock-") {
                self.damage(&path, Vec::clear);
                self.age(&path, Duration::from_secs(3600));
            }
        }
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<String> {
        self.state().live.keys().cloned().collect()
    }

    fn with_file<T>(&self, path: &str, look: impl FnOnce(&Contents) -> Result<T>) -> Result<T> {
        check_path(path)?;
        let state = self.state();
        let file = state.live.get(path).and_then(|at| state.files.get(*at));
        look(file.ok_or_else(|| failed(path, "open", ErrorKind::NotFound))?)
    }
}

fn failed(path: &str, action: &str, kind: ErrorKind) -> Error {
    Error::io(path, action, io::Error::from(kind))
}

impl State {
    fn step(&mut self, path: &str) -> Result<()> {
        match &mut self.steps_left {
            Some(0) => Err(failed(path, "go on", ErrorKind::BrokenPipe)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn number(&self, path: &str) -> Result<usize> {
        self.live.get(path).copied().ok_or_else(|| failed(path, "find", ErrorKind::NotFound))
    }
}

impl Read for Memory {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>> {
        self.with_file(path, |file| {
            let size = Bytes::of(&file.bytes);
            if size > max { Err(too_long(path, size, max)) } else { Ok(file.bytes.clone()) }
        })
    }

    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>> {
        if let Some((bad, bytes, errno)) = &self.state().unreadable
            && bad == path
            && bytes.intersect(range).is_some()
        {
            return Err(Error::io(path, "read", (*errno).into()));
        }
        self.with_file(path, |file| {
            let indices = range.start.index().zip(range.end.index());
            let bytes = indices.and_then(|(start, end)| file.bytes.get(start..end));
            bytes.map(<[u8]>::to_vec).ok_or_else(|| failed(path, "read", ErrorKind::UnexpectedEof))
        })
    }

    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        let state = self.state();
        let inside = |path: &str| match folder {
            "" => Some(path.to_owned()),
            folder => path.strip_prefix(folder)?.strip_prefix('/').map(str::to_owned),
        };
        let files = state.live.iter().filter_map(|(path, at)| {
            let name = inside(path).filter(|name| !name.contains('/'))?;
            let file = state.files.get(*at)?;
            Some(FileInfo { name, size: Bytes::of(&file.bytes), modified: file.modified })
        });
        Ok(files.collect())
    }
}

impl Write for Memory {
    fn create(&self, path: &str) -> Result<Box<dyn Append>> {
        check_path(path)?;
        let mut state = self.state();
        state.step(path)?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !folder.is_empty() && !state.folders.contains(folder) {
            return Err(failed(path, "create", ErrorKind::NotFound));
        }
        if state.live.contains_key(path) {
            return Err(failed(path, "create", ErrorKind::AlreadyExists));
        }
        let number = state.files.len();
        state.files.push(Contents { bytes: Vec::new(), flushed: 0, modified: SystemTime::now() });
        state.live.insert(path.to_owned(), number);
        Ok(Box::new(MemoryFile { place: self.clone(), path: path.to_owned(), number }))
    }

    fn reopen(&self, path: &str, length: Bytes) -> Result<Box<dyn Append>> {
        let mut state = self.state();
        state.step(path)?;
        let number = state.number(path)?;
        let file = state.files.get_mut(number);
        let (Some(file), Some(length)) = (file, length.index()) else {
            return Err(failed(path, "open", ErrorKind::NotFound));
        };
        if file.bytes.len() < length {
            return Err(failed(path, "open", ErrorKind::UnexpectedEof));
        }
        file.bytes.truncate(length);
        file.flushed = file.flushed.min(length);
        Ok(Box::new(MemoryFile { place: self.clone(), path: path.to_owned(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_path(to)?;
        let mut state = self.state();
        state.step(from)?;
        let number = state.number(from)?;
        state.live.remove(from);
        state.live.insert(to.to_owned(), number);
        Ok(())
    }

    fn delete(&self, path: &str) -> Result<()> {
        let mut state = self.state();
        state.step(path)?;
        state.number(path)?;
        state.live.remove(path);
        Ok(())
    }

    fn make_folder(&self, folder: &str) -> Result<()> {
        let mut state = self.state();
        state.step(folder)?;
        state.folders.insert(folder.to_owned());
        Ok(())
    }

    fn flush_folder(&self, folder: &str) -> Result<()> {
        let mut state = self.state();
        state.step(folder)?;
        let inside = |path: &str| path.rsplit_once('/').map_or("", |(parent, _)| parent) == folder;
        let live = state.live.clone();
        state.durable.retain(|path, _| !inside(path));
        state.durable.extend(live.into_iter().filter(|(path, _)| inside(path)));
        Ok(())
    }
}

struct MemoryFile {
    place: Memory,
    path: String,
    number: usize,
}

impl Append for MemoryFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let mut state = self.place.state();
        state.step(&self.path)?;
        if let Some(left) = &mut state.space_left {
            *left = left
                .checked_sub(bytes.len())
                .ok_or_else(|| failed(&self.path, "write", ErrorKind::StorageFull))?;
        }
        if let Some(file) = state.files.get_mut(self.number) {
            file.bytes.extend_from_slice(bytes);
            file.modified = SystemTime::now();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut state = self.place.state();
        state.step(&self.path)?;
        if let Some(file) = state.files.get_mut(self.number) {
            file.flushed = file.bytes.len();
        }
        Ok(())
    }
}
