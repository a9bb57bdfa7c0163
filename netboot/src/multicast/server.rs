//! A session that runs: what [`Sender`] decides goes to a multicast group, and reports of clients come back.

use std::io::ErrorKind;
use std::iter::Sum;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use image_core::error::{Error, Result};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recvfrom};

use super::members::Members;
use super::pace::{Busy, Pace};
use super::packet::{Body, Key, LONGEST, Packet};
use super::querier;
use super::sender::{Next, Seen, Sender, Train};
use super::shelf::{self, Shelf};
use super::symbols::{self, Outgoing, parity};
use super::unread::Unread;
use crate::{check, secret};

/// Where a session is, and what it may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The ports of the group, and of the server for reports: it takes the first that is free.
    ports: (u16, u16),
    /// What is known of its clients takes so many bytes at most.
    clients: usize,
}

/// The session of an image.
pub const IMAGE: Place = Place { ports: (7377, 7377), clients: 64 << 20 };
/// That of a system.
pub const SYSTEM: Place = Place { ports: (7378, 7378), clients: 64 << 20 };
/// Those of more images.
pub const MORE: Place = Place { ports: (7379, 7399), clients: 8 << 20 };

/// How often the server says what it has sent, and learns what loss is usual.
const PLAN: Duration = Duration::from_millis(50);
/// Packets that the kernel gets at once: 23 KB, which the buffer of a switch takes.
const BATCH: u16 = 16;
/// What a packet with a symbol takes on an Ethernet: headers, checksum, preamble and the gap behind it.
pub(super) const WIRE: u32 = LONGEST as u32 + 28 + 38;
/// Reports that are taken before more is sent: whoever floods the port does not end the session.
const REPORTS: u32 = 4096;
/// Blocks that are read ahead, where there is one session.
const AHEAD: usize = 8;

/// The blocks of a session.
pub trait Source: Send + Sync {
    /// How long each one is, in bytes.
    fn lengths(&self) -> Vec<u32>;

    /// The bytes of one, always the same.
    ///
    /// # Errors
    /// [`Error::Io`]: it is tried again; any other: it is damaged, and is sent to nobody.
    fn read(&self, block: u32) -> Result<Vec<u8>>;
}

/// What whoever joins needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The number of the session.
    pub session: u32,
    /// Its key.
    pub key: Key,
    /// Where its packets go.
    pub group: SocketAddrV4,
    /// Where reports go.
    pub server: SocketAddrV4,
}

/// What a session did until now, or several together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sent {
    /// Packets with symbols.
    pub packets: u64,
    /// Blocks that cannot be read now.
    pub unreadable: u32,
}

impl Sum for Sent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            packets: sum.packets + one.packets,
            unreadable: sum.unreadable + one.unreadable,
        })
    }
}

impl Sent {
    /// Blocks of these lengths, each once.
    pub fn once(lengths: &[u32]) -> Self {
        let symbols = lengths.iter().map(|length| symbols::source(*length as usize));
        Self { packets: symbols.map(u64::from).sum(), unreadable: 0 }
    }

    /// Bytes of the packets with symbols, on the wire of an Ethernet.
    pub fn bytes(&self) -> u64 {
        self.packets.saturating_mul(u64::from(WIRE))
    }
}

/// A session that runs; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    terms: Terms,
    state: Arc<Mutex<State>>,
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    members: Members,
    began: Instant,
    packets: u64,
    unread: Unread,
    /// What people are to be told.
    news: Vec<String>,
}

impl State {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A block was read, or could not be.
    fn came(&mut self, block: u32, read: Result<()>) {
        let (now, sender) = (self.began.elapsed(), &mut self.members.sender);
        if let Err(why) = read {
            sender.withdraw(block);
            self.news.extend(self.unread.add(block, &why, now));
            return;
        }
        let again = self.unread.remove(block);
        if !again.is_empty() {
            self.news.push("what could not be read can be read again".to_owned());
        }
        again.into_iter().for_each(|block| sender.restore(block));
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A thread that panicked has said so; numbers are all that it can have left wrong.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Begins a session on the interface with this address, at one of the places above.
    ///
    /// # Errors
    /// [`Error::Refused`]: the port is taken; [`Error::Io`].
    pub fn start(
        source: Arc<dyn Source>,
        (interface, place): (Ipv4Addr, Place),
        pace: &Pace,
    ) -> Result<Self> {
        let failed = |error| Error::io("multicast", "start", error);
        let (socket, port) = place.bind(interface)?;
        socket2::SockRef::from(&socket).set_multicast_if_v4(&interface).map_err(failed)?;
        check::widen(&socket, check::BUFFER).map_err(failed)?;
        let terms = Terms::new(SocketAddrV4::new(interface, port))?;
        let lengths = source.lengths();
        let symbols = lengths.iter().map(|len| symbols::source(*len as usize)).collect();
        let state = State {
            members: Members::new(Sender::new(symbols), place.clients),
            began: Instant::now(),
            packets: 0,
            unread: Unread::default(),
            news: Vec::new(),
        };
        let (state, ends) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (ask, asked) = channel();
        let (give, given) = channel();
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        let reader = spawn("blocks").spawn(move || shelf::read(source.as_ref(), &asked, &give));
        let shelf = Shelf::new(ask, given, pace.clone());
        let line = Line::new(socket, terms.clone(), pace.clone());
        let ours = (Arc::clone(&state), Arc::clone(&ends));
        let sender = spawn("multicast").spawn(move || {
            // It ends early where the thread that reads did, and that one has said why.
            drop(run(line, shelf, &ours.0, &ours.1));
        });
        let mut threads = vec![sender.map_err(failed)?, reader.map_err(failed)?];
        // On the loopback there is no switch.
        let all = crate::interface::all()?;
        if let Some(interface) = all.iter().find(|one| one.address == interface) {
            threads.push(querier::start(interface, Arc::clone(&ends))?);
        }
        Ok(Self { terms, state, ends, threads })
    }

    /// What a client needs to know.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// A number for somebody who wants to be a client: it is one once it speaks.
    pub fn join(&self) -> u16 {
        let mut state = locked(&self.state);
        let now = state.now();
        state.members.give(now)
    }

    /// Somebody asked for this session: it is about to join, so others wait a moment for it.
    pub fn expect(&self) {
        let mut state = locked(&self.state);
        let now = state.now();
        state.members.expect(now);
    }

    /// What the server knows of its clients.
    pub fn clients(&self) -> Vec<Seen> {
        let state = locked(&self.state);
        state.members.clients(state.now())
    }

    /// Those that have left, and how many blocks each had.
    pub fn left(&self) -> Vec<(Ipv4Addr, u32)> {
        let state = locked(&self.state);
        state.members.left().iter().map(|(address, has)| (*address, *has)).collect()
    }

    /// What was sent.
    pub fn sent(&self) -> Sent {
        let state = locked(&self.state);
        Sent { packets: state.packets, unreadable: state.unread.count() }
    }

    /// What people are to be told of it, once.
    pub fn news(&self) -> Vec<String> {
        std::mem::take(&mut locked(&self.state).news)
    }

    /// Whether one of its threads came to an end, so that nobody gets anything any more.
    pub fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}

impl Place {
    /// Takes the first port that is free.
    fn bind(&self, interface: Ipv4Addr) -> Result<(UdpSocket, u16)> {
        let (mut port, last) = self.ports;
        loop {
            match UdpSocket::bind((interface, port)) {
                Ok(socket) => return Ok((socket, port)),
                Err(error) if error.kind() == ErrorKind::AddrInUse && port < last => port += 1,
                Err(error) => return Err(crate::interface::taken("udp", port, error)),
            }
        }
    }
}

impl Terms {
    fn new(server: SocketAddrV4) -> Result<Self> {
        // Administratively scoped (RFC 2365), and none of those that switches send everywhere (RFC 4541).
        let group = Ipv4Addr::new(239, 192, fastrand::u8(1..255), fastrand::u8(1..255));
        let group = SocketAddrV4::new(group, server.port());
        Ok(Self { session: fastrand::u32(..), key: secret::random()?, group, server })
    }
}

/// The way to the clients.
struct Line {
    socket: UdpSocket,
    terms: Terms,
    pace: Pace,
    in_batches: bool,
    batch: Vec<u8>,
    /// The number of the last symbol, and how often a block was begun until then.
    sent: (u32, u32),
    /// When that is said next.
    plan: Instant,
}

impl Line {
    fn new(socket: UdpSocket, terms: Terms, pace: Pace) -> Self {
        let in_batches = setsockopt(&socket, UdpGsoSegment, &(LONGEST as i32)).is_ok();
        let batch = Vec::with_capacity(LONGEST * usize::from(BATCH));
        Self { socket, terms, pace, in_batches, batch, sent: (0, 0), plan: Instant::now() }
    }

    /// Sends the packets in `batch` when it is their time. What the network does not take is repaired like what it loses.
    fn send(&mut self) {
        self.pace.wait(self.batch.len().div_ceil(LONGEST));
        if self.in_batches && self.socket.send_to(&self.batch, self.terms.group).is_err() {
            // Not every adapter computes checksums, which this needs.
            self.in_batches = false;
            // Too long for any one packet: no longer cut.
            let _ = setsockopt(&self.socket, UdpGsoSegment, &0);
        } else if self.in_batches {
            return self.batch.clear();
        }
        for packet in self.batch.chunks(LONGEST) {
            drop(self.socket.send_to(packet, self.terms.group));
        }
        self.batch.clear();
    }

    /// A packet of the session as bytes.
    fn packet(&self, sequence: u32, begun: u32, body: Body<'_>) -> Vec<u8> {
        Packet { session: self.terms.session, sequence, begun, body }.to_bytes(&self.terms.key)
    }

    /// Says what was sent, where it is time to: who hears nothing for long leaves.
    fn plan(&mut self, state: &Mutex<State>) {
        if Instant::now() < self.plan {
            return;
        }
        self.plan = Instant::now() + PLAN;
        let mut state = locked(state);
        let (now, sender) = (state.now(), &mut state.members.sender);
        sender.look_at_losses();
        self.pace.hear((sender.usual_loss(), sender.common_loss()), now);
        let said = self.packet(self.sent.0, self.sent.1, Body::Plan(sender.period()));
        // It is said again soon.
        drop(self.socket.send_to(&said, self.terms.group));
    }

    /// Sends the symbols of a train.
    fn train(
        &mut self,
        train: Train,
        block: &mut Outgoing,
        (state, ends): (&Mutex<State>, &AtomicBool),
    ) {
        self.sent = (train.last(), train.begun);
        let k = block.symbols();
        let all = u32::from(k) + u32::from(parity(k));
        for at in 0..train.count {
            let number = (u32::from(train.first) + u32::from(at)) % all.max(1);
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let Some(bytes) = block.symbol(number) else { return };
            let left = train.count - at - 1;
            let body = Body::Data {
                block: train.block,
                symbol: number,
                left,
                begins: train.begins,
                bytes,
            };
            let sequence = train.sequence.wrapping_add(u32::from(at));
            let packet = self.packet(sequence, train.begun, body);
            self.batch.extend(packet);
            if left.is_multiple_of(BATCH) {
                let packets = self.batch.len().div_ceil(LONGEST);
                self.send();
                locked(state).packets += packets as u64;
                if ends.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }

    /// Takes the reports that came.
    fn reports(&self, state: &Mutex<State>) {
        let mut bytes = [0; 2048];
        for _ in 0..REPORTS {
            let came = recvfrom(&self.socket, &mut bytes, RecvFlags::DONTWAIT);
            let Ok((said, _, from)) = came else { return };
            let said = bytes.get(..said).unwrap_or_default();
            let from = from.and_then(|from| SocketAddrV4::try_from(from).ok());
            let packet = Packet::from_bytes(said, &self.terms.key);
            let Some((packet, from)) = packet.zip(from) else { continue };
            if packet.session != self.terms.session {
                continue;
            }
            let mut state = locked(state);
            let now = state.now();
            match packet.body {
                Body::Status(slot, status) => state.members.hear(slot, &status, *from.ip(), now),
                Body::Leave(slot) => state.members.leave(slot, *from.ip()),
                Body::Data { .. } | Body::Plan(_) => {}
            }
        }
    }

    /// Waits until somebody speaks, at most so long.
    fn listen(&self, most: Duration) {
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        let most = Timespec { tv_sec: 0, tv_nsec: i64::from(most.min(PLAN).subsec_nanos()) };
        // Where it fails, it is asked again at once.
        let _ = poll(&mut sockets, Some(&most));
    }
}

fn run(mut line: Line, mut shelf: Shelf, state: &Mutex<State>, ends: &AtomicBool) -> Result<()> {
    let mut busy = None;
    while !ends.load(Ordering::Relaxed) {
        line.reports(state);
        while let Some((block, read)) = shelf.next(Duration::ZERO)? {
            locked(state).came(block, read);
        }
        line.plan(state);
        let (next, ahead, again, now) = {
            let mut state = locked(state);
            let now = state.now();
            let next = state.members.next(now);
            let ahead = state.members.sender.ahead(line.pace.share(AHEAD));
            (next, ahead, state.unread.due(now), now)
        };
        if next == Next::Idle {
            busy = None;
            shelf.clear();
        } else if busy.is_none() {
            busy = Some(Busy::new(&line.pace));
        }
        again.into_iter().for_each(|block| shelf.ask(block));
        match next {
            Next::Send(train) => {
                shelf.ask(train.block);
                ahead.into_iter().for_each(|block| shelf.ask(block));
                while shelf.is_asked(train.block) && !ends.load(Ordering::Relaxed) {
                    line.plan(state);
                    if let Some((block, read)) = shelf.next(PLAN)? {
                        locked(state).came(block, read);
                    }
                }
                match shelf.get(train.block) {
                    Some(block) => line.train(train, block, (state, ends)),
                    None => locked(state).members.sender.unsent(train),
                }
            }
            Next::Wait(until) => line.listen(until.saturating_sub(now)),
            Next::Idle => line.listen(PLAN),
        }
    }
    Ok(())
}
