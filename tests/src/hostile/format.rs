//! The image format: records, roots, table segments, trailers, chunks.

use image_core::image::chunk::WindowState;
use image_core::image::codec::{Codec, Decoder, Encoder};
use image_core::image::delta::Base;
use image_core::image::hash::{ChunkId, Hash};
use image_core::image::header::{encode_header, unseal};
use image_core::image::manifest::Root;
use image_core::image::pack::{self, Footer, Trailer};
use image_core::image::record::Record;
use image_core::image::segment::{SegmentReader, SegmentWriter};
use image_core::units::Bytes;

use super::edited::Input;

/// The smallest window that an image may have.
const WINDOW: Bytes = Bytes::kib(64);

/// A record: what is accepted is written as bytes that say the same.
pub fn record(input: &[u8]) {
    let _ = unseal("record", input);
    let Ok(record) = Record::parse(input) else { return };
    let again = record.encode().and_then(|bytes| Record::parse(&bytes));
    assert!(matches!(&again, Ok(again) if *again == record), "{record:?} became {again:?}");
}

/// A root: the same, and what it lists can be walked.
pub fn root(input: &[u8]) {
    let Ok(root) = Root::parse(input) else { return };
    let again = root.encode().and_then(|bytes| Root::parse(&bytes));
    assert!(matches!(&again, Ok(again) if *again == root), "{root:?} became {again:?}");
    let _ = (root.used_bytes(), root.segments().count());
}

/// A table segment. The first byte says whether the rest is a whole segment, or a body that is still to be
/// compressed, of a volume of that many MiB.
pub fn segment(input: &[u8]) {
    let mut input = Input(input);
    let Some(kind) = input.byte() else { return };
    let span = Bytes::mib(u64::from(kind >> 1).max(1));
    let whole = match kind & 1 {
        0 => input.rest().to_vec(),
        _ => {
            let mut whole = encode_header(b"KeikiTab").to_vec();
            whole.extend(WINDOW.get().to_le_bytes());
            whole.extend(span.get().to_le_bytes());
            let Ok(body) = zstd::bulk::compress(input.rest(), 1) else { return };
            whole.extend(body);
            whole
        }
    };
    let Ok(reader) = SegmentReader::new(&whole, WINDOW, span) else { return };
    let windows: Vec<_> = reader.collect();
    let Ok(windows) = windows.into_iter().collect::<Result<Vec<(u64, WindowState)>, _>>() else {
        return;
    };
    let mut writer = SegmentWriter::new(WINDOW, span);
    for (index, state) in &windows {
        assert!(state.plain_len() <= WINDOW);
        if let Err(error) = writer.push(*index, state) {
            panic!("a window that is read and cannot be written: {error}");
        }
    }
    let again: Vec<_> = match writer.finish() {
        Ok(None) => Vec::new(),
        Ok(Some(bytes)) => match SegmentReader::new(&bytes, WINDOW, span) {
            Ok(reader) => reader.flatten().collect(),
            Err(error) => panic!("what was written cannot be read: {error}"),
        },
        Err(error) => panic!("what was read cannot be written: {error}"),
    };
    assert_eq!(again, windows);
}

/// A pack's trailer, its footer and both as they stand at a pack's end.
pub fn trailer(input: &[u8]) {
    let Some((length, bytes)) = input.split_first_chunk::<4>() else { return };
    let length = Bytes::from(u32::from_le_bytes(*length));
    let _ = Footer::parse(bytes, length);
    let _ = pack::parse_tail(Hash::of(bytes), bytes, length);
    let parsed = Trailer::parse(bytes, length);
    let mut tail = bytes.to_vec();
    tail.extend(Bytes::of(bytes).get().to_le_bytes());
    tail.extend(Hash::of(bytes).0);
    tail.extend(b"KeikiPck");
    let whole = pack::parse_tail(Hash::of(bytes), &tail, length.saturating_add(Bytes::of(&tail)));
    match (&parsed, &whole) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(_), Err(_)) => {}
        (one, other) => panic!("{one:?} but at a pack's end {other:?}"),
    }
    let Ok(trailer) = parsed else { return };
    let end =
        trailer.chunks.last().map(|(at, entry)| at.saturating_add(Bytes::from(entry.stored_len)));
    assert_eq!(end.unwrap_or(Bytes::ZERO), length);
}

/// A stored chunk, also as a delta. The first byte is the codec; then the plain length and that of the base follow.
/// Where its highest bit is set, what follows is compressed first.
pub fn chunk(input: &[u8]) {
    let mut input = Input(input);
    let (Some(kind), Some(plain_len), Some(base_len)) =
        (input.byte(), input.number(), input.number())
    else {
        return;
    };
    let rest = input.rest();
    let (base, stored) = rest.split_at(usize::from(base_len).min(rest.len()));
    let packed =
        if kind & 0x80 == 0 { Ok(stored.to_vec()) } else { zstd::bulk::compress(stored, 1) };
    let (Ok(stored), Ok(mut decoder)) = (packed, Decoder::new(WINDOW)) else { return };
    let (codec, plain_len) = (Codec(kind & 3), Bytes::from(usize::from(plain_len)));
    let mut plain = vec![7; 3];
    let decoded = match codec.has_base() {
        true => decoder.decode_delta(codec, base, &stored, plain_len, &mut plain),
        false => decoder.decode(codec, &stored, plain_len, &mut plain),
    };
    if decoded.is_ok() {
        assert_eq!(Bytes::of(&plain), plain_len, "another length than the trailer told");
    }
}

/// What any two chunks make of each other: the first half of the input is the base of the second.
pub fn delta(input: &[u8]) {
    let Some((cut, rest)) = input.split_first() else { return };
    let (base, plain) = rest.split_at(rest.len() * usize::from(*cut) / 255);
    if plain.is_empty() || Bytes::of(rest) > WINDOW {
        return;
    }
    let (Ok(mut encoder), Ok(mut decoder)) = (Encoder::new(1), Decoder::new(WINDOW)) else {
        return;
    };
    let (mut stored, mut again) = (Vec::new(), Vec::new());
    let known = Base { id: ChunkId::of(base), plain: base, stored_len: Bytes::of(base) };
    // As if windows were that small: otherwise every change fits into a patch.
    for window in [Bytes::BLOCK, WINDOW] {
        let codec = match encoder.encode_delta(window, &known, plain, &mut stored) {
            Ok(Some(codec)) => codec,
            Ok(None) => continue,
            Err(error) => panic!("a chunk that has no delta: {error}"),
        };
        if let Err(error) = decoder.decode_delta(codec, base, &stored, Bytes::of(plain), &mut again)
        {
            panic!("a delta that cannot be read: {error}");
        }
        assert_eq!(again, plain);
    }
    match encoder.encode(plain, &mut stored) {
        Ok(codec) => {
            let decoded = decoder.decode(codec, &stored, Bytes::of(plain), &mut again);
            assert!(decoded.is_ok() && again == plain, "{decoded:?}");
        }
        Err(error) => panic!("a chunk that cannot be stored: {error}"),
    }
}
