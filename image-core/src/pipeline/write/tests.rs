//! Segments made by hand, onto memory: what is written, what is lost, what reading back finds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::{Damage, Part, Patch, Target, receive, write};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::chunk::WindowState;
use crate::image::hash::{ChunkId, Hash};
use crate::io::BlockSource;
use crate::io::memory::Memory;
use crate::pipeline::fetch::Segment;
use crate::repo::{ChunkFeed, Delivery, Lost, WantSet};
use crate::report::Quiet;
use crate::units::Bytes;

const WINDOW: usize = 4096;
const GARBAGE: u8 = 0xee;

/// Delivers what it was given, whatever is wanted.
struct Given(VecDeque<Delivery>);

impl ChunkFeed for Given {
    fn next(&mut self, _: &WantSet) -> Result<Option<Delivery>> {
        Ok(self.0.pop_front())
    }
}

fn ranges(list: &[(u64, u64)]) -> ExtentSet {
    list.iter().map(|(from, to)| Extent::new(Bytes::new(*from), Bytes::new(*to))).collect()
}

/// Three windows and a short one: data and zeros, unused, unreadable, and the first one's bytes again.
fn sample() -> (Segment, Vec<u8>) {
    let plain: Vec<u8> = (0..200).map(|at| at + 1).collect();
    let state = |data: &[(u64, u64)], zero: &[(u64, u64)], unreadable: &[(u64, u64)]| WindowState {
        data: ranges(data),
        zero: ranges(zero),
        unreadable: ranges(unreadable),
        chunk: (!data.is_empty()).then(|| ChunkId::of(&plain)),
    };
    let windows = vec![
        (0, state(&[(10, 110), (3996, 4096)], &[(512, 1024)], &[])),
        (2, state(&[], &[], &[(0, 4096)])),
        (3, state(&[(0, 200)], &[], &[(200, 300)])),
    ];
    let mut wanted: HashMap<ChunkId, Vec<usize>> = HashMap::new();
    wanted.insert(ChunkId::of(&plain), vec![0, 2]);
    (Segment { hash: Hash::of(b"table"), windows, wanted }, plain)
}

fn chunk(plain: &[u8]) -> Delivery {
    Delivery::Chunk { id: ChunkId::of(plain), plain: plain.to_vec() }
}

fn lost(id: ChunkId) -> Delivery {
    let lost = Lost { offset: Some(Bytes::new(7)), ..Lost::nowhere(id, "planted".to_owned()) };
    Delivery::Lost(lost)
}

fn target(patches: &[Patch]) -> Target<'_> {
    Target { id: "v", window: Bytes::from(WINDOW), patches }
}

fn written(patches: &[Patch], given: Vec<Delivery>) -> (Result<Vec<Damage>>, Vec<u8>) {
    let sink = Memory::new(vec![GARBAGE; 3 * WINDOW + 300]);
    let mut feed = Given(given.into());
    let ended =
        target(patches).write(&sample().0, &sink, &mut feed, &Quiet::default(), &|_| Ok(()));
    (ended, sink.into_bytes())
}

fn read_back(patches: &[Patch], bytes: Vec<u8>, sample_only: bool) -> Result<()> {
    let source: Arc<dyn BlockSource> = Arc::new(Memory::new(bytes));
    target(patches).read_back(&sample().0, source.as_ref(), sample_only, &Quiet::default())
}

/// Which bytes of the sample are used.
fn used() -> Vec<bool> {
    let mut used = vec![false; 3 * WINDOW + 300];
    for range in [10..110, 3996..4096, 512..1024, 2 * WINDOW..3 * WINDOW + 300] {
        used[range].fill(true);
    }
    used
}

#[test]
fn used_bytes_are_written_and_others_stay() {
    let (ended, bytes) = written(&[], vec![chunk(&sample().1)]);
    assert_eq!(ended.unwrap(), []);
    let mut expected = vec![GARBAGE; 3 * WINDOW + 300];
    let plain = sample().1;
    expected[10..110].copy_from_slice(&plain[..100]);
    expected[3996..4096].copy_from_slice(&plain[100..]);
    expected[512..1024].fill(0);
    expected[2 * WINDOW..].fill(0);
    expected[3 * WINDOW..3 * WINDOW + 200].copy_from_slice(&plain);
    assert_eq!(bytes, expected);
}

#[test]
fn reading_back_finds_every_byte_that_differs_and_no_other() {
    let patches = [patch()];
    for patches in [&[][..], &patches] {
        let (_, bytes) = written(patches, vec![chunk(&sample().1)]);
        read_back(patches, bytes.clone(), false).unwrap();
        for (at, used) in used().into_iter().enumerate() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let ended = read_back(patches, flipped, false);
            assert_eq!(ended.is_err(), used, "byte {at}: {ended:?}");
            if let Err(error) = ended {
                assert!(matches!(error, Error::Io { .. }), "{error}");
            }
        }
        assert!(read_back(patches, bytes[..3 * WINDOW + 299].to_vec(), false).is_err());
    }
}

/// Over the end of one range and the start of another one of the same chunk.
fn patch() -> Patch {
    let plain = sample().1;
    Patch { offset: Bytes::new(100), saved: plain[90..95].to_vec(), bytes: b"patch".to_vec() }
}

#[test]
fn a_patch_is_laid_over_the_saved_bytes_also_across_windows() {
    let (_, bytes) = written(&[patch()], vec![chunk(&sample().1)]);
    assert_eq!(&bytes[98..107], &[89, 90, b'p', b'a', b't', b'c', b'h', 96, 97]);
    // Two windows of data next to each other: the patch lies in both, whichever chunk comes first.
    let (first, second) = (vec![1; WINDOW], vec![2; WINDOW]);
    let state = |plain: &[u8]| WindowState {
        data: ranges(&[(0, WINDOW as u64)]),
        chunk: Some(ChunkId::of(plain)),
        ..WindowState::default()
    };
    let wanted =
        [(ChunkId::of(&first), vec![0]), (ChunkId::of(&second), vec![1])].into_iter().collect();
    let windows = vec![(0, state(&first)), (1, state(&second))];
    let segment = Segment { hash: Hash::of(b"table"), windows, wanted };
    let patch = Patch {
        offset: Bytes::from(WINDOW - 2),
        saved: vec![1, 1, 2, 2, 2],
        bytes: b"patch".to_vec(),
    };
    let patches = [patch];
    for order in [[&first, &second], [&second, &first]] {
        let sink = Memory::new(vec![GARBAGE; 2 * WINDOW]);
        let mut feed = Given(order.map(|plain| chunk(plain)).into());
        let target = target(&patches);
        target.write(&segment, &sink, &mut feed, &Quiet::default(), &|_| Ok(())).unwrap();
        assert_eq!(sink.read(Bytes::from(WINDOW - 3), 7).unwrap(), b"\x01patch\x02");
        target.read_back(&segment, &sink, false, &Quiet::default()).unwrap();
    }
}

#[test]
fn what_cannot_be_had_is_reported_and_the_rest_is_written() {
    let id = ChunkId::of(&sample().1);
    let (ended, bytes) = written(&[], vec![lost(ChunkId::of(b"other")), lost(id)]);
    let damage = ended.unwrap();
    let ranges: Vec<String> = damage.iter().map(|one| one.range.to_string()).collect();
    assert_eq!(ranges, ["10..110", "3996..4096", "12288..12488"]);
    assert!(damage.iter().all(|one| one.why == "planted" && one.offset == Bytes::new(7)));
    assert!(bytes[2 * WINDOW..3 * WINDOW].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[10], GARBAGE);
}

#[test]
fn a_feed_that_ends_early_is_an_error() {
    let (ended, _) = written(&[], Vec::new());
    assert!(matches!(ended, Err(Error::Io { .. })), "{ended:?}");
    let (ended, _) = written(&[], vec![chunk(b"not wanted")]);
    assert!(matches!(ended, Err(Error::Io { .. })), "{ended:?}");
}

#[test]
fn a_chunk_of_another_length_than_its_window_is_damage() {
    let (mut segment, plain) = sample();
    segment.windows[2].1.data = ranges(&[(0, 201)]);
    segment.windows[2].1.unreadable = ExtentSet::new();
    let sink = Memory::new(vec![GARBAGE; 3 * WINDOW + 300]);
    let mut feed = Given(vec![chunk(&plain)].into());
    let damage =
        target(&[]).write(&segment, &sink, &mut feed, &Quiet::default(), &|_| Ok(())).unwrap();
    assert_eq!(damage.len(), 3);
    assert!(damage[0].why.contains("expected 201 plain bytes, found 200"), "{}", damage[0].why);
}

#[test]
fn a_sample_looks_at_the_first_and_the_last_window() {
    let (_, bytes) = written(&[], vec![chunk(&sample().1)]);
    for (at, found) in [(10, true), (2 * WINDOW + 5, false), (3 * WINDOW, true)] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert_eq!(read_back(&[], flipped, true).is_err(), found, "byte {at}");
    }
}

/// A segment whose only window has `length` bytes of data, which are a part of the chunk `plain`'s.
fn other(plain: &[u8], length: u64) -> Segment {
    let chunk = Some(ChunkId::of(plain));
    let state = WindowState { data: ranges(&[(7, 7 + length)]), chunk, ..WindowState::default() };
    let mut segment = Segment::empty(Hash::of(b"other"));
    segment.push(1, state);
    segment
}

#[test]
fn a_chunk_goes_to_every_volume_that_needs_it_and_what_it_does_not_fit_is_named() {
    let (segment, plain) = sample();
    let (fits, alone, misfit) = (other(&plain, 200), other(b"alone", 5), other(&plain, 100));
    let sinks = [0; 4].map(|_| Memory::new(vec![GARBAGE; 3 * WINDOW + 300]));
    let part = |id, segment| Part { target: Target { id, ..target(&[]) }, segment };
    let parts = [part("v", &segment), part("w", &fits), part("x", &alone), part("y", &misfit)];
    let onto: Vec<_> =
        parts.into_iter().zip(&sinks).map(|(part, sink)| (part, sink as _)).collect();
    let mut feed = Given(vec![chunk(b"alone"), chunk(&plain), chunk(&plain)].into());
    let told = std::cell::RefCell::new(Vec::new());
    let written = |part, number| {
        told.borrow_mut().push((part, number));
        Ok(())
    };
    let damage = write(&onto, &mut feed, &Quiet::default(), &written).unwrap();
    let damage: Vec<_> = damage.iter().map(|one| (one.volume.as_str(), one.range)).collect();
    let at = |from: u64, to: u64| Extent::new(Bytes::new(from), Bytes::new(to));
    assert_eq!(damage, [("y", at(4103, 4203))]);
    // What needs no chunk first.
    assert_eq!(*told.borrow(), [(0, 2), (2, 1), (0, 0), (0, 3), (1, 1)]);
    let [v, w, x, y] = sinks.map(Memory::into_bytes);
    assert_eq!(v, written_alone());
    assert_eq!(w[WINDOW + 7..WINDOW + 207], plain);
    assert_eq!(x[WINDOW + 7..WINDOW + 12], *b"alone");
    assert!(y.iter().all(|byte| *byte == GARBAGE));
    // The same lost: damage of each.
    let mut feed = Given(vec![lost(ChunkId::of(&plain)), chunk(b"alone")].into());
    let damage = receive(&parts, &mut feed, &Quiet::default(), &mut |at, id, _| {
        assert_eq!((at, *id), (2, ChunkId::of(b"alone")));
        Ok(())
    });
    let volumes: Vec<String> = damage.unwrap().into_iter().map(|one| one.volume).collect();
    assert_eq!(volumes, ["v", "v", "v", "w", "y"]);
    let mut feed = Given(vec![chunk(&plain)].into());
    let ended = receive(&parts, &mut feed, &Quiet::default(), &mut |_, _, _| Ok(()));
    assert!(ended.unwrap_err().to_string().starts_with("x: "), "who still misses one is named");
}

fn written_alone() -> Vec<u8> {
    written(&[], vec![chunk(&sample().1)]).1
}

#[test]
fn a_feed_is_not_asked_for_nothing() {
    struct Never;
    impl ChunkFeed for Never {
        fn next(&mut self, _: &WantSet) -> Result<Option<Delivery>> {
            Err(Error::unsupported("being asked"))
        }
    }
    let (mut segment, _) = sample();
    segment.retain(|number| number == 2);
    let sink = Memory::new(vec![GARBAGE; 3 * WINDOW + 300]);
    let empty = Segment::empty(Hash::of(b"empty"));
    let parts =
        [&segment, &empty].map(|segment| (Part { target: target(&[]), segment }, &sink as _));
    for parts in [&parts[..], &[]] {
        assert_eq!(write(parts, &mut Never, &Quiet::default(), &|_, _| Ok(())).unwrap(), []);
    }
}
