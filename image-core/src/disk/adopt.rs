//! Partitions that stay on a disk which gets another table: how that table lists them.

use super::mbr::entry_of;
use super::table::{Partition, PartitionRole, Table};
use crate::error::{Error, Result};

impl Table {
    /// A number that no partition has: `wished` where it is free, else the lowest. In an MBR that of a
    /// primary partition.
    pub fn free_number(&self, wished: u32, taken: &[u32]) -> Option<u32> {
        let most = match self {
            Self::Gpt(table) => table.entry_count,
            Self::Mbr(_) => 4,
        };
        let is_free = |number: &u32| {
            let used = self.partitions().iter().any(|partition| partition.number == *number);
            !used && !taken.contains(number)
        };
        [wished].into_iter().filter(|wished| *wished <= most).chain(1..=most).find(is_free)
    }

    /// Lists `partition`, which stood in another table of this kind, under its number: instead of the one
    /// that has this number, or as one more. A GPT keeps all that its entry said; an MBR its type and its
    /// boot flag, which goes where another partition is marked.
    ///
    /// # Errors
    /// [`Error::Refused`] where this kind of table cannot have it.
    pub fn adopt(&mut self, mut partition: Partition) -> Result<()> {
        if partition.role() == PartitionRole::Extended {
            let title = partition.title();
            return Err(Error::refused(format!("{title} only holds other partitions")));
        }
        let number = partition.number;
        let partitions = match self {
            Self::Gpt(table) => &mut table.partitions,
            Self::Mbr(table) => {
                partition.uuid = (table.signature != "00000000")
                    .then(|| format!("{}-{number:02x}", table.signature));
                let marked = |other: &Partition| other.number != number && entry_of(other).boot;
                if number > 4 || table.partitions.iter().any(marked) {
                    partition.attributes = 0;
                }
                &mut table.partitions
            }
        };
        partitions.retain(|other| other.number != number);
        let twin = |other: &&Partition| other.uuid.is_some() && other.uuid == partition.uuid;
        if let Some(twin) = partitions.iter().find(twin) {
            return Err(Error::refused(format!(
                "{} and {} would have the same PARTUUID",
                partition.title(),
                twin.title()
            )));
        }
        partitions.push(partition);
        partitions.sort_by_key(|partition| partition.number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{gpt_bytes, mbr_table, places_of, read_table, wanted, written};
    use super::Table;
    use crate::extent::Extent;
    use crate::io::memory::Memory;
    use crate::units::Bytes;

    const SECTOR: Bytes = Bytes::new(512);
    const SIZE: Bytes = Bytes::mib(32);

    fn gpt(list: &[super::super::fixtures::Wanted]) -> Table {
        read_table(&Memory::new(gpt_bytes(SIZE, SECTOR, 128, list)))
    }

    fn listed(table: &Table) -> Table {
        table.image(SIZE, SECTOR).unwrap();
        read_table(&written(table, SIZE, SECTOR))
    }

    #[test]
    fn a_gpt_lists_what_stays_as_it_was() {
        let old = gpt(&[wanted(3, 1, 2), wanted(7, 20, 4)]);
        let mut new = gpt(&[wanted(1, 1, 4), wanted(2, 5, 5)]);
        assert_eq!(new.free_number(7, &[]), Some(7));
        assert_eq!(new.free_number(1, &[3]), Some(4));
        assert_eq!(new.free_number(200, &[]), Some(3));
        let kept = old.partitions()[1].clone();
        new.adopt(kept.clone()).unwrap();
        assert_eq!(listed(&new).partitions().last(), Some(&kept));
        assert!(new.adopt(crate::disk::table::Partition { number: 9, ..kept.clone() }).is_err());
        let instead = crate::disk::table::Partition { number: 2, uuid: None, ..kept };
        new.adopt(instead).unwrap();
        assert_eq!(new.partitions().len(), 3);
    }

    #[test]
    fn a_logical_partition_becomes_a_primary_one() {
        let old = mbr_table(&[], &[(0x83, 16, 4), (0x07, 21, 4)]);
        let mut new = mbr_table(&[(1, 0x83, 1, 4), (3, 0x82, 5, 2)], &[]);
        let mut kept = old.partitions().last().unwrap().clone();
        assert_eq!(kept.number, 6);
        kept.number = new.free_number(6, &[]).unwrap();
        new.adopt(kept.clone()).unwrap();
        let read = listed(&new);
        let found = &read.partitions()[1];
        assert_eq!((found.number, found.extent, found.kind.as_str()), (2, kept.extent, "0x07"));
        assert_eq!(found.uuid.as_deref(), Some("c0ffee42-02"));
        let all = Extent::first(SIZE);
        assert!(places_of(&new).values().all(|place| all.contains(*place)));
        let extended = old.partitions().iter().find(|part| part.number <= 4).unwrap();
        assert!(new.adopt(extended.clone()).is_err());
    }
}
