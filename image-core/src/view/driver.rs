//! Mounts a volume where nobody else sees it: by the kernel, or by a program for what the kernel does not write.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{UnmountFlags, unmount};

use crate::error::{Error, Result};
use crate::exec::Call;
use crate::exec::real::{Beside, Machine};
use crate::sys::mount_namespace::{self, Mounting};

/// A filesystem that a program mounts.
pub(crate) const NTFS: &str = "ntfs";
/// How ntfs-3g is told to begin: it ends with whoever started it, or else it would keep a disk for ever that nobody can
/// see any more. A signal lets it finish what it does, and write what it holds.
const TIED: [&str; 4] = ["--pdeathsig", "TERM", "--", "ntfs-3g"];
/// What it keeps to: nothing is done to a volume that was not shut down; a new file is protected as its folder says.
const OPTIONS: &str = "no_detach,norecover,inherit,noatime,nodev,nosuid,noexec";
/// How long it may take to mount, and to write everything: disks may be slow.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_millis(5);

/// Runs `work` while `mounting` is on `folder`, as [`mount_namespace::mounted`] does; NTFS is mounted by ntfs-3g.
///
/// # Errors
/// Those of [`mount_namespace::mounted`]; [`Error::Refused`] where ntfs-3g would only read what is to be written.
pub(super) fn mounted<T: Send>(
    mounting: Mounting<'_>,
    folder: &Path,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    if mounting.kind != NTFS {
        return mount_namespace::mounted(mounting, folder, work);
    }
    mount_namespace::alone(|| {
        let driver = start(mounting, folder)?;
        let done = is_as_asked(mounting, folder).and_then(|()| work());
        let failed = |source: rustix::io::Errno| Error::io(NTFS, "unmount", source.into());
        let unmounted = unmount(folder, UnmountFlags::empty()).map_err(failed);
        let ended = unmounted.and_then(|()| driver.finish(PATIENCE)).and_then(|outcome| {
            if outcome.success() { Ok(()) } else { Err(outcome.failure("ntfs-3g")) }
        });
        done.and_then(|value| ended.map(|()| value))
    })
}

/// ntfs-3g, once it serves `folder`.
fn start(mounting: Mounting<'_>, folder: &Path) -> Result<Beside> {
    let device = |path: &Path| -> Result<u64> {
        let found = path.metadata();
        Ok(found.map_err(|source| Error::io(path.display().to_string(), "look at", source))?.dev())
    };
    let before = device(folder)?;
    let access = if mounting.read_only { "ro" } else { "rw" };
    let mut call = Call::new("setpriv", TIED);
    call.args.extend(["-o".into(), format!("{access},{OPTIONS}").into()]);
    call.args.extend([mounting.device.into(), folder.into()]);
    let mut driver = Machine.spawn(&call)?;
    let begun = Instant::now();
    while device(folder)? == before {
        if driver.has_ended()? || begun.elapsed() > PATIENCE {
            return Err(driver.finish(Duration::ZERO)?.failure("ntfs-3g"));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(driver)
}

/// A volume that was not shut down, or is hibernated, it mounts for reading whatever it is asked.
fn is_as_asked(mounting: Mounting<'_>, folder: &Path) -> Result<()> {
    let found = statvfs(folder).map_err(|source| Error::io(NTFS, "look at", source.into()))?;
    if !mounting.read_only && found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Error::refused(
            "ntfs-3g only reads it: Windows is hibernated in it (its fast start does that too) or was not shut down",
        ));
    }
    Ok(())
}
