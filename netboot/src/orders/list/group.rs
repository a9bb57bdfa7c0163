//! Groups: machines that belong together, such as those of a room.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Expected, Known, List, Policy, State, Wish};

/// A name is no longer, in bytes.
const LONGEST: usize = 64;

/// The name of a group; it stands in addresses and in labels of figures.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(try_from = "String")]
pub struct Group(String);

impl Group {
    /// It.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl FromStr for Group {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let begins = text.starts_with(|letter: char| letter.is_ascii_alphanumeric());
        if !begins || text.len() > LONGEST || !text.bytes().all(fits) {
            return Err(format!(
                "{text:?} is no name of a group, as room-1 is one: the letters a to z and A to Z, digits, and behind the first of \
                 them - _ . too; no spaces; {LONGEST} at most"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Group {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Known {
    /// The group that it is in: the one that somebody has put it into, or else the one that is written down.
    pub fn group(&self) -> Option<&Group> {
        self.put.as_ref().or(self.listed.as_ref())
    }

    /// Whether a word for all of a group is one for it. One that is held or asks to be saved waits for a word of its own, and one
    /// that is to be saved has got it.
    fn is_ready(&self) -> bool {
        let is_other = self.held.is_some() || self.save.is_some() || self.asks().is_some();
        self.state != State::Works && !is_other
    }
}

impl List {
    /// Looks up which groups and names are written down. A name there is newer than the one that a machine had before.
    pub fn look_up(&mut self, policy: &dyn Policy) {
        let expected = |known: &Known| policy.expected(&known.machine).unwrap_or_default();
        let all: Vec<(String, Expected)> =
            self.machines.iter().map(|(id, known)| (id.clone(), expected(known))).collect();
        for (id, Expected { hostname, group, .. }) in all {
            let is_free = |name: &String| self.named(name, &id).is_none();
            let hostname = hostname.filter(is_free);
            let Some(known) = self.machines.get_mut(&id) else { continue };
            known.listed = group;
            let has_word = matches!(known.state, State::Called | State::Works);
            if hostname.is_some() && hostname != known.hostname && !has_word {
                known.hostname = hostname;
                self.changed = true;
            }
        }
    }

    /// The ids of the machines in a group.
    pub fn of(&self, group: &Group) -> Vec<String> {
        let is_in = |(_, known): &(&String, &Known)| known.group() == Some(group);
        self.machines.iter().filter(is_in).map(|(id, _)| id.clone()).collect()
    }

    /// All groups that machines are in.
    pub fn groups(&self) -> BTreeSet<&Group> {
        self.machines.values().filter_map(Known::group).collect()
    }

    /// Puts machines into a group, or into none: then the one counts that is written down. How many are known.
    pub fn put(&mut self, ids: &[String], group: Option<&Group>) -> usize {
        let mut count = 0;
        for id in ids {
            let Some(known) = self.machines.get_mut(id) else { continue };
            count += 1;
            let is_other = known.put.as_ref() != group;
            known.is_decided |= is_other;
            self.changed |= is_other;
            known.put = group.cloned();
        }
        count
    }

    /// Lets all of a group be restored that are neither at work nor held, once more where they were already; how many these are.
    pub fn call_group(&mut self, group: &Group, wish: &Wish) -> usize {
        let mut ids = self.of(group);
        ids.retain(|id| self.machines.get(id).is_some_and(Known::is_ready));
        ids.iter().filter(|id| self.let_in(id, wish)).count()
    }

    /// Takes back what was said of those of a group that are called, now or for later, or at work; how many these are.
    pub fn stop_group(&mut self, group: &Group) -> usize {
        let mut ids = self.of(group);
        let is_meant = |known: &Known| {
            matches!(known.state, State::Called | State::Works) || known.is_restored_at().is_some()
        };
        ids.retain(|id| self.machines.get(id).is_some_and(is_meant));
        ids.iter().filter(|id| self.stop(id)).count()
    }
}
