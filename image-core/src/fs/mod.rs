//! Filesystems: which bytes of a volume they use, and what else a plan must know of them.
//!
//! Answers: what is on a volume, and a *proven* map of its used bytes. Refuses to guess: where the state
//! is neither clean nor can be replayed in memory, a feature is unknown or a counter does not add up, the
//! answer is an error whose message is the reason, and the caller saves the whole volume.
//!
//! One folder a filesystem, one file an on-disk structure; [`probe`] asks them all.
//!
//! - `owners`: which files some bytes belong to. - [`xfs`]: XFS v4 and v5. - [`fat`]: FAT12, FAT16, FAT32. - [`swap`]: Linux swap areas.
#![deny(clippy::as_conversions)]

pub mod fat;
mod owners;
pub mod swap;
pub mod xfs;

use std::sync::Arc;

pub mod ext;

pub use owners::{MOST_FILES, Owners};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::extent::ExtentSet;
use crate::io::BlockSource;
use crate::units::Bytes;

/// What a filesystem says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `blkid`'s TYPE: `ext4`, `xfs`, `vfat`, `swap`.
    pub content: &'static str,
    /// Volume label, where set.
    pub label: Option<String>,
    /// UUID or serial as `blkid` writes it, where there is one.
    pub uuid: Option<String>,
    /// Bytes that the filesystem claims from the start of its volume.
    pub size: Bytes,
    /// Its block (allocation unit's base) size: a disk with larger sectors cannot hold it.
    pub block_size: Bytes,
    /// The smallest logical sector that it can be mounted on or used with may not exceed this.
    pub sector_limit: Bytes,
    /// Where it was last mounted, as ext records it.
    pub last_mounted: Option<String>,
}

/// How far the allocation map can be believed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Unmounted cleanly: the map holds.
    Clean,
    /// A journal waits to be replayed; the map is of the filesystem before and after that.
    Replayable,
    /// A hibernated system lives in it.
    Hibernated,
    /// Encrypted, and no key.
    Locked,
    /// Not believed; the reason is a phrase: `the journal is dirty`.
    Raw(String),
}

/// Which tool makes it larger.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum GrowthTool {
    /// e2fsck, then resize2fs.
    Resize2fs,
    /// Mounted, then xfs_growfs.
    XfsGrowfs,
    /// A new header.
    Swap,
}

/// One filesystem (or swap area) on one volume, opened for reading.
pub trait Filesystem: Send + Sync {
    /// What it says of itself; read when it was opened.
    fn identity(&self) -> &Identity;

    /// How far its map can be believed, from its headers and journal.
    ///
    /// # Errors
    /// [`crate::error::Error`] where these cannot be read.
    fn state(&self) -> Result<State>;

    /// The used bytes: a superset of all live data, rounded outwards to 4 KiB and clipped at the volume's
    /// end; proven against the filesystem's own counters.
    ///
    /// # Errors
    /// Whatever keeps the map from being proven; its message is the reason for a raw copy.
    fn used(&self) -> Result<ExtentSet>;

    /// Which files the bytes `lost` belong to; `None` where it has no files, or they cannot be told.
    ///
    /// # Errors
    /// Whatever keeps it from looking at all.
    fn owners(&self, lost: &ExtentSet) -> Result<Option<Owners>> {
        let _ = lost;
        Ok(None)
    }

    /// The smallest volume that it fits on as it is, without shrinking it.
    fn min_size(&self) -> Bytes {
        self.identity().size
    }

    /// How it grows, where a tool can do it.
    fn growth(&self) -> Option<GrowthTool> {
        None
    }
}

type Probe = fn(&Arc<dyn BlockSource>) -> Result<Option<Box<dyn Filesystem>>>;

/// Every filesystem that is known, strongest signatures first.
const PROBES: [Probe; 4] = [ext::probe, xfs::probe, swap::probe, fat::probe];

/// The filesystem on `source`; `None` where no known one is.
///
/// # Errors
/// Reading; a signature whose headers cannot be trusted; signatures of two filesystems, for one of them
/// is stale and nothing tells which. All but the first are reasons for a raw copy.
pub fn probe(source: &Arc<dyn BlockSource>) -> Result<Option<Box<dyn Filesystem>>> {
    let mut found: Option<Box<dyn Filesystem>> = None;
    for probe in PROBES {
        let Some(next) = probe(source)? else { continue };
        if let Some(first) = &found {
            let (first, next) = (first.identity().content, next.identity().content);
            return Err(Error::refused(format!("there are signatures of both {first} and {next}")));
        }
        found = Some(next);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::probe;
    use crate::exec::real::Machine;
    use crate::exec::{Call, Runner};
    use crate::io::BlockSource;
    use crate::io::memory::Memory;

    fn fat() -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(34 << 20).unwrap();
        let path = file.path().to_str().unwrap();
        Machine.check(&Call::new("mkfs.fat", ["-F", "32", path])).expect("install dosfstools");
        std::fs::read(path).unwrap()
    }

    fn content(image: Vec<u8>) -> Result<Option<&'static str>, String> {
        let source: Arc<dyn BlockSource> = Arc::new(Memory::new(image));
        let found = probe(&source).map_err(|error| error.to_string())?;
        Ok(found.map(|volume| volume.identity().content))
    }

    #[test]
    fn one_signature_is_an_answer_and_two_are_none() {
        assert_eq!(content(vec![0; 1 << 20]), Ok(None));
        assert_eq!(content(fat()), Ok(Some("vfat")));
        let mut both = fat();
        both[1024] = 1;
        both[1028] = 100;
        both[4086..4096].copy_from_slice(b"SWAPSPACE2");
        assert_eq!(content(both), Err("there are signatures of both swap and vfat".to_owned()));
    }
}
