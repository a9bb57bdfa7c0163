//! Blocks in symbols: pieces of one length, any `k` of which make the block of `k` pieces whole (Reed-Solomon over GF(2^16)).

use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// Bytes of a symbol: with all headers a packet of 1,500 bytes holds one.
pub const SYMBOL: usize = 1408;

/// How many source symbols a block of so many bytes has.
pub fn source(len: usize) -> u16 {
    u16::try_from(len.div_ceil(SYMBOL)).unwrap_or(u16::MAX)
}

/// How many parity symbols a block of `k` source symbols has: the same everywhere, for the code depends on it.
pub fn parity(k: u16) -> u16 {
    k.div_ceil(4).checked_next_power_of_two().unwrap_or(u16::MAX / 2)
}

/// A block that is being sent.
pub struct Outgoing {
    block: Vec<u8>,
    k: u16,
    /// Made when it is first needed.
    parity: Option<Vec<Vec<u8>>>,
}

impl Outgoing {
    /// The block; its last symbol is filled up with zeros.
    pub fn new(mut block: Vec<u8>) -> Self {
        let k = source(block.len());
        block.resize(usize::from(k) * SYMBOL, 0);
        Self { block, k, parity: None }
    }

    /// How many source symbols it has.
    pub fn symbols(&self) -> u16 {
        self.k
    }

    /// A symbol; those from `k` on are parity.
    pub fn symbol(&mut self, number: u16) -> Option<&[u8]> {
        if number < self.k {
            let start = usize::from(number) * SYMBOL;
            return self.block.get(start..start + SYMBOL);
        }
        if self.parity.is_none() {
            self.parity = encode(&self.block, self.k);
        }
        let at = usize::from(number - self.k);
        self.parity.as_ref()?.get(at).map(Vec::as_slice)
    }
}

fn encode(block: &[u8], k: u16) -> Option<Vec<Vec<u8>>> {
    let mut encoder =
        ReedSolomonEncoder::new(usize::from(k), usize::from(parity(k)), SYMBOL).ok()?;
    for symbol in block.chunks(SYMBOL) {
        encoder.add_original_shard(symbol).ok()?;
    }
    let result = encoder.encode().ok()?;
    Some(result.recovery_iter().map(<[u8]>::to_vec).collect())
}

/// A block that is coming in.
#[derive(Debug)]
pub struct Incoming {
    bytes: Vec<u8>,
    len: usize,
    k: u16,
    /// Which symbols came.
    came: Vec<u64>,
    count: u16,
    parity: Vec<(u16, Vec<u8>)>,
}

impl Incoming {
    /// A block of so many bytes, of which nothing came.
    pub fn new(len: usize) -> Self {
        let k = source(len);
        let all = usize::from(k) + usize::from(parity(k));
        let bytes = vec![0; usize::from(k) * SYMBOL];
        Self { bytes, len, k, came: vec![0; all.div_ceil(64)], count: 0, parity: Vec::new() }
    }

    /// Keeps a symbol; whether it was a new one.
    pub fn take(&mut self, number: u16, symbol: &[u8]) -> bool {
        let (word, bit) = (usize::from(number) / 64, number % 64);
        let is_known = number < self.k + parity(self.k) && symbol.len() == SYMBOL;
        match self.came.get_mut(word) {
            Some(word) if is_known && *word >> bit & 1 == 0 => *word |= 1 << bit,
            _ => return false,
        }
        if number < self.k {
            let start = usize::from(number) * SYMBOL;
            if let Some(place) = self.bytes.get_mut(start..start + SYMBOL) {
                place.copy_from_slice(symbol);
            }
        } else if self.count < self.k {
            self.parity.push((number - self.k, symbol.to_vec()));
        }
        self.count += 1;
        true
    }

    /// Symbols that are missing.
    pub fn missing(&self) -> u16 {
        self.k.saturating_sub(self.count)
    }

    /// The block, once nothing is missing.
    pub fn whole(mut self) -> Option<Vec<u8>> {
        if self.missing() > 0 {
            return None;
        }
        let has = |number: u16| {
            let word = self.came.get(usize::from(number) / 64).copied().unwrap_or(0);
            word >> (number % 64) & 1 == 1
        };
        let holes: Vec<u16> = (0..self.k).filter(|number| !has(*number)).collect();
        if !holes.is_empty() {
            let [k, r] = [self.k, parity(self.k)].map(usize::from);
            let mut decoder = ReedSolomonDecoder::new(k, r, SYMBOL).ok()?;
            let sources = (0..self.k).zip(self.bytes.chunks(SYMBOL));
            for (number, symbol) in sources.filter(|(number, _)| has(*number)) {
                decoder.add_original_shard(usize::from(number), symbol).ok()?;
            }
            for (number, symbol) in &self.parity {
                decoder.add_recovery_shard(usize::from(*number), symbol).ok()?;
            }
            let restored = decoder.decode().ok()?;
            let mut found = Vec::new();
            for number in holes {
                let symbol = restored.restored_original(usize::from(number))?;
                found.push((usize::from(number) * SYMBOL, symbol.to_vec()));
            }
            drop(restored);
            for (start, symbol) in found {
                self.bytes.get_mut(start..start + SYMBOL)?.copy_from_slice(&symbol);
            }
        }
        self.bytes.truncate(self.len);
        Some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn any_as_many_symbols_as_the_source_has_make_the_block() {
        for len in [1, SYMBOL, SYMBOL + 1, 5 * SYMBOL - 7, 100_000, 1 << 20, (1 << 20) + 256] {
            let block = block(len);
            let mut out = Outgoing::new(block.clone());
            let k = source(len);
            let all = k + parity(k);
            // The last ones: every parity symbol, and the end of the source.
            for first in [0, parity(k) / 2, parity(k)] {
                let mut into = Incoming::new(len);
                for number in (first..all).take(usize::from(k)) {
                    assert!(into.take(number, out.symbol(number).unwrap()), "{len} {number}");
                    assert!(!into.take(number, out.symbol(number).unwrap()));
                }
                assert_eq!(into.missing(), 0);
                assert_eq!(into.whole().unwrap(), block, "{len} from {first}");
            }
        }
    }

    #[test]
    fn a_block_with_too_few_symbols_is_none() {
        let mut out = Outgoing::new(block(10_000));
        let mut into = Incoming::new(10_000);
        for number in 0..7 {
            into.take(number, out.symbol(number).unwrap());
        }
        assert_eq!(into.missing(), 1);
        assert_eq!(into.whole(), None);
    }
}
