//! FSInfo: FAT32's sector with the number of free clusters.

use super::boot_sector::BootSector;
use crate::error::Result;
use crate::fields::Structure;
use crate::io::BlockSource;

/// "Not known": what formatters and drivers write that do not count.
const UNKNOWN: u32 = u32::MAX;

/// Compares the free clusters that were counted with what it says; whether it says anything.
pub(super) fn check_free(source: &dyn BlockSource, boot: &BootSector, free: u32) -> Result<bool> {
    let Some(position) = boot.fs_info else { return Ok(false) };
    let bytes = source.read(position, 512)?;
    let info = Structure::new("FAT FSInfo", position, &bytes);
    let signed = info.slice(0, 4)? == b"RRaA" && info.slice(484, 4)? == b"rrAa";
    let counted = info.le32(488)?;
    if !signed || counted == UNKNOWN {
        return Ok(false);
    }
    if counted == free {
        return Ok(true);
    }
    Err(info.corrupt("FSI_Free_Count", 488, format!("{free} as the FAT counts"), counted))
}
