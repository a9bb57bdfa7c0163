//! GRUB for BIOS: the core that its boot code loads from outside of any filesystem, and the identifiers in it.
//!
//! The core is a sector that loads the rest, a decompressor, and an LZMA stream with GRUB's kernel, its
//! modules and what grub-install told it: where its files are. What was changed in it is decompressed again
//! and compared; what is not understood to the last field is an error, and stays as it is.
//!
//! Sources: GRUB 2.06, `include/grub/i386/pc/boot.h` (fields of the boot sector and of the core's first
//! sector), `include/grub/offsets.h` (fields of the decompressor), `util/mkimage.c` (how it compresses),
//! `util/setup.c` (error correction: none where its length is zero).

use std::io::{Read, Write};
use std::ops::Range;

use lzma_rust2::{LzmaOptions, LzmaReader, LzmaWriter};

use super::References;
use crate::error::{Error, Result};
use crate::fields::Structure;
use crate::units::Bytes;

/// What a BIOS loads by.
pub const SECTOR: Bytes = Bytes::new(512);

/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: where the core begins, in sectors.
const KERNEL_SECTOR: usize = 0x5c;
/// The only block list of the core's first sector (u64 start, u16 sectors, u16 segment), and where the next
/// one would be.
const BLOCK_LIST: usize = 500;
const SECOND_BLOCK_LIST: usize = 488;
const LOAD_SEGMENT: u16 = 0x820;
/// The fields of the decompressor, which begins with the second sector.
const COMPRESSED_SIZE: usize = 0x08;
const UNCOMPRESSED_SIZE: usize = 0x0c;
const REED_SOLOMON_REDUNDANCY: usize = 0x10;
const NO_REED_SOLOMON_LENGTH: usize = 0x14;

/// The decompressor has about 2.8 KiB, and the stream begins at a multiple of 16 behind it.
const LONGEST_DECOMPRESSOR: usize = 16 << 10;
const ALIGNMENT: usize = 16;
/// More than conventional memory has room for, and more than any GRUB unpacks to.
const LARGEST_CORE: usize = 640 << 10;
const LARGEST_KERNEL: u32 = 16 << 20;
/// What is decompressed altogether to find where the stream begins: it could be tried at a thousand places.
const MOST_WORK: usize = 64 << 20;

/// What mkimage compresses with: 3 literal context bits, 0 literal position bits, 2 position bits, 64 KiB.
const LC: u32 = 3;
const LP: u32 = 0;
const PB: u32 = 2;
const DICTIONARY: u32 = 1 << 16;

/// How modules begin (`GRUB_MODULE_MAGIC`): the first thing behind GRUB's kernel.
const MODULES: &[u8] = b"mimg";

/// Some bytes of a core, and what they become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Where in the core.
    pub at: usize,
    /// As long as what they replace.
    pub bytes: Vec<u8>,
}

/// Where GRUB's boot code in the first sector of a disk finds its core, from the start of the disk; `None`
/// where it is no boot code of GRUB.
pub fn core_of(first_sector: &[u8]) -> Option<Bytes> {
    let code = first_sector.get(..440)?;
    // The words that it says when something is wrong.
    if !code.windows(4).any(|word| word == b"GRUB") {
        return None;
    }
    let found = Structure::new("GRUB's boot code", Bytes::ZERO, code);
    SECTOR.checked_mul(found.le64(KERNEL_SECTOR).ok()?)
}

/// What changes in the core that lies at `place` on its disk and begins `core`; nothing where it names none
/// of `references`.
///
/// # Errors
/// [`Error::Corrupt`] or [`Error::Unsupported`]: it is not understood, or what has to stand in it does not fit.
pub fn changes(core: &[u8], place: Bytes, references: &References) -> Result<Vec<Change>> {
    let core = Core::parse(core, place)?;
    let Some(new) = references.apply(&core.kernel) else { return Ok(Vec::new()) };
    if new.len() != core.kernel.len() {
        return Err(Error::unsupported("a core of GRUB that names what has a longer name now"));
    }
    core.with(&new)
}

/// Whether the core that lies at `place` on its disk and begins `core` is there and whole.
///
/// # Errors
/// As [`changes`].
pub fn check(core: &[u8], place: Bytes) -> Result<()> {
    Core::parse(core, place).map(drop)
}

/// The two files that grub-install leaves in `/boot/grub/i386-pc`, as they have to stand on a disk: the boot code of its
/// first sector, and the core for `place`, where there is room for `room`.
///
/// # Errors
/// [`Error::Corrupt`] or [`Error::Unsupported`]: they are not such files, or there is no room for them.
pub fn installed(boot: &[u8], core: &[u8], place: Bytes, room: Bytes) -> Result<[Vec<u8>; 2]> {
    /// `GRUB_BOOT_MACHINE_BOOT_DRIVE`: 0xff is the disk that the BIOS started from.
    const BOOT_DRIVE: usize = 0x64;
    /// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a jump for floppies; hard disks have two NOPs there.
    const DRIVE_CHECK: usize = 0x66;
    const CODE: usize = 440;
    let file = Structure::new("boot.img", Bytes::ZERO, boot);
    let mut code = file.slice(0, CODE)?.to_vec();
    if !code.windows(4).any(|word| word == b"GRUB") {
        return Err(file.corrupt("code", 0, "that of GRUB", "another one"));
    }
    let put = |to: &mut [u8], at: usize, bytes: &[u8]| {
        if let Some(field) = to.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(&mut code, KERNEL_SECTOR, &place.units(SECTOR).to_le_bytes());
    put(&mut code, BOOT_DRIVE, &[0xff]);
    put(&mut code, DRIVE_CHECK, &[0x90, 0x90]);
    let core = placed(core, place, room)?;
    check(&core, place)?;
    Ok([code, core])
}

/// The file `core.img` as it has to stand at `place`.
fn placed(core: &[u8], place: Bytes, room: Bytes) -> Result<Vec<u8>> {
    let length = Bytes::of(core).align_up(SECTOR);
    if length > room || place.align_down(SECTOR) != place {
        return Err(Error::unsupported(format!("a core of GRUB larger than its place ({room})")));
    }
    let mut core = core.to_vec();
    core.resize(length.index().unwrap_or(core.len()), 0);
    let sectors = u16::try_from(length.units(SECTOR).saturating_sub(1)).unwrap_or(u16::MAX);
    let mut list = place.units(SECTOR).saturating_add(1).to_le_bytes().to_vec();
    list.extend(sectors.to_le_bytes());
    list.extend(LOAD_SEGMENT.to_le_bytes());
    if let Some(field) = core.get_mut(BLOCK_LIST..BLOCK_LIST + 12) {
        field.copy_from_slice(&list);
    }
    Ok(core)
}

/// Whether the core that lies at `place` and begins `core` is what grub-install made of the file `core.img`; or of
/// another file, of which nothing more can be said than that it is whole.
///
/// # Errors
/// [`Error::Corrupt`]: it was made of this file, and differs from it.
pub fn compare(core: &[u8], place: Bytes, file: &[u8]) -> Result<()> {
    let sector = SECTOR.index().unwrap_or(0);
    let expected = placed(file, place, Bytes::from(LARGEST_CORE))?;
    let (Ok(own), Ok(theirs)) = (Core::parse(core, place), Core::parse(&expected, place)) else {
        return Ok(());
    };
    // With error correction its length stands in a field, and it itself behind all of it.
    let correction = sector + REED_SOLOMON_REDUNDANCY..sector + REED_SOLOMON_REDUNDANCY + 4;
    let differs = |at: usize| !correction.contains(&at) && core.get(at) != expected.get(at);
    let length = file.len();
    match (sector..length).find(|at| own.kernel == theirs.kernel && differs(*at)) {
        None => Ok(()),
        Some(at) => Err(Error::corrupt(
            "GRUB's core",
            place + Bytes::from(at),
            "what core.img has there",
            "something else",
        )),
    }
}

struct Core {
    /// Where the stream lies in the core, and up to where there is room for it.
    stream: Range<usize>,
    room: usize,
    /// What it decompresses to.
    kernel: Vec<u8>,
}

impl Core {
    fn parse(bytes: &[u8], place: Bytes) -> Result<Self> {
        let core = Structure::new("GRUB's core", place, bytes);
        let (start, sectors) = (core.le64(BLOCK_LIST)?, core.le16(BLOCK_LIST + 8)?);
        let next = place.units(SECTOR).checked_add(1);
        if Some(start) != next || core.le16(SECOND_BLOCK_LIST + 8)? != 0 {
            return Err(Error::unsupported("a core of GRUB in several pieces"));
        }
        let segment = core.le16(BLOCK_LIST + 10)?;
        if segment != LOAD_SEGMENT {
            return Err(core.corrupt("segment", BLOCK_LIST + 10, "0x820", segment));
        }
        let sector = SECTOR.index().unwrap_or(0);
        let room = usize::from(sectors).saturating_add(1).saturating_mul(sector);
        if room > LARGEST_CORE {
            return Err(core.corrupt("sectors", BLOCK_LIST + 8, "fewer", sectors));
        }
        let bytes = core.slice(0, room)?;
        let rest = bytes.get(sector..).unwrap_or_default();
        let decompressor = Structure::new("GRUB's decompressor", place + SECTOR, rest);
        let (stream, kernel) = unpack(&decompressor)?;
        let stream = stream.start.saturating_add(sector)..stream.end.saturating_add(sector);
        Ok(Self { stream, room, kernel })
    }

    /// What makes it decompress to `kernel`, which is as long as what it decompresses to now.
    fn with(&self, kernel: &[u8]) -> Result<Vec<Change>> {
        let stream = compressed(kernel)?;
        if decompressed(&stream, kernel.len())? != kernel {
            return Err(Error::unsupported(
                "a core of GRUB that does not decompress to what was compressed",
            ));
        }
        if stream.len() > self.room.saturating_sub(self.stream.start) {
            return Err(Error::unsupported("a core of GRUB that became larger than its place"));
        }
        let length = u32::try_from(stream.len()).unwrap_or(u32::MAX).to_le_bytes();
        let field = |at: usize| at.saturating_add(SECTOR.index().unwrap_or(0));
        Ok(vec![
            Change { at: field(COMPRESSED_SIZE), bytes: length.to_vec() },
            // The error correction behind the stream is of what it was.
            Change { at: field(REED_SOLOMON_REDUNDANCY), bytes: vec![0; 4] },
            Change { at: self.stream.start, bytes: stream },
        ])
    }
}

/// Finds the stream behind the decompressor, and what it holds.
fn unpack(decompressor: &Structure<'_>) -> Result<(Range<usize>, Vec<u8>)> {
    let (packed, plain) =
        (decompressor.le32(COMPRESSED_SIZE)?, decompressor.le32(UNCOMPRESSED_SIZE)?);
    if plain > LARGEST_KERNEL {
        return Err(decompressor.corrupt("uncompressed_size", UNCOMPRESSED_SIZE, "less", plain));
    }
    let (length, plain) = (usize::try_from(packed).ok(), usize::try_from(plain).ok());
    let (length, plain) = (length.unwrap_or(usize::MAX), plain.unwrap_or(usize::MAX));
    let code = usize::from(decompressor.le16(NO_REED_SOLOMON_LENGTH)?);
    // The part that must be whole before anything can be corrected is the decompressor's first.
    let first = code.checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX);
    let mut left = MOST_WORK;
    for start in (first..first.saturating_add(LONGEST_DECOMPRESSOR)).step_by(ALIGNMENT) {
        let Ok(stream) = decompressor.slice(start, length) else { break };
        // What a range coder begins with.
        if stream.first() != Some(&0) {
            continue;
        }
        let Some(less) = left.checked_sub(plain) else { break };
        left = less;
        if let Ok(kernel) = decompressed(stream, plain)
            && kernel.windows(MODULES.len()).any(|word| word == MODULES)
        {
            return Ok((start..start.saturating_add(length), kernel));
        }
    }
    Err(decompressor.corrupt("compressed_size", COMPRESSED_SIZE, "a stream of that length", packed))
}

fn decompressed(stream: &[u8], length: usize) -> Result<Vec<u8>> {
    let size = u64::try_from(length).unwrap_or(u64::MAX);
    let mut plain = Vec::new();
    LzmaReader::new(stream, size, LC, LP, PB, DICTIONARY, None)
        .and_then(|reader| reader.take(size).read_to_end(&mut plain))
        .map_err(|source| Error::io("GRUB's core", "decompress", source))?;
    if plain.len() != length {
        return Err(Error::corrupt(
            "GRUB's core",
            Bytes::ZERO,
            length.to_string(),
            plain.len().to_string(),
        ));
    }
    Ok(plain)
}

/// As tightly as it can be: the place is as large as the old one.
fn compressed(plain: &[u8]) -> Result<Vec<u8>> {
    let mut options = LzmaOptions::with_preset(9);
    (options.lc, options.lp, options.pb, options.dict_size) = (LC, LP, PB, DICTIONARY);
    (options.nice_len, options.depth_limit) = (LzmaOptions::NICE_LEN_MAX, 1000);
    let failed = |source| Error::io("GRUB's core", "compress", source);
    let mut writer = LzmaWriter::new_no_header(Vec::new(), &options, false).map_err(failed)?;
    writer.write_all(plain).map_err(failed)?;
    writer.finish().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0a1b2c3d-1111-2222-3333-0123456789ab";
    const NEW: &str = "ffffffff-aaaa-4bbb-8ccc-dddddddddddd";
    const PLACE: Bytes = Bytes::MIB;
    const CODE: usize = 2848;

    /// What a kernel decompresses to; it says `config`.
    fn kernel(config: &str) -> Vec<u8> {
        let mut noise = vec![0; 40_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        [&noise[..], b"mimg", config.as_bytes(), &[0; 5000], &noise[..20_000]].concat()
    }

    /// A core as grub-install leaves it, with `redundancy` bytes of error correction behind it.
    fn core(kernel: &[u8], redundancy: usize) -> Vec<u8> {
        let stream = compressed(kernel).unwrap();
        let mut core = vec![0xcc; 512 + CODE];
        core[SECOND_BLOCK_LIST..512].fill(0);
        let mut put = |at: usize, bytes: &[u8]| core[at..at + bytes.len()].copy_from_slice(bytes);
        let length = (512 + CODE + stream.len() + redundancy).next_multiple_of(512);
        put(BLOCK_LIST, &2049_u64.to_le_bytes());
        put(BLOCK_LIST + 8, &u16::try_from(length / 512 - 1).unwrap().to_le_bytes());
        put(BLOCK_LIST + 10, &LOAD_SEGMENT.to_le_bytes());
        put(512 + COMPRESSED_SIZE, &u32::try_from(stream.len()).unwrap().to_le_bytes());
        put(512 + UNCOMPRESSED_SIZE, &u32::try_from(kernel.len()).unwrap().to_le_bytes());
        put(512 + REED_SOLOMON_REDUNDANCY, &u32::try_from(redundancy).unwrap().to_le_bytes());
        put(512 + NO_REED_SOLOMON_LENGTH, &0x75b_u16.to_le_bytes());
        core.extend(stream);
        core.resize(length, 0xee);
        core
    }

    fn references() -> References {
        let mut references = References::default();
        references.id(OLD, NEW);
        references.volume("vg", "vg-2", "root");
        references
    }

    #[test]
    fn an_identifier_in_the_core_becomes_the_new_one() {
        let text = |id: &str| format!("search.fs_uuid {id} root\n");
        for redundancy in [0, 9000] {
            let mut bytes = core(&kernel(&text(OLD)), redundancy);
            let (before, length) = (bytes.clone(), bytes.len());
            let changes = changes(&bytes, PLACE, &references()).unwrap();
            for Change { at, bytes: new } in changes {
                bytes[at..at + new.len()].copy_from_slice(&new);
            }
            assert_eq!(bytes.len(), length);
            assert_eq!(bytes[..512], before[..512]);
            assert_eq!(bytes[528..532], [0; 4], "the error correction would undo it");
            let found = Core::parse(&bytes, PLACE).unwrap();
            assert!(found.kernel == kernel(&text(NEW)));
        }
    }

    #[test]
    fn a_core_that_names_nothing_stays() {
        let bytes = core(&kernel("set prefix=(,gpt2)/boot/grub"), 0);
        assert_eq!(changes(&bytes, PLACE, &references()).unwrap(), []);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let good = core(&kernel(OLD), 0);
        let wrong = |change: &dyn Fn(&mut Vec<u8>), place: Bytes| {
            let mut bytes = good.clone();
            change(&mut bytes);
            changes(&bytes, place, &references()).unwrap_err().to_string()
        };
        assert!(wrong(&|_| (), Bytes::mib(2)).contains("several pieces"));
        assert!(wrong(&|bytes| bytes[SECOND_BLOCK_LIST + 8] = 1, PLACE).contains("several pieces"));
        assert!(wrong(&|bytes| bytes[BLOCK_LIST + 11] = 9, PLACE).contains("segment"));
        assert!(wrong(&|bytes| bytes[BLOCK_LIST + 9] = 0xff, PLACE).contains("sectors"));
        assert!(wrong(&|bytes| bytes.truncate(9000), PLACE).contains("a field of"));
        assert!(wrong(&|bytes| bytes.truncate(100), PLACE).contains("a field of"));
        assert!(wrong(&|bytes| bytes[512 + UNCOMPRESSED_SIZE + 3] = 9, PLACE).contains("less"));
        for at in [512 + COMPRESSED_SIZE, 512 + UNCOMPRESSED_SIZE, 512 + CODE + 20_000] {
            let why = wrong(&|bytes| bytes[at] ^= 0x11, PLACE);
            assert!(why.contains("compressed_size"), "{why}");
        }
        let longer = core(&kernel("set root=lvm/vg-root"), 0);
        let why = changes(&longer, PLACE, &references()).unwrap_err().to_string();
        assert!(why.contains("a longer name"), "{why}");
    }

    #[test]
    fn the_files_of_grub_install_are_put_together_for_a_disk() {
        let mut file = core(&kernel(OLD), 0);
        file[BLOCK_LIST..512].fill(0);
        assert!(check(&file, PLACE).is_err());
        let mut boot = vec![0; 512];
        boot[0x180..0x184].copy_from_slice(b"GRUB");
        let room = Bytes::of(&file);
        let [code, new] = installed(&boot, &file, PLACE, room).unwrap();
        check(&new, PLACE).unwrap();
        assert_eq!(
            (core_of(&[code.as_slice(), &[0; 72]].concat()), code.len()),
            (Some(PLACE), 440)
        );
        assert!(installed(&boot, &file, PLACE, room - SECTOR).is_err());
        assert!(installed(&[0; 512], &file, PLACE, room).is_err());
        assert!(installed(&boot[..100], &file, PLACE, room).is_err());
        assert!(installed(&boot, &file[..4000], PLACE, room).is_err());
        // With error correction it is the same core, and a byte of code tells it from one that is damaged.
        for redundancy in [0, 9000] {
            let mut disk = core(&kernel(OLD), redundancy);
            compare(&disk, PLACE, &file).unwrap();
            disk[512 + 100] ^= 1;
            assert!(compare(&disk, PLACE, &file).is_err());
        }
        compare(&core(&kernel(NEW), 0), PLACE, &file).unwrap();
    }

    #[test]
    fn nothing_makes_it_panic() {
        let good = core(&kernel(OLD), 0);
        let mut random = blake3::Hasher::new().finalize_xof();
        for _ in 0..100 {
            let mut bytes = good.clone();
            for _ in 0..3 {
                let mut place = [0; 5];
                random.fill(&mut place);
                let at = u32::from_le_bytes([place[0], place[1], place[2], 0]);
                let at = usize::try_from(at).unwrap() % bytes.len();
                bytes[at] = place[4];
            }
            drop(changes(&bytes, PLACE, &references()));
        }
    }

    #[test]
    fn only_the_boot_code_of_grub_has_a_core() {
        let mut sector = vec![0; 512];
        sector[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&2048_u64.to_le_bytes());
        assert_eq!(core_of(&sector), None);
        sector[0x180..0x184].copy_from_slice(b"GRUB");
        assert_eq!(core_of(&sector), Some(Bytes::MIB));
        sector[KERNEL_SECTOR..KERNEL_SECTOR + 8].fill(0xff);
        assert_eq!(core_of(&sector), None);
        assert_eq!(core_of(&sector[..100]), None);
    }
}
