//! Many machines are restored at once from `keiki serve`: real processes, each in its own network at one switch.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

use anyhow::{Result, ensure};
use keiki_tests::room::{Client, Fate, Room};

#[test]
fn net_a_room_with_loss_a_latecomer_and_one_that_is_killed() -> Result<()> {
    let mut clients = [Client { lost: 10, ..Client::default() }; 8];
    clients[4].late = 2000;
    clients[5].killed = Some(1500);
    clients[6] = Client { killed: Some(2000), comes_again: true, ..clients[6] };
    clients[7].larger = 64;
    let outcome = Room::new(32)?.play(100, &clients)?;
    println!("{outcome:.2?}");
    let done = outcome.times.iter().flatten().count();
    ensure!(done == 7, "{done}");
    Ok(())
}

/// One hangs, one disk breaks, to one machine no multicast comes any more: it fetches, and the others notice nothing.
#[test]
fn net_what_befalls_one_machine_is_nothing_to_the_others() -> Result<()> {
    let mut clients = [Client::default(); 7];
    clients[4].fate = Some(Fate::Hangs(1500));
    clients[5].fate = Some(Fate::Broken(20));
    clients[6] = Client { fate: Some(Fate::Deaf(1500)), may_fetch: true, ..clients[6] };
    let outcome = Room::new(32)?.play(100, &clients)?;
    println!("{outcome:.2?}");
    let done: Vec<bool> = outcome.times.iter().map(Option::is_some).collect();
    ensure!(done == [true, true, true, true, false, false, true], "{done:?}");
    Ok(())
}

/// The way to all of them carries less than is sent: it is sent as fast as it arrives. One that could get more is not slowed for others.
#[test]
fn net_what_arrives_nowhere_is_not_sent() -> Result<()> {
    let room = Room::new(32)?;
    let slow = Client { port: Some(60), may_fetch: true, ..Client::default() };
    let outcome = room.play(100, &[slow; 6])?;
    println!("{outcome:.2?}");
    // Without that it is 1.7.
    ensure!(outcome.sent < 1.4 && outcome.times.iter().all(Option::is_some), "{outcome:?}");
    let mut clients = [slow; 6];
    clients[0].port = None;
    let outcome = room.play(100, &clients)?;
    println!("{outcome:.2?}");
    let times: Vec<f64> = outcome.times.iter().flatten().copied().collect();
    ensure!(times.len() == 6 && times[1..].iter().all(|time| *time > times[0]), "{outcome:?}");
    Ok(())
}

/// A switch passes no multicast on: all fetch, soon after they began.
#[test]
fn net_a_room_without_multicast_is_restored_soon() -> Result<()> {
    let deaf = Client { fate: Some(Fate::Deaf(0)), may_fetch: true, ..Client::default() };
    let outcome = Room::new(8)?.play(100, &[deaf; 4])?;
    println!("{outcome:.2?}");
    let slowest = outcome.times.iter().map(|time| time.unwrap_or(f64::MAX)).fold(0.0, f64::max);
    // Four times the image, and what they wait in vain.
    ensure!(slowest < outcome.ideal * 4.0 + 8.0, "{slowest}");
    Ok(())
}

/// Whoever is in the session can hinder it, and put no wrong byte onto a disk.
#[test]
fn net_an_insider_with_wrong_symbols_spoils_nothing() -> Result<()> {
    let clients = [Client { may_fetch: true, ..Client::default() }; 3];
    let outcome = Room::new(8)?.play_with_an_insider(100, &clients)?;
    println!("{outcome:.2?}");
    ensure!(outcome.times.iter().all(Option::is_some), "{outcome:?}");
    Ok(())
}

/// The kernel alone would send the same packet again and again.
#[test]
fn net_a_connection_whose_first_packet_is_lost_is_made_anew() -> Result<()> {
    let said = Room::new(1)?.listed_by_the_second_connection()?;
    ensure!(said.contains("lab"), "{said}");
    Ok(())
}

mod only_all {
    use std::time::Duration;

    use keiki_tests::room::Outcome;
    use keiki_tests::room::program::{ALL, Program};

    use super::*;

    /// MiB of the image, and what the cable carries, in Mbit/s: so little that two cores are no limit.
    const MIB: u64 = 32;
    const RATE: u64 = 50;

    /// Rooms by their names. The last machine is the special one.
    fn rooms() -> Vec<(&'static str, Vec<Client>)> {
        let usual = Client::default();
        let lossy = |lost| Client { lost, ..usual };
        let with = |last: Client, count: usize| {
            let mut room = vec![usual; count];
            room.push(last);
            room
        };
        vec![
            ("8", vec![usual; 8]),
            ("16", vec![usual; 16]),
            ("32", vec![usual; 32]),
            ("8, 1 % lost", vec![lossy(10); 8]),
            ("8, 5 % lost", vec![lossy(50); 8]),
            ("16, 1 % lost", vec![lossy(10); 16]),
            (
                "7, and one on a cable of a tenth",
                with(Client { port: Some(RATE as u32 / 10), may_fetch: true, ..usual }, 7),
            ),
            ("7, and one that dies", with(Client { killed: Some(3000), ..usual }, 7)),
            ("7, and one that comes when half is over", with(Client { late: 3000, ..usual }, 7)),
        ]
    }

    /// `1.12 (1.15)`: the median and the worst of the machines before the last one, in ideal times.
    fn times(outcome: &Outcome, machines: std::ops::Range<usize>) -> String {
        let some = outcome.times.get(machines).unwrap_or_default();
        let lost = some.iter().filter(|time| time.is_none()).count();
        let mut done: Vec<f64> = some.iter().flatten().map(|time| time / outcome.ideal).collect();
        done.sort_by(f64::total_cmp);
        let [median, worst] = [done.get(done.len() / 2), done.last()]
            .map(|time| time.map_or("-".to_owned(), |time| format!("{time:.2}")));
        let lost = if lost > 0 { format!(", **{lost} got nothing**") } else { String::new() };
        format!("{median} ({worst}){lost}")
    }

    /// A switch would forget the group else.
    #[test]
    fn net_who_listens_is_asked_where_nobody_else_asks() -> Result<()> {
        println!("asked after {:.0?}", Room::new(1)?.question()?);
        Ok(())
    }

    /// A switch that looks at who listens, and no router: the session goes on past the time after which the switch forgets.
    #[test]
    fn net_a_switch_that_forgets_is_reminded() -> Result<()> {
        let room = Room::new(1)?;
        let seconds = Duration::from_secs;
        let forgotten = room.snooped(seconds(20), false, seconds(60))?;
        let reminded = room.snooped(seconds(140), true, seconds(190))?;
        println!("heard for {forgotten:.0?} where nobody asks, for {reminded:.0?} where we do");
        ensure!(forgotten > seconds(15) && forgotten < seconds(60), "{forgotten:?}");
        ensure!(reminded >= seconds(190), "{reminded:?}");
        Ok(())
    }

    /// How often the image is sent at most, where all machines lose so many of a thousand packets.
    fn most(clients: &[Client]) -> Option<f64> {
        let first = clients.first()?;
        let goal = match first.lost {
            0 => 1.05,
            10 => 1.06,
            50 => 1.13,
            _ => return None,
        };
        clients.iter().all(|client| client == first).then_some(goal)
    }

    /// Prints the table of docs/BENCHMARKS.md: every program in every room. Times are numbers there, what is sent is a promise.
    #[test]
    fn net_rooms_of_all_programs() -> Result<()> {
        let room = Room::new(MIB)?.with_disks_in_memory()?;
        println!("| machines | program | time | the last one | sent |\n|---|---|---|---|---|");
        for (name, clients) in rooms() {
            for program in ALL {
                let special = clients.len() - usize::from(clients.first() != clients.last());
                let outcome = room.bring(program, RATE, &clients)?;
                let last = match clients.len() - special {
                    0 => String::new(),
                    _ => times(&outcome, special..clients.len()),
                };
                let all = times(&outcome, 0..special);
                println!("| {name} | {program:?} | {all} | {last} | {:.2} |", outcome.sent);
                let is_ours = program == Program::Keiki;
                let lost = outcome.times.iter().take(special).filter(|time| time.is_none());
                ensure!(!is_ours || lost.count() == 0, "a machine got nothing");
                let is_much = most(&clients).is_some_and(|most| outcome.sent > most);
                ensure!(!is_ours || !is_much, "{name}: {:.3} was sent", outcome.sent);
            }
        }
        Ok(())
    }
}
