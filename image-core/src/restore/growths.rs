//! What filesystem tools have to do for a plan, and where.

use std::path::PathBuf;

use super::{Job, no_target};
use crate::error::Result;
use crate::fs::GrowthTool;
use crate::grow::Growth;
use crate::plan::restore::{Place, RestorePlan, VolumePlan};
use crate::units::Bytes;
use crate::view::{self, Layout};

/// The growths of a plan; swap areas need no tool.
///
/// # Errors
/// [`crate::error::Error::Refused`] for a plan that contradicts itself.
pub fn growths(plan: &RestorePlan) -> Result<Vec<Growth>> {
    of(plan, &|at| planned(plan, at))
}

/// The growths of a job, on what it has claimed: another disk may stand at a path by now.
pub(super) fn claimed(job: &Job<'_>) -> Result<Vec<Growth>> {
    of(job.plan, &|at| node(job, at))
}

/// Where a target is opened.
pub(super) type Node<'a> = &'a dyn Fn(usize) -> Option<PathBuf>;

/// Where a target was planned to be.
pub(super) fn planned(plan: &RestorePlan, at: usize) -> Option<PathBuf> {
    Some(plan.targets.get(at)?.path.clone())
}

/// Where a target that was claimed is opened once more.
pub(super) fn node(job: &Job<'_>, at: usize) -> Option<PathBuf> {
    job.targets.get(at)?.node().or_else(|| planned(job.plan, at))
}

fn of(plan: &RestorePlan, node: Node<'_>) -> Result<Vec<Growth>> {
    let mut growths = Vec::new();
    for growth in plan.grow.iter().filter(|growth| growth.tool != GrowthTool::Swap) {
        let volume = plan.volumes.iter().find(|volume| volume.id == growth.id);
        let layout = layout(plan, volume.ok_or_else(no_target)?, node)?;
        growths.push(Growth { volume: growth.id.clone(), tool: growth.tool, layout });
    }
    Ok(growths)
}

/// Where a planned volume lies in files and devices.
pub(super) fn layout(plan: &RestorePlan, volume: &VolumePlan, node: Node<'_>) -> Result<Layout> {
    let place = |target: usize, offset: Bytes| -> Result<view::Place> {
        Ok(view::Place { path: node(target).ok_or_else(no_target)?, offset })
    };
    let (group, name) = match &volume.place {
        Place::Target(at, extent) => {
            let place = place(*at, extent.start)?;
            return Layout::new(vec![view::Piece::linear(Bytes::ZERO, extent.len(), place)]);
        }
        Place::Lv(group, name) => (plan.groups.get(*group).ok_or_else(no_target)?, name),
    };
    Layout::of_lv(&group.vg, name, &|pv| {
        let pv = group.pvs.get(pv)?;
        Some(view::Place { path: node(pv.target)?, offset: pv.extent.start })
    })
}

/// What the user has to do where a growth failed.
pub(super) fn by_hand(tool: GrowthTool, id: &str) -> String {
    match tool {
        GrowthTool::Resize2fs => format!("grow {id}: e2fsck -f DEVICE && resize2fs DEVICE"),
        GrowthTool::XfsGrowfs => format!("grow {id}: mount it, then xfs_growfs MOUNTPOINT"),
        GrowthTool::Swap => format!("make {id} anew: mkswap DEVICE"),
    }
}
