//! Table segments: the states of 16 Ki windows of one volume, as a file named by its BLAKE3.
//!
//! Unused windows cost nothing, equal ones a few bits; a segment without any used window is no file.
//! Both directions stream: reading keeps one window's state in memory, whatever the bytes claim.

use std::io::{BufReader, Read};

use zstd::stream::read::Decoder as ZstdReader;

use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::fields::Structure;
use crate::image::chunk::WindowState;
use crate::image::codec::{MAX_WINDOW_LOG, zstd_failed};
use crate::image::hash::ChunkId;
use crate::image::header::{HEADER, check_header, encode_header};
use crate::image::{SEGMENT_WINDOWS, checked_window};
use crate::units::Bytes;

/// The largest table segment that a reader takes.
pub const MAX_SEGMENT: Bytes = Bytes::mib(32);

/// The largest number of pieces of a segment's mixed windows: half as much again as a used map can have that
/// changes at every 4 KiB block of 16 GiB. It bounds what a reader that keeps all states has to hold.
pub const MAX_PIECES: u64 = 6 << 20;

const MAGIC: &[u8; 8] = b"KeikiTab";
/// Header, window size, number of the volume's bytes that the segment covers.
const HEAD: usize = HEADER + 16;
const LEVEL: i32 = 3;

/// What the low two bits of a run's first number say about its windows.
mod run {
    pub const UNUSED: u64 = 0;
    pub const ZERO: u64 = 1;
    pub const FULL: u64 = 2;
    pub const MIXED: u64 = 3;
}

/// What the low two bits of a mixed window's piece say about its bytes.
mod piece {
    pub const UNUSED: u64 = 0;
    pub const ZERO: u64 = 1;
    pub const DATA: u64 = 2;
    pub const UNREADABLE: u64 = 3;
}

/// Which windows of a volume the segment `number` holds, as bytes of the volume.
pub fn segment_span(number: u64, window: Bytes, volume: Bytes) -> Extent {
    let length = window.get().saturating_mul(SEGMENT_WINDOWS);
    let start = Bytes::new(length.saturating_mul(number)).min(volume);
    Extent::new(start, start.saturating_add(Bytes::new(length)).min(volume))
}

/// How many segments a volume has; those without a used window are not stored.
pub fn segment_count(window: Bytes, volume: Bytes) -> u64 {
    volume.get().div_ceil(window.get().saturating_mul(SEGMENT_WINDOWS))
}

/// Builds one segment from its windows in ascending order.
#[derive(Debug)]
pub struct SegmentWriter {
    window: Bytes,
    span: Bytes,
    next: u64,
    pieces: u64,
    run: Run,
    body: Vec<u8>,
}

/// Windows of one kind that stand one after another and are not in the body yet.
#[derive(Default, Debug)]
struct Run {
    kind: u64,
    count: u64,
    ids: Vec<ChunkId>,
}

impl SegmentWriter {
    /// A segment of `span` bytes (see [`segment_span`]) of a volume, cut into windows of `window`.
    pub fn new(window: Bytes, span: Bytes) -> Self {
        Self { window, span, next: 0, pieces: 0, run: Run::default(), body: Vec::new() }
    }

    /// Adds window `index` of this segment; windows that are left out are unused.
    ///
    /// # Errors
    /// `Corrupt` where the state contradicts itself or its window, or the order is not ascending.
    pub fn push(&mut self, index: u64, state: &WindowState) -> Result<()> {
        let wrong = |expected: &str, found: String| {
            Err(Error::corrupt(format!("window {index}"), Bytes::ZERO, expected, found))
        };
        let Some(window) = window_len(index, self.window, self.span).filter(|_| index >= self.next)
        else {
            return wrong(&format!("an index from {}", self.next), index.to_string());
        };
        if state.chunk.is_some() == state.data.is_empty() {
            return wrong("a chunk exactly where there is data", format!("{state:?}"));
        }
        if state.is_unused() {
            return Ok(());
        }
        let whole = ExtentSet::from(Extent::first(window));
        let Some(pieces) = pieces(state, window) else {
            return wrong("disjoint ranges within the window", format!("{state:?}"));
        };
        self.extend(run::UNUSED, index - self.next, None);
        self.next = index + 1;
        if state.zero == whole {
            self.extend(run::ZERO, 1, None);
        } else if state.data == whole {
            self.extend(run::FULL, 1, state.chunk);
        } else {
            self.pieces = piece_total(self.pieces, pieces.first())?;
            self.extend(run::MIXED, 1, None);
            self.flush();
            pieces.into_iter().for_each(|piece| put_varint(&mut self.body, piece));
            self.body.extend(state.chunk.iter().flat_map(|id| id.0));
        }
        Ok(())
    }

    fn extend(&mut self, kind: u64, count: u64, id: Option<ChunkId>) {
        if count == 0 {
            return;
        }
        if kind != self.run.kind {
            self.flush();
            self.run.kind = kind;
        }
        self.run.count += count;
        self.run.ids.extend(id);
    }

    fn flush(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.count > 0 {
            put_varint(&mut self.body, run.count << 2 | run.kind);
        }
        self.body.extend(run.ids.iter().flat_map(|id| id.0));
    }

    /// The segment's bytes; `None` where no window is used.
    pub fn finish(mut self) -> Result<Option<Vec<u8>>> {
        if self.next == 0 {
            return Ok(None);
        }
        self.flush();
        let mut bytes = encode_header(MAGIC).to_vec();
        bytes.extend_from_slice(&self.window.get().to_le_bytes());
        bytes.extend_from_slice(&self.span.get().to_le_bytes());
        let body = zstd::bulk::compress(&self.body, LEVEL)
            .map_err(|error| zstd_failed("compress a table segment", error))?;
        bytes.extend(body);
        Ok(Some(bytes))
    }
}

/// The mixed window as numbers: how many pieces, then each piece's length and kind.
fn pieces(state: &WindowState, window: Bytes) -> Option<Vec<u64>> {
    let kinds = [
        (piece::ZERO, &state.zero),
        (piece::DATA, &state.data),
        (piece::UNREADABLE, &state.unreadable),
    ];
    let mut ranges: Vec<(Extent, u64)> =
        kinds.iter().flat_map(|(kind, set)| set.iter().map(|range| (range, *kind))).collect();
    ranges.sort_unstable();
    let mut numbers = vec![0];
    let mut at = Bytes::ZERO;
    for (range, kind) in ranges {
        let gap = range.start.checked_sub(at)?;
        if !gap.is_zero() {
            numbers.push(gap.get() << 2 | piece::UNUSED);
        }
        numbers.push(range.len().get() << 2 | kind);
        at = range.end;
    }
    *numbers.first_mut()? = u64::try_from(numbers.len()).ok()? - 1;
    (at <= window).then_some(numbers)
}

/// Adds the number of a window's pieces to those before it.
fn piece_total(before: u64, more: Option<&u64>) -> Result<u64> {
    match more.and_then(|more| before.checked_add(*more)).filter(|sum| *sum <= MAX_PIECES) {
        Some(sum) => Ok(sum),
        None => Err(wrong("window pieces", &format!("at most {MAX_PIECES}"), "more")),
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = (number & 0x7f).to_le_bytes();
        number >>= 7;
        out.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

/// Length of window `index` in a segment of `span` bytes; `None` behind its end.
fn window_len(index: u64, window: Bytes, span: Bytes) -> Option<Bytes> {
    let start = window.checked_mul(index)?;
    (start < span).then(|| window.min(span.saturating_sub(start)))
}

/// Walks a segment's used windows in ascending order, in time proportional to their number.
///
/// Ends after the first error.
pub struct SegmentReader<'a> {
    body: BufReader<ZstdReader<'static, &'a [u8]>>,
    window: Bytes,
    span: Bytes,
    next: u64,
    pieces: u64,
    kind: u64,
    left: u64,
    done: bool,
}

impl<'a> SegmentReader<'a> {
    /// Opens a segment that should hold `span` bytes of its volume in windows of `window`.
    ///
    /// The caller has compared the bytes with the hash that names them.
    pub fn new(bytes: &'a [u8], window: Bytes, span: Bytes) -> Result<Self> {
        let structure = Structure::new("table segment", Bytes::ZERO, bytes);
        check_header(&structure, MAGIC)?;
        let head = [("window size", HEADER, window), ("length", HEADER + 8, span)];
        for (field, at, expected) in head {
            let found = structure.le64(at)?;
            if found != expected.get() {
                return Err(structure.corrupt(field, at, expected.get().to_string(), found));
            }
        }
        checked_window(window)?;
        let body = bytes.get(HEAD..).unwrap_or_default();
        let mut body = ZstdReader::with_buffer(body).map_err(damaged)?.single_frame();
        body.window_log_max(MAX_WINDOW_LOG.into()).map_err(damaged)?;
        let body = BufReader::new(body);
        Ok(Self { body, window, span, next: 0, pieces: 0, kind: run::UNUSED, left: 0, done: false })
    }

    fn window(&mut self) -> Result<Option<(u64, WindowState)>> {
        while self.left == 0 {
            let Some(number) = self.varint()? else { return Ok(None) };
            (self.kind, self.left) = (number & 3, number >> 2);
            let windows = self.span.get().div_ceil(self.window.get());
            if self.left == 0 || self.left > windows.saturating_sub(self.next) {
                let expected = format!("1 to {} windows", windows.saturating_sub(self.next));
                return Err(wrong("run", &expected, self.left));
            }
            if self.kind == run::UNUSED {
                self.next += self.left;
                self.left = 0;
            }
        }
        let index = self.next;
        self.next += 1;
        self.left -= 1;
        let length = window_len(index, self.window, self.span)
            .ok_or_else(|| wrong("window", "an index within the segment", index))?;
        let whole = || ExtentSet::from(Extent::first(length));
        let mut state = WindowState::default();
        match self.kind {
            run::ZERO => state.zero = whole(),
            run::FULL => state.data = whole(),
            _ => self.pieces(length, &mut state)?,
        }
        if !state.data.is_empty() {
            let mut id = [0; 32];
            self.body.read_exact(&mut id).map_err(damaged)?;
            state.chunk = Some(ChunkId(id));
        }
        Ok(Some((index, state)))
    }

    fn pieces(&mut self, length: Bytes, state: &mut WindowState) -> Result<()> {
        let count = self.number()?;
        self.pieces = piece_total(self.pieces, Some(&count))?;
        let (mut at, mut before) = (Bytes::ZERO, None);
        for _ in 0..count {
            let number = self.number()?;
            let kind = number & 3;
            let end = at.saturating_add(Bytes::new(number >> 2));
            if end == at || end > length || before == Some(kind) {
                let expected = format!("other kinds that fill up to {}", length.get());
                return Err(wrong("window pieces", &expected, end.get()));
            }
            match kind {
                piece::ZERO => state.zero.insert(Extent::new(at, end)),
                piece::DATA => state.data.insert(Extent::new(at, end)),
                piece::UNREADABLE => state.unreadable.insert(Extent::new(at, end)),
                _ => {}
            }
            (at, before) = (end, Some(kind));
        }
        if state.is_unused() { Err(wrong("window pieces", "a used piece", count)) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<u64> {
        self.varint()?.ok_or_else(|| wrong("body", "a number", "the end"))
    }

    /// The next number; `None` at the body's end.
    fn varint(&mut self) -> Result<Option<u64>> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let mut byte = [0];
            if self.body.read(&mut byte).map_err(damaged)? == 0 {
                return if shift == 0 {
                    Ok(None)
                } else {
                    Err(wrong("body", "a number", "its end"))
                };
            }
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(Some(number));
            }
        }
        Err(wrong("number", "at most 63 bits", "more"))
    }

    /// The frame must be the last thing in the file.
    fn trailing_bytes(&mut self) -> Result<()> {
        match self.body.get_ref().get_ref().len() {
            0 => Ok(()),
            length => Err(wrong("end", "nothing behind the body", format!("{length} bytes"))),
        }
    }
}

impl Iterator for SegmentReader<'_> {
    type Item = Result<(u64, WindowState)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = match self.window() {
            Ok(None) => self.trailing_bytes().err().map(Err),
            other => other.transpose(),
        };
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

fn damaged(error: std::io::Error) -> Error {
    wrong("body", "an intact zstd frame", error)
}

fn wrong(field: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    let structure = format!("table segment {field}");
    Error::corrupt(structure, Bytes::from(HEAD), expected, found.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{HEAD, SEGMENT_WINDOWS, SegmentReader, SegmentWriter, segment_count, segment_span};
    use crate::error::Result;
    use crate::extent::{Extent, ExtentSet};
    use crate::image::chunk::WindowState;
    use crate::image::hash::ChunkId;
    use crate::units::Bytes;

    const WINDOW: Bytes = Bytes::kib(64);

    fn encode(span: Bytes, windows: &[(u64, WindowState)]) -> Option<Vec<u8>> {
        let mut writer = SegmentWriter::new(WINDOW, span);
        for (index, state) in windows {
            writer.push(*index, state).unwrap();
        }
        writer.finish().unwrap()
    }

    fn decode(bytes: &[u8], span: Bytes) -> Result<Vec<(u64, WindowState)>> {
        SegmentReader::new(bytes, WINDOW, span)?.collect()
    }

    fn full(seed: u64, length: Bytes) -> WindowState {
        WindowState {
            data: Extent::first(length).into(),
            chunk: Some(ChunkId::of(&seed.to_le_bytes())),
            ..WindowState::default()
        }
    }

    fn zero(length: Bytes) -> WindowState {
        WindowState { zero: Extent::first(length).into(), ..WindowState::default() }
    }

    #[test]
    fn spans_cover_the_volume() {
        let (window, volume) = (Bytes::MIB, Bytes::gib(40) + Bytes::new(512));
        assert_eq!(segment_count(window, volume), 3);
        assert_eq!(segment_span(0, window, volume), Extent::first(Bytes::gib(16)));
        assert_eq!(segment_span(2, window, volume), Extent::new(Bytes::gib(32), volume));
        assert!(segment_span(3, window, volume).is_empty());
    }

    #[test]
    fn empty_and_sparse_segments_cost_almost_nothing() {
        let span = Bytes::new(WINDOW.get() * SEGMENT_WINDOWS);
        assert_eq!(encode(span, &[]), None);
        let sparse = [(9000, full(1, WINDOW)), (SEGMENT_WINDOWS - 1, zero(WINDOW))];
        let bytes = encode(span, &sparse).unwrap();
        assert!(bytes.len() < HEAD + 64, "{}", bytes.len());
        assert_eq!(decode(&bytes, span).unwrap(), sparse);
        let zeros: Vec<_> = (0..SEGMENT_WINDOWS).map(|index| (index, zero(WINDOW))).collect();
        assert!(encode(span, &zeros).unwrap().len() < HEAD + 32);
    }

    #[test]
    fn the_bytes_are_those_of_the_format_document() {
        let range = |start, end| ExtentSet::from(Extent::new(Bytes::new(start), Bytes::new(end)));
        let mixed = WindowState { data: range(512, 1024), ..full(3, WINDOW) };
        let windows = [(2, full(1, WINDOW)), (3, full(2, WINDOW)), (4, zero(WINDOW)), (5, mixed)];
        let bytes = encode(Bytes::new(WINDOW.get() * 8), &windows).unwrap();
        assert_eq!(bytes[..12], *b"KeikiTab\x01\0\0\0");
        assert_eq!(bytes[32..48], [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0]);
        let id = |seed: u64| ChunkId::of(&seed.to_le_bytes()).0;
        let body = [
            &[2 << 2, 2 << 2 | 2][..],
            &id(1),
            &id(2),
            // 512 bytes unused (512 * 4 = 0x800), 512 of data (0x802).
            &[1 << 2 | 1, 1 << 2 | 3, 2, 0x80, 0x10, 0x82, 0x10],
            &id(3),
        ];
        assert_eq!(zstd::bulk::decompress(&bytes[HEAD..], 1000).unwrap(), body.concat());
    }

    #[test]
    fn contradictions_are_not_written() {
        let span = Bytes::new(WINDOW.get() * 4 + 512);
        let mut writer = SegmentWriter::new(WINDOW, span);
        writer.push(2, &zero(WINDOW)).unwrap();
        assert!(writer.push(2, &zero(WINDOW)).is_err(), "not ascending");
        assert!(writer.push(5, &zero(WINDOW)).is_err(), "behind the end");
        assert!(writer.push(4, &zero(WINDOW)).is_err(), "longer than the last window");
        let no_chunk = WindowState { chunk: None, ..full(1, WINDOW) };
        assert!(writer.push(3, &no_chunk).is_err());
        let overlap = WindowState { zero: Extent::first(Bytes::BLOCK).into(), ..full(1, WINDOW) };
        assert!(writer.push(3, &overlap).is_err());
    }

    #[test]
    fn hostile_runs_end_in_an_error() {
        let span = Bytes::new(WINDOW.get() * 4);
        let good = encode(span, &[(0, full(1, WINDOW))]).unwrap();
        let mut bodies: Vec<Vec<u8>> = vec![
            vec![5 << 2],                                // more windows than there are
            vec![1],                                     // a run of none
            vec![0xff; 12],                              // a number without end
            vec![1 << 2 | 2, 0],                         // half an id
            vec![1 << 2 | 3, 2, 4 << 2 | 1, 1 << 2 | 1], // two pieces of one kind
            vec![1 << 2 | 3, 1, 0xff, 0xff, 0xff, 0x7f], // a piece beyond the window
            vec![1 << 2 | 3, 1, 4 << 2],                 // a mixed window without any use
            vec![1 << 2 | 3, 0],
            vec![1 << 2 | 3, 0x81, 0x80, 0x80, 3], // more pieces than a segment may have
        ];
        bodies.push([vec![1 << 2 | 3], vec![0x80, 0x80, 0x80, 0x80, 4]].concat());
        for body in bodies {
            let mut bytes = good[..HEAD].to_vec();
            bytes.extend(zstd::bulk::compress(&body, 1).unwrap());
            assert!(decode(&bytes, span).is_err(), "{body:?}");
        }
        assert!(decode(&[&good[..], &[0]].concat(), span).is_err(), "bytes behind the body");
        assert!(decode(&good, span + Bytes::new(1)).is_err(), "another span");
    }

    /// Windows as lists of (kind, length in 512 bytes).
    fn states() -> impl Strategy<Value = Vec<(u64, WindowState)>> {
        let pieces = prop::collection::vec((0u8..4, 1u64..60), 0..8);
        prop::collection::vec(
            prop_oneof![pieces, Just(vec![(2, 128)]), Just(vec![(1, 128)])],
            1..40,
        )
        .prop_map(|windows| windows.iter().enumerate().map(state).collect())
    }

    fn state((index, pieces): (usize, &Vec<(u8, u64)>)) -> (u64, WindowState) {
        let mut state = WindowState::default();
        let mut unused = ExtentSet::new();
        let mut at = Bytes::ZERO;
        for (kind, length) in pieces {
            let end = (at + Bytes::new(length * 512)).min(WINDOW);
            let set = match kind {
                0 => &mut unused,
                1 => &mut state.zero,
                2 => &mut state.data,
                _ => &mut state.unreadable,
            };
            set.insert(Extent::new(at, end));
            at = end;
        }
        state.chunk = (!state.data.is_empty()).then(|| ChunkId::of(&index.to_le_bytes()));
        (u64::try_from(index).unwrap(), state)
    }

    proptest! {
        #[test]
        fn segments_round_trip(windows in states()) {
            let span = Bytes::new(WINDOW.get() * u64::try_from(windows.len()).unwrap());
            let used: Vec<_> = windows.into_iter().filter(|(_, state)| !state.is_unused()).collect();
            match encode(span, &used) {
                Some(bytes) => prop_assert_eq!(decode(&bytes, span).unwrap(), used),
                None => prop_assert!(used.is_empty()),
            }
        }

        #[test]
        fn hostile_segments_never_panic(body in prop::collection::vec(any::<u8>(), 0..200), packed: bool) {
            let span = Bytes::new(WINDOW.get() * 40);
            let mut bytes = encode(span, &[(0, zero(WINDOW))]).unwrap()[..HEAD].to_vec();
            bytes.extend(if packed { zstd::bulk::compress(&body, 1).unwrap() } else { body });
            let _ = decode(&bytes, span);
        }
    }
}
