//! `keiki agent`.

use std::path::PathBuf;

use clap::Args;
use image_core::image::record::ImageName;

/// Let `keiki serve` restore this machine
///
/// Tells the server what this machine is, waits until somebody there says that it may be restored, or the server was
/// told to restore everyone, and does what an order says that the site's key signed. What machines boot from `keiki serve
/// --image` runs it by itself; there it needs no arguments. Elsewhere, the machine does not start again afterwards.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  keiki agent http://10.77.0.1 --site-key 0f3c... --disk /dev/sdb\n  \
    keiki agent --save golden"
)]
pub struct Agent {
    /// The server
    #[arg(value_name = "URL", requires = "site_key")]
    pub server: Option<String>,
    /// The public key of the site, which `keiki serve status` prints
    #[arg(long, value_name = "KEY", requires = "server")]
    pub site_key: Option<String>,
    /// Offer this disk or file only, repeatable [default: all disks of this machine]
    #[arg(long = "disk", value_name = "PATH")]
    pub disks: Vec<PathBuf>,
    /// Ask the server to save this machine as an image of this name; nothing else
    /// is done to it meanwhile, and any key takes it back
    #[arg(long, value_name = "NAME")]
    pub save: Option<ImageName>,
    /// A console on which a key ends it, repeatable
    #[arg(long = "console", value_name = "TTY", hide = true)]
    pub consoles: Vec<PathBuf>,
}
