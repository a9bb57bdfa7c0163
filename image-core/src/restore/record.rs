//! The restore record: what a restore that is killed leaves on each target, so that it can go on.
//!
//! Two slots side by side within the first MiB, written by turns, so that one of them is whole whatever
//! happens; found by its magic at a multiple of 4 KiB. docs/FORMAT.md describes every byte.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::image::hash::Hash;
use crate::image::time::Timestamp;
use crate::io::BlockSource;
use crate::plan::extents::ENDS;
use crate::plan::old::Old;
use crate::units::Bytes;

const MAGIC: &[u8; 16] = b"keiki restore 1\n";
/// Magic, sequence number, length of the slot, length of the description, checksum.
const HEAD: usize = 64;
/// Where the checksum stands; it covers everything else in the slot.
const SUM: usize = 32;
/// The longest slot first: the shorter, the coarser is what it says.
const SLOTS: [Bytes; 4] = [Bytes::kib(32), Bytes::kib(16), Bytes::kib(12), Bytes::kib(8)];
/// A description that says it is longer when unpacked is not one.
const MOST: usize = 8 << 20;
/// What the description may grow while the restore runs.
const SLACK: usize = 256;

/// What a record says, but for its bitmap.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct About {
    /// What is restored to where.
    pub(crate) plan: Hash,
    /// Which of the plan's targets this is.
    pub(crate) target: usize,
    /// When it was written.
    pub(crate) at: Timestamp,
    /// Whether everything that had to go is gone, so that only data is missing.
    pub(crate) wiped: bool,
    /// How many bytes of the volumes, laid end to end, one bit stands for.
    pub(crate) grain: Bytes,
    /// What was on the target before.
    pub(crate) old: Old,
    /// What of the target this restore does not touch.
    pub(crate) kept: Vec<Extent>,
}

/// A record on a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// The slot that it was in.
    pub(crate) slot: Extent,
    /// Counts the writes; the highest is the newest.
    pub(crate) sequence: u64,
    /// What it says.
    pub(crate) about: About,
    /// One bit for each grain that is done.
    bits: Vec<u8>,
}

impl Found {
    /// What is done, of volumes that are `total` bytes when laid end to end.
    pub(crate) fn done(&self, total: Bytes) -> ExtentSet {
        let grain = self.about.grain;
        let mut done = ExtentSet::new();
        let bits = self.bits.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
        for (set, number) in bits.zip(0..) {
            let Some(start) = grain.checked_mul(number).filter(|start| *start < total) else {
                break;
            };
            if set {
                done.insert(Extent::new(start, start.saturating_add(grain).min(total)));
            }
        }
        done
    }
}

/// The newest record on `source`.
///
/// # Errors
/// [`crate::error::Error::Io`].
pub(crate) fn find(source: &dyn BlockSource) -> Result<Option<Found>> {
    let length = ENDS.min(source.size()).index().unwrap_or(0);
    let first = source.read(Bytes::ZERO, length)?;
    let step = Bytes::BLOCK.index().unwrap_or(1);
    let starts = (0..first.len()).step_by(step);
    let found = starts.filter_map(|at| decode(Bytes::from(at), first.get(at..)?));
    Ok(found.max_by_key(|found| found.sequence))
}

/// The two slots in `free` bytes of a target's start, beside `found`, which must not be spoilt while it is
/// the only one.
pub(crate) fn slots(free: &ExtentSet, found: Option<Extent>) -> Option<[Extent; 2]> {
    let pair = |free: &ExtentSet| {
        SLOTS.into_iter().find_map(|slot| {
            let room = slot + slot;
            let starts = free.iter().filter_map(|extent| {
                let end = extent.end.min(ENDS).align_down(Bytes::BLOCK);
                let start = end.checked_sub(room)?;
                (start >= extent.start).then_some(start)
            });
            let start = starts.max()?;
            Some([Extent::at(start, slot)?, Extent::at(start + slot, slot)?])
        })
    };
    let slots = pair(free)?;
    match found {
        Some(found) if !slots.contains(&found) => pair(&free.subtract(&found.into())),
        _ => Some(slots),
    }
}

/// The grain with which a slot of `length` says what is done of `total` bytes on a grid of `window`; `None`
/// where what it says takes up the slot.
pub(crate) fn grain(about: &About, length: Bytes, total: Bytes, window: Bytes) -> Option<Bytes> {
    let taken = HEAD.checked_add(packed(about)?.len())?.checked_add(SLACK)?;
    let bits = length.checked_sub(Bytes::from(taken))?.get().checked_mul(8)?;
    let windows = total.get().div_ceil(window.get());
    window.checked_mul(windows.div_ceil(bits.max(1)).max(1)).filter(|_| bits > 0)
}

/// The slot's bytes; `None` where it is too short for them.
pub(crate) fn encode(
    about: &About,
    done: &ExtentSet,
    (sequence, length): (u64, Bytes),
    total: Bytes,
) -> Option<Vec<u8>> {
    let packed = packed(about)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(u32::try_from(length.get()).ok()?.to_le_bytes());
    bytes.extend(u32::try_from(packed.len()).ok()?.to_le_bytes());
    bytes.extend([0; HEAD - SUM]);
    bytes.extend(&packed);
    let start = bytes.len();
    bytes.resize(length.index().filter(|length| *length >= start)?, 0);
    let bits = bytes.get_mut(start..)?;
    for range in done.iter() {
        // Only a grain that is done from end to end; the last one ends with the volumes.
        let end = if range.end >= total { total.align_up(about.grain) } else { range.end };
        for bit in range.start.align_up(about.grain).units(about.grain)..end.units(about.grain) {
            let byte = bits.get_mut(usize::try_from(bit / 8).ok()?)?;
            *byte |= 1 << (bit % 8);
        }
    }
    let sum = checksum(&bytes)?;
    bytes.get_mut(SUM..HEAD)?.copy_from_slice(&sum);
    Some(bytes)
}

fn packed(about: &About) -> Option<Vec<u8>> {
    zstd::bulk::compress(&serde_json::to_vec(about).ok()?, 9).ok()
}

fn checksum(slot: &[u8]) -> Option<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(slot.get(..SUM)?).update(slot.get(HEAD..)?);
    Some(*hasher.finalize().as_bytes())
}

/// The record at the start of `bytes`, which begin `at` on the target.
fn decode(at: Bytes, bytes: &[u8]) -> Option<Found> {
    let bytes = bytes.strip_prefix(MAGIC).and(Some(bytes))?;
    let (sequence, rest) = bytes.get(MAGIC.len()..)?.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (packed, _) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length);
    let packed = usize::try_from(u32::from_le_bytes(*packed)).ok()?;
    let slot = bytes.get(..usize::try_from(length).ok()?)?;
    if slot.get(SUM..HEAD)? != checksum(slot)? {
        return None;
    }
    let bits = HEAD.checked_add(packed)?;
    let json = zstd::bulk::decompress(slot.get(HEAD..bits)?, MOST).ok()?;
    let about: About = serde_json::from_slice(&json).ok()?;
    Some(Found {
        slot: Extent::at(at, Bytes::of(slot))?,
        sequence: u64::from_le_bytes(*sequence),
        about: (!about.grain.is_zero()).then_some(about)?,
        bits: slot.get(bits..)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::Memory;

    fn about(grain: u64) -> About {
        About {
            plan: Hash::of(b"plan"),
            target: 1,
            at: Timestamp::now(),
            wiped: true,
            grain: Bytes::mib(grain),
            old: Old::default(),
            kept: vec![Extent::new(Bytes::mib(3), Bytes::mib(4))],
        }
    }

    fn set(ranges: &[(u64, u64)]) -> ExtentSet {
        ranges.iter().map(|(from, to)| Extent::new(Bytes::kib(*from), Bytes::kib(*to))).collect()
    }

    /// A disk with a record of this `done` (in KiB) in each of two slots.
    fn disk(sequences: [u64; 2], done: &ExtentSet, total: Bytes) -> Vec<u8> {
        let mut bytes = vec![0x5a; 2 << 20];
        let slots = slots(&Extent::first(Bytes::MIB).into(), None).unwrap();
        for (slot, sequence) in slots.into_iter().zip(sequences) {
            let record = encode(&about(2), done, (sequence, slot.len()), total).unwrap();
            let at = slot.start.index().unwrap();
            bytes[at..at + record.len()].copy_from_slice(&record);
        }
        bytes
    }

    #[test]
    fn a_torn_slot_never_counts_and_the_newest_does() {
        let total = Bytes::kib(9 << 10);
        let bytes = disk([7, 8], &set(&[(0, 4096)]), total);
        let found = find(&Memory::new(bytes.clone())).unwrap().unwrap();
        assert_eq!((found.sequence, &found.about.kept), (8, &about(2).kept));
        assert_eq!(found.slot, Extent::new(Bytes::kib(992), Bytes::MIB));
        for at in (992 << 10..1 << 20).step_by(97) {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert_eq!(find(&Memory::new(torn)).unwrap().unwrap().sequence, 7, "{at}");
        }
        assert_eq!(find(&Memory::new(vec![0; 100])).unwrap(), None);
    }

    #[test]
    fn only_what_is_done_from_end_to_end_is_said_to_be() {
        let total = Bytes::kib(9 << 10);
        let mib = |list: &[(u64, u64)]| {
            set(&list.iter().map(|(from, to)| (from << 10, to << 10)).collect::<Vec<_>>())
        };
        for (done, said) in [
            (mib(&[(0, 9)]), mib(&[(0, 9)])),
            (mib(&[(1, 5), (6, 8)]), mib(&[(2, 4), (6, 8)])),
            (mib(&[(7, 9)]), mib(&[(8, 9)])),
            (set(&[(1, 4095), (8191, 9215)]), mib(&[])),
        ] {
            let found = find(&Memory::new(disk([1, 2], &done, total))).unwrap().unwrap();
            assert_eq!(found.done(total), said, "{done:?}");
        }
    }

    #[test]
    fn a_record_of_any_disk_fits_and_is_as_fine_as_it_can_be() {
        let grain = |slot, total| grain(&about(1), Bytes::kib(slot), total, Bytes::MIB).unwrap();
        assert_eq!(grain(32, Bytes::gib(100)), Bytes::MIB);
        assert_eq!(grain(32, Bytes::gib(4 << 10)), Bytes::mib(17));
        assert!(grain(8, Bytes::gib(4 << 10)) < Bytes::mib(80));
        let mut about = about(1);
        about.grain = grain(8, Bytes::gib(4 << 10));
        let (all, total) = (Extent::first(Bytes::gib(4 << 10)).into(), Bytes::gib(4 << 10));
        assert!(encode(&about, &all, (u64::MAX, Bytes::kib(8)), total).is_some());
    }

    #[test]
    fn slots_are_free_bytes_and_spare_the_record_that_is_there() {
        let first = Extent::first(Bytes::MIB);
        let [one, two] = slots(&first.into(), None).unwrap();
        assert_eq!((one.len(), two.end), (Bytes::kib(32), Bytes::MIB));
        assert_eq!(slots(&first.into(), Some(one)), Some([one, two]));
        let across = Extent::new(Bytes::kib(1000), Bytes::kib(1008));
        let beside = slots(&first.into(), Some(across)).unwrap();
        assert!(beside.iter().all(|slot| slot.intersect(across).is_none()));
        // Between an MBR and a first partition at sector 63.
        let dos = Extent::new(Bytes::new(512), Bytes::new(63 * 512));
        let [one, two] = slots(&dos.into(), None).unwrap();
        assert_eq!((one.start, two.end), (Bytes::kib(4), Bytes::kib(28)));
        assert_eq!(slots(&Extent::first(Bytes::kib(12)).into(), None), None);
    }

    #[test]
    fn made_up_records_do_not_panic() {
        let total = Bytes::kib(9 << 10);
        let whole = disk([1, 2], &set(&[(0, 4096)]), total);
        let start = 992 << 10;
        for at in start..start + 300 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let sum = checksum(&bytes[start..1 << 20]).unwrap();
                bytes[start + SUM..start + HEAD].copy_from_slice(&sum);
                if let Some(found) = find(&Memory::new(bytes)).unwrap() {
                    found.done(total);
                    found.done(Bytes::MAX);
                }
            }
        }
    }
}
