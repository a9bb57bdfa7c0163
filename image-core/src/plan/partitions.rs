//! Works out where the partitions of one disk go, and the gaps between them.

use std::collections::BTreeMap;

use super::fit::{self, Piece};
use super::growth::{self, Amount, Base, Member};
use super::planner::{Planner, contradiction, unallocated, unknown_member};
use super::refuse;
use super::restore::{Place, RestorePlan, Target, VolumePlan};
use crate::disk::table::{Partition, PartitionRole, Table};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::manifest::{DiskEntry, VolumeEntry};
use crate::units::Bytes;

/// A table on its way from its disk to its target.
pub(super) struct Move<'a> {
    pub(super) target: &'a Target,
    disk: &'a DiskEntry,
    pub(super) table: &'a Table,
    /// The partitions but for the extended one, by position.
    pub(super) leaves: Vec<&'a Partition>,
}

impl<'a> Move<'a> {
    pub(super) fn new(target: &'a Target, disk: &'a DiskEntry, table: &'a Table) -> Self {
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
    pub(super) fn old_limit(&self) -> Bytes {
        self.table.usable_end(self.disk.size, self.disk.sector_size)
    }
}

impl Planner<'_> {
    /// Where the partitions of one disk go.
    pub(super) fn partitions(
        &self,
        disk: &Move<'_>,
        plan: &mut RestorePlan,
    ) -> Result<BTreeMap<u32, Extent>> {
        let target = disk.target;
        let mut members = self.partition_members(disk)?;
        let base = self.request.policy.base;
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
        let usable = disk.table.usable_end(target.size, target.sector_size);
        let limit = usable.saturating_sub(self.saved_behind(disk));
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
        if nothing_grows && space >= fit::ALIGNMENT && base != Base::None {
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
    pub(super) fn saved_behind(&self, disk: &Move<'_>) -> Bytes {
        let gaps = self.saved_gaps(&disk.target.slot).map(|gap| gap.end.min(disk.old_limit()));
        gaps.max().unwrap_or_default().saturating_sub(disk.end())
    }

    /// Free bytes between two partitions, where neither a saved gap nor the table has its own.
    pub(super) fn hole(&self, disk: &Move<'_>, hole: Extent) -> Bytes {
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
