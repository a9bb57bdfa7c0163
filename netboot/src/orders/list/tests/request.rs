//! Machines at which somebody asks that they are saved.

use super::{DONE, Room, machine, order, waits, works};
use crate::orders::list::{Decision, Doing, Group, Known, Machine, Wish};
use crate::orders::machine::Disk;
use crate::orders::moment::Moment;

fn asking() -> Doing {
    Doing::Asks { name: "golden".to_owned() }
}

fn known(room: &Room, machine: &Machine) -> Known {
    room.list.machine(&machine.id()).unwrap().clone()
}

/// The name that somebody at it asks for.
fn asked(room: &Room, machine: &Machine) -> Option<String> {
    known(room, machine).asks().map(|request| request.name.clone())
}

#[test]
fn who_asks_is_saved_when_somebody_agrees() {
    // Not even where everyone is restored unasked is anything done before.
    let (mut room, one) = (Room::new(true), machine("a"));
    let group: Group = "room-1".parse().unwrap();
    for _ in 0..2 {
        assert!(waits(room.says(&one, "n", 1, asking())).contains("agree to save it as golden"));
        assert!(!room.list.take_changed(), "nobody decided anything of it");
        room.list.put(&[one.id()], Some(&group));
        assert_eq!(room.list.call_all(None, &Wish::default()), 0);
        assert_eq!(room.list.call_group(&group, &Wish::default()), 0);
        room.list = serde_json::from_str(&serde_json::to_string(&room.list).unwrap()).unwrap();
        assert_eq!(asked(&room, &one).as_deref(), Some("golden"));
    }
    assert!(room.list.call_to_save(&one.id(), "better"));
    assert_eq!(asked(&room, &one), None);
    let first = order(room.says(&one, "n", 1, asking()));
    assert_eq!((first.save.as_deref(), first.disks), (Some("better"), one.disks.clone()));
    assert_eq!(room.says(&one, "n", 1, works()), Decision::Known);
    // It lost its power: whoever asks again there has the word already.
    let again = order(room.says(&one, "m", 1, asking()));
    assert_eq!(again.save.as_deref(), Some("better"));
    assert_eq!(room.says(&one, "m", 1, DONE), Decision::Known);
    assert_eq!(waits(room.asks(&one, "o")), "it was saved as better");
    assert_eq!(asked(&room, &one), None);
}

#[test]
fn no_is_no_and_nothing_else_changes() {
    let states: [fn(&mut Room, &Machine); 7] = [
        |room, one| drop(waits(room.asks(one, "a"))),
        |room, one| {
            waits(room.asks(one, "a"));
            assert!(room.list.stop(&one.id()));
        },
        |room, one| {
            waits(room.asks(one, "a"));
            assert!(room.list.call(&one.id(), None, None));
        },
        |room, one| {
            waits(room.asks(one, "a"));
            room.list.call(&one.id(), None, None);
            order(room.asks(one, "a"));
        },
        |room, one| {
            waits(room.asks(one, "a"));
            room.list.call(&one.id(), None, None);
            order(room.asks(one, "a"));
            room.says(one, "a", 1, DONE);
        },
        |room, one| {
            waits(room.asks(one, "a"));
            room.list.call(&one.id(), None, None);
            order(room.asks(one, "a"));
            room.says(one, "a", 1, Doing::Failed { why: "x".to_owned() });
        },
        |room, one| {
            waits(room.asks(one, "a"));
            let at: Moment = "2026-11-23T02:00:00Z".parse().unwrap();
            assert!(room.list.let_in(&one.id(), &Wish { at: Some(at), ..Wish::default() }));
        },
    ];
    for (number, begin) in states.into_iter().enumerate() {
        let (mut room, one) = (Room::new(false), machine("a"));
        begin(&mut room, &one);
        let before = known(&room, &one);
        // It shows only the disk that is to be saved.
        let shown = Machine { disks: Vec::new(), ..one.clone() };
        let is_same = |room: &Room| {
            let now = known(room, &one);
            assert_eq!(Known { now: before.now.clone(), ..now }, before, "{number}");
        };
        waits(room.says(&shown, "n", 1, asking()));
        assert!(asked(&room, &one).is_some(), "{number}");
        assert!(room.list.stop(&one.id()));
        is_same(&room);
        for _ in 0..2 {
            assert_eq!(room.says(&shown, "n", 1, asking()), Decision::Stop, "{number}");
        }
        is_same(&room);
        // Whoever asks once more, asks.
        waits(room.says(&shown, "o", 1, asking()));
        assert!(asked(&room, &one).is_some());
        assert_eq!(room.says(&shown, "o", 1, Doing::AsksNoMore), Decision::Known);
        is_same(&room);
        // Whoever starts it as ever does not.
        waits(room.says(&shown, "p", 1, asking()));
        room.asks(&one, "q");
        assert_eq!(asked(&room, &one), None, "{number}");
    }
}

#[test]
fn of_several_disks_the_one_is_saved_that_was_asked_for() {
    let (mut room, one) = (Room::new(false), machine("a"));
    let [first, second] = ["S1", "S2"].map(|serial| Disk {
        serial: Some(serial.to_owned()),
        usable: true,
        ..Disk::default()
    });
    let both = Machine { disks: vec![first, second.clone()], ..one.clone() };
    let shown = Machine { disks: vec![second.clone()], ..one.clone() };
    waits(room.asks(&both, "a"));
    waits(room.says(&shown, "n", 1, asking()));
    assert!(room.list.call_to_save(&one.id(), "golden"));
    assert_eq!(order(room.says(&shown, "n", 1, asking())).disks, [second]);
    assert_eq!(known(&room, &one).machine, both);
}

#[test]
fn what_was_agreed_to_is_taken_back_before_it_begins() {
    let (mut room, one) = (Room::new(true), machine("a"));
    waits(room.says(&one, "n", 1, asking()));
    assert!(room.list.call_to_save(&one.id(), "golden"));
    assert_eq!(room.says(&one, "n", 1, Doing::AsksNoMore), Decision::Known);
    assert!(waits(room.asks(&one, "o")).contains("took that back"));
    // Somebody here takes back that he agreed: that is a no.
    waits(room.says(&one, "p", 1, asking()));
    assert!(room.list.call_to_save(&one.id(), "golden") && room.list.stop(&one.id()));
    assert_eq!(room.says(&one, "p", 1, asking()), Decision::Stop);
}
