//! How fast is sent: what the cable carries, shared by all sessions on it, and what the lane of those carries that have less.

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
/// How often the rate of a lane may change: until then whoever is in it has said what comes of the last change.
const PERIOD: Duration = Duration::from_secs(1);
/// A lane is too fast where its usual loss is larger, and may be too slow where it is smaller.
const MUCH: f32 = 0.05;
const LITTLE: f32 = 0.01;

/// What the cable carries: all sessions on it together send no faster, each in its turn, and keep no more blocks.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: u64,
    /// When the next packet may go.
    free: Arc<Mutex<Instant>>,
    /// How many sessions have something to send.
    busy: Arc<AtomicUsize>,
    lane: Option<Arc<Mutex<Lane>>>,
}

/// A session that is slower than the cable.
#[derive(Debug)]
struct Lane {
    /// Bytes of a second on the wire.
    rate: u64,
    free: Instant,
    /// When the rate was looked at.
    looked: Duration,
}

impl Pace {
    /// So many bytes of a second on the wire.
    pub fn new(rate: u64) -> Self {
        let free = Arc::new(Mutex::new(Instant::now()));
        Self { rate: rate.max(1), free, busy: Arc::default(), lane: None }
    }

    /// That of another cable; the sessions on both share the memory for blocks.
    pub fn beside(&self, rate: u64) -> Self {
        Self { busy: Arc::clone(&self.busy), ..Self::new(rate) }
    }

    /// That of a lane on the same cable.
    pub fn lane(&self) -> Self {
        let lane = Lane { rate: self.fastest(), free: Instant::now(), looked: Duration::ZERO };
        Self { lane: Some(Arc::new(Mutex::new(lane))), ..self.clone() }
    }

    fn fastest(&self) -> u64 {
        (self.rate / LANE).max(1)
    }

    /// Learns what half of the clients lose at least: what comes to them is what their way carries.
    pub(super) fn hear(&self, loss: f32, now: Duration) {
        let Some(lane) = &self.lane else { return };
        let mut lane = lock(lane);
        if now.saturating_sub(lane.looked) < PERIOD {
            return;
        }
        lane.looked = now;
        let part = match loss {
            much if much > MUCH => 1.0 - f64::from(much.min(0.9)),
            little if little < LITTLE => 1.05,
            _ => 1.0,
        };
        let slowest = (self.rate / SLOWEST).max(1);
        lane.rate = ((lane.rate as f64 * part) as u64).clamp(slowest, self.fastest());
    }

    /// What one of the sessions gets, which share so many.
    pub(super) fn share(&self, all: usize) -> usize {
        (all / self.busy.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Waits until so many packets may go.
    pub(super) fn wait(&self, packets: usize) {
        let bytes = u64::from(WIRE) * packets as u64;
        if let Some(lane) = &self.lane {
            let turn = {
                let mut lane = lock(lane);
                let rate = lane.rate;
                turn(&mut lane.free, bytes, rate)
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
        let rate = || lock(pace.lane.as_ref().unwrap()).rate;
        let gets = 9_500_000;
        for second in 1..60 {
            let now = Duration::from_secs(second);
            let loss = 1.0 - (gets as f32 / rate() as f32).min(1.0);
            pace.hear(loss, now);
            pace.hear(loss, now + Duration::from_millis(500));
            assert!(second < 2 || rate().abs_diff(gets) < gets / 12, "{second}: {}", rate());
        }
        // Nobody loses anything, everybody loses everything.
        (60..200).for_each(|second| pace.hear(0.0, Duration::from_secs(second)));
        assert_eq!(rate(), 25_000_000);
        (200..300).for_each(|second| pace.hear(1.0, Duration::from_secs(second)));
        assert_eq!(rate(), 100_000);
    }
}
