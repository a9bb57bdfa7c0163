//! Files by TFTP (RFC 1350, with the options of RFC 2347, 2348, 2349 and 7440).
//!
//! Answers: firmware and boot loaders that read files in memory, many at once. Refuses: writing, and every name that is
//! not there, at once: a boot loader that hears nothing waits half a minute for each of its optional files.
//!
//! Only so many files are sent at once; who asks then is told so, and asks again later.
//!
//! The protocol is the crate async-tftp's, on one thread; this is what it serves, and within which bounds.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_tftp::packet;
use async_tftp::server::{Handler, TftpServerBuilder};
use bytes::Bytes;
use futures_lite::{AsyncRead, future, io::Sink};
use image_core::error::{Error, Result};

use crate::event::{Event, Events, What};
use crate::files::Files;
use crate::interface::taken;

/// Its port.
const PORT: u16 = 69;

/// What fits into a frame of Ethernet with the headers of IP, UDP and TFTP: firmware asks for 1432 to 1468, and much of it
/// cannot put fragments together.
const BLOCK: u16 = 1468;

/// So many blocks are sent before one is acknowledged: 23 KiB, which fits into the buffers of firmware.
const WINDOW: u16 = 16;

/// A client that says nothing is reminded after this time, and so often. Clients that stop after the answer to their
/// options, to learn the size of a file, are the rule; and GRUB asks again from the same port after a reset.
const PATIENCE: Duration = Duration::from_secs(1);
const REMINDERS: u32 = 5;

/// So many files are sent at once; each of them takes a socket and a window of blocks.
const MOST: usize = 2048;

/// Takes the port at an address.
///
/// # Errors
/// [`Error::Refused`]: it is taken.
pub(crate) fn bind(address: Ipv4Addr) -> Result<UdpSocket> {
    UdpSocket::bind((address, PORT)).map_err(|error| taken("udp", PORT, error))
}

/// Serves `files` at a socket until `ends` is closed.
///
/// # Errors
/// [`Error::Io`].
pub fn serve(
    socket: UdpSocket,
    files: Arc<Files>,
    events: Events,
    ends: async_channel::Receiver<()>,
) -> Result<JoinHandle<()>> {
    let places = Arc::new(());
    serve_within(socket, Served { files, events, places, most: MOST }, ends)
}

fn serve_within(
    socket: UdpSocket,
    served: Served,
    ends: async_channel::Receiver<()>,
) -> Result<JoinHandle<()>> {
    let told = served.events.clone();
    let server = future::block_on(async move {
        let builder = TftpServerBuilder::with_handler(served)
            .std_socket(socket)?
            .block_size_limit(BLOCK)
            .window_size_limit(WINDOW)
            .timeout(PATIENCE)
            // One that wants to be waited for four minutes would keep its place for half an hour.
            .ignore_client_timeout()
            .max_send_retries(REMINDERS);
        builder.build().await
    });
    let server = server.map_err(|error| Error::io("TFTP", "start", io::Error::other(error)))?;
    let until = async move {
        // Nothing is ever sent: what ends it is that its other end is dropped.
        let _closed = ends.recv().await;
    };
    Ok(thread::spawn(move || {
        let serving = async {
            let ended =
                server.serve().await.err().map_or("no reason".to_owned(), |e| e.to_string());
            let what = What::Ended(format!("TFTP ended: {ended}"));
            told.tell(Event { address: None, mac: None, kind: None, what });
        };
        future::block_on(future::or(serving, until));
    }))
}

struct Served {
    files: Arc<Files>,
    events: Events,
    /// Each file that is sent holds one.
    places: Arc<()>,
    most: usize,
}

impl Handler for Served {
    type Reader = Reader;
    type Writer = Sink;

    async fn read_req_open(
        &mut self,
        client: &SocketAddr,
        path: &Path,
    ) -> std::result::Result<(Reader, Option<u64>), packet::Error> {
        let asked = path.to_str().unwrap_or_default();
        let file = self.files.stored(asked).ok_or(packet::Error::FileNotFound)?;
        if Arc::strong_count(&self.places) > self.most {
            return Err(packet::Error::Msg("too many machines at once".to_owned()));
        }
        let size = u64::try_from(file.bytes.len()).unwrap_or(u64::MAX);
        let reader = Reader {
            left: file.bytes.clone(),
            name: asked.trim_start_matches('/').to_owned(),
            size: file.bytes.len(),
            client: *client,
            events: self.events.clone(),
            _place: Arc::clone(&self.places),
        };
        Ok((reader, Some(size)))
    }

    async fn write_req_open(
        &mut self,
        _: &SocketAddr,
        _: &Path,
        _: Option<u64>,
    ) -> std::result::Result<Sink, packet::Error> {
        Err(packet::Error::PermissionDenied)
    }
}

/// A file that is read. Tells of it when it was read to its end and is dropped: the last block is acknowledged then.
struct Reader {
    left: Bytes,
    name: String,
    size: usize,
    client: SocketAddr,
    events: Events,
    _place: Arc<()>,
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let length = buffer.len().min(self.left.len());
        let part = self.left.split_to(length);
        if let Some(buffer) = buffer.get_mut(..length) {
            buffer.copy_from_slice(&part);
        }
        Poll::Ready(Ok(length))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let (true, SocketAddr::V4(client)) = (self.left.is_empty(), self.client) {
            self.events.tell(Event {
                address: Some(*client.ip()),
                mac: None,
                kind: None,
                what: What::Fetched("TFTP", std::mem::take(&mut self.name), self.size),
            });
        }
    }
}

#[cfg(test)]
mod tests;
