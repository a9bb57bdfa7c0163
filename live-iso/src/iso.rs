//! The disc: one ISO 9660 image that BIOS and UEFI boot from CD, from USB, and over HTTP.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};
use image_core::report::Report;

use crate::boot::{Boot, Settings, copy, dated_at, read, write};
use crate::tree::Tree;
use crate::{Profile, bootloader, name};

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

/// Everything that a disc is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    /// What becomes the disc's files.
    root: PathBuf,
    esp: PathBuf,
    boot: Boot,
}

impl Parts {
    /// Makes them of packages, in `folder`. What takes long to compress is kept in `cache` for the next time.
    ///
    /// # Errors
    /// [`Error::Io`]: a file is missing in the tree; a tool fails.
    pub fn make(
        runner: &dyn Runner,
        (tree, profile): (&Tree, Profile),
        keiki: &Path,
        cache: &Path,
        folder: &Path,
        report: &dyn Report,
    ) -> Result<Self> {
        let root = Self::empty(folder)?;
        let esp = folder.join(name::ESP);
        let boot = Boot::make(runner, (tree, profile), keiki, cache, &root.join(BOOT), report)?;
        bootloader::make(runner, tree, boot.date, &root.join(BIOS), &esp)?;
        Ok(Self { root, esp, boot })
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
        let root = Self::empty(folder)?;
        let esp = folder.join(name::ESP);
        let known = (dated_at(&info)?, kernel);
        let boot = Boot::copied(&medium.join(BOOT), known, &root.join(BOOT))?;
        for name in [name::ELTORITO, name::HYBRID] {
            let name = Path::new(BIOS).join(name);
            copy(&medium.join(&name), &root.join(&name))?;
        }
        let images = folder.join("boot-images");
        // A stick is no drive for discs: it is read as a file.
        let from = format!("stdio:{}", device.display());
        let to = images.display().to_string();
        let words = ["-osirrox", "on", "-indev", &from, "-extract_boot_images", &to];
        runner.check(&Call::new("xorriso", words))?;
        copy(&images.join("eltorito_img2_uefi.img"), &esp)?;
        Ok(Self { root, esp, boot })
    }

    /// Makes the folder of what becomes the disc's files.
    fn empty(folder: &Path) -> Result<PathBuf> {
        let root = folder.join("disc");
        let bios = root.join(BIOS);
        fs::create_dir_all(&bios)
            .map_err(|error| Error::io(bios.display().to_string(), "create", error))?;
        Ok(root)
    }

    /// The version of the kernel.
    pub fn kernel(&self) -> &str {
        &self.boot.kernel
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
        let archives = [name::FIRST, name::SYSTEM, name::PROGRAM, name::SETTINGS];
        let menu = bootloader::menu(&settings.console, &archives, "");
        self.add("boot/grub/grub.cfg", menu.as_bytes())?;
        self.add(INFO, format!("Keiki recovery disc\n{}\n", self.boot.kernel).as_bytes())?;
        let id = self.boot.settings(settings, Some(MEDIUM))?;
        self.add(ID, id.as_bytes())?;
        dated(&self.root, self.boot.date)
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
            .env("SOURCE_DATE_EPOCH", self.boot.date.to_string())
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
