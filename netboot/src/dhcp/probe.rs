//! Whether another DHCP server answers on a network.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use image_core::error::{Error, Result};

use super::answer::{CLIENT, SERVER};
use super::packet::{Packet, kind, option};
use crate::event::Mac;
use crate::interface::Interface;

/// A server that is slower than this is not found; most answer within a second.
pub const PATIENCE: Duration = Duration::from_secs(3);

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

    use super::{Packet, kind, offered, option, question};
    use crate::event::Mac;

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
