//! The parent's side of a FUSE view: a child process that serves the volume.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::scratch::Scratch;
use crate::error::{Error, Result};
use crate::exec::real::{Beside, Machine};
use crate::exec::{Call, Runner};
use crate::extent::{Extent, ExtentSet};

/// The one file in the folder.
pub(super) const FILE: &str = "volume";
/// What the child answers once the file is there.
pub(super) const READY: &str = "ready";
/// The line that asks what was touched; answered by one line, a JSON array of extents.
pub(super) const TOUCHED: &str = "touched";
/// How long the child may take to flush the targets and end: they may be slow.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the child is to put what is written to the file.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) enum Writes {
    /// On the targets.
    ReachTargets,
    /// The targets are opened for reading only.
    StayInMemory,
}

/// The first line that the child is sent, as JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) layout: Layout,
    pub(super) writes: Writes,
}

/// A volume as a file, served by a child process; ended when dropped.
#[derive(Debug)]
pub(crate) struct ServedVolume {
    folder: Scratch,
    child: Option<Beside>,
}

impl ServedVolume {
    /// Starts `server`, with the folder to serve on as its last argument, and waits for the file.
    ///
    /// # Errors
    /// [`Error::Io`] with what the child said.
    pub(crate) fn start(server: &Call, layout: &Layout, writes: Writes) -> Result<Self> {
        let folder = Scratch::new()?;
        let mut call = server.clone();
        call.args.push(folder.path().into());
        let mut line = serde_json::to_vec(&Order { layout: layout.clone(), writes })
            .map_err(|source| Error::io(call.line(), "start", source.into()))?;
        line.push(b'\n');
        let child = Machine.spawn(&call.stdin(line))?;
        let mut served = Self { folder, child: Some(child) };
        let answer = served.child.as_mut().map_or(Ok(String::new()), Beside::answer)?;
        if answer.trim() != READY {
            served.end()?;
            let source = std::io::Error::other("it did not start");
            return Err(Error::io(server.line(), "serve a volume with", source));
        }
        Ok(served)
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(FILE)
    }

    /// What was read or written until now; nothing is kept of that where writes reach the targets.
    ///
    /// # Errors
    /// [`Error::Io`]: the child does not answer.
    pub(crate) fn touched(&mut self) -> Result<ExtentSet> {
        let failed = |source| Error::io("the process that serves a volume", "ask", source);
        let child = self.child.as_mut().ok_or_else(|| failed(ErrorKind::NotConnected.into()))?;
        child.tell(&format!("{TOUCHED}\n"))?;
        let extents: Vec<Extent> =
            serde_json::from_str(&child.answer()?).map_err(|source| failed(source.into()))?;
        Ok(extents.into_iter().collect())
    }

    /// Ends the service once nobody uses the file, with the targets flushed.
    ///
    /// # Errors
    /// [`Error::Io`]: some write to the targets failed, or the child did not live to the end.
    pub(crate) fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(child) = self.child.take() else { return Ok(()) };
        let outcome = child.finish(PATIENCE);
        // The child unmounts; unless it was killed.
        drop(unmount(self.folder.path()));
        let outcome = outcome?;
        if outcome.success() {
            return Ok(());
        }
        Err(outcome.failure("the process that serves a volume"))
    }
}

impl Drop for ServedVolume {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`; here an earlier error is on its way already.
        drop(self.end());
    }
}

/// Takes the mount on `folder` away at once; who uses it still can go on. No mount there is fine.
pub(super) fn unmount(folder: &Path) -> Result<()> {
    let failed = |source| Error::io(folder.display().to_string(), "unmount", source);
    match rustix::mount::unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        // Users who are not root mounted it by this program, and unmount it so.
        Err(Errno::PERM) => {
            let program = ["fusermount3", "fusermount"]
                .into_iter()
                .find(|program| Machine.find(program).is_some());
            let program = program.ok_or_else(|| failed(ErrorKind::PermissionDenied.into()))?;
            let args = ["-u".as_ref(), "-z".as_ref(), folder.as_os_str()];
            Machine.check(&Call::new(program, args)).map(drop)
        }
        Err(errno) => Err(failed(errno.into())),
    }
}
