//! Targets with less room, and fewer of them: what volumes can give up, which disks can be left out, and how
//! small a target may be.

use super::fit::{self, Tight};
use super::partitions::Move;
use super::planner::{Planner, contradiction, table_of};
use super::refuse;
use super::restore::{RestorePlan, Target};
use super::saved::{LEAST_SWAP, SavedGroup};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::manifest::{DiskEntry, Root, VolumeEntry};
use crate::units::Bytes;

/// Whether a volume is a swap area that can be made anew in another size.
pub(super) fn is_swap(volume: &VolumeEntry) -> bool {
    volume.content == "swap" && volume.state == "clean" && !volume.is_container
}

/// Checks that the disks of `left_out` hold nothing but physical volumes of one volume group each.
///
/// # Errors
/// [`Error::Refused`] naming what else is on one.
pub(super) fn may_be_left_out(root: &Root, left_out: &[String]) -> Result<()> {
    for slot in left_out {
        if !root.disks.iter().any(|disk| disk.id == *slot) {
            return Err(Error::refused(format!("{slot} is no disk of the image")));
        }
        let on_it = root.volumes.iter().filter(|volume| volume.disk.as_ref() == Some(slot));
        // Boot code and what else lies between partitions is of no use without the disk.
        let on_it: Vec<&VolumeEntry> = on_it.filter(|volume| volume.kind != "gap").collect();
        if let Some(other) = on_it.iter().find(|volume| !volume.is_container) {
            return Err(Error::refused(format!(
                "{slot} cannot be left out: {} is on it, and is not part of a volume group",
                other.id
            )));
        }
        let holds = |group: &&crate::image::manifest::VolumeGroupEntry| {
            group.pvs.iter().any(|pv| on_it.iter().any(|volume| volume.id == pv.volume))
        };
        let groups: Vec<&str> =
            root.volume_groups.iter().filter(holds).map(|group| group.name.as_str()).collect();
        if groups.len() != 1 {
            let groups = if groups.is_empty() { "none".to_owned() } else { groups.join(", ") };
            return Err(Error::refused(format!(
                "{slot} cannot be left out: it has to hold physical volumes of one volume group, and it \
                 holds those of {groups}"
            )));
        }
    }
    Ok(())
}

impl Planner<'_> {
    /// The group that the volume `id` is a physical volume of, and which one.
    pub(super) fn pv(&self, id: &str) -> Option<(&SavedGroup, usize)> {
        self.groups.iter().find_map(|group| Some((group, group.pv(id)?)))
    }

    /// What the volume could give up: bytes that it does not use, and bytes of swap beyond that.
    fn gives(&self, volume: &VolumeEntry, grain: Bytes) -> (Bytes, Bytes) {
        let nothing = (Bytes::ZERO, Bytes::ZERO);
        if self.left_empty(volume).is_some() {
            return nothing;
        }
        if is_swap(volume) {
            return (Bytes::ZERO, volume.size.saturating_sub(LEAST_SWAP).align_down(grain));
        }
        if !volume.is_container {
            return (volume.size.saturating_sub(volume.min_bytes).align_down(grain), Bytes::ZERO);
        }
        match self.pv(&volume.id) {
            // What is free has to hold what the other disks held.
            Some((group, pv)) if group.gone.is_empty() => {
                let (free, all) = group.least(pv);
                let free = volume.size.saturating_sub(free.align_up(grain)).align_down(grain);
                let all = volume.size.saturating_sub(all.align_up(grain)).align_down(grain);
                (free, all.saturating_sub(free))
            }
            _ => nothing,
        }
    }

    /// The partitions of a disk with what they could give up.
    fn tight(&self, disk: &Move<'_>) -> Vec<Tight> {
        let mut end = None;
        let mut pieces = Vec::new();
        for partition in &disk.leaves {
            let extent = partition.extent;
            let hole =
                end.map_or(Bytes::ZERO, |end| self.hole(disk, Extent::new(end, extent.start)));
            let id = format!("{}:{}", disk.target.slot, partition.number);
            let volume = self.root.volumes.iter().find(|volume| volume.id == id);
            let grain = disk.target.sector_size;
            let (free, spare) = volume.map(|volume| self.gives(volume, grain)).unwrap_or_default();
            pieces.push(Tight { number: partition.number, extent, hole, free, spare });
            end = Some(extent.end);
        }
        pieces
    }

    /// Where the partitions of a disk go that end behind `limit` as they are.
    pub(super) fn squeezed(
        &self,
        disk: &Move<'_>,
        limit: Bytes,
    ) -> Result<std::collections::BTreeMap<u32, Extent>> {
        fit::squeeze(&self.tight(disk), limit, disk.target.sector_size).map_err(|_| {
            if disk.is_walled() {
                return Error::refused(format!(
                    "{}: the image's partitions do not fit around what is kept there",
                    disk.target.path.display()
                ));
            }
            let (least, by) = self.least_disk(disk);
            refuse::too_small(disk.target, &by, least)
        })
    }

    /// The smallest target for a disk with a table, and the volume that asks for most of it.
    fn least_disk(&self, disk: &Move<'_>) -> (Bytes, String) {
        let end = fit::least_end(&self.tight(disk)).saturating_add(self.saved_behind(disk));
        let first = self.volumes_on(&disk.target.slot).find(|(_, volume)| volume.kind == "gap");
        let first = first.map(|(_, volume)| volume).filter(|volume| volume.offset.is_zero());
        let first = first.map_or(Bytes::ZERO, |gap| gap.size.min(disk.old_limit()));
        let tail = disk.table.tail_bytes(disk.target.sector_size);
        (end.max(first).saturating_add(tail), self.largest(&disk.target.slot))
    }

    /// The smallest target for a filesystem or physical volume that fills its disk.
    pub(super) fn least_bare(&self, volume: &VolumeEntry, grain: Bytes) -> Bytes {
        let (free, spare) = self.gives(volume, grain);
        volume.size.saturating_sub(free).saturating_sub(spare)
    }

    /// The volume on a disk that takes the most and cannot shrink: the one to make smaller.
    pub(super) fn largest(&self, slot: &str) -> String {
        let mut sizes: Vec<(Bytes, String)> = Vec::new();
        for (_, volume) in self.volumes_on(slot) {
            let (free, spare) = self.gives(volume, Bytes::new(1));
            sizes.push((volume.size.saturating_sub(free).saturating_sub(spare), volume.id.clone()));
            let Some((group, pv)) = self.pv(&volume.id) else { continue };
            let lvs: Vec<&VolumeEntry> = group
                .vg
                .lvs
                .iter()
                .filter(|lv| group.vg.lies_on(lv, &[pv]))
                .filter_map(|lv| Some(self.saved_lv(&group.vg, lv)?.1))
                .collect();
            if !lvs.is_empty() {
                sizes.pop();
                let size =
                    |lv: &VolumeEntry| if is_swap(lv) { LEAST_SWAP.min(lv.size) } else { lv.size };
                sizes.extend(lvs.into_iter().map(|lv| (size(lv), lv.id.clone())));
            }
        }
        // Of equal ones the last.
        sizes
            .into_iter()
            .max_by_key(|(size, _)| *size)
            .map_or_else(|| slot.to_owned(), |(_, id)| id)
    }

    /// The smallest target for a disk or loose volume of the image, and the volume that sets it.
    pub(super) fn least(&self, slot: &str) -> Result<(Bytes, String)> {
        let target = |sector_size, size| Target {
            slot: slot.to_owned(),
            path: slot.into(),
            size,
            sector_size,
            creates: true,
        };
        let disk = self.root.disks.iter().find(|disk| disk.id == slot);
        if let Some(disk) = disk
            && let Some(table) = table_of(disk)?
        {
            let target = target(disk.sector_size, disk.size);
            return Ok(self.least_disk(&Move::new(&target, disk, &table)));
        }
        let Some((_, volume)) = self.volumes_on(slot).next() else {
            return Err(contradiction(slot, "one volume", "none"));
        };
        let grain = disk.map_or(Bytes::new(512), |disk: &DiskEntry| disk.sector_size);
        Ok((self.least_bare(volume, grain), self.largest(slot)))
    }

    /// How much of `space` the volume has to grow for what physical volumes held that are left out.
    pub(super) fn owed(&self, id: &str, space: Bytes) -> Bytes {
        let Some((group, pv)) = self.pv(id) else { return Bytes::ZERO };
        let owed = group.owed.get();
        let usable = group.vg.pvs.get(pv).is_some_and(|pv| pv.allocatable);
        if owed.is_zero() || !usable {
            return Bytes::ZERO;
        }
        // What lies behind the extents moves by whole MiB, and a few bytes may be of no use.
        let wanted = owed.saturating_add(group.vg.extent_size).align_up(fit::ALIGNMENT);
        let taken = wanted.min(space.align_down(fit::ALIGNMENT));
        group.owed.set(owed.saturating_sub(taken));
        taken
    }

    /// Tells what became smaller, moved to other disks, or is left empty.
    pub(super) fn tell(&self, plan: &mut RestorePlan) {
        for volume in plan.volumes.iter().filter(|volume| volume.to < volume.from) {
            let Some(entry) = self.root.volumes.get(volume.entry) else { continue };
            let (id, from, to) = (&volume.id, volume.from, volume.to);
            let why = match self.pv(id) {
                Some((group, _)) => format!("free space of {} is given up", group.vg.name),
                None if is_swap(entry) => "swap is made anew with its UUID and label".to_owned(),
                None => "nothing of it is used behind its filesystem".to_owned(),
            };
            plan.notes.push(format!("{id} shrinks from {from} to {to}: {why}"));
        }
        for kept in &plan.kept {
            plan.notes.push(kept.sentence(plan.targets.get(kept.target)));
        }
        for id in plan.replaced.iter().filter(|id| !plan.kept.iter().any(|kept| kept.replaces(id)))
        {
            plan.notes.push(format!("{id} is not restored: what is kept takes its place"));
        }
        for volume in &plan.volumes {
            if let Some(why) = &volume.empty {
                plan.notes.push(format!("{} is left empty: {why}", volume.id));
            }
        }
        for group in self.groups.iter().filter(|group| !group.gone.is_empty()) {
            let name = |pv: &usize| group.volumes.get(*pv).cloned().unwrap_or_default();
            let gone: Vec<String> = group.gone.iter().map(name).collect();
            let vg = &group.vg.name;
            plan.notes.push(format!(
                "without {}: what {vg} had there follows on the other physical volumes",
                gone.join(", ")
            ));
            let Some(new) = plan.groups.iter().find(|new| new.vg.name == *vg) else { continue };
            let stays: Vec<String> = (0..group.volumes.len())
                .filter(|pv| !group.gone.contains(pv))
                .map(|pv| name(&pv))
                .collect();
            for lv in &new.vg.lvs {
                let lies = |at: &usize| new.vg.lies_on(lv, &[*at]);
                let on: Vec<&str> = (0..stays.len())
                    .filter(lies)
                    .filter_map(|at| stays.get(at).map(String::as_str))
                    .collect();
                plan.notes.push(format!("{vg}/{} lies on {}", lv.name, on.join(", ")));
            }
        }
    }
}
