//! What nobody may guess or read: random numbers, and files that are their owner's only.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use image_core::error::{Error, Result};

/// Random bytes that nobody guesses.
///
/// # Errors
/// [`Error::Io`]: the kernel has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let failed = |error: rustix::io::Errno| Error::io("random numbers", "get", error.into());
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    Ok(bytes)
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// So many bytes from twice as many digits; none where they are something else.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] =
            [pair.first()?, pair.last()?].map(|digit| char::from(*digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

/// Writes a file that nobody else reads. It is there as a whole or not at all, and durable.
///
/// # Errors
/// Any of writing; then the file is as it was.
pub fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = || {
        let mut file = options.open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        fs::File::open(folder)?.sync_all()
    };
    written().inspect_err(|_| {
        // The reason is what matters.
        drop(fs::remove_file(&draft));
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{hex, keep, random, unhex};

    #[test]
    fn digits_come_back() {
        let bytes = random::<32>().unwrap();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!((unhex::<1>("0"), unhex::<1>("0g"), unhex::<1>("é")), (None, None, None));
        assert_eq!(unhex("0aF1"), Some([0x0A, 0xF1]));
    }

    #[test]
    fn what_is_kept_is_read_by_nobody_else() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("new/secret");
        keep(&path, b"one").unwrap();
        keep(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(work.path().join("new")).unwrap().count(), 1);
    }
}
