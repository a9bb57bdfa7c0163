//! Plans around what stays: where the image goes then, what it replaces, and what is refused.

use proptest::prelude::*;

use super::keep::Wish;
use super::old::{Old, OldPv};
use super::proof;
use super::restore::{Place, Request, RestorePlan, plan};
use super::tests::{SECTOR, SIZE, at, disk, entry, gpt, group, mbr, mib, request, root_of};
use crate::disk::fixtures::{Wanted, gpt_bytes, mbr_table, read_table, wanted};
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::Root;
use crate::io::memory::Memory;
use crate::lvm::model::VgStamp;
use crate::lvm::sample;
use crate::units::Bytes;

fn table(size: u64, list: &[Wanted]) -> Table {
    read_table(&Memory::new(gpt_bytes(Bytes::mib(size), SECTOR, 128, list)))
}

/// Another partition than any of an image.
fn strange(number: u32, start: u64, length: u64) -> Wanted {
    Wanted { uuid: [0xa0 + u8::try_from(number).unwrap(); 16], ..wanted(number, start, length) }
}

fn old(table: &Table) -> Old {
    Old { table: Some(table.clone()), pvs: Vec::new() }
}

fn wish(text: &str) -> Wish {
    let (name, instead) = match text.split_once('=') {
        Some((name, instead)) => (name, Some(instead.to_owned())),
        None => (text, None),
    };
    Wish { target: None, name: name.to_owned(), instead }
}

fn asked(root: &Root, size: u64, grow: &[&str], old: Old, keep: &[&str]) -> Request {
    let keep = keep.iter().map(|text| wish(text)).collect();
    Request { keep, before: vec![old], ..request(root, &[size], grow) }
}

fn kept(root: &Root, size: u64, grow: &[&str], old: Old, keep: &[&str]) -> Result<RestorePlan> {
    plan(root, &asked(root, size, grow, old, keep))
}

fn refused(root: &Root, size: u64, old: Old, keep: &[&str]) -> String {
    match kept(root, size, &[], old, keep) {
        Err(Error::Refused(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

fn listed(plan: &RestorePlan) -> Vec<(u32, Extent)> {
    let parts = plan.tables[0].as_ref().unwrap().partitions();
    parts.iter().map(|part| (part.number, part.extent)).collect()
}

fn ids(plan: &RestorePlan) -> Vec<&str> {
    plan.volumes.iter().map(|volume| volume.id.as_str()).collect()
}

#[test]
fn a_partition_of_the_images_own_stays_in_its_place() {
    let (image, root) = gpt();
    let plan = kept(&root, SIZE, &[], old(&image), &["2"]).unwrap();
    assert_eq!(plan.tables[0].as_ref(), Some(&image));
    assert_eq!(ids(&plan), ["d0:gap0", "d0:1", "d0:3"]);
    assert_eq!((plan.kept[0].id.as_str(), plan.kept[0].instead.as_deref()), ("d0:2", Some("d0:2")));
    assert_eq!(plan.kept_on(0), mib(5, 25).into());
    assert!(plan.notes[0].contains("in place of d0:2 of the image"), "{:?}", plan.notes);
    // It was moved and enlarged since; what was behind it has to go elsewhere.
    let since = table(SIZE, &[wanted(1, 1, 4), wanted(2, 20, 40)]);
    let why = refused(&root, SIZE, old(&since), &["2"]);
    assert!(why.contains("do not fit around what is kept"), "{why}");
    let plan = kept(&root, SIZE + 30, &[], old(&since), &["2"]).unwrap();
    assert_eq!(listed(&plan), [(1, mib(1, 5)), (2, mib(20, 60)), (3, mib(60, 82))]);
    // The image calls it by another number, and its entry stays what it was on the target.
    let named = Wanted { uuid: [3; 16], name: "mine".to_owned(), ..wanted(9, 28, 22) };
    let plan = kept(&root, SIZE, &[], old(&table(SIZE, &[named])), &["9"]).unwrap();
    let parts = plan.tables[0].as_ref().unwrap().partitions();
    assert_eq!((parts[2].number, parts[2].name.as_deref()), (3, Some("mine")));
    assert!(plan.notes[0].ends_with("; it is partition 3 then"), "{:?}", plan.notes);
}

#[test]
fn what_the_image_does_not_have_stays_beside_it() {
    let (_, root) = gpt();
    let there = old(&table(SIZE + 40, &[strange(1, 1, 9), strange(4, 90, 10)]));
    let plan = kept(&root, SIZE + 40, &[], there.clone(), &["4"]).unwrap();
    assert_eq!(ids(&plan).len(), 4);
    // New space is what the larger disk has beyond what stays.
    assert_eq!(at(&plan, "d0:2"), (5, 50));
    assert_eq!(listed(&plan)[2..], [(3, mib(58, 80)), (4, mib(90, 100))]);
    // Its number is the image's, and it lies where the image's first two partitions would.
    let plan = kept(&root, SIZE + 40, &[], there.clone(), &["1"]).unwrap();
    assert_eq!(listed(&plan)[3], (4, mib(1, 10)));
    assert_eq!((at(&plan, "d0:1"), at(&plan, "d0:3").1), ((10, 4), 22));
    let parts = plan.tables[0].as_ref().unwrap().partitions();
    assert_eq!(parts[3].uuid, there.table.as_ref().unwrap().partitions()[0].uuid);
    assert!(plan.notes[0].ends_with("; it is partition 4 then"), "{:?}", plan.notes);
    // In place of one that is named.
    let plan = kept(&root, SIZE + 40, &["none"], there, &["4=3", "1=d0:1"]).unwrap();
    assert_eq!(listed(&plan), [(1, mib(1, 10)), (2, mib(10, 30)), (3, mib(90, 100))]);
    assert_eq!(ids(&plan), ["d0:gap0", "d0:2"]);
}

#[test]
fn growth_goes_as_far_as_what_stays() {
    let (image, root) = gpt();
    // The swap stays where it is, so the root has the 3 MiB before it that were free.
    let wide = old(&image);
    let plan = kept(&root, SIZE + 30, &["use-free"], wide.clone(), &["3"]).unwrap();
    assert_eq!(at(&plan, "d0:2"), (5, 23));
    let plan = kept(&root, SIZE, &[], wide.clone(), &["3"]).unwrap();
    assert_eq!(at(&plan, "d0:2"), (5, 20));
    let why = kept(&root, SIZE + 30, &["2=+10MiB"], wide.clone(), &["3"]).unwrap_err().to_string();
    assert!(why.contains("d0:2 should grow by 10 MiB, but only 3 MiB"), "{why}");
    let plan = kept(&root, SIZE + 30, &["2=rest"], wide.clone(), &["3"]).unwrap();
    assert_eq!(at(&plan, "d0:2"), (5, 23));
    let why = kept(&root, SIZE + 30, &["3=rest"], wide, &["3"]).unwrap_err().to_string();
    assert!(why.contains("d0:3 is not restored, so it cannot grow"), "{why}");
}

#[test]
fn what_cannot_stay_is_refused_by_name() {
    let (image, root) = gpt();
    let (mbr_image, mbr_root) = mbr();
    for (root, before, keep, word) in [
        (&root, Old::default(), &["2"][..], "there is no partition table"),
        (&root, old(&image), &["7"], "the partitions there are 1, 2, 3"),
        (&root, old(&image), &["2", "2"], "named twice"),
        (&root, old(&image), &["2", "1=2"], "named twice"),
        (&root, old(&mbr_image), &["1"], "in a table of the kind MBR, the image has GPT"),
        (&root, old(&image), &["2=gap0"], "in place of d0:gap0: it is no partition"),
        (&root, old(&image), &["2=8"], "no volume 8"),
        (&mbr_root, old(&mbr_image), &["4"], "it only holds other partitions"),
    ] {
        let why = refused(root, SIZE, before, keep);
        assert!(why.contains(word), "{why}");
    }
    // The boot code of the image reaches as far as its first partition.
    let mut early = root.clone();
    early.volumes[0] = entry("d0:gap0", Some("d0"), "gap", "raw", mib(0, 1));
    let mut list = table(SIZE, &[strange(4, 1, 9)]);
    if let Table::Gpt(gpt) = &mut list {
        gpt.partitions[0].extent = Extent::new(Bytes::kib(512), Bytes::mib(3));
    }
    let why = refused(&early, SIZE + 20, old(&list), &["4"]);
    assert!(
        why.contains("partition 4 of target cannot be kept: d0:gap0 of the image goes there"),
        "{why}"
    );
    // The backup table.
    let mut last = table(SIZE, &[strange(4, 50, 9)]);
    if let Table::Gpt(gpt) = &mut last {
        gpt.partitions[0].extent = mib(55, SIZE);
    }
    let why = refused(&root, SIZE, old(&last), &["4"]);
    assert!(why.contains("partition 4 of target cannot be kept"), "{why}");
}

#[test]
fn what_stays_needs_one_target_and_a_place_in_its_table() {
    let (image, root) = gpt();
    let mut two = root.clone();
    two.disks.push(disk("d1", SIZE, None));
    two.volumes.push(entry("d1", Some("d1"), "disk", "ext4", mib(0, SIZE)));
    let ask = |wish: Wish| {
        let before = vec![old(&image), old(&image)];
        let request = Request { keep: vec![wish], before, ..request(&two, &[SIZE, SIZE], &[]) };
        plan(&two, &request)
    };
    for (target, word) in [(None, "of which target?"), (Some(1), "puts no partition table onto")] {
        let why = ask(Wish { target, ..wish("2") }).unwrap_err().to_string();
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(ask(Wish { target: Some(0), ..wish("2") }).unwrap().kept_on(0), mib(5, 25).into());
    // Four primary partitions are all that an MBR has.
    let full = mbr_table(&[(1, 7, 1, 4), (2, 7, 5, 4), (3, 7, 9, 4), (4, 7, 13, 4)], &[]);
    let root = root_of(&full, &[(1, "ext4"), (2, "ext4"), (3, "ext4"), (4, "ext4")]);
    let Table::Mbr(mut other) = mbr_table(&[(1, 7, 70, 10)], &[]) else { panic!() };
    other.partitions.iter_mut().for_each(|part| part.uuid = None);
    let why = refused(&root, SIZE + 30, old(&Table::Mbr(other)), &["1"]);
    assert!(why.contains("has no number left for it"), "{why}");
}

/// The same disk with a volume group on its second partition.
fn gpt_with_group() -> (Table, Root) {
    let (image, mut root) = gpt();
    let vg = group(&[19], &[("root", vec![(4, 0, vec![(0, 0)])])]);
    root.volumes[2] = entry("d0:2", Some("d0"), "partition", "LVM2_member", mib(5, 25));
    root.volumes.push(vg.volumes[1].clone());
    root.volume_groups = vg.volume_groups;
    root.volume_groups[0].pvs[0].volume = "d0:2".to_owned();
    (image, root)
}

/// Whatever the planner may do wrong, it is the last to look.
#[test]
fn the_proof_refuses_a_plan_that_touches_or_forgets_what_stays() {
    let (image, root) = gpt_with_group();
    let plan = kept(&root, SIZE, &[], old(&image), &["3"]).unwrap();
    proof::check(&plan).unwrap();
    let label = Extent::new(Bytes::mib(5), Bytes::mib(5) + Bytes::kib(4));
    for (extents, word) in [
        (ExtentSet::new(), "it is not on that target"),
        (mib(28, SIZE + 1).into(), "it is not on that target"),
        (Extent::first(Bytes::new(512)).into(), "the image's partition table goes there"),
        (mib(4, 5).into(), "d0:1 of the image goes there"),
        (label.into(), "a label or metadata of the volume group vg goes there"),
        (mib(6, 10).into(), "vg/root of the image goes there"),
        (mib(30, 40).into(), "nothing would lead to it any more"),
    ] {
        let mut wrong = plan.clone();
        wrong.kept[0].extents = extents;
        let why = proof::check(&wrong).unwrap_err().to_string();
        assert!(why.contains(word), "{word}: {why}");
    }
    let mut wrong = plan.clone();
    wrong.kept[0].target = 1;
    assert!(proof::check(&wrong).unwrap_err().to_string().contains("its target is not there"));
}

#[test]
fn an_mbr_lists_what_stays_too() {
    let (image, root) = mbr();
    let plan = kept(&root, SIZE, &[], old(&image), &["6"]).unwrap();
    assert_eq!(plan.tables[0].as_ref(), Some(&image));
    assert_eq!(plan.kept[0].instead.as_deref(), Some("d0:6"));
    // A logical partition of another disk becomes a primary one.
    let Table::Mbr(mut other) = mbr_table(&[(1, 0x07, 1, 4)], &[(0x83, 70, 10)]) else { panic!() };
    other.signature = "00c0ffee".to_owned();
    other.partitions.iter_mut().for_each(|part| part.uuid = None);
    let plan = kept(&root, SIZE + 30, &["none"], old(&Table::Mbr(other)), &["5"]).unwrap();
    let stays = plan.tables[0].as_ref().unwrap().partitions().iter().find(|p| p.number == 3);
    assert_eq!(stays.map(|part| part.extent), Some(mib(70, 80)));
}

/// The physical volume of a group on the second partition, of another or of the same name.
fn pv(table: &Table, name: &str) -> Old {
    let mut head = sample::head(7, &[(4096, 1_044_480)]);
    head.vg = Some(VgStamp { name: name.to_owned(), uuid: sample::uuid('w', 0), seqno: 3 });
    let extent = table.partitions()[1].extent;
    Old { table: Some(table.clone()), pvs: vec![OldPv { extent, head }] }
}

#[test]
fn a_physical_volume_stays_where_no_group_is_there_twice() {
    let (image, root) = gpt_with_group();
    // In place of the image's own: then nothing of the group is restored.
    let plan = kept(&root, SIZE, &[], pv(&image, "vg"), &["2"]).unwrap();
    assert_eq!((ids(&plan), plan.groups.len()), (vec!["d0:gap0", "d0:1", "d0:3"], 0));
    assert!(plan.notes.iter().any(|note| note.starts_with("vg/root is not restored")));
    let other = table(SIZE + 40, &[strange(1, 1, 9), strange(4, 80, 20)]);
    let why = refused(&root, SIZE + 40, pv(&other, "vg"), &["4"]);
    assert!(why.contains("physical volume of vg") && why.contains("--keep 4=d0:2"), "{why}");
    let plan = kept(&root, SIZE + 40, &[], pv(&other, "data"), &["4"]).unwrap();
    assert_eq!((plan.groups.len(), plan.kept.len()), (1, 1));
}

/// Partitions side by side with gaps, as (gap, length), and whether each is one of the image's.
fn layout() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
    prop::collection::vec((0_u64..6, 1_u64..12, any::<bool>()), 1..7)
}

fn laid(list: &[(u64, u64, bool)], same: bool) -> (Vec<Wanted>, u64) {
    let mut next = 1;
    let parts = (1..).zip(list).map(|(number, (gap, length, own))| {
        let start = next + gap;
        next = start + length;
        if same || *own { wanted(number, start, *length) } else { strange(number, start, *length) }
    });
    (parts.collect(), next + 1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_that_is_written_meets_what_stays(
        image in layout(),
        there in layout(),
        kinds in prop::collection::vec(0_usize..3, 8),
        keep in prop::collection::vec(any::<bool>(), 8),
        extra in 0_u64..60,
        grow in 0_usize..4,
    ) {
        let (parts, size) = laid(&image, true);
        let contents: Vec<(u32, &str)> = parts
            .iter()
            .zip(&kinds)
            .map(|(part, kind)| (part.number, ["ext4", "swap", "ntfs"][*kind]))
            .collect();
        let mut root = root_of(&table(size, &parts), &contents);
        root.disks[0].size = Bytes::mib(size);
        let (old_parts, old_size) = laid(&there, false);
        let target = old_size.max(size) + extra;
        let before = table(target, &old_parts);
        let wishes: Vec<String> = old_parts
            .iter()
            .zip(&keep)
            .filter(|(_, keep)| **keep)
            .map(|(part, _)| part.number.to_string())
            .collect();
        let names: Vec<&str> = wishes.iter().map(String::as_str).collect();
        let grow = [&[][..], &["use-free"], &["proportional", "use-free"], &["none"]][grow];
        let plan = match kept(&root, target, grow, old(&before), &names) {
            Ok(plan) => plan,
            Err(Error::Refused(_)) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        check(&plan, &before, &names)?;
    }
}

/// By its own reckoning: every partition that was named is listed as it was, and shares no byte with any other
/// nor with the table.
fn check(plan: &RestorePlan, before: &Table, names: &[&str]) -> Result<(), TestCaseError> {
    let new = plan.tables[0].as_ref().unwrap();
    let own = new.own_bytes(plan.targets[0].size, SECTOR);
    for name in names {
        let was = before.partitions().iter().find(|part| part.number.to_string() == *name).unwrap();
        let now = new.partitions().iter().filter(|part| part.uuid == was.uuid);
        let now: Vec<_> = now.map(|part| (part.extent, &part.kind, &part.name)).collect();
        prop_assert_eq!(now, [(was.extent, &was.kind, &was.name)]);
        prop_assert!(own.within(was.extent).next().is_none());
        prop_assert!(plan.kept_on(0).contains(was.extent));
        for volume in &plan.volumes {
            let Place::Target(_, extent) = volume.place else { panic!() };
            prop_assert!(extent.intersect(was.extent).is_none(), "{} on {}", volume.id, name);
        }
    }
    let total: ExtentSet = names
        .iter()
        .map(|name| {
            before.partitions().iter().find(|part| part.number.to_string() == *name).unwrap()
        })
        .map(|part| part.extent)
        .collect();
    prop_assert_eq!(plan.kept_on(0), total);
    Ok(())
}
