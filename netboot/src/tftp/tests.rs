//! Requests as clients on the wire send them, on the loopback.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{BLOCK, MOST, Served, WINDOW, serve_within};
use crate::event::{Event, Events, What};
use crate::files::Files;

struct Server {
    at: SocketAddr,
    events: Receiver<Event>,
    ends: Option<async_channel::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(files: Files) -> Self {
        Self::within(MOST, files)
    }

    fn within(most: usize, files: Files) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = socket.local_addr().unwrap();
        let (tell, events) = sync_channel(1000);
        let (ends, ended) = async_channel::bounded(1);
        let (files, places) = (Arc::new(files), Arc::new(()));
        let served = Served { files, events: Events(tell), places, most };
        let thread = serve_within(socket, served, ended).unwrap();
        Self { at, events, ends: Some(ends), thread: Some(thread) }
    }

    /// A client's socket, and the answer to what it sends first.
    fn ask(&self, request: &[u8]) -> (UdpSocket, SocketAddr, Vec<u8>) {
        ask(self.at, request)
    }

    /// Reads a file as a client does that knows windows; its bytes.
    fn fetch(&self, request: &[u8], shape: (usize, usize)) -> Vec<u8> {
        fetched(self.ask(request), shape)
    }
}

fn ask(at: SocketAddr, request: &[u8]) -> (UdpSocket, SocketAddr, Vec<u8>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(request, at).unwrap();
    let (from, answer) = next(&socket);
    (socket, from, answer)
}

/// The rest of a file, behind the first answer.
fn fetched(
    (socket, peer, mut answer): (UdpSocket, SocketAddr, Vec<u8>),
    (block, window): (usize, usize),
) -> Vec<u8> {
    let mut got = Vec::new();
    let (mut expected, mut unsaid) = (1_u16, 0);
    if answer[1] == 6 {
        socket.send_to(&[0, 4, 0, 0], peer).unwrap();
        answer = next(&socket).1;
    }
    loop {
        assert_eq!(answer[..2], [0, 3]);
        if answer[2..4] == expected.to_be_bytes() {
            got.extend(&answer[4..]);
            expected = expected.wrapping_add(1);
            unsaid += 1;
            let is_last = answer.len() < block + 4;
            if unsaid == window || is_last {
                socket.send_to(&[0, 4, answer[2], answer[3]], peer).unwrap();
                unsaid = 0;
            }
            if is_last {
                return got;
            }
        }
        answer = next(&socket).1;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.ends.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn next(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut bytes = [0; 70_000];
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    (from, bytes[..length].to_vec())
}

fn request(name: &str, options: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0, 1];
    for word in [name, "octet"].iter().chain(options) {
        bytes.extend(word.bytes());
        bytes.push(0);
    }
    bytes
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 / 3) as u8).collect()
}

fn files() -> Files {
    let mut files = Files::default();
    files.add("grub/grub.cfg", "menu");
    files.add("big", content(3_000_000));
    files.add("even", content(1024));
    files.add("empty", "");
    files
}

#[test]
fn each_client_gets_what_it_asks_for() {
    let server = Server::new(files());
    // iPXE; pxelinux; OVMF; shim; GRUB; a client of 1981.
    let window = WINDOW.to_string();
    for (options, shape) in [
        (vec!["blksize", "1432", "tsize", "0"], (1432, 1)),
        (vec!["tsize", "0", "blksize", "1408"], (1408, 1)),
        (vec!["blksize", "1468", "windowsize", "4"], (1468, 4)),
        (vec!["blksize", "512", "windowsize", "4"], (512, 4)),
        (vec!["blksize", "1024", "tsize", "0"], (1024, 1)),
        (vec!["BLKSIZE", "1468", "windowsize", &window], (1468, WINDOW.into())),
        (vec!["blksize", "9999", "windowsize", "99"], (BLOCK.into(), WINDOW.into())),
        (vec![], (512, 1)),
    ] {
        let got = server.fetch(&request("//big", &options), shape);
        assert!(got == content(3_000_000), "{options:?}");
        assert_eq!(server.fetch(&request("/even", &options), shape), content(1024));
        assert_eq!(server.fetch(&request("empty", &options), shape), b"");
        let told = server.events.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(told.address, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(told.what, What::Fetched("TFTP", "big".to_owned(), 3_000_000));
        for _ in 0..2 {
            server.events.recv_timeout(Duration::from_secs(20)).unwrap();
        }
    }
    let (.., answer) =
        server.ask(&request("big", &["tsize", "0", "blksize", "1468", "windowsize", "4"]));
    let mut words: Vec<&[u8]> = answer[2..].split(|byte| *byte == 0).collect();
    words.sort_unstable();
    assert_eq!(words, [&b""[..], b"1468", b"3000000", b"4", b"blksize", b"tsize", b"windowsize"]);
}

#[test]
fn what_is_not_there_is_said_at_once_and_nothing_is_written() {
    let server = Server::new(files());
    for name in ["none", "", "/", "grub", "../big", "/grub/../big", "ä", "revocations_sbat.efi"] {
        let (.., answer) = server.ask(&request(name, &["blksize", "1024", "tsize", "0"]));
        assert_eq!(answer[..4], [0, 5, 0, 1], "{name}");
    }
    let mut write = request("big", &[]);
    write[1] = 2;
    assert_eq!(server.ask(&write).2[..4], [0, 5, 0, 2]);
}

/// OVMF asks for a size, and stops; others say nothing, or nonsense. It disturbs nobody, and nothing is told of it.
#[test]
fn who_stops_or_talks_nonsense_disturbs_nobody() {
    let server = Server::new(files());
    let size = request("big", &["tsize", "0", "blksize", "1468", "windowsize", "4"]);
    let (socket, peer, answer) = server.ask(&size);
    assert_eq!(answer[..2], [0, 6]);
    socket.send_to(b"\0\x05\0\x08stopped\0", peer).unwrap();
    for nonsense in
        [&b""[..], b"\0", b"\0\x01", b"\0\x01x", b"\0\x01x\0mode\0", b"\0\x09x\0", &[255; 600]]
    {
        socket.send_to(nonsense, server.at).unwrap();
        socket.send_to(nonsense, peer).unwrap();
    }
    assert_eq!(server.fetch(&request("even", &[]), (512, 1)), content(1024));
    let told = server.events.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(told.what, What::Fetched("TFTP", "even".to_owned(), 1024));
}

#[test]
fn a_whole_room_is_switched_on() {
    let server = Server::new(files());
    let at = server.at;
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(move || {
                let options = ["blksize", "1468", "windowsize", "4"];
                let got = fetched(ask(at, &request("big", &options)), (1468, 4));
                assert!(got == content(3_000_000));
            });
        }
    });
    let told: Vec<Event> = server.events.iter().take(40).collect();
    assert_eq!(told.len(), 40);
}

/// Who says nothing more is given up, also where it asked for more patience.
#[test]
fn only_so_many_files_are_sent_at_once() {
    let server = Server::within(1, files());
    let silent = server.ask(&request("even", &["timeout", "255"]));
    assert_eq!(silent.2[..4], [0, 3, 0, 1], "the option is not taken");
    let full = server.ask(&request("even", &[])).2;
    assert_eq!(full, b"\0\x05\0\0too many machines at once\0");
    let until = Instant::now() + Duration::from_secs(40);
    loop {
        let asked = server.ask(&request("even", &[]));
        if asked.2[1] == 3 {
            assert_eq!(fetched(asked, (512, 1)), content(1024));
            return;
        }
        assert!(Instant::now() < until, "it keeps its place");
        thread::sleep(Duration::from_millis(500));
    }
}
