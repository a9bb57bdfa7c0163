//! The file allocation table (FAT): one entry a cluster, zero where it is free; two copies as a rule.

use super::boot_sector::{BootSector, Width};
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

const NAME: &str = "FAT";
/// Entries handled at once: 96 to 256 KiB; even, so that FAT12's pairs of entries are not cut.
const PIECE: u32 = 64 << 10;
/// The upper four bits of a FAT32 entry are reserved.
const FAT32_BITS: u32 = 0x0FFF_FFFF;

/// Calls `visit` with every data cluster and its entry, in ascending order.
///
/// Proves on the way that entry 0 repeats the media byte and that all copies agree.
///
/// # Errors
/// Reading; [`Error::Corrupt`] where either does not hold.
pub(super) fn scan(
    source: &dyn BlockSource,
    boot: &BootSector,
    visit: &mut dyn FnMut(u32, u32),
) -> Result<()> {
    let media = entry(source, boot, 0)? & 0xFF;
    if media != u32::from(boot.media) {
        let (expected, found) = (format!("media {:#04x}", boot.media), format!("{media:#04x}"));
        return Err(Error::corrupt("FAT entry 0", boot.fat_start, expected, found));
    }
    let end = boot.clusters.saturating_add(2);
    let mut first = 0;
    while first < end {
        let next = first.saturating_add(PIECE).min(end);
        let bytes = agreed(source, boot, first, next)?;
        let piece = Structure::new(NAME, position(boot, first), &bytes);
        for cluster in first.max(2)..next {
            visit(cluster, decode(&piece, boot.width, cluster, first)?);
        }
        first = next;
    }
    Ok(())
}

/// One entry, from the first FAT.
pub(super) fn entry(source: &dyn BlockSource, boot: &BootSector, cluster: u32) -> Result<u32> {
    let at = position(boot, cluster);
    let bytes = source.read(at, length(boot.width))?;
    decode(&Structure::new(NAME, at, &bytes), boot.width, cluster, cluster)
}

/// The entry of `cluster`, which stands at `within` of a piece of the FAT.
pub(super) fn entry_at(
    piece: &Structure<'_>,
    boot: &BootSector,
    cluster: u32,
    within: Bytes,
) -> Result<u32> {
    // As the piece of one entry alone.
    let bytes = piece.slice(within.index().unwrap_or(usize::MAX), length(boot.width))?;
    decode(&Structure::new(NAME, piece.position() + within, bytes), boot.width, cluster, cluster)
}

/// Where the first FAT has the entry of `cluster`.
pub(super) fn position(boot: &BootSector, cluster: u32) -> Bytes {
    boot.fat_start.saturating_add(offset(boot.width, cluster))
}

fn offset(width: Width, cluster: u32) -> Bytes {
    let cluster = u64::from(cluster);
    Bytes::new(match width {
        Width::Fat12 => cluster * 3 / 2,
        Width::Fat16 => cluster * 2,
        Width::Fat32 => cluster * 4,
    })
}

/// Bytes that hold an entry.
fn length(width: Width) -> usize {
    if width == Width::Fat32 { 4 } else { 2 }
}

/// The entry of `cluster` in a piece that starts with the entry of `first`.
fn decode(piece: &Structure<'_>, width: Width, cluster: u32, first: u32) -> Result<u32> {
    let within = offset(width, cluster).saturating_sub(offset(width, first));
    let at = within.index().unwrap_or(usize::MAX);
    Ok(match width {
        Width::Fat12 if cluster % 2 == 1 => u32::from(piece.le16(at)? >> 4),
        Width::Fat12 => u32::from(piece.le16(at)? & 0xFFF),
        Width::Fat16 => u32::from(piece.le16(at)?),
        Width::Fat32 => piece.le32(at)? & FAT32_BITS,
    })
}

/// The bytes of the entries `first..next`, the same in all copies.
fn agreed(source: &dyn BlockSource, boot: &BootSector, first: u32, next: u32) -> Result<Vec<u8>> {
    let start = position(boot, first);
    let last = position(boot, next.saturating_sub(1)).saturating_sub(start);
    let size = last.index().unwrap_or(0).saturating_add(length(boot.width));
    let bytes = source.read(start, size)?;
    for copy in 1..u64::from(boot.fat_count) {
        let behind = boot.fat_size.checked_mul(copy).unwrap_or(Bytes::MAX);
        let other = source.read(start.saturating_add(behind), size)?;
        if let Some(at) = bytes.iter().zip(&other).position(|(a, b)| a != b) {
            let at = start.saturating_add(behind).saturating_add(Bytes::from(at));
            let name = format!("copy {} of the FAT", copy.saturating_add(1));
            return Err(Error::corrupt(name, at, "the bytes of the first", "others"));
        }
    }
    Ok(bytes)
}
