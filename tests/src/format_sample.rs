//! A small image in the repository format as it is, kept in `tests/fixtures/format-1` together with the
//! hashes of what it restores to: a change of the program that old images do not survive is seen.
//!
//! Until CHANGELOG names a frozen format this one is replaced whenever the format changes; from then on it
//! stays, and a new format gets a sample of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::vg::Vg;
use crate::{filesystem, keiki, run, sample_disk, sparse, table, tool};

/// The size of the disk that the image is of.
pub const SIZE: Bytes = Bytes::mib(64);

/// Lengths of two files of noise, the second one for `/boot` alone.
const SMALL: usize = 60_000;
const LARGE: usize = 600_000;

/// The image's name.
pub const NAME: &str = "sample";

/// Where the sample is kept.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-1")
}

/// Bytes of the disk that a restore to its size brings back exactly, and their BLAKE3.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// What it is: a volume's id, or the table.
    pub what: String,
    /// Where on the disk.
    pub extent: Extent,
    /// In hexadecimal digits.
    pub hash: String,
}

impl Part {
    fn of(what: &str, extent: Extent, disk: &File) -> Result<Self> {
        let mut bytes = vec![0; extent.len().index().context("too long")?];
        disk.read_exact_at(&mut bytes, extent.start.get())?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        Ok(Self { what: what.to_owned(), extent, hash })
    }

    /// The same bytes of another disk.
    ///
    /// # Errors
    /// Reading.
    pub fn again(&self, disk: &Path) -> Result<Self> {
        Self::of(&self.what, self.extent, &File::open(disk)?)
    }
}

/// The parts as the file `parts` in [`folder`] lists them: what, start, end, hash.
///
/// # Errors
/// The file cannot be read.
pub fn parts() -> Result<Vec<Part>> {
    let path = folder().join("parts");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().with_context(|| format!("{line:?} is too short"));
            let what = word()?.to_owned();
            let extent =
                Extent::new(word()?.parse::<u64>()?.into(), word()?.parse::<u64>()?.into());
            Ok(Part { what, extent, hash: word()?.to_owned() })
        })
        .collect()
}

/// Makes the sample anew, in the place of the one that is kept; needs root and loop devices.
///
/// # Errors
/// A tool fails, or the image does not restore to the disk that it was saved from.
pub fn make() -> Result<()> {
    let kept = folder();
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    fs::create_dir_all(&kept)?;
    let work = TempDir::new()?;
    // The image keeps the path of the disk as it is typed: not that of some folder.
    std::env::set_current_dir(work.path())?;
    let [first, disk, again] = ["first.img", "disk.img", "again.img"].map(Path::new);
    let parts = make_disk(work.path(), &work.path().join(first))?;
    // A restored disk is what is kept: what LVM notes of the machine that it ran on is gone there.
    let repositories = [work.path().join("repository"), kept.join("repository")];
    for (repository, from, to) in [(&repositories[0], first, disk), (&repositories[1], disk, again)]
    {
        if from == disk {
            save_an_older_state(repository, disk)?;
        }
        tool::run(&keiki!("--repo", repository, "save", from, "--name", NAME))?;
        tool::run(&keiki!("--repo", repository, "restore", NAME, to))?;
        for part in &parts {
            ensure!(part.again(to)? == *part, "{} is restored to other bytes", part.what);
        }
    }
    let line = |part: &Part| {
        let Extent { start, end } = part.extent;
        format!("{} {} {} {}\n", part.what, start.get(), end.get(), part.hash)
    };
    fs::write(kept.join("parts"), parts.iter().map(line).collect::<String>())?;
    Ok(())
}

/// Saves the disk as if some bytes of its files had been others, so that the next image has deltas of both
/// kinds.
fn save_an_older_state(repository: &Path, disk: &Path) -> Result<()> {
    let mut bytes = fs::read(disk)?;
    let now = bytes.clone();
    let (small, large) = (sample_disk::filler(1, SMALL), sample_disk::filler(2, LARGE));
    for (wanted, older) in [
        (&small, sample_disk::filler(3, 4096)),
        (&large, [&[7; 100], &large[..LARGE - 100]].concat()),
    ] {
        let places = (0..now.len() - wanted.len()).step_by(512);
        let places: Vec<usize> = places.filter(|at| now[*at..].starts_with(wanted)).collect();
        ensure!(!places.is_empty(), "no file of {} bytes in one piece", wanted.len());
        for at in places {
            bytes[at..at + older.len()].copy_from_slice(&older);
        }
    }
    fs::write(disk, &bytes)?;
    tool::run(&keiki!("--repo", repository, "save", disk, "--name", NAME))?;
    fs::write(disk, &now)?;
    Ok(())
}

/// A disk with a GPT, an ESP, an ext4 `/boot`, and a volume group with an ext4 and a swap area. Its unused
/// bytes are zeros, so that a restore to a new file brings back every byte of its volumes.
fn make_disk(work: &Path, disk: &Path) -> Result<Vec<Part>> {
    sparse::create(disk, SIZE)?;
    run!(
        "sgdisk",
        "-U6b656b69-0000-4000-8000-000000000000",
        "-n1:2048:+35M",
        "-t1:ef00",
        "-u1:6b656b69-0000-4000-8000-000000000001",
        "-c1:EFI System",
        "-n2:0:+8M",
        "-u2:6b656b69-0000-4000-8000-000000000002",
        "-n3:0:0",
        "-t3:8e00",
        "-u3:6b656b69-0000-4000-8000-000000000003",
        disk
    )?;
    let partitions = table::partitions(disk)?;
    let [esp, boot, pv] = partitions.as_slice() else { anyhow::bail!("{partitions:?}") };
    let content = work.join("content");
    fs::create_dir(&content)?;
    fs::write(content.join("noise"), sample_disk::filler(1, SMALL))?;
    fs::write(
        content.join("text"),
        "A line that repeats itself compresses well.\n".repeat(20_000),
    )?;
    sparse::create(&content.join("holes"), Bytes::mib(1))?;
    // A file of its own for each: what another one left would be in the unused bytes.
    let [esp_image, boot_image, root_image, swap_image] =
        ["esp", "boot", "root", "swap"].map(|name| work.join(name));
    let noise = content.join("noise");
    filesystem::fat32(&esp_image, esp.len(), ["ESP", "6B656B69"], &[("EFI/noise", &noise)])?;
    sparse::copy(&esp_image, Extent::first(esp.len()), disk, esp.start)?;
    let uuid = |last: u8| format!("6b656b69-0000-4000-8000-0000000000{last:02x}");
    let more = content.join("more");
    fs::write(&more, sample_disk::filler(2, LARGE))?;
    filesystem::ext4(&boot_image, boot.len(), ["boot", &uuid(0x10)], &content)?;
    fs::remove_file(more)?;
    sparse::copy(&boot_image, Extent::first(boot.len()), disk, boot.start)?;
    let vg = Vg::create("vg0", &[(disk.to_owned(), *pv)])?;
    let (root, swap) = (Bytes::mib(8), Bytes::mib(4));
    vg.add("root", root, None)?;
    vg.add("swap", swap, None)?;
    filesystem::ext4(&root_image, root, ["root", &uuid(0x11)], &content)?;
    vg.put("root", &root_image)?;
    filesystem::swap(&swap_image, swap, ["swap", &uuid(0x12)])?;
    vg.put("swap", &swap_image)?;

    let file = File::open(disk)?;
    // The MBR's entry is left out: tools disagree on the last sector's CHS.
    let mut parts = vec![
        Part::of("code", Extent::first(Bytes::new(440)), &file)?,
        Part::of("gpt", Extent::new(Bytes::new(512), esp.start), &file)?,
        Part::of("d0:1", *esp, &file)?,
        Part::of("d0:2", *boot, &file)?,
        Part::of("backup-gpt", Extent::new(SIZE - Bytes::new(33 * 512), SIZE), &file)?,
    ];
    for (lv, segments) in vg.segments()? {
        let [segment] = segments.as_slice() else { anyhow::bail!("{lv} has several segments") };
        parts.push(Part::of(&format!("vg0/{lv}"), segment.extent, &file)?);
    }
    Ok(parts)
}
