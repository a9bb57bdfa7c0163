//! FAT as a slow reader sees it: every cluster whose entry in the first FAT is not zero.
//!
//! Source: Microsoft's "FAT: General Overview of On-Disk Format".

use image_core::extent::{Extent, ExtentSet};
use image_core::units::Bytes;

use super::edited::Edited;

/// What the first FAT marks, and all in front of the first cluster; `None` where there is none.
pub fn used(volume: &Edited<'_>) -> Option<ExtentSet> {
    let field = |at, length| volume.little(at, length);
    let either = |short: u64, long: u64| if short != 0 { short } else { long };
    let (sector, per_cluster) = (field(11, 2), field(13, 1));
    let fat_size = either(field(22, 2), field(36, 4));
    let root = (field(17, 2) * 32).div_ceil(sector.max(1));
    let first = field(14, 2) + field(16, 1).checked_mul(fat_size)? + root;
    let total = either(field(19, 2), field(32, 4));
    let clusters = total.checked_sub(first)?.checked_div(per_cluster)?;
    let start = field(14, 2).checked_mul(sector)?;
    let mut used = ExtentSet::from(Extent::first(Bytes::new(first.checked_mul(sector)?)));
    for cluster in 2..clusters.min(1 << 20) + 2 {
        let at = |twelfths: u64| usize::try_from(start + cluster * twelfths / 2).ok();
        // Without a 16-bit size of the FAT it is FAT32, however few clusters there are (docs/decisions/0008).
        let entry = match clusters {
            _ if field(22, 2) == 0 => field(at(8)?, 4) & 0x0FFF_FFFF,
            ..4085 => field(at(3)?, 2) >> (cluster % 2 * 4) & 0xFFF,
            _ => field(at(4)?, 2),
        };
        if entry != 0 {
            let lies = (first + (cluster - 2) * per_cluster) * sector;
            used.insert(Extent::new(Bytes::new(lies), Bytes::new(lies + per_cluster * sector)));
        }
    }
    Some(used)
}
