//! Windows come in order and whole; a failure anywhere ends everything with its own error.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;

use crossbeam_channel::bounded;

use super::{Job, Packed, Packing, dispatch, run};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::chunk::MIN_ZERO_RUN;
use crate::image::codec::{Decoder, Stored};
use crate::image::hash::ChunkId;
use crate::io::memory::Memory;
use crate::io::{BlockSource, Source};
use crate::pipeline::read::Volume;
use crate::report::{Impatient, Quiet, Report};
use crate::units::Bytes;

const WINDOW: Bytes = Bytes::kib(128);

/// Fails the test instead of hanging it.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    receiver.recv_timeout(Duration::from_secs(60)).expect("it hangs, or it panicked")
}

/// A container that behaves differently behind some byte.
struct Odd {
    bytes: Memory,
    from: u64,
    then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Fails,
    Panics,
    /// Is a hole.
    Hole,
}

impl BlockSource for Odd {
    fn name(&self) -> String {
        "odd".to_owned()
    }
    fn size(&self) -> Bytes {
        BlockSource::size(&self.bytes)
    }
    fn sector_size(&self) -> Bytes {
        Bytes::new(512)
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> Result<()> {
        let reached = offset.get() + buffer.len() as u64 > self.from;
        assert!(!reached || self.then != Then::Panics, "planted");
        if reached && self.then == Then::Fails {
            let source = std::io::Error::other("planted");
            return Err(Error::io_at("odd", "read", offset, source));
        }
        self.bytes.read_at(offset, buffer)
    }
    fn allocated(&self, range: Extent) -> Result<ExtentSet> {
        let data = Extent::first(Bytes::new(self.from));
        Ok(if self.then == Then::Hole {
            range.intersect(data).into_iter().collect()
        } else {
            range.into()
        })
    }
}

fn odd(size: usize, from: u64, then: Then) -> Source {
    let bytes = (0..size).map(|at| (at / 4096 % 251) as u8 + 1).collect();
    Arc::new(Odd { bytes: Memory::new(bytes), from, then })
}

fn packing(workers: usize) -> Packing<'static> {
    Packing { window: WINDOW, level: 1, workers, known: &|_| false, parent: None }
}

/// Packs all of `source`; the store fails at the `fails`th window.
fn packed(
    source: Source,
    workers: usize,
    fails: usize,
    report: &dyn Report,
) -> (Result<()>, usize) {
    let used: ExtentSet = Extent::first(source.size()).into();
    let mut stored = 0;
    let volume = Volume { source: &source, used: &used };
    let ended = run(&[volume], &packing(workers), report, &mut |_| {
        if stored == fails {
            return Err(Error::refused("planted"));
        }
        stored += 1;
        Ok(())
    });
    (ended, stored)
}

#[test]
fn a_store_that_fails_ends_all_threads_with_its_error() {
    for workers in [1, 2, 5] {
        for fails in [0, 1, 7, 63] {
            let (ended, stored) = in_time(move || {
                packed(odd(8 << 20, u64::MAX, Then::Fails), workers, fails, &Quiet::default())
            });
            assert!(matches!(ended, Err(Error::Refused(why)) if why == "planted"));
            assert_eq!(stored, fails);
        }
    }
}

#[test]
fn a_source_that_fails_is_the_error_and_everything_before_it_may_be_stored() {
    for workers in [1, 2, 5] {
        for from in [0, 1, 1 << 20, (8 << 20) - 1] {
            let (ended, stored) = in_time(move || {
                packed(odd(8 << 20, from, Then::Fails), workers, usize::MAX, &Quiet::default())
            });
            assert!(matches!(ended, Err(Error::Io { subject, .. }) if subject == "odd"));
            assert!(stored as u64 <= from.div_ceil(WINDOW.get()), "{stored} {from}");
        }
    }
}

/// All readers may have ended by their error before that has arrived: to find nobody who takes windows is none.
#[test]
fn who_finds_nobody_that_takes_windows_has_no_error_of_its_own() {
    let source = odd(2 << 20, u64::MAX, Then::Fails);
    let used: ExtentSet = Extent::first(source.size()).into();
    let volume = [Volume { source: &source, used: &used }];
    let (free_in, free) = bounded(1);
    let (cut_in, cut) = bounded(1);
    free_in.send(Job::default()).unwrap();
    drop(cut);
    let cut = || dispatch(&volume, &packing(1), &Quiet::default(), &free, &cut_in);
    assert!(!cut().unwrap());
    drop(free_in);
    assert!(!cut().unwrap());
}

#[test]
fn a_worker_that_panics_does_not_leave_the_others_waiting() {
    for workers in [1, 3] {
        let ended = in_time(move || {
            std::panic::catch_unwind(|| {
                packed(odd(8 << 20, 1 << 20, Then::Panics), workers, usize::MAX, &Quiet::default())
            })
        });
        assert!(ended.is_err());
    }
}

#[test]
fn an_interruption_ends_it() {
    for patience in [0, 1, 40] {
        let (ended, _) = in_time(move || {
            let report = Impatient::new(patience);
            packed(odd(8 << 20, u64::MAX, Then::Fails), 2, usize::MAX, &report)
        });
        assert!(matches!(ended, Err(Error::Interrupted)));
    }
}

#[test]
fn what_is_known_is_not_compressed_and_keeps_its_id() {
    let source = odd(1 << 20, u64::MAX, Then::Fails);
    let used: ExtentSet = Extent::first(source.size()).into();
    let packing = Packing { known: &|_| true, ..packing(2) };
    let volume = Volume { source: &source, used: &used };
    let mut windows = 0;
    run(&[volume], &packing, &Quiet::default(), &mut |packed| {
        let Packed::Window { state, stored, .. } = packed else { panic!() };
        assert!(state.chunk.is_some() && stored.is_none());
        windows += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(windows, 8);
}

/// What a window of these bytes should be: which bytes are used zero runs, by looking at every block.
fn zeros(bytes: &[u8], used: &[bool], start: usize) -> Vec<bool> {
    let (window, block) = (WINDOW.index().unwrap(), 4096);
    let end = bytes.len().min(start + window);
    let mut zero = vec![false; end - start];
    let mut at = start;
    while at < end {
        let mut stop = at;
        while stop < end {
            let part = stop..(stop + block).min(end);
            if !part.clone().all(|byte| used[byte] && bytes[byte] == 0) {
                break;
            }
            stop = part.end;
        }
        if stop - at >= MIN_ZERO_RUN.index().unwrap() {
            zero[at - start..stop - start].fill(true);
        }
        at = stop.max(at + block);
    }
    zero
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn states_and_chunks_are_what_a_naive_reader_finds(
        sizes in prop::collection::vec(1_usize..600_000, 1..3),
        used in prop::collection::vec((0_u64..150, 1_u64..60), 0..8),
        zero in prop::collection::vec((0_usize..150, 1_usize..60), 0..5),
        hole in 0_u64..700_000,
        workers in 1_usize..4,
    ) {
        let mut sources: Vec<Source> = Vec::new();
        let mut all: Vec<(Vec<u8>, ExtentSet)> = Vec::new();
        for size in &sizes {
            let mut bytes: Vec<u8> = (0..*size).map(|at| (at % 255) as u8 + 1).collect();
            let blank = zero.iter().map(|(at, count)| at * 4096..(at + count) * 4096);
            let hole_start = usize::try_from(hole).unwrap();
            for range in blank.chain(std::iter::once(hole_start..usize::MAX)) {
                let range = range.start.min(*size)..range.end.min(*size);
                bytes[range].fill(0);
            }
            let limit = Extent::first(Bytes::from(*size));
            let map: ExtentSet = used.iter()
                .map(|(at, count)| Extent::new(Bytes::kib(at * 4), Bytes::kib((at + count) * 4)))
                .filter_map(|extent| extent.intersect(limit))
                .collect();
            let bytes_there = Memory::new(bytes.clone());
            sources.push(Arc::new(Odd { bytes: bytes_there, from: hole, then: Then::Hole }));
            all.push((bytes, map));
        }
        let volumes: Vec<Volume<'_>> =
            sources.iter().zip(&all).map(|(source, (_, used))| Volume { source, used }).collect();
        let mut seen: Vec<(usize, u64)> = Vec::new();
        let mut decoder = Decoder::new(WINDOW).unwrap();
        run(&volumes, &packing(workers), &Quiet::default(), &mut |packed| {
            let (volume, first, count, state, stored) = match packed {
                Packed::Window { volume, number, state, stored, .. } => (volume, number, 1, Some(state), stored),
                Packed::Zeros { volume, first, count } => (volume, first, count, None, None),
            };
            let (bytes, map) = &all[volume];
            let is_used: Vec<bool> = (0..bytes.len() as u64)
                .map(|at| map.contains(Extent::new(Bytes::new(at), Bytes::new(at + 1))))
                .collect();
            for number in first..first + count {
                seen.push((volume, number));
                let start = (WINDOW.get() * number) as usize;
                let expected = zeros(bytes, &is_used, start);
                let Some(state) = &state else {
                    assert!(expected.len() == WINDOW.index().unwrap() && expected.iter().all(|z| *z));
                    continue;
                };
                let mut plain = Vec::new();
                for (at, zero) in expected.iter().enumerate() {
                    let one = Extent::new(Bytes::from(at), Bytes::from(at + 1));
                    assert_eq!(state.zero.contains(one), *zero, "{volume} {number} {at}");
                    let data = is_used[start + at] && !zero;
                    assert_eq!(state.data.contains(one), data, "{volume} {number} {at}");
                    if data {
                        plain.push(bytes[start + at]);
                    }
                }
                assert!(state.unreadable.is_empty() && !state.is_unused());
                assert_eq!(state.chunk, (!plain.is_empty()).then(|| ChunkId::of(&plain)));
                if let Some(stored) = &stored {
                    let mut decoded = Vec::new();
                    let Stored { codec, plain_len, bytes, .. } = *stored;
                    decoder.decode(codec, bytes, plain_len, &mut decoded).unwrap();
                    assert_eq!(decoded, plain);
                } else {
                    assert!(plain.is_empty());
                }
            }
            Ok(())
        }).unwrap();
        let expected: Vec<(usize, u64)> = all.iter().enumerate().flat_map(|(volume, (bytes, map))| {
            let count = Bytes::of(bytes).get().div_ceil(WINDOW.get());
            (0..count)
                .filter(|number| {
                    let start = Bytes::new(WINDOW.get() * number);
                    map.within(Extent::new(start, start + WINDOW)).next().is_some()
                })
                .map(move |number| (volume, number))
                .collect::<Vec<_>>()
        }).collect();
        prop_assert_eq!(seen, expected);
    }
}
