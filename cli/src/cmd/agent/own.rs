//! What this machine is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use image_core::disk::inventory::{self, DiskInfo};
use netboot::interface;
use netboot::orders::machine::{Disk, Machine};

use crate::answers::Answers;
use crate::args::agent::Agent;

/// What the firmware tells of the machine (SMBIOS).
const FIRMWARE: &str = "/sys/class/dmi/id";

/// This machine, with these disks and files, or with all its disks where none are named.
///
/// # Errors
/// A disk cannot be looked at.
pub fn machine(named: &[PathBuf]) -> Result<Machine> {
    let told = |name: &str| {
        let text = fs::read_to_string(Path::new(FIRMWARE).join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let disks = offered(named)?;
    let model = [told("sys_vendor"), told("product_name")]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ");
    Ok(Machine {
        uuid: told("product_uuid").map(|uuid| uuid.to_lowercase()),
        serial: told("product_serial"),
        model: Some(model).filter(|model| !model.is_empty()),
        macs: macs(),
        memory: memory(),
        disks: disks.iter().map(disk).collect(),
    })
}

/// These disks and files, or all disks of this machine where none are named.
///
/// # Errors
/// One cannot be looked at.
pub fn offered(named: &[PathBuf]) -> Result<Vec<DiskInfo>> {
    Ok(match named {
        [] => inventory::disks()?.into_iter().filter(|disk| !is_for_discs(&disk.path)).collect(),
        named => named.iter().map(|path| inventory::describe(path)).collect::<Result<_, _>>()?,
    })
}

/// Whether it is a drive for CDs, which some kernels take for a disk while it is empty.
fn is_for_discs(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"sr"))
}

/// The disks that the rules mean, of all that are offered now.
///
/// # Errors
/// None fits a rule, or several do.
pub fn chosen(args: &Agent, answers: &Answers) -> Result<Vec<DiskInfo>> {
    let offered = offered(&args.disks)?;
    let chosen = answers.choose(&offered).map_err(|why| anyhow!("{why}"))?;
    Ok(chosen.into_iter().cloned().collect())
}

/// What is told of a disk.
fn disk(disk: &DiskInfo) -> Disk {
    Disk {
        path: disk.path.display().to_string(),
        size: disk.size.get(),
        model: disk.model.clone(),
        serial: disk.serial.clone(),
        wwn: disk.wwn.clone(),
        removable: disk.removable,
        usable: !disk.read_only && disk.holders.is_empty(),
    }
}

/// Whether these disks are those that an order names, one by one.
pub fn are(disks: &[DiskInfo], named: &[Disk]) -> bool {
    disks.len() == named.len() && disks.iter().zip(named).all(|(one, named)| disk(one).is(named))
}

/// The addresses of this machine's own adapters; of those of its dock where it has none; of all where nothing is a device, as
/// in a container.
fn macs() -> Vec<String> {
    let all = interface::adapters();
    let device = |name: &str| Path::new("/sys/class/net").join(name).join("device");
    let is_usb = |name: &str| {
        fs::read_link(device(name).join("subsystem")).is_ok_and(|bus| bus.ends_with("usb"))
    };
    let those = |is: &dyn Fn(&str) -> bool| {
        let mut macs: Vec<String> =
            all.iter().filter(|(name, _)| is(name)).map(|(_, mac)| mac.to_string()).collect();
        macs.sort();
        macs.dedup();
        macs
    };
    let devices = those(&|name| device(name).exists());
    let own = those(&|name| device(name).exists() && !is_usb(name));
    [own, devices, those(&|_| true)].into_iter().find(|macs| !macs.is_empty()).unwrap_or_default()
}

/// Memory, in bytes.
fn memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.unwrap_or(0) * 1024
}
