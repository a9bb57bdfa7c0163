//! `keiki check`.

use clap::Args;

/// Check the repository, and mend what can be made again
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keiki check --read-data")]
pub struct Check {
    /// Make the catalog and the locations again, also where they look well
    #[arg(long)]
    pub rebuild: bool,
    /// Read and check all stored data too, not only what lists it
    #[arg(long)]
    pub read_data: bool,
}
