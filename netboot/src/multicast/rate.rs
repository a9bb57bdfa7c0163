//! How fast a session sends: what the way of its clients carries. Time is input.

use std::time::Duration;

/// Who loses less than three quarters stays in the session of all; so nobody in a lane gets more than this part of what that sends.
const LANE: u64 = 4;
/// The slowest lane: whoever gets less fetches.
const SLOWEST: u64 = 1000;
/// How often a rate may change: until then whoever is in the session has said what comes of the last change.
const PERIOD: Duration = Duration::from_secs(1);
/// A session is too fast where more is lost of it, and may be too slow where less is.
const MUCH: f32 = 0.05;
const LITTLE: f32 = 0.01;
/// The session of all repairs what it loses; it is too fast only where something on the way of all carries clearly less.
const MUCH_FOR_ALL: f32 = 0.15;
/// For so long it is believed then that packets are lost at any rate, as in the air.
const ANYHOW: Duration = Duration::from_secs(60);

/// The rate of one session.
#[derive(Debug)]
pub struct Rate {
    /// Bytes of a second on the wire.
    rate: u64,
    fastest: u64,
    slowest: u64,
    /// Whether it is for all, and not a lane.
    is_for_all: bool,
    /// When the rate was looked at.
    looked: Duration,
    /// How much is to come at least, in bytes of a second, where it became slower a moment ago and its rate was why packets were lost.
    hopes: Option<f64>,
    /// Until when loss is not because of the rate.
    anyhow: Duration,
}

impl Rate {
    /// That of a session for all, on a cable that carries so much: slower where all of them get only a part of it.
    pub fn session(cable: u64) -> Self {
        Self::between(cable / LANE, cable, true)
    }

    /// That of a lane on the same cable.
    pub fn lane(cable: u64) -> Self {
        Self::between(cable / SLOWEST, cable / LANE, false)
    }

    fn between(slowest: u64, fastest: u64, is_for_all: bool) -> Self {
        let [slowest, fastest] = [slowest, fastest].map(|rate| rate.max(1));
        let (looked, hopes, anyhow) = (Duration::ZERO, None, Duration::ZERO);
        Self { rate: fastest, fastest, slowest, is_for_all, looked, hopes, anyhow }
    }

    /// Bytes of a second.
    pub fn get(&self) -> u64 {
        self.rate
    }

    /// Learns what half of the clients lose at most, and nine of ten at least: the rest comes, and is what their way carries. A lane
    /// is for most of those in it; whoever could get more than others in the session of all is not slowed for them.
    pub fn hear(&mut self, (usual, common): (f32, f32), now: Duration) {
        let loss = if self.is_for_all { common } else { usual };
        if now.saturating_sub(self.looked) < PERIOD {
            return;
        }
        self.looked = now;
        let rate = self.rate as f64;
        let comes = rate * (1.0 - f64::from(loss));
        if self.hopes.take().is_some_and(|hopes| comes < hopes) {
            (self.rate, self.anyhow) = (self.fastest, now + ANYHOW);
            return;
        }
        let much = if self.is_for_all { MUCH_FOR_ALL } else { MUCH };
        if self.is_for_all && loss > much && comes < self.slowest as f64 {
            // Who gets so little leaves for a lane, where it sees how much it loses.
            self.rate = self.fastest;
            return;
        }
        let part = match loss {
            loss if loss > much && now >= self.anyhow => 1.0 - f64::from(loss.min(0.9)),
            loss if loss < LITTLE => 1.05,
            _ => 1.0,
        };
        self.rate = ((rate * part) as u64).clamp(self.slowest, self.fastest);
        // Where packets are lost at any rate, as much less comes as is sent.
        let part = self.rate as f64 / rate;
        self.hopes = (self.is_for_all && part < 1.0).then_some(comes * (1.0 + part) / 2.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_finds_what_its_clients_get() {
        let mut rate = Rate::lane(100_000_000);
        let gets = 9_500_000;
        for second in 1..60 {
            let now = Duration::from_secs(second);
            let loss = 1.0 - (gets as f32 / rate.get() as f32).min(1.0);
            rate.hear((loss, loss), now);
            rate.hear((loss, loss), now + Duration::from_millis(500));
            assert!(
                second < 2 || rate.get().abs_diff(gets) < gets / 12,
                "{second}: {}",
                rate.get()
            );
        }
        // Nobody loses anything, everybody loses everything.
        (60..200).for_each(|second| rate.hear((0.0, 0.0), Duration::from_secs(second)));
        assert_eq!(rate.get(), 25_000_000);
        (200..300).for_each(|second| {
            let loss = 1.0 - (1000.0 / rate.get() as f32).min(1.0);
            rate.hear((loss, loss), Duration::from_secs(second));
        });
        assert_eq!(rate.get(), 100_000);
    }

    #[test]
    fn a_session_is_as_fast_as_what_all_of_its_clients_get() {
        let mut rate = Rate::session(100_000_000);
        // Of what it repairs it is no slower.
        (1..20).for_each(|second| rate.hear((0.1, 0.1), Duration::from_secs(second)));
        assert_eq!(rate.get(), 100_000_000);
        let gets = 60_000_000;
        for second in 20..80 {
            let loss = 1.0 - (gets as f32 / rate.get() as f32).min(1.0);
            rate.hear((loss, loss), Duration::from_secs(second));
            assert!((gets..gets * 12 / 10).contains(&rate.get()), "{second}: {}", rate.get());
        }
        (80..100).for_each(|second| rate.hear((0.0, 0.0), Duration::from_secs(second)));
        assert_eq!(rate.get(), 100_000_000);
        // Those who get less than the slowest leave for a lane: nothing keeps them here.
        (100..130).for_each(|second| {
            let loss = 1.0 - 10_000_000.0 / rate.get() as f32;
            rate.hear((loss, loss), Duration::from_secs(second));
            assert_eq!(rate.get(), 100_000_000);
        });
        // What the air loses it loses at any rate.
        rate.hear((0.3, 0.3), Duration::from_secs(130));
        assert!(rate.get().abs_diff(70_000_000) < 10, "{}", rate.get());
        (131..180).for_each(|second| {
            rate.hear((0.3, 0.3), Duration::from_secs(second));
            assert_eq!(rate.get(), 100_000_000);
        });
    }
}
