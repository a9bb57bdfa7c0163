//! `keiki iso`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use live_iso::boot::Serial;

/// Make a disc that boots any PC and saves or restores its disks
///
/// The same file is burned to a disc, written to a USB stick as it is, or served to machines that boot over HTTP; it
/// starts with BIOS, UEFI, and UEFI with Secure Boot. Kernel, boot loaders and tools are this distribution's own
/// packages, downloaded and checked by apt; nothing is installed, and no rights are needed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki iso --out keiki.iso\n  \
    keiki iso --stick /dev/sdc\n  \
    keiki --repo /backup iso --out keiki.iso --image server --unattended answers.toml")]
pub struct Iso {
    /// The file to make; there is none yet
    #[arg(long, value_name = "FILE", required_unless_present = "stick", conflicts_with = "stick")]
    pub out: Option<PathBuf>,
    /// Write it to this USB stick instead, and make a partition for images of the rest, which every system reads
    /// (exFAT); what is on the stick is lost
    #[arg(long, value_name = "DEVICE")]
    pub stick: Option<String>,
    /// Confirm the stick in advance: its serial or WWN, or its path where it has neither
    #[arg(long, value_name = "X", requires = "stick")]
    pub confirm: Vec<String>,
    /// Put this image on it too, to be restored from it; repeatable
    #[arg(long = "image", value_name = "IMAGE", value_parser = super::image)]
    pub images: Vec<String>,
    /// Restore without being asked, once, as this answer file says (docs/RECOVERY.md)
    #[arg(long, value_name = "FILE", requires = "images")]
    pub unattended: Option<PathBuf>,
    /// Put this private key on it, for shares of machines with SSH; whoever has the disc has the key
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
    #[command(flatten)]
    pub system: LiveSystem,
    /// Where kernel and programs come from [default: download; on the recovery disc: medium]
    #[arg(long, value_enum)]
    pub packages: Option<Packages>,
}

/// What a live system is like, wherever it is booted from.
#[derive(Args, Debug)]
pub struct LiveSystem {
    /// The layout of the keyboard, as console-data names it: de-latin1-nodeadkeys; otherwise it is asked for
    #[arg(long, value_name = "NAME")]
    pub keymap: Option<String>,
    /// The serial console, beside the screen
    #[arg(long, value_name = "PORT[,SPEED]", default_value = "ttyS0,115200")]
    pub console: Serial,
    /// How much hardware it knows
    #[arg(long, value_enum, default_value_t = Profile::Small)]
    pub profile: Profile,
}

/// How much hardware a disc knows.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// What PCs, servers and virtual machines usually have
    Small,
    /// Storage networks and rare adapters too
    Full,
}

impl From<Profile> for live_iso::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Small => Self::Small,
            Profile::Full => Self::Full,
        }
    }
}

/// Where packages come from.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packages {
    /// Download what is not in the cache yet
    Download,
    /// Take what is installed on this machine
    Installed,
    /// Take what the disc has that this machine was started from; needs no network
    Medium,
}
