//! What images take in the repository.

use std::collections::HashSet;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::hash::{ChunkId, Hash};
use crate::repo::census::{Census, for_each_segment};
use crate::repo::trash::all_packs;
use crate::repo::{ImageInfo, Repository, named, table_path};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// What one image takes, or several together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Debug)]
pub struct Usage {
    /// Stored size of all its distinct chunks, and of the bases that they need.
    pub stored_bytes: Bytes,
    /// Stored size of those that no other image needs: what pruning would free if only this image were
    /// removed.
    pub unique_bytes: Bytes,
}

/// The usage of several groups of images.
#[derive(Default, Debug)]
pub struct Usages {
    /// One for each group.
    pub each: Vec<Usage>,
    /// What is damaged, and so counts for nothing.
    pub damaged: Vec<Error>,
}

const NOBODY: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

/// Computes the usage of each group beside all other images of the repository.
///
/// What is damaged counts for nothing. 37 bytes of memory for every chunk.
pub(super) fn usage(
    repository: &Repository,
    groups: &[&[ImageInfo]],
    report: &dyn Report,
) -> Result<Usages> {
    report.stage(Stage::Index, None);
    let files = repository.files.as_ref();
    let mut census = Census::take(files, all_packs(files)?, report)?;
    let mut damaged: Vec<Error> =
        std::mem::take(&mut census.damaged).into_iter().map(|(_, error)| error).collect();
    let mut others = repository.images()?.intact;
    others.retain(|other| groups.iter().all(|group| group.iter().all(|one| one.id != other.id)));
    let mut users = vec![NOBODY; census.copies.len()];
    let mut each = vec![Usage::default(); groups.len()];
    for (group, number) in groups.iter().copied().chain([others.as_slice()]).zip(0_u32..) {
        let mut marks = vec![false; census.copies.len()];
        let mut seen = HashSet::new();
        let mut stored = Bytes::ZERO;
        let mut take = |at: usize, copy: &super::census::Copy| {
            stored += Bytes::from(copy.stored);
            if let Some(user) = users.get_mut(at) {
                *user = if *user == NOBODY { number } else { SEVERAL };
            }
        };
        for image in group {
            let mut missing = Vec::new();
            let mut visit = |segment: Hash, ids: &HashSet<ChunkId>| {
                let mut find = |id: &&ChunkId| !census.mark(id, &mut marks, &mut take);
                let count = ids.iter().filter(&mut find).count();
                missing.extend((count > 0).then(|| nowhere(image, segment, ids.len(), count)));
            };
            for_each_segment(repository, image, &mut seen, &mut damaged, report, &mut visit)?;
            damaged.extend(missing);
        }
        if let Some(usage) = usize::try_from(number).ok().and_then(|at| each.get_mut(at)) {
            usage.stored_bytes = stored;
        }
    }
    for (copy, user) in census.copies.iter().zip(users) {
        if let Some(usage) = usize::try_from(user).ok().and_then(|user| each.get_mut(user)) {
            usage.unique_bytes += Bytes::from(copy.stored);
        }
    }
    let mut told = HashSet::new();
    damaged.retain(|error| told.insert(error.to_string()));
    Ok(Usages { each, damaged })
}

/// Chunks that are in no pack, or whose bases are not.
fn nowhere(image: &ImageInfo, segment: Hash, all: usize, missing: usize) -> Error {
    let expected = format!("{all} chunks in intact packs");
    let found = format!("only {}", all.saturating_sub(missing));
    let error = Error::corrupt("table segment", Bytes::ZERO, expected, found);
    named(error.on(&table_path(segment)), image)
}
