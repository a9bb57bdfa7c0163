//! A container with some bytes changed, as a fuzzer's input describes it: a few bytes of input reach any metadata
//! of a filesystem of many MiB.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::error;
use image_core::io::BlockSource;
use image_core::io::source::beyond_end;
use image_core::units::Bytes;

/// The grain of what an input can change without naming its place in full.
const LINE: usize = 64;
/// The grain of what is kept of a base.
const PAGE: usize = 4096;
/// So many lines that are alike can be reached: the sectors of an empty log are.
const ALIKE: usize = 3;
/// More changes than that are not looked at: every read passes all of them.
const MOST_EDITS: usize = 64;

/// What fills the files in it: no parser looks at them.
pub const CONTENT: u8 = b'x';

/// A sound container that inputs change.
pub struct Base {
    /// Those that are not zero: most of a filesystem is.
    pages: Vec<Option<Vec<u8>>>,
    size: usize,
    /// Where its lines lie that an input reaches.
    lines: Vec<usize>,
}

impl Base {
    /// The base of this name in [`folder`].
    ///
    /// # Errors
    /// It cannot be read, or there is nothing in it.
    pub fn load(name: &str) -> Result<Self> {
        let path = folder().join(format!("{name}.zst"));
        let file = File::open(&path).with_context(|| format!("cannot open {path:?}"))?;
        Self::new(&zstd::decode_all(file)?)
    }

    /// A base of these bytes.
    ///
    /// # Errors
    /// There is nothing in it.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let mut seen: HashMap<&[u8], usize> = HashMap::new();
        let mut lines = Vec::new();
        for (number, line) in bytes.chunks(LINE).enumerate() {
            let times = seen.entry(line).or_default();
            *times += 1;
            if *times <= ALIKE && !line.iter().all(|byte| [0, CONTENT].contains(byte)) {
                lines.push(number * LINE);
            }
        }
        ensure!(!lines.is_empty(), "nothing but zeros");
        let pages = bytes
            .chunks(PAGE)
            .map(|page| page.iter().any(|byte| *byte != 0).then(|| page.to_vec()));
        Ok(Self { pages: pages.collect(), size: bytes.len(), lines })
    }

    /// Keeps `bytes` as the base `name`.
    ///
    /// # Errors
    /// Writing.
    pub fn keep(name: &str, bytes: &[u8]) -> Result<()> {
        fs::create_dir_all(folder())?;
        Ok(fs::write(folder().join(format!("{name}.zst")), zstd::encode_all(bytes, 19)?)?)
    }

    /// The place of the byte `number` of all these lines, laid end to end, round and round.
    fn place(&self, number: usize) -> usize {
        let (line, byte) = (number / LINE % self.lines.len(), number % LINE);
        self.lines[line] + byte
    }

    /// Number of bytes in these lines.
    pub fn filled(&self) -> usize {
        self.lines.len() * LINE
    }

    /// Copies the bytes from `at`; beyond the end there are none.
    fn read(&self, at: usize, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let (page, within) = ((at + done) / PAGE, (at + done) % PAGE);
            let length = (PAGE - within).min(buffer.len() - done);
            let there = self.pages.get(page).and_then(Option::as_ref);
            let there = there.and_then(|page| page.get(within..)).unwrap_or_default();
            let there = &there[..there.len().min(length)];
            buffer[done..done + there.len()].copy_from_slice(there);
            done += length;
        }
    }
}

/// Where the bases are kept.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hostile/bases")
}

/// A base with some bytes changed.
#[derive(Clone)]
pub struct Edited<'a> {
    base: &'a Base,
    size: usize,
    sector: Bytes,
    edits: Vec<(usize, Vec<u8>)>,
}

/// What an input asks for besides its changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Checksums are to be made right again.
    pub sign: bool,
}

impl<'a> Edited<'a> {
    /// The base as it is.
    pub fn of(base: &'a Base) -> Self {
        Self { base, size: base.size, sector: Bytes::new(512), edits: Vec::new() }
    }

    /// What `input` makes of one of `bases`; nothing where it is too short to say which.
    ///
    /// The first byte is the number of the base. Of the second, bit 0 asks for new checksums, bit 1 for a shorter
    /// container, bit 2 for sectors of 4096 bytes. Then changes follow, each of an operation, a place and what it
    /// takes.
    pub fn decode(bases: &'a [Base], input: &[u8]) -> Option<(Self, Wish)> {
        let mut input = Input(input);
        let base = bases.get(usize::from(input.byte()?) % bases.len())?;
        let mut edited = Self::of(base);
        let flags = input.byte().unwrap_or(0);
        if flags & 2 != 0 {
            let cut = usize::from(input.number()?) * 512;
            edited.size = edited.size.saturating_sub(cut);
        }
        if flags & 4 != 0 {
            edited.sector = Bytes::BLOCK;
        }
        while edited.edits.len() < MOST_EDITS {
            if edited.next(&mut input).is_none() {
                break;
            }
        }
        Some((edited, Wish { sign: flags & 1 != 0 }))
    }

    fn next(&mut self, input: &mut Input<'_>) -> Option<()> {
        let operation = input.byte()?;
        let (what, count) = (operation >> 4, usize::from(operation & 15) + 1);
        let number = usize::from(input.number()?);
        let place = self.base.place(number);
        match what & 7 {
            // A run of one byte, in lines.
            4 => self.put(place, &vec![input.byte()?; count * LINE]),
            // Lines of elsewhere.
            5 => {
                let from = self.base.place(usize::from(input.number()?));
                let bytes = self.bytes(from, count * LINE);
                self.put(place, &bytes);
            }
            // Anywhere, by sectors.
            6 => {
                let within = usize::from(input.number()?) % 512;
                let bytes = input.bytes(count)?.to_vec();
                self.put(number * 512 + within, &bytes);
            }
            // A small step up or down.
            7 => {
                let old = self.bytes(place, 1);
                let step = u8::try_from(count).unwrap_or(1);
                let new = if what & 8 == 0 {
                    old[0].wrapping_add(step)
                } else {
                    old[0].wrapping_sub(step)
                };
                self.put(place, &[new]);
            }
            _ => {
                let bytes = input.bytes(count)?.to_vec();
                self.put(place, &bytes);
            }
        }
        Some(())
    }

    /// Overwrites bytes; what lies beyond the end is dropped.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.edits.push((at, bytes.to_vec()));
    }

    /// `length` bytes from `at`; beyond the end they are zero.
    pub fn bytes(&self, at: usize, length: usize) -> Vec<u8> {
        let mut buffer = vec![0; length];
        let end = self.size.min(at.saturating_add(length));
        if at < end {
            self.base.read(at, &mut buffer[..end - at]);
        }
        for (start, bytes) in &self.edits {
            let shared = at.max(*start)..end.min(start.saturating_add(bytes.len()));
            if shared.start < shared.end {
                let from = &bytes[shared.start - start..shared.end - start];
                buffer[shared.start - at..shared.end - at].copy_from_slice(from);
            }
        }
        buffer
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// A little-endian number of up to 8 bytes.
    pub fn little(&self, at: usize, length: usize) -> u64 {
        self.bytes(at, length).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A big-endian number of up to 8 bytes.
    pub fn big(&self, at: usize, length: usize) -> u64 {
        self.bytes(at, length).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl Edited<'static> {
    /// The same as something to read from.
    pub fn source(&self) -> std::sync::Arc<dyn BlockSource> {
        std::sync::Arc::new(self.clone())
    }
}

impl BlockSource for Edited<'_> {
    fn name(&self) -> String {
        "edited".to_owned()
    }
    fn size(&self) -> Bytes {
        Bytes::from(self.size)
    }
    fn sector_size(&self) -> Bytes {
        self.sector
    }
    fn read_at(&self, offset: Bytes, buffer: &mut [u8]) -> error::Result<()> {
        let end = offset.checked_add(Bytes::of(buffer)).filter(|end| *end <= self.size());
        match (offset.index(), end) {
            (Some(at), Some(_)) => {
                buffer.copy_from_slice(&self.bytes(at, buffer.len()));
                Ok(())
            }
            _ => Err(beyond_end("edited", "read", offset, buffer.len(), self.size())),
        }
    }
}

/// What is left of an input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    /// The next two bytes as a number.
    pub fn number(&mut self) -> Option<u16> {
        self.bytes(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
