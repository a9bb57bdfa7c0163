//! Works out where the partitions of one disk go, and the gaps between them.

use std::collections::BTreeMap;

use super::around;
use super::fit::{self, Piece};
use super::growth::{self, Amount, Base, Member};
use super::planner::{Planner, contradiction, unallocated, unknown_member};
use super::refuse;
use super::restore::{Place, RestorePlan, Target, VolumePlan};
use crate::disk::table::{Partition, PartitionRole, Table};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::{DiskEntry, VolumeEntry};
use crate::units::Bytes;

/// A table on its way from its disk to its target, or as much of it as lies between what stays there.
pub(super) struct Move<'a> {
    pub(super) target: &'a Target,
    disk: &'a DiskEntry,
    pub(super) table: &'a Table,
    /// The partitions but for the extended one and those that have their place, where they lie if nothing
    /// grows; by position.
    pub(super) leaves: Vec<Partition>,
    /// Where they have to end.
    usable: Bytes,
    /// The new space that they share.
    new: Bytes,
    /// Whether the disk is as it was saved behind them, gaps included.
    ends_as_saved: bool,
    /// Whether something that stays is in the way.
    walled: bool,
}

impl<'a> Move<'a> {
    pub(super) fn new(target: &'a Target, disk: &'a DiskEntry, table: &'a Table) -> Self {
        let partitions = table.partitions().iter();
        let mut leaves: Vec<_> =
            partitions.filter(|part| part.role() != PartitionRole::Extended).cloned().collect();
        leaves.sort_by_key(|partition| partition.extent);
        let usable = table.usable_end(target.size, target.sector_size);
        let new = usable.saturating_sub(table.usable_end(disk.size, disk.sector_size));
        Self { target, disk, table, leaves, usable, new, ends_as_saved: true, walled: false }
    }

    /// Where the last partition ends.
    fn end(&self) -> Bytes {
        self.leaves.last().map_or(Bytes::ZERO, |partition| partition.extent.end)
    }

    /// Whether something that stays is in the way.
    pub(super) fn is_walled(&self) -> bool {
        self.walled
    }

    /// Where partitions must end on the source disk.
    pub(super) fn old_limit(&self) -> Bytes {
        self.table.usable_end(self.disk.size, self.disk.sector_size)
    }
}

impl Planner<'_> {
    /// Where the partitions of one disk go, around `pinned`, which have their places by number.
    pub(super) fn partitions(
        &self,
        mut disk: Move<'_>,
        pinned: &BTreeMap<u32, Extent>,
        plan: &mut RestorePlan,
    ) -> Result<BTreeMap<u32, Extent>> {
        let base = self.request.policy.base;
        if pinned.is_empty() {
            return self.stretch(&disk, base, plan);
        }
        let given_up = disk.leaves.iter().filter(|leaf| pinned.contains_key(&leaf.number));
        let given_up: Bytes = given_up.map(|leaf| leaf.extent.len()).sum();
        disk.leaves.retain(|leaf| !pinned.contains_key(&leaf.number));
        let walls: ExtentSet = pinned.values().copied().collect();
        let room = Extent::new(self.first_start(&disk), disk.usable.max(self.first_start(&disk)));
        let ends = disk.leaves.iter().all(|leaf| leaf.extent.end <= room.end);
        let as_saved = around::apart(&disk.leaves, &walls);
        let laid = if as_saved && ends {
            Some(disk.leaves.clone())
        } else {
            let anywhere = around::around(&disk.leaves, &walls, room);
            anywhere.or_else(|| as_saved.then(|| disk.leaves.clone()))
        };
        let Some(laid) = laid else {
            let path = disk.target.path.display();
            return Err(Error::refused(format!(
                "{path}: the image's partitions do not fit around what is kept there "
            )));
        };
        let ends_as_saved = laid == disk.leaves;
        let mut new = disk.usable.saturating_add(given_up);
        new = new.saturating_sub(disk.old_limit()).saturating_sub(walls.total());
        let named = laid.iter().any(|leaf| {
            let id = format!("{}:{}", disk.target.slot, leaf.number);
            self.asked.contains_key(id.as_str()) || self.feeds_named_lv(&id)
        });
        let mut base = if named { Base::None } else { base };
        let (mut places, mut grew) = (pinned.clone(), false);
        for (free, leaves) in around::stretches(laid, &walls, room).into_iter().rev() {
            let before: Bytes = leaves.iter().map(|leaf| leaf.extent.len()).sum();
            let part = Move {
                leaves,
                usable: free.end,
                new,
                ends_as_saved: ends_as_saved && free.end == room.end,
                walled: true,
                ..disk
            };
            let here = self.stretch(&part, base, plan)?;
            let after: Bytes = here.values().map(|extent| extent.len()).sum();
            let grown = after.saturating_sub(before);
            new = new.saturating_sub(grown);
            if base == Base::Auto && !grown.is_zero() {
                base = Base::None;
            }
            grew |= !grown.is_zero();
            places.extend(here);
        }
        if !grew && base != Base::None && new >= fit::ALIGNMENT {
            plan.warnings.push(format!(
                "{new} of new space on {} stay unallocated around what is kept",
                disk.target.slot
            ));
        }
        Ok(places)
    }

    /// Where partitions may begin: behind the boot code that was saved, which goes before the first.
    fn first_start(&self, disk: &Move<'_>) -> Bytes {
        let first = disk.table.partitions().iter().map(|part| part.extent.start).min();
        let gap = self.volumes_on(&disk.target.slot).find(|(_, volume)| is_first_gap(volume));
        let gap = gap.map_or(fit::ALIGNMENT, |(_, gap)| gap.size);
        first.map_or(gap, |first| first.min(gap))
    }

    /// Where the partitions of a disk go that nothing else lies between.
    fn stretch(
        &self,
        disk: &Move<'_>,
        base: Base,
        plan: &mut RestorePlan,
    ) -> Result<BTreeMap<u32, Extent>> {
        let target = disk.target;
        let mut members = self.partition_members(disk)?;
        let favourite = members.iter().rposition(|member| self.feeds_named_lv(&member.id));
        // Where partitions are named too (or else nothing grows), the volume group of a named LV gets what
        // they leave.
        let asked = base == Base::None || members.iter().any(|member| member.asked.is_some());
        let rest = members.iter().any(|member| member.asked == Some(Amount::Rest));
        if let Some(at) = favourite.filter(|_| asked && !rest)
            && let Some(pv) = members.get_mut(at).filter(|pv| pv.asked.is_none())
        {
            pv.asked = Some(Amount::Rest);
        }
        let limit = disk.usable.saturating_sub(self.saved_behind(disk));
        if disk.end() > limit {
            // Nothing can grow there, and who named something is told so.
            growth::share(&members, base, Bytes::ZERO, favourite)?;
            return self.squeezed(disk, limit);
        }
        let free = limit.saturating_sub(disk.end());
        let mut owed = vec![Bytes::ZERO; members.len()];
        for (owes, member) in owed.iter_mut().zip(&members).rev() {
            *owes = self.owed(&member.id, free);
        }
        let all_owed: Bytes = owed.iter().copied().sum();
        let mut space = disk.new;
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
        // What was left out goes before what may grow, also into space that was free.
        let space =
            space.min(free.saturating_add(holes.iter().copied().sum()).saturating_sub(all_owed));
        let shares = growth::share(&members, base, space, favourite)?;
        let mut pieces = Vec::new();
        for ((((partition, member), growth), squeezable), owed) in
            disk.leaves.iter().zip(&members).zip(shares).zip(holes).zip(owed)
        {
            let elastic = !matches!(member.asked, Some(Amount::Bytes(_))) && owed.is_zero();
            let (number, extent) = (partition.number, partition.extent);
            let growth = growth.saturating_add(owed);
            pieces.push(Piece { number, extent, growth, elastic, squeezable });
        }
        let places = fit::place_within(&mut pieces, limit).map_err(|error| match error {
            Error::Refused(why) => Error::refused(format!("{}: {why}", target.path.display())),
            other => other,
        })?;
        let nothing_grows = pieces.iter().all(|piece| piece.growth.is_zero());
        let told = disk.walled || base == Base::None;
        if nothing_grows && space >= fit::ALIGNMENT && !told {
            plan.warnings.push(unallocated(&target.slot, space, &members));
        }
        Ok(places)
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
            let mut saved = disk.table.partitions().iter();
            let saved = saved.find(|saved| saved.number == partition.number);
            let saved = saved.map_or(partition.extent, |saved| saved.extent);
            if (volume.offset, volume.size) != (saved.start, size) {
                let found = format!("{} from byte {}", volume.size.get(), volume.offset.get());
                let expected = format!("the bytes {saved} of its table");
                return Err(contradiction(&id, &expected, &found));
            }
            refuse::sector_size(volume, disk.disk.sector_size, disk.target)?;
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
    pub(super) fn saved_behind(&self, disk: &Move<'_>) -> Bytes {
        if !disk.ends_as_saved {
            return Bytes::ZERO;
        }
        let gaps = self.saved_gaps(&disk.target.slot).map(|gap| gap.end.min(disk.old_limit()));
        gaps.max().unwrap_or_default().saturating_sub(disk.end())
    }

    /// Free bytes between two partitions, where neither a saved gap nor the table has its own.
    pub(super) fn hole(&self, disk: &Move<'_>, hole: Extent) -> Bytes {
        if disk.walled {
            return Bytes::ZERO;
        }
        let own = disk.table.own_bytes(disk.disk.size, disk.disk.sector_size);
        let mut taken = self.saved_gaps(&disk.target.slot).chain(own.iter());
        if taken.any(|taken| taken.intersect(hole).is_some()) { Bytes::ZERO } else { hole.len() }
    }

    /// Whether the partition is a physical volume of a group in which the user named a volume.
    pub(super) fn feeds_named_lv(&self, id: &str) -> bool {
        self.root.volume_groups.iter().any(|group| {
            group.pvs.iter().any(|pv| pv.volume == id)
                && group.lvs.iter().any(|lv| {
                    self.asked.get(lv.as_str()).is_some_and(|asked| *asked != Amount::Fixed)
                })
        })
    }

    /// Turns the new partition extents into volume plans, gaps included.
    pub(super) fn place_volumes(
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
            if self.keeping.replaced.contains(&volume.id) {
                continue;
            }
            let extent = if volume.kind == "gap" {
                gap_extent(volume, &old, places)
            } else {
                let number = volume.id.rsplit_once(':').and_then(|(_, number)| number.parse().ok());
                number.and_then(|number: u32| places.get(&number).copied())
            };
            let Some(extent) = extent else {
                return Err(contradiction(&volume.id, "a partition in the table", "none"));
            };
            if self.gives_way(volume, extent, index, places) {
                plan.replaced.insert(volume.id.clone());
                continue;
            }
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
            if extent.len() < self.least_bare(volume, target.sector_size) {
                let expected = format!("at most {} bytes", extent.len().get());
                return Err(contradiction(&volume.id, &expected, &volume.size.get().to_string()));
            }
            plan.volumes.push(VolumePlan {
                id: volume.id.clone(),
                from: volume.size,
                to: extent.len(),
                offset: extent.start,
                place: Place::Target(index, extent),
                empty: self.left_empty(volume),
                entry,
            });
        }
        Ok(())
    }

    /// Whether a saved gap is left out: something that stays, or what had to make room for it, lies there.
    fn gives_way(
        &self,
        volume: &VolumeEntry,
        extent: Extent,
        target: usize,
        places: &BTreeMap<u32, Extent>,
    ) -> bool {
        let staying = self.keeping.on(target).map(|staying| staying.partition.extent);
        let staying: Vec<Extent> =
            staying.chain(self.keeping.pins(target).map(|pin| pin.extent)).collect();
        if volume.kind != "gap" || is_first_gap(volume) || staying.is_empty() {
            return false;
        }
        let end = self.request.targets.get(target).map(|target| target.size);
        staying.iter().chain(places.values()).any(|place| place.intersect(extent).is_some())
            || end.is_some_and(|end| extent.end > end)
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
}

/// Whether this is the space before the first partition, with the boot code.
fn is_first_gap(volume: &VolumeEntry) -> bool {
    volume.kind == "gap" && volume.offset.is_zero()
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
