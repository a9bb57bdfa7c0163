//! Records: one small file for each save, written last; its hash is the image's id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::image::hash::Hash;
use crate::image::header::{Version, encode_json, parse_json};
use crate::image::time::Timestamp;
use crate::units::Bytes;

/// The largest record that a reader takes.
pub const MAX_RECORD: Bytes = Bytes::kib(64);

/// What an image is called: `[A-Za-z0-9._-]{1,64}`; names that differ only by case are one name.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for ImageName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for ImageName {}

impl FromStr for ImageName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::refused(format!(
            "{text:?} is not an image name: 1 to 64 letters, digits, dots, underscores and hyphens"
        )))
    }
}

impl TryFrom<String> for ImageName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One save: the image exists as soon as this file does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Record {
    /// Version and flag words.
    #[serde(flatten)]
    pub version: Version,
    /// The image's name.
    pub name: ImageName,
    /// When the save ended, by the saving machine's clock.
    pub created: Timestamp,
    /// The saving machine's name.
    pub host: String,
    /// The image that this one was saved after, by the id of its record; changes nothing in what it holds.
    pub parent: Option<Hash>,
    /// BLAKE3 of the root: the content id.
    pub root: Hash,
    /// Sum of the volumes' used bytes, so that listing images needs no root.
    pub used_bytes: Bytes,
}

impl Record {
    /// The file's bytes; their BLAKE3 is the image id.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode_json(self)
    }

    /// Parses a record whose hash the caller has checked.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        parse_json("record", bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{ImageName, Record};
    use crate::error::Error;
    use crate::image::hash::Hash;
    use crate::image::header::Version;
    use crate::units::Bytes;

    #[test]
    fn names_are_checked_and_compared_without_case() {
        for good in ["a", "Web-01.lan_x", &"x".repeat(64)] {
            good.parse::<ImageName>().unwrap();
        }
        for wrong in ["", "a b", "a/b", "ä", "a@b", &"x".repeat(65)] {
            assert!(wrong.parse::<ImageName>().is_err(), "{wrong:?}");
        }
        assert_eq!("Web".parse::<ImageName>().unwrap(), "wEB".parse().unwrap());
    }

    #[test]
    fn records_round_trip_and_tolerate_unknown_fields() {
        let record = Record {
            version: Version::CURRENT,
            name: "web".parse().unwrap(),
            created: "2026-11-20T17:52:57Z".parse().unwrap(),
            host: "h".into(),
            parent: None,
            root: Hash::of(b""),
            used_bytes: Bytes::new(7),
        };
        let bytes = record.encode().unwrap();
        assert_eq!(Record::parse(&bytes).unwrap(), record);
        let text = String::from_utf8(bytes).unwrap();
        let with = |from: &str, to: &str| Record::parse(text.replacen(from, to, 1).as_bytes());
        assert_eq!(with("{", "{\"later\":[1],").unwrap(), record);
        let newer = with("\"format\":1", "\"format\":2").unwrap_err();
        assert!(matches!(newer, Error::Unsupported { .. }), "{newer}");
        let flags = with("to_read\":0", "to_read\":4").unwrap_err();
        assert!(matches!(flags, Error::Unsupported { .. }), "{flags}");
        assert!(with("\"web\"", "\"w/b\"").is_err());
        assert!(Record::parse(b"").is_err());
    }
}
