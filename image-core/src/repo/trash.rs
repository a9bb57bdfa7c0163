//! Files that nothing needed when they were pruned, kept for a while: `trash/<date>.<folder>.<hash>`.
//!
//! A file may turn out to be needed after all (by a restore that began earlier, by a save that slept),
//! so whoever misses one looks here.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::hash::Hash;
use crate::repo::index::{PackFile, list_packs};
use crate::repo::read::{FileInfo, Read, is_missing};
use crate::repo::write::Write;
use crate::units::Bytes;

/// Folders whose files go to the trash.
const FOLDERS: [&str; 3] = ["packs", "tables", "roots"];

/// A file in the trash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Trashed {
    /// Its path there.
    pub path: String,
    /// The day's name, which is also that of the file whose age counts.
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

/// Takes a file out of the trash, durably.
pub(super) fn take_back(files: &dyn Write, trashed: &Trashed) -> Result<()> {
    files.rename(&trashed.path, &trashed.origin())?;
    files.flush_folder(trashed.folder)?;
    files.flush_folder("trash")
}

/// A place whose missing packs, tables and roots are looked for in its trash.
pub(super) struct WithTrash(pub Arc<dyn Read>);

impl WithTrash {
    fn find<T>(
        &self,
        path: &str,
        missing: Error,
        read: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        let known = path.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder));
        if !known || !is_missing(&missing) {
            return Err(missing);
        }
        // A server that cannot list has nothing in its trash.
        let trashed = list(self.0.as_ref()).unwrap_or_default();
        match trashed.iter().find(|one| one.origin() == path) {
            Some(one) => read(&one.path),
            None => Err(missing),
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
