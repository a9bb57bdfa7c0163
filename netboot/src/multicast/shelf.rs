//! The blocks in memory. A thread of its own reads them, one after another, as they are asked for.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use image_core::error::{Error, Result};

use super::pace::Pace;
use super::server::Source;
use super::symbols::Outgoing;

/// Blocks of all sessions that stay in memory: they are repaired soon after they were sent.
const KEPT: usize = 64;

/// A block that was asked for, or why it could not be read.
pub type Given = (u32, Result<Outgoing>);

/// Reads blocks until nobody asks any more.
pub fn read(source: &dyn Source, asked: &Receiver<u32>, give: &Sender<Given>) {
    for block in asked {
        if give.send((block, source.read(block).map(Outgoing::new))).is_err() {
            return;
        }
    }
}

/// The blocks in memory.
pub struct Shelf {
    blocks: HashMap<u32, Outgoing>,
    order: VecDeque<u32>,
    waiting: Vec<u32>,
    ask: Sender<u32>,
    given: Receiver<Given>,
    pace: Pace,
}

impl Shelf {
    /// An empty one, of blocks that are asked for and given by these.
    pub fn new(ask: Sender<u32>, given: Receiver<Given>, pace: Pace) -> Self {
        let (blocks, order, waiting) = (HashMap::new(), VecDeque::new(), Vec::new());
        Self { blocks, order, waiting, ask, given, pace }
    }

    /// Lets a block be read, where that was not done.
    pub fn ask(&mut self, block: u32) {
        if !self.blocks.contains_key(&block)
            && !self.is_asked(block)
            && self.ask.send(block).is_ok()
        {
            self.waiting.push(block);
        }
    }

    /// Whether a block is being read.
    pub fn is_asked(&self, block: u32) -> bool {
        self.waiting.contains(&block)
    }

    /// A block that was read.
    pub fn get(&mut self, block: u32) -> Option<&mut Outgoing> {
        self.blocks.get_mut(&block)
    }

    /// The next block that comes in this time, which now is here; or why it could not be read.
    ///
    /// # Errors
    /// None will come any more.
    pub fn next(&mut self, most: Duration) -> Result<Option<(u32, Result<()>)>> {
        let (came, read) = match self.given.recv_timeout(most) {
            Ok(given) => given,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::Error::other("its thread ended");
                return Err(Error::io("multicast", "read blocks", source));
            }
        };
        self.waiting.retain(|waiting| *waiting != came);
        Ok(Some((came, read.map(|read| self.put(came, read)))))
    }

    fn put(&mut self, block: u32, read: Outgoing) {
        while self.order.len() >= self.pace.share(KEPT)
            && let Some(oldest) = self.order.pop_front()
        {
            self.blocks.remove(&oldest);
        }
        self.order.push_back(block);
        self.blocks.insert(block, read);
    }

    /// Nobody needs any of them.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.order.clear();
    }
}
