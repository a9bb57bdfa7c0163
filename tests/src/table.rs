//! Partition tables as sfdisk reads them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;
use serde_json::Value;

use crate::loops::Loop;
use crate::run;

/// One partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number.
    pub number: u32,
    /// Its bytes on the disk.
    pub extent: Extent,
    /// Everything else that the table says of it: type, UUID, name, attributes, boot flag.
    pub rest: Vec<String>,
}

impl Entry {
    /// Whether it is an MBR's extended partition.
    pub fn is_extended(&self) -> bool {
        self.rest.iter().any(|line| ["type=\"5\"", "type=\"f\"", "type=\"85\""].contains(&&**line))
    }
}

/// A partition table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Kind and identifier.
    pub id: String,
    /// Its partitions in table order.
    pub entries: Vec<Entry>,
}

/// A disk as its table's tools want it: through a loop device where a file's table counts in sectors of
/// 4096 bytes.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    device: Option<Loop>,
}

impl Disk {
    /// Looks at the disk; a GPT in sectors of 4096 bytes takes root and a loop device.
    ///
    /// # Errors
    /// It cannot be read, or the loop device not be made.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {path:?}"))?;
        let mut heads = [[0; 8]; 2];
        for (head, at) in heads.iter_mut().zip([512, 4096]) {
            // A disk that small has no table.
            drop(file.read_exact_at(head, at));
        }
        let large =
            file.metadata()?.is_file() && heads[0] != *b"EFI PART" && heads[1] == *b"EFI PART";
        let device = large.then(|| Loop::with_sectors(path, Bytes::BLOCK)).transpose()?;
        Ok(Self { path: path.to_owned(), device })
    }

    /// The file or device to give to a tool.
    pub fn path(&self) -> &Path {
        self.device.as_ref().map_or(&self.path, Loop::device)
    }
}

/// The table of a disk.
///
/// # Errors
/// No table, or one that sfdisk cannot read.
pub fn read(disk: &Path) -> Result<Table> {
    let disk = Disk::open(disk)?;
    let json: Value = serde_json::from_str(&run!("sfdisk", "--json", disk.path())?)?;
    let table = json.get("partitiontable").context("sfdisk prints no table")?;
    let sector = table.get("sectorsize").and_then(Value::as_u64).unwrap_or(512);
    let list = table.get("partitions").and_then(Value::as_array);
    let entries = list
        .iter()
        .flat_map(|list| list.iter())
        .map(|value| entry(value, disk.path(), Bytes::new(sector)))
        .collect::<Option<_>>()
        .context("sfdisk prints a partition without number, start or size")?;
    let id = ["label", "id"].map(|key| table.get(key).map_or(String::new(), Value::to_string));
    Ok(Table { id: id.join(" "), entries })
}

fn entry(value: &Value, disk: &Path, sector: Bytes) -> Option<Entry> {
    let node = value.get("node")?.as_str()?.strip_prefix(disk.to_str()?)?;
    let figure = |key| value.get(key).and_then(Value::as_u64);
    let [start, size] = [figure("start")?, figure("size")?].map(|count| sector.checked_mul(count));
    let place = ["node", "start", "size"];
    let rest = value.as_object()?.iter().filter(|(key, _)| !place.contains(&key.as_str()));
    Some(Entry {
        // sfdisk writes a p before the number where the disk's name ends in a digit.
        number: node.trim_start_matches('p').parse().ok()?,
        extent: Extent::at(start?, size?)?,
        rest: rest.map(|(key, value)| format!("{key}={value}")).collect(),
    })
}

/// The partitions of a disk in table order.
///
/// # Errors
/// No table, or one that sfdisk cannot read.
pub fn partitions(disk: &Path) -> Result<Vec<Extent>> {
    Ok(read(disk)?.entries.into_iter().map(|entry| entry.extent).collect())
}
