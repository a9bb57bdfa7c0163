//! What a person means by a source: a disk, a partition, an image file, a volume inside one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_core::disk::{claim, inventory, table};
use image_core::error::Error;
use image_core::io::device::Device;
use image_core::io::rescue::{Effort, Rescue};
use image_core::replay;
use image_core::report::Report;
use image_core::survey::model::{Hardware, Survey};
use image_core::survey::{self, Input, Wishes};
use image_core::units::Bytes;

use crate::args::Global;
use crate::output::progress::Progress;

/// A path, and a volume inside it where one is named (`disk.img:2`, `disk.img:vg0/root`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The disk, partition or file.
    pub path: PathBuf,
    /// The volume inside it.
    pub volume: Option<String>,
}

/// Understands `sda1`, `/dev/sda1`, `vg0/root`, `disk.img`, `disk.img:2`.
///
/// # Errors
/// [`Error::Refused`] where there is nothing of that name.
pub fn find(text: &str) -> Result<Named, Error> {
    let whole = |path: PathBuf| Named { path, volume: None };
    let path = PathBuf::from(text);
    if path.exists() {
        return Ok(whole(path));
    }
    let node = Path::new("/dev").join(text);
    if !path.is_absolute() && node.exists() {
        return Ok(whole(node));
    }
    if let Some((file, volume)) = text.rsplit_once(':')
        && !volume.is_empty()
        && Path::new(file).exists()
    {
        return Ok(Named { path: PathBuf::from(file), volume: Some(volume.to_owned()) });
    }
    Err(Error::refused(format!("there is no disk, partition or file {text}")))
}

/// What sources are opened for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// Only to be looked at: they may be in use.
    Look,
    /// To be copied; into this repository, where there is one and it is a folder.
    Copy(Option<&'a Path>),
    /// To be read where an image has holes, with more patience; in this repository, where that is a folder.
    Fill(Option<&'a Path>),
}

/// Opens the sources for a survey.
///
/// # Errors
/// [`Error::Refused`] where one that is to be copied is mounted read-write, in use, or holds the repository.
pub fn open(
    sources: &[String],
    sector_size: Option<Bytes>,
    purpose: Purpose<'_>,
) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    let effort = if matches!(purpose, Purpose::Fill(_)) { Effort::FILL } else { Effort::SAVE };
    for source in sources {
        let named = find(source)?;
        let into = match purpose {
            Purpose::Look => None,
            Purpose::Copy(repository) | Purpose::Fill(repository) => Some(repository),
        };
        if let Some(repository) = into {
            claim::source_in_use(&named.path, repository)?;
        }
        let info = inventory::describe(&named.path)?;
        let mut device = Device::open_source(&named.path, sector_size)?;
        if !device.is_block_device() && sector_size.is_none() {
            let detected = table::detect_sector_size(&device);
            if detected.is_some_and(|size| size != device.sector_size()) {
                device = Device::open_source(&named.path, detected)?;
            }
        }
        inputs.push(Input {
            path: named.path,
            source: Arc::new(Rescue::new(Arc::new(device), effort)),
            hardware: Hardware { model: info.model, serial: info.serial, wwn: info.wwn },
            select: named.volume,
            whole: info.whole,
        });
    }
    Ok(inputs)
}

/// Looks at the sources, down to what their filesystems use, those included whose log the kernel has to replay;
/// without the volumes `exclude`.
///
/// # Errors
/// Those of [`survey::survey`] and [`replay::dirty_logs`]; [`Error::Refused`] where there is no such volume.
pub fn survey(
    inputs: &[Input],
    wishes: Wishes,
    exclude: &[String],
    progress: &Progress,
) -> anyhow::Result<Survey> {
    let mut survey = survey::survey(inputs, wishes, progress)?;
    survey::exclude(&mut survey, exclude)?;
    // Of what is mounted the log is always dirty, and changes while it is read.
    if inputs.iter().all(|input| claim::source_in_use(&input.path, None).is_ok()) {
        replay::dirty_logs(&mut survey, &super::view::server()?, progress)?;
    }
    Ok(survey)
}

/// Says what the user should know of a source before it is copied.
pub fn tell(survey: &Survey, global: &Global, progress: &Progress) {
    survey.warnings.iter().for_each(|warning| progress.warning(warning));
    for volume in &survey.volumes {
        if let Some(reason) = volume.reason().filter(|_| !global.quiet) {
            progress.talk(&format!("{} is copied whole: {reason}", volume.id));
        }
        if volume.is_excluded() && !global.quiet {
            progress.talk(&format!("{} is excluded: none of its bytes are saved", volume.id));
        }
    }
}
