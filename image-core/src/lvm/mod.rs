//! LVM2: physical volumes, volume groups and their linear and striped logical volumes.
//!
//! Answers: which volume groups a set of PVs forms, where each byte of an LV lies, how the LVs are laid
//! out on PVs of other sizes, and which bytes make the new PVs known to LVM. Nothing here needs LVM's
//! programs or device-mapper.
//! Refuses: what it cannot map byte for byte (thin pools, RAID, snapshots, caches, shared or partial VGs,
//! PVs with damaged labels or metadata areas); the reason is a sentence, and the caller saves those PVs raw.
//!
//! In the order of their use:
//! - [`label`]: the label, the PV header and the metadata areas of one PV.
//! - [`metadata`]: the text grammar, as a tree that keeps what it does not know.
//! - [`model`]: a VG with its PVs, LVs and segments. - `parse`: it is read, checked and judged.
//! - [`assemble`]: PVs of several disks put together to VGs.
//! - [`map`]: LV bytes to PV bytes; an LV as a source or sink.
//! - [`allocate`]: the same VG on PVs and with LVs of other sizes. - [`shrink`]: with less room. -
//!   [`reduce`]: on fewer PVs. - `hold`: around LVs that are there already.
//! - [`write`](mod@write): the new VG as bytes on its PVs.
#![deny(clippy::as_conversions)]

pub mod allocate;
pub mod assemble;
mod hold;
pub mod label;
pub mod map;
pub mod metadata;
pub mod model;
mod parse;
pub mod reduce;
#[cfg(test)]
pub(crate) mod sample;
pub mod shrink;
pub mod write;

use crate::units::Bytes;

/// LVM counts in sectors of 512 bytes on every disk, also where logical sectors are larger.
const SECTOR: Bytes = Bytes::new(512);

/// The same for buffers.
const SECTOR_LEN: usize = 512;

/// A label is in one of the first four sectors.
const LABEL_SECTORS: u8 = 4;

/// What a label begins with, and the type of LVM2's.
const LABEL_ID: &[u8; 8] = b"LABELONE";
const LABEL_TYPE: &[u8; 8] = b"LVM2 001";

/// What a metadata area begins with, behind its checksum.
const AREA_MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";

/// `flags` of the PV header: a VG uses this PV.
const PV_IN_USE: u32 = 1;

/// `flags` of a metadata area's slot: LVM leaves this area alone.
const AREA_IGNORED: u32 = 1;

/// Checksum of labels, metadata areas and texts: CRC-32 (reflected, 0xEDB88320) from an initial value of
/// LVM's own and without inversion (lvm2 `lib/misc/crc.h`).
fn crc(bytes: &[u8]) -> u32 {
    const INITIAL: u32 = 0xf597_a6cf;
    // The crate inverts on the way in and out, as zlib does.
    let mut state = crc32fast::Hasher::new_with_initial(!INITIAL);
    state.update(bytes);
    !state.finalize()
}

#[cfg(test)]
mod tests {
    use super::crc;

    #[test]
    fn the_checksum_is_lvm2s() {
        // Read off PVs that lvm2 2.03.16 made: the empty string leaves the initial value.
        assert_eq!(crc(b""), 0xf597_a6cf);
        let bitwise = |bytes: &[u8]| {
            bytes.iter().fold(0xf597_a6cf_u32, |state, byte| {
                (0..8).fold(state ^ u32::from(*byte), |state, _| {
                    (state >> 1) ^ if state & 1 == 1 { 0xedb8_8320 } else { 0 }
                })
            })
        };
        assert_eq!(crc(b"LVM2 001 and some more"), bitwise(b"LVM2 001 and some more"));
    }
}
