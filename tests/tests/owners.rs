//! Which files some bytes of a filesystem belong to: each file is looked for by its content, and the tools of that
//! filesystem are asked too.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use image_core::extent::{Extent, ExtentSet};
use image_core::fs::Owners;
use image_core::io::Source;
use image_core::io::device::Device;
use image_core::io::memory::Memory;
use image_core::units::Bytes;
use keiki_tests::kill::noise;
use keiki_tests::loops::Mount;
use keiki_tests::{contents, filesystem, fixtures, run};
use tempfile::TempDir;

const SECTOR: u64 = 512;

/// A folder of many files, in deep ones others, and a file in hundreds of pieces.
fn fill(folder: &Path) -> Result<()> {
    let deep = folder.join("a/b/c d/\u{e9}");
    fs::create_dir_all(&deep)?;
    fs::create_dir(folder.join("many"))?;
    for number in 0..1500_u64 {
        let name = folder.join(format!("many/a file of the number {number}"));
        fs::write(name, noise(number + 1000, Bytes::new(700)))?;
    }
    fs::write(deep.join("deep"), noise(1, Bytes::new(70_000)))?;
    fs::hard_link(deep.join("deep"), folder.join("again"))?;
    let file = File::create(folder.join("pieces"))?;
    for piece in 0..700_u64 {
        file.write_all_at(&noise(piece + 10_000, Bytes::new(4096)), piece * 12_288)?;
    }
    Ok(())
}

/// The places in `image` of the sectors that the files below `folder` begin with, and of the last piece of those
/// that are long; by path.
fn places(image: &Path, folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u64>>> {
    let mut wanted: HashMap<Vec<u8>, PathBuf> = HashMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap()))?;
            let length = fs::symlink_metadata(&path)?.len();
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && length >= SECTOR {
                let file = File::open(&path)?;
                for at in [0, (length - SECTOR) / 4096 * 4096] {
                    let mut bytes = vec![0; 512];
                    file.read_exact_at(&mut bytes, at)?;
                    if bytes.iter().any(|byte| *byte != 0) {
                        wanted.insert(bytes, path.strip_prefix(folder)?.to_owned());
                    }
                }
            }
        }
    }
    let mut places: BTreeMap<PathBuf, Vec<u64>> = BTreeMap::new();
    for (sector, at) in fs::read(image)?.chunks_exact(512).zip((0..).step_by(512)) {
        if let Some(path) = wanted.get(sector) {
            places.entry(path.clone()).or_default().push(at);
        }
    }
    Ok(places)
}

fn owners(image: &Path, lost: &[u64]) -> Result<Owners> {
    let source: Source = Arc::new(Device::open_source(image, None)?);
    let mut lost = lost.to_vec();
    lost.sort_unstable();
    let extent = |at: &u64| Extent::at(Bytes::new(*at), Bytes::new(SECTOR)).unwrap();
    let lost: ExtentSet = lost.iter().map(extent).collect();
    let filesystem = image_core::fs::probe(&source)?.context("a filesystem")?;
    filesystem.owners(&lost)?.context("files")
}

fn named(paths: impl IntoIterator<Item = PathBuf>) -> Vec<String> {
    let names: BTreeSet<String> =
        paths.into_iter().map(|path| format!("/{}", path.display())).collect();
    names.into_iter().collect()
}

/// Every file alone for some of them, and all together.
fn check(image: &Path, folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u64>>> {
    let places = places(image, folder)?;
    assert!(!places.is_empty(), "nothing was found in {image:?}");
    let links = |path: &PathBuf| -> Vec<PathBuf> {
        let deep = PathBuf::from("a/b/c d/\u{e9}/deep");
        let linked = [deep, "again".into()];
        if linked.contains(path) { linked.to_vec() } else { vec![path.clone()] }
    };
    for (path, at) in places.iter().step_by(places.len() / 8 + 1).chain(places.iter().next_back()) {
        let found = owners(image, at)?;
        assert_eq!(found.files, named(links(path)), "{at:?} in {image:?}");
        assert!(!found.structures && found.incomplete.is_none(), "{found:?}");
    }
    let all: Vec<u64> = places.values().flatten().copied().collect();
    let found = owners(image, &all)?;
    let expected = named(places.keys().flat_map(links));
    assert_eq!(found.files, expected[..expected.len().min(image_core::fs::MOST_FILES)]);
    assert_eq!(found.files.len() + usize::try_from(found.more_files)?, expected.len());
    Ok(places)
}

#[test]
fn loop_files_of_every_filesystem_are_named() -> Result<()> {
    let work = TempDir::new_in(fixtures::folder()?)?;
    for content in contents::ALL.iter().filter(|content| !["swap", "raw"].contains(&content.name)) {
        let image = work.path().join(content.name);
        content.make(&image, content.size, 7)?;
        let whole = Extent::first(content.size);
        if content.name.starts_with("fat") {
            let out = TempDir::new()?;
            filesystem::read_fat(&image, whole, out.path())?;
            check(&image, out.path())?;
        } else {
            let mount = Mount::new(&image, whole, "ro")?;
            check(&image, mount.folder())?;
        }
        // Its first bytes are its own.
        assert!(owners(&image, &[1024])?.structures, "{}", content.name);
        fs::remove_file(&image)?;
    }
    Ok(())
}

#[test]
fn loop_large_folders_and_files_in_pieces_are_named_as_their_own_tools_name_them() -> Result<()> {
    let work = TempDir::new_in(fixtures::folder()?)?;
    for name in ["ext3", "ext4-4k", "xfs"] {
        let content = contents::named(name)?;
        let (image, size) = (work.path().join(name), content.size.max(Bytes::mib(72)));
        content.make(&image, size, 9)?;
        filesystem::filled(&image, fill)?;
        let mount = Mount::new(&image, Extent::first(size), "ro")?;
        let places = check(&image, mount.folder())?;
        drop(mount);
        for path in ["pieces", "many/a file of the number 1234"].map(PathBuf::from) {
            let at = places[&path][0];
            let told = if name == "xfs" {
                let block = format!("fsblock {}", fsblock(&image, at)?);
                run!("xfs_db", "-r", "-c", "blockget -n", "-c", block, "-c", "blockuse -n", &image)?
            } else {
                let size = if name == "ext3" { 1024 } else { 4096 };
                let inode = run!("debugfs", "-R", format!("icheck {}", at / size), &image)?;
                let inode = inode.split_whitespace().last().unwrap().to_owned();
                run!("debugfs", "-R", format!("ncheck {inode}"), &image)?
            };
            assert!(told.contains(path.to_str().unwrap()), "{path:?} at {at}: {told}");
        }
        fs::remove_file(&image)?;
    }
    Ok(())
}

/// What XFS calls the block at `at`.
fn fsblock(image: &Path, at: u64) -> Result<String> {
    let convert = format!("convert daddr {} fsblock", at / 512);
    let told = run!("xfs_db", "-r", "-c", convert, image)?;
    let number = told.split(['(', ')']).nth(1).context(told.clone())?;
    Ok(number.to_owned())
}

#[test]
fn loop_damaged_structures_neither_panic_nor_hang() -> Result<()> {
    let work = TempDir::new_in(fixtures::folder()?)?;
    for (name, rounds) in [("ext3", 60), ("ext4-4k", 60), ("fat12", 60), ("xfs", 12)] {
        let content = contents::named(name)?;
        let image = work.path().join(name);
        content.make(&image, content.size, 3)?;
        if !name.starts_with("fat") {
            filesystem::filled(&image, fill)?;
        }
        let bytes = fs::read(&image)?;
        // Structures have many small numbers; noise has few.
        let used: Vec<usize> = bytes
            .chunks(512)
            .enumerate()
            .filter(|(_, sector)| {
                let zeros = sector.iter().filter(|byte| **byte == 0).count();
                (64..512).contains(&zeros)
            })
            .map(|(at, _)| at * 512)
            .collect();
        for round in 0..rounds {
            let mut bytes = bytes.clone();
            let mut random = blake3::Hasher::new().update(&[round]).finalize_xof();
            let mut next = |limit: usize| {
                let mut number = [0; 8];
                random.fill(&mut number);
                usize::from_le_bytes(number) % limit
            };
            for _ in 0..300 {
                let at = used[next(used.len())] + next(512);
                let value = [0, 1, 0x7f, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1)][next(6)];
                bytes[at] = value;
            }
            let size = Bytes::of(&bytes);
            let source: Source = Arc::new(Memory::new(bytes));
            if let Ok(Some(filesystem)) = image_core::fs::probe(&source) {
                drop(filesystem.owners(&Extent::first(size).into()));
            }
        }
        fs::remove_file(&image)?;
    }
    Ok(())
}
