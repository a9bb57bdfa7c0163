//! What is known of all machines now, for whoever watches: as JSON, and as a page that shows it.
//!
//! Answers: `board` and `board.json` over HTTP. Refuses: to change anything.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Serialize;

use crate::event::{Event, What};
use crate::files::{Answers, Made};
use crate::room::server::Room;

/// The page. It has all that it needs in itself, and asks for the JSON once in a second.
const PAGE: &[u8] = include_bytes!("page.html");

/// So many machines are remembered.
const MOST: usize = 1 << 14;

/// The board.
#[derive(Debug)]
pub struct Board {
    machines: Mutex<BTreeMap<Ipv4Addr, Machine>>,
    sent: Option<(String, Arc<Room>)>,
}

/// A machine, as the JSON has it.
#[derive(Serialize, Clone, PartialEq, Debug)]
struct Machine {
    address: Ipv4Addr,
    mac: Option<String>,
    firmware: Option<String>,
    /// The last thing that is known of it, in words.
    stage: String,
    /// Of the image.
    blocks: Option<u32>,
    /// Which part of the packets it loses.
    loss: Option<f32>,
    /// Seconds since it spoke, where it should speak.
    silent: Option<f32>,
}

/// The image, as the JSON has it.
#[derive(Serialize, Clone, PartialEq, Debug)]
struct Image<'a> {
    name: &'a str,
    blocks: u32,
    /// Bytes on the wire, repairs included.
    sent_bytes: u64,
    unreadable_blocks: u32,
}

#[derive(Serialize)]
struct Told<'a> {
    image: Option<Image<'a>>,
    machines: Vec<Machine>,
}

impl Board {
    /// A board without machines; `sent` is the image that they get, with its name.
    pub fn new(sent: Option<(String, Arc<Room>)>) -> Self {
        Self { machines: Mutex::default(), sent }
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened.
    pub fn note(&self, event: &Event) {
        let Some(address) = event.address else { return };
        let stage = match &event.what {
            What::Named(_) => "starts to boot",
            What::Leased | What::Seen => "has an address",
            What::Lost(why) => why,
            What::Fetched(_, file, _) => loaded(file),
            What::Ended(_) => return,
        };
        let mut machines = self.machines();
        if machines.len() >= MOST && !machines.contains_key(&address) {
            return;
        }
        let machine = machines.entry(address).or_insert_with(|| Machine::new(address));
        machine.mac = event.mac.map(|mac| mac.to_string()).or(machine.mac.take());
        machine.firmware = event.kind.map(|kind| kind.to_string()).or(machine.firmware.take());
        // Addresses are asked for again and again.
        if event.what != What::Seen || machine.stage.is_empty() {
            stage.clone_into(&mut machine.stage);
        }
    }

    /// All of it, as JSON.
    fn json(&self) -> Vec<u8> {
        let mut machines = self.machines().clone();
        let image = self.sent.as_ref().map(|(name, room)| {
            let (server, blocks) = (room.server(), room.blocks());
            for (address, has) in server.left() {
                let machine = machines.entry(address).or_insert_with(|| Machine::new(address));
                let stage = if has == blocks { "has all of the image" } else { "has left" };
                (machine.stage, machine.blocks) = (stage.to_owned(), Some(has));
            }
            for seen in server.clients() {
                let Some(address) = seen.address else { continue };
                let machine = machines.entry(address).or_insert_with(|| Machine::new(address));
                "gets the image".clone_into(&mut machine.stage);
                machine.blocks = Some(seen.blocks);
                machine.loss = Some(seen.loss);
                machine.silent = Some(seen.silent.as_secs_f32());
            }
            let sent = server.sent();
            Image { name, blocks, sent_bytes: sent.bytes(), unreadable_blocks: sent.unreadable }
        });
        let told = Told { image, machines: machines.into_values().collect() };
        serde_json::to_vec(&told).unwrap_or_default()
    }
}

impl Machine {
    fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            mac: None,
            firmware: None,
            stage: String::new(),
            blocks: None,
            loss: None,
            silent: None,
        }
    }
}

/// What a machine does that fetches this file.
fn loaded(file: &str) -> &'static str {
    match file {
        "boot/settings.img" => "runs",
        _ if file.starts_with("boot/") => "loads its system",
        _ => "boots",
    }
}

impl Answers for Board {
    fn answer(&self, name: &str) -> Option<Made> {
        match name {
            "board" => {
                Some(Made { kind: "text/html; charset=utf-8", bytes: Bytes::from_static(PAGE) })
            }
            "board.json" => Some(Made { kind: "application/json", bytes: self.json().into() }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::Board;
    use crate::event::{Event, Kind, Mac, What};
    use crate::files::Answers;

    #[test]
    fn what_happened_last_stands_beside_each_machine() {
        let board = Board::new(None);
        let address = Some(Ipv4Addr::new(10, 0, 0, 5));
        let event = |what| Event { address, mac: None, kind: None, what };
        let first = Event {
            mac: Some(Mac([2, 0, 0, 0, 0, 5])),
            kind: Some(Kind::Uefi),
            ..event(What::Seen)
        };
        let fetched = |file: &str| event(What::Fetched("HTTP", file.to_owned(), 1));
        let stage = || {
            let json = board.answer("board.json").unwrap().bytes;
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json["machines"].as_array().unwrap().len(), 1);
            let machine = json["machines"][0].clone();
            assert_eq!(
                (&machine["mac"], &machine["firmware"]),
                (&"02:00:00:00:00:05".into(), &"UEFI".into())
            );
            machine["stage"].as_str().unwrap().to_owned()
        };
        board.note(&first);
        assert_eq!(stage(), "has an address");
        board.note(&fetched("grubx64.efi"));
        assert_eq!(stage(), "boots");
        board.note(&fetched("boot/vmlinuz"));
        board.note(&event(What::Seen));
        assert_eq!(stage(), "loads its system");
        board.note(&fetched("boot/settings.img"));
        assert_eq!(stage(), "runs");
        assert!(board.answer("board").unwrap().kind.starts_with("text/html"));
        assert!(board.answer("elsewhere").is_none());
    }
}
