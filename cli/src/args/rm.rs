//! `keiki rm`.

use clap::Args;

/// Forget an image
///
/// What only it needed stays in the repository until `keiki prune` frees it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki rm server@3f2a\n  keiki rm server --all")]
pub struct Rm {
    /// NAME, NAME@ID or NAME@2026-11-20
    #[arg(value_parser = super::image)]
    pub image: String,
    /// Forget all images of that name
    #[arg(long)]
    pub all: bool,
}
