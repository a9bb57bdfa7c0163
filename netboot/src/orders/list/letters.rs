//! By which letters people know machines.
//!
//! Of 300 machines two have the same four as likely as not. Whoever means one of them has to see which: both then have more, on the page
//! and on their screens.

use std::ops::Bound::{Excluded, Unbounded};

use super::List;
use crate::orders::machine::{letters, tag};

impl List {
    /// The letters of a machine: four, or as many more, two at a time, as tell it from all others that are known.
    pub fn tag(&self, id: &str) -> String {
        // Ids are sorted, so whoever shares most of one is beside it.
        let before = self.machines.range::<str, _>((Unbounded, Excluded(id))).next_back();
        let behind = self.machines.range::<str, _>((Excluded(id), Unbounded)).next();
        let shared = |(other, _)| {
            let other: &String = other;
            id.bytes().zip(other.bytes()).take_while(|(own, other)| own == other).count()
        };
        let most = [before, behind].into_iter().flatten().map(shared).max().unwrap_or(0);
        letters(id, (most / 2 * 2 + 2).max(4))
    }

    /// What a machine is told, after its letters where these are not the four that it shows by itself.
    pub(super) fn with_letters(&self, id: &str, why: String) -> String {
        let (four, all) = (tag(id), self.tag(id));
        if all == four {
            return why;
        }
        format!("its letters are {all}, for another machine is {four} too; {why}")
    }
}
