//! Plans in which logical volumes of the targets stay.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::growth::Policy;
use super::identity::Renewal;
use super::keep::Wish;
use super::old::{Old, OldPv};
use super::restore::{Request, RestorePlan, plan};
use super::tests::{Lvs, group, request};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::manifest::Root;
use crate::lvm::model::{Vg, VgStamp};
use crate::lvm::sample;
use crate::units::Bytes;

/// What is on whole disks with a group of another make, in extents of `kib`.
fn old(kib: u64, sizes: &[u64], lvs: Lvs<'_>) -> (Vg, Vec<Old>) {
    let text = sample::text(2 * kib, sizes, lvs).replace("\"l0", "\"k0").replace("\"v0", "\"w0");
    let vg = Vg::parse(&text).unwrap();
    let stamp = VgStamp { name: vg.name.clone(), uuid: vg.uuid.clone(), seqno: vg.seqno };
    let disks = sizes.iter().enumerate().map(|(at, extents)| {
        let mut head = sample::head(at, &[(4096, 1_044_480)]);
        (head.text, head.vg) = (Some(text.clone()), Some(stamp.clone()));
        let extent = Extent::first(Bytes::MIB + Bytes::kib(extents * kib));
        Old { table: None, pvs: vec![OldPv { extent, head }] }
    });
    let disks = disks.collect();
    (vg, disks)
}

fn asked(root: &Root, mib: &[u64], before: Vec<Old>, name: &str) -> Request {
    let keep = vec![Wish { name: name.to_owned(), ..Wish::default() }];
    Request { keep, before, ..request(root, mib, &[]) }
}

fn refused(root: &Root, mib: &[u64], before: Vec<Old>, name: &str) -> String {
    match plan(root, &asked(root, mib, before, name)) {
        Err(Error::Refused(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

fn segments(vg: &Vg, lv: &str) -> Vec<(u64, Vec<(usize, u64)>)> {
    let segments = &vg.lv(lv).unwrap().segments;
    segments.iter().map(|segment| (segment.extent_count, segment.stripes().to_vec())).collect()
}

#[test]
fn others_make_room_for_what_stays() {
    let lvs = [("root", vec![(6, 0, vec![(0, 0)])]), ("data", vec![(2, 0, vec![(0, 6)])])];
    let root = group(&[12], &lvs);
    // The same place, and nothing moves.
    let (_, before) = old(1024, &[12], &lvs[1..]);
    let plan1 = plan(&root, &asked(&root, &[13], before, "vg/data")).unwrap();
    assert_eq!(segments(&plan1.groups[0].vg, "root"), [(6, vec![(0, 0)])]);
    assert_eq!(plan1.volumes.iter().map(|v| v.id.as_str()).collect::<Vec<_>>(), ["d0", "vg/root"]);
    assert_eq!(plan1.kept[0].instead.as_deref(), Some("vg/data"));
    assert_eq!(plan1.groups[0].vg.lv("data").unwrap().uuid, sample::uuid('k', 0));
    // In the way, larger, in two parts, on a larger disk: the rest is packed around.
    let (_, before) =
        old(1024, &[20], &[("data", vec![(2, 0, vec![(0, 2)]), (3, 0, vec![(0, 5)])])]);
    let plan2 = plan(&root, &asked(&root, &[21], before, "vg/data")).unwrap();
    assert_eq!(segments(&plan2.groups[0].vg, "data"), [(2, vec![(0, 2)]), (3, vec![(0, 5)])]);
    assert_eq!(
        segments(&plan2.groups[0].vg, "root"),
        [(2, vec![(0, 0)]), (1, vec![(0, 4)]), (8, vec![(0, 8)])],
        "5 of the 8 new extents, 3 are taken by what stays"
    );
    let kept = plan2.kept_on(0);
    assert_eq!(kept.total(), Bytes::mib(5));
    // One that the image does not have, in other extents.
    let (_, before) = old(2048, &[10], &[("more", vec![(2, 0, vec![(0, 1)])])]);
    let plan3 = plan(&root, &asked(&root, &[21], before, "vg/more")).unwrap();
    assert_eq!(segments(&plan3.groups[0].vg, "more"), [(4, vec![(0, 2)])]);
    let text = plan3.groups[0].vg.text(0).unwrap();
    assert_eq!(sample::layout(&Vg::parse(&text).unwrap()), sample::layout(&plan3.groups[0].vg));
}

#[test]
fn what_cannot_stay_is_refused_by_name() {
    let root = group(&[12], &[("root", vec![(6, 0, vec![(0, 0)])])]);
    let data = [("data", vec![(7, 0, vec![(0, 3)])])];
    let (_, before) = old(1024, &[12], &data);
    let (_, odd) = old(512, &[24], &[("data", vec![(2, 0, vec![(0, 3)])])]);
    let (_, two) = old(1024, &[12, 12], &[("data", vec![(2, 0, vec![(0, 3)])])]);
    for (before, name, word) in [
        (before.clone(), "vg/home", "the logical volumes of vg are data"),
        (before.clone(), "other/home", "there is no volume group other"),
        (before.clone(), "vg/data", "too small for its LVs"),
        (odd, "vg/data", "grid of extents"),
        (two[..1].to_vec(), "vg/data", "is missing"),
    ] {
        let why = refused(&root, &[13], before, name);
        assert!(why.contains(word), "{why}");
    }
    let mut request = asked(&root, &[40], before, "vg/data");
    assert!(plan(&root, &request).is_ok());
    request.renewal = Some(Renewal { seed: [1; 32], vg_name: None });
    assert!(plan(&root, &request).unwrap_err().to_string().contains("--new-ids"));
    request.renewal = None;
    let mut policy = Policy::default();
    policy.add("vg/root=+40MiB").unwrap();
    request.policy = policy;
    let why = plan(&root, &request).unwrap_err().to_string();
    assert!(why.contains("vg/root should grow by 40 MiB"), "{why}");
    // Another group fills the whole disk.
    let (_, mut other) = old(1024, &[12], &data);
    let head = &mut other[0].pvs[0].head;
    head.text = head.text.take().map(|text| text.replacen("vg {", "home {", 1));
    head.vg.as_mut().unwrap().name = "home".to_owned();
    let why = refused(&root, &[13], other, "home/data");
    assert!(why.contains("fills a disk that is overwritten"), "{why}");
}

/// Up to three LVs, linear and striped, laid over two PVs.
fn laid(
    names: &'static [&'static str],
) -> impl Strategy<Value = Vec<(&'static str, Vec<sample::Segment>)>> {
    let segment = (1..5_u64, 1..3_usize, 0..2_usize, 0..5_u64);
    let lvs = prop::collection::vec(prop::collection::vec(segment, 1..3), names.len());
    lvs.prop_map(move |lvs| {
        let mut next = [0_u64; 2];
        let mut laid = Vec::new();
        for (name, lv) in names.iter().zip(lvs) {
            let mut segments = Vec::new();
            for (each, legs, first, gap) in lv {
                let stripes: Vec<(usize, u64)> = (0..legs)
                    .map(|leg| {
                        let pv = (first + leg) % 2;
                        let pe = next[pv] + gap;
                        next[pv] = pe + each;
                        (pv, pe)
                    })
                    .collect();
                segments.push((each * u64::try_from(legs).unwrap(), 128, stripes));
            }
            laid.push((*name, segments));
        }
        laid
    })
}

/// Every extent of an LV in its order.
fn extents(vg: &Vg, lv: &str) -> Vec<(usize, u64)> {
    let runs = |(_, stripes): (u64, Vec<(usize, u64)>), each: u64| {
        (0..each).flat_map(move |at| stripes.clone().into_iter().map(move |(pv, pe)| (pv, pe + at)))
    };
    let all = segments(vg, lv).into_iter().zip(&vg.lv(lv).unwrap().segments);
    all.flat_map(|(own, segment)| runs(own, segment.extents_per_stripe())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_stays_keeps_its_extents_and_nobody_else_has_them(
        image in laid(&["root", "data", "pair"]),
        there in laid(&["data", "x"]),
        sizes in (50_u64..70, 50_u64..70),
        grow in any::<bool>(),
    ) {
        let root = group(&[50, 50], &image);
        let sizes = [sizes.0, sizes.1];
        let (before, disks) = old(1024, &sizes, &there);
        let mut request = asked(&root, &sizes.map(|extents| extents + 1), disks, "vg/data");
        if !grow {
            request.policy.add("none").unwrap();
        }
        let made: Result<RestorePlan> = plan(&root, &request);
        let plan = match made {
            Ok(plan) => plan,
            // Stripes may find no room that lies together.
            Err(Error::Refused(why)) if why.contains("stripes have to lie together") => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let vg = &plan.groups[0].vg;
        prop_assert_eq!(extents(vg, "data"), extents(&before, "data"));
        let own: Vec<_> = ["root", "data", "pair"].iter().flat_map(|lv| extents(vg, lv)).collect();
        let once: BTreeSet<_> = own.iter().copied().collect();
        prop_assert_eq!(own.len(), once.len(), "an extent has two users");
        prop_assert!(once.iter().all(|(pv, pe)| *pe < vg.pvs[*pv].pe_count));
        let kept: Bytes = (0..2).map(|target| plan.kept_on(target).total()).sum();
        prop_assert_eq!(kept, before.lv("data").unwrap().size(&before));
        let saved = sample::vg(2048, &[50, 50], &image);
        for lv in ["root", "pair"] {
            let (size, was) = (vg.lv(lv).unwrap().size(vg), saved.lv(lv).unwrap().size(&saved));
            prop_assert!(size == was || (grow && size > was));
        }
        let text = Vg::parse(&vg.text(0).unwrap()).unwrap();
        prop_assert_eq!(sample::layout(&text), sample::layout(vg));
    }
}
