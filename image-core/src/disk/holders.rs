//! Who holds a device or file: mounts, swap, and the devices that are stacked on it.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::identity::Number;
use crate::sys::mounts::{self, Mount};
use crate::sys::sysfs::{self, BlockDevice, DeviceNumber};

/// Something that uses a device or file, or may do so at any time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// What is held: the device or file that was asked about, or a partition of it.
    pub held: PathBuf,
    /// Who holds it.
    pub by: HeldBy,
}

/// How something is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeldBy {
    /// A filesystem on it is mounted.
    Mount {
        /// Where.
        point: PathBuf,
        /// The kernel's number of the filesystem, the same at all its mount points.
        filesystem: DeviceNumber,
        /// Whether the filesystem may change: a read-only mount point of one that is writable does not
        /// count as read-only.
        writable: bool,
    },
    /// Memory is swapped to it.
    Swap,
    /// Another device is stacked on it.
    Device(Stacked),
    /// The kernel lets nobody claim it, for a reason that this process cannot see: a mount in another
    /// namespace, a ZFS pool.
    Unseen,
}

/// A device on top of another device or a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stacked {
    /// Its node.
    pub path: PathBuf,
    /// Its number.
    pub number: DeviceNumber,
    /// What it is.
    pub kind: StackedKind,
    /// Whether it accepts writes.
    pub writable: bool,
    /// Who holds it, or a partition of it.
    pub holders: Vec<Holder>,
}

/// What a stacked device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StackedKind {
    /// A logical volume of this volume group.
    LogicalVolume(String),
    /// An opened LUKS (or plain dm-crypt) volume of this name.
    Crypt(String),
    /// Another device-mapper device of this name.
    Mapped(String),
    /// An md array.
    Array,
    /// A loop device.
    Loop,
    /// Something else: bcache, for example.
    Other,
}

/// The block devices, mounts and swap areas of a machine at one moment.
#[derive(Debug)]
pub struct Stack {
    devices: Vec<BlockDevice>,
    mounts: Vec<Mount>,
    swaps: Vec<PathBuf>,
    btrfs: Vec<Vec<String>>,
    // Loop devices (by number) and what is behind them.
    loops: Vec<(DeviceNumber, Number)>,
}

impl Stack {
    /// Reads `/sys` and `/proc` below `root`, which is `/` but for tests.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(root: &Path) -> Result<Self> {
        let failed = |what: &str| {
            let path = root.join(what).display().to_string();
            move |error| Error::io(path, "read", error)
        };
        let sys = root.join("sys");
        let devices = sysfs::block_devices(&sys).map_err(failed("sys/class/block"))?;
        let loops = devices
            .iter()
            .filter_map(|device| {
                let metadata = device.backing.as_ref()?.path.metadata().ok()?;
                Some((device.number, Number::of(&metadata)))
            })
            .collect();
        Ok(Self {
            devices,
            mounts: mounts::mounts(root).map_err(failed("proc/self/mountinfo"))?,
            swaps: mounts::swaps(root).map_err(failed("proc/swaps"))?,
            btrfs: sysfs::btrfs_devices(&sys).map_err(failed("sys/fs/btrfs"))?,
            loops,
        })
    }

    /// All block devices.
    pub fn devices(&self) -> &[BlockDevice] {
        &self.devices
    }

    /// All mounts.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The block device of this number.
    pub fn device(&self, number: DeviceNumber) -> Option<&BlockDevice> {
        self.devices.iter().find(|device| device.number == number)
    }

    /// The partitions of `disk`, by number.
    pub fn partitions(&self, disk: &BlockDevice) -> Vec<&BlockDevice> {
        let on_disk = |device: &&BlockDevice| {
            device.partition.as_ref().is_some_and(|partition| partition.disk == disk.name)
        };
        let mut partitions: Vec<_> = self.devices.iter().filter(on_disk).collect();
        partitions.sort_by_key(|device| device.partition.as_ref().map(|part| part.number));
        partitions
    }

    /// The disk that `device` is a partition of.
    pub fn disk_of(&self, device: &BlockDevice) -> Option<&BlockDevice> {
        let name = &device.partition.as_ref()?.disk;
        self.devices.iter().find(|disk| disk.name == *name)
    }

    /// Who holds `device` or one of its partitions; for a partition also who holds the whole disk.
    pub fn holders(&self, device: &BlockDevice) -> Vec<Holder> {
        let mut holders = self.own_holders(device);
        for other in self.partitions(device).into_iter().chain(self.disk_of(device)) {
            holders.extend(self.own_holders(other));
        }
        holders
    }

    /// Who holds the file `path` of this number.
    pub fn file_holders(&self, path: &Path, number: Number) -> Vec<Holder> {
        let swap = |swap: &PathBuf| swap.metadata().is_ok_and(|area| Number::of(&area) == number);
        let mut holders = self.loops_over(path, number);
        if self.swaps.iter().any(swap) {
            holders.push(Holder { held: path.to_owned(), by: HeldBy::Swap });
        }
        holders
    }

    /// Who holds `device` itself.
    pub fn own_holders(&self, device: &BlockDevice) -> Vec<Holder> {
        let held = device.path();
        let mut holders = self.loops_over(&held, Number::Device(device.number));
        let mut hold = |by| holders.push(Holder { held: held.clone(), by });
        for mount in self.mounts.iter().filter(|mount| self.is_on(mount, device)) {
            let (point, filesystem) = (mount.point.clone(), mount.device);
            hold(HeldBy::Mount { point, filesystem, writable: !mount.super_read_only });
        }
        let is_this = |path: &PathBuf| self.by_path(path).is_some_and(|area| area == device);
        if self.swaps.iter().any(is_this) {
            hold(HeldBy::Swap);
        }
        let above = device.holders.iter().filter_map(|name| self.by_name(name));
        above.for_each(|upper| hold(HeldBy::Device(self.stacked(upper))));
        holders
    }

    fn loops_over(&self, held: &Path, number: Number) -> Vec<Holder> {
        self.loops
            .iter()
            .filter(|(_, behind)| *behind == number)
            .filter_map(|(device, _)| self.device(*device))
            .map(|device| Holder {
                held: held.to_owned(),
                by: HeldBy::Device(self.stacked(device)),
            })
            .collect()
    }

    /// `device` as a holder, with its own holders.
    pub fn stacked(&self, device: &BlockDevice) -> Stacked {
        Stacked {
            path: device.path(),
            number: device.number,
            kind: StackedKind::of(device),
            writable: !device.read_only,
            holders: self.holders(device),
        }
    }

    /// The file or device behind a loop device, and behind that; anything else is itself.
    pub(super) fn behind(&self, number: Number) -> Number {
        let mut seen = HashSet::new();
        let mut at = number;
        while let Some(next) = self.loop_backing(at)
            && seen.insert(at)
        {
            at = next;
        }
        at
    }

    /// What the device or file lies on, itself included.
    pub(super) fn below(&self, number: Number) -> HashSet<Number> {
        let mut found = HashSet::new();
        let mut left = vec![number];
        while let Some(number) = left.pop() {
            if !found.insert(number) {
                continue;
            }
            left.extend(self.loop_backing(number));
            if let Number::Device(device) = number
                && let Some(device) = self.device(device)
            {
                let slaves = device.slaves.iter().filter_map(|name| self.by_name(name));
                let lower = slaves.chain(self.disk_of(device));
                left.extend(lower.map(|lower| Number::Device(lower.number)));
            }
        }
        found
    }

    fn loop_backing(&self, number: Number) -> Option<Number> {
        let loop_device = |(device, _): &&(DeviceNumber, Number)| Number::Device(*device) == number;
        self.loops.iter().find(loop_device).map(|(_, behind)| *behind)
    }

    /// Whether `mount`'s filesystem lies on `device`. The number tells; filesystems with an invented number
    /// (btrfs, FUSE) were mounted from a device by name, and a btrfs may have more devices than that one.
    fn is_on(&self, mount: &Mount, device: &BlockDevice) -> bool {
        if mount.device.major != 0 {
            return mount.device == device.number;
        }
        let Some(source) = self.by_path(&mount.source) else { return false };
        let both = |list: &Vec<String>| list.contains(&source.name) && list.contains(&device.name);
        source == device || (mount.fs_type == "btrfs" && self.btrfs.iter().any(both))
    }

    fn by_name(&self, name: &str) -> Option<&BlockDevice> {
        self.devices.iter().find(|device| device.name == name)
    }

    /// The device that a path in `/dev` names; other words are not looked at: they may be a server's.
    fn by_path(&self, path: &Path) -> Option<&BlockDevice> {
        if !path.starts_with("/dev") {
            return None;
        }
        self.devices.iter().find(|device| device.path() == path).or_else(|| {
            match Number::of(&path.metadata().ok()?) {
                Number::Device(number) => self.device(number),
                Number::File { .. } => None,
            }
        })
    }
}

impl StackedKind {
    fn of(device: &BlockDevice) -> Self {
        match &device.mapped {
            Some(mapped) if mapped.uuid.starts_with("LVM-") => {
                Self::LogicalVolume(volume_group(&mapped.name))
            }
            Some(mapped) if mapped.uuid.starts_with("CRYPT-") => Self::Crypt(mapped.name.clone()),
            Some(mapped) => Self::Mapped(mapped.name.clone()),
            None if device.backing.is_some() => Self::Loop,
            None if device.name.starts_with("md") => Self::Array,
            None => Self::Other,
        }
    }
}

/// The volume group in the device-mapper name of a logical volume: `my--vg-root` is `root` of `my-vg`.
fn volume_group(name: &str) -> String {
    let mut group = String::new();
    let mut rest = name.chars().peekable();
    while let Some(char) = rest.next() {
        if char == '-' && rest.next_if_eq(&'-').is_none() {
            break;
        }
        group.push(char);
    }
    group
}

impl Holder {
    /// What to do so that it holds no longer, as a phrase: ``run `umount /mnt` first``.
    pub fn release(&self) -> String {
        let held = self.held.display();
        let command = match &self.by {
            HeldBy::Mount { point, .. } => format!("umount {}", point.display()),
            HeldBy::Swap => format!("swapoff {held}"),
            HeldBy::Unseen => return "find and stop what uses it first".to_owned(),
            HeldBy::Device(Stacked { path, kind, .. }) => match kind {
                StackedKind::LogicalVolume(group) => format!("vgchange -an {group}"),
                StackedKind::Crypt(name) => format!("cryptsetup close {name}"),
                StackedKind::Mapped(name) => format!("dmsetup remove {name}"),
                StackedKind::Array => format!("mdadm --stop {}", path.display()),
                StackedKind::Loop => format!("losetup -d {}", path.display()),
                StackedKind::Other => return format!("stop {} first", path.display()),
            },
        };
        format!("run `{command}` first")
    }
}

impl fmt::Display for Holder {
    /// A sentence: `/dev/sda1 is mounted read-write on /mnt`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.held.display();
        match &self.by {
            HeldBy::Mount { point, writable, .. } => {
                let how = if *writable { "read-write" } else { "read-only" };
                write!(f, "{held} is mounted {how} on {}", point.display())
            }
            HeldBy::Swap => write!(f, "{held} is used as swap"),
            HeldBy::Unseen => {
                write!(f, "{held} is in use by something that cannot be seen from here")
            }
            HeldBy::Device(Stacked { path, kind, .. }) => {
                let path = path.display();
                match kind {
                    StackedKind::LogicalVolume(group) => {
                        write!(
                            f,
                            "{held} is part of the volume group {group}, whose {path} is active"
                        )
                    }
                    StackedKind::Crypt(_) => write!(f, "{held} is opened as {path}"),
                    StackedKind::Array => write!(f, "{held} is part of the array {path}"),
                    StackedKind::Loop => write!(f, "{held} is attached to {path}"),
                    StackedKind::Mapped(_) | StackedKind::Other => {
                        write!(f, "{held} is part of {path}")
                    }
                }
            }
        }
    }
}
