//! When is sent: what the cable carries is shared by all sessions on it, each of which has its own [`Rate`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::rate::Rate;
use super::server::WIRE;

/// What was not sent in time is sent later, as long as it is no more than this behind.
const BEHIND: Duration = Duration::from_millis(10);

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

/// What one session sends.
#[derive(Debug)]
struct Own {
    rate: Rate,
    /// When its next packet may go.
    free: Instant,
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
        self.own(Rate::session(self.rate))
    }

    /// That of a lane on the same cable.
    pub fn lane(&self) -> Self {
        self.own(Rate::lane(self.rate))
    }

    fn own(&self, rate: Rate) -> Self {
        let own = Own { rate, free: Instant::now() };
        Self { own: Some(Arc::new(Mutex::new(own))), ..self.clone() }
    }

    /// How many bytes of a second may go on the wire now.
    pub fn rate(&self) -> u64 {
        self.own.as_ref().map_or(self.rate, |own| lock(own).rate.get())
    }

    /// See [`Rate::hear`].
    pub(super) fn hear(&self, losses: (f32, f32), now: Duration) {
        if let Some(own) = &self.own {
            lock(own).rate.hear(losses, now);
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
                let rate = own.rate.get();
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

    use super::{Busy, Pace, WIRE};

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
}
