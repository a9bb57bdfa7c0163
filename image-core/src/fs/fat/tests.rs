//! Boot sectors and tables damaged in one field; the map is proven in `tests/tests/truth_fat.rs`.
#![expect(clippy::as_conversions, reason = "positions in images that these tests made")]

use std::sync::Arc;

use super::boot_sector::{BootSector, Width};
use super::relocated;
use crate::error::Result;
use crate::exec::real::Machine;
use crate::exec::{Call, Runner};
use crate::extent::{Extent, ExtentSet};
use crate::fs::{Filesystem, State};
use crate::io::BlockSource;
use crate::io::memory::Memory;
use crate::units::Bytes;

fn mkfs(size: u64, options: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    let path = file.path().to_str().unwrap();
    let fixed = ["-i", "c0ffee01", "-n", "ORCHID"];
    let call = Call::new("mkfs.fat", fixed.iter().chain(options).chain(&[path]));
    Machine.check(&call).expect("install dosfstools");
    std::fs::read(path).unwrap()
}

fn fat12() -> Vec<u8> {
    mkfs(1 << 20, &["-F", "12"])
}

fn fat16() -> Vec<u8> {
    mkfs(16 << 20, &["-F", "16", "-h", "2048"])
}

fn fat32() -> Vec<u8> {
    mkfs(34 << 20, &["-F", "32", "-h", "2048"])
}

fn with(mut image: Vec<u8>, changes: &[(usize, &[u8])]) -> Vec<u8> {
    for (at, bytes) in changes {
        image[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

fn probe(image: Vec<u8>) -> Result<Option<Box<dyn Filesystem>>> {
    let source: Arc<dyn BlockSource> = Arc::new(Memory::new(image));
    super::probe(&source)
}

fn used(image: Vec<u8>) -> Result<ExtentSet> {
    probe(image)?.expect("it is a FAT").used()
}

fn raw_reason(image: Vec<u8>) -> String {
    let volume = probe(image).unwrap().unwrap();
    let State::Raw(reason) = volume.state().unwrap() else { panic!("it is believed") };
    assert_eq!(volume.used().unwrap_err().to_string(), reason);
    reason
}

#[test]
fn identity_and_type_follow_the_cluster_count() {
    for (image, width) in
        [(fat12(), Width::Fat12), (fat16(), Width::Fat16), (fat32(), Width::Fat32)]
    {
        assert_eq!(BootSector::parse(&image[..512]).unwrap().unwrap().width, width);
        let size = Bytes::of(&image);
        let volume = probe(image).unwrap().unwrap();
        let identity = volume.identity();
        assert_eq!((identity.content, identity.label.as_deref()), ("vfat", Some("ORCHID")));
        assert_eq!(identity.uuid.as_deref(), Some("C0FF-EE01"));
        assert_eq!((identity.size, identity.sector_limit), (size, Bytes::new(512)));
        assert_eq!((volume.state().unwrap(), volume.growth()), (State::Clean, None));
    }
}

#[test]
fn fat32_with_few_clusters_is_fat32_as_linux_takes_it() {
    let image = mkfs(8 << 20, &["-F", "32", "-s", "2"]);
    assert_eq!(BootSector::parse(&image[..512]).unwrap().unwrap().width, Width::Fat32);
    assert!(used(image).is_ok());
}

#[test]
fn the_label_in_the_root_directory_wins() {
    let root = fat16().windows(11).rposition(|name| name == b"ORCHID     ").unwrap();
    let label = |image| probe(image).unwrap().unwrap().identity().label.clone();
    assert_eq!(label(with(fat16(), &[(root, b"KEIKI")])).as_deref(), Some("KEIKID"));
    // No entry: the boot sector's; "NO NAME": none.
    assert_eq!(label(with(fat16(), &[(root, &[0])])).as_deref(), Some("ORCHID"));
    assert_eq!(label(with(fat16(), &[(root, &[0]), (43, b"NO NAME    ")])), None);
    // A part of a long name is no label, nor is a deleted one; a loop in the chain ends.
    assert_eq!(
        label(with(fat16(), &[(root, b"LONG"), (root + 11, &[0x0F])])).as_deref(),
        Some("ORCHID")
    );
    assert_eq!(label(with(fat16(), &[(root, &[0xE5])])).as_deref(), Some("ORCHID"));
    let image = fat32();
    let boot = BootSector::parse(&image[..512]).unwrap().unwrap();
    let (root, entry) = (boot.data_start.get() as usize, boot.fat_start.get() as usize + 8);
    let looped = with(image, &[(root, &[0xE5; 512]), (entry, &[2, 0, 0, 0])]);
    assert_eq!(label(looped).as_deref(), Some("ORCHID"));
}

#[test]
fn what_only_looks_like_it_is_not_fat() {
    let fat = fat16();
    for (what, changes) in [
        ("an MBR with boot code", vec![(0, &[0xEB, 0x63, 0x90][..]), (11, &[0; 25])]),
        ("NTFS", vec![(3, &b"NTFS    "[..]), (14, &[0; 3])]),
        ("exFAT", vec![(3, &b"EXFAT   "[..]), (11, &[0; 53])]),
        ("BitLocker", vec![(3, &b"-FVE-FS-"[..]), (14, &[0; 3])]),
        ("no boot sector", vec![(510, &[0, 0][..])]),
        ("no jump", vec![(0, &[0x33, 0xC0][..])]),
        ("sectors of 520 bytes", vec![(11, &[8, 2][..])]),
        ("three sectors a cluster", vec![(13, &[3][..])]),
        ("an unknown medium", vec![(21, &[0x12][..])]),
    ] {
        assert!(probe(with(fat.clone(), &changes)).unwrap().is_none(), "{what}");
    }
    assert!(probe(vec![0xEB; 100]).unwrap().is_none());
}

#[test]
fn boot_sectors_that_contradict_themselves() {
    let expect = |image, error: &str| {
        assert_eq!(probe(image).err().unwrap().to_string(), format!("FAT boot sector {error}"));
    };
    expect(
        with(fat16(), &[(22, &[1, 0])]),
        "BPB_FATSz at byte 22: expected room for 8184 entries of 16 bits, found 1 sectors",
    );
    expect(
        with(fat16(), &[(19, &[9, 0])]),
        "BPB_TotSec at byte 32: expected a cluster behind the 100 sectors of the other regions, found 9 sectors",
    );
    expect(
        with(fat16(), &[(19, &[0, 0]), (32, &[0, 0, 0x10, 0])]),
        "BPB_FATSz16 at byte 22: expected below 65525 clusters with a 16-bit FAT size, found 262119",
    );
    expect(with(fat32(), &[(42, &[1])]), "BPB_FSVer at byte 42: expected version 0, found 1");
    expect(
        with(fat32(), &[(17, &[0, 2])]),
        "BPB_RootEntCnt at byte 17: expected 0 on FAT32, found 512",
    );
    expect(
        fat16()[..8 << 20].to_vec(),
        "BPB_TotSec at byte 19: expected at most the volume's 8388608 bytes, found 16777216",
    );
}

#[test]
fn marks_that_keep_the_fat_from_being_believed() {
    let dirty = "it is marked dirty";
    let at = |image: &[u8], entry: usize| {
        BootSector::parse(&image[..512]).unwrap().unwrap().fat_start.get() as usize + entry
    };
    let (f16, f32) = (fat16(), fat32());
    let (one16, one32) = (at(&f16, 2), at(&f32, 4));
    let errors = "it is marked as having had read or write errors";
    assert_eq!(raw_reason(with(fat12(), &[(37, &[1])])), dirty);
    assert_eq!(raw_reason(with(f16.clone(), &[(37, &[1])])), dirty);
    assert_eq!(raw_reason(with(f32.clone(), &[(65, &[1])])), dirty);
    assert_eq!(raw_reason(with(f16.clone(), &[(one16, &[0xFF, 0x7F])])), dirty);
    assert_eq!(raw_reason(with(f16, &[(one16, &[0xFF, 0xBF])])), errors);
    assert_eq!(raw_reason(with(f32.clone(), &[(one32 + 3, &[0x07])])), dirty);
    assert_eq!(raw_reason(with(f32.clone(), &[(one32 + 3, &[0x0B])])), errors);
    assert_eq!(
        raw_reason(with(f32, &[(40, &[0x80])])),
        "only one of its FATs is kept up to date (mirroring is off)"
    );
}

#[test]
fn tables_that_do_not_add_up() {
    let image = fat32();
    let boot = BootSector::parse(&image[..512]).unwrap().unwrap();
    let (fat, size) = (boot.fat_start.get() as usize, boot.fat_size.get() as usize);
    let expect = |changes: &[(usize, &[u8])], error: String| {
        let image = with(image.clone(), changes);
        assert_eq!(used(image).unwrap_err().to_string(), error);
    };
    expect(
        &[(fat + size + 1000, &[1])],
        format!(
            "copy 2 of the FAT at byte {}: expected the bytes of the first, found others",
            fat + size + 1000
        ),
    );
    expect(
        &[(fat, &[0xF0])],
        format!("FAT entry 0 at byte {fat}: expected media 0xf8, found 0xf0"),
    );
    let counted = u32::from_le_bytes(image[512 + 488..][..4].try_into().unwrap());
    expect(
        &[(fat + 400, &[7]), (fat + size + 400, &[7])],
        format!(
            "FAT FSInfo FSI_Free_Count at byte 1000: expected {} as the FAT counts, found {counted}",
            counted - 1
        ),
    );
    expect(
        &[(fat + 8, &[0; 4]), (fat + size + 8, &[0; 4])],
        format!(
            "FAT entry of the root directory at byte {}: expected cluster 2 to be in use, found a free cluster",
            fat + 8
        ),
    );
    expect(
        &[(fat + 400, &[1]), (fat + size + 400, &[1])],
        format!(
            "FAT entry at byte {}: expected a cluster up to {}, or an end, found 1",
            fat + 400,
            boot.clusters + 1
        ),
    );
    // "Not known" and a sector without the signatures say nothing.
    assert!(used(with(image.clone(), &[(1000, &[0xFF; 4])])).is_ok());
    assert!(used(with(image.clone(), &[(512, b"NONE"), (1000, &[1, 2, 3, 4])])).is_ok());
}

/// FAT12 and FAT16 say in a few fields that nothing sums up where their clusters are.
#[test]
fn a_folder_that_does_not_begin_with_itself_is_another_place() {
    let mut image = fat12();
    let boot = BootSector::parse(&image[..512]).unwrap().unwrap();
    let root = boot.root.start.get() as usize;
    let folder = boot.cluster_extent(3).unwrap().start.get() as usize;
    image[root + 32..root + 32 + 12].copy_from_slice(b"FOLDER     \x10");
    image[root + 32 + 26] = 3;
    for copy in 0..2 {
        let fat = (boot.fat_start.get() + copy * boot.fat_size.get()) as usize;
        image[fat + 4] |= 0xF0;
        image[fat + 5] = 0xFF;
    }
    image[folder..folder + 12].copy_from_slice(b".          \x10");
    image[folder + 26] = 3;
    assert!(used(image.clone()).is_ok());
    let refusal =
        |changes: &[(usize, &[u8])]| used(with(image.clone(), changes)).unwrap_err().to_string();
    // Fewer entries in the root directory: all clusters begin earlier.
    assert_eq!(
        refusal(&[(17, &[0xF0, 0x00])]),
        format!(
            "first entry of a FAT directory name at byte {}: expected the folder itself, at cluster 3, found something else",
            folder - (512 - 0xF0) * 32
        )
    );
    assert!(refusal(&[(folder + 26, &[4])]).starts_with("first entry of a FAT directory"));
    assert!(refusal(&[(root + 32 + 27, &[0xFF])]).starts_with("FAT directory entry at byte"));
    assert_eq!(
        used(with(image.clone(), &[(17, &[0, 0])])).unwrap_err().to_string(),
        "FAT boot sector BPB_RootEntCnt at byte 17: expected entries of the root directory, found 0"
    );
}

#[test]
fn a_single_fat_needs_a_count_of_its_free_clusters() {
    let reason = "neither a second FAT nor a count of free clusters proves it";
    assert_eq!(used(mkfs(1 << 20, &["-F", "12", "-f", "1"])).unwrap_err().to_string(), reason);
    let f32 = mkfs(34 << 20, &["-F", "32", "-f", "1"]);
    assert!(used(f32.clone()).is_ok());
    assert_eq!(used(with(f32, &[(1000, &[0xFF; 4])])).unwrap_err().to_string(), reason);
}

#[test]
fn fat12_entries_share_bytes() {
    let mut image = mkfs(1 << 20, &["-F", "12", "-s", "4"]);
    let boot = BootSector::parse(&image[..512]).unwrap().unwrap();
    let last = boot.clusters + 1;
    // 0x100 in entries 5 and 6, each in the half that its neighbour does not share; and the last of all.
    for copy in 0..2 {
        let fat = (boot.fat_start.get() + copy * boot.fat_size.get()) as usize;
        image[fat + 8] |= 0x10;
        image[fat + 10] |= 0x01;
        image[fat + last as usize * 3 / 2 + 1] |= 0x01;
    }
    let expected: ExtentSet = [5, 6, last]
        .into_iter()
        .map(|cluster| boot.cluster_extent(cluster).unwrap())
        .chain([Extent::new(boot.data_end(), boot.size)])
        .fold(Extent::first(boot.data_start).into(), |all: ExtentSet, part| {
            all.union(&part.into())
        });
    assert_eq!(used(image).unwrap(), expected.rounded_out(Bytes::BLOCK, boot.size));
}

#[test]
fn a_moved_partition_gets_new_hidden_sectors() {
    let bytes = 4096u32.to_le_bytes().to_vec();
    let (f16, f32) = (fat16(), fat32());
    assert_eq!(relocated(&f16[..512], 2048, 4096), [(Bytes::new(28), bytes.clone())]);
    assert_eq!(
        relocated(&f32[..512], 2048, 4096),
        [(Bytes::new(28), bytes.clone()), (Bytes::new(6 * 512 + 28), bytes)]
    );
    assert_eq!(relocated(&f32[..512], 63, 4096), [], "the field did not hold the old start");
    assert_eq!(relocated(&f32[..512], 2048, 2048), []);
    assert_eq!(relocated(&[0; 512], 0, 4096), [], "no FAT");
}
