//! New identifiers on the targets: what changes where, and what remains to be done by hand.

use super::growths::{Node, layout, node, planned};
use super::{Job, no_target};
use crate::disk::table::Table;
use crate::error::Result;
use crate::fixup::{References, Renewal, Renewed, Traits};
use crate::image::manifest::{Root, VolumeEntry};
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
pub(super) fn references(root: &Root, plan: &RestorePlan) -> References {
    let mut references = References::default();
    if plan.new_ids.is_empty() {
        return references;
    }
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
    // A label is the same on both; as a name it is only as good as it is alone.
    let labels = |entry: &VolumeEntry| Some((entry.label.clone()?, entry.id.clone()));
    for (label, id) in alone(root.volumes.iter().filter_map(labels)) {
        if let Some(uuid) = filesystem(plan, &id) {
            references.label(&label, uuid);
        }
    }
    let tables = plan.tables.iter().flatten();
    let partitions = tables.flat_map(|table| match table {
        Table::Gpt(gpt) => gpt.partitions.as_slice(),
        Table::Mbr(_) => &[],
    });
    let names =
        partitions.filter_map(|partition| partition.name.clone().zip(partition.uuid.clone()));
    for (name, uuid) in alone(names) {
        references.partition_label(&name, &uuid);
    }
    references
}

/// The pairs whose first part no other pair has.
fn alone(pairs: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let all: Vec<(String, String)> = pairs.collect();
    let is_alone = |name: &str| all.iter().filter(|(other, _)| other == name).count() == 1;
    all.iter().filter(|(name, _)| is_alone(name)).cloned().collect()
}

/// The devices that are named by their place: both of two disks cannot be in it.
pub(super) fn unsteady(renewed: &Renewed) -> Vec<String> {
    let step = |device: &String| {
        format!("name it by UUID= or PARTUUID=, it may be another disk's: {device}")
    };
    renewed.unsteady.iter().map(step).collect()
}

/// What keeps its UUID, and what would change it.
pub(super) fn kept(root: &Root, plan: &RestorePlan) -> Vec<String> {
    let mut steps = Vec::new();
    if plan.new_ids.is_empty() {
        return steps;
    }
    for volume in &plan.volumes {
        let Some(entry) = root.volumes.get(volume.entry) else { continue };
        let (id, content) = (&volume.id, entry.content.as_str());
        if entry.is_container || entry.uuid.is_none() || filesystem(plan, id).is_some() {
            continue;
        }
        let command = match content {
            "btrfs" => "btrfstune -u DEVICE",
            "ntfs" => "ntfslabel --new-serial DEVICE",
            "crypto_LUKS" => "cryptsetup luksUUID --uuid UUID DEVICE",
            "exfat" => "exfatlabel -i DEVICE SERIAL",
            "ext2" | "ext3" | "ext4" => "e2fsck -f DEVICE && tune2fs -U random DEVICE",
            _ => {
                steps.push(format!(
                    "detach source or target, {id} has one UUID on both: its {content} keeps it"
                ));
                continue;
            }
        };
        steps.push(format!(
            "give {id} another UUID before source and target are attached together, and rewrite the files that \
             name it: {command}"
        ));
    }
    steps
}

/// Whether a disk with an MBR starts Windows: its active partition is an NTFS.
pub(super) fn starts_windows(plan: &RestorePlan) -> bool {
    const ACTIVE: u64 = 0x80;
    plan.tables.iter().flatten().any(|table| match table {
        Table::Mbr(mbr) => {
            mbr.partitions.iter().any(|part| part.attributes == ACTIVE && part.kind == "0x07")
        }
        Table::Gpt(_) => false,
    })
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
            "rebuild the initramfs in the restored system, it may wait for old identifiers (where it does not \
             start: from a rescue system, in a chroot): {rebuild}"
        )),
        (core_stays, "install GRUB for BIOS anew in the restored system, its core may look for an old identifier: \
                grub-install DISK".to_owned()),
        (traits.no_fallback, "make a boot entry, the EFI system partition has no EFI/BOOT/BOOT*.EFI: \
                              efibootmgr --create --disk DISK --part NUMBER --loader PATH".to_owned()),
        (traits.unified_kernel, "build the unified kernel images in EFI/Linux anew, their command line is sealed: \
                                 kernel-install add-all".to_owned()),
        (traits.sealed_loader, "install GRUB for UEFI anew in the restored system, its program names an old \
                                identifier and is signed: grub-install".to_owned()),
        (traits.windows, "mend Windows' boot configuration from its recovery environment, it names the old disk: \
                          bcdboot C:\\Windows".to_owned()),
    ];
    steps.into_iter().filter_map(|(remains, step)| remains.then_some(step)).collect()
}
