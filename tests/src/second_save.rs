//! A filesystem before and after a few of its files changed, and what a second save of it costs other programs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blake3::OutputReader;
use image_core::units::Bytes;

use crate::{filesystem, run, sparse};

/// The block of which one byte changed, or all.
const BLOCK: usize = 4096;

/// Numbers that look random and are the same every time.
pub struct Random(OutputReader);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    /// The next one, below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % (end.max(1) as u64)).unwrap_or_default()
    }

    /// Bytes that do not compress.
    pub fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill(&mut bytes);
        bytes
    }

    /// A file's content: every fifth one does not compress, the others about to a third.
    pub fn content(&mut self, length: usize) -> Vec<u8> {
        let numbers = self.noise(length);
        if self.below(5) == 0 {
            return numbers;
        }
        let mut bytes = vec![0; length];
        let mut at = 0;
        for number in numbers.chunks_exact(4) {
            // Words of a language of 4096, of which some are more frequent than others.
            let [a, b, c, d] = [number[0], number[1], number[2], number[3]].map(usize::from);
            let word = (a * 16 + b / 16).min(c * 16 + d / 16);
            let letters = (0..3 + word % 7)
                .map(|nth| b'a' + u8::try_from(word * (nth + 3) % 26).unwrap_or(0));
            for byte in letters.chain([b' ']) {
                let Some(slot) = bytes.get_mut(at) else { return bytes };
                *slot = byte;
                at += 1;
            }
        }
        bytes
    }
}

/// Makes an ext4 of `size` in the file `image`, filled by `fill`. Needs root and loop devices.
///
/// # Errors
/// A tool fails, or `fill`.
pub fn ext4(image: &Path, size: Bytes, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    sparse::create(image, size)?;
    run!("mke2fs", "-q", "-F", "-t", "ext4", image)?;
    filesystem::filled(image, fill)
}

/// Puts `count` files of 1 to 512 KiB into a folder; every tenth is removed again, so that free space is ragged
/// and not empty.
///
/// # Errors
/// Of writing.
pub fn fill(folder: &Path, count: usize, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    for number in 0..count + count / 10 {
        let folder = folder.join(format!("{:02}", number % 20));
        fs::create_dir_all(&folder)?;
        let length = (1 << (10 + random.below(9))) + random.below(1000);
        fs::write(folder.join(format!("{number:05}")), random.content(length))?;
    }
    for number in (0..count + count / 10).step_by(11) {
        fs::remove_file(folder.join(format!("{:02}/{number:05}", number % 20)))?;
    }
    Ok(())
}

/// Changes every fiftieth file of a folder: of twenty, eight get other contents (half of them by a new file in
/// their place), four grow, six are written to in their midst, two are removed. How many that were.
///
/// What is written is as compressible as the files are, and is nowhere yet: the bytes of other files, each of them
/// changed in the same way.
///
/// # Errors
/// Of reading and writing.
pub fn change(folder: &Path, seed: u64) -> Result<usize> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    files.sort();
    let mut random = Random::new(seed);
    let count = files.len() / 50;
    for number in 0..count {
        let path = files.swap_remove(random.below(files.len()));
        let length = usize::try_from(fs::metadata(&path)?.len())?;
        let mut content = |length: usize| -> Result<Vec<u8>> {
            let mut bytes = Vec::with_capacity(length);
            while bytes.len() < length {
                let other = fs::read(files.get(random.below(files.len())).context("a file")?)?;
                let change = u8::try_from(1 + random.below(255))?;
                bytes.extend(other.iter().map(|byte| byte ^ change));
            }
            bytes.truncate(length);
            Ok(bytes)
        };
        match number % 20 {
            kind @ 0..8 => {
                let target = if kind % 2 == 0 { path.with_extension("new") } else { path.clone() };
                fs::write(&target, content(length)?)?;
                fs::rename(&target, &path)?;
            }
            8..12 => {
                let more = content(BLOCK)?;
                File::options().append(true).open(&path)?.write_all(&more)?;
            }
            12..18 => {
                let file = File::options().write(true).open(&path)?;
                let at = u64::try_from(length / 2)?;
                std::os::unix::fs::FileExt::write_all_at(&file, &content(BLOCK)?, at)?;
            }
            _ => fs::remove_file(&path)?,
        }
    }
    Ok(count)
}

/// The files of a folder and of those in it; links are left out.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => list(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}

/// Files of a folder to fill filesystems with. No two of them have the same content: a program that stores equal
/// bytes once is to gain by nothing that machines in use do not have.
pub struct Corpus {
    from: PathBuf,
    /// The next one last.
    files: Vec<PathBuf>,
    seen: HashSet<blake3::Hash>,
    random: Random,
}

impl Corpus {
    /// The files of the folder `from`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(from: &Path) -> Result<Self> {
        let mut files = Vec::new();
        list(from, &mut files)?;
        files.sort();
        // Whole folders lie together, and not all are of one kind.
        let mut folders: Vec<&[PathBuf]> =
            files.chunk_by(|one, other| one.parent() == other.parent()).collect();
        let mut random = Random::new(1);
        let mut order = Vec::new();
        while !folders.is_empty() {
            order.extend_from_slice(folders.swap_remove(random.below(folders.len())));
        }
        order.reverse();
        Ok(Self { from: from.to_owned(), files: order, seen: HashSet::new(), random })
    }

    /// Copies files into the folder `to` that were not copied yet, until they have four fifths of `size`; the last does
    /// not compress.
    ///
    /// # Errors
    /// Of reading and writing, or too few files are left.
    pub fn copy(&mut self, to: &Path, size: Bytes) -> Result<()> {
        let mut left = size.get() / 5 * 4;
        while left > 0 {
            let file = self.files.pop();
            let file =
                file.with_context(|| format!("{} has too few files", self.from.display()))?;
            // What machines have there differs: a single file is not to fill the filesystem.
            if fs::metadata(&file)?.len() > size.get() / 8 {
                continue;
            }
            let content = fs::read(&file)?;
            if !self.seen.insert(blake3::hash(&content)) {
                continue;
            }
            let target = to.join(file.strip_prefix(&self.from)?);
            fs::create_dir_all(target.parent().context("a folder")?)?;
            fs::write(target, &content)?;
            left = left.saturating_sub(u64::try_from(content.len())?);
        }
        for number in 0..size.units(Bytes::kib(5 * 32)) {
            fs::write(to.join(format!("noise{number}")), self.random.noise(1 << 15))?;
        }
        Ok(())
    }
}

/// The 4 KiB blocks of `new` that differ from those of `old`, one after another, in the file `out`.
///
/// # Errors
/// Of reading and writing.
pub fn changed_blocks(old: &Path, new: &Path, out: &Path) -> Result<()> {
    let (mut old, mut new) = (File::open(old)?, File::open(new)?);
    ensure!(old.metadata()?.len() == new.metadata()?.len(), "images of different sizes");
    let mut out = File::create(out)?;
    let mut buffers = [vec![0; BLOCK * 256], vec![0; BLOCK * 256]];
    loop {
        let [before, now] = &mut buffers;
        let length = read_some(&mut old, before)?;
        ensure!(read_some(&mut new, now)? == length, "it became shorter");
        for (before, now) in before[..length].chunks(BLOCK).zip(now[..length].chunks(BLOCK)) {
            if before != now {
                out.write_all(now)?;
            }
        }
        if length == 0 {
            return Ok(());
        }
    }
}

fn read_some(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    loop {
        match file.read(&mut buffer[filled..])? {
            0 => return Ok(filled),
            more => filled += more,
        }
    }
}

/// What all files of a folder take.
///
/// # Errors
/// It cannot be read.
pub fn size_of(folder: &Path) -> Result<Bytes> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    let sizes = files.iter().map(|file| Ok(Bytes::new(fs::metadata(file)?.len())));
    sizes.sum::<Result<Bytes>>()
}

/// What casync's store grows by when it stores `new` after `old`.
///
/// # Errors
/// casync fails.
pub fn casync_growth(work: &Path, old: &Path, new: &Path) -> Result<Bytes> {
    let store = work.join("store.castr");
    let index = work.join("index.caibx");
    run!("casync", "make", "--store", &store, &index, old)?;
    let before = size_of(&store)?;
    run!("casync", "make", "--store", &store, &index, new)?;
    let growth = size_of(&store)?.saturating_sub(before);
    fs::remove_dir_all(store)?;
    Ok(growth)
}
