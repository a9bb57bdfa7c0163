//! Packets that say nothing: random ones, valid ones with some bytes changed, and beginnings of them, as fast as they can be sent. Each
//! function sends until `ends` is set, and says how many it sent.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use netboot::dhcp::packet::Packet;
use netboot::event::Mac;
use netboot::multicast::packet::Body;
use netboot::multicast::status::Status;

use super::at;
use crate::room::insider::Session;

/// The longest packet of an Ethernet.
const LONGEST: usize = 1472;

/// What is made of a packet.
fn spoiled(valid: &[u8]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    match fastrand::u8(..4) {
        0 => {
            bytes.resize(fastrand::usize(..LONGEST), 0);
            fastrand::Rng::new().fill(&mut bytes);
        }
        1 => bytes.truncate(fastrand::usize(..=valid.len())),
        _ => {
            for _ in 0..fastrand::u8(1..6) {
                let at = fastrand::usize(..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = fastrand::u8(..);
                }
            }
        }
    }
    bytes
}

/// Sends packets to ports of the server, from several of our own.
fn send(ports: &[u16], ends: &AtomicBool, make: impl Fn() -> Vec<u8>) -> Result<u64> {
    let bind = |_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let sockets = (0..32).map(bind).collect::<Result<Vec<_>, _>>()?;
    let mut sent = 0;
    while !ends.load(Ordering::Relaxed) {
        for (socket, port) in sockets.iter().zip(ports.iter().cycle()) {
            // What the network does not take is no loss.
            sent += u64::from(socket.send_to(&make(), at(*port)).is_ok());
        }
    }
    Ok(sent)
}

/// To the ports of DHCP.
///
/// # Errors
/// There is no network.
pub fn dhcp(ends: &AtomicBool) -> Result<u64> {
    send(&[67, 4011], ends, || {
        let options = [
            (53, vec![fastrand::u8(1..9)]),
            (50, vec![10, 77, 0, fastrand::u8(..)]),
            (60, b"PXEClient:Arch:00007:UNDI:003016".to_vec()),
            (93, vec![0, fastrand::u8(..20)]),
            (97, vec![7; 17]),
        ];
        let chaddr = Mac([2, 7, 7, 7, 7, 7]);
        spoiled(&Packet { chaddr, options: options.into(), ..Packet::default() }.bytes())
    })
}

/// To the port of TFTP.
///
/// # Errors
/// There is no network.
pub fn tftp(ends: &AtomicBool) -> Result<u64> {
    let requests: [&[u8]; 4] = [
        b"\0\x01shimx64.efi\0octet\0blksize\x001468\0windowsize\x0016\0tsize\x000\0",
        b"\0\x01boot/vmlinuz\0octet\0blksize\x008\0windowsize\x0065535\0",
        b"\0\x02grub/grub.cfg\0netascii\0",
        b"\0\x04\0\x01",
    ];
    send(&[69], ends, || spoiled(requests.get(fastrand::usize(..4)).copied().unwrap_or_default()))
}

/// To the port of multicast sessions; half of them from somebody who has the key.
///
/// # Errors
/// There is no network.
pub fn multicast(session: &Session, ends: &AtomicBool) -> Result<u64> {
    send(&[7377], ends, || {
        let status = Status {
            seen: fastrand::u32(..),
            until: fastrand::u32(..),
            loss: fastrand::f32(),
            page: fastrand::u32(..9),
            words: vec![fastrand::u64(..); fastrand::usize(..64)],
            deficits: vec![(fastrand::u32(..80), fastrand::u16(..)); fastrand::usize(..100)],
        };
        // Numbers that nobody was given yet: a real client is not to be spoken for.
        let body = match fastrand::bool() {
            true => Body::Status(fastrand::u16(1000..), status),
            false => Body::Leave(fastrand::u16(1000..)),
        };
        let packet = spoiled(&session.packet(fastrand::u32(..), body));
        if fastrand::bool() { session.signed(&packet) } else { packet }
    })
}

/// To the port of HTTP: one connection after another.
///
/// # Errors
/// Nobody takes a connection.
pub fn http(ends: &AtomicBool) -> Result<u64> {
    let requests: [&[u8]; 3] = [
        b"GET /boot/vmlinuz HTTP/1.1\r\nHost: x\r\nRange: bytes=5-9\r\nIf-Range: \"x\"\r\n\r\n",
        b"POST /repo/packs/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n",
        b"HEAD /repo/../../etc/%70asswd HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n",
    ];
    let mut sent = 0;
    while !ends.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect_timeout(&at(80), Duration::from_secs(60))?;
        let valid = requests.get(fastrand::usize(..3)).copied().unwrap_or_default();
        drop(stream.write_all(&spoiled(valid)));
        if fastrand::bool() {
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            drop(stream.read(&mut [0; 100]));
        }
        sent += 1;
    }
    Ok(sent)
}

/// Asks for numbers in the session of the image with this id, and uses none of them.
///
/// # Errors
/// Nobody answers.
pub fn joins(id: &str, ends: &AtomicBool) -> Result<u64> {
    let mut sent = 0;
    let mut said = vec![0; 4096];
    let mut stream = TcpStream::connect_timeout(&at(80), Duration::from_secs(60))?;
    while !ends.load(Ordering::Relaxed) {
        write!(stream, "GET /repo/room/{id}.join HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let count = stream.read(&mut said)?;
        anyhow::ensure!(count > 0, "the connection ended");
        sent += 1;
    }
    Ok(sent)
}
