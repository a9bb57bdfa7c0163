//! The block of multiple-mount protection: who uses the filesystem, also from another machine.
//!
//! Source: Linux `Documentation/filesystems/ext4/mmp.rst`. Little-endian, 1024 bytes.

use super::checksum::crc32c;
use super::features::{incompat, ro_compat};
use super::volume::Volume;
use crate::error::Result;
use crate::fields::Structure;
use crate::units::Bytes;

const MAGIC: u32 = 0x004D_4D50;
/// `mmp_seq` after a clean unmount.
const CLEAN: u32 = 0xFF4D_4D50;
const CHECKSUM: usize = 0x3FC;

/// The machine that has the filesystem mounted or checks it, as far as the block says.
///
/// # Errors
/// Where the block is missing or damaged.
pub(super) fn user(volume: &Volume<'_>) -> Result<Option<String>> {
    let superblock = volume.superblock;
    if !superblock.features.has_incompat(incompat::MMP) {
        return Ok(None);
    }
    let block = superblock.fields().le64(0x168)?;
    let field = superblock.fields().position() + Bytes::new(0x168);
    let at = volume.locate(block, "superblock s_mmp_block", field)?;
    let bytes = volume.read(at, 1024)?;
    let fields = Structure::new("MMP block", at, &bytes);
    let magic = fields.le32(0)?;
    if magic != MAGIC {
        let found = format!("{magic:#010x}");
        return Err(fields.corrupt("mmp_magic", 0, format!("{MAGIC:#010x}"), found));
    }
    if superblock.features.has_ro_compat(ro_compat::METADATA_CSUM) {
        let expected = crc32c(superblock.checksum_seed()?, fields.slice(0, CHECKSUM)?);
        let found = fields.le32(CHECKSUM)?;
        if found != expected {
            let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
            return Err(fields.corrupt("mmp_checksum", CHECKSUM, expected, found));
        }
    }
    let in_use = fields.le32(4)? != CLEAN;
    Ok(if in_use { Some(fields.text(0x10, 64)?) } else { None })
}

#[cfg(test)]
mod tests {
    use super::super::checksum::crc32c;
    use super::super::sample::Sample;
    use crate::fs::State;

    #[test]
    fn a_filesystem_in_use_elsewhere_is_not_believed() {
        let mut sample = Sample::new("mmp");
        assert_eq!(sample.state(), State::Clean);
        let at = usize::try_from(sample.le32(1024 + 0x168)).unwrap() * 1024;
        let sign = |sample: &mut Sample| {
            let seed = crc32c(u32::MAX, &sample.bytes[1024 + 0x68..1024 + 0x78]);
            let crc = crc32c(seed, &sample.bytes[at..at + 0x3FC]);
            sample.put(at + 0x3FC, &crc.to_le_bytes());
        };
        sample.put(at + 0x10, b"node7\0");
        sample.put(at + 4, &[1, 0, 0, 0]);
        let error = sample.open().state().unwrap_err().to_string();
        assert!(error.starts_with("MMP block mmp_checksum at byte"), "{error}");
        sign(&mut sample);
        let reason = "multiple-mount protection says that \"node7\" uses it";
        assert_eq!(sample.state(), State::Raw(reason.to_owned()));
        assert_eq!(sample.refusal(), reason);
        sample.put(at, &[0]);
        let error = sample.open().state().unwrap_err().to_string();
        assert!(error.starts_with("MMP block mmp_magic at byte"), "{error}");
        let outside = sample.superblock(0x168, &6144_u64.to_le_bytes());
        assert_eq!(
            outside.open().state().unwrap_err().to_string(),
            "superblock s_mmp_block at byte 1384: expected a block of the filesystem, found 6144"
        );
    }
}
