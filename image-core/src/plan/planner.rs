//! Works out a restore: target by target (in `partitions`, where one has a table), then (in `group`) volume
//! group by volume group.

use std::collections::{BTreeMap, BTreeSet};

use super::fit;
use super::growth::{self, Amount, Base, Member};
use super::keep::{Keeping, cannot};
use super::less;
use super::partitions::Move;
use super::refuse;
use super::restore::{GrowthPlan, Place, Request, RestorePlan, Target, VolumePlan, resolve, slots};
use super::saved::SavedGroup;
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fs::GrowthTool;
use crate::image::manifest::{DiskEntry, EXCLUDED, Root, VolumeEntry};
use crate::units::Bytes;

/// An image and what the user wants of it.
pub(super) struct Planner<'a> {
    pub(super) root: &'a Root,
    pub(super) request: &'a Request,
    /// What was asked for by name, by volume id.
    pub(super) asked: BTreeMap<&'a str, Amount>,
    /// The only volumes that get their data, by id, where the user named some.
    only: Option<BTreeSet<&'a str>>,
    /// The volume groups that are restored, in the order of the root.
    pub(super) groups: Vec<SavedGroup>,
    /// What of the targets stays.
    pub(super) keeping: Keeping,
}

impl<'a> Planner<'a> {
    pub(super) fn new(root: &'a Root, request: &'a Request) -> Result<Self> {
        less::may_be_left_out(root, &request.left_out)?;
        let mut slots = slots(root);
        slots.retain(|slot| !request.left_out.iter().any(|left| left == slot));
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
        Self::of(root, request)
    }

    /// The same whatever targets there are.
    pub(super) fn of(root: &'a Root, request: &'a Request) -> Result<Self> {
        let mut asked = BTreeMap::new();
        for (name, amount) in &request.policy.named {
            let volume = resolve(root, name)?;
            if asked.insert(volume.id.as_str(), *amount).is_some() {
                return Err(Error::refused(format!("--grow names {} twice", volume.id)));
            }
        }
        let mut only = BTreeSet::new();
        for name in &request.only {
            let volume = resolve(root, name)?;
            refuse::without_data(volume)?;
            only.insert(volume.id.as_str());
        }
        let only = if request.only.is_empty() { None } else { Some(only) };
        let keeping = Keeping::of(root, request)?;
        let mut planner = Self { root, request, asked, only, groups: Vec::new(), keeping };
        for entry in &root.volume_groups {
            if entry.pvs.iter().any(|pv| planner.keeping.replaced.contains(&pv.volume)) {
                continue;
            }
            let gives = |volume: &VolumeEntry| {
                less::is_swap(volume) && planner.left_empty(volume).is_none()
            };
            let group =
                SavedGroup::new(root, entry, &request.left_out, &gives, &planner.keeping.volumes)?;
            planner.groups.push(group);
        }
        Ok(planner)
    }

    /// Why a volume gets its place and no data, where that is so.
    pub(super) fn left_empty(&self, volume: &VolumeEntry) -> Option<String> {
        if volume.state == EXCLUDED {
            return Some("it was excluded when it was saved".to_owned());
        }
        // Boot code goes with the table.
        let boot_code = volume.kind == "gap" && volume.offset.is_zero();
        let only = self.only.as_ref().filter(|_| !volume.is_container && !boot_code)?;
        (!only.contains(volume.id.as_str())).then(|| "it is not among those to restore".to_owned())
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
        let table = disk.map(|disk| Ok((disk, table_of(disk)?))).transpose()?;
        let Some((disk, Some(table))) = table else {
            plan.tables.push(None);
            return self.bare(index, target, plan);
        };
        let pinned = self.pinned(index, &table)?;
        let places = self.partitions(Move::new(target, disk, &table), &pinned, plan)?;
        self.place_volumes(index, target, &table, &places, plan)?;
        plan.tables.push(Some(self.new_table(index, target, &table, &places)?));
        plan.kept.extend(self.keeping.on(index).map(|staying| staying.kept(target)));
        Ok(())
    }

    /// The places of partitions that stay, and of physical volumes on which something stays.
    fn pinned(&self, index: usize, table: &Table) -> Result<BTreeMap<u32, Extent>> {
        let staying = self.keeping.on(index);
        let mut pinned: BTreeMap<u32, Extent> =
            staying.map(|staying| (staying.partition.number, staying.partition.extent)).collect();
        for pin in self.keeping.pins(index) {
            if self.asked.get(pin.volume.as_str()).is_some_and(|asked| *asked != Amount::Fixed) {
                return Err(pin.refuse("the physical volume that it lies on cannot grow"));
            }
            let mut parts = table.partitions().iter();
            let part = parts.find(|part| pin.volume.ends_with(&format!(":{}", part.number)));
            match part {
                Some(part) => drop(pinned.insert(part.number, pin.extent)),
                None => return Err(pin.refuse("it does not lie on a partition as in the image")),
            }
        }
        Ok(pinned)
    }

    /// The table at its new places, with what stays in it.
    fn new_table(
        &self,
        index: usize,
        target: &Target,
        table: &Table,
        places: &BTreeMap<u32, Extent>,
    ) -> Result<Table> {
        let mut new = table.moved(target.size, target.sector_size, places)?;
        for staying in self.keeping.on(index) {
            new.adopt(staying.partition.clone())
                .and_then(|()| new.image(target.size, target.sector_size).map(drop))
                .map_err(|error| cannot(target, staying.was, &error.to_string()))?;
        }
        Ok(new)
    }

    /// A filesystem or physical volume that fills its target.
    fn bare(&self, index: usize, target: &Target, plan: &mut RestorePlan) -> Result<()> {
        let mut volumes = self.volumes_on(&target.slot);
        let (Some((entry, volume)), None) = (volumes.next(), volumes.next()) else {
            return Err(contradiction(&target.slot, "one volume", "none or several"));
        };
        refuse::sector_size(volume, self.saved_sector(), target)?;
        let least = self.least_bare(volume, target.sector_size);
        if target.size < least {
            return Err(refuse::too_small(target, &self.largest(&target.slot), least));
        }
        let space = target.size.saturating_sub(volume.size);
        let owed = self.owed(&volume.id, space);
        let space = space.saturating_sub(owed);
        // Who restores one volume alone wants it to fill its target, also /boot and swap.
        let mut member =
            Member { reserved: false, grain: target.sector_size, ..self.member(volume) };
        if self.request.policy.base == Base::None && self.feeds_named_lv(&volume.id) {
            member.asked = Some(Amount::Rest);
        }
        let base = self.request.policy.base;
        let shares = growth::share(std::slice::from_ref(&member), base, space, None)?;
        let share = shares.first().copied().unwrap_or_default();
        if let (Base::Auto | Base::Proportional, Err(why)) = (base, &member.growable)
            && !space.is_zero()
        {
            plan.warnings.push(format!("{space} behind {} stay unused: {why}", volume.id));
        }
        let mut to = volume.size.min(target.size).saturating_add(owed).saturating_add(share);
        if let Some(pin) = self.keeping.pins(index).next() {
            if !pin.extent.start.is_zero() {
                return Err(pin.refuse("it lies on a partition, and the image makes none there"));
            }
            to = target.size.align_down(target.sector_size);
        }
        plan.volumes.push(VolumePlan {
            id: volume.id.clone(),
            from: volume.size,
            to,
            offset: Bytes::ZERO,
            place: Place::Target(index, Extent::first(to)),
            empty: self.left_empty(volume),
            entry,
        });
        Ok(())
    }

    pub(super) fn member(&self, volume: &VolumeEntry) -> Member {
        let growable = match (&volume.growth, self.request.blocked.get(&volume.id)) {
            _ if volume.is_container => Ok(()),
            _ if self.left_empty(volume).is_some() => Err("it is left empty".to_owned()),
            _ if !volume.unreadable.is_empty() => {
                Err("not all of it could be read when it was saved; check it first".to_owned())
            }
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

    /// The largest sectors of the disks that were saved.
    pub(super) fn saved_sector(&self) -> Bytes {
        self.root.disks.iter().map(|disk| disk.sector_size).max().unwrap_or(Bytes::new(512))
    }

    /// What to say of contents that nothing is known of, where the sectors are larger than they were.
    fn unsure_on_larger_sectors(&self, entry: &VolumeEntry) -> Option<String> {
        let (saved, targets) = (self.saved_sector(), &self.request.targets);
        let larger =
            targets.iter().map(|target| target.sector_size).max().filter(|at| *at > saved)?;
        let is_copied = entry.sector_limit.is_none()
            && entry.kind != "gap"
            && !entry.is_container
            && !entry.used_bytes.is_zero();
        (is_copied && self.left_empty(entry).is_none()).then(|| {
            format!(
                "{} ({}) is copied as it is from sectors of {} bytes: what is in it may not work with {}",
                entry.id,
                entry.content,
                saved.get(),
                larger.get()
            )
        })
    }

    /// What follows from the volumes' new sizes.
    pub(super) fn finish(&self, plan: &mut RestorePlan) -> Result<()> {
        for entry in plan.volumes.iter().filter_map(|volume| self.root.volumes.get(volume.entry)) {
            plan.warnings.extend(self.unsure_on_larger_sectors(entry));
            let lost = entry.unreadable_bytes();
            if !lost.is_zero() && self.left_empty(entry).is_none() {
                plan.warnings.push(format!(
                    "{}: {lost} of it could not be read when it was saved; they are written as zeros",
                    entry.id
                ));
            }
        }
        for volume in &plan.volumes {
            let Some(entry) = self.root.volumes.get(volume.entry) else { continue };
            if entry.is_container || volume.empty.is_some() {
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
        self.tell(plan);
        Ok(())
    }
}

pub(super) fn unknown_member(id: String, size: Bytes) -> Member {
    let growable = Err("it was not saved".to_owned());
    let (grain, most) = (fit::ALIGNMENT, Bytes::ZERO);
    Member { id, size, asked: None, growable, reserved: true, grain, most }
}

/// The partition table of a disk, where it has one.
pub(super) fn table_of(disk: &DiskEntry) -> Result<Option<Table>> {
    let Some(table) = &disk.table else { return Ok(None) };
    let table: Table = serde_json::from_value(table.clone()).map_err(|error| {
        Error::corrupt("partition table", Bytes::ZERO, "a table of the root", error.to_string())
    })?;
    table.check(disk.size, disk.sector_size).map_err(|error| error.on(&disk.id))?;
    Ok(Some(table))
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
