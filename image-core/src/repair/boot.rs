//! What has to be done to boot loaders and to the initramfs, by what was found; pure.

use std::collections::BTreeSet;

use super::decide::System;
use super::facts::{Builder, Code, Disk, EspSight, Facts, Sight};
use super::{Act, Plan, Wishes};
use crate::extent::Extent;
use crate::fixup::drivers::{self, USUAL};
use crate::fixup::ramdisk::Ramdisk;
use crate::fixup::{esp, grub as core};

/// Loaders for UEFI: the fallback, and a boot entry where this machine is the one that starts it.
pub(super) fn esps(facts: &Facts, wishes: &Wishes<'_>, plan: &mut Plan) {
    for (volume, sight) in &facts.esps {
        let all: Vec<&str> = sight.files.iter().map(String::as_str).collect();
        let without = esp::traits(&all).no_fallback;
        let copies = if without { esp::fallback(&all) } else { lonely_shim(sight, &all) };
        let made = copies.is_some();
        plan.acts.extend(copies.map(|copies| Act::Fallback { volume: volume.clone(), copies }));
        let entry = entry(facts, volume, &all, wishes);
        match entry {
            Some(entry) => plan.acts.extend(entry),
            None if without && !made => plan.steps.push(format!(
                "make a boot entry, {volume} has no EFI/BOOT/BOOT*.EFI and several loaders or none that is known: \
                 efibootmgr --create --disk DISK --part NUMBER --loader PATH"
            )),
            None => {}
        }
    }
}

fn lonely_shim(sight: &EspSight, all: &[&str]) -> Option<esp::Copies> {
    sight.starts_shim.then(|| esp::beside_shim(all)).flatten()
}

/// The boot entry that this machine's firmware should have: none within where it has it; none at all where it is
/// not this machine that starts the system, or nobody knows which loader to name.
fn entry(facts: &Facts, volume: &str, all: &[&str], wishes: &Wishes<'_>) -> Option<Option<Act>> {
    let entries = wishes.boot_entries?.to_lowercase();
    let known = facts.known.iter().find(|one| one.id == volume)?;
    let disk = facts.disks.iter().position(|disk| disk.id == known.disk && disk.is_device)?;
    let loader = esp::loader(all)?.replace('/', "\\");
    let loader = format!("\\{loader}");
    let part = known.part_uuid.as_ref()?.to_lowercase();
    let there =
        entries.lines().any(|line| line.contains(&part) && line.contains(&loader.to_lowercase()));
    let label = loader.split('\\').nth(2).unwrap_or("linux").to_owned();
    Some((!there).then_some(Act::BootEntry { disk, number: known.number?, loader, label }))
}

/// GRUB for BIOS.
pub(super) fn grub(facts: &Facts, system: &System, plan: &mut Plan) {
    let of = |id: &String| facts.sights.get(id).and_then(|sight| sight.grub.as_ref());
    let files = system.boot.as_ref().and_then(of).or_else(|| of(&system.root));
    let started = facts.disks.iter().any(|disk| !matches!(disk.code, Code::Empty | Code::Other));
    let mut mended = false;
    for (at, disk) in facts.disks.iter().enumerate() {
        let why = match &disk.code {
            Code::Broken(why) => why.clone(),
            Code::Whole => match differs(disk, files) {
                Some(why) => why,
                None => continue,
            },
            // Only where nothing else starts, and grub-install once made the files for it.
            Code::Empty if !started && !mended && files.is_some() && disk.room.is_some() => {
                "its first sector starts nothing".to_owned()
            }
            _ => continue,
        };
        match installed(files, disk.room) {
            Ok((room, [code, core])) => {
                plan.acts.push(Act::Grub { disk: at, place: room.start, code, core, why });
                mended = true;
            }
            Err(reason) => plan.steps.push(format!(
                "install GRUB for BIOS anew in the repaired system ({why}; {reason}): grub-install {}",
                disk.path.display()
            )),
        }
    }
}

/// Why a core that looks whole is not, by the file that it was made of.
fn differs(disk: &Disk, files: Option<&[Vec<u8>; 2]>) -> Option<String> {
    let ((place, core), [_, file]) = (disk.core.as_ref()?, files?);
    core::compare(core, *place, file).err().map(|error| error.to_string())
}

fn installed(
    files: Option<&[Vec<u8>; 2]>,
    room: Option<Extent>,
) -> Result<(Extent, [Vec<u8>; 2]), String> {
    let room = room.ok_or("there is neither a BIOS boot partition nor space behind the MBR")?;
    let [boot, image] = files.ok_or("its own boot.img and core.img are not in /boot")?;
    let made = core::installed(boot, image, room.start, room.len());
    made.map(|made| (room, made)).map_err(|error| error.to_string())
}

/// The drivers that have to be in an initramfs: those of the disks as they are plugged in now. Where that tells
/// nothing, as of a file, those of most machines.
fn wanted(disks: &[Disk]) -> Vec<&str> {
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    for disk in disks {
        match disk.drivers.as_slice() {
            [] => wanted.extend(USUAL),
            drivers => wanted.extend(drivers.iter().map(String::as_str)),
        }
    }
    wanted.into_iter().collect()
}

/// The initramfs.
pub(super) fn initramfs(facts: &Facts, system: &System, wishes: &Wishes<'_>, plan: &mut Plan) {
    let Some(root) = facts.sights.get(&system.root) else { return };
    let wanted = wanted(&facts.disks);
    let found = ramdisks(facts, system, root);
    let mut why = Vec::new();
    for (version, path, ramdisk) in &found {
        let Some(kernel) = root.kernels.get(*version) else { continue };
        match ramdisk {
            Some(ramdisk) => {
                let missing = kernel.missing(&wanted, ramdisk);
                if !missing.is_empty() {
                    why.push(format!("{path} lacks {}", missing.join(", ")));
                }
            }
            None if for_one_machine(root) => why.push(format!("{path} is made for one machine")),
            None => {}
        }
        if facts.disks.iter().all(|disk| !disk.drivers.is_empty()) {
            let lacks = kernel.lacks(&wanted);
            if !lacks.is_empty() {
                plan.steps.push(format!(
                    "install a kernel with the drivers {}, which {version} lacks, in the repaired system: \
                     apt install linux-image-amd64 (or as its packages are called there)",
                    lacks.join(", ")
                ));
            }
        }
    }
    why.extend(copied(plan, &found));
    if why.is_empty() || found.is_empty() {
        return;
    }
    let first = root.builders.iter().next().copied();
    let line = first
        .map_or("update-initramfs -u -k all (or dracut, mkinitcpio)".to_owned(), |one| one.line());
    match first.filter(|_| wishes.run_programs) {
        Some(builder) => {
            let kernels = found.iter().map(|(version, ..)| (*version).to_owned()).collect();
            let wanted = wanted.iter().map(|name| (*name).to_owned()).collect();
            let tree = system.tree.clone();
            plan.acts.push(Act::Initramfs { builder, tree, why, kernels, wanted });
        }
        None => plan.steps.push(format!(
            "rebuild the initramfs in the repaired system, {} (from a rescue system, in a chroot): {line}",
            why.join("; ")
        )),
    }
}

/// Versions of kernels, and their initramfs.
fn ramdisks<'a>(
    facts: &'a Facts,
    system: &'a System,
    root: &'a Sight,
) -> Vec<(&'a str, &'a str, &'a Option<Ramdisk>)> {
    let sights =
        std::iter::once(&system.root).chain(&system.boot).filter_map(|id| facts.sights.get(id));
    let all = sights.flat_map(|sight| &sight.ramdisks);
    let version = |path: &'a str| drivers::version(path).or_else(|| version_of_package(path, root));
    let mut found: Vec<(&str, &str, &Option<Ramdisk>)> = all
        .filter_map(|(path, ramdisk)| Some((version(path)?, path.as_str(), ramdisk)))
        .filter(|(version, ..)| root.kernels.contains_key(*version))
        .collect();
    found.sort_by_key(|(version, path, _)| (*version, path.len()));
    found
}

/// `initramfs-linux.img` is that of the kernel of the package `linux`.
fn version_of_package<'a>(path: &str, root: &'a Sight) -> Option<&'a str> {
    let last = path.rsplit('/').next()?;
    let package = last.strip_prefix("initramfs-")?.strip_suffix(".img")?;
    root.packages.get(package).map(String::as_str)
}

/// Whether the configuration says that an initramfs has only what one machine needs, or the builder does so unasked.
fn for_one_machine(root: &Sight) -> bool {
    let says = |name: &str, text: &[u8], line: &str| {
        let text = String::from_utf8_lossy(text);
        name.starts_with("etc/")
            && text.lines().any(|found| found.trim().replace(['"', ' '], "") == line)
    };
    let any = |start: &str, line: &str| {
        root.files.iter().any(|(name, text)| name.starts_with(start) && says(name, text, line))
    };
    match root.builders.iter().next() {
        Some(Builder::UpdateInitramfs) => any("etc/initramfs-tools/", "MODULES=dep"),
        Some(Builder::Dracut) => !any("etc/dracut.conf", "hostonly=no"),
        Some(Builder::Mkinitcpio) => true,
        None => false,
    }
}

/// What is changed and has a copy in the initramfs.
fn copied(plan: &Plan, found: &[(&str, &str, &Option<Ramdisk>)]) -> Vec<String> {
    let mut why = Vec::new();
    for act in &plan.acts {
        match act {
            Act::Rewrite { file, .. }
                if ["etc/crypttab", "etc/initramfs-tools/"]
                    .iter()
                    .any(|one| file.starts_with(one)) =>
            {
                why.push(format!("it has a copy of {file}"));
            }
            Act::SetAside { .. } => {
                let copies = |(_, _, ramdisk): &(_, _, &Option<Ramdisk>)| {
                    ramdisk.as_ref().is_some_and(|ramdisk| ramdisk.lvm_devices)
                };
                if found.iter().any(copies) {
                    why.push("it has a copy of LVM's list of devices".to_owned());
                }
            }
            _ => {}
        }
    }
    why
}
