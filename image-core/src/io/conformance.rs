//! What every [`BlockSource`] and [`BlockSink`] promises, as tests that run on any of them.
//!
//! `tests/tests/loop_device.rs` includes this file for real devices.

use image_core::error::{Error, Result};
use image_core::extent::Extent;
use image_core::io::aligned::AlignedBuf;
use image_core::io::{BlockSink, BlockSource};
use image_core::units::Bytes;

/// Positions and lengths around the borders of sectors, pages and bounce buffers.
const ODD: [(u64, usize); 7] =
    [(0, 1), (1, 511), (511, 2), (512, 4096), (4095, 8194), (70_001, 65_537), (100_000, 1_100_000)];

/// A byte for every position, never zero, so that misplaced reads show.
fn pattern(offset: Bytes, length: usize) -> Vec<u8> {
    let at = |index: usize| offset.get() + u64::try_from(index).unwrap();
    (0..length).map(|index| u8::try_from(at(index) * 7 / 5 % 251).unwrap() + 1).collect()
}

fn range(start: u64, length: usize) -> Extent {
    Extent::at(Bytes::new(start), Bytes::from(length)).unwrap()
}

/// Reads and writes of a container of at least 2 MiB, whose bytes are lost. What is written is read back
/// through `readers`: the container itself, and other ways to see the same bytes.
pub fn check<S: BlockSink>(sink: &S, readers: &[&dyn BlockSource]) {
    assert!(sink.size() >= Bytes::mib(2), "too small to be checked");
    for reader in readers {
        assert_eq!((reader.size(), reader.sector_size()), (sink.size(), sink.sector_size()));
    }
    writes_are_exact(sink, readers);
    zeros_are_exact(sink, readers);
    nothing_lies_beyond_the_end(sink, readers);
    discard_keeps_the_neighbours(sink, readers);
}

fn expect(readers: &[&dyn BlockSource], offset: Bytes, expected: &[u8], what: &str) {
    for reader in readers {
        let mut once = AlignedBuf::zeroed(expected.len());
        reader.read_once(offset, &mut once).unwrap();
        for found in [once.to_vec(), reader.read(offset, expected.len()).unwrap()] {
            let differs =
                found.iter().zip(expected).position(|(found, expected)| found != expected);
            assert_eq!(differs, None, "{}: {what} at {offset}", reader.name());
        }
        let all = range(offset.get(), expected.len());
        let allocated = reader.allocated(all).unwrap();
        assert!(allocated.is_empty() || all.contains(Extent::new(all.start, allocated.end())));
        for hole in allocated.missing_in(all).iter() {
            let hole = hole.relative_to(offset);
            let bytes = &expected[hole.start.index().unwrap()..hole.end.index().unwrap()];
            assert!(bytes.iter().all(|byte| *byte == 0), "{}: {hole} is no hole", reader.name());
        }
    }
}

fn fill(sink: &impl BlockSink, length: usize) -> Vec<u8> {
    let bytes = pattern(Bytes::ZERO, length);
    sink.write_at(Bytes::ZERO, &bytes).unwrap();
    bytes
}

fn writes_are_exact(sink: &impl BlockSink, readers: &[&dyn BlockSource]) {
    let mut expected = vec![0; 2 << 20];
    sink.write_at(Bytes::ZERO, &expected).unwrap();
    for (start, length) in ODD {
        let bytes = pattern(Bytes::new(start + 13), length);
        sink.write_at(Bytes::new(start), &bytes).unwrap();
        let at = usize::try_from(start).unwrap();
        expected[at..at + length].copy_from_slice(&bytes);
        sink.flush().unwrap();
        expect(readers, Bytes::ZERO, &expected, "written bytes");
        expect(readers, Bytes::new(start), &bytes, "written bytes");
    }
    let tail = sink.size() - Bytes::new(777);
    let bytes = pattern(tail, 777);
    sink.write_at(tail, &bytes).unwrap();
    sink.flush().unwrap();
    expect(readers, tail, &bytes, "the last bytes");
}

fn zeros_are_exact(sink: &impl BlockSink, readers: &[&dyn BlockSource]) {
    let mut expected = fill(sink, 2 << 20);
    for (start, length) in ODD {
        sink.zero(range(start, length)).unwrap();
        let at = usize::try_from(start).unwrap();
        expected[at..at + length].fill(0);
        sink.flush().unwrap();
        expect(readers, Bytes::ZERO, &expected, "zeros between bytes");
        sink.write_at(Bytes::new(start), &pattern(Bytes::new(start), 1)).unwrap();
        expected[at] = pattern(Bytes::new(start), 1)[0];
    }
    sink.zero(range(5, 0)).unwrap();
    sink.zero(Extent::new(sink.size() - Bytes::new(5), sink.size())).unwrap();
    sink.flush().unwrap();
    expect(readers, sink.size() - Bytes::new(5), &[0; 5], "the zeroed end");
}

fn nothing_lies_beyond_the_end(sink: &impl BlockSink, readers: &[&dyn BlockSource]) {
    let size = sink.size();
    let is_io = |result: Result<()>| matches!(result, Err(Error::Io { offset: Some(_), .. }));
    for (offset, length) in [(size, 1), (size - Bytes::new(1), 2), (Bytes::MAX, 1)] {
        let mut buffer = vec![0; length];
        for reader in readers {
            assert!(is_io(reader.read_at(offset, &mut buffer)), "{}: {offset}", reader.name());
            assert!(is_io(reader.read_once(offset, &mut buffer)), "{}: {offset}", reader.name());
        }
        assert!(is_io(sink.write_at(offset, &buffer)), "{offset}");
    }
    let across = Extent::new(size - Bytes::new(1), size + Bytes::new(1));
    assert!(is_io(sink.zero(across)));
    for reader in readers {
        reader.read_at(size, &mut []).unwrap();
        assert_eq!(reader.size(), size, "{} grew", reader.name());
    }
}

fn discard_keeps_the_neighbours(sink: &impl BlockSink, readers: &[&dyn BlockSource]) {
    let expected = fill(sink, 1 << 20);
    sink.discard(range(70_001, 500_000)).unwrap();
    sink.flush().unwrap();
    expect(readers, Bytes::ZERO, &expected[..70_001], "bytes before a discarded range");
    expect(readers, Bytes::new(570_001), &expected[570_001..], "bytes behind a discarded range");
}
