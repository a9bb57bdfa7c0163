//! The truth test of used maps: what a map leaves out must not be missed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use image_core::error::Error;
use image_core::extent::{Extent, ExtentSet};
use image_core::io::BlockSource;
use image_core::units::Bytes;
use tempfile::NamedTempFile;

/// Copies the bytes `used` of `source` onto a target of its size that is full of garbage, and hands the
/// target to `judge`.
///
/// # Errors
/// What `judge` returns, or reading and writing fail.
pub fn check(
    source: &Path,
    used: &ExtentSet,
    judge: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let target = NamedTempFile::new()?;
    garbage_copy(source, used, target.path())?;
    judge(target.path()).context("on the target that only has the mapped bytes")
}

/// Makes `target`, of the size of `source`, with the bytes of `used` copied and garbage everywhere else.
///
/// Garbage is never zero: a target of zeros would hide what a map forgets.
///
/// # Errors
/// Reading or writing fails.
pub fn garbage_copy(source: &Path, used: &ExtentSet, target: &Path) -> Result<()> {
    let (from, to) = (File::open(source)?, File::create(target)?);
    let size = Bytes::new(from.metadata()?.len());
    let garbage = [0xA5, 0x5A, 0xDE, 0xAD].repeat(1 << 18);
    for part in parts(Extent::first(size), Bytes::of(&garbage)) {
        let length = part.len().index().context("a part in memory")?;
        let bytes = garbage.get(..length).context("a part as long as the garbage")?;
        to.write_all_at(bytes, part.start.get())?;
    }
    for part in used.iter().flat_map(|extent| parts(extent, Bytes::MIB)) {
        let mut bytes = vec![0; part.len().index().context("a part in memory")?];
        from.read_exact_at(&mut bytes, part.start.get())?;
        to.write_all_at(&bytes, part.start.get())?;
    }
    Ok(())
}

/// `extent` in parts of at most `length`.
fn parts(extent: Extent, length: Bytes) -> impl Iterator<Item = Extent> {
    let starts = std::iter::successors(Some(extent.start), move |at| at.checked_add(length));
    starts
        .take_while(move |start| *start < extent.end)
        .map(move |start| Extent::new(start, extent.end.min(start.saturating_add(length))))
}

/// A file as a source of 512-byte sectors.
struct Image {
    file: File,
    path: PathBuf,
    size: Bytes,
}

/// The file at `path` as a source.
///
/// # Errors
/// It cannot be opened.
pub fn source(path: &Path) -> Result<Arc<dyn BlockSource>> {
    let file = File::open(path)?;
    let size = Bytes::new(fs::metadata(path)?.len());
    Ok(Arc::new(Image { file, path: path.to_owned(), size }))
}

impl BlockSource for Image {
    fn name(&self) -> String {
        self.path.display().to_string()
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn sector_size(&self) -> Bytes {
        Bytes::new(512)
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> image_core::error::Result<()> {
        let action = format!("read {} bytes", buffer.len());
        self.file
            .read_exact_at(buffer, offset.get())
            .map_err(|source| Error::io_at(self.name(), action, offset, source))
    }
}

#[cfg(test)]
mod tests {
    use image_core::extent::{Extent, ExtentSet};
    use image_core::units::Bytes;

    #[test]
    fn only_used_bytes_survive() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::write(&source, vec![7; (1 << 20) + 3000]).unwrap();
        let used: ExtentSet = [(0, 10), (1_048_570, 1_048_600)]
            .map(|(start, end)| Extent::new(Bytes::new(start), Bytes::new(end)))
            .into_iter()
            .collect();
        super::check(&source, &used, |target| {
            let bytes = std::fs::read(target)?;
            assert_eq!(bytes.len(), (1 << 20) + 3000);
            for (at, byte) in (0_u64..).zip(bytes) {
                let at = Extent::new(Bytes::new(at), Bytes::new(at + 1));
                assert_eq!(byte == 7, used.contains(at), "byte {at}");
                assert_ne!(byte, 0);
            }
            Ok(())
        })
        .unwrap();
    }
}
