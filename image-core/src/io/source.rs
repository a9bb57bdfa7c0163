//! Something with a size that bytes are read from.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// A container that is read at byte positions; shared by threads.
pub trait BlockSource: Send + Sync {
    /// What to call it in messages: a path, a volume id.
    fn name(&self) -> String;

    /// Number of bytes.
    fn size(&self) -> Bytes;

    /// The logical sector size that tables on it count in.
    fn sector_size(&self) -> Bytes;

    /// Fills `buffer` from position `offset`, or fails: never a short read.
    ///
    /// # Errors
    /// [`Error::Io`] with the position; reading past the end is one too.
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()>;

    /// As [`BlockSource::read_at`], for bytes that are not asked for again: the machine's cache stays as it is,
    /// where that is possible.
    ///
    /// # Errors
    /// As [`BlockSource::read_at`].
    fn read_once(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        self.read_at(offset, buffer)
    }

    /// Fills `buffer` like [`BlockSource::read_once`], but goes on where single sectors cannot be read. Returns which
    /// parts of `wanted` could not be had, counted from the buffer's start, as `wanted` is; in these, and
    /// outside of `wanted`, what the buffer holds means nothing.
    ///
    /// # Errors
    /// [`Error::Io`] where more than single sectors fail. Whoever does not know bad sectors fails with the first.
    fn read_around(
        &self,
        offset: Bytes,
        buffer: &mut [u8],
        wanted: &[Extent],
    ) -> Result<ExtentSet> {
        let _ = wanted;
        self.read_once(offset, buffer).map(|()| ExtentSet::new())
    }

    /// The parts of `range` that may hold something else than zeros (holes of sparse files are not in
    /// it). Never leaves out a byte that is not zero.
    ///
    /// # Errors
    /// [`Error::Io`] where the container cannot be asked.
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        Ok(range.into())
    }

    /// `length` bytes from `offset`, newly allocated; `length` must be bounded by the caller.
    ///
    /// # Errors
    /// As [`BlockSource::read_at`].
    fn read(&self, offset: Bytes, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        self.read_at(offset, &mut buffer)?;
        Ok(buffer)
    }
}

/// The error of an access outside a container of `size` bytes.
pub fn beyond_end(name: &str, action: &str, offset: Bytes, length: usize, size: Bytes) -> Error {
    let source = std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        format!("beyond the end ({} bytes)", size.get()),
    );
    Error::io_at(name, format!("{action} {length} bytes"), offset, source)
}

impl<S: BlockSource + ?Sized> BlockSource for Arc<S> {
    fn name(&self) -> String {
        (**self).name()
    }
    fn size(&self) -> Bytes {
        (**self).size()
    }
    fn sector_size(&self) -> Bytes {
        (**self).sector_size()
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        (**self).read_at(offset, buffer)
    }
    fn read_once(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        (**self).read_once(offset, buffer)
    }
    fn read_around(
        &self,
        offset: Bytes,
        buffer: &mut [u8],
        wanted: &[Extent],
    ) -> Result<ExtentSet> {
        (**self).read_around(offset, buffer, wanted)
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        (**self).allocated(range)
    }
}
