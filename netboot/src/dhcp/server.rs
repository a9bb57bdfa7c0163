//! The sockets of DHCP: the port of servers and that of boot servers, a thread each.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use image_core::error::Result;

use super::answer::{BOOT, BootFiles, Desk, Restored, SERVER};
use super::kept::Kept;
use super::leases::Leases;
use super::packet::Packet;
use crate::event::{Event, Events, What};
use crate::interface::Interface;

/// How long the end of the server may go unnoticed.
const TICK: Duration = Duration::from_millis(200);

/// Sockets that are bound, and what is answered on them.
#[derive(Debug)]
pub(crate) struct Bound {
    sockets: Vec<(u16, UdpSocket)>,
    desk: Desk,
    kept: Option<Kept>,
}

/// What one request after the other changes.
struct Office {
    desk: Desk,
    kept: Option<Kept>,
    began: Instant,
    /// Why the last lease could not be written down.
    unkept: Option<String>,
}

impl Office {
    /// The time that [`Desk::answer`] wants.
    fn now(&self) -> u64 {
        self.kept.as_ref().map_or_else(|| self.began.elapsed().as_secs(), Kept::now)
    }

    /// Writes leases down before clients are told of them (RFC 2131, section 4.3.1). Where that fails they get them all the same, for
    /// without an address nobody boots; what is told then, once.
    fn keep(&mut self) -> Option<Event> {
        let (kept, leases) = (self.kept.as_ref()?, self.desk.leases.as_mut()?);
        let failed = kept.write(leases).err().map(|error| error.to_string());
        let before = std::mem::replace(&mut self.unkept, failed);
        let why = self.unkept.as_ref().filter(|_| before.is_none())?;
        let why = format!(
            "{why}; if this program is started again, it does not know who has which address"
        );
        Some(Event { address: None, mac: None, kind: None, what: What::Warned(why) })
    }
}

/// Takes both ports on an interface; with leases, and the file of them, addresses are handed out. Who is `restored` gets no boot file.
///
/// # Errors
/// [`Error::Refused`](image_core::error::Error::Refused): a port is taken.
pub(crate) fn bind(
    interface: &Interface,
    files: BootFiles,
    leases: Option<(Leases, Kept)>,
    restored: Option<Arc<dyn Restored>>,
) -> Result<Bound> {
    let take = |port| {
        let socket = interface.broadcast_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
        Ok((port, socket))
    };
    let sockets = [SERVER, BOOT].into_iter().map(take).collect::<Result<_>>()?;
    let (leases, kept) = leases.unzip();
    let desk = Desk { here: interface.address, mask: interface.mask, files, leases, restored };
    Ok(Bound { sockets, desk, kept })
}

impl Bound {
    /// Answers until `ends` is set.
    pub fn serve(self, events: &Events, ends: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
        let (desk, kept, began) = (self.desk, self.kept, Instant::now());
        let office = Arc::new(Mutex::new(Office { desk, kept, began, unkept: None }));
        let each = |(port, socket): (u16, UdpSocket)| {
            let (office, events, ends) = (Arc::clone(&office), events.clone(), Arc::clone(ends));
            thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    one(port, &socket, &office, &events);
                }
            })
        };
        self.sockets.into_iter().map(each).collect()
    }
}

/// Waits for one request, and answers it.
fn one(port: u16, socket: &UdpSocket, office: &Mutex<Office>, events: &Events) {
    let mut bytes = [0; 4096];
    let received = socket.set_read_timeout(Some(TICK)).and_then(|()| socket.recv_from(&mut bytes));
    let (length, from) = match received {
        Ok((length, SocketAddr::V4(from))) => (length, from),
        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
            // The interface may be gone for a while.
            return thread::sleep(TICK);
        }
        _ => return,
    };
    let Some(request) = bytes.get(..length).and_then(Packet::parse) else { return };
    let (answer, event, warning) = {
        let mut office = office.lock().unwrap_or_else(PoisonError::into_inner);
        let now = office.now();
        let (answer, event) = office.desk.answer(port, &request, from, now);
        (answer, event, office.keep())
    };
    if let Some(answer) = answer {
        // A client whose reply is lost asks again.
        drop(socket.send_to(&answer.packet.bytes(), answer.to));
    }
    event.into_iter().chain(warning).for_each(|event| events.tell(event));
}
