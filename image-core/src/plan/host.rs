//! Logical volumes of the targets that stay: in the image's volume group of that name, whose physical volumes
//! then stand where those of the old one do; or with all of a volume group that the image does not have.

use std::collections::BTreeMap;

use super::keep::{Keeping, Kept, Wish, found_at};
use super::restore::{Request, resolve};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::{Root, VolumeGroupEntry};
use crate::lvm::assemble::{self, Group};
use crate::lvm::label::PvHead;
use crate::lvm::map::{LvMap, Run};
use crate::lvm::model::{Lv, Vg};

/// A logical volume of the targets that stays in the image's volume group of that name.
#[derive(Clone, Debug)]
pub(super) struct StayingLv {
    /// Its group as it was.
    pub(super) old: Vg,
    pub(super) lv: Lv,
    /// The image's volume that has the place of each of its physical volumes, by their index in `old`.
    pub(super) hosts: BTreeMap<usize, String>,
    /// Where it lies: the parts of its runs on targets.
    pub(super) runs: Vec<Run>,
    /// The image's volume that is not restored for it.
    instead: Option<String>,
}

/// A place that a physical volume of the image takes because of what stays on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pin {
    pub(super) target: usize,
    pub(super) volume: String,
    pub(super) extent: Extent,
    /// The volume that stays on it.
    pub(super) holds: String,
}

impl Pin {
    pub(super) fn refuse(&self, why: &str) -> Error {
        Error::refused(format!("{} cannot be kept: {why}", self.holds))
    }
}

impl StayingLv {
    fn id(&self) -> String {
        format!("{}/{}", self.old.name, self.lv.name)
    }

    /// What stays on each target.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let mut extents: BTreeMap<usize, ExtentSet> = BTreeMap::new();
        for (target, extent) in self.runs.iter().flat_map(Run::places) {
            extents.entry(target).or_default().insert(extent);
        }
        let kept = |(target, extents)| Kept {
            target,
            id: self.id(),
            what: self.id(),
            instead: self.instead.clone(),
            runs: self.runs.clone(),
            extents,
        };
        extents.into_iter().map(kept).collect()
    }
}

impl Keeping {
    /// The places that physical volumes of the image take on a target.
    pub(super) fn pins(&self, target: usize) -> impl Iterator<Item = &Pin> {
        self.pins.iter().filter(move |pin| pin.target == target)
    }

    /// Finds the logical volume that the user named `wish.name`.
    pub(super) fn volume(&mut self, root: &Root, request: &Request, wish: &Wish) -> Result<()> {
        let name = &wish.name;
        let cannot = |why: &str| Error::refused(format!("{name} cannot be kept: {why}"));
        if wish.instead.is_some() {
            return Err(cannot("only a partition can take a place that is named"));
        }
        let places = places(request);
        let (group, lv) = find(&places, name).map_err(|why| cannot(&why))?;
        let place_of = |pv: usize| {
            let member = group.members.get(pv).copied();
            member
                .and_then(|member| places.get(member))
                .map(|(target, extent, _)| (*target, *extent))
        };
        let Some(image) = root.volume_groups.iter().find(|entry| entry.name == group.vg.name)
        else {
            for (target, extent) in (0..group.members.len()).filter_map(place_of) {
                self.whole(root, request, (target, extent), name)?;
            }
            return Ok(());
        };
        if request.renewal.is_some() {
            return Err(cannot("with --new-ids its volume group gets another name"));
        }
        let mut hosts = BTreeMap::new();
        for pv in (0..group.members.len()).filter(|pv| group.vg.lies_on(&lv, &[*pv])) {
            let (Some((target, extent)), Some(head)) =
                (place_of(pv), group.members.get(pv).and_then(|member| places.get(*member)))
            else {
                return Err(cannot("its physical volume is missing"));
            };
            let slot = request.targets.get(target).map_or("", |target| target.slot.as_str());
            let host = counterpart(root, image, slot, &head.2.uuid).ok_or_else(|| {
                cannot(&format!(
                    "the image has no physical volume of {} that would take the place of its own on that \
                     target",
                    image.name
                ))
            })?;
            let pin = Pin { target, volume: host.clone(), extent, holds: name.clone() };
            let other = |other: &&Pin| {
                (other.target, &other.volume) == (pin.target, &pin.volume)
                    && other.extent != pin.extent
            };
            if self.pins.iter().any(|own| other(&own)) {
                return Err(cannot("two physical volumes cannot take one place"));
            }
            if !self.pins.contains(&pin) {
                self.pins.push(pin);
            }
            hosts.insert(pv, host);
        }
        let runs = LvMap::new(&group.vg, &lv)?.runs(&place_of);
        let runs = runs.ok_or_else(|| cannot("its physical volume is missing"))?;
        let replaced = resolve(root, name).ok().map(|volume| volume.id.clone());
        self.replaced.extend(replaced.clone());
        if self.volumes.iter().any(|other| other.lv.uuid == lv.uuid) {
            return Err(cannot("it is named twice"));
        }
        self.volumes.push(StayingLv { old: group.vg, lv, hosts, runs, instead: replaced });
        Ok(())
    }

    /// Keeps the partition that a physical volume of another group fills.
    fn whole(
        &mut self,
        root: &Root,
        request: &Request,
        (target, extent): (usize, Extent),
        name: &str,
    ) -> Result<()> {
        let Some(number) = found_at(request.before.get(target), extent) else {
            return Err(Error::refused(format!(
                "{name} cannot be kept: its volume group fills a disk that is overwritten"
            )));
        };
        if self.on(target).any(|staying| staying.was == number) {
            return Ok(());
        }
        let wish = Wish { target: Some(target), name: number.to_string(), instead: None };
        self.partition(root, request, &wish, number)
    }
}

/// The physical volumes on all targets.
fn places(request: &Request) -> Vec<(usize, Extent, PvHead)> {
    let targets = request.before.iter().enumerate();
    targets
        .flat_map(|(at, old)| old.pvs.iter().map(move |pv| (at, pv.extent, pv.head.clone())))
        .collect()
}

/// The group and the logical volume that `name` (`vg/lv`) calls.
fn find(places: &[(usize, Extent, PvHead)], name: &str) -> Result<(Group, Lv), String> {
    let heads: Vec<(usize, PvHead)> =
        places.iter().enumerate().map(|(key, (.., head))| (key, head.clone())).collect();
    let assembly = assemble::assemble(&heads);
    let (vg, lv) = name.split_once('/').unwrap_or_default();
    if let Some(raw) = assembly.raw.iter().find(|raw| raw.vg.as_deref() == Some(vg)) {
        return Err(raw.reason.clone());
    }
    let Some(group) = assembly.groups.into_iter().find(|group| group.vg.name == vg) else {
        return Err(format!("there is no volume group {vg} on the targets"));
    };
    let Some(lv) = group.vg.lv(lv).cloned() else {
        let names: Vec<&str> = group.vg.lvs.iter().map(|lv| lv.name.as_str()).collect();
        return Err(format!("the logical volumes of {vg} are {}", names.join(", ")));
    };
    Ok((group, lv))
}

/// The physical volume of the image's group that goes where the one with this UUID is: the same one, or the
/// only one on that target.
fn counterpart(root: &Root, group: &VolumeGroupEntry, slot: &str, uuid: &str) -> Option<String> {
    let is_there = |id: &str| {
        let volume = root.volumes.iter().find(|volume| volume.id == id);
        volume.is_some_and(|volume| volume.disk.as_deref() == Some(slot) || volume.id == slot)
    };
    let here: Vec<_> = group.pvs.iter().filter(|pv| is_there(&pv.volume)).collect();
    let same = here.iter().find(|pv| pv.uuid == uuid);
    let only = || <[_; 1]>::try_from(here.as_slice()).ok().map(|[only]| only);
    same.copied().or_else(only).map(|pv| pv.volume.clone())
}
