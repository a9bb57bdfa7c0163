//! What a request is answered with: pure, so that every rule of it is a test.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use super::leases::{LEASE, Leases};
use super::packet::{Packet, kind, option};
use crate::event::{Event, Kind, Mac, What};

/// Ports of servers, of clients, and of boot servers (PXE, section 2.2.3).
pub(crate) const SERVER: u16 = 67;
pub(crate) const CLIENT: u16 = 68;
pub(crate) const BOOT: u16 = 4011;

/// The names of the files that firmware starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootFiles {
    /// For BIOS.
    pub bios: String,
    /// For UEFI.
    pub uefi: String,
    /// For UEFI that boots over HTTP: a whole URL.
    pub http: String,
}

/// A reply, and where it goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The reply.
    pub packet: Packet,
    /// Its address.
    pub to: SocketAddrV4,
}

/// Knows machines that were restored, and start from their own disks.
pub trait Restored: Send + Sync + Debug {
    /// Whether the machine with this adapter is one, and has this UUID (SMBIOS) where one is told.
    fn is_restored(&self, mac: Mac, uuid: Option<&[u8; 16]>) -> bool;
}

/// What we know.
#[derive(Debug)]
pub struct Desk {
    /// Our address.
    pub here: Ipv4Addr,
    /// The mask of its network.
    pub mask: Ipv4Addr,
    /// What firmware starts.
    pub files: BootFiles,
    /// None where another server hands out addresses.
    pub leases: Option<Leases>,
    /// Who gets no boot file.
    pub restored: Option<Arc<dyn Restored>>,
}

/// A client as its request describes it.
struct Client {
    kind: Kind,
    /// How option 60 begins, which a reply repeats.
    class: Option<&'static str>,
}

impl Client {
    fn of(request: &Packet) -> Self {
        let class = request.options.get(&option::CLASS);
        let begins = |name: &&str| class.is_some_and(|class| class.starts_with(name.as_bytes()));
        let class = ["PXEClient", "HTTPClient"].into_iter().find(begins);
        // RFC 4578, section 2.1: numbers of 16 bits. It must be there; firmware without it is older than UEFI.
        let numbers = request.options.get(&option::ARCHITECTURE);
        let number = numbers.and_then(|value| value.first_chunk()).copied().map(u16::from_be_bytes);
        let kind = match (class, number.unwrap_or(0)) {
            (None, _) => Kind::System,
            (Some("PXEClient"), 0) => Kind::Bios,
            // 9 was meant for another processor, and firmware for x64 says it too (the erratum of the RFC).
            (Some("PXEClient"), 7 | 9) => Kind::Uefi,
            (Some("HTTPClient"), 16) => Kind::UefiHttp,
            (_, other) => Kind::Other(other),
        };
        Self { kind, class }
    }
}

impl Desk {
    /// The answer to a request that came `from` there to `port`, if it gets one, and what happened. `now` is the time in
    /// seconds since any beginning.
    pub fn answer(
        &mut self,
        port: u16,
        request: &Packet,
        from: SocketAddrV4,
        now: u64,
    ) -> (Option<Answer>, Option<Event>) {
        if request.is_reply {
            return (None, None);
        }
        let mut client = Client::of(request);
        let is_restored = self.is_restored(request, &client);
        if is_restored {
            // Firmware that is told no file goes on to the next thing that it starts from: its disk.
            client = Client { kind: Kind::System, class: None };
        }
        let full = |desk: &Self| desk.leases.as_ref().and_then(Leases::full);
        let was_full = full(self).is_some();
        let reply = match (port, request.kind()) {
            (BOOT, Some(kind::DISCOVER | kind::REQUEST | kind::INFORM)) => {
                self.told(request, &client, kind::ACK)
            }
            (SERVER, Some(kind)) if self.leases.is_some() => {
                self.leased(request, &client, kind, now)
            }
            (SERVER, Some(kind::DISCOVER)) => self.told(request, &client, kind::OFFER),
            _ => None,
        };
        let told = |what| Event { address: None, mac: Some(request.chaddr), kind: None, what };
        let event = match (full(self).filter(|_| !was_full), is_restored, request.kind()) {
            (Some(full), ..) => Some(told(What::Warned(full))),
            (None, true, Some(kind::DISCOVER)) => {
                Some(told(What::Lost("is restored, and starts from its own disk")))
            }
            _ => Self::event(request, &client, reply.as_ref()),
        };
        let to = |packet: &Packet| destination(port, request, packet, from);
        (reply.map(|packet| Answer { to: to(&packet), packet }), event)
    }

    /// Whether a client that would boot was restored already.
    fn is_restored(&self, request: &Packet, client: &Client) -> bool {
        // Option 97 (RFC 4578, section 2.3): a zero, and the UUID.
        let uuid =
            request.options.get(&option::MACHINE).and_then(|value| value.get(1..)?.first_chunk());
        let is_known = |known: &Arc<dyn Restored>| known.is_restored(request.chaddr, uuid);
        client.class.is_some() && self.restored.as_ref().is_some_and(is_known)
    }

    /// The name of the boot file for a client; none where there is nothing for it.
    fn file(&self, kind: Kind) -> Option<&str> {
        match kind {
            Kind::Bios => Some(&self.files.bios),
            Kind::Uefi => Some(&self.files.uefi),
            Kind::UefiHttp => Some(&self.files.http),
            Kind::Other(_) | Kind::System => None,
        }
    }

    /// A reply of a boot server: no address, only what is booted.
    fn told(&self, request: &Packet, client: &Client, kind: u8) -> Option<Packet> {
        self.file(client.kind)?;
        let mut reply = self.reply(request, client, kind);
        if client.class == Some("PXEClient") {
            // PXE, table 2-1: discovery control 8 means to start the file that is named, without asking anybody.
            let mut vendor = vec![6, 1, 8];
            vendor.extend(boot_item(request));
            vendor.push(255);
            reply.options.insert(option::VENDOR, vendor);
        }
        if request.options.contains_key(&option::IPXE) {
            // It starts what the server of addresses names too, unless ours have a higher priority (1) than none.
            reply.options.insert(option::IPXE, vec![1, 1, 1]);
        }
        Some(reply)
    }

    /// A reply of the server that hands out addresses.
    fn leased(&mut self, request: &Packet, client: &Client, kind: u8, now: u64) -> Option<Packet> {
        let mac = request.chaddr;
        let (here, mask) = (self.here, self.mask);
        let is_near =
            |address: Ipv4Addr| (u32::from(address) ^ u32::from(here)) & u32::from(mask) == 0;
        // The addresses are of this network; a client behind a relay needs those of its own.
        if !request.giaddr.is_unspecified() && !is_near(request.giaddr) {
            return None;
        }
        let leases = self.leases.as_mut()?;
        let chosen = request.address(option::SERVER);
        let wanted = request.address(option::ADDRESS);
        let (kind, address) = match kind {
            kind::DISCOVER => (kind::OFFER, leases.offer(mac, now)?),
            kind::REQUEST if chosen.is_some_and(|server| server != here) => {
                // It took what another server offered.
                leases.release(mac, now);
                return None;
            }
            kind::REQUEST => {
                let address = wanted.unwrap_or(request.ciaddr);
                let is_given = leases.take(mac, address, now);
                (if is_given { kind::ACK } else { kind::NAK }, address)
            }
            kind::DECLINE => {
                leases.decline(mac, wanted?, now);
                return None;
            }
            kind::RELEASE => {
                leases.release(mac, now);
                return None;
            }
            kind::INFORM => (kind::ACK, Ipv4Addr::UNSPECIFIED),
            _ => return None,
        };
        if kind == kind::NAK {
            let mut reply = self.reply(request, &Client { kind: Kind::System, class: None }, kind);
            reply.ciaddr = Ipv4Addr::UNSPECIFIED;
            return Some(reply);
        }
        let mut reply = self.reply(request, client, kind);
        reply.yiaddr = address;
        reply.options.insert(option::MASK, self.mask.octets().to_vec());
        if !address.is_unspecified() {
            reply.options.insert(option::LEASE_TIME, LEASE.to_be_bytes().to_vec());
        }
        // PXE firmware would take one for a boot server's, and look for option 43. HTTP firmware wants to see it.
        if client.class == Some("PXEClient") {
            reply.options.remove(&option::CLASS);
        }
        Some(reply)
    }

    /// What all replies have.
    fn reply(&self, request: &Packet, client: &Client, kind: u8) -> Packet {
        let mut options = BTreeMap::from([
            (option::KIND, vec![kind]),
            (option::SERVER, self.here.octets().to_vec()),
        ]);
        if let Some(class) = client.class {
            options.insert(option::CLASS, class.into());
        }
        // RFC 4578, section 2.3: a server repeats it.
        if let Some(machine) =
            request.options.get(&option::MACHINE).filter(|_| client.class.is_some())
        {
            options.insert(option::MACHINE, machine.clone());
        }
        let file = self.file(client.kind).unwrap_or_default();
        if client.kind == Kind::UefiHttp {
            options.insert(option::BOOT_FILE, file.into());
        }
        let siaddr = if file.is_empty() { Ipv4Addr::UNSPECIFIED } else { self.here };
        Packet {
            is_reply: true,
            hops: 0,
            xid: request.xid,
            secs: 0,
            flags: request.flags,
            ciaddr: if kind == kind::ACK { request.ciaddr } else { Ipv4Addr::UNSPECIFIED },
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr,
            giaddr: request.giaddr,
            chaddr: request.chaddr,
            file: file.into(),
            options,
        }
    }

    /// What is told: also of requests to other servers, which say who has which address.
    fn event(request: &Packet, client: &Client, reply: Option<&Packet>) -> Option<Event> {
        let had = Some(request.ciaddr).filter(|address| !address.is_unspecified());
        let given = reply.map(|reply| reply.yiaddr).filter(|address| !address.is_unspecified());
        let address = had.or(given).or_else(|| request.address(option::ADDRESS));
        let what = match (client.kind, request.kind()?, reply.and_then(Packet::kind)) {
            (Kind::Other(_), kind::DISCOVER, _) => What::Lost("there are no boot files for it"),
            (Kind::System, kind::REQUEST, Some(kind::ACK)) => What::Leased,
            (Kind::System, kind::DISCOVER, _) => return None,
            (_, kind::DISCOVER, Some(kind::OFFER)) => {
                What::Named(String::from_utf8_lossy(&reply?.file).into_owned())
            }
            (_, kind::REQUEST, _) => What::Seen,
            _ => return None,
        };
        Some(Event { address, mac: Some(request.chaddr), kind: Some(client.kind), what })
    }
}

/// The choice of a menu that a client asks for (PXE, table 2-1: item 71), which the reply repeats; nothing where it asks
/// for none.
fn boot_item(request: &Packet) -> Vec<u8> {
    let mut rest = request.options.get(&option::VENDOR).map(Vec::as_slice).unwrap_or_default();
    while let [number, length, behind @ ..] = rest {
        let Some((value, behind)) = behind.split_at_checked((*length).into()) else { break };
        if *number == 71 {
            return [&[71, *length], value].concat();
        }
        rest = behind;
    }
    Vec::new()
}

/// Where a reply goes (RFC 2131, section 4.1). What a client without an address is sent is broadcast, whatever its flag
/// says: so it needs no entry in the kernel's table of neighbours.
fn destination(port: u16, request: &Packet, reply: &Packet, from: SocketAddrV4) -> SocketAddrV4 {
    if port == BOOT {
        // BIOS asks from port 68, UEFI from 4011: each listens where it asked from.
        return from;
    }
    if !request.giaddr.is_unspecified() {
        return SocketAddrV4::new(request.giaddr, SERVER);
    }
    let is_known = !request.ciaddr.is_unspecified() && reply.kind() == Some(kind::ACK);
    SocketAddrV4::new(if is_known { request.ciaddr } else { Ipv4Addr::BROADCAST }, CLIENT)
}

#[cfg(test)]
mod tests;
