//! Machines in networks of their own fetch the rest of their system from a real `keiki serve`, as the first stage of a boot over the
//! network does.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use image_core::exec::real::{Beside, Machine};
use image_core::exec::{Call, Outcome};
use keiki_tests::bench::Bench;
use keiki_tests::network::{self, Neighbour};
use keiki_tests::room::sent;
use keiki_tests::{keiki, run, serving, tool};

/// How long a machine may take; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(200);

/// The server's folder.
const FOLDER: &str = "http://10.77.0.1/boot";

/// A server at a switch, and what it sends.
struct Server {
    bench: Bench,
    rate: &'static str,
    runs: Option<Beside>,
    hash: String,
    length: u64,
}

impl Server {
    /// Serves at so many Mbit/s, in a network of this thread's own.
    fn new(rate: &'static str) -> Result<Self> {
        serving::prepare()?;
        network::own()?;
        network::switch()?;
        let runs = Some(serving::serve("br0", &["--rate", rate])?);
        let bench = Bench::new()?;
        let system = bench.path("system");
        run!("curl", "-sS", "--fail", "-o", &system, format!("{FOLDER}/system.img"))?;
        let bytes = fs::read(system)?;
        let (hash, length) = (blake3::hash(&bytes).to_hex().to_string(), bytes.len() as u64);
        Ok(Self { bench, rate, runs, hash, length })
    }

    fn is_killed_and_begins_again(&mut self) -> Result<()> {
        self.runs = None;
        self.runs = Some(serving::serve("br0", &["--rate", self.rate])?);
        Ok(())
    }

    fn root(&self, number: u8) -> PathBuf {
        self.bench.path(&format!("root-{number}"))
    }

    /// What a machine runs.
    fn call(&self, number: u8) -> Result<Call> {
        let root = self.root(number);
        fs::create_dir_all(&root)?;
        Ok(keiki!(
            "--progress",
            "none",
            "__rest",
            FOLDER,
            &self.hash,
            self.length.to_string(),
            root
        ))
    }

    /// Lets a machine with this number begin.
    fn begin(&self, machine: &Neighbour, number: u8) -> Result<Beside> {
        Ok(Machine.spawn(&machine.call(&self.call(number)?))?)
    }

    /// What a machine said that has everything.
    fn has_all(&self, number: u8, end: &Outcome) -> Result<String> {
        ensure!(end.success(), "machine {number}: {}", end.talk());
        let root = self.root(number);
        ensure!(root.join("whole").exists(), "machine {number} is not whole");
        let shell = fs::read(root.join("usr/bin/bash"))?;
        ensure!(shell.starts_with(b"\x7fELF"), "machine {number} has another shell");
        Ok(end.talk())
    }
}

fn machine(number: u8) -> Result<Neighbour> {
    let machine = Neighbour::plugged(&format!("port{number}"))?;
    machine.address(100 + number)?;
    Ok(machine)
}

#[test]
fn net_a_room_gets_its_system_from_one_multicast() -> Result<()> {
    let server = Server::new("200")?;
    let machines: Vec<(u8, Neighbour)> =
        (0..8).map(|number| Ok((number, machine(number)?))).collect::<Result<_>>()?;
    for (_, machine) in &machines {
        machine.lose(10)?;
    }
    let (before, began) = (sent()?, Instant::now());
    let running = machines.iter().map(|(number, machine)| server.begin(machine, *number));
    let running: Vec<Beside> = running.collect::<Result<_>>()?;
    for (number, running) in (0..).zip(running) {
        let said = server.has_all(number, &running.finish(PATIENCE)?)?;
        ensure!(said.contains("0 B were fetched"), "machine {number}: {said}");
    }
    let times = (sent()? - before) as f64 / server.length as f64;
    println!(
        "8 machines, 1 % lost: {:.1?}, {times:.2} times {} bytes",
        began.elapsed(),
        server.length
    );
    // It would be 8 by unicast. Whoever comes late has what it missed sent again.
    ensure!(times < 2.5, "{times}");
    Ok(())
}

#[test]
fn net_what_does_not_come_by_multicast_is_fetched() -> Result<()> {
    let server = Server::new("200")?;
    let machine = machine(0)?;
    machine.hears_no_multicast()?;
    let said = server.has_all(0, &server.begin(&machine, 0)?.finish(PATIENCE)?)?;
    println!("{said}");
    ensure!(said.contains("0 B came by multicast"), "{said}");
    Ok(())
}

/// The server ends in the middle and comes again: with other numbers and keys, and the same system.
#[test]
fn net_a_server_that_begins_again_is_no_end() -> Result<()> {
    let mut server = Server::new("20")?;
    let machine = machine(0)?;
    let running = server.begin(&machine, 0)?;
    std::thread::sleep(Duration::from_secs(3));
    server.is_killed_and_begins_again()?;
    let mut end = running.finish(PATIENCE)?;
    while !end.success() {
        // As `files/fetch` does.
        let said = end.talk();
        ensure!(said.contains("10.77.0.1"), "{said}");
        println!("{said}");
        end = server.begin(&machine, 0)?.finish(PATIENCE)?;
    }
    let said = server.has_all(0, &end)?;
    println!("{said}");
    Ok(())
}

/// Nothing is unpacked that is not what the first stage knows.
#[test]
fn net_another_system_is_refused() -> Result<()> {
    network::own()?;
    run!("ip", "route", "add", "239.0.0.0/8", "dev", "lo")?;
    let bench = Bench::new()?;
    let folder = bench.path("boot");
    fs::create_dir_all(folder.join("room"))?;
    let right = vec![1; 3 << 20];
    let hash = blake3::hash(&right).to_hex().to_string();
    let asked = |folder: &Path| {
        let root = bench.path("root");
        fs::create_dir_all(&root)?;
        let length = right.len().to_string();
        let end = tool::outcome(&keiki!("__rest", folder, &hash, length, &root))?;
        ensure!(fs::read_dir(root)?.next().is_none(), "something was unpacked");
        ensure!(!end.success(), "{}", end.talk());
        Ok::<_, anyhow::Error>(end.talk())
    };
    let said = asked(&folder)?;
    ensure!(said.contains("has another system than the one"), "{said}");
    let offer = format!(
        "{{\"version\":1,\"session\":7,\"key\":\"{hash}\",\"group\":\"239.192.7.7:7378\",\
         \"server\":\"127.0.0.1:7378\",\"blocks\":\"{hash}\"}}"
    );
    fs::write(folder.join("room").join(&hash), offer)?;
    fs::write(folder.join("room").join(format!("{hash}.join")), "{\"slot\":1}")?;
    let mut wrong = right.clone();
    wrong[2 << 20] ^= 1;
    fs::write(folder.join("system.img"), &wrong)?;
    let said = asked(&folder)?;
    ensure!(said.contains("system.img") && said.contains(&hash), "{said}");
    // Sound, and no archive.
    fs::write(folder.join("system.img"), &right)?;
    let said = asked(&folder)?;
    ensure!(said.contains("an archive of cpio"), "{said}");
    Ok(())
}
