//! How fast images are sent, and come to each machine: of many that is all that is known. Time is input.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::Open;
use crate::rate::Rate;

/// How often it is looked.
const PERIOD: Duration = Duration::from_secs(1);

/// Interface and image, and the machine; none for what is sent to all.
pub type Key = (String, String, Option<Ipv4Addr>);

/// The rates of all that are open.
#[derive(Default, Debug)]
pub struct Rates {
    known: BTreeMap<Key, Rate>,
    next: Duration,
}

impl Rates {
    /// Looks at what is `open` at the time `now`, where that was not done just before.
    pub fn look(&mut self, open: &[Open], now: Duration) {
        if now < self.next {
            return;
        }
        self.next = now + PERIOD;
        let mut before = std::mem::take(&mut self.known);
        for one in open {
            let came = one
                .inside()
                .into_iter()
                .map(|(address, seen)| (Some(address), one.bytes(seen.blocks)));
            let sent = (None, one.room.sent().bytes());
            for (address, bytes) in came.chain([sent]) {
                let key = one.key(address);
                let mut rate = before.remove(&key).unwrap_or_default();
                rate.note(bytes, now);
                self.known.insert(key, rate);
            }
        }
    }

    /// Bytes of a second, on the wire.
    pub fn of(&self, key: &Key) -> Option<u64> {
        self.known.get(key)?.per_second()
    }
}
