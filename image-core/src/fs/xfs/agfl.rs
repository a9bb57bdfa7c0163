//! AGFL: sector 3 of every AG, a ring of blocks set aside for the free-space btrees.

use super::agf::Agf;
use super::superblock::Superblock;
use super::{check_crc, check_owner};
use crate::error::Result;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

const UUID: usize = 8;
const CRC: usize = 32;
/// Version 4 has no header.
const V5_HEADER: usize = 36;

/// The blocks in the ring: in use as far as the free-space btrees know.
pub(super) fn blocks(
    source: &dyn BlockSource,
    superblock: &Superblock,
    agf: &Agf,
) -> Result<Vec<u32>> {
    let position = superblock.ag_sector(agf.number, 3)?;
    let length = Bytes::from(superblock.sector_size).index().unwrap_or(512);
    let sector = source.read(position, length)?;
    let name = format!("XFS AGFL {}", agf.number);
    let agfl = Structure::new(&name, position, &sector);
    if superblock.v5 {
        check_owner(&agfl, b"XAFL", Some((UUID, &superblock.meta_uuid)))?;
        check_crc(&agfl, CRC)?;
        super::check(&agfl, ("agfl_seqno", 4), agfl.be32(4)?, agf.number)?;
    }
    let header = if superblock.v5 { V5_HEADER } else { 0 };
    let slots = length.saturating_sub(header) / 4;
    check_ring(&agfl, agf, u32::try_from(slots).unwrap_or(0))?;
    let first = usize::try_from(agf.fl_first).unwrap_or(0);
    let count = usize::try_from(agf.fl_count).unwrap_or(0);
    // The ring was checked: no slot number is above twice the sector's size.
    (first..first.saturating_add(count)).map(|slot| agfl.be32(header + slot % slots * 4)).collect()
}

/// `flfirst`, `fllast` and `flcount` must tell the same number; kernels before 4.5 sized the ring one
/// slot smaller, and what they left across its end does not pass.
fn check_ring(agfl: &Structure<'_>, agf: &Agf, slots: u32) -> Result<()> {
    let (first, last, count) = (agf.fl_first, agf.fl_last, agf.fl_count);
    let holds = first < slots && last < slots && count <= slots && {
        let ends = first.saturating_add(count).saturating_add(slots).saturating_sub(1);
        ends % slots == last
    };
    if holds {
        return Ok(());
    }
    let found = format!("{count} from slot {first} to {last}");
    Err(agfl.corrupt("ring", 0, format!("a ring in {slots} slots that adds up"), found))
}
