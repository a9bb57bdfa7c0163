//! A set of blocks, one bit each.

/// Which blocks of a session somebody has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl Blocks {
    /// None of `len`.
    pub fn none(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    /// How many are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether all are in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Whether a block is in the set.
    pub fn has(&self, block: u32) -> bool {
        self.words.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// Adds a block; whether it was not in the set.
    pub fn add(&mut self, block: u32) -> bool {
        if block >= self.len || self.has(block) {
            return false;
        }
        if let Some(word) = self.words.get_mut((block / 64) as usize) {
            *word |= 1 << (block % 64);
        }
        self.count += 1;
        true
    }

    /// Takes a block out; whether it was in the set.
    pub fn remove(&mut self, block: u32) -> bool {
        if !self.has(block) {
            return false;
        }
        if let Some(word) = self.words.get_mut((block / 64) as usize) {
            *word &= !(1 << (block % 64));
        }
        self.count -= 1;
        true
    }

    /// The words `from..` of the set, at most `most`.
    pub fn words(&self, from: usize, most: usize) -> &[u64] {
        let rest = self.words.get(from..).unwrap_or_default();
        rest.get(..most).unwrap_or(rest)
    }

    /// Number of words.
    pub fn all_words(&self) -> usize {
        self.words.len()
    }
}
