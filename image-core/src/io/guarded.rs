//! A target on which some bytes stay as they are, whatever happens.

use std::path::PathBuf;
use std::sync::Arc;

use super::{BlockSink, Medium, Source};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// Passes everything on to `inner` but what would change a byte of `kept`: that fails, and nothing of it is
/// written. A plan proves that nothing does; this is for the day on which a proof is wrong.
pub struct Guarded {
    inner: Arc<dyn Medium>,
    kept: ExtentSet,
}

impl Guarded {
    /// Guards `kept` of `inner`.
    pub fn new(inner: Arc<dyn Medium>, kept: ExtentSet) -> Self {
        Self { inner, kept }
    }

    fn check(&self, what: &str, range: Extent) -> Result<()> {
        match self.kept.within(range).next() {
            None => Ok(()),
            Some(hit) => {
                let source = std::io::Error::other("bytes that are kept would be changed");
                Err(Error::io_at(self.inner.name(), what, hit.start, source))
            }
        }
    }
}

impl BlockSink for Guarded {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn size(&self) -> Bytes {
        self.inner.size()
    }
    fn sector_size(&self) -> Bytes {
        self.inner.sector_size()
    }
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        let range = Extent::new(offset, offset.saturating_add(Bytes::of(bytes)));
        self.check("write", range)?;
        self.inner.write_at(offset, bytes)
    }
    fn zero(&self, range: Extent) -> Result<()> {
        self.check("write zeros", range)?;
        self.inner.zero(range)
    }
    fn discard(&self, range: Extent) -> Result<()> {
        self.check("discard", range)?;
        self.inner.discard(range)
    }
    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
}

impl Medium for Guarded {
    fn direct(&self) -> Result<Source> {
        self.inner.direct()
    }
    fn hardware(&self) -> Result<String> {
        self.inner.hardware()
    }
    fn node(&self) -> Option<PathBuf> {
        self.inner.node()
    }
    fn reread_partitions(&self) -> Result<()> {
        self.inner.reread_partitions()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Guarded;
    use crate::extent::Extent;
    use crate::io::crash::Power;
    use crate::io::{BlockSink, Medium};
    use crate::units::Bytes;

    #[test]
    fn kept_bytes_take_no_write_and_all_others_do() {
        let power = Power::new(vec![vec![9; 8192]]);
        let medium = power.disk(0);
        let kept = Extent::new(Bytes::new(1024), Bytes::new(2048));
        let guarded = Guarded::new(medium as Arc<dyn Medium>, kept.into());
        guarded.write_at(Bytes::ZERO, &[1; 1024]).unwrap();
        guarded.zero(Extent::new(Bytes::new(2048), Bytes::new(8192))).unwrap();
        for (start, end) in [(0, 1025), (1023, 1025), (1500, 1501), (2047, 4096), (0, 8192)] {
            let range = Extent::new(Bytes::new(start), Bytes::new(end));
            let bytes = vec![7; range.len().index().unwrap()];
            let refused = guarded.write_at(range.start, &bytes).unwrap_err().to_string();
            assert!(refused.contains("kept"), "{refused}");
            assert!(guarded.zero(range).is_err() && guarded.discard(range).is_err());
        }
        guarded.flush().unwrap();
        let now = guarded.direct().unwrap().read(Bytes::ZERO, 4096).unwrap();
        assert!(now[..1024].iter().all(|byte| *byte == 1) && now[2048..].iter().all(|b| *b == 0));
        assert!(now[1024..2048].iter().all(|byte| *byte == 9));
    }
}
