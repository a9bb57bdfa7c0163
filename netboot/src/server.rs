//! All services of one interface, running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use image_core::error::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;

use crate::dhcp::answer::{BootFiles, Restored};
use crate::dhcp::kept::Kept;
use crate::dhcp::leases::Leases;
use crate::event::{Event, Events};
use crate::files::Files;
use crate::interface::Interface;
use crate::{dhcp, http, tftp};

/// The port of HTTP: GRUB's older versions know no other.
pub const HTTP: u16 = 80;

/// So many events wait for whoever reads them; more are lost.
const EVENTS: usize = 1024;

/// Files and sockets of all clients that there may be at once, and some more.
const DESCRIPTORS: u64 = 8192;

/// The ports of all services, taken; nobody is answered yet.
#[derive(Debug)]
pub struct Bound {
    boot: Option<(dhcp::server::Bound, std::net::UdpSocket)>,
    http: std::net::TcpListener,
}

/// Takes the ports of all services: so what hinders them is known before anything is built. Without boot files there is
/// only HTTP; with leases, and the file of them, addresses are handed out. Who is `restored` gets none.
///
/// # Errors
/// [`Error::Refused`](image_core::error::Error::Refused): one is taken.
pub fn bind(
    interface: &Interface,
    files: Option<BootFiles>,
    leases: Option<(Leases, Kept)>,
    restored: Option<Arc<dyn Restored>>,
) -> Result<Bound> {
    let boot = |files| {
        let dhcp = dhcp::server::bind(interface, files, leases, restored)?;
        Ok((dhcp, tftp::bind(interface.address)?))
    };
    let boot = files.map(boot).transpose()?;
    Ok(Bound { boot, http: http::bind(interface.address, HTTP)? })
}

/// Services that run; they end when dropped.
#[derive(Debug)]
pub struct Running {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    tftp: Option<async_channel::Sender<()>>,
    http: Option<Runtime>,
}

impl Bound {
    /// Begins to serve `files`; what happens is told as `events`.
    ///
    /// # Errors
    /// [`Error::Io`](image_core::error::Error::Io).
    pub fn serve(self, files: Files, events: &Events) -> Result<Running> {
        allow_descriptors();
        let files = Arc::new(files);
        let ends = Arc::new(AtomicBool::new(false));
        let (tftp, ended) = async_channel::bounded(1);
        let http = http::serve(self.http, Arc::clone(&files), events.clone())?;
        let mut threads = Vec::new();
        if let Some((dhcp, tftp)) = self.boot {
            threads.push(tftp::serve(tftp, files, events.clone(), ended)?);
            // Last: a client that is told where its files are finds them there.
            threads.extend(dhcp.serve(events, &ends));
        }
        Ok(Running { ends, threads, tftp: Some(tftp), http: Some(http) })
    }
}

/// Where all services tell what happens, and where that comes out.
pub fn events() -> (Events, Receiver<Event>) {
    let (tell, told) = sync_channel(EVENTS);
    (Events(tell), told)
}

/// Lets this program open as many files as its clients may need, where its user may; else some of them wait for others.
fn allow_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.tftp.take());
        if let Some(http) = self.http.take() {
            http.shutdown_background();
        }
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            drop(thread.join());
        }
    }
}
