//! Extended boot records: the chain of sectors that hold the logical partitions of an MBR.
//!
//! Each EBR lies somewhere in the extended partition, the first at its start. Its entry for the data
//! counts from the EBR itself; its link to the next EBR counts from the extended partition's start. The
//! chain need not be in disk order: numbers follow the chain.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::mbr::{MbrTable, Sector, SectorEntry, entry_of};
use super::table::{Disk, Partition, Patch};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::units::Bytes;

/// The kernel stops earlier (256 minors); this bounds a chain that somebody made up.
const MOST: usize = 1024;
/// Type of the links, whatever type the extended partition has: so write `fdisk` and Windows.
const LINK: &str = "0x05";

/// One EBR.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Ebr {
    /// Its position on the disk.
    pub at: Bytes,
    /// Number of the partition it holds; a deleted one leaves an EBR with nothing but a link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logical: Option<u32>,
}

/// Walks the chain; each EBR with its data entry, whose position is made absolute.
pub(super) fn read(disk: &Disk<'_>, container: Extent) -> Result<Vec<(Ebr, Option<SectorEntry>)>> {
    let (mut chain, mut seen) = (Vec::new(), BTreeSet::new());
    let (mut at, mut number) = (container.start, 5);
    loop {
        let place = Extent::new(at, at.saturating_add(disk.sector));
        if !container.contains(place) || !seen.insert(at) {
            let expected = format!("a new place within the extended partition ({container})");
            return Err(Error::corrupt("EBR chain", at, expected, "a link to this byte"));
        }
        if seen.len() > MOST {
            return Err(Error::unsupported(format!("a chain of more than {MOST} EBRs")));
        }
        let record = Sector::read(disk, at)?
            .ok_or_else(|| Error::corrupt("EBR", at, "55 AA and valid entries", "neither"))?;
        let (data, link) = entries(&record, at, disk.sector)?;
        let data = data.map(|entry| SectorEntry { extent: absolute(entry.extent, at), ..entry });
        let logical = data.is_some().then_some(number);
        chain.push((Ebr { at, logical }, data));
        number += u32::from(logical.is_some());
        match link {
            Some(link) => at = container.start.saturating_add(link.extent.start),
            None => return Ok(chain),
        }
    }
}

fn absolute(extent: Extent, origin: Bytes) -> Extent {
    Extent::new(origin.saturating_add(extent.start), origin.saturating_add(extent.end))
}

/// The data entry and the link of an EBR, which may stand in either order.
fn entries(
    record: &Sector,
    at: Bytes,
    sector: Bytes,
) -> Result<(Option<SectorEntry>, Option<SectorEntry>)> {
    let (mut data, mut link) = (None, None);
    for (slot, entry) in record.used(sector) {
        let place = if entry.is_extended() { &mut link } else { &mut data };
        if slot > 2 || place.replace(entry).is_some() {
            return Err(Error::unsupported(format!(
                "an EBR with several partitions ({})",
                at.get()
            )));
        }
    }
    Ok((data, link))
}

/// Checks that the chain begins where the container does and names each logical partition once, in
/// order, from an EBR before it.
pub(super) fn check(table: &MbrTable, container: &Partition) -> Result<()> {
    let wrong =
        |at, expected: &str, found: String| Error::corrupt("EBR chain", at, expected, found);
    let start = container.extent.start;
    match table.ebrs.first() {
        Some(first) if first.at == start => (),
        other => return Err(wrong(start, "an EBR here", format!("{other:?}"))),
    }
    let chained: Vec<u32> = table.ebrs.iter().filter_map(|ebr| ebr.logical).collect();
    let logical: Vec<u32> = table.logical().map(|partition| partition.number).collect();
    if chained != logical || !logical.iter().copied().eq((5..).take(logical.len())) {
        return Err(wrong(start, "partitions from 5 on", format!("{chained:?} and {logical:?}")));
    }
    for (ebr, partition) in held(table) {
        if ebr.at >= partition.extent.start {
            return Err(wrong(ebr.at, "an EBR before its partition", partition.title()));
        }
    }
    Ok(())
}

/// The EBRs that hold a partition, with it.
fn held(table: &MbrTable) -> impl Iterator<Item = (&Ebr, &Partition)> {
    table.ebrs.iter().filter(|ebr| ebr.logical.is_some()).zip(table.logical())
}

/// Extended partition and chain around `partitions`, the new places of the others.
///
/// Every EBR keeps its distance to its partition in whole sectors (one at least), the extended partition
/// the distance to the lowest of them, and the free space at its end as far as there is room.
pub(super) fn moved(
    table: &MbrTable,
    container: &Partition,
    partitions: &[Partition],
    wanted: Option<Extent>,
    (target, sector): (Bytes, Bytes),
) -> Result<(Extent, Vec<Ebr>)> {
    let places: BTreeMap<u32, Extent> =
        partitions.iter().map(|part| (part.number, part.extent)).collect();
    let mut ebrs = Vec::new();
    let mut start = wanted.map(|extent| extent.start);
    let mut reach = |place: Bytes| start = Some(start.map_or(place, |start| start.min(place)));
    let lowest = table.logical().min_by_key(|partition| partition.extent.start);
    for (ebr, partition) in held(table) {
        let (number, old) = (partition.number, partition.extent.start);
        let before = |distance: Bytes| {
            let place = places.get(&number).and_then(|new| new.start.checked_sub(distance));
            place.ok_or_else(|| {
                Error::refused(format!("there is no room for an EBR before partition {number}"))
            })
        };
        let mut at = ebr.at;
        // The first stands at the container's start, however far that is.
        if at != container.extent.start {
            at = before(old.saturating_sub(at).align_down(sector).max(sector))?;
            reach(at);
        }
        if lowest == Some(partition) {
            reach(before(old.saturating_sub(container.extent.start).align_up(sector))?);
        }
        ebrs.push(Ebr { at, logical: Some(number) });
    }
    let start = start.unwrap_or(container.extent.start);
    match ebrs
        .first_mut()
        .filter(|_| table.ebrs.first().is_some_and(|first| first.logical.is_some()))
    {
        Some(first) => first.at = start,
        None => ebrs.insert(0, Ebr { at: start, logical: None }),
    }
    let last = table.logical().max_by_key(|partition| partition.extent.end);
    let content = last.map_or(container.extent.start, |partition| partition.extent.end);
    let free = container.extent.end.saturating_sub(content);
    let used = places.iter().filter(|(number, _)| **number > 4).map(|(_, place)| place.end).max();
    let least = used.unwrap_or(start.saturating_add(sector));
    let next = places.iter().filter(|(number, _)| **number <= 4).map(|(_, place)| place.start);
    let room = next.filter(|next| *next >= least).min().unwrap_or(target).min(target);
    let kept = used.unwrap_or(start).saturating_add(free).min(room).align_down(sector);
    let end = wanted.map_or(kept, |wanted| wanted.end).max(least);
    Ok((Extent::new(start, end), ebrs))
}

/// The sectors of the chain.
pub(super) fn image(table: &MbrTable, container: Extent, sector: Bytes) -> Result<Vec<Patch>> {
    let mut logical = table.logical();
    let parts: Vec<(Ebr, Option<&Partition>)> =
        table.ebrs.iter().map(|ebr| (*ebr, ebr.logical.and_then(|_| logical.next()))).collect();
    let mut patches = Vec::new();
    for (index, (ebr, partition)) in parts.iter().enumerate() {
        let mut record = Sector::new("0", 0)?;
        let title = format!("the EBR at byte {}", ebr.at.get());
        if let Some(partition) = partition {
            let entry = entry_of(partition);
            let extent = counted_from(entry.extent, ebr.at);
            record.set(&partition.title(), 1, &SectorEntry { extent, ..entry }, sector)?;
        }
        if let Some((next, held)) = parts.get(index.saturating_add(1)) {
            // A link spans its EBR and what that holds.
            let end = held.map_or(next.at.saturating_add(sector), |partition| partition.extent.end);
            let extent = counted_from(Extent::new(next.at, end), container.start);
            let link = SectorEntry { kind: LINK.into(), boot: false, extent };
            record.set(&title, 2, &link, sector)?;
        }
        let mut bytes = record.bytes()?;
        bytes.resize(sector.index().unwrap_or(bytes.len()).max(bytes.len()), 0);
        patches.push((ebr.at, bytes));
    }
    Ok(patches)
}

fn counted_from(extent: Extent, origin: Bytes) -> Extent {
    Extent::new(extent.start.saturating_sub(origin), extent.end.saturating_sub(origin))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::{mbr_table, places_of, read_table, written};
    use super::super::table::{self, Table};
    use super::*;
    use crate::io::memory::Memory;

    const SECTOR: Bytes = Bytes::new(512);
    const SIZE: Bytes = Bytes::mib(100);

    #[test]
    fn a_deleted_first_partition_leaves_an_ebr_that_only_links() {
        let table = mbr_table(&[], &[(0x83, 2, 3), (0x82, 8, 2)]);
        let mut bytes = written(&table, SIZE, SECTOR).into_bytes();
        bytes[(1 << 20) + 446..(1 << 20) + 462].fill(0);
        let Table::Mbr(read) = read_table(&Memory::new(bytes)) else { panic!() };
        let chain: Vec<_> = read.ebrs.iter().map(|ebr| (ebr.at, ebr.logical)).collect();
        assert_eq!(chain, [(Bytes::mib(1), None), (Bytes::mib(7), Some(5))]);
        let read = Table::Mbr(read);
        let moved = read.moved(SIZE, SECTOR, &places_of(&read)).unwrap();
        assert_eq!(read_table(&written(&moved, SIZE, SECTOR)), read);
    }

    #[test]
    fn an_extended_partition_may_be_empty() {
        let Table::Mbr(mut table) = mbr_table(&[], &[(0x83, 2, 3)]) else { panic!() };
        table.partitions.truncate(1);
        table.ebrs[0].logical = None;
        let table = Table::Mbr(table);
        assert_eq!(read_table(&written(&table, SIZE, SECTOR)), table);
        let moved = table.moved(SIZE, SECTOR, &[].into()).unwrap();
        assert_eq!(moved, table);
    }

    #[test]
    fn a_made_up_chain_without_end_is_cut() {
        let table = mbr_table(&[], &[(0x83, 2, 80)]);
        let mut bytes = written(&table, SIZE, SECTOR).into_bytes();
        for index in 0..2000usize {
            let at = (1 << 20) + index * 512;
            bytes[at + 446..at + 510].fill(0);
            bytes[at + 450] = 5;
            bytes[at + 454..at + 458]
                .copy_from_slice(&u32::try_from(index + 1).unwrap().to_le_bytes());
            bytes[at + 458] = 1;
            bytes[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
        }
        let error = table::read(&Memory::new(bytes)).unwrap_err();
        assert_eq!(error.to_string(), "memory: a chain of more than 1024 EBRs is not supported");
    }

    proptest! {
        #[test]
        fn chains_in_any_order_are_kept_and_move(
            primary in 0..=3u32,
            lengths in prop::collection::vec((1..4u64, 0..3u64, any::<u64>()), 1..12),
            distance in 0..9u64,
            sector in prop::sample::select(vec![512u64, 4096]),
        ) {
            let list: Vec<_> = (0..primary).map(|n| (n + 1, 0x83, 1 + u64::from(n), 1)).collect();
            let mut start = 5;
            let mut logical: Vec<_> = lengths.iter().map(|(length, gap, order)| {
                start += 1 + gap + length;
                (*order, (0x83, start - length, *length))
            }).collect();
            logical.sort_unstable();
            let logical: Vec<_> = logical.into_iter().map(|(_, part)| part).collect();
            let table = mbr_table(&list, &logical);
            prop_assert_eq!(&read_table(&written(&table, SIZE, SECTOR)), &table);

            let sector = Bytes::new(sector);
            let mut places = places_of(&table);
            places.remove(&4);
            for (number, place) in &mut places {
                if *number > 4 {
                    *place = place.shifted(Bytes::mib(distance));
                }
            }
            let moved = table.moved(SIZE, sector, &places).unwrap();
            let mut there = places_of(&moved);
            there.remove(&4);
            prop_assert_eq!(there, places);
            let disk = written(&moved, SIZE, sector);
            prop_assert_eq!(&read_table(&disk), &moved);
            prop_assert_eq!(table::detect_sector_size(&disk), Some(sector));
            if sector == SECTOR && distance == 0 {
                prop_assert_eq!(moved, table);
            }
        }
    }
}
