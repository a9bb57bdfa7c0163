//! `keiki serve`.

use std::path::PathBuf;

use clap::Args;
use netboot::dhcp::leases::Range;

use super::iso::{LiveSystem, Packages};

/// Boot machines over the network into what the recovery disc has
///
/// Nothing is needed on the machines: they are set to boot from the network (PXE), by BIOS, UEFI, or UEFI
/// with Secure Boot. The DHCP server of the network stays as it is: names of boot files are told beside it. On a network
/// without one, addresses are handed out too. Runs until Ctrl-C, and needs root. What is downloaded is kept, so that it
/// can be fetched where there is an internet (--prepare), and served where there is none.
///
/// With --image, that image is sent to all machines that restore it, at the time that one would need: once by multicast to
/// all of them, whenever each one begins. Whoever is on the network can read all images of its repository then.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki serve\n  \
    keiki serve --interface eth1 --dhcp-range 192.168.77.100-192.168.77.199\n  \
    keiki --repo /srv/keiki serve --image lab")]
pub struct Serve {
    /// The network interface; needs no name where there is only one
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// Hand out these addresses, on a network that has no DHCP server
    #[arg(long, value_name = "FIRST-LAST")]
    pub dhcp_range: Option<Range>,
    /// Send this image of --repo to whoever restores it
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,
    /// Restore it on every machine that boots, once, by the rules of this answer file
    #[arg(long, value_name = "FILE", requires = "image", conflicts_with = "no_boot")]
    pub unattended: Option<PathBuf>,
    /// So many Mbit/s, and no more, are sent by multicast [default: 95 % of the interface's speed, 950 at most]
    #[arg(long, value_name = "MBIT", requires = "image", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub rate: Option<u64>,
    /// Boot no machines: they run the recovery disc, or any Linux with keiki
    #[arg(long, requires = "image", conflicts_with_all = ["dhcp_range", "prepare"])]
    pub no_boot: bool,
    /// Fetch and build everything, serve nothing, and end
    #[arg(long)]
    pub prepare: bool,
    #[command(flatten)]
    pub system: LiveSystem,
    /// Where kernel and programs come from
    #[arg(long, value_enum, default_value_t = Packages::Download)]
    pub packages: Packages,
}
