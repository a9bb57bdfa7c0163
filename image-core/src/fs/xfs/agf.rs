//! AGF: sector 1 of every AG, its free-space header.

use super::superblock::Superblock;
use super::{check, check_crc, check_owner};
use crate::error::Result;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

const UUID: usize = 64;
const CRC: usize = 216;
/// `XFS_BTREE_MAXLEVELS`.
const MAX_LEVELS: u32 = 9;

/// The free-space header of one AG; counts are blocks.
#[derive(Debug)]
pub(super) struct Agf {
    /// The AG's number.
    pub number: u32,
    /// Blocks in the AG.
    pub length: u32,
    /// Root block of the free-space btree by block number.
    pub bno_root: u32,
    /// Its height, at least 1.
    pub bno_level: u32,
    pub cnt_root: u32,
    pub cnt_level: u32,
    /// First active slot of the AGFL.
    pub fl_first: u32,
    /// Last active slot.
    pub fl_last: u32,
    /// Number of active slots.
    pub fl_count: u32,
    /// Free blocks in the btree.
    pub free_blocks: u32,
    /// Its longest record.
    pub longest: u32,
    btree_blocks: u32,
}

impl Agf {
    /// The header of AG `number`, checked against the superblock.
    pub fn read(source: &dyn BlockSource, superblock: &Superblock, number: u32) -> Result<Self> {
        let position = superblock.ag_sector(number, 1)?;
        let length = Bytes::from(superblock.sector_size).index().unwrap_or(512);
        let sector = source.read(position, length)?;
        let name = format!("XFS AGF {number}");
        let agf = Structure::new(&name, position, &sector);
        check_owner(&agf, b"XAGF", superblock.v5.then_some((UUID, &superblock.meta_uuid)))?;
        if superblock.v5 {
            check_crc(&agf, CRC)?;
        }
        check(&agf, ("agf_versionnum", 4), agf.be32(4)?, 1)?;
        check(&agf, ("agf_seqno", 8), agf.be32(8)?, number)?;
        check(&agf, ("agf_length", 12), agf.be32(12)?, superblock.ag_length(number))?;
        let level = |at| match agf.be32(at)? {
            level @ 1..=MAX_LEVELS => Ok(level),
            other => Err(agf.corrupt("agf_levels", at, format!("1 to {MAX_LEVELS}"), other)),
        };
        Ok(Self {
            number,
            length: agf.be32(12)?,
            bno_root: agf.be32(16)?,
            bno_level: level(28)?,
            cnt_root: agf.be32(20)?,
            cnt_level: level(32)?,
            fl_first: agf.be32(40)?,
            fl_last: agf.be32(44)?,
            fl_count: agf.be32(48)?,
            free_blocks: agf.be32(52)?,
            longest: agf.be32(56)?,
            btree_blocks: agf.be32(60)?,
        })
    }

    /// Free blocks as `sb_fdblocks` counts them: also the AGFL, and btree blocks but the roots.
    pub fn counted_free(&self) -> u64 {
        [self.free_blocks, self.fl_count, self.btree_blocks].into_iter().map(u64::from).sum()
    }
}
