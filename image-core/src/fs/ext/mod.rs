//! ext2, ext3 and ext4: which bytes their block bitmaps mark as used.
//!
//! Answers: identity and state of an ext filesystem (or of an external journal of one), and the map of its
//! used blocks, proven by every checksum there is, by every group's free count and by their sum.
//! Where its journal waits to be replayed, that is of the filesystem as it will be then. Refuses: fast
//! commits, a dirty journal on another device, recorded errors, unknown feature flags, multiple-mount
//! protection that says "in use", volumes that end before their filesystem, and every contradiction.
//!
//! - [`superblock`], [`features`]: identity; where everything else starts.
//! - [`layout`]: where groups, descriptors and backups lie. - [`volume`]: reads blocks by these figures.
//! - [`group_desc`], [`block_bitmap`]: the map. - [`checksum`]: CRC-32C and CRC-16 as ext uses them.
//! - [`owners`]: which files some bytes belong to.
//! - [`journal`], [`inode`]: what waits to be replayed. - [`mmp`]: whether somebody uses it.
#![deny(clippy::as_conversions)]

mod block_bitmap;
mod checksum;
mod features;
mod group_desc;
mod inode;
mod journal;
mod layout;
mod mmp;
mod owners;
#[cfg(test)]
mod sample;
mod superblock;
mod volume;

use std::sync::Arc;

use self::features::{compat, incompat, ro_compat};
use self::journal::{Journal, JournalSuperblock};
use self::superblock::Superblock;
use self::volume::Volume;
use super::{Filesystem, GrowthTool, Identity, Owners, State};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::io::{BlockSource, Source};
use crate::units::Bytes;

/// Opens the ext filesystem on `source`; `None` where there is none.
///
/// # Errors
/// Where its magic is there, but checksum, revision or size forbid to believe its identity.
pub fn probe(source: &Arc<dyn BlockSource>) -> Result<Option<Box<dyn Filesystem>>> {
    let Some(superblock) = Superblock::read(source)? else { return Ok(None) };
    let identity = superblock.identity()?;
    Ok(Some(Box::new(Ext { source: Arc::clone(source), superblock, identity })))
}

struct Ext {
    source: Arc<dyn BlockSource>,
    superblock: Superblock,
    identity: Identity,
}

impl Filesystem for Ext {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn state(&self) -> Result<State> {
        if let Some(reason) = self.refused_by_superblock(&self.superblock)? {
            return Ok(State::Raw(reason));
        }
        let volume = Volume::new(&self.source, &self.superblock)?;
        if let Some(user) = mmp::user(&volume)? {
            return Ok(State::Raw(format!("multiple-mount protection says that {user:?} uses it")));
        }
        self.journal_state(&volume)
    }

    fn used(&self) -> Result<ExtentSet> {
        let replayable = waits(self.state()?)?;
        let volume = Volume::new(&self.source, &self.superblock)?;
        let mut used = if replayable {
            self.used_after_replay(&volume)?
        } else {
            let allocation = block_bitmap::read(&volume)?;
            self.compare_free_blocks(allocation.free_blocks)?;
            allocation.used
        };
        // The boot block and the superblock behind it, which no bitmap covers with 1 KiB blocks.
        used.insert(Extent::first(Bytes::BLOCK));
        Ok(used.rounded_out(Bytes::BLOCK, self.source.size()))
    }

    fn owners(&self, lost: &ExtentSet) -> Result<Option<Owners>> {
        let source = match self.state() {
            Ok(State::Replayable) => {
                replayed(&self.source)?.unwrap_or_else(|| Arc::clone(&self.source))
            }
            _ => Arc::clone(&self.source),
        };
        let volume = Volume::new(&source, &self.superblock)?;
        owners::of(&volume, lost).map(Some)
    }

    /// resize2fs 1.47 makes all of them larger (tried with each feature, e2fsck being content), except:
    /// bigalloc, which it only touches when forced; an orphan file where descriptors have no room to grow,
    /// because it moves that file and leaves its checksums behind (fixed in 1.47.1); what can only be
    /// mounted read-only; and what it does not know.
    fn growth(&self) -> Option<GrowthTool> {
        let features = self.superblock.features;
        let read_only = ro_compat::READONLY | ro_compat::SHARED_BLOCKS;
        let room = features.has_compat(compat::RESIZE_INODE)
            || features.has_incompat(incompat::META_BG)
            || !features.has_compat(compat::ORPHAN_FILE);
        let able = room
            && !features.has_ro_compat(ro_compat::BIGALLOC | read_only)
            && !features.has_incompat(incompat::JOURNAL_DEV)
            && features.unknown().is_none();
        able.then_some(GrowthTool::Resize2fs)
    }
}

/// The filesystem on `source` as it will be once its journal is replayed: with nothing to replay, as it is.
///
/// Nothing is written: blocks that the journal has read as they are there, all others as they are. `None`
/// where there is no ext filesystem.
///
/// # Errors
/// A state other than clean and replayable is refused; the kernel would not replay this journal, or what it
/// would do cannot be told; reading.
pub fn replayed(source: &Source) -> Result<Option<Source>> {
    let Some(superblock) = Superblock::read(source)? else { return Ok(None) };
    let identity = superblock.identity()?;
    let ext = Ext { source: Source::clone(source), superblock, identity };
    if !waits(ext.state()?)? {
        return Ok(Some(Source::clone(source)));
    }
    let volume = Volume::new(source, &ext.superblock)?;
    let journal = ext.journal(&volume)?;
    Ok(Some(Arc::new(journal.replayed(&volume, source)?)))
}

/// Whether a journal waits in a filesystem of this state, or nothing.
fn waits(state: State) -> Result<bool> {
    match state {
        State::Clean => Ok(false),
        State::Replayable => Ok(true),
        State::Raw(reason) => Err(Error::refused(reason)),
        State::Hibernated | State::Locked => Err(Error::refused("its state is not known")),
    }
}

impl Ext {
    /// The used bytes of a filesystem whose journal waits.
    ///
    /// What is stored are the bytes as they are, and whoever mounts or checks the restored filesystem first
    /// replays its journal. So it needs three things: what is in use then, where the gate is the same as
    /// without a journal, but for the superblock's count, which nobody keeps up to date between mount and
    /// unmount; the journal; and what leads to it before that, for which the bitmaps as they are stand in,
    /// unproven: they may be older than the descriptors, and can only add.
    ///
    /// Files that were deleted while open (orphans) are freed after the replay. That frees blocks and takes
    /// none, so a map that has them is only larger.
    fn used_after_replay(&self, volume: &Volume<'_>) -> Result<ExtentSet> {
        let journal = self.journal(volume)?;
        let replayed: Source = Arc::new(journal.replayed(volume, &self.source)?);
        let superblock = self.superblock_after_replay(&replayed)?;
        let after = Volume::new(&replayed, &superblock)?;
        if after.layout != volume.layout {
            return Err(Error::refused("a change of its size or layout waits in the journal"));
        }
        let used = block_bitmap::read(&after)?.used;
        if let Some(free) = journal.extents().subtract(&used).iter().next() {
            let expected = "marked as used in the block bitmap";
            return Err(Error::corrupt("journal", free.start, expected, "marked as free"));
        }
        Ok(used.union(&block_bitmap::marked(volume)?))
    }

    /// The superblock as it is in the journal, where it waits there.
    fn superblock_after_replay(&self, replayed: &Source) -> Result<Superblock> {
        let superblock = Superblock::read(replayed)?
            .filter(|superblock| superblock.uuid == self.superblock.uuid)
            .ok_or_else(|| Error::refused("another superblock waits in the journal"))?;
        match self.refused_by_superblock(&superblock)? {
            Some(reason) => Err(Error::refused(format!("once the journal is replayed, {reason}"))),
            None => Ok(superblock),
        }
    }

    /// What in `superblock` alone keeps the map from being believed.
    fn refused_by_superblock(&self, superblock: &Superblock) -> Result<Option<String>> {
        const VALID: u16 = 1;
        const ERRORS: u16 = 2;
        let features = superblock.features;
        let state = superblock.fields().le16(0x3A)?;
        let missing = self.identity.size.saturating_sub(self.source.size());
        Ok(if features.has_incompat(incompat::JOURNAL_DEV) {
            Some("it is the journal of another filesystem".to_owned())
        } else if let Some(unknown) = features.unknown() {
            Some(format!("{unknown} is not supported"))
        } else if state & ERRORS != 0 {
            Some("it has recorded errors (s_state); e2fsck should see it".to_owned())
        } else if state & VALID == 0 {
            Some("it was not unmounted cleanly (s_state)".to_owned())
        } else if !missing.is_zero() {
            Some(format!("its volume ends {} bytes before the filesystem", missing.get()))
        } else {
            None
        })
    }

    fn journal_state(&self, volume: &Volume<'_>) -> Result<State> {
        let features = self.superblock.features;
        let needs_recovery = features.has_incompat(incompat::RECOVER);
        let raw = |reason: &str| Ok(State::Raw(reason.to_owned()));
        if !features.has_compat(compat::HAS_JOURNAL) {
            return match needs_recovery {
                true => raw("needs_recovery is set, but there is no journal"),
                false => Ok(State::Clean),
            };
        }
        if self.journal_inode()? == 0 {
            return match needs_recovery {
                true => raw("the journal is dirty and lies on another device"),
                false => Ok(State::Clean),
            };
        }
        let JournalSuperblock { started, aborted, fast_commit, .. } =
            self.journal(volume)?.superblock;
        if aborted {
            return raw("the journal was aborted (s_errno); e2fsck should see it");
        }
        match (needs_recovery, started) {
            (true, _) if fast_commit => raw("the journal is dirty and has fast commits"),
            (true, _) => Ok(State::Replayable),
            // The kernel throws away what waits, e2fsck replays it.
            (false, true) => raw("transactions wait in its journal, but needs_recovery is not set"),
            (false, false) => Ok(State::Clean),
        }
    }

    /// Number of the inode whose file is the journal (`s_journal_inum`), 0 where it is another device.
    fn journal_inode(&self) -> Result<u32> {
        self.superblock.fields().le32(0xE0)
    }

    fn journal(&self, volume: &Volume<'_>) -> Result<Journal> {
        Journal::open(volume, self.journal_inode()?)
    }

    /// The superblock's count must be the bitmaps' one; with orphans left it may be an older one, because
    /// then the journal was replayed, but nobody has counted since.
    fn compare_free_blocks(&self, counted: u64) -> Result<()> {
        let (fields, found) = (self.superblock.fields(), self.superblock.free_blocks_count()?);
        let orphans = fields.le32(0xE8)? != 0
            || self.superblock.features.has_ro_compat(ro_compat::ORPHAN_PRESENT);
        if found == counted || orphans {
            return Ok(());
        }
        let expected = format!("{counted} as the block bitmaps say");
        Err(fields.corrupt("s_free_blocks_count", 0x0C, expected, found))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use proptest::prelude::*;

    use super::probe;
    use super::sample::Sample;
    use crate::extent::{Extent, ExtentSet};
    use crate::fs::{GrowthTool, State};
    use crate::io::memory::Memory;
    use crate::io::{BlockSink, BlockSource};
    use crate::units::Bytes;

    fn raw(reason: &str) -> State {
        State::Raw(reason.to_owned())
    }

    #[test]
    fn doubts_of_the_superblock_are_named() {
        let sample = Sample::new("");
        assert_eq!(sample.state(), State::Clean);
        for (damaged, reason) in [
            (
                sample.clone().flags(0x3A, 2),
                "it has recorded errors (s_state); e2fsck should see it",
            ),
            (sample.clone().superblock(0x3A, &[0]), "it was not unmounted cleanly (s_state)"),
            (sample.clone().flags(0x5C, 0x40), "compat feature 0x40 is not supported"),
            (sample.clone().flags(0x60, 0x400_0000), "incompat feature 0x4000000 is not supported"),
            (sample.clone().flags(0x64, 0x80), "ro_compat feature 0x80 is not supported"),
            (sample.clone().flags(0x60, 8), "it is the journal of another filesystem"),
            (
                sample.clone().flags(0x60, 4).superblock(0xE0, &[0; 4]),
                "the journal is dirty and lies on another device",
            ),
            (
                sample.clone().superblock(0x5C, &[0x28]).flags(0x60, 4),
                "needs_recovery is set, but there is no journal",
            ),
            (
                Sample { bytes: sample.bytes[..(6 << 20) - 512].to_vec() },
                "its volume ends 512 bytes before the filesystem",
            ),
        ] {
            assert_eq!(damaged.state(), raw(reason));
            assert_eq!(damaged.refusal(), reason);
        }
    }

    #[test]
    fn where_nothing_waits_to_be_replayed_the_map_is_as_before() {
        let sample = Sample::new("");
        let dirty = sample.clone().flags(0x60, 4);
        assert_eq!(dirty.state(), State::Replayable);
        assert_eq!(dirty.open().used().unwrap(), sample.open().used().unwrap());
        let stale = dirty.superblock(0x0C, &[0, 0]);
        assert!(stale.open().used().is_ok(), "nobody counts while it is mounted");
    }

    #[test]
    fn the_map_ends_where_the_filesystem_ends() {
        let mut sample = Sample::new("");
        let used = sample.open().used().unwrap();
        assert!(used.contains(Extent::first(Bytes::BLOCK)));
        sample.bytes.resize((6 << 20) + 7000, 0xA5);
        assert_eq!(sample.open().used().unwrap(), used);
    }

    /// Bits that are read to make the map: superblock, descriptors, bitmaps of groups that have one.
    fn mapped_bits(sample: &Sample, desc: usize) -> Vec<(usize, u8)> {
        let bitmaps = (0..6).filter(|group| sample.bytes[2048 + group * desc + 0x12] & 2 == 0);
        let bitmaps = bitmaps.flat_map(|group| {
            let table = sample.le32(2048 + group * desc);
            let at = usize::try_from(table).unwrap() * 1024;
            at..at + 128
        });
        let bytes = (1024..2048).chain(2048..2048 + 6 * desc).chain(bitmaps);
        bytes.flat_map(|at| (0..8).map(move |bit| (at, 1 << bit))).collect()
    }

    /// What `probe` and `used` make of the sample with this one bit flipped.
    fn flipped(
        memory: &Arc<Memory>,
        at: usize,
        bit: u8,
    ) -> Option<crate::error::Result<ExtentSet>> {
        let flip = || {
            let byte = memory.read(Bytes::from(at), 1).unwrap()[0];
            memory.write_at(Bytes::from(at), &[byte ^ bit]).unwrap();
        };
        flip();
        let source: Arc<dyn BlockSource> = memory.clone();
        let used = probe(&source).transpose().map(|opened| opened.and_then(|fs| fs.used()));
        flip();
        used
    }

    #[test]
    fn every_flipped_bit_is_found_by_a_checksum() {
        let sample = Sample::new("");
        let pristine = sample.open().used().unwrap();
        let memory = Arc::new(Memory::new(sample.bytes.clone()));
        for (at, bit) in mapped_bits(&sample, 64) {
            match flipped(&memory, at, bit) {
                // The magic, without which it is no ext at all.
                None => assert!((1024 + 0x38..1024 + 0x3A).contains(&at), "byte {at} bit {bit}"),
                Some(Err(_)) => {}
                // The flag that says that there are checksums: the counters still hold.
                Some(Ok(used)) => {
                    assert_eq!((at, bit), (1024 + 0x65, 4));
                    assert_eq!(used, pristine);
                }
            }
        }
    }

    #[test]
    fn without_checksums_a_flipped_bit_of_the_map_is_found_by_the_counters() {
        let sample = Sample::new("^metadata_csum,^64bit");
        let pristine = sample.open().used().unwrap();
        let memory = Arc::new(Memory::new(sample.bytes.clone()));
        for (at, bit) in mapped_bits(&sample, 32).into_iter().filter(|(at, _)| *at >= 2048) {
            if let Some(Ok(used)) = flipped(&memory, at, bit) {
                assert!(pristine.subtract(&used).is_empty(), "byte {at} bit {bit}");
            }
        }
    }

    static SAMPLES: LazyLock<[Sample; 2]> =
        LazyLock::new(|| [Sample::new(""), Sample::new("^metadata_csum,^64bit")]);

    proptest! {
        #[test]
        fn no_superblock_or_descriptor_makes_it_panic(
            sample in 0..2_usize,
            fields in prop::collection::vec((0..0x280_usize, any::<[u8; 4]>()), 0..4),
            descs in prop::collection::vec((0..6_usize, 0..61_usize, any::<[u8; 4]>()), 0..4),
        ) {
            let sample = descs.iter().fold(SAMPLES[sample].clone(), |sample, (group, at, bytes)| {
                sample.desc(*group, *at, bytes)
            });
            let sample = fields.iter().fold(sample, |sample, (at, bytes)| {
                sample.superblock(*at, bytes)
            });
            if let Ok(Some(filesystem)) = probe(&sample.superblock(0x38, &[0x53, 0xEF]).source()) {
                drop(filesystem.state());
                drop(filesystem.used());
                filesystem.growth();
            }
        }
    }

    #[test]
    fn growth_is_offered_where_resize2fs_is_safe() {
        for (features, tool) in [
            ("resize_inode,orphan_file", Some(GrowthTool::Resize2fs)),
            ("meta_bg,orphan_file", Some(GrowthTool::Resize2fs)),
            ("orphan_file", None),
            ("bigalloc", None),
        ] {
            assert_eq!(Sample::new(features).open().growth(), tool, "{features}");
        }
        assert_eq!(Sample::new("").flags(0x60, 8).open().growth(), None);
        assert_eq!(Sample::new("").flags(0x64, 0x1000).open().growth(), None);
    }
}
