//! What is said for later: when it begins, and that nothing else does meanwhile.

use std::time::Duration;

use super::{DONE, Room, machine, order, starts, waits, works};
use crate::orders::list::{ASKED, Decision, Group, List, Machine, OTHERS, State, Wish};
use crate::orders::moment::Moment;

/// When it is to be: 2026-11-23 02:00.
const AT: i64 = 1_795_399_200;
const HOUR: i64 = 3600;

fn wish(image: Option<&str>) -> Wish {
    let at: Moment = "2026-11-23T02:00:00Z".parse().unwrap();
    assert_eq!(at.seconds, AT);
    Wish { image: image.map(str::to_owned), at: Some(at), ..Wish::default() }
}

/// What is woken until nobody is any more, from `now` on.
fn woken(list: &mut List, now: u64) -> Vec<String> {
    let at = Duration::from_secs;
    let mut woken: Vec<String> =
        (now..now + 10).filter_map(|now| list.woken(at(now))?.pop()).collect();
    woken.sort();
    woken
}

impl Room {
    /// It is this time, long after anybody spoke.
    fn clock(&mut self, clock: i64) {
        self.now += 100;
        self.list.take_changed();
        let due = self.list.is_due(clock);
        self.list.begin(clock, Duration::from_secs(self.now));
        assert!(!self.list.is_due(clock), "once is enough");
        assert_eq!(self.list.take_changed(), due);
    }

    /// The program ends and starts again.
    fn again(&mut self) {
        let written = serde_json::to_string(&self.list).unwrap();
        self.list = serde_json::from_str(&written).unwrap();
    }
}

#[test]
fn machines_begin_at_the_time_that_was_said() {
    let (mut room, one, two) = (Room::new(false), machine("a"), machine("b"));
    for one in [&one, &two] {
        waits(room.asks(one, "n"));
    }
    assert_eq!(room.list.call_all(None, &wish(Some("new@2"))), 2);
    assert_eq!(room.list.call_all(None, &Wish::default()), 0, "they wait for no word");
    assert_eq!(waits(room.asks(&one, "n")), "it is restored at 2026-11-23 02:00 (UTC)");
    room.again();
    room.clock(AT - 1);
    assert!(waits(room.asks(&one, "m")).contains("02:00") && woken(&mut room.list, 900).is_empty());
    room.clock(AT);
    assert_eq!(room.state(&one), &State::Called);
    let now = room.now;
    assert_eq!(woken(&mut room.list, now), ["a", "b"]);
    let first = order(room.asks(&one, "m"));
    assert_eq!(&*first.image, "new@2");
    room.says(&one, "m", 1, DONE);
    // The other one did not come; it is woken by a program that starts again, and gets its order in time.
    room.again();
    room.clock(AT + HOUR);
    let now = room.now;
    assert_eq!(woken(&mut room.list, now), ["b"]);
    assert_eq!(&*order(room.asks(&two, "m")).image, "new@2");
    // What was begun is used up.
    room.clock(AT + 9 * HOUR);
    assert!(matches!(room.state(&one), State::Done { .. }) && room.state(&two) == &State::Works);
}

#[test]
fn a_time_that_was_missed_waits_for_another_word() {
    for is_listed in [false, true] {
        // Whether this program did not run, or the machine did not come.
        for is_called in [false, true] {
            let (mut room, one) = (Room::new(false), machine("a"));
            room.asks(&one, "n");
            room.list.let_in(&one.id(), &wish(None));
            room.rules.listed = is_listed.then_some("a");
            if is_called {
                room.clock(AT + 2 * HOUR);
                assert_eq!(room.state(&one), &State::Called);
            }
            room.again();
            room.clock(AT + 2 * HOUR + 1);
            assert_eq!(room.state(&one), &State::Waits);
            assert!(waits(room.asks(&one, "m")).contains("did not begin within 2 hours"));
            assert!(room.list.machine(&one.id()).unwrap().missed().is_some());
            assert_eq!(room.list.call_all(None, &Wish::default()), 1);
            order(room.asks(&one, "m"));
        }
    }
}

#[test]
fn what_was_restored_starts_by_itself_until_its_time() {
    let (mut room, one) = (Room::new(true), machine("a"));
    let first = order(room.asks(&one, "n"));
    room.says(&one, "n", 1, DONE);
    room.list.let_in(&one.id(), &wish(None));
    // There is a newer one, and it is not its time.
    room.rules.image = "lab@2".to_owned();
    assert!(starts(&room, "a", None));
    assert_eq!(room.asks(&one, "m"), Decision::Start("lab@1".to_owned()));
    room.clock(AT);
    assert!(!starts(&room, "a", None));
    let newer = order(room.asks(&one, "m"));
    assert_eq!((newer.number, &*newer.image), (first.number + 1, "lab@2"));
}

#[test]
fn what_is_taken_back_does_not_begin() {
    let (mut room, one, two) = (Room::new(true), machine("a"), machine("b"));
    order(room.asks(&one, "n"));
    room.says(&one, "n", 1, DONE);
    room.asks(&two, "n");
    room.list.stop(&two.id());
    for machine in [&one, &two] {
        assert!(room.list.let_in(&machine.id(), &wish(None)) && room.list.stop(&machine.id()));
    }
    assert!(!room.list.stop(&one.id()), "it is restored");
    room.clock(AT);
    assert_eq!(room.asks(&one, "m"), Decision::Start("lab@1".to_owned()));
    // Though everybody else is restored unasked; and a group is one word, too.
    assert_eq!(waits(room.asks(&two, "m")), ASKED);
    let group: Group = "room-1".parse().unwrap();
    room.list.put(&[one.id(), two.id()], Some(&group));
    assert_eq!(room.list.call_group(&group, &wish(None)), 2);
    assert_eq!(room.list.stop_group(&group), 2);
    room.clock(AT);
    assert_eq!(waits(room.asks(&two, "m")), ASKED);
    // A word for now is one.
    assert_eq!(room.list.call_group(&group, &Wish::default()), 2);
    order(room.asks(&two, "m"));
}

#[test]
fn a_doubt_that_comes_before_the_time_is_for_a_person() {
    let (mut room, one) = (Room::new(false), machine("a"));
    waits(room.asks(&one, "n"));
    room.list.let_in(&one.id(), &wish(None));
    let other = Machine { disks: machine("b").disks, ..one.clone() };
    assert_eq!(waits(room.asks(&other, "m")), OTHERS);
    room.clock(AT);
    assert_eq!(waits(room.asks(&other, "m")), OTHERS);
    assert_eq!(waits(room.asks(&other, "o")), OTHERS);
    // The same where it comes at its time only.
    let two = machine("c");
    waits(room.asks(&two, "n"));
    room.list.let_in(&two.id(), &wish(None));
    room.clock(AT);
    assert_eq!(
        waits(room.asks(&Machine { disks: machine("d").disks, ..two.clone() }, "m")),
        OTHERS
    );
    room.clock(AT + HOUR);
    assert_eq!(room.state(&two), &State::Waits);
}

#[test]
fn a_word_for_now_takes_the_place_of_one_for_later() {
    let (mut room, one) = (Room::new(false), machine("a"));
    room.asks(&one, "n");
    room.list.let_in(&one.id(), &wish(None));
    assert!(room.list.call(&one.id(), None, None));
    order(room.asks(&one, "n"));
    room.says(&one, "n", 1, works());
    assert!(!room.list.let_in(&one.id(), &wish(None)), "it works");
    room.says(&one, "n", 1, DONE);
    room.clock(AT);
    assert!(matches!(room.state(&one), State::Done { .. }));
    // And the other way round.
    room.list.call(&one.id(), None, None);
    room.list.let_in(&one.id(), &wish(None));
    assert!(waits(room.asks(&one, "m")).contains("02:00"));
}
