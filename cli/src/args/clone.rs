//! `keiki clone`.

use clap::Args;

use super::restore::Onto;

/// Copy disks, partitions or image files, with no repository between
///
/// What is on the targets is lost. Only used parts are copied, and grown like a restore. The sources are only
/// read; they may not be mounted read-write.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki clone /dev/sda /dev/sdb\n  \
    keiki clone /dev/sda /dev/sdb --grow vg0/root=rest --dry-run\n  \
    keiki clone sda sdb new-sda new-sdb   (two sources, two targets)")]
pub struct Clone {
    /// The sources, then a target for each of them (but for those that --map
    /// names); a target file that does not exist is made
    #[arg(required = true, value_name = "SOURCE TARGET")]
    pub paths: Vec<String>,
    /// How it comes onto the targets.
    #[command(flatten)]
    pub onto: Onto,
    /// Copy the space between partitions also where it is larger than 16 MiB
    #[arg(long)]
    pub gaps: bool,
    /// Refuse volume groups that are not understood instead of copying their disks raw
    #[arg(long)]
    pub strict: bool,
}
