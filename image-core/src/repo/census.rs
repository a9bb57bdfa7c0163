//! Every copy of every chunk in some packs, and which of them images need.

use std::collections::HashSet;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::image::hash::{ChunkId, Hash};
use crate::repo::index::{PackFile, Prefix, for_each_trailer, is_damage, prefix};
use crate::repo::read::Read;
use crate::repo::{ImageInfo, Repository, named};
use crate::report::Report;

/// A chunk in a pack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Copy {
    /// The first bytes of its id.
    pub prefix: Prefix,
    /// Index of its pack in [`Census::packs`].
    pub pack: u32,
    /// What it takes there.
    pub stored: u32,
    /// Index of its base in the census's list of those, or beyond its end.
    base: u32,
}

/// The chunks of some packs: 32 bytes of memory for each, 20 more for each delta.
#[derive(Default)]
pub(super) struct Census {
    /// The packs, in the order of their names.
    pub packs: Vec<PackFile>,
    /// Packs whose trailer cannot be believed, and why.
    pub damaged: Vec<(Hash, Error)>,
    /// By chunk, then by pack.
    pub copies: Vec<Copy>,
    bases: Vec<Prefix>,
}

impl Census {
    /// Reads the trailers of `packs`.
    pub fn take(files: &dyn Read, packs: Vec<PackFile>, report: &dyn Report) -> Result<Self> {
        let mut census = Self::default();
        for_each_trailer(files, &packs, report, &mut |pack, file, trailer| {
            let trailer = match trailer {
                Ok(trailer) => trailer,
                Err(error) => return census.damaged.push((file.name, error)),
            };
            for (_, entry) in &trailer.chunks {
                let number = u32::try_from(census.bases.len()).unwrap_or(u32::MAX);
                let base = entry.base.map_or(u32::MAX, |_| number);
                census.bases.extend(entry.base.as_ref().map(prefix));
                let stored = entry.stored_len;
                census.copies.push(Copy { prefix: prefix(&entry.id), pack, stored, base });
            }
        })?;
        census.copies.sort_unstable();
        census.packs = packs;
        Ok(census)
    }

    /// The indices of a chunk's copies.
    pub fn copies_of(&self, prefix: &Prefix) -> Range<usize> {
        let start = self.copies.partition_point(|copy| copy.prefix < *prefix);
        let rest = self.copies.get(start..).unwrap_or_default();
        start..start + rest.partition_point(|copy| copy.prefix == *prefix)
    }

    /// The indices of those copies from which a chunk can be had: full ones; where there is none, deltas
    /// whose base is there in full.
    fn readable(&self, prefix: &Prefix) -> impl Iterator<Item = usize> {
        let all = self.copies_of(prefix);
        let any_full = self.is_full(all.clone());
        all.filter(move |at| match self.base_of(*at) {
            None => any_full,
            Some(base) => !any_full && self.is_full(self.copies_of(base)),
        })
    }

    fn is_full(&self, mut copies: Range<usize>) -> bool {
        copies.any(|at| self.base_of(at).is_none())
    }

    /// What the copy with this index is a delta of; a full one has none.
    pub fn base_of(&self, at: usize) -> Option<&Prefix> {
        let copy = self.copies.get(at)?;
        usize::try_from(copy.base).ok().and_then(|at| self.bases.get(at))
    }

    /// Marks every copy from which a chunk can be had, and of the bases that those need; calls `first` for each
    /// chunk that was not marked before, with the index of its first such copy. Whether there is one.
    pub fn mark(
        &self,
        id: &ChunkId,
        marks: &mut [bool],
        first: &mut dyn FnMut(usize, &Copy),
    ) -> bool {
        let mut bases: Vec<&Prefix> = Vec::new();
        let found = self.mark_one(&prefix(id), marks, first, &mut |at| {
            bases.extend(self.base_of(at));
        });
        for base in bases {
            self.mark_one(base, marks, first, &mut |_| {});
        }
        found
    }

    fn mark_one(
        &self,
        prefix: &Prefix,
        marks: &mut [bool],
        first: &mut dyn FnMut(usize, &Copy),
        marked: &mut dyn FnMut(usize),
    ) -> bool {
        let mut found = false;
        for at in self.readable(prefix) {
            let (Some(copy), Some(mark)) = (self.copies.get(at), marks.get_mut(at)) else {
                continue;
            };
            if std::mem::replace(mark, true) {
                return true;
            }
            if !std::mem::replace(&mut found, true) {
                first(at, copy);
            }
            marked(at);
        }
        found
    }
}

/// Hands on the chunks of each table segment of an image that is not in `seen` yet; what is damaged is put down.
///
/// # Errors
/// Of the way to the repository, and [`Error::Interrupted`].
pub(super) fn for_each_segment(
    repository: &Repository,
    image: &ImageInfo,
    seen: &mut HashSet<Hash>,
    damaged: &mut Vec<Error>,
    report: &dyn Report,
    visit: &mut dyn FnMut(Hash, &HashSet<ChunkId>),
) -> Result<()> {
    let root = match repository.root(image) {
        Err(error) if is_damage(&error) => {
            damaged.push(error);
            return Ok(());
        }
        other => other?,
    };
    for (volume, number, hash) in root.segments() {
        report.checkpoint()?;
        if !seen.insert(hash) {
            continue;
        }
        match repository.segment_chunks(root.window, volume, number, hash) {
            Err(error) if is_damage(&error) => damaged.push(named(error, image)),
            other => visit(hash, &other?),
        }
    }
    Ok(())
}
