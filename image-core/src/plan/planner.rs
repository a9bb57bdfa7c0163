//! Works out a restore: target by target (in `partitions`, where one has a table), then (in `group`) volume
//! group by volume group.

use std::collections::BTreeMap;

use super::fit;
use super::growth::{self, Amount, Base, Member};
use super::partitions::Move;
use super::refuse;
use super::restore::{GrowthPlan, Place, Request, RestorePlan, Target, VolumePlan, resolve, slots};
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fs::GrowthTool;
use crate::image::manifest::{Root, VolumeEntry};
use crate::units::Bytes;

/// An image and what the user wants of it.
pub(super) struct Planner<'a> {
    pub(super) root: &'a Root,
    pub(super) request: &'a Request,
    /// What was asked for by name, by volume id.
    pub(super) asked: BTreeMap<&'a str, Amount>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(root: &'a Root, request: &'a Request) -> Result<Self> {
        let slots = slots(root);
        if slots.len() != request.targets.len() {
            return Err(Error::refused(format!(
                "the image has {} disks or volumes to restore ({}), but {} targets are named",
                slots.len(),
                slots.join(", "),
                request.targets.len()
            )));
        }
        if let Some(twice) = slots.iter().find(|id| slots.iter().filter(|o| o == id).count() > 1) {
            return Err(contradiction(twice, "a disk or a volume", "both"));
        }
        let mut asked = BTreeMap::new();
        for (name, amount) in &request.policy.named {
            let volume = resolve(root, name)?;
            if asked.insert(volume.id.as_str(), *amount).is_some() {
                return Err(Error::refused(format!("--grow names {} twice", volume.id)));
            }
        }
        Ok(Self { root, request, asked })
    }

    pub(super) fn volumes_on(&self, slot: &str) -> impl Iterator<Item = (usize, &'a VolumeEntry)> {
        self.root
            .volumes
            .iter()
            .enumerate()
            .filter(move |(_, volume)| volume.disk.as_deref() == Some(slot) || volume.id == slot)
    }

    /// Plans everything that lies on one target directly.
    pub(super) fn target(&self, index: usize, plan: &mut RestorePlan) -> Result<()> {
        let Some(target) = self.request.targets.get(index) else { return Ok(()) };
        let disk = self.root.disks.iter().find(|disk| disk.id == target.slot);
        let table = disk.and_then(|disk| Some((disk, disk.table.as_ref()?)));
        let Some((disk, table)) = table else {
            plan.tables.push(None);
            return self.bare(index, target, plan);
        };
        let table: Table = serde_json::from_value(table.clone()).map_err(|error| {
            Error::corrupt("partition table", Bytes::ZERO, "a table of the root", error.to_string())
        })?;
        table.check(disk.size, disk.sector_size).map_err(|error| error.on(&disk.id))?;
        let places = self.partitions(&Move::new(target, disk, &table), plan)?;
        self.place_volumes(index, target, &table, &places, plan)?;
        plan.tables.push(Some(table.moved(target.size, target.sector_size, &places)?));
        Ok(())
    }

    /// A filesystem or physical volume that fills its target.
    fn bare(&self, index: usize, target: &Target, plan: &mut RestorePlan) -> Result<()> {
        let mut volumes = self.volumes_on(&target.slot);
        let (Some((entry, volume)), None) = (volumes.next(), volumes.next()) else {
            return Err(contradiction(&target.slot, "one volume", "none or several"));
        };
        refuse::sector_size(volume, target)?;
        let least = volume.size.min(volume.min_bytes);
        if target.size < least {
            return Err(refuse::too_small(target, &volume.id, least));
        }
        let space = target.size.saturating_sub(volume.size);
        // Who restores one volume alone wants it to fill its target, also /boot and swap.
        let member = Member { reserved: false, grain: target.sector_size, ..self.member(volume) };
        let base = self.request.policy.base;
        let shares = growth::share(std::slice::from_ref(&member), base, space, None)?;
        let share = shares.first().copied().unwrap_or_default();
        if let (Base::Auto | Base::Proportional, Err(why)) = (base, &member.growable)
            && !space.is_zero()
        {
            plan.warnings.push(format!("{space} behind {} stay unused: {why}", volume.id));
        }
        let to = volume.size.min(target.size).saturating_add(share);
        plan.volumes.push(VolumePlan {
            id: volume.id.clone(),
            from: volume.size,
            to,
            offset: Bytes::ZERO,
            place: Place::Target(index, Extent::first(to)),
            entry,
        });
        Ok(())
    }

    pub(super) fn member(&self, volume: &VolumeEntry) -> Member {
        let growable = match (&volume.growth, self.request.blocked.get(&volume.id)) {
            _ if volume.is_container => Ok(()),
            (_, Some(why)) => Err(why.clone()),
            (Some(_), None) => Ok(()),
            (None, None) => Err(match &volume.reason {
                Some(reason) => format!("it was saved whole ({reason})"),
                None => format!("no tool makes {} larger", volume.content),
            }),
        };
        let boot = volume.last_mounted.as_deref().is_some_and(|at| at.starts_with("/boot"))
            || volume.label.as_deref().is_some_and(|label| label.eq_ignore_ascii_case("boot"));
        Member {
            id: volume.id.clone(),
            size: volume.size,
            asked: self.asked.get(volume.id.as_str()).copied(),
            growable,
            reserved: boot || volume.content == "swap",
            grain: fit::ALIGNMENT,
            most: Bytes::MAX,
        }
    }

    /// What follows from the volumes' new sizes.
    pub(super) fn finish(&self, plan: &mut RestorePlan) -> Result<()> {
        for volume in &plan.volumes {
            let Some(entry) = self.root.volumes.get(volume.entry) else { continue };
            if entry.is_container {
                continue;
            }
            plan.writes = plan.writes.saturating_add(entry.used_bytes);
            if let (true, Some(tool)) = (volume.to > volume.from, tool(entry)?) {
                plan.grow.push(GrowthPlan {
                    id: volume.id.clone(),
                    tool,
                    from: volume.from,
                    to: volume.to,
                    asked: self.asked.contains_key(volume.id.as_str()),
                });
            }
        }
        for growth in &plan.grow {
            for program in programs(growth.tool) {
                if !plan.tools.iter().any(|tool| tool == program) {
                    plan.tools.push((*program).to_owned());
                }
            }
        }
        for name in self.asked.keys() {
            let grown = plan.volumes.iter().any(|v| v.id == *name);
            if !grown {
                return Err(Error::refused(format!("{name} is not restored, so it cannot grow")));
            }
        }
        Ok(())
    }
}

pub(super) fn unknown_member(id: String, size: Bytes) -> Member {
    let growable = Err("it was not saved".to_owned());
    let (grain, most) = (fit::ALIGNMENT, Bytes::ZERO);
    Member { id, size, asked: None, growable, reserved: true, grain, most }
}

/// A root whose parts contradict each other.
pub(super) fn contradiction(id: &str, expected: &str, found: &str) -> Error {
    Error::corrupt(format!("root: {id}"), Bytes::ZERO, expected, found)
}

pub(super) fn unallocated(container: &str, space: Bytes, members: &[Member]) -> String {
    let why: Vec<String> = members
        .iter()
        .filter(|member| !member.reserved)
        .filter_map(|member| {
            member.growable.as_ref().err().map(|why| format!("{}: {why}", member.id))
        })
        .collect();
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    format!("{space} of new space on {container} stay unallocated: nothing there can grow{why}")
}

/// The growth tool that the root names for a volume.
fn tool(entry: &VolumeEntry) -> Result<Option<GrowthTool>> {
    let Some(name) = &entry.growth else { return Ok(None) };
    serde_json::from_value(serde_json::Value::String(name.clone()))
        .map(Some)
        .map_err(|_| Error::unsupported(format!("{}: growth by `{name}`", entry.id)))
}

fn programs(tool: GrowthTool) -> &'static [&'static str] {
    match tool {
        GrowthTool::Resize2fs => &["e2fsck", "resize2fs"],
        GrowthTool::XfsGrowfs => &["xfs_growfs"],
        GrowthTool::Swap => &[],
    }
}
