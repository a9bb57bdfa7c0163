//! The rest of a live system, which its first stage has fetched and verified, is unpacked into its root.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use cpio::newc;
use image_core::error::{Error, Result};
use image_core::units::Bytes;

/// The kinds of files in a mode.
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// The longest target of a link.
const LONGEST: u64 = 4096;

/// Unpacks an archive as it was packed into the folder `root`; what is there already is replaced.
///
/// # Errors
/// [`Error::Io`], as where memory is full; [`Error::Corrupt`].
pub fn unpack(packed: &[u8], root: &Path) -> Result<()> {
    let wrong = |error: io::Error| {
        let expected = "an archive of cpio, compressed by zstd";
        Error::corrupt("system", Bytes::ZERO, expected, error.to_string())
    };
    let mut rest = zstd::Decoder::new(packed).map_err(wrong)?;
    loop {
        let mut entry = newc::Reader::new(rest).map_err(wrong)?;
        if entry.entry().is_trailer() {
            return Ok(());
        }
        let (name, mode) = (entry.entry().name().to_owned(), entry.entry().mode());
        if !Path::new(&name).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(Error::corrupt("system", Bytes::ZERO, "names below its root", name));
        }
        let place = root.join(&name);
        write(&place, mode, &mut entry)
            .map_err(|error| Error::io(place.display().to_string(), "unpack", error))?;
        rest = entry.finish().map_err(wrong)?;
    }
}

fn write(place: &Path, mode: u32, content: &mut impl Read) -> io::Result<()> {
    if mode & KIND == FOLDER {
        return fs::create_dir_all(place);
    }
    match fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if mode & KIND == LINK {
        let mut target = String::new();
        content.take(LONGEST).read_to_string(&mut target)?;
        return symlink(target, place);
    }
    io::copy(content, &mut fs::File::create_new(place)?)?;
    fs::set_permissions(place, PermissionsExt::from_mode(mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::unpack;
    use crate::staging::Staging;

    #[test]
    fn what_was_split_off_comes_back() {
        let work = tempfile::tempdir().unwrap();
        let [archive, root] = ["archive", "root"].map(|name| work.path().join(name));
        let staging = Staging::merged().unwrap();
        let tool = vec![7; 3 << 20];
        for (name, mode) in [("usr/bin/first", 0o755), ("usr/bin/tool", 0o755), ("etc/tool", 0o600)]
        {
            staging.file(Path::new(name), &tool, mode).unwrap();
        }
        staging.link(Path::new("usr/sbin/tool"), "/usr/bin/tool").unwrap();
        let rest = staging.split(|path| path.ends_with("tool")).unwrap();
        assert!(staging.has(Path::new("usr/bin/first")) && !staging.has(Path::new("etc/tool")));
        assert!(staging.has(Path::new("bin")) && !rest.has(Path::new("bin")));
        rest.pack(&[], 77, &archive, &|_| Ok(())).unwrap();
        fs::create_dir(&root).unwrap();
        let packed = fs::read(&archive).unwrap();
        // Once more, where a part of it is there.
        for _ in 0..2 {
            unpack(&packed, &root).unwrap();
            assert_eq!(fs::read(root.join("usr/bin/tool")).unwrap(), tool);
            let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode();
            assert_eq!((mode("usr/bin/tool") & 0o777, mode("etc/tool") & 0o777), (0o755, 0o600));
            let link = fs::read_link(root.join("usr/sbin/tool")).unwrap();
            assert_eq!(link, Path::new("/usr/bin/tool"));
        }
        assert!(unpack(packed.get(..packed.len() / 2).unwrap(), &root).is_err());
        assert!(unpack(b"nothing", &root).is_err());
    }
}
