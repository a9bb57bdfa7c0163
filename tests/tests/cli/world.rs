//! A folder with a repository, small disks, and the program run in it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use image_core::exec::{Call, Outcome};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::{binary, filesystem, fixtures, keiki, run, sparse, table, tool};
use serde_json::Value;
use tempfile::TempDir;

use crate::schemas;

/// A folder of its own: on a disk, for a new repository is refused in memory.
pub struct World {
    folder: TempDir,
}

impl World {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { folder: TempDir::new_in(fixtures::folder().unwrap()).unwrap() }
    }

    /// With the small disk `disk.img`, saved as `small`.
    pub fn saved() -> Self {
        let world = Self::empty();
        small_disk(&world.path("disk.img"));
        world.ends(0, &["save", &world.text("disk.img"), "--name", "small"]);
        world
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The call of `keiki` with `args` and the repository `repo` of this folder.
    pub fn call(&self, args: &[&str]) -> Call {
        let mut call = keiki!();
        call.args.extend(args.iter().map(Into::into));
        call.env("KEIKI_REPO", self.path("repo"))
    }

    /// Runs it, however it ends.
    pub fn run(&self, args: &[&str]) -> Outcome {
        tool::outcome(&self.call(args)).unwrap()
    }

    /// Runs it, and expects this exit code.
    #[track_caller]
    pub fn ends(&self, code: i32, args: &[&str]) -> Outcome {
        let outcome = self.run(args);
        assert_eq!(outcome.code, Some(code), "keiki {}: {}", args.join(" "), outcome.talk());
        outcome
    }

    /// Runs it, expects this exit code, and each of `words` in what it says.
    #[track_caller]
    pub fn says(&self, code: i32, args: &[&str], words: &[&str]) -> String {
        let talk = self.ends(code, args).talk();
        for word in words {
            assert!(talk.contains(word), "keiki {}: no {word:?} in: {talk}", args.join(" "));
        }
        talk
    }

    /// Runs it with `--json`, expects this exit code, exactly one object on standard output, and that it is
    /// as the schema of that verb says.
    #[track_caller]
    pub fn json(&self, code: i32, args: &[&str]) -> Value {
        let outcome = self.ends(code, &[args, &["--json"]].concat());
        let text = outcome.text();
        assert_eq!(text.lines().count(), 1, "more than one line: {text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        schemas::check(schemas::of(args, &value), &value);
        value
    }

    /// The names of the images, as `keiki images` lists them.
    pub fn images(&self) -> Vec<String> {
        let list = self.json(0, &["images"]);
        let names = list["images"].as_array().unwrap().iter();
        names.map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The files of a folder of the repository, by name.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("repo").join(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names.into_iter().map(|name| format!("{folder}/{name}")).collect()
    }

    /// A fresh copy of the repository takes its place.
    pub fn copy_of_repository(&self) -> Self {
        let copy = Self::empty();
        run!("cp", "-r", self.path("repo"), copy.path("repo")).unwrap();
        copy
    }
}

/// Bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A disk of 24 MiB in a file, made without root: boot code, ext4, unknown bytes, swap.
pub fn small_disk(path: &Path) {
    let work = TempDir::new().unwrap();
    sparse::create(path, Bytes::mib(24)).unwrap();
    run!("sgdisk", "-n1:2048:+8M", "-n2:0:+4M", "-n3:0:+4M", "-t3:8200", path).unwrap();
    let parts = table::partitions(path).unwrap();
    let disk = File::options().write(true).open(path).unwrap();
    disk.write_all_at(&noise(1, 440), 0).unwrap();
    disk.write_all_at(&noise(2, 60_000), 40_960).unwrap();
    disk.write_all_at(&noise(3, 3 << 20), parts[1].start.get()).unwrap();
    let (content, image) = (work.path().join("content"), work.path().join("image"));
    fs::create_dir(&content).unwrap();
    fs::write(content.join("noise"), noise(4, 2 << 20)).unwrap();
    fs::write(content.join("text"), "all the same\n".repeat(50_000)).unwrap();
    let put = |part: Extent| {
        sparse::copy(&image, Extent::first(part.len()), path, part.start).unwrap();
    };
    let uuid = || filesystem::uuid().unwrap();
    filesystem::ext4(&image, parts[0].len(), ["files", &uuid()], &content).unwrap();
    put(parts[0]);
    filesystem::swap(&image, parts[2].len(), ["swap", &uuid()]).unwrap();
    put(parts[2]);
}

/// The hash of a file or device, to see that nothing was written.
pub fn hash(path: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).unwrap()).unwrap();
    hasher.finalize().to_hex().to_string()
}

/// The bytes `range` of a file or device.
pub fn bytes(path: &Path, range: Extent) -> Vec<u8> {
    let mut bytes = vec![0; range.len().index().unwrap()];
    File::open(path).unwrap().read_exact_at(&mut bytes, range.start.get()).unwrap();
    bytes
}

/// Flips one bit of a file; a negative position counts from its end.
pub fn flip(path: &Path, at: i64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    let at = if at < 0 { length - at.unsigned_abs() } else { at.unsigned_abs() };
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Fails unless nothing on a disk could be taken for a partition table: neither at the start nor at the end.
/// The restore record stands in the last 64 KiB of the first MiB.
#[track_caller]
pub fn assert_no_table(disk: &Path) {
    let size = Bytes::new(fs::metadata(disk).unwrap().len());
    for range in [Extent::first(Bytes::kib(960)), Extent::new(size - Bytes::kib(17), size)] {
        assert!(
            bytes(disk, range).iter().all(|byte| *byte == 0),
            "{disk:?} has bytes at {range:?}"
        );
    }
    assert_eq!(keiki_tests::judge::signature(disk, "PTTYPE").unwrap(), "");
}

/// The program's path, for shell scripts.
pub fn program() -> String {
    binary::keiki().to_str().unwrap().to_owned()
}

/// Runs a bash script with the repository of `world` in its environment.
pub fn bash(world: &World, script: &str) -> Outcome {
    let call = keiki_tests::call!("bash", "-c", script).env("KEIKI_REPO", world.path("repo"));
    tool::outcome(&call.env("keiki", program())).unwrap()
}
