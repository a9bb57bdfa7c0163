//! Other inputs from those that are kept, the same ones at every run.

/// Numbers that parsers stumble over.
const NUMBERS: [u64; 12] = [
    0,
    1,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    u64::MAX,
];

/// A source of numbers that begins anew with every seed.
pub struct Mutator(blake3::OutputReader);

impl Mutator {
    /// One for this seed.
    pub fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    /// A number below `end`, which is not zero.
    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(0) % end
    }

    /// `input` with one to four changes; some of them take bytes of `other`.
    pub fn mutated(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut bytes, other);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let end = bytes.len().min(at + 1 + self.below(16));
        match self.below(7) {
            0 => drop(bytes.drain(at..end)),
            1 => {
                let from = self.below(other.len() + 1);
                let to = other.len().min(from + self.below(64));
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            2 => bytes[at..end].reverse(),
            3 => {
                let number =
                    NUMBERS[self.below(NUMBERS.len())].wrapping_sub(u64::from(self.below(3) == 0));
                let number =
                    if self.below(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
                let length = 1 << self.below(4);
                bytes[at..end].iter_mut().zip(&number[..length]).for_each(|(to, from)| *to = *from);
            }
            4 => bytes.truncate(at.max(1)),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
        }
    }
}
