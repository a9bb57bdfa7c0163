//! A session as somebody takes it who joined: blocks as they come.

use std::collections::HashSet;
use std::time::Duration;

use image_core::error::Result;
use image_core::repo::Read;
use image_core::units::Bytes;

use super::{Joined, Names, read};
use crate::multicast::blocks::Blocks;
use crate::multicast::client::{Client, Listener};
use crate::multicast::server::Terms;
use crate::multicast::symbols::Incoming;

/// Blocks in memory while whoever takes them is busy.
const ROOM: u32 = 64;
/// Blocks that are given on at once.
const AT_ONCE: usize = 4;
/// How long a Ctrl-C may go unnoticed, and the unit of silence.
const TICK: Duration = Duration::from_millis(200);

/// A session of which nothing was heard for so long has ended, or its packets do not find the way.
const DEAF: Duration = Duration::from_secs(3);

/// A session that was joined; it is left when dropped.
pub struct Session {
    client: Client,
    /// Blocks that did not come yet.
    pub lacking: HashSet<u32>,
    /// Blocks that were given on, and still count as in memory.
    given: usize,
    /// How often in a row nothing came.
    silent: u32,
    has_taken: bool,
    has_ended: bool,
}

impl Session {
    /// Joins a session of blocks of these lengths, for those that are `lacking`.
    ///
    /// # Errors
    /// The server does not answer, or nothing can be heard.
    pub fn join(
        (files, names, terms): (&dyn Read, &Names, Terms),
        lengths: Vec<u32>,
        lacking: HashSet<u32>,
    ) -> Result<Self> {
        let count = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
        let mut has = Blocks::none(count);
        for number in (0..count).filter(|number| !lacking.contains(number)) {
            has.add(number);
        }
        let listener = Listener::new(terms)?;
        let Joined { slot } = read(&files.get(&names.join, Bytes::kib(64))?)?;
        let client = listener.start(slot, lengths, has, ROOM)?;
        Ok(Self { client, lacking, given: 0, silent: 0, has_taken: false, has_ended: false })
    }

    /// Blocks that are whole, a few; none where none came for a moment. What was taken before takes no memory any more.
    pub fn take(&mut self) -> Vec<(u32, Incoming)> {
        for _ in 0..std::mem::take(&mut self.given) {
            self.client.written();
        }
        let mut came = Vec::new();
        let mut most = TICK;
        while came.len() < AT_ONCE {
            match self.client.next(most) {
                Ok(Some((number, block))) => {
                    self.lacking.remove(&number);
                    came.push((number, block));
                    most = Duration::ZERO;
                }
                Ok(None) => break,
                Err(_) => {
                    self.has_ended = true;
                    break;
                }
            }
        }
        self.given = came.len();
        self.has_taken |= !came.is_empty();
        self.silent = if came.is_empty() { self.silent + 1 } else { 0 };
        came
    }

    /// Whether the way to this machine carries less than is sent, so that fetching is quicker.
    pub fn loses_most(&self) -> bool {
        self.client.loses_most()
    }

    /// Whether no block came for so long, or nothing comes at all any more.
    pub fn is_silent(&self, patience: Duration) -> bool {
        self.has_ended || self.is_deaf() || TICK * self.silent >= patience
    }

    /// Whether nothing of the session is heard, or nothing any more.
    pub fn is_deaf(&self) -> bool {
        self.client.is_deaf_for() > DEAF
    }

    /// Whether any block came.
    pub fn has_taken(&self) -> bool {
        self.has_taken
    }
}
