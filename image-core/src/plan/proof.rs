//! Proves of a finished plan that what stays is touched by nothing that the plan writes, and that the new
//! tables and volume groups list it where it is.
//!
//! What is wiped, discarded or zeroed, and the restore record, leave out what stays by themselves; so does
//! the medium, which takes no write there.

use super::keep::Kept;
use super::restore::{PvPlan, RestorePlan, VolumePlan};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::lvm::map::LvMap;
use crate::lvm::model::Vg;

/// Checks `plan`.
///
/// # Errors
/// [`Error::Refused`] naming what stays and what is in its way.
pub(super) fn check(plan: &RestorePlan) -> Result<()> {
    for kept in &plan.kept {
        if let Some(obstacle) = obstacle(plan, kept)? {
            let path = plan.targets.get(kept.target).map(|target| target.path.display());
            let path = path.map(|path| path.to_string()).unwrap_or_default();
            return Err(Error::refused(format!(
                "{} of {path} cannot be kept: {obstacle}",
                kept.what
            )));
        }
    }
    Ok(())
}

/// What keeps one volume from staying.
fn obstacle(plan: &RestorePlan, kept: &Kept) -> Result<Option<String>> {
    let Some(target) = plan.targets.get(kept.target) else {
        return Ok(Some("its target is not there".to_owned()));
    };
    if kept.extents.is_empty() || kept.extents.end() > target.size {
        return Ok(Some("it is not on that target".to_owned()));
    }
    let meets = |written: &ExtentSet| !written.intersect(&kept.extents).is_empty();
    let table = plan.tables.get(kept.target).and_then(Option::as_ref);
    if table.is_some_and(|table| meets(&table.own_bytes(target.size, target.sector_size))) {
        return Ok(Some("the image's partition table goes there".to_owned()));
    }
    for volume in &plan.volumes {
        if !is_pv(plan, volume) {
            let all = plan.on_targets(volume, &Extent::first(volume.to).into())?;
            if all.get(kept.target).is_some_and(meets) {
                return Ok(Some(format!("{} of the image goes there", volume.id)));
            }
        }
    }
    for group in &plan.groups {
        for (at, pv) in group.pvs.iter().enumerate().filter(|(_, pv)| pv.target == kept.target) {
            if meets(&own(&group.vg, at, pv)) {
                let name = &group.vg.name;
                return Ok(Some(format!(
                    "a label or metadata of the volume group {name} goes there"
                )));
            }
        }
    }
    if !kept.runs.is_empty() {
        let moved = "the new metadata would put it elsewhere";
        return Ok((!leads_to(plan, kept)?).then(|| moved.to_owned()));
    }
    let listed = table.is_some_and(|table| {
        let mut parts = table.partitions().iter();
        parts.any(|part| kept.extents == part.extent.into())
    });
    Ok((!listed).then(|| "nothing would lead to it any more".to_owned()))
}

/// Whether a new volume group maps the logical volume of that name to the bytes that stay, in their order.
fn leads_to(plan: &RestorePlan, kept: &Kept) -> Result<bool> {
    for group in &plan.groups {
        let id = |name: &str| format!("{}/{name}", group.vg.name);
        let held = group.vg.lvs.iter().find(|lv| lv.held && id(&lv.name) == kept.id);
        let place = |pv: usize| group.pvs.get(pv).map(|pv| (pv.target, pv.extent));
        if let Some(lv) = held {
            return Ok(LvMap::new(&group.vg, lv)?.runs(&place).as_ref() == Some(&kept.runs));
        }
    }
    Ok(false)
}

/// Whether what is written of a volume is only what makes it a physical volume.
fn is_pv(plan: &RestorePlan, volume: &VolumePlan) -> bool {
    let super::restore::Place::Target(target, extent) = volume.place else { return false };
    let mut pvs = plan.groups.iter().flat_map(|group| &group.pvs);
    pvs.any(|pv| (pv.target, pv.extent) == (target, extent))
}

/// Everything of a physical volume that is not its extents.
fn own(vg: &Vg, at: usize, pv: &PvPlan) -> ExtentSet {
    let all = ExtentSet::from(Extent::first(pv.extent.len()));
    let Some(model) = vg.pvs.get(at) else { return all.shifted(pv.extent.start) };
    let extents = Extent::new(model.pe_start, model.pe_end(vg.extent_size).max(model.pe_start));
    all.subtract(&extents.into()).shifted(pv.extent.start)
}
