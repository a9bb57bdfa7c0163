//! Filesystems: no input loses a block that a slow reader finds in use.

use std::sync::LazyLock;

use image_core::error::Error;
use image_core::extent::ExtentSet;
use image_core::fs::{self, State};
use image_core::io::BlockSource;
use image_core::units::Bytes;

use super::edited::{Base, Edited};
use super::{bases, ext, fat, xfs};

/// Every ext without a journal that waits, in the order of an input's first byte.
pub const EXT: [&str; 6] =
    ["ext4", "ext4-gdt-csum", "ext2", "ext4-bigalloc", "ext4-meta-bg", "ext4-4k"];
/// ext4 with a journal that waits.
pub const JOURNAL: [&str; 4] = ["journal", "journal-v2", "journal-v3", "journal-no-csum"];
/// XFS of both versions, and one whose trees have several levels.
pub const XFS: [&str; 3] = ["xfs-v5", "xfs-v4", "xfs-1k"];
/// FAT of each width.
pub const FAT: [&str; 3] = ["fat12", "fat16", "fat32"];
/// Swap areas for small and large pages.
pub const SWAP: [&str; 2] = ["swap", "swap-64k"];

static EXT_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&EXT));
static JOURNAL_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&JOURNAL));
static XFS_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&XFS));
static FAT_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&FAT));
static SWAP_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&SWAP));

/// Superblock, descriptors and bitmaps of ext.
pub fn ext(input: &[u8]) {
    judge(&EXT_BASES, input, ext::sign, ext::used);
}

/// The journal of ext: what it will change is added to what the bitmaps say now.
pub fn journal(input: &[u8]) {
    let Some(edited) = judge(&JOURNAL_BASES, input, ext::sign, ext::used) else { return };
    let source = edited.source();
    if let Ok(Some(replayed)) = fs::ext::replayed(&source) {
        let mut block = vec![0; 4096];
        for at in (0..edited.len()).step_by(block.len()) {
            let length = block.len().min(edited.len() - at);
            if let Err(error) = replayed.read_at(Bytes::from(at), &mut block[..length]) {
                panic!("what was replayed cannot be read: {error}");
            }
        }
    }
}

/// Superblock, AG headers, free space trees and log of XFS.
pub fn xfs(input: &[u8]) {
    judge(&XFS_BASES, input, xfs::sign, |volume| xfs::used(volume, xfs::BY_BLOCK));
}

/// Boot sector, FATs, FSInfo and root directory of FAT.
pub fn fat(input: &[u8]) {
    judge(&FAT_BASES, input, |_| {}, fat::used);
}

/// The header of swap.
pub fn swap(input: &[u8]) {
    let Some(edited) = judge(&SWAP_BASES, input, |_| {}, |_| None) else { return };
    let source = edited.source();
    if let Ok(Some(header)) = fs::swap::Header::read(&source, source.size()) {
        let bytes = header.to_bytes();
        let memory = image_core::io::memory::Memory::new(edited.bytes(0, edited.len()));
        if let Err(error) = image_core::io::BlockSink::write_at(&memory, Bytes::ZERO, &bytes) {
            panic!("a header longer than its area: {error}");
        }
        let again = fs::swap::Header::read(&memory, source.size());
        assert!(
            matches!(&again, Ok(Some(again)) if *again == header),
            "{header:?} became {again:?}"
        );
    }
}

/// Opens what `input` makes, and holds its map against `slow`.
fn judge(
    bases: &'static [Base],
    input: &[u8],
    sign: fn(&mut Edited<'_>),
    slow: impl Fn(&Edited<'_>) -> Option<ExtentSet>,
) -> Option<Edited<'static>> {
    let (mut edited, wish) = Edited::decode(bases, input)?;
    if wish.sign {
        sign(&mut edited);
    }
    if let Some((used, slow)) = map(&edited).and_then(|used| Some((used, slow(&edited)?))) {
        let lost = slow.subtract(&used);
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
    Some(edited)
}

/// The map of what is on `volume`, where there is one that is believed; otherwise it is saved whole.
pub fn map(volume: &Edited<'static>) -> Option<ExtentSet> {
    let source = volume.source();
    let filesystem = believed(fs::probe(&source))??;
    let (_, _) = (filesystem.min_size(), filesystem.growth());
    match (believed(filesystem.state())?, believed(filesystem.used())) {
        (State::Clean | State::Replayable, Some(used)) => {
            assert!(used.end() <= source.size(), "a map beyond the volume's end");
            assert!(!used.is_empty(), "nothing is in use");
            Some(used)
        }
        (state @ State::Raw(_), Some(_)) => panic!("{state:?} with a map"),
        _ => None,
    }
}

/// What is not an error. One of reading would end a save that could go on with the whole volume.
fn believed<T>(result: Result<T, Error>) -> Option<T> {
    if let Err(error @ Error::Io { .. }) = &result {
        panic!("a structure that leads out of its volume: {error}");
    }
    result.ok()
}
