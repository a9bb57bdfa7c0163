//! Whether a plan is whole: each volume of the image has one place, and no two share a byte.
//!
//! A root that a program made passes; one that somebody made up is refused before anything is written.

use std::collections::BTreeSet;

use super::planner::contradiction;
use super::restore::{Place, RestorePlan, VolumePlan};
use crate::error::Result;
use crate::extent::Extent;
use crate::image::manifest::{Root, VolumeEntry};

/// Checks `plan`, made of `root` without the disks `left_out`.
///
/// # Errors
/// [`crate::error::Error::Corrupt`] naming the volume.
pub(super) fn check(root: &Root, left_out: &[String], plan: &RestorePlan) -> Result<()> {
    each_once(root, left_out, plan)?;
    containers_are_pvs(root, plan)?;
    for target in 0..plan.targets.len() {
        apart(plan, target)?;
    }
    Ok(())
}

fn each_once(root: &Root, left_out: &[String], plan: &RestorePlan) -> Result<()> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = plan.volumes.iter().find(|volume| !seen.insert(volume.entry)) {
        return Err(contradiction(&twice.id, "one place", "several"));
    }
    let missing = |(at, volume): &(usize, &VolumeEntry)| {
        let left_out = volume.disk.as_ref().is_some_and(|disk| left_out.contains(disk));
        !seen.contains(at) && !left_out && !plan.replaced.contains(&volume.id)
    };
    match (0..).zip(&root.volumes).find(missing) {
        Some((_, volume)) => {
            Err(contradiction(&volume.id, "a place on a disk or in a volume group", "none"))
        }
        None => Ok(()),
    }
}

/// What is restored as the metadata of a group is no data of its own, and the other way round.
fn containers_are_pvs(root: &Root, plan: &RestorePlan) -> Result<()> {
    let pvs = root.volume_groups.iter().flat_map(|group| &group.pvs);
    let pvs: BTreeSet<&str> = pvs.map(|pv| pv.volume.as_str()).collect();
    let wrong = |volume: &&VolumePlan| {
        let entry = root.volumes.get(volume.entry);
        entry.is_some_and(|entry| entry.is_container != pvs.contains(entry.id.as_str()))
    };
    match plan.volumes.iter().find(wrong) {
        Some(volume) => {
            Err(contradiction(&volume.id, "a container exactly where it is a PV", "not so"))
        }
        None => Ok(()),
    }
}

/// Checks that what lies on a target lies inside of it and apart.
fn apart(plan: &RestorePlan, target: usize) -> Result<()> {
    let mut placed: Vec<(Extent, &str)> = Vec::new();
    for volume in &plan.volumes {
        if let Place::Target(at, extent) = &volume.place
            && *at == target
        {
            placed.push((*extent, &volume.id));
        }
    }
    placed.sort_unstable();
    let end = plan.targets.get(target).map(|target| target.size).unwrap_or_default();
    if let Some((extent, id)) = placed.iter().find(|(extent, _)| extent.end > end) {
        let expected = format!("an end up to byte {}", end.get());
        return Err(contradiction(id, &expected, &extent.to_string()));
    }
    for pair in placed.windows(2) {
        if let [(before, first), (behind, second)] = pair
            && behind.start < before.end
        {
            let found = format!("{behind}, which overlaps {first} ({before})");
            return Err(contradiction(second, "bytes of its own", &found));
        }
    }
    Ok(())
}
