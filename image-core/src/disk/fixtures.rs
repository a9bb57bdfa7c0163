//! Tables in memory for the tests of this room, made by other hands than the code under test.

use std::collections::BTreeMap;
use std::io::Cursor;

use gptman::{GPT, GPTPartitionEntry};
use proptest::prelude::{Arbitrary, BoxedStrategy, Strategy, any};

use super::table::{self, Ebr, MbrTable, Partition, Table};
use crate::extent::Extent;
use crate::io::memory::Memory;
use crate::io::{BlockSink, BlockSource};
use crate::units::Bytes;

/// A GPT partition to make; start and length in MiB.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) number: u32,
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) kind: [u8; 16],
    pub(crate) uuid: [u8; 16],
    pub(crate) attributes: u64,
    pub(crate) name: String,
}

pub(crate) fn wanted(number: u32, start: u64, length: u64) -> Wanted {
    let tag = u8::try_from(number).unwrap();
    Wanted {
        number,
        start,
        length,
        kind: [0x11; 16],
        uuid: [tag; 16],
        attributes: 0x9000_0000_0000_0004,
        name: format!("Größe {number}"),
    }
}

impl Arbitrary for Wanted {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let name = "[^\\x00\u{10000}-\u{10ffff}]{0,36}";
        (1..5u64, any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u64>(), name)
            .prop_filter("an entry without a type is unused", |(_, kind, ..)| *kind != [0; 16])
            .prop_map(|(length, kind, uuid, attributes, name)| Self {
                number: 0,
                start: 0,
                length,
                kind,
                uuid,
                attributes,
                name,
            })
            .boxed()
    }
}

/// A GPT with these partitions, as gptman makes it.
pub(crate) fn gpt_bytes(size: Bytes, sector: Bytes, count: u32, list: &[Wanted]) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; size.index().unwrap()]);
    let mut gpt = GPT::new_from(&mut disk, sector.get(), [0xab; 16]).unwrap();
    if count != 128 {
        let array = Bytes::new(u64::from(count) * 128).align_up(sector).units(sector);
        gpt.header.number_of_partition_entries = count;
        gpt.header.first_usable_lba = 2 + array;
        gpt.header.last_usable_lba = size.units(sector) - 2 - array;
        let mut bytes = vec![0; size.index().unwrap()];
        let mut primary = Cursor::new(&mut bytes);
        gpt.header
            .write_into(
                &mut primary,
                sector.get(),
                &vec![GPTPartitionEntry::empty(); count as usize],
            )
            .unwrap();
        gpt = GPT::read_from(&mut Cursor::new(&bytes), sector.get()).unwrap();
        disk = Cursor::new(bytes);
    }
    for wanted in list {
        let (start, end) = (wanted.start << 20, (wanted.start + wanted.length) << 20);
        gpt[wanted.number] = GPTPartitionEntry {
            partition_type_guid: wanted.kind,
            unique_partition_guid: wanted.uuid,
            starting_lba: start / sector.get(),
            ending_lba: end / sector.get() - 1,
            attribute_bits: wanted.attributes,
            partition_name: wanted.name.as_str().into(),
        };
    }
    gpt.write_into(&mut disk).unwrap();
    GPT::write_protective_mbr_into(&mut disk, sector.get()).unwrap();
    disk.into_inner()
}

/// Makes the primary GPT's checksums right again, for 128 entries and 512-byte sectors.
pub(crate) fn resum(bytes: &mut [u8]) {
    let entries = crc32fast::hash(&bytes[1024..1024 + 128 * 128]);
    bytes[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    bytes[512 + 16..512 + 20].fill(0);
    let header = crc32fast::hash(&bytes[512..512 + 92]);
    bytes[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

/// The table's image on a disk of zeros.
pub(crate) fn written(table: &Table, size: Bytes, sector: Bytes) -> Memory {
    let disk = Memory::with_sectors(vec![0; size.index().unwrap()], sector);
    let image = table.image(size, sector).unwrap();
    let parts = [image.backup, image.primary, image.ebr, vec![image.mbr_sector]];
    for (at, bytes) in parts.into_iter().flatten() {
        disk.write_at(at, &bytes).unwrap();
    }
    disk
}

/// The table that is there, without warnings.
pub(crate) fn read_table(source: &dyn BlockSource) -> Table {
    let found = table::read(source).unwrap().unwrap();
    assert_eq!(found.warnings, Vec::<String>::new());
    found.table
}

/// Where the partitions are.
pub(crate) fn places_of(table: &Table) -> BTreeMap<u32, Extent> {
    table.partitions().iter().map(|part: &Partition| (part.number, part.extent)).collect()
}

/// An MBR of primary partitions (number, type, start and length in MiB) and logical ones in chain
/// order (type, start, length) in an extended partition 4 that starts a MiB before the lowest of them.
/// The first is active. Each EBR stands a MiB before its partition; the first, at the extended one's
/// start, may push another one's to the sector behind it.
pub(crate) fn mbr_table(primary: &[(u32, u8, u64, u64)], logical: &[(u8, u64, u64)]) -> Table {
    let signature = "c0ffee42";
    let partition = |number: u32, kind: u8, start: u64, length: u64| Partition {
        number,
        extent: Extent::at(Bytes::mib(start), Bytes::mib(length)).unwrap(),
        kind: format!("0x{kind:02x}"),
        uuid: Some(format!("{signature}-{number:02x}")),
        name: None,
        attributes: if number == 1 { 0x80 } else { 0 },
    };
    let mut partitions: Vec<_> = primary
        .iter()
        .map(|(n, kind, start, length)| partition(*n, *kind, *start, *length))
        .collect();
    let mut ebrs = Vec::new();
    if let Some(start) = logical.iter().map(|(_, start, _)| start - 1).min() {
        let end = logical.iter().map(|(_, start, length)| start + length).max().unwrap();
        partitions.push(partition(4, 0x0f, start, end + 1 - start));
        for (number, (kind, at, length)) in (5..).zip(logical) {
            partitions.push(partition(number, *kind, *at, *length));
            let at = match number {
                5 => Bytes::mib(start),
                _ if *at == start + 1 => Bytes::mib(start) + Bytes::new(512),
                _ => Bytes::mib(at - 1),
            };
            ebrs.push(Ebr { at, logical: Some(number) });
        }
    }
    Table::Mbr(MbrTable { signature: signature.into(), reserved: 0x5a5a, partitions, ebrs })
}
