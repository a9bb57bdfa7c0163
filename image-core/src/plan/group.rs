//! A volume group on physical volumes of other sizes.

use std::collections::BTreeMap;

use super::growth::{self, Base, Member};
use super::planner::{Planner, contradiction, unallocated, unknown_member};
use super::refuse;
use super::restore::{GroupPlan, Place, PvPlan, RestorePlan, Target, VolumePlan};
use super::saved::SavedGroup;
use crate::error::{Error, Result};
use crate::image::manifest::VolumeEntry;
use crate::lvm::allocate::{self, Room};
use crate::lvm::label::PvHead;
use crate::lvm::model::{Lv, Pv, Vg};
use crate::lvm::{reduce, shrink};
use crate::units::Bytes;

impl Planner<'_> {
    /// One volume group at the sizes that its physical volumes have now.
    pub(super) fn group(&self, saved: &SavedGroup, plan: &mut RestorePlan) -> Result<()> {
        let pvs = pvs(saved, plan)?;
        let sizes = sizes(saved, &pvs)?;
        let old_free = saved.free;
        let own = saved.vg.lvs.iter().filter(|lv| !lv.held);
        own.into_iter().try_for_each(|lv| self.check_lv(&saved.vg, lv))?;
        let vg = with_less(saved, &sizes, plan)?;
        let room = allocate::room(&vg, &sizes)?;
        let space = match self.request.policy.use_free {
            true => room.total(),
            false => room.total().saturating_sub(old_free),
        };
        let targets: Vec<&Target> =
            pvs.iter().filter_map(|pv| plan.targets.get(pv.target)).collect();
        let mut members = Vec::new();
        for lv in &vg.lvs {
            members.push(self.lv_member(&vg, lv, &room, &targets)?);
        }
        let favourite = self.root_volume(&members);
        let base = self.request.policy.base;
        let shares = growth::share(&members, base, space, favourite)?;
        let nothing_grows = shares.iter().all(|share| share.is_zero());
        if nothing_grows && space >= vg.extent_size && base != Base::None {
            plan.warnings.push(unallocated(&vg.name, space, &members));
        }
        let names = vg.lvs.iter().map(|lv| lv.name.clone());
        let wanted =
            vg.lvs.iter().zip(&shares).map(|(lv, share)| lv.size(&vg).saturating_add(*share));
        let wanted: BTreeMap<String, Bytes> = names.clone().zip(wanted).collect();
        let fitted = match allocate::fit(&vg, &sizes, &wanted) {
            // Shares that only add up on paper: several striped volumes want the same space.
            Err(Error::Refused(why)) if members.iter().all(|member| member.asked.is_none()) => {
                plan.warnings.push(format!("nothing in {} grows: {why}", vg.name));
                allocate::fit(&vg, &sizes, &BTreeMap::new())?
            }
            fitted => fitted?,
        };
        let group = plan.groups.len();
        for lv in fitted.lvs.iter().filter(|lv| !lv.held) {
            let Some((at, volume)) = self.saved_lv(&vg, lv) else { continue };
            plan.volumes.push(VolumePlan {
                id: volume.id.clone(),
                from: volume.size,
                to: lv.size(&fitted),
                offset: Bytes::ZERO,
                place: Place::Lv(group, lv.name.clone()),
                empty: self.left_empty(volume),
                entry: at,
            });
        }
        plan.groups.push(GroupPlan { vg: fitted, pvs });
        Ok(())
    }

    /// A logical volume among the saved volumes, with its index there.
    pub(super) fn saved_lv(&self, vg: &Vg, lv: &Lv) -> Option<(usize, &VolumeEntry)> {
        let id = format!("{}/{}", vg.name, lv.name);
        self.root.volumes.iter().enumerate().find(|(_, volume)| volume.id == id)
    }

    /// Checks that a volume is as large as its group says.
    fn check_lv(&self, vg: &Vg, lv: &Lv) -> Result<()> {
        match self.saved_lv(vg, lv) {
            Some((_, volume)) if volume.size != lv.size(vg) => {
                let expected = format!("{} bytes", lv.size(vg).get());
                Err(contradiction(&volume.id, &expected, &volume.size.get().to_string()))
            }
            _ => Ok(()),
        }
    }

    fn lv_member(&self, vg: &Vg, lv: &Lv, room: &Room, targets: &[&Target]) -> Result<Member> {
        let Some((_, volume)) = self.saved_lv(vg, lv).filter(|_| !lv.held) else {
            return Ok(unknown_member(format!("{}/{}", vg.name, lv.name), lv.size(vg)));
        };
        targets
            .iter()
            .try_for_each(|target| refuse::sector_size(volume, self.saved_sector(), target))?;
        let stripes = lv.segments.last().map_or(1, |last| last.stripes().len());
        let grain = vg.extents(Bytes::from(stripes).get());
        let mut member = Member { grain, most: room.for_lv(lv), ..self.member(volume) };
        if member.growable.is_ok() && member.most < grain {
            member.growable = Err("the physical volumes that it lies on have no room".to_owned());
        }
        Ok(member)
    }

    /// Which member holds `/`: last mounted there, else named `root`, else the largest that can grow.
    fn root_volume(&self, members: &[Member]) -> Option<usize> {
        let entry = |member: &Member| self.root.volumes.iter().find(|v| v.id == member.id);
        let mounted_at_root = |member: &Member| {
            entry(member).is_some_and(|volume| volume.last_mounted.as_deref() == Some("/"))
        };
        members
            .iter()
            .position(mounted_at_root)
            .or_else(|| members.iter().position(|member| member.id.ends_with("/root")))
            .filter(|at| members.get(*at).is_some_and(Member::may))
            .or_else(|| {
                let can = members.iter().enumerate().filter(|(_, member)| member.may());
                can.max_by_key(|(_, member)| member.size).map(|(at, _)| at)
            })
    }
}

/// Where the physical volumes that are restored lie now.
fn pvs(saved: &SavedGroup, plan: &RestorePlan) -> Result<Vec<PvPlan>> {
    let wrong = |expected: &str, found: String| contradiction(&saved.vg.name, expected, &found);
    let mut pvs: Vec<PvPlan> = Vec::new();
    for (at, (head, id)) in saved.heads.iter().zip(&saved.volumes).enumerate() {
        if saved.gone.contains(&at) {
            continue;
        }
        let Some(volume) = plan.volumes.iter().find(|volume| volume.id == *id) else {
            return Err(wrong("every physical volume among the volumes", at.to_string()));
        };
        let Place::Target(target, extent) = volume.place else {
            return Err(wrong("physical volumes on disks", volume.id.clone()));
        };
        let elsewhere = plan.groups.iter().flat_map(|group| &group.pvs).chain(&pvs);
        if elsewhere.into_iter().any(|pv| (pv.target, pv.extent) == (target, extent)) {
            return Err(wrong("each physical volume once", format!("{} twice", volume.id)));
        }
        let (head, grown) = (head.clone(), volume.to != volume.from);
        pvs.push(PvPlan { head, target, extent, grown });
    }
    Ok(pvs)
}

/// The group with what it has to give up on physical volumes of these sizes, and without those that are
/// left out.
fn with_less(saved: &SavedGroup, sizes: &[Bytes], plan: &mut RestorePlan) -> Result<Vg> {
    let (vg, gone) = (&saved.vg, &saved.gone);
    if gone.is_empty() {
        return Ok(saved.slack.given(vg, &shrink::missing(vg, sizes)?));
    }
    let mut missing = reduce::missing(vg, gone, sizes)?;
    let mut given = vec![0; vg.pvs.len()];
    // What is left out need not be moved where it is not needed.
    let stays = (0..vg.pvs.len()).filter(|pv| !gone.contains(pv));
    for pv in gone.iter().copied().chain(stays) {
        if let Some(given) = given.get_mut(pv) {
            *given = missing.min(saved.slack.on(pv));
            missing -= *given;
        }
    }
    let heads: Vec<&PvHead> = saved.heads.iter().collect();
    let reduced = reduce::without(&saved.slack.given(vg, &given), gone, &heads, sizes)?;
    for name in reduced.unstriped {
        plan.notes.push(format!(
            "{}/{name} is no longer striped: a disk of its stripes is left out",
            vg.name
        ));
    }
    Ok(reduced.vg)
}

/// How large each physical volume is on its target. One whose partition keeps its size keeps its own,
/// which may be a little less.
fn sizes(saved: &SavedGroup, pvs: &[PvPlan]) -> Result<Vec<Bytes>> {
    let size = |(pv, old): (&PvPlan, &Pv)| match (pv.grown, pv.extent.len()) {
        (true, now) => Ok(now),
        (false, now) if old.dev_size <= now => Ok(old.dev_size),
        (false, now) => {
            let (expected, found) = (now.get().to_string(), old.dev_size.get().to_string());
            Err(contradiction(&saved.vg.name, &format!("PVs of at most {expected} bytes"), &found))
        }
    };
    let stays = saved.vg.pvs.iter().enumerate().filter(|(at, _)| !saved.gone.contains(at));
    pvs.iter().zip(stays.map(|(_, pv)| pv)).map(size).collect()
}
