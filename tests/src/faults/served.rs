//! The folder's side of FUSE: every call is asked for its fate, then carried out on the folder behind.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::{Event, How, Op, State, locked};

/// Nothing may be remembered by the kernel: it would not ask again.
const NEVER: Duration = Duration::ZERO;

pub(super) struct Served {
    behind: PathBuf,
    state: Arc<Mutex<State>>,
}

type Answer<T> = Result<T, Errno>;

/// An inode's number; the kernel knows the root as 1.
const ROOT: u64 = INodeNo::ROOT.0;

impl Served {
    pub fn new(behind: PathBuf, state: Arc<Mutex<State>>) -> Self {
        {
            let mut state = locked(&state);
            state.paths.push(PathBuf::new());
            state.inodes.insert(PathBuf::new(), ROOT);
        }
        Self { behind, state }
    }

    fn path(&self, inode: INodeNo) -> Answer<PathBuf> {
        let state = locked(&self.state);
        let index = usize::try_from(inode.0 - ROOT).map_err(|_| Errno::ENOENT)?;
        state.paths.get(index).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Answer<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn inode(&self, path: &Path) -> u64 {
        let mut state = locked(&self.state);
        if let Some(inode) = state.inodes.get(path) {
            return *inode;
        }
        let inode = ROOT + state.paths.len() as u64;
        state.paths.push(path.to_owned());
        state.inodes.insert(path.to_owned(), inode);
        inode
    }

    /// The fate of a call without a position.
    fn judge(&self, request: &Request, op: Op, path: &Path) -> Answer<()> {
        self.judge_bytes(request, op, path, 0, 0).map(drop)
    }

    /// The fate of a call; how many of its `length` bytes are left to do.
    fn judge_bytes(
        &self,
        request: &Request,
        op: Op,
        path: &Path,
        at: u64,
        length: usize,
    ) -> Answer<usize> {
        let bytes = at..at.saturating_add(length as u64);
        match locked(&self.state).verdict(request.pid(), op, path, bytes) {
            Some(How::Fails(error)) => Err(Errno::from_i32(error.raw_os_error())),
            Some(How::NoSpace) => Err(Errno::ENOSPC),
            Some(How::Ends) => Ok(0),
            // Reads past the cache end at a block.
            Some(How::Half) if length > 4096 => Ok((length / 2).next_multiple_of(4096)),
            Some(How::Half) => Ok(length),
            Some(How::Signals(_) | How::Kills) | None => Ok(length),
        }
    }

    fn attributes(&self, path: &Path) -> Answer<FileAttr> {
        let metadata = fs::symlink_metadata(self.behind.join(path))?;
        Ok(self.describe(path, &metadata))
    }

    fn describe(&self, path: &Path, metadata: &Metadata) -> FileAttr {
        let ino = INodeNo(self.inode(path));
        let time =
            |time: io::Result<SystemTime>| locked(&self.state).shifted(time.unwrap_or(UNIX_EPOCH));
        let kind = if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile };
        FileAttr {
            ino,
            size: metadata.len(),
            blocks: metadata.blocks(),
            atime: time(metadata.accessed()),
            mtime: time(metadata.modified()),
            ctime: time(metadata.modified()),
            crtime: UNIX_EPOCH,
            kind,
            perm: (metadata.permissions().mode() & 0o7777) as u16,
            nlink: 1,
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn keep(&self, file: File) -> FileHandle {
        let mut state = locked(&self.state);
        state.handles += 1;
        let handle = state.handles;
        state.open.insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    fn file(&self, handle: FileHandle) -> Answer<Arc<File>> {
        locked(&self.state).open.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn note(&self, event: impl FnOnce() -> Event) {
        locked(&self.state).note(event);
    }

    /// A name is gone: a file that gets it later is another one.
    fn forget_path(&self, path: &Path) {
        locked(&self.state).inodes.remove(path);
    }

    fn resize(&self, request: &Request, inode: INodeNo, size: Option<u64>) -> Answer<FileAttr> {
        let path = self.path(inode)?;
        if let Some(length) = size {
            self.judge(request, Op::Resize, &path)?;
            OpenOptions::new().write(true).open(self.behind.join(&path))?.set_len(length)?;
            self.note(|| Event::Resize { file: inode.0, length });
        }
        self.attributes(&path)
    }

    fn make(&self, request: &Request, path: &Path) -> Answer<(FileAttr, FileHandle)> {
        self.judge(request, Op::Create, path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o644);
        let file = options.open(self.behind.join(path))?;
        let attributes = self.attributes(path)?;
        self.note(|| Event::Create { path: path.to_owned(), file: attributes.ino.0 });
        Ok((attributes, self.keep(file)))
    }

    fn move_to(&self, request: &Request, from: &Path, to: &Path) -> Answer<()> {
        self.judge(request, Op::Rename, from)?;
        fs::rename(self.behind.join(from), self.behind.join(to))?;
        let mut state = locked(&self.state);
        if let Some(inode) = state.inodes.remove(from) {
            let index = usize::try_from(inode - ROOT).map_err(|_| Errno::EIO)?;
            if let Some(path) = state.paths.get_mut(index) {
                *path = to.to_owned();
            }
            state.inodes.insert(to.to_owned(), inode);
        }
        state.note(|| Event::Rename { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn list(&self, request: &Request, inode: INodeNo) -> Answer<FileHandle> {
        let path = self.path(inode)?;
        self.judge(request, Op::List, &path)?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.behind.join(&path))? {
            let entry = entry?;
            let is_folder = entry.file_type()?.is_dir();
            let inode = self.inode(&path.join(entry.file_name()));
            entries.push((inode, is_folder, entry.file_name()));
        }
        let mut state = locked(&self.state);
        state.handles += 1;
        let handle = state.handles;
        state.lists.insert(handle, entries);
        Ok(FileHandle(handle))
    }
}

/// Answers with what came of it, or with the error.
macro_rules! answer {
    ($reply:ident, $result:expr, $good:expr) => {
        match $result {
            Ok(value) => $good($reply, value),
            Err(error) => $reply.error(error),
        }
    };
}

fn entry(reply: ReplyEntry, attributes: FileAttr) {
    reply.entry(&NEVER, &attributes, Generation(0));
}

fn attributes(reply: ReplyAttr, attributes: FileAttr) {
    reply.attr(&NEVER, &attributes);
}

fn done(reply: ReplyEmpty, _: ()) {
    reply.ok();
}

/// No cache of the kernel: it would read ahead, and write later.
fn opened(reply: ReplyOpen, handle: FileHandle) {
    reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO);
}

impl Filesystem for Served {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = || {
            let path = self.child(parent, name)?;
            self.judge(request, Op::Look, &path)?;
            self.attributes(&path)
        };
        answer!(reply, found(), entry);
    }

    fn getattr(&self, request: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let found = || {
            let path = self.path(inode)?;
            self.judge(request, Op::Look, &path)?;
            self.attributes(&path)
        };
        answer!(reply, found(), attributes);
    }

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
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer!(reply, self.resize(request, inode, size), attributes);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let make = || {
            let path = self.child(parent, name)?;
            self.judge(request, Op::Create, &path)?;
            fs::create_dir(self.behind.join(&path))?;
            self.note(|| Event::MakeFolder { path: path.clone() });
            self.attributes(&path)
        };
        answer!(reply, make(), entry);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || {
            let path = self.child(parent, name)?;
            self.judge(request, Op::Remove, &path)?;
            fs::remove_file(self.behind.join(&path))?;
            self.forget_path(&path);
            self.note(|| Event::Remove { path });
            Ok(())
        };
        answer!(reply, remove(), done);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let (from, to) = (self.child(parent, name)?, self.child(new_parent, new_name)?);
            self.move_to(request, &from, &to)
        };
        answer!(reply, rename(), done);
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = || {
            let path = self.path(inode)?;
            let writes = flags.acc_mode() != fuser::OpenAccMode::O_RDONLY;
            self.judge(request, if writes { Op::OpenToWrite } else { Op::Open }, &path)?;
            let mut options = OpenOptions::new();
            Ok(self.keep(options.read(true).write(writes).open(self.behind.join(&path))?))
        };
        answer!(reply, open(), opened);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.child(parent, name).and_then(|path| self.make(request, &path));
        let created = |reply: ReplyCreate, (attributes, handle)| {
            reply.created(&NEVER, &attributes, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO);
        };
        answer!(reply, made, created);
    }

    fn read(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            let path = self.path(inode)?;
            let length = self.judge_bytes(request, Op::Read, &path, offset, size as usize)?;
            let (file, mut bytes) = (self.file(handle)?, vec![0; length]);
            let mut done = 0;
            while done < length {
                match file.read_at(&mut bytes[done..], offset + done as u64)? {
                    0 => break,
                    read => done += read,
                }
            }
            bytes.truncate(done);
            Ok(bytes)
        };
        answer!(reply, read(), |reply: ReplyData, bytes: Vec<u8>| reply.data(&bytes));
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        at: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || {
            let path = self.path(inode)?;
            let length = self.judge_bytes(request, Op::Write, &path, at, data.len())?;
            self.file(handle)?.write_all_at(&data[..length], at)?;
            self.note(|| Event::Write { file: inode.0, at, bytes: data[..length].to_vec() });
            u32::try_from(length).map_err(|_| Errno::EFBIG)
        };
        answer!(reply, write(), |reply: ReplyWrite, length| reply.written(length));
    }

    fn fallocate(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zero = || {
            let path = self.path(inode)?;
            let bytes = usize::try_from(length).map_err(|_| Errno::EFBIG)?;
            self.judge_bytes(request, Op::Zero, &path, offset, bytes)?;
            let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            let file = self.file(handle)?;
            fallocate(file.as_ref(), flags, offset, length).map_err(io::Error::from)?;
            let zeros = || vec![0; bytes];
            self.note(|| Event::Write { file: inode.0, at: offset, bytes: zeros() });
            Ok(())
        };
        answer!(reply, zero(), done);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // At each close; that makes nothing durable.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.state).open.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, request: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let flushed =
            self.path(inode).and_then(|path| self.judge(request, Op::Flush, &path)).map(|()| {
                self.note(|| Event::Flush { file: inode.0 });
            });
        answer!(reply, flushed, done);
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.list(request, inode), opened);
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = locked(&self.state);
        let entries = state.lists.get(&handle.0).map(Vec::as_slice).unwrap_or_default();
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (number, (inode, is_folder, name)) in (1_u64..).zip(entries).skip(skip) {
            let kind = if *is_folder { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*inode), number, kind, name) {
                break;
            }
        }
        drop(state);
        reply.ok();
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        locked(&self.state).lists.remove(&handle.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let flush = || {
            let path = self.path(inode)?;
            self.judge(request, Op::FlushFolder, &path)?;
            self.note(|| Event::FlushFolder { path });
            Ok(())
        };
        answer!(reply, flush(), done);
    }

    fn statfs(&self, request: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let ask = || {
            let path = self.path(inode)?;
            let full = self.judge(request, Op::Space, &path).is_err();
            let there = statvfs(&self.behind).map_err(io::Error::from)?;
            Ok((there, if full { 0 } else { 1 }))
        };
        answer!(reply, ask(), |reply: ReplyStatfs, (there, some): (rustix::fs::StatVfs, u64)| {
            let (free, room) = (there.f_bfree * some, there.f_bavail * some);
            let size = u32::try_from(there.f_bsize).unwrap_or(4096);
            reply.statfs(there.f_blocks, free, room, there.f_files, there.f_ffree, size, 255, size);
        });
    }
}
