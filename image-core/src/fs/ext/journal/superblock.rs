//! The journal's superblock: whether transactions wait in it, and where.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`. Big-endian, 1024 bytes.

use std::ops::Range;

use super::super::checksum::crc32c;
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::units::Bytes;

/// `JBD2_MAGIC_NUMBER`, with which every block of the journal's own begins.
pub(super) const MAGIC: u32 = 0xC03B_3998;
const CHECKSUM: usize = 0xFC;
/// The longest journal that mke2fs makes, in blocks (`JBD2_MAX_JOURNAL_BLOCKS` of e2fsprogs).
const MAX_BLOCKS: u32 = 10_240_000;
/// The least that the kernel takes (`JBD2_MIN_JOURNAL_BLOCKS`).
const MIN_BLOCKS: u32 = 1024;
/// `s_checksum_type` of CRC-32C.
const CRC32C: u8 = 4;

mod compat {
    pub(super) const CHECKSUM: u32 = 1;
}

mod incompat {
    pub(super) const REVOKE: u32 = 0x1;
    pub(super) const BITS64: u32 = 0x2;
    pub(super) const ASYNC_COMMIT: u32 = 0x4;
    pub(super) const CSUM_V2: u32 = 0x8;
    pub(super) const CSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
    pub(super) const KNOWN: u32 = REVOKE | BITS64 | ASYNC_COMMIT | CSUM_V2 | CSUM_V3;
}

/// How the transactions of a journal are protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checksums {
    Not,
    /// One CRC-32 over descriptors and blocks, in the commit block.
    V1,
    /// CRC-32C of every block from this seed; of a journaled block only the low half.
    V2(u32),
    /// CRC-32C of every block from this seed.
    V3(u32),
}

/// Where in the journal's ring of blocks its transactions are, and how they are written.
#[derive(Clone, Debug)]
pub(super) struct Log {
    /// The blocks of the journal that transactions are written to, round and round.
    pub(super) ring: Range<u32>,
    /// Where the oldest transaction begins; `None` where none waits.
    pub(super) start: Option<u32>,
    /// The number of that transaction.
    pub(super) sequence: u32,
    pub(super) checksums: Checksums,
    /// Block numbers have 64 bits.
    pub(super) wide: bool,
    /// A commit block may have been written before what it commits.
    pub(super) async_commit: bool,
}

/// The superblock; its checksum holds.
pub(in super::super) struct JournalSuperblock {
    bytes: Vec<u8>,
    at: Bytes,
    /// Type 4; type 3 has no feature fields.
    has_features: bool,
    /// Transactions wait (`s_start`).
    pub(in super::super) started: bool,
    /// The kernel gave up on it (`s_errno`).
    pub(in super::super) aborted: bool,
    /// What waits may be fast commits.
    pub(in super::super) fast_commit: bool,
}

impl JournalSuperblock {
    /// The superblock in `bytes`, which were read at `at`.
    ///
    /// # Errors
    /// It is none, or its checksum is wrong.
    pub(super) fn parse(at: Bytes, bytes: Vec<u8>) -> Result<Self> {
        let fields = structure(at, &bytes);
        let (magic, kind) = (fields.be32(0)?, fields.be32(4)?);
        if magic != MAGIC || !(3..=4).contains(&kind) {
            let found = format!("{magic:#010x} of type {kind}");
            let expected = format!("{MAGIC:#010x} of type 3 or 4");
            return Err(fields.corrupt("h_magic", 0, expected, found));
        }
        let has_features = kind == 4;
        let features = if has_features { fields.be32(0x28)? } else { 0 };
        if features & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0 {
            verify(&fields)?;
        }
        let (started, aborted) = (fields.be32(0x1C)? != 0, fields.be32(0x20)? != 0);
        let fast_commit = features & incompat::FAST_COMMIT != 0;
        Ok(Self { bytes, at, has_features, started, aborted, fast_commit })
    }

    /// The log of this journal, whose file has `count` blocks of `block_size`.
    ///
    /// # Errors
    /// Features that are not known; fields that the kernel does not take either.
    pub(super) fn log(&self, block_size: Bytes, count: u64) -> Result<Log> {
        let fields = structure(self.at, &self.bytes);
        let size = Bytes::from(fields.be32(0x0C)?);
        if size != block_size {
            let expected = block_size.get().to_string();
            return Err(fields.corrupt("s_blocksize", 0x0C, expected, size.get()));
        }
        let length = fields.be32(0x10)?;
        if length < MIN_BLOCKS || u64::from(length) > count {
            let expected = format!("{MIN_BLOCKS} to the {count} of its file");
            return Err(fields.corrupt("s_maxlen", 0x10, expected, length));
        }
        if length > MAX_BLOCKS {
            return Err(Error::unsupported(format!("a journal of {length} blocks")));
        }
        let first = fields.be32(0x14)?;
        if first == 0 || first >= length {
            return Err(fields.corrupt("s_first", 0x14, format!("1 to {}", length - 1), first));
        }
        let start = fields.be32(0x1C)?;
        if start != 0 && !(first..length).contains(&start) {
            let expected = format!("0 or {first} to {}", length - 1);
            return Err(fields.corrupt("s_start", 0x1C, expected, start));
        }
        let (compat, incompat) = self.features(&fields)?;
        Ok(Log {
            ring: first..length,
            start: Some(start).filter(|start| *start != 0),
            sequence: fields.be32(0x18)?,
            checksums: checksums(&fields, compat, incompat)?,
            wide: incompat & incompat::BITS64 != 0,
            async_commit: incompat & incompat::ASYNC_COMMIT != 0,
        })
    }

    /// Its compat and incompat features, all of them known.
    fn features(&self, fields: &Structure<'_>) -> Result<(u32, u32)> {
        if !self.has_features {
            return Ok((0, 0));
        }
        let (compat, incompat) = (fields.be32(0x24)?, fields.be32(0x28)?);
        for (word, unknown) in [
            ("compat", compat & !compat::CHECKSUM),
            ("incompat", incompat & !incompat::KNOWN),
            ("ro_compat", fields.be32(0x2C)?),
        ] {
            if unknown != 0 {
                let what = format!("{word} feature {unknown:#x} of the journal");
                return Err(Error::unsupported(what));
            }
        }
        Ok((compat, incompat))
    }
}

fn structure(at: Bytes, bytes: &[u8]) -> Structure<'_> {
    Structure::new("journal superblock", at, bytes)
}

fn checksums(fields: &Structure<'_>, compat: u32, incompat: u32) -> Result<Checksums> {
    let [v1, v2, v3] = [
        compat & compat::CHECKSUM != 0,
        incompat & incompat::CSUM_V2 != 0,
        incompat & incompat::CSUM_V3 != 0,
    ];
    if [v1, v2, v3].iter().filter(|version| **version).count() > 1 {
        let found = format!("{compat:#x} and {incompat:#x}");
        return Err(fields.corrupt("s_feature_incompat", 0x28, "one kind of checksum", found));
    }
    if !v2 && !v3 {
        return Ok(if v1 { Checksums::V1 } else { Checksums::Not });
    }
    let kind = fields.u8(0x50)?;
    if kind != CRC32C {
        return Err(Error::unsupported(format!("journal checksum type {kind}")));
    }
    let seed = crc32c(u32::MAX, fields.slice(0x30, 16)?);
    Ok(if v2 { Checksums::V2(seed) } else { Checksums::V3(seed) })
}

fn verify(fields: &Structure<'_>) -> Result<()> {
    let behind = fields.all().get(CHECKSUM + 4..).unwrap_or_default();
    let parts = [fields.slice(0, CHECKSUM)?, &[0; 4], behind];
    let expected = parts.iter().fold(u32::MAX, |crc, part| crc32c(crc, part));
    let found = fields.be32(CHECKSUM)?;
    if found == expected {
        return Ok(());
    }
    let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
    Err(fields.corrupt("s_checksum", CHECKSUM, expected, found))
}
