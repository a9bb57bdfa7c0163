//! Something with a size that bytes are written to.

use std::path::PathBuf;
use std::sync::Arc;

use super::Source;
use crate::error::Result;
use crate::extent::Extent;
use crate::units::Bytes;

/// A container that is written at byte positions; shared by threads.
///
/// Nothing is durable before [`BlockSink::flush`] returned.
pub trait BlockSink: Send + Sync {
    /// What to call it in messages: a path, a volume id.
    fn name(&self) -> String;

    /// Number of bytes.
    fn size(&self) -> Bytes;

    /// The logical sector size that tables on it count in.
    fn sector_size(&self) -> Bytes;

    /// Writes all of `bytes` at position `offset`, or fails.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] with the position; writing past the end is one too.
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()>;

    /// Makes `range` read back as zeros.
    ///
    /// # Errors
    /// As [`BlockSink::write_at`].
    fn zero(&self, range: Extent) -> Result<()>;

    /// Tells the device that `range` is not needed; promises nothing about what it reads as.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`]; a device that cannot discard is not an error.
    fn discard(&self, range: Extent) -> Result<()>;

    /// Returns when everything written before is durable.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`]: what was written may be lost.
    fn flush(&self) -> Result<()>;
}

/// What is restored to: a container that can be read past every cache.
pub trait Medium: BlockSink {
    /// Reads what the medium holds; flush before, or it may be older than what was written.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`].
    fn direct(&self) -> Result<Source>;

    /// What a person could read off its label: model, serial number; nothing where nothing is known.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`].
    fn hardware(&self) -> Result<String> {
        Ok(String::new())
    }

    /// A path by which other programs open this very thing, whatever stands at the path that it was opened
    /// by; `None` where there is none.
    fn node(&self) -> Option<PathBuf> {
        None
    }

    /// Makes the kernel use the partition table that stands on it now.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`]; `EBUSY` while one of its partitions is in use.
    fn reread_partitions(&self) -> Result<()>;
}

impl<S: BlockSink + ?Sized> BlockSink for Arc<S> {
    fn name(&self) -> String {
        (**self).name()
    }
    fn size(&self) -> Bytes {
        (**self).size()
    }
    fn sector_size(&self) -> Bytes {
        (**self).sector_size()
    }
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        (**self).write_at(offset, bytes)
    }
    fn zero(&self, range: Extent) -> Result<()> {
        (**self).zero(range)
    }
    fn discard(&self, range: Extent) -> Result<()> {
        (**self).discard(range)
    }
    fn flush(&self) -> Result<()> {
        (**self).flush()
    }
}
