//! What clients may fetch: files in memory by their names, folders of this machine that only HTTP serves, and answers that are
//! made when they are asked for.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use image_core::error::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use serde::Serialize;
use std::os::fd::OwnedFd;

/// A file in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its bytes.
    pub bytes: Bytes,
    /// Tells it from every file with other bytes.
    pub tag: String,
}

/// A folder of this machine, and the name that it has for clients.
#[derive(Debug)]
struct Folder {
    name: String,
    descriptor: OwnedFd,
}

/// An answer that was made for who asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// Its status (RFC 9110, section 15).
    pub status: u16,
    /// Its media type (RFC 9110, section 8.3).
    pub kind: &'static str,
    /// Its bytes.
    pub bytes: Bytes,
}

impl Made {
    /// What was asked for.
    pub fn new(kind: &'static str, bytes: impl Into<Bytes>) -> Self {
        Self { status: 200, kind, bytes: bytes.into() }
    }

    /// The same as JSON.
    pub fn json(value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(bytes) => Self::new("application/json", bytes),
            Err(error) => Self::said(500, &error.to_string()),
        }
    }

    /// A refusal, in words: `{"error": why}`.
    pub fn said(status: u16, why: &str) -> Self {
        Self { status, ..Self::json(&BTreeMap::from([("error", why)])) }
    }
}

/// What a client wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question<'a> {
    /// The name that it asks for.
    pub name: &'a str,
    /// What it says, where it posts something.
    pub posted: Option<&'a [u8]>,
    /// The secret that it knows.
    pub token: Option<&'a str>,
    /// Where it asks from.
    pub client: Option<Ipv4Addr>,
}

/// What answers when it is asked.
pub trait Answers: Send + Sync + Debug {
    /// The answer; none where there is no such name.
    fn answer(&self, question: &Question<'_>) -> Option<Made>;
}

/// Why somebody is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// He knows no secret.
    Unknown,
    /// Too many wrong ones were tried just now.
    Later,
}

/// Who may fetch what is below a folder.
pub trait Door: Send + Sync + Debug {
    /// Lets in who knows this secret, or not.
    ///
    /// # Errors
    /// Why not.
    fn open(
        &self,
        secret: Option<&str>,
        client: Option<Ipv4Addr>,
    ) -> std::result::Result<(), Closed>;
}

/// What a client does with a file that it writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change<'a> {
    /// Adds bytes at its end, which is `at`; none at 0 make it.
    Append {
        /// In bytes.
        at: u64,
        /// Some more.
        bytes: &'a [u8],
    },
    /// Gives it its place.
    Finish {
        /// The name there.
        to: &'a str,
    },
    /// Removes it.
    Delete,
}

/// What takes files.
pub trait Takes: Send + Sync + Debug {
    /// Whether who knows this secret may write anything; asked before what he sends is read.
    fn knows(&self, secret: &str) -> bool;
    /// The answer to who wants to change the file `name`.
    fn take(&self, secret: &str, name: &str, change: Change<'_>) -> Made;
}

/// What there is to be fetched. Nothing else exists for a client, whatever path it asks for.
#[derive(Default, Debug)]
pub struct Files {
    stored: BTreeMap<String, Stored>,
    folders: Vec<Folder>,
    /// Each with what stands before its names.
    answers: Vec<(String, Arc<dyn Answers>)>,
    doors: Vec<(String, Arc<dyn Door>)>,
    takes: Vec<(String, Arc<dyn Takes>)>,
}

impl Files {
    /// Adds a file, in place of another one of that name.
    pub fn add(&mut self, name: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let tag = blake3::hash(&bytes).to_hex()[..32].to_owned();
        self.stored.insert(name.to_owned(), Stored { bytes, tag });
    }

    /// Adds a folder of this machine as `name`, with everything below it.
    ///
    /// # Errors
    /// [`Error::Io`]: it cannot be opened.
    pub fn add_folder(&mut self, name: &str, path: &Path) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat(CWD, path, flags, Mode::empty())
            .map_err(|error| Error::io(path.display().to_string(), "open", error.into()))?;
        self.folders.push(Folder { name: name.to_owned(), descriptor });
        Ok(())
    }

    /// Adds what answers to names below the folder `name`, or to any where that is empty; only HTTP asks for them.
    pub fn add_answers(&mut self, name: &str, answers: Arc<dyn Answers>) {
        self.answers.push((name.to_owned(), answers));
    }

    /// Puts a door before what is below the folder `name`; over HTTP, and nothing else gives what is there.
    pub fn add_door(&mut self, name: &str, door: Arc<dyn Door>) {
        self.doors.push((name.to_owned(), door));
    }

    /// Adds what takes files below the folder `name`.
    pub fn add_takes(&mut self, name: &str, takes: Arc<dyn Takes>) {
        self.takes.push((name.to_owned(), takes));
    }

    /// Whether who knows this secret may fetch there.
    ///
    /// # Errors
    /// Why not.
    pub fn open(
        &self,
        asked: &str,
        secret: Option<&str>,
        client: Option<Ipv4Addr>,
    ) -> std::result::Result<(), Closed> {
        let Some(asked) = plain(asked) else { return Ok(()) };
        let mut doors = self.doors.iter().filter(|(folder, _)| below(&asked, folder).is_some());
        doors.try_for_each(|(_, door)| door.open(secret, client))
    }

    /// What takes files there, and the name in it.
    pub fn taking(&self, asked: &str) -> Option<(Arc<dyn Takes>, String)> {
        let asked = plain(asked)?;
        self.takes.iter().find_map(|(folder, takes)| {
            Some((Arc::clone(takes), below(&asked, folder)?.to_owned()))
        })
    }

    /// The answer to what a client asked.
    pub fn answered(&self, question: &Question<'_>) -> Option<Made> {
        let asked = plain(question.name)?;
        self.answers.iter().find_map(|(folder, answers)| {
            let name = match folder.as_str() {
                "" => asked.as_str(),
                folder => asked.strip_prefix(folder)?.strip_prefix('/')?,
            };
            answers.answer(&Question { name, ..*question })
        })
    }

    /// The size of all files in memory, in bytes.
    pub fn size(&self) -> usize {
        self.stored.values().map(|file| file.bytes.len()).sum()
    }

    /// The file in memory that a client asked for: `/x`, `x` and `//x` are one.
    pub fn stored(&self, asked: &str) -> Option<&Stored> {
        self.stored.get(&plain(asked)?)
    }

    /// The file or folder of this machine that a client asked for. Links lead nowhere outside of what was added.
    pub fn opened(&self, asked: &str) -> Option<File> {
        let asked = plain(asked)?;
        let (folder, rest) = self.folders.iter().find_map(|folder| {
            let rest = below(&asked, &folder.name)?;
            Some((folder, if rest.is_empty() { "." } else { rest }))
        })?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        openat2(&folder.descriptor, rest, flags, Mode::empty(), inside).ok().map(File::from)
    }
}

/// What of a name is below a folder; nothing where it is the folder.
fn below<'a>(name: &'a str, folder: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(folder)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// A path as it is asked for, as a name; none where it leads upwards, which no boot loader asks for.
fn plain(asked: &str) -> Option<String> {
    let parts: Vec<&str> =
        asked.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.contains(&"..")).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::Files;

    #[test]
    fn one_file_has_many_spellings() {
        let mut files = Files::default();
        files.add("grub/grub.cfg", "menu");
        for asked in ["grub/grub.cfg", "/grub/grub.cfg", "//grub//grub.cfg", "./grub/./grub.cfg"] {
            assert_eq!(files.stored(asked).unwrap().bytes, "menu", "{asked}");
        }
        for asked in ["", "/", "grub", "grub/grub.cfg2", "x/../grub/grub.cfg", "Grub/grub.cfg"] {
            assert_eq!(files.stored(asked), None, "{asked}");
        }
    }

    #[test]
    fn nothing_leads_out_of_a_folder() {
        let work = tempfile::tempdir().unwrap();
        let served = work.path().join("served");
        fs::create_dir_all(served.join("packs")).unwrap();
        fs::write(served.join("packs/a"), "pack").unwrap();
        fs::write(work.path().join("secret"), "secret").unwrap();
        symlink("../secret", served.join("out")).unwrap();
        symlink(work.path().join("secret"), served.join("far")).unwrap();
        symlink("packs/a", served.join("in")).unwrap();
        let mut files = Files::default();
        files.add_folder("repo", &served).unwrap();
        for asked in ["repo/packs/a", "/repo//packs/a", "repo/in"] {
            let mut text = String::new();
            files.opened(asked).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "pack", "{asked}");
        }
        assert!(files.opened("repo").unwrap().metadata().unwrap().is_dir());
        let outside =
            ["repo/out", "repo/far", "repo/../secret", "repository", "packs/a", "", "repo/none"];
        for asked in outside {
            assert!(files.opened(asked).is_none(), "{asked}");
        }
        assert!(files.add_folder("x", &served.join("none")).is_err());
    }
}
