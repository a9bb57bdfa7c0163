//! A Debian 12 that boots by BIOS and by UEFI, in raw files, made without device-mapper.
//!
//! A BIOS boot partition (or the gap behind the MBR) with GRUB, an ESP with shim and the signed GRUB, an
//! ext4 `/boot`, and the volume group `vg0` with `root` (ext4), `srv` (XFS) and `swap`. Once it has come up
//! as far as it ever will, it says on its second serial port how it is, and powers itself off: see
//! [`crate::vm`].
//!
//! [`root`] has the files of the system.

mod root;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::filesystem::{self, uuid};
use crate::vg::Vg;
use crate::{call, grub, run, sparse, table, tool};

/// How the disks are divided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// One disk with a GPT.
    Gpt,
    /// One disk with an MBR.
    Mbr,
    /// A disk with a GPT and a second one that is a bare physical volume; `root` lies on both.
    TwoDisks,
    /// The same disks; `root` has three pieces, with other volumes between them.
    Pieces,
    /// As with two disks, and a third that is a bare physical volume too, with `srv` on it.
    ThreeDisks,
}

/// Disks that boot.
#[derive(Clone, Debug)]
pub struct DebianDisk {
    /// The image files, in the order in which a machine has them.
    pub disks: Vec<PathBuf>,
}

const DISK: Bytes = Bytes::gib(3);
const SECOND_DISK: Bytes = Bytes::gib(2);
const THIRD_DISK: Bytes = Bytes::gib(1);
const ROOT: Bytes = Bytes::mib(1536);
const SRV: Bytes = Bytes::mib(512);
const SWAP: Bytes = Bytes::mib(128);

/// The identifiers that fstab and GRUB point at.
struct Ids {
    root: String,
    boot: String,
    srv: String,
    swap: String,
    /// The FAT serial, eight hexadecimal digits.
    esp: String,
}

impl Ids {
    fn new() -> Result<Self> {
        let esp = uuid()?.replace('-', "").chars().take(8).collect::<String>().to_uppercase();
        Ok(Self { root: uuid()?, boot: uuid()?, srv: uuid()?, swap: uuid()?, esp })
    }

    /// The FAT serial as fstab writes it.
    fn esp_dashed(&self) -> String {
        let (high, low) = self.esp.split_at(4);
        format!("{high}-{low}")
    }
}

/// The places of one disk that is being made.
struct Places {
    disk: PathBuf,
    /// Where GRUB's core goes.
    core: Bytes,
    esp: Extent,
    boot: Extent,
    pvs: Vec<(PathBuf, Extent)>,
}

/// Makes disks in `folder`, which is there; needs root, loop devices and, the first time, a Debian mirror.
///
/// # Errors
/// A tool is missing or fails.
pub fn make(layout: Layout, folder: &Path) -> Result<DebianDisk> {
    let tar = root::tar()?;
    let work = TempDir::new()?;
    let ids = Ids::new()?;
    let places = partition(layout, folder)?;
    let vg = Vg::create("vg0", &places.pvs)?;
    allocate(&vg, layout)?;

    let (root, boot) = root::unpack(&tar, work.path(), &ids)?;
    let image = work.path().join("image");
    filesystem::ext4(&image, places.boot.len(), ["boot", &ids.boot], &boot)?;
    sparse::copy(&image, Extent::first(places.boot.len()), &places.disk, places.boot.start)?;
    filesystem::ext4(&image, ROOT, ["root", &ids.root], &root)?;
    vg.put("root", &image)?;
    filesystem::xfs(&image, SRV, ["srv", &ids.srv])?;
    filesystem::filled(&image, root::fill_srv)?;
    vg.put("srv", &image)?;
    filesystem::swap(&image, SWAP, ["swap", &ids.swap])?;
    vg.put("swap", &image)?;
    efi_system(&image, places.esp.len(), &ids, work.path())?;
    sparse::copy(&image, Extent::first(places.esp.len()), &places.disk, places.esp.start)?;
    grub::install(&places.disk, places.core, &ids.boot, work.path())?;

    let mut disks: Vec<PathBuf> = places.pvs.into_iter().map(|(disk, _)| disk).collect();
    disks.dedup();
    Ok(DebianDisk { disks })
}

fn partition(layout: Layout, folder: &Path) -> Result<Places> {
    let disk = folder.join("disk0.img");
    sparse::create(&disk, DISK)?;
    let parts = if layout == Layout::Mbr {
        let script =
            "label: dos\nstart=2048,size=64M,type=ef\nsize=192M,type=83,bootable\ntype=8e\n";
        tool::run(&call!("sfdisk", "--quiet", &disk).stdin(script))?;
        table::partitions(&disk)?
    } else {
        run!(
            "sgdisk",
            "-n1:2048:4095",
            "-t1:ef02",
            "-n2:4096:+64M",
            "-t2:ef00",
            "-n3:0:+192M",
            "-t3:8300",
            "-n4:0:0",
            "-t4:8e00",
            &disk
        )?;
        table::partitions(&disk)?.split_off(1)
    };
    let [esp, boot, pv] = parts.as_slice() else { anyhow::bail!("partitions {parts:?}") };
    // GPT: the BIOS boot partition; MBR: the gap behind the table's sector.
    let core = if layout == Layout::Mbr { Bytes::new(512) } else { Bytes::MIB };
    let mut pvs = vec![(disk.clone(), *pv)];
    let bare: &[Bytes] = match layout {
        Layout::Gpt | Layout::Mbr => &[],
        Layout::TwoDisks | Layout::Pieces => &[SECOND_DISK],
        Layout::ThreeDisks => &[SECOND_DISK, THIRD_DISK],
    };
    for (at, size) in bare.iter().enumerate() {
        let path = folder.join(format!("disk{}.img", at + 1));
        sparse::create(&path, *size)?;
        pvs.push((path, Extent::first(*size)));
    }
    Ok(Places { core, esp: *esp, boot: *boot, pvs, disk })
}

fn allocate(vg: &Vg, layout: Layout) -> Result<()> {
    match layout {
        Layout::Gpt | Layout::Mbr => vg.add("root", ROOT, None)?,
        Layout::TwoDisks | Layout::ThreeDisks => {
            vg.add("root", Bytes::mib(768), Some(0))?;
            vg.extend("root", ROOT, Some(1))?;
        }
        Layout::Pieces => {
            vg.add("root", Bytes::mib(512), Some(0))?;
            vg.add("srv", SRV, Some(1))?;
            vg.extend("root", Bytes::gib(1), Some(1))?;
            vg.add("swap", SWAP, Some(0))?;
            return vg.extend("root", ROOT, Some(0));
        }
    }
    vg.add("srv", SRV, (layout == Layout::ThreeDisks).then_some(2))?;
    vg.add("swap", SWAP, None)
}

/// The EFI system partition as Debian's packages fill it, with shim in the fallback place too: a fresh
/// machine has no boot entry.
fn efi_system(image: &Path, size: Bytes, ids: &Ids, work: &Path) -> Result<()> {
    let config = work.join("efi.cfg");
    let boot = &ids.boot;
    fs::write(
        &config,
        format!(
            "search.fs_uuid {boot} root\nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n"
        ),
    )?;
    let shim = Path::new("/usr/lib/shim/shimx64.efi.signed");
    let mok = Path::new("/usr/lib/shim/mmx64.efi.signed");
    let grub = Path::new("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed");
    for part in [shim, mok, grub] {
        fs::metadata(part).with_context(|| format!("{part:?} is missing: run scripts/install"))?;
    }
    let files = [
        ("EFI/debian/shimx64.efi", shim),
        ("EFI/debian/grubx64.efi", grub),
        ("EFI/debian/mmx64.efi", mok),
        ("EFI/debian/grub.cfg", config.as_path()),
        ("EFI/BOOT/BOOTX64.EFI", shim),
        ("EFI/BOOT/grubx64.efi", grub),
        ("EFI/BOOT/mmx64.efi", mok),
    ];
    filesystem::fat32(image, size, ["ESP", &ids.esp], &files)
}
