//! The files of a live system, gathered in a folder, then packed into an initramfs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cpio::newc;
use image_core::error::{Error, Result};
use image_core::units::Bytes;
use tempfile::TempDir;

/// Folders that are links into `usr` in every live system.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// How much the initramfs is compressed.
const LEVEL: i32 = 19;

/// What is packed at once.
const PIECE: usize = 256 << 10;

/// Hears of each piece that was packed, and can end it.
pub type Told<'a> = &'a dyn Fn(Bytes) -> Result<()>;

/// A folder with the files of a live system; gone when it is dropped.
#[derive(Debug)]
pub struct Staging {
    folder: TempDir,
}

impl Staging {
    /// Nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn empty() -> Result<Self> {
        let folder = TempDir::with_prefix("keiki-live-")
            .map_err(|error| Error::io("the folder for temporary files", "create", error))?;
        Ok(Self { folder })
    }

    /// A system with nothing in it but the links into `usr`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn merged() -> Result<Self> {
        let staging = Self::empty()?;
        for name in MERGED {
            staging.folder(&Path::new("usr").join(name))?;
            staging.link(Path::new(name), Path::new("usr").join(name))?;
        }
        Ok(staging)
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where a path of the live system goes: what a distribution may still have in `bin` lies in `usr/bin`.
    fn place(&self, path: &Path) -> PathBuf {
        let first = path.components().next().map(|part| part.as_os_str().to_owned());
        let is_merged = first.is_some_and(|first| MERGED.iter().any(|name| first == *name));
        let usr = if is_merged && path.components().count() > 1 { "usr" } else { "" };
        self.folder.path().join(usr).join(path)
    }

    /// Makes a folder and those that it lies in.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn folder(&self, path: &Path) -> Result<()> {
        make(&self.place(path))
    }

    /// Writes a file with these permissions.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn file(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        let place = self.place(path);
        make(place.parent().unwrap_or(&place))?;
        let failed = |error| Error::io(place.display().to_string(), "write", error);
        fs::write(&place, bytes).map_err(failed)?;
        fs::set_permissions(&place, PermissionsExt::from_mode(mode)).map_err(failed)
    }

    /// Makes a symbolic link, unless there is something already.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn link(&self, path: &Path, target: impl AsRef<Path>) -> Result<()> {
        let place = self.place(path);
        if self.has(path) {
            return Ok(());
        }
        make(place.parent().unwrap_or(&place))?;
        std::os::unix::fs::symlink(target, &place)
            .map_err(|error| Error::io(place.display().to_string(), "create", error))
    }

    /// Whether there is something at this path.
    pub fn has(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.place(path)).is_ok()
    }

    /// How much there is to pack.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn size(&self) -> Result<Bytes> {
        let mut size = Bytes::ZERO;
        for path in self.all(Path::new(""))? {
            let place = self.folder.path().join(path);
            let data = fs::symlink_metadata(&place)
                .map_err(|error| Error::io(place.display().to_string(), "read", error))?;
            size += Bytes::new(if data.is_file() { data.len() } else { 0 });
        }
        Ok(size)
    }

    /// Packs everything into an initramfs; all files belong to root and are dated `date` (seconds since 1970).
    ///
    /// The paths of `first` come first, then everything else in the order of its path: so the same files make the same
    /// bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn pack(&self, first: &[&str], date: u32, out: &Path, packed: Told<'_>) -> Result<()> {
        let failed = |error| Error::io(out.display().to_string(), "write", error);
        let file = fs::File::create(out).map_err(failed)?;
        let mut archive = zstd::Encoder::new(file, LEVEL).map_err(failed)?;
        archive.include_checksum(true).map_err(failed)?;
        for (path, number) in self.ordered(first)?.iter().zip(1..) {
            archive = self.add(path, number, date, archive, packed)?;
        }
        let archive = newc::trailer(archive).map_err(failed)?;
        let file = archive.finish().map_err(failed)?;
        file.sync_all().map_err(failed)
    }

    /// Takes out the files that `leave`, into a folder of their own.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn split(&self, leave: impl Fn(&Path) -> bool) -> Result<Self> {
        let apart = Self::empty()?;
        for path in self.all(Path::new(""))? {
            let [from, to] = [self, &apart].map(|staging| staging.path().join(&path));
            let failed = |error| Error::io(from.display().to_string(), "move", error);
            let is_folder = fs::symlink_metadata(&from).map_err(failed)?.is_dir();
            if !is_folder && leave(&path) {
                make(to.parent().unwrap_or(&to))?;
                fs::rename(&from, &to).map_err(failed)?;
            }
        }
        Ok(apart)
    }

    /// A hash of everything that would be packed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn hash(&self, first: &[&str], date: u32) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for (path, number) in self.ordered(first)?.iter().zip(1..) {
            hasher = self.add(path, number, date, hasher, &|_| Ok(()))?;
        }
        Ok(hasher.finalize().to_hex()[..16].to_owned())
    }

    fn ordered(&self, first: &[&str]) -> Result<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> = first.iter().map(PathBuf::from).collect();
        for path in self.all(Path::new(""))? {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    fn add<W: Write>(
        &self,
        path: &Path,
        number: u32,
        date: u32,
        out: W,
        packed: Told<'_>,
    ) -> Result<W> {
        let place = self.folder.path().join(path);
        let failed = |error| Error::io(place.display().to_string(), "pack", error);
        let data = fs::symlink_metadata(&place).map_err(failed)?;
        let (bits, content) = if data.is_symlink() {
            let target = fs::read_link(&place).map_err(failed)?;
            (0o120_777, target.as_os_str().as_encoded_bytes().to_vec())
        } else if data.is_dir() {
            (0o040_755, Vec::new())
        } else {
            (0o100_000 | (data.permissions().mode() & 0o7777), fs::read(&place).map_err(failed)?)
        };
        let length = u32::try_from(content.len())
            .map_err(|_| Error::unsupported("a file of 4 GiB").on(&place.display().to_string()))?;
        let entry = newc::Builder::new(&path.display().to_string())
            .ino(number)
            .mode(bits)
            .nlink(1)
            .mtime(date);
        let mut entry = entry.write(out, length);
        for piece in content.chunks(PIECE) {
            entry.write_all(piece).map_err(failed)?;
            if data.is_file() {
                packed(Bytes::new(u64::try_from(piece.len()).unwrap_or(0)))?;
            }
        }
        entry.finish().map_err(failed)
    }

    /// All paths below a folder, in order; a folder comes before what is in it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn all(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let place = self.folder.path().join(folder);
        let failed = |error| Error::io(place.display().to_string(), "list", error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&place).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        let mut all = Vec::new();
        for name in names {
            let path = folder.join(name);
            let is_folder =
                fs::symlink_metadata(self.folder.path().join(&path)).map_err(failed)?.is_dir();
            all.push(path.clone());
            if is_folder {
                all.extend(self.all(&path)?);
            }
        }
        Ok(all)
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .map_err(|error| Error::io(folder.display().to_string(), "create", error))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;
    use std::path::Path;

    use cpio::newc;
    use image_core::units::Bytes;

    use super::Staging;

    /// The names, permissions and contents in an initramfs, in order.
    fn unpacked(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
        let mut packed = zstd::Decoder::new(File::open(path).unwrap()).unwrap();
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(packed).unwrap();
            if reader.entry().is_trailer() {
                return found;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            assert_eq!((reader.entry().uid(), reader.entry().mtime()), (0, 77));
            let mut bytes = Vec::new();
            std::io::copy(&mut reader, &mut bytes).unwrap();
            found.push((name, mode, bytes));
            packed = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_same_files_are_packed_the_same_way() {
        let work = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| work.path().join(name));
        let make = |order: [&str; 2], out: &Path| {
            let staging = Staging::merged().unwrap();
            for name in order {
                staging.file(&Path::new("sbin").join(name), name.as_bytes(), 0o755).unwrap();
            }
            staging.link(Path::new("bin/c"), "/usr/sbin/b").unwrap();
            staging.link(Path::new("bin/c"), "another").unwrap();
            let told = Cell::new(Bytes::ZERO);
            let packed = |bytes| {
                told.set(told.get() + bytes);
                Ok(())
            };
            staging.pack(&["usr", "usr/sbin", "usr/sbin/b"], 77, out, &packed).unwrap();
            assert_eq!((told.get(), staging.size().unwrap()), (Bytes::new(2), Bytes::new(2)));
            staging.hash(&[], 77).unwrap()
        };
        assert_eq!(make(["a", "b"], &one), make(["b", "a"], &two));
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let found = unpacked(&one);
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names[..5], ["usr", "usr/sbin", "usr/sbin/b", "bin", "lib"]);
        let at = |name: &str| found.iter().find(|entry| entry.0 == name).unwrap();
        assert_eq!((at("usr/sbin/b").1, &at("usr/sbin/b").2[..]), (0o100_755, &b"b"[..]));
        assert_eq!((at("usr/bin/c").1, &at("usr/bin/c").2[..]), (0o120_777, &b"/usr/sbin/b"[..]));
        assert_eq!((at("bin").1, &at("bin").2[..]), (0o120_777, &b"usr/bin"[..]));
        // Another file, another hash.
        let staging = Staging::empty().unwrap();
        let empty = staging.hash(&[], 77).unwrap();
        staging.file(Path::new("lib64/ld.so"), b"", 0o644).unwrap();
        staging.link(Path::new("lib64/other.so"), "ld.so").unwrap();
        assert_ne!(staging.hash(&[], 77).unwrap(), empty);
        assert!(staging.has(Path::new("usr/lib64/other.so")));
    }
}
