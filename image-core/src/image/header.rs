//! The head that every file of an image begins with: what it is and who may read or change it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::image::hash::Hash;
use crate::units::Bytes;

/// The version of the format that this program writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Version and flag words, as they stand in the JSON files.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Version {
    /// Format version.
    pub format: u32,
    /// One bit for each extension without which the file cannot be read; none is defined yet.
    pub must_understand_to_read: u64,
    /// One bit for each extension without which the file cannot be changed or added to.
    pub must_understand_to_write: u64,
}

impl Version {
    /// What this program writes.
    pub const CURRENT: Self =
        Self { format: FORMAT, must_understand_to_read: 0, must_understand_to_write: 0 };

    /// Refuses what this program cannot read.
    pub fn readable(self) -> Result<()> {
        if self.format == 0 || self.format > FORMAT {
            return Err(Error::unsupported(format!(
                "format version {} (this program knows version {FORMAT})",
                self.format
            )));
        }
        if self.must_understand_to_read != 0 {
            return Err(Error::unsupported(format!(
                "extension {:#x} needed to read this",
                self.must_understand_to_read
            )));
        }
        Ok(())
    }

    /// Refuses what this program cannot change or add to.
    pub fn writable(self) -> Result<()> {
        self.readable()?;
        if self.must_understand_to_write == 0 {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "extension {:#x} needed to write here",
            self.must_understand_to_write
        )))
    }
}

/// Number of bytes of a binary file's header.
pub const HEADER: usize = 32;

/// A binary file's header: magic, version, four zero bytes, two flag words.
pub fn encode_header(magic: &[u8; 8]) -> [u8; HEADER] {
    let version = Version::CURRENT;
    let mut bytes = [0; HEADER];
    let fields = magic
        .iter()
        .copied()
        .chain(version.format.to_le_bytes())
        .chain([0; 4])
        .chain(version.must_understand_to_read.to_le_bytes())
        .chain(version.must_understand_to_write.to_le_bytes());
    bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    bytes
}

/// Checks a binary file's header in the first bytes of `structure`.
pub fn check_header(structure: &Structure<'_>, magic: &[u8; 8]) -> Result<()> {
    let found = structure.array::<8>(0)?;
    if &found != magic {
        let expected = String::from_utf8_lossy(magic);
        return Err(structure.corrupt("magic", 0, expected, found.escape_ascii()));
    }
    let version = Version {
        format: structure.le32(8)?,
        must_understand_to_read: structure.le64(16)?,
        must_understand_to_write: structure.le64(24)?,
    };
    version.readable()?;
    match structure.le32(12)? {
        0 => Ok(()),
        other => Err(structure.corrupt("reserved field", 12, "0", other)),
    }
}

/// Compact JSON with fields in the order of the structure: equal values give equal bytes.
pub fn encode_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::io("JSON", "encode", error.into()))
}

/// Parses a JSON file: version and flags first, so that a newer format is named as such, then the rest.
///
/// `name` names the structure in errors. Unknown fields are tolerated: what must not be overlooked has a
/// bit in the flag words.
pub fn parse_json<T: for<'a> Deserialize<'a>>(name: &str, bytes: &[u8]) -> Result<T> {
    let wrong = |error: serde_json::Error| {
        let at = format!("{error} (line {}, column {})", error.line(), error.column());
        Error::corrupt(name, Bytes::ZERO, "valid JSON of this structure", at)
    };
    serde_json::from_slice::<Version>(bytes).map_err(wrong)?.readable()?;
    serde_json::from_slice(bytes).map_err(wrong)
}

/// Appends the BLAKE3 of a JSON text to it, as a second line: for files that no hash names.
pub fn seal(mut json: Vec<u8>) -> Vec<u8> {
    let hash = Hash::of(&json);
    json.extend_from_slice(format!("\n{hash}\n").as_bytes());
    json
}

/// The JSON text of a sealed file, whose structure `name` names in errors.
pub fn unseal<'a>(name: &str, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let json = bytes.len().checked_sub(66).and_then(|length| bytes.get(..length));
    match json {
        Some(json) if seal(json.to_vec()) == bytes => Ok(json),
        _ => {
            let expected = "JSON and, behind it, its BLAKE3";
            let found = format!("{} bytes that are something else", bytes.len());
            Err(Error::corrupt(name, Bytes::ZERO, expected, found))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Version, check_header, encode_header, seal, unseal};
    use crate::error::Error;
    use crate::fields::Structure;
    use crate::units::Bytes;

    #[test]
    fn newer_versions_and_unknown_flags_are_unsupported() {
        let check =
            |bytes: &[u8]| check_header(&Structure::new("test", Bytes::ZERO, bytes), b"KeikiTst");
        let good = encode_header(b"KeikiTst");
        check(&good).unwrap();
        for (at, corrupt) in [(0, true), (8, false), (12, true), (16, false), (23, false)] {
            let mut bytes = good;
            bytes[at] ^= 0x40;
            let error = check(&bytes).unwrap_err();
            assert_eq!(matches!(error, Error::Corrupt { .. }), corrupt, "byte {at}: {error}");
        }
        check(&good[..20]).unwrap_err();
    }

    #[test]
    fn seals_show_every_flipped_bit() {
        let sealed = seal(b"{}".to_vec());
        assert_eq!(unseal("test", &sealed).unwrap(), b"{}");
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal("test", &bytes).is_err(), "bit {bit}");
        }
        assert!(unseal("test", b"").is_err());
    }

    #[test]
    fn a_write_flag_forbids_writing_only() {
        let version = Version { must_understand_to_write: 1, ..Version::CURRENT };
        version.readable().unwrap();
        assert!(matches!(version.writable(), Err(Error::Unsupported { .. })));
    }
}
