//! A DHCP packet (RFC 2131, section 2) of an Ethernet client.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Range;

use crate::event::Mac;

/// What stands in front of the options, with the magic cookie (RFC 2131, section 3) at its end.
const HEADER: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// No packet that is sent is shorter: old clients and relays drop shorter ones (RFC 1542, section 2.1).
const SHORTEST: usize = 300;

/// Fields in which options may go on (RFC 2132, section 9.3).
const SNAME: Range<usize> = 44..108;
const FILE: Range<usize> = 108..236;

/// Types of messages (RFC 2132, section 9.6).
pub(crate) mod kind {
    pub const DISCOVER: u8 = 1;
    pub const OFFER: u8 = 2;
    pub const REQUEST: u8 = 3;
    pub const DECLINE: u8 = 4;
    pub const ACK: u8 = 5;
    pub const NAK: u8 = 6;
    pub const RELEASE: u8 = 7;
    pub const INFORM: u8 = 8;
}

/// Numbers of options (RFC 2132; 93 and 97: RFC 4578).
pub(crate) mod option {
    pub const MASK: u8 = 1;
    pub const VENDOR: u8 = 43;
    pub const ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const CLASS: u8 = 60;
    pub const BOOT_FILE: u8 = 67;
    pub const ARCHITECTURE: u8 = 93;
    pub const MACHINE: u8 = 97;
    /// iPXE's own, which hold options of their own.
    pub const IPXE: u8 = 175;
}

/// A request or a reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Whether a server sent it.
    pub is_reply: bool,
    /// How many relays it passed.
    pub hops: u8,
    /// What tells an exchange from others.
    pub xid: [u8; 4],
    /// For how long the client has tried, in seconds.
    pub secs: u16,
    /// Bit 15: the client cannot receive unicasts yet.
    pub flags: u16,
    /// The address that the client has and answers at.
    pub ciaddr: Ipv4Addr,
    /// The address that it gets.
    pub yiaddr: Ipv4Addr,
    /// The server that it boots from.
    pub siaddr: Ipv4Addr,
    /// The relay that it is reached by.
    pub giaddr: Ipv4Addr,
    /// The client's adapter.
    pub chaddr: Mac,
    /// The name of its boot file, of 127 bytes at most.
    pub file: Vec<u8>,
    /// Options by their numbers; what came in several parts (RFC 3396) is one.
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Default for Packet {
    /// A request with nothing in it.
    fn default() -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        Self {
            is_reply: false,
            hops: 0,
            xid: [0; 4],
            secs: 0,
            flags: 0,
            ciaddr: none,
            yiaddr: none,
            siaddr: none,
            giaddr: none,
            chaddr: Mac::default(),
            file: Vec::new(),
            options: BTreeMap::new(),
        }
    }
}

impl Packet {
    /// Reads one; none where it is too short, has no cookie, or is not of an Ethernet adapter. An option that is cut off
    /// ends the options: what came before it counts.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let [op, 1, 6, hops, ..] = *header else { return None };
        if !matches!(op, 1 | 2) || header.get(236..)? != COOKIE {
            return None;
        }
        let mut options = BTreeMap::new();
        collect(bytes.get(HEADER..)?, &mut options);
        let overload = options.get(&option::OVERLOAD).and_then(|value| value.first().copied());
        let overload = overload.unwrap_or(0);
        if overload & 1 != 0 {
            collect(header.get(FILE)?, &mut options);
        }
        if overload & 2 != 0 {
            collect(header.get(SNAME)?, &mut options);
        }
        let file = if overload & 1 == 0 { header.get(FILE)? } else { &[] };
        let file = file.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        let address = |at: usize| header.get(at..)?.first_chunk().copied().map(Ipv4Addr::from);
        let number = |at: usize| header.get(at..)?.first_chunk().copied().map(u16::from_be_bytes);
        Some(Self {
            is_reply: op == 2,
            hops,
            xid: *header.get(4..)?.first_chunk()?,
            secs: number(8)?,
            flags: number(10)?,
            ciaddr: address(12)?,
            yiaddr: address(16)?,
            siaddr: address(20)?,
            giaddr: address(24)?,
            chaddr: Mac(*header.get(28..)?.first_chunk()?),
            file,
            options,
        })
    }

    /// Its bytes. The type of the message comes first of all options, where simple clients look for it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![if self.is_reply { 2 } else { 1 }, 1, 6, self.hops];
        bytes.extend(self.xid);
        bytes.extend(self.secs.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            bytes.extend(address.octets());
        }
        bytes.extend(self.chaddr.0);
        bytes.resize(FILE.start, 0);
        bytes.extend(self.file.iter().take(FILE.len() - 1));
        bytes.resize(FILE.end, 0);
        bytes.extend(COOKIE);
        let is_first = |number: &u8| *number == option::KIND;
        let first = self.options.iter().filter(|(number, _)| is_first(number));
        for (number, value) in first.chain(self.options.iter().filter(|(n, _)| !is_first(n))) {
            for part in value.chunks(255) {
                bytes.extend([*number, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
                bytes.extend(part);
            }
        }
        bytes.push(255);
        bytes.resize(bytes.len().max(SHORTEST), 0);
        bytes
    }

    /// The type of the message; none in packets of BOOTP.
    pub fn kind(&self) -> Option<u8> {
        self.options.get(&option::KIND)?.first().copied()
    }

    /// An option that is an address.
    pub fn address(&self, number: u8) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(*self.options.get(&number)?.first_chunk()?))
    }
}

/// Reads options (RFC 2132, section 2) up to their end, or to one that is cut off.
fn collect(bytes: &[u8], options: &mut BTreeMap<u8, Vec<u8>>) {
    let mut rest = bytes;
    loop {
        rest = match rest {
            [0, rest @ ..] => rest,
            [number @ 1..=254, length, behind @ ..] => {
                let Some((value, behind)) = behind.split_at_checked((*length).into()) else {
                    return;
                };
                options.entry(*number).or_default().extend(value);
                behind
            }
            _ => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::collection::{btree_map, vec};
    use proptest::prelude::{Strategy, any, proptest};

    use super::{COOKIE, FILE, HEADER, Packet, SHORTEST, SNAME, option};
    use crate::event::Mac;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[236..].copy_from_slice(&COOKIE);
        bytes
    }

    #[test]
    fn fields_stand_where_the_rfc_has_them() {
        let packet = Packet {
            is_reply: true,
            hops: 1,
            xid: [1, 2, 3, 4],
            secs: 258,
            flags: 0x8000,
            ciaddr: Ipv4Addr::new(10, 0, 0, 1),
            yiaddr: Ipv4Addr::new(10, 0, 0, 2),
            siaddr: Ipv4Addr::new(10, 0, 0, 3),
            giaddr: Ipv4Addr::new(10, 0, 0, 4),
            chaddr: Mac([2, 0, 0, 0, 0, 9]),
            file: b"keiki.pxe".to_vec(),
            options: BTreeMap::from([(1, vec![255, 255, 255, 0]), (option::KIND, vec![2])]),
        };
        let bytes = packet.bytes();
        let start = [2, 1, 6, 1, 1, 2, 3, 4, 1, 2, 0x80, 0, 10, 0, 0, 1, 10, 0, 0, 2, 10, 0, 0, 3];
        assert_eq!(bytes[..24], start);
        assert_eq!(bytes[24..34], [10, 0, 0, 4, 2, 0, 0, 0, 0, 9]);
        assert_eq!(&bytes[108..118], b"keiki.pxe\0");
        let options = [99, 130, 83, 99, 53, 1, 2, 1, 4, 255, 255, 255, 0, 255];
        assert_eq!(bytes[236..250], options);
        assert_eq!(bytes.len(), SHORTEST);
        assert_eq!(Packet::parse(&bytes), Some(packet));
    }

    #[test]
    fn options_go_on_in_parts_and_in_other_fields() {
        let mut bytes = header();
        bytes[FILE.start..][..5].copy_from_slice(&[97, 2, 7, 7, 255]);
        bytes[SNAME.start..][..4].copy_from_slice(&[97, 1, 8, 255]);
        bytes.extend([0, 52, 1, 3, 97, 1, 6, 60, 9, b'P']);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.options[&97], [6, 7, 7, 8]);
        // The last one was cut off, and what has become options is no name of a file.
        assert!(!packet.options.contains_key(&60) && packet.file.is_empty());
        let long = Packet { options: BTreeMap::from([(43, vec![5; 600])]), ..Packet::default() };
        assert_eq!(Packet::parse(&long.bytes()).unwrap().options[&43], [5; 600]);
    }

    #[test]
    fn other_packets_are_none() {
        for (at, value) in [(0, 3), (1, 6), (2, 16), (236, 0), (239, 0)] {
            let mut bytes = header();
            bytes[at] = value;
            assert_eq!(Packet::parse(&bytes), None, "{at}");
        }
        assert!(Packet::parse(&header()).is_some());
        assert_eq!(Packet::parse(&header()[..HEADER - 1]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(mut bytes in vec(any::<u8>(), 0..700), like in any::<bool>()) {
            if like && bytes.len() >= HEADER {
                bytes[..3].copy_from_slice(&[1, 1, 6]);
                bytes[236..240].copy_from_slice(&COOKIE);
            }
            if let Some(packet) = Packet::parse(&bytes) {
                let _ = (packet.kind(), packet.address(option::SERVER));
                Packet::parse(&packet.bytes()).unwrap();
            }
        }

        #[test]
        fn what_is_sent_is_received(
            xid in any::<[u8; 4]>(),
            mac in any::<[u8; 6]>(),
            file in vec(1_u8..=255, 0..127),
            options in btree_map((1_u8..=254).prop_filter("has a meaning here", |n| *n != option::OVERLOAD), vec(any::<u8>(), 1..600), 0..6),
        ) {
            let packet = Packet { xid, chaddr: Mac(mac), file, options, ..Packet::default() };
            assert_eq!(Packet::parse(&packet.bytes()), Some(packet));
        }
    }
}
