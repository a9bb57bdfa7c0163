//! `keiki verify`.

use clap::Args;

/// Read and check all data of an image; writes nothing
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keiki verify server")]
pub struct Verify {
    /// NAME (its newest), NAME@ID or NAME@2026-11-20
    #[arg(value_parser = super::image)]
    pub image: String,
}
