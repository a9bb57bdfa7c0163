//! The files of a restored system that name devices, on a mounted filesystem.
//!
//! Files are rewritten in place: owner, mode and attributes stay.

use std::io::{Seek, Write};
use std::path::Path;

use rustix::fs::OFlags;

use super::root::Root;
use super::{References, Renewed, Traits, unsteady};
use crate::error::{Error, Result};

/// Files that name devices, from the root of `/`.
const FILES: [&str; 10] = [
    "etc/fstab",
    "etc/crypttab",
    "etc/crypttab.initramfs",
    "etc/default/grub",
    "etc/default/u-boot",
    "etc/default/extlinux",
    "etc/default/flash-kernel",
    "etc/kernel/cmdline",
    "etc/initramfs-tools/initramfs.conf",
    "etc/dracut.conf",
];

/// Folders of such files, and how their names end.
const FOLDERS: [(&str, &str); 8] = [
    ("etc/default/grub.d", ".cfg"),
    ("etc/grub.d", ""),
    ("etc/udev/rules.d", ".rules"),
    ("etc/initramfs-tools/conf.d", ""),
    ("etc/dracut.conf.d", ".conf"),
    ("etc/cmdline.d", ".conf"),
    ("etc/systemd/system", ".mount"),
    ("etc/systemd/system", ".swap"),
];

/// The same of `/boot`, which may be a filesystem of its own or a folder of `/`.
const BOOT_FILES: [&str; 15] = [
    "grub/grub.cfg",
    "grub/custom.cfg",
    "grub/grubenv",
    "grub2/grub.cfg",
    "grub2/custom.cfg",
    "grub2/grubenv",
    "extlinux/extlinux.conf",
    "syslinux/syslinux.cfg",
    "refind_linux.conf",
    "limine.conf",
    // Of boards that start by U-Boot or by their own firmware.
    "cmdline.txt",
    "uEnv.txt",
    "armbianEnv.txt",
    // What the next grub-install of GRUB's own programs builds in.
    "grub/i386-pc/load.cfg",
    "grub/x86_64-efi/load.cfg",
];
const BOOT_FOLDER: (&str, &str) = ("loader/entries", ".conf");

/// What LVM may activate, by the names of groups.
const LVM_FILES: [&str; 2] = ["etc/lvm/lvm.conf", "etc/lvm/lvmlocal.conf"];

/// LVM's list of the devices that it may use, which names the disks of the source: its folder, its name, and the
/// name under which it is put aside. Without the file LVM uses every device, with an empty one none.
const DEVICES_FILE: [&str; 3] = ["etc/lvm/devices", "system.devices", "system.devices.old"];

/// Rewrites what is there of them on the filesystem mounted on `root`.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn rewrite(root: &Path, references: &References) -> Result<Renewed> {
    let root = Root::of(root)?;
    let mut renewed = Renewed::default();
    for name in names(&root)? {
        let (changed, unsteady) = root.rewrite(&name, references)?;
        renewed.unsteady.extend(unsteady.map(|device| format!("{device} in {name}")));
        if changed {
            renewed.changed.push(name);
        }
    }
    if root.set_aside(DEVICES_FILE)? {
        renewed.changed.push(DEVICES_FILE[..2].join("/"));
    }
    renewed.traits = root.traits(&renewed.changed)?;
    Ok(renewed)
}

/// The paths of all files that may name devices, whether they are there or not.
pub(crate) fn names(root: &Root) -> Result<Vec<String>> {
    let mut names: Vec<String> = FILES.map(str::to_owned).to_vec();
    names.extend(LVM_FILES.map(str::to_owned));
    for (folder, end) in FOLDERS {
        names.extend(root.list(folder, end)?);
    }
    for boot in ["", "boot/"] {
        names.extend(BOOT_FILES.map(|name| format!("{boot}{name}")));
        names.extend(root.list(&format!("{boot}{}", BOOT_FOLDER.0), BOOT_FOLDER.1)?);
    }
    Ok(names)
}

impl Root {
    /// Whether there was something to replace; and a device in it whose name does not say which one it is.
    fn rewrite(&self, name: &str, references: &References) -> Result<(bool, Option<String>)> {
        let Some((mut file, old)) = self.read(name, OFlags::RDWR)? else {
            return Ok(Default::default());
        };
        let new = match references.apply(&old) {
            _ if LVM_FILES.contains(&name) => references.apply_to_lvm(&old),
            new => new.map(|new| padded(name, new)),
        };
        let unsteady = unsteady::device(name, new.as_deref().unwrap_or(&old));
        let Some(new) = new else { return Ok((false, unsteady)) };
        let failed = |error| Error::io(name, "rewrite", error);
        file.rewind().map_err(failed)?;
        file.write_all(&new).map_err(failed)?;
        file.set_len(u64::try_from(new.len()).unwrap_or(u64::MAX)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        Ok((true, unsteady))
    }

    fn traits(&self, changed: &[String]) -> Result<Traits> {
        let is_there = |name: &str| Ok(self.open(name, OFlags::DIRECTORY)?.is_some());
        let dracut = is_there("usr/lib/dracut")? || is_there("etc/dracut.conf.d")?;
        let debian = is_there("etc/initramfs-tools")?;
        let inside = ["etc/crypttab", "etc/initramfs-tools", "etc/dracut", "etc/lvm/lvm"];
        let copied = changed.iter().any(|name| inside.iter().any(|start| name.starts_with(start)));
        let copies_resume = debian && !self.refuses_resume()?;
        Ok(Traits {
            initramfs_knows: copied || copies_resume || dracut,
            dracut,
            ..Traits::default()
        })
    }

    /// Whether initramfs-tools is told not to look for a swap area: else it copies the UUID of the largest
    /// one into the initramfs (initramfs.conf(5), `RESUME`).
    fn refuses_resume(&self) -> Result<bool> {
        let mut names = self.list("etc/initramfs-tools/conf.d", "")?;
        names.push("etc/initramfs-tools/initramfs.conf".to_owned());
        for name in names {
            let text = self.read(&name, OFlags::RDONLY)?.map(|(_, text)| text).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            if text.lines().any(|line| line.trim().eq_ignore_ascii_case("RESUME=none")) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The block that GRUB's environment always has (GRUB manual, "The GRUB environment block").
const GRUBENV: usize = 1024;

/// `text` as the file `name` has to have it: GRUB's environment is filled up to its size.
pub fn padded(name: &str, mut text: Vec<u8>) -> Vec<u8> {
    if name.rsplit('/').next().is_some_and(|last| last.eq_ignore_ascii_case("grubenv")) {
        while text.last() == Some(&b'#') {
            text.pop();
        }
        text.resize(text.len().max(GRUBENV), b'#');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::{padded, rewrite};
    use crate::fixup::References;

    const IDS: [&str; 2] =
        ["0a1b2c3d-1111-2222-3333-0123456789ab", "ffffffff-aaaa-4bbb-8ccc-dddddddddddd"];

    #[test]
    fn only_files_of_the_restored_system_are_rewritten() {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
        let line = format!("UUID={} / ext4\n", IDS[0]);
        fs::create_dir_all(root.join("etc/default")).unwrap();
        fs::create_dir_all(root.join("boot/loader/entries")).unwrap();
        fs::write(&outside, &line).unwrap();
        fs::write(root.join("etc/fstab"), &line).unwrap();
        fs::set_permissions(root.join("etc/fstab"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&outside, root.join("etc/crypttab")).unwrap();
        symlink("../../../outside", root.join("etc/default/grub")).unwrap();
        fs::write(root.join("boot/loader/entries/a.conf"), &line).unwrap();
        fs::write(root.join("boot/loader/entries/a.txt"), &line).unwrap();
        symlink("/boot/loader/entries/a.conf", root.join("boot/loader/entries/b.conf")).unwrap();
        let mut references = References::default();
        references.id(IDS[0], IDS[1]);
        let renewed = rewrite(&root, &references).unwrap();
        assert_eq!(renewed.changed, ["etc/fstab", "boot/loader/entries/a.conf"]);
        let new = line.replace(IDS[0], IDS[1]);
        for name in renewed.changed {
            assert_eq!(fs::read_to_string(root.join(name)).unwrap(), new);
        }
        assert_eq!(
            fs::metadata(root.join("etc/fstab")).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(fs::read_to_string(outside).unwrap(), line);
        assert_eq!(fs::read_to_string(root.join("boot/loader/entries/a.txt")).unwrap(), line);
    }

    #[test]
    fn the_environment_of_grub_keeps_its_size() {
        let old = format!("# GRUB Environment Block\nroot=lvm/a-b\n{}", "#".repeat(900));
        assert_eq!(padded("grub/grubenv", old.clone().into_bytes()).len(), 1024);
        assert_eq!(padded("grub/grub.cfg", old.clone().into_bytes()), old.into_bytes());
    }
}
