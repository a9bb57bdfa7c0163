//! Every volume of some disks: partitions, disks without a table, and the logical volumes of the one
//! group on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::loops::Mount;
use crate::table::{Disk, Entry};
use crate::tree::Tree;
use crate::vg::Vg;
use crate::{call, filesystem, judge, table, tool};

/// A volume with a known content.
#[derive(Debug)]
pub struct Volume {
    /// As keiki names it: `d0:1`, `vg0/root`.
    pub id: String,
    /// blkid's TYPE, empty where blkid knows nothing.
    pub content: String,
    /// The file that it lies in: the disk, or a copy of a logical volume.
    pub file: PathBuf,
    /// Its bytes there.
    pub extent: Extent,
}

/// The volumes of some disks, and the copies that were made of logical ones.
#[derive(Debug)]
pub struct Volumes {
    /// In the order of disks and tables, then of the names of logical volumes.
    pub all: Vec<Volume>,
    /// The volume group, where one is on these disks.
    pub vg: Option<Vg>,
    _copies: TempDir,
}

impl Volumes {
    /// Finds the volumes of `disks`; needs root and loop devices where there is a volume group.
    ///
    /// # Errors
    /// A tool cannot read a table, or LVM fails.
    pub fn of(disks: &[PathBuf]) -> Result<Self> {
        let copies = TempDir::new()?;
        let (mut all, mut places) = (Vec::new(), Vec::new());
        for (number, disk) in disks.iter().enumerate() {
            let whole = Extent::first(Bytes::new(fs::metadata(disk)?.len()));
            if content(disk, whole)? == "LVM2_member" {
                places.push((disk.clone(), whole));
                continue;
            }
            if judge::signature(Disk::open(disk)?.path(), "PTTYPE")?.is_empty() {
                let (id, content) = (format!("d{number}"), content(disk, whole)?);
                all.push(Volume { id, content, file: disk.clone(), extent: whole });
                continue;
            }
            let entries = table::read(disk)?.entries.into_iter();
            for Entry { number: partition, extent, .. } in entries.filter(|e| !e.is_extended()) {
                let content = content(disk, extent)?;
                if content == "LVM2_member" {
                    places.push((disk.clone(), extent));
                }
                let id = format!("d{number}:{partition}");
                all.push(Volume { id, content, file: disk.clone(), extent });
            }
        }
        let vg = (!places.is_empty()).then(|| Vg::open(&places)).transpose()?;
        for lv in vg.iter().map(Vg::segments).collect::<Result<Vec<_>>>()?.iter().flatten() {
            let (vg, lv) = (vg.as_ref().context("a group")?, lv.0);
            let file = copies.path().join(lv);
            vg.take(lv, &file)?;
            let extent = Extent::first(Bytes::new(fs::metadata(&file)?.len()));
            let content = content(&file, extent)?;
            all.push(Volume { id: format!("{}/{lv}", vg.name()), content, file, extent });
        }
        Ok(Self { all, vg, _copies: copies })
    }
}

/// What every filesystem on `disks` holds, by volume id; needs root and loop devices.
///
/// # Errors
/// Those of [`Volumes::of`], or a filesystem cannot be read.
pub fn trees(disks: &[PathBuf]) -> Result<BTreeMap<String, Tree>> {
    let volumes = Volumes::of(disks)?;
    let mut trees = BTreeMap::new();
    for volume in &volumes.all {
        let Volume { id, content, file, extent } = volume;
        let read = || match content.as_str() {
            // The driver knows ext2 by that name, and that it has no journal to leave alone.
            "ext2" => Tree::of(Mount::new(file, *extent, "ro")?.folder()).map(Some),
            "ext3" | "ext4" => Tree::of(Mount::new(file, *extent, "ro,noload")?.folder()).map(Some),
            "xfs" => {
                Tree::of(Mount::new(file, *extent, "ro,norecovery,nouuid")?.folder()).map(Some)
            }
            "vfat" => {
                let out = TempDir::new()?;
                filesystem::read_fat(file, *extent, out.path())?;
                Tree::of(out.path()).map(Some)
            }
            _ => Ok(None),
        };
        if let Some(tree) = read().with_context(|| format!("cannot read {id}"))? {
            trees.insert(id.clone(), tree);
        }
    }
    Ok(trees)
}

/// blkid's TYPE of the bytes `extent` of `file`; empty where it finds nothing.
fn content(file: &Path, extent: Extent) -> Result<String> {
    let [offset, size] = [extent.start, extent.len()].map(|figure| figure.get().to_string());
    let probe = call!(
        "blkid",
        "--probe",
        "--offset",
        offset,
        "--size",
        size,
        "--match-tag",
        "TYPE",
        "--output",
        "value",
        file
    );
    // It exits 2 where it finds nothing.
    Ok(tool::outcome(&probe)?.text().trim().to_owned())
}

/// Fails, naming volume and paths, unless both maps hold the same trees.
///
/// # Errors
/// They differ.
pub fn expect_same(
    expected: &BTreeMap<String, Tree>,
    found: &BTreeMap<String, Tree>,
) -> Result<()> {
    let [before, after] = [expected, found].map(|trees| trees.keys().collect::<Vec<_>>());
    ensure!(before == after, "expected the filesystems {before:?}, found {after:?}");
    for (id, tree) in expected {
        tree.expect(found.get(id).context("the same ids")?).with_context(|| id.clone())?;
    }
    Ok(())
}
