//! The disc or stick that this machine was started from, where that is one of `keiki iso`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image_core::disk::inventory::{self, DiskInfo};
use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::sys::mounts;
use live_iso::{boot, iso};

/// Where it is mounted.
pub const POINT: &str = "/media/keiki";

/// How long a stick may take until the kernel knows it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether there is one.
pub fn is_known() -> bool {
    Path::new("/").join(iso::MEDIUM).exists()
}

/// How many images were put on it when it was made, where that is known.
pub fn images() -> Option<usize> {
    let path = Path::new("/").join(boot::IMAGES);
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Mounts it, read-only, where it is not mounted yet; its folder.
///
/// # Errors
/// This machine was not started from such a medium, or it is not there any more.
pub fn attach() -> Result<PathBuf> {
    let own = Path::new("/").join(iso::MEDIUM);
    let id = fs::read(&own).context("this machine was not started from a disc of `keiki iso`")?;
    let is_own = |point: &Path| fs::read(point.join(iso::ID)).is_ok_and(|found| found == id);
    let point = PathBuf::from(POINT);
    if is_own(&point) {
        return Ok(point);
    }
    fs::create_dir_all(&point).with_context(|| format!("cannot create {POINT}"))?;
    let began = Instant::now();
    loop {
        for device in candidates()? {
            let words = ["-t", "iso9660", "-o", "ro", &device.display().to_string(), POINT];
            if Machine.check(&Call::new("mount", words)).is_err() {
                continue;
            }
            if is_own(&point) {
                return Ok(point);
            }
            Machine.check(&Call::new("umount", [POINT]))?;
        }
        if began.elapsed() > PATIENCE {
            drop(fs::remove_dir(&point));
            bail!("the medium that this machine was started from is not there");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The whole disc or stick that is mounted at `point`.
///
/// # Errors
/// Nothing is mounted there.
pub fn disk(point: &Path) -> Result<PathBuf> {
    let mounted = mounts::mounts(Path::new("/"))?.into_iter().rfind(|mount| mount.point == point);
    let source = mounted.map(|mount| mount.source).context("the medium is not mounted")?;
    let is_of = |disk: &DiskInfo| {
        disk.path == source || disk.partitions.iter().any(|part| part.path == source)
    };
    let disk = inventory::disks()?.into_iter().find(is_of);
    disk.map(|disk| disk.path).with_context(|| format!("{} is not there", source.display()))
}

/// What looks like such a medium: partitions first, for a disk that is mounted whole has none that can be mounted too.
fn candidates() -> Result<Vec<PathBuf>> {
    let disks = inventory::disks()?;
    let parts = disks.iter().flat_map(|disk| &disk.partitions).map(|part| &part.path);
    let all = parts.chain(disks.iter().map(|disk| &disk.path));
    Ok(all.filter(|path| has_its_name(path)).cloned().collect())
}

/// Whether an ISO 9660 filesystem (ECMA-119, 8.4: a primary volume descriptor in sector 16) with our name is on a device.
fn has_its_name(device: &Path) -> bool {
    let mut sector = [0; 2048];
    let read = File::open(device).and_then(|file| file.read_exact_at(&mut sector, 16 * 2048));
    let label = sector.get(40..72).unwrap_or_default();
    read.is_ok()
        && sector.starts_with(b"\x01CD001")
        && label.trim_ascii_end() == iso::LABEL.as_bytes()
}
