//! Words for later: a machine is restored at a time that somebody chose, or waits for another word.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ASKED, Known, List, State};
use crate::orders::moment::Moment;

/// So many hours late it may still begin: who is at work by then did not expect it any more.
const LATE: i64 = 2;

/// How a machine is to be restored, and when.
#[derive(Deserialize, Clone, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// The name that it gets.
    pub hostname: Option<String>,
    /// The image, where it is not the one that is sent, or that was chosen before.
    pub image: Option<String>,
    /// When, where it is not now.
    pub at: Option<Moment>,
}

/// What was said for later.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Later {
    at: Moment,
    hostname: Option<String>,
    image: Option<String>,
    stage: Stage,
    /// Whether it was woken for it since this program runs.
    #[serde(skip)]
    is_woken: bool,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Its time has not come.
    Ahead,
    /// Its time has come, and it gets its order when it asks.
    Begun,
    /// It did not ask in time, or this program did not run then.
    Missed,
    /// Somebody took it back. Nobody who restores machines unasked restores it.
    TakenBack,
}

impl Later {
    fn is_late(&self, clock: i64) -> bool {
        clock.saturating_sub(self.at.seconds) > LATE * 3600
    }
}

impl Known {
    fn stage(&self) -> Option<Stage> {
        self.later.as_ref().map(|later| later.stage)
    }

    /// The name that it has, or gets when its time comes.
    pub fn name(&self) -> Option<&String> {
        let later = self.later.as_ref().filter(|later| later.stage == Stage::Ahead);
        later.and_then(|later| later.hostname.as_ref()).or(self.hostname.as_ref())
    }

    /// When it is restored, where its time has not come.
    pub fn is_restored_at(&self) -> Option<&Moment> {
        self.later.as_ref().filter(|later| later.stage == Stage::Ahead).map(|later| &later.at)
    }

    /// Its time was missed: in words.
    pub fn missed(&self) -> Option<String> {
        let later = self.later.as_ref().filter(|later| later.stage == Stage::Missed)?;
        let at = &later.at;
        Some(format!(
            "it was to be restored at {at}, and did not begin within {LATE} hours; somebody has to say so again"
        ))
    }

    /// Why nothing begins, whoever is restored unasked.
    pub(super) fn not_now(&self) -> Option<String> {
        match self.stage()? {
            Stage::Ahead => self.is_restored_at().map(|at| format!("it is restored at {at}")),
            Stage::Missed => self.missed(),
            Stage::TakenBack => Some(ASKED.to_owned()),
            Stage::Begun => None,
        }
    }

    /// Whether something is to be done for it by this clock.
    fn is_due(&self, clock: i64) -> bool {
        let Some(later) = self.later.as_ref().filter(|later| later.at.seconds <= clock) else {
            return false;
        };
        let waits = self.state == State::Called && (!later.is_woken || later.is_late(clock));
        later.stage == Stage::Ahead || later.stage == Stage::Begun && waits
    }

    /// Takes back what was said for later and has not begun; `false` where there is nothing.
    pub(super) fn take_back(&mut self) -> bool {
        let is_done = matches!(self.state, State::Done { .. });
        match self.later.as_mut().filter(|later| later.stage == Stage::Ahead) {
            Some(_) if is_done => self.later = None,
            Some(later) => later.stage = Stage::TakenBack,
            None => return false,
        }
        true
    }
}

impl List {
    /// Lets a machine be restored as it is wished; `false` where it is not known, or at work.
    pub fn let_in(&mut self, id: &str, wish: &Wish) -> bool {
        let Wish { hostname, image, at } = wish.clone();
        let Some(at) = at else { return self.call(id, hostname, image) };
        let known = self.machines.get_mut(id).filter(|known| !known.is_at_work());
        let Some(known) = known else { return false };
        if !matches!(known.state, State::Done { .. }) {
            known.state = State::Waits;
        }
        (known.held, known.is_decided) = (None, true);
        let stage = Stage::Ahead;
        known.later = Some(Later { at, hostname, image, stage, is_woken: false });
        self.waking.remove(id);
        self.changed = true;
        true
    }

    /// Whether something is to be begun by this clock, in seconds since 1970.
    pub fn is_due(&self, clock: i64) -> bool {
        self.machines.values().any(|known| known.is_due(clock))
    }

    /// Begins what is due by this clock, and has machines switched on for it that are off at the time `now`.
    pub fn begin(&mut self, clock: i64, now: Duration) {
        let due = self.machines.iter().filter(|(_, known)| known.is_due(clock));
        let due: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        let begun: Vec<String> = due.into_iter().filter(|id| self.begin_one(id, clock)).collect();
        self.wake(&begun, now);
    }

    /// Begins with one that is due; `false` where it does not begin.
    fn begin_one(&mut self, id: &str, clock: i64) -> bool {
        let Some(known) = self.machines.get_mut(id) else { return false };
        let Some(mut later) = known.later.take() else { return false };
        self.changed = true;
        let is_late = later.is_late(clock);
        if is_late {
            later.stage = Stage::Missed;
            if known.state == State::Called {
                known.state = State::Waits;
            }
        } else if later.stage == Stage::Ahead {
            // A doubt that came meanwhile is for a person.
            let is_held = known.held.is_some();
            if is_held || !self.call(id, later.hostname.take(), later.image.take()) {
                return false;
            }
            later.stage = Stage::Begun;
        }
        later.is_woken = !is_late;
        if let Some(known) = self.machines.get_mut(id) {
            known.later = Some(later);
        }
        !is_late
    }
}
