//! What comes over a network: requests of machines that boot, the packets of mass restore, and what a room tells.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver as Told, sync_channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use image_core::image::codec::Decoder;
use image_core::image::hash::ChunkId;
use image_core::units::Bytes;
use netboot::dhcp::answer::{BootFiles, Desk};
use netboot::dhcp::leases::Leases;
use netboot::dhcp::packet::Packet as Request;
use netboot::event::{Event, Events};
use netboot::files::Files;
use netboot::multicast::blocks::Blocks;
use netboot::multicast::packet::{Body, Packet};
use netboot::multicast::receiver::Receiver;
use netboot::multicast::sender::{Next, Sender};
use netboot::multicast::symbols::{self, Incoming};
use netboot::room::blocks;
use netboot::{http, tftp};

use super::guest::Host;

/// Pieces of an input, each behind its length in two bytes.
fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = input.split_first_chunk()?;
        let (piece, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        input = rest;
        Some(piece)
    })
}

/// One client after another: every answer is a packet again.
pub fn dhcp(input: &[u8]) {
    let [here, mask, client] =
        [[10, 0, 0, 1], [255, 255, 255, 0], [10, 0, 0, 9]].map(Ipv4Addr::from);
    let files = ["keiki.pxe", "shimx64.efi", "http://10.0.0.1/shimx64.efi"].map(str::to_owned);
    let [bios, uefi, http] = files;
    let range = "10.0.0.50-10.0.0.52".parse().ok();
    let leases = range.map(|range| Leases::new(range, here));
    let mut desk =
        Desk { here, mask, files: BootFiles { bios, uefi, http }, leases, restored: None };
    for (now, piece) in (0..).step_by(600).zip(pieces(input)) {
        let Some(request) = Request::parse(piece) else { continue };
        let port = if now % 1200 == 0 { 67 } else { 4011 };
        let (answer, _) = desk.answer(port, &request, SocketAddrV4::new(client, 68), now);
        if let Some(answer) = answer {
            let again = Request::parse(&answer.packet.bytes());
            assert_eq!(again.map(|packet| packet.chaddr), Some(request.chaddr));
        }
    }
}

/// Packets of somebody who has the key, to both sides of a session.
pub fn multicast(input: &[u8]) {
    let (key, symbols) = ([7; 32], vec![3, 1, 700, 2]);
    let mut sender = Sender::new(symbols.clone());
    for slot in 0..3 {
        sender.join(slot, Blocks::none(4), 2, Duration::ZERO);
    }
    let mut receiver = Receiver::new(symbols, Blocks::none(4), 2);
    let mut part = Incoming::new(2 * symbols::SYMBOL + 5);
    for (at, piece) in (0..).zip(pieces(input)) {
        let now = Duration::from_millis(at * 40);
        let tag = blake3::keyed_hash(&key, piece);
        let bytes = [piece, tag.as_bytes().first_chunk::<8>().map_or(&[][..], |tag| tag)].concat();
        if let Some(packet) = Packet::from_bytes(&bytes, &key) {
            assert_eq!(packet.to_bytes(&key), bytes);
            match packet.body {
                Body::Status(slot, status) => sender.hear(slot, &status, now),
                Body::Leave(slot) => {
                    sender.leave(slot);
                }
                Body::Plan(_) => receiver.hear(packet.sequence, packet.begun, 0),
                Body::Data { block, symbol, begins, bytes, .. } => {
                    receiver.hear(packet.sequence, packet.begun, 1);
                    let is_new = part.take(symbol, bytes);
                    receiver.take(block, u16::from(is_new), begins);
                }
            }
        }
        if let Next::Send(train) = sender.next(now) {
            assert!(train.block < 4 && train.count > 0);
        }
        sender.look_at_losses();
        let status = receiver.status(now);
        assert!((0.0..=1.0).contains(&status.loss));
    }
    drop(part.whole());
}

/// The list of blocks, and a block of a session.
pub fn room(input: &[u8]) {
    if let Ok(list) = blocks::from_bytes(input) {
        assert_eq!(blocks::to_bytes(&list), input);
        for block in list {
            let k = symbols::source(block.length as usize);
            assert!(block.length < 6 << 20 && k.checked_add(symbols::parity(k)).is_some());
        }
    }
    let Some((count, rest)) = input.split_first() else { return };
    let ids = vec![ChunkId([9; 32]); usize::from(*count)];
    let Ok(chunks) = blocks::decode(rest, &ids) else { return };
    assert_eq!(blocks::encode(&chunks), rest);
    let Ok(mut decoder) = Decoder::new(Bytes::MIB) else { return };
    for chunk in &chunks {
        // No bytes that anybody would find have that id.
        assert!(chunk.decode(&mut decoder).is_err());
    }
}

/// Servers of files, each for all inputs.
struct Servers {
    http: SocketAddr,
    tftp: SocketAddr,
    host: Arc<Host>,
    _told: Mutex<Told<Event>>,
}

const FILE: &[u8] = b"a file that is there";

static SERVERS: LazyLock<Servers> = LazyLock::new(|| match servers() {
    Ok(servers) => servers,
    Err(error) => panic!("{error:#}"),
});

fn servers() -> anyhow::Result<Servers> {
    let (tell, told) = sync_channel(16);
    let mut files = Files::default();
    files.add("file", FILE);
    let host = Arc::new(Host::new()?);
    files.add_takes("repo", host.clone());
    let (files, events) = (Arc::new(files), Events(tell));
    let listener = http::bind(Ipv4Addr::LOCALHOST, 0)?;
    let http = listener.local_addr()?;
    // It runs as long as this process does.
    std::mem::forget(http::serve(listener, Arc::clone(&files), events.clone())?);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let tftp = socket.local_addr()?;
    let (keep, ends) = async_channel::bounded(1);
    std::mem::forget(keep);
    drop(tftp::serve(socket, files, events, ends)?);
    Ok(Servers { http, tftp, host, _told: Mutex::new(told) })
}

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// What the server says to a client.
fn ask(request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(SERVERS.http)?;
    stream.set_read_timeout(PATIENCE)?;
    stream.write_all(request)?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    Ok(said)
}

/// Whatever a client sends, the next one gets its file; and who has the grant of a save changes nothing that is there, and leaves nothing
/// that he may not.
pub fn http(input: &[u8]) {
    SERVERS.host.renew().unwrap_or_else(|error| panic!("{error:#}"));
    match ask(input) {
        // A server may close before it has read everything.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("no end of the answer: {error}")
        }
        _ => {}
    }
    match ask(b"GET /file HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") {
        Ok(said) => assert!(said.ends_with(FILE), "{}", String::from_utf8_lossy(&said)),
        Err(error) => panic!("{error}"),
    }
    SERVERS.host.judge();
}

/// What the server says to a guest, and the paths of the files in its repository then, of which a new one is made before.
///
/// # Errors
/// It does not answer.
pub fn guest(request: &[u8]) -> anyhow::Result<(String, Vec<String>)> {
    SERVERS.host.renew()?;
    let said = ask(request)?;
    let paths = SERVERS.host.paths();
    SERVERS.host.judge();
    Ok((String::from_utf8(said)?, paths))
}

/// Whatever a client sends, the next one gets its file.
pub fn tftp(input: &[u8]) {
    let ask = || -> std::io::Result<Vec<u8>> {
        let hostile = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        for piece in pieces(input).take(4) {
            hostile.send_to(piece, SERVERS.tftp)?;
        }
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut said = [0; 600];
        let ask = || socket.send_to(b"\0\x01file\0octet\0", SERVERS.tftp);
        ask()?;
        let mut asked = 0;
        loop {
            // As clients do: what came from that port a moment ago may be served still.
            let (length, from) = match socket.recv_from(&mut said) {
                Err(_) if asked < 20 => {
                    asked += 1;
                    ask()?;
                    continue;
                }
                came => came?,
            };
            let said = said.get(..length).unwrap_or_default();
            // The port may have been that of another client a moment ago.
            if said.starts_with(b"\0\x03\0\x01") {
                socket.send_to(b"\0\x04\0\x01", from)?;
                return Ok(said.to_vec());
            }
        }
    };
    match ask() {
        Ok(said) => assert!(said.ends_with(FILE), "{said:?}"),
        Err(error) => panic!("{error}"),
    }
}

/// Each piece behind its length, as targets take them.
pub fn joined(pieces: &[&[u8]]) -> Vec<u8> {
    let length = |piece: &[u8]| u16::try_from(piece.len()).unwrap_or(u16::MAX).to_be_bytes();
    pieces.iter().flat_map(|piece| [&length(piece)[..], piece].concat()).collect()
}
