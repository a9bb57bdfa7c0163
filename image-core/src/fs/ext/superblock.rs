//! The superblock: 1024 bytes at byte 1024 of the volume, whatever the block size.
//!
//! Source: Linux `Documentation/filesystems/ext4/super.rst`. Little-endian.

use super::checksum::crc32c;
use super::features::{Features, incompat, ro_compat};
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::fs::Identity;
use crate::io::BlockSource;
use crate::units::Bytes;

/// Where it stands, and how long it is.
const AT: Bytes = Bytes::KIB;
const LENGTH: usize = 1024;
const MAGIC: u16 = 0xEF53;

/// A superblock whose magic, checksum, block size and block count were checked.
#[derive(Debug)]
pub(super) struct Superblock {
    bytes: Vec<u8>,
    pub(super) features: Features,
    pub(super) block_size: Bytes,
    /// In blocks, also with bigalloc.
    pub(super) blocks_count: u64,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    /// Reads it; `None` where there is no ext filesystem.
    ///
    /// # Errors
    /// Where the magic is there, but its checksum or its size fields forbid to believe the rest.
    pub(super) fn read(source: &dyn BlockSource) -> Result<Option<Self>> {
        if source.size() < AT + AT {
            return Ok(None);
        }
        let bytes = source.read(AT, LENGTH)?;
        let fields = structure(&bytes);
        if fields.le16(0x38)? != MAGIC {
            return Ok(None);
        }
        let features = Features {
            compat: fields.le32(0x5C)?,
            incompat: fields.le32(0x60)?,
            ro_compat: fields.le32(0x64)?,
        };
        let log_block_size = fields.le32(0x18)?;
        if features.has_ro_compat(ro_compat::METADATA_CSUM) {
            verify(&fields)?;
        } else if log_block_size >= 256 {
            // Two bytes of magic are little: blkid takes this, too, for something else.
            return Ok(None);
        }
        let block_size = 1_u64.checked_shl(log_block_size).filter(|_| log_block_size <= 6);
        let block_size = block_size
            .map(Bytes::kib)
            .ok_or_else(|| fields.corrupt("s_log_block_size", 0x18, "0 to 6", log_block_size))?;
        if fields.le32(0x4C)? > 1 {
            return Err(Error::unsupported(format!("ext revision {}", fields.le32(0x4C)?)));
        }
        let blocks_count = wide(&fields, features, 0x04, 0x150)?;
        if blocks_count == 0 || block_size.checked_mul(blocks_count).is_none() {
            let expected = "1 to 2^64 / block size";
            return Err(fields.corrupt("s_blocks_count", 0x04, expected, blocks_count));
        }
        let uuid = fields.array(0x68)?;
        Ok(Some(Self { features, block_size, blocks_count, uuid, bytes }))
    }

    /// Its fields, for what only one reader asks for.
    pub(super) fn fields(&self) -> Structure<'_> {
        structure(&self.bytes)
    }

    /// Free blocks (not clusters); only up to date after a clean unmount.
    pub(super) fn free_blocks_count(&self) -> Result<u64> {
        wide(&self.fields(), self.features, 0x0C, 0x158)
    }

    /// What every metadata checksum but the superblock's own starts from.
    pub(super) fn checksum_seed(&self) -> Result<u32> {
        if self.features.has_incompat(incompat::CSUM_SEED) {
            self.fields().le32(0x270)
        } else {
            Ok(crc32c(u32::MAX, &self.uuid))
        }
    }

    /// What it says of the filesystem as a whole.
    pub(super) fn identity(&self) -> Result<Identity> {
        let fields = self.fields();
        let text =
            |offset, length| Ok(Some(fields.text(offset, length)?).filter(|t| !t.is_empty()));
        let uuid = uuid::Uuid::from_bytes(self.uuid);
        // EXT2_FLAGS_TEST_FILESYS in s_flags.
        let in_development = fields.le32(0x160)? & 4 != 0;
        Ok(Identity {
            content: match self.features.content() {
                "jbd" => "jbd",
                _ if in_development => "ext4dev",
                content => content,
            },
            label: text(0x78, 16)?,
            uuid: (!uuid.is_nil()).then(|| uuid.to_string()),
            size: self.block_size.checked_mul(self.blocks_count).unwrap_or(Bytes::MAX),
            block_size: self.block_size,
            // The kernel wants blocks of at least one sector.
            sector_limit: self.block_size,
            last_mounted: text(0x88, 64)?,
        })
    }
}

fn structure(bytes: &[u8]) -> Structure<'_> {
    Structure::new("superblock", AT, bytes)
}

/// A block count whose high half only counts with the feature `64bit`.
fn wide(fields: &Structure<'_>, features: Features, low: usize, high: usize) -> Result<u64> {
    let high = match features.has_incompat(incompat::BITS64) {
        true => fields.le32(high)?,
        false => 0,
    };
    Ok(u64::from(high) << 32 | u64::from(fields.le32(low)?))
}

fn verify(fields: &Structure<'_>) -> Result<()> {
    let kind = fields.u8(0x175)?;
    if kind != 1 {
        return Err(Error::unsupported(format!("metadata checksum type {kind}")));
    }
    let (found, expected) = (fields.le32(0x3FC)?, crc32c(u32::MAX, fields.slice(0, 0x3FC)?));
    if found != expected {
        let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
        return Err(fields.corrupt("s_checksum", 0x3FC, expected, found));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::probe;
    use super::super::sample::Sample;
    use crate::units::Bytes;

    #[test]
    fn identity_is_what_the_superblock_says() {
        let filesystem = Sample::new("").open();
        let identity = filesystem.identity();
        assert_eq!(identity.content, "ext4");
        assert_eq!(identity.label.as_deref(), Some("keiki"));
        assert_eq!(identity.uuid.as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
        assert_eq!(identity.last_mounted.as_deref(), Some("/srv"));
        assert_eq!(identity.size, Bytes::mib(6));
        assert_eq!(identity.block_size, Bytes::KIB);
        assert_eq!(identity.sector_limit, Bytes::KIB);
    }

    #[test]
    fn other_contents_are_not_ext() {
        let sample = Sample::new("");
        let without_magic = sample.clone().superblock(0x38, &[0, 0]);
        assert!(probe(&without_magic.source()).unwrap().is_none());
        let short = Sample { bytes: sample.bytes[..2047].to_vec() };
        assert!(probe(&short.source()).unwrap().is_none());
        let plain = Sample::new("^metadata_csum");
        let absurd = plain.superblock(0x18, &256_u32.to_le_bytes());
        assert!(probe(&absurd.source()).unwrap().is_none());
    }

    #[test]
    fn an_untrustworthy_identity_is_an_error() {
        let sample = Sample::new("");
        let mut unsigned = sample.clone();
        unsigned.put(1024 + 0x78, b"other");
        let error = probe(&unsigned.source()).err().unwrap().to_string();
        assert!(error.starts_with("superblock s_checksum at byte 2044: expected 0x"), "{error}");
        for (damaged, message) in [
            (sample.clone().superblock(0x175, &[2]), "metadata checksum type 2 is not supported"),
            (
                sample.clone().superblock(0x18, &[7]),
                "superblock s_log_block_size at byte 1048: expected 0 to 6, found 7",
            ),
            (sample.clone().superblock(0x4C, &[2]), "ext revision 2 is not supported"),
            (
                sample.clone().superblock(0x04, &[0; 4]),
                "superblock s_blocks_count at byte 1028: expected 1 to 2^64 / block size, found 0",
            ),
            (
                sample.superblock(0x153, &[1]),
                "superblock s_blocks_count at byte 1028: expected 1 to 2^64 / block size, \
                 found 72057594037934080",
            ),
        ] {
            assert_eq!(probe(&damaged.source()).err().unwrap().to_string(), message);
        }
    }
}
