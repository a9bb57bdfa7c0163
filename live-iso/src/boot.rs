//! What every way to boot has in common: a kernel, and the archives that become its system.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use image_core::error::{Error, Result};
use image_core::exec::Runner;
use image_core::report::{Report, Stage};
use image_core::units::Bytes;

use crate::Profile;
use crate::cache;
use crate::kernel::Kernel;
use crate::name;
use crate::staging::Staging;
use crate::system;
use crate::tree::Tree;

/// What is another one on each disc, and on each server.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Settings {
    /// The layout of the keyboard, by its name in console-data; asked for where there is none.
    pub keymap: Option<String>,
    /// The serial console.
    pub console: Serial,
    /// The file with answers for whoever is not there.
    pub answers: Option<Vec<u8>>,
    /// A private key for machines with SSH.
    pub ssh_key: Option<Vec<u8>>,
    /// The URL of the repository of the server that it is booted from.
    pub server: Option<String>,
    /// The public key of the site whose orders it carries out.
    pub site: Option<String>,
    /// Where the rest of the system is, of which only the first stage is loaded: its server's folder, its hash (BLAKE3) and its
    /// length in bytes.
    pub rest: Option<String>,
    /// The ids of the images in the folder [`crate::iso::IMAGES`].
    pub images: Vec<String>,
}

/// A serial port of a PC, and its speed in baud.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Serial {
    /// 0 is the first one, `ttyS0`.
    pub unit: u8,
    /// Usually 115200.
    pub speed: u32,
}

impl Default for Serial {
    fn default() -> Self {
        Self { unit: 0, speed: 115_200 }
    }
}

impl FromStr for Serial {
    type Err = String;

    /// As the kernel's argument `console=` has it: `ttyS1,9600`, or `ttyS1`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (port, speed) = text.split_once(',').unwrap_or((text, "115200"));
        let unit = port.strip_prefix("ttyS").and_then(|unit| unit.parse().ok());
        let unit = unit.filter(|unit| *unit < 4);
        match (unit, speed.parse()) {
            (Some(unit), Ok(speed)) => Ok(Self { unit, speed }),
            _ => Err(format!("{text:?} is not like ttyS0 or ttyS1,9600")),
        }
    }
}

/// Where a live system finds the name of its keyboard's layout, the answers, and a key for SSH.
const KEYMAP: &str = "etc/keiki/keymap";
/// See [`KEYMAP`].
pub const ANSWERS: &str = "etc/keiki/answers.toml";
/// Where it finds how many images are on its medium.
pub const IMAGES: &str = "etc/keiki/images";
/// Where it finds the URL of its server's repository.
pub const SERVER: &str = "etc/keiki/server";
/// Where it finds the public key of its site.
pub const SITE: &str = "etc/keiki/site";
/// Where the first stage finds where the rest is.
const REST: &str = "etc/keiki/rest";
const SSH_KEY: &str = "root/.ssh/keiki";
const SSH_CONFIG: &str = "root/.ssh/config";

/// A kernel and archives, in a folder, by the names in [`name`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boot {
    folder: PathBuf,
    /// What all files are dated, in seconds since 1970: what was made of the same packages is dated the same.
    pub(crate) date: u32,
    /// The version of the kernel.
    pub kernel: String,
}

impl Boot {
    /// Makes them of packages, but for the settings. What takes long to compress is kept in `cache` for the next time.
    ///
    /// # Errors
    /// [`Error::Io`]: a file is missing in the tree; a tool fails. [`Error::Interrupted`].
    pub fn make(
        runner: &dyn Runner,
        (tree, profile): (&Tree, Profile),
        keiki: &Path,
        cache: &Path,
        folder: &Path,
        report: &dyn Report,
    ) -> Result<Self> {
        let kernel = Kernel::newest(tree)?;
        let date = dated_at(&tree.place(&kernel.image))?;
        let boot = Self { folder: folder.to_owned(), date, kernel: kernel.version.clone() };
        write(&boot.place(name::KERNEL), &tree.read(&kernel.image)?)?;
        let [first, system] = system::gather(runner, tree, &kernel, profile)?;
        let ours = system::ours(tree, keiki)?;
        let parts: [(_, &str, &str, &[&str]); 3] = [
            (first, name::FIRST, cache::FIRST, &system::FIRST),
            (system, name::SYSTEM, cache::SYSTEM, &[]),
            (ours, name::PROGRAM, cache::PROGRAM, &[]),
        ];
        let mut ahead = Vec::new();
        let mut size = Bytes::ZERO;
        for (files, name, kind, order) in &parts {
            let kept = cache.join(format!("{kind}{}", files.hash(order, date)?));
            size += if kept.exists() { Bytes::ZERO } else { files.size()? };
            ahead.push((files, boot.place(name), kept, *order));
        }
        report.stage(Stage::Compress, Some(size));
        let packed = |bytes| {
            report.advance(bytes);
            report.checkpoint()
        };
        for (files, place, kept, order) in ahead {
            if !kept.exists() {
                keep(&kept, |draft| files.pack(order, date, draft, &packed))?;
            }
            cache::used(&kept);
            copy(&kept, &place)?;
        }
        cache::sweep(cache);
        Ok(boot)
    }

    /// Takes them from the folder `from` of a disc.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn copied(
        from: &Path,
        (date, kernel): (u32, String),
        folder: &Path,
    ) -> Result<Self> {
        let boot = Self { folder: folder.to_owned(), date, kernel };
        for name in [name::KERNEL, name::FIRST, name::SYSTEM, name::PROGRAM] {
            copy(&from.join(name), &boot.place(name))?;
        }
        Ok(boot)
    }

    /// What one of the files holds.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        read(&self.place(name))
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Adds the archive with the settings, and the medium's id in the file `medium` of it; that id.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn settings(&self, settings: &Settings, medium: Option<&str>) -> Result<String> {
        let files = Staging::empty()?;
        let secret = |path, bytes: &[u8]| files.file(Path::new(path), bytes, 0o600);
        let Settings { keymap, server, site, rest, .. } = settings;
        for (path, line) in [(KEYMAP, keymap), (SERVER, server), (SITE, site), (REST, rest)] {
            if let Some(line) = line {
                files.file(Path::new(path), format!("{line}\n").as_bytes(), 0o444)?;
            }
        }
        if let Some(answers) = &settings.answers {
            files.file(Path::new(ANSWERS), answers, 0o444)?;
        }
        if let Some(key) = &settings.ssh_key {
            secret(SSH_KEY, key)?;
            secret(SSH_CONFIG, format!("IdentityFile /{SSH_KEY}\n").as_bytes())?;
        }
        let what = [files.hash(&[], self.date)?, self.kernel.clone(), settings.images.join(" ")];
        let id = format!("{}\n", blake3::hash(what.join("\n").as_bytes()).to_hex());
        if let Some(medium) = medium {
            let count = format!("{}\n", settings.images.len());
            files.file(Path::new(IMAGES), count.as_bytes(), 0o444)?;
            files.file(Path::new(medium), id.as_bytes(), 0o444)?;
        }
        // Last of all: its name comes behind the others.
        files.file(Path::new(system::COMPLETE), b"", 0o444)?;
        files.pack(&[], self.date, &self.place(name::SETTINGS), &|_| Ok(()))?;
        Ok(id)
    }
}

/// Makes a file of the cache.
fn keep(kept: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |error| Error::io(kept.display().to_string(), "write", error);
    let cache = kept.parent().unwrap_or(kept);
    fs::create_dir_all(cache).map_err(failed)?;
    // A name of this process's own, for another one may do the same.
    let draft = cache.join(format!("{}{}", cache::DRAFT, std::process::id()));
    make(&draft).and_then(|()| fs::rename(&draft, kept).map_err(failed)).inspect_err(|_| {
        // The reason is what matters.
        drop(fs::remove_file(&draft));
    })
}

/// The date of a file.
pub(crate) fn dated_at(path: &Path) -> Result<u32> {
    let failed = |error| Error::io(path.display().to_string(), "read", error);
    let date = path.metadata().and_then(|data| data.modified()).map_err(failed)?;
    let seconds = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).map_err(|_| Error::unsupported("a file dated after 2106"))
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|error| Error::io(path.display().to_string(), "write", error))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io(path.display().to_string(), "read", error))
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let named = format!("{} to {}", from.display(), to.display());
    fs::copy(from, to).map_err(|error| Error::io(named, "copy", error)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::Serial;

    #[test]
    fn serial_consoles_are_written_as_for_the_kernel() {
        assert_eq!("ttyS0".parse(), Ok(Serial::default()));
        assert_eq!("ttyS1,9600".parse(), Ok(Serial { unit: 1, speed: 9600 }));
        for wrong in ["", "tty0", "ttyS", "ttyS9", "ttyS0,", "ttyS0,fast", "ttyS0 init=/x"] {
            assert!(wrong.parse::<Serial>().is_err(), "{wrong}");
        }
    }
}
