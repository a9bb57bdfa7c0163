//! `keiki prune`.

use clap::Args;

/// Free what no image needs any more
///
/// What goes is kept in the repository's trash for a day, so a restore that is running still finds it. Nobody can
/// save meanwhile. A damaged repository is not pruned.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki prune\n  keiki prune --now --dry-run")]
pub struct Prune {
    /// Free it at once, and what is in the trash too
    #[arg(long)]
    pub now: bool,
    /// Tell what would be done, and stop
    #[arg(long)]
    pub dry_run: bool,
}
