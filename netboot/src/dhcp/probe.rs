//! Whether another DHCP server answers on a network, and which addresses are in use there.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use image_core::error::{Error, Result};

use super::answer::{CLIENT, SERVER};
use super::leases::Range;
use super::packet::{Packet, kind, option};
use crate::event::Mac;
use crate::interface::Interface;

/// A server that is slower than this is not found; most answer within a second.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// For so long it is waited for who answers to an address: the kernel asks twice within it.
const ANSWER: Duration = Duration::from_millis(1500);

/// So many of a range are looked at, which are the ones that are given first: the kernel's table has no room for many more.
const LOOKED: usize = 512;

/// The port that throws everything away (RFC 863).
const DISCARD: u16 = 9;

/// Who is at the first addresses of a range: whoever answers to ARP. What is sent there throws any machine away; its kernel asks before that
/// whose the address is, and its answers stand in a table.
///
/// # Errors
/// [`Error::Io`].
pub fn present(interface: &Interface, range: &Range) -> Result<Vec<(Ipv4Addr, Mac)>> {
    let socket = interface.broadcast_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
    let all = u32::from(range.first)..=u32::from(range.last);
    for address in all.take(LOOKED).map(Ipv4Addr::from) {
        // Where the kernel has no room for more, the others are not known.
        drop(socket.send_to(&[], SocketAddrV4::new(address, DISCARD)));
    }
    thread::sleep(ANSWER);
    let table = "/proc/net/arp";
    let text = fs::read_to_string(table).map_err(|error| Error::io(table, "read", error))?;
    let is_near = |(address, _): &(Ipv4Addr, Mac)| (range.first..=range.last).contains(address);
    Ok(neighbours(&text, &interface.name).into_iter().filter(is_near).collect())
}

/// The neighbours at an interface that have answered, of the kernel's table (proc(5)).
fn neighbours(table: &str, interface: &str) -> Vec<(Ipv4Addr, Mac)> {
    let neighbour = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, "0x1", flags, mac, _, device] = *words.as_slice() else { return None };
        let flags = u32::from_str_radix(flags.strip_prefix("0x")?, 16).ok()?;
        // ATF_COM of linux/if_arp.h.
        let has_answered = flags & 2 != 0 && device == interface;
        has_answered.then(|| Some((address.parse().ok()?, mac.parse().ok()?))).flatten()
    };
    table.lines().filter_map(neighbour).collect()
}

/// Asks for an address, as a client does that just came, and takes none. The server that offers one; none where nobody
/// does, or where what is offered is no address but only a boot file.
///
/// # Errors
/// [`Error::Io`]: the port of clients (68) is taken, most likely by a DHCP client on the same interface.
pub fn other_server(interface: &Interface) -> Result<Option<Ipv4Addr>> {
    let socket = interface.broadcast_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT))?;
    let failed = |error| Error::io(&interface.name, "ask for DHCP servers", error);
    let xid = transaction(interface.mac);
    let question = question(interface.mac, xid).bytes();
    let began = Instant::now();
    let mut asked = None;
    while let Some(left) = PATIENCE.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        // Once a second, for a packet may be lost, and a switch may just be learning that we are here.
        if asked.is_none_or(|at: Instant| at.elapsed() >= Duration::from_secs(1)) {
            let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER);
            socket.send_to(&question, to).map_err(failed)?;
            asked = Some(Instant::now());
        }
        if let Some(server) = heard(&socket, left.min(Duration::from_millis(250)), xid) {
            return Ok(Some(server));
        }
    }
    Ok(None)
}

/// A number that no client of another machine uses at the same time.
fn transaction(mac: Mac) -> [u8; 4] {
    let [.., a, b] = mac.0;
    let [c, d] = (std::process::id() as u16).to_be_bytes();
    [a, b, c, d]
}

fn question(mac: Mac, xid: [u8; 4]) -> Packet {
    let options = [(option::KIND, vec![kind::DISCOVER])].into();
    Packet { xid, flags: 0x8000, chaddr: mac, options, ..Packet::default() }
}

fn heard(socket: &UdpSocket, patience: Duration, xid: [u8; 4]) -> Option<Ipv4Addr> {
    socket.set_read_timeout(Some(patience)).ok()?;
    let mut bytes = [0; 2048];
    let (length, from) = socket.recv_from(&mut bytes).ok()?;
    let offer = Packet::parse(bytes.get(..length)?)?;
    let from = match from {
        std::net::SocketAddr::V4(from) => *from.ip(),
        std::net::SocketAddr::V6(_) => return None,
    };
    offered(&offer, xid).then(|| offer.address(option::SERVER).unwrap_or(from))
}

/// Whether a packet offers an address to whoever asked with `xid`.
fn offered(packet: &Packet, xid: [u8; 4]) -> bool {
    packet.is_reply
        && packet.xid == xid
        && packet.kind() == Some(kind::OFFER)
        && !packet.yiaddr.is_unspecified()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{Packet, kind, neighbours, offered, option, question};
    use crate::event::Mac;

    #[test]
    fn neighbours_are_those_that_have_answered_here() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
            10.0.0.50        0x1         0x2         02:00:00:00:00:05     *        br0\n\
            10.0.0.51        0x1         0x0         00:00:00:00:00:00     *        br0\n\
            10.0.0.52        0x1         0x6         02:00:00:00:00:06     *        br0\n\
            10.0.0.53        0x1         0x2         02:00:00:00:00:07     *        br1\n";
        let found = neighbours(table, "br0");
        let at = |number| Ipv4Addr::new(10, 0, 0, number);
        assert_eq!(found, [(at(50), Mac([2, 0, 0, 0, 0, 5])), (at(52), Mac([2, 0, 0, 0, 0, 6]))]);
    }

    #[test]
    fn only_an_address_for_us_is_an_offer() {
        let asked = question(Mac([2; 6]), [1; 4]);
        assert!(!offered(&asked, [1; 4]), "our own question");
        let options = [(option::KIND, vec![kind::OFFER])].into();
        let yiaddr = Ipv4Addr::new(10, 0, 0, 9);
        let offer = Packet { is_reply: true, yiaddr, options, ..asked };
        assert!(offered(&offer, [1; 4]) && !offered(&offer, [2; 4]));
        let boot = Packet { yiaddr: Ipv4Addr::UNSPECIFIED, ..offer };
        assert!(!offered(&boot, [1; 4]), "a proxy");
    }
}
