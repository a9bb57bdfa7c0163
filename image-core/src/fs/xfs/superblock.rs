//! The superblock: sector 0 of the volume (copies in the other AGs are never read).

use uuid::Uuid;

use super::{check, check_crc};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fields::Structure;
use crate::fs::Identity;
use crate::io::BlockSource;
use crate::units::Bytes;

const NAME: &str = "XFS superblock";
const CRC: usize = 224;

/// `XFS_MIN_AG_BLOCKS`: fewer do not hold an AG's headers and btree roots.
const MIN_AG_BLOCKS: u64 = 64;
/// `XFS_MAX_AG_BYTES`.
const MAX_AG_BYTES: Bytes = Bytes::gib(1024);
/// `XFS_MAX_LOG_BYTES`, rounded up.
const MAX_LOG_BYTES: Bytes = Bytes::gib(2);

/// ftype, sparse inodes, meta_uuid, bigtime, nrext64, exchange-range, parent pointers: none of them changes
/// how free space is recorded. Metadata directories (0x100) and zones (0x200) do.
const INCOMPAT_KNOWN: u32 = 0x1 | 0x2 | INCOMPAT_META_UUID | 0x8 | 0x20 | 0x40 | 0x80;
const INCOMPAT_META_UUID: u32 = 0x4;
const INCOMPAT_NEEDSREPAIR: u32 = 0x10;
/// finobt, rmapbt, reflink, inobtcnt.
const RO_COMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8;
/// Version 4: lazy counters, attr2, 32-bit project ids, ftype.
const FEATURES2_KNOWN: u32 = 0x2 | 0x8 | 0x80 | 0x200;
const VERSION_SHARED: u16 = 0x0200;
const VERSION_MOREBITS: u16 = 0x8000;

/// Geometry, identity and what keeps the maps from being believed.
#[derive(Debug)]
pub(super) struct Superblock {
    pub v5: bool,
    pub block_size: u32,
    pub sector_size: u32,
    pub ag_blocks: u32,
    pub ag_count: u32,
    pub uuid: [u8; 16],
    /// The uuid that version 5 metadata carries; stays when the visible one is changed.
    pub meta_uuid: [u8; 16],
    /// Why free space is not looked up, where something forbids it.
    pub doubt: Option<String>,
    data_blocks: u64,
    free_blocks: u64,
    ag_block_log: u32,
    log_start: u64,
    log_blocks: u32,
    label: String,
}

impl Superblock {
    /// The superblock of `source`; `None` where the magic is not there.
    pub fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < Bytes::new(512) {
            return Ok(None);
        }
        let first = source.read(Bytes::ZERO, 512)?;
        if !first.starts_with(b"XFSB") {
            return Ok(None);
        }
        let head = Structure::new(NAME, Bytes::ZERO, &first);
        let sector_size = u32::from(head.be16(102)?);
        check_power(&head, ("sb_sectsize", 102), sector_size, 32 << 10)?;
        if source.size() < Bytes::from(sector_size) {
            let expected = format!("at most the volume's {} bytes", source.size().get());
            return Err(head.corrupt("sb_sectsize", 102, expected, sector_size));
        }
        let sector = source.read(Bytes::ZERO, Bytes::from(sector_size).index().unwrap_or(512))?;
        let superblock = Self::parse(&Structure::new(NAME, Bytes::ZERO, &sector), sector_size)?;
        superblock.check_fits(source.size())?;
        Ok(Some(superblock))
    }

    fn parse(sb: &Structure<'_>, sector_size: u32) -> Result<Self> {
        let version = sb.be16(100)?;
        let v5 = match version & 0xF {
            5 => true,
            4 => false,
            _ => {
                return Err(sb.corrupt("sb_versionnum", 100, "version 4 or 5", version & 0xF));
            }
        };
        if v5 {
            check_crc(sb, CRC)?;
        }
        let separate_uuid = v5 && sb.be32(216)? & INCOMPAT_META_UUID != 0;
        let superblock = Self {
            v5,
            sector_size,
            block_size: sb.be32(4)?,
            ag_blocks: sb.be32(84)?,
            ag_count: sb.be32(88)?,
            uuid: sb.array(32)?,
            meta_uuid: sb.array(if separate_uuid { 248 } else { 32 })?,
            doubt: doubt(sb, v5, version)?,
            data_blocks: sb.be64(8)?,
            free_blocks: sb.be64(144)?,
            ag_block_log: u32::from(sb.u8(124)?),
            log_start: sb.be64(48)?,
            log_blocks: sb.be32(96)?,
            label: sb.text(108, 12)?,
        };
        superblock.check_geometry(sb)?;
        Ok(superblock)
    }

    fn check_geometry(&self, sb: &Structure<'_>) -> Result<()> {
        check_power(sb, ("sb_blocksize", 4), self.block_size, 64 << 10)?;
        check(sb, ("sb_blocklog", 120), u32::from(sb.u8(120)?), self.block_size.ilog2())?;
        if self.sector_size > self.block_size {
            let expected = format!("at most the block size {}", self.block_size);
            return Err(sb.corrupt("sb_sectsize", 102, expected, self.sector_size));
        }
        let ag_blocks = u64::from(self.ag_blocks);
        let most = MAX_AG_BYTES.units(Bytes::from(self.block_size));
        if !(MIN_AG_BLOCKS..=most).contains(&ag_blocks) {
            let expected = format!("{MIN_AG_BLOCKS} to {most} blocks");
            return Err(sb.corrupt("sb_agblocks", 84, expected, ag_blocks));
        }
        let log = ag_blocks.next_power_of_two().ilog2();
        check(sb, ("sb_agblklog", 124), self.ag_block_log, log)?;
        let whole = ag_blocks.saturating_mul(u64::from(self.ag_count));
        let least = whole.saturating_sub(ag_blocks).saturating_add(MIN_AG_BLOCKS);
        if self.ag_count == 0 || !(least..=whole).contains(&self.data_blocks) {
            let expected = format!("{least} to {whole} blocks for {} AGs", self.ag_count);
            return Err(sb.corrupt("sb_dblocks", 8, expected, self.data_blocks));
        }
        if self.log_start != 0 {
            self.log_extent()?;
        }
        Ok(())
    }

    fn check_fits(&self, volume: Bytes) -> Result<()> {
        let size = self.size();
        if size > volume {
            let expected = format!("at most the volume's {} bytes", volume.get());
            let at = Bytes::new(8);
            let field = format!("{NAME} sb_dblocks");
            return Err(Error::corrupt(field, at, expected, size.get().to_string()));
        }
        Ok(())
    }

    /// `sb_dblocks` in bytes; saturates, and is compared with the volume's size when opened.
    pub fn size(&self) -> Bytes {
        Bytes::from(self.block_size).checked_mul(self.data_blocks).unwrap_or(Bytes::MAX)
    }

    /// What the filesystem says of itself.
    pub fn identity(&self) -> Identity {
        Identity {
            content: "xfs",
            label: Some(self.label.clone()).filter(|label| !label.is_empty()),
            uuid: Some(Uuid::from_bytes(self.uuid).to_string()),
            size: self.size(),
            block_size: Bytes::from(self.block_size),
            sector_limit: Bytes::from(self.sector_size),
            last_mounted: None,
        }
    }

    /// Blocks of AG `number`: `sb_agblocks`, the last one may be shorter.
    pub fn ag_length(&self, number: u32) -> u32 {
        let before = u64::from(self.ag_blocks).saturating_mul(u64::from(number));
        let rest = self.data_blocks.saturating_sub(before);
        u32::try_from(rest).map_or(self.ag_blocks, |rest| rest.min(self.ag_blocks))
    }

    /// The bytes of the blocks `start..end` of AG `number`, which must lie inside the AG.
    pub fn ag_extent(&self, number: u32, start: u32, end: u32) -> Result<Extent> {
        let block = Bytes::from(self.block_size);
        let first = u64::from(self.ag_blocks).saturating_mul(u64::from(number));
        let place = |at: u32| block.checked_mul(first.checked_add(u64::from(at))?);
        match (place(start), place(end)) {
            (Some(from), Some(to)) if start <= end && end <= self.ag_length(number) => {
                Ok(Extent::new(from, to))
            }
            (from, _) => Err(Error::corrupt(
                format!("XFS AG {number}"),
                from.unwrap_or(Bytes::MAX),
                format!("blocks below {}", self.ag_length(number)),
                format!("{start}..{end}"),
            )),
        }
    }

    /// Where sector `sector` of AG `number` starts.
    pub fn ag_sector(&self, number: u32, sector: u64) -> Result<Bytes> {
        let start = self.ag_extent(number, 0, 0)?.start;
        let within = Bytes::from(self.sector_size).checked_mul(sector);
        Ok(start.saturating_add(within.unwrap_or(Bytes::MAX)))
    }

    /// The internal log.
    pub fn log_extent(&self) -> Result<Extent> {
        let number = self.log_start.checked_shr(self.ag_block_log).unwrap_or(0);
        let mask = 1u64.checked_shl(self.ag_block_log).unwrap_or(0).wrapping_sub(1);
        let start = self.log_start & mask;
        let end = start.saturating_add(u64::from(self.log_blocks));
        let narrow = |value| u32::try_from(value).ok();
        let extent = match (narrow(number), narrow(start), narrow(end)) {
            (Some(number), Some(start), Some(end)) if number < self.ag_count => {
                self.ag_extent(number, start, end).ok()
            }
            _ => None,
        };
        extent.filter(|log| !log.is_empty() && log.len() <= MAX_LOG_BYTES).ok_or_else(|| {
            let found =
                format!("{} blocks at filesystem block {}", self.log_blocks, self.log_start);
            let expected = "a log of at most 2 GiB inside one AG";
            Error::corrupt(format!("{NAME} sb_logstart"), Bytes::new(48), expected, found)
        })
    }

    /// Whether `other` is of the same filesystem, with every structure in the same place.
    pub fn is_of_one_shape_with(&self, other: &Self) -> bool {
        let shape = |of: &Self| {
            let sizes = (of.block_size, of.sector_size, of.ag_blocks, of.ag_count, of.data_blocks);
            (sizes, of.v5, of.uuid, of.meta_uuid, of.log_start, of.log_blocks)
        };
        shape(self) == shape(other)
    }

    /// Compares `sb_fdblocks` with what the AGs add up to.
    pub fn check_free_blocks(&self, counted: u64) -> Result<()> {
        if counted == self.free_blocks {
            return Ok(());
        }
        let expected = format!("{counted} as the AGs count");
        let (at, found) = (Bytes::new(144), self.free_blocks.to_string());
        Err(Error::corrupt(format!("{NAME} sb_fdblocks"), at, expected, found))
    }
}

fn check_power(
    sb: &Structure<'_>,
    (field, offset): (&str, usize),
    value: u32,
    most: u32,
) -> Result<()> {
    if value.is_power_of_two() && (512..=most).contains(&value) {
        return Ok(());
    }
    Err(sb.corrupt(field, offset, format!("a power of two from 512 to {most}"), value))
}

/// What forbids to believe the map, as a phrase.
fn doubt(sb: &Structure<'_>, v5: bool, version: u16) -> Result<Option<String>> {
    let (incompat, ro_compat) = if v5 { (sb.be32(216)?, sb.be32(212)?) } else { (0, 0) };
    let more = !v5 && version & VERSION_MOREBITS != 0;
    let features2 = if more { sb.be32(200)? & !FEATURES2_KNOWN } else { 0 };
    let incompat_unknown = incompat & !INCOMPAT_KNOWN & !INCOMPAT_NEEDSREPAIR;
    let ro_compat_unknown = ro_compat & !RO_COMPAT_KNOWN;
    Ok(if sb.u8(126)? != 0 {
        Some("mkfs has not finished (sb_inprogress)".to_owned())
    } else if incompat & INCOMPAT_NEEDSREPAIR != 0 {
        Some("it needs xfs_repair (needsrepair)".to_owned())
    } else if incompat_unknown != 0 {
        Some(format!("incompat feature {incompat_unknown:#x} is not known"))
    } else if ro_compat_unknown != 0 {
        Some(format!("ro_compat feature {ro_compat_unknown:#x} is not known"))
    } else if features2 != 0 {
        Some(format!("version 4 feature {features2:#x} is not known"))
    } else if !v5 && version & VERSION_SHARED != 0 {
        Some("the shared version bit is not known".to_owned())
    } else if sb.be64(16)? != 0 {
        Some("it has a realtime device".to_owned())
    } else if sb.be64(48)? == 0 {
        Some("its log is on another device".to_owned())
    } else {
        None
    })
}
