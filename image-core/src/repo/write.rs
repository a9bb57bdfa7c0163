//! What writing a repository needs of the place where it is kept, and how a file comes to be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use crate::error::Result;
use crate::repo::read::Read;
use crate::units::Bytes;

/// A place that takes a repository's files.
///
/// Nothing is durable before it is flushed: a file's bytes by [`Append::flush`], its name (after it was
/// created, renamed or deleted) by [`Write::flush_folder`].
pub trait Write: Read {
    /// A new, empty file; one that exists already is an error.
    fn create(&self, path: &str) -> Result<Box<dyn Append>>;
    /// A file that is there, of which only the first bytes are kept, so many; a shorter one is `Io` of kind `UnexpectedEof`.
    fn reopen(&self, path: &str, length: Bytes) -> Result<Box<dyn Append>>;
    /// Gives a file another path at once, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a file.
    fn delete(&self, path: &str) -> Result<()>;
    /// Makes a folder, durably; one that exists is left as it is.
    fn make_folder(&self, folder: &str) -> Result<()>;
    /// Makes the names in a folder durable; the empty path is the repository's own folder.
    fn flush_folder(&self, folder: &str) -> Result<()>;
    /// What the names of sessions begin with that write here.
    fn prefix(&self) -> String {
        String::new()
    }
}

/// A file that is being written.
pub trait Append: Send {
    /// Adds bytes at its end.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes all of its bytes durable.
    fn flush(&mut self) -> Result<()>;
}

/// One run of the program that writes into a repository; its name marks its locks and drafts.
pub struct Session {
    files: Arc<dyn Write>,
    name: String,
    used: AtomicU64,
}

impl Session {
    /// A session with a name of its own.
    pub fn new(files: Arc<dyn Write>) -> Self {
        let mut name = files.prefix();
        name.extend(Uuid::new_v4().simple().to_string().chars().skip(name.len()));
        Self { files, name, used: AtomicU64::new(0) }
    }

    /// The place it writes to.
    pub fn files(&self) -> &Arc<dyn Write> {
        &self.files
    }

    /// A file name that nobody else uses: the session's, a dot and a number.
    pub fn unique_name(&self) -> String {
        format!("{}.{}", self.name, self.used.fetch_add(1, Ordering::Relaxed))
    }

    /// A file that is not in the repository yet.
    pub fn draft(&self) -> Result<Draft> {
        self.draft_as(&self.unique_name())
    }

    /// The same with a name that its caller chose.
    pub(super) fn draft_as(&self, name: &str) -> Result<Draft> {
        let path = format!("tmp/{name}");
        let file = self.files.create(&path)?;
        Ok(Draft { files: Arc::clone(&self.files), path, file, finished: false })
    }

    /// Puts a whole file in place: after a crash it is there entirely or not at all.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut draft = self.draft()?;
        draft.append(bytes)?;
        draft.finish(path)
    }

    /// Removes a file durably.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.files.delete(path)?;
        self.files.flush_folder(folder_of(path))
    }
}

/// The session that made a lock or a draft.
pub(super) fn session_of(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

pub(super) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A file in `tmp/`; dropped unfinished, it is removed.
pub struct Draft {
    files: Arc<dyn Write>,
    path: String,
    file: Box<dyn Append>,
    finished: bool,
}

impl Draft {
    /// Adds bytes at its end.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes)
    }

    /// Makes its bytes durable, gives it its place, makes its name durable.
    pub fn finish(mut self, path: &str) -> Result<()> {
        self.file.flush()?;
        self.files.rename(&self.path, path)?;
        self.finished = true;
        self.files.flush_folder(folder_of(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            // Where this fails too, a later session finds the file and no lock that goes with it.
            let _ = self.files.delete(&self.path);
        }
    }
}
