//! Damaged headers with valid checksums, each with its one exact error; what the whole map is worth is
//! proven in `tests/tests/truth_xfs.rs`.
#![expect(clippy::as_conversions, reason = "positions in images that these tests made")]

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use crate::error::Result;
use crate::exec::real::Machine;
use crate::exec::{Call, Runner};
use crate::extent::ExtentSet;
use crate::fs::{Filesystem, GrowthTool, State};
use crate::io::BlockSource;
use crate::io::memory::Memory;
use crate::units::Bytes;

const BLOCK: usize = 4096;
const AG_BLOCKS: usize = 4096;

fn mkfs(options: &[&str]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(32 << 20).unwrap();
    let path = file.path().to_str().unwrap();
    let fixed = ["-q", "-f", "--unsupported", "-L", "orchid", "-d", "agcount=2"];
    let call = Call::new("mkfs.xfs", fixed.iter().chain(options).chain(&[path]));
    Machine.check(&call).expect("install xfsprogs");
    std::fs::read(path).unwrap()
}

static V5: LazyLock<Vec<u8>> =
    LazyLock::new(|| mkfs(&["-m", "uuid=c0ffee00-0000-4000-8000-000000000001"]));
static V4: LazyLock<Vec<u8>> = LazyLock::new(|| mkfs(&["-m", "crc=0"]));

/// A structure of the v5 image: where, how long, where its checksum is.
type Place = (usize, usize, usize);
const SUPERBLOCK: Place = (0, 512, 224);
const AGF: Place = (512, 512, 216);
const AGFL: Place = (1536, 512, 32);

fn bnobt(image: &[u8]) -> Place {
    let root = u32::from_be_bytes(image[512 + 16..][..4].try_into().unwrap());
    (root as usize * BLOCK, BLOCK, 52)
}

/// Overwrites a field and makes the structure's checksum right again.
fn damaged((at, length, crc): Place, field: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = V5.clone();
    let part = &mut image[at..at + length];
    part[field..field + bytes.len()].copy_from_slice(bytes);
    part[crc..crc + 4].fill(0);
    let sum = crc32c::crc32c(part);
    part[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
    image
}

fn probe(image: Vec<u8>) -> Result<Option<Box<dyn Filesystem>>> {
    let source: Arc<dyn BlockSource> = Arc::new(Memory::new(image));
    super::probe(&source)
}

fn used(image: Vec<u8>) -> Result<ExtentSet> {
    probe(image)?.expect("the magic is there").used()
}

fn raw_reason(image: Vec<u8>) -> String {
    let volume = probe(image).unwrap().unwrap();
    let State::Raw(reason) = volume.state().unwrap() else { panic!("it is believed") };
    assert_eq!(volume.used().unwrap_err().to_string(), reason);
    assert_eq!(volume.growth(), None);
    reason
}

#[test]
fn identity_of_a_new_filesystem() {
    let volume = probe(V5.clone()).unwrap().unwrap();
    let identity = volume.identity();
    assert_eq!((identity.content, identity.label.as_deref()), ("xfs", Some("orchid")));
    assert_eq!(identity.uuid.as_deref(), Some("c0ffee00-0000-4000-8000-000000000001"));
    assert_eq!(identity.size, Bytes::mib(32));
    assert_eq!((identity.block_size, identity.sector_limit), (Bytes::kib(4), Bytes::new(512)));
    assert_eq!(volume.state().unwrap(), State::Clean);
    assert_eq!(volume.growth(), Some(GrowthTool::XfsGrowfs));
    assert!(volume.used().unwrap().total() < Bytes::mib(32));
}

#[test]
fn version_4_has_a_map_and_no_growth() {
    let volume = probe(V4.clone()).unwrap().unwrap();
    assert!(volume.used().unwrap().total() < Bytes::mib(32));
    assert_eq!(volume.growth(), None);
}

#[test]
fn other_content_is_not_xfs() {
    assert!(probe(vec![0; 8192]).unwrap().is_none());
    assert!(probe(b"XFSB".to_vec()).unwrap().is_none());
}

#[test]
fn features_that_keep_the_map_from_being_believed() {
    for (field, bytes, reason) in [
        (126, &[1][..], "mkfs has not finished (sb_inprogress)"),
        (218, &[0, 0x10], "it needs xfs_repair (needsrepair)"),
        (218, &[0x02, 0x03], "incompat feature 0x200 is not known"),
        (212, &[0x80, 0, 0, 0], "ro_compat feature 0x80000000 is not known"),
        (23, &[9], "it has a realtime device"),
        (48, &[0; 8], "its log is on another device"),
    ] {
        assert_eq!(raw_reason(damaged(SUPERBLOCK, field, bytes)), reason);
    }
}

#[test]
fn superblocks_that_contradict_themselves() {
    for (field, bytes, error) in [
        (100, &[0, 3][..], "sb_versionnum at byte 100: expected version 4 or 5, found 3"),
        (
            102,
            &[3, 0],
            "sb_sectsize at byte 102: expected a power of two from 512 to 32768, found 768",
        ),
        (4, &[0; 4], "sb_blocksize at byte 4: expected a power of two from 512 to 65536, found 0"),
        (120, &[13], "sb_blocklog at byte 120: expected 12, found 13"),
        (84, &[0; 4], "sb_agblocks at byte 84: expected 64 to 268435456 blocks, found 0"),
        (124, &[11], "sb_agblklog at byte 124: expected 12, found 11"),
        (88, &[0; 4], "sb_dblocks at byte 8: expected 64 to 0 blocks for 0 AGs, found 8192"),
        (
            8,
            &[0xFF; 8],
            "sb_dblocks at byte 8: expected 4160 to 8192 blocks for 2 AGs, found 18446744073709551615",
        ),
        (
            96,
            &[0xFF; 4],
            "sb_logstart at byte 48: expected a log of at most 2 GiB inside one AG, found 4294967295 blocks at filesystem block",
        ),
    ] {
        let message = used(damaged(SUPERBLOCK, field, bytes)).unwrap_err().to_string();
        assert!(message.starts_with(&format!("XFS superblock {error}")), "{message}");
    }
    let mut flipped = V5.clone();
    flipped[150] ^= 1;
    let message = used(flipped).unwrap_err().to_string();
    assert!(message.starts_with("XFS superblock crc at byte 224: expected 0x"), "{message}");
    let message = used(V5[..31 << 20].to_vec()).unwrap_err().to_string();
    assert_eq!(
        message,
        "XFS superblock sb_dblocks at byte 8: expected at most the volume's 32505856 bytes, found 33554432"
    );
}

#[test]
fn counters_that_do_not_add_up() {
    let free = u64::from_be_bytes(V5[144..152].try_into().unwrap());
    let message =
        used(damaged(SUPERBLOCK, 144, &(free - 1).to_be_bytes())).unwrap_err().to_string();
    let expected = format!("at byte 144: expected {free} as the AGs count, found {}", free - 1);
    assert_eq!(message, format!("XFS superblock sb_fdblocks {expected}"));
    for (field, name) in [(52, "agf_freeblks"), (56, "agf_longest")] {
        let right = u32::from_be_bytes(V5[512 + field..][..4].try_into().unwrap());
        let image = damaged(AGF, field, &(right + 1).to_be_bytes());
        let at = 512 + field;
        assert_eq!(
            used(image).unwrap_err().to_string(),
            format!("XFS AGF 0 {name} at byte {at}: expected {right}, found {}", right + 1)
        );
    }
}

#[test]
fn group_headers_that_contradict_the_superblock() {
    let ring = u32::from_be_bytes(V5[512 + 44..][..4].try_into().unwrap());
    for (place, field, bytes, error) in [
        (AGF, 0, &b"XAGX"[..], "XFS AGF 0 magic at byte 512: expected XAGF, found XAGX"),
        (AGF, 4, &[0, 0, 0, 2], "XFS AGF 0 agf_versionnum at byte 516: expected 1, found 2"),
        (AGF, 8, &[0, 0, 0, 2], "XFS AGF 0 agf_seqno at byte 520: expected 0, found 2"),
        (AGF, 12, &[0; 4], "XFS AGF 0 agf_length at byte 524: expected 4096, found 0"),
        (AGF, 28, &[0; 4], "XFS AGF 0 agf_levels at byte 540: expected 1 to 9, found 0"),
        (
            AGF,
            16,
            &[0xFF; 4],
            "XFS AG 0 at byte 17592186040320: expected blocks below 4096, found 4294967295..4294967295",
        ),
        (
            AGF,
            48,
            &[0, 0, 0, 9],
            &format!(
                "XFS AGFL 0 ring at byte 1536: expected a ring in 119 slots that adds up, found 9 from slot 1 to {ring}"
            ),
        ),
        (
            AGFL,
            40,
            &[0xFF; 4],
            "XFS AG 0 at byte 17592186040320: expected blocks below 4096, found 4294967295..4294967295",
        ),
        (AGFL, 4, &[1], "XFS AGFL 0 agfl_seqno at byte 1540: expected 0, found 16777216"),
    ] {
        assert_eq!(used(damaged(place, field, bytes)).unwrap_err().to_string(), error);
    }
    let message = used(damaged(AGF, 64, &[0; 16])).unwrap_err().to_string();
    assert_eq!(
        message,
        "XFS AGF 0 uuid at byte 576: expected c0ffee00-0000-4000-8000-000000000001, \
         found 00000000-0000-0000-0000-000000000000"
    );
}

#[test]
fn btree_blocks_that_contradict_their_place() {
    let place = bnobt(&V5);
    let at = place.0;
    let end = AG_BLOCKS as u32;
    for (field, bytes, error) in [
        (0, b"AB3C".to_vec(), format!("magic at byte {at}: expected AB3B, found AB3C")),
        (4, vec![0, 1], format!("bb_level at byte {}: expected 0, found 1", at + 4)),
        (6, vec![2, 0], format!("bb_numrecs at byte {}: expected 0 to 505, found 512", at + 6)),
        (16, vec![0; 8], format!("bb_blkno at byte {}: expected {}, found 0", at + 16, at / 512)),
        (48, vec![0, 0, 0, 3], format!("bb_owner at byte {}: expected 0, found 3", at + 48)),
        (
            56,
            vec![0; 4],
            format!(
                "record at byte {}: expected a free extent within 1..{end}, found {} blocks at 0",
                at + 56,
                u32::from_be_bytes(V5[at + 60..][..4].try_into().unwrap())
            ),
        ),
    ] {
        let message = used(damaged(place, field, &bytes)).unwrap_err().to_string();
        let block = at / BLOCK;
        assert_eq!(message, format!("XFS bnobt block {block} of AG 0 {error}"));
    }
}

/// A record that is somewhere else, with the same number of blocks, is seen by the other tree only.
#[test]
fn both_trees_have_the_same_records() {
    let place = bnobt(&V5);
    let first = u32::from_be_bytes(V5[place.0 + 56..][..4].try_into().unwrap());
    let records = u16::from_be_bytes(V5[place.0 + 6..][..2].try_into().unwrap());
    let moved = damaged(place, 56, &(first - 1).to_be_bytes());
    let count = u32::from_be_bytes(V5[512 + 20..][..4].try_into().unwrap());
    assert_eq!(
        used(moved).unwrap_err().to_string(),
        format!(
            "XFS cntbt of AG 0 at byte {}: expected the {records} free extents of the bnobt, found {records} others",
            count as usize * BLOCK
        )
    );
}

#[test]
fn a_root_that_points_to_itself_ends() {
    let (at, ..) = bnobt(&V5);
    let mut image = damaged(AGF, 28, &[0, 0, 0, 9]);
    let root = (at / BLOCK) as u32;
    let block = &mut image[at..at + BLOCK];
    block[4..8].copy_from_slice(&[0, 8, 0, 1]);
    block[56 + 336 * 8..][..4].copy_from_slice(&root.to_be_bytes());
    block[52..56].fill(0);
    let sum = crc32c::crc32c(block);
    block[52..56].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(
        used(image).unwrap_err().to_string(),
        format!("XFS bnobt block {root} of AG 0 bb_level at byte {}: expected 7, found 8", at + 4)
    );
}

fn log_start() -> usize {
    let block = u64::from_be_bytes(V5[48..56].try_into().unwrap()) as usize;
    (block / AG_BLOCKS * AG_BLOCKS + block % AG_BLOCKS) * BLOCK
}

#[test]
fn logs_that_are_not_clean() {
    let start = log_start();
    let damage = |at: usize, bytes: &[u8]| {
        let mut image = V5.clone();
        image[start + at..][..bytes.len()].copy_from_slice(bytes);
        image
    };
    let dirty = "the log is dirty";
    // Two operations; no unmount flag; something written behind the record, in the same turn.
    assert_eq!(raw_reason(damage(40, &[0, 0, 0, 2])), dirty);
    assert_eq!(raw_reason(damage(512 + 9, &[0])), dirty);
    assert_eq!(raw_reason(damage(1024, &[0, 0, 0, 1])), dirty);
    // A newer record further on.
    let mut newer = damage(4096, &V5[start..start + 1024]);
    newer[start + 4096 + 20..][..4].copy_from_slice(&8u32.to_be_bytes());
    newer[start + 4096 + 40..][..4].copy_from_slice(&3u32.to_be_bytes());
    assert_eq!(raw_reason(newer), dirty);
    let record = |at: usize| format!("at byte {}: expected", start + at);
    for (image, error) in [
        (damage(0, &[0; 4]), format!("XFS log {} a log record, found none", record(0))),
        (
            damage(20, &[0, 0, 0, 1]),
            format!("XFS log record h_lsn {} 4294967296, found 4294967297", record(16)),
        ),
        (
            damage(304, &[0; 16]),
            format!(
                "XFS log record h_fs_uuid {} c0ffee00-0000-4000-8000-000000000001, found 00000000-0000-0000-0000-000000000000",
                record(304)
            ),
        ),
    ] {
        assert_eq!(raw_reason(image), error);
    }
    let reason = raw_reason(damage(12, &[0xFF; 4]));
    assert!(reason.contains("h_len") && reason.ends_with("found 4294967295"), "{reason}");
}

/// The unmount record moved to the log's last block, its body to the first one, as when the log wrapped.
#[test]
fn a_record_that_wraps_round_the_end_of_the_log() {
    let start = log_start();
    let blocks = u32::from_be_bytes(V5[96..100].try_into().unwrap()) as usize * BLOCK / 512;
    let mut image = V5.clone();
    let (header, body) = (V5[start..start + 512].to_vec(), V5[start + 512..start + 1024].to_vec());
    let last = start + (blocks - 1) * 512;
    image[last..last + 512].copy_from_slice(&header);
    image[last + 20..last + 24].copy_from_slice(&(blocks as u32 - 1).to_be_bytes());
    image[start..start + 512].copy_from_slice(&body);
    image[start..start + 4].copy_from_slice(&2u32.to_be_bytes());
    image[start + 512..start + 516].copy_from_slice(&1u32.to_be_bytes());
    assert_eq!(probe(image.clone()).unwrap().unwrap().state().unwrap(), State::Clean);
    // The next turn has begun behind it.
    image[start + 512..start + 516].copy_from_slice(&2u32.to_be_bytes());
    assert_eq!(raw_reason(image), "the log is dirty");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Version 4 has no checksums: anything may come out, but no panic and no endless walk.
    #[test]
    fn damage_in_version_4_never_panics(flips in prop::collection::vec((0..4096 * 8usize, 1..=255u8), 1..8)) {
        let mut image = V4.clone();
        for (at, flip) in flips {
            image[at] ^= flip;
        }
        if let Ok(Some(volume)) = probe(image) {
            drop(volume.used());
        }
    }
}
