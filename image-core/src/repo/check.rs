//! Looking after a repository: every file's own hash, what is missing, what nobody needs.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::Root;
use crate::image::pack::Entry;
use crate::repo::batch::find_damage;
use crate::repo::catalog::{self, CATALOG, Catalog};
use crate::repo::images::Images;
use crate::repo::index::{Index, PackFile, is_damage, read_trailer};
use crate::repo::locations::{self, Place, locations_path};
use crate::repo::lock::{Lock, LockKind, leftovers};
use crate::repo::read::Read;
use crate::repo::{ImageInfo, MAX_ROOT, MAX_SEGMENT, Repository, named, read_named, trash};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// How thorough a check is.
#[derive(Clone, Copy, Default, Debug)]
pub struct CheckOptions {
    /// Read, verify and decode every chunk of every pack too.
    pub read_data: bool,
    /// Make the caches anew even where they look right; nobody else may use the repository meanwhile.
    pub rebuild: bool,
}

/// What a check found and did.
#[derive(Default, Debug)]
pub struct CheckReport {
    /// Number of images whose record is intact.
    pub images: usize,
    /// Number of packs.
    pub packs: usize,
    /// Number of chunks in intact trailers.
    pub chunks: usize,
    /// What is damaged or missing; each error names its file, and the image where there is one.
    pub damaged: Vec<Error>,
    /// Files that no image needs: harmless.
    pub orphans: Vec<String>,
    /// Caches that were missing or damaged, or were to be made anew, and were.
    pub rebuilt: Vec<String>,
    /// Drafts of dead sessions that were removed.
    pub removed: Vec<String>,
    /// Images of which some bytes could not be read when they were saved, and how many.
    pub unreadable: Vec<(ImageInfo, Bytes)>,
}

/// Checks; a repository that can only be read is not changed.
pub(super) fn check(
    repository: &Repository,
    options: CheckOptions,
    report: &dyn Report,
) -> Result<CheckReport> {
    let kind = if options.rebuild { LockKind::Exclusive } else { LockKind::Shared };
    let lock = match (&repository.session, options.rebuild) {
        (None, false) => None,
        _ => Some(Lock::take(repository.session()?, kind)?),
    };
    report.stage(Stage::Index, None);
    let files = repository.files.as_ref();
    let mut index = Index::build(files, trash::all_packs(files)?, report)?;
    let mut out =
        CheckReport { chunks: index.len(), packs: index.packs.len(), ..CheckReport::default() };
    out.damaged.extend(std::mem::take(&mut index.damaged).into_iter().map(|(_, error)| error));
    let mut check = Check {
        repository,
        files,
        report,
        used_packs: HashSet::new(),
        segments: HashMap::new(),
        roots: HashSet::new(),
        index,
        out,
    };
    check.images()?;
    check.orphans()?;
    if options.read_data {
        check.read_data()?;
    }
    if lock.is_some() {
        check.remove_leftovers()?;
        check.caches(options.rebuild)?;
    }
    Ok(check.out)
}

struct Check<'a> {
    repository: &'a Repository,
    files: &'a dyn Read,
    report: &'a dyn Report,
    index: Index,
    used_packs: HashSet<Hash>,
    /// The segments that images name, with their chunks where they can be read.
    segments: HashMap<Hash, Option<HashSet<ChunkId>>>,
    roots: HashSet<Hash>,
    out: CheckReport,
}

impl Check<'_> {
    /// Keeps damage as a finding; other errors end the check.
    fn note<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_damage(&error) => {
                self.out.damaged.push(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn images(&mut self) -> Result<()> {
        let Images { intact, damaged } = self.repository.images()?;
        self.out.images = intact.len();
        self.out.damaged.extend(damaged);
        for image in &intact {
            self.report.checkpoint()?;
            if self.roots.insert(image.record.root)
                && let Some(root) = self.note(self.repository.root(image))?
            {
                let unreadable = root.unreadable_bytes();
                if !unreadable.is_zero() {
                    self.out.unreadable.push((image.clone(), unreadable));
                }
                self.tables(image, &root)?;
            }
        }
        Ok(())
    }

    fn tables(&mut self, image: &ImageInfo, root: &Root) -> Result<()> {
        for (volume, number, hash) in root.segments() {
            self.report.checkpoint()?;
            if self.segments.contains_key(&hash) {
                continue;
            }
            let chunks = self.repository.segment_chunks(root.window, volume, number, hash);
            let of_image = |error: Error| named(error, image);
            let chunks = self.note(chunks.map_err(of_image))?;
            if let Some(chunks) = &chunks {
                let subject = format!("image {}, volume {}", image.record.name, volume.id);
                self.chunks(&subject, chunks)?;
            }
            self.segments.insert(hash, chunks);
        }
        Ok(())
    }

    /// Looks for a table's chunks, and the bases of those that are deltas, in the packs.
    fn chunks(&mut self, subject: &str, chunks: &HashSet<ChunkId>) -> Result<()> {
        let places = self.index.locate(self.files, chunks.iter().copied())?;
        self.used_packs.extend(places.iter().map(|place| place.pack));
        let found: HashSet<ChunkId> = places.iter().map(|place| place.entry.id).collect();
        let missing = chunks.difference(&found).count();
        if let Some(first) = chunks.difference(&found).min() {
            let found = format!(
                "{missing} of them in no intact pack, or their base in none, such as {first}"
            );
            let expected = format!("{} chunks", chunks.len());
            self.out
                .damaged
                .push(Error::corrupt("table", Bytes::ZERO, expected, found).on(subject));
        }
        Ok(())
    }

    /// Files that no image names; their hashes are checked all the same.
    fn orphans(&mut self) -> Result<()> {
        for (folder, max) in [("roots", MAX_ROOT), ("tables", MAX_SEGMENT)] {
            for file in self.files.list(folder)? {
                self.report.checkpoint()?;
                let path = format!("{folder}/{}", file.name);
                let hash = file.name.parse::<Hash>().ok();
                let is_named = |hash| match folder {
                    "roots" => self.roots.contains(&hash),
                    _ => self.segments.contains_key(&hash),
                };
                if hash.is_some_and(is_named) {
                    continue;
                }
                if let Some(hash) = hash {
                    let read = read_named(self.files, &path, hash, max).map(drop);
                    self.note(read)?;
                }
                self.out.orphans.push(path);
            }
        }
        for folder in ["packs", "images", "locations"] {
            for file in self.files.list(folder)? {
                let is_needed = |hash: Hash| match folder {
                    "packs" => self.used_packs.contains(&hash),
                    "locations" => self.segments.contains_key(&hash),
                    _ => true,
                };
                if !file.name.parse().is_ok_and(is_needed) {
                    self.out.orphans.push(format!("{folder}/{}", file.name));
                }
            }
        }
        self.out.orphans.sort_unstable();
        Ok(())
    }

    fn read_data(&mut self) -> Result<()> {
        let packs = self.index.packs.clone();
        let total = packs.iter().map(|pack| pack.size).fold(Bytes::ZERO, Bytes::saturating_add);
        self.report.stage(Stage::Check, Some(total));
        for pack in &packs {
            // A damaged trailer was named when the index was built.
            match read_trailer(self.files, *pack) {
                Ok(trailer) => self.pack_data(*pack, trailer.chunks)?,
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
            self.report.advance(pack.size);
        }
        Ok(())
    }

    fn pack_data(&mut self, pack: PackFile, chunks: Vec<(Bytes, Entry)>) -> Result<()> {
        let place = |(offset, entry)| Place { pack: pack.name, offset, entry };
        let bases: HashSet<ChunkId> = chunks.iter().filter_map(|(_, entry)| entry.base).collect();
        let bases = self.index.locate(self.files, bases.into_iter())?;
        let bases: HashMap<ChunkId, Place> =
            bases.into_iter().map(|place| (place.entry.id, place)).collect();
        let mut places: Vec<Place> = chunks.into_iter().map(place).collect();
        // A delta whose base is gone is no chunk any more: a save does not count on it, and pruning leaves it behind
        // where no image needs it. Where one does, that was told when its tables were read.
        places.retain(|place| place.entry.base.is_none_or(|base| bases.contains_key(&base)));
        find_damage(self.files, places, &bases, |damaged| {
            self.out.damaged.extend(damaged);
            self.report.checkpoint()
        })
    }

    fn remove_leftovers(&mut self) -> Result<()> {
        let session = self.repository.session()?;
        for leftover in leftovers(self.files)? {
            let path = format!("tmp/{}", leftover.name);
            session.delete(&path)?;
            self.out.removed.push(path);
        }
        Ok(())
    }

    /// Makes locations and catalog anew where they are missing, damaged or wrong.
    fn caches(&mut self, force: bool) -> Result<()> {
        let session = self.repository.session()?;
        for (segment, chunks) in &self.segments {
            self.report.checkpoint()?;
            let Some(chunks) = chunks else { continue };
            if !force && self.locations_fit(*segment, chunks)? {
                continue;
            }
            let places = self.index.locate(self.files, chunks.iter().copied())?;
            let path = locations_path(*segment);
            session.put(&path, &locations::encode(*segment, &places))?;
            self.out.rebuilt.push(path);
        }
        let should = Catalog::of(self.files)?;
        if force || Catalog::read(self.files).ok() != Some(should) {
            catalog::write(session)?;
            self.out.rebuilt.push(CATALOG.to_owned());
        }
        self.out.rebuilt.sort_unstable();
        Ok(())
    }

    /// Whether a segment's locations name every chunk that is in an intact pack, and packs that exist.
    fn locations_fit(&self, segment: Hash, chunks: &HashSet<ChunkId>) -> Result<bool> {
        let places = match locations::read(self.files, segment) {
            Err(error) if is_damage(&error) => return Ok(false),
            other => other?,
        };
        let packs: HashSet<Hash> = self.index.packs.iter().map(|pack| pack.name).collect();
        let listed: HashSet<ChunkId> = places.iter().map(|place| place.entry.id).collect();
        let base_listed =
            |place: &Place| place.entry.base.is_none_or(|base| listed.contains(&base));
        Ok(places.iter().all(|place| packs.contains(&place.pack) && base_listed(place))
            && chunks.iter().all(|id| listed.contains(id) || self.index.find(id).is_none()))
    }
}
