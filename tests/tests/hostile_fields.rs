//! Every bit of a good superblock (header, descriptor, label, table) flipped in turn, and every word of it set to
//! what it should not be, with checksums that say so and with checksums made right again: what is on the volume is
//! refused, or its map has everything that was in use.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what stands above a panic names the change"
)]

use image_core::extent::ExtentSet;
use keiki_tests::hostile::edited::{Base, Edited};
use keiki_tests::hostile::filesystems::{self, map};
use keiki_tests::hostile::{ext, fat, groups, tables, xfs};

/// A structure of a base: where it begins, and how long it is.
type Place = (usize, usize);

/// What one change led to.
#[derive(Default, Debug)]
struct Outcomes {
    refused: usize,
    accepted: usize,
}

/// Every change of some bytes: each bit flipped; each word of 2, 4 and 8 bytes none, all, one more, one less.
fn changes(old: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut changes = Vec::new();
    for (at, byte) in old.iter().enumerate() {
        changes.extend((0..8).map(|bit| (at, vec![byte ^ 1 << bit])));
    }
    for length in [2, 4, 8] {
        for (number, word) in old.chunks_exact(length).enumerate() {
            let little = word.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            let big = word.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
            let steps = [1, u64::MAX].into_iter().flat_map(|step| {
                let little = little.wrapping_add(step).to_le_bytes()[..length].to_vec();
                let big = big.wrapping_add(step).to_be_bytes()[8 - length..].to_vec();
                [little, big]
            });
            let all = steps.chain([vec![0; length], vec![0xFF; length]]);
            changes.extend(all.filter(|new| new != word).map(|new| (number * length, new)));
        }
    }
    changes
}

fn load(name: &str) -> &'static Base {
    Box::leak(Box::new(Base::load(name).unwrap()))
}

/// Changes `places` of the base `name` in every way, and asks `accepts` whether that is what it was, refused, or worse.
fn each(
    name: &str,
    places: &[Place],
    sign: Option<fn(&mut Edited<'_>)>,
    mut accepts: impl FnMut(&Edited<'static>) -> Result<bool, String>,
) {
    let base = load(name);
    let mut wrong = Vec::new();
    for (start, length) in places {
        let old = Edited::of(base).bytes(*start, *length);
        let mut outcomes = Outcomes::default();
        for (at, new) in changes(&old) {
            let mut edited = Edited::of(base);
            edited.put(start + at, &new);
            if let Some(sign) = sign {
                sign(&mut edited);
            }
            // Stands above a panic.
            println!("{name} {start:#x}+{at:#x} {new:02x?}");
            match accepts(&edited) {
                Ok(true) => outcomes.accepted += 1,
                Ok(false) => outcomes.refused += 1,
                Err(what) => wrong.push(format!("{name} {start:#x}+{at:#x} {new:02x?}: {what}")),
            }
        }
        eprintln!("{name}, {length} bytes at {start:#x}: {outcomes:?}");
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

/// No change makes the map lose a byte of `used`.
fn keeps(used: ExtentSet) -> impl FnMut(&Edited<'static>) -> Result<bool, String> {
    move |edited| match map(edited).map(|map| used.subtract(&map)) {
        None => Ok(false),
        Some(lost) if lost.is_empty() => Ok(true),
        Some(lost) => Err(format!("lost {lost:?}")),
    }
}

const EXT_SUPERBLOCK: Place = (1024, 1024);

#[test]
fn ext_loses_nothing() {
    for name in filesystems::EXT.iter().chain(&filesystems::JOURNAL) {
        let used = ext::used(&Edited::of(load(name))).unwrap();
        let descs = if *name == "ext4-4k" { 4096 } else { 2048 };
        let places = [EXT_SUPERBLOCK, (descs, 256)];
        each(name, &places, None, keeps(used.clone()));
        each(name, &places, Some(ext::sign), keeps(used));
    }
}

#[test]
fn xfs_loses_nothing() {
    for name in filesystems::XFS {
        let edited = Edited::of(load(name));
        let used = xfs::used(&edited, xfs::BY_BLOCK).unwrap();
        let block = usize::try_from(edited.big(4, 4)).unwrap();
        let root = usize::try_from(edited.big(512 + 16, 4)).unwrap() * block;
        let places = [(0, 512), (512, 512), (1536, 512), (root, 256)];
        each(name, &places, None, keeps(used.clone()));
        each(name, &places, Some(xfs::sign), keeps(used));
    }
}

#[test]
fn fat_loses_nothing() {
    for name in filesystems::FAT {
        let edited = Edited::of(load(name));
        let used = fat::used(&edited).unwrap();
        let first = usize::try_from(edited.little(14, 2) * 512).unwrap();
        let places = [(0, 512), (512, 512), (first, 256)];
        each(name, if name == "fat32" { &places } else { &places[..1] }, None, keeps(used.clone()));
        each(name, &places[2..], None, keeps(used));
    }
}

#[test]
fn swap_loses_nothing() {
    for name in filesystems::SWAP {
        let used = map(&Edited::of(load(name))).unwrap();
        let end = usize::try_from(used.end().get()).unwrap();
        each(name, &[(1024, 512), (end - 16, 16)], None, keeps(used));
    }
}

#[test]
fn a_gpt_that_is_not_signed_is_refused_or_read_from_its_backup() {
    for name in ["gpt", "hybrid"] {
        let good = tables::judge(&Edited::of(load(name))).unwrap();
        each(name, &[(512, 92), (1024, 384)], None, |edited| match tables::judge(edited) {
            None => Ok(false),
            Some(table) if table.partitions() == good.partitions() => Ok(true),
            Some(table) => Err(format!("reads as {:?}", table.partitions())),
        });
    }
}

#[test]
fn tables_that_are_accepted_can_be_written() {
    let mut accepts = |edited: &Edited<'static>| Ok(tables::judge(edited).is_some());
    for name in ["gpt", "hybrid"] {
        each(name, &[(440, 72), (512, 92), (1024, 384)], Some(tables::sign), &mut accepts);
    }
    let mbr = Edited::of(load("mbr"));
    let first_logical = usize::try_from(mbr.little(446 + 2 * 16 + 8, 4)).unwrap() * 512;
    each("mbr", &[(440, 72), (first_logical + 446, 66)], None, accepts);
}

#[test]
fn labels_that_are_not_signed_are_refused() {
    for name in groups::LABELS {
        let good = groups::judge(&Edited::of(load(name))).unwrap();
        let area = usize::try_from(good.metadata_areas[0].area.offset.get()).unwrap();
        let places = [(512, 256), (area, 128)];
        each(name, &places, None, |edited| match groups::judge(edited) {
            None => Ok(false),
            Some(head) if head == good => Ok(true),
            Some(head) => Err(format!("reads as {head:?}")),
        });
        each(name, &places, Some(groups::sign), |edited| Ok(groups::judge(edited).is_some()));
    }
}
