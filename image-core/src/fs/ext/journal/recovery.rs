//! Walks the log as recovery does, and says which blocks it would write, without writing them.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`, and `fs/jbd2/recovery.c` for where a log ends.
//! Recovery walks three times (scan, revoke, replay); one walk comes to the same, because what a transaction
//! revokes is taken away when it is committed, and written again only by a later one.

use std::collections::BTreeMap;

use super::super::checksum::crc32_be;
use super::super::inode::File;
use super::super::volume::Volume;
use super::descriptor::{self, Tag};
use super::header::{self, Kind};
use super::superblock::{Checksums, Log};
use super::{commit, revoke};
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::units::Bytes;

/// So many blocks that wait, or were revoked in one transaction, are kept in memory. A journal of 1 GiB,
/// the largest that mke2fs makes by itself, has at most 256 Ki blocks of 4 KiB.
const MAX_BLOCKS: usize = 4 << 20;

/// A block as the journal has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Logged {
    /// Where in the volume it stands.
    pub(super) at: Bytes,
    /// Its first four bytes are the journal's magic, whatever stands there.
    pub(super) escaped: bool,
}

/// The blocks that recovery would write: number in the filesystem, and what would be written there.
pub(super) type Blocks = BTreeMap<u64, Logged>;

/// Which blocks recovery of the journal in `file` would write.
///
/// # Errors
/// Whatever makes recovery fail, or makes it doubtful what it does: see [`Walk::commit`].
pub(super) fn replay(volume: &Volume<'_>, file: &File, log: &Log) -> Result<Blocks> {
    let Some(start) = log.start else { return Ok(Blocks::new()) };
    let walk = Walk {
        volume,
        file,
        log,
        next: start,
        left: log.ring.end - log.ring.start,
        sequence: log.sequence,
        open: Transaction::default(),
        last_commit: 0,
        interrupted: false,
        blocks: Blocks::new(),
    };
    walk.run()
}

/// What was read of a transaction whose commit block was not yet reached.
struct Transaction {
    writes: Vec<(u64, Logged)>,
    revokes: Vec<u64>,
    /// CRC-32 of descriptors and blocks (v1).
    crc32: u32,
    /// A descriptor or revoke block has a wrong checksum: perhaps it is left over from an earlier journal.
    stale: Option<Error>,
    /// Something else in it cannot be right.
    wrong: Option<Error>,
}

impl Default for Transaction {
    fn default() -> Self {
        Self { writes: Vec::new(), revokes: Vec::new(), crc32: u32::MAX, stale: None, wrong: None }
    }
}

impl Transaction {
    fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.revokes.is_empty() && self.stale.is_none()
    }
}

struct Walk<'a> {
    volume: &'a Volume<'a>,
    file: &'a File,
    log: &'a Log,
    /// The block of the journal that is read next.
    next: u32,
    /// How many blocks of the ring were not yet read: so that no log goes round for ever.
    left: u32,
    sequence: u32,
    open: Transaction,
    /// Seconds; of the transaction before.
    last_commit: u64,
    /// A commit block came whose transaction did not all reach the disk; nothing may follow.
    interrupted: bool,
    blocks: Blocks,
}

impl Walk<'_> {
    fn run(mut self) -> Result<Blocks> {
        loop {
            if self.left == 0 {
                // A log that fills the whole ring ends with a commit.
                return if self.open.is_empty() { Ok(self.blocks) } else { Err(self.endless()) };
            }
            let (at, bytes) = self.read()?;
            let name = format!("journal transaction {}", self.sequence);
            let block = Structure::new(&name, at, &bytes);
            let goes_on = match header::kind(&block, self.sequence)? {
                Some(Kind::Descriptor) => self.descriptor(&block)?,
                Some(Kind::Revoke) => self.revoke(&block)?,
                Some(Kind::Commit) => self.commit(&block)?,
                None => false,
            };
            if !goes_on {
                return Ok(self.blocks);
            }
        }
    }

    /// The next block of the log: position and content.
    fn read(&mut self) -> Result<(Bytes, Vec<u8>)> {
        self.left = self.left.checked_sub(1).ok_or_else(|| self.endless())?;
        let number = self.next;
        self.next = match number + 1 {
            end if end >= self.log.ring.end => self.log.ring.start,
            next => next,
        };
        let at = self.file.locate(number.into()).ok_or_else(|| self.endless())?;
        let size = self.volume.layout.block_size.index().unwrap_or_default();
        Ok((at, self.volume.read(at, size)?))
    }

    fn endless(&self) -> Error {
        let expected = format!("an end within the log's {} blocks", self.log.ring.len());
        let at = self.file.locate(self.next.into()).unwrap_or_default();
        Error::corrupt(format!("journal transaction {}", self.sequence), at, expected, "none")
    }

    fn descriptor(&mut self, block: &Structure<'_>) -> Result<bool> {
        let log = self.log;
        if let Err(error) = header::verify_tail(block, log.checksums) {
            self.open.stale.get_or_insert(error);
        }
        self.checksum_v1(block.all());
        for tag in descriptor::tags(block, log)? {
            let (at, content) = self.read()?;
            self.checksum_v1(&content);
            let checked = self
                .check(&tag, block)
                .and_then(|()| tag.verify(block, log, self.sequence, &content));
            if let Err(error) = checked {
                self.open.wrong.get_or_insert(error);
            }
            self.open.writes.push((tag.block, Logged { at, escaped: tag.escaped }));
        }
        Ok(true)
    }

    /// A tag names a block of the filesystem that is not the journal's own.
    fn check(&self, tag: &Tag, block: &Structure<'_>) -> Result<()> {
        let extent = self.volume.layout.blocks(tag.block, 1);
        match extent {
            Some(extent) if self.file.blocks.within(extent).next().is_none() => Ok(()),
            _ => {
                let expected = "a block of the filesystem outside the journal";
                Err(block.corrupt("tag's t_blocknr", tag.offset, expected, tag.block))
            }
        }
    }

    fn checksum_v1(&mut self, bytes: &[u8]) {
        if self.log.checksums == Checksums::V1 {
            self.open.crc32 = crc32_be(self.open.crc32, bytes);
        }
    }

    fn revoke(&mut self, block: &Structure<'_>) -> Result<bool> {
        if let Err(error) = header::verify_tail(block, self.log.checksums) {
            self.open.stale.get_or_insert(error);
        }
        match revoke::blocks(block, self.log) {
            Ok(blocks) => self.open.revokes.extend(blocks),
            Err(error) => drop(self.open.wrong.get_or_insert(error)),
        }
        self.limit(self.open.revokes.len())?;
        Ok(true)
    }

    /// Whether the log goes on behind this commit block, whose transaction counts from now on.
    ///
    /// A wrong checksum ends the log where the commit is older than the one before it, for then these are
    /// blocks of an earlier journal; and where commits are not waited for (`async_commit`), because the power
    /// may have gone in between. Otherwise the kernel does not mount the filesystem, and it is not mapped.
    fn commit(&mut self, block: &Structure<'_>) -> Result<bool> {
        let time = commit::time(block)?;
        let mut done = std::mem::take(&mut self.open);
        let is_older = time < self.last_commit;
        if let Some(error) = done.stale.take() {
            return if is_older { Ok(false) } else { Err(error) };
        }
        if let Err(error) = commit::verify(block, self.log, done.crc32) {
            if is_older {
                return Ok(false);
            }
            if !self.log.async_commit || self.interrupted {
                return Err(error);
            }
            self.interrupted = true;
        } else if self.interrupted {
            let expected = "none behind a transaction with a wrong checksum";
            return Err(block.corrupt("commit block", 0, expected, "one"));
        } else {
            if let Some(error) = done.wrong {
                return Err(error);
            }
            self.blocks.extend(done.writes);
            for block in done.revokes {
                self.blocks.remove(&block);
            }
            self.limit(self.blocks.len())?;
        }
        self.last_commit = time;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(true)
    }

    fn limit(&self, count: usize) -> Result<()> {
        if count > MAX_BLOCKS {
            let what = format!("a journal in which more than {MAX_BLOCKS} blocks wait");
            return Err(Error::unsupported(what));
        }
        Ok(())
    }
}
