//! The plan of a restore: what lies where on the targets, who grows, what is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::growth::Policy;
use super::host::StayingLv;
use super::identity::{self, NewId, Renewal};
use super::keep::{Kept, Wish};
use super::old::Old;
use super::planner::Planner;
use super::proof;
use super::whole;
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fs::GrowthTool;
use crate::image::manifest::{Root, VolumeEntry};
use crate::lvm::label::PvHead;
use crate::lvm::model::Vg;
use crate::units::Bytes;

/// A disk, partition or file that is going to be overwritten.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Target {
    /// Which disk or loose volume of the image goes there.
    pub slot: String,
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub size: Bytes,
    /// Its logical sector size.
    pub sector_size: Bytes,
    /// Whether it is a file that is created.
    pub creates: bool,
}

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Request {
    /// One for each disk and loose volume of the image that is not left out.
    pub targets: Vec<Target>,
    /// Disks that are left out: they hold nothing but physical volumes, and what lay there follows on the
    /// others of the volume group.
    pub left_out: Vec<String>,
    /// The volumes that get their data, as typed; all of them where none is named.
    pub only: Vec<String>,
    /// Who grows.
    pub policy: Policy,
    /// New identifiers, where they are wanted.
    pub renewal: Option<Renewal>,
    /// Volumes that cannot be grown here, and why (a tool is missing).
    pub blocked: BTreeMap<String, String>,
    /// What of the targets stays as it is.
    pub keep: Vec<Wish>,
    /// What is on each target, as far as something of it stays.
    pub before: Vec<Old>,
}

/// Where a volume lies on the targets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// `extent` of the target with this index.
    Target(usize, Extent),
    /// The logical volume of this name in the group with this index.
    Lv(usize, String),
}

/// What happens to one volume.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct VolumePlan {
    /// Its id in the image.
    pub id: String,
    /// Its size on the source.
    pub from: Bytes,
    /// Its size on the target.
    pub to: Bytes,
    /// Where it starts in its container on the target.
    pub offset: Bytes,
    /// Why it gets its place and no data, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty: Option<String>,
    /// Where it lies.
    #[serde(skip)]
    pub place: Place,
    /// Its index in the image's root.
    #[serde(skip)]
    pub entry: usize,
}

/// A filesystem that is made larger.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct GrowthPlan {
    /// The volume's id.
    pub id: String,
    /// By which tool.
    pub tool: GrowthTool,
    /// Its size on the source.
    pub from: Bytes,
    /// Its size on the target.
    pub to: Bytes,
    /// Whether the user named it, so that it may not be left out.
    pub asked: bool,
}

/// A volume group as it is written on the targets.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    /// Its new metadata.
    pub vg: Vg,
    /// Its physical volumes in the order of the metadata.
    pub pvs: Vec<PvPlan>,
}

/// A physical volume as it is written.
#[derive(Clone, Debug)]
pub struct PvPlan {
    /// Its label and areas on the source.
    pub head: PvHead,
    /// The target that it lies on.
    pub target: usize,
    /// Where on that target.
    pub extent: Extent,
    /// Whether it has another size than on the source.
    pub grown: bool,
}

/// Everything that a restore is going to do.
#[derive(Clone, Serialize, Debug)]
pub struct RestorePlan {
    /// What is overwritten.
    pub targets: Vec<Target>,
    /// Every volume of the image but those of disks that are left out.
    pub volumes: Vec<VolumePlan>,
    /// Bytes of data that are written, at most.
    pub writes: Bytes,
    /// Filesystems that are made larger.
    pub grow: Vec<GrowthPlan>,
    /// Identifiers that change.
    pub new_ids: Vec<NewId>,
    /// Programs that this needs.
    pub tools: Vec<String>,
    /// What is not as it was, in words: what shrinks, lies elsewhere, is left empty.
    pub notes: Vec<String>,
    /// Volumes of the targets that stay as they are.
    pub kept: Vec<Kept>,
    /// Volumes of the image, by id, that are not restored because something that stays has their place.
    #[serde(skip)]
    pub replaced: BTreeSet<String>,
    /// What the user should know before agreeing.
    pub warnings: Vec<String>,
    /// The new partition table of each target.
    #[serde(skip)]
    pub tables: Vec<Option<Table>>,
    /// The new volume groups.
    #[serde(skip)]
    pub groups: Vec<GroupPlan>,
}

/// Plans the restore of the image `root`.
///
/// # Errors
/// [`Error::Refused`] where something does not fit, [`Error::Corrupt`] for a root that contradicts itself.
pub fn plan(root: &Root, request: &Request) -> Result<RestorePlan> {
    let planner = Planner::new(root, request)?;
    let mut plan = RestorePlan {
        targets: request.targets.clone(),
        volumes: Vec::new(),
        writes: Bytes::ZERO,
        grow: Vec::new(),
        new_ids: Vec::new(),
        tools: Vec::new(),
        notes: Vec::new(),
        kept: Vec::new(),
        replaced: planner.keeping.replaced.clone(),
        warnings: Vec::new(),
        tables: Vec::new(),
        groups: Vec::new(),
    };
    for index in 0..request.targets.len() {
        planner.target(index, &mut plan)?;
    }
    for group in &planner.groups {
        planner.group(group, &mut plan)?;
    }
    plan.kept.extend(planner.keeping.volumes.iter().flat_map(StayingLv::kept));
    whole::check(root, &request.left_out, &plan)?;
    proof::check(&plan)?;
    planner.finish(&mut plan)?;
    if let Some(renewal) = &request.renewal {
        identity::renew(root, renewal, &mut plan)?;
    }
    Ok(plan)
}

/// Looks up the id of the volume that a person calls `name`.
///
/// # Errors
/// [`Error::Refused`] naming the volumes that there are.
pub fn resolve<'a>(root: &'a Root, name: &str) -> Result<&'a VolumeEntry> {
    let with_disk = root.disks.first().map(|disk| format!("{}:{name}", disk.id));
    let only_disk = root.disks.len() == 1;
    root.volumes
        .iter()
        .find(|volume| volume.id == name || (only_disk && Some(&volume.id) == with_disk.as_ref()))
        .ok_or_else(|| {
            let ids: Vec<&str> = root.volumes.iter().map(|volume| volume.id.as_str()).collect();
            Error::refused(format!("the image has no volume {name}; it has {}", ids.join(", ")))
        })
}

/// The disks and loose volumes of an image, in the order in which targets are named for them.
pub fn slots(root: &Root) -> Vec<&str> {
    let disks = root.disks.iter().map(|disk| disk.id.as_str());
    let loose = root
        .volumes
        .iter()
        .filter(|volume| volume.disk.is_none() && volume.container.is_none())
        .map(|volume| volume.id.as_str());
    disks.chain(loose).collect()
}

/// The smallest target for a disk or loose volume of the image on which it can be planned, and the volume
/// that sets it: the largest one that does not shrink.
pub fn min_target(root: &Root, slot: &str) -> (Bytes, Option<String>) {
    let request = Request::default();
    let least = Planner::of(root, &request).and_then(|planner| planner.least(slot));
    least.map_or((Bytes::ZERO, None), |(least, by)| (least, Some(by)))
}
