//! Targets: what is on them, and whether the user means them.

use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use image_core::disk::claim;
use image_core::disk::inventory::{self, DiskInfo};
use image_core::disk::probe::{self, Signature, Usage as SignatureUsage};
use image_core::disk::table::{self, Partition};
use image_core::error::Error;
use image_core::extent::{Extent, ExtentSet};
use image_core::fs;
use image_core::io::Source;
use image_core::io::device::Device;
use image_core::io::identity::DeviceIdentity;
use image_core::io::window::Window;
use image_core::plan::old::Old;
use image_core::restore::{self, Before};
use image_core::units::Bytes;

use crate::output;

/// A target as it was named, looked at, not opened for writing.
pub struct Candidate {
    /// Its path.
    pub path: PathBuf,
    /// What is known of it; `None` for a file that is to be created.
    pub info: Option<DiskInfo>,
    /// What tells it from others; checked again when it is opened.
    pub identity: Option<DeviceIdentity>,
    /// What is on it; empty for a blank disk.
    pub contents: Vec<Content>,
    /// Its table and physical volumes, or what a restore that was interrupted remembers of them.
    pub before: Old,
}

/// One thing that is on a target.
pub struct Content {
    /// A line for a person.
    words: String,
    /// Its bytes, where it is a partition.
    extent: Option<Extent>,
}

impl Content {
    fn whole(words: impl Into<String>) -> Self {
        Self { words: words.into(), extent: None }
    }
}

impl Candidate {
    /// Looks at the target `text`, refusing what may not be overwritten.
    ///
    /// # Errors
    /// [`Error::Refused`] naming the holder.
    pub fn look(text: &str, repository: Option<&Path>) -> anyhow::Result<Self> {
        let node = Path::new("/dev").join(text);
        let given = PathBuf::from(text);
        let path =
            if !given.is_absolute() && !given.exists() && node.exists() { node } else { given };
        claim::check_target(&path, repository)?;
        if !path.try_exists().with_context(|| format!("{}", path.display()))? {
            if path.starts_with("/dev") {
                return Err(Error::refused(format!("there is no device {}", path.display())).into());
            }
            let (contents, before) = (Vec::new(), Old::default());
            return Ok(Self { path, info: None, identity: None, contents, before });
        }
        let info = inventory::describe(&path)?;
        let device = Device::open_source(&path, None)?;
        let device = Arc::new(device);
        let found = restore::before(&(Arc::clone(&device) as Source))?;
        let contents = contents(device, &found)?;
        let before = found.old;
        let identity = Some(Device::open_source(&path, None)?.identity()?);
        Ok(Self { path, info: Some(info), identity, contents, before })
    }

    /// What the user types to confirm it in advance: its serial, or its path where it has none.
    pub fn answers(&self) -> Vec<String> {
        let info = self.info.as_ref().filter(|info| info.whole);
        let names = info.map_or(Vec::new(), |info| {
            info.serial.iter().chain(&info.wwn).cloned().collect::<Vec<String>>()
        });
        if names.is_empty() { vec![self.path.display().to_string()] } else { names }
    }

    /// The target, with everything that would be lost, in words; not so what is `kept`.
    pub fn describe(&self, kept: &ExtentSet) -> String {
        let Some(head) = self.hardware() else {
            return format!("{}: a new file", self.path.display());
        };
        if self.contents.is_empty() {
            return format!("{head}, blank");
        }
        let stays = |content: &&Content| content.extent.is_some_and(|extent| kept.contains(extent));
        let (staying, lost): (Vec<&Content>, Vec<&Content>) = self.contents.iter().partition(stays);
        let line = |content: &&Content| {
            let part = content.extent.is_some_and(|extent| kept.within(extent).next().is_some());
            let part = if part { " (but for what is kept of it)" } else { "" };
            format!("\n    {}{part}", content.words)
        };
        let lines = |list: Vec<&Content>| -> String { list.iter().map(line).collect() };
        let lost = match lost.is_empty() {
            true => String::new(),
            false => format!("; this is on it, and will be lost:{}", lines(lost)),
        };
        match staying.is_empty() {
            true => format!("{head}{lost}"),
            false => format!(
                "{head}{lost}\n  this stays as it is:{}",
                staying
                    .iter()
                    .map(|content| format!("\n    {}", content.words))
                    .collect::<String>()
            ),
        }
    }

    /// Its path, its size, and what the hardware says of itself; none for a new file.
    pub fn hardware(&self) -> Option<String> {
        let info = self.info.as_ref()?;
        let parts = [
            Some(output::exact(info.size)),
            info.model.as_ref().map(|model| format!("model {model}")),
            info.serial.as_ref().map(|serial| format!("serial {serial}")),
        ];
        let head = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        Some(format!("{}: {head}", self.path.display()))
    }

    /// Opens the target for writing, if it still is what was confirmed.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is in use, or another one now.
    pub fn claim(
        &self,
        size: Bytes,
        sector_size: Bytes,
        repository: Option<&Path>,
    ) -> Result<Device, Error> {
        match &self.identity {
            None => Device::create_file(&self.path, size, sector_size),
            Some(identity) => {
                let device = claim::claim_target(&self.path, Some(sector_size), repository)?;
                device.confirm(identity)?;
                Ok(device)
            }
        }
    }
}

/// What a person would miss: partitions and filesystems, by their signatures. Where a restore was
/// interrupted that kept some of them, these.
fn contents(device: Arc<Device>, found: &Before) -> anyhow::Result<Vec<Content>> {
    let mut lines = Vec::new();
    let mut partitions = match table::read(&device) {
        Ok(Some(found)) => found.table.partitions().to_vec(),
        Ok(None) => Vec::new(),
        Err(error) => {
            lines.push(Content::whole(format!("a damaged partition table ({error})")));
            Vec::new()
        }
    };
    if let Some(interrupted) = &found.interrupted {
        lines.push(Content::whole(format!("a restore that was interrupted at {}", interrupted.at)));
        if partitions.is_empty()
            && let Some(old) = &found.old.table
        {
            let kept = |partition: &&Partition| interrupted.kept.contains(partition.extent);
            partitions.extend(old.partitions().iter().filter(kept).cloned());
        }
    }
    for partition in &partitions {
        let name = format!("partition {}", partition.number);
        let window = Window::new(Arc::clone(&device), partition.extent, name.clone());
        let what = signatures(&(Arc::new(window) as Source))?;
        let label = partition.name.as_deref().map_or(String::new(), |name| format!(" \"{name}\""));
        let words = format!("{name}{label}, {}: {what}", partition.extent.len());
        lines.push(Content { words, extent: Some(partition.extent) });
    }
    if partitions.is_empty() && lines.is_empty() {
        let what = signatures(&(Arc::clone(&device) as Source))?;
        if what != "nothing known" {
            lines.push(Content::whole(what));
        } else if !looks_blank(device.as_ref())? {
            lines.push(Content::whole("data of an unknown kind"));
        }
    }
    Ok(lines)
}

fn signatures(source: &Source) -> Result<String, Error> {
    let found = probe::signatures(source)?;
    // Of what the fs room reads, it alone knows the label; what it does not trust has none to show.
    let filesystem = fs::probe(source).ok().flatten();
    let label_of = |signature: &Signature| {
        let identity = filesystem.as_ref().map(|filesystem| filesystem.identity());
        let own = identity.filter(|identity| identity.content == signature.name);
        signature.label.clone().or_else(|| own.and_then(|identity| identity.label.clone()))
    };
    let mut names: Vec<String> = found
        .iter()
        .filter(|signature| signature.usage != SignatureUsage::Table && !signature.copy)
        .map(|signature| match label_of(signature) {
            Some(label) => format!("{} \"{label}\"", signature.name),
            None => signature.name.to_owned(),
        })
        .collect();
    // A FAT with its backup boot sector, or an md member at both ends, is one thing to a person.
    names.dedup();
    Ok(if names.is_empty() { "nothing known".to_owned() } else { names.join(", ") })
}

/// Whether the first and the last MiB are zeros.
fn looks_blank(source: &dyn image_core::io::BlockSource) -> Result<bool, Error> {
    let length = source.size().min(Bytes::MIB);
    let bytes = length.index().unwrap_or(0);
    let ends = [Bytes::ZERO, source.size().saturating_sub(length)];
    for start in ends {
        if source.read(start, bytes)?.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Asks the user about every target that exists, or takes the answers given in advance.
///
/// # Errors
/// [`Error::Refused`] for a wrong answer, two disks of one serial, or nobody to ask.
pub fn confirm(candidates: &[Candidate], given: &[String]) -> anyhow::Result<()> {
    let existing: Vec<&Candidate> = candidates.iter().filter(|c| c.info.is_some()).collect();
    for candidate in &existing {
        refuse_twins(candidate)?;
    }
    for wrong in given {
        let known = existing.iter().any(|candidate| candidate.answers().contains(wrong));
        if !known {
            let right: Vec<String> = existing.iter().map(|candidate| flag(candidate)).collect();
            let right = match right.as_slice() {
                [] => "none exists yet, and a new file needs no confirmation".to_owned(),
                right => format!("to confirm them: {}", right.join(" ")),
            };
            let why = format!("--confirm {wrong} is none of the targets; {right}");
            return Err(Error::refused(why).into());
        }
    }
    let open: Vec<&Candidate> = existing
        .into_iter()
        .filter(|candidate| !candidate.answers().iter().any(|answer| given.contains(answer)))
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let flags: Vec<String> = open.iter().map(|candidate| flag(candidate)).collect();
        return Err(Error::refused(format!(
            "writing needs a confirmation, and there is no terminal to ask on; add {}",
            flags.join(" ")
        ))
        .into());
    }
    open.into_iter().try_for_each(ask)
}

fn flag(candidate: &Candidate) -> String {
    let answer = candidate.answers().into_iter().next().unwrap_or_default();
    let plain = answer.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:+".contains(c));
    if plain {
        format!("--confirm {answer}")
    } else {
        format!("--confirm '{}'", answer.replace('\'', r"'\''"))
    }
}

/// Refuses a disk whose serial another attached disk carries too: the answer would name both.
fn refuse_twins(candidate: &Candidate) -> anyhow::Result<()> {
    let Some(info) = candidate.info.as_ref().filter(|info| info.whole && info.serial.is_some())
    else {
        return Ok(());
    };
    let canonical = candidate.path.canonicalize().unwrap_or_else(|_| candidate.path.clone());
    let twin = inventory::disks()?.into_iter().find(|disk| {
        disk.serial == info.serial && disk.path != info.path && disk.path != canonical
    });
    match twin {
        Some(twin) => Err(Error::refused(format!(
            "{} and {} carry the same serial; detach one of them",
            info.path.display(),
            twin.path.display()
        ))
        .into()),
        None => Ok(()),
    }
}

/// Asks on the terminal: `y` for a blank target, else the end of its serial, or its path.
fn ask(candidate: &Candidate) -> anyhow::Result<()> {
    let path = candidate.path.display().to_string();
    let answer = candidate.answers().into_iter().next().unwrap_or_default();
    let (prompt, expected) = if candidate.contents.is_empty() {
        (format!("{path} is blank. Type y to write to it"), "y".to_owned())
    } else if answer == path {
        (format!("To write to {path}, type that path"), answer)
    } else {
        let count = answer.chars().count();
        let tail: String = answer.chars().skip(count.saturating_sub(6)).collect();
        let count = tail.chars().count();
        (
            format!("To write to {path}, type the last {count} characters of its serial, {answer}"),
            tail,
        )
    };
    let typed =
        dialoguer::Input::<String>::new().with_prompt(prompt).allow_empty(true).interact_text();
    let typed = match typed {
        Err(dialoguer::Error::IO(error)) if error.kind() == ErrorKind::Interrupted => {
            return Err(Error::Interrupted.into());
        }
        typed => typed.context("cannot ask on this terminal")?,
    };
    let typed = typed.trim();
    // More than was asked for is no less.
    if typed == expected || candidate.answers().iter().any(|answer| answer == typed) {
        return Ok(());
    }
    let why =
        format!("{path} was not confirmed, {typed:?} is not {expected:?}; nothing was written");
    Err(Error::refused(why).into())
}
