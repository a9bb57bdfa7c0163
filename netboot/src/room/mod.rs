//! An image for many machines at once: what a repository has of it goes to a multicast session, and comes out of one as the
//! windows of a restore.
//!
//! A room stands beside the files of a repository that is served over HTTP, and is optional: whatever does not come by multicast is
//! fetched from those files, and every chunk is verified by its id, whichever way it came.
//!
//! - [`guests`] takes images from machines that save.
//! - [`rooms`] which images have a room now.
//! - [`server`] makes the blocks of a session from an image. - [`client`] gives a restore its windows. - [`blocks`] which chunks
//!   are in which block. - [`file`] a file instead of an image. - `session` takes blocks as they come.

pub mod blocks;
pub mod client;
pub mod file;
pub mod guests;
pub mod rooms;
pub mod server;
mod session;

use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use image_core::error::{Error, Result};
use image_core::image::hash::Hash;
use image_core::image::manifest::Root;
use image_core::repo::{Read, is_missing};
use image_core::report::Report;
use image_core::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::multicast::packet::Key;
use crate::multicast::server::Terms;

/// The folder of rooms in a repository.
const FOLDER: &str = "room";

/// What there is to be fetched of the room of an image or a file, as names beside it.
#[derive(Debug)]
struct Names {
    offer: String,
    blocks: String,
    join: String,
}

impl Names {
    fn of(image: Hash) -> Self {
        let offer = format!("{FOLDER}/{image}");
        Self { blocks: format!("{offer}.blocks"), join: format!("{offer}.join"), offer }
    }

    /// The same of its lane, which has the same blocks.
    fn lane(&self) -> Self {
        let (offer, blocks) = (format!("{}.lane", self.offer), self.blocks.clone());
        Self { join: format!("{offer}.join"), blocks, offer }
    }
}

/// The volumes whose chunks are sent. What lies between partitions is little, and is wanted at another time.
fn shared(root: &Root) -> impl Iterator<Item = usize> {
    let volumes = root.volumes.iter().enumerate();
    volumes.filter(|(_, volume)| volume.kind != "gap" && !volume.is_container).map(|(at, _)| at)
}

/// What a room tells whoever asks.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
struct Offer {
    /// Of the protocol.
    version: u32,
    session: u32,
    /// The key of the session, in hexadecimal digits.
    key: Hash,
    group: SocketAddrV4,
    server: SocketAddrV4,
    /// BLAKE3 of the list of blocks.
    blocks: Hash,
}

/// The number that a client is given.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Joined {
    slot: u16,
}

const VERSION: u32 = 1;

/// What is told in place of an offer while a room opens.
const OPENS: &[u8] = br#"{"opens":true}"#;
/// How long is waited until it is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

impl Offer {
    fn new(terms: &Terms, blocks: Hash) -> Self {
        let Terms { session, key, group, server } = terms.clone();
        Self { version: VERSION, session, key: Hash(key), group, server, blocks }
    }

    /// The offer of a room, once that is open; none where there is none.
    fn find(files: &dyn Read, names: &Names, report: &dyn Report) -> Result<Option<Self>> {
        let mut is_told = false;
        loop {
            match files.get(&names.offer, Bytes::kib(64)) {
                Ok(told) if told == OPENS => {
                    report.checkpoint()?;
                    if !std::mem::replace(&mut is_told, true) {
                        report.note("the server prepares to send this image by multicast");
                    }
                    thread::sleep(AGAIN);
                }
                Ok(offer) => return read(&offer).map(Some),
                Err(error) if is_missing(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn terms(&self) -> Result<Terms> {
        if self.version != VERSION {
            return Err(Error::unsupported(format!("version {} of rooms", self.version)));
        }
        let Self { session, key: Hash(key), group, server, .. } = *self;
        let key: Key = key;
        Ok(Terms { session, key, group, server })
    }
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let wrong = |error: serde_json::Error| {
        Error::corrupt("room", Bytes::ZERO, "what a room tells", error.to_string())
    };
    serde_json::from_slice(bytes).map_err(wrong)
}
