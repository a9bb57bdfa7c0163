//! The interface that is served, and sockets on it.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use image_core::error::{Error, Result};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, Socket, Type};

use crate::event::Mac;

/// A network adapter of this machine with an IPv4 address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its first address.
    pub address: Ipv4Addr,
    /// The mask of its network.
    pub mask: Ipv4Addr,
    /// Its adapter.
    pub mac: Mac,
    /// Whether it sends multicast.
    pub multicast: bool,
}

/// The interfaces that can be served: those of Ethernet that are up and have an address.
///
/// # Errors
/// [`Error::Io`].
pub fn all() -> Result<Vec<Interface>> {
    let failed = |error: nix::Error| Error::io("network interfaces", "list", error.into());
    let all: Vec<InterfaceAddress> = getifaddrs().map_err(failed)?.collect();
    // Each adapter is in the list with its own address too.
    let mac = |name: &str| {
        let own = all.iter().filter(|one| one.interface_name == name);
        own.filter_map(|one| one.address?.as_link_addr()?.addr()).map(Mac).next()
    };
    let mut found: Vec<Interface> = Vec::new();
    for one in &all {
        let is_up = one.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST);
        let address = |storage: Option<SockaddrStorage>| Some(storage?.as_sockaddr_in()?.ip());
        let name = one.interface_name.clone();
        let (Some(address), Some(mask), Some(mac)) =
            (address(one.address), address(one.netmask), mac(&name))
        else {
            continue;
        };
        if is_up && !found.iter().any(|other| other.name == name) {
            let multicast = one.flags.contains(InterfaceFlags::IFF_MULTICAST);
            found.push(Interface { name, address, mask, mac, multicast });
        }
    }
    Ok(found)
}

/// All adapters of this machine, plugged in or not: names and addresses.
pub fn adapters() -> Vec<(String, Mac)> {
    let all = getifaddrs().into_iter().flatten();
    let loopback = |one: &InterfaceAddress| one.flags.contains(InterfaceFlags::IFF_LOOPBACK);
    let adapter = |one: InterfaceAddress| {
        let mac = Mac(one.address?.as_link_addr()?.addr()?);
        Some((one.interface_name, mac))
    };
    all.filter(|one| !loopback(one)).filter_map(adapter).collect()
}

/// The interface of that name, or the only one there is.
///
/// # Errors
/// [`Error::Refused`]: it is not there or has no address; without a name: there are none, or several.
pub fn choose(name: Option<&str>) -> Result<Interface> {
    chosen(name, all()?)
}

fn chosen(name: Option<&str>, all: Vec<Interface>) -> Result<Interface> {
    let names: Vec<String> =
        all.iter().map(|one| format!("{} ({})", one.name, one.address)).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let mut fitting = all.into_iter().filter(|one| name.is_none_or(|name| one.name == name));
    match (name, fitting.next(), fitting.next()) {
        (_, Some(one), None) => Ok(one),
        (Some(name), ..) => Err(Error::refused(format!(
            "{name} is no network interface that is up and has an address; there is: {names}. Give it one: \
             ip link set {name} up && ip addr add 192.168.77.1/24 dev {name}"
        ))),
        (None, None, _) => Err(Error::refused(
            "no network interface is up and has an address; give one to it: \
             ip link set IF up && ip addr add 192.168.77.1/24 dev IF",
        )),
        (None, Some(_), Some(_)) => {
            let why =
                format!("which network is meant? Name its interface with --interface: {names}");
            Err(Error::refused(why))
        }
    }
}

impl Interface {
    /// A UDP socket that hears and sends broadcasts, on this interface only: so each interface may have its own server.
    ///
    /// # Errors
    /// [`Error::Refused`]: the port is taken.
    pub(crate) fn broadcast_socket(&self, at: SocketAddrV4) -> Result<UdpSocket> {
        let make = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.bind_device(Some(self.name.as_bytes()))?;
            socket.set_broadcast(true)?;
            socket.bind(&at.into())?;
            Ok(socket.into())
        };
        make().map_err(|error| taken("udp", at.port(), error))
    }
}

/// Why a port cannot be had, and what to do.
pub(crate) fn taken(protocol: &str, port: u16, error: std::io::Error) -> Error {
    let option = if protocol == "udp" { "-lunp" } else { "-ltnp" };
    match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::refused(format!(
            "{protocol} port {port} is used by another program; this names it, so that you can stop it: \
             ss {option} 'sport = :{port}'"
        )),
        _ => Error::io(format!("{protocol} port {port}"), "listen on", error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{Interface, chosen};
    use crate::event::Mac;

    fn named(name: &str) -> Interface {
        let (address, mask) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(255, 0, 0, 0));
        let (name, mac) = (name.to_owned(), Mac::default());
        Interface { name, address, mask, mac, multicast: true }
    }

    #[test]
    fn one_is_taken_and_of_several_one_is_named() {
        let refused = |name, all| chosen(name, all).unwrap_err().to_string();
        assert_eq!(chosen(None, vec![named("a")]).unwrap().name, "a");
        assert_eq!(chosen(Some("b"), vec![named("a"), named("b")]).unwrap().name, "b");
        let several = refused(None, vec![named("a"), named("b")]);
        assert!(several.contains("--interface: a (10.0.0.1), b (10.0.0.1)"), "{several}");
        let other = refused(Some("c"), vec![named("a")]);
        assert!(other.contains("there is: a (") && other.contains("dev c"), "{other}");
        assert!(refused(None, Vec::new()).contains("ip addr add"));
    }
}
