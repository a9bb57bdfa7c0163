//! Cloning: a restore whose windows come from the source itself, without a repository between.
//!
//! Everything else is the restore's: the same plan, the same order of writes. The source is read once, in
//! order (its boot code twice: once to see that it can be read at all). What stays in memory of each window
//! is what a table segment says of it, the id of its chunk above all: reading back compares the target with
//! what was read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::chunk::WindowState;
use crate::image::hash::{ChunkId, Hash};
use crate::image::manifest::{Hit, Root, unreadable_list};
use crate::image::segment::{SegmentWriter, segment_span};
use crate::image::{SEGMENT_WINDOWS, WINDOW};
use crate::pipeline::fetch::Segment;
use crate::pipeline::pack::{self, Packed, Packing};
use crate::pipeline::read;
use crate::pipeline::write::Damage;
use crate::repo::{ChunkFeed, Delivery, WantSet};
use crate::report::{Report, Stage};
use crate::restore::{Part, Windows, Work};
use crate::save::{self, Firmware};
use crate::survey::model::{Survey, Volume};
use crate::units::Bytes;

/// How much is read ahead before it is handed on; three times as much is in memory at most.
const BATCH: Bytes = Bytes::mib(32);

/// Table segments by volume and number, as an image would have them.
type Tables = BTreeMap<(usize, u64), Vec<u8>>;

/// A source that is read while it is restored.
pub struct Source<'a> {
    survey: &'a Survey,
    used: Vec<ExtentSet>,
    workers: usize,
    /// Those of what was read.
    tables: Mutex<Tables>,
    /// What of each volume could not be read.
    unreadable: Mutex<BTreeMap<usize, ExtentSet>>,
}

impl<'a> Source<'a> {
    /// Everything in `survey`, to be read by so many threads.
    pub fn new(survey: &'a Survey, workers: usize) -> Self {
        let used = survey.volumes.iter().map(Volume::used).collect();
        Self { survey, used, workers, tables: Mutex::default(), unreadable: Mutex::default() }
    }

    /// What the root of an image of it would say, but for the table segments: it is not read yet.
    ///
    /// # Errors
    /// As [`save::root`].
    pub fn root(&self, tool: &str) -> Result<Root> {
        let none = vec![BTreeMap::new(); self.used.len()];
        save::root(self.survey, &self.used, none, tool, &Firmware::default())
    }

    /// Remembers what could not be read of a window, and says so when it begins: reading on takes time.
    fn lose(&self, volume: usize, packed: &Packed<'_>, report: &dyn Report) {
        let Packed::Window { number, state, .. } = packed else { return };
        let mut all = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let first = save::lost(all.entry(volume).or_default(), *number, state);
        if let (Some(first), Some((volume, _))) = (first, self.volume(volume)) {
            report.warning(&save::reading_on(&volume.id, first));
        }
    }

    fn volume(&self, at: usize) -> Option<(&Volume, &ExtentSet)> {
        self.survey.volumes.get(at).zip(self.used.get(at))
    }

    fn tables(&self) -> Result<MutexGuard<'_, Tables>> {
        // Whoever panicked with it left a table half made.
        self.tables.lock().map_err(|_| panicked())
    }

    /// Reads a volume, and hands on what it has.
    fn hand_out(&self, volume: usize, report: &dyn Report, work: Work<'_>) -> Result<Vec<Damage>> {
        let Some((from, used)) = self.volume(volume) else { return Ok(Vec::new()) };
        let volumes = [read::Volume { source: &from.source, used }];
        let (sender, batches) = sync_channel(1);
        let read = || {
            let mut cutter = Cutter::new(from.size(), sender);
            let packing = Packing {
                window: WINDOW,
                level: 1,
                workers: self.workers,
                known: &|_| true,
                parent: None,
            };
            let stops = Stops(report);
            pack::run(&volumes, &packing, &stops, &mut |packed| {
                self.lose(volume, &packed, report);
                cutter.take(packed)
            })?;
            cutter.finish()
        };
        thread::scope(|scope| {
            let reader = scope.spawn(read);
            let mut damage = Vec::new();
            let mut batches = batches.into_iter();
            let worked = batches.try_for_each(|Batch { segment, mut chunks }| {
                damage.extend(work(&[Part { volume, segment }], &mut chunks)?);
                Ok(())
            });
            // A reader that waits to hand on more learns from this that nobody wants it.
            drop(batches);
            let tables = reader.join().unwrap_or_else(|_| Err(panicked()));
            worked?;
            let tables = tables?.into_iter().map(|(number, table)| ((volume, number), table));
            self.tables()?.extend(tables);
            Ok(damage)
        })
    }
}

impl Windows for Source<'_> {
    fn each(&self, volumes: &[usize], report: &dyn Report, work: Work<'_>) -> Result<Vec<Damage>> {
        let mut damage = Vec::new();
        for volume in volumes {
            damage.extend(self.hand_out(*volume, report, work)?);
        }
        Ok(damage)
    }

    fn again(&self, volume: usize, work: &mut dyn FnMut(&Segment) -> Result<()>) -> Result<()> {
        let Some((from, _)) = self.volume(volume) else { return Ok(()) };
        let tables = self.tables()?;
        tables.range((volume, 0)..=(volume, u64::MAX)).try_for_each(|((_, number), bytes)| {
            work(&Segment::parse(Hash::of(bytes), bytes, *number, from.size(), WINDOW)?)
        })
    }

    fn used(&self, volume: usize, places: &ExtentSet) -> Result<ExtentSet> {
        Ok(self.volume(volume).map_or_else(ExtentSet::new, |(_, used)| used.intersect(places)))
    }

    fn first(&self, volume: usize) -> Result<(Vec<u8>, Vec<Damage>)> {
        let Some((from, used)) = self.volume(volume) else { return Ok(Default::default()) };
        let used: Vec<Extent> = used.within(Extent::first(WINDOW.min(from.size()))).collect();
        let mut bytes = vec![0; WINDOW.index().unwrap_or(0)];
        let mut read = bytes.clone();
        let unreadable = read::fill(&from.source, Bytes::ZERO, &used, &mut read)?;
        let unreadable: ExtentSet = unreadable.into_iter().collect();
        let readable = used
            .into_iter()
            .flat_map(|part| unreadable.missing_in(part).iter().collect::<Vec<_>>());
        for range in readable.filter_map(|part| Some(part.start.index()?..part.end.index()?)) {
            // What was only read through is unused.
            if let (Some(to), Some(from)) = (bytes.get_mut(range.clone()), read.get(range)) {
                to.copy_from_slice(from);
            }
        }
        Ok((bytes, Vec::new()))
    }

    fn unreadable(&self, volume: usize) -> ExtentSet {
        let holes = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        holes.get(&volume).cloned().unwrap_or_default()
    }

    fn hit(&self, volume: usize) -> Option<Hit> {
        let mut entry = self.root("").ok()?.volumes.into_iter().nth(volume)?;
        entry.unreadable = unreadable_list(&self.unreadable(volume));
        save::hit(&entry, &self.volume(volume)?.0.source)
    }
}

/// Windows that are handed on together.
struct Batch {
    segment: Segment,
    chunks: Chunks,
}

impl Batch {
    fn new() -> Self {
        Self { segment: Segment::empty(Hash::of(&[])), chunks: Chunks::default() }
    }
}

/// A feed of what was just read.
#[derive(Default)]
struct Chunks(VecDeque<(ChunkId, Vec<u8>)>);

impl ChunkFeed for Chunks {
    fn next(&mut self, wanted: &WantSet) -> Result<Option<Delivery>> {
        while let Some((id, plain)) = self.0.pop_front() {
            if wanted.contains(&id) {
                return Ok(Some(Delivery::Chunk { id, plain }));
            }
        }
        Ok(None)
    }
}

/// Puts windows together: to batches, which are handed on, and to table segments, which are kept.
struct Cutter {
    size: Bytes,
    sender: SyncSender<Batch>,
    batch: Batch,
    plain: Bytes,
    current: Option<(u64, SegmentWriter)>,
    tables: BTreeMap<u64, Vec<u8>>,
}

impl Cutter {
    fn new(size: Bytes, sender: SyncSender<Batch>) -> Self {
        let tables = BTreeMap::new();
        Self { size, sender, batch: Batch::new(), plain: Bytes::ZERO, current: None, tables }
    }

    fn take(&mut self, packed: Packed<'_>) -> Result<()> {
        match packed {
            Packed::Window { number, state, plain, .. } => {
                if let Some(id) = state.chunk.filter(|id| !self.batch.segment.wants(id)) {
                    self.batch.chunks.0.push_back((id, plain.to_vec()));
                    self.plain += Bytes::of(plain);
                }
                self.push(number, state)
            }
            Packed::Zeros { first, count, .. } => {
                let zero = || Extent::first(WINDOW).into();
                (first..first + count).try_for_each(|number| {
                    self.push(number, WindowState { zero: zero(), ..WindowState::default() })
                })
            }
        }
    }

    fn push(&mut self, number: u64, state: WindowState) -> Result<()> {
        let (segment, index) = (number / SEGMENT_WINDOWS, number % SEGMENT_WINDOWS);
        if self.current.as_ref().is_none_or(|(current, _)| *current != segment) {
            self.close()?;
            let span = segment_span(segment, WINDOW, self.size).len();
            self.current = Some((segment, SegmentWriter::new(WINDOW, span)));
        }
        if let Some((_, writer)) = &mut self.current {
            writer.push(index, &state)?;
        }
        self.batch.segment.push(number, state);
        let windows = u64::try_from(self.batch.segment.windows.len()).unwrap_or(u64::MAX);
        if self.plain >= BATCH || windows >= SEGMENT_WINDOWS { self.hand_on() } else { Ok(()) }
    }

    fn hand_on(&mut self) -> Result<()> {
        self.plain = Bytes::ZERO;
        let batch = std::mem::replace(&mut self.batch, Batch::new());
        // Nobody takes it: the writer failed, and its error is the one that counts.
        self.sender.send(batch).map_err(|_| Error::Interrupted)
    }

    fn close(&mut self) -> Result<()> {
        let Some((number, writer)) = self.current.take() else { return Ok(()) };
        self.tables.extend(writer.finish()?.map(|bytes| (number, bytes)));
        Ok(())
    }

    fn finish(mut self) -> Result<BTreeMap<u64, Vec<u8>>> {
        self.close()?;
        self.hand_on()?;
        Ok(self.tables)
    }
}

/// Passes on the wish to stop, and nothing else: progress is what is written.
struct Stops<'a>(&'a dyn Report);

impl Report for Stops<'_> {
    fn stage(&self, _: Stage, _: Option<Bytes>) {}
    fn advance(&self, _: Bytes) {}
    fn warning(&self, message: &str) {
        self.0.warning(message);
    }
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
    fn checkpoint(&self) -> Result<()> {
        self.0.checkpoint()
    }
}

fn panicked() -> Error {
    Error::io("source", "go on", std::io::Error::other("a thread that reads it panicked"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::io::BlockSource;
    use crate::io::memory::Memory;
    use crate::report::{Impatient, Quiet};
    use crate::survey::model::Hardware;
    use crate::survey::{self, Input, Wishes};

    /// A disk that cannot be read from some offset on, and counts what is read.
    struct Failing {
        inner: Memory,
        from: Bytes,
        read: AtomicU64,
    }

    impl BlockSource for Failing {
        fn name(&self) -> String {
            "failing".to_owned()
        }
        fn size(&self) -> Bytes {
            BlockSource::size(&self.inner)
        }
        fn sector_size(&self) -> Bytes {
            Bytes::new(512)
        }
        fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
            let end = offset + Bytes::of(buffer);
            if end > self.from {
                let source = std::io::Error::from_raw_os_error(5);
                return Err(Error::io_at("failing", "read", offset, source));
            }
            self.read.fetch_add(Bytes::of(buffer).get(), Ordering::Relaxed);
            self.inner.read_at(offset, buffer)
        }
    }

    /// 80 MiB of noise with a hole of zeros, the same window twice, and a short last window.
    fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; (80 << 20) + 12_288];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes[5_000_000..9_000_000].fill(0);
        bytes.copy_within(20 << 20..21 << 20, 60 << 20);
        bytes
    }

    fn surveyed(bytes: &[u8]) -> (Survey, Arc<Failing>) {
        let size = Bytes::of(bytes);
        let disk = Arc::new(Failing {
            inner: Memory::new(bytes.to_vec()),
            from: size,
            read: AtomicU64::new(0),
        });
        let source = Arc::clone(&disk) as crate::io::Source;
        let path = "disk".into();
        let input =
            Input { path, source, hardware: Hardware::default(), select: None, whole: true };
        (survey::survey(&[input], Wishes::default(), &Quiet::default()).unwrap(), disk)
    }

    /// Gathers what is handed out; the plain bytes of each window at their places.
    fn gather(source: &Source<'_>, length: usize) -> (Vec<u8>, Vec<(u64, WindowState)>) {
        let (mut target, mut states) = (vec![0xee; length], Vec::new());
        let damage = source.each(&[0], &Quiet::default(), &mut |parts, feed| {
            let [Part { segment, .. }] = parts else { panic!("more than one part") };
            let mut wanted = WantSet::new(segment.hash, segment.wanted.keys().copied());
            let zeros = segment.windows.iter().flat_map(|(number, state)| {
                let start = Bytes::new(WINDOW.get() * number);
                state.zero.shifted(start).iter().collect::<Vec<_>>()
            });
            for zero in zeros {
                target[zero.start.index().unwrap()..zero.end.index().unwrap()].fill(0);
            }
            while let Some(Delivery::Chunk { id, plain }) = feed.next(&wanted)? {
                assert!(wanted.remove(&id));
                for at in &segment.wanted[&id] {
                    let (number, state) = &segment.windows[*at];
                    let start = WINDOW.index().unwrap() * usize::try_from(*number).unwrap();
                    for (range, piece) in state.pieces(&plain)? {
                        let at = start + range.start.index().unwrap();
                        target[at..at + piece.len()].copy_from_slice(piece);
                    }
                }
            }
            assert!(wanted.is_empty());
            states.extend(segment.windows.clone());
            Ok(Vec::new())
        });
        assert_eq!(damage.unwrap(), []);
        (target, states)
    }

    #[test]
    fn everything_is_handed_out_once_and_remembered() {
        let bytes = bytes();
        let (survey, disk) = surveyed(&bytes);
        let source = Source::new(&survey, 2);
        let before = disk.read.load(Ordering::Relaxed);
        let (target, states) = gather(&source, bytes.len());
        assert!(target == bytes, "other bytes than the source has");
        let read = disk.read.load(Ordering::Relaxed) - before;
        assert_eq!(read, Bytes::of(&bytes).get(), "read more or less than once");
        let mut again = Vec::new();
        source
            .again(0, &mut |segment| {
                again.extend(segment.windows.clone());
                Ok(())
            })
            .unwrap();
        assert_eq!(again, states);
        assert_eq!(source.first(0).unwrap().0, bytes[..1 << 20]);
        // Nothing of it is in the root: there is no repository that would have it.
        let root = source.root("test").unwrap();
        assert!(root.segments().next().is_none());
    }

    #[test]
    fn a_source_that_fails_ends_it_with_its_own_error() {
        let bytes = bytes();
        let (mut survey, _) = surveyed(&bytes);
        let from = Bytes::mib(70);
        survey.volumes[0].source =
            Arc::new(Failing { inner: Memory::new(bytes), from, read: AtomicU64::new(0) });
        let source = Source::new(&survey, 2);
        let mut handed = 0;
        let error = source.each(&[0], &Quiet::default(), &mut |parts, _| {
            handed += parts[0].segment.windows.len();
            Ok(Vec::new())
        });
        let error = error.unwrap_err();
        assert!(
            matches!(&error, Error::Io { .. }) && error.to_string().contains("failing"),
            "{error}"
        );
        assert!(handed < 71, "{handed}");
    }

    #[test]
    fn a_target_that_fails_and_a_wish_to_stop_end_it() {
        let (survey, _) = surveyed(&bytes());
        let source = Source::new(&survey, 2);
        let why = || Err(Error::refused("the target is full"));
        let error = source.each(&[0], &Quiet::default(), &mut |_, _| why()).unwrap_err();
        assert_eq!(error.to_string(), "the target is full");
        let stopped = source.each(&[0], &Impatient::new(40), &mut |_, _| Ok(Vec::new()));
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}
