//! Volumes of a target that a restore leaves as they are, byte by byte.
//!
//! A kept partition stands in the new table under its number, or another one where the image has one of that
//! number. It takes the place of the image's partition that has the same PARTUUID, or that the user names: that
//! one is not restored then. A logical volume stays in the image's volume group of that name (`host`).

use std::collections::BTreeSet;

use serde::Serialize;

use super::host::{Pin, StayingLv};
use super::old::Old;
use super::planner::table_of;
use super::restore::{Request, RestorePlan, Target, resolve};
use crate::disk::table::{Partition, PartitionRole, Table};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::{Root, VolumeEntry, VolumeGroupEntry};
use crate::lvm::map::Run;

/// What a number follows.
const PARTITION: &str = "partition ";

/// A volume of a target that is to stay, as the user named it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Wish {
    /// The index of its target, where the name tells it.
    pub target: Option<usize>,
    /// The number of a partition, or the name of a logical volume: `vg0/data`.
    pub name: String,
    /// The volume of the image in whose place it stays, where the user said so.
    pub instead: Option<String>,
}

/// A volume of a target that stays.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Kept {
    /// The index of its target.
    pub target: usize,
    /// What it is called there when all is done, as ids of volumes are made.
    pub id: String,
    /// What it was called.
    pub what: String,
    /// The volume of the image that is not restored because this one has its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    /// Its bytes on the target.
    pub extents: ExtentSet,
    /// A logical volume's bytes in their order, on all targets.
    #[serde(skip)]
    pub(super) runs: Vec<Run>,
}

impl Kept {
    /// What happens to it, and what does not happen for that, as a sentence.
    pub(super) fn sentence(&self, target: Option<&Target>) -> String {
        let path = target.map(|target| target.path.display().to_string()).unwrap_or_default();
        let instead = match &self.instead {
            Some(instead) => format!(", in place of {instead} of the image, which is not restored"),
            None => String::new(),
        };
        let (what, id) = (&self.what, &self.id);
        let now = match id.rsplit_once(':') {
            Some((_, number)) if what.strip_prefix(PARTITION) != Some(number) => {
                format!("; it is {PARTITION}{number} then")
            }
            _ => String::new(),
        };
        format!("{what} of {path} stays as it is{instead}{now}")
    }

    /// Whether it has the place of this volume of the image.
    pub(super) fn replaces(&self, id: &str) -> bool {
        self.instead.as_deref() == Some(id)
    }
}

impl RestorePlan {
    /// What of the target with this index stays as it is.
    pub fn kept_on(&self, target: usize) -> ExtentSet {
        let here = self.kept.iter().filter(|kept| kept.target == target);
        here.fold(ExtentSet::new(), |all, kept| all.union(&kept.extents))
    }
}

/// A partition of a target that stays.
#[derive(Clone, Debug)]
pub(super) struct Staying {
    pub(super) target: usize,
    /// As the new table shall list it: with the number that it has there.
    pub(super) partition: Partition,
    /// Its number before.
    pub(super) was: u32,
    /// Whether the image has a partition of that number, whose place it takes.
    pub(super) instead: bool,
}

impl Staying {
    pub(super) fn kept(&self, target: &Target) -> Kept {
        let id = format!("{}:{}", target.slot, self.partition.number);
        Kept {
            target: self.target,
            instead: self.instead.then(|| id.clone()),
            id,
            what: format!("{PARTITION}{}", self.was),
            extents: self.partition.extent.into(),
            runs: Vec::new(),
        }
    }
}

/// Everything that stays.
#[derive(Clone, Default, Debug)]
pub(super) struct Keeping {
    pub(super) partitions: Vec<Staying>,
    pub(super) volumes: Vec<StayingLv>,
    /// Places that physical volumes of the image take, because logical volumes stay on them.
    pub(super) pins: Vec<Pin>,
    /// Ids of the image's volumes that are not restored for that.
    pub(super) replaced: BTreeSet<String>,
}

impl Keeping {
    /// Finds what the user named.
    ///
    /// # Errors
    /// [`Error::Refused`] naming what cannot be kept, and why.
    pub(super) fn of(root: &Root, request: &Request) -> Result<Self> {
        let mut keeping = Self::default();
        for wish in &request.keep {
            match wish.name.parse() {
                Ok(number) => keeping.partition(root, request, wish, number)?,
                Err(_) => keeping.volume(root, request, wish)?,
            }
        }
        keeping.groups(root, request)?;
        Ok(keeping)
    }

    /// The partitions that stay on one target.
    pub(super) fn on(&self, target: usize) -> impl Iterator<Item = &Staying> {
        self.partitions.iter().filter(move |staying| staying.target == target)
    }

    pub(super) fn partition(
        &mut self,
        root: &Root,
        request: &Request,
        wish: &Wish,
        number: u32,
    ) -> Result<()> {
        let at = match (wish.target, request.targets.as_slice()) {
            (Some(at), _) => at,
            (None, [_]) => 0,
            (None, _) => {
                return Err(Error::refused(format!(
                    "--keep {number}: of which target? Write it as TARGET:{number}"
                )));
            }
        };
        let Some(target) = request.targets.get(at) else { return Ok(()) };
        let cannot = |why: &str| cannot(target, number, why);
        let old = found(request.before.get(at), target, number)?;
        let disk = root.disks.iter().find(|disk| disk.id == target.slot);
        let table = disk.map(table_of).transpose()?.flatten();
        let Some(new) = table else {
            return Err(cannot("the image puts no partition table onto that target"));
        };
        let was = request.before.get(at).and_then(|old| old.table.as_ref()).map(Table::kind);
        if was != Some(new.kind()) {
            let (was, new) = (was.unwrap_or("none").to_uppercase(), new.kind().to_uppercase());
            return Err(cannot(&format!(
                "it is in a table of the kind {was}, the image has {new}"
            )));
        }
        if old.role() == PartitionRole::Extended {
            return Err(cannot("it only holds other partitions; name those"));
        }
        let instead = match &wish.instead {
            Some(name) => Some(place_of(root, target, name)?),
            None => {
                let same = |other: &&Partition| other.uuid.is_some() && other.uuid == old.uuid;
                new.partitions().iter().find(same).map(|other| other.number)
            }
        };
        let taken: Vec<u32> = self.on(at).map(|staying| staying.partition.number).collect();
        let twice = self.on(at).any(|staying| staying.was == number);
        if twice || instead.is_some_and(|number| taken.contains(&number)) {
            return Err(cannot("it or the place that it should take is named twice"));
        }
        let Some(now) = instead.or_else(|| new.free_number(number, &taken)) else {
            return Err(cannot("the image's partition table has no number left for it"));
        };
        if instead.is_some() {
            self.replaced.insert(format!("{}:{now}", target.slot));
        }
        let partition = Partition { number: now, ..old.clone() };
        let instead = instead.is_some();
        self.partitions.push(Staying { target: at, partition, was: number, instead });
        Ok(())
    }

    fn covers(&self, pin: &Pin) -> bool {
        self.on(pin.target).any(|staying| staying.partition.extent == pin.extent)
    }

    /// Volume groups whose partitions are not restored, and those that would be there twice.
    fn groups(&mut self, root: &Root, request: &Request) -> Result<()> {
        if let Some(pin) =
            self.pins.iter().find(|pin| self.replaced.contains(&pin.volume) || self.covers(pin))
        {
            return Err(Error::refused(format!(
                "{} cannot be kept: the partition that it lies on is kept whole",
                pin.holds
            )));
        }
        for group in &root.volume_groups {
            let replaced = |pv: &str| self.replaced.contains(pv);
            let gone = group.pvs.iter().filter(|pv| replaced(&pv.volume)).count();
            if gone > 0 && gone == group.pvs.len() {
                self.replaced.extend(group.lvs.iter().cloned());
                continue;
            }
            if let Some(pv) = group.pvs.iter().find(|pv| replaced(&pv.volume)) {
                return Err(Error::refused(format!(
                    "nothing can stay in place of {} alone: the volume group {} lies on other physical \
                     volumes too",
                    pv.volume, group.name
                )));
            }
            if let Some(twin) = self.partitions.iter().find(|staying| {
                request.before.get(staying.target).is_some_and(|old| is_of(group, old, staying))
            }) {
                let Some(target) = request.targets.get(twin.target) else { continue };
                return Err(cannot(
                    target,
                    twin.was,
                    &format!(
                        "it is a physical volume of {}, and the image brings a volume group of that name or \
                         UUID; name logical volumes of it, or put it in place of the image's physical volume \
                         (--keep {}={})",
                        group.name,
                        twin.was,
                        group.pvs.first().map_or("", |pv| pv.volume.as_str())
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Whether the partition is a physical volume of such a group, or has the UUID of one.
fn is_of(group: &VolumeGroupEntry, old: &Old, staying: &Staying) -> bool {
    old.pvs.iter().filter(|pv| pv.extent == staying.partition.extent).any(|pv| {
        let stamp = pv.head.vg.as_ref();
        stamp.is_some_and(|stamp| stamp.name == group.name || stamp.uuid == group.uuid)
            || group.pvs.iter().any(|other| other.uuid == pv.head.uuid)
    })
}

/// The number of the partition that was there.
pub(super) fn found_at(old: Option<&Old>, extent: Extent) -> Option<u32> {
    let mut parts = old?.table.as_ref()?.partitions().iter();
    parts.find(|part| part.extent == extent).map(|part| part.number)
}

/// The partition as it is on the target.
fn found<'a>(old: Option<&'a Old>, target: &Target, number: u32) -> Result<&'a Partition> {
    let Some(table) = old.and_then(|old| old.table.as_ref()) else {
        return Err(cannot(target, number, "there is no partition table"));
    };
    let parts = table.partitions();
    parts.iter().find(|part| part.number == number).ok_or_else(|| {
        let numbers: Vec<String> = parts.iter().map(|part| part.number.to_string()).collect();
        cannot(target, number, &format!("the partitions there are {}", numbers.join(", ")))
    })
}

/// The number of the image's partition on this target that the user calls `name`.
fn place_of(root: &Root, target: &Target, name: &str) -> Result<u32> {
    let volume = resolve(root, name)?;
    let is_there = |volume: &&VolumeEntry| {
        volume.kind == "partition" && volume.disk.as_ref() == Some(&target.slot)
    };
    let number = Some(volume).filter(is_there).and_then(|volume| volume.id.rsplit_once(':'));
    number.and_then(|(_, number)| number.parse().ok()).ok_or_else(|| {
        Error::refused(format!(
            "nothing can stay in place of {}: it is no partition that goes to {}",
            volume.id,
            target.path.display()
        ))
    })
}

pub(super) fn cannot(target: &Target, number: u32, why: &str) -> Error {
    Error::refused(format!("partition {number} of {} cannot be kept: {why}", target.path.display()))
}
