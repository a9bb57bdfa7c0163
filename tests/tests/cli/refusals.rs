//! What is not overwritten and what is not read: exit code 3, and no byte of the target changes.

use std::fs;
use std::path::{Path, PathBuf};

use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::loops::{Loop, unmount};
use keiki_tests::vg::Vg;
use keiki_tests::{call, filesystem, run, sparse, tool};
use tempfile::TempDir;

use crate::world::{World, bash, hash, noise, small_disk};

/// Restores `small` onto `target`, confirmed, and expects a refusal with these words and the same bytes.
#[track_caller]
fn refused(world: &World, target: &Path, words: &[&str]) {
    let before = hash(target);
    let path = target.to_str().unwrap();
    let args = ["restore", "small", path, "--confirm", path];
    world.says(3, &args, words);
    let error = world.json(3, &args);
    assert_eq!(error["error"]["kind"], "refused");
    assert_eq!(hash(target), before, "{path} was written");
}

/// A device mounted on a folder; unmounted when dropped.
struct Mounted(TempDir);

impl Mounted {
    fn new(device: &Path, options: &str) -> Self {
        let folder = TempDir::new().unwrap();
        run!("mount", "-o", options, device, folder.path()).unwrap();
        // What mounting changes is written now, not while hashes are compared.
        run!("sync", "-f", folder.path()).unwrap();
        Self(folder)
    }

    fn text(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.0.path());
    }
}

/// A file of `size` with an ext4.
fn ext4(world: &World, name: &str, size: Bytes) -> PathBuf {
    let (path, empty) = (world.path(name), TempDir::new().unwrap());
    let uuid = filesystem::uuid().unwrap();
    filesystem::ext4(&path, size, ["", &uuid], empty.path()).unwrap();
    path
}

#[test]
fn a_target_that_is_too_small_is_named_with_what_does_not_fit() {
    let world = World::saved();
    let target = world.path("target.img");
    fs::write(&target, noise(7, 10 << 20)).unwrap();
    // Together they take 17 MiB, the first one most of it.
    refused(&world, &target, &["too small", "it has 10 MiB", "d0:1 needs", "17 MiB"]);
    let new = world.text("new.img");
    world.says(3, &["restore", "small", &new, "--size", "10MiB"], &["too small", "d0:1"]);
    assert!(!Path::new(&new).exists());
    world.says(3, &["restore", "small", &new, "--size", "10MiB", "--dry-run"], &["too small"]);
    // One volume onto a file.
    world.says(
        3,
        &["restore", "small", &new, "--volume", "2", "--size", "1MiB"],
        &["d0:2", "4 MiB"],
    );
    assert!(!Path::new(&new).exists());
}

#[test]
fn nobody_to_ask_is_told_the_exact_flag() {
    let world = World::saved();
    let target = world.path("it's a target.img");
    fs::copy(world.path("disk.img"), &target).unwrap();
    let (before, path) = (hash(&target), target.to_str().unwrap());
    let talk = world.says(3, &["restore", "small", path], &["no terminal", "--confirm"]);
    // What it prints can be pasted into a shell.
    let flag = talk.split("; add ").nth(1).unwrap().trim();
    world.says(
        3,
        &["restore", "small", path, "--confirm", "sda"],
        &["--confirm sda is none", flag],
    );
    world.says(
        3,
        &["restore", "small", path, "--confirm", path, "--confirm", "x"],
        &["--confirm x"],
    );
    assert_eq!(hash(&target), before);
    let script = format!("$keiki -q restore small \"{path}\" {flag}");
    let outcome = bash(&world, &script);
    assert_eq!(outcome.code, Some(0), "{script}: {}", outcome.talk());
    assert_ne!(hash(&target), before);
}

#[test]
fn the_repository_and_what_is_in_it_is_no_target() {
    let world = World::saved();
    let pack = world.path("repo").join(&world.files("packs")[0]);
    refused(&world, &pack, &["lies in the repository"]);
    let new = world.text("repo/new.img");
    world.says(3, &["restore", "small", &new], &["lies in the repository"]);
    assert!(!Path::new(&new).exists());
    world.says(3, &["restore", "small", &world.text("repo")], &["repo"]);
    world.says(3, &["restore", "small", "/dev/null"], &["/dev/null"]);
    world.says(3, &["restore", "small", "/dev/no-such-disk"], &["no device /dev/no-such-disk"]);
}

#[test]
fn a_target_named_twice_is_refused_before_either_is_made() {
    let world = World::empty();
    let (a, b) = (world.path("a.img"), world.path("b.img"));
    small_disk(&a);
    small_disk(&b);
    let [a, b] = [&a, &b].map(|path| path.to_str().unwrap());
    world.ends(0, &["save", a, b, "--name", "small"]);
    let again = a.replace("/a.img", "/./a.img");
    let before = hash(Path::new(a));
    for args in [[a, a], [a, &again]] {
        let args = ["restore", "small", args[0], args[1], "--confirm", a, "--confirm", &again];
        let args = if args[3] == a { &args[..6] } else { &args[..] };
        world.says(3, args, &["a.img"]);
    }
    assert_eq!(hash(Path::new(a)), before);
    let (new, same) = (world.text("new.img"), world.text("./new.img"));
    world.says(3, &["restore", "small", &new, &same], &["named as a target twice"]);
    assert!(!Path::new(&new).exists());
    let link = world.text("link.img");
    std::os::unix::fs::symlink(a, &link).unwrap();
    let args = ["restore", "small", a, &link, "--confirm", a, "--confirm", &link];
    world.says(3, &args, &["same as"]);
    assert_eq!(hash(Path::new(a)), before);
}

#[test]
fn loop_targets_that_somebody_uses_are_refused() {
    let world = World::saved();
    let image = ext4(&world, "target.img", Bytes::mib(32));
    let device = Loop::whole(&image).unwrap();
    let node = device.device().to_str().unwrap();
    refused(&world, &image, &[node, "loop"]);
    let mount = Mounted::new(device.device(), "rw");
    refused(&world, device.device(), &["is mounted read-write on", mount.text(), "umount"]);
    refused(&world, &image, &["is mounted read-write on", mount.text()]);
    drop(mount);
    let mount = Mounted::new(device.device(), "ro");
    refused(&world, device.device(), &["is mounted read-only on", mount.text()]);
    drop(mount);
    run!("blockdev", "--setro", device.device()).unwrap();
    refused(&world, device.device(), &["read-only"]);
    run!("blockdev", "--setrw", device.device()).unwrap();
    let args = ["restore", "small", node, "--confirm", node];
    world.ends(0, &args);
}

#[test]
fn loop_swap_that_is_in_use_is_no_target_and_no_source() {
    let world = World::saved();
    let area = world.path("swap.img");
    filesystem::swap(&area, Bytes::mib(32), ["swap", &filesystem::uuid().unwrap()]).unwrap();
    let device = Loop::whole(&area).unwrap();
    run!("swapon", "--priority", "0", device.device()).unwrap();
    let node = device.device().to_str().unwrap();
    let target = world.run(&["restore", "small", node, "--confirm", node]);
    let source = world.run(&["save", node, "--name", "swap"]);
    run!("swapoff", device.device()).unwrap();
    for outcome in [target, source] {
        assert_eq!(outcome.code, Some(3), "{}", outcome.talk());
        assert!(outcome.talk().contains(&format!("`swapoff {node}`")), "{}", outcome.talk());
    }
    world.ends(0, &["save", node, "--name", "swap"]);
}

#[test]
fn loop_the_disk_that_holds_the_repository_is_no_target_and_no_source() {
    let world = World::empty();
    small_disk(&world.path("disk.img"));
    let image = ext4(&world, "holds.img", Bytes::mib(64));
    let device = Loop::whole(&image).unwrap();
    let mount = Mounted::new(device.device(), "rw");
    let (repo, node) = (format!("{}/repo", mount.text()), device.device().to_str().unwrap());
    let disk = world.text("disk.img");
    world.ends(0, &["--repo", &repo, "save", &disk, "--name", "small"]);
    for target in [node, image.to_str().unwrap()] {
        let args = ["--repo", &repo, "restore", "small", target, "--confirm", target];
        world.says(3, &args, &[target, "holds the repository", &repo]);
        let args = ["--repo", &repo, "save", target, "--name", "itself"];
        world.says(3, &args, &[target, "holds the repository", &repo]);
    }
    world.ends(0, &["--repo", &repo, "verify", "small"]);
}

#[test]
fn loop_a_source_must_hold_still() {
    let world = World::empty();
    let image = ext4(&world, "source.img", Bytes::mib(32));
    let device = Loop::whole(&image).unwrap();
    let (file, node) = (image.to_str().unwrap(), device.device().to_str().unwrap());
    let mount = Mounted::new(device.device(), "rw");
    for source in [file, node] {
        let words = [source, "may change while it is read", "mounted read-write on", mount.text()];
        world.says(3, &["save", source, "--name", "busy"], &words);
    }
    assert!(!world.path("repo").exists());
    drop(mount);
    let mount = Mounted::new(device.device(), "ro");
    let before = hash(&image);
    world.ends(0, &["save", file, "--name", "still"]);
    world.ends(0, &["save", node, "--name", "still"]);
    assert_eq!(hash(&image), before);
    drop(mount);
}

#[test]
fn loop_a_volume_group_that_is_attached_elsewhere_is_refused_unless_wanted() {
    let world = World::empty();
    let source = world.path("source.img");
    let target = world.path("target.img");
    for path in [&source, &target] {
        sparse::create(path, Bytes::mib(64)).unwrap();
    }
    // A name that no volume group of this machine has.
    let name = format!("keiki{}", std::process::id());
    let whole = Extent::first(Bytes::mib(64));
    let vg = Vg::create(&name, &[(source.clone(), whole)]).unwrap();
    vg.add("lv", Bytes::mib(8), None).unwrap();
    drop(vg);
    world.ends(0, &["save", source.to_str().unwrap(), "--name", "small"]);
    let onto = Loop::whole(&target).unwrap();
    let node = onto.device().to_str().unwrap();
    let carrier = Loop::whole(&source).unwrap();
    let carries = carrier.device().to_str().unwrap();
    refused(&world, onto.device(), &[carries, "volume group", &name, "--keep-ids"]);
    let args = ["restore", "small", node, "--confirm", node, "--keep-ids"];
    world.says(0, &args, &["warning: ", carries, "detach one of the two before booting"]);
    drop(carrier);
    let talk = world.ends(0, &args[..5]).talk();
    assert!(!talk.contains("warning"), "{talk}");
}

#[test]
fn a_new_repository_is_not_made_where_it_will_be_forgotten() {
    let world = World::empty();
    small_disk(&world.path("disk.img"));
    let disk = world.text("disk.img");
    let memory = tool::run(&call!("stat", "-f", "-c", "%T", "/dev/shm")).unwrap();
    assert_eq!(memory.trim(), "tmpfs", "this test needs a tmpfs on /dev/shm");
    let repo = format!("/dev/shm/keiki-{}", std::process::id());
    let args = ["--repo", &repo, "save", &disk, "--name", "small"];
    world.says(3, &args, &["no repository is made at", "kept in memory (tmpfs)"]);
    assert!(!Path::new(&repo).exists());
    fs::create_dir(world.path("full")).unwrap();
    fs::write(world.path("full/letter"), "").unwrap();
    let args = ["--repo", &world.text("full"), "save", &disk, "--name", "small"];
    world.says(3, &args, &["no place for a new repository", "letter"]);
    for verb in ["images", "check"] {
        world.says(3, &[verb], &["there is no repository at", &world.text("repo")]);
    }
    world.says(
        3,
        &["save", "no-such-disk", "--name", "x"],
        &["no disk, partition or file no-such-disk"],
    );
    world.says(3, &["save", &format!("{disk}:9"), "--name", "x"], &["no volume 9", "1, 2, 3"]);
}

#[test]
fn loop_a_repository_that_is_too_small_is_refused_before_the_save() {
    let world = World::empty();
    let source = world.path("noise.img");
    fs::write(&source, noise(5, 48 << 20)).unwrap();
    let image = ext4(&world, "small.img", Bytes::mib(16));
    let device = Loop::whole(&image).unwrap();
    let mount = Mounted::new(device.device(), "rw");
    let repo = format!("{}/repo", mount.text());
    let args = ["--repo", &repo, "save", source.to_str().unwrap(), "--name", "small"];
    world.says(3, &args, &["will take about 48 MiB", "free", &repo]);
    world.says(0, &["--repo", &repo, "images"], &["no images yet"]);
    assert_eq!(fs::read_dir(format!("{repo}/packs")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(format!("{repo}/tmp")).unwrap().count(), 0);
}

#[test]
fn a_source_is_no_target_of_its_own_clone() {
    let world = World::empty();
    let disk = world.path("disk.img");
    small_disk(&disk);
    let (before, path) = (hash(&disk), disk.to_str().unwrap());
    let same = path.replace("/disk.img", "/./disk.img");
    fs::hard_link(&disk, world.path("link.img")).unwrap();
    let (link, part) = (world.text("link.img"), format!("{path}:1"));
    for (source, target) in [(path, path), (path, &same), (path, &link), (&part, path)] {
        let args = ["clone", source, target, "--confirm", target];
        world.says(3, &args, &["is the same as the source"]);
    }
    world.says(3, &["clone", path, "/dev/no-such-disk"], &["no device /dev/no-such-disk"]);
    world.says(3, &["clone", &world.text("missing"), path], &["there is no disk"]);
    world.says(2, &["clone", path], &["as many targets"]);
    let new = world.text("new.img");
    world.says(3, &["clone", path, &new, "--size", "10MiB"], &["too small", "d0:1"]);
    assert!(!Path::new(&new).exists());
    assert_eq!(hash(&disk), before);
}

#[test]
fn loop_a_clone_of_what_may_change_is_refused() {
    let world = World::empty();
    let file = ext4(&world, "disk.img", Bytes::mib(8));
    let device = Loop::whole(&file).unwrap();
    let path = device.device().to_str().unwrap();
    let new = world.text("new.img");
    {
        let mounted = Mounted::new(device.device(), "rw");
        world.says(3, &["clone", path, &new], &[mounted.text(), "may change"]);
    }
    // A file behind a device, and the device, are the same bytes.
    let file = file.to_str().unwrap();
    let before = hash(Path::new(file));
    world.says(3, &["clone", path, file, "--confirm", file], &[file]);
    world.says(3, &["clone", file, path, "--confirm", path], &["the source"]);
    assert_eq!(hash(Path::new(file)), before);
    assert!(!Path::new(&new).exists());
    let _mounted = Mounted::new(device.device(), "ro,noload");
    world.ends(0, &["clone", path, &new]);
}
