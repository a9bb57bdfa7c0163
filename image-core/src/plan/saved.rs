//! The volume groups of an image as they were saved, and what of them may be given up.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::host::StayingLv;
use super::planner::contradiction;
use crate::error::{Error, Result};
use crate::image::manifest::{Root, VolumeEntry, VolumeGroupEntry};
use crate::lvm::assemble;
use crate::lvm::label::PvHead;
use crate::lvm::model::Vg;
use crate::lvm::shrink::Slack;
use crate::units::Bytes;

/// A swap area that has to shrink keeps this much.
pub const LEAST_SWAP: Bytes = Bytes::mib(64);

/// One volume group.
pub(super) struct SavedGroup {
    pub(super) vg: Vg,
    /// Label and areas of each physical volume.
    pub(super) heads: Vec<PvHead>,
    /// The volume that each of them is.
    pub(super) volumes: Vec<String>,
    /// What its swap areas can give up.
    pub(super) slack: Slack,
    /// What was free in it, before anything that stays took its place.
    pub(super) free: Bytes,
    /// Physical volumes that are left out, by index.
    pub(super) gone: Vec<usize>,
    /// Bytes of these that the others still need room for while targets are planned.
    pub(super) owed: Cell<Bytes>,
}

impl SavedGroup {
    /// Puts a group of `root` together; `left_out` are the disks that are not restored.
    pub(super) fn new(
        root: &Root,
        entry: &VolumeGroupEntry,
        left_out: &[String],
        gives: &dyn Fn(&VolumeEntry) -> bool,
        staying: &[StayingLv],
    ) -> Result<Self> {
        let (mut vg, heads, volumes) = assembled(entry)?;
        let free = vg.free_bytes();
        for one in staying.iter().filter(|one| one.old.name == entry.name) {
            let index = |id: &String| volumes.iter().position(|volume| volume == id);
            let hosts = one.hosts.iter().filter_map(|(pv, id)| Some((*pv, index(id)?)));
            vg.hold(&one.old, &one.lv, &hosts.collect())?;
        }
        let entry_of = |id: &String| root.volumes.iter().find(|volume| volume.id == *id);
        let is_gone = |id: &String| {
            let disk = entry_of(id).and_then(|volume| volume.disk.as_ref());
            disk.is_some_and(|disk| left_out.contains(disk))
        };
        let gone: Vec<usize> =
            volumes.iter().enumerate().filter(|(_, id)| is_gone(id)).map(|(at, _)| at).collect();
        if !gone.is_empty() && gone.len() == volumes.len() {
            return Err(Error::refused(format!(
                "all physical volumes of {} are left out; name a target for one of their disks",
                vg.name
            )));
        }
        let mut least = BTreeMap::new();
        for lv in vg.lvs.iter().filter(|lv| !lv.held) {
            let id = format!("{}/{}", vg.name, lv.name);
            if entry_of(&id).is_some_and(gives) {
                least.insert(lv.name.clone(), LEAST_SWAP);
            }
        }
        let (moved, room) = vg.to_be_moved(&gone);
        let owed = if gone.is_empty() { 0 } else { moved.saturating_sub(room) };
        let (slack, owed) = (Slack::of(&vg, &least), Cell::new(vg.extents(owed)));
        Ok(Self { vg, heads, volumes, slack, free, gone, owed })
    }

    /// The index of the physical volume that is the volume `id`.
    pub(super) fn pv(&self, id: &str) -> Option<usize> {
        self.volumes.iter().position(|volume| volume == id)
    }

    /// How small the physical volume can be as it is, and with its swap areas at their least.
    pub(super) fn least(&self, pv: usize) -> (Bytes, Bytes) {
        (self.vg.least_size(pv, 0), self.vg.least_size(pv, self.slack.on(pv)))
    }
}

/// The group, and head and volume of each of its physical volumes, in the order of the metadata.
fn assembled(entry: &VolumeGroupEntry) -> Result<(Vg, Vec<PvHead>, Vec<String>)> {
    let wrong = |expected: &str, found: String| contradiction(&entry.name, expected, &found);
    let mut given: Vec<(usize, PvHead)> = Vec::new();
    for (at, pv) in entry.pvs.iter().enumerate() {
        let mut head: PvHead = serde_json::from_value(pv.head.clone())
            .map_err(|error| wrong("a physical volume's head", error.to_string()))?;
        head.text = head.vg.is_some().then(|| entry.text.clone());
        given.push((at, head));
    }
    let assembly = assemble::assemble(&given);
    let group = assembly.groups.into_iter().next();
    let whole =
        |group: &assemble::Group| group.members.len() == given.len() && group.vg.name == entry.name;
    let Some(group) = group.filter(whole) else {
        let reasons: Vec<String> = assembly.raw.into_iter().map(|raw| raw.reason).collect();
        return Err(wrong("a complete group", reasons.join("; ")));
    };
    let (mut heads, mut volumes) = (Vec::new(), Vec::new());
    for member in &group.members {
        let head = given.iter().find(|(at, _)| at == member).map(|(_, head)| head.clone());
        let (Some(head), Some(pv)) = (head, entry.pvs.get(*member)) else {
            return Err(wrong("every physical volume among its own", member.to_string()));
        };
        heads.push(head);
        volumes.push(pv.volume.clone());
    }
    Ok((group.vg, heads, volumes))
}
