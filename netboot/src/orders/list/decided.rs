//! What a person decides of machines.

use super::{Doing, Known, List, Now, State};

impl List {
    /// Lets a machine be restored, once more where it was already; `false` where it is not known, or at work.
    pub fn call(&mut self, id: &str, hostname: Option<String>, image: Option<String>) -> bool {
        let Some(known) = self.machines.get_mut(id) else { return false };
        let is_at_work = matches!(known.now, Some(Now { doing: Doing::Works { .. }, .. }));
        if known.state == State::Works && is_at_work {
            return false;
        }
        if known.state != State::Called {
            known.number += 1;
        }
        known.state = State::Called;
        known.hostname = hostname.or(known.hostname.take());
        known.image = image.or(known.image.take());
        known.held = None;
        self.changed = true;
        true
    }

    /// Lets those of `ids` be restored that wait for a person's word, or all that do where none are given; how many these are.
    pub fn call_all(&mut self, ids: Option<&[String]>, image: Option<&str>) -> usize {
        let waits = |(id, known): &(&String, &Known)| {
            let is_meant = ids.is_none_or(|ids| ids.contains(id));
            is_meant && known.state == State::Waits && known.held.is_none() && known.now.is_some()
        };
        let ids: Vec<String> =
            self.machines.iter().filter(waits).map(|(id, _)| id.clone()).collect();
        ids.iter().filter(|id| self.call(id, None, image.map(str::to_owned))).count()
    }

    /// Takes back what was said of a machine: it waits; one that works is told to stop. `false` where there is none, and of
    /// one that was restored.
    pub fn stop(&mut self, id: &str) -> bool {
        let known = self.machines.get_mut(id);
        let Some(known) = known.filter(|known| !matches!(known.state, State::Done { .. })) else {
            return false;
        };
        known.state = State::Waits;
        known.held = Some("somebody stopped it".to_owned());
        self.waking.remove(id);
        self.changed = true;
        true
    }

    /// Forgets a machine; `false` where there is none, and of one that works.
    pub fn forget(&mut self, id: &str) -> bool {
        if self.machines.get(id).is_none_or(|known| known.state == State::Works) {
            return false;
        }
        self.changed = true;
        self.machines.remove(id).is_some()
    }
}
