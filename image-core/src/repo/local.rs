//! A repository in a plain directory: also on FAT32, SMB and NFS, so without links and without modes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::repo::read::{FileInfo, Read, check_path, too_long};
use crate::repo::write::{Append, Write};
use crate::units::Bytes;

/// A directory.
#[derive(Clone, Debug)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    /// The directory `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn resolve(&self, path: &str) -> Result<PathBuf> {
        check_path(path)?;
        Ok(self.root.join(path))
    }

    fn folder(&self, folder: &str) -> Result<PathBuf> {
        if folder.is_empty() { Ok(self.root.clone()) } else { self.resolve(folder) }
    }
}

fn failed(path: &Path, action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let (path, action) = (path.display().to_string(), action.into());
    move |error| Error::io(path, action, error)
}

fn open(path: &Path) -> Result<(File, Bytes)> {
    let file = File::open(path).map_err(failed(path, "open"))?;
    let size = file.metadata().map_err(failed(path, "look up its size"))?.len();
    Ok((file, Bytes::new(size)))
}

impl Read for Local {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>> {
        let full = self.resolve(path)?;
        let (file, size) = open(&full)?;
        if size > max {
            return Err(too_long(path, size, max));
        }
        let mut bytes = Vec::with_capacity(size.index().unwrap_or_default());
        // The file might grow meanwhile.
        let limit = max.saturating_add(Bytes::new(1)).get();
        file.take(limit).read_to_end(&mut bytes).map_err(failed(&full, "read"))?;
        if Bytes::of(&bytes) > max {
            return Err(too_long(path, Bytes::of(&bytes), max));
        }
        Ok(bytes)
    }

    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>> {
        let full = self.resolve(path)?;
        let (file, size) = open(&full)?;
        let action = format!("read {} bytes", range.len().get());
        let short = || {
            let error = io::Error::from(ErrorKind::UnexpectedEof);
            Error::io_at(full.display().to_string(), action.as_str(), range.start, error)
        };
        let length = range.len().index().filter(|_| range.end <= size).ok_or_else(short)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start.get()).map_err(|error| {
            Error::io_at(full.display().to_string(), action.as_str(), range.start, error)
        })?;
        Ok(bytes)
    }

    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        let full = self.folder(folder)?;
        let entries = match fs::read_dir(&full) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed(&full, "list"))?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed(&full, "list"))?;
            let info = match entry.metadata() {
                // Another session may have removed it since.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other.map_err(failed(&entry.path(), "look up"))?,
            };
            if info.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                let modified = info.modified().map_err(failed(&entry.path(), "look up"))?;
                files.push(FileInfo { name, size: Bytes::new(info.len()), modified });
            }
        }
        Ok(files)
    }
}

impl Write for Local {
    fn create(&self, path: &str) -> Result<Box<dyn Append>> {
        let path = self.resolve(path)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(failed(&path, "create"))?;
        Ok(Box::new(LocalFile { file, path, length: 0, begun: 0 }))
    }

    fn reopen(&self, path: &str, length: Bytes) -> Result<Box<dyn Append>> {
        let path = self.resolve(path)?;
        let open = || {
            let file = OpenOptions::new().append(true).open(&path)?;
            if file.metadata()?.len() < length.get() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            file.set_len(length.get()).map(|()| file)
        };
        let file = open().map_err(failed(&path, "open"))?;
        let length = length.get();
        Ok(Box::new(LocalFile { file, path, length, begun: length }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        fs::rename(&from, &to).map_err(failed(&from, format!("rename to {}", to.display())))
    }

    fn delete(&self, path: &str) -> Result<()> {
        let path = self.resolve(path)?;
        fs::remove_file(&path).map_err(failed(&path, "remove"))
    }

    fn make_folder(&self, folder: &str) -> Result<()> {
        let path = self.folder(folder)?;
        fs::create_dir_all(&path).map_err(failed(&path, "make the folder"))?;
        path.parent().map_or(Ok(()), flush_directory)
    }

    fn flush_folder(&self, folder: &str) -> Result<()> {
        flush_directory(&self.folder(folder)?)
    }
}

/// Some network filesystems cannot flush a directory and say so with EINVAL: their renames are durable
/// when the server says they are.
fn flush_directory(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let directory = File::open(path).map_err(failed(path, "open the folder"))?;
    match directory.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        other => other.map_err(failed(path, "flush the folder")),
    }
}

/// After so many bytes the kernel is told to write them, so that the disk is busy while the next ones are compressed
/// and flushing has little left to wait for.
const WRITE_BEHIND: u64 = 8 << 20;

struct LocalFile {
    file: File,
    path: PathBuf,
    length: u64,
    /// Up to here it was told.
    begun: u64,
}

impl LocalFile {
    /// Asks the kernel to write pages that are not written yet, and to give up those that are: nobody is going to
    /// read them soon, and others are not to lose theirs (posix_fadvise(2)). A hint: nothing can fail.
    fn give_up(&self, start: u64) {
        let length = NonZeroU64::new(self.length.saturating_sub(start));
        let _ = fadvise(&self.file, start, length, Advice::DontNeed);
    }
}

impl Append for LocalFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(failed(&self.path, "write"))?;
        self.length = self.length.saturating_add(Bytes::of(bytes).get());
        if self.length - self.begun >= WRITE_BEHIND {
            self.give_up(self.begun);
            self.begun = self.length;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.file.sync_all().map_err(failed(&self.path, "flush"))?;
        if self.begun > 0 {
            self.give_up(0);
        }
        Ok(())
    }
}
