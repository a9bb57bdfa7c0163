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

/// CRC-32 (polynomial 0x04C11DB7, *not* reflected) that starts from `seed` and is not inverted at the end;
/// for the journal's checksums v1 only.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        let [first, ..] = crc.to_be_bytes();
        let row = CRC32_BE.get(usize::from(first ^ byte)).copied().unwrap_or_default();
        (crc << 8) ^ row
    })
}

const CRC32_BE: [u32; 256] = {
    let mut table = [0; 256];
    let (mut index, mut top) = (0, 0_u32);
    while index < table.len() {
        let (mut crc, mut bit) = (top, 0);
        while bit < 8 {
            crc = if crc >> 31 == 0 { crc << 1 } else { (crc << 1) ^ 0x04C1_1DB7 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
        top = top.wrapping_add(1 << 24);
    }
    table
};

#[cfg(test)]
mod tests {
    use super::{crc16, crc32_be, crc32c};

    #[test]
    fn checksums_match_their_published_check_values() {
        assert_eq!(crc32c(u32::MAX, b"123456789"), !0xE306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xBB3D);
        // CRC-32/BZIP2, which inverts at the end.
        assert_eq!(crc32_be(u32::MAX, b"123456789"), !0xFC89_1918);
    }
}
