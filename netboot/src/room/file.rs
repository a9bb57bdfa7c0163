//! A file for many machines at once: one that is in memory at the server, and which each of them knows by its hash.

use std::collections::HashSet;
use std::time::Duration;

use image_core::error::{Error, Result};
use image_core::extent::Extent;
use image_core::image::hash::Hash;
use image_core::repo::Read;
use image_core::report::Report;
use image_core::units::Bytes;

use super::session::Session;
use super::{Names, Offer, blocks};
use crate::multicast::server::Source;

/// For so long no block may come; then what is missing is fetched.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest file.
const LONGEST: Bytes = Bytes::gib(1);

/// The blocks of a file: all but the last are [`blocks::FULL`].
fn parts(length: Bytes) -> Vec<Extent> {
    let starts = (0..length.get()).step_by(blocks::FULL as usize).map(Bytes::new);
    starts.map(|at| Extent::new(at, (at + Bytes::new(blocks::FULL)).min(length))).collect()
}

fn lengths(length: Bytes) -> Vec<u32> {
    let len = |part: &Extent| u32::try_from(part.len().get()).unwrap_or(u32::MAX);
    parts(length).iter().map(len).collect()
}

/// The place of a part in the file.
fn place<'a>(file: &'a mut [u8], part: &Extent) -> Option<&'a mut [u8]> {
    file.get_mut(part.start.index()?..part.end.index()?)
}

/// The file as a session sends it.
pub(super) struct Pieces(pub bytes::Bytes);

impl Source for Pieces {
    fn lengths(&self) -> Vec<u32> {
        lengths(Bytes::of(&self.0))
    }

    fn read(&self, block: u32) -> Result<Vec<u8>> {
        let piece = self.0.chunks(blocks::FULL as usize).nth(block as usize);
        let gone = || Error::corrupt("file", Bytes::ZERO, "its blocks", block.to_string());
        piece.map(<[u8]>::to_vec).ok_or_else(gone)
    }
}

/// A file that somebody wants.
pub struct File<'a> {
    files: &'a dyn Read,
    name: &'a str,
    hash: Hash,
    length: Bytes,
    offer: Offer,
}

impl<'a> File<'a> {
    /// The file `name` in the folder `files` of a server that sends it; none where it has another one, or sends none.
    ///
    /// # Errors
    /// The server does not answer, or tells what is not understood.
    pub fn find(
        files: &'a dyn Read,
        name: &'a str,
        (hash, length): (Hash, Bytes),
        report: &dyn Report,
    ) -> Result<Option<Self>> {
        if length > LONGEST {
            return Err(Error::unsupported(format!("a file of {length}")));
        }
        let offer = Offer::find(files, &Names::of(hash), report)?;
        Ok(offer.map(|offer| Self { files, name, hash, length, offer }))
    }

    /// What the file holds, verified; and how much of it was fetched, for it did not come by multicast.
    ///
    /// # Errors
    /// The server does not answer any more; [`Error::Corrupt`]: it sends another file.
    pub fn get(&self, report: &dyn Report) -> Result<(Vec<u8>, Bytes)> {
        let mut file = vec![0; self.length.index().unwrap_or_default()];
        let parts = parts(self.length);
        let missing = self.hear(&parts, &mut file, report)?;
        let fetched = self.fetch(&missing, &mut file, report)?;
        if Hash::of(&file) == self.hash {
            return Ok((file, fetched));
        }
        if missing.len() < parts.len() {
            report.note("wrong bytes came by multicast; everything is fetched instead");
            self.fetch(&parts, &mut file, report)?;
        }
        match Hash::of(&file) {
            hash if hash == self.hash => Ok((file, self.length)),
            other => {
                let (expected, found) = (self.hash.to_string(), other.to_string());
                Err(Error::corrupt("what the server sends", Bytes::ZERO, expected, found)
                    .on(self.name))
            }
        }
    }

    /// Takes what comes by multicast; the parts that did not.
    fn hear(&self, parts: &[Extent], file: &mut [u8], report: &dyn Report) -> Result<Vec<Extent>> {
        let all: HashSet<u32> = (0..).zip(parts).map(|(number, _)| number).collect();
        let names = Names::of(self.hash);
        let joined = self.offer.terms().and_then(|terms| {
            Session::join((self.files, &names, terms), lengths(self.length), all.clone())
        });
        let mut missing = all;
        match joined {
            Ok(mut session) => {
                while !session.lacking.is_empty()
                    && !session.is_silent(PATIENCE)
                    && !session.loses_most()
                {
                    report.checkpoint()?;
                    for (number, block) in session.take() {
                        let part = parts.get(number as usize);
                        let place = part.and_then(|part| place(file, part));
                        if let Some((place, bytes)) = place.zip(block.whole())
                            && place.len() == bytes.len()
                        {
                            place.copy_from_slice(&bytes);
                            missing.remove(&number);
                        }
                    }
                }
            }
            Err(error) => report.note(&format!("no multicast, everything is fetched: {error}")),
        }
        let missing = (0..).zip(parts).filter(|(number, _)| missing.contains(number));
        Ok(missing.map(|(_, part)| *part).collect())
    }

    /// Fetches parts; how much that was.
    fn fetch(&self, parts: &[Extent], file: &mut [u8], report: &dyn Report) -> Result<Bytes> {
        let mut fetched = Bytes::ZERO;
        for part in parts {
            report.checkpoint()?;
            let bytes = self.files.range(self.name, *part)?;
            if let Some(place) = place(file, part) {
                place.copy_from_slice(&bytes);
            }
            fetched += part.len();
        }
        Ok(fetched)
    }
}
