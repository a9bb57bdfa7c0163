//! Writing a stick: confirmed before anything is made, written through one open descriptor, and read back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::extent::{Extent, ExtentSet};
use image_core::io::{BlockSink, Medium};
use image_core::report::{Report, Stage};
use image_core::units::Bytes;
use live_iso::stick;

use super::super::target::{self, Candidate};
use crate::output::progress::Progress;

/// What is written at once.
const PIECE: Bytes = Bytes::mib(4);

/// A stick as it was named and confirmed.
pub struct Stick {
    candidate: Candidate,
    size: Bytes,
}

impl Stick {
    /// Looks at it, and asks.
    ///
    /// # Errors
    /// [`Error::Refused`]: it is in use, or was not confirmed, or there is none.
    pub fn look(name: &str, confirm: &[String], progress: &Progress) -> Result<Self> {
        let candidate = Candidate::look(name, None)?;
        let Some(info) = &candidate.info else {
            return Err(Error::refused(format!("there is no stick {name}")).into());
        };
        if info.sector_size.is_some_and(|size| size != Bytes::new(512)) {
            let why = format!(
                "{name} has sectors of other than 512 bytes: no firmware boots this from it"
            );
            return Err(Error::refused(why).into());
        }
        let size = info.size;
        progress.talk(&candidate.describe(&ExtentSet::new()));
        let candidate = [candidate];
        target::confirm(&candidate, confirm)?;
        let [candidate] = candidate;
        Ok(Self { candidate, size })
    }

    /// Its path.
    pub fn path(&self) -> String {
        self.candidate.path.display().to_string()
    }

    /// Makes a stick of the disc and writes it; its size, and that of its partition for images.
    ///
    /// # Errors
    /// [`Error::Refused`]: it is too small, in use or another one now; [`Error::Io`]; [`Error::Interrupted`].
    pub fn write(&self, disc: &Path, work: &Path, progress: &Progress) -> Result<(Bytes, Bytes)> {
        let made = stick::make(&Machine, disc, self.size, work)?;
        let device = self.candidate.claim(self.size, Bytes::new(512), None)?;
        let file = File::open(&made.file).context("cannot read what was made")?;
        let total = made.written.iter().map(|(_, length)| *length).fold(Bytes::ZERO, |a, b| a + b);
        let unfinished =
            || format!("{} is not finished and does not boot; run this again", self.path());
        progress.stage(Stage::Write, Some(total));
        // What firmware and kernels look at first is written last.
        device.zero(Extent::first(PIECE)).and_then(|()| device.flush()).with_context(unfinished)?;
        let mut ranges = made.written.clone();
        if let Some((start, length)) = ranges.first_mut() {
            (*start, *length) = (*start + PIECE, *length - PIECE);
        }
        ranges.push((Bytes::ZERO, PIECE));
        each(&ranges, progress, &file, &|at, bytes| device.write_at(at, bytes))
            .with_context(unfinished)?;
        device.flush().with_context(unfinished)?;
        progress.stage(Stage::Verify, Some(total));
        let medium = device.direct()?;
        each(&made.written, progress, &file, &|at, bytes| {
            if medium.read(at, bytes.len())? == bytes {
                return Ok(());
            }
            Err(Error::corrupt(self.path(), at, "what was written", "something else"))
        })
        .with_context(unfinished)?;
        // A stick that is a file has nobody to tell.
        if let Err(error) = device.reread_partitions() {
            progress.warning(&format!("the kernel does not know its partitions yet ({error}); pull it out and plug it in again"));
        }
        Ok((self.size, made.space))
    }
}

/// What is done with the bytes of a place.
type Act<'a> = dyn Fn(Bytes, &[u8]) -> Result<(), Error> + 'a;

/// Does something with each piece of what has to be written.
fn each(ranges: &[(Bytes, Bytes)], progress: &Progress, file: &File, act: &Act<'_>) -> Result<()> {
    for (start, length) in ranges {
        let (mut at, end) = (*start, *start + *length);
        while at < end {
            progress.checkpoint()?;
            let part = PIECE.min(end - at);
            let mut bytes = vec![0; part.index().unwrap_or(0)];
            file.read_exact_at(&mut bytes, at.get()).context("cannot read what was made")?;
            act(at, &bytes)?;
            progress.advance(part);
            at += part;
        }
    }
    Ok(())
}
