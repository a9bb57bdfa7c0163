//! Mounts that nobody else sees and that cannot stay behind.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Error, Result};

/// What to mount and how.
#[derive(Clone, Copy, Debug)]
pub struct Mounting<'a> {
    /// The block device.
    pub device: &'a Path,
    /// The kernel's name of the filesystem: `xfs`.
    pub kind: &'a str,
    /// The filesystem's own options, separated by commas.
    pub options: &'a str,
    /// Whether to forbid writing to it.
    pub read_only: bool,
}

/// Runs `work` while `mounting` is on `folder`, seen only by `work` and by the programs that it starts.
///
/// `work` runs on a thread of its own: a mount namespace belongs to a thread, and goes with it.
///
/// # Errors
/// [`Error::Io`] where it cannot be mounted or unmounted; else what `work` says.
pub(crate) fn mounted<T: Send>(
    mounting: Mounting<'_>,
    folder: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    alone(|| {
        attach(mounting, folder)?;
        let done = work();
        let failed = |source: rustix::io::Errno| {
            Error::io(mounting.device.display().to_string(), "unmount", source.into())
        };
        let unmounted = unmount(folder, UnmountFlags::empty()).map_err(failed);
        done.and_then(|value| unmounted.map(|()| value))
    })
}

/// Runs `work` where nobody else sees what it mounts, but the programs that it starts.
///
/// # Errors
/// [`Error::Io`] where there are no such namespaces; else what `work` says.
pub(crate) fn alone<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let apart = || leave_shared_namespace().and_then(|()| work());
    std::thread::scope(|scope| match scope.spawn(apart).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// A filesystem of a system whose programs are to run, and where in that system it belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Branch<'a> {
    /// What to mount.
    pub(crate) mounting: Mounting<'a>,
    /// A path from the system's root without a slash at its start; empty for the root itself, which comes first.
    pub(crate) point: &'a str,
}

/// The devices that every program may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links that shells make use of.
const DEVICE_LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// How often, and how long apart, a filesystem is unmounted that a program still has in use.
const TRIES: u32 = 100;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Runs `work` while the `branches` are a whole system on `folder`, with `/proc`, `/sys`, an empty `/run`, and a
/// `/dev` in which there is nothing but the usual devices and those of the branches: programs of the system that are
/// started there see no other disk. Seen only by `work` and by the programs that it starts.
///
/// # Errors
/// As [`mounted`].
pub(crate) fn rooted<T: Send>(
    branches: &[Branch<'_>],
    folder: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    alone(|| {
        let mut points = Vec::new();
        let grown = grow_tree(branches, folder, &mut points);
        let done = grown.and_then(|()| work());
        let mut unmounted = Ok(());
        for point in points.iter().rev() {
            unmounted = unmounted.and(unmount_patiently(point));
        }
        done.and_then(|value| unmounted.map(|()| value))
    })
}

fn grow_tree(branches: &[Branch<'_>], folder: &Path, points: &mut Vec<PathBuf>) -> Result<()> {
    for branch in branches {
        let point = inside(folder, branch.point)?;
        attach_with(branch.mounting, &point, MountFlags::NODEV | MountFlags::NOSUID)?;
        points.push(folder.join(branch.point));
    }
    let failed = |what: &str, source: io::Error| Error::io(what, "mount", source);
    for name in ["dev", "run"] {
        let point = inside(folder, name)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("none", &point, "tmpfs", flags, c"mode=755")
            .map_err(|error| failed(name, error.into()))?;
        points.push(folder.join(name));
    }
    for name in ["proc", "sys"] {
        let point = inside(folder, name)?;
        mount_bind(Path::new("/").join(name), &point)
            .map_err(|error| failed(name, error.into()))?;
        points.push(folder.join(name));
    }
    let own = branches.iter().filter_map(|branch| branch.mounting.device.file_name());
    let dev = folder.join("dev");
    for name in DEVICES.iter().map(|name| (*name).as_ref()).chain(own) {
        let node = Path::new("/dev").join(name);
        if !node.exists() {
            continue;
        }
        let point = dev.join(name);
        let named = |source| failed(&node.display().to_string(), source);
        std::fs::File::create_new(&point).map_err(named)?;
        mount_bind(&node, &point)
            .map_err(|error| failed(&node.display().to_string(), error.into()))?;
        points.push(point);
    }
    for (name, target) in DEVICE_LINKS {
        std::os::unix::fs::symlink(target, dev.join(name)).map_err(|error| failed(name, error))?;
    }
    Ok(())
}

/// A folder of the system on `folder`, as this process can name it: no link on the way leads out of it.
fn inside(folder: &Path, point: &str) -> Result<PathBuf> {
    let failed =
        |source: rustix::io::Errno| Error::io(format!("/{point}"), "mount on", source.into());
    if point.is_empty() {
        return Ok(folder.to_owned());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, folder, flags, Mode::empty()).map_err(failed)?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(&root, point, flags, Mode::empty(), resolve).map_err(failed)?;
    Ok(folder.join(point))
}

fn unmount_patiently(point: &Path) -> Result<()> {
    for _ in 0..TRIES {
        match unmount(point, UnmountFlags::NOFOLLOW) {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(PAUSE),
            other => {
                return other.map_err(|source| {
                    Error::io(point.display().to_string(), "unmount", source.into())
                });
            }
        }
    }
    let source = io::Error::from(rustix::io::Errno::BUSY);
    Err(Error::io(point.display().to_string(), "unmount", source))
}

fn leave_shared_namespace() -> Result<()> {
    let failed =
        |source: rustix::io::Errno| Error::io("mount namespace", "make a private", source.into());
    // SAFETY: only the FILES flag, which is not given, would make descriptors invalid for other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(failed)?;
    // The copy still passes its mounts on to the original where that is shared (systemd makes it so).
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(failed)
}

fn attach(mounting: Mounting<'_>, folder: &Path) -> Result<()> {
    attach_with(mounting, folder, MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC)
}

fn attach_with(mounting: Mounting<'_>, folder: &Path, forbidden: MountFlags) -> Result<()> {
    let mut flags = MountFlags::NOATIME | forbidden;
    flags.set(MountFlags::RDONLY, mounting.read_only);
    let failed = |source| Error::io(mounting.device.display().to_string(), "mount", source);
    let options = CString::new(mounting.options).map_err(|source| failed(source.into()))?;
    mount(mounting.device, folder, mounting.kind, flags, options.as_c_str())
        .map_err(|source| failed(io::Error::from(source)))
}
