//! A small repository in format 1 as the program wrote it when that format was frozen, kept in
//! `tests/fixtures/format-1` together with the hashes of what it restores to. It stays as it is for ever: a change of
//! the program that old images do not survive is seen. A new format gets a sample of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_core::extent::Extent;

/// The name of the images of the disk, an older and a newer one.
pub const NAME: &str = "sample";

/// The name of the image of the disk when a sector of `/boot` could not be read.
pub const HOLED: &str = "holed";

/// Where the sample is kept.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1")
}

/// Bytes of the disk that a restore to its size brings back exactly, and their BLAKE3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// What it is: a volume's id, or the table.
    pub what: String,
    /// Where on the disk.
    pub extent: Extent,
    /// In hexadecimal digits.
    pub hash: String,
}

impl Part {
    /// The same bytes of a disk.
    ///
    /// # Errors
    /// Reading.
    pub fn again(&self, disk: &Path) -> Result<Self> {
        let mut bytes = vec![0; self.extent.len().index().context("too long")?];
        File::open(disk)?.read_exact_at(&mut bytes, self.extent.start.get())?;
        Ok(Self { hash: blake3::hash(&bytes).to_hex().to_string(), ..self.clone() })
    }
}

/// The parts as the file `parts` in [`folder`] lists them: what, start, end, hash.
///
/// # Errors
/// The file cannot be read.
pub fn parts() -> Result<Vec<Part>> {
    let path = folder().join("parts");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().with_context(|| format!("{line:?} is too short"));
            let what = word()?.to_owned();
            let extent =
                Extent::new(word()?.parse::<u64>()?.into(), word()?.parse::<u64>()?.into());
            Ok(Part { what, extent, hash: word()?.to_owned() })
        })
        .collect()
}
