//! How fast is sent: what the cable carries, shared by all sessions on it, and of each session what the way of its clients carries.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::server::WIRE;

/// What was not sent in time is sent later, as long as it is no more than this behind.
const BEHIND: Duration = Duration::from_millis(10);
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

/// What the cable carries: all sessions on it together send no faster, each in its turn, and keep no more blocks.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: u64,
    /// When the next packet may go.
    free: Arc<Mutex<Instant>>,
    /// How many sessions have something to send.
    busy: Arc<AtomicUsize>,
    own: Option<Arc<Mutex<Own>>>,
}

/// The rate of one session.
#[derive(Debug)]
struct Own {
    /// Bytes of a second on the wire.
    rate: u64,
    fastest: u64,
    slowest: u64,
    /// Whether it is for all, and not a lane.
    is_for_all: bool,
    free: Instant,
    /// When the rate was looked at.
    looked: Duration,
    /// How much is to come at least, in bytes of a second, where it became slower a moment ago and its rate was why packets were lost.
    hopes: Option<f64>,
    /// Until when loss is not because of the rate.
    anyhow: Duration,
}

impl Own {
    /// Learns what is lost: the rest comes, and is what the way carries.
    fn hear(&mut self, loss: f32, now: Duration) {
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

impl Pace {
    /// So many bytes of a second on the wire.
    pub fn new(rate: u64) -> Self {
        let free = Arc::new(Mutex::new(Instant::now()));
        Self { rate: rate.max(1), free, busy: Arc::default(), own: None }
    }

    /// That of another cable; the sessions on both share the memory for blocks.
    pub fn beside(&self, rate: u64) -> Self {
        Self { busy: Arc::clone(&self.busy), ..Self::new(rate) }
    }

    /// That of a session for all, on the same cable: slower where all of them get only a part of it.
    pub fn session(&self) -> Self {
        self.between(self.rate / LANE, self.rate, true)
    }

    /// That of a lane on the same cable.
    pub fn lane(&self) -> Self {
        self.between(self.rate / SLOWEST, self.rate / LANE, false)
    }

    fn between(&self, slowest: u64, fastest: u64, is_for_all: bool) -> Self {
        let [slowest, fastest] = [slowest, fastest].map(|rate| rate.max(1));
        let (looked, anyhow) = (Duration::ZERO, Duration::ZERO);
        let (rate, free, hopes) = (fastest, Instant::now(), None);
        let own = Own { rate, fastest, slowest, is_for_all, free, looked, hopes, anyhow };
        Self { own: Some(Arc::new(Mutex::new(own))), ..self.clone() }
    }

    /// How many bytes of a second may go on the wire now.
    pub fn rate(&self) -> u64 {
        self.own.as_ref().map_or(self.rate, |own| lock(own).rate)
    }

    /// Learns what half of the clients lose at most, and nine of ten at least. A lane is for most of those in it; whoever could get
    /// more than others in the session of all is not slowed for them.
    pub(super) fn hear(&self, (usual, common): (f32, f32), now: Duration) {
        if let Some(own) = &self.own {
            let mut own = lock(own);
            let loss = if own.is_for_all { common } else { usual };
            own.hear(loss, now);
        }
    }

    /// What one of the sessions gets, which share so many.
    pub(super) fn share(&self, all: usize) -> usize {
        (all / self.busy.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Waits until so many packets may go.
    pub(super) fn wait(&self, packets: usize) {
        let bytes = u64::from(WIRE) * packets as u64;
        if let Some(own) = &self.own {
            let turn = {
                let mut own = lock(own);
                let rate = own.rate;
                turn(&mut own.free, bytes, rate)
            };
            thread::sleep(turn.saturating_duration_since(Instant::now()));
        }
        let turn = turn(&mut lock(&self.free), bytes, self.rate);
        thread::sleep(turn.saturating_duration_since(Instant::now()));
    }
}

/// When so many bytes may go at this rate, which is free from then on as `free` says.
fn turn(free: &mut Instant, bytes: u64, rate: u64) -> Instant {
    let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
    let now = Instant::now();
    let turn = (*free).max(now.checked_sub(BEHIND).unwrap_or(now));
    *free = turn + takes;
    turn
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A session that has something to send; the others get its share when it is dropped.
pub(super) struct Busy(Arc<AtomicUsize>);

impl Busy {
    pub fn new(pace: &Pace) -> Self {
        pace.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&pace.busy))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Busy, Pace, WIRE, lock};

    #[test]
    fn sessions_share_the_cable() {
        let pace = Pace::new(u64::from(WIRE) * 1000);
        let began = Instant::now();
        let work = || (0..50).for_each(|_| pace.wait(2));
        let timed = || {
            work();
            began.elapsed()
        };
        let times = std::thread::scope(|scope| {
            [scope.spawn(timed), scope.spawn(timed)].map(|one| one.join().unwrap())
        });
        // 200 packets at 1000 of a second; neither waits for the end of the other.
        assert!(times.iter().max() > Some(&Duration::from_millis(180)), "{times:?}");
        assert!(times.iter().min() > Some(&Duration::from_millis(150)), "{times:?}");
    }

    #[test]
    fn what_is_kept_is_shared_by_those_that_send() {
        let pace = Pace::new(1000);
        let one = Busy::new(&pace);
        assert_eq!(pace.share(64), 64);
        let others = [Busy::new(&pace), Busy::new(&pace.lane())];
        assert_eq!((pace.share(64), pace.share(2)), (21, 1));
        drop(others);
        assert_eq!(pace.share(64), 64);
        drop(one);
    }

    #[test]
    fn a_lane_finds_what_its_clients_get() {
        let pace = Pace::new(100_000_000).lane();
        let rate = || lock(pace.own.as_ref().unwrap()).rate;
        let gets = 9_500_000;
        for second in 1..60 {
            let now = Duration::from_secs(second);
            let loss = 1.0 - (gets as f32 / rate() as f32).min(1.0);
            pace.hear((loss, loss), now);
            pace.hear((loss, loss), now + Duration::from_millis(500));
            assert!(second < 2 || rate().abs_diff(gets) < gets / 12, "{second}: {}", rate());
        }
        // Nobody loses anything, everybody loses everything.
        (60..200).for_each(|second| pace.hear((0.0, 0.0), Duration::from_secs(second)));
        assert_eq!(rate(), 25_000_000);
        (200..300).for_each(|second| {
            let loss = 1.0 - (1000.0 / rate() as f32).min(1.0);
            pace.hear((loss, loss), Duration::from_secs(second));
        });
        assert_eq!(rate(), 100_000);
    }

    #[test]
    fn a_session_is_as_fast_as_what_all_of_its_clients_get() {
        let pace = Pace::new(100_000_000).session();
        let rate = || lock(pace.own.as_ref().unwrap()).rate;
        // Of what it repairs it is no slower.
        (1..20).for_each(|second| pace.hear((0.1, 0.1), Duration::from_secs(second)));
        assert_eq!(rate(), 100_000_000);
        let gets = 60_000_000;
        for second in 20..80 {
            let loss = 1.0 - (gets as f32 / rate() as f32).min(1.0);
            pace.hear((loss, loss), Duration::from_secs(second));
            assert!((gets..gets * 12 / 10).contains(&rate()), "{second}: {}", rate());
        }
        (80..100).for_each(|second| pace.hear((0.0, 0.0), Duration::from_secs(second)));
        assert_eq!(rate(), 100_000_000);
        // Those who get less than the slowest leave for a lane: nothing keeps them here.
        (100..130).for_each(|second| {
            let loss = 1.0 - 10_000_000.0 / rate() as f32;
            pace.hear((loss, loss), Duration::from_secs(second));
            assert_eq!(rate(), 100_000_000);
        });
        // What the air loses it loses at any rate.
        pace.hear((0.3, 0.3), Duration::from_secs(130));
        assert!(rate().abs_diff(70_000_000) < 10, "{}", rate());
        (131..180).for_each(|second| {
            pace.hear((0.3, 0.3), Duration::from_secs(second));
            assert_eq!(rate(), 100_000_000);
        });
    }
}
