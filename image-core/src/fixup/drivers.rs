//! Which drivers an initramfs needs to find its disk, and which it lacks.

use std::collections::BTreeSet;

use super::ramdisk::{self, Ramdisk};

/// The drivers of the controllers that most machines have, for a system that may come to any of them.
pub const USUAL: [&str; 6] = ["ahci", "nvme", "sd_mod", "virtio_blk", "virtio_pci", "virtio_scsi"];

/// What a kernel has: drivers in itself, and modules.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Kernel {
    /// From `modules.builtin`.
    pub builtin: BTreeSet<String>,
    /// From `modules.dep`.
    pub modules: BTreeSet<String>,
}

impl Kernel {
    /// Of the two files in its folder of modules.
    pub fn of(builtin: &[u8], dep: &[u8]) -> Self {
        let modules = |text: &[u8]| -> BTreeSet<String> {
            let text = String::from_utf8_lossy(text);
            let path =
                |line: &str| ramdisk::module(line.split(':').next().unwrap_or_default().trim());
            text.lines().filter_map(path).collect()
        };
        Self { builtin: modules(builtin), modules: modules(dep) }
    }

    /// Those of `wanted` that it does not have at all.
    pub fn lacks<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        let has = |name: &&str| self.builtin.contains(*name) || self.modules.contains(*name);
        wanted.iter().copied().filter(|name| !has(name)).collect()
    }

    /// Those of `wanted` that it has as modules and `ramdisk` has not.
    pub fn missing<'a>(&self, wanted: &[&'a str], ramdisk: &Ramdisk) -> Vec<&'a str> {
        let missing =
            |name: &&str| self.modules.contains(*name) && !ramdisk.modules.contains(*name);
        wanted.iter().copied().filter(missing).collect()
    }
}

/// The version of the kernel that an initramfs is of, by its name: `initrd.img-6.1.0-9-amd64`,
/// `initramfs-5.14.0-70.el9.x86_64.img`, `initrd-6.4.0-150600-default`.
pub fn version(name: &str) -> Option<&str> {
    let last = name.rsplit('/').next()?;
    if ["kdump", "rescue", ".old", ".bak", ".new", ".dpkg-"]
        .iter()
        .any(|other| last.contains(other))
    {
        return None;
    }
    let rest = ["initrd.img-", "initramfs-", "initrd-"]
        .iter()
        .find_map(|start| last.strip_prefix(start))?;
    let version = rest.strip_suffix(".img").unwrap_or(rest);
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::{Kernel, version};
    use crate::fixup::ramdisk::Ramdisk;

    #[test]
    fn only_what_the_kernel_has_as_a_module_can_be_missing() {
        let kernel = Kernel::of(
            b"kernel/drivers/virtio/virtio_pci.ko\n",
            b"kernel/a/nvme.ko.xz: kernel/a/nvme-core.ko.xz\n",
        );
        let ramdisk = Ramdisk::default();
        let wanted = ["virtio_pci", "nvme", "ahci"];
        assert_eq!(kernel.missing(&wanted, &ramdisk), ["nvme"]);
        assert_eq!(kernel.lacks(&wanted), ["ahci"]);
        let ramdisk = Ramdisk { modules: ["nvme".to_owned()].into(), ..ramdisk };
        assert!(kernel.missing(&wanted, &ramdisk).is_empty());
    }

    #[test]
    fn the_kernel_of_an_initramfs_is_in_its_name() {
        for (name, expected) in [
            ("boot/initrd.img-6.1.0-9-amd64", Some("6.1.0-9-amd64")),
            ("initramfs-5.14.0-70.el9.x86_64.img", Some("5.14.0-70.el9.x86_64")),
            ("initrd-6.4.0-150600-default", Some("6.4.0-150600-default")),
            ("initramfs-5.14.0-70.el9.x86_64kdump.img", None),
            ("initramfs-0-rescue-abc.img", None),
            ("initramfs-linux.img", None),
            ("initrd.img-6.1.0-9-amd64.old-dkms", None),
            ("vmlinuz-6.1", None),
        ] {
            assert_eq!(version(name), expected, "{name}");
        }
    }
}
