//! What was on a target before a restore: as much of it as keeping some of its volumes takes.

use serde::{Deserialize, Serialize};

use crate::disk::table::Table;
use crate::extent::Extent;
use crate::lvm::label::PvHead;

/// The table of a target, and the physical volumes on it.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Debug)]
pub struct Old {
    /// Its partition table.
    pub table: Option<Table>,
    /// The physical volumes on its partitions, or on the whole of it.
    pub pvs: Vec<OldPv>,
}

/// A physical volume that was on a target.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct OldPv {
    /// Where on the target.
    pub extent: Extent,
    /// Its label, areas and metadata text.
    pub head: PvHead,
}
