//! Loop devices and mounts that go away with the value that holds them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::{call, run, tool};

/// A loop device on a file; detached when dropped.
#[derive(Debug)]
pub struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    /// On the whole of `file`.
    ///
    /// # Errors
    /// No rights, or no loop devices.
    pub fn whole(file: &Path) -> Result<Self> {
        Self::attach(file, &[])
    }

    /// On the whole of `file`, with logical sectors of another size than 512 bytes.
    ///
    /// # Errors
    /// As [`Loop::whole`].
    pub fn with_sectors(file: &Path, sector: Bytes) -> Result<Self> {
        Self::attach(file, &["--sector-size".to_owned(), sector.get().to_string()])
    }

    /// On the bytes `extent` of `file`.
    ///
    /// # Errors
    /// As [`Loop::whole`].
    pub fn part(file: &Path, extent: Extent) -> Result<Self> {
        let [start, length] = [extent.start, extent.len()].map(|figure| figure.get().to_string());
        Self::attach(file, &["--offset".to_owned(), start, "--sizelimit".to_owned(), length])
    }

    fn attach(file: &Path, options: &[String]) -> Result<Self> {
        let mut call = call!("losetup", "--find", "--show");
        call.args.extend(options.iter().map(Into::into));
        call.args.push(file.into());
        let device = tool::run(&call).context("tests named loop_ need root and loop devices")?;
        Ok(Self { device: PathBuf::from(device.trim()), file: file.canonicalize()? })
    }

    /// The device node.
    pub fn device(&self) -> &Path {
        &self.device
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; `losetup` would list the device.
        drop(run!("losetup", "--detach", &self.device));
        // A program that looks at all devices keeps it for a moment, and a mount namespace that another test
        // made in the meantime has a copy of each mount: then the file still is in use.
        let name = self.device.file_name().unwrap_or_default();
        let backing = Path::new("/sys/block").join(name).join("loop/backing_file");
        for _ in 0..3000 {
            let behind = std::fs::read_to_string(&backing).unwrap_or_default();
            if Path::new(behind.trim_end()) != self.file {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A mounted filesystem; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    folder: TempDir,
    device: Loop,
}

impl Mount {
    /// Mounts the filesystem in the bytes `extent` of `file` with mount `options`.
    ///
    /// # Errors
    /// No rights, or the kernel does not take it.
    pub fn new(file: &Path, extent: Extent, options: &str) -> Result<Self> {
        let device = Loop::part(file, extent)?;
        let folder = TempDir::new()?;
        run!("mount", "-o", options, device.device(), folder.path())?;
        Ok(Self { folder, device })
    }

    /// Has ntfs-3g mount the NTFS in the bytes `extent` of `file`.
    ///
    /// # Errors
    /// No rights, or ntfs-3g does not take it.
    pub fn ntfs(file: &Path, extent: Extent) -> Result<Self> {
        let device = Loop::part(file, extent)?;
        let folder = TempDir::new()?;
        run!("ntfs-3g", "-o", "norecover,inherit", device.device(), folder.path())?;
        Ok(Self { folder, device })
    }

    /// The device that is mounted.
    pub fn device(&self) -> &Path {
        self.device.device()
    }

    /// The mount point.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(self.folder.path());
    }
}

/// Unmounts what is on `folder`.
///
/// Not by `umount`, which looks for the mount in a list that other tests change while it reads; and for a
/// moment a scan of all devices or folders by another program may keep it busy.
pub fn unmount(folder: &Path) {
    let gone = (0..100).any(|_| {
        let result = rustix::mount::unmount(folder, UnmountFlags::empty());
        if result.is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
        result.is_ok()
    });
    if !gone {
        // It goes as soon as it can; more cannot be done here.
        rustix::mount::unmount(folder, UnmountFlags::DETACH).unwrap_or_default();
    }
}
