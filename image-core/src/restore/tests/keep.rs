//! Restores around what stays: its bytes at every moment, whenever the power goes, and the way back to it.

use std::sync::Arc;

use super::{Image, MIB, SECTOR, asked, carried_out, contents, disks, noise, now, saved};
use crate::disk::fixtures::{Wanted, gpt_bytes, read_table, wanted};
use crate::error::{Error, Result};
use crate::extent::ExtentSet;
use crate::io::crash::Power;
use crate::io::memory::Memory;
use crate::io::{BlockSource, Source};
use crate::plan::keep::Wish;
use crate::plan::restore::{Request, RestorePlan, plan};
use crate::report::Quiet;
use crate::restore::{Unused, before};
use crate::units::Bytes;

const SIZES: [usize; 2] = [12 * MIB, 5 * MIB];

/// A disk with a partition of this number that ends where the disk does, and one at its start.
fn old_disk(number: u32) -> Vec<u8> {
    let stays = Wanted { uuid: [0xcc; 16], ..wanted(number, 7, 4) };
    let mut disk = gpt_bytes(Bytes::mib(12), SECTOR, 128, &[wanted(5, 1, 5), stays]);
    disk[40 << 10..11 * MIB].copy_from_slice(&noise(77, 11 * MIB - (40 << 10)));
    disk
}

/// A plan that keeps the partition `number` of the first of these disks, as they are now.
fn keeping(image: &Image, disks: &[Vec<u8>], number: u32) -> Result<RestorePlan> {
    let befores = disks.iter().map(|disk| {
        let source: Source = Arc::new(Memory::new(disk.clone()));
        before(&source).unwrap().old
    });
    let wish = Wish { target: Some(0), name: number.to_string(), instead: None };
    plan(
        &image.root,
        &Request { keep: vec![wish], before: befores.collect(), ..asked(&image.root, &SIZES) },
    )
}

fn kept_bytes(disk: &[u8], kept: &ExtentSet) -> Vec<u8> {
    let disk = Memory::new(disk.to_vec());
    kept.iter().flat_map(|e| disk.read(e.start, e.len().index().unwrap()).unwrap()).collect()
}

#[test]
fn what_stays_is_the_same_at_every_moment_and_is_found_again() {
    let source = disks(1);
    let image = saved(&source);
    for unused in [Unused::Keep, Unused::Discard, Unused::Zero] {
        let old = vec![old_disk(9), noise(78, 5 * MIB)];
        let plan = keeping(&image, &old, 9).unwrap();
        let kept = plan.kept_on(0);
        let expected = kept_bytes(&old[0], &kept);
        let power = Power::new(old);
        let quiet = Quiet::default();
        let with = |job: &mut super::Job<'_>| job.unused = unused;
        carried_out(&image, &power, &plan, &quiet, &with).unwrap();
        let whole = contents(&now(&power));
        let own: Vec<_> =
            contents(&source).into_iter().filter(|(id, _)| !id.contains("gap")).collect();
        assert!(own.iter().all(|volume| whole.contains(volume)), "{unused:?}");
        let mut went_on = 0;
        for (at, cut) in power.flushes().into_iter().enumerate() {
            let disks = power.cut_after(cut, &mut || at % 3 == 0);
            assert!(kept_bytes(&disks[0], &kept) == expected, "{cut}");
            // The way back to it: the table that was, the record of it, or the new table.
            let again = keeping(&image, &disks, 9).unwrap();
            assert_eq!(again.kept_on(0), kept, "{cut}");
            if unused == Unused::Keep && at % 5 == 0 {
                let power = Power::new(disks);
                let restored = carried_out(&image, &power, &again, &quiet, &|_| ()).unwrap();
                went_on += usize::from(restored.continued.is_some());
                let disks = now(&power);
                assert!(contents(&disks) == whole, "{cut}");
                assert!(kept_bytes(&disks[0], &kept) == expected, "{cut}");
                let table = read_table(&Memory::new(disks[0].clone()));
                let listed = table.partitions().iter().find(|part| part.number == 9);
                assert_eq!(ExtentSet::from(listed.unwrap().extent), kept);
            }
        }
        assert!(went_on > 5 || unused != Unused::Keep, "{went_on}");
    }
}

/// Another number than before: the words of the first run mean something else once the new table is there.
#[test]
fn what_got_another_number_is_never_lost_by_the_same_words() {
    let image = saved(&disks(1));
    let old = vec![old_disk(1), noise(78, 5 * MIB)];
    let plan = keeping(&image, &old, 1).unwrap();
    assert_eq!(plan.kept[0].id, "d0:3");
    let (kept, quiet) = (plan.kept_on(0), Quiet::default());
    let expected = kept_bytes(&old[0], &kept);
    let power = Power::new(old);
    carried_out(&image, &power, &plan, &quiet, &|_| ()).unwrap();
    let mut refused = 0;
    // The last of them is whole: nothing tells then that the words are old.
    let flushes = power.flushes();
    for cut in flushes.iter().copied().take(4).chain(flushes.iter().copied().rev().take(8)) {
        let disks = power.cut_after(cut, &mut || true);
        let whole = before(&(Arc::new(Memory::new(disks[0].clone())) as Source)).unwrap();
        let again = keeping(&image, &disks, 1).unwrap();
        let power = Power::new(disks);
        match carried_out(&image, &power, &again, &quiet, &|_| ()) {
            Err(Error::Refused(why)) => {
                assert!(why.contains("name it with --keep again"), "{why}");
                refused += 1;
            }
            Ok(_) if whole.interrupted.is_none() && again.kept_on(0) != kept => continue,
            other => drop(other.unwrap()),
        }
        assert!(kept_bytes(&now(&power)[0], &kept) == expected, "{cut}");
    }
    assert!(refused > 0);
}

#[test]
fn without_its_name_what_an_interrupted_restore_kept_is_not_overwritten() {
    let image = saved(&disks(1));
    let old = vec![old_disk(9), noise(78, 5 * MIB)];
    let plan = keeping(&image, &old, 9).unwrap();
    let (power, quiet) = (Power::new(old), Quiet::default());
    carried_out(&image, &power, &plan, &quiet, &|_| ()).unwrap();
    let disks = power.cut_after(power.steps() / 2, &mut || true);
    let without = super::planned(&image.root, &SIZES);
    let again = Power::new(disks);
    let why = carried_out(&image, &again, &without, &quiet, &|_| ()).unwrap_err();
    assert!(matches!(&why, Error::Refused(_)), "{why}");
    assert!(why.to_string().contains("give it up with --fresh"), "{why}");
    assert_eq!(again.steps(), 0);
    carried_out(&image, &again, &without, &quiet, &|job| job.fresh = true).unwrap();
}
