//! What was found on the disks of a system: values, made by `look`, judged by `decide` and `boot`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::extent::Extent;
use crate::fixup::devices::Known;
use crate::fixup::drivers::Kernel;
use crate::fixup::ramdisk::Ramdisk;
use crate::units::Bytes;

/// Everything.
#[derive(Default, Debug)]
pub(crate) struct Facts {
    /// The targets, in the order in which they were named.
    pub(crate) disks: Vec<Disk>,
    /// Every volume on them.
    pub(crate) known: Vec<Known>,
    /// What is on those that a kernel can mount, by their ids.
    pub(crate) sights: BTreeMap<String, Sight>,
    /// What is on EFI system partitions.
    pub(crate) esps: BTreeMap<String, EspSight>,
    /// The Windows on volumes where there is one; or why that cannot be told. Looked for where it gets a name.
    pub(crate) windows: BTreeMap<String, Result<Windows, String>>,
    /// Volumes that may hold a system and cannot be looked into, with the reason.
    pub(crate) closed: Vec<(String, String)>,
    /// The physical volumes: their UUIDs, and what tells the disk that each is on.
    pub(crate) pvs: Vec<(String, Vec<String>)>,
}

/// A target.
#[derive(Default, Debug)]
pub(crate) struct Disk {
    /// `d0`.
    pub(crate) id: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whether it is a device, on a controller of this machine.
    pub(crate) is_device: bool,
    /// The modules that drive it, where they are known.
    pub(crate) drivers: Vec<String>,
    /// What its first sector starts.
    pub(crate) code: Code,
    /// Where its core is, and what begins with it.
    pub(crate) core: Option<Core>,
    /// Where a core of GRUB belongs.
    pub(crate) room: Option<Extent>,
}

/// Where GRUB's core is, and what begins with it.
pub(crate) type Core = (Bytes, Vec<u8>);

/// What the first sector of a disk starts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) enum Code {
    /// Nothing: there is none.
    #[default]
    Empty,
    /// GRUB whose core is there.
    Whole,
    /// GRUB whose core is not; the reason.
    Broken(String),
    /// Something else.
    Other,
}

/// A filesystem, as far as it has to do with starting a system.
#[derive(Clone, Default, Debug)]
pub(crate) struct Sight {
    /// Whether it is the root of a system, and what that calls itself.
    pub(crate) system: Option<String>,
    /// Configuration files, from the filesystem's root.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What makes its initramfs.
    pub(crate) builders: BTreeSet<Builder>,
    /// Its kernels, by version.
    pub(crate) kernels: BTreeMap<String, Kernel>,
    /// Names that packages have for versions of kernels.
    pub(crate) packages: BTreeMap<String, String>,
    /// What each initramfs holds, by its path; none where that cannot be told.
    pub(crate) ramdisks: BTreeMap<String, Option<Ramdisk>>,
    /// GRUB for BIOS as grub-install left it: `boot.img` and `core.img`.
    pub(crate) grub: Option<[Vec<u8>; 2]>,
    /// What no other machine may have; looked for where it shall be changed.
    pub(crate) own: Own,
}

/// What machines of one image must not share.
#[derive(Clone, Default, Debug)]
pub(crate) struct Own {
    /// Names, ids and seeds, by their paths from the filesystem's root.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// What DHCP clients remember.
    pub(crate) leases: Vec<String>,
    /// SSH host keys, by the paths of their private halves.
    pub(crate) keys: BTreeMap<String, HostKey>,
}

/// A Windows, as far as its Setup gives it a name: files, with their paths from the filesystem's root.
#[derive(Clone, Default, Debug)]
pub(crate) struct Windows {
    /// What Setup says of the image.
    pub(crate) state: Option<(String, Vec<u8>)>,
    /// The folder for an answer file that is not there yet.
    pub(crate) folder: Option<String>,
    /// Answer files, in the order in which Setup looks for them.
    pub(crate) answers: Vec<(String, Vec<u8>)>,
}

/// An SSH host key.
#[derive(Clone, Debug)]
pub(crate) struct HostKey {
    /// What is there.
    pub(crate) private: Vec<u8>,
    /// Its public half, where that is there.
    pub(crate) public: Option<Vec<u8>>,
    /// Both halves of the one that takes its place, or why none could be made; none where none has to, or nobody here
    /// makes such keys.
    pub(crate) new: Option<Result<[Vec<u8>; 2], String>>,
}

/// What makes an initramfs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Builder {
    /// initramfs-tools: Debian and its kin.
    UpdateInitramfs,
    /// Red Hat, SUSE and their kin.
    Dracut,
    /// Arch and its kin.
    Mkinitcpio,
}

/// An EFI system partition.
#[derive(Clone, Default, Debug)]
pub(crate) struct EspSight {
    /// The paths of its files.
    pub(crate) files: Vec<String>,
    /// Configuration files.
    pub(crate) texts: BTreeMap<String, Vec<u8>>,
    /// Whether the loader in `EFI/BOOT` is the shim that the system has too.
    pub(crate) starts_shim: bool,
}
