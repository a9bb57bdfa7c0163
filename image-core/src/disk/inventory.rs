//! The disks of this machine, as a person knows them.

use std::path::{Path, PathBuf};

use super::holders::{Holder, Stack};
use crate::error::{Error, Result};
use crate::io::identity::Number;
use crate::sys::sysfs::BlockDevice;
use crate::units::Bytes;

/// A disk, a partition, a volume or an image file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskInfo {
    /// Its node or file.
    pub path: PathBuf,
    /// Its size.
    pub size: Bytes,
    /// Its logical sector size; `None` for a file: its table tells.
    pub sector_size: Option<Bytes>,
    /// Model, where known.
    pub model: Option<String>,
    /// Serial number, where known.
    pub serial: Option<String>,
    /// World-wide name, where known.
    pub wwn: Option<String>,
    /// Whether it is a whole disk or a file, not a partition or a volume of some disks.
    pub whole: bool,
    /// Whether it can be pulled out.
    pub removable: bool,
    /// Whether it refuses writes.
    pub read_only: bool,
    /// The partitions that the kernel knows, by number.
    pub partitions: Vec<PartitionInfo>,
    /// Who holds it, or one of its partitions.
    pub holders: Vec<Holder>,
}

/// A partition that the kernel knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionInfo {
    /// Its node.
    pub path: PathBuf,
    /// Its number in the table.
    pub number: u32,
    /// First byte on the disk.
    pub start: Bytes,
    /// Its size.
    pub size: Bytes,
}

/// The whole disks of this machine, loop devices with something behind them among them. Volumes and
/// arrays, which lie on disks, RAM disks and empty drives are not.
///
/// # Errors
/// [`Error::Io`].
pub fn disks() -> Result<Vec<DiskInfo>> {
    Ok(disks_of(&Stack::read(Path::new("/"))?))
}

/// What `path` is: any block device, or an image file.
///
/// # Errors
/// [`Error::Refused`] where it is neither; [`Error::Io`].
pub fn describe(path: &Path) -> Result<DiskInfo> {
    describe_in(&Stack::read(Path::new("/"))?, path)
}

fn disks_of(stack: &Stack) -> Vec<DiskInfo> {
    let in_memory = |name: &str| name.starts_with("ram") || name.starts_with("zram");
    let is_disk = |device: &&BlockDevice| {
        device.partition.is_none()
            && device.slaves.is_empty()
            && !device.size.is_zero()
            && !device.hidden
            && !in_memory(&device.name)
            && (!device.name.starts_with("loop") || device.backing.is_some())
    };
    let mut disks: Vec<_> = stack.devices().iter().filter(is_disk).collect();
    disks.sort_by_key(|device| device.number);
    disks.into_iter().map(|device| info(stack, device, device.path())).collect()
}

fn describe_in(stack: &Stack, path: &Path) -> Result<DiskInfo> {
    match Subject::find(stack, path)? {
        Subject::Device(device) => Ok(info(stack, device, path.to_owned())),
        Subject::File { number, size } => Ok(DiskInfo {
            path: path.to_owned(),
            size,
            sector_size: None,
            model: None,
            serial: None,
            wwn: None,
            whole: true,
            removable: false,
            read_only: false,
            partitions: Vec::new(),
            holders: stack.file_holders(path, number),
        }),
    }
}

fn info(stack: &Stack, device: &BlockDevice, path: PathBuf) -> DiskInfo {
    let partition = |part: &BlockDevice| {
        let sysfs = part.partition.as_ref()?;
        let (number, start) = (sysfs.number, sysfs.start);
        Some(PartitionInfo { path: part.path(), number, start, size: part.size })
    };
    DiskInfo {
        path,
        size: device.size,
        sector_size: Some(device.sector_size),
        model: device.model.clone(),
        serial: device.serial.clone(),
        wwn: device.wwn.clone(),
        whole: device.partition.is_none() && device.slaves.is_empty(),
        removable: device.removable,
        read_only: device.read_only,
        partitions: stack.partitions(device).into_iter().filter_map(partition).collect(),
        holders: stack.holders(device),
    }
}

/// What a path given by a person leads to.
#[derive(Debug)]
pub(super) enum Subject<'a> {
    /// A block device.
    Device(&'a BlockDevice),
    /// A regular file.
    File {
        /// Its number.
        number: Number,
        /// Its size.
        size: Bytes,
    },
}

impl<'a> Subject<'a> {
    pub(super) fn find(stack: &'a Stack, path: &Path) -> Result<Self> {
        let name = path.display();
        let metadata =
            path.metadata().map_err(|error| Error::io(name.to_string(), "open", error))?;
        match Number::of(&metadata) {
            Number::Device(number) => match stack.device(number) {
                Some(device) => Ok(Self::Device(device)),
                None => {
                    Err(Error::refused(format!("{name} ({number}) is no disk of this machine")))
                }
            },
            number if metadata.is_file() => {
                Ok(Self::File { number, size: Bytes::new(metadata.len()) })
            }
            Number::File { .. } => {
                Err(Error::refused(format!("{name} is neither a disk nor an image file")))
            }
        }
    }

    pub(super) fn holders(&self, stack: &Stack, path: &Path) -> Vec<Holder> {
        match self {
            Self::Device(device) => stack.holders(device),
            Self::File { number, .. } => stack.file_holders(path, *number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::holders::{HeldBy, StackedKind};
    use crate::sys::fake::Tree;

    #[test]
    fn only_disks_are_disks() {
        let tree = Tree::new();
        tree.disk("sdy", "8:176", 100);
        tree.disk("sdx", "8:160", 100).attribute("device/model", "X\n");
        tree.partition("sdx", 2, "8:162", 50, 10);
        tree.partition("sdx", 1, "8:161", 10, 20);
        tree.disk("dm-0", "253:0", 10);
        tree.stack("dm-0", "sdx1");
        tree.disk("zram0", "252:0", 100);
        tree.disk("ram0", "1:0", 100);
        tree.disk("sr0", "11:0", 0);
        tree.disk("nvme0c0n1", "259:9", 100).attribute("hidden", "1\n");
        tree.disk("loop8", "7:8", 0);
        tree.disk("loop9", "7:9", 5).attribute("loop/backing_file", "/nowhere/x.img\n");
        let disks = disks_of(&Stack::read(tree.path()).unwrap());
        let paths: Vec<_> = disks.iter().map(|disk| disk.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/dev/loop9", "/dev/sdx", "/dev/sdy"]);
        let numbers: Vec<_> = disks[1].partitions.iter().map(|part| part.number).collect();
        assert_eq!((numbers, disks[1].model.as_deref()), (vec![1, 2], Some("X")));
        assert_eq!(disks[1].partitions[0].start, Bytes::new(5120));
        assert!(disks[2].holders.is_empty());
    }

    #[test]
    fn holders_are_a_tree_up_to_the_mount_points() {
        let tree = Tree::new();
        tree.disk("sdx", "8:160", 100);
        tree.partition("sdx", 1, "8:161", 10, 20);
        tree.disk("md7", "9:7", 10);
        tree.stack("md7", "sdx1");
        tree.partition("md7", 1, "259:5", 1, 5);
        tree.disk("dm-0", "253:0", 10)
            .attribute("dm/name", "my--vg-ro--ot\n")
            .attribute("dm/uuid", "LVM-x\n");
        tree.stack("dm-0", "md7p1");
        tree.write("proc/self/mountinfo", "1 0 253:0 / /srv ro - ext4 /dev/root rw\n");
        let disks = disks_of(&Stack::read(tree.path()).unwrap());
        let [Holder { held, by: HeldBy::Device(array) }] = &disks[0].holders[..] else {
            panic!("{:?}", disks[0].holders);
        };
        assert_eq!((held.as_path(), &array.kind), (Path::new("/dev/sdx1"), &StackedKind::Array));
        let [Holder { held, by: HeldBy::Device(volume) }] = &array.holders[..] else {
            panic!("{array:?}");
        };
        assert_eq!(held, Path::new("/dev/md7p1"));
        assert_eq!(volume.kind, StackedKind::LogicalVolume("my-vg".to_owned()));
        let [Holder { by: HeldBy::Mount { point, writable, .. }, .. }] = &volume.holders[..] else {
            panic!("{volume:?}");
        };
        assert_eq!((point.as_path(), *writable), (Path::new("/srv"), true));
    }

    #[test]
    fn every_device_of_a_mounted_btrfs_is_held() {
        let tree = Tree::new();
        for (name, number) in [("sdx", "8:160"), ("sdy", "8:176"), ("sdz", "8:192")] {
            tree.disk(name, number, 100);
        }
        tree.write("sys/fs/btrfs/features/big_metadata", "");
        tree.write("sys/fs/btrfs/some-uuid/devices/sdx", "");
        tree.write("sys/fs/btrfs/some-uuid/devices/sdy", "");
        tree.write("proc/self/mountinfo", "1 0 0:44 /@ /home rw - btrfs /dev/sdx rw,ssd\n");
        let disks = disks_of(&Stack::read(tree.path()).unwrap());
        let held: Vec<_> = disks.iter().map(|disk| disk.holders.len()).collect();
        assert_eq!(held, [1, 1, 0]);
    }

    #[test]
    fn swap_areas_are_holders() {
        let tree = Tree::new();
        tree.disk("sdx", "8:160", 100);
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        tree.write("proc/swaps", &format!("Filename\n/dev/sdx partition 1\n{path} file 1\n"));
        let stack = Stack::read(tree.path()).unwrap();
        assert_eq!(disks_of(&stack)[0].holders[0].by, HeldBy::Swap);
        assert_eq!(describe_in(&stack, file.path()).unwrap().holders[0].by, HeldBy::Swap);
    }
}
