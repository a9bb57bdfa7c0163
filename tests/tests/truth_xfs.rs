//! XFS maps against filesystems that mkfs.xfs and the kernel made, judged by xfs_repair, xfs_db and xfs_logprint.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::extent::{Extent, ExtentSet};
use image_core::fs::{self as filesystems, Filesystem, State};
use image_core::io::memory::Memory;
use image_core::io::{BlockSink, BlockSource};
use image_core::units::Bytes;
use keiki_tests::loops::Mount;
use keiki_tests::truth::garbage_copy;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

fn run(program: &str, args: &[&str]) -> String {
    let package = if program.starts_with("losetup") { "util-linux" } else { "xfsprogs" };
    Machine
        .check(&Call::new(program, args))
        .unwrap_or_else(|error| panic!("{error} (it comes with {package})"))
        .text()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder for an image and its copies.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        Self(TempDir::with_prefix("truth-xfs").unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `source`: a new filesystem of `size`; fewer than 300 MiB need the undocumented switch.
    fn mkfs(&self, size: Bytes, options: &[&str]) -> PathBuf {
        let image = self.path("source");
        fs::File::create(&image).unwrap().set_len(size.get()).unwrap();
        let fixed = ["-q", "-f", "--unsupported"];
        run("mkfs.xfs", &[&fixed, options, &[text(&image)]].concat());
        image
    }

    fn mount(&self, image: &Path, options: &str) -> Mount {
        let whole = Extent::new(Bytes::ZERO, Bytes::new(fs::metadata(image).unwrap().len()));
        Mount::new(image, whole, &format!("nouuid,{options}")).unwrap()
    }

    fn fill(&self, image: &Path) {
        let mount = self.mount(image, "rw");
        for folder in ["a", "b/c"] {
            fs::create_dir_all(mount.folder().join(folder)).unwrap();
        }
        for number in 0..200usize {
            let folder = if number % 3 == 0 { "a" } else { "b/c" };
            let content = [u8::try_from(number % 251).unwrap(); 97].repeat(number * 3);
            fs::write(mount.folder().join(folder).join(number.to_string()), content).unwrap();
        }
        for number in (0..200).step_by(6) {
            fs::remove_file(mount.folder().join("a").join(number.to_string())).unwrap();
        }
        fs::write(mount.folder().join("large"), vec![7; 3 << 20]).unwrap();
    }
}

/// Every file of a mounted filesystem with its content's hash.
fn tree(mount: &Mount) -> BTreeMap<PathBuf, String> {
    let mut tree = BTreeMap::new();
    let mut folders = vec![mount.folder().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let hash = blake3::hash(&fs::read(&path).unwrap()).to_string();
                tree.insert(path.strip_prefix(mount.folder()).unwrap().to_owned(), hash);
            }
        }
    }
    tree
}

fn open(image: &Path) -> Box<dyn Filesystem> {
    let source: Arc<dyn BlockSource> = Arc::new(Memory::new(fs::read(image).unwrap()));
    filesystems::probe(&source).unwrap().expect("an XFS")
}

fn field(image: &Path, place: &str, name: &str) -> u64 {
    let printed = run("xfs_db", &["-r", "-c", place, "-c", &format!("p {name}"), text(image)]);
    printed.trim().rsplit(' ').next().unwrap().parse().unwrap()
}

/// What is in use as xfs_db has it. It lists an AG's reserve list first, one block a line, as if free.
fn listed(image: &Path) -> ExtentSet {
    let block = field(image, "sb 0", "blocksize");
    let group = field(image, "sb 0", "agblocks");
    let mut reserved: Vec<u64> = (0..field(image, "sb 0", "agcount"))
        .map(|number| field(image, &format!("agf {number}"), "flcount"))
        .collect();
    let mut free: Vec<Extent> = Vec::new();
    for line in run("xfs_db", &["-r", "-c", "freesp -d", text(image)]).lines() {
        let numbers: Vec<_> = line.split_whitespace().map(str::parse::<u64>).collect();
        let [Ok(number), Ok(start), Ok(length)] = numbers[..] else { continue };
        let left = &mut reserved[usize::try_from(number).unwrap()];
        if *left > 0 {
            assert_eq!(length, 1, "a block of the reserve list");
            *left -= 1;
            continue;
        }
        let at = Bytes::new((number * group + start) * block);
        free.push(Extent::at(at, Bytes::new(length * block)).unwrap());
    }
    free.sort();
    let whole = Extent::first(Bytes::new(field(image, "sb 0", "dblocks") * block));
    free.into_iter().collect::<ExtentSet>().missing_in(whole)
}

/// CLEAN or DIRTY as xfs_logprint finds the log.
fn log_state(image: &Path) -> String {
    let device = run("losetup", &["-r", "-f", "--show", text(image)]);
    let printed = Machine.run(&Call::new("xfs_logprint", ["-t", device.trim()]));
    run("losetup", &["-d", device.trim()]);
    let printed = printed.expect("install xfsprogs").text();
    let state = printed.split("state: <").nth(1).and_then(|rest| rest.split('>').next());
    state.unwrap_or_else(|| panic!("{printed}")).to_owned()
}

/// Maps `source`, compares with xfs_db, and makes the garbage copy.
fn copied(lab: &Lab, source: &Path) -> PathBuf {
    let volume = open(source);
    assert_eq!(volume.state().unwrap(), State::Clean);
    let used = volume.used().unwrap();
    let size = Bytes::new(fs::metadata(source).unwrap().len());
    assert_eq!(used, listed(source).rounded_out(Bytes::BLOCK, size));
    assert!(used.total() < volume.identity().size);
    let target = lab.path("target");
    garbage_copy(source, &used, &target).unwrap();
    run("xfs_repair", &["-n", text(&target)]);
    target
}

fn prove(size: Bytes, options: &[&str]) {
    let lab = Lab::new();
    let source = lab.mkfs(size, options);
    lab.fill(&source);
    prove_files(&lab, &source);
}

fn prove_files(lab: &Lab, source: &Path) {
    assert_eq!(log_state(source), "CLEAN");
    let target = copied(lab, source);
    let expected = tree(&lab.mount(source, "ro"));
    assert!(expected.len() > 100, "there are files to lose");
    assert_eq!(tree(&lab.mount(&target, "ro")), expected);
}

#[test]
fn loop_as_mkfs_makes_it() {
    prove(Bytes::mib(320), &["-L", "orchid"]);
}

#[test]
fn loop_block_and_sector_sizes() {
    for options in [
        &["-b", "size=1024"][..],
        &["-b", "size=2048"],
        &["-b", "size=4096", "-s", "size=4096"],
        &["-b", "size=16384"],
    ] {
        prove(Bytes::mib(80), options);
    }
}

#[test]
fn loop_features_on_and_off() {
    for options in [
        &["-m", "rmapbt=1,reflink=1"][..],
        &["-m", "finobt=0,rmapbt=0,reflink=0,inobtcount=0,bigtime=0"],
        &["-m", "bigtime=1", "-i", "nrext64=1,sparse=1"],
        &["-i", "sparse=0", "-l", "su=32k"],
    ] {
        prove(Bytes::mib(64), options);
    }
    prove(Bytes::mib(160), &["-l", "su=256k"]);
}

#[test]
fn loop_groups_and_odd_sizes() {
    // The last AG is shorter; the volume is longer than the filesystem and no multiple of 4 KiB.
    prove(Bytes::new((57 << 20) + 1536), &["-d", "agsize=20m"]);
    prove(Bytes::new((77 << 20) + 512), &["-b", "size=1024", "-d", "agsize=20m"]);
    prove(Bytes::mib(330), &["-d", "agcount=20"]);
}

#[test]
fn loop_a_changed_uuid_stays_apart_from_the_metadata_uuid() {
    let lab = Lab::new();
    let source = lab.mkfs(Bytes::mib(64), &[]);
    lab.fill(&source);
    let uuid = "c0ffee00-0000-4000-8000-000000000003";
    run("xfs_admin", &["-U", uuid, text(&source)]);
    assert_eq!(open(&source).identity().uuid.as_deref(), Some(uuid));
    prove_files(&lab, &source);
}

/// Every second of many files of one and two blocks deleted, so that the free-space btrees have two levels.
fn fragmented(lab: &Lab, block: usize) -> PathBuf {
    let size = format!("size={block}");
    let source = lab.mkfs(Bytes::mib(64), &["-b", &size, "-d", "agcount=2"]);
    let mount = lab.mount(&source, "rw");
    for number in 0..4000usize {
        fs::write(
            mount.folder().join(number.to_string()),
            number.to_le_bytes().repeat(block / 8 * (1 + number % 4 / 2)),
        )
        .unwrap();
    }
    run("sync", &["-f", text(mount.folder())]);
    for number in (0..4000).step_by(2) {
        fs::remove_file(mount.folder().join(number.to_string())).unwrap();
    }
    drop(mount);
    assert!(field(&source, "agf 0", "bnolevel") >= 2, "the btree has one level only");
    source
}

#[test]
fn loop_fragmented_free_space() {
    let lab = Lab::new();
    for block in [1024, 4096] {
        let source = fragmented(&lab, block);
        prove_files(&lab, &source);
    }
}

#[test]
fn loop_damage_is_never_believed() {
    let lab = Lab::new();
    let block = 4096;
    let source = fragmented(&lab, block);
    let pristine = open(&source).used().unwrap();
    let bytes = fs::read(&source).unwrap();
    let half = bytes.len() / 2;
    // Sectors of the headers and of the btree blocks of both AGs.
    let mut places: Vec<usize> = [0, 512, 1536, half + 512, half + 1536].into();
    for at in (0..bytes.len()).step_by(block).filter(|at| bytes[*at..].starts_with(b"AB3B")) {
        places.extend((at..at + block).step_by(512));
    }
    let memory = Arc::new(Memory::new(bytes.clone()));
    let flips = prop::collection::vec((prop::sample::select(places), 0..512usize, 1..=255u8), 1..4);
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        cases: 1500,
        ..ProptestConfig::default()
    });
    runner
        .run(&flips, |flips| {
            for (place, at, flip) in &flips {
                let found = bytes[place + at] ^ flip;
                memory.write_at(Bytes::from(place + at), &[found]).unwrap();
            }
            let source: Arc<dyn BlockSource> = Arc::clone(&memory) as _;
            let result = filesystems::probe(&source).and_then(|volume| match volume {
                Some(volume) => volume.used().map(Some),
                None => Ok(None),
            });
            for (place, at, _) in &flips {
                memory.write_at(Bytes::from(place + at), &[bytes[place + at]]).unwrap();
            }
            if let Ok(Some(used)) = result {
                prop_assert!(pristine.subtract(&used).is_empty(), "{flips:?}");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn loop_a_log_in_use_is_refused() {
    let lab = Lab::new();
    let source = lab.mkfs(Bytes::mib(64), &[]);
    lab.fill(&source);
    let mount = lab.mount(&source, "rw");
    for number in 0..50u32 {
        let file = fs::File::create(mount.folder().join(format!("new{number}"))).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 9000], 0).unwrap();
        file.sync_all().unwrap();
    }
    let crash = lab.path("crash");
    fs::copy(&source, &crash).unwrap();
    drop(mount);
    assert_eq!(log_state(&crash), "DIRTY");
    let volume = open(&crash);
    assert_eq!(volume.state().unwrap(), State::Raw("the log is dirty".to_owned()));
    assert_eq!(volume.used().unwrap_err().to_string(), "the log is dirty");
    assert_eq!(open(&source).state().unwrap(), State::Clean);
}

/// The log's head anywhere in it, several turns through: the verdict is xfs_logprint's.
#[test]
fn loop_logs_that_wrapped() {
    for options in
        [&["-l", "size=6m"][..], &["-l", "size=8m,su=64k"], &["-s", "size=4096", "-l", "size=8m"]]
    {
        let lab = Lab::new();
        let source = lab.mkfs(Bytes::mib(64), options);
        let crash = lab.path("crash");
        for turn in 0..9u32 {
            let mount = lab.mount(&source, "rw");
            for number in 0..1500 + turn * 31 {
                fs::write(mount.folder().join(number.to_string()), [1; 10]).unwrap();
            }
            run("sync", &["-f", text(mount.folder())]);
            for number in 0..1500 + turn * 31 {
                fs::remove_file(mount.folder().join(number.to_string())).unwrap();
            }
            run("sync", &["-f", text(mount.folder())]);
            fs::copy(&source, &crash).unwrap();
            drop(mount);
            assert_eq!(log_state(&source), "CLEAN");
            assert_eq!(open(&source).state().unwrap(), State::Clean, "turn {turn} of {options:?}");
            let dirty = State::Raw("the log is dirty".to_owned());
            assert_eq!(log_state(&crash), "DIRTY");
            assert_eq!(open(&crash).state().unwrap(), dirty, "turn {turn} of {options:?}");
        }
        // Records of the second turn at least: the cycle stands in the log's first block.
        let bytes = fs::read(&source).unwrap();
        let log = field(&source, "sb 0", "logstart");
        let (groups, log2) =
            (field(&source, "sb 0", "agblocks"), field(&source, "sb 0", "agblklog"));
        let start = ((log >> log2) * groups + (log & ((1 << log2) - 1))) * 4096;
        let first = &bytes[usize::try_from(start).unwrap()..][..8];
        let at = if first.starts_with(&0xFEED_BABE_u32.to_be_bytes()) { 4 } else { 0 };
        assert!(u32::from_be_bytes(first[at..at + 4].try_into().unwrap()) >= 2, "it did not wrap");
        copied(&lab, &source);
    }
}

#[test]
fn loop_mounted_read_only_stays_clean() {
    let lab = Lab::new();
    let source = lab.mkfs(Bytes::mib(64), &[]);
    lab.fill(&source);
    let mount = lab.mount(&source, "ro");
    assert_eq!(open(&source).state().unwrap(), State::Clean);
    drop(mount);
    prove_files(&lab, &source);
}

/// New kernels do not mount version 4: filled by mkfs.xfs from a prototype, read back by xfs_db's block maps.
#[test]
fn loop_version_4() {
    for options in
        [&["-l", "version=2"][..], &["-l", "version=1"], &["-b", "size=1024"], &["-b", "size=512"]]
    {
        let lab = Lab::new();
        let mut prototype = "/none\n0 0\nd--755 0 0\n".to_owned();
        for number in 1..40usize {
            let content = lab.path(&number.to_string());
            let value = u8::try_from(number).unwrap();
            fs::write(&content, vec![value; number * 1111]).unwrap();
            prototype.push_str(&format!("f{number} ---644 0 0 {}\n", text(&content)));
        }
        fs::write(lab.path("prototype"), prototype + "$\n$\n").unwrap();
        let prototype = lab.path("prototype");
        let fixed = ["-m", "crc=0", "-p", text(&prototype)];
        let source = lab.mkfs(Bytes::mib(64), &[&fixed, options].concat());
        let target = copied(&lab, &source);
        assert_eq!(open(&source).growth(), None);
        for number in 1..40usize {
            let expected = fs::read(lab.path(&number.to_string())).unwrap();
            assert_eq!(read_by_map(&target, &format!("/f{number}"))[..expected.len()], expected);
        }
    }
}

/// A file's blocks, found by `xfs_db`'s lines `data offset 0 startblock 32780 (1/12) count 11 flag 0`.
fn read_by_map(image: &Path, path: &str) -> Vec<u8> {
    let (block, group) = (field(image, "sb 0", "blocksize"), field(image, "sb 0", "agblocks"));
    let bytes = fs::read(image).unwrap();
    let mut content = Vec::new();
    let lines = run("xfs_db", &["-r", "-c", &format!("path {path}"), "-c", "bmap", text(image)]);
    for line in lines.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (number, start) = words[5].trim_matches(['(', ')']).split_once('/').unwrap();
        let first = number.parse::<u64>().unwrap() * group + start.parse::<u64>().unwrap();
        let count: u64 = words[7].parse().unwrap();
        let range = |at: u64| usize::try_from(at * block).unwrap();
        content.extend_from_slice(&bytes[range(first)..range(first + count)]);
    }
    content
}
