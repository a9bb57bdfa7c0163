//! Plain bytes to stored bytes and back.

use std::fmt;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use crate::error::{Error, Result};
use crate::image::STORED_SLACK;
use crate::image::hash::ChunkId;
use crate::units::Bytes;

/// How a chunk's bytes are stored, as one byte in a pack's trailer.
///
/// Bytes that this version does not know are kept, so that one such chunk does not hide its neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Codec(pub u8);

impl Codec {
    /// The plain bytes themselves.
    pub const STORED: Self = Self(0);
    /// One zstd frame.
    pub const ZSTD: Self = Self(1);
    /// What to copy from a base chunk, and the bytes that it does not have; see [`super::delta`].
    pub const PATCH: Self = Self(2);
    /// One zstd frame with a base chunk as its prefix.
    pub const PREFIX: Self = Self(3);

    /// Whether a chunk stored so names a base in its pack's trailer.
    pub fn has_base(self) -> bool {
        self == Self::PATCH || self == Self::PREFIX
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::STORED => f.write_str("stored"),
            Self::ZSTD => f.write_str("zstd"),
            Self::PATCH => f.write_str("patch"),
            Self::PREFIX => f.write_str("prefix"),
            Self(other) => write!(f, "{other}"),
        }
    }
}

/// The stored form of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// How it is stored.
    pub codec: Codec,
    /// The chunk that it is a delta of, exactly where the codec has one.
    pub base: Option<ChunkId>,
    /// Number of plain bytes.
    pub plain_len: Bytes,
    /// The stored bytes.
    pub bytes: &'a [u8],
}

/// Compresses chunks with one context; each worker has its own.
pub struct Encoder {
    context: Compressor<'static>,
    pub(super) level: i32,
    pub(super) scratch: Vec<u8>,
}

impl Encoder {
    /// An encoder for zstd `level` (negative levels are faster than 1).
    pub fn new(level: i32) -> Result<Self> {
        let context = Compressor::new(level).map_err(|error| zstd_failed("set up", error))?;
        Ok(Self { context, level, scratch: Vec::new() })
    }

    /// Puts the stored form of `plain` into `stored`, replacing what was there and keeping its memory.
    ///
    /// Chunks that zstd does not make smaller are stored as they are.
    pub fn encode(&mut self, plain: &[u8], stored: &mut Vec<u8>) -> Result<Codec> {
        self.compress(plain, stored)?;
        if stored.len() < plain.len() {
            return Ok(Codec::ZSTD);
        }
        stored.clear();
        stored.extend_from_slice(plain);
        Ok(Codec::STORED)
    }

    /// One zstd frame, whatever its length.
    pub(super) fn compress(&mut self, bytes: &[u8], stored: &mut Vec<u8>) -> Result<()> {
        stored.clear();
        stored.reserve(zstd_safe::compress_bound(bytes.len()));
        let compressed = self.context.compress_to_buffer(bytes, stored);
        compressed.map(drop).map_err(|error| zstd_failed("compress", error))
    }
}

/// Decompresses chunks with one context; each worker has its own.
pub struct Decoder {
    context: Decompressor<'static>,
    pub(super) window: Bytes,
    pub(super) scratch: Vec<u8>,
}

impl Decoder {
    /// A decoder for chunks of an image whose windows have `window` bytes.
    pub fn new(window: Bytes) -> Result<Self> {
        let window = super::checked_window(window)?;
        let context = Decompressor::new().map_err(|error| zstd_failed("set up", error))?;
        Ok(Self { context, window, scratch: Vec::new() })
    }

    /// Puts the plain form of `stored` into `plain`, replacing what was there and keeping its memory.
    ///
    /// # Errors
    /// `Unsupported` for other codecs than stored and zstd (deltas need their base); `Corrupt` where the
    /// lengths are beyond the window, the frame is damaged, or it does not hold exactly `plain_len` bytes.
    pub fn decode(
        &mut self,
        codec: Codec,
        stored: &[u8],
        plain_len: Bytes,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        check_lengths(self.window, Bytes::of(stored), plain_len)?;
        plain.clear();
        match codec {
            Codec::STORED => plain.extend_from_slice(stored),
            Codec::ZSTD => {
                check_frame(stored)?;
                plain.reserve(plain_len.index().unwrap_or_default());
                self.decompress(stored, plain)?;
            }
            other => return Err(Error::unsupported(format!("chunk codec {other}"))),
        }
        if Bytes::of(plain) == plain_len {
            return Ok(());
        }
        let expected = format!("{} plain bytes", plain_len.get());
        Err(Error::corrupt("stored chunk", Bytes::ZERO, expected, plain.len().to_string()))
    }

    /// Decompresses one frame into what `plain` has room for.
    pub(super) fn decompress(&mut self, stored: &[u8], plain: &mut Vec<u8>) -> Result<()> {
        let decompressed = self.context.decompress_to_buffer(stored, plain);
        decompressed
            .map(drop)
            .map_err(|error| Error::corrupt("zstd frame", Bytes::ZERO, "intact", error.to_string()))
    }
}

/// Refuses lengths that no chunk of an image with this window can have.
pub fn check_lengths(window: Bytes, stored: Bytes, plain: Bytes) -> Result<()> {
    let limit = window.saturating_add(STORED_SLACK);
    for (name, found, limit) in [("plain", plain, window), ("stored", stored, limit)] {
        if found.is_zero() || found > limit {
            let expected = format!("1 to {} {name} bytes", limit.get());
            return Err(Error::corrupt("chunk", Bytes::ZERO, expected, found.get().to_string()));
        }
    }
    Ok(())
}

/// Refuses what is not exactly one zstd frame with a windowLog of at most 23 (RFC 8878, 3.1.1.1).
///
/// Decoding in one pass needs no window memory; the bound keeps images readable by streaming decoders.
pub(super) fn check_frame(stored: &[u8]) -> Result<()> {
    let wrong = |expected: &str, found: String| {
        Err(Error::corrupt("zstd frame", Bytes::ZERO, expected, found))
    };
    let (Some([0x28, 0xb5, 0x2f, 0xfd]), Some(descriptor)) = (stored.get(..4), stored.get(4))
    else {
        return wrong("magic 0xfd2fb528", format!("{:02x?}", stored.get(..4).unwrap_or(stored)));
    };
    let single_segment = descriptor & 0x20 != 0;
    let window_log = 10 + stored.get(5).map_or(0, |window| window >> 3);
    if !single_segment && window_log > MAX_WINDOW_LOG {
        return wrong("windowLog of at most 23", window_log.to_string());
    }
    match zstd_safe::find_frame_compressed_size(stored) {
        Ok(length) if length == stored.len() => Ok(()),
        Ok(length) => wrong(&format!("{} bytes", stored.len()), length.to_string()),
        Err(code) => wrong("one whole frame", zstd_safe::get_error_name(code).to_owned()),
    }
}

/// The largest zstd windowLog that a reader accepts: 8 MiB.
pub const MAX_WINDOW_LOG: u8 = 23;

pub(super) fn zstd_failed(action: &str, error: std::io::Error) -> Error {
    Error::io("zstd", action, error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Codec, Decoder, Encoder};
    use crate::error::Error;
    use crate::image::WINDOW;
    use crate::units::Bytes;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn decode(codec: Codec, stored: &[u8], plain_len: usize) -> crate::error::Result<Vec<u8>> {
        let mut plain = vec![9; 7];
        Decoder::new(WINDOW)?.decode(codec, stored, Bytes::from(plain_len), &mut plain)?;
        Ok(plain)
    }

    #[test]
    fn noise_is_stored_and_text_is_compressed() {
        let mut encoder = Encoder::new(3).unwrap();
        let mut stored = vec![1, 2, 3];
        for (plain, codec) in [(noise(1 << 20), Codec::STORED), (vec![7; 1 << 20], Codec::ZSTD)] {
            assert_eq!(encoder.encode(&plain, &mut stored).unwrap(), codec);
            assert!(stored.len() <= plain.len());
            assert_eq!(decode(codec, &stored, plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn lengths_must_be_exact_and_bounded() {
        let mut stored = Vec::new();
        Encoder::new(3).unwrap().encode(&[7; 1000], &mut stored).unwrap();
        for (codec, bytes, plain) in [
            (Codec::ZSTD, &stored[..], 999),
            (Codec::ZSTD, &stored[..], 1001),
            (Codec::ZSTD, &stored[..stored.len() - 1], 1000),
            (Codec::ZSTD, &[&stored[..], &stored[..]].concat(), 2000),
            (Codec::STORED, &[1, 2, 3], 2),
            (Codec::STORED, &[], 0),
            (Codec::STORED, &vec![0; (1 << 20) + 1], (1 << 20) + 1),
            (Codec::STORED, &vec![0; (1 << 20) + 257], 1 << 20),
        ] {
            let error = decode(codec, bytes, plain).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn unknown_codecs_and_deltas_without_base_are_unsupported() {
        for codec in [Codec::PATCH, Codec::PREFIX, Codec(200)] {
            let error = decode(codec, &[1], 1).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        }
    }

    #[test]
    fn a_large_zstd_window_is_refused() {
        // A frame without single-segment flag and content size, windowLog 24, and one raw last block.
        let frame = |log: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 0x09, 0, 0, 42];
        assert_eq!(decode(Codec::ZSTD, &frame(23), 1).unwrap(), [42]);
        let error = decode(Codec::ZSTD, &frame(24), 1).unwrap_err().to_string();
        assert!(error.contains("windowLog"), "{error}");
    }

    proptest! {
        #[test]
        fn hostile_frames_never_panic(codec in 0u8..3, mut bytes in prop::collection::vec(any::<u8>(), 0..200), magic: bool) {
            if magic {
                bytes.splice(0..0, [0x28, 0xb5, 0x2f, 0xfd]);
            }
            let _ = decode(Codec(codec), &bytes, 100);
        }
    }
}
