//! Hostile bytes: for each parser of foreign bytes an entry that takes any bytes at all.
//!
//! Answers: whether a parser stands these bytes. An entry panics where the parser does, and where what it accepted
//! breaks a promise: a map without a block that is in use, a table that is written and reads otherwise. Refuses:
//! nothing. The fuzz targets in `fuzz/` and the test `hostile` call the same entries.
//!
//! - [`edited`]: sound containers, and inputs that change some bytes of them. [`seeds`], [`corpus`]: inputs to begin
//!   with, and those that are kept.
//!   [`mutate`]: other inputs from these. [`make`]: makes the sound containers.
//! - [`filesystems`], with [`ext`], [`xfs`], [`fat`]: slow readers of the same, and their checksums.
//! - [`tables`], [`groups`], [`format`], [`repository`], [`loaders`], [`moved`], [`network`], [`guest`]: everything else.

pub mod corpus;
pub mod edited;
pub mod ext;
pub mod fat;
pub mod filesystems;
pub mod format;
pub mod groups;
pub mod guest;
pub mod loaders;
pub mod make;
pub mod moved;
pub mod mutate;
pub mod network;
pub mod repository;
pub mod seeds;
pub mod tables;
pub mod xfs;

use self::edited::Base;

/// A parser, or a few that stand one behind the other.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, also as a fuzz target.
    pub name: &'static str,
    /// Gives it some bytes.
    pub entry: fn(&[u8]),
}

const fn target(name: &'static str, entry: fn(&[u8])) -> Target {
    Target { name, entry }
}

/// Every target.
pub const TARGETS: [Target; 28] = [
    target("tables", tables::tables),
    target("signatures", tables::signatures),
    target("restore_record", tables::record),
    target("ext", filesystems::ext),
    target("journal", filesystems::journal),
    target("xfs", filesystems::xfs),
    target("fat", filesystems::fat),
    target("swap", filesystems::swap),
    target("lvm_label", groups::label),
    target("lvm_text", groups::text),
    target("record", format::record),
    target("root", format::root),
    target("segment", format::segment),
    target("trailer", format::trailer),
    target("chunk", format::chunk),
    target("delta", format::delta),
    target("repository", repository::repository),
    target("listing", repository::listing),
    target("grub", loaders::grub),
    target("program", loaders::program),
    target("configuration", loaders::configuration),
    target("moved", moved::moved),
    target("ramdisk", moved::ramdisk),
    target("dhcp", network::dhcp),
    target("multicast", network::multicast),
    target("room", network::room),
    target("http", network::http),
    target("tftp", network::tftp),
];

/// Gives `input` to the target `name`.
pub fn run(name: &str, input: &[u8]) {
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => (target.entry)(input),
        None => panic!("there is no target {name}"),
    }
}

/// The bases of these names.
fn bases(names: &[&str]) -> Vec<Base> {
    let load = |name: &&str| Base::load(name).unwrap_or_else(|error| panic!("{error:#}"));
    names.iter().map(load).collect()
}
