//! Filesystems in files of their own, made by their own tools, to be copied to where they belong.

use std::path::Path;

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;

use crate::loops::Mount;
use crate::{call, run, sparse, tool};

/// A new UUID from the kernel.
///
/// # Errors
/// The kernel has none to give.
pub fn uuid() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("no /proc")?;
    Ok(text.trim().to_owned())
}

/// Makes an ext4 of `size` that holds a copy of the folder `content`.
///
/// # Errors
/// mke2fs fails.
pub fn ext4(image: &Path, size: Bytes, [label, uuid]: [&str; 2], content: &Path) -> Result<()> {
    let size = format!("{}k", size.units(Bytes::KIB));
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    run!(
        "mke2fs", "-q", "-F", "-t", "ext4", "-E", options, "-L", label, "-U", uuid, "-d", content,
        image, size
    )?;
    Ok(())
}

/// Makes an empty XFS of `size`, at least 300 MiB.
///
/// # Errors
/// mkfs.xfs fails.
pub fn xfs(image: &Path, size: Bytes, [label, uuid]: [&str; 2]) -> Result<()> {
    sparse::create(image, size)?;
    run!("mkfs.xfs", "-q", "-f", "-L", label, "-m", format!("uuid={uuid}"), image)?;
    Ok(())
}

/// Makes a swap area of `size`.
///
/// # Errors
/// mkswap fails.
pub fn swap(image: &Path, size: Bytes, [label, uuid]: [&str; 2]) -> Result<()> {
    sparse::create(image, size)?;
    run!("mkswap", "-q", "-L", label, "-U", uuid, image)?;
    Ok(())
}

/// Makes a FAT32 of `size`, at least 34 MiB, that holds copies of `files` (name inside, file outside).
///
/// # Errors
/// mkfs.vfat or mtools fail.
pub fn fat32(
    image: &Path,
    size: Bytes,
    [label, serial]: [&str; 2],
    files: &[(&str, &Path)],
) -> Result<()> {
    sparse::create(image, size)?;
    // One sector a cluster: else a volume this small has too few clusters for FAT32.
    run!("mkfs.vfat", "-F", "32", "-s", "1", "-i", serial, "-n", label, image)?;
    let mut folders = Vec::new();
    for (inside, outside) in files {
        for folder in Path::new(inside).ancestors().skip(1).collect::<Vec<_>>().iter().rev() {
            if folder.as_os_str() != "" && !folders.contains(folder) {
                tool::run(&mtools("mmd", image, &[format!("::{}", folder.display())]))?;
                folders.push(*folder);
            }
        }
        let outside = outside.display().to_string();
        tool::run(&mtools("mcopy", image, &[outside, format!("::{inside}")]))?;
    }
    Ok(())
}

/// Copies everything in the FAT filesystem in the bytes `extent` of `file` into the folder `out`.
///
/// # Errors
/// mtools fail.
pub fn read_fat(file: &Path, extent: Extent, out: &Path) -> Result<()> {
    // mtools' own way to name a filesystem inside a file.
    let place = format!("{}@@{}", file.display(), extent.start.get());
    let out = out.display().to_string();
    tool::run(&mtools("mcopy", Path::new(&place), &["-s".into(), "-Q".into(), "::*".into(), out]))?;
    Ok(())
}

fn mtools(program: &str, image: &Path, args: &[String]) -> image_core::exec::Call {
    let mut call = call!(program, "-i", image);
    call.args.extend(args.iter().map(Into::into));
    call.env("MTOOLS_SKIP_CHECK", "1")
}

/// Mounts the filesystem that is the whole of `image`, lets `fill` work in it, and unmounts it.
///
/// # Errors
/// Mounting, or those of `fill`.
pub fn filled(image: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let size = Bytes::new(std::fs::metadata(image)?.len());
    let mount = Mount::new(image, Extent::first(size), "rw")?;
    fill(mount.folder())
}
