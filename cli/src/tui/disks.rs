//! The disks of this machine, with what a person knows them by and what is on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_core::disk::claim;
use image_core::disk::inventory::{self, DiskInfo};
use image_core::disk::table::PartitionRole;
use image_core::error::Error;
use image_core::io::Source;
use image_core::io::device::Device;
use image_core::report::Quiet;
use image_core::restore;
use image_core::survey::glance::glance;
use image_core::survey::model::{Survey, Volume};
use image_core::units::Bytes;

use super::ask::Item;
use crate::cmd::source;

/// A disk or a partition to choose.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its node.
    pub path: PathBuf,
    /// Model, serial, size.
    pub title: String,
    /// What is on it.
    pub contents: String,
    /// Its size.
    pub size: Bytes,
    /// Its partitions.
    pub parts: Vec<Part>,
}

/// A partition to choose.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its node.
    pub path: PathBuf,
    /// Number, name, content.
    pub title: String,
    /// Its size.
    pub size: Bytes,
}

/// All disks, as far as this user may read them.
///
/// # Errors
/// Of asking the kernel for them.
pub fn all() -> Result<Vec<Disk>, Error> {
    let mut infos = inventory::disks()?;
    // Seldom what is meant, and found by the kernel before others.
    infos.sort_by_key(|info| is_drive(&info.path));
    // Together, for a volume group may lie on several; one by one where that fails.
    let names: Vec<PathBuf> = infos.iter().map(|info| info.path.clone()).collect();
    let together = look(&names);
    let disk = |info: &DiskInfo| {
        let alone;
        let survey = match &together {
            Ok(survey) => Ok(survey),
            Err(_) => {
                alone = look(std::slice::from_ref(&info.path));
                alone.as_ref().map_err(String::as_str)
            }
        };
        describe(info, survey)
    };
    Ok(infos.iter().map(disk).collect())
}

/// Whether it is a drive of discs or floppies.
fn is_drive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is = |kind: &str| {
        let number = name.strip_prefix(kind);
        number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    is("sr") || is("fd")
}

fn look(paths: &[PathBuf]) -> Result<Survey, String> {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    survey(&names)
}

/// What is on these disks or files, as they are typed.
///
/// # Errors
/// Why they cannot be looked into, in words.
pub fn survey(names: &[String]) -> Result<Survey, String> {
    let inputs = source::open(names, None, source::Purpose::Look)
        .map_err(|error| crate::cmd::message(&error))?;
    glance(&inputs, &Quiet::default()).map_err(|error| error.to_string())
}

/// Says of a source why it may not be read now.
pub fn no_source(path: &Path, repository: Option<&Path>) -> Option<String> {
    claim::source_in_use(path, repository).err().map(|error| reason(path, &error))
}

/// Says of a target why it may not be overwritten.
pub fn no_target(path: &Path, repository: Option<&Path>) -> Option<String> {
    claim::check_target(path, repository).err().map(|error| reason(path, &error))
}

/// The reason alone: the path stands above it.
fn reason(path: &Path, error: &Error) -> String {
    let text = error.to_string();
    let begins = |start: &str| text.strip_prefix(&format!("{} {start}: ", path.display()));
    let rest = begins("cannot be overwritten").or_else(|| begins("may change while it is read"));
    rest.unwrap_or(&text).to_owned()
}

impl Disk {
    /// The disk as an entry of a list.
    pub fn item(&self, blocked: Option<String>) -> Item {
        Item::new(format!("{}  {}", self.path.display(), self.title))
            .with(&self.contents)
            .blocked(blocked)
    }
}

fn describe(info: &DiskInfo, survey: Result<&Survey, &str>) -> Disk {
    let title: Vec<&str> = [info.model.as_deref(), info.serial.as_deref()]
        .into_iter()
        .flatten()
        .map(str::trim)
        .collect();
    let title = format!("{}  {}", info.size, title.join("  "));
    let slot = survey.map(|survey| survey.slots.iter().position(|slot| slot.path == info.path));
    let volumes = |survey: &Survey, slot: usize| -> Vec<(u32, String)> {
        let own = survey.volumes.iter().filter(|volume| volume.slot == Some(slot));
        own.map(|volume| (number(volume), volume_words(survey, volume))).collect()
    };
    let (contents, own) = match (survey, slot) {
        (Ok(survey), Ok(Some(slot))) => {
            let unended = interrupted(&info.path);
            (unended.unwrap_or_else(|| contents(survey, slot)), volumes(survey, slot))
        }
        (Err(why), _) => (format!("cannot be looked into: {why}"), Vec::new()),
        _ => ("cannot be looked into".to_owned(), Vec::new()),
    };
    let part = |partition: &inventory::PartitionInfo| {
        let words = own.iter().find(|(number, _)| *number == partition.number);
        let words = words.map_or("", |(_, words)| words.as_str());
        let title = format!("{}  {words}", partition.path.display());
        Part { path: partition.path.clone(), title, size: partition.size }
    };
    let parts = info.partitions.iter().map(part).collect();
    Disk {
        path: info.path.clone(),
        title: title.trim().to_owned(),
        contents,
        size: info.size,
        parts,
    }
}

/// What a restore left there that did not end; none where there is none, or something else was made since.
fn interrupted(path: &Path) -> Option<String> {
    let device: Source = Arc::new(Device::open_source(path, None).ok()?);
    let before = restore::before(&device).ok()?;
    let at = before.interrupted.filter(|found| found.remembered)?.at;
    Some(format!(
        "a restore onto it was interrupted at {at}; the same one again goes on from there"
    ))
}

fn number(volume: &Volume) -> u32 {
    volume.id.rsplit_once(':').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// `GPT: ESP 512 MiB vfat, /boot 1 GiB ext4, vg0 (root 40 GiB ext4, srv 400 GiB xfs)`.
fn contents(survey: &Survey, slot: usize) -> String {
    let Some(disk) = survey.slots.get(slot) else { return String::new() };
    let own = survey.volumes.iter().filter(|volume| volume.slot == Some(slot));
    let parts: Vec<String> = own.map(|volume| volume_words(survey, volume)).collect();
    match &disk.table {
        Some(table) if parts.is_empty() => {
            format!("{}: no partitions", table.kind().to_uppercase())
        }
        Some(table) => format!("{}: {}", table.kind().to_uppercase(), parts.join(", ")),
        None => match parts.first().map(String::as_str) {
            Some(only) if !only.ends_with("unknown") => format!("no partition table: {only}"),
            _ => "nothing known is on it".to_owned(),
        },
    }
}

fn volume_words(survey: &Survey, volume: &Volume) -> String {
    let group =
        survey.groups.iter().find(|group| group.pvs.iter().any(|pv| pv.volume == volume.id));
    let Some(group) = group else { return one(volume) };
    let inside: Vec<String> = survey
        .volumes
        .iter()
        .filter(|other| other.slot.is_none() && other.container.as_ref() == Some(&group.vg.name))
        .map(one)
        .collect();
    let own = |pv: &&image_core::survey::model::GroupPv| pv.volume != volume.id;
    let others = group.pvs.iter().filter(own).count();
    let over = if others > 0 {
        format!(" with {} more", crate::output::count(others, "disk part"))
    } else {
        String::new()
    };
    format!("{}{over} ({})", group.vg.name, inside.join(", "))
}

/// `/boot 1 GiB ext4`.
fn one(volume: &Volume) -> String {
    let lv = volume.id.rsplit_once('/').map(|(_, name)| name.to_owned());
    let mounted = volume.needs.as_ref().and_then(|needs| needs.last_mounted.clone());
    let role = match volume.role {
        PartitionRole::Esp => Some("ESP"),
        PartitionRole::BiosBoot => Some("BIOS boot"),
        PartitionRole::Msr => Some("MSR"),
        PartitionRole::WinRe => Some("WinRE"),
        _ => None,
    };
    let name = lv
        .or(mounted.filter(|point| point.starts_with('/') && point.len() < 30))
        .or(role.map(str::to_owned))
        .or(volume.label.clone())
        .or(volume.name.clone());
    let content = if volume.content == "raw" { "unknown" } else { &volume.content };
    let size = volume.size().to_string();
    [name.as_deref().map(str::trim), Some(size.as_str()), Some(content)]
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
