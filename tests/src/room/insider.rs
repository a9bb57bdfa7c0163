//! Somebody who has joined, and sends wrong symbols.

use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use image_core::repo::Location;
use image_core::units::Bytes;
use netboot::multicast::blocks::Blocks;
use netboot::multicast::client::{Client, Listener};
use netboot::multicast::packet::{Body, Key, Packet};
use netboot::multicast::server::Terms;
use netboot::multicast::symbols::SYMBOL;
use serde_json::Value;

use crate::network::HERE;

/// Bytes of a tag.
const TAG: usize = 8;

/// A session, as whoever joins knows it.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    number: u32,
    key: Key,
    group: SocketAddrV4,
    server: SocketAddrV4,
}

impl Session {
    /// The session of the image with this id.
    ///
    /// # Errors
    /// There is none.
    pub fn joined(id: &str) -> Result<Self> {
        Self::at(super::REPO, id)
    }

    /// The same, of the server of this repository.
    ///
    /// # Errors
    /// There is none.
    pub fn at(repo: &str, id: &str) -> Result<Self> {
        let offer = Location::from(repo).files()?.get(&format!("room/{id}"), Bytes::MIB)?;
        let offer: Value = serde_json::from_slice(&offer)?;
        let text = |name: &str| offer[name].as_str().with_context(|| name.to_owned());
        let [group, server] = ["group", "server"].map(|name| anyhow::Ok(text(name)?.parse()?));
        let key = text("key")?.parse::<image_core::image::hash::Hash>()?.0;
        let number = u32::try_from(offer["session"].as_u64().context("session")?)?;
        Ok(Self { number, key, group: group?, server: server? })
    }

    /// The same session, in the group of another one.
    #[must_use]
    pub fn in_group_of(self, other: Self) -> Self {
        Self { group: other.group, ..self }
    }

    /// Listens to it, in the network of this thread, and takes nothing.
    ///
    /// # Errors
    /// The network is gone.
    pub fn listen(self) -> Result<Client> {
        let Self { number: session, key, group, server } = self;
        let listener = Listener::new(Terms { session, key, group, server })?;
        Ok(listener.start(0, Vec::new(), Blocks::none(0), 0)?)
    }

    /// A packet of the session.
    pub fn packet(&self, sequence: u32, body: Body<'_>) -> Vec<u8> {
        let begun = fastrand::u32(..);
        Packet { session: self.number, sequence, begun, body }.to_bytes(&self.key)
    }

    /// The same bytes with the tag of somebody who has the key.
    pub fn signed(&self, packet: &[u8]) -> Vec<u8> {
        let said = packet.get(..packet.len().saturating_sub(TAG)).unwrap_or_default();
        let tag = blake3::keyed_hash(&self.key, said);
        [said, tag.as_bytes().get(..TAG).unwrap_or_default()].concat()
    }

    /// Sends symbols of any block, until it is told to end.
    ///
    /// # Errors
    /// The network is gone.
    pub fn send(&self, ends: &AtomicBool) -> Result<()> {
        let socket = UdpSocket::bind((HERE, 0))?;
        rustix::net::sockopt::set_ip_multicast_if(&socket, &HERE)?;
        for sequence in 1.. {
            if ends.load(Ordering::Relaxed) {
                break;
            }
            let body = Body::Data {
                block: fastrand::u32(..12),
                symbol: fastrand::u16(..900),
                left: fastrand::u16(..),
                begins: fastrand::bool(),
                bytes: &[fastrand::u8(..); SYMBOL],
            };
            // Some numbers are those of the server, some of nobody.
            let sequence = if fastrand::bool() { sequence } else { fastrand::u32(..) };
            socket.send_to(&self.packet(sequence, body), self.group)?;
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }
}
