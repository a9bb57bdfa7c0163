//! New identifiers on the targets: what changes where, and what remains to be done by hand.

use super::growths::{Node, layout, node, planned};
use super::{Job, no_target};
use crate::error::Result;
use crate::fixup::{References, Renewal, Traits};
use crate::image::manifest::Root;
use crate::plan::identity::{IdKind, filesystem};
use crate::plan::restore::RestorePlan;

/// The volumes of a plan with new identifiers on which something changes: a UUID, or files that name one.
///
/// # Errors
/// [`crate::error::Error::Refused`] for a plan that contradicts itself.
pub fn renewals(root: &Root, plan: &RestorePlan) -> Result<Vec<Renewal>> {
    of(root, plan, &|at| planned(plan, at))
}

/// The renewals of a job, on what it has claimed.
pub(super) fn claimed(job: &Job<'_>) -> Result<Vec<Renewal>> {
    of(job.root, job.plan, &|at| node(job, at))
}

fn of(root: &Root, plan: &RestorePlan, node: Node<'_>) -> Result<Vec<Renewal>> {
    let mut renewals = Vec::new();
    if plan.new_ids.is_empty() {
        return Ok(renewals);
    }
    for volume in &plan.volumes {
        let entry = root.volumes.get(volume.entry).ok_or_else(no_target)?;
        let uuid = filesystem(plan, &volume.id).map(str::to_owned);
        // FAT and swap have theirs since they were written; swap has no files.
        let (known, by_tool) = match entry.content.as_str() {
            "ext2" | "ext3" | "ext4" | "xfs" => (uuid.is_some(), true),
            "vfat" => (uuid.is_some(), false),
            _ => (false, false),
        };
        if known {
            renewals.push(Renewal {
                volume: volume.id.clone(),
                content: entry.content.clone(),
                uuid: uuid.filter(|_| by_tool),
                last_mounted: entry.last_mounted.clone(),
                layout: layout(plan, volume, node)?,
            });
        }
    }
    Ok(renewals)
}

/// Everything that files may name.
pub(super) fn references(plan: &RestorePlan) -> References {
    let mut references = References::default();
    for new in &plan.new_ids {
        match new.kind {
            // An MBR's signature stands in files only within a PARTUUID.
            IdKind::Disk if new.old.len() < 16 => {}
            IdKind::Disk | IdKind::Partition | IdKind::Filesystem => {
                references.id(&new.old, &new.new);
            }
            IdKind::Pv | IdKind::Vg | IdKind::Lv => references.lvm_id(&new.old, &new.new),
            IdKind::VgName => {
                references.group(&new.old, &new.new);
                let group = plan.groups.iter().find(|group| group.vg.name == new.new);
                for lv in group.into_iter().flat_map(|group| &group.vg.lvs) {
                    references.volume(&new.old, &new.new, &lv.name);
                }
            }
        }
    }
    references
}

/// What the user has to do where a UUID was not changed or files were not rewritten.
pub(super) fn by_hand(renewal: &Renewal) -> String {
    let id = &renewal.volume;
    match (&renewal.uuid, renewal.content.as_str()) {
        (Some(uuid), "xfs") => {
            format!("give {id} its new UUID and rewrite its files: xfs_admin -U {uuid} DEVICE")
        }
        (Some(uuid), _) => {
            format!("give {id} its new UUID and rewrite its files: tune2fs -U {uuid} DEVICE")
        }
        (None, _) => {
            format!("rewrite the identifiers in the files of {id}, such as EFI/*/grub.cfg")
        }
    }
}

/// What remains on a system of these `traits`; `core_stays` where GRUB for BIOS may look for old identifiers.
pub(super) fn remaining(traits: Traits, core_stays: bool) -> Vec<String> {
    let rebuild = if traits.dracut {
        "dracut --force --regenerate-all"
    } else {
        "update-initramfs -u -k all"
    };
    let steps = [
        (traits.initramfs_knows, format!(
            "rebuild the initramfs in the restored system, it may wait for old identifiers: {rebuild}"
        )),
        (core_stays, "install GRUB for BIOS anew in the restored system, its core may look for an old identifier: \
                grub-install DISK".to_owned()),
        (traits.no_fallback, "make a boot entry, the EFI system partition has no EFI/BOOT/BOOT*.EFI: \
                              efibootmgr --create --disk DISK --part NUMBER --loader PATH".to_owned()),
        (traits.unified_kernel, "build the unified kernel images in EFI/Linux anew, their command line is sealed: \
                                 kernel-install add-all".to_owned()),
    ];
    steps.into_iter().filter_map(|(remains, step)| remains.then_some(step)).collect()
}
