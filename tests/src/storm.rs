//! Clients of `keiki serve` by the thousand, well-behaved and not, and packets that say nothing.
//!
//! - [`Fetch`] what a client fetches, and how. - [`flood`] malformed packets, as fast as they can be sent. - [`Process`] what the server
//!   takes.

mod flood;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

pub use self::flood::{dhcp, http, joins, multicast, tftp};
use crate::network::HERE;

/// How long a client waits for the next bytes before it asks again, or gives up.
const PATIENCE: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(90);

/// Bytes of a block of TFTP, and blocks of a window, as GRUB asks for them.
const BLOCK: usize = 1468;
const WINDOW: u16 = 4;

/// A port of the server.
fn at(port: u16) -> SocketAddr {
    (HERE, port).into()
}

/// Waits until `ends` is set.
fn until(ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a client fetches.
#[derive(Clone, Copy, Debug)]
pub struct Fetch<'a> {
    /// Its name.
    pub name: &'a str,
    /// What has to come.
    pub bytes: &'a [u8],
}

impl Fetch<'_> {
    /// All of it over HTTP, compared; how long that took.
    ///
    /// # Errors
    /// Other bytes come, or none for a minute and a half.
    pub fn http(self) -> Result<Duration> {
        let began = Instant::now();
        let mut stream = self.ask()?;
        let mut bytes = vec![0; 64 << 10];
        let mut head = Vec::new();
        let mut got = 0;
        loop {
            let count = stream.read(&mut bytes).with_context(|| format!("after {got} bytes"))?;
            let mut came = bytes.get(..count).unwrap_or_default();
            if count == 0 {
                ensure!(got == self.bytes.len(), "{}: it ends after {got} bytes", self.name);
                return Ok(began.elapsed());
            }
            if !head.ends_with(b"\r\n\r\n") {
                let end = came.windows(4).position(|four| four == b"\r\n\r\n");
                let (more, rest) = came.split_at(end.context("a long head")? + 4);
                head.extend(more);
                ensure!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
                came = rest;
            }
            let expected = self.bytes.get(got..got + came.len());
            ensure!(expected == Some(came), "{}: other bytes from {got} on", self.name);
            got += came.len();
        }
    }

    /// Asks over HTTP, and reads so many bytes in a second of the answer, until `ends` is set or the server has had enough.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn http_slowly(self, pace: usize, ends: &AtomicBool) -> Result<()> {
        let mut stream = self.ask()?;
        let mut bytes = vec![0; pace];
        while !ends.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(1));
            if pace > 0 && matches!(stream.read(&mut bytes), Ok(0) | Err(_)) {
                until(ends);
            }
        }
        Ok(())
    }

    fn ask(self) -> Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&at(80), LONG)?;
        stream.set_read_timeout(Some(LONG))?;
        let name = self.name;
        write!(stream, "GET /{name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        Ok(stream)
    }

    /// All of it over TFTP, compared; how long that took.
    ///
    /// # Errors
    /// Other bytes come, an error, or not all of it in a minute and a half.
    pub fn tftp(self) -> Result<Duration> {
        let began = Instant::now();
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let request =
            format!("\0\x01{}\0octet\0blksize\0{BLOCK}\0windowsize\0{WINDOW}\0", self.name);
        // What was said last, and to whom; it is said again where nothing comes.
        let (mut said, mut to) = (request.into_bytes(), at(69));
        socket.send_to(&said, to)?;
        let (mut packet, mut got, mut next) = (vec![0; BLOCK + 4], 0, 1_u16);
        loop {
            ensure!(began.elapsed() < LONG, "{}: {got} bytes after {LONG:?}", self.name);
            let Ok((length, from)) = socket.recv_from(&mut packet) else {
                socket.send_to(&said, to)?;
                continue;
            };
            let (number, data) = match packet.get(..length).unwrap_or_default() {
                [0, 3, high, low, data @ ..] => ([*high, *low], data),
                // The options are acknowledged as block 0.
                [0, 6, ..] if got == 0 => ([0, 0], &[][..]),
                [0, 6, ..] => continue,
                other => bail!("{}: {}", self.name, String::from_utf8_lossy(other)),
            };
            let is_last = !data.is_empty() && data.len() < BLOCK;
            if !data.is_empty() {
                if number != next.to_be_bytes() {
                    continue;
                }
                let expected = self.bytes.get(got..got + data.len());
                ensure!(expected == Some(data), "{}: other bytes from {got} on", self.name);
                (got, next) = (got + data.len(), next.wrapping_add(1));
            }
            if u16::from_be_bytes(number).is_multiple_of(WINDOW) || is_last {
                (said, to) = ([[0, 4], number].concat(), from);
                socket.send_to(&said, to)?;
            }
            if is_last {
                ensure!(got == self.bytes.len(), "{}: it ends after {got} bytes", self.name);
                return Ok(began.elapsed());
            }
        }
    }

    /// Asks over TFTP, and says nothing more until `ends` is set.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn tftp_and_silence(self, ends: &AtomicBool) -> Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let request = format!("\0\x01{}\0octet\0windowsize\x0016\0timeout\x00255\0", self.name);
        socket.send_to(request.as_bytes(), at(69))?;
        until(ends);
        Ok(())
    }
}

/// Connects, and sends a byte of a head in a second, behind so many bytes of it, until `ends` is set.
///
/// # Errors
/// Nobody takes the connection.
pub fn slow_head(first: usize, ends: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&at(80), LONG)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    drop(
        stream
            .write_all(b"GET / HTTP/1.1\r\nX: ")
            .and_then(|()| stream.write_all(&vec![b'a'; first])),
    );
    while !ends.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_secs(1));
        // The server may have had enough.
        drop(stream.write_all(b"a"));
    }
    Ok(())
}

/// Connects and says nothing until `ends` is set.
///
/// # Errors
/// Nobody takes the connection.
pub fn silence(ends: &AtomicBool) -> Result<()> {
    let _stream = TcpStream::connect_timeout(&at(80), LONG)?;
    until(ends);
    Ok(())
}

/// A process that runs.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// A line of its status: `VmHWM` is the most memory that it ever took, in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn status(self, name: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("no {name}"))?.parse()?)
    }

    /// How many files and sockets it has open.
    ///
    /// # Errors
    /// It has ended.
    pub fn descriptors(self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.0))?.count())
    }
}
