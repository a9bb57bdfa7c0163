//! Files by HTTP (RFC 9110, RFC 9112), 1.1 and 1.0.
//!
//! Answers: `GET` and `HEAD` of files in memory and of folders of this machine, also of parts; takes files from who has a
//! grant. Refuses: every other method, and to send several parts in one answer.
//!
//! Only so many connections are open at once, and each one takes little memory, however slowly its client reads. Who comes
//! when all places are taken waits in the kernel's queue until somebody is done, or was silent for too long.
//!
//! - `answer` what a request is answered with. - `range` which part it asks for. - `page` the list of a folder.
//! - `taken` files that come.

mod answer;
mod page;
mod range;
mod taken;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use image_core::error::{Error, Result};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

use crate::event::Events;
use crate::files::Files;
use crate::interface::taken;

/// What a server gives to its clients.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// So many connections are open at once.
    connections: usize,
    /// For how long a client may say nothing where it should ask for something, and read nothing of what it asked for.
    patience: Duration,
}

const LIMITS: Limits = Limits { connections: 1024, patience: Duration::from_secs(60) };

/// So many more wait in the kernel's queue (where the administrator allows no fewer: net.core.somaxconn).
const QUEUE: i32 = 4096;

/// The longest head of a request, and what is made ready of an answer before its client takes it, in bytes.
const BUFFER: usize = 16 << 10;

/// Threads that read files of this machine.
const READERS: usize = 16;

/// After what went wrong with a connection that comes, as where there are too many.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes a port at an address.
///
/// # Errors
/// [`Error::Refused`]: it is taken.
pub fn bind(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    let make = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddrV4::new(address, port).into())?;
        socket.listen(QUEUE)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    make().map_err(|error| taken("tcp", port, error))
}

/// Serves `files` until the runtime is dropped.
///
/// # Errors
/// [`Error::Io`].
pub fn serve(listener: TcpListener, files: Arc<Files>, events: Events) -> Result<Runtime> {
    serve_within(listener, files, events, LIMITS)
}

fn serve_within(
    listener: TcpListener,
    files: Arc<Files>,
    events: Events,
    limits: Limits,
) -> Result<Runtime> {
    let failed = |error| Error::io("HTTP", "start", error);
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.max_blocking_threads(READERS).enable_all().build().map_err(failed)?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(failed)?
    };
    let places = Arc::new(Semaphore::new(limits.connections));
    runtime.spawn(async move {
        // It is never closed.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            // The kernel ends a connection whose other side takes nothing, or is gone.
            let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(limits.patience));
            let (files, events) = (Arc::clone(&files), events.clone());
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let asked = answer::Asked::of(&request, address(peer));
                    answer::answer(asked, request.into_body(), Arc::clone(&files), events.clone())
                });
                let mut protocol = http1::Builder::new();
                protocol.timer(TokioTimer::new()).header_read_timeout(limits.patience);
                protocol.max_buf_size(BUFFER);
                // GRUB 2.06 knows `Content-Length` only with capitals; without it, it waits for the end of the connection.
                protocol.title_case_headers(true);
                // Who has said everything may close its side, and waits for the answer.
                protocol.half_close(true);
                // A client that goes away is no error of ours.
                drop(protocol.serve_connection(TokioIo::new(stream), service).await);
                drop(place);
            });
        }
    });
    Ok(runtime)
}

fn address(peer: SocketAddr) -> Option<Ipv4Addr> {
    match peer {
        SocketAddr::V4(peer) => Some(*peer.ip()),
        SocketAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests;
