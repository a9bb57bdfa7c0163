//! Strangers that say to be machines, as many as they can, and a real one among them.

#![allow(clippy::print_stdout, reason = "a test says what was taken")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use keiki_tests::network::HERE;
use keiki_tests::site::{self, World, are};
use netboot::orders::machine::{Disk, Machine, tag};
use serde_json::{Value, json};

/// What the server may take, in KiB (docs/NETBOOT.md); what machines boot is not among it here.
const MEMORY: u64 = 250 << 10;
/// So many are known at most, and more come.
const KNOWN: u32 = 4096;
const CROWD: u32 = 4200;
/// So many come at once.
const AT_ONCE: u32 = 8;

/// What a machine posts that waits.
fn waits(machine: &Machine, nonce: &str) -> Result<String> {
    let said = json!({"machine": machine, "nonce": nonce, "doing": {"what": "waits"}});
    Ok(serde_json::to_string(&said)?)
}

/// One that says as much as it can: in the JSON each of these letters is two.
fn stranger(number: u32, disks: usize) -> Machine {
    let text = |length| Some("\"".repeat(length));
    let disk = Disk { model: text(140), serial: text(140), wwn: text(100), ..Disk::default() };
    let serial = Some(number.to_string());
    Machine { serial, disks: vec![disk; disks], ..Machine::default() }
}

/// Posts what several machines say over one connection; how many of them are told that there are too many.
fn post(machines: impl Iterator<Item = Machine>) -> Result<u32> {
    let mut stream = TcpStream::connect((HERE, 80))?;
    let (mut refused, mut bytes) = (0, [0; 4096]);
    for machine in machines {
        let said = waits(&machine, "n")?;
        write!(
            stream,
            "POST /agent HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{said}",
            said.len()
        )?;
        let count = stream.read(&mut bytes)?;
        let answer = String::from_utf8_lossy(bytes.get(..count).context("an answer")?).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        refused += u32::from(answer.contains("too many machines"));
    }
    Ok(refused)
}

/// All that come, several at once; how many of them are refused.
fn crowd(world: &World, disks: usize) -> Result<u32> {
    let refused = thread::scope(|scope| {
        let part = |first| {
            move || {
                world.machines[1].enter()?;
                post((first..CROWD).step_by(AT_ONCE as usize).map(|number| stranger(number, disks)))
            }
        };
        let running: Vec<_> = (0..AT_ONCE).map(|first| scope.spawn(part(first))).collect();
        let ended =
            running.into_iter().map(|one| one.join().map_err(|_| anyhow!("a thread panicked"))?);
        ended.sum::<Result<u32>>()
    })?;
    println!(
        "{refused} of {CROWD} are refused, {} MiB",
        world.site.process().status("VmHWM")? >> 10
    );
    Ok(refused)
}

/// The server bears them in little memory, writes nothing of them down, and a machine that came before is restored.
#[test]
fn net_a_crowd_of_strangers_takes_little() -> Result<()> {
    let world = World::new(2, &[])?;
    let agent = world.agent(0, &world.site.key)?;
    let known = world.site.until(are(1, "waits"))?;
    let list = world.bench.path("state/machines.json");

    let large = crowd(&world, 64)?;
    ensure!(large > CROWD - 1000, "{large}");
    let told = world.site.status()?;
    let rows = told["machines"].as_array().context("machines")?.len();
    ensure!(rows as u32 == CROWD - large + 1, "{rows}");
    // The same say less, so that there is room for more of them.
    let small = crowd(&world, 0)?;
    ensure!(small == CROWD + 1 - KNOWN, "{small}");
    ensure!(!list.exists(), "strangers are written down");
    // Somebody lets all of them in, by mistake.
    world.site.post("api/restore", "{}")?;
    let (code, said) = site::end(agent)?;
    ensure!(code == Some(0) && world.is_restored(0)?, "{code:?} {said}");
    let is_done = |row: &Value| row["id"] == known[0]["id"] && row["state"] == "done";
    world.site.until(|rows| rows.iter().any(is_done))?;
    let memory = world.site.process().status("VmHWM")?;
    println!("{} MiB at most, a list of {} bytes", memory >> 10, list.metadata()?.len());
    ensure!(memory < MEMORY, "{memory} KiB");
    Ok(())
}

/// A stranger whose four letters are those of a machine: both have more, on the page and on the screen.
#[test]
fn net_two_with_the_same_letters_are_told_apart() -> Result<()> {
    let world = World::new(1, &[])?;
    let agent = world.agent(0, &world.site.key)?;
    let told = world.site.until(are(1, "waits"))?;
    let four = told[0]["tag"].as_str().context("tag")?.to_owned();
    ensure!(four.len() == 4, "{told:?}");
    let twin = (0..).map(|number| stranger(number, 0)).find(|one| tag(&one.id()) == four);
    let twin = twin.context("there is one in 65,536")?;
    let (status, said) = world.site.ask("agent", "", Some(&waits(&twin, "n")?))?;
    let has = |row: &Value| {
        row["tag"].as_str().is_some_and(|tag| tag.len() > 4 && tag.starts_with(&four))
    };
    let told = world.site.until(|rows| rows.iter().filter(|row| has(row)).count() == 2)?;
    world.site.conforms()?;
    let is_twin = |row: &&Value| row["id"] == twin.id().as_str();
    let letters = told.iter().find(is_twin).context("its row")?["tag"].clone();
    ensure!(
        status == 200 && said.contains(letters.as_str().unwrap_or("-")),
        "{status} {said} {letters}"
    );
    let other = told.iter().find(|row| !is_twin(row)).context("the machine")?;
    // It says so within some seconds; then it is restored.
    thread::sleep(std::time::Duration::from_secs(8));
    world
        .site
        .post(&format!("api/machines/{}/restore", other["id"].as_str().context("id")?), "")?;
    let (code, screen) = site::end(agent)?;
    let shown = other["tag"].as_str().context("tag")?;
    ensure!(
        code == Some(0) && screen.contains(&format!("its letters are {shown}")),
        "{code:?} {screen}"
    );
    Ok(())
}
