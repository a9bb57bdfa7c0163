//! Mounts that nobody else sees and that cannot stay behind.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
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
    let alone = || {
        leave_shared_namespace()?;
        attach(mounting, folder)?;
        let done = work();
        let failed = |source: rustix::io::Errno| {
            Error::io(mounting.device.display().to_string(), "unmount", source.into())
        };
        let unmounted = unmount(folder, UnmountFlags::empty()).map_err(failed);
        done.and_then(|value| unmounted.map(|()| value))
    };
    std::thread::scope(|scope| match scope.spawn(alone).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
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
    let mut flags =
        MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    flags.set(MountFlags::RDONLY, mounting.read_only);
    let failed = |source| Error::io(mounting.device.display().to_string(), "mount", source);
    let options = CString::new(mounting.options).map_err(|source| failed(source.into()))?;
    mount(mounting.device, folder, mounting.kind, flags, options.as_c_str())
        .map_err(|source| failed(io::Error::from(source)))
}
