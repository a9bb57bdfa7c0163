//! Disks, claims and conformance on real loop devices. Needs root, losetup, partx, e2fsprogs, btrfs-progs.
#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image_core::disk::claim::{check_target, claim_target, distinct, source_in_use};
use image_core::disk::holders::{HeldBy, Stack};
use image_core::disk::inventory;
use image_core::error::{Error, Result};
use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::io::aligned::AlignedBuf;
use image_core::io::device::Device;
use image_core::io::{BlockSink, BlockSource};
use image_core::units::Bytes;
use keiki_tests::loops::unmount;
use tempfile::TempDir;

#[path = "../../image-core/src/io/conformance.rs"]
mod conformance;

/// Runs a program; one that is missing is a failure that names it.
fn run(program: &str, args: &[&str]) -> String {
    let outcome = Machine.check(&Call::new(program, args));
    outcome.unwrap_or_else(|error| panic!("{error}")).text().trim().to_owned()
}

/// A file attached to a loop device; both go away at the end.
struct Loop {
    folder: TempDir,
    device: String,
}

impl Loop {
    fn new(mib: u64, options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("disk.img");
        std::fs::File::create(&file).unwrap().set_len(mib << 20).unwrap();
        let file = file.to_str().unwrap();
        let device = run("losetup", &[options, &["--find", "--show", file]].concat());
        Self { folder, device }
    }

    /// Two partitions of 20 MiB, which the kernel is told of, whether it knows GPT or not.
    fn partitioned() -> Self {
        let disk = Self::new(64, &["--partscan"]);
        let script = "label: gpt\nsize=20M\nsize=20M\n";
        let call = Call::new("sfdisk", ["--quiet", "--no-reread", &disk.device]).stdin(script);
        Machine.check(&call).unwrap();
        run("partx", &["--update", &disk.device]);
        let two = disk.partition(2);
        wait_for("partition 2", || two.exists());
        disk
    }

    fn path(&self) -> &Path {
        Path::new(&self.device)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn partition(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.device))
    }

    fn mount(&self, device: &Path, options: &str) -> Mounted {
        self.mount_as("auto", device, options)
    }

    fn mount_as(&self, fs_type: &str, device: &Path, options: &str) -> Mounted {
        let point = self.folder.path().join("mount point");
        std::fs::create_dir_all(&point).unwrap();
        let (from, to) = (device.to_str().unwrap(), point.to_str().unwrap());
        run("mount", &["-t", fs_type, "-o", options, from, to]);
        Mounted(point)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Machine.run(&Call::new("losetup", ["--detach", &self.device])));
    }
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_there() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mkfs(device: &Path) {
    run("mkfs.ext4", &["-q", "-F", device.to_str().unwrap()]);
}

/// The result is a refusal that names the path and all of `words`.
fn refused<T: std::fmt::Debug>(result: Result<T>, path: &Path, words: &[&str]) {
    let why = match result {
        Err(Error::Refused(why)) => why,
        other => panic!("{} is not refused: {other:?}", path.display()),
    };
    let path = path.to_str().unwrap();
    for word in words.iter().chain([&path]) {
        assert!(why.contains(word), "`{word}` is not in: {why}");
    }
}

#[test]
fn loop_devices_conform() {
    for sector in ["512", "4096"] {
        let disk = Loop::new(4, &["--sector-size", sector]);
        let device = claim_target(disk.path(), None, None).unwrap();
        assert_eq!(device.sector_size().get().to_string(), sector);
        let source = Device::open_source(disk.path(), None).unwrap();
        let direct = device.reopen_direct().unwrap();
        assert!(direct.is_direct());
        conformance::check(&device, &[&device, &source, &direct]);
    }
}

#[test]
fn loop_direct_reads_see_the_disk_and_not_the_cache() {
    let disk = Loop::new(4, &[]);
    let device = claim_target(disk.path(), None, None).unwrap();
    device.write_at(Bytes::ZERO, &[1; 8192]).unwrap();
    device.flush().unwrap();
    let file = OpenOptions::new().write(true).open(disk.file()).unwrap();
    file.write_all_at(&[2; 8192], 0).unwrap();
    assert_eq!(device.read(Bytes::new(4000), 200).unwrap(), [1; 200]);
    let direct = device.reopen_direct().unwrap();
    assert_eq!(direct.read(Bytes::new(4000), 200).unwrap(), [2; 200]);
}

#[test]
fn loop_what_is_read_once_or_written_in_bulk_stays_out_of_the_cache() {
    let disk = Loop::new(4, &[]);
    let device = claim_target(disk.path(), None, None).unwrap();
    let file = OpenOptions::new().write(true).open(disk.file()).unwrap();
    let once = || {
        let mut bytes = AlignedBuf::zeroed(1 << 20);
        device.read_once(Bytes::mib(1), &mut bytes).unwrap();
        bytes[200_000]
    };
    file.write_all_at(&[1; 1 << 20], 1 << 20).unwrap();
    assert_eq!(once(), 1);
    device.write_at(Bytes::mib(1), &[2; 1 << 20]).unwrap();
    assert_eq!(once(), 2);
    file.write_all_at(&[3; 1 << 20], 1 << 20).unwrap();
    assert_eq!(device.read(Bytes::mib(1), 1 << 20).unwrap(), vec![3; 1 << 20], "it was cached");
    device.write_at(Bytes::mib(1), &[4; 1 << 20]).unwrap();
    assert_eq!(device.read(Bytes::mib(1), 1 << 20).unwrap(), vec![4; 1 << 20], "stale pages");
}

#[test]
fn loop_claimed_device_cannot_be_claimed_twice() {
    let disk = Loop::new(4, &[]);
    let device = claim_target(disk.path(), None, None).unwrap();
    refused(claim_target(disk.path(), None, None), disk.path(), &["in use"]);
    device.confirm(&Device::open_source(disk.path(), None).unwrap().identity().unwrap()).unwrap();
    drop(device);
    claim_target(disk.path(), None, None).unwrap();
}

#[test]
fn loop_disk_that_changed_is_not_the_confirmed_one() {
    let disk = Loop::new(4, &[]);
    let identity = Device::open_source(disk.path(), None).unwrap().identity().unwrap();
    OpenOptions::new().write(true).open(disk.file()).unwrap().set_len(8 << 20).unwrap();
    run("losetup", &["--set-capacity", &disk.device]);
    let device = claim_target(disk.path(), None, None).unwrap();
    refused(device.confirm(&identity), disk.path(), &["4194304 bytes", "8388608 bytes"]);
}

#[test]
fn loop_read_only_target_is_refused() {
    let disk = Loop::new(4, &["--read-only"]);
    refused(claim_target(disk.path(), None, None), disk.path(), &["read-only"]);
    refused(Device::open_target(disk.path(), None), disk.path(), &["read-only"]);
}

#[test]
fn loop_mounted_disk_is_a_source_only_when_read_only() {
    let disk = Loop::new(16, &[]);
    let (device, file) = (disk.path().to_owned(), disk.file());
    mkfs(&device);
    for path in [&device, &file] {
        source_in_use(path, None).unwrap();
        let mounted = disk.mount(&device, "rw");
        let point = mounted.0.to_str().unwrap();
        refused(source_in_use(path, None), path, &["read-write", point, "umount", &disk.device]);
        run("mount", &["-o", "remount,bind,ro", point]);
        refused(source_in_use(path, None), path, &["read-write", point]);
        run("mount", &["-o", "remount,ro", point]);
        assert!(!source_in_use(path, None).unwrap().is_empty());
        refused(claim_target(path, None, None), path, &["mounted read-only", point, "umount"]);
    }
}

#[test]
fn loop_mounted_partition_holds_its_disk() {
    let disk = Loop::partitioned();
    let (one, two) = (disk.partition(1), disk.partition(2));
    mkfs(&one);
    let mounted = disk.mount(&one, "rw");
    let words = [one.to_str().unwrap(), mounted.0.to_str().unwrap(), "umount"];
    for path in [disk.path(), one.as_path()] {
        refused(source_in_use(path, None), path, &words);
        refused(claim_target(path, None, None), path, &words);
    }
    refused(Device::open_target(disk.path(), None), disk.path(), &["in use"]);
    source_in_use(&two, None).unwrap();
    drop(claim_target(&two, None, None).unwrap());
    let info = inventory::describe(disk.path()).unwrap();
    let partitions: Vec<_> = info.partitions.iter().map(|part| (part.number, part.start)).collect();
    assert_eq!(partitions, [(1, Bytes::MIB), (2, Bytes::mib(21))]);
    assert!(inventory::disks().unwrap().contains(&info));
    drop(mounted);
    drop(claim_target(&one, None, None).unwrap());
    drop(claim_target(disk.path(), None, None).unwrap());
}

#[test]
fn loop_attached_file_is_no_target() {
    let disk = Loop::new(4, &[]);
    let file = disk.file();
    refused(claim_target(&file, None, None), &file, &[&disk.device, "losetup -d"]);
    let info = inventory::describe(&file).unwrap();
    assert!(matches!(&info.holders[0].by, HeldBy::Device(upper) if upper.path == disk.path()));
    source_in_use(&file, None).unwrap();
    let above = run("losetup", &["--find", "--show", &disk.device]);
    let result = claim_target(disk.path(), None, None);
    run("losetup", &["--detach", &above]);
    refused(result, disk.path(), &[&above]);
}

#[test]
fn loop_source_and_target_overlap() {
    let disk = Loop::partitioned();
    let (file, one, two) = (disk.file(), disk.partition(1), disk.partition(2));
    let again = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
    let again_path = Path::new(&again);
    let pairs =
        [(disk.path(), &*file), (disk.path(), &*one), (&*one, &*file), (again_path, disk.path())];
    let results = pairs.map(|(a, b)| (distinct(a, b), distinct(b, a)));
    run("losetup", &["--detach", &again]);
    for ((a, b), (there, back)) in pairs.into_iter().zip(results) {
        refused(there, a, &[b.to_str().unwrap()]);
        refused(back, a, &[b.to_str().unwrap()]);
    }
    distinct(&one, &two).unwrap();
}

#[test]
fn loop_repository_is_not_overwritten() {
    let disk = Loop::partitioned();
    mkfs(&disk.partition(1));
    let mounted = disk.mount(&disk.partition(1), "rw");
    let repository = mounted.0.join("not/yet");
    for path in [disk.path().to_owned(), disk.partition(1), disk.file()] {
        let words = ["holds the repository", repository.to_str().unwrap()];
        refused(check_target(&path, Some(&repository)), &path, &words);
        refused(source_in_use(&path, Some(&repository)), &path, &words);
    }
    check_target(&disk.partition(2), Some(&repository)).unwrap();
}

#[test]
fn loop_every_disk_of_a_btrfs_is_held() {
    let (one, two) = (Loop::new(128, &[]), Loop::new(128, &[]));
    run("mkfs.btrfs", &["-q", "-f", &one.device, &two.device]);
    run("btrfs", &["device", "scan", &one.device, &two.device]);
    let mounted = one.mount(one.path(), "rw");
    let point = mounted.0.to_str().unwrap();
    for disk in [&one, &two] {
        refused(source_in_use(disk.path(), None), disk.path(), &["read-write", point]);
        refused(claim_target(disk.path(), None, None), disk.path(), &["mounted", point]);
    }
}

#[test]
fn loop_mount_in_another_namespace_is_noticed() {
    let disk = Loop::new(16, &[]);
    mkfs(disk.path());
    let folder = disk.folder.path();
    let (point, ready) = (folder.join("hidden"), folder.join("ready"));
    std::fs::create_dir(&point).unwrap();
    // Mounts where nobody else sees it, says so in a file, and waits until that file is removed.
    let script = r#"mount "$1" "$2" && touch "$3" && while [ -e "$3" ]; do sleep 0.05; done"#;
    let paths = [disk.path(), &point, &ready].map(|path| path.to_str().unwrap());
    let call = Call::new("unshare", [&["--mount", "sh", "-c", script, "sh"], &paths[..]].concat());
    let hidden = std::thread::spawn(move || Machine.check(&call));
    wait_for("the hidden mount", || ready.exists() || hidden.is_finished());
    let (source, target) =
        (source_in_use(disk.path(), None), claim_target(disk.path(), None, None));
    drop(std::fs::remove_file(&ready));
    hidden.join().unwrap().unwrap();
    refused(source, disk.path(), &["cannot be seen"]);
    refused(target, disk.path(), &["in use"]);
}

#[test]
fn loop_lost_writes_are_never_reported_as_durable() {
    let disk = Loop::new(1, &[]);
    let mounted = disk.mount_as("tmpfs", Path::new("tmpfs"), "size=1M");
    let file = mounted.0.join("larger-than-its-disk.img");
    std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
    let target = claim_target(Path::new(&device), None, None).unwrap();
    // In pieces that are cached, so that nothing is wrong yet.
    for at in (0..4 << 20).step_by(32 << 10) {
        target.write_at(Bytes::new(at), &[7; 32 << 10]).unwrap();
    }
    // One that goes past the cache fails at once.
    assert!(target.write_at(Bytes::mib(6), &vec![7; 2 << 20]).is_err());
    let flushes = [target.flush(), target.flush(), target.flush()];
    drop(target);
    run("losetup", &["--detach", &device]);
    for flush in flushes {
        let error = flush.unwrap_err().to_string();
        assert!(error.contains("cannot flush") && error.contains(&device), "{error}");
    }
}

#[test]
fn loop_swap_is_in_use() {
    let disk = Loop::new(16, &[]);
    run("mkswap", &["--quiet", &disk.device]);
    run("swapon", &[&disk.device]);
    let results = (source_in_use(disk.path(), None), claim_target(disk.path(), None, None));
    run("swapoff", &[&disk.device]);
    refused(results.0, disk.path(), &["swap", "swapoff"]);
    refused(results.1, disk.path(), &["swap", "swapoff"]);
}

#[test]
fn loop_disk_of_the_running_system_is_refused() {
    let stack = Stack::read(Path::new("/")).unwrap();
    let root = stack.mounts().iter().rfind(|mount| mount.point == Path::new("/")).unwrap();
    // A root that is on no block device (a container's overlay) has no disk to be refused.
    let disk = stack.device(root.device).map(|device| stack.disk_of(device).unwrap_or(device));
    if let Some(disk) = disk {
        let words = ["the running system is on it"];
        refused(check_target(&disk.path(), None), &disk.path(), &words);
        refused(source_in_use(&disk.path(), None), &disk.path(), &["read-write"]);
    }
}
