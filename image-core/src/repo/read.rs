//! What reading a repository needs of the place where it is kept.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::units::Bytes;

/// A file, as a folder lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileInfo {
    /// Its name within the folder.
    pub name: String,
    /// Its length.
    pub size: Bytes,
    /// When it was last written, by the clock of the machine that keeps it.
    pub modified: SystemTime,
}

/// A place that holds a repository's files, addressed by paths such as `packs/<name>`.
///
/// A missing file is an `Io` error of kind `NotFound`.
pub trait Read: Send + Sync {
    /// The place, for messages.
    fn location(&self) -> String;
    /// All of a file; `Corrupt` where it is longer than `max`.
    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>>;
    /// Exactly the bytes `range` of a file; `Io` of kind `UnexpectedEof` where it is shorter.
    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>>;
    /// The files of a folder in no order; a folder that does not exist has none.
    fn list(&self, folder: &str) -> Result<Vec<FileInfo>>;
}

/// Refuses paths that some filesystem would take for another file, or that leave the repository.
///
/// Paths are lower-case ASCII, so names that differ only by case cannot meet. FAT and SMB drop trailing
/// dots and know DOS device names with any extension (Microsoft, "Naming Files, Paths, and Namespaces").
pub fn check_path(path: &str) -> Result<()> {
    let fits = |name: &str| {
        let stem = name.split('.').next().unwrap_or_default();
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        (1..=128).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.ends_with('.')
            && !is_dos_device(stem)
    };
    if path.split('/').all(fits) {
        return Ok(());
    }
    Err(Error::refused(format!("{path:?} is not a file name that every filesystem keeps apart")))
}

fn is_dos_device(stem: &str) -> bool {
    let numbered = |kind: &str| {
        stem.strip_prefix(kind).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']))
    };
    matches!(stem, "con" | "prn" | "aux" | "nul") || numbered("com") || numbered("lpt")
}

/// A complaint about a file that is longer than its structure can be.
pub(super) fn too_long(path: &str, size: Bytes, max: Bytes) -> Error {
    let expected = format!("at most {} bytes", max.get());
    Error::corrupt("file", Bytes::ZERO, expected, size.get().to_string()).on(path)
}

/// Whether the cause of an error is that the file does not exist.
pub fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::check_path;

    #[test]
    fn names_that_could_meet_or_escape_are_refused() {
        for good in ["keiki", "packs/0a", "tmp/a.1", "trash/2026-11-20/ff", ".x", "console"] {
            check_path(good).unwrap();
        }
        for wrong in [
            "",
            "/",
            "a/",
            "/a",
            ".",
            "..",
            "a/../b",
            "a.",
            "A",
            "nul",
            "packs/aux.1",
            "com1",
            "a b",
            "a\\b",
            "ä",
            "a:b",
        ] {
            assert!(check_path(wrong).is_err(), "{wrong:?}");
        }
    }
}
