//! Which chunks are in which block, and a block as bytes: docs/PROTOCOL.md. All numbers are big endian.

use image_core::error::{Error, Result};
use image_core::image::codec::Codec;
use image_core::image::hash::ChunkId;
use image_core::repo::StoredChunk;
use image_core::units::Bytes;

/// A block is full once it is as long as this, in bytes: with one more chunk it is never as long as a session can send.
pub const FULL: u64 = 1 << 20;

/// What stands before a chunk in a block: codec, plain length, stored length.
pub const HEAD: u64 = 9;

/// How long a block is at most: one that is nearly full, and a chunk of the largest window.
const LONGEST: u64 = FULL + HEAD + (4 << 20) + 256;

/// What a list of blocks takes at most.
pub const MOST: Bytes = Bytes::gib(1);

/// A block of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// How long it is, in bytes.
    pub length: u32,
    /// The chunks in it.
    pub chunks: Vec<ChunkId>,
}

/// Packs chunks with these lengths in bytes into blocks, in their order.
pub fn pack(chunks: impl IntoIterator<Item = (ChunkId, Bytes)>) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (id, stored) in chunks {
        let more = u32::try_from(stored.get().saturating_add(HEAD)).unwrap_or(u32::MAX);
        match blocks.last_mut().filter(|block| u64::from(block.length) < FULL) {
            Some(block) => {
                block.length = block.length.saturating_add(more);
                block.chunks.push(id);
            }
            None => blocks.push(Block { length: more, chunks: vec![id] }),
        }
    }
    blocks
}

/// The list of blocks as bytes.
pub fn to_bytes(blocks: &[Block]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in blocks {
        let count = u32::try_from(block.chunks.len()).unwrap_or(u32::MAX);
        out.extend(block.length.to_be_bytes());
        out.extend(count.to_be_bytes());
        block.chunks.iter().for_each(|id| out.extend(id.0));
    }
    out
}

/// The list of blocks from bytes. Whoever takes blocks has memory for them, so none is longer than one can be.
///
/// # Errors
/// [`Error::Corrupt`].
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<Block>> {
    let mut rest = Rest { all: bytes.len(), bytes };
    let mut blocks = Vec::new();
    while !rest.bytes.is_empty() {
        let at = rest.at();
        let (length, count) = (rest.number("length")?, rest.number("number of chunks")?);
        if u64::from(length) > LONGEST {
            let (expected, found) =
                (format!("a block of at most {LONGEST} bytes"), length.to_string());
            return Err(Error::corrupt("blocks of a room", at, expected, found));
        }
        let chunks = (0..count).map(|_| rest.take("chunk").map(ChunkId)).collect::<Result<_>>()?;
        blocks.push(Block { length, chunks });
    }
    Ok(blocks)
}

/// A block as bytes.
pub fn encode(chunks: &[StoredChunk]) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in chunks {
        out.push(chunk.codec.0);
        for length in [chunk.plain_len.get(), chunk.stored.len() as u64] {
            out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
        out.extend(&chunk.stored);
    }
    out
}

/// The chunks with these ids in a block; nothing of them is verified yet.
///
/// # Errors
/// [`Error::Corrupt`].
pub fn decode(bytes: &[u8], ids: &[ChunkId]) -> Result<Vec<StoredChunk>> {
    let mut rest = Rest { all: bytes.len(), bytes };
    let mut chunks = Vec::new();
    for id in ids {
        let [codec] = rest.take("codec")?;
        let plain_len = Bytes::from(rest.number("plain length")?);
        let stored = rest.number("stored length")?;
        let stored = rest.bytes(stored as usize, "stored bytes")?.to_vec();
        chunks.push(StoredChunk { id: *id, codec: Codec(codec), plain_len, stored });
    }
    match rest.bytes.len() {
        0 => Ok(chunks),
        more => Err(rest.corrupt("end", format!("{more} bytes more"))),
    }
}

/// Bytes that were not read yet.
struct Rest<'a> {
    bytes: &'a [u8],
    /// How many there were.
    all: usize,
}

impl<'a> Rest<'a> {
    fn bytes(&mut self, count: usize, what: &str) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            return Err(self.corrupt(what, format!("{} bytes", self.bytes.len())));
        };
        self.bytes = rest;
        Ok(taken)
    }

    fn take<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let Some((taken, rest)) = self.bytes.split_first_chunk() else {
            return Err(self.corrupt(what, format!("{} bytes", self.bytes.len())));
        };
        self.bytes = rest;
        Ok(*taken)
    }

    fn number(&mut self, what: &str) -> Result<u32> {
        self.take(what).map(u32::from_be_bytes)
    }

    fn at(&self) -> Bytes {
        Bytes::from(self.all - self.bytes.len())
    }

    fn corrupt(&self, what: &str, found: String) -> Error {
        Error::corrupt("blocks of a room", self.at(), format!("a whole {what}"), found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u8, stored: usize) -> StoredChunk {
        StoredChunk {
            id: ChunkId([number; 32]),
            codec: Codec::ZSTD,
            plain_len: Bytes::MIB,
            stored: vec![number; stored],
        }
    }

    #[test]
    fn chunks_come_out_as_they_went_in() {
        let chunks: Vec<_> = (0..200).map(|at| chunk(at, usize::from(at) * 1000)).collect();
        let sizes = chunks.iter().map(|chunk| (chunk.id, Bytes::of(&chunk.stored)));
        let blocks = pack(sizes);
        assert!(blocks.len() > 15);
        assert_eq!(from_bytes(&to_bytes(&blocks)).unwrap(), blocks);
        let mut rest = chunks.as_slice();
        for (at, block) in (1..).zip(&blocks) {
            let (these, behind) = rest.split_at(block.chunks.len());
            rest = behind;
            let bytes = encode(these);
            assert_eq!(bytes.len(), block.length as usize);
            assert!(bytes.len() < 3 << 20 && (at == blocks.len() || bytes.len() as u64 >= FULL));
            assert_eq!(decode(&bytes, &block.chunks).unwrap(), these);
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                assert!(decode(&bytes[..cut], &block.chunks).is_err(), "{cut}");
            }
            assert!(decode(&[&bytes[..], &[0]].concat(), &block.chunks).is_err());
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_block_that_is_longer_than_one_can_be_is_refused() {
        // The longest that can be: one byte less than full, then a chunk of the largest window that did not get smaller.
        let nearly = usize::try_from(FULL - 1 - HEAD).unwrap();
        let most = [chunk(1, nearly), chunk(2, (4 << 20) + 256)];
        let mut list = pack(most.iter().map(|chunk| (chunk.id, Bytes::of(&chunk.stored))));
        assert_eq!(list.len(), 1);
        assert_eq!(from_bytes(&to_bytes(&list)).unwrap(), list);
        let k = crate::multicast::symbols::source(list[0].length as usize);
        assert!(k.checked_add(crate::multicast::symbols::parity(k)).is_some());
        for length in [list[0].length + 2, 1 << 26, u32::MAX] {
            list.push(Block { length, chunks: Vec::new() });
            let said = from_bytes(&to_bytes(&list)).unwrap_err().to_string();
            assert!(said.contains("blocks of a room") && said.contains("72"), "{said}");
            assert!(said.contains(&length.to_string()), "{said}");
            list.pop();
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(0_u8.., 0..300), count in 0_usize..9) {
            if let Ok(blocks) = from_bytes(&bytes) {
                proptest::prop_assert_eq!(to_bytes(&blocks), bytes.clone());
            }
            let ids = vec![ChunkId([0; 32]); count];
            if let Ok(chunks) = decode(&bytes, &ids) {
                proptest::prop_assert_eq!(encode(&chunks), bytes);
            }
        }
    }
}
