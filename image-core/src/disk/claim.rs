//! The rules that keep disks safe: which sources may be read, which targets may be overwritten.
//!
//! A source must hold still while it is read; a target must belong to nobody. Every refusal names the
//! path, who holds it, and what to do.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::holders::{HeldBy, Holder, Stack, Stacked, StackedKind};
use super::inventory::Subject;
use super::location::Place;
use crate::error::{Error, Result};
use crate::io::device::Device;
use crate::io::identity::Number;
use crate::sys::ioctl;
use crate::sys::sysfs::{BlockDevice, DeviceNumber};
use crate::units::Bytes;

/// Asks how often a device-mapper device is open.
type OpenCount<'a> = &'a dyn Fn(DeviceNumber) -> io::Result<u32>;

/// Checks that nobody may write to `path` while it is read, and returns who holds it all the same:
/// read-only mounts, volumes and loop devices that nobody has open.
///
/// # Errors
/// [`Error::Refused`] where it is mounted read-write or used as swap, itself, a partition of it, or
/// anything stacked on them; where a volume on it is open or an array active; where the kernel has it
/// claimed for somebody unseen; where it holds the repository. [`Error::Io`].
pub fn source_in_use(path: &Path, repository: Option<&Path>) -> Result<Vec<Holder>> {
    let stack = Stack::read(Path::new("/"))?;
    let subject = Subject::find(&stack, path)?;
    let mut holders = subject.holders(&stack, path);
    refuse_repository(&stack, path, &holders, repository)?;
    let mut obstacle = None;
    if let Subject::Device(device) = subject {
        holders.extend(unseen(&stack, device));
        obstacle = open_elsewhere(&stack.stacked(device));
    }
    let writer = holders.iter().find_map(|holder| writer(holder, &ioctl::dm_open_count));
    match writer.or(obstacle) {
        Some(why) => {
            let name = path.display();
            Err(Error::refused(format!("{name} may change while it is read: {why}")))
        }
        None => Ok(holders),
    }
}

/// Checks that `path` may be overwritten; a file that does not exist may, outside the repository.
///
/// # Errors
/// [`Error::Refused`] where anything holds it or a part of it, where it is read-only, where it holds the
/// repository or lies in it, where it is the running system's disk, and where it is neither a disk nor an
/// image file. [`Error::Io`].
pub fn check_target(path: &Path, repository: Option<&Path>) -> Result<()> {
    let stack = Stack::read(Path::new("/"))?;
    refuse_inside(path, repository)?;
    if !path.try_exists().map_err(|error| Error::io(path.display().to_string(), "open", error))? {
        return Ok(());
    }
    let subject = Subject::find(&stack, path)?;
    let holders = subject.holders(&stack, path);
    refuse_repository(&stack, path, &holders, repository)?;
    let device = match subject {
        Subject::Device(device) => Some(stack.stacked(device)),
        Subject::File { .. } => None,
    };
    let obstacle = match &device {
        Some(device) if !device.writable => Some("it is read-only".to_owned()),
        _ => target_obstacle(&holders),
    };
    let opened = || device.as_ref().and_then(open_elsewhere);
    match obstacle.or_else(opened) {
        Some(why) => {
            Err(Error::refused(format!("{} cannot be overwritten: {why}", path.display())))
        }
        None => Ok(()),
    }
}

/// Opens `path` for overwriting once [`check_target`] has nothing against it; a block device stays claimed
/// as long as it is open. `file_sectors` is the sector size that a file stands for (512 where unknown).
///
/// # Errors
/// As [`check_target`] and [`Device::open_target`].
pub fn claim_target(
    path: &Path,
    file_sectors: Option<Bytes>,
    repository: Option<&Path>,
) -> Result<Device> {
    check_target(path, repository)?;
    Device::open_target(path, file_sectors)
}

/// Checks that writing `target` does not change `source`: that they are not the same, and that neither
/// lies on the other. Two partitions of one disk, or two volumes of one group, are fine.
///
/// # Errors
/// [`Error::Refused`]; [`Error::Io`].
pub fn distinct(source: &Path, target: &Path) -> Result<()> {
    let stack = Stack::read(Path::new("/"))?;
    let number = |path: &Path| match Subject::find(&stack, path)? {
        Subject::Device(device) => Ok(stack.behind(Number::Device(device.number))),
        Subject::File { number, .. } => Ok(number),
    };
    let (from, to) = (number(source)?, number(target)?);
    let relation = if from == to {
        "is the same as"
    } else if stack.below(to).contains(&from) {
        "lies on"
    } else if stack.below(from).contains(&to) {
        "carries"
    } else {
        return Ok(());
    };
    let (source, target) = (source.display(), target.display());
    Err(Error::refused(format!("the target {target} {relation} the source {source}")))
}

/// Why what `holder` holds may be written to, if it may.
fn writer(holder: &Holder, open_count: OpenCount<'_>) -> Option<String> {
    let why = match &holder.by {
        HeldBy::Mount { writable: false, .. } => return None,
        HeldBy::Mount { .. } | HeldBy::Swap | HeldBy::Unseen => holder.to_string(),
        HeldBy::Device(upper) => {
            let above = upper.holders.iter().find_map(|holder| writer(holder, open_count));
            if above.is_some() || !upper.writable {
                return above;
            }
            match upper.kind {
                // One that nobody mounted does nothing by itself.
                StackedKind::Loop => return None,
                // Arrays are resynchronised, caches written back, by the kernel alone.
                StackedKind::Array | StackedKind::Other => holder.to_string(),
                _ => format!("{holder} and {}", opened(upper, open_count)?),
            }
        }
    };
    Some(format!("{why}; {}", holder.release()))
}

/// How a writable device-mapper device is opened beyond what its holders account for.
fn opened(device: &Stacked, open_count: OpenCount<'_>) -> Option<String> {
    let kind = &device.kind;
    let unmapped = matches!(kind, StackedKind::Loop | StackedKind::Array | StackedKind::Other);
    if unmapped || !device.writable {
        return None;
    }
    // A mounted filesystem opens its device once, at however many mount points.
    let mounts = |holder: &&Holder| matches!(holder.by, HeldBy::Mount { .. });
    let mounted = device.holders.iter().any(|holder| mounts(&holder));
    let others = device.holders.iter().filter(|holder| !mounts(holder)).count();
    match open_count(device.number).map(usize::try_from) {
        Ok(Ok(count)) if count <= others + usize::from(mounted) => None,
        Ok(_) => Some("is open in a program".to_owned()),
        Err(error) => Some(format!("may be open in a program (device-mapper says: {error})")),
    }
}

/// Why a volume may be in use though nothing holds it.
fn open_elsewhere(device: &Stacked) -> Option<String> {
    let how = opened(device, &ioctl::dm_open_count)?;
    Some(format!("it {how}; stop what uses it first"))
}

/// What the kernel does not let us claim though we see nobody on it.
fn unseen(stack: &Stack, device: &BlockDevice) -> Vec<Holder> {
    let mut free: Vec<_> = stack.partitions(device);
    free.push(device);
    free.retain(|device| stack.holders(device).is_empty());
    free.into_iter()
        .map(BlockDevice::path)
        .filter(|path| is_claimed(path))
        .map(|held| Holder { held, by: HeldBy::Unseen })
        .collect()
}

fn is_claimed(device: &Path) -> bool {
    let flags = (OFlags::EXCL | OFlags::NONBLOCK).bits().cast_signed();
    let open = OpenOptions::new().read(true).custom_flags(flags).open(device);
    matches!(open, Err(error) if error.kind() == io::ErrorKind::ResourceBusy)
}

/// Who keeps a target from being overwritten: anybody.
fn target_obstacle(holders: &[Holder]) -> Option<String> {
    let root = |mount: &Holder| matches!(&mount.by, HeldBy::Mount { point, .. } if point == Path::new("/"));
    if let Some(root) = find(holders, &root) {
        return Some(format!("the running system is on it ({root})"));
    }
    // The innermost first: a volume group cannot be deactivated while one of its volumes is mounted.
    let holder = find(holders, &|holder| match &holder.by {
        HeldBy::Device(upper) => upper.holders.is_empty(),
        _ => true,
    })?;
    Some(format!("{holder}; {}", holder.release()))
}

/// The first in a tree of holders that satisfies `wanted`.
fn find<'a>(holders: &'a [Holder], wanted: &dyn Fn(&Holder) -> bool) -> Option<&'a Holder> {
    holders.iter().find_map(|holder| match &holder.by {
        _ if wanted(holder) => Some(holder),
        HeldBy::Device(upper) => find(&upper.holders, wanted),
        _ => None,
    })
}

/// Refuses what the repository's filesystem lies on, and files in the repository.
fn refuse_repository(
    stack: &Stack,
    path: &Path,
    holders: &[Holder],
    repository: Option<&Path>,
) -> Result<()> {
    refuse_inside(path, repository)?;
    let Some(repository) = repository else { return Ok(()) };
    let mount = Place::of(repository)?.mount(stack.mounts())?;
    let here = mount.map(|mount| mount.device);
    let holds = |holder: &Holder| match &holder.by {
        HeldBy::Mount { filesystem, .. } => Some(*filesystem) == here,
        _ => false,
    };
    match find(holders, &holds) {
        Some(holder) => Err(Error::refused(format!(
            "{} holds the repository {} ({holder}); choose another disk",
            path.display(),
            repository.display()
        ))),
        None => Ok(()),
    }
}

fn refuse_inside(path: &Path, repository: Option<&Path>) -> Result<()> {
    let Some(repository) = repository else { return Ok(()) };
    if !Place::of(path)?.whole.starts_with(Place::of(repository)?.whole) {
        return Ok(());
    }
    let (path, repository) = (path.display(), repository.display());
    Err(Error::refused(format!("{path} lies in the repository {repository}; choose another place")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fake::Tree;

    const MOUNT: &str = "1 0 8:161 / /mnt rw - ext4 /dev/sdx1";

    /// A disk with two partitions and a logical volume on the second.
    fn disk(mountinfo: &str) -> (Tree, Stack) {
        let tree = Tree::new();
        tree.disk("sdx", "8:160", 1000);
        tree.partition("sdx", 1, "8:161", 10, 20);
        tree.partition("sdx", 2, "8:162", 50, 500);
        tree.disk("dm-3", "253:3", 100)
            .attribute("dm/name", "vg0-root\n")
            .attribute("dm/uuid", "LVM-x\n");
        tree.stack("dm-3", "sdx2");
        tree.write("proc/self/mountinfo", mountinfo);
        let stack = Stack::read(tree.path()).unwrap();
        (tree, stack)
    }

    fn holders(stack: &Stack, name: &str) -> Vec<Holder> {
        let device = stack.devices().iter().find(|device| device.name == name).unwrap();
        stack.holders(device)
    }

    fn writer_of(stack: &Stack, name: &str, open: io::Result<u32>) -> Option<String> {
        let open = open.map_err(|error| error.kind());
        let open_count = |_: DeviceNumber| open.map_err(io::Error::from);
        holders(stack, name).iter().find_map(|holder| writer(holder, &open_count))
    }

    #[test]
    fn a_source_may_be_mounted_read_only_but_not_read_write() {
        for (options, refused) in [("ro", false), ("rw,errors=remount-ro", true)] {
            let (_tree, stack) = disk(&format!("{MOUNT} {options}\n"));
            for (name, refused) in [("sdx", refused), ("sdx1", refused), ("sdx2", false)] {
                let why = writer_of(&stack, name, Ok(0));
                assert_eq!(why.is_some(), refused, "{name} {options}: {why:?}");
                if let Some(why) = why {
                    let expected =
                        "/dev/sdx1 is mounted read-write on /mnt; run `umount /mnt` first";
                    assert_eq!(why, expected);
                }
            }
        }
    }

    #[test]
    fn a_volume_that_nobody_has_open_does_not_keep_its_disk_from_being_read() {
        let (_tree, stack) = disk("");
        assert_eq!(writer_of(&stack, "sdx", Ok(0)), None);
        let open = writer_of(&stack, "sdx", Ok(1)).unwrap();
        assert!(open.contains("/dev/mapper/vg0-root is active and is open"), "{open}");
        assert!(open.contains("`vgchange -an vg0`"), "{open}");
        let unknown = writer_of(&stack, "sdx", Err(io::ErrorKind::PermissionDenied.into()));
        assert!(unknown.unwrap().contains("may be open"));
    }

    #[test]
    fn a_mount_accounts_for_one_opening_of_a_volume() {
        let mounts = "1 0 253:3 / /a ro - xfs /dev/x ro\n2 0 253:3 /b /b ro - xfs /dev/x ro\n";
        let (_tree, stack) = disk(mounts);
        assert_eq!(writer_of(&stack, "sdx", Ok(1)), None);
        assert!(writer_of(&stack, "sdx", Ok(2)).is_some());
    }

    #[test]
    fn a_read_only_volume_may_be_open() {
        let (tree, _) = disk("");
        tree.write("sys/class/block/dm-3/ro", "1\n");
        let stack = Stack::read(tree.path()).unwrap();
        assert_eq!(writer_of(&stack, "sdx", Ok(5)), None);
    }

    #[test]
    fn an_active_array_and_swap_may_write() {
        let (tree, _) = disk("");
        tree.disk("md0", "9:0", 5);
        tree.stack("md0", "sdx1");
        let stack = Stack::read(tree.path()).unwrap();
        let why = writer_of(&stack, "sdx", Ok(0)).unwrap();
        assert_eq!(
            why,
            "/dev/sdx1 is part of the array /dev/md0; run `mdadm --stop /dev/md0` first"
        );
        tree.write("proc/swaps", "Filename\n/dev/mapper/vg0-root partition 1 0 -2\n");
        let stack = Stack::read(tree.path()).unwrap();
        let why = writer_of(&stack, "sdx2", Ok(1)).unwrap();
        assert!(why.contains("`swapoff /dev/mapper/vg0-root`"), "{why}");
    }

    #[test]
    fn a_target_belongs_to_nobody() {
        let (_tree, stack) = disk(&format!("{MOUNT} ro\n"));
        for (name, why) in [
            ("sdx", "/dev/sdx1 is mounted read-only on /mnt; run `umount /mnt` first"),
            (
                "sdx2",
                "/dev/sdx2 is part of the volume group vg0, whose /dev/mapper/vg0-root is active; run `vgchange -an vg0` first",
            ),
        ] {
            assert_eq!(target_obstacle(&holders(&stack, name)).as_deref(), Some(why));
        }
        assert_eq!(target_obstacle(&holders(&stack, "dm-3")), None);
    }

    #[test]
    fn the_disk_under_the_running_system_is_named_as_such() {
        let (_tree, stack) = disk("1 0 253:3 / / rw - ext4 /dev/root rw\n");
        let why = target_obstacle(&holders(&stack, "sdx")).unwrap();
        assert!(why.starts_with("the running system is on it"), "{why}");
    }

    #[test]
    fn a_loop_device_is_what_is_behind_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let number = Number::of(&file.path().metadata().unwrap());
        let (tree, _) = disk("");
        for (name, minor) in [("loop8", "7:8"), ("loop9", "7:9")] {
            let path = file.path().to_str().unwrap();
            tree.disk(name, minor, 5).attribute("loop/backing_file", path);
        }
        tree.partition("loop9", 1, "259:7", 1, 2);
        let stack = Stack::read(tree.path()).unwrap();
        let device = |major, minor| Number::Device(DeviceNumber { major, minor });
        assert_eq!(stack.behind(device(7, 8)), number);
        assert!(stack.below(device(259, 7)).contains(&number));
        assert!(stack.below(device(253, 3)).contains(&device(8, 160)));
        assert!(!stack.below(device(8, 160)).contains(&device(253, 3)));
        assert_eq!(stack.file_holders(file.path(), number).len(), 2);
    }

    #[test]
    fn files_in_the_repository_are_refused_also_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("repo");
        std::fs::create_dir(&repository).unwrap();
        for name in ["repo/new.img", "repo/a/b/new.img", "repo/../repo/x"] {
            let why = check_target(&folder.path().join(name), Some(&repository)).unwrap_err();
            assert!(why.to_string().contains("lies in the repository"), "{why}");
        }
        check_target(&folder.path().join("repo.img"), Some(&repository)).unwrap();
    }

    #[test]
    fn a_file_is_not_cloned_onto_itself() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, "a").unwrap();
        std::fs::hard_link(&a, &b).unwrap();
        assert!(matches!(distinct(&a, &b), Err(Error::Refused(_))));
        std::fs::remove_file(&b).unwrap();
        std::fs::write(&b, "b").unwrap();
        distinct(&a, &b).unwrap();
    }
}
