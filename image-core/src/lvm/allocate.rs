//! The same VG on PVs and with LVs of other sizes.
//!
//! An LV stays on the PVs it was on, with its segments' type and stripes. A PV that keeps its number of
//! extents and takes no growth keeps its map; every other one is packed, in the order of the LVs' first
//! extents there, so that each LV is contiguous on it. A linear LV grows on its own PVs first and then on
//! any PV of the VG; a striped one only on its own. LVs that are held never move: the others are packed
//! around them.

use std::collections::BTreeMap;

use super::SECTOR;
use super::hold::pack_around;
use super::label::Area;
use super::model::{Lv, MAX_32, Pv, Segment, SegmentKind, Vg};
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Where `vgcreate` would put a metadata area at the end: at a multiple of this.
pub(super) const ALIGNMENT: Bytes = Bytes::MIB;

/// The extent of a stripe that has no place yet: sorts behind all that have one.
pub(super) const UNPLACED: u64 = u64::MAX;

/// How freely an LV grows; in the order in which LVs get their space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Freedom {
    /// Only by equal parts on the PVs of its last segment's stripes.
    Stripes,
    /// Linearly on its own PVs, because other segments are striped.
    OwnPvs,
    /// Linearly on any PV.
    AnyPv,
}

/// The space that LVs of a VG could grow into, once its PVs have other sizes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Room {
    extent_size: Bytes,
    /// Free extents of each PV; none where LVM may not allocate.
    free: Vec<u64>,
}

impl Room {
    pub(super) fn of(vg: &Vg) -> Result<Self> {
        let mut free = Vec::new();
        for (pv, used) in vg.pvs.iter().zip(vg.used_extents()) {
            let Some(left) = pv.pe_count.checked_sub(used) else {
                let missing = vg.extents(used - pv.pe_count);
                return Err(Error::refused(format!(
                    "PV {} of VG {} is too small for its LVs: {} bytes ({missing}) are missing",
                    pv.key,
                    vg.name,
                    missing.get()
                )));
            };
            free.push(if pv.allocatable { left } else { 0 });
        }
        Ok(Self { extent_size: vg.extent_size, free })
    }

    /// All of it: what linear LVs share.
    pub fn total(&self) -> Bytes {
        self.bytes(self.free.iter().sum())
    }

    /// How much `lv` could grow if no other LV did.
    pub fn for_lv(&self, lv: &Lv) -> Bytes {
        let extents = match (freedom(lv), lv.segments.last()) {
            (Freedom::Stripes, Some(last)) => self.for_stripes(last.stripes()),
            (Freedom::OwnPvs, _) => own_pvs(lv).into_iter().map(|pv| self.on(pv)).sum(),
            _ => return self.total(),
        };
        self.bytes(extents)
    }

    fn bytes(&self, extents: u64) -> Bytes {
        self.extent_size.checked_mul(extents).unwrap_or(Bytes::MAX)
    }

    fn on(&self, pv: usize) -> u64 {
        self.free.get(pv).copied().unwrap_or(0)
    }

    /// Extents that could be added in equal parts to `stripes`, several of which may share a PV.
    fn for_stripes(&self, stripes: &[(usize, u64)]) -> u64 {
        let each = stripes.iter().map(|(pv, _)| {
            let sharing = stripes.iter().filter(|(other, _)| other == pv).count();
            self.on(*pv) / Bytes::from(sharing).get()
        });
        each.min().unwrap_or(0) * Bytes::from(stripes.len()).get()
    }

    /// Takes up to `wanted` extents of `pv`.
    pub(super) fn take(&mut self, pv: usize, wanted: u64) -> u64 {
        let Some(free) = self.free.get_mut(pv) else { return 0 };
        let taken = wanted.min(*free);
        *free -= taken;
        taken
    }
}

/// The space for growth when the PVs of `vg` have `pv_sizes`, in the order of `vg.pvs`.
///
/// # Errors
/// [`Error::Refused`] where a PV is too small for what it holds.
pub fn room(vg: &Vg, pv_sizes: &[Bytes]) -> Result<Room> {
    Room::of(&resized(vg, pv_sizes)?)
}

/// `vg` on PVs of `pv_sizes` (in the order of `vg.pvs`; give [`Pv::dev_size`] to leave one as it is) with
/// LVs of at least `lv_sizes`, by name: rounded up to extents, never below the present size.
///
/// # Errors
/// [`Error::Refused`] where the VG is not supported, or where an LV or PV does not fit: names it and the
/// missing bytes.
pub fn fit(vg: &Vg, pv_sizes: &[Bytes], lv_sizes: &BTreeMap<String, Bytes>) -> Result<Vg> {
    if let Some(reason) = vg.unsupported() {
        return Err(Error::refused(reason));
    }
    let mut new = resized(vg, pv_sizes)?;
    grow(&mut new, lv_sizes)?;
    let packed: Vec<bool> = (0..new.pvs.len()).map(|pv| must_pack(vg, &new, pv)).collect();
    for pv in (0..new.pvs.len()).filter(|pv| packed.get(*pv) == Some(&true)) {
        match new.runs(pv, true).is_empty() {
            true => pack(&mut new, pv),
            false => pack_around(&mut new, pv)?,
        }
    }
    for lv in &mut new.lvs {
        let on_packed = |(pv, _): &(usize, u64)| packed.get(*pv) == Some(&true);
        if lv.segments.iter().flat_map(Segment::stripes).any(on_packed) {
            merge(lv);
        }
    }
    new.seqno += 1;
    new.check()?;
    Ok(new)
}

impl Pv {
    /// The same PV on a device of `size` bytes.
    fn resized(&self, size: Bytes, extent_size: Bytes) -> Option<Self> {
        let dev_size = size.align_down(SECTOR);
        if dev_size == self.dev_size {
            return Some(self.clone());
        }
        let trailing_area = match self.trailing_area {
            None => None,
            Some(Area { size, .. }) => {
                Some(Area { offset: dev_size.checked_sub(size)?.align_down(ALIGNMENT), size })
            }
        };
        let end = trailing_area.map_or(dev_size, |area| area.offset);
        let pe_count = end.checked_sub(self.pe_start)?.units(extent_size).min(MAX_32);
        Some(Self { dev_size, trailing_area, pe_count, ..self.clone() })
    }
}

/// `vg` with PVs of other sizes, its LVs where they are.
pub(super) fn resized(vg: &Vg, pv_sizes: &[Bytes]) -> Result<Vg> {
    let mut new = vg.clone();
    if pv_sizes.len() != vg.pvs.len() {
        let (name, has, given) = (&vg.name, vg.pvs.len(), pv_sizes.len());
        return Err(Error::refused(format!(
            "VG {name} has {has} PVs, sizes are given for {given}"
        )));
    }
    for (pv, size) in new.pvs.iter_mut().zip(pv_sizes) {
        *pv = pv.resized(*size, vg.extent_size).ok_or_else(|| {
            Error::refused(format!("{size} are too small for PV {} of VG {}", pv.key, vg.name))
        })?;
    }
    Ok(new)
}

fn freedom(lv: &Lv) -> Freedom {
    match lv.segments.last() {
        Some(last) if last.stripes().len() > 1 => Freedom::Stripes,
        _ if lv.segments.iter().any(|segment| segment.stripes().len() > 1) => Freedom::OwnPvs,
        _ => Freedom::AnyPv,
    }
}

/// The PVs of an LV, each once, from its end to its start.
fn own_pvs(lv: &Lv) -> Vec<usize> {
    let mut pvs = Vec::new();
    for (pv, _) in lv.segments.iter().rev().flat_map(Segment::stripes) {
        if !pvs.contains(pv) {
            pvs.push(*pv);
        }
    }
    pvs
}

/// Adds segments without a place to the LVs that grow.
fn grow(vg: &mut Vg, lv_sizes: &BTreeMap<String, Bytes>) -> Result<()> {
    let mut room = Room::of(vg)?;
    let mut wishes = wishes(vg, lv_sizes)?;
    wishes.sort_by_key(|(freedom, ..)| *freedom);
    let mut shortages = Vec::new();
    for (freedom, index, wanted) in wishes {
        let Some(lv) = vg.lvs.get_mut(index) else { continue };
        let missing = if freedom == Freedom::Stripes {
            grow_striped(lv, wanted, &mut room)
        } else {
            grow_linear(lv, wanted, own_pvs(lv), &mut room)
        };
        if missing > 0 {
            shortages.push((freedom, index, missing));
        }
    }
    // Only now, so that no LV takes the space on another one's own PVs before that had its turn.
    for (freedom, index, wanted) in shortages {
        let Some(lv) = vg.lvs.get_mut(index) else { continue };
        let mut missing = wanted;
        if freedom == Freedom::AnyPv {
            missing = grow_linear(lv, wanted, (0..vg.pvs.len()).collect(), &mut room);
        }
        if missing > 0 {
            let (missing, own) = (room.bytes(missing), freedom != Freedom::AnyPv);
            let place = if own { "on the PVs it is on" } else { "in its VG" };
            return Err(Error::refused(format!(
                "LV {}/{} does not fit: {} bytes ({missing}) are missing {place}",
                vg.name,
                lv.name,
                missing.get()
            )));
        }
    }
    Ok(())
}

/// Which LVs grow by how many extents: a multiple of the stripes for striped ones.
fn wishes(vg: &Vg, lv_sizes: &BTreeMap<String, Bytes>) -> Result<Vec<(Freedom, usize, u64)>> {
    if let Some(unknown) = lv_sizes.keys().find(|name| vg.lv(name).is_none()) {
        return Err(Error::refused(format!("VG {} has no LV {unknown}", vg.name)));
    }
    let mut wishes = Vec::new();
    for (index, lv) in vg.lvs.iter().enumerate() {
        let Some(size) = lv_sizes.get(&lv.name) else { continue };
        let stripes = lv.segments.last().map_or(1, |last| last.stripes().len()).max(1);
        let target = size.get().div_ceil(vg.extent_size.get());
        let more = target.saturating_sub(lv.extents());
        let more = more.div_ceil(Bytes::from(stripes).get()) * Bytes::from(stripes).get();
        if more > 0 {
            wishes.push((freedom(lv), index, more));
        }
    }
    Ok(wishes)
}

/// Grows `lv` on its last segment's stripes; returns how many extents are missing.
fn grow_striped(lv: &mut Lv, wanted: u64, room: &mut Room) -> u64 {
    let Some(Segment { kind: SegmentKind::Striped { stripe_size, stripes }, .. }) =
        lv.segments.last()
    else {
        return wanted;
    };
    let missing = wanted.saturating_sub(room.for_stripes(stripes));
    if missing > 0 {
        return missing;
    }
    let (stripe_size, stripes) = (*stripe_size, stripes.clone());
    for (pv, _) in &stripes {
        room.take(*pv, wanted / Bytes::from(stripes.len()).get());
    }
    append(lv, wanted, stripe_size, stripes.into_iter().map(|(pv, _)| pv).collect());
    0
}

/// Grows `lv` linearly on `pvs`, in their order; returns how many extents are missing.
fn grow_linear(lv: &mut Lv, wanted: u64, pvs: Vec<usize>, room: &mut Room) -> u64 {
    let mut missing = wanted;
    for pv in pvs {
        let taken = room.take(pv, missing);
        if taken > 0 {
            append(lv, taken, Bytes::ZERO, vec![pv]);
            missing -= taken;
        }
    }
    missing
}

fn append(lv: &mut Lv, extent_count: u64, stripe_size: Bytes, pvs: Vec<usize>) {
    let stripes = pvs.into_iter().map(|pv| (pv, UNPLACED)).collect();
    lv.segments.push(Segment {
        start_extent: lv.extents(),
        extent_count,
        kind: SegmentKind::Striped { stripe_size, stripes },
        extra: lv.segments.last().map(|last| last.extra.clone()).unwrap_or_default(),
    });
}

fn must_pack(old: &Vg, new: &Vg, pv: usize) -> bool {
    let count = |vg: &Vg| vg.pvs.get(pv).map(|pv| pv.pe_count);
    let mut stripes = new.lvs.iter().flat_map(|lv| &lv.segments).flat_map(Segment::stripes);
    count(old) != count(new)
        || new.is_disturbed(pv)
        || stripes.any(|stripe| *stripe == (pv, UNPLACED))
}

/// Gives everything on `pv` new extents from 0 on: LV by LV in the order of their first extents, new LVs
/// last; within an LV stripe by stripe, each in the order of the LV.
fn pack(vg: &mut Vg, pv: usize) {
    let mut places: Vec<(u64, usize, usize, &mut u64, u64)> = Vec::new();
    for (index, lv) in vg.lvs.iter_mut().enumerate() {
        let here = lv.segments.iter().flat_map(Segment::stripes).filter(|(on, _)| *on == pv);
        let Some(first) = here.map(|(_, pe)| *pe).min() else { continue };
        for segment in &mut lv.segments {
            let count = segment.extents_per_stripe();
            let SegmentKind::Striped { stripes, .. } = &mut segment.kind else { continue };
            for (leg, (on, pe)) in stripes.iter_mut().enumerate() {
                if *on == pv {
                    places.push((first, index, leg, pe, count));
                }
            }
        }
    }
    // Stable: segments of one leg stay in their order.
    places.sort_by_key(|(first, index, leg, ..)| (*first, *index, *leg));
    let mut next = 0;
    for (.., pe, count) in places {
        *pe = next;
        next += count;
    }
}

/// Joins segments that follow each other on all of their stripes.
fn merge(lv: &mut Lv) {
    let mut merged: Vec<Segment> = Vec::new();
    for segment in lv.segments.drain(..) {
        match merged.last_mut() {
            Some(last) if follows(last, &segment) => last.extent_count += segment.extent_count,
            _ => merged.push(segment),
        }
    }
    lv.segments = merged;
}

fn follows(first: &Segment, second: &Segment) -> bool {
    let size = |segment: &Segment| match segment.kind {
        SegmentKind::Striped { stripe_size, .. } => Some(stripe_size),
        SegmentKind::Unsupported(_) => None,
    };
    let count = first.extents_per_stripe();
    let behind = first.stripes().iter().map(|(pv, pe)| (*pv, pe + count));
    size(first) == size(second)
        && first.extra == second.extra
        && behind.eq(second.stripes().iter().copied())
}

#[cfg(test)]
#[expect(clippy::as_conversions, reason = "small numbers of the tests")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{fit, freedom, room};
    use crate::lvm::allocate::Freedom;
    use crate::lvm::label::Area;
    use crate::lvm::map::LvMap;
    use crate::lvm::model::{Segment, Vg};
    use crate::lvm::sample::{self, layout};
    use crate::units::Bytes;

    /// Extents of 1 MiB behind 1 MiB: the size of a PV with `count` extents.
    fn pv(count: u64) -> Bytes {
        Bytes::mib(1 + count)
    }

    fn wanted(sizes: &[(&str, u64)]) -> BTreeMap<String, Bytes> {
        sizes.iter().map(|(name, mib)| ((*name).to_owned(), Bytes::mib(*mib))).collect()
    }

    fn stripes(vg: &Vg, lv: &str) -> Vec<(u64, Vec<(usize, u64)>)> {
        let segments = &vg.lv(lv).unwrap().segments;
        segments.iter().map(|segment| (segment.extent_count, segment.stripes().to_vec())).collect()
    }

    /// Fragmented on the first PV, reaching over to the second.
    fn fragmented() -> Vg {
        sample::vg(
            2048,
            &[10, 10],
            &[
                ("root", vec![(2, 0, vec![(0, 1)]), (2, 0, vec![(1, 5)]), (1, 0, vec![(0, 6)])]),
                ("swap", vec![(2, 0, vec![(0, 3)])]),
                ("pair", vec![(4, 128, vec![(0, 8), (1, 0)])]),
            ],
        )
    }

    #[test]
    fn nothing_moves_without_need() {
        let vg = fragmented();
        let same = fit(&vg, &[pv(10), pv(10)], &wanted(&[("root", 3)])).unwrap();
        assert_eq!(layout(&same), layout(&vg));
        assert_eq!(same.seqno, 8);
        // Less than an extent more is no reason either, but the new size is written down.
        let more = fit(&vg, &[pv(10) + Bytes::kib(512), pv(10)], &wanted(&[])).unwrap();
        assert_eq!(layout(&more).1, layout(&vg).1);
        assert_eq!(more.pvs[0].dev_size, pv(10) + Bytes::kib(512));
        // The second PV keeps its map while the first one is packed.
        let larger = fit(&vg, &[pv(20), pv(10)], &wanted(&[])).unwrap();
        assert_eq!(
            stripes(&larger, "root"),
            [(2, vec![(0, 0)]), (2, vec![(1, 5)]), (1, vec![(0, 2)])]
        );
        assert_eq!(stripes(&larger, "swap"), [(2, vec![(0, 3)])]);
        assert_eq!(stripes(&larger, "pair"), [(4, vec![(0, 5), (1, 0)])]);
    }

    #[test]
    fn growth_goes_to_own_pvs_first_and_is_merged() {
        let vg = fragmented();
        let new = fit(&vg, &[pv(20), pv(10)], &wanted(&[("root", 20), ("pair", 6)])).unwrap();
        // The first PV has 7 + 1 (pair) used, 12 free for root; the second gives the other 3.
        assert_eq!(
            stripes(&new, "root"),
            [(2, vec![(0, 0)]), (2, vec![(1, 3)]), (13, vec![(0, 2)]), (3, vec![(1, 5)])]
        );
        assert_eq!(stripes(&new, "pair"), [(6, vec![(0, 17), (1, 0)])]);
        let one = sample::vg(2048, &[4, 4], &[("a", vec![(3, 0, vec![(0, 1)])])]);
        let new = fit(&one, &[pv(4), pv(4)], &wanted(&[("a", 8)])).unwrap();
        assert_eq!(stripes(&new, "a"), [(4, vec![(0, 0)]), (4, vec![(1, 0)])]);
    }

    #[test]
    fn no_lv_takes_the_space_that_only_another_can_use() {
        let lvs = [
            ("linear", vec![(1, 0, vec![(0, 0)])]),
            ("mixed", vec![(2, 128, vec![(0, 1), (0, 2)]), (1, 0, vec![(0, 3)])]),
            ("pair", vec![(2, 128, vec![(0, 4), (1, 0)])]),
        ];
        let vg = sample::vg(2048, &[5, 1, 3], &lvs);
        let sizes = [pv(10), pv(4), pv(3)];
        let new = fit(&vg, &sizes, &wanted(&[("linear", 4), ("mixed", 5), ("pair", 8)])).unwrap();
        assert_eq!(stripes(&new, "pair"), [(8, vec![(0, 6), (1, 0)])]);
        assert_eq!(stripes(&new, "mixed"), [(2, vec![(0, 1), (0, 5)]), (3, vec![(0, 2)])]);
        assert_eq!(stripes(&new, "linear"), [(1, vec![(0, 0)]), (3, vec![(2, 0)])]);
        let room = room(&vg, &sizes).unwrap();
        let each = |name| room.for_lv(vg.lv(name).unwrap());
        assert_eq!(
            [each("linear"), each("mixed"), each("pair")].map(|size| size.units(Bytes::MIB)),
            [11, 5, 6]
        );
        assert_eq!(room.total(), Bytes::mib(11));
    }

    #[test]
    fn what_does_not_fit_is_named_with_the_missing_bytes() {
        let vg = fragmented();
        let message = |sizes: &[Bytes], lvs: &[(&str, u64)]| {
            fit(&vg, sizes, &wanted(lvs)).unwrap_err().to_string()
        };
        assert_eq!(
            message(&[pv(10), pv(10)], &[("root", 15)]),
            "LV vg/root does not fit: 1048576 bytes (1 MiB) are missing in its VG"
        );
        assert_eq!(
            message(&[pv(10), pv(30)], &[("pair", 20)]),
            "LV vg/pair does not fit: 10485760 bytes (10 MiB) are missing on the PVs it is on"
        );
        assert_eq!(
            message(&[pv(6), pv(10)], &[]),
            "PV pv0 of VG vg is too small for its LVs: 1048576 bytes (1 MiB) are missing"
        );
        assert_eq!(
            message(&[Bytes::kib(512), pv(10)], &[]),
            "512 KiB are too small for PV pv0 of VG vg"
        );
        assert_eq!(message(&[pv(10), pv(10)], &[("home", 1)]), "VG vg has no LV home");
        assert_eq!(message(&[pv(10)], &[]), "VG vg has 2 PVs, sizes are given for 1");
        let smaller = fit(&vg, &[pv(7), pv(10)], &wanted(&[])).unwrap();
        assert_eq!(stripes(&smaller, "pair"), [(4, vec![(0, 5), (1, 0)])]);
    }

    #[test]
    fn pvs_closed_for_allocation_take_no_growth() {
        let text = sample::text(2048, &[4, 4], &[("a", vec![(1, 0, vec![(0, 0)])])]);
        let vg = Vg::parse(&text.replacen("\"ALLOCATABLE\"", "", 1)).unwrap();
        let new = fit(&vg, &[pv(9), pv(4)], &wanted(&[("a", 5)])).unwrap();
        assert_eq!(stripes(&new, "a"), [(1, vec![(0, 0)]), (4, vec![(1, 0)])]);
        assert_eq!(room(&vg, &[pv(9), pv(4)]).unwrap().total(), Bytes::mib(4));
    }

    #[test]
    fn a_metadata_area_at_the_end_moves_with_it() {
        let mut vg = sample::vg(2048, &[4], &[]);
        vg.pvs[0].trailing_area = Some(Area { offset: Bytes::mib(5), size: Bytes::MIB });
        let size = Bytes::mib(20) + Bytes::kib(700);
        let new = fit(&vg, &[size], &wanted(&[])).unwrap();
        let area = Area { offset: Bytes::mib(19), size: Bytes::MIB };
        assert_eq!((new.pvs[0].trailing_area, new.pvs[0].pe_count), (Some(area), 18));
        let same = fit(&vg, &[vg.pvs[0].dev_size], &wanted(&[])).unwrap();
        assert_eq!(layout(&same), layout(&vg));
        assert!(fit(&vg, &[Bytes::kib(600)], &wanted(&[])).is_err());
    }

    /// Random LVs laid over the extents of three PVs by a shuffled list of free places.
    fn vgs() -> impl Strategy<Value = Vg> {
        let segment = (1..6_u64, 1..4_usize, 0..3_usize);
        let lvs = prop::collection::vec(prop::collection::vec(segment, 1..4), 1..6);
        (lvs, prop::collection::vec(0..4_u64, 30), 30..60_u64).prop_map(|(lvs, gaps, tail)| {
            let mut next = [0_u64; 3];
            let mut gaps = gaps.into_iter().cycle();
            let names = ["a", "b", "c", "d", "e"];
            let mut laid: Vec<(&str, Vec<sample::Segment>)> =
                names.iter().zip(&lvs).map(|(name, _)| (*name, Vec::new())).collect();
            // Round by round, so that LVs are interleaved.
            for round in 0..3 {
                for (lv, into) in lvs.iter().zip(&mut laid) {
                    let Some((each, legs, first)) = lv.get(round) else { continue };
                    let stripes = (0..*legs).map(|leg| {
                        let pv = (first + leg) % 3;
                        let pe = next[pv] + gaps.next().unwrap();
                        next[pv] = pe + each;
                        (pv, pe)
                    });
                    into.1.push((each * *legs as u64, 128, stripes.collect()));
                }
            }
            sample::vg(2048, &next.map(|end| end + tail), &laid)
        })
    }

    /// The PV of each extent of an LV.
    fn homes(vg: &Vg, lv: &str) -> Vec<usize> {
        let extents = |segment: &Segment| {
            let stripes = segment.stripes().to_vec();
            (0..segment.extents_per_stripe()).flat_map(move |_| stripes.clone())
        };
        vg.lv(lv).unwrap().segments.iter().flat_map(extents).map(|(pv, _)| pv).collect()
    }

    proptest! {
        #[test]
        fn every_fit_keeps_its_promises(
            vg in vgs(),
            more in prop::collection::vec(0..40_u64, 3),
            growth in prop::collection::vec(0..15_u64, 5),
        ) {
            let sizes: Vec<Bytes> =
                vg.pvs.iter().zip(&more).map(|(pv, more)| pv.dev_size + Bytes::mib(*more)).collect();
            let lv_sizes: BTreeMap<String, Bytes> = vg.lvs.iter().zip(&growth)
                .map(|(lv, more)| (lv.name.clone(), lv.size(&vg) + Bytes::mib(*more) - Bytes::new(7)))
                .collect();
            let Ok(new) = fit(&vg, &sizes, &lv_sizes) else {
                // Growth of at most 14 extents each for 5 LVs, where 30 are free on every PV.
                let most = growth.iter().map(|more| more + 2).sum::<u64>();
                prop_assert!(most > 30);
                return Ok(());
            };
            for (old, lv) in vg.lvs.iter().zip(&new.lvs) {
                let stripes = old.segments.last().unwrap().stripes().len() as u64;
                let size = lv.size(&new);
                prop_assert!(size >= lv_sizes[&lv.name] && size >= old.size(&vg));
                prop_assert!(size < lv_sizes[&lv.name].max(old.size(&vg)) + Bytes::mib(stripes));
                let (before, after) = (homes(&vg, &lv.name), homes(&new, &lv.name));
                prop_assert_eq!(&after[..before.len()], &before[..]);
                if freedom(old) != Freedom::AnyPv {
                    prop_assert!(after.iter().all(|pv| before.contains(pv)));
                }
                if after.iter().all(|pv| *pv == after[0]) && freedom(old) == Freedom::AnyPv
                    && new.pvs[after[0]].pe_count != vg.pvs[after[0]].pe_count
                {
                    prop_assert!(LvMap::new(&new, lv).unwrap().contiguous().is_some());
                }
            }
            prop_assert!(new.check().is_ok());
            let again = Vg::parse(&new.text(1).unwrap()).unwrap();
            prop_assert_eq!(layout(&again), layout(&new));
            prop_assert_eq!(again.seqno, 8);
            if more.iter().chain(&growth).all(|more| *more == 0) {
                prop_assert_eq!(layout(&new), layout(&vg));
            }
        }
    }
}
