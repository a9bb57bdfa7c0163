//! Plans: what a verb is going to do, as values that are shown, confirmed, executed and tested.
//!
//! Pure: nothing here reads or writes a disk. Refuses what would not fit or not be safe.
//!
//! - [`restore`]: the plan of a restore; `planner` works it out, `partitions` its tables, `group` its volume
//!   groups, and `whole` checks the result.
//! - `saved`: volume groups as they were. - `less`: targets that are smaller or fewer.
//! - [`growth`]: who gets new space. - [`fit`]: where partitions lie on a disk of another size.
//! - [`identity`]: new identifiers. - [`refuse`]: what would be unusable.
//! - [`extents`]: which bytes a plan touches. - [`old`]: what was on a target before. - [`keep`]: what of it
//!   stays, `host` keeps logical volumes; `around` lays the image out around that, and `proof` proves that nothing touches it.

mod around;
pub mod extents;
pub mod fit;
mod group;
pub mod growth;
mod host;
pub mod identity;
pub mod keep;
mod less;
pub mod old;
mod partitions;
mod planner;
mod proof;
pub mod refuse;
pub mod restore;
mod saved;
mod whole;

#[cfg(test)]
mod host_tests;
#[cfg(test)]
mod keep_tests;
#[cfg(test)]
mod less_tests;
#[cfg(test)]
mod tests;
