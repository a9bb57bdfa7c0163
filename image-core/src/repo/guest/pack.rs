//! Whether a pack that came from a guest is what it says: later saves rely on its chunks, unread.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::hash::ChunkId;
use crate::repo::batch::find_damage;
use crate::repo::index::{PackFile, list_packs, pack_path, read_trailer};
use crate::repo::locations::{Place, find_full};
use crate::repo::read::{FileInfo, Read};
use crate::units::Bytes;

/// One pack at a time: it takes all cores, and memory for them.
static TURN: Mutex<()> = Mutex::new(());

/// A repository in which a draft has its place already.
struct Placed<'a> {
    files: &'a dyn Read,
    draft: &'a str,
    place: String,
}

impl Placed<'_> {
    fn path<'a>(&'a self, path: &'a str) -> &'a str {
        if path == self.place { self.draft } else { path }
    }
}

impl Read for Placed<'_> {
    fn location(&self) -> String {
        self.files.location()
    }

    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>> {
        self.files.get(self.path(path), max)
    }

    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>> {
        self.files.range(self.path(path), range)
    }

    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        self.files.list(folder)
    }
}

/// Reads and decodes every chunk of `pack`, which is a draft. The base of a delta stands in it too, or in a pack that is there.
///
/// # Errors
/// `Corrupt`: the trailer is not what the name says. `Refused`: a chunk is not what the trailer says.
pub(super) fn is_sound(files: &dyn Read, draft: &str, pack: PackFile) -> Result<()> {
    let files = Placed { files, draft, place: pack_path(pack.name) };
    let chunks = read_trailer(&files, pack)?.chunks;
    let bases: HashSet<ChunkId> = chunks.iter().filter_map(|(_, entry)| entry.base).collect();
    let mut packs = vec![pack];
    packs.extend(list_packs(&files)?);
    let bases = find_full(&files, &packs, bases)?;
    let places = chunks.into_iter().map(|(offset, entry)| Place { pack: pack.name, offset, entry });
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    find_damage(&files, places.collect(), &bases, |damaged| match damaged.first() {
        Some(why) => Err(Error::refused(format!("a pack that came is not what it says: {why}"))),
        None => Ok(()),
    })
}
