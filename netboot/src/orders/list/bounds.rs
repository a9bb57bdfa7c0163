//! How many machines are known, how much of them is kept in memory, and what of that is written down.
//!
//! Who asks shows no secret, and can say that it is any number of machines. What nobody decided anything of is not written down:
//! it says all of it again when it is there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serializer;

use super::{Doing, Known, List, Said};
use crate::orders::machine::Disk;

/// So many machines are known; more would be somebody's joke.
pub(super) const MOST: usize = 1 << 12;
/// They take so many bytes at most; while a change of them is written, or shown, some times as much is taken for a moment.
pub(super) const MEMORY: usize = 24 << 20;
/// One takes so much beside what it says of itself: words of what it does and of what came of it.
const KNOWN: usize = 4 << 10;
/// Of whom nothing was decided may be forgotten after that long.
const FORGOTTEN: Duration = Duration::from_secs(600);

fn size(disks: &[Disk]) -> usize {
    disks.iter().map(Disk::size).sum()
}

impl Known {
    fn size(&self) -> usize {
        let told = self.told.as_ref().map_or(0, |(_, disks)| size(disks));
        KNOWN + self.machine.size() + told + self.asked_for()
    }

    /// What somebody at it asked for.
    fn asked_for(&self) -> usize {
        self.request.as_ref().map_or(0, |request| size(&request.disks))
    }
}

impl List {
    /// Whether what a machine says can be kept. Others are forgotten for that, of which nothing was decided and which are silent.
    pub(super) fn has_room(&mut self, id: &str, said: &Said, now: Duration) -> bool {
        let known = self.machines.get(id);
        let has = known.map(|known| match said.doing {
            Doing::Asks { .. } => known.asked_for(),
            _ => known.machine.size(),
        });
        let (is_new, more) = match has {
            Some(has) => (false, said.machine.size().saturating_sub(has)),
            None => (true, said.machine.size() + KNOWN),
        };
        if more == 0 || self.takes(is_new, more) {
            return true;
        }
        let silent = |known: &Known| {
            known.now.as_ref().is_none_or(|heard| now.saturating_sub(heard.at) > FORGOTTEN)
        };
        self.machines.retain(|other, known| other == id || known.is_decided || !silent(known));
        self.takes(is_new, more)
    }

    fn takes(&self, one: bool, more: usize) -> bool {
        let has: usize = self.machines.values().map(Known::size).sum();
        self.machines.len() + usize::from(one) <= MOST && has + more <= MEMORY
    }
}

/// Of what was read from a file something was decided.
pub(super) fn yes() -> bool {
    true
}

/// Writes those of which something was decided.
pub(super) fn decided<S: Serializer>(
    machines: &BTreeMap<String, Known>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(machines.iter().filter(|(_, known)| known.is_decided))
}
