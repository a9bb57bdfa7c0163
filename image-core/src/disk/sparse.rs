//! A device of any size in memory that keeps only what was written: what the `gpt` crate writes into.

use std::collections::BTreeMap;
use std::io::{Read, Result, Seek, SeekFrom, Write};

use super::table::Patch;
use crate::units::Bytes;

const BLOCK: usize = 512;

/// Zeros, but for the written blocks.
#[derive(Default, Debug)]
pub(super) struct Sparse {
    blocks: BTreeMap<u64, [u8; BLOCK]>,
    position: u64,
}

impl Sparse {
    /// What was written, in ascending order, touching blocks as one patch.
    pub(super) fn into_patches(self) -> Vec<Patch> {
        let mut patches: Vec<Patch> = Vec::new();
        for (number, block) in self.blocks {
            let at = Bytes::from(BLOCK).checked_mul(number).unwrap_or(Bytes::MAX);
            match patches.last_mut() {
                Some((start, bytes)) if start.saturating_add(Bytes::of(bytes)) == at => {
                    bytes.extend_from_slice(&block);
                }
                _ => patches.push((at, block.to_vec())),
            }
        }
        patches
    }

    /// The block at the position, the position within it, and how far an access of `length` may go.
    fn cursor(&self, length: usize) -> (u64, usize, usize) {
        let size = Bytes::from(BLOCK);
        let at = Bytes::new(self.position);
        let inside = (at - at.align_down(size)).index().unwrap_or_default();
        (at.units(size), inside, length.min(BLOCK - inside))
    }

    fn advance(&mut self, length: usize) {
        self.position = self.position.saturating_add(Bytes::from(length).get());
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let (number, inside, length) = self.cursor(buffer.len());
        let block = self.blocks.get(&number).unwrap_or(&[0; BLOCK]);
        for (to, from) in buffer.iter_mut().zip(&block[inside..inside + length]) {
            *to = *from;
        }
        self.advance(length);
        Ok(length)
    }
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let (number, inside, length) = self.cursor(bytes.len());
        let block = self.blocks.entry(number).or_insert([0; BLOCK]);
        block[inside..inside + length].copy_from_slice(&bytes[..length]);
        self.advance(length);
        Ok(length)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.position = match to {
            SeekFrom::Start(position) => position,
            SeekFrom::Current(distance) => self.position.saturating_add_signed(distance),
            SeekFrom::End(_) => return Err(std::io::ErrorKind::Unsupported.into()),
        };
        Ok(self.position)
    }
}
