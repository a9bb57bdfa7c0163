//! Checked reads of fixed-layout on-disk structures.

use crate::error::{Error, Result};
use crate::units::Bytes;

/// The bytes of one on-disk structure, its name and where it was read: so that every field access is
/// checked and every complaint names structure and offset.
#[derive(Clone, Copy, Debug)]
pub struct Structure<'a> {
    name: &'a str,
    at: Bytes,
    bytes: &'a [u8],
}

macro_rules! integers {
    ($($little:ident $big:ident $type:ty),*) => {$(
        /// Little-endian field at `offset` within the structure.
        pub fn $little(&self, offset: usize) -> Result<$type> {
            Ok(<$type>::from_le_bytes(self.array(offset)?))
        }
        /// Big-endian field at `offset` within the structure.
        pub fn $big(&self, offset: usize) -> Result<$type> {
            Ok(<$type>::from_be_bytes(self.array(offset)?))
        }
    )*};
}

impl<'a> Structure<'a> {
    /// The structure `name`, whose `bytes` were read at position `at`.
    pub fn new(name: &'a str, at: Bytes, bytes: &'a [u8]) -> Self {
        Self { name, at, bytes }
    }

    /// What it is called in complaints.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Where the structure starts in its container.
    pub fn position(&self) -> Bytes {
        self.at
    }

    /// All bytes.
    pub fn all(&self) -> &'a [u8] {
        self.bytes
    }

    /// `length` bytes at `offset` within the structure.
    pub fn slice(&self, offset: usize, length: usize) -> Result<&'a [u8]> {
        offset.checked_add(length).and_then(|end| self.bytes.get(offset..end)).ok_or_else(|| {
            Error::corrupt(
                self.name,
                self.at,
                format!("a field of {length} bytes at +{offset}"),
                format!("only {} bytes", self.bytes.len()),
            )
        })
    }

    /// `N` bytes at `offset` within the structure.
    pub fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(offset, N)?);
        Ok(array)
    }

    /// The byte at `offset`.
    pub fn u8(&self, offset: usize) -> Result<u8> {
        Ok(self.array::<1>(offset)?[0])
    }

    integers!(le16 be16 u16, le32 be32 u32, le64 be64 u64);

    /// Text of at most `length` bytes at `offset`, up to its first NUL, without trailing spaces.
    pub fn text(&self, offset: usize, length: usize) -> Result<String> {
        let raw = self.slice(offset, length)?;
        let raw = raw.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(raw).trim_end().to_owned())
    }

    /// A complaint about the field at `offset` within the structure.
    pub fn corrupt(
        &self,
        field: &str,
        offset: usize,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Error {
        let at = self.at.saturating_add(Bytes::from(offset));
        Error::corrupt(format!("{} {field}", self.name), at, expected, found.to_string())
    }
}
