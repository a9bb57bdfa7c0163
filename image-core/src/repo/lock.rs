//! Locks: who works in a repository, as files that every filesystem and every server understands.
//!
//! A lock is written, flushed, and only then are the others listed: of two sessions that begin at once
//! at least one sees the other. A holder on this machine is asked for by its process; any other is
//! believed for [`STALE`] after its last refresh, by the clock of the machine that keeps the files.

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::image::header::{Version, encode_json, parse_json, seal, unseal};
use crate::image::time::Timestamp;
use crate::repo::Repository;
use crate::repo::read::{FileInfo, Read, is_missing};
use crate::repo::write::{Session, session_of};
use crate::report::Report;
use crate::units::Bytes;

/// How often a lock is written anew.
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// After this time without a refresh another machine's lock is worth nothing.
const STALE: Duration = Duration::from_secs(30 * 60);

/// After this time a lock that is torn is worth nothing. A lock comes into its place whole, so a torn one was left by a
/// machine that lost its power, on a server that lost what it had called durable.
const TORN: Duration = Duration::from_secs(60);

/// How the name of a lock's draft begins: of a session that has no lock yet.
pub const DRAFT: &str = "lock-";

/// The largest lock that a reader takes.
pub const MAX_LOCK: Bytes = Bytes::kib(16);

const ATTEMPTS: u64 = 3;

/// What a session may do beside others.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum LockKind {
    /// Adds files or removes records; any number of these at a time.
    Shared,
    /// Removes or rewrites what others may rely on; alone.
    Exclusive,
}

/// Whether this is a lock that goes together with others like it.
pub fn is_shared(bytes: &[u8]) -> Result<bool> {
    Ok(Holder::parse(bytes)?.kind == LockKind::Shared)
}

/// Who holds a lock; the file's content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Holder {
    #[serde(flatten)]
    version: Version,
    host: String,
    boot_id: Option<String>,
    pid_namespace: Option<String>,
    pid: u32,
    process_start: Option<u64>,
    kind: LockKind,
    time: Timestamp,
}

impl Holder {
    fn this(kind: LockKind) -> Self {
        let pid = std::process::id();
        Self {
            version: Version::CURRENT,
            host: host_name(),
            boot_id: boot_id(),
            pid_namespace: pid_namespace(),
            pid,
            process_start: process_start(pid),
            kind,
            time: Timestamp::now(),
        }
    }

    fn encode(&self) -> Result<Vec<u8>> {
        encode_json(self).map(seal)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        parse_json("lock", unseal("lock", bytes)?)
    }

    /// Whether its process would be visible here; a container has processes of its own.
    fn is_here(&self) -> bool {
        self.boot_id.is_some() && self.boot_id == boot_id() && self.pid_namespace == pid_namespace()
    }

    /// Who it is; of another machine also when it gave a sign of life, `age` ago.
    fn describe(&self, age: Duration) -> String {
        let Self { pid, host, time, .. } = self;
        let who = format!("process {pid} on {host} since {time}");
        if self.is_here() {
            return who;
        }
        let (ago, stale) = (age.as_secs() / 60, STALE.as_secs() / 60);
        format!(
            "{who} (last sign of life {ago} min ago; if that machine was switched off, its lock ends {stale} min after that)"
        )
    }

    /// For one whose process would be visible: whether it is gone, or its number was given away.
    fn is_gone(&self) -> bool {
        process_start(self.pid) != self.process_start
    }
}

/// This machine's name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The kernel makes one at every boot (random(4)).
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

fn pid_namespace() -> Option<String> {
    fs::read_link("/proc/self/ns/pid").ok().map(|link| link.to_string_lossy().into_owned())
}

/// When a process began, in clock ticks after boot: field 22 of its stat file (proc_pid_stat(5)). A dead one
/// that nobody asked for its exit code yet (states Z and X) holds nothing any more.
fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace();
    let state = fields.next()?;
    let start = fields.nth(18)?;
    if matches!(state, "Z" | "X") { None } else { start.parse().ok() }
}

/// A lock that is held; dropping it gives it back.
pub struct Lock {
    session: Arc<Session>,
    path: String,
    refresher: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Lock {
    /// A lock for who reads images for long; none where this program may not write. Who may can prune then: what that throws
    /// away is found in the trash for a day, and what is gone after all is damage.
    ///
    /// # Errors
    /// [`Error::Refused`]: the repository is being pruned; [`Error::Io`].
    pub fn of_images(from: &Repository, report: &dyn Report) -> Result<Option<Self>> {
        let Ok(session) = from.session() else { return Ok(None) };
        match Self::take(session, LockKind::Shared) {
            Err(Error::Io { source, .. }) if is_read_only(source.kind()) => Ok(None),
            Err(error @ Error::Io { .. }) if is_full(&error) => {
                report.warning(&format!("{error}; do not prune {} meanwhile", from.location()));
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Takes a lock, or backs off: another holder is an error that names it.
    pub fn take(session: &Arc<Session>, kind: LockKind) -> Result<Self> {
        let mut attempt = 1;
        loop {
            let lock = Self::write(session, kind)?;
            let Some(other) = lock.conflict(kind)? else { return lock.refreshed(kind) };
            drop(lock);
            if attempt == ATTEMPTS {
                return Err(Error::refused(format!(
                    "the repository {} is in use by {other}",
                    session.files().location()
                )));
            }
            attempt += 1;
            // Two sessions that met must not meet again at the next attempt.
            let [jitter, ..] = *uuid::Uuid::new_v4().as_bytes();
            thread::sleep(Duration::from_millis(50 + u64::from(jitter)));
        }
    }

    fn write(session: &Arc<Session>, kind: LockKind) -> Result<Self> {
        let name = session.unique_name();
        let path = format!("locks/{name}");
        let mut draft = session.draft_as(&format!("{DRAFT}{name}"))?;
        draft.append(&Holder::this(kind).encode()?)?;
        draft.finish(&path)?;
        Ok(Self { session: Arc::clone(session), path, refresher: None })
    }

    /// Another holder that does not go together with `kind`; stale locks are removed on the way.
    fn conflict(&self, kind: LockKind) -> Result<Option<String>> {
        let files = self.session.files();
        let locks = files.list("locks")?;
        let own = self.path.trim_start_matches("locks/");
        let Some(now) = locks.iter().find(|lock| lock.name == own).map(|lock| lock.modified) else {
            return Err(self.lost());
        };
        for other in locks.iter().filter(|lock| lock.name != own) {
            let path = format!("locks/{}", other.name);
            let holder = match files.get(&path, MAX_LOCK) {
                Err(error) if is_missing(&error) => continue,
                other => Holder::parse(&other?),
            };
            let age = now.duration_since(other.modified).unwrap_or_default();
            if is_stale(holder.as_ref(), age) {
                match files.delete(&path) {
                    Err(error) if !is_missing(&error) => return Err(error),
                    _ => continue,
                }
            }
            match holder {
                Ok(holder) if kind == LockKind::Shared && holder.kind == LockKind::Shared => {}
                Ok(holder) => return Ok(Some(holder.describe(age))),
                Err(error) => return Ok(Some(format!("an unreadable lock ({})", error.on(&path)))),
            }
        }
        Ok(None)
    }

    fn refreshed(mut self, kind: LockKind) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (session, path) = (Arc::clone(&self.session), self.path.clone());
        let refresh = move || {
            while stopped.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                // A refresh that fails is tried again; `held` tells whether the lock was lost meanwhile.
                if exists(session.files().as_ref(), &path).unwrap_or(false) {
                    let _ = Holder::this(kind).encode().and_then(|b| session.put(&path, &b));
                }
            }
        };
        let thread = thread::Builder::new()
            .name("lock".to_owned())
            .spawn(refresh)
            .map_err(|error| Error::io("lock", "start its thread", error))?;
        self.refresher = Some((stop, thread));
        Ok(self)
    }

    /// Whether others still see this lock; a machine that slept for long may have lost it.
    pub fn held(&self) -> Result<()> {
        if exists(self.session.files().as_ref(), &self.path)? { Ok(()) } else { Err(self.lost()) }
    }

    /// Gives it back, and tells where that failed: whoever goes on would meet it.
    pub fn release(self) -> Result<()> {
        self.session.files().delete(&self.path)
    }

    /// Whether it is seen in a place: then that is where it was taken.
    pub fn is_in(&self, files: &dyn Read) -> Result<bool> {
        exists(files, &self.path)
    }

    /// When this lock was written last, by the clock of the machine that keeps the files: a time from which the
    /// age of other files there can be told, a few minutes ago at most.
    pub fn time_there(&self) -> Result<SystemTime> {
        let own = self.path.trim_start_matches("locks/");
        let locks = self.session.files().list("locks")?;
        let lock = locks.into_iter().find(|lock| lock.name == own);
        lock.map(|lock| lock.modified).ok_or_else(|| self.lost())
    }

    fn lost(&self) -> Error {
        Error::refused(format!(
            "the lock {} is gone: this run slept for so long that another took it for dead, and may have removed \
             what it counted on; start it again",
            self.path
        ))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.refresher.take() {
            drop(stop);
            let _ = thread.join();
        }
        // A lock that stays is stale as soon as this process is gone.
        let _ = self.session.files().delete(&self.path);
    }
}

fn exists(files: &(impl Read + ?Sized), path: &str) -> Result<bool> {
    match files.get(path, MAX_LOCK) {
        Err(error) if is_missing(&error) => Ok(false),
        other => other.map(|_| true),
    }
}

fn is_stale(holder: Result<&Holder, &Error>, age: Duration) -> bool {
    match holder {
        Ok(holder) if holder.is_here() => holder.is_gone(),
        Err(Error::Corrupt { .. }) => age > TORN,
        // Another machine's, or one that only a newer version understands.
        _ => age > STALE,
    }
}

/// Drafts whose session holds no lock any more; the caller holds a lock, so dead locks are gone. The draft of a lock
/// may be just about to become one: it counts as that lock would.
pub fn leftovers(files: &(impl Read + ?Sized)) -> Result<Vec<FileInfo>> {
    // Drafts first: a session that begins after this has made its lock before its first other draft.
    let drafts = files.list("tmp")?;
    let locks = files.list("locks")?;
    let now = locks.iter().map(|lock| lock.modified).max();
    let mut left = Vec::new();
    for draft in drafts {
        if locks.iter().any(|lock| session_of(&lock.name) == session_of(&draft.name)) {
            continue;
        }
        if draft.name.starts_with(DRAFT) {
            let age = now.and_then(|now| now.duration_since(draft.modified).ok());
            let holder = match files.get(&format!("tmp/{}", draft.name), MAX_LOCK) {
                Err(error) if is_missing(&error) => continue,
                other => other.and_then(|bytes| Holder::parse(&bytes)),
            };
            if !is_stale(holder.as_ref(), age.unwrap_or_default()) {
                continue;
            }
        }
        left.push(draft);
    }
    Ok(left)
}

fn is_read_only(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

fn is_full(error: &Error) -> bool {
    use ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, Error::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Holder, Lock, LockKind, leftovers};
    use crate::error::Error;
    use crate::image::header::seal;
    use crate::repo::memory::Memory;
    use crate::repo::read::Read;
    use crate::repo::write::{Session, Write};

    fn session(files: &Memory) -> Arc<Session> {
        for folder in ["locks", "tmp"] {
            files.make_folder(folder).unwrap();
        }
        Arc::new(Session::new(Arc::new(files.clone())))
    }

    fn foreign(files: &Memory, change: impl FnOnce(&mut Holder)) {
        let mut holder = Holder::this(LockKind::Exclusive);
        change(&mut holder);
        files.create("locks/other.0").unwrap().append(&holder.encode().unwrap()).unwrap();
    }

    #[test]
    fn shared_locks_go_together_exclusive_ones_do_not() {
        let files = Memory::new();
        let (one, two) = (session(&files), session(&files));
        let first = Lock::take(&one, LockKind::Shared).unwrap();
        let second = Lock::take(&two, LockKind::Shared).unwrap();
        let error = Lock::take(&two, LockKind::Exclusive).err().unwrap();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        drop((first, second));
        let alone = Lock::take(&two, LockKind::Exclusive).unwrap();
        let error = Lock::take(&one, LockKind::Shared).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        alone.held().unwrap();
        drop(alone);
        assert!(files.list("locks").unwrap().is_empty());
    }

    #[test]
    fn a_dead_process_of_this_machine_holds_nothing() {
        let files = Memory::new();
        let session = session(&files);
        // The same process number, begun at another time.
        foreign(&files, |holder| holder.process_start = Some(1));
        Lock::take(&session, LockKind::Exclusive).unwrap();
        foreign(&files, |_| {});
        files.age("locks/other.0", Duration::from_secs(86_400));
        assert!(Lock::take(&session, LockKind::Exclusive).is_err(), "it is alive, however old");
    }

    #[test]
    fn another_machine_is_believed_for_half_an_hour() {
        let files = Memory::new();
        let session = session(&files);
        foreign(&files, |holder| holder.boot_id = Some("another boot".into()));
        files.age("locks/other.0", Duration::from_secs(29 * 60));
        let error = Lock::take(&session, LockKind::Shared).err().unwrap().to_string();
        assert!(error.contains("last sign of life 29 min ago"), "{error}");
        files.age("locks/other.0", Duration::from_secs(2 * 60));
        Lock::take(&session, LockKind::Shared).unwrap();
    }

    #[test]
    fn a_torn_lock_counts_for_a_minute() {
        let files = Memory::new();
        let session = session(&files);
        files.create("locks/other.0").unwrap().append(b"torn").unwrap();
        files.age("locks/other.0", Duration::from_secs(55));
        assert!(Lock::take(&session, LockKind::Shared).is_err());
        files.age("locks/other.0", Duration::from_secs(6));
        let lock = Lock::take(&session, LockKind::Shared).unwrap();
        files.delete(&lock.path).unwrap();
        assert!(lock.held().is_err());
    }

    #[test]
    fn a_lock_of_a_newer_version_counts_like_any_other() {
        let files = Memory::new();
        let session = session(&files);
        let mut json = serde_json::to_value(Holder::this(LockKind::Shared)).unwrap();
        json["format"] = 99.into();
        let bytes = seal(serde_json::to_vec(&json).unwrap());
        files.create("locks/other.0").unwrap().append(&bytes).unwrap();
        files.age("locks/other.0", Duration::from_secs(29 * 60));
        let error = Lock::take(&session, LockKind::Shared).err().unwrap().to_string();
        assert!(error.contains("unreadable") && error.contains("format"), "{error}");
        files.age("locks/other.0", Duration::from_secs(2 * 60));
        Lock::take(&session, LockKind::Shared).unwrap();
    }

    #[test]
    fn drafts_without_a_lock_are_leftovers() {
        let files = Memory::new();
        let session = session(&files);
        let _lock = Lock::take(&session, LockKind::Shared).unwrap();
        let _draft = session.draft().unwrap();
        files.create("tmp/dead.4").unwrap();
        files.create("tmp/lock-other.0").unwrap();
        let names =
            || -> Vec<_> { leftovers(&files).unwrap().into_iter().map(|file| file.name).collect() };
        assert_eq!(names(), ["dead.4"], "another session is about to take a lock");
        files.age("tmp/lock-other.0", Duration::from_secs(61));
        assert_eq!(names(), ["dead.4", "lock-other.0"]);
        let dead = Holder { pid: u32::MAX, ..Holder::this(LockKind::Shared) };
        files.create("tmp/lock-third.0").unwrap().append(&dead.encode().unwrap()).unwrap();
        assert_eq!(
            names(),
            ["dead.4", "lock-other.0", "lock-third.0"],
            "it died before it had its lock"
        );
    }
}
