//! Asks on a network who listens to groups (IGMP, RFC 2236), where nobody else does.
//!
//! A switch that looks at who listens sends a group only there, and forgets listeners that nobody asks for: after some minutes
//! a session would reach nobody. Usually a router asks. Where there is none, this does; where there is one, it is silent.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use image_core::error::{Error, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::interface::Interface;

/// Somebody who asks does so every 125 s (RFC 2236, section 8.2).
const LISTEN: Duration = Duration::from_secs(130);
/// How often this one asks: a group lives for two to four minutes, and a question may be lost.
const EVERY: Duration = Duration::from_secs(30);
/// For so long another one is believed to be there (section 8.5).
const OTHER: Duration = Duration::from_secs(255);
/// How long this may take to end.
const TICK: Duration = Duration::from_millis(250);

/// The protocol's number, and where questions to all go.
const IGMP: u8 = 2;
const ALL: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// A question, and how long who listens may take to answer, in tenths of seconds.
const QUESTION: u8 = 0x11;
const ANSWER: u8 = 100;

/// Whose turn it is to ask. Time is input.
#[derive(Default, Debug)]
struct Turn {
    heard: Option<Duration>,
    asked: Option<Duration>,
}

impl Turn {
    /// Somebody else asked.
    fn hear(&mut self, now: Duration) {
        self.heard = Some(now);
    }

    /// Whether to ask now; then it is taken for done.
    fn is_due(&mut self, now: Duration) -> bool {
        let is_alone = self.heard.is_none_or(|heard| now >= heard + OTHER) && now >= LISTEN;
        let is_due = is_alone && self.asked.is_none_or(|asked| now >= asked + EVERY);
        if is_due {
            self.asked = Some(now);
        }
        is_due
    }
}

/// Asks on this interface until `ends` is set.
///
/// # Errors
/// [`Error::Io`]: this program may not.
pub(super) fn start(interface: &Interface, ends: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let failed = |error| Error::io("IGMP", "start", error);
    let socket = socket(interface).map_err(failed)?;
    let (own, began) = (interface.address, Instant::now());
    let work = move || {
        let mut turn = Turn::default();
        let mut bytes = [0; 256];
        while !ends.load(Ordering::Relaxed) {
            // Where nothing comes, it is asked again after a moment.
            let length = (&socket).read(&mut bytes).unwrap_or(0);
            let asked = bytes.get(..length).and_then(asks);
            if asked.is_some_and(|from| from != own) {
                turn.hear(began.elapsed());
            }
            if turn.is_due(began.elapsed()) {
                // The next one will do.
                drop(socket.send_to(&question(own), &SocketAddrV4::new(ALL, 0).into()));
            }
        }
    };
    thread::Builder::new().name("igmp".to_owned()).spawn(work).map_err(failed)
}

fn socket(interface: &Interface) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(IGMP))))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.set_header_included_v4(true)?;
    socket.set_multicast_if_v4(&interface.address)?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

/// Who asks by this packet, which begins with its IP header; none where it is no question.
fn asks(packet: &[u8]) -> Option<Ipv4Addr> {
    let header = usize::from(packet.first()? & 15) * 4;
    let from: [u8; 4] = *packet.get(12..)?.first_chunk()?;
    (packet.get(header) == Some(&QUESTION)).then(|| from.into())
}

/// A question to all, with its IP header. The kernel fills in what is zero there: the number and the checksum.
fn question(from: Ipv4Addr) -> Vec<u8> {
    // Six words with the option that routers look at (RFC 2113), as section 2 of RFC 2236 wants it; it goes no further than one cable.
    let mut packet = vec![0x46, 0xC0, 0, 32, 0, 0, 0, 0, 1, IGMP, 0, 0];
    packet.extend(from.octets());
    packet.extend(ALL.octets());
    packet.extend([0x94, 4, 0, 0]);
    // The one's complement of the sum of all words (RFC 1071), of which only the first is not zero.
    let word = u16::from_be_bytes([QUESTION, ANSWER]);
    packet.extend(word.to_be_bytes());
    packet.extend((!word).to_be_bytes());
    packet.extend([0; 4]);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_where_nobody_else_does() {
        let at = Duration::from_secs;
        let mut turn = Turn::default();
        assert!(!turn.is_due(at(0)) && !turn.is_due(at(129)));
        assert!(turn.is_due(at(130)) && !turn.is_due(at(131)) && turn.is_due(at(160)));
        turn.hear(at(170));
        assert!(!turn.is_due(at(200)) && !turn.is_due(at(424)));
        assert!(turn.is_due(at(425)));
    }

    #[test]
    fn a_question_is_known_for_one() {
        let own = Ipv4Addr::new(10, 0, 0, 1);
        let packet = question(own);
        assert_eq!(asks(&packet), Some(own));
        let words =
            packet[24..].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        assert_eq!(words.sum::<u32>(), 0xFFFF);
        // A report, and what is cut off.
        let mut report = packet.clone();
        report[24] = 0x16;
        assert_eq!(asks(&report), None);
        for length in 0..24 {
            assert_eq!(asks(&packet[..length]), None, "{length}");
        }
    }
}
