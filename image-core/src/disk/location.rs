//! The rules for where a new repository may be made: where it will still be after a restart.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::mounts::{self, Mount};

/// Checks that a repository that does not exist yet may be made at `path`.
///
/// # Errors
/// [`Error::Refused`] in memory, on the root of a live system, and below a mount point of `/etc/fstab` with
/// nothing mounted on it; [`Error::Io`].
pub fn check_new_repository(path: &Path) -> Result<()> {
    let root = Path::new("/");
    let failed = |file: &'static str| move |error| Error::io(file, "read", error);
    let mounts = mounts::mounts(root).map_err(failed("/proc/self/mountinfo"))?;
    let fstab = mounts::fstab(root).map_err(failed("/etc/fstab"))?;
    let place = Place::of(path)?;
    let volatile = place.mount(&mounts)?.and_then(volatile);
    match volatile.or_else(|| unmounted(&place.whole, &fstab, &mounts)) {
        Some(why) => {
            Err(Error::refused(format!("no repository is made at {}: {why}", path.display())))
        }
        None => Ok(()),
    }
}

/// Why what is written to `mount` does not outlive the running system.
fn volatile(mount: &Mount) -> Option<String> {
    let (kind, point) = (mount.fs_type.as_str(), mount.point.display());
    match kind {
        "tmpfs" | "ramfs" | "rootfs" | "devtmpfs" => Some(format!(
            "{point} is kept in memory ({kind}); mount a disk and name a folder on it"
        )),
        "overlay" | "aufs" if mount.point == Path::new("/") => Some(format!(
            "it would lie on the root of a live system ({kind}), which forgets it; mount a disk and name a folder on it"
        )),
        _ => None,
    }
}

/// Why `folder` is probably meant to lie on a disk that is not mounted.
fn unmounted(folder: &Path, fstab: &[PathBuf], mounts: &[Mount]) -> Option<String> {
    let is_mounted = |point: &Path| mounts.iter().any(|mount| mount.point == point);
    let point = fstab.iter().find(|point| {
        // A root that is no mount point is that of a chroot, with another system's fstab.
        folder.starts_with(point) && **point != *"/" && !is_mounted(point)
    })?;
    let point = point.display();
    Some(format!(
        "/etc/fstab has a disk for {point}, and nothing is mounted there; run `mount {point}` first"
    ))
}

/// A path, made absolute and without links, of which only a part may exist.
#[derive(Debug)]
pub(super) struct Place {
    /// The longest part that exists.
    existing: PathBuf,
    /// All of it.
    pub(super) whole: PathBuf,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let failed = |error| Error::io(path.display().to_string(), "find", error);
        let absolute = std::path::absolute(path).map_err(failed)?;
        for part in absolute.ancestors() {
            match part.canonicalize() {
                Ok(existing) => {
                    let rest = absolute.strip_prefix(part).unwrap_or(Path::new(""));
                    // Joining nothing would add a slash, which a file does not have.
                    let whole =
                        if part == absolute { existing.clone() } else { existing.join(rest) };
                    return Ok(Self { existing, whole });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(std::io::ErrorKind::NotFound.into()))
    }

    /// The one of `mounts` that it lies on, where that is among them.
    pub(super) fn mount<'a>(&self, mounts: &'a [Mount]) -> Result<Option<&'a Mount>> {
        mounts::filesystem_of(&self.existing, mounts).map_err(|error| {
            Error::io(self.existing.display().to_string(), "find the filesystem of", error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sysfs::DeviceNumber;

    fn mount(fs_type: &str, point: &str) -> Mount {
        Mount {
            id: 1,
            device: DeviceNumber { major: 0, minor: 1 },
            root: "/".into(),
            point: point.into(),
            fs_type: fs_type.to_owned(),
            source: "x".into(),
            read_only: false,
            super_read_only: false,
        }
    }

    #[test]
    fn memory_and_live_roots_are_no_place_to_keep_things() {
        for (fs_type, point, refused) in [
            ("tmpfs", "/tmp", true),
            ("ramfs", "/", true),
            ("overlay", "/", true),
            ("overlay", "/var/lib/x", false),
            ("ext4", "/", false),
            ("nfs4", "/mnt", false),
        ] {
            assert_eq!(volatile(&mount(fs_type, point)).is_some(), refused, "{fs_type} {point}");
        }
    }

    #[test]
    fn an_unmounted_mount_point_is_named() {
        let fstab = ["/".into(), "/mnt/disk".into()];
        let asked = |folder: &str, mounts: &[Mount]| unmounted(Path::new(folder), &fstab, mounts);
        let root = [mount("ext4", "/")];
        let why = asked("/mnt/disk/keiki", &root).unwrap();
        assert!(why.contains("`mount /mnt/disk`"), "{why}");
        assert_eq!(asked("/mnt/disks/keiki", &root), None);
        assert_eq!(asked("/mnt/disk/keiki", &[mount("xfs", "/mnt/disk")]), None);
    }

    #[test]
    fn a_place_need_not_exist_and_links_do_not_hide_it() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        std::fs::write(real.join("file"), "").unwrap();
        let whole = |path: &str| Place::of(&real.join(path)).unwrap().whole;
        assert_eq!(whole("link/new/repo"), real.join("new/repo"));
        assert_eq!(whole("link/file"), real.join("file"));
    }
}
