//! New identifiers in the cores of GRUB for BIOS: patches, made before anything is written.

use std::collections::BTreeMap;

use super::Job;
use crate::error::{Error, Result};
use crate::fixup::{References, grub};
use crate::image::manifest::VolumeEntry;
use crate::pipeline::write::Patch;
use crate::units::Bytes;

/// What becomes of the cores.
#[derive(Default)]
pub(super) struct Cores {
    /// What changes, by the index of the planned volume that they lie in.
    pub(super) patches: BTreeMap<usize, Vec<Patch>>,
    /// Why others stay as they are, though they may name something.
    pub(super) kept: Vec<Error>,
}

/// Looks for cores on all disks that start by a boot code of GRUB.
///
/// # Errors
/// Of the repository or the source. What is not understood is no error here.
pub(super) fn of(job: &Job<'_>, references: &References) -> Result<Cores> {
    let mut cores = Cores::default();
    if references.is_empty() {
        return Ok(cores);
    }
    for volume in &job.plan.volumes {
        let Some(gap) = job.root.volumes.get(volume.entry) else { continue };
        if gap.kind != "gap" || !gap.offset.is_zero() {
            continue;
        }
        let (first, _) = job.windows.first(volume.entry)?;
        let Some(place) = grub::core_of(&first) else { continue };
        let id = gap.disk.as_deref().unwrap_or(&gap.id);
        let Some((at, holder)) = holder(job, gap, place) else {
            cores.kept.push(Error::unsupported("a core of GRUB outside of the volumes").on(id));
            continue;
        };
        // A core is at the start of a BIOS boot partition, or in the space before the first partition.
        let (saved, _) = job.windows.first(holder)?;
        match patches(job, holder, &saved, place, references) {
            Ok(patches) => cores.patches.entry(at).or_default().extend(patches),
            Err(error) => cores.kept.push(error.on(id)),
        }
    }
    Ok(cores)
}

/// The planned volume, and its index in the root, that has the byte at `place` of the disk of `gap`.
fn holder(job: &Job<'_>, gap: &VolumeEntry, place: Bytes) -> Option<(usize, usize)> {
    let holds = |entry: &VolumeEntry| {
        let within = place.checked_sub(entry.offset);
        entry.disk == gap.disk && within.is_some_and(|within| within < entry.size)
    };
    let mut volumes = job.plan.volumes.iter().enumerate();
    let found =
        volumes.find(|(_, volume)| job.root.volumes.get(volume.entry).is_some_and(holds))?;
    Some((found.0, found.1.entry))
}

fn patches(
    job: &Job<'_>,
    holder: usize,
    saved: &[u8],
    place: Bytes,
    references: &References,
) -> Result<Vec<Patch>> {
    let offset = job.root.volumes.get(holder).map_or(Bytes::ZERO, |entry| entry.offset);
    let start = place.saturating_sub(offset).index().unwrap_or(usize::MAX);
    let core = saved.get(start..).unwrap_or_default();
    let patch = |change: grub::Change| {
        let old = core.get(change.at..)?.get(..change.bytes.len())?;
        let offset = Bytes::from(start.checked_add(change.at)?);
        Some(Patch { offset, saved: old.to_vec(), bytes: change.bytes })
    };
    let changes = grub::changes(core, place, references)?;
    let patches: Option<Vec<Patch>> = changes.into_iter().map(patch).collect();
    patches.ok_or_else(|| Error::unsupported("a core of GRUB that is longer than its place"))
}
