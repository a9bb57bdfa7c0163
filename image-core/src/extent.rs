//! Ranges of bytes and ordered sets of them: the currency of used maps, plans and wiping.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// The bytes `start..end` of some container; never empty inside an [`ExtentSet`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Extent {
    /// First byte.
    pub start: Bytes,
    /// One past the last byte; at least `start`.
    pub end: Bytes,
}

impl Extent {
    /// `start..end`; an `end` before `start` gives an empty extent at `start`.
    pub fn new(start: Bytes, end: Bytes) -> Self {
        Self { start, end: end.max(start) }
    }

    /// `length` bytes from `start`; `None` where the end would overflow.
    pub fn at(start: Bytes, length: Bytes) -> Option<Self> {
        start.checked_add(length).map(|end| Self { start, end })
    }

    /// The first `length` bytes.
    pub fn first(length: Bytes) -> Self {
        Self { start: Bytes::ZERO, end: length }
    }

    /// Number of bytes.
    pub fn len(self) -> Bytes {
        self.end - self.start
    }

    /// Whether there are no bytes in it.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The bytes in both, if any.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// Whether all of `other` lies within.
    pub fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The same bytes counted from `origin`, which is not behind `start`.
    pub fn relative_to(self, origin: Bytes) -> Self {
        Self { start: self.start - origin, end: self.end - origin }
    }

    /// The same range moved `distance` further.
    pub fn shifted(self, distance: Bytes) -> Self {
        Self { start: self.start + distance, end: self.end + distance }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start.get(), self.end.get())
    }
}

/// A set of bytes as extents: sorted, not empty, not touching each other.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(transparent)]
pub struct ExtentSet {
    extents: Vec<Extent>,
}

impl ExtentSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the bytes of `extent`; cheap when extents come in ascending order.
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        match self.extents.last_mut() {
            Some(last) if extent.start > last.end => self.extents.push(extent),
            Some(last) if extent.start >= last.start => last.end = last.end.max(extent.end),
            None => self.extents.push(extent),
            Some(_) => self.insert_inside(extent),
        }
    }

    fn insert_inside(&mut self, extent: Extent) {
        let from = self.extents.partition_point(|have| have.end < extent.start);
        let to = self.extents.partition_point(|have| have.start <= extent.end);
        let mut merged = extent;
        if let Some(touched) = self.extents.get(from..to)
            && let (Some(first), Some(last)) = (touched.first(), touched.last())
        {
            merged = Extent { start: merged.start.min(first.start), end: merged.end.max(last.end) };
        }
        self.extents.splice(from..to, [merged]);
    }

    /// The extents in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Extent> + ExactSizeIterator + '_ {
        self.extents.iter().copied()
    }

    /// Number of bytes in the set.
    pub fn total(&self) -> Bytes {
        self.iter().map(Extent::len).sum()
    }

    /// Whether the set has no byte.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// One past the last byte; zero for the empty set.
    pub fn end(&self) -> Bytes {
        self.extents.last().map_or(Bytes::ZERO, |last| last.end)
    }

    /// Whether every byte of `extent` is in the set.
    pub fn contains(&self, extent: Extent) -> bool {
        let at = self.extents.partition_point(|have| have.end <= extent.start);
        extent.is_empty() || self.extents.get(at).is_some_and(|have| have.contains(extent))
    }

    /// The part of the set within `window`, found by binary search.
    pub fn within(&self, window: Extent) -> impl Iterator<Item = Extent> + '_ {
        let from = self.extents.partition_point(|have| have.end <= window.start);
        self.extents
            .get(from..)
            .unwrap_or_default()
            .iter()
            .map_while(move |have| (have.start < window.end).then_some(have))
            .filter_map(move |have| have.intersect(window))
    }

    /// The bytes of `window` that are not in the set.
    pub fn missing_in(&self, window: Extent) -> Self {
        let mut missing = Self::new();
        let mut at = window.start;
        for have in self.within(window) {
            missing.insert(Extent::new(at, have.start));
            at = have.end;
        }
        missing.insert(Extent::new(at, window.end));
        missing
    }

    /// The bytes in either set.
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<Extent> = self.iter().chain(other.iter()).collect();
        all.sort_unstable();
        all.into_iter().collect()
    }

    /// The bytes in both sets.
    pub fn intersect(&self, other: &Self) -> Self {
        self.iter().flat_map(|extent| other.within(extent)).collect()
    }

    /// The bytes of this set that are not in `other`.
    pub fn subtract(&self, other: &Self) -> Self {
        self.iter().flat_map(|extent| other.missing_in(extent).extents).collect()
    }

    /// Every extent widened to multiples of `grain`, clipped at `limit`.
    pub fn rounded_out(&self, grain: Bytes, limit: Bytes) -> Self {
        self.iter()
            .map(|extent| {
                Extent::new(extent.start.align_down(grain), extent.end.align_up(grain).min(limit))
            })
            .collect()
    }

    /// The set moved `distance` further.
    pub fn shifted(&self, distance: Bytes) -> Self {
        Self { extents: self.iter().map(|extent| extent.shifted(distance)).collect() }
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(iter: I) -> Self {
        let mut set = Self::new();
        for extent in iter {
            set.insert(extent);
        }
        set
    }
}

impl From<Extent> for ExtentSet {
    fn from(extent: Extent) -> Self {
        std::iter::once(extent).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Extent, ExtentSet};
    use crate::units::Bytes;

    const SPAN: u64 = 64;

    fn extent(start: u64, end: u64) -> Extent {
        Extent::new(Bytes::new(start), Bytes::new(end))
    }

    fn bits(set: &ExtentSet) -> Vec<bool> {
        let mut bits = vec![false; 64];
        for extent in set.iter() {
            for at in extent.start.get()..extent.end.get() {
                assert!(!std::mem::replace(&mut bits[at as usize], true), "extents overlap");
            }
        }
        let touching = set.extents.windows(2).any(|pair| pair[0].end >= pair[1].start);
        assert!(!touching, "{set:?} is not merged");
        bits
    }

    fn sets() -> impl Strategy<Value = ExtentSet> {
        prop::collection::vec((0..SPAN, 0..SPAN), 0..12)
            .prop_map(|pairs| pairs.into_iter().map(|(a, b)| extent(a.min(b), a.max(b))).collect())
    }

    proptest! {
        #[test]
        fn algebra_agrees_with_bits(a in sets(), b in sets(), from in 0..SPAN, to in 0..SPAN) {
            let (x, y) = (bits(&a), bits(&b));
            let zip = |f: fn(bool, bool) -> bool| -> Vec<bool> {
                x.iter().zip(&y).map(|(x, y)| f(*x, *y)).collect()
            };
            prop_assert_eq!(bits(&a.union(&b)), zip(|x, y| x || y));
            prop_assert_eq!(bits(&a.intersect(&b)), zip(|x, y| x && y));
            prop_assert_eq!(bits(&a.subtract(&b)), zip(|x, y| x && !y));
            let window = extent(from.min(to), from.max(to));
            let inside: ExtentSet = a.within(window).collect();
            prop_assert_eq!(inside.union(&a.missing_in(window)), ExtentSet::from(window));
            prop_assert_eq!(a.contains(window), a.missing_in(window).is_empty());
        }

        #[test]
        fn rounding_covers_and_is_aligned(a in sets()) {
            let rounded = a.rounded_out(Bytes::new(8), Bytes::new(61));
            prop_assert!(a.intersect(&extent(0, 61).into()).subtract(&rounded).is_empty());
            for extent in rounded.iter() {
                prop_assert_eq!(extent.start.get() % 8, 0);
                prop_assert!(extent.end.get() % 8 == 0 || extent.end.get() == 61);
            }
        }
    }
}
