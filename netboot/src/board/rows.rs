//! A machine as people see it: what it is, what it does, and what hinders it.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Serialize;

use crate::multicast::sender::Seen;
use crate::orders::list::{Known, Request, State};
use crate::orders::machine::Disk;
use crate::orders::talk::Doing;

/// Whoever speaks every two seconds, and said nothing for so long, is off or hangs.
const SILENT: Duration = Duration::from_secs(10);
/// In a session silence is noticed earlier.
const MUTE: Duration = Duration::from_secs(3);
/// More loss than this has a cause.
const LOSS: f32 = 0.02;
/// A machine that is not behind has memory for 60 blocks and more: they wait for its disk only.
const SPARE: f32 = 16.0;

/// A machine.
#[derive(Serialize, Clone, PartialEq, Default, Debug)]
pub struct Row {
    /// By which it is named in what is asked of us; none where nothing but its address is known.
    pub id: Option<String>,
    /// The letters on its screen, which no other machine has.
    pub tag: Option<String>,
    pub address: Option<Ipv4Addr>,
    pub mac: Option<String>,
    pub firmware: Option<String>,
    pub model: Option<String>,
    pub serial: Option<String>,
    /// In words.
    pub disks: Vec<String>,
    pub hostname: Option<String>,
    pub group: Option<String>,
    /// The image that it got, or gets.
    pub image: Option<String>,
    /// `waits`, `called`, `works`, `done`, `failed`; none where nobody orders anything.
    pub state: Option<&'static str>,
    /// What somebody at it asks that it is saved as, as long as nobody has agreed.
    pub asks: Option<String>,
    /// When it is restored, where that was said for later: as RFC 3339 writes it.
    pub later: Option<String>,
    /// The last thing that is known of it, in words.
    pub stage: String,
    /// Bytes of that.
    pub done: Option<u64>,
    /// Of so many.
    pub total: Option<u64>,
    /// How far it is with what it does, or else with the image that is sent.
    pub percent: Option<u8>,
    /// Bytes of a second of what it does, over the last seconds.
    pub bytes_per_second: Option<u64>,
    /// How long that still takes.
    pub seconds_left: Option<u64>,
    /// Bytes of it that are still to come.
    #[serde(skip)]
    pub left_bytes: Option<u64>,
    /// That it has of the image that is sent to it.
    pub blocks: Option<u32>,
    /// Of so many.
    pub all_blocks: Option<u32>,
    /// Which part of the packets it loses.
    pub loss: Option<f32>,
    /// Seconds since it spoke, where it should speak.
    pub silent: Option<f32>,
    /// What hinders it, in words.
    pub limit: Option<String>,
    /// Since it spoke to the site.
    #[serde(skip)]
    pub heard: Option<Duration>,
    /// What it noticed itself, which counts where no session knows of it.
    #[serde(skip)]
    pub note: Option<String>,
}

impl Row {
    /// Adds what a site knows of a machine, at the time `now`.
    pub fn know(&mut self, (id, tag): (&str, String), known: &Known, now: Duration) {
        let machine = &known.machine;
        (self.id, self.tag) = (Some(id.to_owned()), Some(tag));
        (self.model, self.serial) = (machine.model.clone(), machine.serial.clone());
        self.disks = machine.disks.iter().map(words).collect();
        self.hostname = known.name().cloned();
        self.group = known.group().map(|group| group.name().to_owned());
        self.mac = self.mac.take().or_else(|| machine.macs.first().cloned());
        self.image =
            known.told.as_ref().map(|(image, _)| short(image)).or_else(|| known.image.clone());
        let later = known.is_restored_at();
        self.later = later.cloned().map(String::from);
        let heard = known.now.as_ref();
        self.address = heard.map(|heard| heard.address).or(self.address);
        let (state, stage) = match &known.state {
            State::Waits if known.held.is_some() => ("waits", "is held".to_owned()),
            State::Waits if later.is_some() => ("waits", "waits for its time".to_owned()),
            State::Waits => ("waits", "waits for your word".to_owned()),
            State::Called if heard.is_none() => ("called", "is restored when it starts".to_owned()),
            State::Called => ("called", "begins when it asks".to_owned()),
            State::Works => ("works", "has its order".to_owned()),
            State::Done { image, .. } => ("done", format!("has {}", short(image))),
            State::Failed { .. } => ("failed", "failed".to_owned()),
        };
        (self.state, self.stage) = (Some(state), stage);
        let silent = heard.map(|heard| now.saturating_sub(heard.at));
        self.heard = silent;
        if let (State::Works, Some(heard)) = (&known.state, heard)
            && let Doing::Works { stage, done, total, note } = &heard.doing
        {
            self.stage.clone_from(stage);
            (self.done, self.total) = (Some(*done), *total);
            self.left_bytes = total.map(|total| total.saturating_sub(*done));
            self.bytes_per_second =
                heard.rate.per_second().filter(|_| silent.is_some_and(|silent| silent < SILENT));
            self.note.clone_from(note);
        }
        self.limit = match &known.state {
            State::Failed { why } => Some(why.clone()),
            State::Done { remains: Some(remains), .. } => Some(format!("by hand: {remains}")),
            State::Works | State::Called if silent.is_some_and(|silent| silent > SILENT) => {
                Some(mute(silent))
            }
            State::Works if heard.is_none() => {
                Some("was not heard of since this program started".to_owned())
            }
            _ => known.held.clone().or_else(|| known.missed()),
        };
        self.asks = known.asks().map(|asks| asks.name.clone());
        if let Some(Request { name, disks }) = known.asks() {
            let paths: Vec<&str> = disks.iter().map(|disk| disk.path.as_str()).collect();
            let asks = format!("asks to be saved as {name}: {}", paths.join(", "));
            self.limit =
                Some(self.limit.take().map_or(asks.clone(), |why| format!("{asks}; {why}")));
        }
    }

    /// Adds that it has left the session of this image, with so many of all blocks.
    pub fn left(&mut self, image: &str, has: u32, all: u32) {
        // It begins again, and has nothing yet; or it says itself what it does with the image.
        if matches!(self.state, Some("called" | "works")) {
            return;
        }
        // It may have been in several, one after the other.
        if self.image.as_deref().is_some_and(|mine| mine != image) {
            return;
        }
        if self.state.is_none() {
            let stage = if has == all { "has all of the image" } else { "has left" };
            stage.clone_into(&mut self.stage);
        }
        (self.blocks, self.all_blocks) = (Some(has), Some(all));
    }

    /// Adds what the session of so many blocks knows, which the machine is in: with what is still to come, and how fast it does.
    pub fn seen(&mut self, seen: &Seen, all: u32, (left, rate): (u64, Option<u64>)) {
        let is_mute = seen.silent > MUTE;
        // It spoke to the site since: what fell silent here was an attempt that ended.
        if is_mute && self.heard.is_some_and(|heard| heard < seen.silent) {
            return;
        }
        if self.state.is_none() {
            "gets the image".clone_into(&mut self.stage);
        }
        (self.blocks, self.all_blocks) = (Some(seen.blocks), Some(all));
        self.loss = Some(seen.loss);
        self.silent = Some(seen.silent.as_secs_f32());
        if self.done.is_none() {
            (self.left_bytes, self.bytes_per_second) = (Some(left), rate.filter(|_| !is_mute));
        }
        if is_mute {
            self.limit = Some(mute(Some(seen.silent)));
            return;
        }
        // It speaks here, whatever the site missed.
        let is_missed = self.heard.is_none_or(|heard| heard > SILENT);
        self.limit = self.limit.take().filter(|_| !(is_missed && self.state == Some("works")));
        if seen.blocks < all {
            self.limit = self.limit.take().or_else(|| hinders(seen));
        }
    }

    /// Computes how far it is, and what remains.
    pub fn sum_up(&mut self) {
        let left = self.left_bytes.zip(self.bytes_per_second.filter(|rate| *rate > 0));
        self.seconds_left = left.map(|(left, rate)| left.div_ceil(rate));
        if self.silent.is_none() {
            self.limit = self.limit.take().or(self.note.take());
        }
        let part = |done: u64, total: u64| {
            let percent = u128::from(done) * 100 / u128::from(total.max(1));
            u8::try_from(percent.min(100)).ok()
        };
        self.percent = match (self.done, self.total, self.blocks, self.all_blocks) {
            (Some(done), Some(total @ 1..), ..) => part(done, total),
            (.., Some(has), Some(all @ 1..)) if self.state != Some("done") => {
                part(has.into(), all.into())
            }
            _ => None,
        };
    }
}

/// What hinders a machine in a session that speaks.
fn hinders(seen: &Seen) -> Option<String> {
    // A lane is as fast as half of its machines can bear: some loss is how it finds that.
    if seen.is_slow {
        return Some(
            "its way carries less than a quarter of what is sent: it gets the image by the multicast for slow ports".to_owned(),
        );
    }
    if seen.loss > LOSS {
        let percent = seen.loss * 100.0;
        return Some(format!(
            "loses {percent:.1} % of what is sent: its cable, its switch port, or it is too slow"
        ));
    }
    seen.spare.is_some_and(|spare| spare < SPARE).then(|| {
        "its disk, or its processor, is behind: it gets what it leaves out when that is sent again".to_owned()
    })
}

fn mute(silent: Option<Duration>) -> String {
    let seconds = silent.unwrap_or_default().as_secs();
    format!("silent for {seconds} s: is it switched on, is its cable in?")
}

/// `lab@` and the first digits of its id.
fn short(image: &str) -> String {
    image.split_once('@').map_or_else(
        || image.to_owned(),
        |(name, id)| format!("{name}@{}", id.get(..12).unwrap_or(id)),
    )
}

/// `/dev/sda: 100 GB, Fast SSD, S1234`.
fn words(disk: &Disk) -> String {
    let (size, unit) = match disk.size {
        size @ ..1_000_000_000 => (size as f64 / 1e6, "MB"),
        size => (size as f64 / 1e9, "GB"),
    };
    let mut words = format!("{}: {size:.0} {unit}", disk.path);
    for more in [&disk.model, &disk.serial].into_iter().flatten() {
        words += &format!(", {more}");
    }
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Row, Seen};

    #[test]
    fn how_far_it_is_is_computed_once() {
        let percent = |done, total, has, all| {
            let mut row = Row { done, total, blocks: has, all_blocks: all, ..Row::default() };
            row.sum_up();
            row.percent
        };
        assert_eq!(percent(Some(999), Some(1000), Some(5), Some(10)), Some(99));
        assert_eq!(percent(Some(u64::MAX), Some(u64::MAX), None, None), Some(100));
        assert_eq!(percent(Some(7), Some(5), None, None), Some(100));
        // What it does has no end that is known.
        assert_eq!(percent(Some(7), None, Some(5), Some(10)), Some(50));
        assert_eq!(percent(Some(7), Some(0), Some(5), Some(10)), Some(50));
        assert_eq!(percent(None, None, Some(5), None), None);
        assert_eq!(percent(None, None, None, Some(5)), None);
        let mut done =
            Row { state: Some("done"), blocks: Some(5), all_blocks: Some(10), ..Row::default() };
        done.sum_up();
        assert_eq!(done.percent, None);
    }

    #[test]
    fn an_attempt_that_fell_silent_hides_nothing() {
        let [now, long] = [Duration::ZERO, Duration::from_secs(20)];
        let row = |state: Option<&'static str>, heard: Option<Duration>, silent: Duration| {
            let mut row = Row { state, heard, limit: Some("by hand".to_owned()), ..Row::default() };
            let (slot, address, blocks, loss, spare) = (0, None, 0, 0.0, None);
            row.seen(
                &Seen { slot, address, blocks, loss, silent, spare, is_slow: false },
                9,
                (1, None),
            );
            row.sum_up();
            (row.silent, row.limit)
        };
        let by_hand = Some("by hand".to_owned());
        for state in ["done", "failed", "waits", "called", "works"] {
            assert_eq!(row(Some(state), Some(now), long), (None, by_hand.clone()), "{state}");
            // The session heard of it last, as where somebody restores it by hand.
            let (silent, limit) = row(Some(state), Some(long * 2), long);
            assert!(silent == Some(20.0) && limit.unwrap().contains("silent"), "{state}");
        }
        assert_eq!(row(None, None, long).0, Some(20.0));
        // What a site missed does not count of one that works and speaks here; what holds others back does.
        assert_eq!(row(Some("works"), Some(long), now).1, None);
        assert_eq!(row(Some("works"), Some(now), now).1, by_hand);
        assert_eq!(row(Some("done"), Some(long), now).1, by_hand);
        for (state, blocks) in [(Some("called"), None), (Some("works"), None), (None, Some(9))] {
            let mut begins = Row { state, ..Row::default() };
            begins.left("lab", 9, 9);
            assert_eq!(begins.blocks, blocks, "{state:?}");
        }
    }

    #[test]
    fn what_remains_is_told_where_it_goes_on() {
        let left = |left_bytes, bytes_per_second| {
            let mut row = Row { left_bytes, bytes_per_second, ..Row::default() };
            row.sum_up();
            row.seconds_left
        };
        assert_eq!(left(Some(1001), Some(100)), Some(11));
        assert_eq!(left(Some(0), Some(100)), Some(0));
        assert_eq!(left(Some(1000), Some(0)), None);
        assert_eq!(left(None, Some(100)), None);
        assert_eq!(left(Some(1000), None), None);
    }
}
