//! The disc: one ISO 9660 image that BIOS and UEFI boot from CD, from USB, and over HTTP.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};

use crate::Profile;
use crate::bootloader;
use crate::kernel::{self, Kernel};
use crate::name;
use crate::staging::Staging;
use crate::system;
use crate::tree::Tree;

/// The name of the disc's filesystem.
pub const LABEL: &str = "KEIKI";

/// The folder on a disc that has its images.
pub const IMAGES: &str = "keiki";

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

/// The packages of the programs that this machine lacks to make a disc.
pub fn missing(runner: &dyn Runner) -> Vec<&'static str> {
    let lacking = TOOLS.iter().filter(|(program, _)| runner.find(program).is_none());
    let mut packages: Vec<&str> = lacking.map(|(_, package)| *package).collect();
    packages.dedup();
    packages
}

/// What is another one on each disc.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The layout of the keyboard, by its name in console-data; asked for where there is none.
    pub keymap: Option<String>,
    /// The serial console.
    pub console: Serial,
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

/// Where a live system finds the name of its keyboard's layout.
const KEYMAP: &str = "etc/keiki/keymap";

/// Everything that a disc is made of, in a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    folder: PathBuf,
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
        let date = u32::try_from(kernel::date(tree, &kernel)?).unwrap_or(0);
        write(&folder.join(name::KERNEL), &tree.read(&kernel.image)?)?;
        bootloader::make(runner, tree, date, folder)?;
        let system = system::gather(runner, tree, &kernel, profile)?;
        let kept = cache.join(format!("system-{}", system.hash(&system::FIRST, date)?));
        if !kept.exists() {
            let made = folder.join(name::SYSTEM);
            system.pack(&system::FIRST, date, &made)?;
            let failed = |error| Error::io(kept.display().to_string(), "write", error);
            // A name of this process's own, for another one may do the same.
            let draft = cache.join(format!("draft-{}", std::process::id()));
            fs::create_dir_all(cache).map_err(failed)?;
            fs::copy(&made, &draft).and_then(|_| fs::rename(&draft, &kept)).map_err(failed)?;
        }
        write(&folder.join(name::SYSTEM), &read(&kept)?)?;
        system::ours(tree, keiki)?.pack(&[], date, &folder.join(name::PROGRAM))?;
        Ok(Self { folder: folder.to_owned(), date, kernel: kernel.version })
    }

    /// The version of the kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// Writes the disc to `out`, with the repository `images` on it as the folder [`IMAGES`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(
        &self,
        runner: &dyn Runner,
        settings: &Settings,
        images: Option<&Path>,
        out: &Path,
    ) -> Result<()> {
        let disc = tempfile::TempDir::with_prefix("keiki-disc-")
            .map_err(|error| Error::io("the folder for temporary files", "create", error))?;
        let root = disc.path();
        for name in [name::KERNEL, name::SYSTEM, name::PROGRAM] {
            Self::add(root, &format!("boot/{name}"), &read(&self.folder.join(name))?)?;
        }
        for name in [name::ELTORITO, name::HYBRID] {
            Self::add(root, &format!("boot/grub/i386-pc/{name}"), &read(&self.folder.join(name))?)?;
        }
        Self::add(root, ".disk/info", b"Keiki recovery disc\n")?;
        Self::add(root, "boot/grub/grub.cfg", bootloader::menu(&settings.console).as_bytes())?;
        let place = root.join("boot").join(name::SETTINGS);
        let files = Staging::empty()?;
        if let Some(keymap) = &settings.keymap {
            files.file(Path::new(KEYMAP), format!("{keymap}\n").as_bytes(), 0o444)?;
        }
        // Last of all: its name comes behind the others.
        files.file(Path::new(system::COMPLETE), b"", 0o444)?;
        files.pack(&[], self.date, &place)?;
        dated(root, self.date)
            .map_err(|error| Error::io(root.display().to_string(), "date", error))?;
        if let Some(images) = images {
            dated(images, self.date)
                .map_err(|error| Error::io(images.display().to_string(), "date", error))?;
        }
        self.call(runner, root, images, out)
    }

    fn add(root: &Path, path: &str, bytes: &[u8]) -> Result<()> {
        let place = root.join(path);
        fs::create_dir_all(place.parent().unwrap_or(root))
            .map_err(|error| Error::io(place.display().to_string(), "write", error))?;
        write(&place, bytes)
    }

    /// One call of xorriso: El Torito for CDs, an MBR with boot code and a GPT with the EFI system partition for sticks.
    fn call(
        &self,
        runner: &dyn Runner,
        root: &Path,
        images: Option<&Path>,
        out: &Path,
    ) -> Result<()> {
        let [hybrid, esp] =
            [name::HYBRID, name::ESP].map(|name| self.folder.join(name).display().to_string());
        let eltorito = format!("/boot/grub/i386-pc/{}", name::ELTORITO);
        // Names in front of `=` are the disc's.
        let graft = |name: &str, path: &Path| format!("/{name}={}", path.display());
        let out = out.display().to_string();
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
        words.extend(["-graft-points".to_owned(), graft("", root)]);
        words.extend(images.map(|images| graft(IMAGES, images)));
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

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|error| Error::io(path.display().to_string(), "write", error))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io(path.display().to_string(), "read", error))
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
