//! What a plan refuses because the result could not be used.

use super::restore::Target;
use crate::error::{Error, Result};
use crate::image::manifest::{EXCLUDED, VolumeEntry};
use crate::units::Bytes;

/// Contents that are only copied, and known to work on no larger sectors than those they were made on: their boot sector
/// says which (bytes per sector).
const BOUND: [&str; 2] = ["ntfs", "exfat"];

/// Refuses a filesystem on sectors that are larger than it can live with; it was saved from sectors of `saved` bytes.
///
/// # Errors
/// [`Error::Refused`] naming the volume.
pub fn sector_size(volume: &VolumeEntry, saved: Bytes, target: &Target) -> Result<()> {
    let bound = BOUND.contains(&volume.content.as_str()).then_some(saved);
    match volume.sector_limit.or(bound) {
        Some(limit) if limit < target.sector_size => Err(Error::refused(format!(
            "{} has sectors of {} bytes, but {} ({}) only works with sectors of up to {} bytes",
            target.path.display(),
            target.sector_size.get(),
            volume.id,
            volume.content,
            limit.get()
        ))),
        _ => Ok(()),
    }
}

/// A target that is smaller than the `least` bytes that the volume `id` asks for.
pub fn too_small(target: &Target, id: &str, least: Bytes) -> Error {
    Error::refused(format!(
        "{} is too small: it has {}, and {id} needs a target of {least} ({} bytes) at least",
        target.path.display(),
        target.size,
        least.get()
    ))
}

/// Refuses to restore the data of a volume that has none of its own, or none in the image.
///
/// # Errors
/// [`Error::Refused`] naming the volume.
pub fn without_data(volume: &VolumeEntry) -> Result<()> {
    let id = &volume.id;
    if volume.is_container {
        return Err(Error::refused(format!(
            "{id} only holds other volumes; restore those, or the whole disk"
        )));
    }
    if volume.state == EXCLUDED {
        return Err(Error::refused(format!("{id} was excluded when it was saved")));
    }
    Ok(())
}
