//! Partition tables of every kind: read from a disk, moved to another, made into bytes to write.
//!
//! These values are stored in images, so they are plain, and a stored one is as hostile as a disk: every
//! function checks before it computes. Positions are bytes from the start of the disk; the sector size
//! that the disk counts in comes from outside, and decides only what is written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::ebr::Ebr;
pub use super::gpt::GptTable;
pub use super::hybrid::{Shadow, ShadowEntry};
pub use super::mbr::MbrTable;
use super::{gpt, mbr, probe};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::BlockSource;
use crate::units::Bytes;

/// Bytes to write at a position of the disk.
pub type Patch = (Bytes, Vec<u8>);

/// The partition table of a disk.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Table {
    /// GUID partition table, with the MBR in front of it.
    Gpt(GptTable),
    /// Master boot record with its logical partitions.
    Mbr(MbrTable),
}

/// One partition; extended partitions count as one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Partition {
    /// What the kernel numbers it: the place in the table from 1, logical ones from 5 in chain order.
    pub number: u32,
    /// Its bytes, counted from the start of the disk.
    pub extent: Extent,
    /// GPT: type GUID in lower case. MBR: type byte, as `0x83`.
    #[serde(rename = "type")]
    pub kind: String,
    /// PARTUUID as blkid writes it; none for an MBR without a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// GPT name (PARTLABEL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// GPT: the entry's 64 attribute bits. MBR: the boot flag, 0 or 0x80.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attributes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a partition's type says about who looks after its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartitionRole {
    /// EFI system partition.
    Esp,
    /// Boot loader code without a filesystem: BIOS boot, PReP.
    BiosBoot,
    /// Microsoft reserved.
    Msr,
    /// Windows recovery environment.
    WinRe,
    /// LVM physical volume.
    Lvm,
    /// Linux swap.
    Swap,
    /// Holds the logical partitions of an MBR.
    Extended,
    /// Anything else.
    Other,
}

/// Types by role; GUIDs from the UEFI and Discoverable Partitions specifications and Microsoft's
/// PARTITION_INFORMATION_GPT, bytes from the `fdisk` list.
const ROLES: [(&str, PartitionRole); 15] = [
    ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", PartitionRole::Esp),
    ("21686148-6449-6e6f-744e-656564454649", PartitionRole::BiosBoot),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", PartitionRole::BiosBoot),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", PartitionRole::Msr),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", PartitionRole::WinRe),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", PartitionRole::Lvm),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", PartitionRole::Swap),
    ("0xef", PartitionRole::Esp),
    ("0x41", PartitionRole::BiosBoot),
    ("0x27", PartitionRole::WinRe),
    ("0x8e", PartitionRole::Lvm),
    ("0x82", PartitionRole::Swap),
    ("0x05", PartitionRole::Extended),
    ("0x0f", PartitionRole::Extended),
    ("0x85", PartitionRole::Extended),
];

impl Partition {
    /// What its type makes it.
    pub fn role(&self) -> PartitionRole {
        ROLES
            .iter()
            .find(|(kind, _)| *kind == self.kind)
            .map_or(PartitionRole::Other, |(_, role)| *role)
    }

    /// Whether it is a logical partition of an MBR, which a record stands before.
    pub fn is_logical(&self) -> bool {
        self.number > 4 && self.kind.starts_with("0x")
    }

    /// How messages call it.
    pub(super) fn title(&self) -> String {
        format!("partition {}", self.number)
    }
}

/// A table that was read, and what about it the user should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The table.
    pub table: Table,
    /// Whole sentences without their full stop: a broken primary GPT whose backup was used.
    pub warnings: Vec<String>,
}

/// What to write for a table, in the order in which it becomes valid: a write that stops in between
/// leaves a disk that no firmware and no kernel finds partitions on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableImage {
    /// Backup GPT: entries, header.
    pub backup: Vec<Patch>,
    /// Primary GPT: header, entries.
    pub primary: Vec<Patch>,
    /// The sectors of the logical partitions' EBRs.
    pub ebr: Vec<Patch>,
    /// Bytes 440..512: MBR disk signature, entries, 55 AA. Last, because it is what makes the rest seen.
    pub mbr_sector: Patch,
}

/// Disk as the tables' readers see it: a source, and the sector size to count in.
#[derive(Clone, Copy)]
pub(super) struct Disk<'a> {
    pub(super) source: &'a dyn BlockSource,
    pub(super) sector: Bytes,
}

impl Disk<'_> {
    /// Bytes of sector `lba`; an error where the disk is smaller.
    pub(super) fn sector_at(&self, structure: &str, lba: u64) -> Result<Extent> {
        self.sector
            .checked_mul(lba)
            .and_then(|start| Extent::at(start, self.sector))
            .filter(|extent| extent.end <= self.source.size())
            .ok_or_else(|| {
                let end = format!("a sector of the disk's {}", self.sectors());
                Error::corrupt(structure, Bytes::ZERO, end, format!("sector {lba}"))
            })
    }

    /// Number of whole sectors.
    pub(super) fn sectors(&self) -> u64 {
        self.source.size().units(self.sector)
    }

    pub(super) fn read(&self, extent: Extent) -> Result<Vec<u8>> {
        let length = extent.len().index().unwrap_or(usize::MAX);
        self.source.read(extent.start, length)
    }
}

/// The partition table of a disk, counted in its sector size; `None` where there is none, also where
/// a filesystem's boot sector merely looks like one.
///
/// # Errors
/// [`Error::Corrupt`] for a table that contradicts itself or the disk's size (and for a GPT of which
/// neither copy can be read), [`Error::Unsupported`] for kinds this version cannot keep, [`Error::Io`].
pub fn read(source: &dyn BlockSource) -> Result<Option<Found>> {
    read_in_sectors_of(source, source.sector_size())
}

/// The sector size that the table of an image file counts in, where it has a table that fits; an MBR
/// without logical partitions fits both, and counts as 512.
pub fn detect_sector_size(source: &dyn BlockSource) -> Option<Bytes> {
    [Bytes::new(512), Bytes::BLOCK]
        .into_iter()
        .find(|size| matches!(read_in_sectors_of(source, *size), Ok(Some(_))))
}

fn read_in_sectors_of(source: &dyn BlockSource, sector: Bytes) -> Result<Option<Found>> {
    let disk = Disk { source, sector };
    read_disk(&disk).map_err(|error| error.on(&source.name()))
}

fn read_disk(disk: &Disk<'_>) -> Result<Option<Found>> {
    check_sector_size(disk.sector)?;
    if disk.sectors() < 2 {
        return Ok(None);
    }
    let Some(boot) = mbr::Sector::read(disk, Bytes::ZERO)? else { return Ok(None) };
    if boot.is_protective() {
        return gpt::read(disk, &boot).map(Some);
    }
    let table = mbr::read(disk, &boot);
    if explained_by_a_filesystem(disk, &table)? {
        return Ok(None);
    }
    Ok(Some(Found { table: Table::Mbr(table?), warnings: Vec::new() }))
}

/// Whether 55 AA without a sensible table is better explained by what else is on the disk: by anything
/// where there are no entries, by a boot sector or a hybrid ISO where the entries contradict themselves.
fn explained_by_a_filesystem(disk: &Disk<'_>, table: &Result<MbrTable>) -> Result<bool> {
    let empty = match table {
        Ok(table) if table.partitions.is_empty() => true,
        Err(Error::Corrupt { .. }) => false,
        _ => return Ok(false),
    };
    let explains = |signature: &probe::Signature| {
        let boots = signature.offset.is_zero() || signature.name == "iso9660";
        signature.usage != probe::Usage::Table && !signature.copy && (empty || boots)
    };
    Ok(probe::signatures(disk.source)?.iter().any(explains))
}

/// The sizes that tables exist for.
pub(super) fn check_sector_size(sector: Bytes) -> Result<()> {
    if sector == Bytes::new(512) || sector == Bytes::BLOCK {
        return Ok(());
    }
    Err(Error::unsupported(format!("a partition table in sectors of {} bytes", sector.get())))
}

/// The sector that `position` (of `whose` start or end) is the first byte of.
pub(super) fn lba(whose: &str, position: Bytes, sector: Bytes) -> Result<u64> {
    if position.is_aligned(sector) {
        return Ok(position.units(sector));
    }
    let (at, sector) = (position.get(), sector.get());
    Err(Error::refused(format!(
        "{whose}: byte {at} is no multiple of the disk's {sector}-byte sectors"
    )))
}

/// Checks that the partitions are ordered by their numbers, each once.
pub(super) fn check_order(partitions: &[Partition]) -> Result<()> {
    for pair in partitions.windows(2) {
        if let [before, partition] = pair
            && before.number >= partition.number
        {
            let found = format!("after {}", before.title());
            let at = partition.extent.start;
            return Err(Error::corrupt(partition.title(), at, "ascending numbers", found));
        }
    }
    Ok(())
}

/// Checks that `items` lie within `bounds` and share no byte; they may come in any order and be broken.
pub(super) fn check_apart(bounds: Extent, mut items: Vec<(String, Extent)>) -> Result<()> {
    items.sort_by_key(|(_, extent)| (extent.start, extent.end));
    let mut before: Option<&(String, Extent)> = None;
    for item in &items {
        let (title, extent) = item;
        if extent.is_empty() || !bounds.contains(*extent) {
            let expected = format!("bytes within {bounds}");
            return Err(Error::corrupt(title, extent.start, expected, extent.to_string()));
        }
        if let Some((other, taken)) = before
            && extent.start < taken.end
        {
            let found = format!("{extent} that overlap {other} ({taken})");
            return Err(Error::corrupt(title, extent.start, "bytes of its own", found));
        }
        before = Some(item);
    }
    Ok(())
}

/// The partitions at their new places, each start and end on a sector of the target.
pub(super) fn placed<'a>(
    partitions: impl Iterator<Item = &'a Partition>,
    sector: Bytes,
    places: &BTreeMap<u32, Extent>,
) -> Result<Vec<Partition>> {
    let place = |partition: &Partition| {
        let title = partition.title();
        let extent = *places
            .get(&partition.number)
            .ok_or_else(|| Error::refused(format!("{title} has no place on the target")))?;
        lba(&title, extent.start, sector)?;
        lba(&title, extent.end, sector)?;
        Ok(Partition { extent, ..partition.clone() })
    };
    partitions.map(place).collect()
}

impl Table {
    /// All partitions, ordered by number.
    pub fn partitions(&self) -> &[Partition] {
        match self {
            Self::Gpt(table) => &table.partitions,
            Self::Mbr(table) => &table.partitions,
        }
    }

    /// Disk GUID, or MBR signature as eight hexadecimal digits: blkid's PTUUID.
    pub fn id(&self) -> &str {
        match self {
            Self::Gpt(table) => &table.guid,
            Self::Mbr(table) => &table.signature,
        }
    }

    /// What kind of table it is, as JSON names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gpt(_) => "gpt",
            Self::Mbr(_) => "mbr",
        }
    }

    /// Checks a stored table against the disk that it describes: everything has its place, shares no byte,
    /// and is what this version could have read there.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the partition; [`Error::Unsupported`] for a sector size without tables.
    pub fn check(&self, disk_size: Bytes, sector_size: Bytes) -> Result<()> {
        check_sector_size(sector_size)?;
        let disk = disk_size.align_down(sector_size);
        match self {
            Self::Gpt(table) => table.check(disk, sector_size),
            Self::Mbr(table) => table.check(disk, sector_size),
        }
    }

    /// Bytes that the table itself takes at the end of a disk.
    pub fn tail_bytes(&self, sector_size: Bytes) -> Bytes {
        match self {
            Self::Gpt(table) => table.tail_bytes(sector_size),
            Self::Mbr(_) => Bytes::ZERO,
        }
    }

    /// Where partitions must end at the latest on a disk of `size`.
    pub fn usable_end(&self, size: Bytes, sector_size: Bytes) -> Bytes {
        let end = size.saturating_sub(self.tail_bytes(sector_size)).align_down(sector_size);
        match self {
            Self::Gpt(_) => end,
            // An MBR counts start and length in 32 bits of sectors.
            Self::Mbr(_) => end.min(sector_size.checked_mul(1 << 32).unwrap_or(Bytes::MAX)),
        }
    }

    /// The bytes of the disk that are the table itself and nobody else's: what is saved or restored of
    /// the gaps around them must not hold these.
    pub fn own_bytes(&self, disk_size: Bytes, sector_size: Bytes) -> ExtentSet {
        let own = match self {
            Self::Gpt(table) => table.own(sector_size),
            Self::Mbr(table) => table.own(sector_size),
        };
        let disk = Extent::first(disk_size);
        let record = Extent::new(Bytes::new(mbr::CODE), Bytes::new(mbr::SIZE));
        let mut own: Vec<Extent> = own.into_iter().map(|(_, extent)| extent).collect();
        own.push(record);
        own.sort_unstable();
        own.into_iter().filter_map(|extent| extent.intersect(disk)).collect()
    }

    /// Boot code in front of the table: bytes 0..440, which no table writes.
    pub fn boot_code_extent() -> Extent {
        Extent::first(Bytes::new(mbr::CODE))
    }

    /// The same table for a disk of another size or sector size, with each partition at its place.
    ///
    /// `places` names every partition by number; only an extended partition may be left out, which then
    /// keeps its distance to the lowest logical one and is made large enough. All identifiers, numbers
    /// and attributes are kept; what a table says about the disk's own size is made new.
    ///
    /// # Errors
    /// [`Error::Refused`] naming the partition that has no place, or one that this disk or this kind of
    /// table cannot have.
    pub fn moved(
        &self,
        target_size: Bytes,
        sector_size: Bytes,
        places: &BTreeMap<u32, Extent>,
    ) -> Result<Self> {
        check_sector_size(sector_size)?;
        let target = target_size.align_down(sector_size);
        let moved = match self {
            Self::Gpt(table) => table.moved(target, sector_size, places).map(Self::Gpt),
            Self::Mbr(table) => table.moved(target, sector_size, places).map(Self::Mbr),
        }?;
        // Made once here, so that a plan which cannot be written is refused while it is a plan.
        moved.image(target_size, sector_size)?;
        Ok(moved)
    }

    /// What to write for this table on a disk of that size.
    ///
    /// # Errors
    /// [`Error::Refused`] where the table does not fit the disk or contradicts itself.
    pub fn image(&self, target_size: Bytes, sector_size: Bytes) -> Result<TableImage> {
        check_sector_size(sector_size)?;
        let target = target_size.align_down(sector_size);
        let image = match self {
            Self::Gpt(table) => table.image(target, sector_size),
            Self::Mbr(table) => table.image(target, sector_size),
        };
        image.map_err(|error| match error {
            Error::Corrupt { .. } => Error::refused(format!("the partition table: {error}")),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::fixtures::{
        gpt_bytes, mbr_table, places_of, read_table, resum, wanted, written,
    };
    use super::*;
    use crate::io::memory::Memory;

    const SECTOR: Bytes = Bytes::new(512);
    const SIZE: Bytes = Bytes::mib(12);

    static SAMPLES: LazyLock<[Table; 2]> = LazyLock::new(samples);

    fn samples() -> [Table; 2] {
        let list = [wanted(1, 1, 1), wanted(2, 3, 1), wanted(7, 5, 2)];
        let gpt = read_table(&Memory::new(gpt_bytes(SIZE, SECTOR, 128, &list)));
        let mbr = mbr_table(&[(1, 0x07, 1, 1)], &[(0x83, 8, 2), (0x82, 4, 1), (0x83, 6, 1)]);
        [gpt, mbr]
    }

    /// Does with a table whatever a caller might, and only asks that nothing panics.
    fn use_all_of(table: &Table) {
        for (size, sector) in [(SIZE, SECTOR), (Bytes::MAX, Bytes::BLOCK), (Bytes::ZERO, SECTOR)] {
            table.own_bytes(size, sector);
            let _ = table.image(size, sector);
            let _ = table.moved(size, sector, &places_of(table));
        }
    }

    #[test]
    fn what_is_stored_stays_readable() {
        let [gpt, mbr] = samples();
        for table in [&gpt, &mbr] {
            let text = serde_json::to_string(table).unwrap();
            assert_eq!(&serde_json::from_str::<Table>(&text).unwrap(), table);
        }
        let Table::Mbr(mbr) = mbr else { panic!() };
        let mbr = Table::Mbr(MbrTable {
            ebrs: Vec::new(),
            partitions: mbr.partitions[..1].into(),
            ..mbr
        });
        assert_eq!(
            serde_json::to_string(&mbr).unwrap(),
            r#"{"kind":"mbr","signature":"c0ffee42","reserved":23130,"partitions":[{"number":1,"extent":{"start":1048576,"end":2097152},"type":"0x07","uuid":"c0ffee42-01","attributes":128}]}"#
        );
    }

    #[test]
    fn an_image_makes_the_table_seen_last_and_writes_no_boot_code() {
        for table in samples() {
            let image = table.image(SIZE, SECTOR).unwrap();
            assert_eq!((image.mbr_sector.0, image.mbr_sector.1.len()), (Bytes::new(440), 72));
            let own = table.own_bytes(SIZE, SECTOR);
            let patches = [image.backup, image.primary, image.ebr, vec![image.mbr_sector]].concat();
            let written: ExtentSet = {
                let mut extents: Vec<_> = patches
                    .iter()
                    .map(|(at, bytes)| Extent::at(*at, Bytes::of(bytes)).unwrap())
                    .collect();
                extents.sort_unstable();
                extents.into_iter().collect()
            };
            assert_eq!(written, own);
        }
    }

    #[test]
    fn a_table_for_a_huge_disk_takes_no_memory_for_it() {
        let [gpt, _] = samples();
        let size = Bytes::gib(16 << 10);
        let moved = gpt.moved(size, SECTOR, &places_of(&gpt)).unwrap();
        let image = moved.image(size, SECTOR).unwrap();
        let end = image.backup.last().map(|(at, bytes)| *at + Bytes::of(bytes));
        assert_eq!(end, Some(size));
    }

    #[test]
    fn roles_follow_types() {
        let [_, mbr] = samples();
        let roles: Vec<_> = mbr.partitions().iter().map(Partition::role).collect();
        use PartitionRole::{Extended, Other, Swap};
        assert_eq!(roles, [Other, Extended, Other, Swap, Other]);
    }

    /// Replaces the `index`th number or text of a JSON value.
    fn replace(value: &mut Value, index: &mut usize, with: &Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|item| replace(item, index, with)),
            Value::Object(map) => map.values_mut().for_each(|item| replace(item, index, with)),
            Value::Null => (),
            _ if *index == 0 => {
                *value = with.clone();
                *index = usize::MAX;
            }
            _ => *index -= 1,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn damaged_tables_never_panic(
            which in 0..2usize,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            signed in any::<bool>(),
        ) {
            let table = &SAMPLES[which];
            let own = table.own_bytes(SIZE, SECTOR);
            let mut bytes = written(table, SIZE, SECTOR).into_bytes();
            for (index, value) in damage {
                let mut at = Bytes::from(index.index(own.total().index().unwrap()));
                // Most of the GPT's entries are unused: prefer the used ones and the header.
                if which == 0 {
                    at = Bytes::new(440 + at.get() % 2048);
                } else {
                    for extent in own.iter() {
                        if at < extent.len() {
                            at += extent.start;
                            break;
                        }
                        at -= extent.len();
                    }
                }
                bytes[at.index().unwrap()] = value;
            }
            if signed && which == 0 {
                resum(&mut bytes);
            }
            let source = Memory::new(bytes);
            detect_sector_size(&source);
            probe::signatures(&source).unwrap();
            if let Ok(Some(found)) = read(&source) {
                use_all_of(&found.table);
                prop_assert_eq!(read_table(&written(&found.table, SIZE, SECTOR)), found.table);
            }
        }

        #[test]
        fn made_up_stored_tables_never_panic(
            which in 0..2usize,
            index in 0..80usize,
            number in prop::sample::select(vec![0, 1, 511, 4096, u64::from(u32::MAX), 1 << 63, u64::MAX - 511, u64::MAX]),
            text in prop::option::of("0x[0-9a-f]{1,3}|[0-9a-f]{8}|\u{1f34c}{40}|"),
        ) {
            let mut value = serde_json::to_value(&SAMPLES[which]).unwrap();
            let with = text.map_or(Value::from(number), Value::from);
            replace(&mut value, &mut { index }, &with);
            if let Ok(table) = serde_json::from_value::<Table>(value) {
                use_all_of(&table);
            }
        }
    }
}
