//! `keiki __unattended`: what the recovery disc runs before its menu.

use std::path::PathBuf;

use clap::Args;

/// Carry out an answer file
#[derive(Args, Debug)]
pub struct Unattended {
    /// The answer file
    pub file: PathBuf,
    /// A console on which a key stops it, repeatable
    #[arg(long = "console", value_name = "TTY")]
    pub consoles: Vec<PathBuf>,
}
