//! Machines that are to be switched on, one after the other.
//!
//! A machine that boots loads a first stage, some 32 MiB: a quarter of what a cable of 1 Gbit/s carries in a second. So one is woken in a
//! second, and a thousand do not come at once. Nobody answers the packet that wakes; where a machine is not heard of, another one follows.

use std::collections::VecDeque;
use std::time::Duration;

use super::List;

/// From one machine to the next.
const PACE: Duration = Duration::from_secs(1);
/// So often a machine is woken that does not come.
const TRIES: u8 = 3;
/// From one try to the next: so long some firmware takes before it asks for anything.
const AGAIN: Duration = Duration::from_secs(90);
/// Who spoke so recently is on.
const HEARD: Duration = Duration::from_secs(20);

/// Who is woken next, and when.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Waking {
    queue: VecDeque<Try>,
    next: Duration,
}

#[derive(Clone, PartialEq, Debug)]
struct Try {
    id: String,
    left: u8,
    at: Duration,
}

impl Waking {
    fn add(&mut self, id: &str, now: Duration) {
        self.remove(id);
        self.queue.push_back(Try { id: id.to_owned(), left: TRIES, at: now });
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.queue.retain(|one| one.id != id);
    }

    /// The machine to be woken now, of those that are off.
    fn next(&mut self, now: Duration, is_off: impl Fn(&str) -> bool) -> Option<String> {
        if now < self.next {
            return None;
        }
        self.queue.retain(|one| is_off(&one.id));
        let place = self.queue.iter().position(|one| one.at <= now)?;
        let mut one = self.queue.remove(place)?;
        let id = one.id.clone();
        self.next = now + PACE;
        (one.left, one.at) = (one.left - 1, now + AGAIN);
        if one.left > 0 {
            self.queue.push_back(one);
        }
        Some(id)
    }
}

impl List {
    fn is_off(&self, id: &str, now: Duration) -> bool {
        let is_silent = |at: Duration| now.saturating_sub(at) > HEARD;
        let known = self.machines.get(id);
        known.is_some_and(|known| known.now.as_ref().is_none_or(|heard| is_silent(heard.at)))
    }

    /// Has those of these machines woken that are off; how many these are.
    pub fn wake(&mut self, ids: &[String], now: Duration) -> usize {
        let off: Vec<&String> = ids.iter().filter(|id| self.is_off(id, now)).collect();
        off.iter().for_each(|id| self.waking.add(id, now));
        off.len()
    }

    /// The adapters of a machine that is to be woken at the time `now`. Whoever asks this a few times a second misses none.
    pub fn woken(&mut self, now: Duration) -> Option<Vec<String>> {
        let mut waking = std::mem::take(&mut self.waking);
        let id = waking.next(now, |id| self.is_off(id, now));
        self.waking = waking;
        Some(self.machines.get(&id?)?.machine.macs.clone())
    }
}
