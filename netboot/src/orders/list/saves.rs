//! Machines whose disks become an image, and what each order lets its machine do at the server.

use serde::{Deserialize, Serialize};

use super::{Decision, Doing, Known, List, Policy, State};
use crate::orders::machine::{Disk, Machine};

/// What somebody at a machine asks for: that it is saved.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// As an image of this name.
    pub name: String,
    /// Of its disks these.
    pub disks: Vec<Disk>,
}

impl Known {
    /// What somebody at it asks for, as long as nobody here has agreed.
    pub fn asks(&self) -> Option<&Request> {
        self.request.as_ref().filter(|_| !self.is_agreed())
    }

    /// Whether it is to be saved, or is being saved.
    pub(super) fn is_agreed(&self) -> bool {
        self.save.is_some() && matches!(self.state, State::Called | State::Works)
    }

    /// The machine with the disks of which some are saved.
    pub(super) fn offered(&self) -> Machine {
        let mut machine = self.machine.clone();
        if let Some(request) = &self.request {
            machine.disks.clone_from(&request.disks);
        }
        machine
    }
}

impl List {
    /// Lets the disks of a machine be saved under this name; `false` where it is not known, or at work.
    pub fn call_to_save(&mut self, id: &str, name: &str) -> bool {
        let is_called = self.call(id, None, None);
        if let Some(known) = self.machines.get_mut(id).filter(|_| is_called) {
            known.save = Some(name.to_owned());
        }
        is_called
    }

    /// Somebody at a machine asks that it is saved. It gets no other order meanwhile, and nothing else of it changes. Who hears that a
    /// request is no more, and has made it before, was told no.
    pub(super) fn requested(
        &mut self,
        id: &str,
        (nonce, is_new): (&str, bool),
        request: Request,
        policy: &dyn Policy,
    ) -> Decision {
        let Some(known) = self.machines.get_mut(id) else { return Decision::Known };
        if known.request.is_none() && !is_new && !known.is_agreed() {
            return Decision::Stop;
        }
        let words = format!("somebody at the server has to agree to save it as {}", request.name);
        self.changed |= known.request.as_ref() != Some(&request);
        known.request = Some(request);
        if !known.is_agreed() {
            return Decision::Wait(words);
        }
        let before = known.machine.clone();
        self.asked(id, nonce, is_new.then_some(&before), policy)
    }

    /// Who asked takes it back.
    pub(super) fn not_requested(&mut self, id: &str) {
        let Some(known) = self.machines.get_mut(id) else { return };
        if known.state == State::Called && known.is_agreed() {
            let words = "somebody at it asked to save it, and took that back";
            (known.state, known.save) = (State::Waits, None);
            known.held = Some(words.to_owned());
        }
        self.changed |= known.request.take().is_some();
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
            Doing::Works { .. } | Doing::Waits | Doing::Asks { .. } | Doing::AsksNoMore => return,
        };
        (known.state, known.save, known.held) = (State::Waits, None, Some(words));
        known.request = None;
        self.changed = true;
    }

    /// What the order at work is for whose grant this is, as far as `is` knows it: to save under a name, or to restore.
    pub fn granted(&self, is: impl Fn(&str) -> bool) -> Option<Option<&str>> {
        let mut at_work = self.machines.values().filter(|known| known.state == State::Works);
        let known = at_work.find(|known| known.grant.as_deref().is_some_and(&is))?;
        Some(known.save.as_deref())
    }
}
