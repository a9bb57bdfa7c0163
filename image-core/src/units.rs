//! Sizes and positions with their unit in the type.
//!
//! Everything that crosses a room's border is counted in [`Bytes`]; on-disk structures that count in
//! sectors or blocks convert where they are read, with checked arithmetic.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes: a size, or a position counted from the start of its container.
///
/// `+` and `-` are for figures that were validated before: they panic on overflow, also in release
/// builds. Numbers that come from a disk go through the `checked_` functions.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug,
)]
#[serde(transparent)]
pub struct Bytes(u64);

impl Bytes {
    /// No bytes, or the start of a container.
    pub const ZERO: Self = Self(0);
    /// The largest value.
    pub const MAX: Self = Self(u64::MAX);
    /// 1024 bytes.
    pub const KIB: Self = Self(1 << 10);
    /// 1024 KiB.
    pub const MIB: Self = Self(1 << 20);
    /// 1024 MiB.
    pub const GIB: Self = Self(1 << 30);
    /// The grain of used maps: they are rounded outwards to it.
    pub const BLOCK: Self = Self(4096);

    /// `count` bytes.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// `count` KiB; for constants and tests.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` MiB; for constants and tests.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` GiB; for constants and tests.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The length of a slice.
    pub fn of(slice: &[u8]) -> Self {
        Self::from(slice.len())
    }

    /// The plain number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as an index into memory; `None` where the platform's memory could not hold it.
    pub fn index(self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }

    /// Whether this is zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Sum, `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference, `None` below zero.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Product with a plain count, `None` on overflow.
    pub fn checked_mul(self, count: u64) -> Option<Self> {
        self.0.checked_mul(count).map(Self)
    }

    /// Difference, zero at least.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Sum, [`Bytes::MAX`] at most.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The largest multiple of `grain` that is not above; `grain` is not zero.
    pub fn align_down(self, grain: Self) -> Self {
        Self(self.0 - self.0 % grain.0)
    }

    /// The smallest multiple of `grain` that is not below; saturates at the last multiple.
    pub fn align_up(self, grain: Self) -> Self {
        match self.0 % grain.0 {
            0 => self,
            rest => {
                Self(self.0.checked_add(grain.0 - rest).unwrap_or(u64::MAX - u64::MAX % grain.0))
            }
        }
    }

    /// Whether this is a multiple of `grain`.
    pub fn is_aligned(self, grain: Self) -> bool {
        self.0.is_multiple_of(grain.0)
    }

    /// How many whole `unit`s fit.
    pub fn units(self, unit: Self) -> u64 {
        self.0 / unit.0
    }
}

impl FromStr for Bytes {
    type Err = String;

    /// A size as a person types it: `4096`, `64MiB`, `20 GB`, `1.5T`; binary units where the `i` or the
    /// whole `iB` is left out (`K`, `M`, `G`, `T`), decimal ones with `KB`, `MB`, `GB`, `TB`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad = || format!("`{text}` is not a size (examples: 64MiB, 20GB, 1.5T)");
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim().to_ascii_uppercase();
        let power = match unit.get(..1).unwrap_or_default() {
            "" | "B" => 0,
            "K" => 1,
            "M" => 2,
            "G" => 3,
            "T" => 4,
            "P" => 5,
            _ => return Err(bad()),
        };
        let base: u128 = match unit.get(1..).unwrap_or_default() {
            "" | "IB" => 1024,
            "B" if power > 0 => 1000,
            _ => return Err(bad()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.len() > 9 || (power == 0 && !fraction.is_empty()) {
            return Err(bad());
        }
        let scale = 10_u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
        let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        let bytes = digits.checked_mul(base.pow(power)).ok_or_else(bad)? / scale;
        u64::try_from(bytes).map(Self).map_err(|_| bad())
    }
}

impl From<u64> for Bytes {
    fn from(count: u64) -> Self {
        Self(count)
    }
}

impl From<u32> for Bytes {
    fn from(count: u32) -> Self {
        Self(u64::from(count))
    }
}

impl From<usize> for Bytes {
    fn from(count: usize) -> Self {
        // A usize has at most 64 bits on every platform that Rust knows.
        Self(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

impl Add for Bytes {
    type Output = Self;
    #[track_caller]
    fn add(self, other: Self) -> Self {
        match self.checked_add(other) {
            Some(sum) => sum,
            None => panic!("{} + {} bytes overflow", self.0, other.0),
        }
    }
}

impl Sub for Bytes {
    type Output = Self;
    #[track_caller]
    fn sub(self, other: Self) -> Self {
        match self.checked_sub(other) {
            Some(difference) => difference,
            None => panic!("{} - {} bytes are negative", self.0, other.0),
        }
    }
}

impl AddAssign for Bytes {
    #[track_caller]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Bytes {
    #[track_caller]
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Bytes {
    /// For people: `512 B`, `1.56 GiB`, `39.9 MiB`. Positions in errors use [`Bytes::get`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 5] = [
            ("PiB", 1 << 50),
            ("TiB", 1 << 40),
            ("GiB", 1 << 30),
            ("MiB", 1 << 20),
            ("KiB", 1 << 10),
        ];
        for (name, size) in UNITS {
            if self.0 >= size {
                // Three digits, rounded down: nobody is told of room that is not there.
                let (whole, part) = (self.0 / size, self.0 % size * 1000 / size);
                let digits = match whole {
                    0..10 => 2,
                    10..100 => 1,
                    _ => 0,
                };
                let part = format!("{part:03}");
                let part = part.get(..digits).unwrap_or_default().trim_end_matches('0');
                let dot = if part.is_empty() { "" } else { "." };
                return f.pad(&format!("{whole}{dot}{part} {name}"));
            }
        }
        f.pad(&format!("{} B", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn alignment_saturates_instead_of_wrapping() {
        assert_eq!(Bytes::new(4097).align_up(Bytes::BLOCK), Bytes::new(8192));
        assert_eq!(Bytes::new(8191).align_down(Bytes::BLOCK), Bytes::new(4096));
        assert_eq!(Bytes::MAX.align_up(Bytes::BLOCK).get(), u64::MAX - 4095);
    }

    #[test]
    fn sizes_are_understood_as_typed() {
        for (text, count) in [
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("64 m", 64 << 20),
            ("20GB", 20_000_000_000),
            ("1.5G", 3 << 29),
            ("0.5KB", 500),
        ] {
            assert_eq!(text.parse(), Ok(Bytes::new(count)), "{text}");
        }
        for text in ["", "G", "1.5", "-1", "1X", "20GBB", "99999999999T", "1..2M"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_well() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 30, "1 GiB"),
            (1600 << 20, "1.56 GiB"),
            ((40 << 20) - 1, "39.9 MiB"),
            ((1 << 40) - 1, "1023 GiB"),
            ((1 << 20) + 10_486, "1.01 MiB"),
            ((1 << 40) + (1 << 39), "1.5 TiB"),
            (150 * (1 << 20) + 600_000, "150 MiB"),
        ] {
            assert_eq!(Bytes::new(count).to_string(), text);
        }
    }
}
