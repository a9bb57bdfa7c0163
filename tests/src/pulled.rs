//! Filesystems as a pulled plug leaves them: a journal that waits, and allocation maps that are stale.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::extent::{Extent, ExtentSet};
use image_core::fs::State;
use image_core::replay;
use image_core::report::Quiet;
use image_core::survey::model::Hardware;
use image_core::survey::{self, Input, Wishes};
use image_core::units::Bytes;

use crate::loops::Mount;
use crate::tree::Tree;
use crate::{binary, run, sparse, truth};

/// The folder of the files that a pulled plug must not cost: all of them were synchronized.
pub const KEPT: &str = "synchronized";

/// Mounts the filesystem that is the whole of `image` with mount `options`, lets `work` do something in it,
/// and pulls the plug. Returns what is in its folder [`KEPT`]; `work` has to synchronize that. What `work` returns
/// (open files) lives until then.
///
/// # Errors
/// Mounting, those of `work`, or the filesystem knows no shutdown (`FS_IOC_SHUTDOWN`).
pub fn pull<T>(image: &Path, options: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<Tree> {
    let size = Bytes::new(fs::metadata(image)?.len());
    let mount = Mount::new(image, Extent::first(size), options)?;
    fs::create_dir(mount.folder().join(KEPT))?;
    let held = work(mount.folder())?;
    let tree = Tree::of(&mount.folder().join(KEPT))?;
    // Without -f the log is not flushed. Unmounting would still write the blocks to their places that the
    // journal has already, so what is on the disk now is copied before.
    run!("xfs_io", "-x", "-c", "shutdown", mount.folder())?;
    let pulled = image.with_extension("pulled");
    sparse::create(&pulled, size)?;
    sparse::copy(image, Extent::first(size), &pulled, Bytes::ZERO)?;
    drop(held);
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

/// How far the map of the XFS that is the whole of `image` is believed, and what it names as used: its log is
/// replayed for that.
///
/// # Errors
/// It cannot be looked into.
pub fn map_xfs(image: &Path) -> Result<(State, ExtentSet)> {
    let input = Input {
        path: image.to_owned(),
        source: truth::source(image)?,
        hardware: Hardware::default(),
        select: None,
        whole: true,
    };
    let mut survey = survey::survey(&[input], Wishes::default(), &Quiet::default())?;
    replay::dirty_logs(
        &mut survey,
        &Call::new(binary::keiki(), ["__serve-view"]),
        &Quiet::default(),
    )?;
    let volume = survey.volumes.first().context("a volume")?;
    ensure!(volume.content == "xfs", "{volume:?}");
    Ok((volume.state.clone(), volume.used()))
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
