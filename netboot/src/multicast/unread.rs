//! The blocks that could not be read, and when it is tried again. Time is input.
//!
//! What fails is a disk or a share, and many blocks with it. So one of them is tried now and then, in turn; where it can be read,
//! all of them are sent again. What was read and is damaged stays so.

use std::collections::BTreeSet;
use std::time::Duration;

use image_core::error::Error;

/// Until a block is tried again; each time that this fails, twice as long. A machine fetches what it lacks once no block came for
/// 15 s: by then it was tried three times.
const FIRST: Duration = Duration::from_secs(2);
/// At most.
const LONGEST: Duration = Duration::from_secs(60);

/// Those of a session.
#[derive(Default, Debug)]
pub struct Unread {
    waiting: BTreeSet<u32>,
    /// The one of these that was tried last.
    tried: u32,
    pause: Duration,
    due: Duration,
    damaged: u32,
}

impl Unread {
    /// How many there are.
    pub fn count(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX).saturating_add(self.damaged)
    }

    /// A block could not be read. What there is to tell: of many only the first.
    pub fn add(&mut self, block: u32, why: &Error, now: Duration) -> Option<String> {
        if !matches!(why, Error::Io { .. }) {
            self.waiting.remove(&block);
            self.damaged += 1;
            let told = || format!("{why}; nobody gets this by multicast any more: keiki check");
            return (self.damaged == 1).then(told);
        }
        let is_first = self.waiting.is_empty();
        let is_new = self.waiting.insert(block);
        if is_first || !is_new {
            self.tried = block;
            self.pause = if is_first { FIRST } else { (self.pause * 2).min(LONGEST) };
            self.due = now + self.pause;
        }
        is_first.then(|| format!("{why}; it is tried again"))
    }

    /// A block was read: those that are to be sent again.
    pub fn remove(&mut self, block: u32) -> BTreeSet<u32> {
        if self.waiting.contains(&block) {
            std::mem::take(&mut self.waiting)
        } else {
            BTreeSet::new()
        }
    }

    /// The block that is to be tried now.
    pub fn due(&self, now: Duration) -> Option<u32> {
        let mut behind = self.waiting.range(self.tried.saturating_add(1)..);
        behind.next().or(self.waiting.first()).copied().filter(|_| now >= self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fails() -> Error {
        Error::io("pack", "read", std::io::ErrorKind::Other.into())
    }

    #[test]
    fn one_is_tried_after_longer_and_longer_and_then_all_are_sent() {
        let mut unread = Unread::default();
        assert_eq!(unread.due(at(0)), None);
        assert!(unread.add(3, &fails(), at(0)).is_some_and(|told| told.contains("pack")));
        assert_eq!(unread.add(7, &fails(), at(1)), None, "it is told once");
        assert_eq!((unread.due(at(1)), unread.due(at(2)), unread.count()), (None, Some(7), 2));
        assert_eq!(unread.add(7, &fails(), at(2)), None);
        assert_eq!((unread.due(at(5)), unread.due(at(6))), (None, Some(3)), "each in its turn");
        for (tried, wait) in [(3, 8), (7, 16), (3, 32), (7, 60), (3, 60)] {
            unread.add(tried, &fails(), at(100));
            assert_eq!(unread.due(at(99 + wait)), None, "{wait}");
            assert!(unread.due(at(100 + wait)).is_some_and(|next| next != tried), "{wait}");
        }
        assert!(unread.remove(5).is_empty());
        assert_eq!(unread.remove(7), [3, 7].into());
        assert_eq!((unread.count(), unread.due(at(999))), (0, None));
        // As the first time.
        assert!(unread.add(3, &fails(), at(200)).is_some());
        assert_eq!(unread.due(at(202)), Some(3));
    }

    #[test]
    fn what_is_damaged_is_not_tried_again() {
        let mut unread = Unread::default();
        let damaged = Error::refused("other bytes");
        unread.add(1, &fails(), at(0));
        assert!(unread.add(1, &damaged, at(2)).is_some_and(|told| told.contains("keiki check")));
        assert_eq!(unread.add(2, &damaged, at(2)), None);
        assert_eq!((unread.due(at(999)), unread.count()), (None, 2));
        assert!(unread.remove(1).is_empty());
    }
}
