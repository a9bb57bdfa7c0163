//! Plans of roots made by hand: who grows, who moves, who stays, and what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::growth::{Base, Policy};
use super::restore::{Place, Request, RestorePlan, Target, min_target, plan, slots};
use crate::disk::fixtures::{gpt_bytes, mbr_table, read_table, wanted};
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::manifest::{DiskEntry, PvEntry, Root, VolumeEntry, VolumeGroupEntry};
use crate::io::memory::Memory;
use crate::lvm::model::VgStamp;
use crate::lvm::sample;
use crate::units::Bytes;

pub(super) const SIZE: u64 = 64;
pub(super) const SECTOR: Bytes = Bytes::new(512);

pub(super) fn disk(id: &str, mib: u64, table: Option<&Table>) -> DiskEntry {
    let table = table.map(|table| serde_json::to_value(table).unwrap());
    let disk = json!({"id": id, "path": "/dev/x", "size": Bytes::mib(mib), "sector_size": 512,
        "table": table});
    serde_json::from_value(disk).unwrap()
}

pub(super) fn entry(
    id: &str,
    disk: Option<&str>,
    kind: &str,
    content: &str,
    at: Extent,
) -> VolumeEntry {
    let growth = match content {
        "ext4" => Some("resize2fs"),
        "xfs" => Some("xfsgrowfs"),
        "swap" => Some("swap"),
        _ => None,
    };
    let entry = json!({"id": id, "disk": disk, "kind": kind, "offset": at.start, "size": at.len(),
        "content": content, "used_bytes": 4096, "min_bytes": at.len(), "state": "clean",
        "growth": growth, "is_container": content == "LVM2_member", "unreadable": [],
        "sector_limit": if growth.is_some() { Some(SECTOR) } else { None }, "segments": [null]});
    serde_json::from_value(entry).unwrap()
}

pub(super) fn mib(from: u64, to: u64) -> Extent {
    Extent::new(Bytes::mib(from), Bytes::mib(to))
}

/// A root of one disk with this table, a volume of this content in each partition that has one.
pub(super) fn root_of(table: &Table, contents: &[(u32, &str)]) -> Root {
    let mut root = Root::empty("test");
    root.disks.push(disk("d0", SIZE, Some(table)));
    root.volumes.push(entry("d0:gap0", Some("d0"), "gap", "raw", mib(0, 1)));
    for (number, content) in contents {
        let mut parts = table.partitions().iter();
        let at = parts.find(|part| part.number == *number).unwrap().extent;
        let id = format!("d0:{number}");
        root.volumes.push(entry(&id, Some("d0"), "partition", content, at));
    }
    root
}

/// ESP, ext4, swap, with 3 MiB free before the swap and 13 behind it.
pub(super) fn gpt() -> (Table, Root) {
    let list = [wanted(1, 1, 4), wanted(2, 5, 20), wanted(3, 28, 22)];
    let bytes = gpt_bytes(Bytes::mib(SIZE), SECTOR, 128, &list);
    let table = read_table(&Memory::new(bytes));
    let root = root_of(&table, &[(1, "vfat"), (2, "ext4"), (3, "swap")]);
    (table, root)
}

/// Two primary partitions and two logical ones, each a MiB behind its EBR.
pub(super) fn mbr() -> (Table, Root) {
    let primary = [(1, 0x07, 1, 4), (2, 0x83, 5, 10)];
    let table = mbr_table(&primary, &[(0x83, 16, 10), (0x83, 27, 20)]);
    let root = root_of(&table, &[(1, "ntfs"), (2, "ext4"), (5, "ext4"), (6, "xfs")]);
    (table, root)
}

pub(super) type Lvs<'a> = &'a [(&'a str, Vec<sample::Segment>)];

/// A volume group with extents of 1 MiB over whole disks of `sizes` extents behind 1 MiB.
pub(super) fn group(sizes: &[u64], lvs: Lvs<'_>) -> Root {
    let mut root = Root::empty("test");
    let text = sample::text(2048, sizes, lvs);
    let vg = sample::vg(2048, sizes, lvs);
    let mut pvs = Vec::new();
    for (at, extents) in sizes.iter().enumerate() {
        let id = format!("d{at}");
        root.disks.push(disk(&id, extents + 1, None));
        let all = mib(0, extents + 1);
        root.volumes.push(entry(&id, Some(&id), "disk", "LVM2_member", all));
        let mut head = sample::head(at, &[(4096, 1_044_480)]);
        head.vg = Some(VgStamp { name: vg.name.clone(), uuid: vg.uuid.clone(), seqno: vg.seqno });
        let head = serde_json::to_value(head).unwrap();
        pvs.push(PvEntry { uuid: sample::uuid('p', at), volume: id, head });
    }
    for lv in &vg.lvs {
        let id = format!("vg/{}", lv.name);
        let mut volume = entry(&id, None, "lv", "ext4", Extent::first(lv.size(&vg)));
        volume.container = Some("vg".to_owned());
        root.volumes.push(volume);
    }
    let lvs = vg.lvs.iter().map(|lv| format!("vg/{}", lv.name)).collect();
    let (name, uuid, extent_size) = (vg.name, vg.uuid, vg.extent_size);
    root.volume_groups.push(VolumeGroupEntry { name, uuid, extent_size, text, pvs, lvs });
    root
}

pub(super) fn request(root: &Root, mib: &[u64], grow: &[&str]) -> Request {
    let mut policy = Policy::default();
    grow.iter().filter(|wish| **wish != "use-free").for_each(|wish| policy.add(wish).unwrap());
    policy.use_free = grow.contains(&"use-free");
    let target = |(slot, mib): (&str, &u64)| Target {
        slot: slot.to_owned(),
        path: "target".into(),
        size: Bytes::mib(*mib),
        sector_size: SECTOR,
        creates: true,
    };
    let targets = slots(root).into_iter().zip(mib).map(target).collect();
    Request { targets, policy, ..Request::default() }
}

pub(super) fn planned(root: &Root, mib: &[u64], grow: &[&str]) -> Result<RestorePlan> {
    plan(root, &request(root, mib, grow))
}

pub(super) fn refusal(root: &Root, mib: &[u64], grow: &[&str]) -> String {
    match planned(root, mib, grow) {
        Err(Error::Refused(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

/// Start and size of a volume in MiB.
pub(super) fn at(plan: &RestorePlan, id: &str) -> (u64, u64) {
    let volume = plan.volumes.iter().find(|volume| volume.id == id).unwrap();
    assert!(volume.offset.is_aligned(Bytes::MIB) && volume.to.is_aligned(Bytes::MIB), "{volume:?}");
    (volume.offset.units(Bytes::MIB), volume.to.units(Bytes::MIB))
}

pub(super) fn sizes(plan: &RestorePlan) -> Vec<u64> {
    let lvs = plan.volumes.iter().filter(|volume| matches!(volume.place, Place::Lv(..)));
    lvs.map(|volume| volume.to.units(Bytes::MIB)).collect()
}

#[test]
fn a_target_of_the_same_size_keeps_everything() {
    for (table, root) in [gpt(), mbr()] {
        for grow in [&[][..], &["proportional"], &["none", "use-free"]] {
            let plan = planned(&root, &[SIZE], grow).unwrap();
            for volume in &plan.volumes {
                let old = &root.volumes[volume.entry];
                assert_eq!((volume.offset, volume.to), (old.offset, old.size), "{}", volume.id);
            }
            assert_eq!(plan.tables, [Some(table.clone())]);
            assert_eq!((plan.grow, plan.warnings), (Vec::new(), Vec::<String>::new()));
        }
    }
    let root = group(&[10, 10], &[("root", vec![(3, 0, vec![(0, 2)]), (2, 0, vec![(1, 5)])])]);
    let plan = planned(&root, &[11, 11], &[]).unwrap();
    let old =
        sample::vg(2048, &[10, 10], &[("root", vec![(3, 0, vec![(0, 2)]), (2, 0, vec![(1, 5)])])]);
    assert_eq!(sample::layout(&plan.groups[0].vg), sample::layout(&old));
}

#[test]
fn the_last_growable_partition_grows_and_what_lies_behind_moves() {
    let (_, root) = gpt();
    let plan = planned(&root, &[SIZE + 30], &[]).unwrap();
    assert_eq!(at(&plan, "d0:gap0"), (0, 1));
    assert_eq!(at(&plan, "d0:1"), (1, 4));
    assert_eq!(at(&plan, "d0:2"), (5, 50));
    assert_eq!(at(&plan, "d0:3"), (58, 22));
    assert_eq!(plan.tools, ["e2fsck", "resize2fs"]);
    let parts = plan.tables[0].as_ref().unwrap().partitions();
    assert_eq!(parts[1].extent, mib(5, 55));
    assert_eq!(parts[2].extent, mib(58, 80));

    let (_, root) = mbr();
    let plan = planned(&root, &[SIZE + 30], &["5=+10MiB", "6=rest"]).unwrap();
    assert_eq!(at(&plan, "d0:2"), (5, 10));
    assert_eq!(at(&plan, "d0:5"), (16, 20));
    assert_eq!(at(&plan, "d0:6"), (37, 40));
    let plan = planned(&root, &[SIZE + 30], &["2=+5MiB"]).unwrap();
    assert_eq!(at(&plan, "d0:2"), (5, 15));
    assert_eq!((at(&plan, "d0:5"), at(&plan, "d0:6")), ((21, 10), (32, 20)));
}

#[test]
fn wishes_by_name_are_met_or_refused() {
    let (_, root) = gpt();
    let swap = planned(&root, &[SIZE + 30], &["3=+50%"]).unwrap();
    assert_eq!((at(&swap, "d0:2"), at(&swap, "d0:3")), ((5, 20), (28, 37)));
    assert!(swap.tools.is_empty() && swap.grow.len() == 1 && swap.grow[0].asked);
    let none = planned(&root, &[SIZE + 30], &["none"]).unwrap();
    assert_eq!((at(&none, "d0:3"), none.warnings.len()), ((28, 22), 0));
    for (wishes, word) in [
        (&["2=+31MiB"][..], "only 30 MiB"),
        (&["1=rest"], "no tool makes vfat larger"),
        (&["2=rest", "3=rest"], "only one volume"),
        (&["2=rest", "d0:2=+1MiB"], "twice"),
        (&["7=rest"], "no volume 7"),
    ] {
        let why = refusal(&root, &[SIZE + 30], wishes);
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn free_space_is_used_only_when_asked_and_only_where_it_helps() {
    let (_, root) = gpt();
    // 14 MiB behind the swap without the backup table, 3 before it.
    let plan = planned(&root, &[SIZE], &["use-free"]).unwrap();
    assert_eq!((at(&plan, "d0:2"), at(&plan, "d0:3")), ((5, 36), (41, 22)));
    let plan = planned(&root, &[SIZE], &["use-free", "3=rest"]).unwrap();
    assert_eq!((at(&plan, "d0:2"), at(&plan, "d0:3")), ((5, 20), (28, 35)));
    let why = refusal(&root, &[SIZE], &["use-free", "3=+14MiB"]);
    assert!(why.contains("d0:3 should grow by 14 MiB"), "{why}");
    // The MiB before a logical partition holds its EBR.
    let (_, root) = mbr();
    let plan = planned(&root, &[SIZE], &["use-free", "5=rest"]).unwrap();
    assert_eq!((at(&plan, "d0:5"), at(&plan, "d0:6")), ((16, 27), (44, 20)));
}

#[test]
fn a_gap_behind_the_last_partition_keeps_its_place_behind_it() {
    let (_, mut root) = gpt();
    root.volumes.push(entry("d0:gap2", Some("d0"), "gap", "raw", mib(50, SIZE)));
    for (grow, swap) in [(&[][..], (58, 22)), (&["use-free"], (58, 22)), (&["3=rest"], (28, 52))] {
        let plan = planned(&root, &[SIZE + 30], grow).unwrap();
        assert_eq!(at(&plan, "d0:3"), swap);
        assert_eq!(at(&plan, "d0:gap2"), (swap.0 + swap.1, 14));
    }
    assert_eq!(min_target(&root, "d0"), (Bytes::mib(SIZE - 3), Some("d0:3".to_owned())));
    let plan = planned(&root, &[SIZE - 3], &[]).unwrap();
    assert_eq!((at(&plan, "d0:3"), at(&plan, "d0:gap2")), ((25, 22), (47, 14)));
    let why = refusal(&root, &[SIZE - 4], &[]);
    assert!(why.contains("needs a target of 61 MiB"), "{why}");
}

#[test]
fn what_does_not_fit_is_named() {
    let (_, root) = gpt();
    let (least, by) = min_target(&root, "d0");
    assert_eq!((least, by.as_deref()), (Bytes::mib(47) + Bytes::new(33 * 512), Some("d0:3")));
    let why = refusal(&root, &[47], &[]);
    assert!(
        why.starts_with("target is too small")
            && why.contains("d0:3 needs a target of")
            && why.contains("49299968 bytes"),
        "{why}"
    );
    assert!(planned(&root, &[51], &[]).is_ok());
    let why = plan(&root, &Request::default()).unwrap_err().to_string();
    assert!(why.contains("1 disks or volumes to restore (d0), but 0 targets"), "{why}");
}

#[test]
fn a_growth_by_name_that_alignment_leaves_no_room_for_is_refused() {
    let table = mbr_table(&[(1, 0x83, 1, 10), (2, 0x83, 11, 53)], &[]);
    let mut root = root_of(&table, &[(1, "ext4"), (2, "ext4")]);
    let odd = Extent::new(Bytes::mib(11) + Bytes::new(512), Bytes::mib(SIZE));
    root.volumes[2] = entry("d0:2", Some("d0"), "partition", "ext4", odd);
    let Table::Mbr(mut mbr) = table else { panic!() };
    mbr.partitions[1].extent = odd;
    root.disks[0] = disk("d0", SIZE, Some(&Table::Mbr(mbr)));
    let why = refusal(&root, &[SIZE + 5], &["1=+5MiB"]);
    assert!(why.starts_with("target: partition 2 would end at byte"), "{why}");
    let plan = planned(&root, &[SIZE + 5], &["1=rest"]).unwrap();
    assert_eq!(plan.volumes[1].to, Bytes::mib(14), "one for the alignment");
}

#[test]
fn without_a_tool_the_next_one_grows_and_the_reason_is_told() {
    let (_, root) = mbr();
    let mut request = request(&root, &[SIZE + 30], &[]);
    request.blocked.insert("d0:6".to_owned(), "xfs_growfs is missing".to_owned());
    let plan1 = plan(&root, &request).unwrap();
    assert_eq!((at(&plan1, "d0:5"), at(&plan1, "d0:6")), ((16, 40), (57, 20)));
    for id in ["d0:2", "d0:5"] {
        request.blocked.insert(id.to_owned(), "resize2fs is missing".to_owned());
    }
    let plan2 = plan(&root, &request).unwrap();
    assert!(plan2.grow.is_empty());
    let warning = &plan2.warnings[0];
    assert!(warning.contains("30 MiB of new space on d0 stay unallocated"), "{warning}");
    assert!(warning.contains("d0:6: xfs_growfs is missing"), "{warning}");
}

#[test]
fn the_volume_that_holds_the_root_grows_in_a_group() {
    let lvs = [
        ("root", vec![(4, 0, vec![(0, 0)])]),
        ("data", vec![(5, 0, vec![(1, 0)])]),
        ("swap", vec![(2, 0, vec![(0, 4)])]),
    ];
    let mut root = group(&[10, 10], &lvs);
    root.volumes.last_mut().unwrap().content = "swap".to_owned();
    let grown = |root: &Root, grow: &[&str]| sizes(&planned(root, &[11, 41], grow).unwrap());
    assert_eq!(grown(&root, &[]), [34, 5, 2]);
    assert_eq!(grown(&root, &["use-free"]), [43, 5, 2]);
    assert_eq!(grown(&root, &["proportional"]), [17, 21, 2]);
    assert_eq!(grown(&root, &["vg/data=+50%", "vg/swap=+3MiB", "vg/root=rest"]), [16, 20, 5]);
    root.volumes[3].last_mounted = Some("/".to_owned());
    assert_eq!(grown(&root, &[]), [4, 35, 2]);
    let why = refusal(&root, &[11, 41], &["vg/root=+31MiB"]);
    assert!(why.contains("only 30 MiB of new space"), "{why}");
    let why = refusal(&root, &[11, 5], &[]);
    assert!(why.contains("vg/data needs a target of 6 MiB (6291456 bytes)"), "{why}");
}

#[test]
fn a_striped_volume_grows_only_where_it_lies_and_never_stops_a_restore() {
    let lvs =
        [("root", vec![(4, 128, vec![(0, 0), (1, 0)])]), ("data", vec![(3, 0, vec![(0, 2)])])];
    let root = group(&[10, 10], &lvs);
    // Only one of the stripes' disks is larger: 8 free extents on the other one.
    let plan = planned(&root, &[11, 42], &["use-free"]).unwrap();
    assert_eq!(sizes(&plan), [14, 3]);
    let plan = planned(&root, &[11, 20], &[]).unwrap();
    assert_eq!(sizes(&plan), [12, 3], "a multiple of the stripes, at most what is new");
    let why = refusal(&root, &[11, 42], &["vg/root=+20MiB"]);
    assert!(why.contains("on the PVs it is on"), "{why}");
    // Full where it lies: the other one gets the space.
    let lvs =
        [("root", vec![(6, 128, vec![(0, 0), (1, 0)])]), ("data", vec![(7, 0, vec![(0, 3)])])];
    let root = group(&[10, 10], &lvs);
    assert_eq!(sizes(&planned(&root, &[11, 42], &[]).unwrap()), [6, 38]);
    // Shares that add up only on paper.
    let pair = |at| vec![(4, 128, vec![(0, at), (1, at)])];
    let root = group(&[10, 10], &[("a", pair(0)), ("b", pair(2))]);
    let plan = planned(&root, &[11, 61], &["proportional"]).unwrap();
    assert_eq!(sizes(&plan), [4, 4]);
    assert!(plan.warnings[0].contains("nothing in vg grows"), "{:?}", plan.warnings);
}

#[test]
fn one_volume_alone_fills_its_target_or_grows_as_asked() {
    let mut root = Root::empty("test");
    root.volumes.push(entry("d0", None, "partition", "ext4", mib(0, 10)));
    let size = |grow: &[&str]| at(&planned(&root, &[25], grow).unwrap(), "d0").1;
    assert_eq!(size(&[]), 25);
    assert_eq!(size(&["none"]), 10);
    assert_eq!(size(&["d0=fixed"]), 10);
    assert_eq!(size(&["d0=+5MiB"]), 15);
    assert_eq!(size(&["d0=rest"]), 25);
    assert!(refusal(&root, &[25], &["d0=+16MiB"]).contains("only 15 MiB"));
    assert!(refusal(&root, &[9], &[]).contains("d0 needs a target of 10 MiB (10485760 bytes)"));
    root.volumes[0].min_bytes = Bytes::mib(7);
    assert_eq!(at(&planned(&root, &[9], &[]).unwrap(), "d0").1, 9);
    (root.volumes[0].growth, root.volumes[0].reason) = (None, Some("a dirty journal".to_owned()));
    let plan = planned(&root, &[25], &[]).unwrap();
    assert!(plan.warnings[0].contains("15 MiB behind d0 stay unused"), "{:?}", plan.warnings);
    assert!(refusal(&root, &[25], &["d0=rest"]).contains("a dirty journal"));
}

#[test]
fn larger_sectors_than_a_filesystem_bears_are_refused_on_logical_volumes_too() {
    let lvs = [("root", vec![(4, 0, vec![(0, 0)])])];
    for root in [group(&[10], &lvs), gpt().1] {
        let mut request = request(&root, &[SIZE], &[]);
        request.targets[0].sector_size = Bytes::BLOCK;
        let why = plan(&root, &request).unwrap_err().to_string();
        assert!(why.contains("sectors of 4096 bytes"), "{why}");
    }
}

#[test]
fn what_is_only_copied_is_refused_or_warned_of_on_larger_sectors() {
    let (table, _) = gpt();
    for content in ["ntfs", "exfat", "crypto_LUKS", "btrfs"] {
        let root = root_of(&table, &[(1, "raw"), (2, "raw"), (3, content)]);
        let mut request = request(&root, &[SIZE], &[]);
        let same = plan(&root, &request).unwrap();
        assert!(same.warnings.iter().all(|warning| !warning.contains("sectors")), "{same:?}");
        request.targets[0].sector_size = Bytes::BLOCK;
        let planned = plan(&root, &request);
        match content {
            "ntfs" | "exfat" => {
                let why = planned.unwrap_err().to_string();
                assert!(why.contains("d0:3") && why.contains("sectors of up to 512"), "{why}");
            }
            _ => {
                let warnings = planned.unwrap().warnings;
                let said = |id: &str| warnings.iter().any(|warning| warning.contains(id));
                assert!(said("d0:2 (raw)") && said(&format!("d0:3 ({content})")), "{warnings:?}");
                assert!(warnings[0].contains("may not work with 4096"), "{warnings:?}");
            }
        }
    }
}

#[test]
fn roots_that_contradict_themselves_are_refused() {
    type Damage = fn(&mut Root);
    let on_disk: [(&str, Damage); 9] = [
        ("overlap", |root| {
            root.volumes.push(entry("d0:gap7", Some("d0"), "gap", "raw", mib(27, 30)));
        }),
        ("of its table", |root| root.volumes[2].size = Bytes::mib(21)),
        ("of its table", |root| root.volumes[2].offset = Bytes::mib(4)),
        ("a partition in the table", |root| {
            root.volumes.push(entry("d0:9", Some("d0"), "partition", "raw", mib(26, 27)));
        }),
        ("expected a place", |root| {
            let mut stray = entry("x/y", None, "lv", "raw", mib(0, 1));
            stray.container = Some("x".to_owned());
            root.volumes.push(stray);
        }),
        ("a container exactly", |root| root.volumes[2].is_container = true),
        ("a disk or a volume", |root| {
            root.volumes.push(entry("d0", None, "partition", "raw", mib(0, 1)));
        }),
        ("bytes within 0", |root| root.disks[0].size = Bytes::mib(40)),
        ("a table of the root", |root| root.disks[0].table = Some(json!({"kind": "gpt"}))),
    ];
    for (word, damage) in on_disk {
        let mut root = gpt().1;
        damage(&mut root);
        let targets = vec![SIZE; slots(&root).len()];
        let error = planned(&root, &targets, &[]).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    let in_group: [(&str, Damage); 7] = [
        ("4194304 bytes", |root| root.volumes[2].size = Bytes::mib(5)),
        ("a complete group", |root| root.volume_groups[0].name = "other".to_owned()),
        ("each physical volume once", |root| {
            root.volume_groups[0].pvs[1].volume = "d0".to_owned();
        }),
        ("a container exactly", |root| root.volumes[0].is_container = false),
        ("among the volumes", |root| root.volume_groups[0].pvs[0].volume = "d7".to_owned()),
        ("at most", |root| {
            root.disks[0].size = Bytes::mib(5);
            root.volumes[0].size = Bytes::mib(5);
        }),
        ("one volume", |root| root.volumes[0].disk = Some("d1".to_owned())),
    ];
    for (word, damage) in in_group {
        let mut root = group(&[10, 10], &[("root", vec![(4, 0, vec![(0, 0)])])]);
        damage(&mut root);
        let first = root.disks[0].size.units(Bytes::MIB);
        let error = planned(&root, &[first, 11], &[]).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
}

/// Every number and text in a JSON value, to be replaced one at a time.
fn leaves(value: &mut Value) -> Vec<&mut Value> {
    match value {
        Value::Array(list) => list.iter_mut().flat_map(leaves).collect(),
        Value::Object(map) => map.values_mut().flat_map(leaves).collect(),
        leaf => vec![leaf],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_root_makes_planning_panic_or_hang(
        which in 0..3_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![
            json!(0), json!(1), json!(u64::MAX), json!(1_u64 << 63), json!((1_u64 << 60) - 1),
            json!(1 << 20), json!(512), json!(4096), json!(null), json!(true), json!("0x0f"),
            json!("d0"), json!("swap"), json!("gap"), json!(5), json!(64 << 20),
        ])), 1..4),
        larger in prop::sample::select(vec![0_u64, 30, 1 << 30]),
        wish in prop::sample::select(vec!["auto", "proportional", "use-free", "2=rest", "vg/root=+50%"]),
    ) {
        let lvs = [("root", vec![(4, 128, vec![(0, 0), (1, 0)])])];
        let root = match which { 0 => gpt().1, 1 => mbr().1, _ => group(&[63, 63], &lvs) };
        let mut value = serde_json::to_value(&root).unwrap();
        {
            let mut leaves = leaves(&mut value);
            for (at, new) in edits {
                let at = at.index(leaves.len());
                *leaves[at] = new;
            }
        }
        let Ok(root) = serde_json::from_value::<Root>(value) else { return Ok(()) };
        let Ok(root) = Root::parse(&root.encode().unwrap()) else { return Ok(()) };
        let targets = vec![SIZE + larger; slots(&root).len()];
        let Ok(plan) = planned(&root, &targets, &[wish]) else { return Ok(()) };
        for (at, target) in plan.targets.iter().enumerate() {
            let places = plan.volumes.iter().filter_map(|volume| match volume.place {
                Place::Target(on, extent) if on == at => Some(extent),
                _ => None,
            });
            prop_assert!(places.into_iter().all(|extent| extent.end <= target.size));
        }
        for slot in slots(&root) {
            min_target(&root, slot);
        }
        prop_assert_eq!(plan.volumes.len(), root.volumes.len());
    }
}

#[test]
fn base_none_with_names_is_only_the_names() {
    let (_, root) = gpt();
    let request = request(&root, &[SIZE + 30], &["none", "2=+7MiB"]);
    assert_eq!(request.policy.base, Base::None);
    assert_eq!(at(&plan(&root, &request).unwrap(), "d0:2"), (5, 27));
}
