//! What is on these disks, down to the filesystem.
//!
//! Answers: every volume of the given disks and files (partitions, logical volumes, gaps, filesystems on
//! bare disks), what it contains, and which of its bytes are in use. Refuses nothing that can be copied:
//! what is not understood is a volume to be copied whole, with the reason. Reads only.
//!
//! - [`carriers`]: who else carries the same identifiers.
//! - [`glance`]: the same in a moment, without used bytes.
//! - `exclude`: what the user does not want.
//! - [`model`]: the values. - [`content`]: what one volume contains. - [`gaps`]: the space between
//!   partitions. - [`groups`]: physical volumes, volume groups, logical volumes.

use std::path::PathBuf;
use std::sync::Arc;

pub mod carriers;
pub mod content;
mod exclude;
pub mod gaps;
pub mod glance;
pub mod groups;
pub mod model;

pub use exclude::exclude;

use crate::disk::table::PartitionRole;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::io::Source;
use crate::io::rescue::is_bad_sector;
use crate::io::window::Window;
use crate::report::{Report, Stage};
use model::{Kind, Slot, Survey, Volume};

/// One thing to look at, opened for reading.
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes, with the sector size that its table counts in.
    pub source: Source,
    /// What the hardware says of itself.
    pub hardware: model::Hardware,
    /// Only this volume of it: a partition number (`2`) or a logical volume (`vg0/root`).
    pub select: Option<String>,
    /// Whether it is a whole disk (or a file like one), not a partition or logical volume.
    pub whole: bool,
}

/// What the survey does beyond the usual.
#[derive(Clone, Copy, Default, Debug)]
pub struct Wishes {
    /// Gaps above [`gaps::LARGEST`] are saved too.
    pub all_gaps: bool,
    /// A volume group that is not understood is refused instead of being copied raw.
    pub strict: bool,
}

/// The disks of `inputs` and their partitions; nothing is known yet of what these hold.
fn divided(inputs: &[Input], report: &dyn Report) -> Result<Survey> {
    report.stage(Stage::Survey, None);
    let mut survey = Survey::default();
    for (at, input) in inputs.iter().enumerate() {
        report.checkpoint()?;
        let slot = slot(input, at, &mut survey.warnings)?;
        partitions(&slot, at, &mut survey.volumes);
        survey.slots.push(slot);
    }
    Ok(survey)
}

/// Looks at `inputs`.
///
/// # Errors
/// [`Error::Io`] where a disk cannot be read, [`Error::Corrupt`] where both copies of its table are
/// damaged, [`Error::Refused`] for a selected volume that is not there.
pub fn survey(inputs: &[Input], wishes: Wishes, report: &dyn Report) -> Result<Survey> {
    let mut survey = divided(inputs, report)?;
    groups::assemble(&mut survey, wishes.strict)?;
    for volume in &mut survey.volumes {
        report.checkpoint()?;
        if !volume.is_pv {
            content::identify(volume)?;
        }
    }
    for at in 0..survey.slots.len() {
        gaps::find(&mut survey, at, wishes.all_gaps)?;
    }
    select(&mut survey, inputs)?;
    sort(&mut survey);
    Ok(survey)
}

fn slot(input: &Input, at: usize, warnings: &mut Vec<String>) -> Result<Slot> {
    let path = input.path.display().to_string();
    let table = if input.whole {
        let read = crate::disk::table::read(&input.source)
            .map_err(|error| without_table(error).on(&path))?;
        read.map(|read| {
            warnings.extend(read.warnings.iter().map(|warning| format!("{path}: {warning}")));
            read.table
        })
    } else {
        None
    };
    Ok(Slot {
        id: format!("d{at}"),
        path: input.path.clone(),
        source: Arc::clone(&input.source),
        whole: input.whole && input.select.is_none(),
        hardware: input.hardware.clone(),
        table,
    })
}

/// Without its table nobody knows where the disk's volumes lie.
fn without_table(error: Error) -> Error {
    if !is_bad_sector(&error) {
        return error;
    }
    let Error::Io { subject, offset, source, .. } = error else { return error };
    let action = "read its partition table, so nothing tells where its volumes lie (those that the system shows \
                  can be named one by one)";
    Error::Io { subject, action: action.to_owned(), offset, source }
}

/// The partitions of a slot, or the slot itself where it has no table.
fn partitions(slot: &Slot, at: usize, volumes: &mut Vec<Volume>) {
    let Some(table) = &slot.table else {
        let kind = if slot.whole { Kind::Disk } else { Kind::Partition };
        let extent = Extent::first(slot.source.size());
        volumes.push(Volume::new(
            slot.id.clone(),
            Some(at),
            kind,
            extent,
            Arc::clone(&slot.source),
        ));
        return;
    };
    for partition in table.partitions() {
        if partition.role() == PartitionRole::Extended {
            continue;
        }
        let id = format!("{}:{}", slot.id, partition.number);
        let window: Source =
            Arc::new(Window::new(Arc::clone(&slot.source), partition.extent, id.clone()));
        let mut volume = Volume::new(id, Some(at), Kind::Partition, partition.extent, window);
        volume.container = Some(slot.id.clone());
        volume.name.clone_from(&partition.name);
        volume.role = partition.role();
        volumes.push(volume);
    }
}

/// Keeps only the selected volume of the inputs that select one.
fn select(survey: &mut Survey, inputs: &[Input]) -> Result<()> {
    for (at, input) in inputs.iter().enumerate() {
        let Some(wanted) = &input.select else { continue };
        let number = format!("d{at}:{wanted}");
        let chosen = survey
            .volumes
            .iter()
            .find(|volume| !volume.is_container() && (volume.id == number || volume.id == *wanted));
        let Some(chosen) = chosen.map(|volume| volume.id.clone()) else {
            let have: Vec<&str> = survey
                .volumes
                .iter()
                .map(|v| v.id.strip_prefix(&format!("d{at}:")).unwrap_or(&v.id))
                .collect();
            return Err(Error::refused(format!(
                "{} has no volume {wanted}; it has {}",
                input.path.display(),
                have.join(", ")
            )));
        };
        let groups: Vec<String> = survey
            .groups
            .iter()
            .filter(|group| {
                group.pvs.iter().any(|pv| {
                    survey.volumes.iter().any(|v| v.id == pv.volume && v.slot == Some(at))
                })
            })
            .map(|group| group.vg.name.clone())
            .collect();
        survey.volumes.retain(|volume| {
            volume.id == chosen
                || (volume.slot != Some(at)
                    && !volume.group.as_ref().is_some_and(|name| groups.contains(name)))
        });
        survey.groups.retain(|group| !groups.contains(&group.vg.name));
    }
    Ok(())
}

/// Disks in order, each with its volumes by position; logical volumes behind, by group and name.
fn sort(survey: &mut Survey) {
    survey.volumes.sort_by(|a, b| {
        let key = |volume: &Volume| (volume.slot.is_none(), volume.slot, volume.extent.start);
        key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
    });
}

#[cfg(test)]
mod tests;
