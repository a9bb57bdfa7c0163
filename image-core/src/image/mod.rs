//! The image format: what the bytes of an image mean. Pure: nothing here opens a file.
//!
//! Answers: how a window of a volume becomes a chunk and back, how chunks stand in packs, how a volume's
//! windows are listed, how a root and a record name all of it. Refuses: unknown versions and
//! must-understand flags, and whatever contradicts its own BLAKE3, sum or bound; no size read from
//! foreign bytes is allocated before it was compared with a limit. Every byte stands in `docs/FORMAT.md`.
//!
//! - `hash.rs` names by content · `header.rs` the head of every file · `time.rs` UTC seconds
//! - `chunk.rs` a window's state: data, zeros, unreadable ranges · `codec.rs` plain bytes to stored bytes
//! - `delta.rs` the same beside a base chunk
//! - `pack.rs` chunks in a file · `segment.rs` the table of 16 Ki windows
//! - `manifest.rs` the root: disks, volumes, volume groups · `record.rs` one save
#![deny(clippy::as_conversions)]

pub mod chunk;
pub mod codec;
pub mod delta;
pub mod hash;
pub mod header;
pub mod manifest;
pub mod pack;
pub mod record;
pub mod segment;
pub mod time;

use crate::units::Bytes;

/// The grid on which volumes are cut by this version; readers take it from the root.
pub const WINDOW: Bytes = Bytes::MIB;

/// Number of windows in one table segment.
pub const SEGMENT_WINDOWS: u64 = 16 * 1024;

/// What a stored chunk may be larger than its window.
pub const STORED_SLACK: Bytes = Bytes::new(256);

/// `window`, if it is a window size that this version works with: a power of two, 64 KiB to 4 MiB.
pub fn checked_window(window: Bytes) -> crate::error::Result<Bytes> {
    if window.get().is_power_of_two() && (Bytes::kib(64)..=Bytes::mib(4)).contains(&window) {
        return Ok(window);
    }
    Err(crate::error::Error::unsupported(format!("window size {}", window.get())))
}
