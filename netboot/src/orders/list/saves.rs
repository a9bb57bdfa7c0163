//! Machines whose disks become an image, and what each order lets its machine do at the server.

use super::{Doing, List, State};

impl List {
    /// Lets the disks of a machine be saved under this name; `false` where it is not known, or at work.
    pub fn call_to_save(&mut self, id: &str, name: &str) -> bool {
        let is_called = self.call(id, None, None);
        if let Some(known) = self.machines.get_mut(id).filter(|_| is_called) {
            known.save = Some(name.to_owned());
        }
        is_called
    }

    /// What a machine says that is at work to be saved. When that has ended it waits, for a word that means it alone: nobody is to
    /// restore over what somebody has just made.
    pub(super) fn saved(&mut self, id: &str, doing: Doing) {
        let Some(known) = self.machines.get_mut(id) else { return };
        let name = known.save.clone().unwrap_or_default();
        let words = match doing {
            Doing::Done { remains: None } => format!("it was saved as {name}"),
            Doing::Done { remains: Some(remains) } => format!("it was saved as {name}; {remains}"),
            Doing::Failed { why } => format!("it was not saved: {why}"),
            Doing::Works { .. } | Doing::Waits => return,
        };
        (known.state, known.save, known.held) = (State::Waits, None, Some(words));
        self.changed = true;
    }

    /// What the order at work is for whose grant this is, as far as `is` knows it: to save under a name, or to restore.
    pub fn granted(&self, is: impl Fn(&str) -> bool) -> Option<Option<&str>> {
        let mut at_work = self.machines.values().filter(|known| known.state == State::Works);
        let known = at_work.find(|known| known.grant.as_deref().is_some_and(&is))?;
        Some(known.save.as_deref())
    }
}
