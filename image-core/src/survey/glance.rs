//! A survey that takes a moment: what is on disks, by the heads of their filesystems alone.

use super::model::{Coverage, Needs, Survey, Volume};
use super::{Input, divided, groups};
use crate::disk::probe::{self, Usage};
use crate::error::Result;
use crate::extent::ExtentSet;
use crate::fs::{self, State};
use crate::report::Report;

/// Looks at `inputs` like [`super::survey`], without asking any filesystem for its used bytes: on large
/// disks these take minutes, and a list of disks has no use for them. So coverage says nothing here, and
/// what claims a volume twice is named by the first claim.
///
/// # Errors
/// As [`super::survey`]; a volume that cannot be read is only unknown.
pub fn glance(inputs: &[Input], report: &dyn Report) -> Result<Survey> {
    let mut survey = divided(inputs, report)?;
    groups::assemble(&mut survey, false)?;
    for volume in survey.volumes.iter_mut().filter(|volume| !volume.is_pv) {
        report.checkpoint()?;
        identify(volume);
    }
    Ok(survey)
}

fn identify(volume: &mut Volume) {
    volume.coverage = Coverage::Mapped(ExtentSet::default());
    let signatures = probe::signatures(&volume.source).unwrap_or_default();
    let claim = signatures.iter().find(|claim| claim.usage != Usage::Table && !claim.copy);
    if let Some(claim) = claim {
        volume.content = claim.name.to_owned();
        volume.label.clone_from(&claim.label);
        volume.uuid.clone_from(&claim.uuid);
    }
    if claim.is_some_and(|claim| matches!(claim.usage, Usage::Raid | Usage::Crypto)) {
        return;
    }
    let Ok(Some(filesystem)) = fs::probe(&volume.source) else { return };
    let identity = filesystem.identity();
    volume.content = identity.content.to_owned();
    volume.label.clone_from(&identity.label);
    volume.uuid.clone_from(&identity.uuid);
    volume.state = State::Clean;
    volume.needs = Some(Needs {
        min_bytes: identity.size,
        block_size: identity.block_size,
        sector_limit: identity.sector_limit,
        growth: filesystem.growth(),
        last_mounted: identity.last_mounted.clone(),
    });
}
