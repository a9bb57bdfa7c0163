//! Packs: chunks' stored bytes one after another, then a trailer that says what they are.
//!
//! A pack is named by the BLAKE3 of its trailer; the trailer names each chunk's stored bytes by theirs.

use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::image::codec::{self, Codec, Stored};
use crate::image::hash::{ChunkId, Hash};
use crate::image::header::{HEADER, check_header, encode_header};
use crate::units::Bytes;

/// A pack is closed once it holds this much.
pub const PACK_SIZE: Bytes = Bytes::mib(256);

/// A pack is closed once it holds this many chunks.
pub const PACK_CHUNKS: usize = 1 << 16;

/// Number of bytes of the footer at the very end of a pack.
pub const FOOTER: usize = 48;

/// The largest trailer that a reader takes: every chunk with a base.
pub const MAX_TRAILER: Bytes = Bytes::new(8 << 20);

const TRAILER_MAGIC: &[u8; 8] = b"KeikiTrl";
const FOOTER_MAGIC: &[u8; 8] = b"KeikiPck";
const COUNTS: usize = HEADER + 16;
const BASE: usize = 32;

/// Where a chunk's bytes stand in its pack, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// BLAKE3 of the plain bytes.
    pub id: ChunkId,
    /// BLAKE3 of the stored bytes: checked before a decompressor sees them.
    pub stored_hash: Hash,
    /// How the bytes are stored.
    pub codec: Codec,
    /// Reserved for encryption: 0.
    pub cipher: u8,
    /// Number of plain bytes.
    pub plain_len: u32,
    /// Number of stored bytes.
    pub stored_len: u32,
    /// The chunk that this one is a delta of; it does not stand in the entry's own bytes.
    pub base: Option<ChunkId>,
}

impl Entry {
    /// Number of bytes of an entry.
    pub const SIZE: usize = 76;

    /// The entry of a chunk that is stored so.
    pub fn of(id: ChunkId, stored: &Stored<'_>) -> Self {
        Self {
            id,
            stored_hash: Hash::of(stored.bytes),
            codec: stored.codec,
            cipher: 0,
            plain_len: u32::try_from(stored.plain_len.get()).unwrap_or(u32::MAX),
            stored_len: u32::try_from(stored.bytes.len()).unwrap_or(u32::MAX),
            base: stored.base,
        }
    }

    /// Appends the entry's bytes, without its base.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.0);
        out.extend_from_slice(&self.stored_hash.0);
        out.extend_from_slice(&self.plain_len.to_le_bytes());
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&[self.codec.0, self.cipher, 0, 0]);
    }

    /// Reads the entry at `at` within `structure`, still without its base.
    pub fn parse(structure: &Structure<'_>, at: usize) -> Result<Self> {
        let entry =
            Structure::new("chunk entry", Bytes::from(at), structure.slice(at, Self::SIZE)?);
        let found = Self {
            id: ChunkId(entry.array(0)?),
            stored_hash: Hash(entry.array(32)?),
            plain_len: entry.le32(64)?,
            stored_len: entry.le32(68)?,
            codec: Codec(entry.u8(72)?),
            cipher: entry.u8(73)?,
            base: None,
        };
        if entry.le16(74)? != 0 {
            return Err(entry.corrupt("reserved field", 74, "0", entry.le16(74)?));
        }
        let (stored, plain) = (Bytes::from(found.stored_len), Bytes::from(found.plain_len));
        codec::check_lengths(Bytes::mib(4), stored, plain)?;
        Ok(found)
    }
}

/// What a pack holds, in the order in which it stands there.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Trailer {
    /// The chunks and where each one's stored bytes begin in the pack.
    pub chunks: Vec<(Bytes, Entry)>,
}

impl Trailer {
    /// Parses and checks a trailer that ends `data_len` bytes of stored chunks.
    pub fn parse(bytes: &[u8], data_len: Bytes) -> Result<Self> {
        let structure = Structure::new("pack trailer", data_len, bytes);
        check_header(&structure, TRAILER_MAGIC)?;
        let claimed = Bytes::new(structure.le64(HEADER)?);
        if claimed != data_len {
            let expected = data_len.get().to_string();
            return Err(structure.corrupt("length of the chunks", HEADER, expected, claimed.get()));
        }
        let (count, bases) = (structure.le32(HEADER + 8)?, structure.le32(HEADER + 12)?);
        let length = trailer_len(count, bases);
        if length != Bytes::of(bytes) {
            let expected = format!("{count} entries and {bases} bases");
            return Err(structure.corrupt("length", HEADER + 8, expected, bytes.len()));
        }
        let count = usize::try_from(count).unwrap_or_default();
        let mut chunks = Vec::with_capacity(count);
        let mut at = Bytes::ZERO;
        let mut base_at = COUNTS + count * Entry::SIZE;
        let mut with_base = 0;
        for number in 0..count {
            let mut entry = Entry::parse(&structure, COUNTS + number * Entry::SIZE)?;
            if entry.codec.has_base() {
                with_base += 1;
                // Without so many bases the numbers do not fit, which is told below.
                entry.base = structure.array(base_at).ok().map(ChunkId);
                base_at += BASE;
            }
            chunks.push((at, entry));
            at = at.saturating_add(Bytes::from(entry.stored_len));
        }
        if at != data_len {
            let expected = format!("stored lengths that add up to {}", data_len.get());
            return Err(structure.corrupt("entries", COUNTS, expected, at.get()));
        }
        if with_base != bases {
            return Err(structure.corrupt("bases", HEADER + 12, with_base.to_string(), bases));
        }
        Ok(Self { chunks })
    }
}

/// Cannot overflow: both counts have 32 bits.
fn trailer_len(count: u32, bases: u32) -> Bytes {
    Bytes::from(COUNTS) + Bytes::new(u64::from(count) * 76) + Bytes::new(u64::from(bases) * 32)
}

/// The last bytes of a pack: where its trailer begins and what it is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Number of bytes of the trailer, which ends where the footer begins.
    pub trailer_len: Bytes,
    /// BLAKE3 of the trailer: the pack's name.
    pub name: Hash,
}

impl Footer {
    /// Parses the footer of a pack of `pack_len` bytes.
    pub fn parse(bytes: &[u8], pack_len: Bytes) -> Result<Self> {
        let at = pack_len.saturating_sub(Bytes::from(FOOTER));
        let structure = Structure::new("pack footer", at, bytes);
        let magic = structure.array::<8>(40)?;
        if &magic != FOOTER_MAGIC {
            return Err(structure.corrupt("magic", 40, "KeikiPck", magic.escape_ascii()));
        }
        let trailer_len = Bytes::new(structure.le64(0)?);
        if trailer_len > MAX_TRAILER.min(at) {
            let expected = format!("at most {}", MAX_TRAILER.min(at).get());
            return Err(structure.corrupt("trailer length", 0, expected, trailer_len.get()));
        }
        Ok(Self { trailer_len, name: Hash(structure.array(8)?) })
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER);
        bytes.extend_from_slice(&self.trailer_len.get().to_le_bytes());
        bytes.extend_from_slice(&self.name.0);
        bytes.extend_from_slice(FOOTER_MAGIC);
        bytes
    }
}

/// Parses the end of a pack: `tail` holds its last bytes, at least trailer and footer.
///
/// # Errors
/// `Corrupt` also where the trailer's hash is not the `name` under which the pack was found.
pub fn parse_tail(name: Hash, tail: &[u8], pack_len: Bytes) -> Result<Trailer> {
    let short = || {
        let expected = "trailer and footer";
        Error::corrupt("pack", Bytes::ZERO, expected, format!("{} bytes", tail.len()))
    };
    let (before, footer) = tail.split_last_chunk::<FOOTER>().ok_or_else(short)?;
    let footer = Footer::parse(footer, pack_len)?;
    let data_len = pack_len.saturating_sub(Bytes::from(FOOTER)).saturating_sub(footer.trailer_len);
    let at = Bytes::of(before).checked_sub(footer.trailer_len).and_then(Bytes::index);
    let trailer = at.and_then(|at| before.get(at..)).ok_or_else(short)?;
    let found = Hash::of(trailer);
    for (what, expected) in [("pack trailer's hash", name), ("pack footer's name", footer.name)] {
        if found != expected {
            return Err(Error::corrupt(what, data_len, expected.to_string(), found.to_string()));
        }
    }
    Trailer::parse(trailer, data_len)
}

/// Computes a pack's trailer while its chunks are written somewhere.
#[derive(Default, Debug)]
pub struct PackBuilder {
    entries: Vec<u8>,
    bases: Vec<u8>,
    count: u32,
    data_len: Bytes,
}

impl PackBuilder {
    /// A pack without chunks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no chunk was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the pack should be closed before another chunk comes.
    pub fn is_full(&self) -> bool {
        self.data_len >= PACK_SIZE || usize::try_from(self.count).is_ok_and(|n| n >= PACK_CHUNKS)
    }

    /// Number of bytes of the chunks so far.
    pub fn data_len(&self) -> Bytes {
        self.data_len
    }

    /// Notes a chunk whose stored bytes the caller appends to the pack; returns its entry's number.
    ///
    /// # Errors
    /// `Corrupt` where the lengths are beyond every window, or the base does not go with the codec.
    pub fn add(&mut self, id: ChunkId, stored: &Stored<'_>) -> Result<u32> {
        self.put(&Entry::of(id, stored))
    }

    /// Notes a chunk by its entry in another pack, from where the caller copies its stored bytes.
    ///
    /// # Errors
    /// As [`PackBuilder::add`].
    pub fn put(&mut self, entry: &Entry) -> Result<u32> {
        let stored_len = Bytes::from(entry.stored_len);
        codec::check_lengths(Bytes::mib(4), stored_len, Bytes::from(entry.plain_len))?;
        if entry.codec.has_base() != entry.base.is_some() {
            let found = format!("codec {}, base {:?}", entry.codec, entry.base);
            return Err(Error::corrupt("chunk", Bytes::ZERO, "a base where one is needed", found));
        }
        entry.encode(&mut self.entries);
        self.bases.extend(entry.base.iter().flat_map(|base| base.0));
        let number = self.count;
        self.count += 1;
        self.data_len += stored_len;
        Ok(number)
    }

    /// The pack's name, and the bytes that the caller appends last: trailer and footer.
    pub fn finish(self) -> (Hash, Vec<u8>) {
        let mut bytes = encode_header(TRAILER_MAGIC).to_vec();
        bytes.extend_from_slice(&self.data_len.get().to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        let bases = u32::try_from(self.bases.len() / BASE).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&bases.to_le_bytes());
        bytes.extend_from_slice(&self.entries);
        bytes.extend_from_slice(&self.bases);
        let name = Hash::of(&bytes);
        bytes.extend(Footer { trailer_len: Bytes::of(&bytes), name }.encode());
        (name, bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PackBuilder, Trailer, parse_tail};
    use crate::image::codec::{Codec, Stored};
    use crate::image::hash::{ChunkId, Hash};
    use crate::units::Bytes;

    fn stored(codec: Codec, plain_len: Bytes, bytes: &[u8]) -> Stored<'_> {
        Stored { codec, base: None, plain_len, bytes }
    }

    fn pack(chunks: &[Vec<u8>]) -> (Hash, Vec<u8>) {
        let mut builder = PackBuilder::new();
        let mut bytes = Vec::new();
        for chunk in chunks {
            // Every third one is a delta of itself: a trailer does not care.
            let base = (chunk.len() % 3 == 0).then(|| ChunkId::of(chunk));
            let codec = if base.is_some() { Codec::PATCH } else { Codec::ZSTD };
            let stored = Stored { base, ..stored(codec, Bytes::MIB, chunk) };
            builder.add(ChunkId::of(chunk), &stored).unwrap();
            bytes.extend_from_slice(chunk);
        }
        let (name, tail) = builder.finish();
        bytes.extend(tail);
        (name, bytes)
    }

    #[test]
    fn one_flipped_bit_behind_the_chunks_is_detected() {
        let (name, bytes) = pack(&[vec![1; 10], vec![2; 20]]);
        for bit in 30 * 8..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_tail(name, &bytes, Bytes::of(&bytes)).is_err(), "bit {bit}");
        }
        assert!(parse_tail(Hash::of(b"other"), &bytes, Bytes::of(&bytes)).is_err());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_refused() {
        let mut builder = PackBuilder::new();
        builder.add(ChunkId::of(b"a"), &stored(Codec::STORED, Bytes::new(1), b"a")).unwrap();
        let (_, tail) = builder.finish();
        let trailer = &tail[..tail.len() - super::FOOTER];
        Trailer::parse(trailer, Bytes::new(1)).unwrap();
        assert!(Trailer::parse(trailer, Bytes::new(2)).is_err());
        let damaged = |at: usize, value: u8| {
            let mut bytes = trailer.to_vec();
            bytes[at] = value;
            Trailer::parse(&bytes, Bytes::new(1)).unwrap_err().to_string()
        };
        for (at, value, field) in [
            (43, 0xff, "length"),    // entries
            (44, 1, "length"),       // bases
            (48 + 68, 2, "entries"), // stored length
            (48 + 67, 1, "plain bytes"),
            (48 + 72, 2, "bases"), // a codec with a base
            (48 + 74, 1, "reserved"),
        ] {
            let error = damaged(at, value);
            assert!(error.contains(field), "{at}: {error}");
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_format_document() {
        let (name, bytes) = pack(&[vec![1; 10], vec![2; 20]]);
        let (_, with_bases) = pack(&[vec![1; 9], vec![2; 20], vec![3; 6]]);
        assert_eq!(with_bases[35 + 44..35 + 48], [2, 0, 0, 0]);
        let bases = 35 + 48 + 3 * 76;
        assert_eq!(with_bases[bases..bases + 32], ChunkId::of(&[1; 9]).0);
        assert_eq!(with_bases[bases + 32..bases + 64], ChunkId::of(&[3; 6]).0);
        assert_eq!(with_bases.len(), bases + 64 + 48);
        assert_eq!(bytes.len(), 30 + 48 + 2 * 76 + 48);
        assert_eq!(bytes[30..50], *b"KeikiTrl\x01\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes[62..78], [30, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[78..110], ChunkId::of(&[1; 10]).0);
        assert_eq!(bytes[110..142], Hash::of(&[1; 10]).0);
        assert_eq!(bytes[142..154], [0, 0, 16, 0, 10, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[230..238], 200_u64.to_le_bytes());
        assert_eq!(bytes[238..270], name.0);
        assert_eq!(bytes[270..], *b"KeikiPck");
    }

    #[test]
    fn chunks_that_no_window_can_hold_are_not_packed() {
        let mut builder = PackBuilder::new();
        let base = Some(ChunkId::of(b"base"));
        for wrong in [
            stored(Codec::STORED, Bytes::ZERO, b""),
            stored(Codec::ZSTD, Bytes::mib(5), b"x"),
            stored(Codec::PATCH, Bytes::new(1), b"x"),
            Stored { base, ..stored(Codec::ZSTD, Bytes::new(1), b"x") },
        ] {
            assert!(builder.add(ChunkId::of(b""), &wrong).is_err(), "{wrong:?}");
        }
        assert!(builder.is_empty());
    }

    proptest! {
        #[test]
        fn packs_round_trip(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..20)) {
            let (name, bytes) = pack(&chunks);
            let trailer = parse_tail(name, &bytes, Bytes::of(&bytes)).unwrap();
            prop_assert_eq!(trailer.chunks.len(), chunks.len());
            for ((at, entry), chunk) in trailer.chunks.iter().zip(&chunks) {
                let at = at.index().unwrap();
                prop_assert_eq!(&bytes[at..at + chunk.len()], &chunk[..]);
                prop_assert_eq!(entry.id, ChunkId::of(chunk));
                prop_assert_eq!(entry.stored_hash, Hash::of(chunk));
                prop_assert_eq!(entry.base, (chunk.len() % 3 == 0).then_some(entry.id));
            }
        }

        #[test]
        fn hostile_trailers_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), data_len: u64) {
            let _ = Trailer::parse(&bytes, Bytes::new(data_len));
            let header = super::encode_header(super::TRAILER_MAGIC);
            bytes.splice(0..0, header.into_iter().chain(data_len.to_le_bytes()));
            let _ = Trailer::parse(&bytes, Bytes::new(data_len));
            let _ = parse_tail(Hash::of(&bytes), &bytes, Bytes::new(data_len));
        }
    }
}
