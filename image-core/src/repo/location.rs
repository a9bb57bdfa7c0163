//! Where a repository is kept, as a person names it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::repo::{Address, Http, Local, Read, Repository};

/// A folder, or the address of one on a web server. Shown without its password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A folder of this machine, which need not exist.
    Folder(PathBuf),
    /// A folder on a web server, which is only read, unless the server has given an order to write there.
    Http(Address),
}

impl Location {
    /// The folder, if it is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Http(_) => None,
        }
    }

    /// The folder, for somebody who writes.
    ///
    /// # Errors
    /// `Refused` where nothing can be written.
    pub fn writable(&self) -> Result<&Path> {
        self.folder().ok_or_else(|| {
            Error::refused(format!(
                "the repository {self} can only be read: images are saved, removed and pruned where its folder is"
            ))
        })
    }

    /// Whether images can be saved there: into a folder, and by order of a server.
    ///
    /// # Errors
    /// `Refused` where they cannot.
    pub fn takes_images(&self) -> Result<()> {
        match self {
            Self::Http(address) if address.is_written() => Ok(()),
            _ => self.writable().map(drop),
        }
    }

    /// The files there.
    ///
    /// # Errors
    /// `Refused` where the address is none.
    pub fn files(&self) -> Result<Arc<dyn Read>> {
        Ok(match self {
            Self::Folder(path) => Arc::new(Local::new(path)),
            Self::Http(address) => Arc::new(Http::new(address)?),
        })
    }

    /// Opens the repository that is there, to read and, in a folder, to write.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open(&self) -> Result<Repository> {
        match self {
            Self::Folder(path) => Repository::open(Arc::new(Local::new(path))),
            Self::Http(address) if address.is_written() => {
                Repository::open(Arc::new(Http::new(address)?))
            }
            Self::Http(_) => Repository::open_read_only(self.files()?),
        }
    }

    /// What was typed, with the password: for a command that is run, not for one that is shown.
    pub fn as_typed(&self) -> OsString {
        match self {
            Self::Folder(path) => path.into(),
            Self::Http(address) => address.as_typed().into(),
        }
    }
}

impl<T: Into<OsString>> From<T> for Location {
    fn from(text: T) -> Self {
        let text = text.into();
        let address = text.to_str().and_then(Address::of);
        address.map_or_else(|| Self::Folder(text.into()), Self::Http)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Http(address) => write!(f, "{address}"),
        }
    }
}
