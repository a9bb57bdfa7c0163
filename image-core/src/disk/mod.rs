//! Disks: which there are and who holds them, their partition tables, the signatures of what is on them.
//!
//! Answers: the disks of this machine and what is stacked on them; which partitions a disk has, the same
//! table planned for another size or sector size and the bytes to write for it; where signatures stand or
//! could stand. Refuses to guess: a table that contradicts itself is an error, and every partition keeps
//! its number and its identifiers. Refuses sources that somebody may write to, targets that anybody uses,
//! repositories in odd places.
//!
//! - [`inventory`]: disks and partitions as a person knows them. - [`holders`]: who holds a device or
//!   file, and who holds that one. - [`claim`]: the rules for sources and targets. - [`location`]: the
//!   rules for a new repository.
//! - [`table`]: what a table is, for every kind; reads, moves, makes the bytes to write.
//! - `adopt`: how a new table lists partitions that stay.
//! - `gpt`, `hybrid` (the MBR that a GPT hides behind), `mbr`, `ebr` (the chain of logical partitions),
//!   `sparse` (the memory that tables are written into): one file an on-disk structure.
//! - [`probe`]: signatures, as `blkid` and `wipefs` name them; `known` is the table of them, `confirm`
//!   tells apart what the magic bytes alone do not, and finds labels and UUIDs.

mod adopt;
pub mod claim;
mod confirm;
mod ebr;
#[cfg(test)]
pub(crate) mod fixtures;
mod gpt;
pub mod holders;
mod hybrid;
pub mod inventory;
mod known;
pub mod location;
mod mbr;
pub mod probe;
mod sparse;
pub mod table;
