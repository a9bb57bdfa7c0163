//! The child's side of a FUSE view: one folder with one file, `volume`, without any cache of its own.
//!
//! Protocol: the parent sends an [`Order`] as one line of JSON, and is answered `ready` once the file is
//! there; it may ask what was touched (`touched`). The end of the parent's input, also by its death, ends the
//! service.

use std::ffi::OsStr;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};
use rustix::fs::FallocateFlags;

use super::overlay::Overlay;
use super::served::{FILE, Order, READY, TOUCHED, Writes, unmount};
use super::volume::Volume;
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::io::BlockSource;
use crate::units::Bytes;

/// The file's inode; the folder's is [`INodeNo::ROOT`].
const INODE: INodeNo = INodeNo(2);
/// Attributes never change.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// Serves the volume that `orders` begins with, as a file on `mountpoint`, until `orders` ends and
/// nobody uses the file any more.
///
/// The hidden verb of the command line calls it; the library starts that by itself.
///
/// # Errors
/// [`Error::Io`] where it could not be mounted, where any write to the targets failed, or where the last
/// flush did. What the last user of the file was told may have got lost on its way; this does not.
pub fn serve(mut orders: impl BufRead, mut answers: impl Write, mountpoint: &Path) -> Result<()> {
    let failed = |action, source| Error::io(mountpoint.display().to_string(), action, source);
    let mut order = String::new();
    orders.read_line(&mut order).map_err(|source| failed("learn what to serve on", source))?;
    let Order { layout, writes } = serde_json::from_str(&order)
        .map_err(|source| failed("learn what to serve on", source.into()))?;
    let (volume, overlay): (Arc<dyn Surface>, _) = match writes {
        Writes::ReachTargets => (Arc::new(Volume::open(&layout)?), None),
        Writes::StayInMemory => {
            let overlay = Arc::new(Overlay::new(Volume::open_to_read(&layout)?));
            (Arc::<Overlay>::clone(&overlay), Some(overlay))
        }
    };
    let served = Served { volume, failure: Arc::default() };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("keiki".to_owned()), MountOption::NoExec];
    let session = Session::new(served.clone(), mountpoint, &config)
        .and_then(Session::spawn)
        .map_err(|source| failed("mount", source))?;
    // A parent that is gone does not read the answer, and then its input has ended too.
    drop(writeln!(answers, "{READY}").and_then(|()| answers.flush()));
    let ended = obey(orders, answers, overlay.as_deref());
    let unmounted = unmount(mountpoint);
    let joined = session.join().map_err(|source| failed("serve", source));
    ended.map_err(|source| failed("serve", source))?;
    unmounted.and(joined)?;
    let failure = served.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or_else(|| served.volume.flush(), Err)
}

/// Answers until `orders` ends.
fn obey(
    orders: impl BufRead,
    mut answers: impl Write,
    overlay: Option<&Overlay>,
) -> std::io::Result<()> {
    for order in orders.lines() {
        if order? == TOUCHED {
            let touched = overlay.map(Overlay::touched).unwrap_or_default();
            writeln!(answers, "{}", serde_json::to_string(&touched)?)?;
            answers.flush()?;
        }
    }
    Ok(())
}

/// What a file of this kind can be made of.
pub(super) trait Surface: BlockSource {
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()>;
    fn allocate(&self, range: Extent, mode: FallocateFlags) -> Result<()>;
    fn flush(&self) -> Result<()>;
}

impl Surface for Volume {
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        Self::write_at(self, offset, bytes)
    }
    fn allocate(&self, range: Extent, mode: FallocateFlags) -> Result<()> {
        Self::allocate(self, range, mode)
    }
    fn flush(&self) -> Result<()> {
        Self::flush(self)
    }
}

/// A volume and the first loss that it suffered.
#[derive(Clone)]
struct Served {
    volume: Arc<dyn Surface>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl Served {
    /// The answer to a change; an error that lost data is kept.
    fn changed(&self, result: Result<()>) -> Result<(), Errno> {
        result.map_err(|error| {
            let errno = errno(&error);
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            errno
        })
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, nlink, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o500, 2, 0),
            INODE => (FileType::RegularFile, 0o600, 1, self.volume.size().get()),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

fn errno(error: &Error) -> Errno {
    match error {
        Error::Io { source, .. } => source.raw_os_error().map_or(Errno::EIO, Errno::from_i32),
        _ => Errno::EIO,
    }
}

fn answer(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(INODE) {
            Some(attributes) if parent == INodeNo::ROOT && name == FILE => {
                reply.entry(&FOREVER, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// resize2fs cuts a file off behind the filesystem's last block, and goes on where it may not.
    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        handle: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match size {
            Some(size) if Bytes::new(size) != self.volume.size() => reply.error(Errno::EPERM),
            _ => self.getattr(request, inode, handle, reply),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Without the page cache a write has arrived, or has failed, before its writer goes on.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.volume.size().saturating_sub(Bytes::new(offset));
        let length = left.min(Bytes::from(size)).index().unwrap_or_default();
        let mut buffer = vec![0; length];
        match self.volume.read_at(Bytes::new(offset), &mut buffer) {
            Ok(()) => reply.data(&buffer),
            Err(_) if length == 0 => reply.data(&[]),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.changed(self.volume.write_at(Bytes::new(offset), data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Called at each close; nothing is held back here, and durability is fsync's business.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(reply, self.changed(self.volume.flush()));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = u32::from_ne_bytes(mode.to_ne_bytes());
        let known = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let mode = FallocateFlags::from_bits_retain(mode) | FallocateFlags::KEEP_SIZE;
        let range = Extent::at(Bytes::new(offset), Bytes::new(length));
        let result = match range {
            Some(range) if mode.intersects(known) => self.volume.allocate(range, mode),
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        // No loss: who is refused a hole or zeros writes zeros.
        answer(reply, result.map_err(|error| errno(&error)));
    }
}
