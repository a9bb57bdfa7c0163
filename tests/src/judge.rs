//! Tools of other houses that say whether a disk is sound: none of them is asked to repair.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image_core::exec::Call;
use image_core::extent::Extent;

use crate::loops::Loop;
use crate::table::Disk;
use crate::vg::Vg;
use crate::volumes::{Volume, Volumes};
use crate::{call, tool};

/// Everything below, on every table, volume and volume group of `disks`; needs root and loop devices.
///
/// # Errors
/// The first complaint, with the tool's talk.
pub fn disks(disks: &[PathBuf]) -> Result<()> {
    let volumes = Volumes::of(disks)?;
    for disk in disks {
        table(disk)?;
    }
    if let Some(vg) = &volumes.vg {
        group(vg)?;
    }
    for Volume { id, content, file, extent } in &volumes.all {
        match content.as_str() {
            "ext2" | "ext3" | "ext4" => ext(file, *extent),
            "xfs" => xfs(file, *extent),
            "vfat" => fat(file, *extent),
            _ => Ok(()),
        }
        .with_context(|| id.clone())?;
    }
    Ok(())
}

/// The partition table of a disk that has one: `sgdisk` and `sfdisk` find no problem.
///
/// # Errors
/// The tool's talk.
pub fn table(disk: &Path) -> Result<()> {
    let disk = Disk::open(disk)?;
    let disk = disk.path();
    match signature(disk, "PTTYPE")?.as_str() {
        // sgdisk exits 0 also where it finds problems.
        "gpt" => says(&call!("sgdisk", "--verify", disk), "No problems found")?,
        "" => return Ok(()),
        _ => {}
    }
    says(&call!("sfdisk", "--verify", disk), "No errors detected")
}

/// An ext filesystem: `e2fsck -fn`.
///
/// # Errors
/// The tool's talk.
pub fn ext(file: &Path, extent: Extent) -> Result<()> {
    let device = Loop::part(file, extent)?;
    passes(&call!("e2fsck", "-fn", device.device()))
}

/// An XFS: `xfs_repair -n`.
///
/// # Errors
/// The tool's talk.
pub fn xfs(file: &Path, extent: Extent) -> Result<()> {
    let device = Loop::part(file, extent)?;
    passes(&call!("xfs_repair", "-n", device.device()))
}

/// A FAT filesystem: `fsck.fat -n`.
///
/// # Errors
/// The tool's talk.
pub fn fat(file: &Path, extent: Extent) -> Result<()> {
    let device = Loop::part(file, extent)?;
    passes(&call!("fsck.fat", "-n", device.device()))
}

/// A volume group: `pvck` on each physical volume and `vgck`.
///
/// # Errors
/// The tool's talk.
pub fn group(vg: &Vg) -> Result<()> {
    passes(&vg.call("pvck", vg.devices()))?;
    passes(&vg.call("vgck", vec![vg.name().to_owned()]))
}

/// blkid's value of `tag` (`TYPE`, `UUID`, `PTTYPE`), by probing; empty where it finds nothing.
///
/// # Errors
/// blkid finds several signatures that contradict each other, or cannot read.
pub fn signature(device: &Path, tag: &str) -> Result<String> {
    let probe = call!("blkid", "--probe", "--match-tag", tag, "--output", "value", device);
    let outcome = tool::outcome(&probe)?;
    match outcome.code {
        Some(0 | 2) => Ok(outcome.text().trim().to_owned()),
        // 8: an ambivalent result.
        _ => bail!("{}: {:?}: {}", probe.line(), outcome.code, outcome.talk()),
    }
}

/// Every signature that `wipefs` finds, by name, in the order of its list.
///
/// # Errors
/// wipefs fails.
pub fn signatures(device: &Path) -> Result<Vec<String>> {
    let list = tool::run(&call!(
        "wipefs",
        "--no-act",
        "--noheadings",
        "--parsable",
        "--output",
        "TYPE,OFFSET",
        device
    ))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Whether `mdadm` takes it for a member of an array.
///
/// # Errors
/// mdadm is missing.
pub fn is_md_member(device: &Path) -> Result<bool> {
    Ok(tool::outcome(&call!("mdadm", "--examine", device))?.success())
}

fn passes(call: &Call) -> Result<()> {
    tool::run(call).map(drop)
}

fn says(call: &Call, words: &str) -> Result<()> {
    let outcome = tool::outcome(call)?;
    let talk = outcome.talk();
    if outcome.success() && talk.contains(words) {
        return Ok(());
    }
    bail!("{}: {talk}", call.line())
}
