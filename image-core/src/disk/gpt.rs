//! GUID partition table: two headers with an array of entries each (UEFI specification, chapter 5).
//!
//! The `gpt` crate parses and serialises headers and entries; everything it is handed was bounded here
//! first (it would panic on entries of another size), and it never sees the disk: its own writer packs
//! the entries together, which renumbers partitions.

use std::collections::BTreeMap;
use std::io::Cursor;

use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::partition::{Partition as Entry, file_read_partitions};
use gpt::partition_types::{OperatingSystem, Type};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::hybrid::Shadow;
use super::mbr::Sector;
use super::sparse::Sparse;
use super::table::{
    Disk, Found, Partition, Patch, Table, TableImage, check_apart, check_order, lba, placed,
};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fields::Structure;
use crate::io::rescue::is_bad_sector;
use crate::units::Bytes;

/// Size of one entry; the specification allows more, nothing writes it.
const ENTRY: u32 = 128;
/// More entries than any tool makes by default (128), fewer than could fill memory.
const MOST_ENTRIES: u32 = 1024;
const HEADER: u32 = 92;
/// An entry's name: this many UTF-16 units.
const NAME: usize = 36;

/// A GPT; all positions are bytes of the disk it was read from or moved to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct GptTable {
    /// Disk GUID in lower case.
    pub guid: String,
    /// Number of entries in the arrays, used or not.
    pub entry_count: u32,
    /// First to last usable byte.
    pub usable: Extent,
    /// Position of the primary entries, which some boards move behind their firmware.
    pub entries: Bytes,
    /// Position of the backup header; not at the disk's end where a disk was enlarged since.
    pub backup: Bytes,
    /// Position of the backup entries.
    pub backup_entries: Bytes,
    /// The MBR in front.
    pub mbr: Shadow,
    /// Ordered by number.
    pub partitions: Vec<Partition>,
}

/// One of the two copies, read and checked.
struct Copy {
    header: Header,
    entries: BTreeMap<u32, Entry>,
}

pub(super) fn read(disk: &Disk<'_>, boot: &Sector) -> Result<Found> {
    let last = disk.sectors().saturating_sub(1);
    let mut warnings = Vec::new();
    let (copy, backup) = match read_copy(disk, 1) {
        Ok(copy) => {
            let backup = read_copy(disk, copy.header.backup_lba).or_else(|_| read_copy(disk, last));
            match &backup {
                Ok(other) if other.entries == copy.entries => (),
                Ok(_) => warnings
                    .push("the backup GPT names other partitions; the primary is used".into()),
                Err(error) => warnings.push(format!("the backup GPT cannot be used: {error}")),
            }
            (copy, backup.ok().map(|backup| backup.header))
        }
        Err(primary) if is_lost(&primary) => match read_copy(disk, last) {
            Ok(copy) => {
                warnings.push(format!("the primary GPT cannot be used, its backup is: {primary}"));
                let header = copy.header.clone();
                (copy, Some(header))
            }
            Err(error) if is_lost(&error) => return Err(primary),
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    };
    let table = GptTable::of_copy(disk, copy, backup, boot)?;
    Ok(Found { table: Table::Gpt(table), warnings })
}

/// Whether one copy is damaged, so that the other one has to do.
fn is_lost(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. }) || is_bad_sector(error)
}

/// Reads and checks the header at `at_lba` with its entries.
fn read_copy(disk: &Disk<'_>, at_lba: u64) -> Result<Copy> {
    let extent = disk.sector_at("GPT header", at_lba)?;
    let bytes = disk.read(extent)?;
    let raw = Structure::new("GPT header", extent.start, &bytes);
    if raw.slice(0, 8)? != b"EFI PART" {
        return Err(raw.corrupt("signature", 0, "EFI PART", raw.slice(0, 8)?.escape_ascii()));
    }
    if raw.le32(12)? != HEADER {
        return Err(raw.corrupt("size", 12, HEADER.to_string(), raw.le32(12)?));
    }
    // The crate looks for a header at LBA 1 of what it is given.
    let mut alone = Cursor::new([vec![0; bytes.len()], bytes.clone()].concat());
    let header = read_header_from_arbitrary_device(&mut alone, block_size(disk.sector))
        .map_err(|error| raw.corrupt("CRC", 16, "a valid header", error))?;
    check_header(disk, &raw, &header, at_lba)?;
    let start = disk.sector_at("GPT entries", header.part_start)?.start;
    let array = Extent::at(start, array_size(header.num_parts))
        .filter(|array| array.end <= disk.source.size())
        .ok_or_else(|| raw.corrupt("entries", 72, "a place on the disk", header.part_start))?;
    let at_zero = Header { part_start: 0, ..header.clone() };
    let entries = file_read_partitions(
        &mut Cursor::new(disk.read(array)?),
        &at_zero,
        block_size(disk.sector),
    )
    .map_err(|error| Error::corrupt("GPT entries", start, "the header's CRC", error.to_string()))?;
    Ok(Copy { header, entries: entries.into_iter().filter(|(_, entry)| entry.is_used()).collect() })
}

fn check_header(disk: &Disk<'_>, raw: &Structure<'_>, header: &Header, at_lba: u64) -> Result<()> {
    if header.current_lba != at_lba {
        return Err(raw.corrupt("MyLBA", 24, at_lba.to_string(), header.current_lba));
    }
    if header.last_usable >= disk.sectors() || header.first_usable > header.last_usable {
        let found = format!("sectors {} to {}", header.first_usable, header.last_usable);
        return Err(raw.corrupt("usable range", 40, format!("below {}", disk.sectors()), found));
    }
    if header.revision != (1, 0) {
        let (major, minor) = header.revision;
        return Err(Error::unsupported(format!("a GPT of revision {major}.{minor}")));
    }
    if header.part_size != ENTRY || !(1..=MOST_ENTRIES).contains(&header.num_parts) {
        let (count, size) = (header.num_parts, header.part_size);
        return Err(Error::unsupported(format!("a GPT of {count} entries of {size} bytes")));
    }
    Ok(())
}

fn block_size(sector: Bytes) -> LogicalBlockSize {
    if sector == Bytes::BLOCK { LogicalBlockSize::Lb4096 } else { LogicalBlockSize::Lb512 }
}

fn array_size(count: u32) -> Bytes {
    Bytes::new(u64::from(ENTRY) * u64::from(count))
}

fn partition_of(number: u32, entry: &Entry, sector: Bytes) -> Result<Partition> {
    let start = sector.checked_mul(entry.first_lba);
    let end = entry.last_lba.checked_add(1).and_then(|end| sector.checked_mul(end));
    let (Some(start), Some(end)) = (start, end) else {
        let found = format!("sectors {} to {}", entry.first_lba, entry.last_lba);
        return Err(Error::corrupt(format!("partition {number}"), Bytes::ZERO, "a place", found));
    };
    Ok(Partition {
        number,
        extent: Extent { start, end },
        kind: entry.part_type_guid.guid.to_string(),
        uuid: Some(entry.part_guid.to_string()),
        name: Some(entry.name.clone()).filter(|name| !name.is_empty()),
        attributes: entry.flags,
    })
}

impl GptTable {
    fn of_copy(disk: &Disk<'_>, copy: Copy, backup: Option<Header>, boot: &Sector) -> Result<Self> {
        let sector = disk.sector;
        let partitions: Vec<Partition> = copy
            .entries
            .iter()
            .map(|(number, entry)| partition_of(*number, entry, sector))
            .collect::<Result<_>>()?;
        let in_bytes = |lba| sector.checked_mul(lba).unwrap_or(Bytes::MAX);
        let array = array_size(copy.header.num_parts).align_up(sector);
        let end = in_bytes(disk.sectors().saturating_sub(1));
        // A primary that could not be read is written where tools put it.
        let entries = if copy.header.current_lba == 1 { copy.header.part_start } else { 2 };
        let table = Self {
            guid: copy.header.disk_guid.to_string(),
            entry_count: copy.header.num_parts,
            usable: Extent {
                start: in_bytes(copy.header.first_usable),
                end: in_bytes(copy.header.last_usable.saturating_add(1)),
            },
            entries: in_bytes(entries),
            backup: backup.as_ref().map_or(end, |backup| in_bytes(backup.current_lba)),
            backup_entries: backup
                .map_or(end.saturating_sub(array), |backup| in_bytes(backup.part_start)),
            mbr: Shadow::of(boot, &partitions, sector),
            partitions,
        };
        table.check(disk.source.size().align_down(sector), sector)?;
        Ok(table)
    }

    /// The sectors of the table's own structures, but for the MBR.
    pub(super) fn own(&self, sector: Bytes) -> Vec<(String, Extent)> {
        let array = array_size(self.entry_count).align_up(sector);
        let from = |start: Bytes, length| Extent::new(start, start.saturating_add(length));
        vec![
            ("the GPT header".into(), from(sector, sector)),
            ("the GPT entries".into(), from(self.entries, array)),
            ("the backup GPT header".into(), from(self.backup, sector)),
            ("the backup GPT entries".into(), from(self.backup_entries, array)),
        ]
    }

    /// Checks everything that writing and the promise of own bytes rely on.
    pub(super) fn check(&self, disk: Bytes, sector: Bytes) -> Result<()> {
        if !(1..=MOST_ENTRIES).contains(&self.entry_count) {
            return Err(Error::unsupported(format!("a GPT of {} entries", self.entry_count)));
        }
        for partition in &self.partitions {
            if !(1..=self.entry_count).contains(&partition.number) {
                let expected = format!("a number up to {}", self.entry_count);
                let at = partition.extent.start;
                return Err(Error::corrupt(partition.title(), at, expected, "this one"));
            }
        }
        check_order(&self.partitions)?;
        let mut items = self.own(sector);
        items.push(("the protective MBR".into(), Extent::first(sector)));
        items.extend(self.partitions.iter().map(|part| (part.title(), part.extent)));
        check_apart(Extent::first(disk), items)
    }

    /// The backup entries and the backup header behind them.
    pub(super) fn tail_bytes(&self, sector: Bytes) -> Bytes {
        array_size(self.entry_count).align_up(sector).saturating_add(sector)
    }

    pub(super) fn moved(
        &self,
        target: Bytes,
        sector: Bytes,
        places: &BTreeMap<u32, Extent>,
    ) -> Result<Self> {
        let partitions = placed(self.partitions.iter(), sector, places)?;
        let array = array_size(self.entry_count).align_up(sector);
        let too_small = || Error::refused(format!("a disk of {target} has no room for a GPT"));
        let backup = target.checked_sub(sector).ok_or_else(too_small)?;
        let backup_entries = backup.checked_sub(array).ok_or_else(too_small)?;
        // Entries right behind the header stay there, in sectors of another size too.
        let adjacent = [Bytes::new(1024), Bytes::new(8192)].contains(&self.entries);
        let entries = if adjacent { sector + sector } else { self.entries };
        let start = self.usable.start.max(entries.saturating_add(array)).align_up(sector);
        if start >= backup_entries {
            return Err(too_small());
        }
        Ok(Self {
            usable: Extent { start, end: backup_entries },
            entries,
            backup,
            backup_entries,
            mbr: self.mbr.moved(&self.partitions, &partitions, target, sector),
            partitions,
            ..self.clone()
        })
    }

    pub(super) fn image(&self, target: Bytes, sector: Bytes) -> Result<TableImage> {
        self.check(target, sector)?;
        Ok(TableImage {
            backup: self.copy_image(sector, false)?,
            primary: self.copy_image(sector, true)?,
            ebr: Vec::new(),
            mbr_sector: self.mbr.image(sector)?,
        })
    }

    fn copy_image(&self, sector: Bytes, primary: bool) -> Result<Vec<Patch>> {
        let (mut device, size) = (Sparse::default(), block_size(sector));
        let mut header = self.header(sector, primary)?;
        let (start, count) = (header.part_start, u64::from(self.entry_count));
        let failed = |error: String| Error::refused(format!("the GPT cannot be made: {error}"));
        Entry::write_zero_entries_to_device(&mut device, 0, count, start, size, ENTRY)
            .map_err(|error| failed(error.to_string()))?;
        for partition in &self.partitions {
            let index = u64::from(partition.number).saturating_sub(1);
            entry_of(partition, sector)?
                .write_to_device(&mut device, index, start, size, ENTRY)
                .map_err(|error| failed(error.to_string()))?;
        }
        let written = if primary {
            header.write_primary(&mut device, size)
        } else {
            header.write_backup(&mut device, size)
        };
        written.map_err(|error| failed(error.to_string()))?;
        Ok(device.into_patches())
    }

    fn header(&self, sector: Bytes, primary: bool) -> Result<Header> {
        let backup = lba("the backup GPT header", self.backup, sector)?;
        let (current_lba, backup_lba, entries) =
            if primary { (1, backup, self.entries) } else { (backup, 1, self.backup_entries) };
        Ok(Header {
            signature: "EFI PART".into(),
            revision: (1, 0),
            header_size_le: HEADER,
            crc32: 0,
            reserved: 0,
            current_lba,
            backup_lba,
            first_usable: lba("the usable range", self.usable.start, sector)?,
            last_usable: lba("the usable range", self.usable.end, sector)?.saturating_sub(1),
            disk_guid: parse_guid("the disk", &self.guid)?,
            part_start: lba("the GPT entries", entries, sector)?,
            num_parts: self.entry_count,
            part_size: ENTRY,
            crc32_parts: 0,
        })
    }
}

fn parse_guid(whose: &str, text: &str) -> Result<Uuid> {
    Uuid::parse_str(text)
        .map_err(|_| Error::corrupt(format!("{whose}'s GUID"), Bytes::ZERO, "a GUID", text))
}

fn entry_of(partition: &Partition, sector: Bytes) -> Result<Entry> {
    let (title, extent) = (partition.title(), partition.extent);
    let name = partition.name.clone().unwrap_or_default();
    if name.encode_utf16().count() > NAME {
        let expected = format!("{NAME} UTF-16 units at most");
        return Err(Error::corrupt(format!("{title}'s name"), extent.start, expected, name));
    }
    let guid = parse_guid(&title, &partition.kind)?;
    if guid.is_nil() {
        return Err(Error::corrupt(format!("{title}'s type"), extent.start, "a type", "none"));
    }
    Ok(Entry {
        part_type_guid: Type { guid, os: OperatingSystem::None },
        part_guid: parse_guid(&title, partition.uuid.as_deref().unwrap_or_default())?,
        first_lba: lba(&title, extent.start, sector)?,
        last_lba: lba(&title, extent.end, sector)?.saturating_sub(1),
        flags: partition.attributes,
        name,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::{
        Wanted, gpt_bytes, places_of, read_table, resum, wanted, written,
    };
    use super::super::table::{self, Table};
    use super::*;
    use crate::io::memory::Memory;

    const SECTOR: Bytes = Bytes::new(512);

    fn disk(bytes: Vec<u8>) -> Memory {
        Memory::with_sectors(bytes, SECTOR)
    }

    fn sample() -> Vec<u8> {
        gpt_bytes(Bytes::mib(8), SECTOR, 128, &[wanted(1, 1, 2), wanted(2, 3, 1), wanted(7, 5, 2)])
    }

    /// The same entries as the oracle sees, by number.
    fn oracle(bytes: &[u8], sector: Bytes) -> Vec<(u32, gptman::GPTPartitionEntry)> {
        let gpt = gptman::GPT::read_from(&mut Cursor::new(bytes), sector.get()).unwrap();
        let used = gpt.iter().filter(|(_, entry)| entry.is_used());
        used.map(|(number, entry)| (number, entry.clone())).collect()
    }

    #[test]
    fn numbers_and_identifiers_survive_a_move_to_a_larger_disk() {
        for (count, list) in [
            (128, vec![wanted(1, 1, 2), wanted(2, 3, 1), wanted(7, 5, 2)]),
            (256, vec![wanted(1, 1, 2), wanted(200, 4, 1)]),
            (4, vec![wanted(4, 1, 1)]),
        ] {
            let bytes = gpt_bytes(Bytes::mib(8), SECTOR, count, &list);
            let table = read_table(&disk(bytes.clone()));
            let target = Bytes::new((16 << 20) + 777);
            let moved = table.moved(target, SECTOR, &places_of(&table)).unwrap();
            let target = written(&moved, target, SECTOR).into_bytes();
            assert_eq!(oracle(&bytes, SECTOR), oracle(&target, SECTOR));
            assert_eq!(oracle(&target, SECTOR).len(), list.len());
            assert_eq!(read_table(&disk(target)), moved);
        }
    }

    #[test]
    fn a_damaged_copy_is_replaced_by_the_other() {
        let good = read_table(&disk(sample()));
        let (end, entry) = (8 << 20, 1024 + 56);
        // The primary header, its array, the backup header, its array: one byte each.
        for (at, word) in [
            (512 + 60, "primary"),
            (entry, "primary"),
            (end - 452, "backup"),
            (end - 512 - 16384, "backup"),
        ] {
            let mut bytes = sample();
            bytes[at] ^= 1;
            let found = table::read(&disk(bytes)).unwrap().unwrap();
            assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
            assert!(found.warnings[0].contains(word), "{:?}", found.warnings);
            assert_eq!(found.table, good, "byte {at}");
        }
        let mut bytes = sample();
        bytes[512 + 60] ^= 1;
        bytes[end - 452] ^= 1;
        let error = table::read(&disk(bytes)).unwrap_err().to_string();
        assert!(error.contains("GPT header CRC at byte 528"), "{error}");
    }

    #[test]
    fn an_enlarged_disk_keeps_its_backup_in_the_table_until_it_moves() {
        let mut bytes = sample();
        bytes.resize(12 << 20, 0);
        let source = disk(bytes);
        let table = read_table(&source);
        let Table::Gpt(gpt) = &table else { panic!("{table:?}") };
        assert_eq!(gpt.backup, Bytes::new((8 << 20) - 512));
        let own = table.own_bytes(Bytes::mib(12), SECTOR);
        let blocks: Vec<_> = own.iter().map(|e| (e.start.get(), e.end.get())).collect();
        assert_eq!(blocks, [(440, 17408), ((8 << 20) - 512 - 16384, 8 << 20)]);
        let moved = table.moved(Bytes::mib(12), SECTOR, &places_of(&table)).unwrap();
        let Table::Gpt(gpt) = &moved else { panic!("{moved:?}") };
        assert_eq!(gpt.backup, Bytes::new((12 << 20) - 512));
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let mut overlapping = sample();
        // Entry 2 starts where partition 1 has its last sector.
        overlapping[1024 + 128 + 32..1024 + 128 + 40].copy_from_slice(&6143u64.to_le_bytes());
        resum(&mut overlapping);
        let error = table::read(&disk(overlapping)).unwrap_err().to_string();
        assert!(error.contains("partition 2") && error.contains("partition 1"), "{error}");

        let table = read_table(&disk(sample()));
        let places = places_of(&table);
        let refused = |target, sector, places: &BTreeMap<u32, Extent>| {
            let error = table.moved(target, Bytes::new(sector), places).unwrap_err();
            assert_eq!(error.kind(), "refused", "{error}");
            error.to_string()
        };
        assert!(refused(Bytes::mib(6), 512, &places).contains("partition 7"));
        let mut odd = places.clone();
        odd.insert(2, Extent::new(Bytes::new((3 << 20) + 512), Bytes::mib(4)));
        assert!(refused(Bytes::mib(9), 4096, &odd).contains("partition 2"));
        odd.remove(&7);
        assert!(refused(Bytes::mib(9), 512, &odd).contains("partition 7 has no place"));
        assert!(refused(Bytes::kib(16), 512, &places).contains("no room for a GPT"));
    }

    #[test]
    fn unknown_revisions_and_entry_sizes_are_not_guessed() {
        for (at, value, what) in [
            (512 + 84, 256u32, "entries of 256 bytes"),
            (512 + 80, 4096, "4096 entries"),
            (512 + 8, 0x2_0000, "revision 2.0"),
        ] {
            let mut bytes = sample();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            resum(&mut bytes);
            let error = table::read(&disk(bytes)).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert_eq!(error.kind(), "unsupported");
        }
    }

    #[test]
    fn tables_move_between_sector_sizes_by_bytes() {
        let (small, large) = (Bytes::new(512), Bytes::BLOCK);
        let table = read_table(&disk(sample()));
        let there = table.moved(Bytes::mib(8), large, &places_of(&table)).unwrap();
        let bytes = written(&there, Bytes::mib(8), large).into_bytes();
        assert_eq!(table::detect_sector_size(&disk(bytes.clone())), Some(large));
        assert_eq!(oracle(&bytes, large)[2].1.starting_lba, (5 << 20) / 4096);
        assert_eq!(places_of(&there), places_of(&table));
        let back = there.moved(Bytes::mib(8), small, &places_of(&there)).unwrap();
        assert_eq!(places_of(&back), places_of(&table));
        assert_eq!(table::detect_sector_size(&written(&back, Bytes::mib(8), small)), Some(small));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_oracle_reads_what_was_moved(
            layout in prop::collection::btree_map(1..=160u32, any::<Wanted>(), 0..12),
            count in 160..=256u32,
            growth in 0..32u64,
        ) {
            let mut start = 1;
            let list: Vec<Wanted> = layout.into_iter().map(|(number, wanted)| {
                let wanted = Wanted { number, start, ..wanted };
                start += wanted.length + u64::from(number % 3);
                wanted
            }).collect();
            let bytes = gpt_bytes(Bytes::mib(64), SECTOR, count, &list);
            let table = read_table(&disk(bytes.clone()));
            prop_assert_eq!(table.partitions().len(), list.len());
            for (partition, wanted) in table.partitions().iter().zip(&list) {
                prop_assert_eq!(partition.attributes, wanted.attributes);
                prop_assert_eq!(partition.name.as_deref().unwrap_or_default(), &wanted.name);
            }
            let distance = Bytes::mib(growth);
            let places = places_of(&table);
            let places =
                places.into_iter().map(|(number, e)| (number, e.shifted(distance))).collect();
            let target = Bytes::mib(64) + distance;
            let moved = table.moved(target, SECTOR, &places).unwrap();
            let there = written(&moved, target, SECTOR).into_bytes();
            let mut expected = oracle(&bytes, SECTOR);
            for (_, entry) in &mut expected {
                entry.starting_lba += distance.units(SECTOR);
                entry.ending_lba += distance.units(SECTOR);
            }
            prop_assert_eq!(oracle(&there, SECTOR), expected);
            prop_assert_eq!(read_table(&disk(there)), moved);
        }
    }
}
