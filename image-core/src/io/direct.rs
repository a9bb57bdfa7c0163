//! Reading past the page cache: what the disk holds, not what memory remembers of it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::device::drop_pages;
use super::source::beyond_end;
use super::{BlockSource, file};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::sys::aligned::Pool;
use crate::units::Bytes;

/// Bounce buffers: what is read at once, and by how many threads.
const BUFFER: usize = 1 << 20;
const BUFFERS: usize = 4;

/// A second descriptor of a device or file that reads from the disk.
///
/// With O_DIRECT where the filesystem has it; where it has not (tmpfs, some network filesystems) pages
/// are dropped before they are read.
#[derive(Debug)]
pub struct DirectReader {
    file: File,
    name: String,
    size: Bytes,
    sector_size: Bytes,
    // `None` where O_DIRECT is refused.
    bounce: Option<Pool>,
    /// What positions and lengths are multiples of.
    grain: Bytes,
}

impl DirectReader {
    pub(super) fn open(
        original: &File,
        name: &str,
        size: Bytes,
        sector_size: Bytes,
    ) -> Result<Self> {
        // Through proc, so that it is the same file even if the path names another one by now.
        let path = format!("/proc/self/fd/{}", original.as_raw_fd());
        let reopen = |flags| {
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty())
                .map(File::from)
                .map_err(|error| Error::io(name, "open again", error.into()))
        };
        if let Ok(file) = reopen(OFlags::DIRECT) {
            // Small reads tell one bad sector from its neighbours. Files may want larger ones than the sectors of
            // the disk that they stand for, and some filesystems open with O_DIRECT and refuse to read with it.
            for grain in [sector_size.min(Bytes::BLOCK), Bytes::BLOCK] {
                let (file, name) = (file.try_clone(), name.to_owned());
                let file = file.map_err(|error| Error::io(&name, "open again", error))?;
                let bounce = Some(Pool::new(BUFFERS, BUFFER));
                let direct = Self { file, name, size, sector_size, bounce, grain };
                if size.is_zero() || !refuses(&direct.read_at(Bytes::ZERO, &mut [0])) {
                    return Ok(direct);
                }
            }
        }
        Self::dropping(reopen(OFlags::empty())?, name, size, sector_size)
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
            _ => Ok(Self {
                file,
                name: name.to_owned(),
                size,
                sector_size,
                bounce: None,
                grain: Bytes::BLOCK,
            }),
        }
    }

    /// Whether O_DIRECT works here.
    pub fn is_direct(&self) -> bool {
        self.bounce.is_some()
    }

    fn read_dropping(&self, offset: Bytes, buffer: &mut [u8]) -> io::Result<()> {
        let start = offset.align_down(Bytes::BLOCK);
        let end = offset.saturating_add(Bytes::of(buffer)).align_up(Bytes::BLOCK);
        drop_pages(&self.file, Extent::new(start, end));
        self.file.read_exact_at(buffer, offset.get())
    }

    /// Reads aligned pieces into a bounce buffer: position and length are multiples of a sector of up to 4 KiB.
    /// Only the last piece may come short, at the end.
    fn read_bounced(&self, pool: &Pool, mut offset: Bytes, buffer: &mut [u8]) -> io::Result<()> {
        let mut bounce = pool.take();
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
}

/// Whether a read was refused as not aligned, or as not possible at all; a bad sector is another matter.
fn refuses(read: &Result<()>) -> bool {
    let error = |errno: Errno| Some(errno.raw_os_error());
    matches!(read, Err(Error::Io { source, .. })
        if [error(Errno::INVAL), error(Errno::OPNOTSUPP)].contains(&source.raw_os_error()))
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
        let read = match &self.bounce {
            Some(pool) => self.read_bounced(pool, offset, buffer),
            None => self.read_dropping(offset, buffer),
        };
        read.map_err(|error| {
            Error::io_at(&self.name, format!("read {length} bytes"), offset, error)
        })
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        // A device cannot tell, and has no holes.
        file::allocated(&self.file, range)
            .map_err(|error| Error::io(&self.name, "look for holes", error))
    }
}
