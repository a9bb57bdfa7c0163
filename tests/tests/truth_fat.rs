//! FAT maps against filesystems that mkfs.fat and mtools made, judged by fsck.fat.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::extent::Extent;
use image_core::fs::{self as filesystems, Filesystem, State};
use image_core::io::BlockSource;
use image_core::io::memory::Memory;
use image_core::units::Bytes;
use keiki_tests::truth::garbage_copy;
use tempfile::TempDir;

fn run(program: &str, args: &[&str]) -> String {
    let package =
        if program.starts_with('m') && program != "mkfs.fat" { "mtools" } else { "dosfstools" };
    Machine
        .check(&Call::new(program, args).env("MTOOLS_SKIP_CHECK", "1"))
        .unwrap_or_else(|error| panic!("{error} (it comes with {package})"))
        .text()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn open(image: &Path) -> Box<dyn Filesystem> {
    let source: Arc<dyn BlockSource> = Arc::new(Memory::new(fs::read(image).unwrap()));
    filesystems::probe(&source).unwrap().expect("a FAT")
}

struct Lab(TempDir);

impl Lab {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new filesystem, a third of it filled with files and folders, every third file deleted.
    fn filled(size: Bytes, options: &[&str]) -> (Self, PathBuf) {
        let lab = Self(TempDir::with_prefix("truth-fat").unwrap());
        let image = lab.path("source");
        fs::File::create(&image).unwrap().set_len(size.get()).unwrap();
        run("mkfs.fat", &[options, &[text(&image)]].concat());
        let files = lab.path("files");
        fs::create_dir_all(files.join("a long folder name/below")).unwrap();
        let unit = usize::try_from(size.get() / 3 / (60 * 61 / 2)).unwrap();
        for number in 1..=60usize {
            let folder = if number % 2 == 0 { "a long folder name/below" } else { "" };
            let content = vec![u8::try_from(number).unwrap(); number * unit + number % 7];
            fs::write(files.join(folder).join(format!("file {number}.bin")), content).unwrap();
        }
        for entry in fs::read_dir(&files).unwrap() {
            run("mcopy", &["-s", "-i", text(&image), text(&entry.unwrap().path()), "::/"]);
        }
        for number in (1..=60).step_by(6) {
            let name = format!("::/file {number}.bin");
            run("mdel", &["-i", text(&image), &name]);
            fs::remove_file(files.join(format!("file {number}.bin"))).unwrap();
        }
        (lab, image)
    }
}

/// The numbers that `fsck.fat -vn` prints in front of `words`.
fn told(report: &str, words: &str) -> u64 {
    let line = report.lines().find(|line| line.contains(words)).unwrap();
    let digits = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    line.split_whitespace().find(digits).unwrap().parse().unwrap()
}

/// Also proves that mkfs.fat and mtools keep FAT32's free count right: `used` compares it.
fn prove(size: Bytes, options: &[&str]) {
    let (lab, source) = Lab::filled(size, options);
    let volume = open(&source);
    assert_eq!(volume.state().unwrap(), State::Clean);
    let used = volume.used().unwrap();
    assert!(used.total() < size, "{options:?}");

    let report = run("fsck.fat", &["-vn", text(&source)]);
    let counts = report.lines().last().unwrap().rsplit(' ').nth(1).unwrap();
    let (full, all) = counts.split_once('/').unwrap();
    let (full, all): (u64, u64) = (full.parse().unwrap(), all.parse().unwrap());
    let (start, cluster) = (told(&report, "Data area starts"), told(&report, "bytes per cluster"));
    let within = |number: &u64| {
        let at = Bytes::new(start + number * cluster);
        used.contains(Extent::at(at, Bytes::new(cluster)).unwrap())
    };
    let mapped = u64::try_from((0..all).filter(within).count()).unwrap();
    assert!(mapped >= full, "{mapped} of {full} clusters in {options:?}");
    // Where the map is not rounded, the count is exact.
    if start % 4096 == 0 && cluster % 4096 == 0 {
        assert_eq!(mapped, full, "{options:?}");
    }

    let target = lab.path("target");
    garbage_copy(&source, &used, &target).unwrap();
    assert_eq!(run("fsck.fat", &["-vn", text(&target)]).replace("target", "source"), report);
    let back = lab.path("back");
    fs::create_dir(&back).unwrap();
    run("mcopy", &["-s", "-i", text(&target), "::/", text(&back)]);
    run("diff", &["-r", text(&lab.path("files")), text(&back)]);
}

#[test]
fn fat12() {
    for options in [&["-F", "12"][..], &["-F", "12", "-s", "8", "-R", "2"]] {
        prove(Bytes::mib(4), options);
    }
    // A floppy with three sectors behind the last whole cluster.
    prove(Bytes::new((1440 << 10) + 1536), &["-F", "12", "-a", "-s", "4", "-r", "112"]);
}

#[test]
fn fat16() {
    for options in [&["-F", "16"][..], &["-F", "16", "-s", "8"], &["-F", "16", "-R", "7", "-a"]] {
        prove(Bytes::mib(40), options);
    }
    prove(Bytes::mib(260), &["-F", "16", "-s", "64"]);
}

#[test]
fn fat32() {
    for options in [&["-F", "32"][..], &["-F", "32", "-s", "2"], &["-F", "32", "-f", "1"]] {
        prove(Bytes::mib(100), options);
    }
    prove(Bytes::mib(300), &["-F", "32", "-s", "8", "-n", "ORCHID"]);
}

#[test]
fn sectors_of_4096_bytes() {
    prove(Bytes::mib(300), &["-F", "32", "-S", "4096", "-s", "1"]);
    prove(Bytes::mib(32), &["-F", "16", "-S", "4096", "-s", "1"]);
}

#[test]
fn label_and_serial_are_blkids() {
    let (_lab, image) = Lab::filled(Bytes::mib(40), &["-F", "32", "-n", "OLD", "-i", "12ab34cd"]);
    run("mlabel", &["-i", text(&image), "::new name"]);
    let blkid = run("blkid", &["-p", "-o", "export", text(&image)]);
    let identity = open(&image).identity().clone();
    assert_eq!(identity.label.as_deref(), Some("NEW NAME"));
    assert!(blkid.contains("UUID=12AB-34CD") && identity.uuid.as_deref() == Some("12AB-34CD"));
    assert!(blkid.contains("LABEL=NEW\\ NAME"), "{blkid}");
}
