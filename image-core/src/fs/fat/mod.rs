//! FAT12, FAT16 and FAT32; little-endian, without any checksum.
//!
//! Answers: everything before the data region, every cluster whose FAT entry is not zero, and the sectors
//! behind the last whole cluster. Refuses: a volume marked dirty, copies of the FAT that differ, a free
//! count (FSInfo) that does not add up (mkfs.fat, mtools and the Linux driver keep it right), a single FAT without
//! such a count, entries without a meaning, and a folder that is not where the boot sector says.
//!
//! - [`boot_sector`]: geometry, and its patch for a partition that moved. - [`fat_table`]: the clusters.
//! - [`owners`]: which files some bytes belong to.
//! - [`fs_info`]: FAT32's counter of free clusters. - [`root_directory`]: the volume label, a folder.
//!
//! Source of the layout: Microsoft's FAT specification (fatgen103) and Linux `fs/fat`.

mod boot_sector;
mod fat_table;
mod fs_info;
mod owners;
mod root_directory;

use std::sync::Arc;

use self::boot_sector::{BootSector, Width};
pub use self::boot_sector::{relocated, renumbered};
use self::root_directory::RootDirectory;
use super::{Filesystem, Identity, Owners, State};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::BlockSource;
use crate::units::Bytes;

struct Fat {
    source: Arc<dyn BlockSource>,
    boot: BootSector,
    identity: Identity,
    doubt: Option<String>,
    /// First cluster of a folder in the root directory.
    folder: Option<u32>,
}

/// The FAT filesystem on `source`; `None` where sector 0 is not a FAT's boot sector (an MBR, NTFS and exFAT
/// share its last two bytes).
///
/// # Errors
/// Reading; a boot sector that contradicts itself or the volume's size.
pub fn probe(source: &Arc<dyn BlockSource>) -> Result<Option<Box<dyn Filesystem>>> {
    if source.size() < Bytes::new(512) {
        return Ok(None);
    }
    let Some(boot) = BootSector::parse(&source.read(Bytes::ZERO, 512)?)? else { return Ok(None) };
    boot.check_fits(source.size())?;
    let root = RootDirectory::read(source, &boot)?;
    let label = root.label.or_else(|| boot.label.clone());
    let identity = Identity {
        content: "vfat",
        label,
        uuid: boot.serial.map(|serial| format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF)),
        size: boot.size,
        block_size: boot.cluster,
        sector_limit: boot.sector,
        last_mounted: None,
    };
    let doubt = doubt(source, &boot)?;
    let (source, folder) = (Arc::clone(source), root.folder);
    Ok(Some(Box::new(Fat { source, boot, identity, doubt, folder })))
}

/// What forbids to believe the FAT, as a phrase: the marks in the boot sector and in entry 1.
fn doubt(source: &dyn BlockSource, boot: &BootSector) -> Result<Option<String>> {
    let entry = fat_table::entry(source, boot, 1)?;
    let (clean, no_io_error) = match boot.width {
        Width::Fat12 => (0, 0),
        Width::Fat16 => (0x8000, 0x4000),
        Width::Fat32 => (0x0800_0000, 0x0400_0000),
    };
    Ok(if boot.dirty || entry & clean != clean {
        Some("it is marked dirty".to_owned())
    } else if entry & no_io_error != no_io_error {
        Some("it is marked as having had read or write errors".to_owned())
    } else if boot.single_fat {
        Some("only one of its FATs is kept up to date (mirroring is off)".to_owned())
    } else {
        None
    })
}

impl Filesystem for Fat {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn state(&self) -> Result<State> {
        Ok(self.doubt.clone().map_or(State::Clean, State::Raw))
    }

    fn used(&self) -> Result<ExtentSet> {
        if let Some(doubt) = &self.doubt {
            return Err(Error::refused(doubt));
        }
        let boot = &self.boot;
        let mut used = ExtentSet::from(Extent::first(boot.data_start));
        let (mut free, mut wrong) = (0u32, None);
        fat_table::scan(&self.source, boot, &mut |cluster, entry| {
            if entry == 0 {
                free += 1;
            } else if !boot.is_entry(entry) {
                wrong.get_or_insert((cluster, entry));
            } else if let Some(extent) = boot.cluster_extent(cluster) {
                used.insert(extent);
            }
        })?;
        used.insert(Extent::new(boot.data_end(), boot.size));
        if let Some((cluster, entry)) = wrong {
            let expected =
                format!("a cluster up to {}, or an end", boot.clusters.saturating_add(1));
            let at = fat_table::position(boot, cluster);
            return Err(Error::corrupt("FAT entry", at, expected, entry.to_string()));
        }
        self.check_root(&used)?;
        if let Some(folder) = self.folder {
            root_directory::check_folder(&self.source, boot, folder)?;
        }
        if !fs_info::check_free(&self.source, boot, free)? && boot.fat_count == 1 {
            return Err(Error::refused(
                "neither a second FAT nor a count of free clusters proves it",
            ));
        }
        Ok(used.rounded_out(Bytes::BLOCK, self.source.size()))
    }

    fn owners(&self, lost: &ExtentSet) -> Result<Option<Owners>> {
        owners::of(&self.source, &self.boot, lost).map(Some)
    }
}

impl Fat {
    /// FAT32 keeps its root directory in clusters, which the FAT must know as used.
    fn check_root(&self, used: &ExtentSet) -> Result<()> {
        let Some(root) = self.boot.root_cluster else { return Ok(()) };
        match self.boot.cluster_extent(root) {
            Some(extent) if used.contains(extent) => Ok(()),
            _ => Err(Error::corrupt(
                "FAT entry of the root directory",
                fat_table::position(&self.boot, root),
                format!("cluster {root} to be in use"),
                "a free cluster",
            )),
        }
    }
}

#[cfg(test)]
mod tests;
