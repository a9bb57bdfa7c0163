//! Rooms of simulated machines: how much more than the image is sent, and how much longer than the wire takes it is waited.

#![allow(clippy::print_stdout, reason = "the tables are for people, too")]

use std::ops::Range;

use keiki_tests::simulator::{Machine, Outcome, SOUND, Scene, play};

/// An image of a GiB.
const BLOCKS: u32 = 1024;

fn many(count: usize, machine: &Machine) -> Vec<Machine> {
    vec![machine.clone(); count]
}

fn losing(loss: f64) -> Machine {
    Machine { loss, ..SOUND }
}

/// Plays a scene and prints its line; the `odd` machines at the end are told apart.
fn show(name: &str, scene: &Scene, machines: &[Machine], odd: usize) -> Outcome {
    let outcome = play(scene, machines);
    let times =
        |range: Range<usize>| outcome.times(range).map(|time| format!("{time:.3}")).join(" / ");
    let (usual, all) = (machines.len() - odd, machines.len());
    let groups = [0..usual, usual..all].into_iter().filter(|group| !group.is_empty());
    let times: Vec<String> = groups.map(times).collect();
    let (sent, reports) = (outcome.sent, outcome.reports);
    println!("| {name} | {sent:.3} | {} | {reports:.0} |", times.join("; "));
    outcome
}

/// The image is sent once, with what is lost of it: more clients hardly cost more.
#[test]
fn sim_loss_costs_little_more_than_itself() {
    println!("| clients, loss | sent | time | reports/s |");
    let scene = Scene::gigabit(BLOCKS);
    for (count, loss, most_sent, most_time) in [
        (1, 0.0, 1.0, 1.001),
        (1000, 0.0, 1.0, 1.001),
        (1, 0.01, 1.012, 1.02),
        (32, 0.01, 1.022, 1.025),
        (32, 0.05, 1.08, 1.085),
        (100, 0.01, 1.024, 1.025),
        (1000, 0.001, 1.01, 1.015),
        (1000, 0.01, 1.03, 1.035),
        (100, 0.1, 1.16, 1.17),
        (100, 0.2, 1.33, 1.36),
    ] {
        let name = format!("{count}, {} %", loss * 100.0);
        let outcome = show(&name, &scene, &many(count, &losing(loss)), 0);
        assert!(outcome.sent <= most_sent, "{name}: {outcome:?}");
        assert!(outcome.times(0..count)[2] <= most_time, "{name}: {:?}", outcome.times(0..count));
    }
}

/// Those who come late take what the others need first, and get the rest at once.
#[test]
fn sim_whoever_joins_late_is_done_one_image_later() {
    let scene = Scene::gigabit(BLOCKS);
    for (count, over, loss, most_sent, most_time) in
        [(2, 1.0, 0.0, 1.51, 1.01), (80, 0.9, 0.0, 1.91, 1.01), (1000, 2.0, 0.01, 3.06, 1.09)]
    {
        let joins = |at: usize| at as f64 * over * scene.ideal() / count as f64;
        let machines: Vec<Machine> =
            (0..count).map(|at| Machine { joins: joins(at), ..losing(loss) }).collect();
        let name = format!("{count} over {over} images, {} %", loss * 100.0);
        let outcome = show(&name, &scene, &machines, 0);
        assert!(outcome.sent <= most_sent, "{name}: {}", outcome.sent);
        assert!(outcome.times(0..count)[2] <= most_time, "{name}: {:?}", outcome.times(0..count));
    }
}

/// A disk that is slow, a cable that is bad, a machine that dies or starts again: the others do not wait.
#[test]
fn sim_nobody_waits_for_the_others() {
    let scene = Scene::gigabit(BLOCKS);
    let usual = losing(0.01);
    let quarter = scene.rate / 745.0 / 4.0;
    let dies = Machine { dies: Some(2.0), ..usual.clone() };
    let reboots = Machine { reboots: Some(5.0), ..usual.clone() };
    for (name, count, odd, number, others, own) in [
        ("disk of 1/4", 1000, Machine { disk: quarter, ..usual.clone() }, 50, 1.04, 4.1),
        ("50 % lost", 1000, losing(0.5), 5, 1.04, 3.69),
        ("5 % lost", 1000, losing(0.05), 50, 1.08, 1.11),
        ("bursts lost", 100, Machine { bursts: 0.05, ..usual.clone() }, 20, 1.2, 1.22),
        ("90 % lost", 8, losing(0.9), 1, 1.1, f64::INFINITY),
        ("90 % lost", 100, losing(0.9), 5, 1.1, f64::INFINITY),
        ("lucky", 8, SOUND, 1, 1.03, 1.03),
        ("dead", 8, dies, 1, 1.03, f64::INFINITY),
        ("started again", 8, reboots, 1, 1.03, 1.1),
    ] {
        let machines = [many(count - number, &usual), many(number, &odd)].concat();
        let name = format!("{number} of {count}: {name}");
        let outcome = show(&name, &scene, &machines, number);
        let [fast, slow] =
            [0..count - number, count - number..count].map(|group| outcome.times(group)[2]);
        assert!(fast <= others, "{name}: the others {fast}");
        assert!(slow <= own, "{name}: {slow}");
    }
}

/// Most have slow disks, and one of these a bad cable besides: that one is not helped before the others get what is new.
#[test]
fn sim_slow_disks_and_a_bad_cable_hold_up_nobody_else() {
    let scene = Scene::gigabit(BLOCKS);
    let slow = Machine { disk: scene.rate / 745.0 / 4.0, ..SOUND };
    let both = Machine { loss: 0.5, ..slow.clone() };
    let machines = [many(40, &SOUND), many(59, &slow), many(1, &both)].concat();
    let outcome =
        show("60 of 100: slow disks, and 50 % lost by one of them", &scene, &machines, 60);
    let [fast, slow, both] = [0..40, 40..99, 99..100].map(|group| outcome.times(group)[2]);
    assert!(fast <= 1.05 && slow <= 4.1 && both <= 5.3, "{fast} {slow} {both}");
}

/// Ports that carry a part of what is sent: few of them share a lane, and where all are so, the session is as slow as they are.
#[test]
fn sim_slow_ports_hold_up_nobody_else() {
    let scene = Scene::gigabit(BLOCKS);
    let port = |part: f64| Machine { port: scene.rate * part, ..SOUND };
    for (name, count, odd, number, most_sent, others, own) in [
        ("port of 1/10", 8, port(0.1), 1, 2.2, 1.1, 11.2),
        ("port of 1/10", 100, port(0.1), 20, 2.2, 1.1, 11.2),
        ("port of 1/10", 1000, port(0.1), 50, 2.2, 1.1, 11.2),
        ("port of 6/10", 100, port(0.6), 5, 2.5, 1.01, 2.8),
        ("port of 6/10", 6, port(0.6), 5, 1.7, 1.7, 1.7),
        ("port of 6/10", 100, port(0.6), 100, 1.1, 0.0, 1.7),
    ] {
        let machines = [many(count - number, &SOUND), many(number, &odd)].concat();
        let name = format!("{number} of {count}: {name}");
        let outcome = show(&name, &scene, &machines, number);
        let usual = if number < count { outcome.times(0..count - number)[2] } else { 0.0 };
        let slow = outcome.times(count - number..count)[2];
        assert!(outcome.sent <= most_sent, "{name}: {}", outcome.sent);
        assert!(usual <= others && slow <= own, "{name}: {usual}, {slow}");
    }
}

mod only_all {
    use super::*;

    #[test]
    fn sim_ten_thousand_clients() {
        let scene = Scene { room: 512, ..Scene::gigabit(512) };
        let machines = many(10_000, &losing(0.01));
        let outcome = show("10,000, 1 %", &scene, &machines, 0);
        assert!(outcome.sent <= 1.03 && outcome.times(0..10_000)[2] <= 1.08, "{}", outcome.sent);
    }
}
