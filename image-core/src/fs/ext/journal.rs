//! The journal's superblock: whether transactions wait in it.
//!
//! Source: Linux `Documentation/filesystems/ext4/journal.rst`. Big-endian, 1024 bytes.

use super::checksum::crc32c;
use super::inode;
use super::volume::Volume;
use crate::error::Result;
use crate::fields::Structure;

const MAGIC: u32 = 0xC03B_3998;
/// `JBD2_FEATURE_INCOMPAT_CSUM_V2` and `_V3`: the superblock has a checksum.
const CSUM_V2_OR_V3: u32 = 0x18;
const FAST_COMMIT: u32 = 0x20;
const CHECKSUM: usize = 0xFC;

/// State of an internal journal.
pub(super) struct Journal {
    /// Transactions wait (`s_start`).
    pub(super) started: bool,
    /// The kernel gave up on it (`s_errno`).
    pub(super) aborted: bool,
    /// What waits may be fast commits.
    pub(super) fast_commit: bool,
}

impl Journal {
    /// Reads the superblock of the journal in inode `number`.
    ///
    /// # Errors
    /// Where it cannot be found or is not one.
    pub(super) fn read(volume: &Volume<'_>, number: u32) -> Result<Self> {
        let at = inode::first_block(volume, number)?;
        let bytes = volume.read(at, 1024)?;
        let fields = Structure::new("journal superblock", at, &bytes);
        let (magic, kind) = (fields.be32(0)?, fields.be32(4)?);
        if magic != MAGIC || !(3..=4).contains(&kind) {
            let found = format!("{magic:#010x} of type {kind}");
            let expected = format!("{MAGIC:#010x} of type 3 or 4");
            return Err(fields.corrupt("h_magic", 0, expected, found));
        }
        // Type 3 has no feature fields.
        let features = if kind == 4 { fields.be32(0x28)? } else { 0 };
        if features & CSUM_V2_OR_V3 != 0 {
            verify(&fields)?;
        }
        Ok(Self {
            started: fields.be32(0x1C)? != 0,
            aborted: fields.be32(0x20)? != 0,
            fast_commit: features & FAST_COMMIT != 0,
        })
    }
}

fn verify(fields: &Structure<'_>) -> Result<()> {
    let behind = fields.all().get(CHECKSUM + 4..).unwrap_or_default();
    let parts = [fields.slice(0, CHECKSUM)?, &[0; 4], behind];
    let expected = parts.iter().fold(u32::MAX, |crc, part| crc32c(crc, part));
    let found = fields.be32(CHECKSUM)?;
    if found == expected {
        return Ok(());
    }
    let (expected, found) = (format!("{expected:#010x}"), format!("{found:#010x}"));
    Err(fields.corrupt("s_checksum", CHECKSUM, expected, found))
}

#[cfg(test)]
mod tests {
    use super::super::sample::Sample;
    use crate::fs::State;

    #[test]
    fn a_journal_that_is_none_is_an_error() {
        let mut sample = Sample::new("");
        let journal = sample.journal();
        sample.put(journal + 7, &[5]);
        assert_eq!(
            sample.open().state().unwrap_err().to_string(),
            "journal superblock h_magic at byte 2098176: \
             expected 0xc03b3998 of type 3 or 4, found 0xc03b3998 of type 5"
        );
    }

    #[test]
    fn its_checksum_is_verified() {
        let mut sample = Sample::new("");
        let journal = sample.journal();
        sample.put(journal + 0x2B, &[0x10]);
        let error = sample.open().state().unwrap_err().to_string();
        assert!(error.starts_with("journal superblock s_checksum at byte 2098428: expected 0x"));
    }

    #[test]
    fn what_waits_in_it_makes_the_map_stale() {
        let mut sample = Sample::new("");
        let journal = sample.journal();
        sample.put(journal + 0x1F, &[1]);
        assert_eq!(sample.state(), State::Replayable);
        sample.put(journal + 0x2B, &[0x20]);
        let reason = "the journal is dirty and has fast commits".to_owned();
        assert_eq!(sample.state(), State::Raw(reason));
        sample.put(journal + 0x23, &[5]);
        let reason = "the journal was aborted (s_errno); e2fsck should see it".to_owned();
        assert_eq!(sample.state(), State::Raw(reason));
    }
}
