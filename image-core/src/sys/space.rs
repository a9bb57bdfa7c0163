//! Free space of the filesystem that holds a path.

use std::io;
use std::path::Path;

use crate::units::Bytes;

/// Bytes that this user may still write to the filesystem of `path`, which exists.
pub fn free(path: &Path) -> io::Result<Bytes> {
    let figures = rustix::fs::statvfs(path)?;
    let unit = Bytes::new(figures.f_frsize);
    unit.checked_mul(figures.f_bavail).ok_or_else(|| io::Error::other("absurd free space"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_and_less_than_an_exabyte() {
        let free = free(&std::env::temp_dir()).unwrap();
        assert!(free > Bytes::MIB && free < Bytes::gib(1 << 30));
    }
}
