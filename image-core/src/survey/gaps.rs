//! The space between partitions: boot loaders and licence sectors live there.

use std::sync::Arc;

use super::model::{Coverage, Kind, Slot, Survey, Volume};
use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::fs::State;
use crate::io::overlay::Masked;
use crate::io::rescue::is_bad_sector;
use crate::io::window::Window;
use crate::io::{BlockSource, Source};
use crate::units::Bytes;

/// A larger gap (other than the first) is not read unless the user asks for it.
pub const LARGEST: Bytes = Bytes::mib(16);

/// What is saved before the first partition where there is none: boot code and the usual gap.
const WITHOUT_PARTITIONS: Bytes = Bytes::MIB;

/// Adds the gaps of the disk `at` as volumes: the first one always, the others where they are not all
/// zero. The partition table's own bytes read as zero in them.
///
/// # Errors
/// [`crate::error::Error::Io`] where a gap cannot be read.
pub fn find(survey: &mut Survey, at: usize, all: bool) -> Result<()> {
    let Some(slot) = survey.slots.get(at).filter(|slot| slot.whole) else { return Ok(()) };
    if slot.table.is_none() {
        return Ok(());
    }
    let size = slot.source.size();
    let taken: ExtentSet = {
        let mut extents: Vec<Extent> = survey
            .volumes
            .iter()
            .filter(|volume| volume.slot == Some(at))
            .map(|volume| volume.extent)
            .collect();
        extents.sort_unstable();
        extents.into_iter().collect()
    };
    let mut found = Vec::new();
    for (number, gap) in taken.missing_in(Extent::first(size)).iter().enumerate() {
        let first = gap.start.is_zero();
        let id = format!("{}:gap{number}", slot.id);
        let gap = if first && taken.is_empty() && size > WITHOUT_PARTITIONS {
            survey.warnings.push(format!(
                "{id}: the disk has no partitions; only its first {WITHOUT_PARTITIONS} is read"
            ));
            Extent::first(WITHOUT_PARTITIONS)
        } else {
            gap
        };
        if !first && gap.len() > LARGEST && !all {
            survey.warnings.push(format!(
                "{id}: {} outside of all partitions, from byte {}, are not read (save --gaps saves them)",
                gap.len(),
                gap.start.get()
            ));
            continue;
        }
        let window = source(slot, gap, &id);
        let zero = || match is_zero(&window) {
            // What cannot be read is listed as that.
            Err(error) if is_bad_sector(&error) => Ok(false),
            told => told,
        };
        if first || !zero()? {
            let mut volume = Volume::new(id, Some(at), Kind::Gap, gap, window);
            volume.container = Some(slot.id.clone());
            volume.state = State::Clean;
            volume.coverage = Coverage::Whole;
            found.push(volume);
        }
    }
    survey.volumes.append(&mut found);
    Ok(())
}

/// The bytes of the gap `extent` of a disk, called `id`.
pub fn source(slot: &Slot, extent: Extent, id: &str) -> Source {
    let (source, size) = (Arc::clone(&slot.source), slot.source.size());
    let own = slot.table.as_ref().map(|table| table.own_bytes(size, source.sector_size()));
    let masked: Source = Arc::new(Masked::new(source, own.unwrap_or_default()));
    Arc::new(Window::new(masked, extent, id))
}

fn is_zero(source: &Source) -> Result<bool> {
    let mut buffer = vec![0; 1 << 20];
    for part in source.allocated(Extent::first(source.size()))?.iter() {
        let mut at = part.start;
        while at < part.end {
            let length = (part.end - at).min(Bytes::of(&buffer));
            let piece = length.index().and_then(|length| buffer.get_mut(..length));
            let Some(piece) = piece else { break };
            source.read_at(at, piece)?;
            if piece.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += length;
        }
    }
    Ok(true)
}
