//! The boot sector with its BIOS parameter block (BPB): sector 0, on FAT32 with a copy (usually sector 6).

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fields::Structure;
use crate::units::Bytes;

const NAME: &str = "FAT boot sector";
/// `BPB_HiddSec`: sectors in front of the volume; old boot code adds it to every position.
const HIDDEN: usize = 28;
/// Below this many clusters it is FAT12.
const FAT16_FROM: u64 = 4085;
/// Below this many clusters, and with a 16-bit FAT size, it is FAT16.
const FAT32_FROM: u64 = 65525;
/// Entries from 0x0FFF_FFF7 on have a meaning of their own.
const MOST_CLUSTERS: u64 = 0x0FFF_FFF5;

/// Bits in an entry of the FAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    Fat12,
    Fat16,
    Fat32,
}

/// Geometry and identity; positions are bytes from the start of the volume.
#[derive(Debug)]
pub(super) struct BootSector {
    pub width: Width,
    pub sector: Bytes,
    pub cluster: Bytes,
    pub size: Bytes,
    pub fat_start: Bytes,
    pub fat_size: Bytes,
    pub fat_count: u8,
    /// The fixed root directory of FAT12 and FAT16; empty on FAT32.
    pub root: Extent,
    pub data_start: Bytes,
    pub clusters: u32,
    /// FAT32's root directory.
    pub root_cluster: Option<u32>,
    pub fs_info: Option<Bytes>,
    pub media: u8,
    pub serial: Option<u32>,
    pub label: Option<String>,
    /// Bit 0 of the byte that Windows NT and Linux keep their mark in.
    pub dirty: bool,
    /// FAT32: one FAT is active, the others are not kept up to date.
    pub single_fat: bool,
    hidden: u32,
    backup: Option<Bytes>,
}

impl BootSector {
    /// The boot sector in the volume's first 512 bytes; `None` where they are something else.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let bpb = Structure::new(NAME, Bytes::ZERO, bytes);
        if !is_fat(&bpb)? {
            return Ok(None);
        }
        let fat_sectors16 = u32::from(bpb.le16(22)?);
        // Without a 16-bit size of the FAT the longer FAT32 block follows; Linux and dosfstools also take
        // a volume for FAT32 by this where it has fewer clusters than the specification asks for.
        let long = fat_sectors16 == 0;
        let sector = Bytes::from(u32::from(bpb.le16(11)?));
        let regions = Regions::read(&bpb, long)?;
        let place = |sectors: u64| sector.checked_mul(sectors).unwrap_or(Bytes::MAX);
        let tail = if long { 64 } else { 36 };
        let extended = matches!(bpb.u8(tail + 2)?, 0x28 | 0x29);
        let within_reserved = |number: u16| {
            let number = u64::from(number);
            (long && number != 0 && number < regions.reserved).then(|| place(number))
        };
        Ok(Some(Self {
            width: regions.width,
            sector,
            cluster: place(regions.per_cluster),
            size: place(regions.total),
            fat_start: place(regions.reserved),
            fat_size: place(regions.fat),
            fat_count: bpb.u8(16)?,
            root: Extent::new(place(regions.root), place(regions.data)),
            data_start: place(regions.data),
            clusters: regions.clusters,
            root_cluster: if long { Some(bpb.le32(44)?) } else { None },
            fs_info: within_reserved(bpb.le16(48)?),
            media: bpb.u8(21)?,
            serial: if extended { Some(bpb.le32(tail + 3)?) } else { None },
            label: if extended { known_label(bpb.text(tail + 7, 11)?) } else { None },
            dirty: bpb.u8(tail + 1)? & 1 != 0,
            single_fat: long && bpb.le16(40)? & 0x80 != 0,
            hidden: bpb.le32(HIDDEN)?,
            backup: within_reserved(bpb.le16(50)?),
        }))
    }

    /// Checks that the filesystem is not larger than its volume.
    pub fn check_fits(&self, volume: Bytes) -> Result<()> {
        if self.size <= volume {
            return Ok(());
        }
        let expected = format!("at most the volume's {} bytes", volume.get());
        let found = self.size.get().to_string();
        Err(Error::corrupt(format!("{NAME} BPB_TotSec"), Bytes::new(19), expected, found))
    }

    /// The bytes of data cluster `cluster`; `None` where there is none of that number.
    pub fn cluster_extent(&self, cluster: u32) -> Option<Extent> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.clusters)?;
        let offset = self.cluster.checked_mul(u64::from(index))?;
        Extent::at(self.data_start.checked_add(offset)?, self.cluster)
    }

    /// Whether an entry of the FAT, which is not zero, has a meaning: the next cluster, a bad one, or an end.
    pub fn is_entry(&self, entry: u32) -> bool {
        let reserved = match self.width {
            Width::Fat12 => 0xFF0,
            Width::Fat16 => 0xFFF0,
            Width::Fat32 => 0x0FFF_FFF0,
        };
        entry >= reserved || (2..self.clusters.saturating_add(2)).contains(&entry)
    }

    /// The end of the last whole cluster.
    pub fn data_end(&self) -> Bytes {
        let length = self.cluster.checked_mul(u64::from(self.clusters)).unwrap_or(Bytes::MAX);
        self.data_start.saturating_add(length).min(self.size)
    }
}

/// Where the regions start, in sectors.
struct Regions {
    reserved: u64,
    fat: u64,
    root: u64,
    data: u64,
    total: u64,
    per_cluster: u64,
    clusters: u32,
    width: Width,
}

impl Regions {
    fn read(bpb: &Structure<'_>, long: bool) -> Result<Self> {
        let sector = u64::from(bpb.le16(11)?);
        let per_cluster = u64::from(bpb.u8(13)?);
        let reserved = u64::from(bpb.le16(14)?);
        let root_bytes = u64::from(bpb.le16(17)?) * 32;
        let (total16, total32) = (u64::from(bpb.le16(19)?), u64::from(bpb.le32(32)?));
        let total = if total16 == 0 { total32 } else { total16 };
        let fat = u64::from(if long { bpb.le32(36)? } else { u32::from(bpb.le16(22)?) });
        // Sums of 32-bit numbers, times at most two FATs: these fit into 64 bits.
        let root = reserved + fat * u64::from(bpb.u8(16)?);
        let data = root + root_bytes.div_ceil(sector);
        let clusters = total.saturating_sub(data) / per_cluster;
        if clusters == 0 || clusters > MOST_CLUSTERS {
            let expected = format!("a cluster behind the {data} sectors of the other regions");
            return Err(bpb.corrupt("BPB_TotSec", 32, expected, format!("{total} sectors")));
        }
        let width = width(bpb, clusters, long)?;
        let bits = match width {
            Width::Fat12 => 12,
            Width::Fat16 => 16,
            Width::Fat32 => 32,
        };
        if fat * sector * 8 / bits < clusters + 2 {
            let expected = format!("room for {} entries of {bits} bits", clusters + 2);
            return Err(bpb.corrupt("BPB_FATSz", 22, expected, format!("{fat} sectors")));
        }
        let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
        Ok(Self { reserved, fat, root, data, total, per_cluster, clusters, width })
    }
}

fn width(bpb: &Structure<'_>, clusters: u64, long: bool) -> Result<Width> {
    if !long && clusters >= FAT32_FROM {
        let expected = format!("below {FAT32_FROM} clusters with a 16-bit FAT size");
        return Err(bpb.corrupt("BPB_FATSz16", 22, expected, clusters));
    }
    if !long && bpb.le16(17)? == 0 {
        return Err(bpb.corrupt("BPB_RootEntCnt", 17, "entries of the root directory", 0));
    }
    if !long {
        return Ok(if clusters < FAT16_FROM { Width::Fat12 } else { Width::Fat16 });
    }
    if bpb.le16(42)? != 0 {
        return Err(bpb.corrupt("BPB_FSVer", 42, "version 0", bpb.le16(42)?));
    }
    if bpb.le16(17)? != 0 {
        return Err(bpb.corrupt("BPB_RootEntCnt", 17, "0 on FAT32", bpb.le16(17)?));
    }
    Ok(Width::Fat32)
}

/// 0x55AA alone is any boot sector; NTFS and exFAT have no FATs in the BPB, boot code has no BPB at all.
fn is_fat(bpb: &Structure<'_>) -> Result<bool> {
    let jump = bpb.u8(0)? == 0xE9 || bpb.u8(0)? == 0xEB && bpb.u8(2)? == 0x90;
    let sector = bpb.le16(11)?;
    let media = bpb.u8(21)?;
    Ok(jump
        && bpb.le16(510)? == 0xAA55
        && sector.is_power_of_two()
        && (512..=4096).contains(&sector)
        && bpb.u8(13)?.is_power_of_two()
        && bpb.le16(14)? != 0
        && matches!(bpb.u8(16)?, 1 | 2)
        && (media == 0xF0 || media >= 0xF8))
}

/// Formatters write `NO NAME` where there is none.
pub(super) fn known_label(label: String) -> Option<String> {
    Some(label).filter(|label| !label.is_empty() && label != "NO NAME")
}

/// What to write over a restored volume whose first sector is now `new_start` instead of `old_start` on its
/// disk: positions in the volume and their bytes, for the boot sector and FAT32's copy of it.
///
/// `boot` is the volume's first 512 bytes as saved; starts count in the disk's sectors. Nothing where `boot`
/// is no FAT's, or where the field did not hold the old start: then nobody relied on it.
pub fn relocated(boot: &[u8], old_start: u32, new_start: u32) -> Vec<(Bytes, Vec<u8>)> {
    let Ok(Some(sector)) = BootSector::parse(boot) else { return Vec::new() };
    if sector.hidden != old_start || old_start == new_start {
        return Vec::new();
    }
    [Some(Bytes::ZERO), sector.backup]
        .into_iter()
        .flatten()
        .map(|copy| (copy + Bytes::from(HIDDEN), new_start.to_le_bytes().to_vec()))
        .collect()
}

/// What to write over a volume to give it another serial: positions in the volume and their bytes, for the boot
/// sector and FAT32's copy of it. `boot` is the volume's first 512 bytes; nothing where it has no serial.
pub fn renumbered(boot: &[u8], serial: u32) -> Vec<(Bytes, Vec<u8>)> {
    let Ok(Some(sector)) = BootSector::parse(boot) else { return Vec::new() };
    if sector.serial.is_none() {
        return Vec::new();
    }
    // `BS_VolID`, behind the BPB of 36 bytes or FAT32's of 64.
    let field = Bytes::new(if sector.width == Width::Fat32 { 67 } else { 39 });
    [Some(Bytes::ZERO), sector.backup]
        .into_iter()
        .flatten()
        .map(|copy| (copy + field, serial.to_le_bytes().to_vec()))
        .collect()
}
