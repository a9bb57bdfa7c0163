//! The size that a filesystem's superblock gives, before and after it was grown.

use super::GrowOutcome;
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::units::Bytes;
use crate::view::Volume;

/// What growth needs to know of a superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    /// Bytes that the filesystem claims.
    pub size: Bytes,
    /// It may leave less than this unused at its volume's end: too little for another group.
    pub slack: Bytes,
}

impl Superblock {
    /// The ext superblock (Linux `Documentation/filesystems/ext4/super.rst`).
    ///
    /// # Errors
    /// [`Error::Corrupt`] where there is none, or it cannot be right; [`Error::Io`].
    pub(crate) fn ext(volume: &Volume) -> Result<Self> {
        const START: usize = 1024;
        const INCOMPAT_64BIT: u32 = 0x80;
        let bytes = volume.first(2 * START)?;
        let bytes = bytes.get(START..).unwrap_or_default();
        let found = Structure::new("ext superblock", Bytes::from(START), bytes);
        let magic = found.le16(0x38)?;
        if magic != 0xEF53 {
            return Err(found.corrupt("s_magic", 0x38, "0xef53", format!("{magic:#x}")));
        }
        let high = if found.le32(0x60)? & INCOMPAT_64BIT == 0 { 0 } else { found.le32(0x150)? };
        let blocks = u64::from(high) << 32 | u64::from(found.le32(4)?);
        let log = found.le32(0x18)?;
        let block = 1024_u64.checked_shl(log).filter(|_| log <= 6).map(Bytes::new);
        let block = block.ok_or_else(|| found.corrupt("s_log_block_size", 0x18, "0 to 6", log))?;
        let group = block.checked_mul(found.le32(0x20)?.into());
        Self::new(block.checked_mul(blocks), group)
            .ok_or_else(|| found.corrupt("s_blocks_count", 4, "what 64 bits can hold", blocks))
    }

    /// The XFS superblock (Linux `fs/xfs/libxfs/xfs_format.h`, `struct xfs_dsb`).
    ///
    /// # Errors
    /// As [`Superblock::ext`].
    pub(crate) fn xfs(volume: &Volume) -> Result<Self> {
        /// The kernel makes no allocation group smaller than this (`XFS_MIN_AG_BLOCKS`).
        const GROUP: u64 = 64;
        let bytes = volume.first(512)?;
        let found = Structure::new("XFS superblock", Bytes::ZERO, &bytes);
        if &found.array::<4>(0)? != b"XFSB" {
            return Err(found.corrupt("sb_magicnum", 0, "XFSB", found.text(0, 4)?));
        }
        let (block, blocks) = (Bytes::from(found.be32(4)?), found.be64(8)?);
        Self::new(block.checked_mul(blocks), block.checked_mul(GROUP))
            .ok_or_else(|| found.corrupt("sb_dblocks", 8, "what 64 bits can hold", blocks))
    }

    fn new(size: Option<Bytes>, slack: Option<Bytes>) -> Option<Self> {
        Some(Self { size: size?, slack: slack? })
    }
}

/// The outcome of a growth of a `volume` whose superblock was `before` and is `after` now.
///
/// # Errors
/// [`Error::Io`] where `tool` left space unused though it said that it was done.
pub(crate) fn outcome(
    tool: &str,
    before: Superblock,
    after: Superblock,
    volume: Bytes,
) -> Result<GrowOutcome> {
    let fills = after.size >= before.size
        && volume.checked_sub(after.size).is_some_and(|rest| rest < after.slack);
    if !fills {
        let [from, to, wanted] = [before.size, after.size, volume].map(Bytes::get);
        let what = format!("from {from} bytes it went to {to}, not to {wanted}");
        return Err(Error::io(tool, "grow the filesystem", std::io::Error::other(what)));
    }
    Ok(if after.size == before.size {
        GrowOutcome::Unchanged
    } else {
        GrowOutcome::Grown { from: before.size, to: after.size }
    })
}
