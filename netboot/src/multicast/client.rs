//! A client of a session: what it hears becomes blocks, and the server is told what is missing.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Channel, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use image_core::error::{Error, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::blocks::Blocks;
use super::packet::{Body, LONGEST, Packet};
use super::receiver::{Receiver, URGENT};
use super::server::Terms;
use super::symbols::{self, Incoming};
use crate::check::widen;

/// Bytes that wait in the kernel while this program is busy elsewhere: 130 ms of a gigabit.
const BUFFER: usize = 16 << 20;
/// How often a client speaks until the server has said it.
const PERIOD: Duration = Duration::from_millis(50);
/// A client that has everything speaks so often.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long a client may take to notice that it is to speak, or to end, where nothing comes.
const TICK: Duration = Duration::from_millis(10);
/// How long it waits where it cannot listen.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a client says that it leaves: one of them will come.
const FAREWELLS: u32 = 3;

/// A socket in the group of a session, which nobody knows of yet.
#[derive(Debug)]
pub struct Listener {
    terms: Terms,
    group: UdpSocket,
    server: UdpSocket,
}

impl Listener {
    /// Joins the group, on the interface by which the server is reached.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(terms: Terms) -> Result<Self> {
        let failed = |error| Error::io(terms.group.to_string(), "listen to", error);
        let server = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
        server.connect(terms.server).map_err(failed)?;
        let SocketAddr::V4(own) = server.local_addr().map_err(failed)? else {
            return Err(failed(ErrorKind::AddrNotAvailable.into()));
        };
        let group = socket(terms.group, *own.ip()).map_err(failed)?;
        Ok(Self { terms, group, server })
    }

    /// Begins to take blocks of these lengths in bytes, but those that the client `has`. `slot` is its number, and there is
    /// memory for `room` blocks.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn start(self, slot: u16, lengths: Vec<u32>, has: Blocks, room: u32) -> Result<Client> {
        let symbols = lengths.iter().map(|len| symbols::source(*len as usize)).collect();
        let receiver = Receiver::new(symbols, has, room);
        let (give, blocks) = channel();
        let shared = Arc::new(Shared {
            ends: AtomicBool::new(false),
            receiver: Mutex::new(receiver),
            heard: Mutex::new(Instant::now()),
        });
        let ours = Arc::clone(&shared);
        let ear = Ear {
            listener: self,
            slot,
            lengths,
            parts: HashMap::new(),
            period: PERIOD,
            began: Instant::now(),
            turn: Instant::now(),
            give,
        };
        let thread = thread::Builder::new()
            .name("multicast".to_owned())
            .spawn(move || ear.run(&ours))
            .map_err(|error| Error::io("multicast", "start its thread", error))?;
        Ok(Client { blocks, shared, thread: Some(thread) })
    }
}

fn socket(group: SocketAddrV4, interface: Ipv4Addr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // Several clients of one machine, as in tests.
    socket.set_reuse_address(true)?;
    // Packets of other groups do not come.
    socket.bind(&SocketAddr::V4(group).into())?;
    socket.join_multicast_v4(group.ip(), &interface)?;
    widen(&socket, BUFFER)?;
    Ok(socket.into())
}

/// A client that takes blocks; it leaves when dropped.
#[derive(Debug)]
pub struct Client {
    blocks: Channel<(u32, Incoming)>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    ends: AtomicBool,
    receiver: Mutex<Receiver>,
    /// When the last packet of the session came; before there is one, when it began to listen.
    heard: Mutex<Instant>,
}

impl Shared {
    fn receiver<T>(&self, work: impl FnOnce(&mut Receiver) -> T) -> T {
        work(&mut self.receiver.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Client {
    /// The next block that is whole, and its number; none where none came in this time.
    ///
    /// # Errors
    /// [`Error::Io`]: none will come any more.
    pub fn next(&self, most: Duration) -> Result<Option<(u32, Incoming)>> {
        match self.blocks.recv_timeout(most) {
            Ok(block) => Ok(Some(block)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::Error::other("its thread ended");
                Err(Error::io("multicast", "listen", source))
            }
        }
    }

    /// See [`Receiver::loses_most`].
    pub fn loses_most(&self) -> bool {
        self.shared.receiver(|receiver| receiver.loses_most())
    }

    /// For how long nothing of the session has come. A server that runs says something many times in a second.
    pub fn is_deaf_for(&self) -> Duration {
        self.shared.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// A block no longer takes memory.
    pub fn written(&self) {
        self.shared.receiver(Receiver::written);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}

/// The thread that listens and speaks.
struct Ear {
    listener: Listener,
    slot: u16,
    lengths: Vec<u32>,
    parts: HashMap<u32, Incoming>,
    period: Duration,
    began: Instant,
    turn: Instant,
    give: Sender<(u32, Incoming)>,
}

impl Ear {
    fn run(mut self, shared: &Shared) {
        let mut bytes = [0; LONGEST + 1];
        if self.listener.group.set_read_timeout(Some(TICK)).is_err() {
            return;
        }
        while !shared.ends.load(Ordering::Relaxed) {
            let now = Instant::now();
            if self.turn <= now {
                let wait = if shared.receiver(|receiver| receiver.has().is_full()) {
                    self.period.max(KEEP_ALIVE)
                } else {
                    self.period
                };
                // Not all at once.
                self.turn = now + wait.mul_f64(0.9 + fastrand::f64() * 0.2);
                self.speak(shared);
            }
            match self.listener.group.recv(&mut bytes) {
                Ok(length) => self.hear(bytes.get(..length).unwrap_or_default(), shared),
                Err(error) if is_nothing(error.kind()) => {}
                // Without an interface no packet comes: whoever waits for one notices.
                Err(_) => thread::sleep(PAUSE),
            }
        }
        // The last blocks came a moment ago: whoever watches is to know that.
        (0..FAREWELLS).for_each(|_| self.speak(shared));
        for _ in 0..FAREWELLS {
            self.say((0, 0), Body::Leave(self.slot));
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn hear(&mut self, said: &[u8], shared: &Shared) {
        let Terms { session, key, .. } = &self.listener.terms;
        let packet = Packet::from_bytes(said, key).filter(|packet| packet.session == *session);
        let Some(Packet { sequence, begun, body, .. }) = packet else { return };
        *shared.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        match body {
            Body::Plan(period) => {
                self.period = period.clamp(Duration::from_millis(10), KEEP_ALIVE);
                shared.receiver(|receiver| receiver.hear(sequence, begun, 0));
            }
            Body::Data { block, symbol, left, begins, bytes } => {
                let (opens, is_wanted, has_part) = shared.receiver(|receiver| {
                    receiver.hear(sequence, begun, 1);
                    let opens = begins && receiver.is_early(block, u32::from(left) + 1);
                    (opens, receiver.wants(block, opens), receiver.has_part(block))
                });
                if is_wanted {
                    self.take(block, (symbol, bytes), opens, shared);
                }
                if left == 0 && !begins && has_part {
                    self.turn = self.turn.min(Instant::now() + URGENT.mul_f64(fastrand::f64()));
                }
            }
            Body::Status(..) | Body::Leave(_) => {}
        }
    }

    fn take(&mut self, block: u32, (symbol, bytes): (u16, &[u8]), begins: bool, shared: &Shared) {
        let Some(length) = self.lengths.get(block as usize) else { return };
        let part = self.parts.entry(block).or_insert_with(|| Incoming::new(*length as usize));
        if part.take(symbol, bytes)
            && shared.receiver(|receiver| receiver.take(block, 1, begins))
            && let Some(whole) = self.parts.remove(&block)
        {
            // Where nobody takes blocks any more, this ends soon.
            drop(self.give.send((block, whole)));
        }
    }

    fn speak(&self, shared: &Shared) {
        let now = self.began.elapsed();
        let status = shared.receiver(|receiver| receiver.status(now));
        self.say((status.seen, status.until), Body::Status(self.slot, status));
    }

    fn say(&self, (sequence, begun): (u32, u32), body: Body<'_>) {
        let Terms { session, key, .. } = &self.listener.terms;
        let said = Packet { session: *session, sequence, begun, body }.to_bytes(key);
        // It says so again soon.
        drop(self.listener.server.send(&said));
    }
}

fn is_nothing(kind: ErrorKind) -> bool {
    [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted].contains(&kind)
}
