//! The sockets of DHCP: the port of servers and that of boot servers, a thread each.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use image_core::error::Result;

use super::answer::{BOOT, BootFiles, Desk, Restored, SERVER};
use super::leases::{Leases, Range};
use super::packet::Packet;
use crate::event::Events;
use crate::interface::Interface;

/// How long the end of the server may go unnoticed.
const TICK: Duration = Duration::from_millis(200);

/// Sockets that are bound, and what is answered on them.
#[derive(Debug)]
pub(crate) struct Bound {
    sockets: Vec<(u16, UdpSocket)>,
    desk: Desk,
}

/// Takes both ports on an interface; with a range addresses are handed out. Who is `restored` gets no boot file.
///
/// # Errors
/// [`Error::Refused`](image_core::error::Error::Refused): a port is taken.
pub(crate) fn bind(
    interface: &Interface,
    files: BootFiles,
    range: Option<Range>,
    restored: Option<Arc<dyn Restored>>,
) -> Result<Bound> {
    let take = |port| {
        let socket = interface.broadcast_socket(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
        Ok((port, socket))
    };
    let sockets = [SERVER, BOOT].into_iter().map(take).collect::<Result<_>>()?;
    let leases = range.map(|range| Leases::new(range, interface.address));
    let desk = Desk { here: interface.address, mask: interface.mask, files, leases, restored };
    Ok(Bound { sockets, desk })
}

impl Bound {
    /// Answers until `ends` is set.
    pub fn serve(self, events: &Events, ends: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
        let desk = Arc::new(Mutex::new(self.desk));
        let began = Instant::now();
        let each = |(port, socket): (u16, UdpSocket)| {
            let (desk, events, ends) = (Arc::clone(&desk), events.clone(), Arc::clone(ends));
            thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    one(port, &socket, &desk, (&events, began));
                }
            })
        };
        self.sockets.into_iter().map(each).collect()
    }
}

/// Waits for one request, and answers it.
fn one(port: u16, socket: &UdpSocket, desk: &Mutex<Desk>, (events, began): (&Events, Instant)) {
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
    let (answer, event) = {
        let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
        desk.answer(port, &request, from, began.elapsed().as_secs())
    };
    if let Some(answer) = answer {
        // A client whose reply is lost asks again.
        drop(socket.send_to(&answer.packet.bytes(), answer.to));
    }
    if let Some(event) = event {
        events.tell(event);
    }
}
