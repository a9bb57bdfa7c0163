//! Works out a restore: target by target, then (in `group`) volume group by volume group.

use std::collections::BTreeMap;

use super::fit::{self, Piece};
use super::growth::{self, Amount, Base, Member};
use super::refuse;
use super::restore::{GrowthPlan, Place, Request, RestorePlan, Target, VolumePlan, resolve, slots};
use crate::disk::table::{Partition, PartitionRole, Table};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fs::GrowthTool;
use crate::image::manifest::{DiskEntry, Root, VolumeEntry};
use crate::units::Bytes;

/// An image and what the user wants of it.
pub(super) struct Planner<'a> {
    pub(super) root: &'a Root,
    pub(super) request: &'a Request,
    /// What was asked for by name, by volume id.
    asked: BTreeMap<&'a str, Amount>,
}

/// A table on its way from its disk to its target.
struct Move<'a> {
    target: &'a Target,
    disk: &'a DiskEntry,
    table: &'a Table,
    /// The partitions but for the extended one, by position.
    leaves: Vec<&'a Partition>,
}

impl<'a> Move<'a> {
    fn new(target: &'a Target, disk: &'a DiskEntry, table: &'a Table) -> Self {
        let partitions = table.partitions().iter();
        let mut leaves: Vec<_> =
            partitions.filter(|part| part.role() != PartitionRole::Extended).collect();
        leaves.sort_by_key(|partition| partition.extent);
        Self { target, disk, table, leaves }
    }

    /// Where the last partition ends.
    fn end(&self) -> Bytes {
        self.leaves.last().map_or(Bytes::ZERO, |partition| partition.extent.end)
    }

    /// Where partitions must end on the source disk.
    fn old_limit(&self) -> Bytes {
        self.table.usable_end(self.disk.size, self.disk.sector_size)
    }
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

    fn volumes_on(&self, slot: &str) -> impl Iterator<Item = (usize, &'a VolumeEntry)> {
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

    /// Where the partitions of one disk go.
    fn partitions(&self, disk: &Move<'_>, plan: &mut RestorePlan) -> Result<BTreeMap<u32, Extent>> {
        let target = disk.target;
        let mut members = self.partition_members(disk)?;
        let base = self.request.policy.base;
        let favourite = members.iter().rposition(|member| self.feeds_named_lv(&member.id));
        // Where partitions are named too, the volume group of a named LV gets what they leave.
        let asked = |member: &Member| member.asked.is_some();
        let rest = members.iter().any(|member| member.asked == Some(Amount::Rest));
        if let Some(at) = favourite.filter(|_| members.iter().any(asked) && !rest)
            && let Some(pv) = members.get_mut(at).filter(|pv| pv.asked.is_none())
        {
            pv.asked = Some(Amount::Rest);
        }
        let usable = disk.table.usable_end(target.size, target.sector_size);
        let limit = usable.saturating_sub(self.saved_behind(disk));
        let mut space = usable.saturating_sub(disk.old_limit());
        let mut holes = vec![Bytes::ZERO; disk.leaves.len()];
        if self.request.policy.use_free {
            // What lies before a partition does not help it: its start never moves to the left.
            let last = growth::last(&members, base, favourite).unwrap_or(disk.leaves.len());
            for (hole, pair) in holes.iter_mut().skip(1).zip(disk.leaves.windows(2)).skip(last) {
                if let [before, after] = pair {
                    *hole = self.hole(disk, Extent::new(before.extent.end, after.extent.start));
                }
            }
            space = limit.saturating_sub(disk.end()).saturating_add(holes.iter().copied().sum());
        }
        let shares = growth::share(&members, base, space, favourite)?;
        let mut pieces = Vec::new();
        for (((partition, member), growth), squeezable) in
            disk.leaves.iter().zip(&members).zip(shares).zip(holes)
        {
            let elastic = !matches!(member.asked, Some(Amount::Bytes(_)));
            let (number, extent) = (partition.number, partition.extent);
            pieces.push(Piece { number, extent, growth, elastic, squeezable });
        }
        let places =
            fit::place_within(&mut pieces, limit).map_err(|error| self.too_small(disk, error))?;
        let nothing_grows = pieces.iter().all(|piece| piece.growth.is_zero());
        if nothing_grows && space >= fit::ALIGNMENT && base != Base::None {
            plan.warnings.push(unallocated(&target.slot, space, &members));
        }
        Ok(places)
    }

    /// Why partitions do not fit: how large the target has to be, or else what `error` says of their growth.
    fn too_small(&self, disk: &Move<'_>, error: Error) -> Error {
        let (end, gap) = (disk.end(), self.saved_behind(disk));
        let tail = disk.table.tail_bytes(disk.target.sector_size);
        let needed = end.saturating_add(gap).saturating_add(tail);
        let last = disk.leaves.last().map_or(0, |partition| partition.number);
        let id = format!("{}:{last}", disk.target.slot);
        match error {
            Error::Refused(why) if disk.target.size >= needed => {
                Error::refused(format!("{}: {why}", disk.target.path.display()))
            }
            Error::Refused(_) => refuse::too_small(disk.target, &id, needed),
            other => other,
        }
    }

    fn partition_members(&self, disk: &Move<'_>) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        for partition in &disk.leaves {
            let id = format!("{}:{}", disk.target.slot, partition.number);
            let size = partition.extent.len();
            let Some(volume) = self.root.volumes.iter().find(|volume| volume.id == id) else {
                members.push(unknown_member(id, size));
                continue;
            };
            if (volume.offset, volume.size) != (partition.extent.start, size) {
                let found = format!("{} from byte {}", volume.size.get(), volume.offset.get());
                let expected = format!("the bytes {} of its table", partition.extent);
                return Err(contradiction(&id, &expected, &found));
            }
            refuse::sector_size(volume, disk.target)?;
            members.push(self.partition_member(volume, partition.role()));
        }
        Ok(members)
    }

    /// The gaps of a disk that were saved, but for the one at its start.
    fn saved_gaps(&self, slot: &str) -> impl Iterator<Item = Extent> {
        self.volumes_on(slot)
            .filter(|(_, volume)| volume.kind == "gap" && !volume.offset.is_zero())
            .filter_map(|(_, volume)| Extent::at(volume.offset, volume.size))
    }

    /// How far a saved gap reaches behind the last partition, on which nothing may grow.
    fn saved_behind(&self, disk: &Move<'_>) -> Bytes {
        let gaps = self.saved_gaps(&disk.target.slot).map(|gap| gap.end.min(disk.old_limit()));
        gaps.max().unwrap_or_default().saturating_sub(disk.end())
    }

    /// Free bytes between two partitions, where neither a saved gap nor the table has its own.
    fn hole(&self, disk: &Move<'_>, hole: Extent) -> Bytes {
        let own = disk.table.own_bytes(disk.disk.size, disk.disk.sector_size);
        let mut taken = self.saved_gaps(&disk.target.slot).chain(own.iter());
        if taken.any(|taken| taken.intersect(hole).is_some()) { Bytes::ZERO } else { hole.len() }
    }

    /// Whether the partition is a physical volume of a group in which the user named a volume.
    fn feeds_named_lv(&self, id: &str) -> bool {
        self.root.volume_groups.iter().any(|group| {
            group.pvs.iter().any(|pv| pv.volume == id)
                && group.lvs.iter().any(|lv| {
                    self.asked.get(lv.as_str()).is_some_and(|asked| *asked != Amount::Fixed)
                })
        })
    }

    /// Turns the new partition extents into volume plans, gaps included.
    fn place_volumes(
        &self,
        index: usize,
        target: &Target,
        table: &Table,
        places: &BTreeMap<u32, Extent>,
        plan: &mut RestorePlan,
    ) -> Result<()> {
        let old: Vec<(u32, Extent)> = table
            .partitions()
            .iter()
            .map(|partition| (partition.number, partition.extent))
            .collect();
        for (entry, volume) in self.volumes_on(&target.slot) {
            let extent = if volume.kind == "gap" {
                gap_extent(volume, &old, places)
            } else {
                let number = volume.id.rsplit_once(':').and_then(|(_, number)| number.parse().ok());
                number.and_then(|number: u32| places.get(&number).copied())
            };
            let Some(extent) = extent else {
                return Err(contradiction(&volume.id, "a partition in the table", "none"));
            };
            if extent.start != volume.offset {
                plan.warnings.extend(when_moved(volume, table));
            }
            if extent.end > target.size {
                return Err(Error::refused(format!(
                    "{} is too small: {} would end at byte {}",
                    target.path.display(),
                    volume.id,
                    extent.end.get()
                )));
            }
            if extent.len() < volume.size {
                let expected = format!("at most {} bytes", extent.len().get());
                return Err(contradiction(&volume.id, &expected, &volume.size.get().to_string()));
            }
            plan.volumes.push(VolumePlan {
                id: volume.id.clone(),
                from: volume.size,
                to: extent.len(),
                offset: extent.start,
                place: Place::Target(index, extent),
                entry,
            });
        }
        Ok(())
    }

    fn partition_member(&self, volume: &VolumeEntry, role: PartitionRole) -> Member {
        let mut member = self.member(volume);
        member.reserved |= matches!(
            role,
            PartitionRole::Esp
                | PartitionRole::BiosBoot
                | PartitionRole::Msr
                | PartitionRole::WinRe
                | PartitionRole::Swap
        );
        member
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

/// A gap keeps its distance to the partition before it; the first one starts with the disk.
fn gap_extent(
    volume: &VolumeEntry,
    old: &[(u32, Extent)],
    places: &BTreeMap<u32, Extent>,
) -> Option<Extent> {
    let before = old
        .iter()
        .filter(|(number, extent)| extent.end <= volume.offset && places.contains_key(number))
        .max_by_key(|(_, extent)| extent.end);
    let start = match before {
        Some((number, extent)) => {
            places.get(number)?.end.checked_add(volume.offset.checked_sub(extent.end)?)?
        }
        None => volume.offset,
    };
    Extent::at(start, volume.size)
}

/// What the user should know of a volume that moves.
fn when_moved(volume: &VolumeEntry, table: &Table) -> Option<String> {
    let id = &volume.id;
    let number = id.rsplit_once(':').and_then(|(_, number)| number.parse::<u32>().ok());
    let partition = table.partitions().iter().find(|partition| Some(partition.number) == number);
    if partition.is_some_and(|partition| partition.role() == PartitionRole::BiosBoot) {
        return Some(format!("{id} moves: BIOS systems need grub-install before they boot again"));
    }
    (volume.content == "ntfs").then(|| {
        format!("{id} moves: if Windows does not start, let its repair rewrite the boot sector")
    })
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
