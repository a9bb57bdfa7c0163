//! A volume group on physical volumes of other sizes.

use std::collections::BTreeMap;

use super::growth::{self, Base, Member};
use super::planner::{Planner, contradiction, unallocated, unknown_member};
use super::refuse;
use super::restore::{GroupPlan, Place, PvPlan, RestorePlan, Target, VolumePlan};
use crate::error::{Error, Result};
use crate::image::manifest::{VolumeEntry, VolumeGroupEntry};
use crate::lvm::allocate::{self, Room};
use crate::lvm::assemble;
use crate::lvm::label::PvHead;
use crate::lvm::model::{Lv, Pv, Vg};
use crate::units::Bytes;

impl Planner<'_> {
    /// One volume group at the sizes that its physical volumes have now.
    pub(super) fn group(&self, entry: &VolumeGroupEntry, plan: &mut RestorePlan) -> Result<()> {
        let (vg, pvs) = self.pvs(entry, plan)?;
        let sizes = sizes(entry, &vg, &pvs)?;
        let room = allocate::room(&vg, &sizes)?;
        let space = match self.request.policy.use_free {
            true => room.total(),
            false => room.total().saturating_sub(vg.free_bytes()),
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
        let wanted = members.iter().zip(&shares).map(|(m, share)| m.size.saturating_add(*share));
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
        for lv in &fitted.lvs {
            let Some((at, volume)) = self.saved_lv(&vg, lv) else { continue };
            plan.volumes.push(VolumePlan {
                id: volume.id.clone(),
                from: volume.size,
                to: lv.size(&fitted),
                offset: Bytes::ZERO,
                place: Place::Lv(group, lv.name.clone()),
                entry: at,
            });
        }
        plan.groups.push(GroupPlan { vg: fitted, pvs });
        Ok(())
    }

    /// A logical volume among the saved volumes, with its index there.
    fn saved_lv(&self, vg: &Vg, lv: &Lv) -> Option<(usize, &VolumeEntry)> {
        let id = format!("{}/{}", vg.name, lv.name);
        self.root.volumes.iter().enumerate().find(|(_, volume)| volume.id == id)
    }

    fn lv_member(&self, vg: &Vg, lv: &Lv, room: &Room, targets: &[&Target]) -> Result<Member> {
        let Some((_, volume)) = self.saved_lv(vg, lv) else {
            return Ok(unknown_member(format!("{}/{}", vg.name, lv.name), lv.size(vg)));
        };
        if volume.size != lv.size(vg) {
            let (expected, found) = (lv.size(vg).get().to_string(), volume.size.get().to_string());
            return Err(contradiction(&volume.id, &format!("{expected} bytes"), &found));
        }
        targets.iter().try_for_each(|target| refuse::sector_size(volume, target))?;
        let stripes = lv.segments.last().map_or(1, |last| last.stripes().len());
        let grain = vg.extents(Bytes::from(stripes).get());
        let mut member = Member { grain, most: room.for_lv(lv), ..self.member(volume) };
        if member.growable.is_ok() && member.most < grain {
            member.growable = Err("the physical volumes that it lies on have no room".to_owned());
        }
        Ok(member)
    }

    /// The group as it was saved, and where its physical volumes lie now.
    fn pvs(&self, entry: &VolumeGroupEntry, plan: &RestorePlan) -> Result<(Vg, Vec<PvPlan>)> {
        let wrong = |expected: &str, found: String| contradiction(&entry.name, expected, &found);
        let mut heads: Vec<(usize, PvHead)> = Vec::new();
        for (at, pv) in entry.pvs.iter().enumerate() {
            let mut head: PvHead = serde_json::from_value(pv.head.clone())
                .map_err(|error| wrong("a physical volume's head", error.to_string()))?;
            head.text = head.vg.is_some().then(|| entry.text.clone());
            heads.push((at, head));
        }
        let assembly = assemble::assemble(&heads);
        let group = assembly.groups.into_iter().next();
        let whole = |group: &assemble::Group| {
            group.members.len() == heads.len() && group.vg.name == entry.name
        };
        let Some(group) = group.filter(whole) else {
            let reasons: Vec<String> = assembly.raw.into_iter().map(|raw| raw.reason).collect();
            return Err(wrong("a complete group", reasons.join("; ")));
        };
        let mut pvs: Vec<PvPlan> = Vec::new();
        for member in &group.members {
            let head = heads.iter().find(|(at, _)| at == member).map(|(_, head)| head.clone());
            let volume = entry
                .pvs
                .get(*member)
                .and_then(|pv| plan.volumes.iter().find(|volume| volume.id == pv.volume));
            let (Some(head), Some(volume)) = (head, volume) else {
                return Err(wrong("every physical volume among the volumes", member.to_string()));
            };
            let Place::Target(target, extent) = volume.place else {
                return Err(wrong("physical volumes on disks", volume.id.clone()));
            };
            let elsewhere = plan.groups.iter().flat_map(|group| &group.pvs).chain(&pvs);
            if elsewhere.into_iter().any(|pv| (pv.target, pv.extent) == (target, extent)) {
                return Err(wrong("each physical volume once", format!("{} twice", volume.id)));
            }
            pvs.push(PvPlan { head, target, extent, grown: volume.to != volume.from });
        }
        Ok((group.vg, pvs))
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

/// How large each physical volume is on its target. One whose partition keeps its size keeps its own,
/// which may be a little less.
fn sizes(entry: &VolumeGroupEntry, vg: &Vg, pvs: &[PvPlan]) -> Result<Vec<Bytes>> {
    let size = |(pv, old): (&PvPlan, &Pv)| match (pv.grown, pv.extent.len()) {
        (true, size) => Ok(size),
        (false, size) if old.dev_size <= size => Ok(old.dev_size),
        (false, size) => {
            let expected = format!("a physical volume of {} bytes at most", size.get());
            Err(contradiction(&entry.name, &expected, &old.dev_size.get().to_string()))
        }
    };
    pvs.iter().zip(&vg.pvs).map(size).collect()
}
