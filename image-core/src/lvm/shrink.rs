//! The same VG on PVs with less room: which extents LVs may give up, and how small a PV can be.
//!
//! Only LVs whose content nobody needs give up extents (the caller names them: swap), and only linear ones.
//! From which of their extents the space comes does not matter then; it is taken from their ends.

use std::collections::BTreeMap;

use super::allocate;
use super::model::{Lv, Segment, SegmentKind, Vg};
use crate::error::Result;
use crate::units::Bytes;

/// How many extents LVs could give up, by index of the PV and of the LV in the VG.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Slack(BTreeMap<(usize, usize), u64>);

impl Slack {
    /// What the LVs named in `least` could give up: each keeps at least that size.
    pub fn of(vg: &Vg, least: &BTreeMap<String, Bytes>) -> Self {
        let mut slack = Self::default();
        for (index, lv) in vg.lvs.iter().enumerate() {
            let Some(least) = least.get(&lv.name) else { continue };
            if lv.segments.iter().any(|segment| segment.stripes().len() != 1) {
                continue;
            }
            let kept = least.get().div_ceil(vg.extent_size.get()).max(1);
            let mut spare = lv.extents().saturating_sub(kept);
            for segment in lv.segments.iter().rev() {
                let given = spare.min(segment.extent_count);
                spare -= given;
                if let (Some((pv, _)), 1..) = (segment.stripes().first(), given) {
                    *slack.0.entry((*pv, index)).or_default() += given;
                }
            }
        }
        slack
    }

    /// Extents that could be given up on this PV.
    pub fn on(&self, pv: usize) -> u64 {
        self.0.iter().filter(|((on, _), _)| *on == pv).map(|(_, count)| count).sum()
    }

    /// `vg` with up to `missing` extents (by PV) given up by its LVs.
    pub fn given(&self, vg: &Vg, missing: &[u64]) -> Vg {
        let mut new = vg.clone();
        let mut missing = missing.to_vec();
        for ((pv, lv), most) in &self.0 {
            let (Some(missing), Some(lv)) = (missing.get_mut(*pv), new.lvs.get_mut(*lv)) else {
                continue;
            };
            let given = (*missing).min(*most);
            *missing -= given;
            shorten(lv, *pv, given);
        }
        new
    }
}

/// Takes `count` extents of `lv` from PV `pv`, beginning at its end.
fn shorten(lv: &mut Lv, pv: usize, mut count: u64) {
    for segment in lv.segments.iter_mut().rev() {
        if segment.stripes().iter().any(|(on, _)| *on == pv) {
            let given = count.min(segment.extent_count);
            segment.extent_count -= given;
            count -= given;
        }
    }
    lv.segments.retain(|segment| segment.extent_count > 0);
    number(lv);
}

/// Makes segments follow each other.
pub(super) fn number(lv: &mut Lv) {
    let mut next = 0;
    for segment in &mut lv.segments {
        segment.start_extent = next;
        next += segment.extent_count;
    }
}

/// How many extents each PV lacks when the PVs have `pv_sizes`.
///
/// # Errors
/// [`crate::error::Error::Refused`] where a size leaves no place for the PV's own areas.
pub fn missing(vg: &Vg, pv_sizes: &[Bytes]) -> Result<Vec<u64>> {
    let sized = allocate::resized(vg, pv_sizes)?;
    let lacks = |(used, pv): (u64, &super::model::Pv)| used.saturating_sub(pv.pe_count);
    Ok(vg.used_extents().into_iter().zip(&sized.pvs).map(lacks).collect())
}

impl Vg {
    /// The smallest device on which PV `pv` has room for the extents that LVs have there, but for `given`.
    pub fn least_size(&self, pv: usize, given: u64) -> Bytes {
        let Some(model) = self.pvs.get(pv) else { return Bytes::ZERO };
        let used = self.used_extents().get(pv).copied().unwrap_or(0).saturating_sub(given);
        let end = model.pe_start.saturating_add(self.extents(used));
        match model.trailing_area {
            Some(area) => end.align_up(allocate::ALIGNMENT).saturating_add(area.size),
            None => end,
        }
    }

    /// Whether LV `lv` has extents on one of `pvs`.
    pub fn lies_on(&self, lv: &Lv, pvs: &[usize]) -> bool {
        lv.segments.iter().flat_map(Segment::stripes).any(|(pv, _)| pvs.contains(pv))
    }
}

/// A linear segment, for a place that is still to be found.
pub(super) fn linear(like: &Segment, extent_count: u64, stripes: Vec<(usize, u64)>) -> Segment {
    let kind = SegmentKind::Striped { stripe_size: Bytes::ZERO, stripes };
    Segment { start_extent: 0, extent_count, kind, extra: like.extra.clone() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{Slack, missing};
    use crate::lvm::allocate;
    use crate::lvm::label::Area;
    use crate::lvm::sample;
    use crate::units::Bytes;

    fn least(mib: u64) -> BTreeMap<String, Bytes> {
        BTreeMap::from([("swap".to_owned(), Bytes::mib(mib))])
    }

    #[test]
    fn only_named_linear_volumes_give_and_keep_their_least() {
        let lvs = [
            ("root", vec![(4, 0, vec![(0, 0)])]),
            ("swap", vec![(3, 0, vec![(0, 4)]), (2, 0, vec![(1, 0)])]),
        ];
        let vg = sample::vg(2048, &[8, 8], &lvs);
        let slack = Slack::of(&vg, &least(2));
        assert_eq!((slack.on(0), slack.on(1)), (1, 2));
        assert_eq!(Slack::of(&vg, &least(9)), Slack::default());
        let striped = [("swap", vec![(8, 128, vec![(0, 0), (1, 0)])])];
        assert_eq!(Slack::of(&sample::vg(2048, &[8, 8], &striped), &least(1)).on(0), 0);
        let given = slack.given(&vg, &[1, 1]);
        let swap = given.lv("swap").unwrap();
        assert_eq!(swap.extents(), 3);
        let starts: Vec<u64> = swap.segments.iter().map(|s| s.start_extent).collect();
        assert_eq!(starts, [0, 2]);
        let all = slack.given(&vg, &[9, 9]);
        assert_eq!((all.lv("swap").unwrap().extents(), all.lv("root").unwrap().extents()), (2, 4));
    }

    #[test]
    fn a_pv_can_be_as_small_as_it_says_and_no_smaller() {
        let lvs = [("root", vec![(3, 0, vec![(0, 5)])])];
        let mut vg = sample::vg(8192, &[8], &lvs);
        for area in [None, Some(Area { offset: Bytes::mib(40), size: Bytes::kib(300) })] {
            vg.pvs[0].trailing_area = area;
            let least = vg.least_size(0, 0);
            assert_eq!(missing(&vg, &[least]).unwrap(), [0]);
            assert!(allocate::fit(&vg, &[least], &BTreeMap::new()).is_ok());
            assert_eq!(missing(&vg, &[least - Bytes::new(512)]).unwrap(), [1]);
            assert_eq!(vg.least_size(0, 1), least - Bytes::mib(4));
        }
    }

    proptest! {
        #[test]
        fn what_is_given_up_is_what_was_missing(
            sizes in prop::collection::vec((1_u64..6, 0_usize..2), 1..5),
            room in prop::collection::vec(0_u64..12, 2),
            least_mib in 1_u64..6,
        ) {
            let mut next = [0, 0];
            let segments: Vec<sample::Segment> = sizes.iter().map(|(count, pv)| {
                next[*pv] += count;
                (*count, 0, vec![(*pv, next[*pv] - count)])
            }).collect();
            let vg = sample::vg(2048, &[40, 40], &[("swap", segments)]);
            let slack = Slack::of(&vg, &least(least_mib));
            let pv_sizes: Vec<Bytes> = room.iter().map(|room| Bytes::mib(1 + room)).collect();
            let lack = missing(&vg, &pv_sizes).unwrap();
            let new = slack.given(&vg, &lack);
            let enough = lack.iter().enumerate().all(|(pv, lack)| slack.on(pv) >= *lack);
            let fits = allocate::fit(&new, &pv_sizes, &BTreeMap::new());
            prop_assert_eq!(fits.is_ok(), enough);
            if let Ok(fits) = fits {
                let given: u64 = lack.iter().sum();
                prop_assert_eq!(fits.lvs[0].extents(), vg.lvs[0].extents() - given);
                prop_assert!(given == 0 || fits.lvs[0].extents() >= least_mib);
            }
        }
    }
}
