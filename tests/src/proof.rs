//! The proof of a restore: onto targets full of garbage and old signatures, compared with the source by the
//! tools of other houses.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use serde_json::Value;

use crate::bench::Bench;
use crate::garbage::{self, Old};
use crate::loops::Loop;
use crate::tree::Tree;
use crate::vg::Segment;
use crate::volumes::{self, Volume, Volumes};
use crate::{call, judge, sparse, table, tool};

/// What some disks hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Of each disk with a partition table: its identifier, and number and identity of its partitions.
    pub tables: Vec<Vec<String>>,
    /// Every file, by volume id.
    pub trees: BTreeMap<String, Tree>,
    /// The hash of every volume that blkid knows nothing about.
    pub raw: BTreeMap<String, String>,
    /// Everything that blkid, wipefs and mdadm see on disks, partitions and logical volumes, by id.
    pub seen: BTreeMap<String, Vec<String>>,
}

impl Facts {
    /// Reads `disks`; needs root and loop devices.
    ///
    /// # Errors
    /// A tool fails.
    pub fn of(disks: &[PathBuf]) -> Result<Self> {
        let volumes = Volumes::of(disks)?;
        let (mut tables, mut raw, mut found) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (number, disk) in disks.iter().enumerate() {
            let opened = table::Disk::open(disk)?;
            if !judge::signature(opened.path(), "PTTYPE")?.is_empty() {
                let table = table::read(disk)?;
                let rows = table.entries.iter().map(|e| format!("{} {:?}", e.number, e.rest));
                tables.push(std::iter::once(table.id.clone()).chain(rows).collect());
            }
            found.insert(format!("disk {number}"), seen(opened.path())?);
        }
        for Volume { id, content, file, extent } in &volumes.all {
            let device = Loop::part(file, *extent)?;
            found.insert(id.clone(), seen(device.device())?);
            if content.is_empty() {
                raw.insert(id.clone(), hash(device.device())?);
            }
        }
        Ok(Self { tables, trees: volumes::trees(disks)?, raw, seen: found })
    }

    /// Fails, naming the first difference, unless `found` is the same.
    ///
    /// # Errors
    /// They differ.
    pub fn expect(&self, found: &Self) -> Result<()> {
        volumes::expect_same(&self.trees, &found.trees)?;
        for (id, expected) in &self.seen {
            let now = found.seen.get(id);
            ensure!(now == Some(expected), "{id} showed\n{expected:#?}, now it shows\n{now:#?}");
        }
        ensure!(self.tables == found.tables, "{:#?} became {:#?}", self.tables, found.tables);
        ensure!(self.raw == found.raw, "{:#?} became {:#?}", self.raw, found.raw);
        Ok(())
    }
}

/// What blkid, wipefs and mdadm see, without positions: those at the end change with the size.
fn seen(device: &Path) -> Result<Vec<String>> {
    let columns = "TYPE,UUID,LABEL";
    let mut lines: Vec<String> = tool::run(&call!(
        "wipefs",
        "--no-act",
        "--noheadings",
        "--parsable",
        "--output",
        columns,
        device
    ))?
    .lines()
    .map(|line| format!("wipefs {line}"))
    .collect();
    let probe = tool::outcome(&call!("blkid", "--probe", "--output", "export", device))?;
    lines.push(format!("blkid ends {:?}", probe.code));
    let tags = ["TYPE", "UUID", "LABEL", "USAGE", "PTTYPE", "PTUUID", "UUID_SUB"];
    let told = probe.text();
    let told =
        told.lines().filter(|line| tags.iter().any(|tag| line.starts_with(&format!("{tag}="))));
    lines.extend(told.map(|line| format!("blkid {line}")));
    let member = tool::outcome(&call!("mdadm", "--examine", device))?;
    if member.text().contains("a92b4efc") {
        lines.push("mdadm: a member".to_owned());
    }
    lines.sort();
    Ok(lines)
}

fn hash(file: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The runs of bytes of every volume of some disks, by id, and of the disks.
///
/// # Errors
/// A tool fails.
pub fn runs(disks: &[PathBuf]) -> Result<BTreeMap<String, Vec<Segment>>> {
    let volumes = Volumes::of(disks)?;
    let mut runs = BTreeMap::new();
    for (number, disk) in disks.iter().enumerate() {
        let extent = Extent::first(Bytes::new(fs::metadata(disk)?.len()));
        let whole = Segment { start: Bytes::ZERO, file: disk.clone(), extent };
        runs.insert(format!("disk {number}"), vec![whole.clone()]);
        // A physical volume on the whole disk or in a partition is no volume with a content.
        for entry in table::read(disk).map(|table| table.entries).unwrap_or_default() {
            let id = format!("d{number}:{}", entry.number);
            runs.insert(id, vec![Segment { extent: entry.extent, ..whole.clone() }]);
        }
    }
    for (lv, segments) in
        volumes.vg.iter().map(|vg| vg.segments()).collect::<Result<Vec<_>>>()?.into_iter().flatten()
    {
        runs.insert(format!("lv {lv}"), segments);
    }
    Ok(runs)
}

/// The same with disks by their number, to compare two sets of disks.
///
/// # Errors
/// A tool fails.
pub fn places(disks: &[PathBuf]) -> Result<BTreeMap<String, Vec<(usize, Extent)>>> {
    let number = |run: &Segment| disks.iter().position(|disk| *disk == run.file).context("a disk");
    let place = |run: &Segment| Ok((number(run)?, run.extent));
    let places = runs(disks)?;
    places
        .into_iter()
        .map(|(id, runs)| Ok((id, runs.iter().map(place).collect::<Result<_>>()?)))
        .collect()
}

/// Restores the image `name` of `sources` onto targets of `sizes` that are full of garbage and of old
/// signatures, on the disks and in every place where a volume will lie; then the judges accept the
/// targets, and they hold what the sources hold and nothing else. Returns the targets and what keiki said.
///
/// # Errors
/// The first thing that is wrong.
pub fn restores(
    bench: &Bench,
    name: &str,
    sources: &[PathBuf],
    sizes: &[Bytes],
    options: &str,
) -> Result<(Vec<PathBuf>, Value)> {
    let facts = Facts::of(sources).context("the source")?;
    restores_as(bench, name, &facts, sizes, options)
}

/// The same for known facts.
///
/// # Errors
/// The first thing that is wrong.
pub fn restores_as(
    bench: &Bench,
    name: &str,
    facts: &Facts,
    sizes: &[Bytes],
    options: &str,
) -> Result<(Vec<PathBuf>, Value)> {
    let paths = |kind: &str| -> Vec<PathBuf> {
        (0..sizes.len()).map(|number| bench.path(&format!("{kind}{number}"))).collect()
    };
    // A first restore, onto zeros, shows where everything will lie.
    let [first, targets] = ["first", "target"].map(paths);
    for (path, size) in first.iter().zip(sizes) {
        sparse::create(path, *size)?;
    }
    bench.restore(name, &first, options)?;
    let places = runs(&first)?;
    first.iter().try_for_each(fs::remove_file)?;
    for (path, size) in targets.iter().zip(sizes) {
        garbage::fill(path, *size)?;
    }
    for runs in places.values() {
        let moved: Vec<Segment> = runs
            .iter()
            .map(|run| {
                let at = first.iter().position(|path| *path == run.file);
                Ok(Segment { file: targets[at.context("a target")?].clone(), ..run.clone() })
            })
            .collect::<Result<_>>()?;
        garbage::plant_in(&moved, &Old::ALL)?;
    }
    let said = bench.restore(name, &targets, options)?;
    judge::disks(&targets).with_context(|| format!("restored with {options:?}"))?;
    facts.expect(&Facts::of(&targets)?).with_context(|| format!("restored with {options:?}"))?;
    Ok((targets, said))
}
