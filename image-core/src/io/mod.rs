//! Where bytes come from and go to: disks, image files, windows of them, memory.
//!
//! Answers: exact reads and writes at byte positions, for every kind of container alike.
//! Refuses: partial reads, positions beyond the end.
//!
//! - [`source`], [`sink`]: the traits.
//! - [`memory`]: a container in memory, for tests and for building tables.
//! - [`overlay`]: a container with some ranges masked.
//! - [`window`]: a part of another container.
//! - [`device`]: a disk, a partition or an image file; `file`: what only files can do.
//! - [`direct`]: a device or file past the page cache; [`aligned`]: the buffers that this takes.
//! - [`identity`]: what tells one from another.
//! - [`rescue`]: a disk with unreadable sectors.
//! - [`withheld`]: a target whose start is written last. - [`guarded`]: a target of which some stays.

pub mod aligned;
pub mod device;
pub mod direct;
mod file;
pub mod guarded;
pub mod identity;
pub mod memory;
pub mod overlay;
pub mod rescue;
pub mod sink;
pub mod source;
pub mod window;
pub mod withheld;

#[cfg(test)]
mod conformance;
#[cfg(test)]
pub(crate) mod crash;

pub use sink::{BlockSink, Medium};
pub use source::BlockSource;

/// A container to read, shared.
pub type Source = std::sync::Arc<dyn BlockSource>;

/// A container to write, shared.
pub type Sink = std::sync::Arc<dyn BlockSink>;
