//! What only the kernel can answer or do: block devices, loops, mounts, sysfs.
//!
//! Answers: facts of this machine, as the kernel tells them. Refuses: judging them; rules live in `disk`.
//! The only room with `unsafe`. Errors are plain [`std::io::Error`]s; callers name path and action.
//!
//! - [`ioctl`]: calls on open block devices.
//! - `loop_device`: a part of a file as a block device. - `mount_namespace`: mounts that nobody else sees.
//! - [`mounts`]: mount table, swap areas, fstab.
//! - [`sysfs`]: block devices and how they are stacked.
//! - [`controller`]: the drivers of what a disk is plugged into.
//! - [`space`]: free space of a filesystem.

pub mod controller;
pub mod ioctl;
#[allow(unsafe_code)]
pub(crate) mod loop_device;
#[allow(unsafe_code)]
pub(crate) mod mount_namespace;
pub mod mounts;
pub mod space;
pub mod sysfs;

#[cfg(test)]
pub(crate) mod fake;
