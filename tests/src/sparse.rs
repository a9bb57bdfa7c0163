//! Sparse files: made, and copied without their holes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use image_core::extent::Extent;
use image_core::units::Bytes;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Makes an empty file of `size`, in the place of any that is there.
///
/// # Errors
/// The file cannot be made.
pub fn create(path: &Path, size: Bytes) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {path:?}"))?;
    file.set_len(size.get()).with_context(|| format!("cannot size {path:?}"))
}

/// Copies the data of `range` of the file `from` to position `at` of the file `to`, and no holes.
///
/// # Errors
/// Reading, writing; a `range` beyond the end of `from` is cut.
pub fn copy(from: &Path, range: Extent, to: &Path, at: Bytes) -> Result<()> {
    let source = File::open(from).with_context(|| format!("cannot open {from:?}"))?;
    let target = OpenOptions::new()
        .write(true)
        .open(to)
        .with_context(|| format!("cannot open {to:?} for writing"))?;
    let mut buffer = vec![0; 1 << 20];
    let mut position = range.start.get();
    while let Some(data) = next_data(&source, position)? {
        let end = data.end.min(range.end).get();
        position = data.start.get();
        if position >= end {
            break;
        }
        while position < end {
            let length = usize::try_from(end - position)?.min(buffer.len());
            let piece = buffer.get_mut(..length).context("piece")?;
            source.read_exact_at(piece, position)?;
            target.write_all_at(piece, at.get() + (position - range.start.get()))?;
            position += u64::try_from(length)?;
        }
    }
    Ok(())
}

/// The first run of data that ends behind `position`, from there on.
fn next_data(file: &File, position: u64) -> Result<Option<Extent>> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(start) => {
            let end = seek(file, SeekFrom::Hole(start))?;
            Ok(Some(Extent::new(Bytes::new(start), Bytes::new(end))))
        }
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
