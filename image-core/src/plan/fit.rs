//! Where the partitions of a disk lie on a target of another size.
//!
//! What lies before a grown partition never moves; what lies behind one moves by whole MiB, and a start
//! that moves is aligned to 1 MiB. Where there is less room, free space goes first, then swap; partitions
//! move to the left only where they must. Pure arithmetic on positions within the disk.

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

/// One partition on a target that has less room, and what it could give up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tight {
    /// Partition number.
    pub number: u32,
    /// Where it lies on the source disk.
    pub extent: Extent,
    /// Free bytes before it that may be used up; none before the first partition, which never moves.
    pub hole: Bytes,
    /// Bytes that it does not use.
    pub free: Bytes,
    /// Bytes that it uses for what nobody needs, beyond `free`: swap.
    pub spare: Bytes,
}

/// What is taken of a partition and of the hole before it.
#[derive(Clone, Copy, Default)]
struct Taken {
    hole: Bytes,
    size: Bytes,
}

/// The new extents by partition number, for partitions in ascending order of position, so that they end
/// at `limit`. Only what has to be is given up, in multiples of `grain` (the target's sectors): what
/// nobody uses from the end of the disk on, so that as few partitions as possible move, to the left; then
/// what is to spare. A start that moves is aligned to 1 MiB.
///
/// # Errors
/// Where they end when everything is given up.
pub fn squeeze(
    pieces: &[Tight],
    limit: Bytes,
    grain: Bytes,
) -> Result<BTreeMap<u32, Extent>, Bytes> {
    let mut taken = vec![Taken::default(); pieces.len()];
    let fits = |taken: &[Taken]| end(&pressed(pieces, taken)) <= limit;
    for donor in donors(pieces) {
        if fits(&taken) {
            break;
        }
        give(&mut taken, donor, donor.most);
        if fits(&taken) {
            // The least of it that does: more never ends further on.
            let (mut less, mut enough) = (0, donor.most.units(grain));
            while less < enough {
                let half = less.midpoint(enough);
                give(&mut taken, donor, grain.checked_mul(half).unwrap_or(donor.most));
                if fits(&taken) { enough = half } else { less = half + 1 }
            }
            give(&mut taken, donor, grain.checked_mul(enough).unwrap_or(donor.most));
            if !fits(&taken) {
                give(&mut taken, donor, donor.most);
            }
        }
    }
    let places = pressed(pieces, &taken);
    if end(&places) > limit {
        return Err(end(&places));
    }
    Ok(pieces.iter().map(|piece| piece.number).zip(places).collect())
}

/// Something that can be taken from: a hole, or the size of a partition.
#[derive(Clone, Copy)]
struct Donor {
    index: usize,
    hole: bool,
    before: Bytes,
    most: Bytes,
}

/// In the order in which they give.
fn donors(pieces: &[Tight]) -> Vec<Donor> {
    let mut donors = Vec::new();
    for (index, piece) in pieces.iter().enumerate().rev() {
        donors.push(Donor { index, hole: false, before: Bytes::ZERO, most: piece.free });
        if index > 0 {
            donors.push(Donor { index, hole: true, before: Bytes::ZERO, most: piece.hole });
        }
    }
    for (index, piece) in pieces.iter().enumerate().rev() {
        donors.push(Donor { index, hole: false, before: piece.free, most: piece.spare });
    }
    donors
}

fn give(taken: &mut [Taken], donor: Donor, amount: Bytes) {
    let Some(taken) = taken.get_mut(donor.index) else { return };
    let amount = donor.before.saturating_add(amount);
    if donor.hole { taken.hole = amount } else { taken.size = amount }
}

/// Where partitions lie when that much is taken from them and from the holes before them.
fn pressed(pieces: &[Tight], taken: &[Taken]) -> Vec<Extent> {
    let mut places: Vec<Extent> = Vec::new();
    let mut before: Option<Extent> = None;
    for (piece, taken) in pieces.iter().zip(taken) {
        let old = piece.extent;
        let start = match (before, places.last()) {
            (Some(before), Some(place)) => {
                let hole = old.start.saturating_sub(before.end).saturating_sub(taken.hole);
                let start = place.end.saturating_add(hole);
                // An odd start stays rather than move to the right.
                if start < old.start { start.align_up(ALIGNMENT).min(old.start) } else { old.start }
            }
            _ => old.start,
        };
        places.push(Extent::new(start, start.saturating_add(old.len().saturating_sub(taken.size))));
        before = Some(old);
    }
    places
}

fn end(places: &[Extent]) -> Bytes {
    places.last().map_or(Bytes::ZERO, |place| place.end)
}

/// Where partitions end that have given up everything they can.
pub fn least_end(pieces: &[Tight]) -> Bytes {
    let all =
        |piece: &Tight| Taken { hole: piece.hole, size: piece.free.saturating_add(piece.spare) };
    let all: Vec<Taken> = pieces.iter().map(all).collect();
    end(&pressed(pieces, &all))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ALIGNMENT, Piece, Tight, least_end, place, place_within, squeeze};
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

    fn tight(number: u32, start: u64, end: u64, gives: (u64, u64, u64)) -> Tight {
        let extent = Extent::new(Bytes::mib(start), Bytes::mib(end));
        let (hole, free, spare) = (Bytes::mib(gives.0), Bytes::mib(gives.1), Bytes::mib(gives.2));
        Tight { number, extent, hole, free, spare }
    }

    fn squeezed(pieces: &[Tight], limit: u64) -> Vec<(u64, u64)> {
        let places = squeeze(pieces, Bytes::mib(limit), Bytes::new(512)).unwrap();
        places.values().map(|p| (p.start.units(Bytes::MIB), p.end.units(Bytes::MIB))).collect()
    }

    #[test]
    fn free_space_goes_first_from_the_end_and_swap_last() {
        let pieces = [
            tight(1, 1, 10, (0, 0, 0)),
            tight(2, 12, 32, (2, 0, 15)),
            tight(3, 36, 50, (4, 0, 0)),
            tight(4, 50, 70, (0, 5, 0)),
        ];
        assert_eq!(squeezed(&pieces, 70), [(1, 10), (12, 32), (36, 50), (50, 70)]);
        assert_eq!(squeezed(&pieces, 66), [(1, 10), (12, 32), (36, 50), (50, 66)]);
        assert_eq!(squeezed(&pieces, 63), [(1, 10), (12, 32), (34, 48), (48, 63)]);
        assert_eq!(squeezed(&pieces, 60), [(1, 10), (11, 31), (31, 45), (45, 60)]);
        assert_eq!(squeezed(&pieces, 58), [(1, 10), (10, 29), (29, 43), (43, 58)]);
        assert_eq!(squeezed(&pieces, 44), [(1, 10), (10, 15), (15, 29), (29, 44)]);
        assert_eq!(least_end(&pieces), Bytes::mib(44));
        let end = squeeze(&pieces, Bytes::mib(44) - Bytes::new(512), Bytes::new(512)).unwrap_err();
        assert_eq!(end, Bytes::mib(44));
    }

    proptest! {
        #[test]
        fn squeezed_places_fit_wherever_they_can(
            layout in prop::collection::vec((0_u64..3000, 1_u64..9000, 0_u64..4, 0_u64..3, 0_u64..3), 1..7),
            less in 0_u64..20_000,
        ) {
            let mut at = 2048;
            let sector = Bytes::new(512);
            let pieces: Vec<Tight> = layout.iter().zip(1..).map(|((gap, size, hole, free, spare), number)| {
                let start = at + gap;
                at = start + size;
                let third = |part: u64| Bytes::new(size / 6 * part * 512);
                let extent = Extent::new(Bytes::new(start * 512), Bytes::new(at * 512));
                let hole = Bytes::new(if number == 1 { 0 } else { gap / 3 * hole * 512 });
                Tight { number, extent, hole, free: third(*free), spare: third(*spare) }
            }).collect();
            let limit = Bytes::new(at.saturating_sub(less) * 512);
            let least = least_end(&pieces);
            let places = match squeeze(&pieces, limit, sector) {
                Ok(places) => places,
                Err(end) => {
                    prop_assert!(end == least && least > limit);
                    return Ok(());
                }
            };
            prop_assert!(least <= limit);
            let mut end = Bytes::ZERO;
            for piece in &pieces {
                let (old, place) = (piece.extent, places[&piece.number]);
                prop_assert!(place.start >= end && place.start <= old.start && place.end <= limit);
                prop_assert!(place.start == old.start || place.start.is_aligned(ALIGNMENT));
                prop_assert!(place.len() >= old.len() - piece.free - piece.spare);
                prop_assert!(place.len() <= old.len() && place.len().is_aligned(sector));
                end = place.end;
            }
            prop_assert_eq!(places[&1].start, pieces[0].extent.start);
        }

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
