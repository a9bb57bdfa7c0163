//! Files that nothing needed when they were pruned, kept for a while: `trash/<date>.<folder>.<hash>`.
//!
//! A file may turn out to be needed after all (by a restore that began earlier, by a save that slept),
//! so whoever misses one looks here. How long ago a day's files were thrown away is told by the modification time
//! of the empty file `trash/<date>`, written before them: theirs are older, and that of this machine's clock.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::hash::Hash;
use crate::repo::index::{PackFile, list_packs};
use crate::repo::read::{FileInfo, Read, is_missing};
use crate::repo::write::{Session, Write};
use crate::units::Bytes;

/// Folders whose files go to the trash.
const FOLDERS: [&str; 3] = ["packs", "tables", "roots"];

/// How long it is kept.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A file in the trash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Trashed {
    /// Its path there.
    pub path: String,
    /// The day on which it was thrown away, which is also the name of the file whose age counts.
    pub date: String,
    /// The folder that it came from.
    pub folder: &'static str,
    /// Its name there.
    pub hash: Hash,
    /// Its length.
    pub size: Bytes,
}

impl Trashed {
    fn of(file: &FileInfo) -> Option<Self> {
        let mut parts = file.name.splitn(3, '.');
        let (date, folder, hash) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        let folder = FOLDERS.into_iter().find(|known| *known == folder)?;
        let path = format!("trash/{}", file.name);
        Some(Self { path, date: date.to_owned(), folder, hash, size: file.size })
    }

    /// Where it came from.
    pub fn origin(&self) -> String {
        format!("{}/{}", self.folder, self.hash)
    }
}

/// Everything in the trash.
pub(super) fn list(files: &(impl Read + ?Sized)) -> Result<Vec<Trashed>> {
    Ok(files.list("trash")?.iter().filter_map(Trashed::of).collect())
}

/// The packs of a repository, and those in its trash that are nowhere else, by name.
pub(super) fn all_packs(files: &dyn Read) -> Result<Vec<PackFile>> {
    // The trash last: a pack may be on its way there.
    let mut packs = list_packs(files)?;
    let there: HashSet<Hash> = packs.iter().map(|pack| pack.name).collect();
    let trashed = list(files)?.into_iter().filter(|one| one.folder == "packs");
    let trashed = trashed.filter(|one| !there.contains(&one.hash));
    packs.extend(trashed.map(|one| PackFile { name: one.hash, size: one.size }));
    packs.sort_unstable_by_key(|pack| pack.name);
    packs.dedup_by_key(|pack| pack.name);
    Ok(packs)
}

/// A file that is to be thrown away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unneeded {
    /// One of [`FOLDERS`].
    pub folder: &'static str,
    /// Its name.
    pub hash: Hash,
    /// Its length.
    pub size: Bytes,
}

/// Moves files into the trash of the day `date`, durably; there before it is gone from its folder.
pub(super) fn throw(session: &Session, date: &str, unneeded: &[Unneeded]) -> Result<()> {
    if unneeded.is_empty() {
        return Ok(());
    }
    session.put(&mark_of(date), b"")?;
    let files = session.files();
    for Unneeded { folder, hash, .. } in unneeded {
        files.rename(&format!("{folder}/{hash}"), &format!("trash/{date}.{folder}.{hash}"))?;
    }
    files.flush_folder("trash")?;
    let emptied = |folder: &&&str| unneeded.iter().any(|one| one.folder == **folder);
    FOLDERS.iter().filter(emptied).try_for_each(|folder| files.flush_folder(folder))
}

/// The file whose age is that of a day's trash.
fn mark_of(date: &str) -> String {
    format!("trash/{date}")
}

/// What has been in the trash for [`KEPT`] at `now`, the time there; everything with `all`. A day whose age
/// nobody noted is as young as can be.
pub(super) fn expired(files: &dyn Read, now: SystemTime, all: bool) -> Result<Vec<Trashed>> {
    let marks = files.list("trash")?;
    let is_old = |one: &Trashed| {
        let mark = marks.iter().find(|mark| mark.name == one.date);
        let age = mark.and_then(|mark| now.duration_since(mark.modified).ok());
        all || age.is_some_and(|age| age >= KEPT)
    };
    let mut old: Vec<Trashed> = marks.iter().filter_map(Trashed::of).collect();
    old.retain(is_old);
    Ok(old)
}

/// Notes the age of those days of which nobody did (a copy of a repository may have lost it).
pub(super) fn note_ages(session: &Session) -> Result<()> {
    let there = session.files().list("trash")?;
    let dates: BTreeSet<String> =
        there.iter().filter_map(Trashed::of).map(|one| one.date).collect();
    for date in dates.iter().filter(|date| there.iter().all(|file| file.name != **date)) {
        session.put(&mark_of(date), b"")?;
    }
    Ok(())
}

/// Removes files from the trash for good, and what noted the age of days of which nothing is left.
pub(super) fn remove(files: &dyn Write, old: &[Trashed]) -> Result<()> {
    for one in old {
        files.delete(&one.path)?;
    }
    if !old.is_empty() {
        files.flush_folder("trash")?;
    }
    let there = files.list("trash")?;
    let left: BTreeSet<String> = there.iter().filter_map(Trashed::of).map(|one| one.date).collect();
    let is_mark = |file: &&FileInfo| !file.name.contains('.') && !left.contains(&file.name);
    for mark in there.iter().filter(is_mark) {
        files.delete(&mark_of(&mark.name))?;
    }
    files.flush_folder("trash")
}

/// Takes a file out of the trash, durably.
pub(super) fn take_back(files: &dyn Write, trashed: &Trashed) -> Result<()> {
    files.rename(&trashed.path, &trashed.origin())?;
    files.flush_folder(trashed.folder)?;
    files.flush_folder("trash")
}

/// A place whose missing packs, tables and roots are looked for in its trash.
pub(super) struct WithTrash(pub Arc<dyn Read>);

impl WithTrash {
    fn find<T>(&self, path: &str, missing: Error, read: impl Fn(&str) -> Result<T>) -> Result<T> {
        let known = path.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder));
        if !known || !is_missing(&missing) {
            return Err(missing);
        }
        // A server that cannot list has nothing in its trash.
        let trashed = list(self.0.as_ref()).unwrap_or_default();
        let found = trashed.iter().find(|one| one.origin() == path).map(|one| read(&one.path));
        match found {
            // Somebody may have taken it back meanwhile.
            None => read(path),
            Some(Err(error)) if is_missing(&error) => read(path),
            Some(found) => found,
        }
    }
}

impl Read for WithTrash {
    fn location(&self) -> String {
        self.0.location()
    }

    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>> {
        self.0.get(path, max).or_else(|error| self.find(path, error, |path| self.0.get(path, max)))
    }

    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>> {
        let read = |path: &str| self.0.range(path, range);
        read(path).or_else(|error| self.find(path, error, read))
    }

    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        self.0.list(folder)
    }
}
