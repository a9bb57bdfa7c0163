//! A restored volume as something that a filesystem's own tools can work on.
//!
//! Answers: a path that behaves like a device with just this volume on it, before any partition table or
//! device-mapper knows the volume. Refuses: volumes with holes, and places outside of their target.
//!
//! There is no `FILE?offset=N` here, though e2fsck and resize2fs know it: resize2fs (1.47.0) cuts a
//! regular file off at the filesystem's new size, offset or not, and on a disk it fails with EBUSY while
//! this program holds its exclusive claim. A loop device has neither fault, and fences the tool in.
//!
//! - [`layout`]: where a volume lies. - [`volume`]: reads and writes it there. - `driver`: mounts it, NTFS by a program.
//! - [`open`]: chooses and makes a view. - [`scratch`]: folders to mount on.
//! - `served` (parent) and `serve` (child): a volume as a file, by FUSE (feature `fuse`).
//! - [`trial`]: a volume that is mounted without being changed; `overlay`: where its changes go.

mod driver;
pub mod layout;
pub mod open;
#[cfg(feature = "fuse")]
mod overlay;
mod scratch;
#[cfg(feature = "fuse")]
mod serve;
#[cfg(feature = "fuse")]
mod served;
#[cfg(feature = "fuse")]
pub mod trial;
pub mod volume;

pub(crate) use driver::NTFS;
pub use layout::{Layout, Piece, Place};
pub use open::{Need, OpenView, View};
pub(crate) use scratch::Scratch;
#[cfg(feature = "fuse")]
pub use serve::serve;
#[cfg(feature = "fuse")]
pub use trial::Trial;
pub use volume::Volume;
