//! FSInfo: FAT32's sector with the number of free clusters.

use super::boot_sector::BootSector;
use crate::error::Result;
use crate::fields::Structure;
use crate::io::BlockSource;

/// "Not known": what formatters and drivers write that do not count.
const UNKNOWN: u32 = u32::MAX;

/// Compares the free count, where there is one, with what the FAT says.
///
/// mkfs.fat, mtools and the Linux driver keep it right on a cleanly unmounted volume, so that another
/// number means that somebody stopped half-way.
pub(super) fn check_free(source: &dyn BlockSource, boot: &BootSector, free: u32) -> Result<()> {
    let Some(position) = boot.fs_info else { return Ok(()) };
    let bytes = source.read(position, 512)?;
    let info = Structure::new("FAT FSInfo", position, &bytes);
    let signed = info.slice(0, 4)? == b"RRaA" && info.slice(484, 4)? == b"rrAa";
    let counted = info.le32(488)?;
    if !signed || counted == UNKNOWN || counted == free {
        return Ok(());
    }
    Err(info.corrupt("FSI_Free_Count", 488, format!("{free} as the FAT counts"), counted))
}
