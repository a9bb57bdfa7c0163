//! Where the partitions of a disk lie on a target of another size.
//!
//! What lies before a grown partition never moves; what lies behind one moves by whole MiB, and a start
//! that moves is aligned to 1 MiB. Pure arithmetic on positions within the disk.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::units::Bytes;

/// The grain of moves and growth, and the alignment of starts that move.
pub const ALIGNMENT: Bytes = Bytes::MIB;

/// One partition and what happens to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Partition number.
    pub number: u32,
    /// Where it lies on the source disk.
    pub extent: Extent,
    /// By how much it grows; a multiple of [`ALIGNMENT`].
    pub growth: Bytes,
    /// Whether it may grow a little less where others need room; a size that the user named may not.
    pub elastic: bool,
    /// Free bytes before it that may be used up when it moves (`--use-free`).
    pub squeezable: Bytes,
}

/// The new extents by partition number, for `pieces` in ascending order of position.
///
/// # Errors
/// [`Error::Refused`] where they end behind `limit`, the end of the target's usable area.
pub fn place(pieces: &[Piece], limit: Bytes) -> Result<BTreeMap<u32, Extent>> {
    let mut places = BTreeMap::new();
    // How much further everything from here on starts, compared with the source.
    let mut shift = Bytes::ZERO;
    for piece in pieces {
        let (old, squeezable) = (piece.extent, piece.squeezable.align_down(ALIGNMENT));
        let start = match shift.saturating_sub(squeezable) {
            Bytes::ZERO => old.start,
            moved => old.start.saturating_add(moved).align_up(ALIGNMENT),
        };
        let end = start.saturating_add(old.len()).saturating_add(piece.growth);
        if end > limit {
            return Err(Error::refused(format!(
                "partition {} would end at byte {}, the usable space ends at {}",
                piece.number,
                end.get(),
                limit.get()
            )));
        }
        shift = end.saturating_sub(old.end);
        places.insert(piece.number, Extent::new(start, end));
    }
    Ok(places)
}

/// As [`place`], but takes from the elastic piece that grows most what the alignment of odd starts costs.
///
/// # Errors
/// As [`place`].
pub fn place_within(pieces: &mut [Piece], limit: Bytes) -> Result<BTreeMap<u32, Extent>> {
    // Each start costs less than one grain.
    for _ in 0..pieces.len() {
        let elastic = pieces.iter().enumerate().filter(|(_, p)| p.elastic && !p.growth.is_zero());
        let Some((most, _)) = elastic.max_by_key(|(_, piece)| piece.growth) else { break };
        if let Ok(places) = place(pieces, limit) {
            return Ok(places);
        }
        if let Some(piece) = pieces.get_mut(most) {
            piece.growth = piece.growth.saturating_sub(ALIGNMENT);
        }
    }
    place(pieces, limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ALIGNMENT, Piece, place, place_within};
    use crate::extent::Extent;
    use crate::units::Bytes;

    fn piece(number: u32, start: u64, end: u64, growth: u64) -> Piece {
        let extent = Extent::new(Bytes::kib(start), Bytes::kib(end));
        let (growth, squeezable) = (Bytes::mib(growth), Bytes::ZERO);
        Piece { number, extent, growth, elastic: true, squeezable }
    }

    #[test]
    fn what_lies_before_stays_and_what_lies_behind_moves() {
        let pieces = [piece(1, 1024, 2048, 0), piece(3, 2048, 8192, 5), piece(2, 9216, 10240, 0)];
        let places = place(&pieces, Bytes::mib(15)).unwrap();
        assert_eq!(places[&1], pieces[0].extent);
        assert_eq!(places[&3], Extent::new(Bytes::mib(2), Bytes::mib(13)));
        assert_eq!(places[&2], Extent::new(Bytes::mib(14), Bytes::mib(15)));
        let refused = place(&pieces, Bytes::mib(15) - Bytes::new(1)).unwrap_err().to_string();
        assert!(refused.contains("partition 2"), "{refused}");
    }

    #[test]
    fn odd_starts_are_aligned_when_they_move_and_growth_pays_for_it() {
        let mut pieces = [piece(1, 32, 2048, 4), piece(2, 2080, 3104, 0)];
        let limit = Bytes::kib(3104) + Bytes::mib(4);
        let places = place_within(&mut pieces, limit).unwrap();
        assert_eq!(places[&1].len(), Bytes::kib(2016) + Bytes::mib(3));
        assert_eq!(places[&2].start, Bytes::mib(6));
        for piece in &mut pieces {
            (piece.growth, piece.elastic) = (Bytes::mib(4 * u64::from(2 - piece.number)), false);
        }
        assert!(place_within(&mut pieces, limit).is_err(), "a size by name is no other");
        let untouched = place(&[piece(1, 32, 2048, 0), piece(2, 2080, 3104, 0)], limit).unwrap();
        assert_eq!(untouched[&2].start, Bytes::kib(2080));
    }

    #[test]
    fn what_cannot_fit_is_refused_at_once() {
        let mut pieces = [piece(1, 1024, 2 << 30, 1 << 40), piece(2, 3 << 30, 4 << 30, 1 << 30)];
        assert!(place_within(&mut pieces, Bytes::gib(1)).is_err());
        let end = Extent::new(Bytes::new(u64::MAX - 9), Bytes::MAX);
        let mut last = piece(3, 0, 0, 1 << 40);
        last.extent = end;
        assert!(place_within(&mut [piece(1, 1, 2, 3), last], Bytes::MAX).is_ok());
    }

    proptest! {
        #[test]
        fn places_never_overlap_and_keep_sizes(
            layout in prop::collection::vec((1_u64..5000, 1_u64..5000, 0_u64..8), 1..8),
            squeezed in 0_usize..8,
            spare in 0_u64..8,
        ) {
            let mut at = 0;
            let mut pieces: Vec<Piece> = layout.iter().zip(1..).map(|((gap, size, growth), number)| {
                let start = at + gap;
                at = start + size;
                piece(number, start, at, *growth)
            }).collect();
            // As the planner does it: only holes behind the last piece that grows are used up.
            for (piece, (gap, ..)) in pieces.iter_mut().zip(&layout).skip(squeezed + 1) {
                (piece.growth, piece.squeezable) = (Bytes::ZERO, Bytes::kib(*gap));
            }
            let before = pieces.clone();
            let growth: Bytes = pieces.iter().map(|piece| piece.growth).sum();
            let limit = Bytes::kib(at) + growth + Bytes::mib(spare);
            let places = place_within(&mut pieces, limit).unwrap();
            let mut end = Bytes::ZERO;
            for (old, new) in before.iter().zip(&pieces) {
                let place = places[&old.number];
                prop_assert!(place.start >= end && place.start >= old.extent.start);
                prop_assert_eq!(place.len(), old.extent.len() + new.growth);
                prop_assert!(place.start == old.extent.start || place.start.is_aligned(ALIGNMENT));
                end = place.end;
            }
            prop_assert!(end <= limit);
        }
    }
}
