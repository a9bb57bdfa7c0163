//! Plans for targets that are smaller or fewer, and for volumes that stay empty.

use proptest::prelude::*;

use super::restore::{Place, Request, RestorePlan, min_target, plan, slots};
use super::tests::{
    Lvs, SECTOR, SIZE, at, disk, entry, gpt, group, mbr, mib, planned, refusal, request, root_of,
    sizes,
};
use crate::disk::fixtures::{gpt_bytes, mbr_table, read_table, wanted};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::manifest::{EXCLUDED, Root};
use crate::io::memory::Memory;
use crate::lvm::sample;
use crate::units::Bytes;

/// A plan for targets of exactly these sizes.
fn exactly(root: &Root, sizes: &[Bytes]) -> Result<RestorePlan> {
    let mut request = request(root, &vec![0; sizes.len()], &[]);
    for (target, size) in request.targets.iter_mut().zip(sizes) {
        target.size = *size;
    }
    plan(root, &request)
}

/// `root` with this disk of 200 MiB: `contents` in partitions from and to these MiB.
fn roomy(parts: &[(u32, u64, u64)], contents: &[(u32, &str)]) -> Root {
    let list: Vec<_> = parts.iter().map(|(number, at, size)| wanted(*number, *at, *size)).collect();
    let table = read_table(&Memory::new(gpt_bytes(Bytes::mib(SIZE), SECTOR, 128, &list)));
    root_of(&table, contents)
}

/// A group of whole disks in which `vg/swap` is a swap area.
fn swapping(sizes: &[u64], lvs: Lvs<'_>) -> Root {
    let mut root = group(sizes, lvs);
    for volume in &mut root.volumes {
        if volume.id == "vg/swap" {
            (volume.content, volume.growth) = ("swap".to_owned(), Some("swap".to_owned()));
        }
    }
    root
}

/// The same group with its first PV in the last partition of a GPT disk that has a MiB more on both ends.
fn in_partition(lvs: Lvs<'_>, extents: u64) -> Root {
    let mut root = swapping(&[extents], lvs);
    let end = extents + 12;
    let list = [wanted(1, 1, 4), wanted(2, 6, 4), wanted(3, 11, extents + 1)];
    let bytes = gpt_bytes(Bytes::mib(end + 1), SECTOR, 128, &list);
    let table = read_table(&Memory::new(bytes));
    root.disks[0] = disk("d0", end + 1, Some(&table));
    let volumes =
        [(1, "vfat", mib(1, 5)), (2, "ext4", mib(6, 10)), (3, "LVM2_member", mib(11, end))];
    let lvs = root.volumes.split_off(1);
    root.volumes = vec![entry("d0:gap0", Some("d0"), "gap", "raw", mib(0, 1))];
    for (number, content, extent) in volumes {
        let id = format!("d0:{number}");
        root.volumes.push(entry(&id, Some("d0"), "partition", content, extent));
    }
    root.volumes.extend(lvs);
    root.volume_groups[0].pvs[0].volume = "d0:3".to_owned();
    root
}

#[test]
fn free_space_is_dropped_and_partitions_move_left_only_where_they_must() {
    let (_, root) = gpt();
    let plan = planned(&root, &[SIZE - 10], &[]).unwrap();
    assert_eq!((at(&plan, "d0:2"), at(&plan, "d0:3"), plan.notes.len()), ((5, 20), (28, 22), 0));
    let plan = planned(&root, &[49], &[]).unwrap();
    assert_eq!((at(&plan, "d0:1"), at(&plan, "d0:2")), ((1, 4), (5, 20)));
    assert_eq!(at(&plan, "d0:3"), (26, 22), "only as far as needed");
    assert_eq!(plan.tables[0].as_ref().unwrap().partitions()[2].extent, mib(26, 48));
    let why = refusal(&root, &[47], &[]);
    assert!(why.contains("d0:3 needs a target of 47 MiB (49299968 bytes)"), "{why}");
    // Logical partitions keep the place of their EBRs.
    let (_, root) = mbr();
    let plan = planned(&root, &[47], &[]).unwrap();
    assert_eq!((at(&plan, "d0:5"), at(&plan, "d0:6")), ((16, 10), (27, 20)));
    assert!(refusal(&root, &[46], &[]).contains("d0:6 needs a target of 47 MiB"));
    let table = mbr_table(&[(1, 0x07, 1, 4), (2, 0x83, 9, 4)], &[(0x83, 16, 10), (0x83, 27, 20)]);
    let root = root_of(&table, &[(1, "ntfs"), (2, "ext4"), (5, "ext4"), (6, "xfs")]);
    let plan = planned(&root, &[44], &[]).unwrap();
    assert_eq!(
        (at(&plan, "d0:2"), at(&plan, "d0:5"), at(&plan, "d0:6")),
        ((6, 4), (13, 10), (24, 20))
    );
    assert!(planned(&root, &[43], &[]).is_ok() && planned(&root, &[42], &[]).is_err());
}

#[test]
fn swap_shrinks_last_and_never_below_its_least() {
    let parts = [(1, 1, 10), (2, 12, 100), (3, 113, 20)];
    let list: Vec<_> = parts.iter().map(|(n, at, size)| wanted(*n, *at, *size)).collect();
    let table = read_table(&Memory::new(gpt_bytes(Bytes::mib(200), SECTOR, 128, &list)));
    let mut root = root_of(&table, &[(1, "vfat"), (2, "swap"), (3, "ext4")]);
    root.disks[0] = disk("d0", 200, Some(&table));
    let of = |size| planned(&root, &[size], &[]).map(|plan| (at(&plan, "d0:2"), at(&plan, "d0:3")));
    assert_eq!(of(134).unwrap(), ((12, 100), (113, 20)));
    assert_eq!(of(133).unwrap(), ((12, 100), (112, 20)));
    let plan = planned(&root, &[120], &[]).unwrap();
    let swap = plan.volumes.iter().find(|volume| volume.id == "d0:2").unwrap();
    assert_eq!((swap.offset, swap.to), (Bytes::mib(11), Bytes::mib(88)));
    assert_eq!(at(&plan, "d0:3"), (99, 20));
    assert!(
        plan.notes[0].starts_with("d0:2 shrinks from 100 MiB to 88 MiB: swap"),
        "{:?}",
        plan.notes
    );
    assert_eq!(min_target(&root, "d0").0, Bytes::mib(95) + Bytes::new(33 * 512));
    let why = refusal(&root, &[95], &[]);
    assert!(why.contains("d0:2 needs a target of"), "{why}");
    // What hibernated is no swap to be made anew.
    let mut asleep = root.clone();
    asleep.volumes[2].state = "hibernated".to_owned();
    assert!(planned(&asleep, &[120], &[]).is_err());
}

#[test]
fn a_filesystem_never_shrinks_but_its_partition_may() {
    let mut root = roomy(&[(1, 1, 30), (2, 31, 20)], &[(1, "ext4"), (2, "xfs")]);
    assert!(planned(&root, &[51], &[]).is_err());
    root.volumes[1].min_bytes = Bytes::mib(25);
    let plan = planned(&root, &[50], &[]).unwrap();
    assert_eq!((at(&plan, "d0:2"), plan.volumes[1].to), ((29, 20), Bytes::mib(29) - Bytes::MIB));
    assert!(planned(&root, &[46], &[]).is_err() && planned(&root, &[47], &[]).is_ok());
}

#[test]
fn physical_volumes_give_up_free_extents_and_swap() {
    let lvs: Lvs<'_> =
        &[("root", vec![(20, 0, vec![(0, 10)])]), ("swap", vec![(80, 0, vec![(0, 40)])])];
    let root = in_partition(lvs, 130);
    let plan = planned(&root, &[140], &[]).unwrap();
    assert_eq!(plan.volumes[3].offset, Bytes::mib(11));
    assert_eq!((at(&plan, "d0:2"), sizes(&plan)), ((6, 4), vec![20, 80]));
    assert_eq!(plan.groups[0].vg.pvs[0].pe_count, 127, "what the GPT's tail leaves");
    let plan = planned(&root, &[105], &[]).unwrap();
    assert_eq!((plan.volumes[3].offset, sizes(&plan)), (Bytes::mib(9), vec![20, 74]));
    let vg = &plan.groups[0].vg;
    assert_eq!((vg.lv("root").unwrap().segments.len(), vg.free_bytes()), (1, Bytes::ZERO));
    assert!(plan.notes.iter().any(|note| note.contains("free space of vg")), "{:?}", plan.notes);
    assert!(plan.notes.iter().any(|note| note.starts_with("vg/swap shrinks")), "{:?}", plan.notes);
    let (least, by) = min_target(&root, "d0");
    assert_eq!(least, Bytes::mib(9 + 1 + 84) + Bytes::new(33 * 512));
    assert_eq!(by.as_deref(), Some("vg/swap"));
    // As a whole disk.
    let root = swapping(&[130], lvs);
    assert_eq!(sizes(&planned(&root, &[101], &[]).unwrap()), [20, 80]);
    assert_eq!(sizes(&planned(&root, &[90], &[]).unwrap()), [20, 69]);
    let why = refusal(&root, &[84], &[]);
    assert!(why.contains("vg/swap needs a target of 85 MiB (89128960 bytes)"), "{why}");
}

#[test]
fn growth_by_name_is_refused_where_there_is_less_room() {
    let (_, root) = gpt();
    assert!(refusal(&root, &[49], &["2=+1MiB"]).contains("of new space are left for it"));
    assert!(planned(&root, &[49], &["2=rest"]).is_ok());
}

fn without(root: &Root, mib: &[u64], left_out: &[&str], grow: &[&str]) -> Result<RestorePlan> {
    let mut wishes = request(root, &vec![0; slots(root).len()], grow);
    wishes.left_out = left_out.iter().map(|slot| (*slot).to_owned()).collect();
    wishes.targets.retain(|target| !left_out.contains(&target.slot.as_str()));
    for (target, mib) in wishes.targets.iter_mut().zip(mib) {
        target.size = Bytes::mib(*mib);
    }
    plan(root, &wishes)
}

#[test]
fn three_disks_of_a_group_fit_on_one_or_two() {
    let lvs: Lvs<'_> = &[
        ("root", vec![(5, 0, vec![(0, 0)]), (5, 0, vec![(1, 0)])]),
        ("wide", vec![(6, 128, vec![(1, 5), (2, 5)])]),
    ];
    let root = group(&[10, 10, 10], lvs);
    let plan = without(&root, &[21], &["d1", "d2"], &[]).unwrap();
    assert_eq!(sizes(&plan), [10, 6], "the group has no more space than before");
    let vg = &plan.groups[0].vg;
    assert_eq!((vg.pvs.len(), vg.lvs.iter().map(|lv| lv.segments.len()).sum::<usize>()), (1, 2));
    for note in ["without d1, d2", "vg/wide is no longer striped", "vg/wide lies on d0"] {
        assert!(plan.notes.iter().any(|said| said.starts_with(note)), "{note}: {:?}", plan.notes);
    }
    assert_eq!(plan.volumes.len(), 3);
    assert_eq!(sizes(&without(&root, &[36], &["d1", "d2"], &[]).unwrap()), [15, 6]);
    assert_eq!(sizes(&without(&root, &[17], &["d1", "d2"], &["none"]).unwrap()), [10, 6]);
    let why = without(&root, &[16], &["d1", "d2"], &[]).unwrap_err().to_string();
    assert!(why.contains("1048576 bytes (1 MiB) are missing"), "{why}");
    let plan = without(&root, &[11, 11], &["d0"], &[]).unwrap();
    assert_eq!((sizes(&plan), plan.groups[0].pvs.len()), (vec![10, 6], 2));
    assert!(plan.notes.iter().any(|note| note == "vg/root lies on d1, d2"), "{:?}", plan.notes);
    let why = without(&root, &[], &["d0", "d1", "d2"], &[]).unwrap_err().to_string();
    assert!(why.contains("all physical volumes of vg are left out"), "{why}");
    let (_, other) = gpt();
    let why = without(&other, &[], &["d0"], &[]).unwrap_err().to_string();
    assert!(why.contains("d0 cannot be left out: d0:1 is on it"), "{why}");
    assert!(without(&root, &[11], &["d7"], &[]).is_err());
}

#[test]
fn a_partition_grows_for_what_the_disks_that_are_left_out_held() {
    let lvs: Lvs<'_> = &[("root", vec![(8, 0, vec![(0, 0)])])];
    let mut root = in_partition(lvs, 10);
    let two = group(&[10, 10], &[("root", vec![(8, 0, vec![(0, 0)]), (9, 0, vec![(1, 0)])])]);
    root.disks.push(two.disks[1].clone());
    root.volumes.push(two.volumes[1].clone());
    root.volumes.retain(|volume| volume.kind != "lv");
    root.volumes.push(two.volumes[2].clone());
    let (pv, mut group) = (root.volume_groups[0].pvs[0].clone(), two.volume_groups[0].clone());
    group.pvs[0].volume = pv.volume;
    root.volume_groups = vec![group];
    for (grow, expected) in [(&["none"][..], 17), (&[], 34), (&["d0:2=rest"], 17)] {
        let plan = without(&root, &[23 + 27], &["d1"], grow).unwrap();
        assert_eq!(sizes(&plan), [expected], "{grow:?}");
    }
    let why = without(&root, &[26], &["d1"], &["none"]).unwrap_err().to_string();
    assert!(why.contains("missing"), "{why}");
    // A volume by name grows though nothing else does.
    let root = in_partition(lvs, 10);
    let plan = planned(&root, &[23 + 27], &["none", "vg/root=+5MiB"]).unwrap();
    assert_eq!((sizes(&plan), at(&plan, "d0:2")), (vec![13], (6, 4)));
}

#[test]
fn only_named_volumes_get_data_and_others_are_left_empty() {
    let (_, root) = gpt();
    let mut wishes = request(&root, &[SIZE + 30], &[]);
    wishes.only = vec!["2".to_owned()];
    let planned = plan(&root, &wishes).unwrap();
    let empty: Vec<&str> =
        planned.volumes.iter().filter(|v| v.empty.is_some()).map(|v| v.id.as_str()).collect();
    assert_eq!(empty, ["d0:1", "d0:3"]);
    assert!(planned.notes[0].starts_with("d0:1 is left empty"), "{:?}", planned.notes);
    assert_eq!(planned.writes, Bytes::new(2 * 4096));
    assert_eq!((at(&planned, "d0:2").1, at(&planned, "d0:3").1), (50, 22));
    wishes.only = vec!["3".to_owned()];
    let planned = plan(&root, &wishes).unwrap();
    assert_eq!(planned.grow, Vec::new(), "what is left empty does not grow");
    wishes.only = vec!["9".to_owned()];
    assert!(plan(&root, &wishes).unwrap_err().to_string().contains("no volume 9; it has d0:gap0"));
    let mut root = group(&[10], &[("root", vec![(3, 0, vec![(0, 2)])])]);
    wishes = request(&root, &[11], &[]);
    wishes.only = vec!["d0".to_owned()];
    assert!(plan(&root, &wishes).unwrap_err().to_string().contains("d0 only holds other volumes"));
    root.volumes[1].state = EXCLUDED.to_owned();
    root.volumes[1].growth = None;
    wishes = request(&root, &[21], &[]);
    let planned = plan(&root, &wishes).unwrap();
    assert_eq!((sizes(&planned), planned.writes), (vec![3], Bytes::ZERO));
    assert!(planned.notes[0].contains("it was excluded when it was saved"), "{:?}", planned.notes);
    wishes.only = vec!["vg/root".to_owned()];
    assert!(plan(&root, &wishes).unwrap_err().to_string().contains("vg/root was excluded"));
}

proptest! {
    #[test]
    fn the_smallest_target_is_planned_and_a_sector_less_is_refused(
        layout in prop::collection::vec((0_u64..9, 1_u64..90, 0_u8..4), 1..6),
        lvs in prop::collection::vec((1_u64..90, any::<bool>()), 1..4),
        behind in 0_u64..40,
        kind in 0..3_u8,
    ) {
        let mut at = 1;
        let parts: Vec<(u32, u64, u64)> = layout.iter().zip(1..).map(|((gap, size, _), number)| {
            let start = at + gap;
            at = start + size;
            (number, start, *size)
        }).collect();
        let content = |kind: &u8| match kind { 0 => "swap", 1 => "vfat", _ => "ext4" };
        let contents: Vec<(u32, &str)> =
            layout.iter().zip(1..).map(|((.., kind), number)| (number, content(kind))).collect();
        let mut next = 3;
        let mut named: Vec<(String, Vec<sample::Segment>)> = Vec::new();
        for (number, (size, swap)) in lvs.iter().enumerate() {
            let name = if *swap { "swap".to_owned() } else { format!("lv{number}") };
            if named.iter().all(|(other, ..)| *other != name) {
                named.push((name, vec![(*size, 0, vec![(0, next)])]));
                next += size + 1;
            }
        }
        let lvs: Vec<(&str, Vec<sample::Segment>)> =
            named.iter().map(|(name, segments)| (name.as_str(), segments.clone())).collect();
        let root = match kind {
            0 => {
                let list: Vec<_> = parts.iter().map(|(n, at, size)| wanted(*n, *at, *size)).collect();
                let size = at + behind + 1;
                let bytes = gpt_bytes(Bytes::mib(size), SECTOR, 128, &list);
                let table = read_table(&Memory::new(bytes));
                let mut root = root_of(&table, &contents);
                root.disks[0] = disk("d0", size, Some(&table));
                for (volume, (.., kind)) in root.volumes.iter_mut().skip(1).zip(&layout) {
                    if *kind == 3 {
                        volume.min_bytes = Bytes::new(volume.size.get() / 3 * 2);
                    }
                }
                root
            }
            1 => swapping(&[next + behind], &lvs),
            _ => in_partition(&lvs, next + behind),
        };
        let (least, by) = min_target(&root, "d0");
        prop_assert!(by.is_some() && least <= root.disks[0].size);
        let plan = exactly(&root, &[least]).unwrap();
        for volume in &plan.volumes {
            let old = &root.volumes[volume.entry];
            let smaller = old.content == "swap" || old.is_container;
            prop_assert!(volume.to >= old.min_bytes.min(volume.from) || smaller, "{volume:?}");
            if let (Place::Target(_, Extent { end, .. }), true) = (&volume.place, old.kind != "gap") {
                prop_assert!(*end <= least);
            }
        }
        let less = exactly(&root, &[least - SECTOR]);
        prop_assert!(matches!(less, Err(Error::Refused(_))), "{less:?}");
        prop_assert!(plan_of_half(&root).is_err() || least.get() <= root.disks[0].size.get() / 2);
    }
}

fn plan_of_half(root: &Root) -> Result<RestorePlan> {
    let half = Bytes::new(root.disks[0].size.get() / 2).align_down(SECTOR);
    let request = Request::default();
    assert!(plan(root, &request).is_err(), "no target is no plan");
    exactly(root, &[half])
}
