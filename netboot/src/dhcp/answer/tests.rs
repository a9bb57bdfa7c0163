//! Requests as firmware sends them, recorded in QEMU (iPXE's ROM, OVMF), and what each is answered.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{any, proptest};

use super::{Answer, BOOT, BootFiles, CLIENT, Desk, Restored, SERVER};
use crate::dhcp::leases::Leases;
use crate::dhcp::packet::{Packet, kind, option};
use crate::event::{Event, Kind, Mac, What};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 50);
const MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT);
/// Option 97: a type, and the UUID of the machine.
const MACHINE: [u8; 17] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn desk(leases: bool) -> Desk {
    let files = BootFiles {
        bios: "keiki.pxe".to_owned(),
        uefi: "shimx64.efi".to_owned(),
        http: "http://10.77.0.1/shimx64.efi".to_owned(),
    };
    let range = "10.77.0.50-10.77.0.99".parse().unwrap();
    let leases = leases.then(|| Leases::new(range, HERE));
    Desk { here: HERE, mask: Ipv4Addr::new(255, 255, 255, 0), files, leases, restored: None }
}

/// A request, as a client without an address sends it.
fn request(kind: u8, class: &str, architecture: Option<u16>) -> Packet {
    let mut options =
        BTreeMap::from([(option::KIND, vec![kind]), (option::MACHINE, MACHINE.into())]);
    if !class.is_empty() {
        options.insert(option::CLASS, class.into());
    }
    if let Some(number) = architecture {
        options.insert(option::ARCHITECTURE, number.to_be_bytes().into());
    }
    Packet { xid: [9, 8, 7, 6], secs: 4, chaddr: MAC, options, ..Packet::default() }
}

/// iPXE's ROM in a PC with BIOS; OVMF; OVMF that boots over HTTP.
fn bios(kind: u8) -> Packet {
    let mut packet = request(kind, "PXEClient:Arch:00000:UNDI:002001", Some(0));
    packet.options.insert(77, b"iPXE".into());
    packet.options.insert(94, vec![1, 2, 1]);
    packet.options.insert(option::IPXE, vec![177, 5, 1, 0x1a, 0xf4, 0x10, 0, 0xeb, 3, 1, 0, 0]);
    packet
}

fn uefi(kind: u8) -> Packet {
    let packet = request(kind, "PXEClient:Arch:00007:UNDI:003000", Some(7));
    Packet { flags: 0x8000, ..packet }
}

fn http(kind: u8) -> Packet {
    let packet = request(kind, "HTTPClient:Arch:00016:UNDI:003000", Some(16));
    Packet { flags: 0x8000, ..packet }
}

fn asked(desk: &mut Desk, packet: &Packet) -> (Option<Answer>, Option<Event>) {
    // Through bytes, as it comes.
    desk.answer(SERVER, &Packet::parse(&packet.bytes()).unwrap(), NOBODY, 0)
}

fn answered(desk: &mut Desk, packet: &Packet) -> Answer {
    asked(desk, packet).0.unwrap()
}

fn text(packet: &Packet, number: u8) -> Option<&str> {
    packet.options.get(&number).map(|value| std::str::from_utf8(value).unwrap())
}

#[test]
fn beside_another_server_only_the_boot_file_is_told() {
    let mut desk = desk(false);
    for (packet, class, file, vendor) in [
        (bios(kind::DISCOVER), "PXEClient", "keiki.pxe", Some(vec![6, 1, 8, 255])),
        (uefi(kind::DISCOVER), "PXEClient", "shimx64.efi", Some(vec![6, 1, 8, 255])),
        (http(kind::DISCOVER), "HTTPClient", "http://10.77.0.1/shimx64.efi", None),
    ] {
        let Answer { packet: offer, to } = answered(&mut desk, &packet);
        assert_eq!(to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
        assert_eq!((offer.kind(), offer.xid, offer.chaddr), (Some(kind::OFFER), packet.xid, MAC));
        assert!(offer.is_reply && offer.yiaddr.is_unspecified());
        assert_eq!((offer.siaddr, offer.address(option::SERVER)), (HERE, Some(HERE)));
        assert_eq!(offer.options.get(&option::MACHINE).unwrap(), &MACHINE);
        assert_eq!(offer.file, file.as_bytes());
        assert_eq!(text(&offer, option::CLASS), Some(class));
        assert_eq!(offer.options.get(&option::VENDOR).cloned(), vendor);
        let priority = (packet == bios(kind::DISCOVER)).then_some(vec![1, 1, 1]);
        assert_eq!(offer.options.get(&option::IPXE).cloned(), priority);
        for number in [option::MASK, option::LEASE_TIME] {
            assert!(!offer.options.contains_key(&number));
        }
        let url = (class == "HTTPClient").then_some(file);
        assert_eq!(text(&offer, option::BOOT_FILE), url);
        // The rest is between the client and the server that hands out addresses; we only hear its address.
        let mut taken = Packet { options: packet.options.clone(), ..packet };
        taken.options.insert(option::KIND, vec![kind::REQUEST]);
        taken.options.insert(option::SERVER, OTHER.octets().into());
        taken.options.insert(option::ADDRESS, FIRST.octets().into());
        let (none, event) = asked(&mut desk, &taken);
        assert_eq!(none, None);
        let event = event.unwrap();
        assert_eq!((event.address, event.mac, event.what), (Some(FIRST), Some(MAC), What::Seen));
    }
}

#[test]
fn a_boot_server_answers_where_it_was_asked_from() {
    let mut desk = desk(false);
    for (packet, port, vendor) in [
        (bios(kind::REQUEST), 68, vec![6, 1, 8, 71, 4, 128, 0, 0, 0, 255]),
        (uefi(kind::REQUEST), 4011, vec![6, 1, 8, 255]),
    ] {
        let mut packet = Packet { ciaddr: FIRST, ..packet };
        if port == 68 {
            packet.options.insert(option::VENDOR, vec![71, 4, 128, 0, 0, 0, 255]);
        }
        let from = SocketAddrV4::new(FIRST, port);
        let answer = desk.answer(BOOT, &packet, from, 0).0.unwrap();
        assert_eq!((answer.to, answer.packet.kind()), (from, Some(kind::ACK)));
        assert_eq!((answer.packet.ciaddr, answer.packet.siaddr), (FIRST, HERE));
        assert_eq!(answer.packet.options.get(&option::VENDOR), Some(&vendor));
        assert!(!answer.packet.file.is_empty());
    }
    let other = Packet { ciaddr: FIRST, ..request(kind::REQUEST, "", None) };
    assert_eq!(desk.answer(BOOT, &other, SocketAddrV4::new(FIRST, 68), 0).0, None);
}

#[test]
fn alone_it_hands_out_addresses_to_everyone() {
    let mut desk = desk(true);
    for (packet, file, class) in [
        (bios(kind::DISCOVER), "keiki.pxe", None),
        (uefi(kind::DISCOVER), "shimx64.efi", None),
        (http(kind::DISCOVER), "http://10.77.0.1/shimx64.efi", Some("HTTPClient")),
        (request(kind::DISCOVER, "udhcp 1.35.0", None), "", None),
        (request(kind::DISCOVER, "", None), "", None),
    ] {
        let mut taken = packet.clone();
        let offer = answered(&mut desk, &packet).packet;
        assert_eq!(
            (offer.kind(), offer.yiaddr),
            (Some(kind::OFFER), FIRST),
            "one client, one address"
        );
        taken.options.insert(option::KIND, vec![kind::REQUEST]);
        taken.options.insert(option::ADDRESS, FIRST.octets().into());
        taken.options.insert(option::SERVER, HERE.octets().into());
        let ack = answered(&mut desk, &taken);
        assert_eq!(ack.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
        for packet in [&offer, &ack.packet] {
            assert_eq!(packet.file, file.as_bytes());
            assert_eq!(packet.siaddr, if file.is_empty() { Ipv4Addr::UNSPECIFIED } else { HERE });
            assert_eq!(packet.address(option::MASK), Some(Ipv4Addr::new(255, 255, 255, 0)));
            assert_eq!(packet.options[&option::LEASE_TIME], [0, 0, 0x38, 0x40]);
            assert_eq!(text(packet, option::CLASS), class);
            assert!(!packet.options.contains_key(&option::VENDOR));
        }
        assert_eq!((ack.packet.kind(), ack.packet.yiaddr), (Some(kind::ACK), FIRST));
    }
}

#[test]
fn renewals_refusals_and_other_servers() {
    let mut desk = desk(true);
    let of = |kind, more: &[(u8, Ipv4Addr)]| {
        let mut packet = request(kind, "", None);
        packet.options.extend(more.iter().map(|(n, address)| (*n, address.octets().into())));
        packet
    };
    answered(&mut desk, &of(kind::DISCOVER, &[]));
    let chosen = of(kind::REQUEST, &[(option::SERVER, OTHER), (option::ADDRESS, FIRST)]);
    assert_eq!(asked(&mut desk, &chosen).0, None, "it chose another server");
    let far = Ipv4Addr::new(192, 168, 1, 7);
    let nak = answered(&mut desk, &of(kind::REQUEST, &[(option::ADDRESS, far)]));
    assert_eq!(nak.packet.kind(), Some(kind::NAK), "it comes from another network");
    assert_eq!(nak.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
    assert!(nak.packet.yiaddr.is_unspecified() && nak.packet.file.is_empty());
    let renewed = Packet { ciaddr: FIRST, ..of(kind::REQUEST, &[]) };
    let ack = answered(&mut desk, &renewed);
    assert_eq!((ack.packet.kind(), ack.to), (Some(kind::ACK), SocketAddrV4::new(FIRST, 68)));
    let inform = Packet { ciaddr: FIRST, ..of(kind::INFORM, &[]) };
    let ack = answered(&mut desk, &inform).packet;
    assert!(ack.yiaddr.is_unspecified() && !ack.options.contains_key(&option::LEASE_TIME));
    for kind in [kind::DECLINE, kind::RELEASE, kind::OFFER, 0, 99] {
        assert_eq!(asked(&mut desk, &of(kind, &[(option::ADDRESS, FIRST)])).0, None, "{kind}");
    }
    let next = answered(&mut desk, &of(kind::DISCOVER, &[])).packet.yiaddr;
    assert_eq!(next, Ipv4Addr::new(10, 77, 0, 51), "the first one is in use, the client said");
}

#[test]
fn relays_get_the_replies_for_what_is_behind_them() {
    let relay = Ipv4Addr::new(10, 88, 0, 1);
    let behind = |packet| Packet { giaddr: relay, hops: 1, ..packet };
    let answer = answered(&mut desk(false), &behind(bios(kind::DISCOVER)));
    assert_eq!(answer.to, SocketAddrV4::new(relay, 67));
    assert_eq!((answer.packet.giaddr, answer.packet.siaddr), (relay, HERE));
    // Addresses of this network are of no use in that one.
    assert_eq!(asked(&mut desk(true), &behind(bios(kind::DISCOVER))).0, None);
    let near = Packet { giaddr: Ipv4Addr::new(10, 77, 0, 254), ..bios(kind::DISCOVER) };
    assert_eq!(answered(&mut desk(true), &near).to, SocketAddrV4::new(near.giaddr, 67));
}

#[test]
fn who_is_not_meant_hears_nothing() {
    let kinds = |architecture| {
        ["PXEClient:Arch:x", "HTTPClient:Arch:x", "udhcp"].map(|class| {
            let packet = request(kind::DISCOVER, class, architecture);
            let (answer, event) = asked(&mut desk(false), &packet);
            assert_eq!(
                answer.is_some(),
                event.as_ref().is_some_and(|e| matches!(e.what, What::Named(_)))
            );
            event.and_then(|event| event.kind)
        })
    };
    use Kind::{Bios, Other, Uefi, UefiHttp};
    assert_eq!(kinds(None), [Some(Bios), Some(Other(0)), None]);
    assert_eq!(kinds(Some(0)), [Some(Bios), Some(Other(0)), None]);
    assert_eq!(kinds(Some(6)), [Some(Other(6)), Some(Other(6)), None]);
    assert_eq!(kinds(Some(7)), [Some(Uefi), Some(Other(7)), None]);
    assert_eq!(kinds(Some(9)), [Some(Uefi), Some(Other(9)), None]);
    assert_eq!(kinds(Some(11)), [Some(Other(11)), Some(Other(11)), None]);
    assert_eq!(kinds(Some(16)), [Some(Other(16)), Some(UefiHttp), None]);
    let reply = Packet { is_reply: true, ..bios(kind::DISCOVER) };
    assert_eq!(asked(&mut desk(true), &reply), (None, None));
    let plain = Packet { options: BTreeMap::new(), ..bios(0) };
    assert_eq!(asked(&mut desk(true), &plain), (None, None), "BOOTP");
}

proptest! {
    /// Whatever comes: no panic, no address outside of the range, none beside another server, no reply to a reply.
    #[test]
    fn no_request_is_too_strange(
        what in any::<(bool, bool, u8, [u8; 4], [u8; 4], u8)>(),
        options in vec((0_usize..10, vec(any::<u8>(), 0..40)), 0..8),
        alone in any::<bool>(),
    ) {
        let (is_reply, boot, message, ciaddr, giaddr, last) = what;
        let known = [option::MASK, 43, 50, 51, 53, 54, 60, 93, 97, 71];
        let mut packet = request(message % 10, ["PXEClient", "HTTPClient", "x"][usize::from(last) % 3], Some(u16::from(last) % 18));
        packet.options.extend(options.into_iter().map(|(which, value)| (known[which], value)));
        let packet = Packet { is_reply, ciaddr: ciaddr.into(), giaddr: giaddr.into(), ..packet };
        let port = if boot { BOOT } else { SERVER };
        let answer = desk(alone).answer(port, &packet, NOBODY, 7).0;
        if let Some(Answer { packet: reply, .. }) = answer {
            assert!(!is_reply && reply.is_reply);
            let given = reply.yiaddr;
            let range = FIRST..=Ipv4Addr::new(10, 77, 0, 99);
            assert!(given.is_unspecified() || (alone && range.contains(&given)));
            assert!(alone || !reply.file.is_empty());
            Packet::parse(&reply.bytes()).unwrap();
        }
    }
}

#[derive(Debug)]
struct Known(Mac, [u8; 16]);

impl Restored for Known {
    fn is_restored(&self, mac: Mac, uuid: Option<&[u8; 16]>) -> bool {
        mac == self.0 && uuid == Some(&self.1)
    }
}

#[test]
fn who_is_restored_is_told_no_boot_file() {
    let uuid = *MACHINE[1..].first_chunk().unwrap();
    for make in [bios, uefi, http] {
        let mut desk = Desk { restored: Some(Arc::new(Known(MAC, uuid))), ..desk(false) };
        let (answer, event) = asked(&mut desk, &make(kind::DISCOVER));
        assert_eq!(answer, None);
        let said = What::Lost("is restored, and starts from its own disk");
        assert_eq!(event.map(|event| event.what), Some(said));
        let boot = desk.answer(BOOT, &make(kind::REQUEST), NOBODY, 0).0;
        assert_eq!(boot, None);
        // It gets its address where there is nobody else who has one for it.
        desk.leases = self::desk(true).leases;
        let offer = answered(&mut desk, &make(kind::DISCOVER)).packet;
        assert_eq!((offer.yiaddr, offer.file.as_slice()), (FIRST, &b""[..]));
        assert!(!offer.options.contains_key(&option::BOOT_FILE));
        // Another machine with the same adapter, such as that of a dock.
        desk.restored = Some(Arc::new(Known(MAC, [7; 16])));
        assert!(!answered(&mut desk, &make(kind::DISCOVER)).packet.file.is_empty());
    }
}
