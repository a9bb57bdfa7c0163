//! Small filesystems for tests, and how to damage them under checksums that still hold.

use std::sync::Arc;

use super::checksum::crc32c;
use super::probe;
use crate::exec::real::Machine;
use crate::exec::{Call, Runner};
use crate::fs::{Filesystem, State};
use crate::io::BlockSource;
use crate::io::memory::Memory;

const BLOCK: usize = 1024;
const SUPERBLOCK: usize = 1024;
const DESC: usize = 64;
const TABLE: usize = 2 * BLOCK;

/// A filesystem of 1 KiB blocks in memory, the same bytes at every run.
#[derive(Clone)]
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
}

impl Sample {
    /// ext4 with `metadata_csum` and `64bit` in six groups of 1 MiB (the last a block short), and `features`
    /// as `mke2fs -O` takes them.
    pub(super) fn new(features: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(6 << 20).unwrap();
        let words = "-q -F -t ext4 -b 1024 -g 1024 -N 96 -J size=1 -L keiki -M /srv
            -U 00112233-4455-6677-8899-aabbccddeeff
            -E hash_seed=00112233-4455-6677-8899-aabbccddeeff";
        let path = file.path().to_str().unwrap();
        // Named one by one, so that no mke2fs.conf matters. Without a resize inode nothing is reserved
        // behind the one block of descriptors.
        let features = format!(
            "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
             huge_file,dir_nlink,extra_isize,metadata_csum,{features}"
        );
        let words = words.split_whitespace().chain(["-O", &features, path]);
        let call = Call::new("mke2fs", words).env("E2FSPROGS_FAKE_TIME", "1700000000");
        Machine.check(&call).expect("mke2fs of the package e2fsprogs");
        Self { bytes: std::fs::read(file.path()).unwrap() }
    }

    /// Overwrites `bytes` at `at` of the superblock and signs it again.
    pub(super) fn superblock(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(SUPERBLOCK + at, bytes);
        let crc = crc32c(u32::MAX, &self.bytes[SUPERBLOCK..SUPERBLOCK + 0x3FC]);
        self.put(SUPERBLOCK + 0x3FC, &crc.to_le_bytes());
        self
    }

    /// Sets bits of the little-endian word at `at` of the superblock and signs it again.
    pub(super) fn flags(self, at: usize, set: u32) -> Self {
        let flags = self.le32(SUPERBLOCK + at) | set;
        self.superblock(at, &flags.to_le_bytes())
    }

    /// Overwrites `bytes` at `at` of `group`'s descriptor and signs it again.
    pub(super) fn desc(mut self, group: usize, at: usize, bytes: &[u8]) -> Self {
        let start = TABLE + group * DESC;
        self.put(start + at, bytes);
        self.put(start + 0x1E, &[0, 0]);
        let number = u32::try_from(group).unwrap().to_le_bytes();
        let crc = crc32c(crc32c(self.seed(), &number), &self.bytes[start..start + DESC]);
        self.put(start + 0x1E, &crc.to_le_bytes()[..2]);
        self
    }

    /// Overwrites `bytes` at `at` of `group`'s block bitmap and signs bitmap and descriptor again.
    pub(super) fn bitmap(mut self, group: usize, at: usize, bytes: &[u8]) -> Self {
        let start = self.block_bitmap(group);
        self.put(start + at, bytes);
        let crc = crc32c(self.seed(), &self.bytes[start..start + 128]).to_le_bytes();
        self.desc(group, 0x18, &crc[..2]).desc(group, 0x38, &crc[2..])
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    /// Position of `group`'s block bitmap.
    pub(super) fn block_bitmap(&self, group: usize) -> usize {
        usize::try_from(self.le32(TABLE + group * DESC)).unwrap() * BLOCK
    }

    /// Position of the journal's superblock: first extent of inode 8.
    pub(super) fn journal(&self) -> usize {
        let table = usize::try_from(self.le32(TABLE + 8)).unwrap() * BLOCK;
        usize::try_from(self.le32(table + 7 * 256 + 0x28 + 20)).unwrap() * BLOCK
    }

    fn seed(&self) -> u32 {
        crc32c(u32::MAX, &self.bytes[SUPERBLOCK + 0x68..SUPERBLOCK + 0x78])
    }

    pub(super) fn source(&self) -> Arc<dyn BlockSource> {
        Arc::new(Memory::new(self.bytes.clone()))
    }

    pub(super) fn open(&self) -> Box<dyn Filesystem> {
        probe(&self.source()).unwrap().unwrap()
    }

    pub(super) fn state(&self) -> State {
        self.open().state().unwrap()
    }

    /// The message of the error that `used` ends with.
    pub(super) fn refusal(&self) -> String {
        self.open().used().unwrap_err().to_string()
    }
}
