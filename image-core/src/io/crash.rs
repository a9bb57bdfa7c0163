//! Disks in memory whose power can be cut, for tests: which bytes would be there afterwards?

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::Memory;
use super::{BlockSink, BlockSource, Medium, Source};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::units::Bytes;

/// One thing that was asked of a disk.
enum Step {
    Write(Bytes, Vec<u8>),
    Flush,
}

/// Several disks on one plug, and everything that happened to them, in order.
pub(crate) struct Power {
    before: Vec<Vec<u8>>,
    steps: Mutex<Vec<(usize, Step)>>,
    fails_at: AtomicUsize,
    rotten: Mutex<Option<(usize, usize)>>,
}

impl Power {
    /// Disks that hold these bytes.
    pub(crate) fn new(disks: Vec<Vec<u8>>) -> Arc<Self> {
        let (steps, rotten) = (Mutex::default(), Mutex::default());
        Arc::new(Self { before: disks, steps, fails_at: AtomicUsize::new(usize::MAX), rotten })
    }

    /// The disk with this index.
    pub(crate) fn disk(self: &Arc<Self>, index: usize) -> Arc<Crash> {
        let bytes = || Arc::new(Memory::new(self.before[index].clone()));
        Arc::new(Crash { power: Arc::clone(self), index, live: bytes(), durable: bytes() })
    }

    /// Lets so many steps succeed; all later ones fail.
    pub(crate) fn fail_at(&self, step: usize) {
        self.fails_at.store(step, Ordering::Relaxed);
    }

    /// Makes one byte of a disk read as another one than was written.
    pub(crate) fn rot(&self, disk: usize, byte: usize) {
        *self.rotten.lock().unwrap_or_else(PoisonError::into_inner) = Some((disk, byte));
    }

    /// How many steps there were.
    pub(crate) fn steps(&self) -> usize {
        self.lock().len()
    }

    /// Behind how many steps each flush had happened.
    pub(crate) fn flushes(&self) -> Vec<usize> {
        let log = self.lock();
        let flushes = (1..).zip(log.iter()).filter(|(_, (_, step))| matches!(step, Step::Flush));
        flushes.map(|(at, _)| at).collect()
    }

    /// The disks after a power cut behind the first `steps` steps. A write that was not flushed by then is
    /// there if `luck` says so.
    pub(crate) fn cut_after(&self, steps: usize, luck: &mut dyn FnMut() -> bool) -> Vec<Vec<u8>> {
        let (mut disks, log) = (self.before.clone(), self.lock());
        let done = &log[..steps.min(log.len())];
        for (at, (disk, step)) in done.iter().enumerate() {
            let Step::Write(offset, bytes) = step else { continue };
            let flush = |(on, step): &(usize, Step)| on == disk && matches!(step, Step::Flush);
            if done[at..].iter().any(flush) || luck() {
                let start = offset.index().unwrap();
                disks[*disk][start..start + bytes.len()].copy_from_slice(bytes);
            }
        }
        disks
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Step)>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the disks.
pub(crate) struct Crash {
    power: Arc<Power>,
    index: usize,
    live: Arc<Memory>,
    durable: Arc<Memory>,
}

impl Crash {
    fn step(&self, step: Step) -> Result<()> {
        let mut steps = self.power.lock();
        if steps.len() >= self.power.fails_at.load(Ordering::Relaxed) {
            let source = std::io::Error::other("the power is gone");
            return Err(Error::io(BlockSink::name(self), "go on", source));
        }
        steps.push((self.index, step));
        Ok(())
    }
}

impl BlockSink for Crash {
    fn name(&self) -> String {
        format!("crash{}", self.index)
    }
    fn size(&self) -> Bytes {
        BlockSink::size(self.live.as_ref())
    }
    fn sector_size(&self) -> Bytes {
        BlockSink::sector_size(self.live.as_ref())
    }
    fn write_at(&self, offset: Bytes, bytes: &[u8]) -> Result<()> {
        self.live.write_at(offset, bytes)?;
        self.step(Step::Write(offset, bytes.to_vec()))
    }
    fn zero(&self, range: Extent) -> Result<()> {
        self.write_at(range.start, &vec![0; range.len().index().unwrap_or(0)])
    }
    fn discard(&self, range: Extent) -> Result<()> {
        self.write_at(range.start, &vec![0xdd; range.len().index().unwrap_or(0)])
    }
    fn flush(&self) -> Result<()> {
        let mut all = self.live.read(Bytes::ZERO, BlockSink::size(self).index().unwrap_or(0))?;
        let rotten = *self.power.rotten.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((disk, byte)) = rotten
            && disk == self.index
        {
            all[byte] ^= 1;
        }
        self.durable.write_at(Bytes::ZERO, &all)?;
        self.step(Step::Flush)
    }
}

impl Medium for Crash {
    /// What was flushed: whoever reads back without a flush does not find what was written.
    fn direct(&self) -> Result<Source> {
        Ok(Arc::clone(&self.durable) as Source)
    }
    fn reread_partitions(&self) -> Result<()> {
        Ok(())
    }
}
