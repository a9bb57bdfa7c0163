//! The root directory, as far as it holds the volume label and a folder whose first entry proves the geometry.

use super::boot_sector::{BootSector, Width, known_label};
use super::fat_table;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

const ENTRY: usize = 32;
/// A directory has at most 65536 entries.
const MOST: Bytes = Bytes::mib(2);
const DELETED: u8 = 0xE5;
const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
/// Parts of a long name carry this in the attributes, with the label's bit in it.
const LONG_NAME: u8 = 0x0F;

/// What it says of the volume; nothing where the chain of clusters is not intact (the map does not depend on it).
#[derive(Default)]
pub(super) struct RootDirectory {
    /// The label entry's name.
    pub label: Option<String>,
    /// First cluster of the first folder in it.
    pub folder: Option<u32>,
    has_label_entry: bool,
    ended: bool,
}

impl RootDirectory {
    /// Reads it as far as it is needed.
    pub fn read(source: &dyn BlockSource, boot: &BootSector) -> Result<Self> {
        let mut directory = Self::default();
        let Some(mut cluster) = boot.root_cluster else {
            directory.search(source, boot, boot.root)?;
            return Ok(directory);
        };
        for _ in 0..=MOST.units(boot.cluster) {
            let Some(extent) = boot.cluster_extent(cluster) else { break };
            directory.search(source, boot, extent)?;
            if directory.ended {
                break;
            }
            cluster = fat_table::entry(source, boot, cluster)?;
        }
        Ok(directory)
    }

    /// Looks through one region, which is at most 2 MiB (the fixed root) or a cluster.
    fn search(
        &mut self,
        source: &dyn BlockSource,
        boot: &BootSector,
        region: Extent,
    ) -> Result<()> {
        let bytes = source.read(region.start, region.len().index().unwrap_or(0))?;
        for entry in bytes.chunks_exact(ENTRY) {
            let entry = Structure::new("FAT directory entry", region.start, entry);
            let attributes = entry.u8(11)?;
            match entry.u8(0)? {
                0 => self.ended = true,
                DELETED => {}
                _ if attributes & LONG_NAME == LONG_NAME => {}
                _ if attributes & VOLUME_LABEL != 0 => {
                    if !self.has_label_entry {
                        self.label = known_label(entry.text(0, 11)?);
                    }
                    self.has_label_entry = true;
                }
                _ if attributes & DIRECTORY != 0 && self.folder.is_none() => {
                    self.folder = Some(first_cluster(&entry, boot)?);
                }
                _ => {}
            }
            self.ended |= self.has_label_entry && self.folder.is_some();
            if self.ended {
                break;
            }
        }
        Ok(())
    }
}

fn first_cluster(entry: &Structure<'_>, boot: &BootSector) -> Result<u32> {
    let high = if boot.width == Width::Fat32 { entry.le16(20)? } else { 0 };
    Ok(u32::from(high) << 16 | u32::from(entry.le16(26)?))
}

/// Every folder begins with an entry for itself: where the one of `folder` is not there, clusters are not where the
/// boot sector says, and a map by it would miss what they hold.
pub(super) fn check_folder(source: &dyn BlockSource, boot: &BootSector, folder: u32) -> Result<()> {
    const NAME: &str = "first entry of a FAT directory";
    let Some(extent) = boot.cluster_extent(folder) else {
        let expected = format!("a cluster up to {}", boot.clusters.saturating_add(1));
        return Err(Error::corrupt(
            "FAT directory entry",
            boot.root.start,
            expected,
            folder.to_string(),
        ));
    };
    let bytes = source.read(extent.start, ENTRY)?;
    let entry = Structure::new(NAME, extent.start, &bytes);
    let found = first_cluster(&entry, boot)?;
    if entry.slice(0, 11)? == b".          " && entry.u8(11)? & DIRECTORY != 0 && found == folder {
        return Ok(());
    }
    let expected = format!("the folder itself, at cluster {folder}");
    Err(entry.corrupt("name", 0, expected, "something else"))
}
