//! What is told about clients, one thing at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::sync::mpsc::SyncSender;

use serde::{Deserialize, Serialize};

/// The address of an Ethernet adapter.
#[derive(
    Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug,
)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    /// `52:54:00:12:34:56`, or with hyphens, as Windows writes it.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address of an adapter, such as 52:54:00:12:34:56");
        let mut parts = text.split([':', '-']);
        let mut mac = Self::default();
        for byte in &mut mac.0 {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(mac) }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// What a client is, as far as DHCP tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// PXE firmware of a PC with BIOS.
    Bios,
    /// PXE firmware of a PC with UEFI.
    Uefi,
    /// Firmware with UEFI that boots over HTTP.
    UefiHttp,
    /// Firmware of another architecture, by its number of RFC 4578, section 2.1; there is nothing for it here.
    Other(u16),
    /// No firmware: a system that runs.
    System,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bios => f.write_str("BIOS"),
            Self::Uefi => f.write_str("UEFI"),
            Self::UefiHttp => f.write_str("UEFI over HTTP"),
            Self::Other(number) => write!(f, "architecture {number}"),
            Self::System => f.write_str("a system that runs"),
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// It was told the name of its boot file.
    Named(String),
    /// It was given its address, for it asked for one.
    Leased,
    /// It has an address, by us or by another server. Not for people: many times.
    Seen,
    /// Nothing can be done for it, and why.
    Lost(&'static str),
    /// Something fails that is no client's, and why; all services go on.
    Warned(String),
    /// A service ended, and why; nobody is served by it any more.
    Ended(String),
    /// It fetched a file in memory, by this protocol, of so many bytes.
    Fetched(&'static str, String, usize),
}

/// What happened to which client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its address, where it has one.
    pub address: Option<Ipv4Addr>,
    /// Its adapter, where that is known.
    pub mac: Option<Mac>,
    /// What it is, where that is known.
    pub kind: Option<Kind>,
    /// What happened.
    pub what: What,
}

/// Where events go. Whoever does not read them loses some: no client waits for that.
#[derive(Clone, Debug)]
pub struct Events(pub SyncSender<Event>);

impl Events {
    /// Tells one.
    pub fn tell(&self, event: Event) {
        drop(self.0.try_send(event));
    }
}

/// So many clients are known by their addresses at most.
const MOST: usize = 1 << 16;

/// Who has which address: DHCP tells it of all, other protocols know addresses only.
#[derive(Default, Debug)]
pub struct Roster {
    known: BTreeMap<Ipv4Addr, (Mac, Kind)>,
}

impl Roster {
    /// Learns from an event, or adds to it what is known.
    pub fn complete(&mut self, mut event: Event) -> Event {
        match (event.address, event.mac, event.kind) {
            (Some(address), Some(mac), Some(kind)) if self.known.len() < MOST => {
                self.known.insert(address, (mac, kind));
            }
            (Some(address), None, _) => {
                if let Some((mac, kind)) = self.known.get(&address) {
                    (event.mac, event.kind) = (Some(*mac), Some(*kind));
                }
            }
            _ => {}
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{Event, Kind, Mac, Roster, What};

    #[test]
    fn who_fetches_is_known_by_what_dhcp_told() {
        let (address, mac) = (Some(Ipv4Addr::new(10, 0, 0, 5)), Some(Mac([2, 0, 0, 0, 0, 5])));
        let mut roster = Roster::default();
        let fetched = |address| Event {
            address,
            mac: None,
            kind: None,
            what: What::Fetched("TFTP", "x".to_owned(), 1),
        };
        assert_eq!(roster.complete(fetched(address)).mac, None);
        roster.complete(Event { address, mac, kind: Some(Kind::Uefi), what: What::Seen });
        let known = roster.complete(fetched(address));
        assert_eq!((known.mac, known.kind), (mac, Some(Kind::Uefi)));
        assert_eq!(roster.complete(fetched(Some(Ipv4Addr::new(10, 0, 0, 6)))).mac, None);
        assert_eq!(mac.unwrap().to_string(), "02:00:00:00:00:05");
        for text in ["02:00:00:00:00:05", "02-00-00-00-00-05"] {
            assert_eq!(text.parse(), Ok(mac.unwrap()));
        }
        for text in
            ["", "02:00:00:00:00", "02:00:00:00:00:05:06", "2:0:0:0:0:5", "gg:00:00:00:00:05"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
