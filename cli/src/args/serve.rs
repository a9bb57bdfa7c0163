//! `keiki serve`.

use clap::Args;
use netboot::dhcp::leases::Range;

use super::iso::{LiveSystem, Packages};

/// Boot machines over the network into what the recovery disc has
///
/// Nothing is needed on the machines: they are set to boot from the network (PXE), by BIOS, UEFI, or UEFI
/// with Secure Boot. The DHCP server of the network stays as it is: names of boot files are told beside it. On a network
/// without one, addresses are handed out too. Runs until Ctrl-C, and needs root. What is downloaded is kept, so that it
/// can be fetched where there is an internet (--prepare), and served where there is none.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  keiki serve\n  \
    keiki serve --interface eth1 --dhcp-range 192.168.77.100-192.168.77.199")]
pub struct Serve {
    /// The network interface; needs no name where there is only one
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// Hand out these addresses, on a network that has no DHCP server
    #[arg(long, value_name = "FIRST-LAST")]
    pub dhcp_range: Option<Range>,
    /// Fetch and build everything, serve nothing, and end
    #[arg(long)]
    pub prepare: bool,
    #[command(flatten)]
    pub system: LiveSystem,
    /// Where kernel and programs come from
    #[arg(long, value_enum, default_value_t = Packages::Download)]
    pub packages: Packages,
}
