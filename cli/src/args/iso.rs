//! `keiki iso`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use live_iso::iso::Serial;

/// Make a disc that boots any PC and saves or restores its disks
///
/// The same file is burned to a disc, written to a USB stick as it is, or served to machines that boot over HTTP; it
/// starts with BIOS, UEFI, and UEFI with Secure Boot. Kernel, boot loaders and tools are this distribution's own
/// packages, downloaded and checked by apt; nothing is installed, and no rights are needed.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  keiki iso --out keiki.iso\n  keiki --repo /backup iso --out keiki.iso --image server"
)]
pub struct Iso {
    /// The file to make; there is none yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Put this image on it too, to be restored from it; repeatable
    #[arg(long = "image", value_name = "IMAGE", value_parser = super::image)]
    pub images: Vec<String>,
    /// The layout of the keyboard, as console-data names it: de-latin1-nodeadkeys; otherwise it is asked for
    #[arg(long, value_name = "NAME")]
    pub keymap: Option<String>,
    /// The serial console, beside the screen
    #[arg(long, value_name = "PORT[,SPEED]", default_value = "ttyS0,115200")]
    pub console: Serial,
    /// How much hardware it knows
    #[arg(long, value_enum, default_value_t = Profile::Small)]
    pub profile: Profile,
    /// Where the packages come from
    #[arg(long, value_enum, default_value_t = Packages::Download)]
    pub packages: Packages,
}

/// How much hardware a disc knows.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// What PCs, servers and virtual machines usually have
    Small,
    /// Storage networks and rare adapters too
    Full,
}

/// Where packages come from.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packages {
    /// Download what is not in the cache yet
    Download,
    /// Take what is installed on this machine
    Installed,
}
