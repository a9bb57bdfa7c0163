//! A part of another container: a partition of a disk.

use super::source::beyond_end;
use super::{BlockSink, BlockSource};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// The bytes `extent` of `inner`, with positions counted from its start.
#[derive(Clone, Debug)]
pub struct Window<T> {
    inner: T,
    extent: Extent,
    name: String,
}

impl<T> Window<T> {
    /// The part `extent` of `inner`, called `name` in messages. The caller checked that it lies inside.
    pub fn new(inner: T, extent: Extent, name: impl Into<String>) -> Self {
        Self { inner, extent, name: name.into() }
    }

    fn place(&self, action: &str, offset: Bytes, length: usize) -> Result<Bytes> {
        Extent::at(offset, Bytes::from(length))
            .filter(|part| part.end <= self.extent.len())
            .and_then(|part| part.start.checked_add(self.extent.start))
            .ok_or_else(|| self.outside(action, offset, length))
    }

    fn part(&self, action: &str, range: Extent) -> Result<Extent> {
        let length = range.len().index().unwrap_or(usize::MAX);
        self.place(action, range.start, length)?;
        Ok(range.shifted(self.extent.start))
    }

    fn outside(&self, action: &str, offset: Bytes, length: usize) -> Error {
        beyond_end(&self.name, action, offset, length, self.extent.len())
    }
}

impl<T: BlockSource> BlockSource for Window<T> {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn size(&self) -> Bytes {
        self.extent.len()
    }
    fn sector_size(&self) -> Bytes {
        self.inner.sector_size()
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        self.inner.read_at(self.place("read", offset, buffer.len())?, buffer)
    }
    fn read_around(
        &self,
        offset: Bytes,
        buffer: &mut [u8],
        wanted: &[Extent],
    ) -> Result<ExtentSet> {
        self.inner.read_around(self.place("read", offset, buffer.len())?, buffer, wanted)
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        let set = self.inner.allocated(self.part("read", range)?)?;
        Ok(set.iter().map(|extent| extent.relative_to(self.extent.start)).collect())
    }
}

impl<T: BlockSink> BlockSink for Window<T> {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn size(&self) -> Bytes {
        self.extent.len()
    }
    fn sector_size(&self) -> Bytes {
        self.inner.sector_size()
    }
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        self.inner.write_at(self.place("write", offset, bytes.len())?, bytes)
    }
    fn zero(&self, range: Extent) -> Result<()> {
        self.inner.zero(self.part("zero", range)?)
    }
    fn discard(&self, range: Extent) -> Result<()> {
        self.inner.discard(self.part("discard", range)?)
    }
    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Window;
    use crate::extent::Extent;
    use crate::io::memory::Memory;
    use crate::io::{BlockSource, conformance};
    use crate::units::Bytes;

    #[test]
    fn a_window_conforms_and_leaves_the_rest_alone() {
        let memory = Arc::new(Memory::new(vec![0xA5; (3 << 20) + 100]));
        let extent = Extent::new(Bytes::new(513), Bytes::mib(3));
        let window = Window::new(Arc::clone(&memory), extent, "part");
        conformance::check(&window, &[&window]);
        assert_eq!(memory.read(Bytes::ZERO, 513).unwrap(), [0xA5; 513]);
        assert_eq!(memory.read(Bytes::mib(3), 100).unwrap(), [0xA5; 100]);
    }
}
