//! A disk that remembers every write and every flush, to be cut off at any moment.
//!
//! It is a file served by FUSE from this process, with a loop device on it. After a cut the disk holds what was
//! written before the last flush; of what came later, each block may have arrived or not.

use std::ffi::OsStr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use tempfile::TempDir;

use crate::loops::{Mount, unmount};

const FILE: &str = "disk";
const INODE: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// What happened to the disk.
#[derive(Debug)]
enum Event {
    Write { at: usize, bytes: Vec<u8> },
    Flush,
}

/// The disk as it was, as it is, and what happened in between.
#[derive(Debug)]
struct Disk {
    first: Vec<u8>,
    now: Vec<u8>,
    events: Vec<Event>,
}

/// A shared disk.
#[derive(Clone, Debug)]
pub struct Recorder {
    disk: Arc<Mutex<Disk>>,
}

impl Recorder {
    /// A disk that holds `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        let disk = Disk { first: bytes.clone(), now: bytes, events: Vec::new() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// How many writes and flushes there were until now.
    pub fn moment(&self) -> usize {
        self.locked().events.len()
    }

    /// Mounts the filesystem on the disk with mount `options` while `work` runs in it.
    ///
    /// # Errors
    /// No rights, FUSE or loop devices; those of `work`.
    pub fn mounted<T>(
        &self,
        options: &str,
        work: impl FnOnce(&std::path::Path) -> Result<T>,
    ) -> Result<T> {
        let served = Served::new(self.clone()).context("tests named loop_ need root and FUSE")?;
        let size = image_core::units::Bytes::from(self.locked().now.len());
        let whole = image_core::extent::Extent::first(size);
        let mount = Mount::new(&served.folder.path().join(FILE), whole, options)?;
        work(mount.folder())
    }

    /// Goes through the disk's states after a cut at each of `moments`, which ascend. Of what no flush made sure
    /// of, `arrives` is asked for each piece of `grain` bytes whether it arrived before the cut at that moment.
    ///
    /// # Errors
    /// Those of `each`, which is told the moment and the disk's bytes, and must not ask the recorder.
    pub fn cut(
        &self,
        moments: &[usize],
        grain: usize,
        mut arrives: impl FnMut(usize) -> bool,
        mut each: impl FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let disk = self.locked();
        let (mut sure, mut durable) = (disk.first.clone(), 0);
        for moment in moments {
            let events = &disk.events[..*moment];
            let flushed = events.iter().rposition(|event| matches!(event, Event::Flush));
            let flushed = flushed.map_or(0, |at| at + 1);
            for event in &events[durable..flushed] {
                apply(&mut sure, event, usize::MAX, || true);
            }
            durable = flushed;
            let mut left = sure.clone();
            for event in &events[durable..] {
                apply(&mut left, event, grain, || arrives(*moment));
            }
            each(*moment, &left)?;
        }
        Ok(())
    }

    fn locked(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn apply(disk: &mut [u8], event: &Event, grain: usize, mut arrives: impl FnMut() -> bool) {
    let Event::Write { at, bytes } = event else { return };
    let mut at = *at;
    for piece in bytes.chunks(grain) {
        if arrives() {
            disk[at..at + piece.len()].copy_from_slice(piece);
        }
        at += piece.len();
    }
}

/// The FUSE mount; gone when dropped.
struct Served {
    folder: TempDir,
    session: Option<BackgroundSession>,
}

impl Served {
    fn new(recorder: Recorder) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("recorder".to_owned())];
        let session = Session::new(recorder, folder.path(), &config)?.spawn()?;
        Ok(Self { folder, session: Some(session) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        unmount(self.folder.path());
        if let Some(session) = self.session.take() {
            drop(session.join());
        }
    }
}

impl Recorder {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            INODE => (FileType::RegularFile, 0o600, self.locked().now.len() as u64),
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
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// `length` bytes at `offset`, as far as the disk goes.
    fn range(&self, offset: u64, length: usize) -> Range<usize> {
        let size = self.locked().now.len();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(size);
        start..start.saturating_add(length).min(size)
    }
}

impl Filesystem for Recorder {
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

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // No page cache between the loop device and this disk: it sees writes as they are made.
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
        let range = self.range(offset, size as usize);
        reply.data(&self.locked().now[range]);
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
        let range = self.range(offset, data.len());
        if range.len() < data.len() {
            return reply.error(Errno::ENOSPC);
        }
        let mut disk = self.locked();
        disk.events.push(Event::Write { at: range.start, bytes: data.to_vec() });
        disk.now[range].copy_from_slice(data);
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // At each close; that makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.locked().events.push(Event::Flush);
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Recorder};

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_what_arrived() {
        let recorder = Recorder::new(vec![0; 6]);
        let write = |at, bytes: &[u8]| Event::Write { at, bytes: bytes.to_vec() };
        recorder.locked().events =
            vec![write(0, &[1, 1]), Event::Flush, write(1, &[2, 2, 2]), write(5, &[3])];
        let mut seen = Vec::new();
        let mut turn = 0;
        let arrives = |_| {
            turn += 1;
            turn % 2 == 0
        };
        recorder
            .cut(&[1, 2, 4], 1, arrives, |moment, disk| {
                seen.push((moment, disk.to_vec()));
                Ok(())
            })
            .unwrap();
        let expected =
            [(1, vec![0, 1, 0, 0, 0, 0]), (2, vec![1, 1, 0, 0, 0, 0]), (4, vec![1, 1, 2, 0, 0, 3])];
        assert_eq!(seen, expected);
    }
}
