//! `keiki images`.

use clap::Args;

/// List the images of the repository
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  keiki --repo /backup images")]
pub struct Images {}
