//! What images take in the repository.

use std::collections::HashSet;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::hash::{ChunkId, Hash};
use crate::repo::index::{is_damage, list_packs, read_trailer};
use crate::repo::{ImageInfo, Repository, named};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// What one image takes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Debug)]
pub struct Usage {
    /// Stored size of all its distinct chunks.
    pub stored_bytes: Bytes,
    /// Stored size of those that no other image uses.
    pub unique_bytes: Bytes,
}

/// A chunk of some pack, and who uses it.
struct Chunk {
    /// The first bytes of its id, which tell chunks apart.
    prefix: [u8; 20],
    stored: u32,
    user: u32,
}

const NOBODY: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

/// Computes the usage of `images`, one for each, beside all other images of the repository.
///
/// What is damaged counts for nothing, with a warning. 28 bytes of memory for every chunk.
pub(super) fn usage(
    repository: &Repository,
    images: &[ImageInfo],
    report: &dyn Report,
) -> Result<Vec<Usage>> {
    report.stage(Stage::Index, None);
    let mut chunks = all_chunks(repository, report)?;
    let mut all = images.to_vec();
    let others = repository.images()?.intact;
    all.extend(others.into_iter().filter(|other| images.iter().all(|one| one.id != other.id)));
    let mut totals = vec![Bytes::ZERO; all.len()];
    for ((image, total), number) in all.iter().zip(&mut totals).zip(0..) {
        let mut seen = HashSet::new();
        let mut seen_chunks = vec![false; chunks.len()];
        for_each_chunk(repository, image, &mut seen, report, |id| {
            let at = chunks.partition_point(|chunk| id.0[..20] > chunk.prefix[..]);
            let (Some(chunk), Some(seen)) = (chunks.get_mut(at), seen_chunks.get_mut(at)) else {
                return;
            };
            if !id.0.starts_with(&chunk.prefix) || std::mem::replace(seen, true) {
                return;
            }
            *total += Bytes::from(chunk.stored);
            chunk.user = if chunk.user == NOBODY { number } else { SEVERAL };
        })?;
        report.checkpoint()?;
    }
    let mut usage: Vec<Usage> = totals
        .iter()
        .map(|total| Usage { stored_bytes: *total, unique_bytes: Bytes::ZERO })
        .collect();
    for chunk in &chunks {
        let user = usize::try_from(chunk.user).unwrap_or(usize::MAX);
        if let Some(usage) = usage.get_mut(user) {
            usage.unique_bytes += Bytes::from(chunk.stored);
        }
    }
    usage.truncate(images.len());
    Ok(usage)
}

fn all_chunks(repository: &Repository, report: &dyn Report) -> Result<Vec<Chunk>> {
    let files = repository.files.as_ref();
    let mut chunks = Vec::new();
    for packs in list_packs(files)?.chunks(32) {
        report.checkpoint()?;
        let trailers: Vec<_> = packs.par_iter().map(|pack| read_trailer(files, *pack)).collect();
        for trailer in trailers {
            let trailer = match trailer {
                Err(error) if is_damage(&error) => {
                    uncounted(&error, report);
                    continue;
                }
                other => other?,
            };
            for (_, entry) in trailer.chunks {
                let Some((prefix, _)) = entry.id.0.split_first_chunk::<20>() else { continue };
                chunks.push(Chunk { prefix: *prefix, stored: entry.stored_len, user: NOBODY });
            }
        }
    }
    chunks.sort_unstable_by_key(|chunk| chunk.prefix);
    chunks.dedup_by_key(|chunk| chunk.prefix);
    Ok(chunks)
}

fn for_each_chunk(
    repository: &Repository,
    image: &ImageInfo,
    seen: &mut HashSet<Hash>,
    report: &dyn Report,
    mut visit: impl FnMut(&ChunkId),
) -> Result<()> {
    let root = match repository.root(image) {
        Err(error) if is_damage(&error) => {
            uncounted(&error, report);
            return Ok(());
        }
        other => other?,
    };
    for (volume, number, hash) in root.segments() {
        if !seen.insert(hash) {
            continue;
        }
        match repository.segment_chunks(root.window, volume, number, hash) {
            Err(error) if is_damage(&error) => uncounted(&named(error, image), report),
            other => other?.iter().for_each(&mut visit),
        }
    }
    Ok(())
}

fn uncounted(error: &Error, report: &dyn Report) {
    report.warning(&format!("{error}; the sizes leave it out"));
}
