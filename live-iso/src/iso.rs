//! The disc: one ISO 9660 image that BIOS and UEFI boot from CD, from USB, and over HTTP.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};

use crate::Profile;
use crate::bootloader;
use crate::kernel::Kernel;
use crate::name;
use crate::staging::Staging;
use crate::system;
use crate::tree::Tree;

/// The name of the disc's filesystem.
pub const LABEL: &str = "KEIKI";

/// The folder on a disc that has its images.
pub const IMAGES: &str = "keiki";

/// The folder of what a kernel needs, and that of what a BIOS starts.
const BOOT: &str = "boot";
const BIOS: &str = "boot/grub/i386-pc";

/// Programs that make a disc, and the packages that have them.
const TOOLS: [(&str, &str); 7] = [
    ("xorriso", "xorriso"),
    ("mkfs.fat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mmd", "mtools"),
    ("grub-mkimage", "grub-common"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
];

/// What tells a disc from every other one: in the live system, and on the disc.
pub const MEDIUM: &str = "etc/keiki/medium";
/// See [`MEDIUM`].
pub const ID: &str = ".disk/keiki";
/// What the disc says of itself, the version of its kernel in the second line.
const INFO: &str = ".disk/info";

/// The packages of the programs that this machine lacks to make a disc of packages.
pub fn missing(runner: &dyn Runner) -> Vec<&'static str> {
    lacking(runner, &TOOLS)
}

/// The packages of the programs that this machine lacks to make a disc of another disc.
pub fn missing_for_a_copy(runner: &dyn Runner) -> Vec<&'static str> {
    let needed = |(program, _): &&(&str, &str)| *program == "xorriso";
    lacking(runner, &TOOLS.iter().filter(needed).copied().collect::<Vec<_>>())
}

/// The packages of those programs that this machine lacks, each once.
pub(crate) fn lacking(
    runner: &dyn Runner,
    tools: &[(&'static str, &'static str)],
) -> Vec<&'static str> {
    let lacking = tools.iter().filter(|(program, _)| runner.find(program).is_none());
    let packages: BTreeSet<&str> = lacking.map(|(_, package)| *package).collect();
    packages.into_iter().collect()
}

/// What is another one on each disc.
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
    /// The ids of the images in the folder [`IMAGES`].
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
const SSH_KEY: &str = "root/.ssh/keiki";
const SSH_CONFIG: &str = "root/.ssh/config";

/// Everything that a disc is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    /// What becomes the disc's files.
    root: PathBuf,
    esp: PathBuf,
    date: u32,
    kernel: String,
}

impl Parts {
    /// Makes them of packages, in `folder`. What takes long to compress is kept in `cache` for the next time.
    ///
    /// # Errors
    /// [`Error::Io`]: a file is missing in the tree; a tool fails.
    pub fn make(
        runner: &dyn Runner,
        tree: &Tree,
        profile: Profile,
        keiki: &Path,
        cache: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let kernel = Kernel::newest(tree)?;
        // What was built of the same packages is dated the same.
        let date = dated_at(&tree.place(&kernel.image))?;
        let parts = Self::empty(folder, date, kernel.version.clone())?;
        let boot = parts.root.join(BOOT);
        write(&boot.join(name::KERNEL), &tree.read(&kernel.image)?)?;
        bootloader::make(runner, tree, date, &parts.root.join(BIOS), &parts.esp)?;
        let system = system::gather(runner, tree, &kernel, profile)?;
        let kept = cache.join(format!("system-{}", system.hash(&system::FIRST, date)?));
        if !kept.exists() {
            let failed = |error| Error::io(kept.display().to_string(), "write", error);
            fs::create_dir_all(cache).map_err(failed)?;
            // A name of this process's own, for another one may do the same.
            let draft = cache.join(format!("draft-{}", std::process::id()));
            let made = system.pack(&system::FIRST, date, &draft);
            made.and_then(|()| fs::rename(&draft, &kept).map_err(failed)).inspect_err(|_| {
                // The reason is what matters.
                drop(fs::remove_file(&draft));
            })?;
        }
        copy(&kept, &boot.join(name::SYSTEM))?;
        system::ours(tree, keiki)?.pack(&[], date, &boot.join(name::PROGRAM))?;
        Ok(parts)
    }

    /// Takes them, in `folder`, from the disc or stick `device`, which is mounted at `medium`.
    ///
    /// # Errors
    /// [`Error::Io`]: it is none of these discs; xorriso fails.
    pub fn of_medium(
        runner: &dyn Runner,
        medium: &Path,
        device: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let info = medium.join(INFO);
        let text = String::from_utf8_lossy(&read(&info)?).into_owned();
        let kernel = text.lines().nth(1).unwrap_or_default().to_owned();
        let parts = Self::empty(folder, dated_at(&info)?, kernel)?;
        for name in [name::KERNEL, name::SYSTEM, name::PROGRAM] {
            let name = Path::new(BOOT).join(name);
            copy(&medium.join(&name), &parts.root.join(&name))?;
        }
        for name in [name::ELTORITO, name::HYBRID] {
            let name = Path::new(BIOS).join(name);
            copy(&medium.join(&name), &parts.root.join(&name))?;
        }
        let images = folder.join("boot-images");
        // A stick is no drive for discs: it is read as a file.
        let from = format!("stdio:{}", device.display());
        let to = images.display().to_string();
        let words = ["-osirrox", "on", "-indev", &from, "-extract_boot_images", &to];
        runner.check(&Call::new("xorriso", words))?;
        copy(&images.join("eltorito_img2_uefi.img"), &parts.esp)?;
        Ok(parts)
    }

    fn empty(folder: &Path, date: u32, kernel: String) -> Result<Self> {
        let root = folder.join("disc");
        let bios = root.join(BIOS);
        fs::create_dir_all(&bios)
            .map_err(|error| Error::io(bios.display().to_string(), "create", error))?;
        Ok(Self { root, esp: folder.join(name::ESP), date, kernel })
    }

    /// The version of the kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Where the repository with the images of the disc goes, before the disc is written.
    pub fn images(folder: &Path) -> PathBuf {
        folder.join("disc").join(IMAGES)
    }

    /// Writes the disc to `out`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, runner: &dyn Runner, settings: &Settings, out: &Path) -> Result<()> {
        let menu = bootloader::menu(&settings.console);
        self.add("boot/grub/grub.cfg", menu.as_bytes())?;
        self.add(INFO, format!("Keiki recovery disc\n{}\n", self.kernel).as_bytes())?;
        let files = Staging::empty()?;
        let secret = |path, bytes: &[u8]| files.file(Path::new(path), bytes, 0o600);
        if let Some(keymap) = &settings.keymap {
            files.file(Path::new(KEYMAP), format!("{keymap}\n").as_bytes(), 0o444)?;
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
        files.file(Path::new(MEDIUM), id.as_bytes(), 0o444)?;
        self.add(ID, id.as_bytes())?;
        // Last of all: its name comes behind the others.
        files.file(Path::new(system::COMPLETE), b"", 0o444)?;
        files.pack(&[], self.date, &self.root.join(BOOT).join(name::SETTINGS))?;
        dated(&self.root, self.date)
            .map_err(|error| Error::io(self.root.display().to_string(), "date", error))?;
        self.call(runner, out)
    }

    fn add(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let place = self.root.join(path);
        fs::create_dir_all(place.parent().unwrap_or(&self.root))
            .map_err(|error| Error::io(place.display().to_string(), "write", error))?;
        write(&place, bytes)
    }

    /// One call of xorriso: El Torito for CDs, an MBR with boot code and a GPT with the EFI system partition for sticks.
    fn call(&self, runner: &dyn Runner, out: &Path) -> Result<()> {
        let hybrid = self.root.join(BIOS).join(name::HYBRID);
        let [hybrid, esp, out, root] = [hybrid.as_path(), &self.esp, out, &self.root]
            .map(|path| std::path::absolute(path).unwrap_or(path.to_owned()).display().to_string());
        let eltorito = format!("/{BIOS}/{}", name::ELTORITO);
        let mut words: Vec<String> = [
            "-as mkisofs -quiet -r -J -joliet-long -iso-level 3 -V",
            LABEL,
            "-partition_offset 16 --mbr-force-bootable -appended_part_as_gpt",
            "-c /boot/boot.cat -b",
            &eltorito,
            "-no-emul-boot -boot-load-size 4 -boot-info-table --grub2-boot-info",
            "-eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot",
        ]
        .iter()
        .flat_map(|line| line.split_whitespace().map(str::to_owned))
        .collect();
        let paths = ["--grub2-mbr", &hybrid, "-append_partition", "2", "0xef", &esp, "-o", &out];
        words.extend(paths.map(str::to_owned));
        words.push(root);
        let call = Call::new("xorriso", words)
            .env("SOURCE_DATE_EPOCH", self.date.to_string())
            .env("TZ", "UTC");
        runner.check(&call).map(drop)
    }
}

/// Gives a folder and everything in it one date, in seconds since 1970: they come into the disc with theirs.
fn dated(path: &Path, date: u32) -> std::io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            dated(&entry?.path(), date)?;
        }
    }
    bootloader::dated(path, date)
}

/// The date of a file.
fn dated_at(path: &Path) -> Result<u32> {
    let failed = |error| Error::io(path.display().to_string(), "read", error);
    let date = path.metadata().and_then(|data| data.modified()).map_err(failed)?;
    let seconds = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(seconds).map_err(|_| Error::unsupported("a file dated after 2106"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|error| Error::io(path.display().to_string(), "write", error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io(path.display().to_string(), "read", error))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
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
