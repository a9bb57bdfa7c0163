//! `keiki show`.

use clap::Args;

/// Show one image: layout, sizes, filesystems, date
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keiki show server@2026-11-20")]
pub struct Show {
    /// NAME (its newest), NAME@ID or NAME@2026-11-20
    #[arg(value_parser = super::image)]
    pub image: String,
}
