//! Disks with unreadable sectors: saved around them, listed, restored with zeros in their place.
//!
//! The disk is a file in a folder of faults, where reads of chosen bytes fail.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::faults::{Fault, Faulty, How, Op};
use keiki_tests::kill::noise;
use keiki_tests::{filesystem, fixtures, garbage, judge, run, sparse, table, volumes};
use rustix::io::Errno;
use serde_json::{Value, json};
use tempfile::TempDir;

const SECTOR: u64 = 512;

/// What every filesystem holds: names, and the seed and length of their noise.
const FILES: [(&str, u64, usize); 4] = [
    ("large", 1, 3_000_001),
    ("other", 2, 700_000),
    ("folder/deeper/a long name.text", 3, 200_000),
    ("small", 4, 100),
];

/// Deleted: its bytes still lie in free space.
const DOOMED: (&str, u64, usize) = ("doomed", 5, 2_000_000);

fn content(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, Bytes::from(length))
}

fn fill(folder: &Path) -> Result<()> {
    fs::write(folder.join(DOOMED.0), content(DOOMED.1, DOOMED.2))?;
    for (name, seed, length) in FILES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap())?;
        fs::write(path, content(seed, length))?;
    }
    run!("sync", "-f", folder)?;
    fs::remove_file(folder.join(DOOMED.0))?;
    Ok(())
}

/// The kernel of a test machine may have no driver for it.
fn fat(image: &Path, size: Bytes) -> Result<()> {
    let folder = TempDir::new()?;
    fill(folder.path())?;
    let outside = FILES.map(|(name, _, _)| folder.path().join(name));
    let files: Vec<(&str, &Path)> = FILES
        .iter()
        .zip(&outside)
        .map(|((name, _, _), outside)| (*name, outside.as_path()))
        .collect();
    filesystem::fat32(image, size, ["FAT", "4b450001"], &files)
}

/// A disk with FAT, ext4 and XFS behind a folder of faults, and a repository.
struct Stage {
    bench: Bench,
    faulty: Faulty,
    work: TempDir,
    parts: Vec<Extent>,
}

impl Stage {
    fn new() -> Result<Self> {
        let work = TempDir::new_in(fixtures::folder()?)?;
        let behind = work.path().join("behind");
        fs::create_dir(&behind)?;
        let (disk, image) = (behind.join("disk.img"), work.path().join("image"));
        sparse::create(&disk, Bytes::mib(440))?;
        run!("sgdisk", "-n1:0:+40M", "-n2:0:+64M", "-n3:0:+320M", &disk)?;
        let parts = table::partitions(&disk)?;
        for (at, part) in parts.iter().enumerate() {
            if at == 0 {
                fat(&image, part.len())?;
                sparse::copy(&image, Extent::first(part.len()), &disk, part.start)?;
                continue;
            }
            sparse::create(&image, part.len())?;
            match at {
                1 => run!("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "ext", &image)?,
                _ => run!("mkfs.xfs", "-q", "-f", "-L", "xfs", &image)?,
            };
            filesystem::filled(&image, fill)?;
            sparse::copy(&image, Extent::first(part.len()), &disk, part.start)?;
        }
        fs::remove_file(&image)?;
        let faulty = Faulty::new(&behind)?;
        Ok(Self { bench: Bench::new()?, faulty, work, parts })
    }

    /// The disk without faults.
    fn behind(&self) -> PathBuf {
        self.work.path().join("behind/disk.img")
    }

    /// The disk as the program sees it.
    fn disk(&self) -> String {
        self.faulty.folder().join("disk.img").display().to_string()
    }

    /// Where in a partition the bytes of a file lie from `at` on; it is searched for them, and nobody is asked.
    fn find(&self, part: usize, (_, seed, length): (&str, u64, usize), at: usize) -> u64 {
        let wanted = content(seed, length)[at..at + 512].to_vec();
        let part = self.parts[part];
        let mut bytes = vec![0; part.len().index().unwrap()];
        File::open(self.behind()).unwrap().read_exact_at(&mut bytes, part.start.get()).unwrap();
        let found = bytes.chunks_exact(512).position(|sector| sector == wanted);
        u64::try_from(found.unwrap()).unwrap() * SECTOR
    }

    /// From now on these ranges of partitions cannot be read. The first figure counts all reads.
    fn spoil(&self, holes: &[(usize, u64, u64)]) {
        let mut faults = vec![Fault::new(&[Op::Read], "", How::Half).between(0, 0)];
        faults.extend(holes.iter().map(|(part, start, length)| {
            let at = self.parts[*part].start.get() + start;
            Fault::new(&[Op::Read], "", How::Fails(Errno::IO)).at(at..at + length)
        }));
        self.faulty.fail(faults);
    }

    /// How many reads there were since, and how many of them failed.
    fn reads(&self) -> (u64, u64) {
        let met = self.faulty.met();
        (met[0], met[1..].iter().sum())
    }

    fn target(&self) -> Result<PathBuf> {
        let target = self.work.path().join("target.img");
        garbage::fill(&target, Bytes::mib(440))?;
        Ok(target)
    }
}

fn ranges(holes: &[(usize, u64, u64)]) -> Value {
    let mut all: Vec<_> = holes.to_vec();
    all.sort_unstable();
    let range = |(part, start, length): &(usize, u64, u64)| json!({"volume": format!("d0:{}", part + 1), "start": start, "length": length});
    all.iter().map(range).collect()
}

/// The files of `image` that differ from the source's, and where; the checkers must have no complaint.
fn differing(stage: &Stage, target: &Path) -> Result<BTreeSet<(String, PathBuf)>> {
    judge::disks(&[target.to_owned()])?;
    let (was, is) = (volumes::trees(&[stage.behind()])?, volumes::trees(&[target.to_owned()])?);
    ensure!(was.len() == 3 && was.keys().eq(is.keys()), "{:?}", is.keys());
    let changed = was
        .iter()
        .flat_map(|(id, tree)| tree.changed(&is[id]).into_iter().map(|path| (id.clone(), path)));
    Ok(changed.collect())
}

fn bytes(path: &Path, at: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(length).unwrap()];
    File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn loop_bad_sectors_in_files_are_listed_and_everything_else_is_saved() -> Result<()> {
    let stage = Stage::new()?;
    let large = |part, at| stage.find(part, FILES[0], at);
    let holes = [
        (0, stage.find(0, FILES[2], 51_200), SECTOR),
        (1, large(1, 1 << 20), SECTOR),
        (1, large(1, 2 << 20), 3 * SECTOR),
        (2, large(2, 40_960), 2 * SECTOR),
    ];
    let free = (1, stage.find(1, DOOMED, 1_024_000), 200 * SECTOR);
    stage.spoil(&[&holes[..], &[free]].concat());
    let saved = stage.bench.ends(&format!("save {} --name bad", stage.disk()), 5)?;
    assert_eq!(saved["unreadable"], ranges(&holes));
    let hit = |volume: &str, file: &str| {
        json!({"volume": volume, "files": [format!("/{file}")], "more_files": 0,
            "structures": false, "incomplete": null})
    };
    let hits = json!([hit("d0:1", FILES[2].0), hit("d0:2", "large"), hit("d0:3", "large")]);
    assert_eq!(saved["hit"], hits);
    let (reads, failed) = stage.reads();
    assert!(failed < 80 && reads < 1500, "{reads} reads, {failed} of them failed");
    // It stays known.
    let verified = stage.bench.ends("verify bad", 5)?;
    assert_eq!((&verified["unreadable"], &verified["hit"]), (&ranges(&holes), &hits));
    assert_eq!(stage.bench.run("check")?["unreadable"][0]["image"], "bad");
    let shown = stage.bench.run("show bad")?;
    let listed: usize = shown["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["unreadable"].as_array().unwrap().len())
        .sum();
    assert_eq!(listed, holes.len());
    // Restored, no checker complains, and only the files that were hit differ, with zeros in the holes.
    let target = stage.target()?;
    let restored =
        stage.bench.ends(&bench::restore("bad", std::slice::from_ref(&target), ""), 5)?;
    assert_eq!(restored["unreadable"], ranges(&holes));
    let hit = [("d0:1", FILES[2].0), ("d0:2", "large"), ("d0:3", "large")];
    let hit = hit.map(|(id, path)| (id.to_owned(), PathBuf::from(path)));
    assert_eq!(differing(&stage, &target)?, BTreeSet::from(hit));
    for (part, start, length) in holes {
        let at = stage.parts[part].start.get() + start;
        assert!(bytes(&target, at, length).iter().all(|byte| *byte == 0));
        for beside in [at - SECTOR, at + length] {
            assert_eq!(bytes(&target, beside, SECTOR), bytes(&stage.behind(), beside, SECTOR));
        }
    }
    // A clone says the same, and does not grow what it could not read.
    let clone = stage.target()?;
    let line = format!("clone {} {} --confirm {}", stage.disk(), clone.display(), clone.display());
    let cloned = stage.bench.ends(&line, 5)?;
    assert_eq!((&cloned["unreadable"], &cloned["hit"]), (&restored["unreadable"], &hits));
    run!("cmp", &target, &clone)?;
    // A copy has the same holes.
    let copied = stage.bench.ends("copy bad --to ./other", 5)?;
    let lacking: u64 = holes.iter().map(|(_, _, length)| length).sum();
    assert_eq!(copied["images"][0]["unreadable_bytes"], lacking);
    let [repo, old, other] = ["repo", "old", "other"].map(|name| stage.bench.path(name));
    fs::rename(&repo, old)?;
    fs::rename(other, repo)?;
    let verified = stage.bench.ends("verify bad", 5)?;
    assert_eq!((&verified["unreadable"], &verified["hit"]), (&ranges(&holes), &hits));
    Ok(())
}

/// Where ext4's block bitmap of group 0 lies, as dumpe2fs tells.
fn block_bitmap(stage: &Stage) -> u64 {
    let part = stage.parts[1];
    let image = stage.work.path().join("ext");
    sparse::create(&image, part.len()).unwrap();
    sparse::copy(&stage.behind(), part, &image, Bytes::ZERO).unwrap();
    let told = run!("dumpe2fs", &image).unwrap();
    let (_, rest) = told.split_once("Block bitmap at ").unwrap();
    rest.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn loop_what_a_disk_says_of_itself_may_be_unreadable_too() -> Result<()> {
    let stage = Stage::new()?;
    // The header of the primary GPT: its backup serves. A bitmap: that filesystem is saved whole.
    let bitmap = (1, block_bitmap(&stage), SECTOR);
    stage.spoil(&[bitmap]);
    let part = stage.parts[1].start.get();
    let io = || Fault::new(&[Op::Read], "", How::Fails(Errno::IO));
    stage.faulty.fail(vec![
        io().at(SECTOR..2 * SECTOR),
        io().at(part + bitmap.1..part + bitmap.1 + SECTOR),
    ]);
    let saved = stage.bench.ends(&format!("save {} --name bad", stage.disk()), 5)?;
    assert_eq!(saved["unreadable"], ranges(&[bitmap]));
    assert_eq!(saved["hit"][0]["structures"], true, "{saved}");
    let raw = &saved["raw_volumes"][0];
    assert_eq!((&raw["id"], saved["raw_volumes"].as_array().unwrap().len()), (&json!("d0:2"), 1));
    assert!(raw["reason"].as_str().unwrap().contains("cannot read"), "{raw}");
    let target = stage.target()?;
    stage.bench.ends(&bench::restore("bad", std::slice::from_ref(&target), ""), 5)?;
    judge::table(&target)?;
    let same = |start: u64, length: u64| {
        bytes(&target, start, length) == bytes(&stage.behind(), start, length)
    };
    assert!(same(part, bitmap.1) && same(part + bitmap.1 + SECTOR, 32 << 20));
    // Without a table there is nothing to be saved, and the message says so.
    stage.faulty.fail(vec![io().at(0..SECTOR)]);
    let why = stage.bench.fails(&format!("save {} --name table", stage.disk()), 1)?;
    assert!(why.contains("cannot read its partition table") && why.contains("at byte 0"), "{why}");
    Ok(())
}

#[test]
fn loop_a_disk_that_goes_away_makes_no_image_and_the_next_save_goes_on() -> Result<()> {
    let stage = Stage::new()?;
    stage.spoil(&[]);
    Bench::new()?.run(&format!("save {} --name whole", stage.disk()))?;
    // Late: before are the reads of the survey and of the estimate.
    let gone = stage.reads().0 / 10 * 9;
    for errno in [Errno::IO, Errno::NODEV] {
        let fault = Fault::new(&[Op::Read], "", How::Fails(errno));
        stage.faulty.fail(vec![fault.between(gone, u64::MAX)]);
        let why = stage.bench.fails(&format!("save {} --name gone", stage.disk()), 1)?;
        assert!(why.contains("there is no new image"), "{why}");
        assert!(stage.faulty.met()[0] < gone + 200, "it was read on and on");
    }
    stage.faulty.fail(Vec::new());
    assert_eq!(stage.bench.run("images")?["images"], json!([]));
    // The next save goes on from what was stored.
    let saved = stage.bench.run(&format!("save {} --name whole", stage.disk()))?;
    assert!(saved["known_chunks"].as_u64() > Some(2), "{saved}");
    Ok(())
}

#[test]
fn loop_a_later_save_fills_holes_and_reads_nothing_else() -> Result<()> {
    let stage = Stage::new()?;
    let healing = [
        (0, stage.find(0, FILES[0], 1 << 20), 2 * SECTOR),
        (1, stage.find(1, FILES[0], 1 << 20), SECTOR),
    ];
    let staying = [
        (1, stage.find(1, FILES[0], 1_077_248), 4 * SECTOR),
        (2, stage.find(2, FILES[1], 8192), SECTOR),
    ];
    let all = [&healing[..], &staying[..]].concat();
    stage.spoil(&all);
    let first = stage.bench.ends(&format!("save {} --name bad", stage.disk()), 5)?;
    assert_eq!(first["unreadable"], ranges(&all));
    // Some sectors can be read again. What the image has is not read, but for what any look at the disk reads.
    stage.spoil(&staying);
    let kept: Vec<Fault> = (0..3)
        .map(|part| stage.parts[part].start.get() + stage.find(part, FILES[0], 1_600_512))
        .map(|at| Fault::new(&[Op::Read], "", How::Half).at(at..at + 500_000).between(0, 0))
        .collect();
    let bad = staying.map(|(part, start, length)| {
        let at = stage.parts[part].start.get() + start;
        Fault::new(&[Op::Read], "", How::Fails(Errno::IO)).at(at..at + length)
    });
    let faults: Vec<Fault> = kept.into_iter().chain(bad).collect();
    stage.faulty.fail(faults.clone());
    stage.bench.run(&format!("inspect {}", stage.disk()))?;
    let looked = stage.faulty.met();
    stage.faulty.fail(faults);
    let line = format!("save {} --name bad --fill bad", stage.disk());
    let second = stage.bench.ends(&line, 5)?;
    assert_eq!((&second["filled"], &second["unreadable"]), (&ranges(&healing), &ranges(&staying)));
    assert_eq!(second["read_bytes"], 3 * SECTOR);
    let met = stage.faulty.met();
    assert_eq!(met[..3], looked[..3], "bytes were read that the image has");
    assert!(met[3..].iter().sum::<u64>() < 60, "{met:?}");
    // All of them: as if nothing had been.
    stage.spoil(&[]);
    let third = stage.bench.run(&line)?;
    assert_eq!((&third["filled"], &third["unreadable"]), (&ranges(&staying), &json!([])));
    let reads = stage.reads().0;
    stage.spoil(&[]);
    stage.bench.run(&format!("save {} --name whole", stage.disk()))?;
    assert!(reads < stage.reads().0, "filling reads as much as saving");
    let target = stage.target()?;
    stage.bench.restore("bad", std::slice::from_ref(&target), "")?;
    assert_eq!(differing(&stage, &target)?, BTreeSet::new());
    let [bad, whole] =
        ["bad", "whole"].map(|name| stage.bench.run(&format!("show {name}")).unwrap());
    assert_eq!(bad["volumes"], whole["volumes"], "the same tables as of a disk without faults");
    // There is nothing left to fill.
    assert!(stage.bench.fails(&line, 3)?.contains("no holes"));
    Ok(())
}

#[test]
fn loop_only_an_unchanged_disk_is_filled() -> Result<()> {
    let stage = Stage::new()?;
    let hole = (0, stage.find(0, FILES[0], 1 << 20), SECTOR);
    stage.spoil(&[hole]);
    stage.bench.ends(&format!("save {} --name bad", stage.disk()), 5)?;
    stage.spoil(&[]);
    let line = format!("save {} --name bad --fill bad", stage.disk());
    let kept = stage.work.path().join("kept.img");
    run!("cp", "--sparse=always", stage.behind(), &kept)?;
    let image = stage.work.path().join("image");
    for part in [1, 2] {
        // A file is overwritten in its place, in another volume: not a byte more or less is in use.
        let extent = stage.parts[part];
        sparse::create(&image, extent.len())?;
        sparse::copy(&stage.behind(), extent, &image, Bytes::ZERO)?;
        filesystem::filled(&image, |folder| {
            let file = File::options().write(true).open(folder.join(FILES[0].0))?;
            Ok(file.write_all_at(b"other", 1 << 20)?)
        })?;
        sparse::copy(&image, Extent::first(extent.len()), &stage.behind(), extent.start)?;
        let why = stage.bench.fails(&line, 3)?;
        assert!(why.contains(&format!("d0:{} changed", part + 1)), "{why}");
        run!("cp", "--sparse=always", &kept, stage.behind())?;
    }
    run!("sgdisk", "-G", stage.behind())?;
    let why = stage.bench.fails(&line, 3)?;
    assert!(why.contains("another partition table"), "{why}");
    run!("cp", "--sparse=always", &kept, stage.behind())?;
    assert_eq!(stage.bench.run(&line)?["filled"], ranges(&[hole]));
    Ok(())
}
