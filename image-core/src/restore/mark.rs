//! The mark of a restore that nobody attended: what keeps the same order from being carried out again on a disk where it
//! was carried out once.
//!
//! It lies outside of everything that the partition table knows, in a block that was zeros. docs/FORMAT.md describes
//! every byte.

use crate::disk::table::{self, Table};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::hash::Hash;
use crate::image::time::Timestamp;
use crate::io::{BlockSource, Medium};
use crate::plan::extents::ends;
use crate::units::Bytes;

const MAGIC: &[u8; 16] = b"keiki restored1\n";
/// Magic, order, time (as records write it), checksum of what is in front of it.
const TIME: usize = 48;
const SUM: usize = 68;
const END: usize = 100;
/// What a partition table may have at both ends of a disk: a GPT of up to 248 entries, a master boot record alone.
const OF_A_GPT: Bytes = Bytes::kib(64);
const OF_AN_MBR: Bytes = Bytes::BLOCK;

/// When `order` was carried out on the disk `source`, if it was.
///
/// # Errors
/// [`Error::Io`].
pub fn find(source: &dyn BlockSource, order: &Hash) -> Result<Option<Timestamp>> {
    for end in ends(source.size()).iter() {
        let bytes = source.read(end.start, end.len().index().unwrap_or(0))?;
        // Counted as they were when it was written, which only the start of the disk and its end tell.
        let first = (end.start.align_up(Bytes::BLOCK) - end.start).index().unwrap_or(0);
        let step = Bytes::BLOCK.index().unwrap_or(1);
        let blocks = (first..bytes.len()).step_by(step).filter_map(|at| bytes.get(at..));
        if let Some(found) = blocks.filter_map(|block| decode(block, order)).max() {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Marks that `order` is carried out on `disk`, and returns when that is durable; `false` where the disk has no place for
/// a mark: no partition table that is understood, or no block of zeros beside its partitions.
///
/// # Errors
/// [`Error::Io`].
pub fn put(disk: &dyn Medium, order: &Hash) -> Result<bool> {
    let source = disk.direct()?;
    let Some(place) = place(source.as_ref())? else { return Ok(false) };
    let bytes = encode(order, Timestamp::now());
    disk.write_at(place.start, &bytes)?;
    disk.flush()?;
    if disk.direct()?.read(place.start, bytes.len())? != bytes {
        return Err(Error::corrupt("the mark", place.start, "what was written", "something else"));
    }
    Ok(true)
}

/// A block of zeros that belongs to nobody, the one next to the first partition if there is one.
fn place(source: &dyn BlockSource) -> Result<Option<Extent>> {
    let Some(found) = table::read(source)? else { return Ok(None) };
    let margin = match found.table {
        Table::Gpt(_) => OF_A_GPT,
        Table::Mbr(_) => OF_AN_MBR,
    };
    let size = source.size();
    let inner = Extent::new(margin.min(size), size.saturating_sub(margin).max(margin.min(size)));
    let taken: ExtentSet = found.table.partitions().iter().map(|part| part.extent).collect();
    for end in ends(size).iter() {
        let free = ExtentSet::from(end).subtract(&taken);
        for gap in free.within(inner).collect::<Vec<_>>().into_iter().rev() {
            let mut top = gap.end.align_down(Bytes::BLOCK);
            while let Some(start) = top.checked_sub(Bytes::BLOCK).filter(|at| *at >= gap.start) {
                let block = Extent::new(start, top);
                let bytes = source.read(start, block.len().index().unwrap_or(0))?;
                if bytes.iter().all(|byte| *byte == 0) {
                    return Ok(Some(block));
                }
                top = start;
            }
        }
    }
    Ok(None)
}

fn encode(order: &Hash, at: Timestamp) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(order.0);
    bytes.extend(at.to_string().bytes());
    bytes.extend(Hash::of(&bytes).0);
    bytes.resize(Bytes::BLOCK.index().unwrap_or(END), 0);
    bytes
}

/// When the order of a mark at the start of `block` was carried out, if it is `order`.
fn decode(block: &[u8], order: &Hash) -> Option<Timestamp> {
    let block = block.strip_prefix(MAGIC).and(Some(block))?;
    let is_whole = block.get(SUM..END)? == Hash::of(block.get(..SUM)?).0;
    let is_same = block.get(MAGIC.len()..TIME)? == order.0;
    let at = std::str::from_utf8(block.get(TIME..SUM)?).ok()?.parse().ok()?;
    (is_whole && is_same).then_some(at)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::io::device::Device;

    const SIZE: usize = 4 << 20;

    /// A disk with a GPT, whose only partition has these sectors.
    fn gpt(first: u64, last: u64) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(vec![0; SIZE]);
        let mut table = gptman::GPT::new_from(&mut bytes, 512, [7; 16]).unwrap();
        table[1] = gptman::GPTPartitionEntry {
            partition_type_guid: [9; 16],
            unique_partition_guid: [8; 16],
            starting_lba: first,
            ending_lba: last,
            attribute_bits: 0,
            partition_name: "".into(),
        };
        gptman::GPT::write_protective_mbr_into(&mut bytes, 512).unwrap();
        table.write_into(&mut bytes).unwrap();
        bytes.into_inner()
    }

    /// Marks `disk`; whether there was a place, and what the disk is then.
    fn marked(disk: &[u8], order: &Hash) -> (bool, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), disk).unwrap();
        let device = Device::open_target(file.path(), Some(Bytes::new(512))).unwrap();
        let there = put(&device, order).unwrap();
        let source = Device::open_source(file.path(), None).unwrap();
        assert_eq!(find(&source, order).unwrap().is_some(), there);
        assert_eq!(find(&source, &Hash::of(b"another one")).unwrap(), None);
        (there, fs::read(file.path()).unwrap())
    }

    #[test]
    fn a_mark_lies_beside_the_partitions_and_is_found_there() {
        let order = Hash::of(b"order");
        // In front of the first partition, and where there is no room, behind the last.
        for (first, last, expected) in
            [(2048, 8000, (1 << 20) - 4096), (34, 7000, SIZE - (68 << 10))]
        {
            let disk = gpt(first, last);
            let (there, after) = marked(&disk, &order);
            assert!(there);
            let changed: Vec<usize> = (0..SIZE).filter(|at| disk[*at] != after[*at]).collect();
            assert!(
                changed.iter().all(|at| (expected..expected + END).contains(at)),
                "{changed:?}"
            );
        }
    }

    #[test]
    fn a_block_that_holds_something_is_passed_over() {
        let order = Hash::of(b"order");
        let mut disk = gpt(2048, 8000);
        disk[(1 << 20) - 1] = 1;
        let (there, after) = marked(&disk, &order);
        assert!(there && after[(1 << 20) - 4096..1 << 20] == disk[(1 << 20) - 4096..1 << 20]);
        assert!(after[(1 << 20) - 8192..].starts_with(MAGIC));
        // A second order stands beside the first.
        let (there, both) = marked(&after, &Hash::of(b"second"));
        assert!(there && both[(1 << 20) - 8192..].starts_with(MAGIC));
    }

    #[test]
    fn without_a_place_nothing_is_written() {
        let order = Hash::of(b"order");
        for disk in [vec![0; SIZE], gpt(34, 8150)] {
            assert_eq!(marked(&disk, &order), (false, disk));
        }
    }

    #[test]
    fn a_changed_mark_is_none() {
        let order = Hash::of(b"order");
        let block = encode(&order, Timestamp::now());
        assert!(decode(&block, &order).is_some());
        for at in 0..END {
            let mut changed = block.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed, &order), None, "{at}");
        }
        assert_eq!(decode(&block[..40], &order), None);
    }
}
