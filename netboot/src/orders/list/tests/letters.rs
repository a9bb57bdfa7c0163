//! By which letters people know machines, and how fast these are.

use super::{ASKED, Room, Rules, machine, order, waits};
use crate::orders::list::{Doing, Known, List};
use crate::orders::machine::{Machine, tag};

/// A machine whose id begins as this one does.
fn twin(of: &Machine, digits: usize) -> Machine {
    let id = of.id();
    let other = |number: u32| machine(&format!("twin {number}"));
    (0..).map(other).find(|one| one.id()[..digits] == id[..digits]).unwrap()
}

#[test]
fn who_shares_four_letters_has_more_on_page_and_screen() {
    let (mut room, one, stranger) = (Room::new(false), machine("a"), machine("b"));
    let four = tag(&one.id());
    room.asks(&stranger, "n");
    assert_eq!(waits(room.asks(&one, "n")), ASKED);
    assert_eq!(room.list.tag(&one.id()), four);
    let twin = twin(&one, 4);
    let told = waits(room.asks(&twin, "n"));
    let (letters, others) = (room.list.tag(&one.id()), room.list.tag(&twin.id()));
    assert!(told.contains(&others) && told.contains(&four) && told.ends_with(ASKED), "{told}");
    assert!(letters.len() > 4 && letters.starts_with(&four) && letters != others);
    assert!(waits(room.asks(&one, "n")).contains(&letters));
    assert_eq!(room.list.tag(&stranger.id()), tag(&stranger.id()));
    // Alone again it has four.
    assert!(room.list.forget(&twin.id()));
    assert_eq!((waits(room.asks(&one, "n")).as_str(), room.list.tag(&one.id())), (ASKED, four));
}

#[test]
fn more_letters_are_added_until_they_differ() {
    let mut list = List::default();
    let known = || Known::new(machine("a"), &Rules::default());
    for id in ["00112233", "00112244", "0011ff00", "7000"] {
        list.machines.insert(id.to_owned(), known());
    }
    let tags: Vec<String> = list.machines.keys().map(|id| list.tag(id)).collect();
    assert_eq!(tags, ["BBCCDDFF", "BBCCDDGG", "BBCCXX", "KBBB"]);
}

#[test]
fn a_stage_has_a_rate_of_its_own() {
    let (mut room, one) = (Room::new(true), machine("a"));
    order(room.asks(&one, "n"));
    let mut says = |stage: &str, done, nonce: &str| {
        let doing = Doing::Works { stage: stage.to_owned(), done, total: None, note: None };
        room.says(&one, nonce, 1, doing);
        room.list.machines[&one.id()].now.as_ref().unwrap().rate.per_second()
    };
    assert_eq!(says("writing", 0, "n"), None);
    assert_eq!(says("writing", 200, "n"), Some(100));
    assert_eq!(says("reading back", 300, "n"), None);
    assert_eq!(says("reading back", 340, "n"), Some(20));
    assert_eq!(says("reading back", 400, "m"), None);
}
