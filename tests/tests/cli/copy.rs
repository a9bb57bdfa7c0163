//! `keiki copy`: the same image in another repository, or none.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use image_core::exec::Outcome;
use image_core::extent::Extent;
use image_core::image::pack::parse_tail;
use image_core::units::Bytes;
use keiki_tests::filesystem;
use keiki_tests::loops::Mount;
use serde_json::Value;
use tempfile::TempDir;

use crate::world::{World, flip, hash, noise};

/// A copied repository of `world`, as one to call.
struct Other<'a> {
    world: &'a World,
    path: String,
}

impl<'a> Other<'a> {
    fn of(world: &'a World) -> Self {
        Self { world, path: world.text("other") }
    }

    #[track_caller]
    fn ends(&self, code: i32, args: &[&str]) -> Outcome {
        self.world.ends(code, &[&["--repo", &self.path], args].concat())
    }

    /// Restores an image; the target's hash.
    fn restored(&self, image: &str) -> String {
        let target = self.world.path("from-other.img");
        drop(fs::remove_file(&target));
        self.ends(0, &["restore", image, target.to_str().unwrap()]);
        hash(&target)
    }

    /// The ids of its images, all of whose data is sound.
    fn ids(&self) -> BTreeSet<String> {
        self.ends(0, &["check", "--read-data"]);
        let list: Value =
            serde_json::from_str(&self.ends(0, &["images", "--json"]).text()).unwrap();
        let images = list["images"].as_array().unwrap().iter();
        images.map(|image| image["id"].as_str().unwrap().to_owned()).collect()
    }

    fn packs(&self) -> Vec<PathBuf> {
        let packs = fs::read_dir(Path::new(&self.path).join("packs")).unwrap();
        packs.map(|entry| entry.unwrap().path()).collect()
    }

    fn deltas(&self) -> usize {
        self.packs().iter().map(|pack| deltas(pack)).sum()
    }
}

/// How many chunks of a pack are deltas.
fn deltas(pack: &Path) -> usize {
    let bytes = fs::read(pack).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let tail = &bytes[bytes.len().saturating_sub(8 << 20)..];
    let trailer = parse_tail(name, tail, Bytes::of(&bytes)).unwrap();
    trailer.chunks.iter().filter(|(_, entry)| entry.codec.has_base()).count()
}

/// Two generations of a disk of noise, of which the second is deltas of the first; their ids and the disk's hash.
fn generations() -> (World, Vec<(String, String)>) {
    let world = World::empty();
    let disk = world.path("noise.img");
    fs::write(&disk, noise(1, 12 << 20)).unwrap();
    let mut saved = Vec::new();
    for generation in 0..2_u64 {
        let json = world.json(0, &["save", disk.to_str().unwrap(), "--name", "disk"]);
        assert_eq!(json["delta_chunks"].as_u64(), Some(generation * 3));
        saved.push((json["id"].as_str().unwrap().to_owned(), hash(&disk)));
        let file = File::options().write(true).open(&disk).unwrap();
        (0..3).for_each(|at| file.write_all_at(&noise(7, 100), (at * 3) << 20).unwrap());
    }
    (world, saved)
}

#[test]
fn copied_images_have_the_same_id_and_restore_to_the_same_bytes() {
    let (world, saved) = generations();
    let other = Other::of(&world);
    let newest = world.json(0, &["copy", "disk", "--to", &other.path]);
    assert_eq!(newest["images"][0]["id"], saved[1].0.as_str());
    assert_eq!((&newest["copied_chunks"], &newest["known_chunks"]), (&15.into(), &0.into()));
    assert_eq!(other.deltas(), 3, "with the chunks of the older image that they need");
    assert_eq!(other.ids(), BTreeSet::from([saved[1].0.clone()]));
    assert_eq!(other.restored("disk"), saved[1].1);

    let older = format!("disk@{}", saved[0].0);
    let talk = world.says(
        0,
        &["copy", &older, "--to", &other.path],
        &["copied disk@", "nothing had to be added"],
    );
    assert!(talk.contains("alone means the newer disk@"), "{talk}");
    assert_eq!(other.restored(&older), saved[0].1);
    assert_eq!(other.restored("disk"), saved[1].1, "the newest one is what it was");
    assert_eq!(other.packs().len(), 1, "nothing was copied twice");
    let again = world.json(0, &["copy", &older, "disk", "disk", "--to", &other.path]);
    assert_eq!((&again["copied_chunks"], &again["stored_bytes"]), (&0.into(), &0.into()));
    assert_eq!(again["images"].as_array().unwrap().len(), 2);
    assert!(again["images"][0]["was_there"] == true && again["images"][1]["was_there"] == true);
    world.says(0, &["copy", "disk", "--to", &other.path], &["is in", "already"]);
}

#[test]
fn flattened_images_have_no_deltas() {
    let (world, saved) = generations();
    let other = Other::of(&world);
    let copied = world.json(0, &["copy", "disk", "--to", &other.path, "--flatten"]);
    assert_eq!(copied["copied_chunks"], 12);
    assert_eq!(other.deltas(), 0);
    assert_eq!(other.ids(), BTreeSet::from([saved[1].0.clone()]));
    assert_eq!(other.restored("disk"), saved[1].1);
}

#[test]
fn a_damaged_image_is_not_copied() {
    let (world, saved) = generations();
    let other = Other::of(&world);
    // The larger pack is the first one's.
    let packs = world.files("packs").into_iter().map(|name| world.path("repo").join(name));
    let first = packs.max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    flip(&first, 5 << 20);
    let json = world.json(4, &["copy", "disk", "--to", &other.path]);
    assert_eq!(json["images"], serde_json::json!([]));
    let (place, pack) = (json["damaged"][0]["where"].as_str().unwrap(), first.file_name().unwrap());
    assert!(place.contains("image disk, d0, packs/"), "{place}");
    assert!(place.contains(pack.to_str().unwrap()), "{place}");
    world.says(4, &["copy", "disk", "--to", &other.path], &["damaged: ", "was not copied"]);
    assert!(other.ids().is_empty());
    // The rest of it was copied, and is used once it is whole again.
    flip(&first, 5 << 20);
    let json = world.json(0, &["copy", "disk", "--to", &other.path]);
    assert_eq!(json["copied_chunks"], 1);
    assert_eq!(other.ids(), BTreeSet::from([saved[1].0.clone()]));
}

#[test]
fn what_is_no_copy_is_refused() {
    let world = World::saved();
    let (repo, link) = (world.text("repo"), world.text("link"));
    symlink(&repo, &link).unwrap();
    for place in [&repo, &link] {
        world.says(
            3,
            &["copy", "small", "--to", place],
            &["nothing was copied", "same repository"],
        );
    }
    let other = world.text("other");
    world.says(3, &["copy", "missing", "--to", &other], &["no image missing"]);
    assert!(!Path::new(&other).exists(), "nothing is made for an image that is not there");
    world.says(3, &["copy", "small", "--to", "/dev/shm/keiki-copy"], &["kept in memory"]);
    world.says(3, &["--repo", &other, "copy", "small", "--to", &repo], &["no repository at"]);
    world.ends(2, &["copy", "small"]);
    world.ends(2, &["copy", "--to", &other]);
}

/// A small filesystem in a file of `world`.
fn filesystem_of(world: &World, size: Bytes) -> PathBuf {
    let (image, empty) = (world.path("filesystem"), TempDir::new().unwrap());
    filesystem::ext4(&image, size, ["", &filesystem::uuid().unwrap()], empty.path()).unwrap();
    image
}

#[test]
fn loop_a_place_that_is_too_small_is_refused_before() {
    let world = World::empty();
    let source = world.path("noise.img");
    fs::write(&source, noise(5, 48 << 20)).unwrap();
    world.ends(0, &["save", source.to_str().unwrap(), "--name", "disk"]);
    let size = Bytes::mib(24);
    let mount = Mount::new(&filesystem_of(&world, size), Extent::first(size), "rw").unwrap();
    let other = mount.folder().join("other");
    let args = ["copy", "disk", "--to", other.to_str().unwrap()];
    world.says(3, &args, &["nothing was copied", "will take about 48 MiB", "free"]);
    for folder in ["images", "packs", "tmp", "locks"] {
        assert_eq!(fs::read_dir(other.join(folder)).unwrap().count(), 0, "{folder}");
    }
}

#[test]
fn loop_an_image_comes_from_a_disc_that_is_only_read() {
    let (world, saved) = generations();
    let size = Bytes::mib(32);
    let disc = filesystem_of(&world, size);
    filesystem::filled(&disc, |folder| {
        let to = folder.join("repo");
        world.ends(0, &["copy", "disk", "--to", to.to_str().unwrap(), "--flatten"]);
        Ok(())
    })
    .unwrap();
    let before = hash(&disc);
    let mount = Mount::new(&disc, Extent::first(size), "ro").unwrap();
    let from = mount.folder().join("repo");
    let other = Other::of(&world);
    let args = ["--repo", from.to_str().unwrap(), "copy", "disk", "--to", &other.path];
    world.says(0, &args, &["copied disk@"]);
    assert_eq!(other.ids(), BTreeSet::from([saved[1].0.clone()]));
    assert_eq!(other.restored("disk"), saved[1].1);
    drop(mount);
    assert_eq!(hash(&disc), before);
}
