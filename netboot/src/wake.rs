//! Switching machines on over the network (Wake-on-LAN): the *magic packet* of AMD's white paper 20213, in which an adapter
//! finds its own address though its machine is off.
//!
//! Nobody answers it: whoever wants to know whether a machine came waits for what it asks for when it boots.

use std::net::{Ipv4Addr, SocketAddrV4};

use image_core::error::{Error, Result};

use crate::event::Mac;
use crate::interface::Interface;

/// Where the packet goes: an adapter looks for it at any port, and this one ("discard") is used for it.
const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 9);

/// Wakes the machine with this adapter, where it is at the network of `interface` and its firmware is set up for it.
///
/// # Errors
/// [`Error::Io`]: the interface is gone.
pub fn send(interface: &Interface, mac: Mac) -> Result<()> {
    let socket = interface.broadcast_socket(SocketAddrV4::new(interface.address, 0))?;
    let failed = |error| Error::io(interface.name.clone(), "send to", error);
    socket.send_to(&packet(mac), TO).map(drop).map_err(failed)
}

/// Six bytes of ones, and the address sixteen times.
fn packet(Mac(mac): Mac) -> Vec<u8> {
    [vec![0xff; 6], mac.repeat(16)].concat()
}

#[cfg(test)]
mod tests {
    use super::packet;
    use crate::event::Mac;

    #[test]
    fn an_address_stands_sixteen_times_behind_six_bytes_of_ones() {
        let made = packet(Mac([0x52, 0x54, 0, 0x77, 0, 9]));
        let (ones, addresses) = made.split_at(6);
        assert_eq!((made.len(), ones), (102, &[0xff; 6][..]));
        assert!(addresses.chunks(6).all(|one| one == [0x52, 0x54, 0, 0x77, 0, 9]));
    }
}
