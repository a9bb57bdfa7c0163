//! Filesystems as a pulled plug leaves them: a journal that waits, and allocation maps that are stale.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;

use crate::loops::Mount;
use crate::tree::Tree;
use crate::{run, sparse};

/// The folder of the files that a pulled plug must not cost: all of them were synchronized.
pub const KEPT: &str = "synchronized";

/// Mounts the filesystem that is the whole of `image` with mount `options`, lets `work` do something in it,
/// and pulls the plug. Returns what is in its folder [`KEPT`]; `work` has to synchronize that.
///
/// # Errors
/// Mounting, those of `work`, or the filesystem knows no shutdown (`FS_IOC_SHUTDOWN`).
pub fn pull(image: &Path, options: &str, work: impl FnOnce(&Path) -> Result<()>) -> Result<Tree> {
    let size = Bytes::new(fs::metadata(image)?.len());
    let mount = Mount::new(image, Extent::first(size), options)?;
    fs::create_dir(mount.folder().join(KEPT))?;
    work(mount.folder())?;
    let tree = Tree::of(&mount.folder().join(KEPT))?;
    // Without -f the log is not flushed. Unmounting would still write the blocks to their places that the
    // journal has already, so what is on the disk now is copied before.
    run!("xfs_io", "-x", "-c", "shutdown", mount.folder())?;
    let pulled = image.with_extension("pulled");
    sparse::create(&pulled, size)?;
    sparse::copy(image, Extent::first(size), &pulled, Bytes::ZERO)?;
    drop(mount);
    fs::rename(pulled, image)?;
    Ok(tree)
}

/// `length` bytes that no other `name` has.
pub fn content(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes the file `name` with [`content`] in `folder`; it is on the disk when this returns.
///
/// # Errors
/// Writing fails.
pub fn write(folder: &Path, name: &str, length: usize) -> Result<()> {
    let mut file = File::create(folder.join(name))?;
    file.write_all(&content(name, length))?;
    Ok(file.sync_all()?)
}

/// Mounts the whole of `image`, which replays its journal, and reads its folder [`KEPT`].
///
/// # Errors
/// It cannot be mounted or read.
pub fn kept(image: &Path) -> Result<Tree> {
    let size = Bytes::new(fs::metadata(image)?.len());
    let mount = Mount::new(image, Extent::first(size), "rw").context("the pulled filesystem")?;
    Tree::of(&mount.folder().join(KEPT))
}
