//! The contract of the command line: exit codes, messages, JSON, refusals, damage and faults.
//!
//! `world` a repository, a small disk and the program · `schemas` what `--json` prints · `usage` what is
//! typed wrong · `damage` flipped bits · `refusals` what is not overwritten or read · `terminal` the typed
//! confirmation · `menu` the menu on a terminal · `prune` what is freed · `copy` images in another repository · `faults` full disks, killed and interrupted programs, bad sources

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

mod copy;
mod damage;
mod faults;
mod menu;
mod prune;
mod refusals;
mod schemas;
mod terminal;
mod usage;
mod world;
