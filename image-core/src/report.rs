//! How long work tells the outside what it does, and learns that it should stop.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::units::Bytes;

/// A part of a verb's work that has its own progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Looking at tables, volume groups and filesystems.
    Survey,
    /// Reading known chunks of a repository.
    Index,
    /// Trying on samples how much will be stored.
    Estimate,
    /// Reading, hashing, compressing and storing the source's used bytes.
    Save,
    /// Invalidating the target and removing stale signatures.
    Wipe,
    /// Writing chunks onto the target.
    Write,
    /// Reading the target back.
    Verify,
    /// Growing filesystems.
    Grow,
    /// Writing volume group metadata, boot code and partition tables.
    Finish,
    /// Reading and checking chunks of an image.
    Check,
    /// Copying what is needed of packs of which most is not.
    Rewrite,
    /// Downloading the packages that a live system is made of.
    Packages,
    /// Unpacking them.
    Unpack,
    /// Compressing a live system.
    Compress,
    /// Making a live system and its medium.
    Build,
    /// Making what was restored start on this machine.
    Repair,
    /// Copying images into another repository.
    Copy,
}

impl Stage {
    /// One lower-case word, as `--progress jsonl` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Survey => "survey",
            Self::Index => "index",
            Self::Estimate => "estimate",
            Self::Save => "save",
            Self::Wipe => "wipe",
            Self::Write => "write",
            Self::Verify => "verify",
            Self::Grow => "grow",
            Self::Finish => "finish",
            Self::Check => "check",
            Self::Rewrite => "rewrite",
            Self::Packages => "packages",
            Self::Unpack => "unpack",
            Self::Compress => "compress",
            Self::Build => "build",
            Self::Repair => "repair",
            Self::Copy => "copy",
        }
    }
}

/// Receives progress and warnings; called from several threads, must not block.
pub trait Report: Sync {
    /// A stage begins; `total` is what [`Report::advance`] will add up to, where known.
    fn stage(&self, stage: Stage, total: Option<Bytes>);
    /// `bytes` more of the current stage are done.
    fn advance(&self, bytes: Bytes);
    /// Something the user should read; work goes on.
    fn warning(&self, message: &str);
    /// Something the user should know, and need not worry about.
    fn note(&self, _message: &str) {}
    /// Whether the user asked to stop.
    fn interrupted(&self) -> bool {
        false
    }
    /// [`Error::Interrupted`] when the user asked to stop; long loops call it once a window.
    fn checkpoint(&self) -> Result<()> {
        if self.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Keeps warnings and drops the rest: for tests and for callers that only want the result.
#[derive(Default, Debug)]
pub struct Quiet {
    warnings: Mutex<Vec<String>>,
}

impl Quiet {
    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().map(|list| list.clone()).unwrap_or_default()
    }
}

impl Report for Quiet {
    fn stage(&self, _: Stage, _: Option<Bytes>) {}
    fn advance(&self, _: Bytes) {}
    fn warning(&self, message: &str) {
        if let Ok(mut list) = self.warnings.lock() {
            list.push(message.to_owned());
        }
    }
}

/// Wants to stop after so many checkpoints: for tests.
#[cfg(test)]
pub(crate) struct Impatient(std::sync::atomic::AtomicUsize);

#[cfg(test)]
impl Impatient {
    pub(crate) fn new(checkpoints: usize) -> Self {
        Self(checkpoints.into())
    }
}

#[cfg(test)]
impl Report for Impatient {
    fn stage(&self, _: Stage, _: Option<Bytes>) {}
    fn advance(&self, _: Bytes) {}
    fn warning(&self, _: &str) {}
    fn interrupted(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
    }
}
