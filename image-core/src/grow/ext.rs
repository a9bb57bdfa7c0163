//! ext2, ext3 and ext4: e2fsck, then resize2fs, unmounted.

use std::path::Path;

use super::superblock::{Superblock, outcome};
use super::{GrowOutcome, is_root};
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::units::Bytes;
use crate::view::{Layout, Need, OpenView, View};

/// Mends what e2fsck mends without asking, then grows to the volume's end.
///
/// # Errors
/// [`Error::Corrupt`] where e2fsck does not vouch for the filesystem; it is not grown then.
pub(super) fn grow(runner: &dyn Runner, server: &Call, layout: &Layout) -> Result<GrowOutcome> {
    let view = View::of(layout, Need::Path, is_root());
    let (before, volume) = OpenView::with(layout, view, server, |view| {
        let before = Superblock::ext(view.volume())?;
        mend_and_resize(runner, &view.path(), layout.size())?;
        Ok(before)
    })?;
    outcome("resize2fs", before, Superblock::ext(&volume)?, layout.size())
}

fn mend_and_resize(runner: &dyn Runner, path: &Path, size: Bytes) -> Result<()> {
    check(runner, path)?;
    // Always with a size, rounded down; and never with -f: forced on a dirty filesystem it exits with 0
    // and the filesystem is gone.
    let size = format!("{}K", size.units(Bytes::KIB));
    let resized = runner.check(&Call::new("resize2fs", [path.as_os_str(), size.as_ref()]));
    // resize2fs 1.47.0 leaves wrong checksums where it moves an orphan file, and says nothing. Where it
    // fails, only e2fsck knows whether the filesystem is whole.
    check(runner, path)?;
    resized.map(drop)
}

/// e2fsck(8): the exit code is a sum; 1 = errors were corrected, 2 = and the system should be rebooted
/// (only of a mounted filesystem), 4 = errors were left, 8 = it could not be examined, 16 and up = usage,
/// cancelled, missing library.
pub(crate) fn check(runner: &dyn Runner, path: &Path) -> Result<()> {
    preen(runner, &["-f"], path)
}

/// The same of what the filesystem itself says that it has to be looked at: its journal is replayed, and more only
/// where it is marked as damaged.
pub(crate) fn replay(runner: &dyn Runner, path: &Path) -> Result<()> {
    preen(runner, &[], path)
}

fn preen(runner: &dyn Runner, options: &[&str], path: &Path) -> Result<()> {
    let mut call = Call::new("e2fsck", options);
    call.args.extend(["-p".into(), path.into()]);
    let outcome = runner.run(&call)?;
    match outcome.code {
        Some(0 | 1) => Ok(()),
        Some(code @ 4..16) => Err(Error::corrupt(
            "ext filesystem",
            Bytes::ZERO,
            "one that e2fsck -p can mend",
            format!("exit code {code}: {}", outcome.talk()),
        )),
        _ => Err(outcome.failure(&call.line())),
    }
}
