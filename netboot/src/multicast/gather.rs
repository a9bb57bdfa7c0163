//! Waiting for those who come together. Time is input.
//!
//! Machines of a room begin within a moment of one another. What the first of them got alone, all others would lack: it would be
//! sent twice, and nobody would be done sooner. So the first block waits until nobody came for [`MOMENT`], at most for [`MOST`].

use std::time::Duration;

use super::sender::{Next, Sender};

/// What a machine needs from its first question to its first report, where a packet of it is lost and sent again, and how much later
/// than another its first question is, where its connection is made by the second attempt.
const MOMENT: Duration = Duration::from_millis(300);
/// Who comes later than this finds that it has begun.
const MOST: Duration = Duration::from_millis(1500);

/// Until when blocks wait.
#[derive(Default, Debug)]
pub struct Gather {
    first: Duration,
    until: Duration,
}

impl Gather {
    /// Somebody asked, or joined; `is_idle` says that nobody is being sent anything.
    pub fn expect(&mut self, now: Duration, is_idle: bool) {
        if is_idle {
            self.first = now;
        }
        if is_idle || now < self.until {
            self.until = (now + MOMENT).min(self.first + MOST);
        }
    }

    /// What to send now.
    pub fn next(&self, now: Duration, sender: &mut Sender) -> Next {
        if now < self.until && !sender.is_idle() {
            Next::Wait(self.until)
        } else {
            sender.next(now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn those_who_come_soon_are_waited_for_but_not_for_ever() {
        let mut gather = Gather::default();
        gather.expect(at(1000), true);
        assert_eq!(gather.until, at(1300));
        gather.expect(at(1200), false);
        assert_eq!(gather.until, at(1500));
        // It goes on as long as they come, up to the end.
        (1400..2600).step_by(100).for_each(|now| gather.expect(at(now), false));
        assert_eq!(gather.until, at(2500));
    }

    #[test]
    fn who_comes_while_others_are_sent_to_stops_nobody() {
        let mut gather = Gather::default();
        gather.expect(at(1000), true);
        gather.expect(at(1301), false);
        assert_eq!(gather.until, at(1300));
        // Once all others are done it is the first again.
        gather.expect(at(9000), true);
        assert_eq!(gather.until, at(9300));
    }
}
