//! What somebody else may write into a repository: one image of one name, by whoever has a grant for that.
//!
//! A guest saves as everybody does ([`Write`]), but its server looks at each file before it comes into its place: a name that says
//! what is in it has to be right, nothing that is there gets other bytes, and nothing is removed but the guest's own.
//!
//! - [`Drafts`] files that come in pieces, each of which may come twice. - [`Guest`] what they may become. - `pack.rs` whether a
//!   pack is what it says.

mod pack;

use std::collections::{HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::hash::Hash;
use crate::image::manifest::MAX_ROOT;
use crate::image::pack::Entry;
use crate::image::record::{ImageName, MAX_RECORD, Record};
use crate::image::segment::MAX_SEGMENT;
use crate::repo::index::{PackFile, list_packs, read_trailer};
use crate::repo::locations::{self, MAX_LOCATIONS, Place};
use crate::repo::lock::{DRAFT, Lock, LockKind, MAX_LOCK, is_shared, leftovers};
use crate::repo::read::{Read, is_missing};
use crate::repo::write::{Append, Session, Write, folder_of, session_of};
use crate::repo::{catalog, read_named, root_path};
use crate::units::Bytes;

/// The longest piece of a file that is sent at once.
pub const MAX_PIECE: Bytes = Bytes::mib(1);

/// No file of a repository is longer: packs are closed at half of it.
const MAX_DRAFT: u64 = 512 << 20;
/// So many files are open at once: a save writes a pack and, beside it, its lock.
const MAX_OPEN: usize = 8;

/// The status (RFC 9110, section 15, and RFC 4918, section 11.5) that tells a guest what went wrong.
pub fn status(error: &Error) -> u16 {
    match error {
        Error::Refused(_) => 403,
        Error::Corrupt { .. } | Error::Unsupported { .. } => 422,
        Error::Interrupted => 503,
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => 404,
            ErrorKind::AlreadyExists | ErrorKind::UnexpectedEof => 409,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => 507,
            _ => 500,
        },
    }
}

/// What the names of sessions begin with that have this grant.
pub(super) fn prefix(grant: &str) -> String {
    let mut digits = Hash::of(grant.as_bytes()).to_string();
    digits.truncate(16);
    digits
}

/// A file that comes.
struct Open {
    file: Box<dyn Append>,
    /// Where its last piece began, and where that ended.
    last: u64,
    end: u64,
}

/// Files that come in pieces.
pub(super) struct Drafts {
    files: Arc<dyn Write>,
    open: HashMap<String, Open>,
    /// What became of those that are finished: whoever did not hear the answer asks again.
    finished: HashMap<String, String>,
}

impl Drafts {
    pub fn new(files: Arc<dyn Write>) -> Self {
        Self { files, open: HashMap::new(), finished: HashMap::new() }
    }

    /// Adds bytes at the end of a file, which is `at`; without bytes there, makes the file. One that another run of the server has
    /// begun is cut off there: the last piece may have come while that one ended.
    pub fn append(&mut self, path: &str, at: u64, bytes: &[u8]) -> Result<()> {
        let length = Bytes::of(bytes).get();
        let end = at.saturating_add(length);
        if let Some(open) = self.open.get_mut(path) {
            if (at, end) == (open.last, open.end) && length > 0 {
                return Ok(());
            }
            if at != open.end || length == 0 {
                return Err(other(path, ErrorKind::AlreadyExists));
            }
            // How much of them is there after an error is not known.
            let added =
                if end > MAX_DRAFT { Err(too_large(path)) } else { open.file.append(bytes) };
            match added {
                Ok(()) => (open.last, open.end) = (at, end),
                Err(_) => drop(self.delete(path)),
            }
            return added;
        }
        if self.open.len() >= MAX_OPEN {
            return Err(Error::refused("too many files are written at once"));
        }
        let file = match (at, length) {
            (0, 0) => self.files.create(path)?,
            (_, 0) => return Err(other(path, ErrorKind::NotFound)),
            _ => match self.files.reopen(path, Bytes::new(at)) {
                Err(error) if at == 0 && is_missing(&error) => self.files.create(path)?,
                file => file?,
            },
        };
        self.finished.remove(path);
        self.open.insert(path.to_owned(), Open { file, last: at, end: at });
        if length > 0 { self.append(path, at, bytes) } else { Ok(()) }
    }

    /// Whether this file has this place already.
    fn is_finished(&self, from: &str, to: &str) -> bool {
        self.finished.get(from).is_some_and(|place| place == to)
    }

    /// Makes a file durable, in its place.
    pub fn finish(&mut self, from: &str, to: &str) -> Result<()> {
        if self.is_finished(from, to) {
            return Ok(());
        }
        let mut file = match self.open.remove(from) {
            Some(open) => open.file,
            None => self.files.reopen(from, length(self.files.as_ref(), from)?)?,
        };
        if let Err(error) = file.flush().and_then(|()| self.files.rename(from, to)) {
            // It was not durable, and is not asked for again.
            drop(self.delete(from));
            return Err(error);
        }
        self.files.flush_folder(folder_of(to))?;
        self.finished.insert(from.to_owned(), to.to_owned());
        Ok(())
    }

    /// Takes a file for one that has its place, for what it would be is there.
    fn drop_for(&mut self, from: &str, to: &str) -> Result<()> {
        self.delete(from)?;
        self.finished.insert(from.to_owned(), to.to_owned());
        Ok(())
    }

    /// Removes a file durably.
    pub fn delete(&mut self, path: &str) -> Result<()> {
        self.open.remove(path);
        self.files.delete(path)?;
        self.files.flush_folder(folder_of(path))
    }
}

/// How long a draft is.
fn length(files: &dyn Read, draft: &str) -> Result<Bytes> {
    let list = files.list("tmp")?;
    let file = list.iter().find(|file| draft.strip_prefix("tmp/") == Some(&file.name));
    file.map(|file| file.size).ok_or_else(|| other(draft, ErrorKind::NotFound))
}

fn other(path: &str, kind: ErrorKind) -> Error {
    Error::io(path, "add a piece", io::Error::from(kind))
}

fn too_large(path: &str) -> Error {
    Error::refused(format!("{path}: no file of a repository is so long"))
}

/// Somebody who may save one image.
pub struct Guest {
    drafts: Drafts,
    /// Of the server, for what only it does.
    own: Arc<Session>,
    prefix: String,
    name: ImageName,
    records: HashSet<String>,
}

impl Guest {
    /// Who has `grant` may save an image of this name into the repository at `files`.
    pub fn new(files: Arc<dyn Write>, grant: &str, name: ImageName) -> Self {
        Self {
            drafts: Drafts::new(Arc::clone(&files)),
            own: Arc::new(Session::new(files)),
            prefix: prefix(grant),
            name,
            records: HashSet::new(),
        }
    }

    fn files(&self) -> &Arc<dyn Write> {
        self.own.files()
    }

    /// Whether a name, in `tmp/` or `locks/`, is that of a session of this guest: 32 hexadecimal digits, a dot, a number.
    fn is_own(&self, name: &str) -> bool {
        let session = session_of(name);
        let number = name.get(session.len() + 1..).unwrap_or_default();
        session.len() == 32
            && session.starts_with(&self.prefix)
            && session.bytes().all(|byte| byte.is_ascii_hexdigit())
            && (1..=20).contains(&number.len())
            && number.bytes().all(|byte| byte.is_ascii_digit())
    }

    fn own_draft(&self, path: &str) -> Result<()> {
        let name = path.strip_prefix("tmp/");
        let name = name.map(|name| name.strip_prefix(DRAFT).unwrap_or(name));
        if name.is_some_and(|name| self.is_own(name)) { Ok(()) } else { Err(foreign(path)) }
    }

    /// Adds bytes at the end of one of its drafts, which is `at`; without bytes there, makes it.
    ///
    /// # Errors
    /// `Refused`: it is not its own; `Io`: such as where there is no space, and then the draft is gone.
    pub fn append(&mut self, path: &str, at: u64, bytes: &[u8]) -> Result<()> {
        self.own_draft(path)?;
        self.drafts.append(path, at, bytes)
    }

    /// Makes one of its drafts durable in its place, if that is where it belongs.
    ///
    /// # Errors
    /// `Refused` and `Corrupt` where it is not; `Io`. Then nothing has that name that had not.
    pub fn finish(&mut self, from: &str, to: &str) -> Result<()> {
        self.own_draft(from)?;
        // Another run of the server may have done it, whose answer was lost.
        let is_there = |path| there(self.files().as_ref(), path);
        if self.drafts.is_finished(from, to) || !is_there(from)? && is_there(to)? {
            return Ok(());
        }
        if let Some(name) = to.strip_prefix("locks/") {
            return self.lock(from, (to, name));
        }
        self.holds_lock()?;
        let files = Arc::clone(self.files());
        let files: &dyn Read = files.as_ref();
        if to == catalog::CATALOG {
            // It says what there is, which is not the guest's to say.
            catalog::write(&self.own)?;
            return self.drafts.drop_for(from, to);
        }
        let (folder, hash) = to.split_once('/').ok_or_else(|| foreign(to))?;
        let hash: Hash = hash.parse().map_err(|_| foreign(to))?;
        if format!("{folder}/{hash}") != to {
            return Err(foreign(to));
        }
        let whole = |max| read_named(files, from, hash, max);
        match folder {
            // What is there is not this guest's: neither to write again, nor, a record, to remove.
            "packs" | "images" if there(files, to)? => return self.drafts.drop_for(from, to),
            "packs" => {
                let size = length(files, from)?;
                pack::is_sound(files, from, PackFile { name: hash, size })?;
            }
            "tables" => drop(whole(MAX_SEGMENT)?),
            "roots" => drop(whole(MAX_ROOT)?),
            "locations" => {
                are_true(files, &locations::parse(hash, &files.get(from, MAX_LOCATIONS)?)?)?;
            }
            "images" => self.is_record(&whole(MAX_RECORD)?)?,
            _ => return Err(foreign(to)),
        }
        if folder == "images" {
            self.records.insert(to.to_owned());
        }
        self.drafts.finish(from, to)
    }

    /// An image may only be what it is called here, and its root has to be there.
    fn is_record(&self, bytes: &[u8]) -> Result<()> {
        let record = Record::parse(bytes)?;
        if record.name != self.name {
            let (name, other) = (&self.name, &record.name);
            return Err(Error::refused(format!("the order is for an image {name}, not {other}")));
        }
        read_named(self.files().as_ref(), &root_path(record.root), record.root, MAX_ROOT).map(drop)
    }

    /// Its lock: the server looks who else is there, by its own clock, and after what others left.
    fn lock(&mut self, from: &str, (to, name): (&str, &str)) -> Result<()> {
        if !self.is_own(name) {
            return Err(foreign(to));
        }
        let files = Arc::clone(self.files());
        if !is_shared(&files.get(from, MAX_LOCK)?)? {
            return Err(Error::refused("a guest may only save"));
        }
        let is_new = !there(files.as_ref(), to)?;
        self.drafts.finish(from, to)?;
        if is_new && let Err(error) = self.look_around() {
            self.drafts.finished.remove(from);
            drop(self.drafts.delete(to));
            return Err(error);
        }
        Ok(())
    }

    fn look_around(&self) -> Result<()> {
        let _lock = Lock::take(&self.own, LockKind::Shared)?;
        let left = leftovers(self.files().as_ref())?;
        left.iter().try_for_each(|file| self.own.delete(&format!("tmp/{}", file.name)))
    }

    fn holds_lock(&self) -> Result<()> {
        let locks = self.files().list("locks")?;
        if locks.iter().any(|lock| self.is_own(&lock.name)) {
            return Ok(());
        }
        Err(Error::refused("the lock of this save is gone; start it again"))
    }

    /// Removes a draft, a lock, or a record that came from this guest.
    ///
    /// # Errors
    /// `Refused`: it is somebody else's; `Io`.
    pub fn delete(&mut self, path: &str) -> Result<()> {
        let is_lock = path.strip_prefix("locks/").is_some_and(|name| self.is_own(name));
        if !is_lock && !self.records.contains(path) {
            self.own_draft(path)?;
        }
        self.drafts.delete(path)
    }

    /// Removes its locks and drafts: it is gone, and will not come back.
    ///
    /// # Errors
    /// `Io`.
    pub fn leave(&mut self) -> Result<()> {
        self.drafts.open.clear();
        for folder in ["locks", "tmp"] {
            for file in self.files().list(folder)? {
                if self.is_own(file.name.strip_prefix(DRAFT).unwrap_or(&file.name)) {
                    match self.drafts.delete(&format!("{folder}/{}", file.name)) {
                        Err(error) if !is_missing(&error) => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// Checks that chunks lie where they are said to: readers of other images believe that too.
fn are_true(files: &dyn Read, places: &[Place]) -> Result<()> {
    let packs = list_packs(files)?;
    for some in places.chunk_by(|one, next| one.pack == next.pack) {
        let Some(pack) = some.first().map(|place| place.pack) else { continue };
        let gone = || Error::refused(format!("there is no pack {pack}"));
        let pack = packs.iter().find(|one| one.name == pack).ok_or_else(gone)?;
        let there: HashMap<Bytes, Entry> = read_trailer(files, *pack)?.chunks.into_iter().collect();
        if some.iter().any(|place| there.get(&place.offset) != Some(&place.entry)) {
            let pack = pack.name;
            return Err(Error::refused(format!(
                "the pack {pack} has other chunks than it is said"
            )));
        }
    }
    Ok(())
}

fn foreign(path: &str) -> Error {
    Error::refused(format!("{path:?} is not for a guest to write"))
}

fn there(files: &dyn Read, path: &str) -> Result<bool> {
    match files.range(path, Extent::first(Bytes::ZERO)) {
        Err(error) if is_missing(&error) => Ok(false),
        other => other.map(|_| true),
    }
}

#[cfg(test)]
mod tests;
