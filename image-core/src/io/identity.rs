//! What tells one disk or file from another: compared again on the open descriptor before it is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys::sysfs::{self, DeviceNumber};
use crate::units::Bytes;

/// What tells an open disk or file from others. Equal = the same one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceIdentity {
    /// Which device or file.
    pub number: Number,
    /// Its size.
    pub size: Bytes,
    /// Model, where known.
    pub model: Option<String>,
    /// Serial number, where known.
    pub serial: Option<String>,
    /// World-wide name, where known.
    pub wwn: Option<String>,
    /// The kernel's sequence number of disks, where it has one: another medium in the same slot differs.
    pub sequence: Option<u64>,
}

/// The kernel's address of a device or file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Number {
    /// A block device, by whatever node it was opened.
    Device(DeviceNumber),
    /// A regular file.
    File {
        /// Its filesystem.
        device: DeviceNumber,
        /// Its number there.
        inode: u64,
    },
}

impl Number {
    /// The number of what `metadata` describes: a block device, or else a file.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(DeviceNumber::from_raw(metadata.rdev()))
        } else {
            Self::File { device: DeviceNumber::from_raw(metadata.dev()), inode: metadata.ino() }
        }
    }
}

impl DeviceIdentity {
    /// Asks the open `file`, called `name` in errors.
    pub(super) fn of(file: &File, name: &str, size: Bytes) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| Error::io(name, "stat", error))?;
        let number = Number::of(&metadata);
        let Number::Device(device) = number else {
            return Ok(Self { number, size, model: None, serial: None, wwn: None, sequence: None });
        };
        let facts = sysfs::block_devices(Path::new("/sys"))
            .map_err(|error| Error::io("/sys/class/block", "read", error))?
            .into_iter()
            .find(|facts| facts.number == device)
            .ok_or_else(|| {
                Error::io(name, "find in /sys/class/block", io::ErrorKind::NotFound.into())
            })?;
        let sysfs::BlockDevice { model, serial, wwn, sequence, .. } = facts;
        Ok(Self { number, size, model, serial, wwn, sequence })
    }

    /// For people: what can be read off the disk's label.
    fn describe(&self) -> String {
        let known = [&self.model, &self.serial, &self.wwn].into_iter().flatten();
        let words: Vec<&str> = known.map(String::as_str).collect();
        format!("{} ({} bytes)", words.join(" "), self.size.get()).trim_start().to_owned()
    }

    /// Refuses, naming what differs, unless this is `expected`.
    pub(super) fn check(&self, expected: &Self, name: &str) -> Result<()> {
        if self == expected {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{name} is not what was confirmed any more: it was {}, now it is {}; look again and confirm it",
            expected.describe(),
            self.describe()
        )))
    }
}
