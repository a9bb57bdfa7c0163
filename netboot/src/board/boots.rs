//! Machines as the network tells of them while they boot, by their addresses, before they say anything themselves. Time is input.
//!
//! Beside a DHCP server the requests of every PC and telephone are heard. Only firmware, and who fetches what boots, becomes a
//! machine here; of systems nothing is learned but where a machine that is known went.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::rows::Row;
use crate::event::{Event, Kind, What};

/// So many machines are remembered; the one that was not heard of for the longest time makes room.
const MOST: usize = 1 << 12;
/// Who was not heard of for so long is off, or runs something that is no business of ours.
const LONG: Duration = Duration::from_secs(12 * 3600);

/// Those machines, each with the time when it was heard of last.
#[derive(Default, Debug)]
pub struct Boots(BTreeMap<Ipv4Addr, (Row, Instant)>);

impl Boots {
    /// Something happened at the time `now`.
    pub fn note(&mut self, event: &Event, now: Instant) {
        let Some(address) = event.address else { return };
        let stage = match &event.what {
            What::Named(_) => "starts to boot",
            What::Leased | What::Seen => "has an address",
            What::Lost(why) => why,
            What::Fetched(_, file, _) => loaded(file),
            What::Ended(_) | What::Warned(_) => return,
        };
        let mac = event.mac.map(|mac| mac.to_string());
        // A system that asks for its address again is no firmware.
        let firmware = event.kind.filter(|kind| *kind != Kind::System);
        let boots = firmware.is_some() || matches!(event.what, What::Fetched(..));
        // What had this address before may be another machine, and this one may have had another address.
        let here = self
            .0
            .remove(&address)
            .filter(|(row, _)| mac.is_none() || row.mac.is_none() || row.mac == mac);
        let elsewhere = self.0.iter().find(|(_, (row, _))| mac.is_some() && row.mac == mac);
        let elsewhere = elsewhere.map(|(address, _)| *address).and_then(|had| self.0.remove(&had));
        let known = elsewhere.or(here);
        if known.is_none() && !boots {
            return;
        }
        let mut row = known.map_or_else(Row::default, |(row, _)| row);
        row.address = Some(address);
        row.mac = mac.or(row.mac);
        row.firmware = firmware.map(|kind| kind.to_string()).or(row.firmware);
        // Addresses are asked for again and again.
        if event.what != What::Seen || row.stage.is_empty() {
            stage.clone_into(&mut row.stage);
        }
        self.0.insert(address, (row, now));
        if self.0.len() > MOST {
            let oldest =
                self.0.iter().min_by_key(|(_, (_, heard))| *heard).map(|(address, _)| *address);
            oldest.and_then(|address| self.0.remove(&address));
        }
    }

    /// What is known of those that were heard of lately.
    pub fn rows(&mut self, now: Instant) -> BTreeMap<Ipv4Addr, Row> {
        self.0.retain(|_, (_, heard)| now.saturating_duration_since(*heard) < LONG);
        self.0.iter().map(|(address, (row, _))| (*address, row.clone())).collect()
    }
}

/// What a machine does that fetches this file.
fn loaded(file: &str) -> &'static str {
    match file {
        // Behind the one comes the kernel, which fetches the other.
        "boot/settings.img" | "boot/system.img" => "runs",

        _ if file.starts_with("boot/") => "loads its system",
        _ => "boots",
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    use super::{Boots, LONG, MOST};
    use crate::event::{Event, Kind, Mac, What};

    fn event(number: u32, mac: u8, kind: Option<Kind>, what: What) -> Event {
        let address = Some(Ipv4Addr::from(0x0A00_0000 + number));
        Event { address, mac: Some(Mac([2, 0, 0, 0, 0, mac])), kind, what }
    }

    fn seen(boots: &mut Boots, now: Instant) -> Vec<(Ipv4Addr, Option<String>, Option<String>)> {
        let rows = boots.rows(now).into_iter();
        rows.map(|(address, row)| (address, row.mac, row.firmware)).collect()
    }

    #[test]
    fn systems_of_strangers_are_no_machines() {
        let (mut boots, now) = (Boots::default(), Instant::now());
        let system = Some(Kind::System);
        for what in [What::Seen, What::Leased] {
            boots.note(&event(1, 1, system, what), now);
        }
        assert!(seen(&mut boots, now).is_empty());
        boots.note(&event(2, 2, Some(Kind::Bios), What::Named("x".to_owned())), now);
        boots.note(&event(3, 3, system, What::Fetched("HTTP", "boot/vmlinuz".to_owned(), 1)), now);
        let of = |number: u32, mac: u8, firmware: Option<&str>| {
            let address = Ipv4Addr::from(0x0A00_0000 + number);
            (address, Some(format!("02:00:00:00:00:0{mac}")), firmware.map(str::to_owned))
        };
        assert_eq!(seen(&mut boots, now), [of(2, 2, Some("BIOS")), of(3, 3, None)]);
        // Its system takes another address, and what it had goes to a telephone.
        boots.note(&event(4, 2, system, What::Leased), now);
        boots.note(&event(3, 9, system, What::Leased), now);
        assert_eq!(seen(&mut boots, now), [of(4, 2, Some("BIOS"))]);
    }

    #[test]
    fn who_is_not_heard_of_goes_away() {
        let (mut boots, now) = (Boots::default(), Instant::now());
        boots.note(&event(1, 1, Some(Kind::Uefi), What::Seen), now);
        boots.note(&event(2, 2, Some(Kind::Uefi), What::Seen), now);
        let later = now + LONG - Duration::from_secs(1);
        boots.note(&event(1, 1, Some(Kind::System), What::Seen), later);
        assert_eq!(seen(&mut boots, later).len(), 2);
        assert_eq!(seen(&mut boots, now + LONG)[0].0, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(seen(&mut boots, now + LONG).len(), 1);
        // Nor do many push out who was heard of a moment ago.
        let fetched = || What::Fetched("TFTP", "x".to_owned(), 1);
        for number in 0..MOST as u32 + 5 {
            let event = Event { mac: None, ..event(number + 10, 0, None, fetched()) };
            boots.note(&event, later + Duration::from_millis(number.into()));
        }
        let rows = seen(&mut boots, later);
        assert_eq!((rows.len(), rows[0].0), (MOST, Ipv4Addr::new(10, 0, 0, 15)));
    }
}
