//! `keiki serve`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::Subcommand;
use netboot::board::is_hostname;
use netboot::dhcp::leases::Range;
use netboot::orders::list::Group;

use super::iso::{LiveSystem, Packages};

/// Where a site is kept, unless said otherwise.
const STATE: &str = "/var/lib/keiki";

/// Boot machines over the network into what the recovery disc has
///
/// Nothing is needed on the machines: they are set to boot from the network (PXE), by BIOS, UEFI, or UEFI
/// with Secure Boot. The DHCP server of the network stays as it is: names of boot files are told beside it. On a network
/// without one, addresses are handed out too. Runs until Ctrl-C, and needs root. What is downloaded is kept, so that it
/// can be fetched where there is an internet (--prepare), and served where there is none.
///
/// With --image, that image is sent to all machines that restore it, at the time that one would need: once by multicast to
/// all of them, whenever each one begins. A machine that boots waits until somebody says, on a page of this server, that it may be
/// restored. Machines that run something else join by `keiki agent`. Whoever is on the network can read all images of its repository then.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:\n  keiki serve\n  \
    keiki serve --interface eth1 --dhcp-range 192.168.77.100-192.168.77.199\n  \
    keiki --repo /srv/keiki serve --save\n  \
    keiki --repo /srv/keiki serve --image lab\n  \
    keiki --repo /srv/keiki serve --image lab --machines room.csv --hostname 'lab-%02d'\n  keiki serve status")]
pub struct Serve {
    /// What else there is to do
    #[command(subcommand)]
    pub also: Option<Also>,
    /// Options of this command, and --repo, that stand in a file (TOML): image = "lab", no-boot = true; what is typed wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The network interface, or several: eth1,eth2; needs no name where there is only one
    #[arg(long, value_name = "IF", value_delimiter = ',')]
    pub interface: Vec<String>,
    /// Hand out these addresses, on a network that has no DHCP server; one range for each such network
    #[arg(long, value_name = "FIRST-LAST", value_delimiter = ',')]
    pub dhcp_range: Vec<Range>,
    /// Send this image of --repo to whoever restores it
    #[arg(long, value_name = "NAME", group = "images")]
    pub image: Option<String>,
    /// The same without an image that is sent: machines wait for a word, to be saved into --repo, or restored from it
    #[arg(long, group = "images")]
    pub save: bool,
    /// Restore it on every machine that boots, once, without asking, by the rules of this answer file
    #[arg(long, value_name = "FILE", requires = "image")]
    pub unattended: Option<PathBuf>,
    /// The rules by which machines are restored that somebody said may be: an answer file [default: onto their only disk]
    #[arg(long, value_name = "FILE", requires = "images", conflicts_with = "unattended")]
    pub answers: Option<PathBuf>,
    /// Machines that are restored without asking: CSV with the columns mac, uuid, serial (one of them is enough), hostname,
    /// image and group; a line with a group alone only says where a machine stands
    #[arg(long, value_name = "FILE", requires = "images")]
    pub machines: Option<PathBuf>,
    /// What machines are called that nobody named: 'lab-%02d' is lab-01, lab-02 and so on, in the order in which they come
    #[arg(long, value_name = "PATTERN", requires = "images")]
    pub hostname: Option<Pattern>,
    /// Where the site's key is kept, what is known of its machines, and who was given which address
    #[arg(long, value_name = "FOLDER", env = "KEIKI_STATE", default_value = STATE, hide_env_values = true)]
    pub state: PathBuf,
    /// So many Mbit/s, and no more, are sent by multicast on each interface [default: 95 % of its speed, 950 at most]
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub rate: Option<u64>,
    /// Give images only to machines that carry out an order, and to who knows a code, which is printed
    #[arg(long, requires = "images")]
    pub private: bool,
    /// Boot no machines: they run the recovery disc, or any Linux with keiki
    #[arg(long, requires = "images", conflicts_with_all = ["dhcp_range", "prepare"])]
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

/// What else there is to do.
#[derive(Subcommand, Debug)]
pub enum Also {
    Status(Status),
}

/// Say how far the machines are of a server that runs on this machine
#[derive(Args, Debug)]
pub struct Status {
    /// The network interface that is served; needs no name where there is only one
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// Only the machines of this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<Group>,
    /// Where the site's key is kept
    #[arg(long, value_name = "FOLDER", env = "KEIKI_STATE", default_value = STATE, hide_env_values = true)]
    pub state: PathBuf,
}

/// Host names with a number in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    before: String,
    width: usize,
    after: String,
}

impl Pattern {
    /// The name with this number.
    pub fn name(&self, number: u32) -> String {
        let Self { before, width, after } = self;
        format!("{before}{number:0width$}{after}")
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not like lab-%02d: a host name with %d, or %02d for two digits")
        };
        let (before, rest) = text.split_once('%').ok_or_else(wrong)?;
        let (digits, after) = rest.split_once('d').ok_or_else(wrong)?;
        let width = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| wrong())? };
        let pattern = Self { before: before.to_owned(), width, after: after.to_owned() };
        if width > 9 || !is_hostname(&pattern.name(1)) { Err(wrong()) } else { Ok(pattern) }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn a_pattern_has_a_number() {
        let name = |text: &str| text.parse::<Pattern>().map(|pattern| pattern.name(7));
        assert_eq!(name("lab-%02d").unwrap(), "lab-07");
        assert_eq!(name("%dlab.example.org").unwrap(), "7lab.example.org");
        for wrong in ["lab", "lab-%", "lab-%2", "lab %d", "lab-%xd", "lab-%d%d", "lab-%99d", ""] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
