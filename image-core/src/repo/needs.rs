//! What images need of a repository, and what becomes of each pack.
//!
//! Nothing is guessed: where a record, a root, a table or a trailer cannot be read, or a chunk is nowhere, it is
//! not known what is needed, and nothing may be removed.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::error::{Error, Result};
use crate::image::hash::Hash;
use crate::repo::census::{Census, Copy, for_each_segment};
use crate::repo::images::Images;
use crate::repo::index::{PackFile, Prefix, is_damage, list_packs, prefix, read_trailer};
use crate::repo::locations::Place;
use crate::repo::read::Read;
use crate::repo::rewrite::damaged_places;
use crate::repo::trash::{self, Trashed};
use crate::repo::{ImageInfo, Repository};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// What becomes of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It stays as it is.
    Keep,
    /// Less than half of its bytes are needed: these are copied into another pack.
    Rewrite,
    /// Nothing of it is needed.
    Throw,
}

/// What the images of a repository need.
pub(super) struct Needs {
    /// All images.
    pub images: Vec<ImageInfo>,
    /// Their roots.
    pub roots: HashSet<Hash>,
    /// Their table segments.
    pub segments: HashSet<Hash>,
    /// What they need of the trash.
    pub take_back: Vec<Trashed>,
    /// Chunks that several packs have, and that are damaged in some of these, which are kept all the same.
    pub damaged: Vec<Error>,
    census: Census,
    /// For each copy of the census, whether a chunk can be had from it that is needed.
    marks: Vec<bool>,
    /// For each copy, whether it is to stay: of those that are marked, one of each chunk.
    kept: Vec<bool>,
}

/// Copies in a pack, by their index, and where they lie.
type OfPack = (PackFile, Vec<(usize, Place)>);

/// What a walk over all images found.
struct Walk {
    marks: Vec<bool>,
    segments: HashSet<Hash>,
    /// Chunks and bases that are in no pack, and what is to be said about them.
    missing: HashSet<Prefix>,
    lacking: Vec<Error>,
    damaged: Vec<Error>,
}

impl Needs {
    /// Reads every record, root, table and trailer.
    ///
    /// # Errors
    /// `Refused` where one of them is damaged, or a chunk is nowhere.
    pub fn find(repository: &Repository, report: &dyn Report) -> Result<Self> {
        report.stage(Stage::Index, None);
        let files = repository.files.as_ref();
        let Images { intact: images, damaged } = repository.images()?;
        refuse(damaged, report)?;
        let mut packs = list_packs(files)?;
        let mut take_back = Vec::new();
        let (census, walk) = loop {
            let mut census = Census::take(files, packs.clone(), report)?;
            let mut walk = Walk::over(repository, &images, &census, report)?;
            let trailers = std::mem::take(&mut census.damaged).into_iter().map(|(_, error)| error);
            refuse(trailers.chain(std::mem::take(&mut walk.damaged)).collect(), report)?;
            if walk.missing.is_empty() {
                break (census, walk);
            }
            let found = in_trash(files, &packs, &walk.missing)?;
            if found.is_empty() {
                refuse(std::mem::take(&mut walk.lacking), report)?;
            }
            packs.extend(found.iter().map(|one| PackFile { name: one.hash, size: one.size }));
            packs.sort_unstable_by_key(|pack| pack.name);
            take_back.extend(found);
        };
        let roots: HashSet<Hash> = images.iter().map(|image| image.record.root).collect();
        for (folder, needed) in [("roots", &roots), ("tables", &walk.segments)] {
            take_back.extend(away(files, folder, needed)?);
        }
        let Walk { marks, segments, .. } = walk;
        let kept = Vec::new();
        let mut needs =
            Self { images, roots, segments, take_back, damaged: Vec::new(), census, marks, kept };
        needs.keep_one_of_each();
        needs.keep_what_can_be_read(files, report)?;
        Ok(needs)
    }

    /// The packs of that fate, with the bytes of them that are kept.
    pub fn packs(&self, fate: Fate) -> Vec<(PackFile, Bytes)> {
        let fates = self.fates().into_iter().zip(&self.census.packs);
        let of_fate = fates.filter(|((found, _), _)| *found == fate);
        of_fate.map(|((_, live), pack)| (*pack, live)).collect()
    }

    /// The copies that are kept of each pack that is rewritten, in the order in which they lie there.
    pub fn kept_places(
        &self,
        files: &dyn Read,
        mut visit: impl FnMut(PackFile, Vec<Place>) -> Result<()>,
    ) -> Result<()> {
        let fates = self.fates();
        let is_rewritten =
            |copy: &Copy| at(&fates, copy.pack).is_some_and(|(fate, _)| *fate == Fate::Rewrite);
        let copies = self.census.copies.iter().enumerate().zip(&self.kept);
        let kept = copies.filter(|((_, copy), kept)| **kept && is_rewritten(copy));
        let mut wanted: Vec<(u32, usize)> =
            kept.map(|((index, copy), _)| (copy.pack, index)).collect();
        wanted.sort_unstable();
        for of_pack in wanted.chunk_by(|one, other| one.0 == other.0) {
            let indices: Vec<usize> = of_pack.iter().map(|(_, index)| *index).collect();
            for (pack, places) in self.places(files, &indices)? {
                visit(pack, places.into_iter().map(|(_, place)| place).collect())?;
            }
        }
        Ok(())
    }

    /// The fate of each pack, and the bytes of it that are kept.
    fn fates(&self) -> Vec<(Fate, Bytes)> {
        let live = self.bytes(|index| self.kept.get(index) == Some(&true));
        let all = self.bytes(|_| true);
        let fate = |(live, all): (Bytes, Bytes)| match live {
            Bytes::ZERO => (Fate::Throw, live),
            _ if live.saturating_add(live) < all => (Fate::Rewrite, live),
            _ => (Fate::Keep, live),
        };
        live.into_iter().zip(all).map(fate).collect()
    }

    /// For each pack the stored bytes of some of its copies.
    fn bytes(&self, counts: impl Fn(usize) -> bool) -> Vec<Bytes> {
        let mut bytes = vec![Bytes::ZERO; self.census.packs.len()];
        for (_, copy) in self.census.copies.iter().enumerate().filter(|(index, _)| counts(*index)) {
            let sum = usize::try_from(copy.pack).ok().and_then(|pack| bytes.get_mut(pack));
            sum.into_iter().for_each(|sum| *sum += Bytes::from(copy.stored));
        }
        bytes
    }

    /// The copies of each chunk, as ranges of indices.
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.census.copies.chunk_by(|one, other| one.prefix == other.prefix).map(move |copies| {
            let range = start..start + copies.len();
            start = range.end;
            range
        })
    }

    /// Of several packs that have a chunk the one of which the largest part is needed keeps it.
    fn keep_one_of_each(&mut self) {
        let live = self.bytes(|index| self.marks.get(index) == Some(&true));
        let all = self.bytes(|_| true);
        let part = |index: usize| {
            let pack = self.census.copies.get(index).map_or(u32::MAX, |copy| copy.pack);
            let of = |bytes: &[Bytes]| at(bytes, pack).map_or(0, |bytes| bytes.get());
            u128::from(of(&live)) * 1_000_000 / u128::from(of(&all).max(1))
        };
        let mut kept = vec![false; self.marks.len()];
        for copies in self.chunks() {
            let marked = copies.filter(|index| self.marks.get(*index) == Some(&true));
            // Of equal ones the first.
            let best = marked.max_by_key(|index| (part(*index), std::cmp::Reverse(*index)));
            if let Some(kept) = best.and_then(|best| kept.get_mut(best)) {
                *kept = true;
            }
        }
        self.kept = kept;
    }

    /// Where a copy of a chunk would be thrown away because another one is kept, that other one is read; where it
    /// is damaged, a full one that is not, or else all: the one that goes might be the only good one.
    fn keep_what_can_be_read(&mut self, files: &dyn Read, report: &dyn Report) -> Result<()> {
        let mut verified = HashSet::new();
        loop {
            let fates = self.fates();
            let mut doubted = Vec::new();
            for copies in self.chunks().filter(|copies| copies.len() > 1) {
                let is_kept = |index: &usize| self.kept.get(*index) == Some(&true);
                let goes = |index: usize| {
                    let pack = self.census.copies.get(index).map(|copy| copy.pack);
                    let fate = pack.and_then(|pack| at(&fates, pack));
                    !is_kept(&index) && fate.is_some_and(|(fate, _)| *fate != Fate::Keep)
                };
                if copies.clone().any(goes) {
                    let kept = copies.filter(is_kept);
                    doubted.extend(kept.filter(|index| !verified.contains(index)));
                }
            }
            if doubted.is_empty() {
                return Ok(());
            }
            let bad = self.damaged_copies(files, &doubted, report)?;
            verified.extend(doubted);
            for (index, error) in bad {
                let Some(good) = self.sound_copy(files, index, report)? else {
                    self.damaged.push(error);
                    self.keep_all_copies(index);
                    continue;
                };
                report.warning(&format!("{error}; another copy of it is kept"));
                verified.insert(good);
                for (copy, keep) in [(index, false), (good, true)] {
                    self.kept.get_mut(copy).into_iter().for_each(|kept| *kept = keep);
                }
            }
        }
    }

    /// A full copy of the same chunk that can be read.
    fn sound_copy(
        &self,
        files: &dyn Read,
        index: usize,
        report: &dyn Report,
    ) -> Result<Option<usize>> {
        let Some(chunk) = self.census.copies.get(index).map(|copy| copy.prefix) else {
            return Ok(None);
        };
        let is_full = |copy: &usize| *copy != index && self.census.base_of(*copy).is_none();
        let others: Vec<usize> = self.census.copies_of(&chunk).filter(is_full).collect();
        let bad = self.damaged_copies(files, &others, report)?;
        Ok(others.into_iter().find(|other| bad.iter().all(|(index, _)| index != other)))
    }

    /// Keeps every copy of a chunk, full or not, and every copy of what these are deltas of.
    fn keep_all_copies(&mut self, index: usize) {
        let Some(chunk) = self.census.copies.get(index).map(|copy| copy.prefix) else { return };
        let copies = self.census.copies_of(&chunk);
        let bases: Vec<Prefix> =
            copies.clone().filter_map(|copy| self.census.base_of(copy)).copied().collect();
        let of_bases = bases.iter().flat_map(|base| self.census.copies_of(base));
        for copy in copies.chain(of_bases) {
            self.kept.get_mut(copy).into_iter().for_each(|kept| *kept = true);
        }
    }

    /// Which of some copies are damaged, and how.
    fn damaged_copies(
        &self,
        files: &dyn Read,
        indices: &[usize],
        report: &dyn Report,
    ) -> Result<Vec<(usize, Error)>> {
        let mut bad = Vec::new();
        for (_, copies) in self.places(files, indices)? {
            report.checkpoint()?;
            let places: Vec<Place> = copies.iter().map(|(_, place)| *place).collect();
            for (place, error) in damaged_places(files, &places)? {
                let index = copies.iter().find(|(_, one)| *one == place).map(|(index, _)| *index);
                bad.extend(index.map(|index| (index, error)));
            }
        }
        Ok(bad)
    }

    /// Where some copies lie, by pack.
    fn places(&self, files: &dyn Read, indices: &[usize]) -> Result<Vec<OfPack>> {
        let mut by_pack: HashMap<u32, HashMap<(Prefix, bool), usize>> = HashMap::new();
        for index in indices {
            if let Some(copy) = self.census.copies.get(*index) {
                let key = (copy.prefix, self.census.base_of(*index).is_some());
                by_pack.entry(copy.pack).or_default().insert(key, *index);
            }
        }
        let mut out = Vec::new();
        for (number, mut wanted) in by_pack {
            let Some(pack) = at(&self.census.packs, number).copied() else { continue };
            let mut places = Vec::with_capacity(wanted.len());
            for (offset, entry) in read_trailer(files, pack)?.chunks {
                if let Some(index) = wanted.remove(&(prefix(&entry.id), entry.base.is_some())) {
                    places.push((index, Place { pack: pack.name, offset, entry }));
                }
            }
            out.push((pack, places));
        }
        out.sort_unstable_by_key(|(pack, _)| pack.name);
        Ok(out)
    }
}

impl Walk {
    fn over(
        repository: &Repository,
        images: &[ImageInfo],
        census: &Census,
        report: &dyn Report,
    ) -> Result<Self> {
        let mut walk = Self {
            marks: vec![false; census.copies.len()],
            segments: HashSet::new(),
            missing: HashSet::new(),
            lacking: Vec::new(),
            damaged: Vec::new(),
        };
        let Self { marks, segments, missing, lacking, damaged } = &mut walk;
        for image in images {
            let mut lost = 0_usize;
            for_each_segment(repository, image, segments, damaged, report, &mut |_, ids| {
                for id in ids.iter().filter(|id| !census.mark(id, marks, &mut |_, _| {})) {
                    lost += 1;
                    missing.insert(prefix(id));
                    let copies = census.copies_of(&prefix(id));
                    missing.extend(copies.filter_map(|index| census.base_of(index)));
                }
            })?;
            if lost > 0 {
                let found = format!("{lost} of them, or their bases, in no intact pack");
                let error = Error::corrupt("table", Bytes::ZERO, "chunks in packs", found);
                lacking.push(error.on(&format!("image {}", image.record.name)));
            }
        }
        Ok(walk)
    }
}

fn at<T>(list: &[T], number: u32) -> Option<&T> {
    usize::try_from(number).ok().and_then(|number| list.get(number))
}

/// Packs in the trash that have one of the chunks, and are not among `packs`.
fn in_trash(
    files: &dyn Read,
    packs: &[PackFile],
    missing: &HashSet<Prefix>,
) -> Result<Vec<Trashed>> {
    let mut seen: HashSet<Hash> = packs.iter().map(|pack| pack.name).collect();
    let mut found = Vec::new();
    for one in trash::list(files)?.into_iter().filter(|one| one.folder == "packs") {
        if seen.contains(&one.hash) {
            continue;
        }
        let trailer = match read_trailer(files, PackFile { name: one.hash, size: one.size }) {
            Err(error) if is_damage(&error) => continue,
            other => other?,
        };
        if trailer.chunks.iter().any(|(_, entry)| missing.contains(&prefix(&entry.id))) {
            seen.insert(one.hash);
            found.push(one);
        }
    }
    Ok(found)
}

/// The files of the trash that are needed and not in their folder; they were read, so they are somewhere.
fn away(files: &dyn Read, folder: &str, needed: &HashSet<Hash>) -> Result<Vec<Trashed>> {
    let mut there: HashSet<Hash> =
        files.list(folder)?.into_iter().filter_map(|file| file.name.parse().ok()).collect();
    let mut trashed = trash::list(files)?;
    trashed
        .retain(|one| one.folder == folder && needed.contains(&one.hash) && there.insert(one.hash));
    Ok(trashed)
}

/// Ends it where something is damaged: each is a warning, and the first stands in the error.
fn refuse(damaged: Vec<Error>, report: &dyn Report) -> Result<()> {
    let Some(first) = damaged.first() else { return Ok(()) };
    for error in &damaged {
        report.warning(&error.to_string());
    }
    let more = match damaged.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Err(Error::refused(format!(
        "{first}{more}: what is damaged may be what an image needs, so nothing is removed. Save the image again or \
         forget it, take the damaged file out of the repository, and prune then; `keiki check` lists all damage"
    )))
}
