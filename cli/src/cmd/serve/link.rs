//! The networks that are served: an interface each.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use image_core::error::Error;
use image_core::report::Report;
use live_iso::net;
use netboot::dhcp::answer::{BootFiles, Restored};
use netboot::dhcp::kept::Kept;
use netboot::dhcp::leases::{Leases, Range};
use netboot::dhcp::probe;
use netboot::interface::{self, Interface};
use netboot::multicast::pace::Pace;
use netboot::orders::site::Site;
use netboot::server::{self, Bound};

use super::room;
use crate::args::serve::Serve;
use crate::cmd::Usage;
use crate::output::progress::Progress;

/// A network.
pub struct Link {
    /// This machine's interface there.
    pub interface: Interface,
    /// The addresses that are handed out there.
    pub range: Option<Range>,
    /// How fast may be sent there.
    pub pace: Pace,
}

/// The networks that were named, each once, or the only one there is.
///
/// # Errors
/// There is no such interface; a range of addresses is in none of the networks, or a network has two.
pub fn find(args: &Serve) -> Result<Vec<Link>> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for name in &args.interface {
        let one = interface::choose(Some(name))?;
        if !interfaces.contains(&one) {
            interfaces.push(one);
        }
    }
    if interfaces.is_empty() {
        interfaces.push(interface::choose(None)?);
    }
    let ranges = shared_out(&args.dhcp_range, &interfaces)?;
    let mut links: Vec<Link> = Vec::new();
    for (interface, range) in interfaces.into_iter().zip(ranges) {
        let rate = room::rate(args, &interface);
        let pace = links.first().map_or_else(|| Pace::new(rate), |first| first.pace.beside(rate));
        links.push(Link { interface, range, pace });
    }
    Ok(links)
}

/// The range of each interface, where it has one.
fn shared_out(ranges: &[Range], interfaces: &[Interface]) -> Result<Vec<Option<Range>>> {
    let mut of_each = vec![None; interfaces.len()];
    for range in ranges {
        let at = interfaces.iter().position(|interface| is_in(range, interface));
        let place = at.and_then(|at| of_each.get_mut(at)).ok_or_else(|| {
            let known = interfaces.iter().map(|Interface { name, address, mask, .. }| {
                format!("that of {name}, which is {address} with the mask {mask}")
            });
            let known = known.collect::<Vec<_>>().join(", nor in ");
            Usage(format!("{range} is not in the network that is served, {known}"))
        })?;
        if let Some(other) = place.replace(*range) {
            return Err(Usage(format!("{other} and {range} are of one network")).into());
        }
    }
    Ok(of_each)
}

/// Whether clients with these addresses are reached there.
fn is_in(range: &Range, Interface { address, mask, .. }: &Interface) -> bool {
    let network = |address: Ipv4Addr| u32::from(address) & u32::from(*mask);
    [range.first, range.last].into_iter().all(|end| network(end) == network(*address))
}

impl Link {
    /// Whether somebody hands out addresses there. Two servers that do would quarrel; and beside none nobody gets one.
    ///
    /// # Errors
    /// There is one where we are to do it.
    pub fn has_dhcp(&self) -> Result<bool> {
        let name = &self.interface.name;
        match (self.range, probe::other_server(&self.interface)) {
            (Some(_), Ok(Some(other))) if other == self.interface.address => Err(Error::refused(format!(
                "another program on this machine is a DHCP server on {name}; what it is tells: ss -lunp 'sport = :67'"
            ))
            .into()),
            (Some(_), Ok(Some(other))) => Err(Error::refused(format!(
                "the DHCP server {other} answers on {name}: leave --dhcp-range away, and boot files are told beside it; or \
                 take it off this network"
            ))
            .into()),
            (Some(_), Err(error)) => Err(anyhow::Error::new(error).context(format!(
                "{name} gets its own address from a DHCP server: give it a fixed one, or leave --dhcp-range away"
            ))),
            (None, Ok(None)) => Ok(false),
            // It cannot be asked where this machine is a client itself; so there is one.
            (None, Ok(Some(_)) | Err(_)) | (Some(_), Ok(None)) => Ok(true),
        }
    }

    /// Who has which address there: as it was written down, and as it is seen now.
    fn leases(&self, range: Range, state: &Path, progress: &Progress) -> Result<(Leases, Kept)> {
        let mut leases = Leases::new(range, self.interface.address);
        let kept = Kept::new(state, &self.interface.name);
        if let Err(error) = kept.read(&mut leases) {
            progress.warning(&format!(
                "{error}: who has an address and does not answer now may lose it to another machine"
            ));
        }
        for (address, mac) in probe::present(&self.interface, &range)? {
            leases.found(address, mac, kept.now());
        }
        Ok((leases, kept))
    }

    /// Takes the ports there.
    ///
    /// # Errors
    /// One is taken.
    pub fn bind(
        &self,
        args: &Serve,
        site: Option<&Arc<Site>>,
        progress: &Progress,
    ) -> Result<Bound> {
        let names = BootFiles {
            bios: net::BIOS.to_owned(),
            uefi: net::UEFI.to_owned(),
            http: format!("http://{}/{}", self.interface.address, net::UEFI),
        };
        let restored = site.map(|site| Arc::clone(site) as Arc<dyn Restored>);
        let names = Some(names).filter(|_| !args.no_boot);
        let leases = self.range.map(|range| self.leases(range, &args.state, progress));
        Ok(server::bind(&self.interface, names, leases.transpose()?, restored)?)
    }

    /// What is sent there goes from this address, at this pace.
    pub fn way(&self) -> (Ipv4Addr, &Pace) {
        (self.interface.address, &self.pace)
    }

    /// What is done there with DHCP, in a word for programs.
    pub fn mode(&self, boots: bool) -> &'static str {
        match self.range {
            _ if !boots => "none",
            Some(_) => "lease",
            None => "proxy",
        }
    }

    /// The same for people.
    pub fn words(&self, boots: bool) -> String {
        let Interface { name, address, .. } = &self.interface;
        let mode = match self.range {
            _ if !boots => "booting nobody".to_owned(),
            Some(range) => format!("handing out {range}"),
            None => "beside the DHCP server of the network".to_owned(),
        };
        format!("{name} ({address}), {mode}")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netboot::dhcp::leases::Range;
    use netboot::event::Mac;
    use netboot::interface::Interface;

    use super::shared_out;

    fn here(number: u8) -> Interface {
        let [address, mask] = [[10, 0, number, 1], [255, 255, 255, 0]].map(Ipv4Addr::from);
        let (name, mac) = (format!("eth{number}"), Mac::default());
        Interface { name, address, mask, mac, multicast: true }
    }

    #[test]
    fn each_range_is_for_the_network_that_it_is_in() {
        let two = [here(0), here(1)];
        let range = |text: &str| text.parse::<Range>().unwrap();
        let [first, second] = ["10.0.0.50-10.0.0.99", "10.0.1.50-10.0.1.99"].map(range);
        assert_eq!(shared_out(&[], &two).unwrap(), [None, None]);
        assert_eq!(shared_out(&[second], &two).unwrap(), [None, Some(second)]);
        assert_eq!(shared_out(&[second, first], &two).unwrap(), [Some(first), Some(second)]);
        let said = shared_out(&[first, range("10.0.0.5-10.0.0.6")], &two).unwrap_err().to_string();
        assert!(said.contains("are of one network"), "{said}");
        for far in ["10.0.0.50-10.0.1.99", "10.0.2.50-10.0.2.99", "10.0.0.50-10.0.9.51"] {
            let said = shared_out(&[range(far)], &two).unwrap_err().to_string();
            assert!(said.contains("is not in the network") && said.contains("eth1"), "{said}");
        }
    }
}
