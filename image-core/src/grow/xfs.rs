//! XFS: grown while it is mounted, in a mount namespace of its own.

use rustix::io::Errno;

use super::superblock::{Superblock, outcome};
use super::{GrowOutcome, is_root};
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::units::Bytes;
use crate::view::{Layout, Need, OpenView, View};

/// The restored volume has the identifier of its source, which may be mounted here too.
const OPTIONS: &str = "nouuid";

/// Mounts it, which replays its log, and grows it to the volume's end.
///
/// # Errors
/// [`Error::Corrupt`] where the kernel finds it damaged.
pub(super) fn grow(runner: &dyn Runner, server: &Call, layout: &Layout) -> Result<GrowOutcome> {
    let view = View::of(layout, Need::Mount, is_root());
    let (before, volume) = OpenView::with(layout, view, server, |view| {
        let before = Superblock::xfs(view.volume())?;
        if layout.size().checked_sub(before.size).is_some_and(|rest| rest < before.slack) {
            return Ok(None);
        }
        mount_and_grow(runner, view)?;
        Ok(Some(before))
    })?;
    let Some(before) = before else { return Ok(GrowOutcome::Unchanged) };
    outcome("xfs_growfs", before, Superblock::xfs(&volume)?, layout.size())
}

fn mount_and_grow(runner: &dyn Runner, view: &mut OpenView) -> Result<()> {
    view.mounted("xfs", OPTIONS, false, |folder| {
        runner.check(&Call::new("xfs_growfs", ["-d".as_ref(), folder.as_os_str()]))
    })
    .map_err(damaged)?;
    // umount(2) succeeds though its last writes failed. They come before the record that makes the log
    // clean, and where nobody may write, only a clean log can be mounted.
    view.forbid_writing()?;
    view.mounted("xfs", OPTIONS, true, |_| Ok(()))
}

/// What the kernel calls "needs cleaning" (EFSCORRUPTED) or a bad checksum (EFSBADCRC) is damage.
fn damaged(error: Error) -> Error {
    match error {
        Error::Io { source, .. }
            if [Errno::UCLEAN, Errno::BADMSG]
                .iter()
                .any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) =>
        {
            Error::corrupt(
                "XFS filesystem",
                Bytes::ZERO,
                "one that can be mounted",
                source.to_string(),
            )
        }
        other => other,
    }
}
