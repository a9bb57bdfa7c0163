//! What the magic bytes alone do not tell: whether a short magic means what it says, which of several
//! relatives it is, and the labels and UUIDs of content that no other room of Keiki reads.

use super::probe::Pages;
use crate::error::Result;
use crate::fields::Structure;
use crate::units::Bytes;

/// What a confirmation adds to a hit.
#[derive(Default)]
pub(super) struct Identity {
    /// A name more precise than the table's.
    pub(super) name: Option<&'static str>,
    pub(super) label: Option<String>,
    pub(super) uuid: Option<String>,
}

/// Looks closer at a structure at the first position whose magic bytes stand at the second; `None`:
/// it is not one.
pub(super) type Confirm = fn(&mut Pages<'_>, Bytes, Bytes) -> Result<Option<Identity>>;

/// The names that confirmations give in place of the table's.
pub(super) const FAMILIES: [(&str, &[&str]); 3] =
    [("ext2", &["ext3", "ext4", "jbd"]), ("gfs2", &["gfs"]), ("dos", &["PMBR"])];

fn yes() -> Option<Identity> {
    Some(Identity::default())
}

fn named(name: &'static str) -> Option<Identity> {
    Some(Identity { name: Some(name), ..Identity::default() })
}

/// The magic bytes are enough.
pub(super) fn magic(_: &mut Pages<'_>, _: Bytes, _: Bytes) -> Result<Option<Identity>> {
    Ok(yes())
}

/// Runs `look` on the `length` bytes at `at`; a field that is not there makes it no hit.
fn on(
    pages: &mut Pages<'_>,
    at: Bytes,
    length: u64,
    look: impl FnOnce(&Structure<'_>) -> Result<Option<Identity>>,
) -> Result<Option<Identity>> {
    let Some(bytes) = pages.bytes(at, Bytes::new(length))? else { return Ok(None) };
    Ok(look(&Structure::new("superblock", at, &bytes)).unwrap_or(None))
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Sixteen bytes in the order they are written, as a UUID; `None` for zeros.
fn dce_uuid(bytes: [u8; 16]) -> Option<String> {
    (bytes != [0; 16]).then(|| uuid::Uuid::from_bytes(bytes).to_string())
}

fn utf16(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    some(String::from_utf16_lossy(&units).trim_end().trim_end_matches('\0').to_owned())
}

/// `linux_raid_member`: version 0.90 has UUID words, 1.x names its own place (mdadm's `super0.c`,
/// `super1.c`).
pub(super) fn md(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 256, |block| {
        let little = block.le32(0)? == 0xa92b_4efc;
        let major = if little { block.le32(4)? } else { block.be32(4)? };
        if major == 1 && little && Bytes::new(512).checked_mul(block.le64(144)?) == Some(at) {
            let label = some(block.text(32, 32)?);
            return Ok(Some(Identity { name: None, label, uuid: dce_uuid(block.array(16)?) }));
        }
        if major != 0 {
            return Ok(None);
        }
        let mut uuid = [0; 16];
        for (to, field) in uuid.chunks_exact_mut(4).zip([20, 52, 56, 60]) {
            let word = if little { block.le32(field)? } else { block.be32(field)? };
            to.copy_from_slice(&word.to_be_bytes());
        }
        Ok(Some(Identity { uuid: dce_uuid(uuid), ..Identity::default() }))
    })
}

/// The sum of the first 50 bytes stands behind them.
pub(super) fn via(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 51, |block| {
        let sum = block.slice(0, 50)?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        Ok(yes().filter(|_| block.all().get(2) <= Some(&2) && block.all().get(50) == Some(&sum)))
    })
}

/// The words before the checksum and itself add up to nothing.
pub(super) fn silicon(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 0x140, |block| Ok(yes().filter(|_| sum16(block.all()) == 0)))
}

/// The words add up to 0 or 1.
pub(super) fn jmicron(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 128, |block| Ok(yes().filter(|_| sum16(block.all()) <= 1)))
}

fn sum16(bytes: &[u8]) -> u16 {
    bytes
        .chunks_exact(2)
        .fold(0, |sum: u16, pair| sum.wrapping_add(u16::from_le_bytes([pair[0], pair[1]])))
}

/// One bit of its bitmap stands for 4 KiB.
pub(super) fn drbd(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 84, |block| Ok(yes().filter(|_| block.be32(80).is_ok_and(|bytes| bytes == 4096))))
}

/// LUKS1 and LUKS2 keep the UUID as text at the same place; only LUKS2 has a label.
pub(super) fn luks(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 512, |header| {
        let label = match header.be16(6)? {
            1 => None,
            2 if header.be64(256)? == at.get() => some(header.text(24, 48)?),
            _ => return Ok(None),
        };
        Ok(Some(Identity { name: None, label, uuid: some(header.text(168, 40)?) }))
    })
}

/// BitLocker To Go looks like FAT32 but for a GUID (4967d63b-2e29-4ad8-8399-f6a339e3d001).
pub(super) fn bitlocker(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    const TO_GO: &[u8] = b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";
    on(pages, at, 512, |sector| {
        Ok(yes().filter(|_| {
            sector.all().get(3..11) == Some(b"-FVE-FS-")
                || sector.all().get(424..440) == Some(TO_GO)
        }))
    })
}

/// A FAT boot sector by its parameter block: its names are only advice.
pub(super) fn fat(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    if bitlocker(pages, at, at)?.is_some() {
        return Ok(None);
    }
    on(pages, at, 512, |sector| {
        let size = sector.le16(11)?;
        let media = sector.u8(21)?;
        let reserved = sector.le16(14)?;
        let sane = size.is_power_of_two()
            && (512..=4096).contains(&size)
            && sector.u8(13)?.is_power_of_two()
            && reserved > 0
            && (1..=2).contains(&sector.u8(16)?)
            && (media == 0xf0 || media >= 0xf8)
            && (sector.le16(22)? > 0 || sector.le32(36)? > 0)
            && (sector.le16(19)? > 0 || sector.le32(32)? > 0)
            && ![&b"JFS     "[..], b"HPFS    "].contains(&sector.slice(54, 8)?);
        Ok(yes().filter(|_| sane))
    })
}

/// An internal log lies deeper; a shifted XFS is none.
pub(super) fn xfs_log(pages: &mut Pages<'_>, _: Bytes, magic: Bytes) -> Result<Option<Identity>> {
    if pages.array(Bytes::ZERO)? == Some(*b"XFSB") {
        return Ok(None);
    }
    on(pages, magic, 512, |record| {
        let sane = (1..=2).contains(&record.be32(8)?) && (1..=3).contains(&record.be32(300)?);
        Ok(yes().filter(|_| sane))
    })
}

/// ext2, ext3, ext4 or a journal device, by the features that the older ones do not know.
pub(super) fn ext(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    const HAS_JOURNAL: u32 = 4;
    const JOURNAL_DEV: u32 = 8;
    const EXT3_INCOMPAT: u32 = 0x16;
    const EXT3_RO_COMPAT: u32 = 7;
    on(pages, at, 1024, |block| {
        if block.le32(24)? > 6 || block.le32(4)? == 0 {
            return Ok(None);
        }
        let (compat, incompat, ro_compat) = (block.le32(92)?, block.le32(96)?, block.le32(100)?);
        Ok(named(if incompat & JOURNAL_DEV != 0 {
            "jbd"
        } else if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
            "ext4"
        } else if compat & HAS_JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }))
    })
}

/// A name-value list is that of a pool; an uberblock's magic is long enough.
pub(super) fn zfs(pages: &mut Pages<'_>, _: Bytes, magic: Bytes) -> Result<Option<Identity>> {
    on(pages, magic, 1024, |list| {
        let is_list = list.all().first() == Some(&1);
        let names_pool = || list.all().windows(9).any(|text| text == b"pool_guid");
        Ok(yes().filter(|_| !is_list || names_pool()))
    })
}

/// HFS, unless it wraps an HFS+.
pub(super) fn hfs(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 162, |block| {
        let size = block.be32(20)?;
        let embeds = [b"H+", b"HX"].contains(&&block.array(124)?);
        let identity = if embeds { named("hfsplus") } else { yes() };
        Ok(identity.filter(|_| size > 0 && size.is_multiple_of(512)))
    })
}

/// NTFS: the volume's name is in the fourth record of the master file table.
pub(super) fn ntfs(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    let Some(boot) = pages.bytes(at, Bytes::new(512))? else { return Ok(None) };
    let boot = Structure::new("NTFS boot sector", at, &boot);
    let sector = boot.le16(11)?;
    // Counts, or negative powers of two.
    let sectors = match boot.u8(13)? {
        count @ 1..=128 => u64::from(count),
        shift @ 240..=249 => 1 << (256 - u32::from(shift)),
        _ => return Ok(None),
    };
    let cluster = u64::from(sector) * sectors;
    let record = match boot.u8(64)? {
        count @ 1..=64 => cluster * u64::from(count),
        shift @ 0xe1..=0xf7 => 1 << (256 - u32::from(shift)),
        _ => return Ok(None),
    };
    let zeros = boot.le16(14)? == 0 && boot.u8(16)? == 0 && boot.le16(19)? == 0;
    if !zeros || !sector.is_power_of_two() || !(256..=4096).contains(&sector) || cluster > 1 << 21 {
        return Ok(None);
    }
    let volume = cluster
        .checked_mul(boot.le64(48)?)
        .and_then(|mft| mft.checked_add(record.checked_mul(3)?))
        .filter(|_| (512..=65536).contains(&record));
    let name = match volume {
        Some(volume) => pages.bytes(Bytes::new(volume), Bytes::new(record))?,
        None => None,
    };
    let label = name.and_then(|record| ntfs_name(&record).unwrap_or(None));
    Ok(Some(Identity { name: None, label, uuid: Some(format!("{:016X}", boot.le64(72)?)) }))
}

/// The content of a file record's `$VOLUME_NAME` (0x60), which is always resident.
fn ntfs_name(record: &[u8]) -> Result<Option<String>> {
    let record = Structure::new("NTFS file record", Bytes::ZERO, record);
    if record.slice(0, 4)? != b"FILE" {
        return Ok(None);
    }
    let mut at = usize::from(record.le16(20)?);
    loop {
        let (kind, length) = (record.le32(at)?, record.le32(at + 4)?);
        let length = usize::try_from(length).unwrap_or(0);
        if kind == 0x60 {
            let value = at + usize::from(record.le16(at + 20)?);
            let size = usize::try_from(record.le32(at + 16)?).unwrap_or(usize::MAX);
            return Ok(utf16(record.slice(value, size)?));
        }
        if kind == u32::MAX || length < 24 || length > record.all().len() {
            return Ok(None);
        }
        at += length;
    }
}

/// Minix has magics of two bytes, so its counts must make sense too.
pub(super) fn minix(pages: &mut Pages<'_>, at: Bytes, magic: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 64, |block| {
        let (third, field) =
            (magic.saturating_sub(at) == Bytes::new(0x18), block.array::<2>(0x10)?);
        let big = if third { block.u8(0x18)? == 0x4d } else { [0x13, 0x24].contains(&field[0]) };
        let short = |at| if big { block.be16(at) } else { block.le16(at) };
        let long = |at| if big { block.be32(at) } else { block.le32(at) };
        let (inodes, maps, first) = if third {
            (long(0)?, [short(6)?, short(8)?], short(10)?)
        } else {
            (u32::from(short(0)?), [short(4)?, short(6)?], short(8)?)
        };
        let second = field.contains(&0x24);
        let zones = if third || second { long(20)? } else { u32::from(short(2)?) };
        let bits = |map: u16| u64::from(map) * 1024 * 8;
        let data = u64::from(zones).checked_sub(u64::from(first));
        // ext and erofs have their own magic where these counts would be.
        let other = block.array(0x38)? == *b"\x53\xef" || block.array(0)? == *b"\xe2\xe1\xf5\xe0";
        Ok(yes().filter(|_| {
            inodes > 0
                && !other
                && bits(maps[0]) > u64::from(inodes)
                && data.is_some_and(|data| bits(maps[1]) > data)
        }))
    })
}

/// GFS and GFS2 differ by their format numbers.
pub(super) fn gfs(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 64, |block| Ok(if block.be32(24)? == 1309 { named("gfs") } else { yes() }))
}

pub(super) fn btrfs(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 1024, |block| {
        if block.le64(48)? != at.get() {
            return Ok(None);
        }
        let label = some(block.text(0x12b, 256)?);
        Ok(Some(Identity { name: None, label, uuid: dce_uuid(block.array(32)?) }))
    })
}

/// Revision 2, and a size of the checked part that fits its block.
pub(super) fn nilfs(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 64, |block| {
        Ok(yes().filter(|_| {
            block.le32(0).is_ok_and(|revision| revision == 2)
                && block.le16(8).is_ok_and(|bytes| (20..=1024).contains(&bytes))
        }))
    })
}

/// exFAT: the label is an entry of the root directory, here looked for in its first 4 KiB.
pub(super) fn exfat(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    let Some(boot) = pages.bytes(at, Bytes::new(512))? else { return Ok(None) };
    let boot = Structure::new("exFAT boot sector", at, &boot);
    let (sector, cluster) = (u32::from(boot.u8(108)?), u32::from(boot.u8(109)?));
    if !(9..=12).contains(&sector) || sector + cluster > 25 || boot.slice(11, 53)? != [0; 53] {
        return Ok(None);
    }
    let root = u64::from(boot.le32(96)?).checked_sub(2).and_then(|index| {
        let heap = u64::from(boot.le32(88).ok()?).checked_shl(sector)?;
        Some(Bytes::new(index.checked_shl(sector + cluster)?.checked_add(heap)?))
    });
    let length = Bytes::new((1 << (sector + cluster)).min(4096));
    let entries = match root {
        Some(root) => pages.bytes(root, length)?.unwrap_or_default(),
        None => Vec::new(),
    };
    let label = entries
        .chunks_exact(32)
        .find(|entry| entry[0] == 0x83)
        .and_then(|entry| utf16(entry.get(2..2 + 2 * usize::from(entry[1]).min(11))?));
    let serial = boot.le32(100)?;
    let uuid = Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff));
    Ok(Some(Identity { name: None, label, uuid }))
}

/// An MBR, and not a boot sector that also ends in 55 AA.
pub(super) fn dos(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    let name = [&b"NTFS    "[..], b"EXFAT   ", b"-FVE-FS-"];
    if fat(pages, at, at)?.is_some() || bitlocker(pages, at, at)?.is_some() {
        return Ok(None);
    }
    on(pages, at, 512, |sector| {
        let entries: Vec<&[u8]> = sector.slice(446, 64)?.chunks_exact(16).collect();
        if name.contains(&sector.slice(3, 8)?) || entries.iter().any(|entry| entry[0] & 0x7f != 0) {
            return Ok(None);
        }
        Ok(if entries.iter().any(|entry| entry[4] == 0xee) { named("PMBR") } else { yes() })
    })
}

/// All words of a Sun label cancel out.
pub(super) fn sun(pages: &mut Pages<'_>, at: Bytes, _: Bytes) -> Result<Option<Identity>> {
    on(pages, at, 512, |sector| {
        let words = sector.all().chunks_exact(2);
        let folded = words.fold(0, |sum, pair| sum ^ u16::from_be_bytes([pair[0], pair[1]]));
        Ok(yes().filter(|_| folded == 0))
    })
}
