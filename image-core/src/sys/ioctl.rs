//! Calls on open block devices that `rustix` does not have (linux/fs.h, linux/dm-ioctl.h).
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{Getter, NoArg, Opcode, Setter, Updater, ioctl, opcode};

use super::sysfs::DeviceNumber;
use crate::extent::Extent;
use crate::units::Bytes;

const BLKROGET: Opcode = opcode::none(0x12, 94);
const BLKRRPART: Opcode = opcode::none(0x12, 95);
// Declared with size_t, though the kernel writes 64 bits everywhere.
const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
const BLKDISCARD: Opcode = opcode::none(0x12, 119);
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);
const DM_DEV_STATUS: Opcode = opcode::read_write::<DmIoctl>(0xfd, 7);

/// Size of a block device.
pub fn size(device: impl AsFd) -> io::Result<Bytes> {
    // SAFETY: BLKGETSIZE64 writes one u64.
    let size = unsafe { ioctl(device, Getter::<BLKGETSIZE64, u64>::new()) }?;
    Ok(Bytes::new(size))
}

/// Logical sector size of a block device: the grain of its addresses.
pub fn logical_sector(device: impl AsFd) -> io::Result<Bytes> {
    Ok(rustix::fs::ioctl_blksszget(device)?.into())
}

/// Whether the kernel refuses writes to a block device.
pub fn read_only(device: impl AsFd) -> io::Result<bool> {
    // SAFETY: BLKROGET writes one int.
    let flag = unsafe { ioctl(device, Getter::<BLKROGET, i32>::new()) }?;
    Ok(flag != 0)
}

/// Makes `range` read back as zeros, by the device itself where it can. Multiples of the logical sector.
pub fn zero_out(device: impl AsFd, range: Extent) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64: start and length.
    Ok(unsafe { ioctl(device, Setter::<BLKZEROOUT, _>::new(start_and_length(range))) }?)
}

/// Gives `range` back to the device. Multiples of the logical sector.
pub fn discard(device: impl AsFd, range: Extent) -> io::Result<()> {
    // SAFETY: BLKDISCARD reads two u64: start and length.
    Ok(unsafe { ioctl(device, Setter::<BLKDISCARD, _>::new(start_and_length(range))) }?)
}

/// Makes the kernel read the partition table again; EBUSY while a partition is in use.
pub fn reread_partitions(device: impl AsFd) -> io::Result<()> {
    // SAFETY: BLKRRPART has no argument.
    Ok(unsafe { ioctl(device, NoArg::<BLKRRPART>::new()) }?)
}

fn start_and_length(range: Extent) -> [u64; 2] {
    [range.start.get(), range.len().get()]
}

/// `struct dm_ioctl`: the header of every device-mapper call.
#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// How many times a device-mapper device is open, by mounts, devices stacked on it, and programs.
pub fn dm_open_count(device: DeviceNumber) -> io::Result<u32> {
    let control = File::options().read(true).write(true).open("/dev/mapper/control")?;
    let mut status = DmIoctl {
        version: [4, 0, 0],
        data_size: 312,
        data_start: 312,
        target_count: 0,
        open_count: 0,
        flags: 0,
        event_nr: 0,
        padding: 0,
        dev: rustix::fs::makedev(device.major, device.minor),
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    // SAFETY: DM_DEV_STATUS reads and writes one struct dm_ioctl; data_size tells the kernel that nothing
    // follows it.
    unsafe { ioctl(&control, Updater::<DM_DEV_STATUS, _>::new(&mut status)) }?;
    u32::try_from(status.open_count).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_the_kernel_headers() {
        assert_eq!(size_of::<DmIoctl>(), 312);
        let expected = [
            (BLKROGET, 0x125e),
            (BLKRRPART, 0x125f),
            (BLKGETSIZE64, 0x8008_1272),
            (BLKDISCARD, 0x1277),
            (BLKZEROOUT, 0x127f),
            (DM_DEV_STATUS, 0xc138_fd07),
        ];
        for (ours, kernel) in expected {
            assert_eq!(ours, kernel, "{kernel:#x}");
        }
    }

    #[test]
    fn a_file_is_not_a_block_device() {
        let file = tempfile::tempfile().unwrap();
        assert!(size(&file).is_err() && read_only(&file).is_err());
        assert!(zero_out(&file, Extent::first(Bytes::BLOCK)).is_err());
    }
}
