//! Reads windows, hashes and compresses them on all cores, and hands them on in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::encode::ChunkEncoder;
use super::read::{self, Piece, Volume};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::image::chunk::{self, WindowState};
use crate::image::codec::{Codec, Stored};
use crate::image::hash::ChunkId;
use crate::io::aligned::AlignedBuf;
use crate::repo::Parent;
use crate::report::Report;
use crate::units::Bytes;

/// How windows are packed.
pub struct Packing<'a> {
    /// Window size.
    pub window: Bytes,
    /// zstd level.
    pub level: i32,
    /// Number of threads that hash and compress.
    pub workers: usize,
    /// Whether the repository has a chunk already: it is not compressed again.
    pub known: &'a (dyn Fn(&ChunkId) -> bool + Sync),
    /// Where changed windows find what they were before.
    pub parent: Option<&'a Parent>,
}

/// One result, in the order of volumes and windows.
pub enum Packed<'a> {
    /// A window and, unless its chunk is known or empty, the chunk's stored form.
    Window {
        /// Index of the volume.
        volume: usize,
        /// Number of the window in it.
        number: u64,
        /// What it holds.
        state: WindowState,
        /// Its chunk's plain bytes.
        plain: &'a [u8],
        /// Its chunk, where it is new.
        stored: Option<Stored<'a>>,
    },
    /// Windows that read as zero.
    Zeros {
        /// Index of the volume.
        volume: usize,
        /// Number of the first window.
        first: u64,
        /// How many windows.
        count: u64,
    },
}

/// A piece of work; its two buffers go round between the threads, so their number bounds the memory and
/// how far the workers can run ahead of the order.
#[derive(Default)]
struct Job {
    order: u64,
    volume: usize,
    what: Work,
    window: AlignedBuf,
    unreadable: Vec<Extent>,
    stored: Vec<u8>,
    codec: Option<(Codec, Option<ChunkId>, Bytes)>,
}

#[derive(Default)]
enum Work {
    #[default]
    Idle,
    Read {
        number: u64,
        length: usize,
        used: Vec<Extent>,
    },
    Done {
        number: u64,
        state: WindowState,
    },
    Zeros {
        first: u64,
        count: u64,
    },
}

/// Threads that only read, so that several reads are under way while others compute. More threads that do both
/// were tried: they take 7 % more CPU time, for compressors that share a core push each other's tables out of its
/// cache.
const READERS: usize = 4;

/// Buffers for each worker: one that it works on, one that waits for it, one that waits for its turn.
const JOBS_PER_WORKER: usize = 3;

/// Reads the used bytes of `volumes` and hands every window to `store`, in order.
///
/// # Errors
/// The first error of reading, packing or `store`; [`Error::Interrupted`] when the user asked to stop.
pub fn run(
    volumes: &[Volume<'_>],
    packing: &Packing<'_>,
    report: &dyn Report,
    store: &mut dyn FnMut(Packed<'_>) -> Result<()>,
) -> Result<()> {
    let workers = packing.workers.max(1);
    let jobs = workers * JOBS_PER_WORKER + READERS;
    let (free_in, free) = bounded::<Job>(jobs);
    let (cut_in, cut) = bounded::<Result<Job>>(jobs);
    let (read_in, read) = bounded::<Result<Job>>(jobs);
    let (done_in, done) = bounded::<Result<Job>>(jobs);
    let window = packing.window.index().unwrap_or(0);
    for _ in 0..jobs {
        let job = Job { window: AlignedBuf::zeroed(window), ..Job::default() };
        free_in.send(job).map_err(|_| Error::Interrupted)?;
    }
    let (failed, cut_short) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let (failed, cut_short) = (&failed, &cut_short);
        for _ in 0..workers {
            let (read, done_in) = (read.clone(), done_in.clone());
            scope.spawn(move || {
                let mut encoder =
                    ChunkEncoder::new(packing.window, packing.level, packing.parent, report);
                stage(&read, &done_in, failed, |job| match &mut encoder {
                    Ok(encoder) => pack(packing, encoder, job),
                    Err(error) => Err(Error::unsupported(error.to_string())),
                });
            });
        }
        for _ in 0..READERS {
            let (cut, read_in) = (cut.clone(), read_in.clone());
            scope.spawn(move || stage(&cut, &read_in, failed, |job| fill(volumes, packing, job)));
        }
        drop((cut, read_in, read));
        scope.spawn(move || match dispatch(volumes, packing, report, &free, &cut_in) {
            Ok(is_all) => cut_short.store(!is_all, Ordering::Release),
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                drop(done_in.send(Err(error)));
            }
        });
        let result = in_order(&done, &free_in, packing.window, report, store).and_then(|()| {
            // All threads have ended: the error of the one that did not take windows any more would have come.
            match cut_short.load(Ordering::Acquire) {
                true => Err(Error::Interrupted),
                false => Ok(()),
            }
        });
        // A failure here closes both ends, so that no thread waits for a buffer for ever.
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        drop(done);
        drop(free_in);
        result
    })
}

/// Cuts the volumes into jobs, as buffers come back; whether all of them were taken. Where they are not, another thread
/// failed: its error is the one that counts, and may come later than this would.
fn dispatch(
    volumes: &[Volume<'_>],
    packing: &Packing<'_>,
    report: &dyn Report,
    free: &Receiver<Job>,
    cut_in: &Sender<Result<Job>>,
) -> Result<bool> {
    let (mut order, mut is_closed) = (0, false);
    for (at, volume) in volumes.iter().enumerate() {
        let cut = read::windows(volume, packing.window, &mut |piece| {
            report.checkpoint()?;
            let mut closed = || {
                is_closed = true;
                Error::Interrupted
            };
            let mut job = free.recv().map_err(|_| closed())?;
            job.order = order;
            job.volume = at;
            job.codec = None;
            job.what = match piece {
                Piece::Window { number, length, used } => Work::Read { number, length, used },
                Piece::Zeros { first, count } => Work::Zeros { first, count },
            };
            order += 1;
            cut_in.send(Ok(job)).map_err(|_| closed())
        });
        match cut {
            Err(_) if is_closed => return Ok(false),
            cut => cut?,
        }
    }
    Ok(true)
}

/// Tells that a thread panicked; without a word from it the others would wait for ever.
struct LastWord<'a>(&'a Sender<Result<Job>>);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let source = std::io::Error::other("a worker panicked");
            drop(self.0.send(Err(Error::io("window", "pack", source))));
        }
    }
}

/// Does a `step` of each job and hands it on, until there are none or one fails.
fn stage(
    jobs: &Receiver<Result<Job>>,
    next: &Sender<Result<Job>>,
    failed: &AtomicBool,
    mut step: impl FnMut(&mut Job) -> Result<()>,
) {
    let _last_word = LastWord(next);
    for job in jobs {
        if failed.load(Ordering::Relaxed) {
            return;
        }
        let job = job.and_then(|mut job| step(&mut job).map(|()| job));
        let stop = job.is_err();
        if next.send(job).is_err() || stop {
            return;
        }
    }
}

fn fill(volumes: &[Volume<'_>], packing: &Packing<'_>, job: &mut Job) -> Result<()> {
    let Work::Read { number, length, used } = &job.what else { return Ok(()) };
    let Some(volume) = volumes.get(job.volume) else { return Ok(()) };
    let buffer = job.window.get_mut(..*length).unwrap_or_default();
    let start = Bytes::new(packing.window.get() * number);
    job.unreadable = read::fill(volume.source.as_ref(), start, used, buffer)?;
    Ok(())
}

fn pack(packing: &Packing<'_>, encoder: &mut ChunkEncoder<'_>, job: &mut Job) -> Result<()> {
    let Work::Read { number, length, used } = &job.what else { return Ok(()) };
    let buffer = job.window.get_mut(..*length).unwrap_or_default();
    let (mut state, plain_len) = chunk::compact(buffer, used, &job.unreadable);
    let plain = buffer.get(..plain_len).unwrap_or_default();
    if !plain.is_empty() {
        let id = ChunkId::of(plain);
        if !(packing.known)(&id) {
            let (codec, base) = encoder.encode((job.volume, *number), plain, &mut job.stored)?;
            job.codec = Some((codec, base, Bytes::of(plain)));
        }
        state.chunk = Some(id);
    }
    job.what = Work::Done { number: *number, state };
    Ok(())
}

/// Puts the results back into order and stores them.
fn in_order(
    done: &Receiver<Result<Job>>,
    free: &Sender<Job>,
    window: Bytes,
    report: &dyn Report,
    store: &mut dyn FnMut(Packed<'_>) -> Result<()>,
) -> Result<()> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    for job in done {
        let job = job?;
        waiting.insert(job.order, job);
        while let Some(mut job) = waiting.remove(&next) {
            next += 1;
            hand_on(&mut job, window, report, store)?;
            // The dispatcher may have ended: then nobody needs the buffer any more.
            drop(free.try_send(job));
        }
    }
    Ok(())
}

fn hand_on(
    job: &mut Job,
    window: Bytes,
    report: &dyn Report,
    store: &mut dyn FnMut(Packed<'_>) -> Result<()>,
) -> Result<()> {
    match std::mem::take(&mut job.what) {
        Work::Done { number, state } => {
            let used = state.data.total() + state.zero.total() + state.unreadable.total();
            let stored = job.codec.take().map(|(codec, base, plain_len)| Stored {
                codec,
                base,
                plain_len,
                bytes: &job.stored,
            });
            let plain = state.plain_len().index().and_then(|length| job.window.get(..length));
            let plain = plain.unwrap_or_default();
            store(Packed::Window { volume: job.volume, number, state, plain, stored })?;
            report.advance(used);
        }
        Work::Zeros { first, count } => {
            store(Packed::Zeros { volume: job.volume, first, count })?;
            report.advance(Bytes::new(window.get().saturating_mul(count)));
        }
        Work::Idle | Work::Read { .. } => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
