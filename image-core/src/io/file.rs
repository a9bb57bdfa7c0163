//! What regular files can do beside being read and written: tell their holes and make new ones.

use std::fs::File;
use std::io;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// The parts of `range` that are not holes, rounded outwards to 4 KiB; all of it where the filesystem
/// cannot tell (lseek(2), SEEK_DATA).
pub(super) fn allocated(file: &File, range: Extent) -> io::Result<ExtentSet> {
    let mut set = ExtentSet::new();
    let mut at = range.start;
    while at < range.end {
        let start = match seek(file, SeekFrom::Data(at.get())) {
            Ok(start) => Bytes::new(start),
            // No data up to the end of the file.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(range.into()),
            Err(error) => return Err(error.into()),
        };
        if start >= range.end {
            break;
        }
        let end = Bytes::new(seek(file, SeekFrom::Hole(start.get()))?);
        // A file that changes meanwhile may turn data into a hole: never stand still.
        let end = end.max(start.saturating_add(Bytes::new(1)));
        let rounded = Extent::new(start.align_down(Bytes::BLOCK), end.align_up(Bytes::BLOCK));
        rounded.intersect(range).into_iter().for_each(|data| set.insert(data));
        at = end;
    }
    Ok(set)
}

/// Makes `range` a hole, which reads as zeros; the file keeps its size.
pub(super) fn punch(file: &File, range: Extent) -> io::Result<()> {
    change(file, FallocateFlags::PUNCH_HOLE, range)
}

/// Makes `range` read as zeros without writing them, where the filesystem knows how.
pub(super) fn zero(file: &File, range: Extent) -> io::Result<()> {
    punch(file, range).or_else(|_| change(file, FallocateFlags::ZERO_RANGE, range))
}

fn change(file: &File, how: FallocateFlags, range: Extent) -> io::Result<()> {
    let flags = how | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, range.start.get(), range.len().get())?)
}
