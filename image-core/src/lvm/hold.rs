//! LVs of another VG that stay where they are: this VG lists them at the same bytes, and its own LVs make
//! room for them.

use std::collections::BTreeMap;

use super::metadata::{Entry, Section};
use super::model::{Lv, Segment, SegmentKind, Vg};
use super::shrink::{linear, number};
use crate::error::{Error, Result};
use crate::units::Bytes;

impl Vg {
    /// Lists `lv` of the VG `old`, with its UUID and everything else that its section says, instead of the
    /// LV of that name, or as one more. `hosts` says which of this VG's PVs will begin where each of
    /// the old VG's begins.
    ///
    /// # Errors
    /// [`Error::Refused`] where its bytes are no extents of this VG.
    pub fn hold(&mut self, old: &Self, lv: &Lv, hosts: &BTreeMap<usize, usize>) -> Result<()> {
        let cannot = |why: String| Error::refused(format!("LV {}/{}: {why}", old.name, lv.name));
        let mut segments = Vec::new();
        for segment in &lv.segments {
            segments
                .push(self.converted(old, segment, hosts).map_err(|why| cannot(why.to_owned()))?);
        }
        let mut held = Lv { segments, held: true, ..lv.clone() };
        number(&mut held);
        let instead = self.lvs.iter().position(|own| own.name == lv.name);
        if let Some(twin) = self.lvs.iter().find(|own| own.uuid == lv.uuid && own.name != lv.name) {
            return Err(cannot(format!("in the image it is called {}", twin.name)));
        }
        let section = logical_volumes(&old.file, &old.name).and_then(|part| part.section(&lv.name));
        let section = section.cloned().ok_or_else(|| cannot("it has no metadata".into()))?;
        list(&mut self.file, instead, section);
        match instead.and_then(|at| self.lvs.get_mut(at)) {
            Some(own) => *own = held,
            None => self.lvs.push(held),
        }
        Ok(())
    }

    /// The segment in extents of this VG.
    fn converted(
        &self,
        old: &Self,
        segment: &Segment,
        hosts: &BTreeMap<usize, usize>,
    ) -> Result<Segment, &'static str> {
        let SegmentKind::Striped { stripe_size, stripes } = &segment.kind else {
            return Err("it is neither linear nor striped");
        };
        const GRID: &str =
            "it does not lie on the grid of extents that the image's volume group has";
        let own = |length: Bytes| {
            length.is_aligned(self.extent_size).then(|| length.units(self.extent_size))
        };
        let extent_count = own(old.extents(segment.extent_count)).ok_or(GRID)?;
        let each = own(old.extents(segment.extents_per_stripe())).ok_or(GRID)?;
        if each * Bytes::from(stripes.len()).get() != extent_count {
            return Err(GRID);
        }
        let mut placed = Vec::new();
        for (pv, pe) in stripes {
            let host =
                *hosts.get(pv).ok_or("its physical volume has no place in the image's group")?;
            let (Some(was), Some(now)) = (old.pvs.get(*pv), self.pvs.get(host)) else {
                return Err("its physical volume is missing");
            };
            let at = was.pe_start.checked_add(old.extents(*pe)).ok_or(GRID)?;
            placed.push((host, at.checked_sub(now.pe_start).and_then(own).ok_or(GRID)?));
        }
        let kind = SegmentKind::Striped { stripe_size: *stripe_size, stripes: placed };
        Ok(Segment { extent_count, kind, ..segment.clone() })
    }

    /// Runs of extents of a PV that LVs have which stay, or which do not.
    pub(super) fn runs(&self, pv: usize, held: bool) -> Vec<(u64, u64)> {
        let lvs = self.lvs.iter().filter(|lv| lv.held == held);
        let mut runs: Vec<(u64, u64)> = lvs
            .flat_map(|lv| &lv.segments)
            .flat_map(|segment| {
                let count = segment.extents_per_stripe();
                let here = segment.stripes().iter().filter(move |(on, _)| *on == pv);
                here.map(move |(_, pe)| (*pe, pe.saturating_add(count)))
            })
            .collect();
        runs.sort_unstable();
        runs
    }

    /// Whether LVs that stay lie on a PV where others are.
    pub(super) fn is_disturbed(&self, pv: usize) -> bool {
        let others = self.runs(pv, false);
        let meets =
            |held: &(u64, u64)| others.iter().any(|(start, end)| *start < held.1 && held.0 < *end);
        self.runs(pv, true).iter().any(meets)
    }
}

fn logical_volumes<'a>(file: &'a Section, vg: &str) -> Option<&'a Section> {
    file.section(vg)?.section(LOGICAL)
}

const LOGICAL: &str = "logical_volumes";

/// Puts an LV's section into a VG's text: instead of the one with this index, or behind all.
fn list(file: &mut Section, instead: Option<usize>, section: Section) {
    for root in file.sections_mut() {
        if root.section(LOGICAL).is_none() {
            root.entries.push(Entry::Section(Section::new(LOGICAL)));
        }
        for part in root.sections_mut().filter(|part| part.name == LOGICAL) {
            match instead.and_then(|at| part.sections_mut().nth(at)) {
                Some(own) => *own = section.clone(),
                None => part.entries.push(Entry::Section(section.clone())),
            }
        }
    }
}

/// Gives the LVs of a PV new extents around those that stay: stripes first, which must lie together; then
/// the others, in pieces where they have to, LV by LV in the order of their first extents.
pub(super) fn pack_around(vg: &mut Vg, pv: usize) -> Result<()> {
    let mut free = free_runs(&vg.runs(pv, true), vg.pvs.get(pv).map_or(0, |pv| pv.pe_count));
    let first = |lv: &Lv| {
        let here = lv.segments.iter().flat_map(Segment::stripes).filter(|(on, _)| *on == pv);
        here.map(|(_, pe)| *pe).min()
    };
    let mut order: Vec<(u64, usize)> = vg
        .lvs
        .iter()
        .enumerate()
        .filter(|(_, lv)| !lv.held)
        .filter_map(|(at, lv)| Some((first(lv)?, at)))
        .collect();
    order.sort_unstable();
    for (_, at) in &order {
        let Some(lv) = vg.lvs.get_mut(*at) else { continue };
        for segment in &mut lv.segments {
            let count = segment.extents_per_stripe();
            let SegmentKind::Striped { stripes, .. } = &mut segment.kind else { continue };
            if stripes.len() < 2 {
                continue;
            }
            for (_, pe) in stripes.iter_mut().filter(|(on, _)| *on == pv) {
                *pe = together(&mut free, count).ok_or_else(|| {
                    Error::refused(format!(
                        "LV {}/{} does not fit around what is kept: its stripes have to lie together",
                        vg.name, lv.name
                    ))
                })?;
            }
        }
    }
    for (_, at) in &order {
        let Some(lv) = vg.lvs.get_mut(*at) else { continue };
        let mut segments = Vec::new();
        for segment in lv.segments.drain(..) {
            match segment.stripes() {
                [(on, _)] if *on == pv => {
                    let pieces = pieces(&mut free, segment.extent_count);
                    let piece = |(pe, count)| linear(&segment, count, vec![(pv, pe)]);
                    segments.extend(pieces.into_iter().map(piece));
                }
                _ => segments.push(segment),
            }
        }
        lv.segments = segments;
        number(lv);
    }
    Ok(())
}

/// What is free of `count` extents between runs in ascending order, as start and length.
fn free_runs(taken: &[(u64, u64)], count: u64) -> Vec<(u64, u64)> {
    let (mut free, mut next) = (Vec::new(), 0);
    for (start, end) in taken.iter().copied().chain([(count, count)]) {
        if start > next {
            free.push((next, start - next));
        }
        next = next.max(end);
    }
    free
}

/// The start of `count` extents that lie together, taken from the free ones.
fn together(free: &mut [(u64, u64)], count: u64) -> Option<u64> {
    let (start, length) = free.iter_mut().find(|(_, length)| *length >= count)?;
    let taken = *start;
    *start += count;
    *length -= count;
    Some(taken)
}

/// `count` extents, taken from the free ones in their order.
fn pieces(free: &mut [(u64, u64)], mut count: u64) -> Vec<(u64, u64)> {
    let mut pieces = Vec::new();
    for (start, length) in free {
        let taken = count.min(*length);
        if taken > 0 {
            pieces.push((*start, taken));
            *start += taken;
            *length -= taken;
            count -= taken;
        }
    }
    // There is room, as was counted before; if not, the check of the whole group finds it.
    pieces.extend((count > 0).then_some((u64::from(u32::MAX), count)));
    pieces
}
