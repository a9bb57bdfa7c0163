//! The values of a survey.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::table::{PartitionRole, Table};
use crate::extent::{Extent, ExtentSet};
use crate::fs::{GrowthTool, State};
use crate::io::Source;
use crate::lvm::label::PvHead;
use crate::lvm::model::Vg;
use crate::units::Bytes;

/// What the hardware says of itself.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Debug)]
pub struct Hardware {
    /// Model name.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// World wide name.
    pub wwn: Option<String>,
}

/// Everything that was found.
#[derive(Default)]
pub struct Survey {
    /// The inputs, in the order in which they were named.
    pub slots: Vec<Slot>,
    /// Disks in order, each with its volumes by position; then logical volumes.
    pub volumes: Vec<Volume>,
    /// Volume groups whose physical volumes are all there and understood.
    pub groups: Vec<Group>,
    /// What the user should read.
    pub warnings: Vec<String>,
}

/// One input: a disk, or a single volume.
pub struct Slot {
    /// `d0`, `d1`, ...
    pub id: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub source: Source,
    /// Saved as a disk with its table; else only volumes of it.
    pub whole: bool,
    /// What the hardware says of itself.
    pub hardware: Hardware,
    /// Its partition table.
    pub table: Option<Table>,
}

/// What kind of address space a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A partition.
    Partition,
    /// A logical volume.
    Lv,
    /// A whole disk without a table.
    Disk,
    /// Space between partitions.
    Gap,
}

/// Which bytes of a volume are saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Coverage {
    /// The bytes that a proven map names.
    Mapped(ExtentSet),
    /// All of it.
    Whole,
    /// None: the user excluded it.
    Excluded,
    /// A container: only its first bytes, for rescue; what it contains is volumes of their own.
    Head(ExtentSet),
}

/// One address space: a partition, a logical volume, a gap, a bare disk.
pub struct Volume {
    /// `d0:1`, `d0:gap0`, `vg0/root`, or `d0` for a bare disk.
    pub id: String,
    /// The input that it lies on; none for a logical volume.
    pub slot: Option<usize>,
    /// The disk or volume group that it lies in.
    pub container: Option<String>,
    /// The volume group of a logical or physical volume.
    pub group: Option<String>,
    /// Whether it carries the label of a physical volume.
    pub is_pv: bool,
    /// What kind of address space.
    pub kind: Kind,
    /// Partition name.
    pub name: Option<String>,
    /// What the partition is for.
    pub role: PartitionRole,
    /// Where it lies in its slot; from zero for a logical volume.
    pub extent: Extent,
    /// Its bytes.
    pub source: Source,
    /// `blkid`'s TYPE, or `raw`.
    pub content: String,
    /// Filesystem label.
    pub label: Option<String>,
    /// Filesystem UUID.
    pub uuid: Option<String>,
    /// How far its map is believed.
    pub state: State,
    /// What is saved of it.
    pub coverage: Coverage,
    /// What the filesystem needs, where it is understood.
    pub needs: Option<Needs>,
}

/// What a filesystem that is understood needs of the place it is restored to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The smallest volume.
    pub min_bytes: Bytes,
    /// Its block size.
    pub block_size: Bytes,
    /// The largest logical sector that it works on.
    pub sector_limit: Bytes,
    /// What makes it larger.
    pub growth: Option<GrowthTool>,
    /// Where it was last mounted.
    pub last_mounted: Option<String>,
}

impl Volume {
    /// A volume of which nothing but its place is known.
    pub fn new(
        id: String,
        slot: Option<usize>,
        kind: Kind,
        extent: Extent,
        source: Source,
    ) -> Self {
        Self {
            id,
            slot,
            container: None,
            group: None,
            is_pv: false,
            kind,
            name: None,
            role: PartitionRole::Other,
            extent,
            source,
            content: "raw".to_owned(),
            label: None,
            uuid: None,
            state: State::Raw("its content is not known".to_owned()),
            coverage: Coverage::Whole,
            needs: None,
        }
    }

    /// Whether what it contains is volumes of their own.
    pub fn is_container(&self) -> bool {
        matches!(self.coverage, Coverage::Head(_))
    }

    /// Its size.
    pub fn size(&self) -> Bytes {
        self.extent.len()
    }

    /// The bytes that are saved.
    pub fn used(&self) -> ExtentSet {
        match &self.coverage {
            Coverage::Mapped(used) | Coverage::Head(used) => used.clone(),
            Coverage::Whole => Extent::first(self.size()).into(),
            Coverage::Excluded => ExtentSet::default(),
        }
    }

    /// The smallest volume that holds it.
    pub fn min_bytes(&self) -> Bytes {
        self.needs.as_ref().map_or(self.size(), |needs| needs.min_bytes)
    }

    /// Whether the user excluded it: its place is saved, its bytes are not.
    pub fn is_excluded(&self) -> bool {
        self.coverage == Coverage::Excluded
    }

    /// The reason for a raw copy, where it is one.
    pub fn reason(&self) -> Option<&str> {
        match &self.state {
            State::Raw(reason) => Some(reason),
            State::Hibernated => Some("a hibernated system is in it"),
            State::Locked => Some("it is encrypted"),
            State::Clean | State::Replayable => None,
        }
    }
}

/// A volume group with all of its physical volumes.
pub struct Group {
    /// Its metadata.
    pub vg: Vg,
    /// The metadata as it was read.
    pub text: String,
    /// Its physical volumes, in the order of the metadata.
    pub pvs: Vec<GroupPv>,
}

/// One physical volume of a group.
pub struct GroupPv {
    /// The id of the volume that it is.
    pub volume: String,
    /// Its label and areas, without the text.
    pub head: PvHead,
    /// Its bytes.
    pub source: Source,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {:?} {:?}", self.id, self.size(), self.content, self.state, self.label)
    }
}
