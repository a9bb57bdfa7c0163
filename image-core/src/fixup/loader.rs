//! Boot loaders for UEFI: which may be changed.
//!
//! Source: Microsoft's "PE Format", "Optional Header Data Directories": the fifth is the certificate table.

use crate::error::Result;
use crate::fields::Structure;
use crate::units::Bytes;

/// Where the signature of the PE header stands; from there on: 4 bytes of signature and 20 of COFF header.
const PE_OFFSET: usize = 0x3c;
const OPTIONAL_HEADER: usize = 24;
const PE32: u16 = 0x10b;
const PE32_PLUS: u16 = 0x20b;
/// The directories of a PE32 and of a PE32+, each of 8 bytes: u32 address, u32 size.
const DIRECTORIES: usize = 96;
const DIRECTORIES_PLUS: usize = 112;
const CERTIFICATE_SIZE: usize = 4 * 8 + 4;

/// Whether a program of UEFI stays what it is when some bytes of its data change: one that is understood and
/// not signed.
pub fn may_change(program: &[u8]) -> bool {
    certificate_size(program).is_ok_and(|size| size == Some(0))
}

fn certificate_size(program: &[u8]) -> Result<Option<u32>> {
    let dos = Structure::new("PE program", Bytes::ZERO, program);
    let start = usize::try_from(dos.le32(PE_OFFSET)?).unwrap_or(usize::MAX);
    let rest = program.get(start..).unwrap_or_default();
    let header = Structure::new("PE header", Bytes::from(start), rest);
    if &header.array::<4>(0)? != b"PE\0\0" {
        return Ok(None);
    }
    let directories = match header.le16(OPTIONAL_HEADER)? {
        PE32 => DIRECTORIES,
        PE32_PLUS => DIRECTORIES_PLUS,
        _ => return Ok(None),
    };
    header.le32(OPTIONAL_HEADER + directories + CERTIFICATE_SIZE).map(Some)
}

#[cfg(test)]
mod tests {
    use super::may_change;

    #[test]
    fn only_programs_without_a_signature_may_change() {
        let mut program = vec![0; 512];
        program[0x3c] = 0x80;
        program[0x80..0x84].copy_from_slice(b"PE\0\0");
        program[0x98..0x9a].copy_from_slice(&0x20b_u16.to_le_bytes());
        assert!(may_change(&program));
        // The size of the certificate table of a PE32+.
        program[0x98 + 112 + 36] = 1;
        assert!(!may_change(&program));
        program[0x99] = 1;
        assert!(may_change(&program), "elsewhere in a PE32");
        program[0x98 + 96 + 36] = 1;
        assert!(!may_change(&program));
        program[0x98 + 96 + 36] = 0;
        program[0x80] = b'X';
        assert!(!may_change(&program));
        assert!(!may_change(&program[..100]) && !may_change(&[]));
        assert!(!may_change(&[0xff; 512]));
    }
}
