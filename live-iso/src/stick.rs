//! A stick: the disc, and behind it a partition for images that every system reads.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use blake3::Hasher;
use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};
use image_core::units::Bytes;
use rustix::fs::SeekFrom as Place;

use crate::iso;

/// The name of the partition for images, and of its filesystem.
pub const LABEL: &str = "KEIKI-DATA";

/// Programs that make a stick, besides those that make a disc.
const TOOLS: [(&str, &str); 3] =
    [("sgdisk", "gdisk"), ("mkfs.exfat", "exfatprogs"), ("exfatlabel", "exfatprogs")];

/// Below that there is no partition for images.
const LEAST: Bytes = Bytes::mib(16);

/// What partitions are aligned to.
const ALIGNMENT: Bytes = Bytes::MIB;

/// What a GPT of a disc has at the end of the stick, with room to spare.
const TAIL: Bytes = Bytes::MIB;

/// A stick as a sparse file of its size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stick {
    /// The file.
    pub file: PathBuf,
    /// What of it has to be written: offset and length; the rest may stay what it was.
    pub written: Vec<(Bytes, Bytes)>,
    /// The size of the partition for images.
    pub space: Bytes,
}

/// The packages of the programs that this machine lacks to make a stick.
pub fn missing(runner: &dyn Runner) -> Vec<&'static str> {
    iso::lacking(runner, &TOOLS)
}

/// Makes of the disc `disc` a stick of `size`, in the same file; `folder` is for what is needed meanwhile. The same disc and size
/// make the same bytes: what identifies partition and filesystem is taken from a hash of them.
///
/// # Errors
/// [`Error::Refused`]: it is too small; [`Error::Io`]: a tool fails.
pub fn make(runner: &dyn Runner, disc: &Path, size: Bytes, folder: &Path) -> Result<Stick> {
    let failed = |error| Error::io(disc.display().to_string(), "write", error);
    let end = Bytes::new(fs::metadata(disc).map_err(failed)?.len());
    let start = end.align_up(ALIGNMENT);
    let least = start + LEAST + TAIL;
    let space = size.align_down(ALIGNMENT).checked_sub(start + TAIL).filter(|_| size >= least);
    let Some(space) = space else {
        return Err(Error::refused(format!("a stick of {size} is too small: it needs {least}")));
    };
    let name = disc.display().to_string();
    let mut hasher = Hasher::new();
    let disc_hashed = File::open(disc).and_then(|file| hasher.update_reader(file).map(drop));
    disc_hashed.map_err(failed)?;
    let id = hasher.update(&size.get().to_le_bytes()).finalize().to_hex();
    let file = OpenOptions::new().write(true).open(disc).map_err(failed)?;
    file.set_len(size.get()).map_err(failed)?;
    // The third partition is what xorriso pads the disc with.
    let first = start.get() / 512;
    let last = (start + space).get() / 512 - 1;
    let part = format!("3:{first}:{last}");
    let (kind, label) = ("3:0700", format!("3:{LABEL}"));
    // A UUID of version 8, whose bits are one's own (RFC 9562).
    let [a, b, c, d, e] = [0..8, 8..12, 12..15, 15..18, 18..30].map(|range| &id[range]);
    let guid = format!("3:{a}-{b}-8{c}-8{d}-{e}");
    let words = ["-e", "-d", "3", "-n", &part, "-t", kind, "-c", &label, "-u", &guid, &name];
    runner.check(&Call::new("sgdisk", words))?;
    let filesystem = folder.join("exfat");
    let shown = filesystem.display().to_string();
    let made = File::create(&filesystem).and_then(|file| file.set_len(space.get()));
    made.map_err(|error| Error::io(&shown, "create", error))?;
    runner.check(&Call::new("mkfs.exfat", ["-L", LABEL, &shown]))?;
    // Else it is taken from the clock.
    let serial = format!("0x{}", &id[30..38]);
    runner.check(&Call::new("exfatlabel", ["-i", &shown, &serial]))?;
    let filled = put(&filesystem, &file, start).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::remove_file(&filesystem).map_err(|error| Error::io(&shown, "remove", error))?;
    let written = vec![(Bytes::ZERO, start + filled), (size - TAIL, TAIL)];
    Ok(Stick { file: disc.to_owned(), written, space })
}

/// Copies what a filesystem's tool wrote into `from` to `start` of `to`; up to where it wrote: in front of that everything
/// counts, also what it left as zeros.
fn put(from: &Path, to: &File, start: Bytes) -> io::Result<Bytes> {
    let mut from = File::open(from)?;
    let mut to = to;
    let mut at = 0;
    loop {
        let data = match rustix::fs::seek(&from, Place::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => return Ok(Bytes::new(at)),
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(&from, Place::Hole(data))?;
        from.seek(SeekFrom::Start(data))?;
        to.seek(SeekFrom::Start(start.get() + data))?;
        let copied = io::copy(&mut io::Read::take(&mut from, hole - data), &mut to)?;
        if copied != hole - data {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = hole;
    }
}
