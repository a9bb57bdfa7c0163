//! Which chunks the repository has, and in which pack: told by the packs' trailers alone.

use std::collections::HashSet;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::hash::{ChunkId, Hash};
use crate::image::pack::{FOOTER, Footer, Trailer, parse_tail};
use crate::repo::locations::{Lookup, Place, locate};
use crate::repo::read::{FileInfo, Read};
use crate::report::Report;
use crate::units::Bytes;

/// The index never holds more chunks than this; beyond it chunks may be stored twice.
const MAX_ENTRIES: usize = 4 << 20;

/// Most trailers are read with one request of this size.
const TAIL: Bytes = Bytes::kib(64);

/// How many trailers are in memory at a time.
const AT_A_TIME: usize = 32;

/// A pack's place in [`Index::packs`] and a chunk's place in its trailer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Slot {
    pub pack: u32,
    pub entry: u32,
}

/// The first 20 bytes of a chunk's id, and its slot: 28 bytes.
type Entry = [u8; 28];
const PREFIX: usize = 20;

/// The first bytes of a chunk's id, which tell chunks apart.
pub(super) type Prefix = [u8; PREFIX];

/// A pack's file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PackFile {
    pub name: Hash,
    pub size: Bytes,
}

/// All chunks of some packs, sorted, but deltas whose base is in none of them.
#[derive(Default)]
pub(super) struct Index {
    /// The packs, by name.
    pub packs: Vec<PackFile>,
    /// Packs whose trailer cannot be believed, and why.
    pub damaged: Vec<(Hash, Error)>,
    /// Whether every chunk is in the index.
    pub complete: bool,
    entries: Vec<Entry>,
    limit: usize,
}

impl Index {
    /// Reads the trailers of `packs`, which are in the order of their names.
    pub fn build(files: &dyn Read, packs: Vec<PackFile>, report: &dyn Report) -> Result<Self> {
        Self::build_up_to(MAX_ENTRIES, files, packs, report)
    }

    fn build_up_to(
        limit: usize,
        files: &dyn Read,
        packs: Vec<PackFile>,
        report: &dyn Report,
    ) -> Result<Self> {
        let mut index = Self { complete: true, limit, ..Self::default() };
        let mut bases = Vec::new();
        for_each_trailer(files, &packs, report, &mut |number, pack, trailer| match trailer {
            Ok(trailer) => {
                index.extend(number, &trailer);
                let named = trailer.chunks.iter().filter_map(|(_, entry)| entry.base);
                bases.extend(named.map(|base| prefix(&base)));
                bases.sort_unstable();
                bases.dedup();
            }
            Err(error) => index.damaged.push((pack.name, error)),
        })?;
        index.packs = packs;
        index.entries.sort_unstable();
        if index.complete {
            bases.retain(|base| index.first(base).is_none());
            index.forget_deltas_of(&bases, files, report)?;
        }
        Ok(index)
    }

    /// A delta whose base is in no intact pack is lost: so it is not known, and will be stored again.
    fn forget_deltas_of(
        &mut self,
        lost: &[Prefix],
        files: &dyn Read,
        report: &dyn Report,
    ) -> Result<()> {
        if lost.is_empty() {
            return Ok(());
        }
        let mut without_base = HashSet::new();
        for_each_trailer(files, &self.packs, report, &mut |pack, _, trailer| {
            for (entry, (_, chunk)) in (0..).zip(trailer.iter().flat_map(|some| &some.chunks)) {
                if chunk.base.is_some_and(|base| lost.binary_search(&prefix(&base)).is_ok()) {
                    without_base.insert(encode(&chunk.id, Slot { pack, entry }, true));
                }
            }
        })?;
        self.entries.retain(|entry| !without_base.contains(entry));
        Ok(())
    }

    fn extend(&mut self, pack: u32, trailer: &Trailer) {
        for (entry, (_, chunk)) in (0..).zip(&trailer.chunks) {
            if self.entries.len() >= self.limit {
                self.complete = false;
                return;
            }
            self.entries.push(encode(&chunk.id, Slot { pack, entry }, chunk.base.is_some()));
        }
    }

    /// Where a chunk is; of several places the first one, and a full chunk before a delta: only that can be
    /// a base.
    pub fn find(&self, id: &ChunkId) -> Option<Slot> {
        self.first(&prefix(id)).and_then(|at| self.entries.get(at)).and_then(decode)
    }

    /// Where a chunk is in full.
    pub fn find_full(&self, prefix: &Prefix) -> Option<Slot> {
        let entry = self.first(prefix).and_then(|at| self.entries.get(at))?;
        if is_delta(entry) { None } else { decode(entry) }
    }

    /// Every place where a chunk is.
    pub fn find_all(&self, id: &ChunkId) -> Vec<Slot> {
        let prefix = prefix(id);
        let first = self.first(&prefix).unwrap_or(self.entries.len());
        let entries = self.entries.get(first..).unwrap_or_default().iter();
        entries.take_while(|entry| entry.starts_with(&prefix)).filter_map(decode).collect()
    }

    /// The index of the first entry of a chunk.
    fn first(&self, prefix: &Prefix) -> Option<usize> {
        let at = self.entries.partition_point(|entry| entry.as_slice() < prefix.as_slice());
        self.entries.get(at).is_some_and(|entry| entry.starts_with(prefix)).then_some(at)
    }

    /// Whether a pack is there and its trailer is intact.
    pub fn is_intact(&self, pack: Hash) -> bool {
        self.packs.binary_search_by_key(&pack, |pack| pack.name).is_ok()
            && self.damaged.iter().all(|(name, _)| *name != pack)
    }

    /// Finds the places of chunks and of their bases; what is in no intact pack is left out.
    pub fn locate(
        &self,
        files: &dyn Read,
        ids: impl Iterator<Item = ChunkId>,
    ) -> Result<Vec<Place>> {
        let find = |id: &ChunkId| self.find(id);
        locate(files, &Lookup { packs: &self.packs, complete: self.complete, find: &find }, ids)
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether another chunk may be remembered.
    pub fn has_room_beside(&self, others: usize) -> bool {
        self.len().saturating_add(others) < self.limit
    }
}

pub(super) fn prefix(id: &ChunkId) -> Prefix {
    let [prefix @ .., _, _, _, _, _, _, _, _, _, _, _, _] = id.0;
    prefix
}

/// Marks a delta, behind all full chunks of the same id.
const DELTA: u32 = 1 << 31;

fn encode(id: &ChunkId, slot: Slot, is_delta: bool) -> Entry {
    let mut entry = [0; 28];
    let pack = slot.pack | if is_delta { DELTA } else { 0 };
    let bytes = prefix(id).into_iter();
    let bytes = bytes.chain(pack.to_be_bytes()).chain(slot.entry.to_be_bytes());
    entry.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    entry
}

fn is_delta(entry: &Entry) -> bool {
    let [.., mark, _, _, _, _, _, _, _] = entry;
    mark & 0x80 != 0
}

fn decode(entry: &Entry) -> Option<Slot> {
    let (_, slot) = entry.split_first_chunk::<PREFIX>()?;
    let (pack, entry) = slot.split_first_chunk::<4>()?;
    let pack = u32::from_be_bytes(*pack) & !DELTA;
    Some(Slot { pack, entry: u32::from_be_bytes(entry.try_into().ok()?) })
}

/// Hands on each trailer with its pack and that one's number, or what is wrong with it, in order.
///
/// # Errors
/// Of the way to the repository, and [`Error::Interrupted`].
pub(super) fn for_each_trailer(
    files: &dyn Read,
    packs: &[PackFile],
    report: &dyn Report,
    each: &mut dyn FnMut(u32, PackFile, Result<Trailer>),
) -> Result<()> {
    let numbered: Vec<(u32, PackFile)> = (0..).zip(packs.iter().copied()).collect();
    for some in numbered.chunks(AT_A_TIME) {
        report.checkpoint()?;
        let trailers: Vec<_> = some
            .par_iter()
            .map(|(number, pack)| (*number, *pack, read_trailer(files, *pack)))
            .collect();
        for (number, pack, trailer) in trailers {
            match trailer {
                Err(error) if !is_damage(&error) => return Err(error),
                other => each(number, pack, other),
            }
        }
    }
    Ok(())
}

/// A pack's path.
pub(super) fn pack_path(name: Hash) -> String {
    format!("packs/{name}")
}

/// The packs outside `trash/`, by name; files with other names are no packs.
pub(super) fn list_packs(files: &dyn Read) -> Result<Vec<PackFile>> {
    let files = files.list("packs")?;
    let pack = |file: &FileInfo| Some(PackFile { name: file.name.parse().ok()?, size: file.size });
    let mut packs: Vec<PackFile> = files.iter().filter_map(pack).collect();
    packs.sort_unstable_by_key(|pack| pack.name);
    Ok(packs)
}

/// Reads and checks a pack's trailer; errors name the pack.
pub(super) fn read_trailer(files: &dyn Read, pack: PackFile) -> Result<Trailer> {
    let path = &pack_path(pack.name);
    let last =
        |length: Bytes| files.range(path, Extent::new(pack.size.saturating_sub(length), pack.size));
    let read = || {
        let mut tail = last(TAIL)?;
        if let Some((_, footer)) = tail.split_last_chunk::<FOOTER>() {
            let whole = Footer::parse(footer, pack.size)?.trailer_len + Bytes::from(FOOTER);
            if whole > Bytes::of(&tail) {
                tail = last(whole)?;
            }
        }
        parse_tail(pack.name, &tail, pack.size)
    };
    read().map_err(|error| error.on(path))
}

/// Whether an error is about these bytes, not about the way to the repository: a file that is gone or too
/// short, a sector that cannot be read, contents that contradict themselves.
pub(super) fn is_damage(error: &Error) -> bool {
    use std::io::ErrorKind::{NotFound, UnexpectedEof};
    let eio = rustix::io::Errno::IO.raw_os_error();
    match error {
        Error::Corrupt { .. } | Error::Unsupported { .. } => true,
        Error::Io { source, .. } => {
            matches!(source.kind(), NotFound | UnexpectedEof) || source.raw_os_error() == Some(eio)
        }
        Error::Refused(_) | Error::Interrupted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Index, list_packs, read_trailer};
    use crate::image::hash::ChunkId;
    use crate::repo::{Memory, sample};
    use crate::report::Quiet;

    #[test]
    fn a_full_index_misses_chunks_but_none_is_lost() {
        let files = Memory::new();
        let repository = sample::repository(files.clone());
        for seed in 1..4 {
            sample::save(&repository, "web", &sample::data(seed, 8)).unwrap();
        }
        let packs = list_packs(&files).unwrap();
        let whole = Index::build(&files, packs.clone(), &Quiet::default()).unwrap();
        let mut ids: Vec<ChunkId> = Vec::new();
        for pack in &whole.packs {
            let trailer = read_trailer(&files, *pack).unwrap();
            ids.extend(trailer.chunks.iter().map(|(_, entry)| entry.id));
        }
        assert_eq!((whole.packs.len(), whole.len(), ids.len()), (3, 18, 18));
        assert!(ids.iter().all(|id| whole.find(id).is_some()) && whole.has_room_beside(0));
        assert_eq!(whole.find(&ChunkId::of(b"unknown")), None);

        let full = Index::build_up_to(7, &files, packs, &Quiet::default()).unwrap();
        assert_eq!(ids.iter().filter(|id| full.find(id).is_some()).count(), 7);
        assert!(!full.complete && !full.has_room_beside(0));
        let unknown = ChunkId::of(b"unknown");
        let wanted = || ids.iter().copied().chain([unknown]);
        let places = full.locate(&files, wanted()).unwrap();
        assert_eq!(places, whole.locate(&files, wanted()).unwrap());
        assert_eq!(places.len(), 18);
    }
}
