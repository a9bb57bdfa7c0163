//! The two checksums of ext metadata, in the form that ext uses them.
//!
//! Source: Linux `Documentation/filesystems/ext4/checksums.rst`.

/// CRC-32C that starts from `seed` and is *not* inverted at the end, so that results chain as seeds.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !::crc32c::crc32c_append(!seed, bytes)
}

/// CRC-16 (polynomial 0x8005, reflected), which starts from `seed`; for `gdt_csum` only.
pub(super) fn crc16(seed: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => (crc >> 1) ^ 0xA001,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{crc16, crc32c};

    #[test]
    fn checksums_match_their_published_check_values() {
        assert_eq!(crc32c(u32::MAX, b"123456789"), !0xE306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
    }
}
