//! Looks into every filesystem of the targets, and writes nothing: what mounting changes stays in memory.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::facts::{Builder, Code, Core, Disk, EspSight, Facts, Own, Sight};
use super::{personal, windows};
use crate::disk::table::{Partition, PartitionRole, Table};
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::extent::Extent;
use crate::fixup::devices::Known;
use crate::fixup::drivers::Kernel;
use crate::fixup::root::Root;
use crate::fixup::{esp::Esp, esp::is_configuration, files, grub, ramdisk};
use crate::io::BlockSource;
use crate::replay::layout;
use crate::report::Report;
use crate::survey::model::{Kind, Slot, Survey, Volume};
use crate::sys::controller;
use crate::units::Bytes;
use crate::view::{Layout, NTFS, Trial};

/// What conventional memory has room for: no core is longer.
const LONGEST_CORE: Bytes = Bytes::kib(640);

/// Files that say what a system is.
const NAMES: [&str; 4] =
    ["etc/os-release", "usr/lib/os-release", "etc/hostname", "etc/lvm/devices/system.devices"];

/// Kernel versions that are looked at.
const MOST_KERNELS: usize = 32;

/// Looks at the volumes of `survey`, with `own` also at what no other machine may have. `server` is described at
/// [`crate::view::OpenView::open`].
///
/// # Errors
/// [`Error::Io`] where a disk cannot be read; [`Error::Interrupted`].
pub(super) fn look(
    runner: &dyn Runner,
    server: &Call,
    survey: &Survey,
    own: bool,
    report: &dyn Report,
) -> Result<Facts> {
    let mut facts = Facts::default();
    for slot in &survey.slots {
        facts.disks.push(disk(slot)?);
    }
    facts.known = survey
        .volumes
        .iter()
        .filter(|volume| !volume.is_pv)
        .map(|one| known(survey, one))
        .collect();
    facts.pvs = pvs(survey);
    let paths = |slot: usize| survey.slots.get(slot).map(|slot| slot.path.clone());
    for volume in survey.volumes.iter().filter(|volume| !volume.is_pv) {
        report.checkpoint()?;
        if windows::may_be_on(&volume.content) {
            if own {
                let place = layout(survey, volume, &paths)?;
                windows::look(runner, server, (volume, &place), &mut facts)?;
            }
            continue;
        }
        let kind = mounted_as(&volume.content);
        if kind.is_none() && !may_be_esp(volume) {
            if ["btrfs", "crypto_LUKS", "f2fs", "jfs", "linux_raid_member"]
                .contains(&volume.content.as_str())
            {
                facts
                    .closed
                    .push((volume.id.clone(), format!("{} is not looked into", volume.content)));
            }
            continue;
        }
        let place = layout(survey, volume, &paths)?;
        let looked = match kind {
            Some(kind) => sight(server, &place, kind, own)
                .map(|sight| drop(facts.sights.insert(volume.id.clone(), sight))),
            None => esp(runner, server, &place)
                .map(|sight| sight.map(|sight| facts.esps.insert(volume.id.clone(), sight)))
                .map(drop),
        };
        match looked {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => facts.closed.push((volume.id.clone(), error.to_string())),
            Ok(()) => {}
        }
    }
    Ok(facts)
}

/// The kernel's name of a filesystem, and its options: two with the same identifier may be attached.
pub(super) fn mounted_as(content: &str) -> Option<(&'static str, &'static str)> {
    match content {
        "ext2" | "ext3" | "ext4" => Some(("ext4", "")),
        "xfs" => Some(("xfs", "nouuid")),
        NTFS => Some((NTFS, "")),
        _ => None,
    }
}

fn may_be_esp(volume: &Volume) -> bool {
    volume.content == "vfat"
}

fn known(survey: &Survey, volume: &Volume) -> Known {
    let slot = volume.slot.and_then(|slot| survey.slots.get(slot));
    let number = volume.id.split_once(':').and_then(|(_, number)| number.parse().ok());
    let partition = slot
        .and_then(|slot| slot.table.as_ref())
        .and_then(|table| table.partitions().iter().find(|part| Some(part.number) == number));
    let point = volume.needs.as_ref().and_then(|needs| needs.last_mounted.clone());
    Known {
        id: volume.id.clone(),
        disk: slot.map(|slot| slot.id.clone()).unwrap_or_default(),
        number: number.filter(|_| volume.kind == Kind::Partition),
        content: volume.content.clone(),
        uuid: volume.uuid.clone(),
        label: volume.label.clone(),
        part_uuid: partition.and_then(|part| part.uuid.clone()),
        part_label: partition.and_then(|part| part.name.clone()),
        point: point.filter(|point| point.starts_with('/')),
        size: volume.size().get(),
    }
}

fn pvs(survey: &Survey) -> Vec<(String, Vec<String>)> {
    let one = |volume: &Volume| {
        let hardware = &survey.slots.get(volume.slot?)?.hardware;
        let ids = [&hardware.wwn, &hardware.serial].into_iter().flatten();
        let ids = ids.map(|id| id.trim_start_matches("0x").to_owned()).collect();
        Some((volume.uuid.clone()?, ids))
    };
    survey.volumes.iter().filter(|volume| volume.is_pv).filter_map(one).collect()
}

fn disk(slot: &Slot) -> Result<Disk> {
    let is_device = slot.path.metadata().is_ok_and(|found| found.file_type().is_block_device());
    let drivers =
        if is_device { controller::modules(&slot.path).unwrap_or_default() } else { Vec::new() };
    let room = slot.table.as_ref().and_then(room);
    let (code, core) = if slot.whole { code(&slot.source)? } else { (Code::Other, None) };
    Ok(Disk { id: slot.id.clone(), path: slot.path.clone(), is_device, drivers, code, core, room })
}

/// Where GRUB's core belongs: the BIOS boot partition, or the space behind an MBR.
fn room(table: &Table) -> Option<Extent> {
    let partitions = table.partitions();
    match table {
        Table::Gpt(_) => {
            let bios = |part: &&Partition| part.kind == "21686148-6449-6e6f-744e-656564454649";
            partitions.iter().find(bios).map(|part| part.extent)
        }
        Table::Mbr(_) => {
            let first = partitions.iter().filter(|part| part.role() != PartitionRole::Extended);
            let first = first
                .map(|part| part.extent.start)
                .chain(partitions.iter().map(|part| part.extent.start));
            let end = first.min().unwrap_or(Bytes::MIB).min(Bytes::MIB);
            (end > grub::SECTOR).then(|| Extent::new(grub::SECTOR, end))
        }
    }
}

fn code(source: &dyn BlockSource) -> Result<(Code, Option<Core>)> {
    let sector = source.read(Bytes::ZERO, 512)?;
    let Some(place) = grub::core_of(&sector) else {
        let empty = sector.get(..440).is_some_and(|code| code.iter().all(|byte| *byte == 0));
        return Ok((if empty { Code::Empty } else { Code::Other }, None));
    };
    let Some(left) = source.size().checked_sub(place).filter(|left| !left.is_zero()) else {
        let why = "its core would lie behind the end of the disk";
        return Ok((Code::Broken(why.to_owned()), None));
    };
    let core = source.read(place, left.min(LONGEST_CORE).index().unwrap_or(0))?;
    let found = match grub::check(&core, place) {
        Ok(()) => Code::Whole,
        // In pieces, or of another GRUB: nothing is known against it.
        Err(Error::Unsupported { .. }) if !is_lost(&core) => Code::Whole,
        Err(_) if is_lost(&core) => {
            Code::Broken("there is no core where its boot code looks for it".to_owned())
        }
        Err(error) => Code::Broken(error.to_string()),
    };
    Ok((found, Some((place, core))))
}

/// Whether a core begins with no block list at all.
fn is_lost(core: &[u8]) -> bool {
    let list = core.get(500..512).unwrap_or_default();
    let segment = list
        .get(10..12)
        .and_then(|bytes| bytes.first_chunk())
        .map(|bytes| u16::from_le_bytes(*bytes));
    segment != Some(0x820)
}

fn esp(runner: &dyn Runner, server: &Call, place: &Layout) -> Result<Option<EspSight>> {
    let trial = Trial::open(place, server)?;
    let path = trial.path();
    let esp = Esp { runner, image: &path };
    let files = esp.list()?;
    let found =
        |name: &&String| name.to_ascii_lowercase().starts_with("efi/") || is_configuration(name);
    if !files.iter().any(|name| found(&name)) {
        trial.close()?;
        return Ok(None);
    }
    let mut texts = BTreeMap::new();
    for name in files.iter().filter(|name| is_configuration(name)) {
        texts.insert(name.clone(), esp.read(name)?);
    }
    let named = |wanted: &str| {
        files.iter().find(|name| name.to_ascii_lowercase().ends_with(wanted)).cloned()
    };
    let mut starts_shim = false;
    for machine in ["x64", "aa64", "ia32"] {
        let boot = named(&format!("efi/boot/boot{machine}.efi"));
        let shim = named(&format!("/shim{machine}.efi"));
        if let (Some(boot), Some(shim)) = (boot, shim) {
            starts_shim |= esp.read(&boot)? == esp.read(&shim)?;
        }
    }
    trial.close()?;
    Ok(Some(EspSight { files, texts, starts_shim }))
}

fn sight(server: &Call, place: &Layout, (kind, options): (&str, &str), own: bool) -> Result<Sight> {
    let trial = Trial::open(place, server)?;
    let seen = trial.mounted(kind, options, true, |folder| {
        let root = Root::of(folder)?;
        let own = if own { personal::see(&root)? } else { Own::default() };
        Ok(Sight { own, ..see(&root)? })
    });
    // What it saw of a volume that could not be read is not believed.
    trial.close()?;
    seen
}

/// What is on the filesystem `root`.
pub(super) fn see(root: &Root) -> Result<Sight> {
    let mut sight = Sight::default();
    let names = files::names(root)?.into_iter().chain(NAMES.map(str::to_owned));
    let mut inodes = Vec::new();
    for name in names {
        let Some((file, text)) = root.read(&name, OFlags::RDONLY)? else { continue };
        // One file under two names, by a link, is one file.
        let inode = file.metadata().map(|found| found.ino()).unwrap_or_default();
        if !inodes.contains(&inode) {
            inodes.push(inode);
            sight.files.insert(name, text);
        }
    }
    sight.system = system(root, &sight.files)?;
    for (name, builder) in [
        ("usr/sbin/update-initramfs", Builder::UpdateInitramfs),
        ("usr/bin/dracut", Builder::Dracut),
        ("usr/sbin/dracut", Builder::Dracut),
        ("usr/bin/mkinitcpio", Builder::Mkinitcpio),
    ] {
        if root.has(name)? {
            sight.builders.insert(builder);
        }
    }
    kernels(root, &mut sight)?;
    for prefix in ["", "boot/"] {
        ramdisks(root, prefix, &mut sight)?;
        for folder in ["grub", "grub2"] {
            let read =
                |name: &str| root.read(&format!("{prefix}{folder}/i386-pc/{name}"), OFlags::RDONLY);
            if let (Some((_, boot)), Some((_, core))) = (read("boot.img")?, read("core.img")?) {
                sight.grub = Some([boot, core]);
            }
        }
    }
    Ok(sight)
}

/// What the system whose root this is calls itself.
fn system(root: &Root, files: &BTreeMap<String, Vec<u8>>) -> Result<Option<String>> {
    let text = |name: &str| files.get(name).map(|text| String::from_utf8_lossy(text).into_owned());
    let release = NAMES.iter().take(2).find_map(|name| text(name));
    let (Some(release), true) = (release, root.has("etc/fstab")? || root.has("sbin/init")?) else {
        return Ok(None);
    };
    let name =
        release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("a Linux");
    let host =
        text("etc/hostname").map(|host| host.trim().to_owned()).filter(|host| !host.is_empty());
    let words = match host {
        Some(host) => format!("{}, {host}", name.trim_matches('"')),
        None => name.trim_matches('"').to_owned(),
    };
    Ok(Some(words.chars().filter(|c| !c.is_control()).take(200).collect()))
}

fn kernels(root: &Root, sight: &mut Sight) -> Result<()> {
    let folder = "usr/lib/modules";
    let folders =
        if root.has(folder)? { root.list(folder, "")? } else { root.list("lib/modules", "")? };
    for path in folders.into_iter().take(MOST_KERNELS) {
        let read = |name: &str| -> Result<Option<Vec<u8>>> {
            Ok(root.read(&format!("{path}/{name}"), OFlags::RDONLY)?.map(|(_, text)| text))
        };
        let Some(version) = path.rsplit('/').next().map(str::to_owned) else { continue };
        if let Some(dep) = read("modules.dep")? {
            let builtin = read("modules.builtin")?.unwrap_or_default();
            if let Some(package) = read("pkgbase")? {
                let package = String::from_utf8_lossy(&package).trim().to_owned();
                sight.packages.insert(package, version.clone());
            }
            sight.kernels.insert(version, Kernel::of(&builtin, &dep));
        }
    }
    Ok(())
}

fn ramdisks(root: &Root, prefix: &str, sight: &mut Sight) -> Result<()> {
    let folder = if prefix.is_empty() { "." } else { "boot" };
    for path in root.list(folder, "")? {
        let Some(last) = path.rsplit('/').next() else { continue };
        if !["initrd", "initramfs"].iter().any(|start| last.starts_with(start)) {
            continue;
        }
        if let Some(file) = root.file(&path)? {
            sight.ramdisks.insert(format!("{prefix}{last}"), ramdisk::read(file));
        }
    }
    Ok(())
}

/// Where a volume lies on what `paths` names.
pub(super) fn place(
    survey: &Survey,
    id: &str,
    paths: &dyn Fn(usize) -> Option<PathBuf>,
) -> Result<Layout> {
    let volume = survey.volumes.iter().find(|volume| volume.id == id);
    layout(survey, volume.ok_or_else(|| Error::refused(format!("there is no volume {id}")))?, paths)
}

/// Whether this machine was started by UEFI, and so knows boot entries.
pub(super) fn by_uefi() -> bool {
    Path::new("/sys/firmware/efi/efivars").exists()
}
