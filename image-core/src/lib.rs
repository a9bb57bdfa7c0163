//! Disk imaging: save the used extents of disks into a repository, restore them grown onto others.
//!
//! Rooms, bottom up: see `docs/ARCHITECTURE.md` for who may know whom.
#[cfg(test)]
// So that test files which packages share can say `image_core` everywhere.
extern crate self as image_core;

pub mod clone;
pub mod disk;
pub mod error;
pub mod exec;
pub mod extent;
pub mod fields;
pub mod fixup;
pub mod fs;
pub mod grow;
pub mod image;
pub mod io;
pub mod lvm;
pub mod pipeline;
pub mod plan;
#[cfg(feature = "fuse")]
pub mod repair;
#[cfg(feature = "fuse")]
pub mod replay;
pub mod repo;
pub mod report;
pub mod restore;
pub mod save;
pub mod survey;
pub mod sys;
pub mod units;
pub mod verify;
pub mod view;
