//! Master boot record: four entries at byte 446 of sector 0, 55 AA at 510, counts of 32 bits.
//!
//! An EBR has the layout of an MBR, so one [`Sector`] serves both. It is parsed and serialised by the
//! crate's `MBRHeader`; the crate's whole-disk functions are not used, because they lose logical
//! partitions silently when an EBR is damaged, refuse chains that are not in order, and count bytes in
//! 32 bits.

use std::collections::BTreeMap;
use std::io::Cursor;

use mbrman::{BOOT_ACTIVE, BOOT_INACTIVE, CHS, MBRHeader, MBRPartitionEntry};
use serde::{Deserialize, Serialize};

use super::ebr::{self, Ebr};
use super::table::{
    Disk, Partition, PartitionRole, Patch, TableImage, check_apart, check_order, lba, placed,
};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::units::Bytes;

/// End of the boot code, start of what belongs to the table.
pub(super) const CODE: u64 = 440;
/// End of the record.
pub(super) const SIZE: u64 = 512;
const PROTECTIVE: u8 = 0xee;

/// An MBR; all positions are bytes of the disk it was read from or moved to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct MbrTable {
    /// Disk signature (bytes 440..444), eight hexadecimal digits.
    pub signature: String,
    /// Bytes 444..446; 0x5a5a asks for copy protection.
    pub reserved: u16,
    /// Ordered by number: primary ones and the extended one 1 to 4, logical ones from 5 as chained.
    pub partitions: Vec<Partition>,
    /// The chain of logical partitions, from the extended partition's start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ebrs: Vec<Ebr>,
}

/// What one entry says, in bytes. The position is as the entry counts: from the sector's own origin.
pub(super) struct SectorEntry {
    pub(super) kind: String,
    pub(super) boot: bool,
    pub(super) extent: Extent,
}

impl SectorEntry {
    pub(super) fn is_extended(&self) -> bool {
        ["0x05", "0x0f", "0x85"].contains(&self.kind.as_str())
    }
}

/// An MBR or EBR.
pub(super) struct Sector {
    header: MBRHeader,
}

impl Sector {
    /// The record at `at`; `None` where there is no 55 AA or a boot flag is neither 0 nor 0x80.
    pub(super) fn read(disk: &Disk<'_>, at: Bytes) -> Result<Option<Self>> {
        let extent = Extent::new(at, at.saturating_add(Bytes::new(SIZE)));
        let bytes = disk.read(extent)?;
        Ok(MBRHeader::read_from(&mut Cursor::new(bytes)).ok().map(|header| Self { header }))
    }

    pub(super) fn new(signature: &str, reserved: u16) -> Result<Self> {
        let number = u32::from_str_radix(signature, 16).map_err(|_| {
            Error::corrupt("MBR signature", Bytes::new(CODE), "8 hexadecimal digits", signature)
        })?;
        let mut header = MBRHeader::new(number.to_le_bytes());
        header.copy_protected = reserved.to_le_bytes();
        Ok(Self { header })
    }

    pub(super) fn is_protective(&self) -> bool {
        self.header.iter().any(|(_, entry)| entry.sys == PROTECTIVE)
    }

    pub(super) fn signature(&self) -> String {
        format!("{:08x}", u32::from_le_bytes(self.header.disk_signature))
    }

    pub(super) fn reserved(&self) -> u16 {
        u16::from_le_bytes(self.header.copy_protected)
    }

    /// The used entries with their slots from 1. As the kernel has it, a length makes an entry used.
    pub(super) fn used(&self, sector: Bytes) -> impl Iterator<Item = (u8, SectorEntry)> {
        self.entries(sector, |entry| entry.sectors > 0)
    }

    /// The used entries, and those that protect a GPT: to the kernel they do so whatever their length.
    pub(super) fn used_or_protective(
        &self,
        sector: Bytes,
    ) -> impl Iterator<Item = (u8, SectorEntry)> {
        self.entries(sector, |entry| entry.sectors > 0 || entry.sys == PROTECTIVE)
    }

    fn entries(
        &self,
        sector: Bytes,
        is_wanted: fn(&MBRPartitionEntry) -> bool,
    ) -> impl Iterator<Item = (u8, SectorEntry)> {
        (1..=4u8).zip(self.header.iter()).filter(move |(_, (_, entry))| is_wanted(entry)).map(
            move |(slot, (_, entry))| {
                let start = Bytes::new(u64::from(entry.starting_lba) * sector.get());
                let length = Bytes::new(u64::from(entry.sectors) * sector.get());
                let extent = Extent { start, end: start + length };
                let kind = format!("0x{:02x}", entry.sys);
                (slot, SectorEntry { kind, boot: entry.is_active(), extent })
            },
        )
    }

    /// Fills a slot; `title` names the entry in errors.
    pub(super) fn set(
        &mut self,
        title: &str,
        slot: u8,
        entry: &SectorEntry,
        sector: Bytes,
    ) -> Result<()> {
        let count = |what: &str, sectors: u64| {
            u32::try_from(sectors).map_err(|_| {
                let most = u32::MAX;
                Error::refused(format!("{title} {what} {sectors}, an MBR counts to {most}"))
            })
        };
        let extent = entry.extent;
        let start = lba(title, extent.start, sector)?;
        let sectors = lba(title, extent.end, sector)?.saturating_sub(start);
        let start = count("starts at sector", start)?;
        let sectors = count("has a sector count of", sectors)?;
        let kind = entry.kind.strip_prefix("0x").and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let place = self.header.get_mut(usize::from(slot));
        let (Some(sys), Some(place)) = (kind, place) else {
            let found = format!("{} in slot {slot}", entry.kind);
            return Err(Error::corrupt(title, extent.start, "a type byte in slot 1 to 4", found));
        };
        let (first_chs, last_chs) = match sys {
            // What the UEFI specification asks of a protective entry.
            PROTECTIVE => (CHS::new(0, 0, 2), CHS::new(1023, 255, 63)),
            _ => (chs(start), chs(start.saturating_add(sectors).saturating_sub(1))),
        };
        let boot = if entry.boot { BOOT_ACTIVE } else { BOOT_INACTIVE };
        *place = MBRPartitionEntry { boot, first_chs, sys, last_chs, starting_lba: start, sectors };
        Ok(())
    }

    /// The whole record.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        self.header
            .write_into(&mut bytes)
            .map_err(|error| Error::refused(format!("the MBR cannot be made: {error}")))?;
        Ok(bytes.into_inner())
    }

    /// The record without the boot code in front.
    pub(super) fn patch(&self) -> Result<Patch> {
        let code = Bytes::new(CODE);
        Ok((code, self.bytes()?.into_iter().skip(code.index().unwrap_or(0)).collect()))
    }
}

/// Cylinder, head and sector as `fdisk` writes them: of a disk with 255 heads and 63 sectors, with the
/// largest values for what lies behind its last cylinder.
fn chs(lba: u32) -> CHS {
    CHS::from_lba_exact(lba, 1023, 255, 63).unwrap_or(CHS::new(1023, 254, 63))
}

/// Table of a disk whose first sector is `boot`.
pub(super) fn read(disk: &Disk<'_>, boot: &Sector) -> Result<MbrTable> {
    let signature = boot.signature();
    let partition = |number: u32, entry: SectorEntry| Partition {
        number,
        extent: entry.extent,
        uuid: (signature != "00000000").then(|| format!("{signature}-{number:02x}")),
        name: None,
        attributes: if entry.boot { u64::from(BOOT_ACTIVE) } else { 0 },
        kind: entry.kind,
    };
    let mut partitions: Vec<Partition> =
        boot.used(disk.sector).map(|(slot, entry)| partition(u32::from(slot), entry)).collect();
    let container = extended(&partitions)?;
    let mut ebrs = Vec::new();
    if let Some(container) = container {
        check_apart(
            Extent::first(disk.source.size()),
            vec![(container.title(), container.extent)],
        )?;
        for (ebr, logical) in ebr::read(disk, container.extent)? {
            partitions
                .extend(ebr.logical.zip(logical).map(|(number, entry)| partition(number, entry)));
            ebrs.push(ebr);
        }
    }
    let reserved = boot.reserved();
    let table = MbrTable { reserved, partitions, ebrs, signature: signature.clone() };
    table.check(disk.source.size().align_down(disk.sector), disk.sector)?;
    Ok(table)
}

/// The one extended partition, if there is one.
fn extended(partitions: &[Partition]) -> Result<Option<&Partition>> {
    let mut all = partitions.iter().filter(|part| part.role() == PartitionRole::Extended);
    let first = all.next();
    match all.next() {
        Some(_) => Err(Error::unsupported("a second extended partition")),
        None => Ok(first),
    }
}

impl MbrTable {
    pub(super) fn logical(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().filter(|partition| partition.number > 4)
    }

    fn primary(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().filter(|partition| partition.number <= 4)
    }

    /// The sectors of the table's own structures, but for the MBR.
    pub(super) fn own(&self, sector: Bytes) -> Vec<(String, Extent)> {
        let place = |ebr: &Ebr| Extent::new(ebr.at, ebr.at.saturating_add(sector));
        self.ebrs.iter().map(|ebr| ("the EBR".into(), place(ebr))).collect()
    }

    pub(super) fn check(&self, disk: Bytes, sector: Bytes) -> Result<()> {
        check_order(&self.partitions)?;
        let of = |part: &Partition| (part.title(), part.extent);
        let mut primary: Vec<_> = self.primary().map(of).collect();
        primary.push(("the MBR".into(), Extent::first(sector)));
        check_apart(Extent::first(disk), primary)?;
        let mut inside = self.own(sector);
        inside.extend(self.logical().map(of));
        match extended(&self.partitions)? {
            Some(container) => {
                ebr::check(self, container)?;
                check_apart(container.extent, inside)
            }
            None if inside.is_empty() => Ok(()),
            None => Err(Error::corrupt("MBR", Bytes::ZERO, "an extended partition", "none")),
        }
    }

    pub(super) fn moved(
        &self,
        target: Bytes,
        sector: Bytes,
        places: &BTreeMap<u32, Extent>,
    ) -> Result<Self> {
        let container = extended(&self.partitions)?;
        let others = self.partitions.iter().filter(|part| part.role() != PartitionRole::Extended);
        let mut partitions = placed(others, sector, places)?;
        let mut ebrs = Vec::new();
        if let Some(container) = container {
            let mut container = container.clone();
            let wanted = places.get(&container.number).copied();
            (container.extent, ebrs) =
                ebr::moved(self, &container, &partitions, wanted, (target, sector))?;
            partitions.push(container);
            partitions.sort_by_key(|partition| partition.number);
        }
        Ok(Self { partitions, ebrs, ..self.clone() })
    }

    pub(super) fn image(&self, target: Bytes, sector: Bytes) -> Result<TableImage> {
        self.check(target, sector)?;
        let mut boot = Sector::new(&self.signature, self.reserved)?;
        for partition in self.primary() {
            let slot = u8::try_from(partition.number).unwrap_or_default();
            boot.set(&partition.title(), slot, &entry_of(partition), sector)?;
        }
        let ebr = match extended(&self.partitions)? {
            Some(container) => ebr::image(self, container.extent, sector)?,
            None => Vec::new(),
        };
        let (backup, primary) = (Vec::new(), Vec::new());
        Ok(TableImage { backup, primary, ebr, mbr_sector: boot.patch()? })
    }
}

pub(super) fn entry_of(partition: &Partition) -> SectorEntry {
    SectorEntry {
        kind: partition.kind.clone(),
        boot: partition.attributes == u64::from(BOOT_ACTIVE),
        extent: partition.extent,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{mbr_table, places_of, read_table, written};
    use super::super::table::{self, Table};
    use super::*;
    use crate::io::memory::Memory;

    const SECTOR: Bytes = Bytes::new(512);

    /// An extended partition at 8 MiB with two logical ones behind two primary ones.
    fn sample() -> Vec<u8> {
        let table = mbr_table(&[(1, 0x07, 1, 2), (2, 0x83, 3, 4)], &[(0x8e, 9, 3), (0x82, 14, 2)]);
        written(&table, Bytes::mib(24), SECTOR).into_bytes()
    }

    fn disk(bytes: Vec<u8>) -> Memory {
        Memory::new(bytes)
    }

    #[test]
    fn every_field_is_read_back() {
        let Table::Mbr(table) = read_table(&disk(sample())) else { panic!() };
        assert_eq!((table.signature.as_str(), table.reserved), ("c0ffee42", 0x5a5a));
        let seen: Vec<_> = table
            .partitions
            .iter()
            .map(|p| (p.number, p.kind.as_str(), p.attributes, p.uuid.as_deref().unwrap()))
            .collect();
        assert_eq!(
            seen,
            [
                (1, "0x07", 0x80, "c0ffee42-01"),
                (2, "0x83", 0, "c0ffee42-02"),
                (4, "0x0f", 0, "c0ffee42-04"),
                (5, "0x8e", 0, "c0ffee42-05"),
                (6, "0x82", 0, "c0ffee42-06"),
            ]
        );
        let own = Table::Mbr(table).own_bytes(Bytes::mib(24), SECTOR);
        let own: Vec<_> = own.iter().map(|e| (e.start.get(), e.len().get())).collect();
        assert_eq!(own, [(440, 72), (8 << 20, 512), (13 << 20, 512)]);
    }

    #[test]
    fn the_crate_reads_the_same_logical_partitions() {
        let mut bytes = Cursor::new(sample());
        let mbr = mbrman::MBR::read_from(&mut bytes, 512).unwrap();
        let seen: Vec<_> = mbr
            .iter()
            .filter(|(_, entry)| entry.is_used())
            .map(|(number, entry)| (number, entry.sys, entry.starting_lba, entry.sectors))
            .collect();
        let table = read_table(&disk(bytes.into_inner()));
        let expected: Vec<_> = table
            .partitions()
            .iter()
            .map(|part| {
                let sys = u8::from_str_radix(&part.kind[2..], 16).unwrap();
                let lba = |at: Bytes| u32::try_from(at.units(SECTOR)).unwrap();
                (part.number as usize, sys, lba(part.extent.start), lba(part.extent.len()))
            })
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn contradictions_are_named_with_their_place() {
        let at = 13 << 20;
        for (patch, word) in [
            ((at + 510, 0u8), "EBR at byte 13631488"),
            // The link leads back to the first EBR.
            ((8 << 20 | 471, 0), "EBR"),
            // The first logical partition reaches out of the extended one.
            ((8 << 20 | 461, 0x7f), "partition 5"),
            // Partition 1 reaches into partition 2; partition 2 over the disk's end.
            ((446 + 13, 0x20), "partition 2"),
            ((446 + 16 + 14, 0x20), "partition 2"),
        ] {
            let mut bytes = sample();
            bytes[patch.0] = patch.1;
            let error = table::read(&disk(bytes)).unwrap_err();
            assert_eq!(error.kind(), "corrupt");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_chain_that_bites_its_tail_ends() {
        let mut bytes = sample();
        // The second EBR gets a link to itself.
        let link: Vec<u8> = bytes[(8 << 20) + 462..(8 << 20) + 478].to_vec();
        bytes[(13 << 20) + 462..(13 << 20) + 478].copy_from_slice(&link);
        let error = table::read(&disk(bytes)).unwrap_err().to_string();
        assert!(error.contains("EBR chain at byte 13631488: expected a new place"), "{error}");
    }

    #[test]
    fn boot_sectors_and_filesystems_are_no_tables() {
        let empty = |bytes: &mut [u8]| bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let mut fat = vec![0; 1 << 20];
        let parameters = b"\xeb\x58\x90mkfs.fat\0\x02\x08\x20\0\x02\0\0\0\0\xf8\0\0\x20\0\x08\0\0\0\0\0\0\0\x08\0\0\x08";
        fat[..parameters.len()].copy_from_slice(parameters);
        empty(&mut fat);
        let mut swap = vec![0; 1 << 20];
        empty(&mut swap);
        swap[4086..4096].copy_from_slice(b"SWAPSPACE2");
        let mut text = sample();
        text[446..460].copy_from_slice(b"NTLDR missing\0");
        for bytes in [vec![0; 1 << 20], fat, swap, text, vec![0; 512], Vec::new()] {
            let source = disk(bytes);
            assert_eq!(table::read(&source).unwrap(), None);
            assert_eq!(table::detect_sector_size(&source), None);
        }
        let mut table = vec![0; 1 << 20];
        empty(&mut table);
        assert_eq!(read_table(&disk(table)).partitions(), []);
    }

    #[test]
    fn logical_partitions_may_lie_beyond_what_the_crate_multiplies() {
        let table = mbr_table(&[(1, 0x83, 1, 2)], &[(0x83, 1_500_000, 100), (0x83, 9000, 100)]);
        let image = table.image(Bytes::gib(2047), SECTOR).unwrap();
        let places: Vec<_> = image.ebr.iter().map(|(at, bytes)| (*at, bytes.len())).collect();
        assert_eq!(places, [(Bytes::mib(8999), 512), (Bytes::mib(8999) + SECTOR, 512)]);
        let error = table.image(Bytes::gib(1400), SECTOR).unwrap_err();
        assert!(error.to_string().contains("within 0..1503238553600"), "{error}");
    }

    #[test]
    fn the_extended_partition_grows_with_its_content() {
        let table = read_table(&disk(sample()));
        let mut places = places_of(&table);
        places.remove(&4);
        places.insert(5, Extent::new(Bytes::mib(10), Bytes::mib(20)));
        places.insert(6, Extent::new(Bytes::mib(22), Bytes::mib(30)));
        let moved = table.moved(Bytes::mib(40), SECTOR, &places).unwrap();
        let Table::Mbr(mbr) = &moved else { panic!() };
        // It kept the MiB in front of 5 and the MiB behind 6; each EBR its MiB before its partition.
        assert_eq!(mbr.partitions[2].extent, Extent::new(Bytes::mib(9), Bytes::mib(31)));
        let ebrs: Vec<_> = mbr.ebrs.iter().map(|ebr| ebr.at).collect();
        assert_eq!(ebrs, [Bytes::mib(9), Bytes::mib(21)]);
        assert_eq!(read_table(&written(&moved, Bytes::mib(40), SECTOR)), moved);

        places.insert(6, Extent::new(Bytes::mib(20), Bytes::mib(30)));
        let error = table.moved(Bytes::mib(40), SECTOR, &places).unwrap_err().to_string();
        assert!(error.contains("the EBR at byte 19922944"), "{error}");
    }

    #[test]
    fn limits_of_32_bits_are_refused_by_name() {
        let table = mbr_table(&[(1, 0x07, 1, 2)], &[]);
        let places = [(1, Extent::new(Bytes::mib(1), Bytes::gib(3000)))].into();
        let error = table.moved(Bytes::gib(4000), SECTOR, &places).unwrap_err().to_string();
        assert!(error.contains("partition 1 has a sector count of"), "{error}");
        assert!(error.contains("an MBR counts to 4294967295"), "{error}");
        assert!(table.moved(Bytes::gib(4000), Bytes::BLOCK, &places).is_ok());
    }

    #[test]
    fn addresses_by_cylinder_are_what_fdisk_writes() {
        let bytes = |lba: u64| {
            let mut sector = Sector::new("0", 0).unwrap();
            let extent = Extent::new(Bytes::new(lba * 512), Bytes::new((lba + 2048) * 512));
            let entry = SectorEntry { kind: "0x83".into(), boot: false, extent };
            sector.set("x", 1, &entry, SECTOR).unwrap();
            sector.bytes().unwrap()[447..450].to_vec()
        };
        assert_eq!(bytes(2048), [0x20, 0x21, 0x00]);
        assert_eq!(bytes(1024 * 255 * 63), [0xfe, 0xff, 0xff]);
    }
}
