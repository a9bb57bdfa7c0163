//! A container in memory, for tests and for building tables before they are written.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::source::beyond_end;
use super::{BlockSink, BlockSource};
use crate::error::Result;
use crate::extent::Extent;
use crate::units::Bytes;

/// Bytes in memory with a sector size.
#[derive(Debug)]
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    sector_size: Bytes,
}

impl Memory {
    /// A container of these bytes, with 512-byte sectors.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::with_sectors(bytes, Bytes::new(512))
    }

    /// A container of these bytes with sectors of `sector_size`.
    pub fn with_sectors(bytes: Vec<u8>, sector_size: Bytes) -> Self {
        Self { bytes: Mutex::new(bytes), sector_size }
    }

    /// The bytes as they are now.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(
        &self,
        action: &str,
        offset: Bytes,
        length: usize,
        then: impl FnOnce(&mut [u8]) -> R,
    ) -> Result<R> {
        let mut bytes = self.lock();
        let size = Bytes::of(&bytes);
        let range = offset.index().and_then(|start| Some(start..start.checked_add(length)?));
        match range.and_then(|range| bytes.get_mut(range)) {
            Some(part) => Ok(then(part)),
            None => Err(beyond_end("memory", action, offset, length, size)),
        }
    }
}

impl BlockSource for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }
    fn size(&self) -> Bytes {
        Bytes::of(&self.lock())
    }
    fn sector_size(&self) -> Bytes {
        self.sector_size
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len();
        self.with("read", offset, length, |part| buffer.copy_from_slice(part))
    }
}

impl BlockSink for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }
    fn size(&self) -> Bytes {
        BlockSource::size(self)
    }
    fn sector_size(&self) -> Bytes {
        self.sector_size
    }
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        self.with("write", offset, bytes.len(), |part| part.copy_from_slice(bytes))
    }
    fn zero(&self, range: Extent) -> Result<()> {
        let length = range.len().index().unwrap_or(usize::MAX);
        self.with("zero", range.start, length, |part| part.fill(0))
    }
    fn discard(&self, _: Extent) -> Result<()> {
        Ok(())
    }
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;
    use crate::io::conformance;

    #[test]
    fn memory_conforms() {
        let memory = Memory::new(vec![0xA5; (2 << 20) + 4096]);
        conformance::check(&memory, &[&memory]);
    }
}
