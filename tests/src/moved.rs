//! A small system in a file that came from another machine: everything on its disk that `keiki repair` mends is
//! broken. It boots nothing; it has a program that makes its initramfs, and a shell to run that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;

use crate::filesystem::{self, uuid};
use crate::vg::Vg;
use crate::{call, grub, run, sparse, table, tool};

/// The disk, and what is on it.
#[derive(Clone, Debug)]
pub struct Moved {
    /// The image file.
    pub disk: PathBuf,
    /// Where its partitions lie: BIOS boot, EFI system, root, swap, physical volume.
    pub parts: Vec<Extent>,
    /// The UUIDs of the root and of the swap area.
    pub ids: [String; 2],
}

/// The version of its kernel.
pub const KERNEL: &str = "6.1.0-test";
/// Where its initramfs is.
pub const RAMDISK: &str = "boot/initrd.img-6.1.0-test";

/// What the program that makes the initramfs does: with every driver if it is told so, and it sees no disks but its
/// own.
const UPDATE_INITRAMFS: &str = "#!/bin/sh\nset -eu\n[ \"$*\" = '-u -k all' ]\n\
    . /etc/initramfs-tools/conf.d/zzz-keiki\n[ \"$MODULES\" = most ]\n\
    : > /dev/null\n[ -d /proc/self ] && [ -d /sys/class ]\n\
    for other in /dev/sda /dev/vda /dev/nvme0n1; do [ ! -e $other ]; done\n\
    cp /boot/every-driver /boot/initrd.img-6.1.0-test\n";

/// An initramfs with these modules, not compressed.
pub fn ramdisk(modules: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let names = modules.iter().map(|name| format!("usr/lib/modules/{KERNEL}/kernel/{name}.ko"));
    for name in names.chain(["TRAILER!!!".to_owned()]) {
        let fields = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() + 1, 0];
        out.extend(b"070701");
        out.extend(fields.map(|field| format!("{field:08x}")).concat().bytes());
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// The initramfs `bytes`, compressed by zstd, without the modules `names`.
///
/// # Errors
/// It is no such initramfs.
pub fn without(bytes: &[u8], names: &[&str]) -> Result<Vec<u8>> {
    let plain = tool::outcome(&call!("zstd", "-dc").stdin(bytes))?.stdout;
    let (mut new, mut at) = (Vec::new(), 0);
    loop {
        let field = |number: usize| -> Result<usize> {
            let digits =
                plain.get(at + 6 + 8 * number..at + 14 + 8 * number).context("a header")?;
            Ok(usize::from_str_radix(std::str::from_utf8(digits)?, 16)?)
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let name = plain.get(at + 110..at + 109 + name_size).context("a name")?;
        let end = ((at + 110 + name_size).next_multiple_of(4) + size).next_multiple_of(4);
        let module = |module: &&str| name.ends_with(format!("/{module}.ko").as_bytes());
        if !names.iter().any(module) {
            new.extend(plain.get(at..end).context("a file")?);
        }
        if name == b"TRAILER!!!" {
            break;
        }
        at = end;
    }
    Ok(tool::outcome(&call!("zstd", "-3", "-c").stdin(new))?.stdout)
}

/// Makes the disk `moved.img` in `folder`.
///
/// # Errors
/// A tool is missing or fails; no root, no loop devices.
pub fn make(folder: &Path) -> Result<Moved> {
    let disk = folder.join("moved.img");
    sparse::create(&disk, Bytes::mib(160))?;
    run!(
        "sgdisk",
        "-n1:2048:+1M",
        "-t1:ef02",
        "-n2:0:+40M",
        "-t2:ef00",
        "-n3:0:+64M",
        "-n4:0:+8M",
        "-t4:8200",
        "-n5:0:0",
        "-t5:8e00",
        &disk
    )?;
    let parts = table::partitions(&disk)?;
    let ids = [uuid()?, uuid()?];
    let root = folder.join("moved-root");
    system(&root, folder, &ids)?;
    let image = folder.join("moved.part");
    let part = |at: usize| parts.get(at).copied().context("a partition");
    let put = |at: usize| -> Result<()> {
        let extent = part(at)?;
        sparse::copy(&image, Extent::first(extent.len()), &disk, extent.start)
    };
    let loader = Path::new("/usr/lib/shim/shimx64.efi.signed");
    let signed = Path::new("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed");
    let mok = Path::new("/usr/lib/shim/mmx64.efi.signed");
    let files = [
        ("EFI/debian/shimx64.efi", loader),
        ("EFI/debian/grubx64.efi", signed),
        ("EFI/debian/mmx64.efi", mok),
    ];
    filesystem::fat32(&image, part(1)?.len(), ["ESP", "1A2B3C4D"], &files)?;
    put(1)?;
    filesystem::ext4(&image, part(2)?.len(), ["root", &ids[0]], &root)?;
    put(2)?;
    filesystem::swap(&image, part(3)?.len(), ["swap", &ids[1]])?;
    put(3)?;
    drop(Vg::create("vg0", &[(disk.clone(), part(4)?)])?);
    Ok(Moved { disk, parts, ids })
}

/// The files of its root.
fn system(root: &Path, work: &Path, ids: &[String; 2]) -> Result<()> {
    let write = |name: &str, text: &[u8]| -> Result<()> {
        let path = root.join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, text)?;
        Ok(())
    };
    for folder in ["dev", "proc", "sys", "run", "tmp", "etc/initramfs-tools/conf.d"] {
        fs::create_dir_all(root.join(folder))?;
    }
    write("etc/os-release", b"PRETTY_NAME=\"Orchid 1\"\n")?;
    write("etc/hostname", b"moved\n")?;
    write(
        "etc/fstab",
        b"/dev/vda3 / ext4 defaults 0 1\n/dev/vda2 /boot/efi vfat umask=0077 0 0\n/dev/vda4 none swap sw 0 0\n",
    )?;
    write(
        "etc/initramfs-tools/conf.d/resume",
        b"RESUME=UUID=11111111-2222-3333-4444-555555555555\n",
    )?;
    write("etc/initramfs-tools/initramfs.conf", b"MODULES=dep\n")?;
    write(
        "etc/lvm/devices/system.devices",
        b"IDTYPE=sys_wwid IDNAME=naa.5 DEVNAME=/dev/sda5 PVID=x PART=5\n",
    )?;
    let grub_cfg = "linux /vmlinuz root=/dev/vda3 ro resume=/dev/vda4 quiet\ninitrd /initrd.img\n";
    write("boot/grub/grub.cfg", grub_cfg.as_bytes())?;
    write("boot/grub/i386-pc/boot.img", &fs::read(grub::BOOT_CODE_FILE)?)?;
    write("boot/grub/i386-pc/core.img", &grub::core(&ids[0], work)?)?;
    let modules = ["ahci", "nvme", "sd_mod", "virtio_blk"];
    let dep: String = modules.iter().map(|name| format!("kernel/{name}.ko:\n")).collect();
    write(&format!("usr/lib/modules/{KERNEL}/modules.dep"), dep.as_bytes())?;
    write(&format!("usr/lib/modules/{KERNEL}/modules.builtin"), b"kernel/virtio_pci.ko\n")?;
    write(RAMDISK, &ramdisk(&["virtio_blk"]))?;
    write("boot/every-driver", &ramdisk(&modules))?;
    write("usr/sbin/update-initramfs", UPDATE_INITRAMFS.as_bytes())?;
    fs::set_permissions(root.join("usr/sbin/update-initramfs"), fs::Permissions::from_mode(0o755))?;
    for program in ["/bin/sh", "/bin/cp"] {
        program_of_this_machine(root, program)?;
    }
    Ok(())
}

/// Copies a program, and the libraries that it needs.
fn program_of_this_machine(root: &Path, program: &str) -> Result<()> {
    let libraries = run!("ldd", program)?;
    let files = libraries.split_whitespace().filter(|word| word.starts_with('/')).chain([program]);
    for file in files {
        let place = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(place.parent().context("a folder")?)?;
        fs::copy(file, place)?;
    }
    Ok(())
}
