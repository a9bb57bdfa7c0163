//! What a client keeps of what it hears. Time is input, and nothing here knows a socket or a disk.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::blocks::Blocks;
use super::status::Status;

/// Words of the set of blocks in one report: 4,096 blocks.
const PAGE: usize = 64;
/// Deficits in one report.
const MOST_DEFICITS: usize = 100;

/// Whoever lost more than this for some seconds is behind a cable that carries a part of what is sent: what it gets in a session
/// is less than what it could fetch.
const MOST_LOSS: f32 = 0.75;
/// How much of what is known of the loss stays after a second: the last few count, however seldom it speaks.
const STAYS: f32 = 2.0 / 3.0;
/// But so long counts at most, or one that stood still for a while would have lost everything for ever.
const MOST_AT_ONCE: Duration = Duration::from_secs(1);

/// How soon a client speaks for which a repair was not enough, at most; at random before, so that not all speak at once.
pub const URGENT: Duration = Duration::from_millis(100);

/// The state of a client in a session.
#[derive(Debug)]
pub struct Receiver {
    symbols: Vec<u16>,
    has: Blocks,
    /// Blocks that are not whole, with the number of their symbols that came, in the order in which they were begun.
    parts: BTreeMap<u32, u16>,
    order: VecDeque<u32>,
    /// Whole ones that the disk has not taken yet.
    queued: u32,
    /// Most blocks in memory.
    room: u32,
    seen: u32,
    begun: u32,
    /// Packets that came and that did not, since the last report.
    came: u32,
    lost: u32,
    /// Which part is lost, over some seconds.
    loss: f32,
    /// When it last spoke.
    spoke: Option<Duration>,
    /// The page that is told when nothing has changed, and those that have, by the time at which they last did.
    page: usize,
    changed: VecDeque<usize>,
    tells_changed: bool,
}

impl Receiver {
    /// A client that has some of the blocks, with memory for `room` of them.
    pub fn new(symbols: Vec<u16>, has: Blocks, room: u32) -> Self {
        Self {
            symbols,
            has,
            parts: BTreeMap::new(),
            order: VecDeque::new(),
            queued: 0,
            room,
            seen: 0,
            begun: 0,
            came: 0,
            lost: 0,
            loss: 0.0,
            spoke: None,
            page: 0,
            changed: VecDeque::new(),
            tells_changed: false,
        }
    }

    /// What it has.
    pub fn has(&self) -> &Blocks {
        &self.has
    }

    /// Whether symbols of a block are of use. A block is begun only where most of it is to come: who began with a repair that
    /// is for others would need as much again, and the next one who came meanwhile too.
    pub fn wants(&self, block: u32, begins: bool) -> bool {
        !self.has.has(block) && (self.parts.contains_key(&block) || begins && self.free() > 0)
    }

    /// Whether so many packets of a block that is sent to everybody are worth beginning with: nearly all of it. Who comes in the
    /// middle would have the rest sent for himself, and where many come, the others would wait for that.
    pub fn is_early(&self, block: u32, ahead: u32) -> bool {
        let k = self.symbols.get(block as usize).copied().unwrap_or(u16::MAX);
        ahead.saturating_mul(4) >= u32::from(k) * 3
    }

    fn free(&self) -> u32 {
        let used = u32::try_from(self.parts.len()).unwrap_or(u32::MAX).saturating_add(self.queued);
        self.room.saturating_sub(used)
    }

    /// A packet was heard: its number, and how many blocks were begun when it was sent.
    pub fn hear(&mut self, sequence: u32, begun: u32, came: u32) {
        let step = sequence.wrapping_sub(self.seen);
        if step < u32::MAX / 2 {
            if self.seen != 0 {
                self.lost = self.lost.saturating_add(step.saturating_sub(came));
            }
            self.seen = sequence;
            self.begun = begun;
        }
        self.came = self.came.saturating_add(came);
    }

    /// So many new symbols of a block came; whether it is whole now.
    pub fn take(&mut self, block: u32, count: u16, begins: bool) -> bool {
        if count == 0 || !self.wants(block, begins) {
            return false;
        }
        let Some(k) = self.symbols.get(block as usize).copied() else { return false };
        let got = self.parts.entry(block).or_insert_with(|| {
            self.order.push_back(block);
            0
        });
        *got = got.saturating_add(count);
        if *got < k {
            return false;
        }
        self.parts.remove(&block);
        self.order.retain(|part| *part != block);
        self.has.add(block);
        let page = block as usize / (PAGE * 64);
        if self.changed.back() != Some(&page) {
            self.changed.retain(|changed| *changed != page);
            self.changed.push_back(page);
        }
        self.queued += 1;
        true
    }

    /// The disk took a block.
    pub fn written(&mut self) {
        self.queued = self.queued.saturating_sub(1);
    }

    /// What is new is told every other time; reports get lost, so everything else is told again and again.
    fn page_to_tell(&mut self) -> usize {
        self.tells_changed = !self.tells_changed;
        if self.tells_changed
            && let Some(page) = self.changed.pop_front()
        {
            return page;
        }
        let page = self.page;
        self.page = (page + 1) % self.has.all_words().div_ceil(PAGE).max(1);
        page
    }

    /// Whether a part of a block is there. Where it still is after a repair, that should be told within [`URGENT`], not only when
    /// it is its turn.
    pub fn has_part(&self, block: u32) -> bool {
        self.parts.contains_key(&block)
    }

    /// Whether so much is lost that a session is of no use here.
    pub fn loses_most(&self) -> bool {
        self.loss > MOST_LOSS
    }

    /// What to say now.
    pub fn status(&mut self, now: Duration) -> Status {
        let all = self.came.saturating_add(self.lost);
        let loss = self.lost as f32 / all.max(1) as f32;
        let since = now.saturating_sub(self.spoke.replace(now).unwrap_or(now)).min(MOST_AT_ONCE);
        if all > 0 {
            self.loss = loss + (self.loss - loss) * STAYS.powf(since.as_secs_f32());
        }
        (self.came, self.lost) = (0, 0);
        let page = self.page_to_tell();
        let words = self.has.words(page * PAGE, PAGE).to_vec();
        let deficits = self.order.iter().take(MOST_DEFICITS).filter_map(|block| {
            let (got, k) = (self.parts.get(block)?, self.symbols.get(*block as usize)?);
            Some((*block, k.saturating_sub(*got)))
        });
        Status {
            seen: self.seen,
            until: self.begun.saturating_add(self.free()),
            loss,
            page: u32::try_from(page * PAGE).unwrap_or(0),
            words,
            deficits: deficits.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_begun_only_with_what_is_for_everybody() {
        let mut client = Receiver::new(vec![10; 3], Blocks::none(3), 1);
        assert!(!client.take(0, 4, false) && !client.has_part(0));
        assert!(!client.take(0, 4, true) && client.has_part(0));
        // There is room for one.
        assert!(!client.wants(1, true));
        assert_eq!(client.status(Duration::ZERO).deficits, [(0, 6)]);
        assert!(client.take(0, 6, false) && !client.has_part(0));
        assert!(!client.wants(1, true));
        client.written();
        assert!(client.wants(1, true) && !client.wants(0, true));
        assert_eq!(client.status(Duration::ZERO).words, [1]);
    }

    #[test]
    fn who_comes_in_the_middle_of_a_block_waits_for_the_next() {
        let client = Receiver::new(vec![100, 4], Blocks::none(2), 1);
        assert!(client.is_early(0, 100) && client.is_early(0, 75) && !client.is_early(0, 74));
        assert!(client.is_early(1, 3) && !client.is_early(1, 2) && !client.is_early(2, 100));
    }

    #[test]
    fn whoever_loses_most_for_seconds_knows_it() {
        for period in [50, 1000] {
            let mut client = Receiver::new(vec![10], Blocks::none(1), 1);
            let (mut sequence, mut now) = (1, Duration::ZERO);
            let mut hears = |lost: u32, seconds: u64| {
                for _ in 0..seconds * 1000 / period {
                    sequence += 1 + lost;
                    now += Duration::from_millis(period);
                    client.hear(sequence, 1, 1);
                    client.status(now);
                }
                client.loses_most()
            };
            assert!(!hears(9, 2) && hears(9, 10), "{period}");
            assert!(!hears(0, 1) && !hears(1, 25), "{period}");
        }
    }

    #[test]
    fn who_stood_still_for_long_does_not_leave_for_it() {
        let mut client = Receiver::new(vec![10], Blocks::none(1), 1);
        client.hear(1, 1, 1);
        client.status(Duration::from_secs(1));
        client.hear(100_000, 1, 1);
        client.status(Duration::from_secs(100));
        assert!(!client.loses_most());
    }

    #[test]
    fn numbers_that_jump_are_borne() {
        let mut client = Receiver::new(vec![10], Blocks::none(1), 1);
        for sequence in (1..20).map(|at: u32| at.wrapping_mul(u32::MAX / 2 - 1)) {
            client.hear(sequence, u32::MAX, u32::MAX);
        }
        let said = client.status(Duration::ZERO);
        assert!((0.0..=1.0).contains(&said.loss) && said.until == u32::MAX);
    }
}
