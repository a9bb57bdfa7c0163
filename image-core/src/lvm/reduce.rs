//! The same VG on fewer PVs: what lay on those that are left out follows on the others.

use super::allocate::{self, Room, UNPLACED};
use super::label::PvHead;
use super::metadata::Entry;
use super::model::{Lv, Segment, SegmentKind, Vg};
use super::shrink::{linear, number};
use crate::error::{Error, Result};
use crate::units::Bytes;

/// A VG without some of its PVs, ready for [`allocate::fit`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reduced {
    /// Its extents on the PVs that were left out have no place yet, but a PV.
    pub vg: Vg,
    /// LVs that were striped over a PV that was left out, and are linear there now.
    pub unstriped: Vec<String>,
}

impl Vg {
    /// Extents that LVs have on `pvs`, and those that other PVs have free where LVM may allocate.
    pub fn to_be_moved(&self, pvs: &[usize]) -> (u64, u64) {
        let (mut moved, mut free) = (0_u64, 0_u64);
        for (at, (pv, used)) in self.pvs.iter().zip(self.used_extents()).enumerate() {
            if pvs.contains(&at) {
                moved += used;
            } else if pv.allocatable {
                free += pv.pe_count.saturating_sub(used);
            }
        }
        (moved, free)
    }
}

/// `vg` without the PVs `gone` (their indexes), where the others have `pv_sizes`. `heads` are those of all
/// PVs.
///
/// An LV's extents go to PVs that it has anyway, then to any in order; segments that were striped over a PV
/// that is left out become linear.
///
/// # Errors
/// [`Error::Refused`] where the others have no room, or none of them would keep the VG's metadata.
pub fn without(vg: &Vg, gone: &[usize], heads: &[&PvHead], pv_sizes: &[Bytes]) -> Result<Reduced> {
    let stays = |pv: &usize| !gone.contains(pv);
    let keeps_text = |head: &&PvHead| head.metadata_areas.iter().any(|metadata| !metadata.ignored);
    let left = heads.iter().enumerate().filter(|(pv, _)| stays(pv));
    if !left.map(|(_, head)| head).any(keeps_text) {
        return Err(Error::refused(format!(
            "no physical volume that is left has a place for the metadata of VG {}",
            vg.name
        )));
    }
    let mut new = vg.clone();
    remove(&mut new, gone);
    let renumbered = |pv: usize| pv - gone.iter().filter(|gone| **gone < pv).count();
    let mut unstriped = Vec::new();
    for lv in &mut new.lvs {
        for segment in &mut lv.segments {
            let leaves = segment.stripes().iter().any(|(pv, _)| gone.contains(pv));
            let SegmentKind::Striped { stripe_size, stripes } = &mut segment.kind else { continue };
            if !leaves {
                stripes.iter_mut().for_each(|(pv, _)| *pv = renumbered(*pv));
                continue;
            }
            if stripes.len() > 1 && !unstriped.contains(&lv.name) {
                unstriped.push(lv.name.clone());
            }
            // Without stripes it takes no room until it has a place.
            stripes.clear();
            *stripe_size = Bytes::ZERO;
        }
    }
    let mut room = Room::of(&allocate::resized(&new, pv_sizes)?)?;
    let pvs = new.pvs.len();
    for lv in &mut new.lvs {
        let missing = settle(lv, pvs, &mut room);
        if missing > 0 {
            let missing = vg.extents(missing);
            return Err(Error::refused(format!(
                "LV {}/{} does not fit on the physical volumes that are left: {} bytes ({missing}) are \
                 missing",
                vg.name,
                lv.name,
                missing.get()
            )));
        }
    }
    Ok(Reduced { vg: new, unstriped })
}

/// How many extents the PVs that are left, of `pv_sizes`, lack for all LVs of `vg`.
///
/// # Errors
/// [`Error::Refused`] where a size leaves no place for the PV's own areas.
pub fn missing(vg: &Vg, gone: &[usize], pv_sizes: &[Bytes]) -> Result<u64> {
    let used = vg.used_extents();
    let mut left = vg.clone();
    remove(&mut left, gone);
    left.lvs.clear();
    let own = used.iter().enumerate().filter(|(pv, _)| !gone.contains(pv)).map(|(_, used)| *used);
    let sized = allocate::resized(&left, pv_sizes)?;
    let room = sized.pvs.iter().zip(own);
    let room: u64 =
        room.map(|(pv, own)| if pv.allocatable { pv.pe_count } else { own.min(pv.pe_count) }).sum();
    Ok(used.iter().sum::<u64>().saturating_sub(room))
}

/// Takes PVs out of the model and of the text behind it.
fn remove(vg: &mut Vg, gone: &[usize]) {
    let mut at = 0..;
    vg.pvs.retain(|_| at.next().is_none_or(|at| !gone.contains(&at)));
    let groups = vg.file.sections_mut().flat_map(|group| group.sections_mut());
    for pvs in groups.filter(|part| part.name == "physical_volumes") {
        let mut at = 0..;
        pvs.entries.retain(|entry| match entry {
            Entry::Section(_) => at.next().is_none_or(|at| !gone.contains(&at)),
            Entry::Value(..) => true,
        });
    }
}

/// Gives every segment without stripes a PV; returns how many extents found none.
fn settle(lv: &mut Lv, pvs: usize, room: &mut Room) -> u64 {
    let mut order: Vec<usize> =
        lv.segments.iter().flat_map(Segment::stripes).map(|(pv, _)| *pv).collect();
    order.extend(0..pvs);
    let (mut settled, mut missing) = (Vec::new(), 0);
    for segment in lv.segments.drain(..) {
        if !segment.stripes().is_empty() {
            settled.push(segment);
            continue;
        }
        let mut left = segment.extent_count;
        for pv in &order {
            let taken = room.take(*pv, left);
            if taken > 0 {
                settled.push(linear(&segment, taken, vec![(*pv, UNPLACED)]));
                left -= taken;
            }
        }
        missing += left;
    }
    lv.segments = settled;
    number(lv);
    missing
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::without;
    use crate::lvm::label::PvHead;
    use crate::lvm::model::Vg;
    use crate::lvm::{allocate, sample};
    use crate::units::Bytes;

    fn pv(count: u64) -> Bytes {
        Bytes::mib(1 + count)
    }

    fn heads(count: usize) -> Vec<PvHead> {
        (0..count).map(|at| sample::head(at, &[(4096, 1_044_480)])).collect()
    }

    fn three() -> Vg {
        sample::vg(
            2048,
            &[10, 10, 10],
            &[
                ("root", vec![(3, 0, vec![(0, 2)]), (2, 0, vec![(1, 5)])]),
                ("wide", vec![(6, 128, vec![(0, 6), (1, 0), (2, 0)])]),
                ("srv", vec![(4, 0, vec![(2, 5)])]),
            ],
        )
    }

    #[test]
    fn everything_follows_on_one_pv_and_stripes_become_linear() {
        let (vg, heads) = (three(), heads(3));
        let heads: Vec<&PvHead> = heads.iter().collect();
        let sizes = [pv(20)];
        let reduced = without(&vg, &[1, 2], &heads, &sizes).unwrap();
        assert_eq!(reduced.unstriped, ["wide"]);
        let new = allocate::fit(&reduced.vg, &sizes, &BTreeMap::new()).unwrap();
        for (lv, expected) in [("root", (5, 0)), ("wide", (6, 5)), ("srv", (4, 11))] {
            let segments = &new.lv(lv).unwrap().segments;
            assert_eq!((segments.len(), segments[0].extent_count), (1, expected.0), "{lv}");
            assert_eq!(segments[0].stripes(), [(0, expected.1)], "{lv}");
        }
        let text = new.text(0).unwrap();
        assert!(text.contains("pv0 {") && !text.contains("pv1") && !text.contains("pv2"), "{text}");
        let again = Vg::parse(&text).unwrap();
        assert_eq!((again.pvs.len(), &again.lvs), (1, &new.lvs));
    }

    #[test]
    fn the_first_pv_can_be_left_out_too() {
        let (vg, heads) = (three(), heads(3));
        let heads: Vec<&PvHead> = heads.iter().collect();
        let sizes = [pv(10), pv(10)];
        let reduced = without(&vg, &[0], &heads, &sizes).unwrap();
        let new = allocate::fit(&reduced.vg, &sizes, &BTreeMap::new()).unwrap();
        let again = Vg::parse(&new.text(0).unwrap()).unwrap();
        let keys: Vec<&str> = again.pvs.iter().map(|pv| pv.key.as_str()).collect();
        assert_eq!((keys, &again.lvs), (vec!["pv1", "pv2"], &new.lvs));
        // `root` was on the PV that stays with 2 extents: the other 3 follow there.
        assert_eq!(new.lv("root").unwrap().segments.len(), 1);
        let why = without(&vg, &[0], &heads, &[pv(7), pv(6)]).unwrap_err().to_string();
        assert!(why.contains("LV vg/wide does not fit"), "{why}");
        let why = without(&vg, &[1, 2], &heads, &[pv(14)]).unwrap_err().to_string();
        assert!(why.contains("LV vg/srv does not fit") && why.contains("1048576 bytes"), "{why}");
        let mut bare: Vec<PvHead> = heads.iter().map(|head| (*head).clone()).collect();
        bare[1].metadata_areas.clear();
        bare[2].metadata_areas[0].ignored = true;
        let bare: Vec<&PvHead> = bare.iter().collect();
        let why = without(&vg, &[0], &bare, &sizes).unwrap_err().to_string();
        assert!(why.contains("place for the metadata"), "{why}");
    }

    proptest! {
        #[test]
        fn no_extent_is_lost_or_used_twice(
            lvs in prop::collection::vec((1_u64..5, prop::collection::vec(0_usize..3, 1..4)), 1..5),
            gone in prop::sample::subsequence(vec![0_usize, 1, 2], 1..3),
            room in prop::collection::vec(0_u64..80, 3),
        ) {
            let mut next = [0_u64; 3];
            let names: Vec<String> = (0..lvs.len()).map(|at| format!("lv{at}")).collect();
            let lvs: Vec<(&str, Vec<sample::Segment>)> = names.iter().zip(&lvs).map(|(name, (each, on))| {
                let legs: Vec<(usize, u64)> = on.iter().map(|pv| {
                    next[*pv] += each;
                    (*pv, next[*pv] - each)
                }).collect();
                let count = each * u64::try_from(legs.len()).unwrap();
                let stripe = if legs.len() > 1 { 128 } else { 0 };
                (name.as_str(), vec![(count, stripe, legs)])
            }).collect();
            let vg = sample::vg(2048, &[80, 80, 80], &lvs);
            let heads = heads(3);
            let heads: Vec<&PvHead> = heads.iter().collect();
            let sizes: Vec<Bytes> =
                (0..3).filter(|at| !gone.contains(at)).map(|at| pv(room[at])).collect();
            let Ok(reduced) = without(&vg, &gone, &heads, &sizes) else { return Ok(()) };
            // `fit` proves that each extent has one user.
            let new = allocate::fit(&reduced.vg, &sizes, &BTreeMap::new()).unwrap();
            for (old, new) in vg.lvs.iter().zip(&new.lvs) {
                prop_assert_eq!(old.extents(), new.extents());
            }
            prop_assert_eq!(Vg::parse(&new.text(0).unwrap()).unwrap().lvs, new.lvs);
        }
    }
}
