//! How many machines are known, and how much of them.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{DONE, Room, machine, order, waits, works};
use crate::orders::list::bounds::{MEMORY, MOST};
use crate::orders::list::{Doing, List, Said};
use crate::orders::machine::{Disk, Machine};

#[test]
fn there_is_an_end_to_how_many_are_known() {
    let mut room = Room::new(false);
    for number in 0..MOST {
        room.asks(&machine(&number.to_string()), "n");
    }
    // The first of them are silent for so long by then that they make room.
    room.asks(&machine("one more"), "n");
    assert!(room.list.machines.len() < MOST);
    let (mut room, now) = (Room::new(false), Duration::ZERO);
    for number in 0..=MOST {
        let said = Said {
            machine: machine(&number.to_string()),
            nonce: "n".to_owned(),
            doing: Doing::Waits,
        };
        let told = room.list.hear(said, Ipv4Addr::LOCALHOST, now, &room.rules);
        assert_eq!(waits(told).contains("too many"), number == MOST);
    }
    room.now = 0;
    assert_eq!(room.list.machines.len(), MOST);
}

/// One that says as much as it can.
fn large(number: usize) -> Machine {
    let text = || Some("x".repeat(200));
    let disk = Disk { model: text(), serial: text(), wwn: text(), ..Disk::default() };
    Machine { disks: vec![disk; 64], ..machine(&number.to_string()) }
}

#[test]
fn there_is_an_end_to_how_much_is_known_of_them() {
    let mut room = Room::new(false);
    let small = machine("small");
    room.asks(&small, "n");
    let known = (0..MOST).take_while(|number| {
        room.now = 0;
        !waits(room.asks(&large(*number), "n")).contains("too many")
    });
    let known = known.count();
    let size = large(0).size();
    assert!((MEMORY / size - 50..=MEMORY / size).contains(&known), "{known} of {size} bytes");
    // Who is known goes on, but does not say more than before; nor does who asks to be saved.
    room.now = 0;
    assert!(waits(room.asks(&small, "n")).contains("somebody has to say"));
    let grown = Machine { disks: large(0).disks, ..small.clone() };
    assert!(waits(room.asks(&grown, "n")).contains("too many"));
    assert_eq!(room.list.machines[&small.id()].machine, small);
    let asks = Doing::Asks { name: "golden".to_owned() };
    assert!(waits(room.says(&large(0), "n", 1, asks)).contains("too many"));
    // Those that are silent make room, but for whom somebody let in.
    assert!(room.list.call(&small.id(), None, None));
    room.now = 1000;
    assert!(!waits(room.asks(&large(MOST), "n")).contains("too many"));
    assert_eq!(room.list.machines.len(), 2);
    order(room.asks(&small, "m"));
}

#[test]
fn what_nobody_decided_is_not_written_down() {
    let (mut room, one, two) = (Room::new(false), machine("a"), machine("b"));
    let asks = Doing::Asks { name: "golden".to_owned() };
    let before = room.list.clone();
    for doing in [Doing::Waits, works(), DONE, asks, Doing::AsksNoMore] {
        room.says(&one, "n", 1, doing);
    }
    assert!(waits(room.says(&one, "m", 2, Doing::Waits)).contains("two machines"));
    assert!(!room.list.take_changed());
    let written = |room: &Room| serde_json::to_string(&room.list).unwrap();
    assert_eq!(written(&room), serde_json::to_string(&before).unwrap());
    // What somebody stopped would begin again where everybody is let in.
    room.asks(&two, "n");
    assert!(room.list.stop(&two.id()) && room.list.take_changed());
    let again: List = serde_json::from_str(&written(&room)).unwrap();
    assert_eq!(again.machines().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [two.id()]);
    // From then on all that it says is.
    let other = Machine { disks: Vec::new(), ..two };
    room.asks(&other, "n");
    assert!(room.list.take_changed() && written(&room).contains("\"disks\":[]"));
}
