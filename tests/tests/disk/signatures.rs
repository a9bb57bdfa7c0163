//! Signatures made by the tools themselves, with blkid, wipefs and mdadm as judges.

use std::collections::BTreeMap;

use image_core::disk::probe::{self, Signature, Usage};
use image_core::extent::Extent;
use image_core::units::Bytes;

use crate::image_file::ImageFile;

const SECTOR: Bytes = Bytes::new(512);

/// What can be made here, with the smallest size that the tool takes.
const MADE: [(u64, &str); 12] = [
    (120, "mkfs.btrfs -q -f -L grün FILE"),
    (2, "mkfs.ntfs -q -F -Q -L grün FILE"),
    (8, "mkfs.exfat -L green FILE"),
    (2, "mkfs.ext4 -q -F FILE"),
    (2, "mkfs.ext2 -q -F FILE"),
    (310, "mkfs.xfs -q -f FILE"),
    (2, "mkfs.vfat -n GRUEN FILE"),
    (40, "mkfs.vfat -F 32 FILE"),
    (1, "mkswap -q FILE"),
    (2, "mkfs.minix FILE"),
    (
        20,
        "cryptsetup -q luksFormat --type luks2 --label green --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /dev/zero --keyfile-size 8 FILE",
    ),
    (
        4,
        "cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 --key-file /dev/zero --keyfile-size 8 FILE",
    ),
];

/// `blkid -p`'s variables; none where it finds nothing, or too much.
fn blkid(disk: &ImageFile) -> BTreeMap<String, String> {
    let names = ["TYPE", "USAGE", "LABEL", "UUID"].map(|name| {
        let value = disk.tool(&format!("blkid -p -o value -s {name} FILE")).text();
        (name.to_owned(), value.trim_end_matches('\n').to_owned())
    });
    names.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// What `wipefs` finds: position and type.
fn wipefs(disk: &ImageFile) -> Vec<(Bytes, String)> {
    let text = disk.check("wipefs --parsable --noheadings --output OFFSET,TYPE FILE");
    text.lines()
        .map(|line| {
            let (at, name) = line.split_once(',').unwrap();
            let at = u64::from_str_radix(at.trim_start_matches("0x"), 16).unwrap();
            (Bytes::new(at), name.to_owned())
        })
        .collect()
}

/// What we find, without tables and second copies.
fn found(disk: &ImageFile) -> Vec<Signature> {
    let mut found = probe::signatures(disk).unwrap();
    found.retain(|signature| signature.usage != Usage::Table && !signature.copy);
    found
}

#[test]
fn names_labels_and_uuids_are_those_of_blkid() {
    for (size, line) in MADE {
        let disk = ImageFile::new(Bytes::mib(size), SECTOR);
        disk.check(line);
        let (theirs, ours) = (blkid(&disk), found(&disk));
        let [ours] = ours.as_slice() else { panic!("{line}: {ours:?}") };
        assert_eq!(Some(ours.name), theirs.get("TYPE").map(String::as_str), "{line}");
        if ["btrfs", "ntfs", "exfat", "crypto_LUKS"].contains(&ours.name) {
            assert_eq!(ours.label.as_ref(), theirs.get("LABEL"), "{line}");
            assert_eq!(ours.uuid.as_ref(), theirs.get("UUID"), "{line}");
            assert!(ours.uuid.is_some());
        }
        let usage = match theirs.get("USAGE").map(String::as_str) {
            Some("filesystem") => Usage::Filesystem,
            Some("crypto") => Usage::Crypto,
            Some("raid") => Usage::Raid,
            _ => Usage::Other,
        };
        assert_eq!(ours.usage, usage, "{line}");
        // wipefs also takes the boot sectors of small filesystems for tables.
        for (at, name) in wipefs(&disk).into_iter().filter(|(_, name)| name != "dos") {
            let all = probe::signatures(&disk).unwrap();
            assert!(all.iter().any(|ours| ours.name == name), "{line}: {name} at {at}: {all:?}");
        }
    }
}

/// An md superblock of version 1.x for a device of `size`, checksum included.
fn md_1(size: Bytes, minor: u32) -> (Bytes, Vec<u8>) {
    let at = match minor {
        0 => size.align_down(Bytes::BLOCK) - Bytes::kib(8),
        1 => Bytes::ZERO,
        _ => Bytes::BLOCK,
    };
    let mut block = vec![0u8; 512];
    let mut put =
        |field: usize, bytes: &[u8]| block[field..field + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efcu32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, b"set of disks no1");
    put(32, b"host:green");
    put(72, &1u32.to_le_bytes());
    put(80, &1024u64.to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &64u64.to_le_bytes());
    put(136, &1024u64.to_le_bytes());
    put(144, &at.units(SECTOR).to_le_bytes());
    put(168, b"this disk's uuid");
    put(220, &2u32.to_le_bytes());
    put(256, &[0, 0, 1, 0]);
    let sum: u64 = block[..260]
        .chunks_exact(4)
        .map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())))
        .sum();
    let sum = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    (at, block)
}

/// An md superblock of version 0.90.
fn md_0(size: Bytes) -> (Bytes, Vec<u8>) {
    let mut words = vec![0u32; 1024];
    for (index, word) in [
        (0, 0xa92b_4efc),
        (2, 90),
        (5, 0x1122_3344),
        (7, 1),
        (8, 64),
        (9, 2),
        (10, 2),
        (13, 0x5566_7788),
        (14, 0x99aa_bbcc),
        (15, 0xddee_ff00),
    ] {
        words[index] = word;
    }
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    words[38] = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    (size.align_down(Bytes::kib(64)) - Bytes::kib(64), bytes)
}

/// A physical volume's label in the second sector, checksum included.
fn lvm_label() -> (Bytes, Vec<u8>) {
    let mut label = vec![0u8; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[8..16].copy_from_slice(&1u64.to_le_bytes());
    label[20..24].copy_from_slice(&32u32.to_le_bytes());
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].copy_from_slice(b"0123456789abcdefghijklmnopqrstuv");
    let sum = label[20..].iter().fold(0xf597_a6cfu32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
    });
    label[16..20].copy_from_slice(&sum.to_le_bytes());
    (SECTOR, label)
}

/// Five uberblocks in each of the four labels, or where a label begins to overlap others, fewer.
fn zfs_labels(size: Bytes) -> Vec<(Bytes, Vec<u8>)> {
    let label = Bytes::kib(256);
    let end = size.align_down(label);
    let labels = [Bytes::ZERO, label, end - label - label, end - label];
    let uberblock = [0x00ba_b10cu64, 28, 4, 1234, 5678].map(u64::to_le_bytes).concat();
    let slots = [0, 4, 50, 126, 127].map(|slot| Bytes::kib(128 + slot));
    labels.iter().flat_map(|at| slots.map(|slot| (*at + slot, uberblock.clone()))).collect()
}

/// The copies and members at the end, which outlive what is written over the start.
fn at_the_end(size: Bytes) -> Vec<(&'static str, Bytes, Vec<u8>)> {
    let last = |sectors: u64| size.align_down(SECTOR) - Bytes::new(sectors * 512);
    let mut nilfs = vec![0u8; 280];
    nilfs[0] = 2;
    nilfs[6..10].copy_from_slice(&[0x34, 0x34, 0x18, 0x01]);
    let mut drbd = vec![0u8; 84];
    drbd[60..64].copy_from_slice(b"\x83\x74\x02\x6b");
    drbd[82] = 0x10;
    let mut ntfs = b"\xeb\x52\x90NTFS    ".to_vec();
    ntfs.extend([0, 2, 8]);
    ntfs.resize(512, 0);
    ntfs[64] = 0xf6;
    vec![
        ("linux_raid_member", md_0(size).0, md_0(size).1),
        ("linux_raid_member", md_1(size, 0).0, md_1(size, 0).1),
        ("ddf_raid_member", last(1), b"\xde\x11\xde\x11".to_vec()),
        ("ddf_raid_member", last(257), b"\xde\x11\xde\x11".to_vec()),
        ("isw_raid_member", last(2), b"Intel Raid ISM Cfg Sig. 1.3.00".to_vec()),
        ("promise_fasttrack_raid_member", last(63), b"Promise Technology, Inc.".to_vec()),
        ("lsi_mega_raid_member", last(1), b"$XIDE$".to_vec()),
        ("nilfs2", size.align_down(Bytes::BLOCK) - Bytes::BLOCK, nilfs),
        ("drbd", size.align_down(Bytes::BLOCK) - Bytes::BLOCK, drbd),
        ("gpt", last(1), b"EFI PART\0\0\x01\0\x5c\0\0\0".to_vec()),
        ("ntfs", last(1), ntfs),
    ]
}

#[test]
fn members_are_named_as_blkid_names_them() {
    let size = Bytes::mib(65) + SECTOR;
    let mut made = vec![vec![md_0(size)], vec![lvm_label()], zfs_labels(size)];
    made.extend([0, 1, 2].map(|minor| vec![md_1(size, minor)]));
    for patches in made {
        let disk = ImageFile::new(size, SECTOR);
        for (at, bytes) in &patches {
            disk.write(*at, bytes);
        }
        let (theirs, ours) = (blkid(&disk), found(&disk));
        assert!(!ours.is_empty() && theirs.contains_key("TYPE"), "{theirs:?} {ours:?}");
        for ours in &ours {
            assert_eq!(ours.name, theirs["TYPE"]);
            if ours.name == "linux_raid_member" {
                assert_eq!(
                    (ours.label.as_ref(), ours.uuid.as_ref()),
                    (theirs.get("LABEL"), theirs.get("UUID"))
                );
                assert!(disk.check("mdadm -E FILE").contains("correct"));
            }
        }
        assert_eq!(ours.len(), if ours[0].name == "zfs_member" { 4 } else { 1 });
    }
}

#[test]
fn what_stands_at_the_end_is_found_there() {
    let size = Bytes::mib(9) + Bytes::new(3 * 512);
    for (name, at, bytes) in at_the_end(size) {
        let disk = ImageFile::new(size, SECTOR);
        disk.write(at, &bytes);
        let ours = probe::signatures(&disk).unwrap();
        let [ours] = ours.as_slice() else { panic!("{name}: {ours:?}") };
        assert_eq!((ours.name, ours.offset), (name, at));
    }
}

/// Bytes that are not zero and no signature, the same in every run.
fn garbage(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length.div_ceil(8))
        .flat_map(|_| (next() | 0x0101_0101_0101_0101).to_le_bytes())
        .take(length)
        .collect()
}

fn full_of_garbage(size: Bytes) -> ImageFile {
    let disk = ImageFile::new(size, SECTOR);
    let piece = garbage(1 << 20);
    let mut at = Bytes::ZERO;
    while at < size {
        let length = (size - at).min(Bytes::MIB).index().unwrap();
        disk.write(at, &piece[..length]);
        at += Bytes::MIB;
    }
    disk
}

fn zero_places(disk: &ImageFile, size: Bytes) {
    for place in probe::places(size).iter() {
        assert!(place.end <= size);
        disk.write(place.start, &vec![0; place.len().index().unwrap()]);
    }
}

/// Fails where any tool still recognises anything.
fn nothing_is_left(disk: &ImageFile, what: &str) {
    assert_eq!(probe::signatures(disk).unwrap(), [], "{what}");
    assert_eq!(wipefs(disk), [], "{what}");
    let blkid = disk.tool("blkid -p FILE");
    assert_eq!((blkid.code, blkid.text()), (Some(2), String::new()), "{what}");
    let mdadm = disk.tool("mdadm -E FILE");
    assert!(mdadm.talk().contains("No md superblock detected"), "{what}: {}", mdadm.talk());
}

#[test]
fn after_zeroing_the_places_no_tool_finds_what_was_made() {
    for (size, line) in MADE {
        for odd in [Bytes::ZERO, Bytes::new(7 * 512)] {
            let size = Bytes::mib(size) + odd;
            let disk = full_of_garbage(size);
            disk.check(line);
            assert!(!wipefs(&disk).is_empty(), "{line}");
            zero_places(&disk, size);
            nothing_is_left(&disk, line);
        }
    }
}

#[test]
fn after_zeroing_the_places_no_tool_finds_members_and_copies() {
    for size in [
        Bytes::kib(512),
        Bytes::mib(1),
        Bytes::mib(1) + Bytes::new(13 * 512),
        Bytes::mib(3) - SECTOR,
        Bytes::mib(64),
        Bytes::mib(65) + Bytes::new(12345),
        Bytes::mib(130) + Bytes::kib(4),
    ] {
        let disk = full_of_garbage(size);
        let mut all = zfs_labels(size);
        all.extend(at_the_end(size).into_iter().map(|(_, at, bytes)| (at, bytes)));
        all.extend([lvm_label(), md_0(size), md_1(size, 0), md_1(size, 2)]);
        for place in [0xff6, 0x1ff6, 0x3ff6, 0x7ff6, 0xfff6] {
            all.push((Bytes::new(place), b"SWAPSPACE2".to_vec()));
        }
        for mirror in [Bytes::kib(64), Bytes::mib(64)] {
            all.push((mirror + Bytes::new(0x40), b"_BHRfS_M".to_vec()));
        }
        for (at, bytes) in all {
            if at + Bytes::of(&bytes) <= size {
                disk.write(at, &bytes);
            }
        }
        // On what could be a floppy libblkid looks for no members.
        assert!(size < Bytes::mib(2) || !wipefs(&disk).is_empty(), "{size}");
        assert!(probe::signatures(&disk).unwrap().len() > 3, "{size}");
        zero_places(&disk, size);
        nothing_is_left(&disk, &size.to_string());
    }
}

#[test]
fn places_are_few_and_within() {
    for size in
        [0, 1, 511, 512, 4095, 4096, 65_535, 262_143, 1 << 20, 12_345_678, 1 << 44, u64::MAX]
    {
        let size = Bytes::new(size);
        let places = probe::places(size);
        let inside = Extent::first(size);
        assert!(places.iter().all(|place| inside.contains(place)));
        assert!(places.total() < Bytes::mib(2), "{size}: {}", places.total());
        let covers_start = size < SECTOR || places.contains(Extent::first(size.min(Bytes::BLOCK)));
        assert!(covers_start);
    }
}
