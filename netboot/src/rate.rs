//! How fast something grows, over the last seconds. Time is input.

use std::time::Duration;

/// What was so long ago counts about a third of what is now.
const OVER: Duration = Duration::from_secs(5);
/// What is told earlier than this after something else counts with what comes next.
const LEAST: Duration = Duration::from_millis(500);

/// A rate.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Rate {
    last: Option<(u64, Duration)>,
    per_second: Option<f64>,
}

impl Rate {
    /// So much is done at the time `now`. Where it is less than before, it is something else, and begins anew.
    pub fn note(&mut self, done: u64, now: Duration) {
        let Some((before, at)) = self.last.filter(|(before, _)| *before <= done) else {
            *self = Self { last: Some((done, now)), per_second: None };
            return;
        };
        let passed = now.saturating_sub(at);
        if passed < LEAST {
            return;
        }
        let is = (done - before) as f64 / passed.as_secs_f64();
        let stays = (-passed.as_secs_f64() / OVER.as_secs_f64()).exp();
        // What stood still before says nothing of how fast it is now.
        let was = self.per_second.filter(|was| *was > is / 100.0);
        self.per_second = Some(was.map_or(is, |was| was * stays + is * (1.0 - stays)));
        self.last = Some((done, now));
    }

    /// The rate, in a second; none where too little is known.
    pub fn per_second(&self) -> Option<u64> {
        self.per_second.map(|rate| rate as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Rate;

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let mut rate = Rate::default();
        let at = |tenths| Duration::from_millis(tenths * 100);
        rate.note(700, at(0));
        assert_eq!(rate.per_second(), None);
        // Too soon to say.
        rate.note(760, at(1));
        assert_eq!(rate.per_second(), None);
        rate.note(900, at(20));
        assert_eq!(rate.per_second(), Some(100));
        // Twice as fast from then on: half a minute later nothing else counts.
        rate.note(1300, at(40));
        let between = rate.per_second().unwrap();
        assert!((110..190).contains(&between), "{between}");
        (3..20).for_each(|step| rate.note(900 + (step - 1) * 400, at(step * 20)));
        assert!(rate.per_second().unwrap().abs_diff(200) < 3);
        // It stands still.
        (20..40).for_each(|step| rate.note(900 + 18 * 400, at(step * 20)));
        assert!(rate.per_second().unwrap() < 3);
        // And goes on.
        rate.note(900 + 18 * 400 + 1000, at(800));
        assert_eq!(rate.per_second(), Some(500));
        // The next stage begins at nothing.
        rate.note(5, at(900));
        assert_eq!(rate.per_second(), None);
    }
}
