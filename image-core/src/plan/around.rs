//! Where the partitions of a disk lie on a target on which others stay: where they were as far as they can,
//! and else in the free space between.

use super::fit::ALIGNMENT;
use crate::disk::table::Partition;
use crate::extent::{Extent, ExtentSet};
use crate::units::Bytes;

/// The partitions at places within `room` that share no byte with `walls`, at the sizes that they have; by
/// position. `None` where there is no room for one.
pub(super) fn around(
    leaves: &[Partition],
    walls: &ExtentSet,
    room: Extent,
) -> Option<Vec<Partition>> {
    // As many as possible stay where they were; where that fails, none has to.
    placed(leaves, walls, room, true).or_else(|| placed(leaves, walls, room, false))
}

/// Whether all of them may lie where they were, but for the end of the disk.
pub(super) fn apart(leaves: &[Partition], walls: &ExtentSet) -> bool {
    leaves.iter().all(|leaf| walls.within(leaf.extent).next().is_none())
}

fn placed(
    leaves: &[Partition],
    walls: &ExtentSet,
    room: Extent,
    stay: bool,
) -> Option<Vec<Partition>> {
    let mut taken = walls.clone();
    let mut placed = Vec::new();
    let mut homeless: Vec<&Partition> = Vec::new();
    for leaf in leaves {
        let fits = room.contains(leaf.extent) && walls.within(leaf.extent).next().is_none();
        if stay && fits {
            taken.insert(leaf.extent);
            placed.push(leaf.clone());
        } else {
            homeless.push(leaf);
        }
    }
    if stay {
        // What is hard to place goes first.
        homeless.sort_by_key(|leaf| std::cmp::Reverse(leaf.extent.len()));
    }
    for leaf in homeless {
        let extent = first_fit(&taken, room, leaf)?;
        taken.insert(extent);
        placed.push(Partition { extent, ..leaf.clone() });
    }
    placed.sort_by_key(|leaf| leaf.extent);
    Some(placed)
}

fn first_fit(taken: &ExtentSet, room: Extent, leaf: &Partition) -> Option<Extent> {
    // A logical partition needs room for the record before it.
    let before = if leaf.is_logical() { ALIGNMENT } else { Bytes::ZERO };
    taken.missing_in(room).iter().find_map(|free| {
        let start = free.start.align_up(ALIGNMENT).checked_add(before)?;
        Extent::at(start, leaf.extent.len()).filter(|extent| extent.end <= free.end)
    })
}

/// The stretches of free space between `walls`, and which of the partitions lie in each.
pub(super) fn stretches(
    leaves: Vec<Partition>,
    walls: &ExtentSet,
    room: Extent,
) -> Vec<(Extent, Vec<Partition>)> {
    let mut stretches: Vec<(Extent, Vec<Partition>)> =
        walls.missing_in(room).iter().map(|free| (free, Vec::new())).collect();
    for leaf in leaves {
        // One that lies behind all of them has to be squeezed into the last.
        let at = stretches.iter().rposition(|(free, _)| free.start <= leaf.extent.start);
        if let Some((_, own)) = stretches.get_mut(at.unwrap_or(0)) {
            own.push(leaf);
        }
    }
    stretches.retain(|(_, own)| !own.is_empty());
    stretches
}
