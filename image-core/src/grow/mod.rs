//! Grows the filesystem of a restored volume to the volume's end, by the filesystem's own tools.
//!
//! Answers: before the first write, what stands in the way ([`check`]); then the growth ([`grow`]), which
//! believes no exit code alone: the new size is read from the superblock. Refuses: force. A damaged ext
//! filesystem is left as it is.
//!
//! - [`obstacle`]: tools, rights and the kernel. - [`ext`], [`xfs`]: how each grows.
//! - `superblock`: the size that a filesystem says it has.

pub(crate) mod ext;
pub(crate) mod obstacle;
pub(crate) mod superblock;
pub(crate) mod xfs;

use serde::{Deserialize, Serialize};

pub use obstacle::{Obstacle, check};

use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::fs::GrowthTool;
use crate::units::Bytes;
use crate::view::Layout;

/// A filesystem that is to fill its volume.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Growth {
    /// The volume's id, for messages.
    pub volume: String,
    /// How it grows.
    pub tool: GrowthTool,
    /// Where the volume lies, at its new size.
    pub layout: Layout,
}

/// What became of a filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GrowOutcome {
    /// It was `from` and is `to` now.
    Grown {
        /// Size before.
        from: Bytes,
        /// Size now: the volume's, but for a rest that the filesystem cannot use.
        to: Bytes,
    },
    /// The new space is less than the filesystem can use.
    Unchanged,
}

/// Whether this process may make loop devices and mount.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Grows one filesystem. `server` is described at [`crate::view::OpenView::open`].
///
/// # Errors
/// [`Error::Corrupt`]: the filesystem is damaged, and was not grown. Any other: growing failed.
pub fn grow(runner: &dyn Runner, server: &Call, growth: &Growth) -> Result<GrowOutcome> {
    let grown = match growth.tool {
        GrowthTool::Resize2fs => ext::grow(runner, server, &growth.layout),
        GrowthTool::XfsGrowfs => xfs::grow(runner, server, &growth.layout),
        GrowthTool::Swap => Err(Error::unsupported("growing a swap area")),
    };
    grown.map_err(|error| error.on(&growth.volume))
}
