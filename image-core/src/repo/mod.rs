//! A repository: a plain directory of immutable files that hold images.
//!
//! Answers: which images there are, what a user's words mean, where chunks lie; stores new ones so that an
//! image exists or does not. Refuses: files whose BLAKE3 does not match, a repository of a newer format, a
//! lock that another holds. The truth is records, roots, tables and the packs' trailers; `catalog` and
//! `locations/` are caches and rebuilt.
//!
//! - `location.rs` where, as a person names it
//! - `read.rs` `write.rs` what is asked of a place for files; drafts · `local.rs` `memory.rs` such places ·
//!   `http/` one that is only read, or written by who has an order
//! - `guest.rs` what somebody else may write here, piece by piece
//! - `lock.rs` who else works here · `catalog.rs` the list for places that cannot list
//! - `index.rs` known chunks by the trailers · `locations.rs` where a table's chunks lie
//! - `images.rs` images by name · `census.rs` `usage.rs` what they need and take · `save.rs` a save's side of it
//! - `parent.rs` bases for deltas
//! - `prune.rs` frees what no image needs: `needs.rs` which that is, `rewrite.rs` packs of which most is not
//!   needed, `trash.rs` what is kept for a while
//! - `copy.rs` images into another repository
//! - `sequence.rs` an image's chunks in disk order, to be sent
//! - `feed.rs` `batch.rs` chunks back, verified · `check.rs` every file's own hash, orphans
mod batch;
mod catalog;
mod census;
mod check;
mod copy;
mod feed;
mod guest;
mod http;
mod images;
mod index;
mod local;
mod location;
mod locations;
mod lock;
mod memory;
mod needs;
mod parent;
mod prune;
mod read;
mod rewrite;
mod save;
mod sequence;
mod trash;
mod usage;
mod write;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod copy_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod delta_tests;
#[cfg(test)]
mod prune_tests;
#[cfg(test)]
mod sample;

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use check::{CheckOptions, CheckReport};
pub use copy::{Copied, CopiedImage, Copier, CopyOptions};
pub use feed::{ChunkFeed, Delivery, Lost, PackFeed, WantSet};
pub use guest::{Guest, MAX_PIECE, status as guest_status};
pub use http::{Address, Http, ORDERED, listed_names};
pub use images::{ImageInfo, Images};
pub use local::Local;
pub use location::Location;
pub use lock::host_name;
pub use memory::{Memory, Unflushed};
pub use parent::{Base, Parent};
pub use prune::{Amount, PruneOptions, PruneReport};
pub use read::{FileInfo, Read, check_path, is_missing};
pub use save::{Added, Known, Saver};
pub use sequence::{Sequence, StoredChunk};
pub use usage::{Usage, Usages};
pub use write::{Append, Write};

use crate::error::{Error, Result};
use crate::image::hash::{ChunkId, Hash};
use crate::image::header::{Version, encode_json, parse_json, seal, unseal};
use crate::image::manifest::{MAX_ROOT, Root, VolumeEntry};
use crate::image::segment::{MAX_SEGMENT, SegmentReader, segment_span};
use crate::image::time::Timestamp;
use crate::report::Report;
use crate::units::Bytes;
use lock::{Lock, LockKind};
use trash::WithTrash;
use write::Session;

/// The file that makes a folder a repository.
const HEADER: &str = "keiki";
const MAX_HEADER: Bytes = Bytes::kib(64);

/// Every folder of a repository.
const FOLDERS: [&str; 8] =
    ["images", "roots", "tables", "packs", "locations", "locks", "tmp", "trash"];

/// What the repository's own file says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
struct Header {
    #[serde(flatten)]
    version: Version,
    id: String,
    created: Timestamp,
}

/// A repository that was opened; clones are the same one.
#[derive(Clone)]
pub struct Repository {
    files: Arc<dyn Read>,
    session: Option<Arc<Session>>,
    header: Header,
}

impl Repository {
    /// Opens the repository that is there, or makes one; somebody else may be making one at this moment.
    ///
    /// # Errors
    /// As [`Repository::open`] and [`Repository::create`].
    pub fn open_or_create(files: Arc<dyn Write>) -> Result<Self> {
        if !Self::exists(files.as_ref())? {
            match Self::create(Arc::clone(&files)) {
                Err(Error::Refused(_)) if Self::exists(files.as_ref())? => {}
                made => return made,
            }
        }
        Self::open(files)
    }

    /// Makes a new repository in an empty place; its folder is made where it does not exist.
    ///
    /// # Errors
    /// `Refused` where there are other files or a repository already, and where somebody is making one.
    pub fn create(files: Arc<dyn Write>) -> Result<Self> {
        let there = files.list("")?;
        if let Some(file) = there.first() {
            return Err(Error::refused(format!(
                "{} is no place for a new repository: it has the file {}",
                files.location(),
                file.name
            )));
        }
        files.make_folder("")?;
        FOLDERS.iter().try_for_each(|folder| files.make_folder(folder))?;
        let header = Header {
            version: Version::CURRENT,
            id: uuid::Uuid::new_v4().to_string(),
            created: Timestamp::now(),
        };
        let session = Arc::new(Session::new(Arc::clone(&files)));
        let lock = Lock::take(&session, LockKind::Exclusive)?;
        if Self::exists(files.as_ref())? {
            let place = files.location();
            return Err(Error::refused(format!("somebody else made a repository at {place}")));
        }
        session.put(HEADER, &seal(encode_json(&header)?))?;
        lock.release()?;
        Ok(Self { files: Arc::new(WithTrash(files)), session: Some(session), header })
    }

    /// Opens a repository that is there.
    ///
    /// # Errors
    /// `Refused` where there is none; `Corrupt` where its header is damaged; `Unsupported` where it is of a
    /// newer format.
    pub fn open(files: Arc<dyn Write>) -> Result<Self> {
        let header = read_header(files.as_ref())?;
        let session = Some(Arc::new(Session::new(Arc::clone(&files))));
        Ok(Self { files: Arc::new(WithTrash(files)), session, header })
    }

    /// Opens a repository that is only read, be it for where it is kept.
    pub fn open_read_only(files: Arc<dyn Read>) -> Result<Self> {
        let header = read_header(files.as_ref())?;
        Ok(Self { files: Arc::new(WithTrash(files)), session: None, header })
    }

    /// Whether a place holds a repository, damaged or not.
    pub fn exists(files: &dyn Read) -> Result<bool> {
        match files.get(HEADER, MAX_HEADER) {
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) if index::is_damage(&error) => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// The place, for messages.
    pub fn location(&self) -> String {
        self.files.location()
    }

    /// The repository's own id: a UUID.
    pub fn id(&self) -> &str {
        &self.header.id
    }

    /// The session for changes; there is none without the right and the knowledge to write.
    fn session(&self) -> Result<&Arc<Session>> {
        self.header.version.writable().map_err(|error| error.on(&self.location()))?;
        self.session.as_ref().ok_or_else(|| {
            Error::refused(format!("the repository {} can only be read", self.location()))
        })
    }

    /// All images, by their records.
    pub fn images(&self) -> Result<Images> {
        Images::read(self.files.as_ref())
    }

    /// The image that `NAME`, `NAME@IDPREFIX` or `NAME@2026-11-20` means; see [`Images::resolve`].
    ///
    /// Damaged records are warned of: one of them may have been the newest.
    pub fn resolve(&self, text: &str, report: &dyn Report) -> Result<ImageInfo> {
        let images = self.images()?;
        for error in &images.damaged {
            report.warning(&format!("{error}; what this record named is not listed"));
        }
        images.resolve(text).cloned()
    }

    /// The image with this id; none where there is none.
    pub fn image(&self, id: Hash) -> Result<Option<ImageInfo>> {
        ImageInfo::find(self.files.as_ref(), id)
    }

    /// An image's root; errors name the file and the image.
    pub fn root(&self, image: &ImageInfo) -> Result<Root> {
        let read = self.root_file(image).map_err(|error| named(error, image));
        read.map(|(_, root)| root)
    }

    /// The same, with the file's bytes; errors name the file only.
    fn root_file(&self, image: &ImageInfo) -> Result<(Vec<u8>, Root)> {
        let hash = image.record.root;
        let path = root_path(hash);
        let read = || {
            let bytes = read_named(self.files.as_ref(), &path, hash, MAX_ROOT)?;
            Root::parse(&bytes).map(|root| (bytes, root))
        };
        read().map_err(|error: Error| error.on(&path))
    }

    /// A table segment's bytes, as its hash says.
    pub fn segment(&self, hash: Hash) -> Result<Vec<u8>> {
        read_named(self.files.as_ref(), &table_path(hash), hash, MAX_SEGMENT)
    }

    /// The distinct chunks of segment `number` of a volume.
    fn segment_chunks(
        &self,
        window: Bytes,
        volume: &VolumeEntry,
        number: u64,
        hash: Hash,
    ) -> Result<HashSet<ChunkId>> {
        let bytes = self.segment(hash)?;
        let span = segment_span(number, window, volume.size).len();
        let chunks = || -> Result<HashSet<ChunkId>> {
            let windows = SegmentReader::new(&bytes, window, span)?;
            windows.filter_map(|next| next.map(|(_, state)| state.chunk).transpose()).collect()
        };
        chunks().map_err(|error| error.on(&table_path(hash)))
    }

    /// Begins a save: takes a shared lock and learns which chunks are known.
    pub fn saver(&self, report: &dyn Report) -> Result<Saver> {
        Saver::new(self, report)
    }

    /// A feed of this repository's chunks for images whose root says `window`.
    pub fn feed(&self, window: Bytes) -> Result<PackFeed> {
        PackFeed::new(Arc::clone(&self.files), window)
    }

    /// Forgets images: removes their records; what only they needed stays until it is pruned. The catalog is only a
    /// cache: what went wrong with it is returned.
    pub fn remove(&self, images: &[ImageInfo]) -> Result<Option<Error>> {
        let session = self.session()?;
        let _lock = Lock::take(session, LockKind::Shared)?;
        for image in images {
            session.delete(&images::record_path(image.id))?;
        }
        Ok(catalog::write(session).err())
    }

    /// What each image takes; see [`Usage`].
    pub fn usage(&self, images: &[ImageInfo], report: &dyn Report) -> Result<Usages> {
        let groups: Vec<&[ImageInfo]> = images.iter().map(std::slice::from_ref).collect();
        usage::usage(self, &groups, report)
    }

    /// What several images take together; see [`Usage`].
    pub fn usage_together(&self, images: &[ImageInfo], report: &dyn Report) -> Result<Usages> {
        usage::usage(self, &[images], report)
    }

    /// Frees what no image needs; see [`PruneReport`].
    ///
    /// # Errors
    /// `Refused` where anything is damaged or missing that an image may need, and nothing is removed then; where
    /// another session uses the repository. After any other error every image is as whole as before.
    pub fn prune(&self, options: PruneOptions, report: &dyn Report) -> Result<PruneReport> {
        prune::prune(self, options, report)
    }

    /// Looks after the repository; see [`CheckReport`].
    pub fn check(&self, options: CheckOptions, report: &dyn Report) -> Result<CheckReport> {
        check::check(self, options, report)
    }
}

fn root_path(hash: Hash) -> String {
    format!("roots/{hash}")
}

fn table_path(hash: Hash) -> String {
    format!("tables/{hash}")
}

/// Reads a file that is named by its own hash; errors name it.
fn read_named(files: &dyn Read, path: &str, hash: Hash, max: Bytes) -> Result<Vec<u8>> {
    let bytes = files.get(path, max)?;
    let found = Hash::of(&bytes);
    if found == hash {
        return Ok(bytes);
    }
    let expected = "the hash that is its name";
    Err(Error::corrupt("file", Bytes::ZERO, expected, found.to_string()).on(path))
}

fn read_header(files: &dyn Read) -> Result<Header> {
    let bytes = match files.get(HEADER, MAX_HEADER) {
        Err(error) if is_missing(&error) => {
            return Err(Error::refused(format!("there is no repository at {}", files.location())));
        }
        other => other?,
    };
    let parse = || parse_json("repository header", unseal("repository header", &bytes)?);
    parse().map_err(|error: Error| error.on(&format!("{}/{HEADER}", files.location())))
}

/// The same error, naming the image too.
fn named(error: Error, image: &ImageInfo) -> Error {
    match error {
        Error::Corrupt { subject, structure, offset, expected, found } => {
            let subject = format!("image {}, {subject}", image.record.name);
            Error::Corrupt { subject, structure, offset, expected, found }
        }
        Error::Io { subject, action, offset, source } => {
            let subject = format!("image {}, {subject}", image.record.name);
            Error::Io { subject, action, offset, source }
        }
        Error::Unsupported { subject, what } => {
            let subject = format!("image {}, {subject}", image.record.name);
            Error::Unsupported { subject, what }
        }
        other => other,
    }
}
