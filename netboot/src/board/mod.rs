//! What is known of all machines now, for whoever watches: as JSON, and as a page that shows it.
//!
//! Answers: `board`, `board.json`, `metrics` and what stands behind `api/`, over HTTP. Refuses: to tell or change anything without the
//! site's token, where there is a site.
//!
//! - `boots` machines while they boot. - `rows` a machine as people see it. - `rates` how fast images come. - `api` what may be asked and
//!   decided.

mod api;
mod boots;
mod rates;
mod rows;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use image_core::error::Result;
use serde::Serialize;

use self::boots::Boots;
use self::rates::Rates;
use self::rows::Row;
use crate::event::{Event, Mac};
use crate::files::{Answers, Made, Question};
use crate::interface::Interface;
use crate::multicast::sender::Seen;
use crate::orders::list::Group;
use crate::orders::site::Site;
use crate::room::rooms::Rooms;
use crate::room::server::Room;
use crate::wake;

pub use self::api::is_hostname;

/// The page. It has all that it needs in itself, and asks for the JSON once in a second.
const PAGE: &[u8] = include_bytes!("page.html");

/// The board.
#[derive(Debug)]
pub struct Board {
    began: Instant,
    boots: Mutex<Boots>,
    rates: Mutex<Rates>,
    rooms: Vec<(String, Arc<Rooms>)>,
    site: Option<Arc<Site>>,
    interfaces: Vec<Interface>,
}

/// An image that is sent, as the JSON has it.
#[derive(Serialize, Clone, PartialEq, Debug)]
struct Image {
    name: String,
    /// By which interface.
    interface: String,
    blocks: u32,
    /// Bytes on the wire, repairs included.
    sent_bytes: u64,
    /// All blocks, sent once: so many bytes on the wire.
    pass_bytes: u64,
    /// How many times as much was sent.
    passes: f64,
    /// What is sent now of that, where it is known already.
    bytes_per_second: Option<u64>,
    /// What may be sent of it: what the interface carries of all images together, or less where machines get less.
    pace_bytes_per_second: u64,
    unreadable_blocks: u32,
    /// How many machines are in its session.
    receivers: usize,
    /// The largest part of the packets that one of them loses.
    worst_loss: f32,
}

#[derive(Serialize)]
struct Told {
    /// The images that are sent now.
    sent: Vec<Image>,
    /// Those that can be chosen; none where nobody orders anything.
    images: Vec<String>,
    /// The name that the next machine gets that has none, where there is a pattern for names.
    next_hostname: Option<String>,
    machines: Vec<Row>,
}

/// An image that is sent by an interface.
struct Open {
    interface: String,
    name: String,
    room: Arc<Room>,
}

impl Open {
    /// By which rates are known: of a machine, or of what is sent to all.
    fn key(&self, machine: Option<Ipv4Addr>) -> rates::Key {
        (self.interface.clone(), self.name.clone(), machine)
    }

    /// The machines in it, each as it spoke last.
    fn inside(&self) -> BTreeMap<Ipv4Addr, Seen> {
        let mut all = self.room.known();
        all.sort_by_key(|seen| std::cmp::Reverse(seen.silent));
        all.into_iter().filter_map(|seen| Some((seen.address?, seen))).collect()
    }

    /// What so many of its blocks take on the wire, about.
    fn bytes(&self, blocks: u32) -> u64 {
        let all = u64::from(self.room.blocks().max(1));
        (self.room.pass().bytes() / all).saturating_mul(blocks.into())
    }

    fn image(&self, rate: Option<u64>) -> Image {
        let (room, sent, clients) = (&self.room, self.room.sent(), self.room.clients());
        let pass = room.pass().bytes();
        Image {
            name: self.name.clone(),
            interface: self.interface.clone(),
            blocks: room.blocks(),
            sent_bytes: sent.bytes(),
            pass_bytes: pass,
            passes: sent.bytes() as f64 / pass.max(1) as f64,
            bytes_per_second: rate,
            pace_bytes_per_second: room.pace().rate(),
            unreadable_blocks: sent.unreadable,
            receivers: clients.len(),
            worst_loss: clients.iter().map(|seen| seen.loss).fold(0.0, f32::max),
        }
    }
}

impl Board {
    /// A board without machines, of these networks; images for them are sent in `rooms`, by interface, and `site` decides over them.
    pub fn new(
        rooms: Vec<(String, Arc<Rooms>)>,
        site: Option<Arc<Site>>,
        interfaces: Vec<Interface>,
    ) -> Self {
        let (boots, rates) = (Mutex::default(), Mutex::default());
        Self { began: Instant::now(), boots, rates, rooms, site, interfaces }
    }

    /// Something happened.
    pub fn note(&self, event: &Event) {
        lock(&self.boots).note(event, Instant::now());
    }

    /// Does what is to be done at this time. Whoever calls it a few times a second is in time for everything.
    ///
    /// # Errors
    /// The interface is gone, or what happens cannot be written down.
    pub fn tick(&self) -> Result<()> {
        lock(&self.rates).look(&self.open(), self.began.elapsed());
        let Some(site) = &self.site else { return Ok(()) };
        site.begin(clock())?;
        site.woken().map_or(Ok(()), |macs| self.wake(&macs))
    }

    /// All that is known now, of the machines of one group where one is given.
    fn told(&self, group: Option<&Group>) -> Told {
        let mut at_address = lock(&self.boots).rows(Instant::now());
        let elsewhere = self.site.as_deref().map(|site| known(site, &mut at_address));
        let sent = self.sent(&mut at_address);
        let images = self.site.as_ref().map_or_else(Vec::new, |site| site.policy().images());
        let is_meant =
            |row: &Row| group.is_none_or(|group| row.group.as_deref() == Some(group.name()));
        let all = at_address.into_values().chain(elsewhere.into_iter().flatten());
        let mut machines: Vec<Row> = all.filter(is_meant).collect();
        for row in &mut machines {
            row.sum_up();
        }
        let next = |site: &Arc<Site>| {
            site.look(|list, _| site.policy().name(&|name| list.named(name, "").is_some()))
        };
        let next_hostname = self.site.as_ref().and_then(next);
        Told { sent, images, next_hostname, machines }
    }

    /// The rooms that are open.
    fn open(&self) -> Vec<Open> {
        let of = |(interface, rooms): &(String, Arc<Rooms>)| {
            let open = |(name, room)| Open { interface: interface.clone(), name, room };
            rooms.sent().into_iter().map(open).collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(of).collect()
    }

    /// The images that are sent, and in the rows what their sessions know of machines.
    fn sent(&self, rows: &mut BTreeMap<Ipv4Addr, Row>) -> Vec<Image> {
        let open = self.open();
        for one in &open {
            for (address, has) in one.room.left() {
                rows.entry(address).or_insert_with(|| at(address)).left(
                    &one.name,
                    has,
                    one.room.blocks(),
                );
            }
        }
        // Where a machine is counts for more than where it was, and where it spoke last for more than where it fell silent.
        let mut inside: BTreeMap<Ipv4Addr, (Seen, &Open)> = BTreeMap::new();
        for one in &open {
            for (address, seen) in one.inside() {
                let known = inside.get(&address).map(|(known, _)| known.silent);
                if known.is_none_or(|silent| seen.silent < silent) {
                    inside.insert(address, (seen, one));
                }
            }
        }
        let rates = lock(&self.rates);
        for (address, (seen, one)) in inside {
            let row = rows.entry(address).or_insert_with(|| at(address));
            let (all, rate) = (one.room.blocks(), rates.of(&one.key(Some(address))));
            row.seen(&seen, all, (one.bytes(all - seen.blocks.min(all)), rate));
        }
        open.iter().map(|one| one.image(rates.of(&one.key(None)))).collect()
    }

    /// Wakes the machine with these adapters, in whichever network it is.
    fn wake(&self, macs: &[String]) -> Result<()> {
        let macs: Vec<Mac> = macs.iter().filter_map(|mac| mac.parse().ok()).collect();
        let each = |interface| macs.iter().try_for_each(|mac| wake::send(interface, *mac));
        self.interfaces.iter().try_for_each(each)
    }
}

/// Adds what a site knows of its machines to what was seen at addresses; the rows of those that are at none.
fn known(site: &Site, seen: &mut BTreeMap<Ipv4Addr, Row>) -> Vec<Row> {
    let mac = |(address, row): (&Ipv4Addr, &Row)| Some((row.mac.clone()?, *address));
    let by_mac: BTreeMap<String, Ipv4Addr> = seen.iter().filter_map(mac).collect();
    let mut elsewhere = Vec::new();
    site.look(|list, now| {
        for (id, known) in list.machines() {
            let address = known.now.as_ref().map(|heard| heard.address);
            // Its firmware had another address, or it did not say yet that it runs: it is one machine all the same.
            let others = known.machine.macs.iter().filter_map(|mac| by_mac.get(mac));
            let mut firmware = None;
            for other in others.filter(|other| Some(**other) != address) {
                if seen.get(other).is_some_and(|row| row.id.is_none()) {
                    firmware = seen.remove(other).and_then(|row| row.firmware).or(firmware);
                }
            }
            // Several may speak from one address, such as behind a router.
            let is_free = |at: &Ipv4Addr| seen.get(at).is_none_or(|row| row.id.is_none());
            let row = match address.filter(is_free) {
                Some(address) => seen.entry(address).or_insert_with(|| at(address)),
                None => {
                    elsewhere.push(Row::default());
                    let Some(row) = elsewhere.last_mut() else { continue };
                    row
                }
            };
            row.firmware = row.firmware.take().or(firmware);
            row.know((id, list.tag(id)), known, now);
        }
    });
    elsewhere
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This machine's clock, in seconds since 1970.
fn clock() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A machine of which only the address is known.
fn at(address: Ipv4Addr) -> Row {
    Row { address: Some(address), ..Row::default() }
}

impl Answers for Board {
    fn answer(&self, question: &Question<'_>) -> Option<Made> {
        match (question.name, question.posted) {
            ("board", None) => Some(Made::new("text/html; charset=utf-8", PAGE)),
            _ => api::answer(self, question),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;
    use std::path::Path;
    use std::sync::Arc;

    use super::Board;
    use crate::event::{Event, Kind, Mac, What};
    use crate::files::{Answers, Made, Question};
    use crate::interface::Interface;
    use crate::orders::list::{Choice, Expected, Group, Policy, Wish};
    use crate::orders::machine::Machine;
    use crate::orders::site::Site;

    fn ask(board: &Board, name: &str) -> Option<Made> {
        board.answer(&Question { name, posted: None, token: None, client: None })
    }

    #[test]
    fn what_happened_last_stands_beside_each_machine() {
        let board = Board::new(Vec::new(), None, Vec::new());
        let address = Some(Ipv4Addr::new(10, 0, 0, 5));
        let event = |what| Event { address, mac: None, kind: None, what };
        let first = Event {
            mac: Some(Mac([2, 0, 0, 0, 0, 5])),
            kind: Some(Kind::Uefi),
            ..event(What::Seen)
        };
        let fetched = |file: &str| event(What::Fetched("HTTP", file.to_owned(), 1));
        let stage = || {
            let json = ask(&board, "board.json").unwrap().bytes;
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
        board.note(&Event { kind: Some(Kind::System), ..event(What::Seen) });
        board.note(&fetched("boot/settings.img"));
        assert_eq!(stage(), "runs");
        // The system gets another address than the firmware had.
        let kind = Some(Kind::System);
        board.note(&Event { address: Some(Ipv4Addr::new(10, 0, 0, 6)), kind, ..first.clone() });
        assert_eq!(stage(), "runs");
        assert!(ask(&board, "board").unwrap().kind.starts_with("text/html"));
        assert!(ask(&board, "elsewhere").is_none());
    }

    /// By which nobody gets anything.
    #[derive(Debug)]
    struct Nothing;

    impl Policy for Nothing {
        fn groups(&self) -> BTreeSet<&Group> {
            BTreeSet::new()
        }

        fn choose(&self, _: &Machine, _: Option<&str>) -> Result<Choice, String> {
            Err(String::new())
        }

        fn disks(&self, _: &Machine) -> Result<Choice, String> {
            Err(String::new())
        }

        fn expected(&self, _: &Machine) -> Option<Expected> {
            None
        }

        fn name(&self, _: &dyn Fn(&str) -> bool) -> Option<String> {
            None
        }

        fn everyone(&self) -> bool {
            false
        }

        fn images(&self) -> Vec<String> {
            Vec::new()
        }
    }

    /// A site that is started, and its board.
    fn started(folder: &Path) -> (Arc<Site>, Board) {
        let site = Arc::new(Site::open(folder, Box::new(Nothing)).unwrap());
        let name = "eth1".to_owned();
        let [address, mask] = [[10, 0, 0, 1], [255, 255, 255, 0]].map(Ipv4Addr::from);
        let interface = Interface { name, address, mask, mac: Mac::default(), multicast: true };
        let board = Board::new(Vec::new(), Some(Arc::clone(&site)), vec![interface]);
        (site, board)
    }

    #[test]
    fn a_machine_has_one_row_wherever_it_was_seen() {
        let work = tempfile::tempdir().unwrap();
        let said = br#"{"machine": {"macs": ["02:00:00:00:00:05", "02:00:00:00:00:06"], "memory": 1, "disks": []},
                        "nonce": "n", "doing": {"what": "waits"}}"#;
        let at = |number| Some(Ipv4Addr::new(10, 0, 0, number));
        let hear = |site: &Site, client| {
            let question = Question { name: "agent", posted: Some(said), token: None, client };
            assert_eq!(site.answer(&question).unwrap().status, 200);
        };
        let rows = |site: &Site, board: &Board| {
            let question = Question {
                name: "board.json",
                posted: None,
                token: Some(site.token()),
                client: None,
            };
            let told = board.answer(&question).unwrap().bytes;
            let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
            let row = |row: &serde_json::Value| {
                ["address", "firmware", "tag"].map(|name| row[name].as_str().map(str::to_owned))
            };
            told["machines"].as_array().unwrap().iter().map(row).collect::<Vec<_>>()
        };
        let (site, board) = started(work.path());
        hear(&site, at(5));
        let tag = rows(&site, &board)[0][2].clone();
        assert!(tag.is_some());
        site.change(|list| list.call_all(None, &Wish::default())).unwrap();
        drop((site, board));

        // It boots again, beside a server that was started again and has only its name in the list.
        let (site, board) = started(work.path());
        let seen = |address, mac| Event {
            address,
            mac: Some(Mac([2, 0, 0, 0, 0, mac])),
            kind: Some(Kind::Uefi),
            what: What::Seen,
        };
        board.note(&seen(at(5), 6));
        let uefi = Some("UEFI".to_owned());
        assert_eq!(rows(&site, &board), [[None, uefi.clone(), tag.clone()]]);
        // Its system asks with the other adapter, and gets another address.
        hear(&site, at(7));
        board.note(&seen(at(9), 9));
        let text = |text: &str| Some(text.to_owned());
        let other = [text("10.0.0.9"), uefi.clone(), None];
        assert_eq!(rows(&site, &board), [[text("10.0.0.7"), uefi, tag.clone()], other]);
    }
}
