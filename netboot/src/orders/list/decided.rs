//! What a person decides of machines.

use super::{Doing, Known, List, Now, State, Wish};

impl Known {
    /// Whether it carries out an order.
    pub(super) fn is_at_work(&self) -> bool {
        let says = matches!(self.now, Some(Now { doing: Doing::Works { .. }, .. }));
        self.state == State::Works && says
    }
}

impl List {
    /// Lets a machine be restored, once more where it was already; `false` where it is not known, or at work.
    pub fn call(&mut self, id: &str, hostname: Option<String>, image: Option<String>) -> bool {
        let known = self.machines.get_mut(id).filter(|known| !known.is_at_work());
        let Some(known) = known else { return false };
        if known.state != State::Called {
            known.number += 1;
        }
        (known.state, known.is_decided) = (State::Called, true);
        known.hostname = hostname.or(known.hostname.take());
        known.image = image.or(known.image.take());
        (known.save, known.held, known.later) = (None, None, None);
        self.changed = true;
        true
    }

    /// Lets those of `ids` be restored that wait for a person's word, or all that do where none are given; how many these are.
    pub fn call_all(&mut self, ids: Option<&[String]>, wish: &Wish) -> usize {
        let waits = |(id, known): &(&String, &Known)| {
            let is_meant = ids.is_none_or(|ids| ids.contains(id)) && known.now.is_some();
            let has_word =
                known.held.is_some() || known.is_restored_at().is_some() || known.asks().is_some();
            is_meant && known.state == State::Waits && !has_word
        };
        let ids: Vec<String> =
            self.machines.iter().filter(waits).map(|(id, _)| id.clone()).collect();
        ids.iter().filter(|id| self.let_in(id, wish)).count()
    }

    /// Takes back what was said of a machine: it waits; one that works is told to stop. Says no to who asks there that it is saved;
    /// then nothing else changes. `false` where there is none, and of one that was restored, and for which nothing was said for later.
    pub fn stop(&mut self, id: &str) -> bool {
        let Some(known) = self.machines.get_mut(id) else { return false };
        let is_no = known.asks().is_some();
        known.request = None;
        known.is_decided |= !is_no;
        if !is_no && !known.take_back() {
            if matches!(known.state, State::Done { .. }) {
                return false;
            }
            (known.state, known.save, known.later) = (State::Waits, None, None);
            known.held = Some("somebody stopped it".to_owned());
        }
        self.changed = true;
        if !is_no {
            self.waking.remove(id);
        }
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
