//! Files by HTTP (RFC 9110, RFC 9112), 1.1 and 1.0.
//!
//! Answers: `GET` and `HEAD` of files in memory and of folders of this machine, also of parts. Refuses: every other method,
//! and to send several parts in one answer.
//!
//! - `answer` what a request is answered with. - `range` which part it asks for. - `page` the list of a folder.

mod answer;
mod page;
mod range;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use image_core::error::{Error, Result};
use tokio::runtime::{Builder, Runtime};

use crate::event::Events;
use crate::files::Files;
use crate::interface::taken;

/// For how long a client may say nothing where it should ask for something.
const PATIENCE: Duration = Duration::from_secs(60);

/// After what went wrong with a connection that comes, as where there are too many.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes a port at an address.
///
/// # Errors
/// [`Error::Refused`]: it is taken.
pub fn bind(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((address, port)).map_err(|error| taken("tcp", port, error))?;
    listener.set_nonblocking(true).map_err(|error| Error::io("HTTP", "start", error))?;
    Ok(listener)
}

/// Serves `files` until the runtime is dropped.
///
/// # Errors
/// [`Error::Io`].
pub fn serve(listener: TcpListener, files: Arc<Files>, events: Events) -> Result<Runtime> {
    let failed = |error| Error::io("HTTP", "start", error);
    let runtime = Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener).map_err(failed)?
    };
    runtime.spawn(async move {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (files, events) = (Arc::clone(&files), events.clone());
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let asked = answer::Asked::of(&request, address(peer));
                    answer::answer(asked, request.into_body(), Arc::clone(&files), events.clone())
                });
                let mut protocol = http1::Builder::new();
                protocol.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
                // GRUB 2.06 knows `Content-Length` only with capitals; without it, it waits for the end of the connection.
                protocol.title_case_headers(true);
                // Who has said everything may close its side, and waits for the answer.
                protocol.half_close(true);
                // A client that goes away is no error of ours.
                drop(protocol.serve_connection(TokioIo::new(stream), service).await);
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
