//! Past the page cache: what the disk holds, not what memory remembers of it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::aligned::Pool;
use super::device::drop_pages;
use super::source::beyond_end;
use super::{BlockSource, file};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// Bounce buffers: what is moved at once, and by how many threads.
const BUFFER: usize = 1 << 20;
const BUFFERS: usize = 4;

/// What is moved without a bounce buffer has a position, a length and memory that are multiples of this, which
/// suits every sector size up to it.
const ALIGNMENT: usize = 4096;

/// A second descriptor of a device or file, with O_DIRECT: what it moves does not pass the page cache.
#[derive(Debug)]
pub(super) struct Bypass {
    file: File,
    bounce: Pool,
    /// What positions and lengths of bounced reads are multiples of.
    grain: Bytes,
}

impl Bypass {
    /// Of the same file as `original`; `None` where O_DIRECT is refused.
    ///
    /// Small reads tell one bad sector from its neighbours. Files may want larger ones than the sectors of the disk
    /// that they stand for, and some filesystems open with O_DIRECT and refuse to read with it.
    pub(super) fn open(original: &File, access: OFlags, sector_size: Bytes) -> Option<Self> {
        [sector_size.min(Bytes::BLOCK), Bytes::BLOCK].into_iter().find_map(|grain| {
            let file = reopen(original, access | OFlags::DIRECT).ok()?;
            let bypass = Self { file, bounce: Pool::new(BUFFERS, BUFFER), grain };
            (!refuses(&bypass.read(Bytes::ZERO, &mut [0]))).then_some(bypass)
        })
    }

    /// Fills `buffer`; as much of it as is aligned is read in place.
    pub(super) fn read(&self, offset: Bytes, buffer: &mut [u8]) -> io::Result<()> {
        let (mut offset, mut rest) = (offset, buffer);
        while is_aligned(offset, rest) && rest.len() >= ALIGNMENT {
            let whole = rest.len() / ALIGNMENT * ALIGNMENT;
            match self.file.read_at(&mut rest[..whole], offset.get()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    offset += Bytes::from(length);
                    rest = &mut rest[length..];
                }
            }
        }
        if rest.is_empty() { Ok(()) } else { self.read_bounced(offset, rest) }
    }

    /// Reads aligned pieces into a bounce buffer. Only the last piece may come short, at the end.
    fn read_bounced(&self, mut offset: Bytes, buffer: &mut [u8]) -> io::Result<()> {
        let mut bounce = self.bounce.take();
        let mut rest = buffer;
        while !rest.is_empty() {
            let start = offset.align_down(self.grain);
            let skip = (offset - start).index().unwrap_or_default();
            let wanted = Bytes::from(skip + rest.len()).align_up(self.grain);
            let wanted = wanted.index().unwrap_or(BUFFER).min(BUFFER);
            let have = match self.file.read_at(&mut bounce[..wanted], start.get()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let part = match bounce.get(skip..have) {
                Some(part) if !part.is_empty() => &part[..part.len().min(rest.len())],
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            let (head, tail) = rest.split_at_mut(part.len());
            head.copy_from_slice(part);
            offset += Bytes::of(head);
            rest = tail;
        }
        Ok(())
    }

    /// Writes the blocks of `bytes` that are whole; how many bytes those are. Nothing, where `offset` lies
    /// within a block.
    pub(super) fn write(&self, offset: Bytes, bytes: &[u8]) -> io::Result<usize> {
        if offset.align_down(Bytes::BLOCK) != offset {
            return Ok(0);
        }
        let mut bounce = self.bounce.take();
        let (mut at, whole) = (offset, bytes.len() / ALIGNMENT * ALIGNMENT);
        for piece in bytes[..whole].chunks(BUFFER) {
            bounce[..piece.len()].copy_from_slice(piece);
            self.file.write_all_at(&bounce[..piece.len()], at.get())?;
            at += Bytes::of(piece);
        }
        Ok(whole)
    }
}

/// Whether a read was refused as not aligned, or as not possible at all; a bad sector is another matter.
fn refuses(read: &io::Result<()>) -> bool {
    let refusals = [Errno::INVAL, Errno::OPNOTSUPP].map(Errno::raw_os_error);
    let error = read.as_ref().err().and_then(io::Error::raw_os_error);
    error.is_some_and(|error| refusals.contains(&error))
}

fn is_aligned(offset: Bytes, buffer: &[u8]) -> bool {
    offset.align_down(Bytes::BLOCK) == offset && buffer.as_ptr().align_offset(ALIGNMENT) == 0
}

/// Through proc, so that it is the same file even if its path names another one by now.
fn reopen(original: &File, flags: OFlags) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", original.as_raw_fd());
    Ok(rustix::fs::open(&path, OFlags::CLOEXEC | flags, Mode::empty())?.into())
}

/// A second descriptor of a device or file that reads from the disk.
///
/// With O_DIRECT where the filesystem has it; where it has not (tmpfs, some network filesystems) pages
/// are dropped before they are read.
#[derive(Debug)]
pub struct DirectReader {
    way: Way,
    name: String,
    size: Bytes,
    sector_size: Bytes,
}

#[derive(Debug)]
enum Way {
    Bypass(Bypass),
    Dropping(File),
}

impl DirectReader {
    pub(super) fn open(
        original: &File,
        name: &str,
        size: Bytes,
        sector_size: Bytes,
    ) -> Result<Self> {
        if let Some(bypass) = Bypass::open(original, OFlags::RDONLY, sector_size) {
            return Ok(Self { way: Way::Bypass(bypass), name: name.to_owned(), size, sector_size });
        }
        let file = reopen(original, OFlags::RDONLY);
        let file = file.map_err(|error| Error::io(name, "open again", error))?;
        Self::dropping(file, name, size, sector_size)
    }

    /// A reader without O_DIRECT.
    pub(super) fn dropping(
        file: File,
        name: &str,
        size: Bytes,
        sector_size: Bytes,
    ) -> Result<Self> {
        // Only clean pages can be dropped. What cannot be flushed (a read-only filesystem) has none.
        match file.sync_all() {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                Err(Error::io(name, "flush", error))
            }
            _ => Ok(Self { way: Way::Dropping(file), name: name.to_owned(), size, sector_size }),
        }
    }

    /// Whether O_DIRECT works here.
    pub fn is_direct(&self) -> bool {
        matches!(self.way, Way::Bypass(_))
    }
}

fn read_dropping(file: &File, offset: Bytes, buffer: &mut [u8]) -> io::Result<()> {
    let start = offset.align_down(Bytes::BLOCK);
    let end = offset.saturating_add(Bytes::of(buffer)).align_up(Bytes::BLOCK);
    drop_pages(file, Extent::new(start, end));
    file.read_exact_at(buffer, offset.get())
}

impl BlockSource for DirectReader {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn sector_size(&self) -> Bytes {
        self.sector_size
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let length = buffer.len();
        if offset.checked_add(Bytes::from(length)).is_none_or(|end| end > self.size) {
            return Err(beyond_end(&self.name, "read", offset, length, self.size));
        }
        let read = match &self.way {
            Way::Bypass(bypass) => bypass.read(offset, buffer),
            Way::Dropping(file) => read_dropping(file, offset, buffer),
        };
        read.map_err(|error| {
            Error::io_at(&self.name, format!("read {length} bytes"), offset, error)
        })
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        // A device cannot tell, and has no holes.
        let (Way::Bypass(Bypass { file, .. }) | Way::Dropping(file)) = &self.way;
        file::allocated(file, range).map_err(|error| Error::io(&self.name, "look for holes", error))
    }
}
