//! What machines are told, in every state that they and the list can be in.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::starts::swapped;
use super::*;

mod bounds;
mod later;
mod letters;
mod request;

#[derive(Clone, Default, Debug)]
struct Rules {
    everyone: bool,
    image: String,
    /// The machine with this adapter is expected.
    listed: Option<&'static str>,
    /// The group of all machines that is written down.
    group: Option<Group>,
}

impl Policy for Rules {
    fn groups(&self) -> BTreeSet<&Group> {
        BTreeSet::new()
    }

    fn choose(&self, machine: &Machine, image: Option<&str>) -> Result<Choice, String> {
        let [disk] = machine.disks.as_slice() else { return Err("which disk?".to_owned()) };
        let image = image.unwrap_or(&self.image).to_owned();
        Ok(Choice { image, disks: vec![disk.clone()], answers: "a".to_owned() })
    }

    fn disks(&self, machine: &Machine) -> Result<Choice, String> {
        self.choose(machine, Some("-"))
    }

    fn expected(&self, machine: &Machine) -> Option<Expected> {
        let (hostname, group) = (Some("written-down".to_owned()), self.group.clone());
        if machine.macs.first().map(String::as_str) == self.listed && self.listed.is_some() {
            return Some(Expected { hostname, image: None, group, is_called: true });
        }
        group.map(|group| Expected { group: Some(group), ..Expected::default() })
    }

    fn name(&self, taken: &dyn Fn(&str) -> bool) -> Option<String> {
        (1..).map(|number| format!("pc-{number:02}")).find(|name| !taken(name))
    }

    fn everyone(&self) -> bool {
        self.everyone
    }

    fn images(&self) -> Vec<String> {
        vec![self.image.clone()]
    }
}

/// A room at some time.
struct Room {
    list: List,
    rules: Rules,
    now: u64,
}

impl Room {
    fn new(everyone: bool) -> Self {
        let rules = Rules { everyone, image: "lab@1".to_owned(), ..Rules::default() };
        Self { list: List::default(), rules, now: 0 }
    }

    fn says(&mut self, machine: &Machine, nonce: &str, from: u8, doing: Doing) -> Decision {
        self.now += 2;
        let said = Said { machine: machine.clone(), nonce: nonce.to_owned(), doing };
        let address = Ipv4Addr::new(10, 0, 0, from);
        self.list.hear(said, address, Duration::from_secs(self.now), &self.rules)
    }

    fn asks(&mut self, machine: &Machine, nonce: &str) -> Decision {
        self.says(machine, nonce, 1, Doing::Waits)
    }

    fn state(&self, machine: &Machine) -> &State {
        &self.list.machines[&machine.id()].state
    }
}

fn machine(mac: &str) -> Machine {
    let disk = Disk { serial: Some(format!("S{mac}")), size: 9, usable: true, ..Disk::default() };
    let uuid = Some("00112233-4455-6677-8899-aabbccddeeff".to_owned());
    Machine { uuid, macs: vec![mac.to_owned()], disks: vec![disk], ..Machine::default() }
}

fn order(decision: Decision) -> Order {
    match decision {
        Decision::Do(order) => *order,
        other => panic!("{other:?}"),
    }
}

fn waits(decision: Decision) -> String {
    match decision {
        Decision::Wait(why) => why,
        other => panic!("{other:?}"),
    }
}

const DONE: Doing = Doing::Done { remains: None };

fn works() -> Doing {
    Doing::Works { stage: "writing".to_owned(), done: 1, total: Some(2), note: None }
}

#[test]
fn a_machine_waits_for_a_word_and_is_restored_once() {
    let (mut room, one) = (Room::new(false), machine("a"));
    assert!(waits(room.asks(&one, "n")).contains("somebody has to say"));
    assert!(room.list.call(&one.id(), None, None) && room.list.take_changed());
    let first = order(room.asks(&one, "n"));
    assert_eq!(first.nonce, "n");
    assert_eq!((first.machine.as_str(), first.hostname.as_deref()), (&*one.id(), Some("pc-01")));
    assert_eq!(room.says(&one, "n", 1, works()), Decision::Known);
    // It lost its power: the same deployment, for the machine that it is now.
    let again = order(room.asks(&one, "m"));
    let grant = again.grant.clone();
    assert_eq!(again, Order { nonce: "m".to_owned(), grant, ..first.clone() });
    // What it said before, or somebody else, is of no account.
    for doing in [DONE, works(), Doing::Failed { why: "x".to_owned() }] {
        assert_eq!(room.says(&one, "other", 1, doing), Decision::Known);
        assert_eq!(room.state(&one), &State::Works);
    }
    assert_eq!(room.says(&one, "m", 1, DONE), Decision::Known);
    assert_eq!(room.asks(&one, "o"), Decision::Start("lab@1".to_owned()));
    // Nor after this program has started again.
    let written = serde_json::to_string(&room.list).unwrap();
    room.list = serde_json::from_str(&written).unwrap();
    assert_eq!(room.asks(&one, "p"), Decision::Start("lab@1".to_owned()));
    // A person may want it again: that is another deployment.
    assert!(room.list.call(&one.id(), Some("other".to_owned()), Some("new@2".to_owned())));
    let other = order(room.asks(&one, "p"));
    assert_eq!((other.number, &*other.image), (again.number + 1, "new@2"));
    assert_eq!(other.hostname.as_deref(), Some("other"));
}

#[test]
fn everyone_is_restored_once_for_each_image() {
    let (mut room, one, two) = (Room::new(true), machine("a"), machine("b"));
    let [a, b] = [&one, &two].map(|machine| order(room.says(machine, "n", 1, Doing::Waits)));
    assert_eq!((a.hostname.as_deref(), b.hostname.as_deref()), (Some("pc-01"), Some("pc-02")));
    room.says(&one, "n", 1, DONE);
    assert_eq!(room.asks(&one, "m"), Decision::Start("lab@1".to_owned()));
    room.rules.image = "lab@2".to_owned();
    let newer = order(room.asks(&one, "m"));
    assert_eq!((newer.number, newer.hostname.as_deref()), (a.number + 1, Some("pc-01")));
}

#[test]
fn who_is_written_down_needs_no_word() {
    let (mut room, one, two) = (Room::new(false), machine("a"), machine("b"));
    room.rules.listed = Some("a");
    assert_eq!(order(room.asks(&one, "n")).hostname.as_deref(), Some("written-down"));
    waits(room.asks(&two, "n"));
    assert_eq!(
        (room.list.call_all(None, &Wish::default()), room.list.call_all(None, &Wish::default())),
        (1, 0)
    );
    order(room.asks(&two, "n"));
}

#[test]
fn two_that_say_to_be_one_are_held() {
    let (mut room, one) = (Room::new(true), machine("a"));
    order(room.says(&one, "n", 1, Doing::Waits));
    room.says(&one, "n", 1, works());
    assert!(waits(room.says(&one, "m", 2, Doing::Waits)).contains("two machines"));
    // The first goes on, and the second gets nothing until it is certain that it is not the first.
    assert_eq!(room.says(&one, "n", 1, DONE), Decision::Known);
    room.now += 60;
    let other = Machine { disks: machine("b").disks, ..one.clone() };
    assert!(waits(room.says(&other, "m", 2, Doing::Waits)).contains("other disks"));
    assert!(waits(room.says(&other, "m", 2, Doing::Waits)).contains("other disks"));
    // Only a person can say so.
    assert_eq!(room.list.call_all(None, &Wish::default()), 0);
    assert!(room.list.call(&one.id(), None, None));
    assert_eq!(order(room.says(&other, "m", 2, Doing::Waits)).disks, other.disks);
}

#[test]
fn two_that_say_to_be_one_that_was_called_both_wait() {
    let (mut room, one) = (Room::new(false), machine("a"));
    waits(room.asks(&one, "n"));
    assert!(room.list.call(&one.id(), None, None));
    assert!(waits(room.says(&one, "m", 2, Doing::Waits)).contains("two machines"));
    room.now += 60;
    assert!(waits(room.asks(&one, "n")).contains("two machines"));
    assert_eq!(room.list.call_all(None, &Wish::default()), 0);
}

#[test]
fn what_fails_waits_for_a_person() {
    let (mut room, one) = (Room::new(true), machine("a"));
    order(room.asks(&one, "n"));
    let why = "x".repeat(1000);
    room.says(&one, "n", 1, Doing::Failed { why });
    let State::Failed { why } = room.state(&one) else { panic!() };
    assert_eq!(why.len(), LONGEST);
    for nonce in ["n", "m"] {
        assert!(waits(room.asks(&one, nonce)).contains("was not restored"));
    }
    assert!(room.list.call(&one.id(), None, None));
    order(room.asks(&one, "m"));
}

#[test]
fn rules_that_fit_no_disk_are_told_until_they_do() {
    let (mut room, mut one) = (Room::new(true), machine("a"));
    let disk = one.disks.pop().unwrap();
    assert_eq!(waits(room.asks(&one, "n")), "which disk?");
    assert_eq!(room.list.machines[&one.id()].held.as_deref(), Some("which disk?"));
    one.disks.push(disk);
    order(room.asks(&one, "n"));
    assert_eq!(room.list.machines[&one.id()].held, None);
}

#[test]
fn a_person_stops_what_works_and_nothing_begins_again() {
    let (mut room, one) = (Room::new(true), machine("a"));
    order(room.asks(&one, "n"));
    room.says(&one, "n", 1, works());
    assert!(!room.list.call(&one.id(), None, None), "it works");
    assert!(!room.list.forget(&one.id()) && !room.list.stop("nobody"));
    assert!(room.list.stop(&one.id()));
    // Told until it has ended, also after this program has started again, and where it is let in once more meanwhile.
    let written = serde_json::to_string(&room.list).unwrap();
    room.list = serde_json::from_str(&written).unwrap();
    for _ in 0..3 {
        assert_eq!(room.says(&one, "n", 1, works()), Decision::Stop);
    }
    room.says(&one, "n", 1, Doing::Failed { why: "stopped".to_owned() });
    assert!(waits(room.asks(&one, "m")).contains("stopped"));
    assert!(room.list.call(&one.id(), None, None));
    assert_eq!(room.says(&one, "n", 1, works()), Decision::Stop);
    room.says(&one, "n", 1, DONE);
    assert_eq!(room.state(&one), &State::Called);
    // One that was only called does not begin either, though everyone else does.
    let two = machine("b");
    room.asks(&two, "n");
    room.list.stop(&two.id());
    assert!(waits(room.asks(&two, "m")).contains("stopped"));
    assert!(room.list.forget(&two.id()) && !room.list.forget(&two.id()));
    // What is done cannot be stopped, and stays so.
    let three = machine("c");
    room.asks(&three, "n");
    room.says(&three, "n", 1, DONE);
    assert!(!room.list.stop(&three.id()));
    assert!(matches!(room.state(&three), State::Done { .. }));
}

/// Whoever knows what a machine is called on the network can say what he likes: nobody is let in by that.
#[test]
fn nothing_that_is_said_lets_a_machine_in() {
    let (mut room, one) = (Room::new(false), machine("a"));
    for doing in [works(), DONE, Doing::Failed { why: String::new() }] {
        assert_eq!(room.says(&one, "x", 9, doing), Decision::Known);
        assert_eq!(room.state(&one), &State::Waits);
    }
    room.now += 60;
    waits(room.asks(&one, "n"));
    room.list.call(&one.id(), None, None);
    order(room.asks(&one, "n"));
    room.says(&one, "n", 1, DONE);
    room.now += 60;
    room.says(&one, "x", 9, works());
    assert!(matches!(room.state(&one), State::Done { .. }));
}

#[test]
fn other_disks_than_those_that_were_let_in_wait_for_a_person() {
    for begun in [false, true] {
        let (mut room, one) = (Room::new(false), machine("a"));
        room.asks(&one, "n");
        room.list.call(&one.id(), None, None);
        if begun {
            order(room.asks(&one, "n"));
        }
        let other = Machine { disks: machine("b").disks, ..one.clone() };
        assert!(waits(room.asks(&other, "m")).contains("other disks"));
        assert!(waits(room.asks(&other, "m")).contains("other disks"));
        assert_eq!(room.list.call_all(None, &Wish::default()), 0);
    }
}

#[test]
fn a_disk_that_was_restored_elsewhere_is_not_restored_unasked() {
    let (mut room, one) = (Room::new(true), machine("a"));
    order(room.asks(&one, "n"));
    room.says(&one, "n", 1, DONE);
    // The same laptop at another dock.
    let again = Machine { macs: vec!["dock".to_owned()], ..one };
    assert!(waits(room.asks(&again, "m")).contains("in another machine"));
    room.rules.everyone = false;
    room.rules.listed = Some("c");
    order(room.asks(&machine("c"), "n"));
    // Another machine that fits the same line of the list.
    let mut twin = machine("d");
    twin.macs.insert(0, "c".to_owned());
    assert!(waits(room.says(&twin, "n", 7, Doing::Waits)).contains("another machine has the name"));
}

#[test]
fn a_name_is_of_one_machine() {
    let (mut room, one, two) = (Room::new(false), machine("a"), machine("b"));
    room.asks(&one, "n");
    room.asks(&two, "n");
    assert!(room.list.call(&one.id(), Some("pc-1".to_owned()), None));
    let at = Some("2026-11-23T02:00:00Z".parse().unwrap());
    let wish = Wish { hostname: Some("pc-2".to_owned()), image: None, at };
    assert!(room.list.let_in(&two.id(), &wish));
    let named = |name: &str| room.list.named(name, "").cloned();
    assert_eq!(
        (named("pc-1"), named("pc-2"), named("pc-3")),
        (Some(one.id()), Some(two.id()), None)
    );
    // What is written down by now is newer than a name of before, but for who was just told another one.
    room.rules.listed = Some("a");
    room.list.look_up(&room.rules);
    assert_eq!(room.list.named("written-down", ""), None);
    room.list.stop(&one.id());
    room.list.look_up(&room.rules);
    assert_eq!(room.list.named("written-down", ""), Some(&one.id()));
}

#[test]
fn a_group_is_what_is_written_down_or_what_somebody_said() {
    let (mut room, one) = (Room::new(false), machine("a"));
    let [first, second] = ["room-1", "Raum.2"].map(|name| name.parse::<Group>().unwrap());
    for wrong in ["", "a b", "a/b", "a\n", "\"", "..", "Büro", &"x".repeat(65)] {
        assert!(wrong.parse::<Group>().is_err(), "{wrong}");
    }
    room.rules.group = Some(first.clone());
    // To be in a group alone lets nobody in.
    waits(room.asks(&one, "n"));
    assert_eq!((room.list.of(&first), room.list.of(&second)), (vec![one.id()], vec![]));
    room.list.take_changed();
    assert_eq!(room.list.put(&[one.id(), "nobody".to_owned()], Some(&second)), 1);
    assert!(room.list.take_changed());
    // It is kept, and another list is looked at when the program starts again.
    let written = serde_json::to_string(&room.list).unwrap();
    room.list = serde_json::from_str(&written).unwrap();
    assert_eq!(room.list.of(&second), [one.id()]);
    room.list.put(&[one.id()], None);
    assert_eq!(room.list.of(&second), [""; 0]);
    room.list.look_up(&room.rules);
    assert_eq!(room.list.of(&first), [one.id()]);
    room.rules.group = None;
    room.list.look_up(&room.rules);
    assert_eq!(room.list.of(&first), [""; 0]);
}

#[test]
fn a_list_that_an_older_program_wrote_is_read() {
    let written = r#"{"machines": {"0123456789abcdef": {
        "machine": {"uuid": null, "serial": "S", "model": null, "macs": [], "memory": 1, "disks": []},
        "state": {"done": {"image": "lab@1", "remains": null}}, "number": 7, "hostname": "pc-1",
        "image": null, "told": ["lab@1", []], "ordered": "n", "held": null}}}"#;
    let list: List = serde_json::from_str(written).unwrap();
    let (_, known) = list.machines().next().unwrap();
    assert_eq!((known.number, known.group()), (7, None));
}

#[test]
fn a_word_for_a_group_is_one_for_all_that_it_can_be() {
    let mut room = Room::new(false);
    let group: Group = "room-1".parse().unwrap();
    room.rules.group = Some(group.clone());
    let [waits_, done, failed, works_, held] = ["a", "b", "c", "d", "e"].map(machine);
    for one in [&waits_, &done, &failed, &works_, &held] {
        room.asks(one, "n");
        room.list.call(&one.id(), None, None);
    }
    for one in [&done, &failed, &works_] {
        order(room.asks(one, "n"));
        room.says(one, "n", 1, works());
    }
    room.says(&done, "n", 1, DONE);
    room.says(&failed, "n", 1, Doing::Failed { why: "x".to_owned() });
    room.list.stop(&waits_.id());
    room.list.stop(&held.id());
    assert!(room.list.call(&waits_.id(), None, None));
    let new = Wish { image: Some("new@2".to_owned()), ..Wish::default() };
    let other: Group = "room-2".parse().unwrap();
    assert_eq!(
        (room.list.call_group(&other, &Wish::default()), room.list.stop_group(&other)),
        (0, 0)
    );
    assert_eq!(room.list.call_group(&group, &new), 3);
    for one in [&waits_, &done, &failed] {
        assert_eq!(order(room.asks(one, "m")).image, "new@2");
    }
    assert_eq!((room.state(&works_), room.state(&held)), (&State::Works, &State::Waits));
    room.says(&done, "m", 1, DONE);
    assert_eq!(room.list.stop_group(&group), 3);
    assert_eq!(room.says(&works_, "n", 1, works()), Decision::Stop);
    assert!(matches!(room.state(&done), State::Done { .. }));
    assert_eq!(room.list.stop_group(&group), 0);
}

#[test]
fn machines_are_woken_one_after_the_other_until_they_come() {
    let (mut room, one, two) = (Room::new(false), machine("a"), machine("b"));
    room.asks(&one, "n");
    room.asks(&two, "n");
    let ids = [one.id(), two.id(), "nobody".to_owned()];
    let at = Duration::from_secs;
    assert_eq!(room.list.wake(&ids, at(room.now)), 0, "they are on");
    assert_eq!(room.list.wake(&ids, at(100)), 2);
    let mut woken = Vec::new();
    for second in 100..600 {
        if second == 280 {
            room.now = second;
            room.asks(&two, "m");
        }
        // Twice in a second.
        for _ in 0..2 {
            woken.extend(room.list.woken(at(second)).map(|macs| (second, macs[0].clone())));
        }
    }
    let mut seconds = [("a", 100), ("b", 101), ("a", 190), ("b", 191), ("a", 280)].to_vec();
    for (second, mac) in woken {
        assert_eq!((mac.as_str(), second), seconds.remove(0));
    }
    assert!(seconds.is_empty(), "{seconds:?}");
    room.list.wake(&ids, at(700));
    room.list.stop(&one.id());
    assert_eq!(room.list.woken(at(700)), Some(two.macs));
    assert_eq!(room.list.woken(at(702)), None, "somebody stopped it");
}

fn starts(room: &Room, mac: &str, uuid: Option<&[u8; 16]>) -> bool {
    room.list.starts_itself(mac, uuid, &room.rules)
}

#[test]
fn whoever_is_restored_starts_by_itself() {
    let (mut room, one) = (Room::new(true), machine("aa:bb"));
    let uuid: [u8; 16] = std::array::from_fn(|at| at as u8 * 0x11);
    room.asks(&one, "n");
    assert!(!starts(&room, "aa:bb", None));
    room.says(&one, "n", 1, DONE);
    for told in [None, Some(&uuid), Some(&swapped(uuid))] {
        assert!(starts(&room, "aa:bb", told) && !starts(&room, "aa:bc", told));
    }
    // Everyone gets what is sent, and that is another image now.
    room.rules.image = "lab@2".to_owned();
    assert!(!starts(&room, "aa:bb", None));
    room.rules.image = "lab@1".to_owned();
    // Another machine with the same dock.
    assert!(!starts(&room, "aa:bb", Some(&[7; 16])));
    room.list.call(&one.id(), None, None);
    assert!(!starts(&room, "aa:bb", None));
}

#[test]
fn a_machine_is_saved_and_waits_again() {
    let (mut room, one) = (Room::new(false), machine("a"));
    room.asks(&one, "n");
    let group: Group = "room-1".parse().unwrap();
    room.list.put(&[one.id()], Some(&group));
    assert!(room.list.call_to_save(&one.id(), "golden") && !room.list.call_to_save("x", "golden"));
    // Whoever means all others does not mean it.
    assert_eq!(room.list.call_group(&group, &Wish::default()), 0);
    let first = order(room.asks(&one, "n"));
    assert_eq!((first.save.as_deref(), first.image.as_str()), (Some("golden"), ""));
    assert_eq!((first.disks.as_slice(), &first.hostname), (one.disks.as_slice(), &None));
    let saves = |room: &Room, grant: &str| {
        room.list.granted(|other| other == grant).map(|name| name.map(str::to_owned))
    };
    assert_eq!(saves(&room, &first.grant), Some(Some("golden".to_owned())));
    // It lost its power: what the old order let it do is over.
    let again = order(room.asks(&one, "m"));
    assert_eq!((again.save.as_deref(), saves(&room, &first.grant)), (Some("golden"), None));
    room.list = serde_json::from_str(&serde_json::to_string(&room.list).unwrap()).unwrap();
    assert_eq!(saves(&room, &again.grant), Some(Some("golden".to_owned())));
    assert_eq!(room.says(&one, "m", 1, works()), Decision::Known);
    assert_eq!(room.says(&one, "m", 1, DONE), Decision::Known);
    assert_eq!(saves(&room, &again.grant), None);
    assert_eq!(waits(room.asks(&one, "o")), "it was saved as golden");
    assert!(!room.list.starts_itself("a", None, &room.rules));
    assert_eq!(room.list.call_all(None, &Wish::default()), 0);
    assert_eq!(room.list.call_group(&group, &Wish::default()), 0);
    assert!(room.list.call(&one.id(), None, None));
    let restored = order(room.asks(&one, "o"));
    assert_eq!((restored.save, restored.image.as_str()), (None, "lab@1"));
    assert_eq!(saves(&room, &restored.grant), Some(None));
}

#[test]
fn a_save_that_fails_or_is_stopped_says_so() {
    let (mut room, one) = (Room::new(true), machine("a"));
    order(room.asks(&one, "n"));
    room.says(&one, "n", 1, DONE);
    assert!(room.list.call_to_save(&one.id(), "golden"));
    let first = order(room.asks(&one, "m"));
    room.says(&one, "m", 1, Doing::Failed { why: "the disk is full".to_owned() });
    assert_eq!(waits(room.asks(&one, "o")), "it was not saved: the disk is full");
    assert!(room.list.granted(|grant| grant == first.grant).is_none());
    assert!(room.list.call_to_save(&one.id(), "golden"));
    let second = order(room.asks(&one, "o"));
    assert!(room.list.stop(&one.id()));
    assert_eq!(room.says(&one, "o", 1, works()), Decision::Stop);
    assert!(room.list.granted(|grant| grant == second.grant).is_none());
    assert_eq!(waits(room.asks(&one, "p")), "somebody stopped it");
}
