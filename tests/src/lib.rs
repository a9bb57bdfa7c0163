//! The harness of the whole-program tests: disks to save, tools that judge, virtual machines.
//!
//! Answers: a realistic disk in files, what a tool of another house says of it, whether it boots.
//! Refuses: to skip. A tool that is missing is an error that says how to get it.
//!
//! - [`tool`]: starts programs. [`binary`]: the `keiki` under test. [`fixtures`]: what is made once.
//! - [`sparse`], [`table`], [`loops`], [`vg`]: files, partitions, loop devices, volume groups without
//!   device-mapper. [`filesystem`]: makes the filesystems.
//! - [`volumes`]: every filesystem of some disks. [`tree`]: what one of them holds.
//! - [`sample_disk`]: a disk in seconds. [`debian`]: a Debian that boots. [`vm`]: boots it. [`live`]: our recovery disc,
//!   booted. [`moved`]: a small system from another machine.
//! - [`format_sample`]: an image that is kept with the sources.
//! - [`bench`]: saves and restores by the program. [`proof`]: what a restore has to show. [`contents`]:
//!   a filesystem of each kind.
//! - [`pulled`]: filesystems after a pulled plug. [`recorder`]: a disk to be cut off at any moment. [`kill`]:
//!   restores that are killed.
//! - [`schema`]: what `--json` prints.
//! - [`scenes`]: every verb on a small stage, and what must be true afterwards. [`faults`]: a folder whose calls fail.
//!   [`outage`]: what a pulled plug leaves of one. [`web`]: a web server, and a wire to it that breaks.
//! - [`truth`]: the garbage-target truth test of maps.
//! - [`garbage`]: targets full of garbage and old signatures. [`judge`]: the tools of truth.
//! - [`second_save`]: what changes between two saves, and what storing that takes others. [`measure`]: what programs
//!   take for the same work.
//! - [`network`], [`serving`], [`room`]: machines at a cable, what serves them, and many that are restored at once. [`storm`]: too many
//!   of them, and nonsense. [`browser`]: who watches.
//! - [`hostile`]: entries to every parser for arbitrary bytes, for fuzzing.
//! - [`sources`]: our own sources, for the tests of the house rules.

pub mod bench;
pub mod binary;
pub mod browser;
pub mod contents;
pub mod debian;
pub mod faults;
pub mod filesystem;
pub mod fixtures;
pub mod format_sample;
pub mod garbage;
pub mod grub;
pub mod hostile;
pub mod judge;
pub mod kill;
pub mod live;
pub mod loops;
pub mod measure;
pub mod moved;
pub mod network;
pub mod outage;
pub mod proof;
pub mod pulled;
pub mod qemu;
pub mod recorder;
pub mod room;
pub mod sample_disk;
pub mod scenes;
pub mod schema;
pub mod second_save;
pub mod serving;
pub mod shares;
pub mod simulator;
pub mod site;
pub mod sources;
pub mod sparse;
pub mod storm;
pub mod table;
pub mod tool;
pub mod tree;
pub mod truth;
pub mod vg;
pub mod vm;
pub mod volumes;
pub mod web;
