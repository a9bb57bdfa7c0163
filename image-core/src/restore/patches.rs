//! What must be different on the target: swap headers for another size or UUID, hidden sectors of a FAT that
//! moved, its serial.

use uuid::Uuid;

use super::Job;
use crate::error::Result;
use crate::fs::{fat, swap};
use crate::image::manifest::VolumeEntry;
use crate::io::memory::Memory;
use crate::pipeline::write::{Damage, Patch};
use crate::plan::identity;
use crate::plan::restore::{Place, VolumePlan};
use crate::units::Bytes;

/// The patches of one volume, and what kept its first window from being read for them.
///
/// # Errors
/// Of the repository; [`crate::error::Error::Refused`] for a swap area too small to be one.
pub(super) fn of(job: &Job<'_>, volume: &VolumePlan) -> Result<(Vec<Patch>, Vec<Damage>)> {
    let Some(entry) = job.root.volumes.get(volume.entry) else { return Ok(Default::default()) };
    let renamed = identity::filesystem(job.plan, &entry.id);
    let changed = match entry.content.as_str() {
        "swap" => entry.state == "clean" && (volume.to != volume.from || renamed.is_some()),
        "vfat" => moved(job, volume, entry).is_some() || renamed.is_some(),
        _ => false,
    };
    if volume.empty.is_some() || !changed {
        return Ok(Default::default());
    }
    let (saved, damage) = job.windows.first(volume.entry)?;
    let changes = if entry.content == "vfat" {
        let moved = moved(job, volume, entry);
        let hidden = moved.map(|(old, new)| fat::relocated(&saved, old, new));
        let serial = renamed.and_then(identity::fat_serial);
        let serial = serial.map(|serial| fat::renumbered(&saved, serial));
        hidden.into_iter().chain(serial).flatten().collect()
    } else {
        swap_header(&saved, volume, renamed.and_then(identity::parse))?
    };
    let mut patches = Vec::new();
    for (offset, bytes) in changes {
        // A copy of a FAT's boot sector behind the first window stays as it is.
        let old = offset.index().and_then(|at| saved.get(at..at.checked_add(bytes.len())?));
        patches.extend(old.map(|old| Patch { offset, saved: old.to_vec(), bytes }));
    }
    Ok((patches, damage))
}

/// The sectors at which a partition started and starts, where both are known and differ. A volume that
/// stood alone, or does now, does not know.
fn moved(job: &Job<'_>, volume: &VolumePlan, entry: &VolumeEntry) -> Option<(u32, u32)> {
    let Place::Target(at, extent) = &volume.place else { return None };
    let disk = job.root.disks.iter().find(|disk| Some(&disk.id) == entry.disk.as_ref())?;
    let number = |start: Bytes, sector: Bytes| u32::try_from(start.units(sector)).ok();
    let old = number(entry.offset, disk.sector_size)?;
    let new = number(extent.start, job.targets.get(*at)?.sector_size())?;
    (old != new).then_some((old, new))
}

/// The header of a swap area for a volume of another size or with another UUID; nothing where there is none to
/// be made anew.
fn swap_header(
    saved: &[u8],
    volume: &VolumePlan,
    uuid: Option<Uuid>,
) -> Result<Vec<(Bytes, Vec<u8>)>> {
    let first = Memory::new(saved.to_vec());
    let Some(header) = swap::Header::read(&first, volume.from)? else { return Ok(Vec::new()) };
    let header = header.resized(volume.to)?;
    let header = uuid.map_or(header.clone(), |uuid| header.renamed(uuid));
    Ok(vec![(Bytes::ZERO, header.to_bytes())])
}
