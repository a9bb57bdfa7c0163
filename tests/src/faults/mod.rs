//! A folder in which calls of the kernel fail as a test wishes, and which remembers what was changed in it.
//!
//! It shows another folder through FUSE, without a cache: what a program asks for arrives here call by call.
//! Refuses: to be quick; links, modes and owners are left out.
//!
//! - [`Fault`]: which call fails, and how. [`Faulty`]: the folder. `served.rs`: its side of FUSE.
//! - [`Event`]: what was changed, for [`crate::outage`], which cuts the power afterwards.

mod served;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fuser::{BackgroundSession, Config, MountOption, Session};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::loops::unmount;

/// What a program asks of a file or folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Is it there, how long is it, how old?
    Look,
    /// Open a file that is there.
    Open,
    /// Open it to change it.
    OpenToWrite,
    /// The names in a folder.
    List,
    /// Bytes of a file.
    Read,
    /// Change bytes of a file.
    Write,
    /// Make bytes zeros, or say that they are not needed: fallocate(2).
    Zero,
    /// Give a file another length.
    Resize,
    /// fsync(2) of a file.
    Flush,
    /// fsync(2) of a folder.
    FlushFolder,
    /// Make a file or a folder.
    Create,
    /// Give another name.
    Rename,
    /// Remove a file or a folder.
    Remove,
    /// How much space is left.
    Space,
}

impl Op {
    /// Everything that changes something, and needs the right to.
    pub const CHANGES: [Self; 7] = [
        Self::OpenToWrite,
        Self::Write,
        Self::Zero,
        Self::Resize,
        Self::Create,
        Self::Rename,
        Self::Remove,
    ];
    /// Everything.
    pub const ALL: [Self; 14] = [
        Self::Look,
        Self::Open,
        Self::OpenToWrite,
        Self::List,
        Self::Read,
        Self::Write,
        Self::Zero,
        Self::Resize,
        Self::Flush,
        Self::FlushFolder,
        Self::Create,
        Self::Rename,
        Self::Remove,
        Self::Space,
    ];
}

/// What happens instead.
#[derive(Clone, Debug)]
pub enum How {
    /// The call fails.
    Fails(Errno),
    /// Half of more than 4096 bytes are read or written, and so it is said.
    Half,
    /// The file seems to end before these bytes.
    Ends,
    /// There is no space left, whoever asks for it.
    NoSpace,
    /// Whoever asks gets this signal, and what was asked for is done.
    Signals(Signal),
    /// Whoever asks is killed, and nothing is done.
    Kills,
}

/// Which calls fail, and how.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What is asked.
    pub on: Vec<Op>,
    /// How the path begins, seen from the folder; empty for everything in it.
    pub path: String,
    /// The bytes, for what has a position.
    pub bytes: Range<u64>,
    /// How many of these calls go well before.
    pub after: u64,
    /// How many fail then.
    pub times: u64,
    /// What happens to them.
    pub how: How,
}

impl Fault {
    /// All such calls below `path`, as `how` says.
    pub fn new(on: &[Op], path: &str, how: How) -> Self {
        let (on, path) = (on.to_vec(), path.to_owned());
        Self { on, path, bytes: 0..u64::MAX, after: 0, times: u64::MAX, how }
    }

    /// Only those after the first `after`, and `times` of them.
    #[must_use]
    pub fn between(self, after: u64, times: u64) -> Self {
        Self { after, times, ..self }
    }

    /// Only those that touch these bytes.
    #[must_use]
    pub fn at(self, bytes: Range<u64>) -> Self {
        Self { bytes, ..self }
    }

    fn concerns(&self, op: Op, path: &Path, bytes: &Range<u64>) -> bool {
        let touches = bytes.start < self.bytes.end && self.bytes.start < bytes.end;
        self.on.contains(&op)
            && path != Path::new("")
            && path.to_string_lossy().starts_with(&self.path)
            && (bytes.is_empty() || touches)
    }
}

/// A file, whatever its name: the same as long as it is there.
pub type FileId = u64;

/// What was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Bytes of a file.
    Write {
        /// The file.
        file: FileId,
        /// Where.
        at: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Its length.
    Resize {
        /// The file.
        file: FileId,
        /// The length.
        length: u64,
    },
    /// All of its bytes were made durable.
    Flush {
        /// The file.
        file: FileId,
    },
    /// A file was made.
    Create {
        /// Its path.
        path: PathBuf,
        /// Itself.
        file: FileId,
    },
    /// A folder was made.
    MakeFolder {
        /// Its path.
        path: PathBuf,
    },
    /// A file got another name.
    Rename {
        /// Its path until now.
        from: PathBuf,
        /// Its path from now on.
        to: PathBuf,
    },
    /// A file was removed.
    Remove {
        /// Its path.
        path: PathBuf,
    },
    /// The names in a folder were made durable.
    FlushFolder {
        /// Its path.
        path: PathBuf,
    },
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<(Fault, u64)>,
    events: Option<Vec<Event>>,
    /// How far the clock of this folder is ahead, or behind.
    ahead: Duration,
    behind: Duration,
    /// Paths of the inodes, whose numbers are their places behind the root.
    paths: Vec<PathBuf>,
    inodes: HashMap<PathBuf, u64>,
    open: HashMap<u64, Arc<File>>,
    lists: HashMap<u64, Vec<(u64, bool, std::ffi::OsString)>>,
    handles: u64,
}

/// A folder that shows another one, with faults; gone when dropped.
pub struct Faulty {
    folder: TempDir,
    session: Option<BackgroundSession>,
    state: Arc<Mutex<State>>,
}

impl Faulty {
    /// Shows what is in `behind`.
    ///
    /// # Errors
    /// No rights, or no FUSE.
    pub fn new(behind: &Path) -> Result<Self> {
        let (folder, state) = (TempDir::new()?, Arc::new(Mutex::new(State::default())));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faults".to_owned())];
        let served = served::Served::new(behind.to_owned(), Arc::clone(&state));
        let session = Session::new(served, folder.path(), &config)
            .and_then(Session::spawn)
            .context("tests named loop_ need root and FUSE")?;
        Ok(Self { folder, session: Some(session), state })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// From now on calls fail like this, and the calls that a fault concerns are counted anew.
    pub fn fail(&self, faults: Vec<Fault>) {
        locked(&self.state).faults = faults.into_iter().map(|fault| (fault, 0)).collect();
    }

    /// How many calls each of the faults concerned until now, whether they failed or not.
    pub fn met(&self) -> Vec<u64> {
        locked(&self.state).faults.iter().map(|(_, met)| *met).collect()
    }

    /// From now on the clock of whoever keeps these files is ahead of this machine's, or behind.
    pub fn shift_clock(&self, ahead: Duration, behind: Duration) {
        let mut state = locked(&self.state);
        (state.ahead, state.behind) = (ahead, behind);
    }

    /// The files that are there, by path.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn files(&self) -> Result<BTreeMap<PathBuf, FileId>> {
        let mut files = BTreeMap::new();
        find_files(self.folder(), Path::new(""), &mut files)?;
        Ok(files)
    }

    /// From now on changes are remembered; those since the last time that this was asked.
    pub fn events(&self) -> Vec<Event> {
        locked(&self.state).events.replace(Vec::new()).unwrap_or_default()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        unmount(self.folder.path());
        if let Some(session) = self.session.take() {
            drop(session.join());
        }
    }
}

/// The inode's number is the file's own.
fn find_files(root: &Path, inner: &Path, found: &mut BTreeMap<PathBuf, FileId>) -> Result<()> {
    for entry in fs::read_dir(root.join(inner))? {
        let entry = entry?;
        let path = inner.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            find_files(root, &path, found)?;
        } else {
            found.insert(path, entry.metadata()?.ino());
        }
    }
    Ok(())
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// What happens to a call of the process `pid`; signals are sent here.
    fn verdict(&mut self, pid: u32, op: Op, path: &Path, bytes: Range<u64>) -> Option<How> {
        let mut verdict = None;
        for (fault, met) in &mut self.faults {
            if !fault.concerns(op, path, &bytes) {
                continue;
            }
            *met += 1;
            let turn = met.saturating_sub(1);
            if turn < fault.after || turn - fault.after >= fault.times {
                continue;
            }
            let asks = i32::try_from(pid).ok().and_then(Pid::from_raw);
            match (&fault.how, asks) {
                (How::Signals(signal), Some(pid)) => {
                    kill_process(pid, *signal).unwrap_or_default();
                }
                (How::Kills, Some(pid)) => {
                    kill_process(pid, Signal::KILL).unwrap_or_default();
                    verdict = Some(How::Fails(Errno::INTR));
                }
                (how, _) => verdict = Some(how.clone()),
            }
        }
        verdict
    }

    fn note(&mut self, event: impl FnOnce() -> Event) {
        if let Some(events) = &mut self.events {
            events.push(event());
        }
    }

    /// The time that files are seen with, of that which they have.
    fn shifted(&self, time: SystemTime) -> SystemTime {
        time.checked_add(self.ahead).and_then(|time| time.checked_sub(self.behind)).unwrap_or(time)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;

    use super::*;

    fn faulty() -> (TempDir, Faulty) {
        let behind = TempDir::new().unwrap();
        fs::write(behind.path().join("file"), [1; 8192]).unwrap();
        let faulty = Faulty::new(behind.path()).unwrap();
        (behind, faulty)
    }

    fn kind<T>(result: std::io::Result<T>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn loop_the_calls_that_are_named_fail_and_no_others() {
        let (behind, faulty) = faulty();
        let path = faulty.folder().join("file");
        let io = || How::Fails(Errno::IO);
        faulty.fail(vec![Fault::new(&[Op::Read], "file", io()).at(4096..4100)]);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(kind(file.read_exact_at(&mut bytes, 4096)), Some(5));
        file.write_all_at(b"x", 4096).unwrap();
        faulty.fail(vec![Fault::new(&[Op::Flush], "", io()).between(1, 1)]);
        let flushed = [0; 3].map(|_| kind(file.sync_all()));
        assert_eq!((flushed, faulty.met()), ([None, Some(5), None], vec![3]));
        faulty.fail(vec![Fault::new(&Op::CHANGES, "other", How::NoSpace)]);
        assert_eq!(kind(File::create_new(faulty.folder().join("other"))), Some(28));
        fs::rename(&path, faulty.folder().join("moved")).unwrap();
        assert_eq!(fs::read(behind.path().join("moved")).unwrap()[4096], b'x');
    }

    #[test]
    fn loop_bytes_are_cut_short() {
        let (_behind, faulty) = faulty();
        let mut file =
            File::options().read(true).write(true).open(faulty.folder().join("file")).unwrap();
        faulty.fail(vec![Fault::new(&[Op::Read, Op::Write], "", How::Half)]);
        assert_eq!(file.read(&mut [0; 8192]).unwrap(), 4096);
        assert_eq!(file.write(&[0; 9000]).unwrap(), 8192);
        faulty.fail(vec![Fault::new(&[Op::Read], "", How::Ends)]);
        assert_eq!(file.read(&mut [0; 4096]).unwrap(), 0);
    }

    #[test]
    fn loop_changes_are_remembered_and_the_clock_is_another() {
        let (_behind, faulty) = faulty();
        let id = faulty.files().unwrap()[Path::new("file")];
        assert!(faulty.events().is_empty());
        let file = File::options().write(true).open(faulty.folder().join("file")).unwrap();
        file.write_all_at(b"ab", 3).unwrap();
        file.sync_all().unwrap();
        let written = Event::Write { file: id, at: 3, bytes: b"ab".to_vec() };
        assert_eq!(faulty.events(), [written, Event::Flush { file: id }]);
        let day = Duration::from_secs(86_400);
        let now = file.metadata().unwrap().modified().unwrap();
        faulty.shift_clock(day, Duration::ZERO);
        assert_eq!(file.metadata().unwrap().modified().unwrap(), now + day);
    }
}
