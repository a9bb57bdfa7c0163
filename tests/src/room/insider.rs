//! Somebody who has joined, and sends wrong symbols.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use image_core::repo::Location;
use image_core::units::Bytes;
use netboot::multicast::packet::{Body, Key, Packet};
use netboot::multicast::symbols::SYMBOL;
use serde_json::Value;

use crate::network::HERE;

/// Sends symbols of any block of the image with this id, until it is told to end.
pub fn send(repo: &str, id: &str, ends: &AtomicBool) -> Result<()> {
    let offer = Location::from(repo).files()?.get(&format!("room/{id}"), Bytes::MIB)?;
    let offer: Value = serde_json::from_slice(&offer)?;
    let text = |name: &str| offer[name].as_str().with_context(|| name.to_owned());
    let group: SocketAddr = text("group")?.parse()?;
    let key: Key = text("key")?.parse::<image_core::image::hash::Hash>()?.0;
    let session = u32::try_from(offer["session"].as_u64().context("session")?)?;
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
        let packet = Packet { session, sequence, begun: fastrand::u32(..), body };
        socket.send_to(&packet.to_bytes(&key), group)?;
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}
