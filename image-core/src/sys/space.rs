//! Whether there is space on the filesystem that holds a path.

use std::io;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;

use crate::units::Bytes;

/// Bytes that this user may still write to the filesystem of `path`, which exists.
pub fn free(path: &Path) -> io::Result<Bytes> {
    let figures = rustix::fs::statvfs(path)?;
    let unit = Bytes::new(figures.f_frsize);
    unit.checked_mul(figures.f_bavail).ok_or_else(|| io::Error::other("absurd free space"))
}

/// Whether nothing can be written to the filesystem of `path`, which exists.
pub fn is_read_only(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_and_less_than_an_exabyte() {
        let free = free(&std::env::temp_dir()).unwrap();
        assert!(free > Bytes::MIB && free < Bytes::gib(1 << 30));
        assert!(!is_read_only(&std::env::temp_dir()).unwrap());
    }
}
