use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use rustix::io::Errno;

use super::{Effort, Rescue, is_bad_sector};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::BlockSource;
use crate::units::Bytes;

const SECTOR: u64 = 512;

/// A disk of which every byte tells its sector; some sectors fail, for ever or for so many reads.
#[derive(Default)]
struct Disk {
    size: u64,
    bad: ExtentSet,
    /// Reads that fail before bad sectors recover.
    heals_after: Option<u64>,
    /// After so many failed reads nothing can be read.
    dies_after: Option<u64>,
    error: Option<Errno>,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Counts {
    failed: u64,
    good: u64,
    bytes: u64,
}

fn byte(at: u64) -> u8 {
    let [low, high, ..] = (at / SECTOR).to_le_bytes();
    low ^ high.rotate_left(3) ^ 0x5a
}

impl BlockSource for Disk {
    fn name(&self) -> String {
        "disk".to_owned()
    }
    fn size(&self) -> Bytes {
        Bytes::new(self.size)
    }
    fn sector_size(&self) -> Bytes {
        Bytes::new(SECTOR)
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let mut counts = self.counts.lock().unwrap();
        let range = Extent::at(offset, Bytes::of(buffer)).unwrap();
        assert!(range.end <= self.size(), "read behind the end: {range}");
        let healed = self.heals_after.is_some_and(|after| counts.failed >= after);
        let dead = self.dies_after.is_some_and(|after| counts.failed >= after);
        if dead || (!healed && self.bad.within(range).next().is_some()) {
            counts.failed += 1;
            let errno = self.error.unwrap_or(Errno::IO);
            return Err(Error::io_at("disk", "read", offset, errno.into()));
        }
        counts.good += 1;
        counts.bytes += Bytes::of(buffer).get();
        for (at, to) in (offset.get()..).zip(buffer) {
            *to = byte(at);
        }
        Ok(())
    }
}

fn sectors(ranges: &[(u64, u64)]) -> ExtentSet {
    let range =
        |(from, to): &(u64, u64)| Extent::new(Bytes::new(from * SECTOR), Bytes::new(to * SECTOR));
    ranges.iter().map(range).collect()
}

fn disk(size: Bytes, bad: &[(u64, u64)]) -> Disk {
    Disk { size: size.get(), bad: sectors(bad), ..Disk::default() }
}

fn rescue(disk: Disk, effort: Effort) -> (Rescue, Arc<Disk>) {
    let disk = Arc::new(disk);
    (Rescue::new(Arc::clone(&disk) as _, effort), disk)
}

impl Disk {
    fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }
}

/// Reads all of the disk in windows; what could not be read, after everything else was compared.
fn read_all(rescue: &Rescue, window: u64) -> Result<ExtentSet> {
    let mut holes = ExtentSet::new();
    let size = rescue.size().get();
    for start in (0..size).step_by(usize::try_from(window).unwrap()) {
        let length = window.min(size - start);
        let mut buffer = vec![0xee; usize::try_from(length).unwrap()];
        let wanted = [Extent::first(Bytes::new(length))];
        let here = rescue.read_around(Bytes::new(start), &mut buffer, &wanted)?;
        for (at, found) in buffer.iter().enumerate() {
            let at = Bytes::from(at);
            if !here.contains(Extent::new(at, at + Bytes::new(1))) {
                assert_eq!(*found, byte(start + at.get()), "byte {}", start + at.get());
            }
        }
        here.shifted(Bytes::new(start)).iter().for_each(|hole| holes.insert(hole));
    }
    Ok(holes)
}

const WINDOW: u64 = 1 << 20;

#[test]
fn holes_have_exact_edges_and_take_few_failing_reads() {
    for (bad, failing) in [
        (vec![(3000, 3001)], 6),
        (vec![(0, 1)], 6),
        (vec![(4095, 4097)], 12),
        (vec![(100, 101), (2000, 2001), (2050, 2051)], 16),
        (vec![(1234, 1334)], 240),
        (vec![(16383, 16384)], 6),
    ] {
        let (rescue, disk) = rescue(disk(Bytes::mib(8), &bad), Effort::SAVE);
        assert_eq!(read_all(&rescue, WINDOW).unwrap(), sectors(&bad));
        let counts = disk.counts();
        assert!(counts.failed <= failing, "{bad:?}: {counts:?}");
        assert!(counts.good < 200 * u64::try_from(bad.len()).unwrap() + 300, "{bad:?}: {counts:?}");
        // What is known to be bad is not tried again, and fails where all of it is needed.
        assert_eq!(read_all(&rescue, WINDOW).unwrap(), sectors(&bad));
        let start = Bytes::new(bad[0].0 * SECTOR);
        let error = rescue.read(start, 512).unwrap_err();
        assert!(is_bad_sector(&error) && error.to_string().contains(&start.get().to_string()));
        assert_eq!(disk.counts().failed, counts.failed);
    }
}

#[test]
fn a_dead_zone_takes_a_bounded_number_of_reads() {
    let zone = (5 << 11, (1 << 20) + 77);
    let (rescue, disk) = rescue(disk(Bytes::gib(2), &[zone]), Effort::SAVE);
    let mut holes = ExtentSet::new();
    let mut buffer = vec![0; 1 << 20];
    for start in (0..2 << 10).map(Bytes::mib) {
        let wanted = [Extent::first(Bytes::MIB)];
        let here = rescue.read_around(start, &mut buffer, &wanted).unwrap();
        here.shifted(start).iter().for_each(|hole| holes.insert(hole));
    }
    assert_eq!(holes, sectors(&[zone]));
    let counts = disk.counts();
    assert!(counts.failed < 350, "{counts:?}");
}

#[test]
fn a_worn_out_disk_is_not_tried_sector_by_sector() {
    let bad: Vec<(u64, u64)> = (0..1 << 14).step_by(64).map(|at| (at, at + 1)).collect();
    let effort = Effort { in_all: 100, ..Effort::SAVE };
    let (rescue, disk) = rescue(disk(Bytes::mib(8), &bad), effort);
    let holes = read_all(&rescue, WINDOW).unwrap();
    assert!(sectors(&bad).subtract(&holes).is_empty());
    assert!(holes.total() < Bytes::mib(8));
    // Each window still costs itself, its pieces of 64 KiB, and the leaps over these.
    let counts = disk.counts();
    assert!(counts.failed < 100 + 8 * 60, "{counts:?}");
}

#[test]
fn sectors_that_recover_are_no_holes() {
    let mut once = disk(Bytes::mib(2), &[(70, 71)]);
    once.heals_after = Some(4);
    let (rescue, _) = rescue(once, Effort::SAVE);
    assert!(read_all(&rescue, WINDOW).unwrap().is_empty());
}

#[test]
fn what_is_not_wanted_is_no_hole_and_not_tried() {
    let (rescue, disk) = rescue(disk(Bytes::mib(2), &[(20, 90)]), Effort::SAVE);
    let mut buffer = vec![0; 65536];
    let wanted = [(0, 20), (90, 128)]
        .map(|(from, to)| Extent::new(Bytes::new(from * SECTOR), Bytes::new(to * SECTOR)));
    assert!(rescue.read_around(Bytes::ZERO, &mut buffer, &wanted).unwrap().is_empty());
    assert!(disk.counts().failed <= 1, "{:?}", disk.counts());
    assert!(
        buffer
            .iter()
            .zip(0..)
            .all(|(found, at)| (10240..46080).contains(&at) || *found == byte(at))
    );
}

#[test]
fn a_disk_that_is_gone_is_an_error_and_no_hole() {
    // It dies at its first bad sector; and one that never worked.
    for (dies_after, bad) in [(1, vec![(2100, 2101)]), (0, vec![])] {
        let mut dying = disk(Bytes::mib(8), &bad);
        dying.dies_after = Some(dies_after);
        let (rescue, disk) = rescue(dying, Effort::SAVE);
        let error = read_all(&rescue, WINDOW).unwrap_err();
        assert!(!is_bad_sector(&error), "{error}");
        assert!(error.to_string().contains("read"), "{error}");
        assert!(disk.counts().failed < 300, "{:?}", disk.counts());
    }
    let mut unplugged = disk(Bytes::mib(8), &[(9000, 9001)]);
    unplugged.error = Some(Errno::NODEV);
    let (rescue, disk) = rescue(unplugged, Effort::SAVE);
    assert!(matches!(read_all(&rescue, WINDOW), Err(Error::Io { .. })));
    assert_eq!(disk.counts().failed, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn every_readable_sector_is_had_with_enough_effort(
        bad in prop::collection::vec((0u64..6144, 1u64..300), 0..12),
        window in 1u64..3000,
    ) {
        let bad: Vec<(u64, u64)> = bad.iter().map(|(at, length)| (*at, (at + length).min(6144))).collect();
        let (rescue, disk) = rescue(disk(Bytes::mib(3), &bad), Effort::FILL);
        match read_all(&rescue, window * SECTOR) {
            Ok(holes) => prop_assert!(sectors(&bad).subtract(&holes).is_empty()),
            Err(error) => prop_assert!(error.to_string().contains("fails as a whole"), "{error}"),
        }
        prop_assert!(disk.counts().failed < 30_000);
    }

    #[test]
    fn a_save_loses_no_sector_beside_few_bad_ones(
        bad in prop::collection::vec((1u64..6144, 1u64..12), 0..6),
    ) {
        let bad: Vec<(u64, u64)> = bad.iter().map(|(at, length)| (*at, (at + length).min(6144))).collect();
        let (rescue, _) = rescue(disk(Bytes::mib(3), &bad), Effort::SAVE);
        prop_assert_eq!(read_all(&rescue, WINDOW).unwrap(), sectors(&bad));
    }
}
