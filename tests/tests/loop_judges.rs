//! The judges can say no, and the garbage is what it claims to be.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use image_core::units::Bytes;
use keiki_tests::garbage::{self, Old};
use keiki_tests::{judge, sample_disk, table};

fn spoil(disk: &Path, at: Bytes) {
    let file = OpenOptions::new().write(true).open(disk).unwrap();
    file.write_all_at(&[0x5a; 512], at.get()).unwrap();
}

#[test]
fn loop_a_sample_disk_is_sound_until_one_sector_is_spoiled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.img");
    sample_disk::make(&path).unwrap();
    judge::disks(std::slice::from_ref(&path)).unwrap();
    let parts = table::partitions(&path).unwrap();
    let [esp, boot, pv] = parts.as_slice() else { panic!("{parts:?}") };
    let root = keiki_tests::volumes::Volumes::of(std::slice::from_ref(&path)).unwrap();
    let segments = root.vg.unwrap().segments().unwrap();
    for (name, at, blamed) in [
        ("the primary GPT's entries", Bytes::kib(1), "sgdisk"),
        ("the FAT", esp.start + Bytes::kib(16), "fsck.fat"),
        ("the block bitmap area of /boot", boot.start + Bytes::kib(4), "e2fsck"),
        ("the metadata of the VG", pv.start + Bytes::kib(4), "volume group"),
        (
            "the superblock of the second XFS group",
            segments["data"][0].extent.start + Bytes::mib(80),
            "xfs_repair",
        ),
    ] {
        let copy = folder.path().join("copy.img");
        std::fs::copy(&path, &copy).unwrap();
        spoil(&copy, at);
        let talk = format!("{:#}", judge::disks(&[copy]).expect_err(name));
        assert!(talk.contains(blamed), "{name}: {talk}");
    }
}

#[test]
fn loop_old_signatures_are_seen_by_the_tools_that_fear_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("garbage.img");
    for (old, name, places) in [
        (Old::Xfs, "xfs", 1),
        (Old::Lvm, "LVM2_member", 1),
        (Old::Ext, "ext4", 1),
        (Old::Swap, "swap", 1),
        (Old::Btrfs, "btrfs", 1),
        (Old::Zfs, "zfs_member", 4),
        (Old::Md12, "linux_raid_member", 1),
        (Old::Md090, "linux_raid_member", 1),
        (Old::Md10, "linux_raid_member", 1),
        (Old::GptBackup, "gpt", 1),
    ] {
        garbage::fill(&path, Bytes::mib(256)).unwrap();
        assert_eq!(judge::signatures(&path).unwrap(), Vec::<String>::new());
        garbage::plant(&path, &[old]).unwrap();
        let found = judge::signatures(&path).unwrap();
        let count = found.iter().filter(|line| line.starts_with(name)).count();
        assert!(count >= places, "{old:?}: {found:?}");
        if old == Old::Btrfs {
            // The tools of Debian 12 look at the first superblock only.
            let mut magic = [0; 8];
            let mirror = Bytes::mib(64).get() + 64;
            std::fs::File::open(&path).unwrap().read_exact_at(&mut magic, mirror).unwrap();
            assert_eq!(&magic, b"_BHRfS_M");
        }
        let md = matches!(old, Old::Md12 | Old::Md090 | Old::Md10);
        assert_eq!(judge::is_md_member(&path).unwrap(), md, "{old:?}");
    }
    garbage::plant(&path, &Old::ALL).unwrap();
    let found = judge::signatures(&path).unwrap();
    for name in ["xfs", "LVM2_member", "ext4", "btrfs", "zfs", "linux_raid", "gpt"] {
        assert!(found.iter().any(|line| line.starts_with(name)), "{name}: {found:?}");
    }
}
