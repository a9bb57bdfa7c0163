//! Partition tables, signatures, and the restore record: what stands at the ends of a disk.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use image_core::disk::probe;
use image_core::disk::table::{self, Table};
use image_core::error::Error;
use image_core::extent::Extent;
use image_core::io::BlockSink;
use image_core::io::memory::Memory;
use image_core::restore;
use image_core::units::Bytes;

use super::bases;
use super::edited::{Base, Edited};

/// Disks with a table of each kind, in the order of an input's first byte.
pub const TABLES: [&str; 3] = ["gpt", "mbr", "hybrid"];
/// Targets of a restore that did not end.
pub const RECORDS: [&str; 1] = ["record"];

static TABLE_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&TABLES));
static RECORD_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&RECORDS));

/// GPT, MBR with its EBRs, and what a hybrid adds: a table that is accepted can be written and reads the same.
pub fn tables(input: &[u8]) {
    let Some((mut edited, wish)) = Edited::decode(&TABLE_BASES, input) else { return };
    if wish.sign {
        sign(&mut edited);
    }
    let _ = judge(&edited);
}

/// The table on `disk`, where it is accepted; proven by what is written for it.
pub fn judge(disk: &Edited<'static>) -> Option<Table> {
    let source = disk.source();
    let (size, sector) = (source.size(), source.sector_size());
    let _ = (table::detect_sector_size(&source), probe::signatures(&source));
    let found = match table::read(&source) {
        Ok(found) => found?,
        Err(error) => {
            assert!(!matches!(error, Error::Io { .. }), "a table that leaves its disk: {error}");
            return None;
        }
    };
    let table = &found.table;
    let own = table.own_bytes(size, sector);
    assert!(own.end() <= size && table.usable_end(size, sector) <= size);
    if let Err(error) = table.check(size, sector) {
        panic!("a table that was read and then refused: {error}");
    }
    let places: BTreeMap<u32, Extent> =
        table.partitions().iter().map(|partition| (partition.number, partition.extent)).collect();
    if let Ok(moved) = table.moved(size, sector, &places) {
        assert_eq!(moved.partitions(), table.partitions());
    }
    if let Ok(image) = table.image(size, sector) {
        let length = size.index().unwrap_or_default();
        let memory = Memory::with_sectors(vec![0; length], sector);
        let parts = [image.backup, image.primary, image.ebr, vec![image.mbr_sector]];
        for (offset, bytes) in parts.concat() {
            if let Err(error) = memory.write_at(offset, &bytes) {
                panic!("a table that leaves its disk: {error}");
            }
        }
        match table::read(&memory) {
            Ok(Some(again)) => assert_eq!(again.table.partitions(), table.partitions()),
            other => panic!("what was written reads as {other:?}"),
        }
    }
    Some(found.table)
}

/// Makes the checksums of both GPT headers and of their entries right.
pub fn sign(disk: &mut Edited<'_>) {
    let last = disk.len().saturating_sub(512);
    for at in [512, last] {
        let header = disk.bytes(at, 512);
        let length = usize::try_from(disk.little(at + 12, 4)).unwrap_or(0);
        if !header.starts_with(b"EFI PART") || !(92..=512).contains(&length) {
            continue;
        }
        let (first, count) = (disk.little(at + 72, 8), disk.little(at + 80, 4));
        let entries = count.saturating_mul(disk.little(at + 84, 4));
        if let (Ok(first), Ok(entries)) = (usize::try_from(first), usize::try_from(entries))
            && first < disk.len() / 512
            && entries <= 1 << 20
        {
            let sum = crc32fast::hash(&disk.bytes(first * 512, entries));
            disk.put(at + 88, &sum.to_le_bytes());
        }
        let mut header = disk.bytes(at, length);
        header[16..20].fill(0);
        disk.put(at + 16, &crc32fast::hash(&header).to_le_bytes());
    }
}

/// What a restore that did not end left on its target.
pub fn record(input: &[u8]) {
    let Some((mut edited, wish)) = Edited::decode(&RECORD_BASES, input) else { return };
    if wish.sign {
        for at in (0..edited.len().min(1 << 20)).step_by(4096) {
            sign_record(&mut edited, at);
        }
    }
    let _ = found_record(&edited);
}

/// Whether a record is found on `target`.
pub fn found_record(target: &Edited<'static>) -> bool {
    match restore::before(&target.source()) {
        Ok(before) => before.interrupted.is_some(),
        Err(error) => panic!("a target that cannot be looked at: {error}"),
    }
}

/// Makes the checksum of the slot at `at` right, if there is one.
fn sign_record(target: &mut Edited<'_>, at: usize) {
    let length = usize::try_from(target.little(at + 24, 4)).unwrap_or(usize::MAX);
    if target.bytes(at, 16) == b"keiki restore 1\n" && (64..=32 << 10).contains(&length) {
        let mut slot = target.bytes(at, length);
        slot.drain(32..64);
        target.put(at + 32, blake3::hash(&slot).as_bytes());
    }
}

/// The places that a disk of any size is looked at for signatures, and what is found on arbitrary bytes.
pub fn signatures(input: &[u8]) {
    let memory = Memory::new(input.to_vec());
    let places = probe::places(Bytes::of(input));
    assert!(places.end() <= Bytes::of(input));
    for signature in probe::signatures(&memory).into_iter().flatten() {
        assert!(signature.offset < Bytes::of(input));
    }
}
