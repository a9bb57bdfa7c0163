//! `keiki repair` on a small system that came from another machine: each thing that it mends, what it refuses, and
//! that it writes nothing where it only says what it would do.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

mod personal;
mod windows;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::loops::{Loop, Mount};
use keiki_tests::moved::{self, Moved, RAMDISK};
use keiki_tests::tree::Tree;
use keiki_tests::{filesystem, judge, run, sources, sparse, table};
use serde_json::{Value, json};

struct Scene {
    bench: Bench,
    moved: Moved,
}

impl Scene {
    fn new() -> Self {
        let bench = Bench::new().unwrap();
        let moved = moved::make(&bench.path("")).unwrap();
        Self { bench, moved }
    }

    fn repair(&self, options: &str, code: i32) -> Value {
        let path = self.moved.disk.display();
        let said =
            self.bench.ends(&format!("repair {path} --confirm {path} {options}"), code).unwrap();
        let schema = sources::workspace().join("docs/schema/repair.json");
        let schema = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
        assert!(jsonschema::is_valid(&schema, &said), "{said:#}");
        said
    }

    /// Looks at the root, or changes it.
    fn root<T>(&self, work: impl FnOnce(&Path) -> T) -> T {
        let mount = Mount::new(&self.moved.disk, self.moved.parts[2], "rw").unwrap();
        work(mount.folder())
    }

    fn text(&self, name: &str) -> String {
        self.root(|root| fs::read_to_string(root.join(name)).unwrap())
    }

    fn hash(&self) -> blake3::Hash {
        blake3::hash(&fs::read(&self.moved.disk).unwrap())
    }

    fn esp(&self) -> Vec<String> {
        let out = tempfile::tempdir().unwrap();
        filesystem::read_fat(&self.moved.disk, self.moved.parts[1], out.path()).unwrap();
        let files = Tree::of(out.path()).unwrap().changed(&Tree::default());
        let names = files.into_iter().filter(|path| out.path().join(path).is_file());
        names.map(|path| path.to_str().unwrap().to_owned()).collect()
    }
}

fn list(said: &Value, name: &str) -> Vec<String> {
    let list = said[name].as_array().unwrap().iter();
    list.map(|one| one.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn says_once(lines: &[String], word: &str) {
    assert_eq!(lines.iter().filter(|line| line.contains(word)).count(), 1, "{word}: {lines:#?}");
}

#[test]
fn loop_everything_that_keeps_a_moved_system_from_starting_is_mended() {
    let scene = Scene::new();
    let [root, swap] = &scene.moved.ids;
    let said = scene.repair("", 0);
    assert_eq!((&said["system"], &said["root"]), (&json!("Orchid 1, moved"), &json!("d0:3")));
    assert_eq!(list(&said, "planned"), list(&said, "done"));
    let done = list(&said, "done");
    for word in [
        "etc/fstab on d0:3: /dev/vda3 is UUID=",
        "boot/grub/grub.cfg on d0:3: root=/dev/vda3 is root=UUID=",
        "etc/initramfs-tools/conf.d/resume on d0:3: ",
        "system.devices.keiki-old",
        "EFI/debian/shimx64.efi as EFI/BOOT/BOOTX64.EFI",
        "update-initramfs -u -k all",
        "GRUB for BIOS",
    ] {
        says_once(&done, word);
    }
    assert_eq!(done.len(), 7, "{done:#?}");
    let fstab = format!(
        "UUID={root} / ext4 defaults 0 1\nUUID=1A2B-3C4D /boot/efi vfat umask=0077 0 0\nUUID={swap} none swap sw 0 0\n"
    );
    assert_eq!(scene.text("etc/fstab"), fstab);
    let line = format!("linux /vmlinuz root=UUID={root} ro resume=UUID={swap} quiet\n");
    assert!(scene.text("boot/grub/grub.cfg").starts_with(&line));
    assert_eq!(scene.text("etc/initramfs-tools/conf.d/resume"), format!("RESUME=UUID={swap}\n"));
    scene.root(|root| {
        let lvm = root.join("etc/lvm/devices");
        assert!(
            !lvm.join("system.devices").exists() && lvm.join("system.devices.keiki-old").exists()
        );
        let [new, all] =
            [RAMDISK, "boot/every-driver"].map(|name| fs::read(root.join(name)).unwrap());
        assert!(new == all);
        assert_eq!(fs::read_dir(root.join("etc/initramfs-tools/conf.d")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.join("dev")).unwrap().count(), 0);
    });
    let files = scene.esp();
    for name in ["BOOTX64.EFI", "grubx64.efi", "mmx64.efi"] {
        assert!(files.contains(&format!("EFI/BOOT/{name}")), "{files:?}");
    }
    judge::disks(std::slice::from_ref(&scene.moved.disk)).unwrap();
    // What is mended has nothing left to mend, and then nothing is written and nothing asked.
    let before = scene.hash();
    let path = scene.moved.disk.display();
    let again = scene.bench.run(&format!("repair {path}")).unwrap();
    assert_eq!((&again["done"], &again["steps"]), (&json!([]), &json!([])), "{again:#}");
    assert_eq!(scene.hash(), before);
}

#[test]
fn loop_a_dry_run_writes_nothing_and_says_all_of_it() {
    let scene = Scene::new();
    let before = scene.hash();
    let path = scene.moved.disk.display();
    let said = scene.bench.run(&format!("repair {path} --dry-run")).unwrap();
    assert_eq!(scene.hash(), before);
    assert_eq!(said["done"], json!([]));
    assert_eq!((&said["dry_run"], &said["runs_programs"]), (&json!(true), &json!(true)));
    let planned = list(&said, "planned");
    assert_eq!(list(&scene.repair("", 0), "done"), planned);
}

#[test]
fn loop_without_its_programs_the_initramfs_is_a_step() {
    let scene = Scene::new();
    let said = scene.repair("--no-run", 6);
    says_once(&list(&said, "steps"), "update-initramfs -u -k all");
    assert_eq!(list(&said, "steps").len(), 1);
    assert_eq!(list(&said, "done").len(), 6);
    assert_eq!(
        scene.root(|root| fs::read(root.join(RAMDISK)).unwrap()),
        moved::ramdisk(&["virtio_blk"])
    );
}

#[test]
fn loop_a_program_that_fails_or_does_not_help_leaves_a_step() {
    for (script, word) in [
        ("#!/bin/sh\necho no room >&2\nexit 3\n", "exit code 3: no room"),
        ("#!/bin/sh\nexit 0\n", "still lacks ahci, nvme, sd_mod"),
    ] {
        let scene = Scene::new();
        scene.root(|root| fs::write(root.join("usr/sbin/update-initramfs"), script).unwrap());
        let said = scene.repair("", 6);
        says_once(&list(&said, "steps"), word);
        assert_eq!(list(&said, "done").len(), 6, "{said:#}");
        scene.root(|root| {
            assert_eq!(fs::read_dir(root.join("etc/initramfs-tools/conf.d")).unwrap().count(), 1);
        });
    }
}

#[test]
fn loop_what_is_whole_stays() {
    let scene = Scene::new();
    let [root, swap] = scene.moved.ids.clone();
    scene.root(|folder| {
        fs::copy(folder.join("boot/every-driver"), folder.join(RAMDISK)).unwrap();
        fs::write(folder.join("etc/fstab"), format!("UUID={root} / ext4 defaults 0 1\n")).unwrap();
        fs::write(
            folder.join("boot/grub/grub.cfg"),
            format!("linux /v root=UUID={root} resume=UUID={swap}\n"),
        )
        .unwrap();
        fs::write(folder.join("etc/initramfs-tools/conf.d/resume"), "RESUME=none\n").unwrap();
        fs::remove_dir_all(folder.join("etc/lvm")).unwrap();
    });
    let done = list(&scene.repair("", 0), "done");
    assert_eq!(done.len(), 2, "{done:#?}");
    says_once(&done, "BOOTX64.EFI");
    says_once(&done, "its first sector starts nothing");
}

#[test]
fn loop_a_core_of_grub_that_is_not_whole_is_written_anew() {
    let scene = Scene::new();
    scene.repair("", 0);
    let file = File::options().read(true).write(true).open(&scene.moved.disk).unwrap();
    let place = scene.moved.parts[0].start.get();
    let bytes = || {
        let mut bytes = vec![0; 200_000];
        file.read_exact_at(&mut bytes, place).unwrap();
        let mut code = [0; 440];
        file.read_exact_at(&mut code, 0).unwrap();
        (code.to_vec(), bytes)
    };
    let whole = bytes();
    // The table shares its sector with the boot code.
    let tables = table::partitions(&scene.moved.disk).unwrap();
    for at in [0, 500, 600, 20_000] {
        file.write_all_at(&[9; 900], place + at).unwrap();
        says_once(&list(&scene.repair("", 0), "done"), "GRUB for BIOS");
        assert!(bytes() == whole, "{at}");
    }
    // Without the system's own files it is a step.
    file.write_all_at(&[9; 900], place).unwrap();
    scene.root(|root| fs::remove_dir_all(root.join("boot/grub/i386-pc")).unwrap());
    says_once(&list(&scene.repair("", 6), "steps"), "grub-install");
    // And what is not GRUB's is nobody's business.
    file.write_all_at(&[7; 440], 0).unwrap();
    assert_eq!(list(&scene.repair("", 0), "done"), [""; 0]);
    assert_eq!(table::partitions(&scene.moved.disk).unwrap(), tables);
}

#[test]
fn loop_names_that_nobody_can_tell_are_steps() {
    let scene = Scene::new();
    scene.root(|root| {
        let text = "/dev/vda3 / ext4\n/dev/sdb1 /data ext4\n/dev/sdc1 /usb vfat noauto\n";
        fs::write(root.join("etc/fstab"), text).unwrap();
        fs::write(root.join("etc/crypttab"), "x /dev/disk/by-id/ata-Y-part7 none luks\n").unwrap();
    });
    let steps = list(&scene.repair("", 6), "steps");
    says_once(&steps, "/dev/sdb1 in etc/fstab");
    says_once(&steps, "/dev/disk/by-id/ata-Y-part7 in etc/crypttab");
    assert_eq!(steps.len(), 2, "{steps:#?}");
    let fstab = scene.text("etc/fstab");
    assert!(fstab.starts_with("UUID=") && fstab.contains("\n/dev/sdb1 /data"), "{fstab}");
}

#[test]
fn loop_files_keep_what_they_have_and_links_lead_nowhere_else() {
    let scene = Scene::new();
    let outside = scene.bench.path("outside");
    fs::write(&outside, "/dev/vda3 / ext4\n").unwrap();
    scene.root(|root| {
        fs::create_dir_all(root.join("etc/real")).unwrap();
        fs::rename(root.join("etc/fstab"), root.join("etc/real/fstab")).unwrap();
        std::os::unix::fs::symlink("/etc/real/fstab", root.join("etc/fstab")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("etc/crypttab")).unwrap();
        run!("chown", "12:34", root.join("etc/real/fstab")).unwrap();
        run!("chmod", "604", root.join("etc/real/fstab")).unwrap();
        let attribute = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root.join("etc/real/fstab"), "user.orchid", b"keiki", attribute)
            .unwrap();
    });
    scene.repair("", 0);
    scene.root(|root| {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(root.join("etc/real/fstab")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12, 34, 0o604));
        let mut value = [0; 9];
        let length =
            rustix::fs::getxattr(root.join("etc/real/fstab"), "user.orchid", &mut value).unwrap();
        assert_eq!(&value[..length], b"keiki");
        assert!(fs::read_to_string(root.join("etc/real/fstab")).unwrap().starts_with("UUID="));
        assert_eq!(fs::read_dir(root.join("etc/real")).unwrap().count(), 1);
    });
    assert_eq!(fs::read_to_string(outside).unwrap(), "/dev/vda3 / ext4\n");
}

/// A system that was not unmounted: its journal is replayed before anything is changed.
#[test]
fn loop_a_journal_that_waits_is_replayed_first() {
    let scene = Scene::new();
    let crashed = scene.bench.path("crashed");
    {
        let mount = Mount::new(&scene.moved.disk, scene.moved.parts[2], "rw").unwrap();
        fs::write(mount.folder().join("etc/late"), "late").unwrap();
        let text = fs::read_to_string(mount.folder().join("etc/fstab")).unwrap();
        fs::write(mount.folder().join("etc/fstab"), format!("{text}# late\n")).unwrap();
        rustix::fs::sync();
        run!("cp", "--sparse=always", &scene.moved.disk, &crashed).unwrap();
    }
    fs::rename(&crashed, &scene.moved.disk).unwrap();
    scene.repair("", 0);
    assert!(scene.text("etc/fstab").ends_with("# late\n"));
    assert_eq!(scene.text("etc/late"), "late");
    judge::disks(std::slice::from_ref(&scene.moved.disk)).unwrap();
}

#[test]
fn loop_it_is_refused_where_it_must_not_write() {
    let scene = Scene::new();
    let (bench, disk) = (&scene.bench, scene.moved.disk.display().to_string());
    let before = scene.hash();
    let refused = |line: &str, word: &str| {
        let why = bench.fails(line, 3).unwrap();
        assert!(why.contains(word), "{line}: {why}");
    };
    refused(&format!("repair {disk}"), &format!("add --confirm {disk}"));
    refused(&format!("repair {disk} --confirm other"), "none of the targets");
    refused(&format!("repair {disk} {disk} --confirm {disk}"), "twice");
    refused("repair ./missing.img", "there is no disk or file");
    refused(
        &format!("repair {disk} --root d0:4 --confirm {disk}"),
        "no Linux system whose root is d0:4",
    );
    let empty = bench.path("empty.img");
    sparse::create(&empty, Bytes::mib(8)).unwrap();
    refused(
        &format!("repair {0} --confirm {0}", empty.display()),
        "no Linux system on the targets",
    );
    {
        let mount = Mount::new(&scene.moved.disk, scene.moved.parts[2], "ro").unwrap();
        refused(&format!("repair {disk} --confirm {disk}"), "");
        drop(mount);
    }
    assert_eq!(scene.hash(), before);
    // Two systems on two disks: one has to be named.
    let second = bench.path("second.img");
    let part = scene.moved.parts[2];
    sparse::create(&second, part.len()).unwrap();
    sparse::copy(&scene.moved.disk, part, &second, Bytes::ZERO).unwrap();
    let both = format!("{disk} {0} --confirm {disk} --confirm {0}", second.display());
    refused(&format!("repair {both}"), "--root");
    let said = bench.ends(&format!("repair {both} --root d1 --dry-run"), 0).unwrap();
    assert_eq!(said["root"], "d1");
    assert_eq!(scene.hash(), before);
}

/// A filesystem that e2fsck does not mend unasked is left as it is.
#[test]
fn loop_a_damaged_filesystem_is_not_written() {
    let scene = Scene::new();
    let part = scene.moved.parts[2];
    {
        let device = Loop::part(&scene.moved.disk, part).unwrap();
        // The root's inode becomes a file.
        run!("debugfs", "-w", "-R", "set_inode_field /etc mode 0100644", device.device()).unwrap();
        run!("debugfs", "-w", "-R", "set_super_value state 2", device.device()).unwrap();
    }
    let path = scene.moved.disk.display();
    let outcome = scene.bench.outcome(&format!("repair {path} --confirm {path}")).unwrap();
    assert!(matches!(outcome.code, Some(1 | 3 | 4)), "{:?} {}", outcome.code, outcome.talk());
}
