//! Restores that go on after a power cut, and restores onto what is there already.

use std::sync::Arc;

use super::{Image, MIB, SIZES, contents, disks, garbage, noise, now, run, run_with, saved};
use crate::extent::Extent;
use crate::io::Source;
use crate::io::crash::Power;
use crate::io::memory::Memory;
use crate::report::Quiet;
use crate::restore::{Job, ReadBack, Restored, Unused, before, record};
use crate::units::Bytes;

fn continued(restored: &Restored) -> bool {
    restored.continued.is_some()
}

#[test]
fn after_a_power_cut_at_every_flush_the_restore_goes_on_and_ends_right() {
    let (source, power) = (disks(1), garbage());
    let image = saved(&source);
    let whole = run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    assert!(!continued(&whole));
    let mut luck = 7_u32;
    let (mut went_on, mut least) = (0, whole.written);
    for cut in power.flushes() {
        for kind in 0..2 {
            let disks = power.cut_after(cut, &mut || {
                luck = luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                kind == 1 && luck & 0x1000_0000 != 0
            });
            let again = Power::new(disks);
            let restored = run(&image, &again, &SIZES, &Quiet::default()).unwrap();
            assert!(restored.verified);
            assert!(contents(&now(&again)) == contents(&source), "after {cut}, {kind}");
            assert!(now(&again).iter().all(|disk| no_record(disk)), "after {cut}, {kind}");
            went_on += usize::from(continued(&restored));
            least = least.min(restored.written);
        }
    }
    assert!(went_on > 20, "{went_on}");
    // What lies in the first MiB is never called done.
    assert!(least <= Bytes::mib(1), "{least} of {}", whole.written);
}

fn no_record(disk: &[u8]) -> bool {
    record::find(&Memory::new(disk.to_vec())).unwrap().is_none()
}

/// Every window that a record calls done has its bytes, whatever was lost with the power.
#[test]
fn a_record_never_claims_what_is_not_durable() {
    let (source, power) = (disks(1), garbage());
    let image = saved(&source);
    run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    let (whole, total) = (contents(&source), power.steps());
    let mut claims = 0;
    for cut in 0..total {
        let disks = power.cut_after(cut, &mut || false);
        let found = record::find(&Memory::new(disks[0].clone())).unwrap();
        let Some(found) = found.filter(|found| found.about.wiped) else { continue };
        // In the order of the plan, each from a window's start; see `contents` for their places.
        let mut base = Bytes::ZERO;
        let done = found.done(Bytes::mib(6));
        for (id, place) in [
            ("d0:1", vec![(0, 1)]),
            ("vg/root", vec![(0, 3), (0, 4), (1, 3), (1, 4)]),
            ("vg/x", vec![(1, 1)]),
        ] {
            for (window, (disk, mib)) in place.into_iter().enumerate() {
                let part = Extent::at(base, Bytes::MIB).unwrap();
                base += Bytes::MIB;
                if done.contains(part) {
                    claims += 1;
                    let bytes = &whole.iter().find(|(of, _)| of == id).unwrap().1;
                    let there = &disks[disk][mib * MIB..(mib + 1) * MIB];
                    assert!(
                        there == &bytes[window * MIB..(window + 1) * MIB],
                        "{id} {window} {cut}"
                    );
                }
            }
        }
    }
    assert!(claims > 50, "{claims}");
}

#[test]
fn another_restore_does_not_go_on_and_neither_does_one_that_shall_not() {
    let image = saved(&disks(1));
    let power = garbage();
    run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    let cut = power.cut_after(power.steps() / 2, &mut || true);
    let ended = |image: &Image, disks: Vec<Vec<u8>>, with: &dyn Fn(&mut Job<'_>)| {
        let again = Power::new(disks);
        let restored = run_with(image, &again, &SIZES, &Quiet::default(), with).unwrap();
        (continued(&restored), contents(&now(&again)))
    };
    assert!(ended(&image, cut.clone(), &|_| ()).0);
    assert!(!ended(&image, cut.clone(), &|job| job.fresh = true).0);
    assert!(!ended(&image, cut.clone(), &|job| job.unused = Unused::Zero).0);
    let other = disks(3);
    let (went_on, there) = ended(&saved(&other), cut.clone(), &|_| ());
    assert!(!went_on && there == contents(&other));
    // One of the two disks is another one.
    let swapped = vec![cut[0].clone(), noise(9, SIZES[1])];
    let (went_on, there) = ended(&image, swapped, &|_| ());
    assert!(!went_on && there == contents(&disks(1)));
    // What was done, somebody else has written to since.
    let mut spoilt = cut;
    spoilt[0][MIB + 5000] ^= 1;
    let (went_on, there) = ended(&image, spoilt, &|job| job.read_back = ReadBack::None);
    assert!(went_on && there == contents(&disks(1)));
}

#[test]
fn an_interrupted_restore_remembers_what_was_there() {
    let image = saved(&disks(1));
    let old = disks(7);
    let source = |disk: &Vec<u8>| -> Source { Arc::new(Memory::new(disk.clone())) };
    let expected = before(&source(&old[0])).unwrap();
    assert!(expected.old.table.is_some() && expected.old.pvs.len() == 1);
    assert!(expected.interrupted.is_none());
    let power = Power::new(old);
    run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    let mut remembered = 0;
    let began = power.flushes()[1];
    for cut in began..power.steps() {
        let disks = power.cut_after(cut, &mut || false);
        let found = before(&source(&disks[0])).unwrap();
        if let Some(interrupted) = &found.interrupted {
            assert_eq!(found.old, expected.old, "{cut}");
            assert!(interrupted.kept.is_empty());
            remembered += usize::from(interrupted.remembered);
        }
    }
    assert!(remembered > 10, "{remembered}");
}

#[test]
fn only_what_changed_is_written() {
    let (mut source, power) = (disks(1), garbage());
    let image = saved(&source);
    run(&image, &power, &SIZES, &Quiet::default()).unwrap();
    let only = |image: &Image, disks: Vec<Vec<u8>>| {
        let again = Power::new(disks);
        let with = |job: &mut Job<'_>| job.only_changed = true;
        let restored = run_with(image, &again, &SIZES, &Quiet::default(), &with).unwrap();
        assert!(restored.verified && restored.continued.is_none());
        (restored, now(&again))
    };
    let used = image.root.used_bytes();
    // The start of the disk always goes first, and comes last.
    let start = Bytes::mib(1);
    let (same, disks) = only(&image, now(&power));
    assert!(contents(&disks) == contents(&source));
    assert!(same.written <= start + Bytes::mib(3), "{} of {used}", same.written);
    // One byte of the zeros of a partition, and one in a logical volume.
    source[0][3 * MIB + 77] ^= 1;
    let changed = saved(&source);
    let mut disks = disks;
    disks[0][1300 << 10] = 7;
    let (restored, disks) = only(&changed, disks);
    assert!(contents(&disks) == contents(&source));
    assert!(restored.written > same.written && restored.written < used, "{restored:?}");
    assert_eq!(restored.written + restored.skipped, same.written + same.skipped);
    // Onto anything else it is a restore like any other.
    let (_, disks) = only(&changed, super::disks(7));
    assert!(contents(&disks) == contents(&source));
}

#[test]
fn a_lone_volume_goes_on_too() {
    let source = vec![noise(4, 5 * MIB)];
    let image = saved(&source);
    let power = Power::new(vec![noise(5, 5 * MIB)]);
    let whole = run(&image, &power, &[5 * MIB], &Quiet::default()).unwrap();
    let mut went_on = 0;
    for cut in power.flushes() {
        let again = Power::new(power.cut_after(cut, &mut || false));
        let restored = run(&image, &again, &[5 * MIB], &Quiet::default()).unwrap();
        assert!(now(&again) == source, "{cut}");
        went_on += usize::from(continued(&restored) && restored.written < whole.written);
    }
    assert!(went_on > 3, "{went_on}");
}
