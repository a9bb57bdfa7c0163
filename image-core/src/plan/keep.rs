//! Volumes of a target that a restore leaves as they are, byte by byte.

use serde::Serialize;

use super::restore::RestorePlan;
use crate::extent::ExtentSet;

/// A volume of a target that stays.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Kept {
    /// The index of its target.
    pub target: usize,
    /// What it is called there.
    pub what: String,
    /// Its bytes on the target.
    pub extents: ExtentSet,
}

impl RestorePlan {
    /// What of the target with this index stays as it is.
    pub fn kept_on(&self, target: usize) -> ExtentSet {
        let here = self.kept.iter().filter(|kept| kept.target == target);
        here.fold(ExtentSet::new(), |all, kept| all.union(&kept.extents))
    }
}
