//! What an initramfs holds: the names of its kernel modules.
//!
//! It is one cpio archive or several, one behind the other, each plain or compressed (Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`): microcode first, then the rest. Archives are read as
//! a stream, and nothing of them is kept but names. What is compressed in a way that is not known here, or packed
//! into a filesystem once more, has no answer.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};

/// More is no initramfs.
const MOST_BYTES: u64 = 4 << 30;
const MOST_FILES: u32 = 1 << 20;
/// A path is not longer (`PATH_MAX`).
const LONGEST_NAME: u64 = 4096;
/// Archives one behind the other, and in one another.
const MOST_ARCHIVES: u32 = 16;
/// A header of the `newc` format, without the name behind it.
const HEADER: usize = 110;
const ALIGNMENT: u64 = 4;

/// What was found in an initramfs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Ramdisk {
    /// Its kernel modules, as the kernel names them: `virtio_blk`.
    pub modules: BTreeSet<String>,
    /// Whether LVM's list of devices was copied into it.
    pub lvm_devices: bool,
}

/// Looks through an initramfs; `None` where it is not understood to its end.
pub fn read(stream: impl Read) -> Option<Ramdisk> {
    let mut found = Found { ramdisk: Ramdisk::default(), files: 0, archives: 0, packed: false };
    let mut stream: Box<dyn BufRead + '_> = Box::new(BufReader::new(stream));
    found.archives(&mut stream).ok()?;
    let seen = found.files > 0 && !found.packed;
    seen.then_some(found.ramdisk)
}

/// The module that a file is, as the kernel names it: `kernel/drivers/nvme/host/nvme-core.ko.xz` is `nvme_core`.
pub fn module(path: &str) -> Option<String> {
    let last = path.rsplit('/').next()?;
    let name = ["", ".xz", ".zst", ".gz"]
        .iter()
        .find_map(|end| last.strip_suffix(&format!(".ko{end}")))?;
    (!name.is_empty()).then(|| name.replace('-', "_"))
}

struct Found {
    ramdisk: Ramdisk,
    files: u32,
    archives: u32,
    /// Whether the files lie in a filesystem in it, as dracut's module `squash` makes it.
    packed: bool,
}

impl Found {
    fn archives(&mut self, stream: &mut Box<dyn BufRead + '_>) -> io::Result<()> {
        loop {
            skip_zeros(stream)?;
            let head = stream.fill_buf()?;
            if head.is_empty() {
                return Ok(());
            }
            self.archives += 1;
            if self.archives > MOST_ARCHIVES {
                return Err(strange("too many archives"));
            }
            if head.starts_with(b"070701") || head.starts_with(b"070702") {
                self.archive(stream)?;
                continue;
            }
            // What is compressed goes on to the end.
            let plain: Box<dyn Read + '_> = if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                Box::new(zstd::stream::read::Decoder::with_buffer(stream)?)
            } else if head.starts_with(&[0x1f, 0x8b]) {
                Box::new(flate2::bufread::MultiGzDecoder::new(stream))
            } else {
                return Err(strange("an unknown compression"));
            };
            let mut plain: Box<dyn BufRead + '_> = Box::new(BufReader::new(plain.take(MOST_BYTES)));
            return self.archives(&mut plain);
        }
    }

    fn archive(&mut self, stream: &mut Box<dyn BufRead + '_>) -> io::Result<()> {
        loop {
            let mut header = [0; HEADER];
            stream.read_exact(&mut header)?;
            if !header.starts_with(b"07070") {
                return Err(strange("no header"));
            }
            let (size, name_size) = (field(&header, 6)?, field(&header, 11)?);
            if name_size > LONGEST_NAME {
                return Err(strange("a long name"));
            }
            let mut name = Vec::new();
            stream.take(name_size).read_to_end(&mut name)?;
            skip(stream, padding(u64::try_from(HEADER).unwrap_or(0) + name_size))?;
            skip(stream, size)?;
            skip(stream, padding(size))?;
            let name = String::from_utf8_lossy(&name);
            let name = name.trim_end_matches('\0');
            if name == "TRAILER!!!" {
                return Ok(());
            }
            self.files += 1;
            if self.files > MOST_FILES {
                return Err(strange("too many files"));
            }
            self.ramdisk.modules.extend(module(name));
            self.ramdisk.lvm_devices |=
                name.trim_start_matches(['.', '/']) == "etc/lvm/devices/system.devices";
            self.packed |= name.ends_with("squash-root.img") || name.ends_with("squash/root.img");
        }
    }
}

fn strange(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The `at`th field: eight hexadecimal digits, behind the magic.
fn field(header: &[u8; HEADER], at: usize) -> io::Result<u64> {
    let start = 6 + 8 * at;
    let digits = header.get(start..start + 8).and_then(|digits| std::str::from_utf8(digits).ok());
    let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    number.map(u64::from).ok_or_else(|| strange("no number"))
}

fn padding(length: u64) -> u64 {
    length.next_multiple_of(ALIGNMENT) - length
}

fn skip(stream: &mut dyn BufRead, length: u64) -> io::Result<()> {
    let skipped = io::copy(&mut stream.take(length), &mut io::sink())?;
    if skipped == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn skip_zeros(stream: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let bytes = stream.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let all = zeros == bytes.len();
        stream.consume(zeros);
        if !all || zeros == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::{module, read};

    fn cpio(names: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names.iter().chain(&["TRAILER!!!"]) {
            let data: &[u8] = if name.starts_with("TRAILER") { b"" } else { b"data!" };
            let field = |value: usize| format!("{value:08x}");
            let fields =
                [0, 0, 0, 0, 1, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0].map(field).concat();
            out.extend(b"070701");
            out.extend(fields.bytes());
            out.extend(name.bytes().chain([0]));
            out.resize(out.len().next_multiple_of(4), 0);
            out.extend(data);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn modules(bytes: &[u8]) -> Option<Vec<String>> {
        read(bytes).map(|found| found.modules.into_iter().collect())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    const NAMES: [&str; 3] =
        ["usr/lib/modules/6/kernel/a/nvme-core.ko", "lib/x/ahci.ko.xz", "bin/sh"];

    #[test]
    fn modules_are_found_behind_microcode_and_compression() {
        let (early, main) = (cpio(&["kernel/x86/microcode/GenuineIntel.bin"]), cpio(&NAMES));
        let expected = Some(vec!["ahci".to_owned(), "nvme_core".to_owned()]);
        assert_eq!(modules(&main), expected);
        for packed in [gzip(&main), zstd::encode_all(main.as_slice(), 1).unwrap()] {
            assert_eq!(modules(&packed), expected);
            assert_eq!(modules(&[early.clone(), packed].concat()), expected);
        }
        assert!(read(cpio(&["./etc/lvm/devices/system.devices"]).as_slice()).unwrap().lvm_devices);
    }

    #[test]
    fn what_is_not_understood_has_no_answer() {
        let main = cpio(&NAMES);
        assert_eq!(modules(&main[..300]), None);
        assert_eq!(modules(&gzip(&main)[..40]), None);
        assert_eq!(modules(b"\xfd7zXZ\0........"), None);
        assert_eq!(modules(&cpio(&["bin/sh", "squashfs-root.img", "squash-root.img"])), None);
        assert_eq!(modules(b""), None);
        let mut long = main;
        long[6 + 8 * 11..6 + 8 * 12].copy_from_slice(b"ffffffff");
        assert_eq!(modules(&long), None);
    }

    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        assert_eq!(module("a/virtio-blk.ko.zst").as_deref(), Some("virtio_blk"));
        assert_eq!(module("a/b.ko.c"), None);
        assert_eq!(module(".ko"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..400) {
            let mut archive = cpio(&NAMES);
            let end = archive.len().min(at + bytes.len());
            if at < end {
                archive[at..end].copy_from_slice(&bytes[..end - at]);
            }
            let _ = read(archive.as_slice());
            let _ = read(bytes.as_slice());
        }
    }
}
