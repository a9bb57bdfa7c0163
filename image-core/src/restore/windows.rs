//! Where the windows of a restore come from: an image in a repository, or (see [`crate::clone`]) a source
//! that is read right now.

use crate::error::Result;
use crate::extent::{Extent, ExtentSet};
use crate::image::manifest::{Hit, Root};
use crate::image::segment::segment_span;
use crate::io::memory::Memory;
use crate::pipeline::fetch::Segment;
use crate::pipeline::write::{Damage, Target};
use crate::repo::{ChunkFeed, Repository};
use crate::report::{Quiet, Report};
use crate::units::Bytes;

/// A table segment of a volume, or some windows of one.
pub struct Part {
    /// The volume, by its index in the root.
    pub volume: usize,
    /// The windows.
    pub segment: Segment,
}

/// What is done with some parts of volumes and one feed, which delivers the chunks of all of them in any order; the
/// damage that it finds.
pub type Work<'w> = &'w mut dyn FnMut(&[Part], &mut dyn ChunkFeed) -> Result<Vec<Damage>>;

/// Gives a restore its windows. Volumes are named by their index in the root.
pub trait Windows {
    /// Hands all windows of `volumes` to `work`, some at a time: in the order of `volumes`, and those of a volume in
    /// ascending order, within a call and from call to call. So a volume is complete once a part of one behind it is
    /// handed over alone or first. Returns the damage that `work` found, and what could not even be handed to it.
    ///
    /// How much is handed over at once is up to who does it; all of it is in memory meanwhile.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] where nothing can be read any more, and what `work` returns.
    fn each(&self, volumes: &[usize], report: &dyn Report, work: Work<'_>) -> Result<Vec<Damage>>;

    /// The states of the windows that the last [`Windows::each`] handed out, to compare a target with.
    ///
    /// # Errors
    /// As [`Windows::each`]; damage is an error here, for it was found before.
    fn again(&self, volume: usize, work: &mut dyn FnMut(&Segment) -> Result<()>) -> Result<()>;

    /// Which of `places` of a volume [`Windows::each`] will write, as far as it can be told.
    ///
    /// # Errors
    /// As [`Windows::each`].
    fn used(&self, volume: usize, places: &ExtentSet) -> Result<ExtentSet>;

    /// The first window of a volume, zeros where nothing was saved; and what could not be had of it.
    ///
    /// # Errors
    /// As [`Windows::each`].
    fn first(&self, volume: usize) -> Result<(Vec<u8>, Vec<Damage>)>;

    /// What of a volume could not be read on its source and is written as zeros, as far as it is known by now.
    fn unreadable(&self, volume: usize) -> ExtentSet;

    /// What that hits; to be asked at the end, for it may take a look at the source.
    fn hit(&self, volume: usize) -> Option<Hit>;
}

/// The windows of an image.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// Where the image is.
    pub repo: &'a Repository,
    /// The image.
    pub root: &'a Root,
}

impl Stored<'_> {
    /// Hands all segments of `volumes` to `work`, as [`Windows::each`] says, at most `at_once` of them at a time. Returns the
    /// damage that `work` found, and that of segments which could not be handed to it.
    ///
    /// # Errors
    /// As [`Windows::each`].
    pub fn parts(
        &self,
        volumes: &[usize],
        at_once: usize,
        report: &dyn Report,
        work: &mut dyn FnMut(&[Part]) -> Result<Vec<Damage>>,
    ) -> Result<Vec<Damage>> {
        let entries = volumes.iter().filter_map(|at| Some((*at, self.root.volumes.get(*at)?)));
        let mut segments = entries.flat_map(|(volume, entry)| {
            let named = (0..).zip(&entry.segments);
            named.filter_map(move |(number, hash)| Some((volume, entry, number, (*hash)?)))
        });
        let mut damage = Vec::new();
        loop {
            let some: Vec<_> = segments.by_ref().take(at_once.max(1)).collect();
            if some.is_empty() {
                return Ok(damage);
            }
            let mut parts = Vec::with_capacity(some.len());
            for (volume, entry, number, hash) in some {
                report.checkpoint()?;
                match Damage::or_segment(self.repo, entry, number, hash, self.root.window)? {
                    Ok(segment) => parts.push(Part { volume, segment }),
                    Err(lost) => damage.push(lost),
                }
            }
            if !parts.is_empty() {
                damage.extend(work(&parts)?);
            }
        }
    }
}

impl Windows for Stored<'_> {
    fn each(&self, volumes: &[usize], report: &dyn Report, work: Work<'_>) -> Result<Vec<Damage>> {
        self.parts(volumes, 1, report, &mut |parts| {
            work(parts, &mut self.repo.feed(self.root.window)?)
        })
    }

    fn again(&self, volume: usize, work: &mut dyn FnMut(&Segment) -> Result<()>) -> Result<()> {
        let Some(entry) = self.root.volumes.get(volume) else { return Ok(()) };
        for (number, hash) in (0..).zip(&entry.segments) {
            let Some(hash) = hash else { continue };
            work(&Segment::load(self.repo, entry, number, *hash, self.root.window)?)?;
        }
        Ok(())
    }

    fn used(&self, volume: usize, places: &ExtentSet) -> Result<ExtentSet> {
        let Some(entry) = self.root.volumes.get(volume) else { return Ok(ExtentSet::new()) };
        let window = self.root.window;
        let mut used = Vec::new();
        for (number, hash) in (0..).zip(&entry.segments) {
            let span = segment_span(number, window, entry.size);
            let Some(hash) = hash.filter(|_| places.within(span).next().is_some()) else {
                continue;
            };
            // Of a damaged one nothing is known; it will be told when it is to be written.
            let Ok(segment) = Damage::or_segment(self.repo, entry, number, hash, window)? else {
                continue;
            };
            for (number, state) in &segment.windows {
                let start = Bytes::new(window.get().saturating_mul(*number));
                let here = Extent::new(start, start.saturating_add(window));
                let sets = [&state.data, &state.zero, &state.unreadable];
                for asked in places.within(here).map(|asked| asked.relative_to(start)) {
                    let parts = sets.into_iter().flat_map(|set| set.within(asked));
                    used.extend(parts.map(|part| part.shifted(start)));
                }
            }
        }
        used.sort_unstable();
        Ok(used.into_iter().collect())
    }

    fn first(&self, volume: usize) -> Result<(Vec<u8>, Vec<Damage>)> {
        let window = self.root.window;
        let bytes = Memory::new(vec![0; window.index().unwrap_or(0)]);
        let Some(entry) = self.root.volumes.get(volume) else { return Ok(Default::default()) };
        let Some(Some(hash)) = entry.segments.first() else {
            return Ok((bytes.into_bytes(), Vec::new()));
        };
        let damage = match Damage::or_segment(self.repo, entry, 0, *hash, window)? {
            Err(damage) => vec![damage],
            Ok(mut segment) => {
                segment.retain(|number| number == 0);
                let target = Target { id: &entry.id, window, patches: &[] };
                let mut feed = self.repo.feed(window)?;
                target.write(&segment, &bytes, &mut feed, &Quiet::default(), &|_| Ok(()))?
            }
        };
        Ok((bytes.into_bytes(), damage))
    }

    fn unreadable(&self, volume: usize) -> ExtentSet {
        let entry = self.root.volumes.get(volume);
        entry.map_or_else(ExtentSet::new, |entry| entry.unreadable.iter().copied().collect())
    }

    fn hit(&self, volume: usize) -> Option<Hit> {
        self.root.volumes.get(volume)?.hit.clone()
    }
}
