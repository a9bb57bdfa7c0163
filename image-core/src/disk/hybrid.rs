//! The MBR in front of a GPT: protective, or hybrid where it also names some of the GPT's partitions.
//!
//! The GPT is the truth; these entries follow its partitions when they move.

use serde::{Deserialize, Serialize};

use super::mbr::{Sector, SectorEntry};
use super::table::{Partition, Patch};
use crate::error::Result;
use crate::extent::Extent;
use crate::units::Bytes;

/// Type of the entry that keeps other tools off a GPT's space.
const PROTECTIVE: &str = "0xee";
/// An entry's length saturates here where the disk is larger.
const MOST_SECTORS: u64 = 0xffff_ffff;

/// An MBR that shadows a GPT.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Shadow {
    /// Disk signature (bytes 440..444), eight hexadecimal digits.
    pub signature: String,
    /// Bytes 444..446.
    pub reserved: u16,
    /// The used entries, and protective ones without a length.
    pub entries: Vec<ShadowEntry>,
}

/// One entry of the MBR in front of a GPT.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ShadowEntry {
    /// Place in the MBR, 1 to 4.
    pub slot: u8,
    /// Type byte, as `0xee`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is marked as active.
    pub boot: bool,
    /// Its bytes; a protective one may claim more than the disk has.
    pub extent: Extent,
    /// The GPT partition with the same bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirrors: Option<u32>,
}

impl Shadow {
    pub(super) fn of(boot: &Sector, partitions: &[Partition], sector: Bytes) -> Self {
        let entries = boot.used_or_protective(sector).map(|(slot, entry)| ShadowEntry {
            slot,
            mirrors: partitions
                .iter()
                .find(|partition| partition.extent == entry.extent)
                .map(|partition| partition.number),
            kind: entry.kind,
            boot: entry.boot,
            extent: entry.extent,
        });
        Self { signature: boot.signature(), reserved: boot.reserved(), entries: entries.collect() }
    }

    /// The same entries where the partitions they mirror are now; what is protected again reaches to
    /// the next mirrored partition, or to the end of the disk.
    pub(super) fn moved(
        &self,
        old: &[Partition],
        new: &[Partition],
        target: Bytes,
        sector: Bytes,
    ) -> Self {
        let place = |of: &[Partition], entry: &ShadowEntry| {
            of.iter().find(|part| Some(part.number) == entry.mirrors).map(|part| part.extent)
        };
        let mirrored: Vec<(Extent, Extent)> = self
            .entries
            .iter()
            .filter_map(|entry| Some((place(old, entry)?, place(new, entry)?)))
            .collect();
        let protect = |was: Extent| {
            let before = mirrored.iter().filter(|(old, _)| old.end <= was.start);
            let behind = mirrored.iter().filter(|(old, _)| old.start >= was.end);
            let start = before.map(|(_, new)| new.end).max().unwrap_or(sector);
            let end = behind.map(|(_, new)| new.start).min().unwrap_or(target);
            let most = sector.checked_mul(MOST_SECTORS).unwrap_or(Bytes::MAX);
            Extent::new(start, end.min(start.saturating_add(most)))
        };
        let entries = self.entries.iter().map(|entry| ShadowEntry {
            extent: match place(new, entry) {
                Some(extent) => extent,
                None if entry.kind == PROTECTIVE => protect(entry.extent),
                None => entry.extent,
            },
            ..entry.clone()
        });
        Self { entries: entries.collect(), ..self.clone() }
    }

    pub(super) fn image(&self, sector: Bytes) -> Result<Patch> {
        let mut boot = Sector::new(&self.signature, self.reserved)?;
        for entry in &self.entries {
            let title = format!("entry {} of the hybrid MBR", entry.slot);
            boot.set(
                &title,
                entry.slot,
                &SectorEntry { kind: entry.kind.clone(), boot: entry.boot, extent: entry.extent },
                sector,
            )?;
        }
        boot.patch()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{gpt_bytes, places_of, read_table, wanted, written};
    use super::super::table::Table;
    use super::*;
    use crate::io::memory::Memory;

    const SECTOR: Bytes = Bytes::new(512);

    fn entries(table: &Table) -> Vec<(u8, &str, u64, u64, Option<u32>)> {
        let Table::Gpt(gpt) = table else { panic!("{table:?}") };
        let sectors = |at: Bytes| at.units(SECTOR);
        gpt.mbr
            .entries
            .iter()
            .map(|e| {
                (e.slot, e.kind.as_str(), sectors(e.extent.start), sectors(e.extent.end), e.mirrors)
            })
            .collect()
    }

    #[test]
    fn a_protective_mbr_covers_the_new_disk() {
        let bytes = gpt_bytes(Bytes::mib(8), SECTOR, 128, &[wanted(1, 1, 2)]);
        let table = read_table(&Memory::new(bytes));
        assert_eq!(entries(&table), [(1, "0xee", 1, 16384, None)]);
        let places = places_of(&table);
        let moved = table.moved(Bytes::mib(20), SECTOR, &places).unwrap();
        assert_eq!(entries(&moved), [(1, "0xee", 1, 40960, None)]);
        let huge = table.moved(Bytes::gib(3 << 10), SECTOR, &places).unwrap();
        assert_eq!(entries(&huge), [(1, "0xee", 1, 1 << 32, None)]);
        let image = huge.image(Bytes::gib(3 << 10), SECTOR).unwrap();
        assert_eq!(
            image.mbr_sector.1[6..22],
            *b"\0\0\x02\0\xee\xff\xff\xff\x01\0\0\0\xff\xff\xff\xff"
        );
    }

    #[test]
    fn a_protective_entry_without_a_length_protects_again() {
        let mut bytes = gpt_bytes(Bytes::mib(8), SECTOR, 128, &[wanted(1, 1, 2)]);
        bytes[446 + 12..446 + 16].fill(0);
        let table = read_table(&Memory::new(bytes));
        assert_eq!(entries(&table), [(1, "0xee", 1, 1, None)]);
        assert_eq!(read_table(&written(&table, Bytes::mib(8), SECTOR)), table);
        let moved = table.moved(Bytes::mib(20), SECTOR, &places_of(&table)).unwrap();
        assert_eq!(entries(&moved), [(1, "0xee", 1, 40960, None)]);
    }

    #[test]
    fn hybrid_entries_follow_their_partitions() {
        let list = [wanted(1, 1, 1), wanted(2, 3, 1), wanted(3, 5, 2)];
        let mut bytes = gpt_bytes(Bytes::mib(8), SECTOR, 128, &list);
        let mut entry = |slot: usize, boot: u8, kind: u8, start: u32, sectors: u32| {
            let at = 446 + 16 * slot;
            bytes[at..at + 16].fill(0);
            (bytes[at], bytes[at + 4]) = (boot, kind);
            bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        };
        entry(0, 0, 0xee, 1, 6143);
        entry(1, 0x80, 0x07, 6144, 2048);
        entry(2, 0, 0x0c, 10240, 4096);
        entry(3, 0, 0xee, 14336, 2048);
        let table = read_table(&Memory::new(bytes));
        assert_eq!(
            entries(&table),
            [
                (1, "0xee", 1, 6144, None),
                (2, "0x07", 6144, 8192, Some(2)),
                (3, "0x0c", 10240, 14336, Some(3)),
                (4, "0xee", 14336, 16384, None)
            ]
        );
        let mut places = places_of(&table);
        places.insert(2, Extent::new(Bytes::mib(4), Bytes::mib(6)));
        places.insert(3, Extent::new(Bytes::mib(7), Bytes::mib(12)));
        let moved = table.moved(Bytes::mib(16), SECTOR, &places).unwrap();
        assert_eq!(
            entries(&moved),
            [
                (1, "0xee", 1, 8192, None),
                (2, "0x07", 8192, 12288, Some(2)),
                (3, "0x0c", 14336, 24576, Some(3)),
                (4, "0xee", 24576, 32768, None)
            ]
        );
        let Table::Gpt(gpt) = &moved else { panic!() };
        assert!(gpt.mbr.entries[1].boot);
        assert_eq!(read_table(&written(&moved, Bytes::mib(16), SECTOR)), moved);
    }
}
