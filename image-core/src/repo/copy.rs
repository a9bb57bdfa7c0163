//! Images into another repository: chunks as they are stored, then tables, the root, and the record last.
//!
//! A copy has the image's own files, so it has the same id and content id. What the other repository has already is not
//! copied: so a copy that died is continued by copying again, and one of an image that is there brings what that lost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::error::{Error, Result};
use crate::image::codec::{Codec, Encoder, Stored};
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::VolumeEntry;
use crate::image::pack::Entry;
use crate::image::record::MAX_RECORD;
use crate::image::segment::{SegmentReader, segment_span};
use crate::repo::batch::{Order, batches, read_stored};
use crate::repo::census::{Census, for_each_segment};
use crate::repo::index::{is_damage, pack_path, prefix};
use crate::repo::locations::Place;
use crate::repo::lock::Lock;
use crate::repo::{
    ChunkFeed, Delivery, ImageInfo, Known, Lost, PackFeed, Repository, Saver, WantSet, images,
    named, read_named, table_path, trash,
};
use crate::report::{Report, Stage};
use crate::units::Bytes;

/// The zstd level of what is encoded again: that of a save that says nothing else.
const LEVEL: i32 = 3;

/// What a chunk takes in the table segment and in the locations.
const NAMED: Bytes = Bytes::new(120);

/// How images are copied.
#[derive(Clone, Copy, Default, Debug)]
pub struct CopyOptions {
    /// Deltas are stored in full, so that no chunk of these images needs another one; no id changes by that.
    pub flatten: bool,
}

/// An image that is in the other repository now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopiedImage {
    /// The image.
    pub image: ImageInfo,
    /// Its record was there before.
    pub was_there: bool,
    /// How much of it could not be read when it was saved: that is a hole in the copy too.
    pub unreadable: Bytes,
}

/// What copying did.
#[derive(Default, Debug)]
pub struct Copied {
    /// The images that are there now, in the order in which they were named.
    pub images: Vec<CopiedImage>,
    /// Images that are damaged where they are, and so are not there; each with the first damage that was met.
    pub damaged: Vec<(ImageInfo, Error)>,
    /// Chunks that were copied, bases of deltas among them.
    pub copied_chunks: u64,
    /// Chunks that the other repository had, those of an image before among them.
    pub known_chunks: u64,
    /// What the copied ones take there.
    pub stored_bytes: Bytes,
}

/// Copies images from one repository into another one.
///
/// It holds the locks of a save there, and a shared one where the images are, if that can be written to: nothing that
/// they need is pruned meanwhile. Memory is bounded as that of a restore is; the estimate takes 34 bytes for each chunk of
/// the first repository.
pub struct Copier {
    saver: Saver,
    known: Arc<Known>,
    to: Repository,
    from: Repository,
    images: Vec<ImageInfo>,
    flatten: bool,
    needed: Bytes,
    /// Table segments whose chunks are there, each with what was taken for its window and its span.
    done: HashSet<(Hash, Bytes, Bytes)>,
    copied: Copied,
    _lock: Option<Lock>,
}

/// Why an image was not copied.
enum Stop {
    /// It is damaged where it is.
    Damaged(Error),
    /// Nothing can be copied.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What was read of the image: bytes that are damaged end the copy of this image only.
fn of_source<T>(read: Result<T>) -> Result<T, Stop> {
    read.map_err(|error| match error {
        Error::Unsupported { .. } => Stop::Failed(error),
        damage if is_damage(&damage) => Stop::Damaged(damage),
        other => Stop::Failed(other),
    })
}

impl Copier {
    /// Prepares to copy `images` of the repository `from` into `to`: takes the locks, and finds out what is missing
    /// there. Nothing is written but locks.
    ///
    /// # Errors
    /// `Refused` where both are the same repository, or one of them is being pruned; any of reading them.
    pub fn new(
        from: &Repository,
        images: &[ImageInfo],
        to: &Repository,
        options: CopyOptions,
        report: &dyn Report,
    ) -> Result<Self> {
        let lock = Lock::of_images(from, report)?;
        let saver = to.saver(report)?;
        if saver.is_in(from.files.as_ref())? {
            let place = from.location();
            let why = format!("the images are in {place} already: that is the same repository");
            return Err(Error::refused(why));
        }
        let mut once = HashSet::new();
        let mut copier = Self {
            known: saver.known(),
            saver,
            to: to.clone(),
            from: from.clone(),
            images: images.iter().filter(|image| once.insert(image.id)).cloned().collect(),
            flatten: options.flatten,
            needed: Bytes::ZERO,
            done: HashSet::new(),
            copied: Copied::default(),
            _lock: lock,
        };
        copier.needed = copier.estimate(report)?;
        Ok(copier)
    }

    /// Roughly what will be added there.
    pub fn needed(&self) -> Bytes {
        self.needed
    }

    /// Copies them, one after another. An image that is damaged where it is leaves nothing there that looks like an
    /// image, and does not keep the others from being copied.
    ///
    /// # Errors
    /// Any of writing, and of the way to the images; those before are there then, and what was stored is used by the
    /// next copy.
    pub fn run(mut self, report: &dyn Report) -> Result<Copied> {
        report.stage(Stage::Copy, Some(self.needed));
        for image in std::mem::take(&mut self.images) {
            match self.image(&image, report) {
                Ok(copied) => self.copied.images.push(copied),
                Err(Stop::Damaged(error)) => {
                    let error = named(error, &image);
                    self.copied.damaged.push((image, error));
                }
                Err(Stop::Failed(error)) => {
                    // For the next copy; where this fails too it is lost.
                    drop(self.saver.finish_packs());
                    return Err(error);
                }
            }
        }
        // What was stored of a damaged image is of use once that is mended.
        self.saver.finish_packs()?;
        Ok(self.copied)
    }

    /// Whether a chunk is there as it should be.
    fn has(&self, id: &ChunkId) -> bool {
        if self.flatten { self.known.contains_full(id) } else { self.known.contains(id) }
    }

    fn estimate(&self, report: &dyn Report) -> Result<Bytes> {
        report.stage(Stage::Estimate, None);
        let files = self.from.files.as_ref();
        let census = Census::take(files, trash::all_packs(files)?, report)?;
        let mut counted = vec![false; census.copies.len()];
        let mut needed = Bytes::ZERO;
        // Damage is told where it is met again.
        let (mut seen, mut damaged) = (HashSet::new(), Vec::new());
        for image in &self.images {
            let mut visit = |_, ids: &HashSet<ChunkId>| {
                for id in ids.iter().filter(|id| !self.has(id)) {
                    needed += self.cost(&census, &mut counted, id).saturating_add(NAMED);
                }
            };
            for_each_segment(&self.from, image, &mut seen, &mut damaged, report, &mut visit)?;
        }
        Ok(needed)
    }

    /// What a chunk takes that is not there, and its base, as far as they were not counted before.
    fn cost(&self, census: &Census, counted: &mut [bool], id: &ChunkId) -> Bytes {
        let stored = |at: usize| census.copies.get(at).map_or(Bytes::ZERO, |c| c.stored.into());
        let mut first =
            |at: usize| counted.get_mut(at).is_some_and(|at| !std::mem::replace(at, true));
        let copies = census.copies_of(&prefix(id));
        if copies.is_empty() || !first(copies.start) {
            return Bytes::ZERO;
        }
        let full = copies.clone().find(|at| census.base_of(*at).is_none());
        if let Some(full) = full {
            return stored(full);
        }
        let base = census.base_of(copies.start);
        let of_base = base.map_or(0..0, |base| census.copies_of(base));
        let in_full =
            of_base.clone().find(|at| census.base_of(*at).is_none()).map_or(Bytes::ZERO, stored);
        if self.flatten {
            return in_full;
        }
        let is_there = base.is_none_or(|base| self.known.index.find_full(base).is_some());
        let brought = !is_there && first(of_base.start);
        stored(copies.start).saturating_add(if brought { in_full } else { Bytes::ZERO })
    }

    fn image(&mut self, image: &ImageInfo, report: &dyn Report) -> Result<CopiedImage, Stop> {
        let files = Arc::clone(&self.from.files);
        let path = images::record_path(image.id);
        let record = of_source(read_named(files.as_ref(), &path, image.id, MAX_RECORD))?;
        let (bytes, root) = of_source(self.from.root_file(image))?;
        let mut feed = of_source(self.from.feed(root.window))?;
        for (volume, number, segment) in root.segments() {
            report.checkpoint()?;
            let span = segment_span(number, root.window, volume.size).len();
            let key = (segment, root.window, span);
            if self.done.contains(&key) {
                continue;
            }
            let table = of_source(self.from.segment(segment))?;
            let wanted = wanted(&table, root.window, span);
            let wanted = of_source(wanted.map_err(|error| error.on(&table_path(segment))))?;
            let part = Part { volume, window: root.window, segment, wanted };
            self.chunks(&part, &mut feed, report)?;
            self.saver.put_segment(&table)?;
            self.done.insert(key);
        }
        self.saver.put_root_as(&bytes)?;
        report.checkpoint()?;
        let there = read_named(self.to.files.as_ref(), &path, image.id, MAX_RECORD);
        let was_there = match there {
            Err(error) if is_damage(&error) => false,
            other => other.map(|_| true)?,
        };
        if was_there {
            self.saver.put_catalog(report)?;
        } else {
            self.saver.put_record_as(&record, report)?;
        }
        let unreadable = root.unreadable_bytes();
        Ok(CopiedImage { image: image.clone(), was_there, unreadable })
    }

    /// Copies the chunks of one table segment that are not there.
    fn chunks(
        &mut self,
        part: &Part<'_>,
        feed: &mut PackFeed,
        report: &dyn Report,
    ) -> Result<(), Stop> {
        let ids = part.wanted.iter().map(|(id, _)| *id);
        let missing: Vec<ChunkId> = ids.filter(|id| !self.has(id)).collect();
        let known = part.wanted.len() - missing.len();
        self.copied.known_chunks += u64::try_from(known).unwrap_or_default();
        if missing.is_empty() {
            return Ok(());
        }
        let wanted = WantSet::new(part.segment, missing.iter().copied());
        let found = of_source(feed.resolve(&wanted))?.found;
        let mut lost: Vec<ChunkId> =
            missing.iter().filter(|id| !found.contains_key(id)).copied().collect();
        let places = self.in_order(&missing, &wanted, &found);
        let ranks: HashMap<ChunkId, usize> =
            places.iter().map(|place| place.entry.id).zip(0..).collect();
        let rank = |(entry, _): &(Entry, Vec<u8>)| ranks.get(&entry.id).copied();
        let plan = batches(places, &found, Order::Named);
        let flatten = self.flatten;
        let make = |place: &Place, stored: &[u8], plain| match place.entry.base {
            Some(_) if flatten => Chunk::Plain(place.entry.id, plain),
            _ => Chunk::Stored(place.entry, stored.to_vec()),
        };
        let files = Arc::clone(&self.from.files);
        read_stored(files.as_ref(), part.window, &plan, make, |batch| {
            report.checkpoint()?;
            let (sound, bad): (Vec<_>, Vec<_>) = batch.into_iter().partition(Result::is_ok);
            lost.extend(bad.into_iter().filter_map(Result::err).map(|lost| lost.id));
            let sound =
                sound.into_par_iter().flatten().map_init(|| None, |e, chunk| chunk.stored(e));
            let mut sound: Vec<_> = sound.collect::<Result<_>>()?;
            sound.sort_unstable_by_key(rank);
            sound.iter().try_for_each(|chunk| self.put(chunk, report)).map(|()| true)
        })?;
        for id in lost {
            // Another pack may have it; a base that is lost is of no use by itself.
            let one = WantSet::new(part.segment, [id]);
            match of_source(feed.next(&one))? {
                Some(Delivery::Chunk { id, plain }) => {
                    self.put(&Chunk::Plain(id, plain).stored(&mut None)?, report)?;
                }
                Some(Delivery::Lost(lost)) if wanted.contains(&id) => {
                    return Err(Stop::Damaged(part.damage(&lost)));
                }
                _ => {}
            }
        }
        for (id, length) in &part.wanted {
            let other = found.get(id).filter(|found| Bytes::from(found.entry.plain_len) != *length);
            if let Some(place) = other {
                let why = format!("{} plain bytes, not {}", place.entry.plain_len, length.get());
                return Err(Stop::Damaged(part.damage(&Lost::at(place, why))));
            }
        }
        Ok(())
    }

    /// The places of chunks in the order of the image, each base that nothing else brings before the first that needs it.
    fn in_order(
        &self,
        missing: &[ChunkId],
        wanted: &WantSet,
        found: &HashMap<ChunkId, Place>,
    ) -> Vec<Place> {
        let mut brought = HashSet::new();
        let mut places = Vec::with_capacity(missing.len());
        for place in missing.iter().filter_map(|id| found.get(id)) {
            let base = place.entry.base.filter(|base| !self.flatten && !wanted.contains(base));
            let base = base.filter(|base| !self.known.contains_full(base) && brought.insert(*base));
            places.extend(base.and_then(|base| found.get(&base)));
            places.push(*place);
        }
        places
    }

    fn put(&mut self, (entry, bytes): &(Entry, Vec<u8>), report: &dyn Report) -> Result<()> {
        self.saver.put(entry, bytes)?;
        let stored = Bytes::of(bytes);
        self.copied.copied_chunks += 1;
        self.copied.stored_bytes += stored;
        report.advance(stored);
        Ok(())
    }
}

/// One table segment of an image.
struct Part<'a> {
    volume: &'a VolumeEntry,
    window: Bytes,
    segment: Hash,
    /// Its chunks in the order of the volume, each once, with the bytes that its windows have.
    wanted: Vec<(ChunkId, Bytes)>,
}

impl Part<'_> {
    fn damage(&self, lost: &Lost) -> Error {
        let Self { volume, .. } = self;
        let subject = match lost.pack {
            Some(pack) => format!("{}, {}", volume.id, pack_path(pack)),
            None => volume.id.clone(),
        };
        let offset = lost.offset.unwrap_or_default();
        Error::corrupt("chunk", offset, "the image's bytes", lost.why.as_str()).on(&subject)
    }
}

/// A chunk in full, as it is stored; the encoder is made at the first need. The same bytes give the same ones every time.
pub(super) fn encoded(encoder: &mut Option<Encoder>, plain: &[u8]) -> Result<(Codec, Vec<u8>)> {
    let encoder = match encoder {
        Some(encoder) => encoder,
        none => none.insert(Encoder::new(LEVEL)?),
    };
    let mut stored = Vec::new();
    let codec = encoder.encode(plain, &mut stored)?;
    stored.shrink_to_fit();
    Ok((codec, stored))
}

/// The chunks of a table segment in the order of the volume, each once, with the bytes that its windows have.
pub(super) fn wanted(table: &[u8], window: Bytes, span: Bytes) -> Result<Vec<(ChunkId, Bytes)>> {
    let mut seen = HashSet::new();
    let mut wanted = Vec::new();
    for next in SegmentReader::new(table, window, span)? {
        let (_, state) = next?;
        let chunk = state.chunk.map(|id| (id, state.plain_len()));
        wanted.extend(chunk.filter(|chunk| seen.insert(*chunk)));
    }
    Ok(wanted)
}

/// A chunk on its way.
enum Chunk {
    /// As it is stored.
    Stored(Entry, Vec<u8>),
    /// Its plain bytes, which are to be stored in full.
    Plain(ChunkId, Vec<u8>),
}

impl Chunk {
    /// As it goes into a pack; the encoder is made at the first need.
    fn stored(self, encoder: &mut Option<Encoder>) -> Result<(Entry, Vec<u8>)> {
        let (id, plain) = match self {
            Self::Stored(entry, bytes) => return Ok((entry, bytes)),
            Self::Plain(id, plain) => (id, plain),
        };
        let (codec, bytes) = encoded(encoder, &plain)?;
        let plain_len = Bytes::of(&plain);
        Ok((Entry::of(id, &Stored { codec, base: None, plain_len, bytes: &bytes }), bytes))
    }
}
