//! A room of machines that are restored at once, by real processes: each in its own network, at one switch.
//!
//! - [`program`] what brings the image there. - `insider` somebody who wants to spoil it.

pub mod insider;
pub mod program;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use self::program::{Program, Server};
use crate::bench::Bench;
use crate::network::{self, Neighbour};
use crate::{call, filesystem, judge, keiki, run, sparse, tool, volumes};

/// The server's address for repositories.
pub const REPO: &str = "http://10.77.0.1/repo";

/// How long a machine may take; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of a symbol in those of its packet on an Ethernet.
const GOODPUT: f64 = 1408.0 / 1506.0;

/// How long another program may take.
const MOST: Duration = Duration::from_secs(200);

/// What is special about a machine.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Client {
    /// So many of a thousand packets do not come.
    pub lost: u32,
    /// It begins so long after the others, in milliseconds.
    pub late: u64,
    /// It is killed after so long, in milliseconds.
    pub killed: Option<u64>,
    /// Whether it is started again at once.
    pub comes_again: bool,
    /// Its cable carries so many Mbit/s.
    pub port: Option<u32>,
    /// Its disk is so many MiB larger.
    pub larger: u64,
    /// Whether it may fetch what did not come by multicast.
    pub may_fetch: bool,
    /// What befalls it.
    pub fate: Option<Fate>,
}

/// What befalls a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It hangs, so many milliseconds after it began.
    Hangs(u64),
    /// No multicast comes to it any more, from then on; where that is 0, none ever did.
    Deaf(u64),
    /// Its disk takes no more than so many MiB.
    Broken(u64),
}

/// What became of a room.
#[derive(Debug)]
pub struct Outcome {
    /// What the server sent, of what the image takes in a repository.
    pub sent: f64,
    /// How long each machine took that ended, in seconds.
    pub times: Vec<Option<f64>>,
    /// How long the image takes on the wire, in seconds.
    pub ideal: f64,
}

/// A repository with an image of one disk, `lab`.
#[derive(Debug)]
pub struct Room {
    bench: Bench,
    /// Where the disks of machines are in memory.
    memory: Option<TempDir>,
    size: Bytes,
    stored: u64,
}

impl Room {
    /// Saves a disk with so many MiB that cannot be compressed.
    ///
    /// # Errors
    /// A tool fails.
    pub fn new(mib: u64) -> Result<Self> {
        let bench = Bench::new()?;
        let [disk, part, files] = ["disk", "part", "files"].map(|name| bench.path(name));
        fs::create_dir(&files)?;
        let mut bytes = vec![0; 1 << 20];
        for number in 0..mib {
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
            fs::write(files.join(number.to_string()), &bytes)?;
        }
        let space = Bytes::mib(mib * 5 / 4 + 16);
        filesystem::ext4(&part, space, ["lab", &filesystem::uuid()?], &files)?;
        let size = space + Bytes::mib(2);
        sparse::create(&disk, size)?;
        run!("sgdisk", format!("-n1:2048:+{}K", space.units(Bytes::KIB)), &disk)?;
        sparse::copy(&part, Extent::first(space), &disk, Bytes::MIB)?;
        let saved = bench.save("lab", &[disk])?;
        let stored = saved["stored_bytes"].as_u64().context("stored_bytes")?;
        bytes.resize(usize::try_from(stored)?, 0);
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        fs::write(bench.path("image"), &bytes)?;
        Ok(Self { bench, memory: None, size, stored })
    }

    /// Machines have disks that do not share one: theirs are in memory.
    ///
    /// # Errors
    /// There is no tmpfs.
    pub fn with_disks_in_memory(self) -> Result<Self> {
        Ok(Self { memory: Some(TempDir::new_in("/dev/shm")?), ..self })
    }

    /// The same for programs that bring a file: as long as the image.
    fn file(&self) -> PathBuf {
        self.bench.path("image")
    }

    /// The repository.
    pub fn repo(&self) -> PathBuf {
        self.bench.path("repo")
    }

    /// Restores all `clients` by keiki, at so many Mbit/s.
    ///
    /// # Errors
    /// As [`Room::bring`].
    pub fn play(&self, rate: u64, clients: &[Client]) -> Result<Outcome> {
        self.bring(Program::Keiki, rate, clients)
    }

    /// The same while somebody who is in the session sends wrong symbols of all blocks.
    ///
    /// # Errors
    /// As [`Room::bring`].
    pub fn play_with_an_insider(&self, rate: u64, clients: &[Client]) -> Result<Outcome> {
        let id = self.id()?;
        self.bring_beside(Program::Keiki, rate, clients, &|ends| {
            insider::Session::joined(&id)?.send(ends)
        })
    }

    /// The id of the image.
    ///
    /// # Errors
    /// It is not there.
    pub fn id(&self) -> Result<String> {
        let listed = self.bench.run("images")?;
        Ok(listed["images"][0]["id"].as_str().context("an id")?.to_owned())
    }

    /// Brings the image to all `clients`, over a cable that carries so many Mbit/s. What they got is compared with what was
    /// restored without a network.
    ///
    /// # Errors
    /// A machine that should end does not, or has other bytes; of another program only the latter.
    pub fn bring(&self, program: Program, rate: u64, clients: &[Client]) -> Result<Outcome> {
        self.bring_beside(program, rate, clients, &|_| Ok(()))
    }

    /// `beside` runs while machines do, at the server's end, until it is told to end.
    fn bring_beside(
        &self,
        program: Program,
        rate: u64,
        clients: &[Client],
        beside: &(dyn Fn(&AtomicBool) -> Result<()> + Sync),
    ) -> Result<Outcome> {
        network::own()?;
        network::switch()?;
        shape("br0", rate)?;
        let machines: Vec<Neighbour> = (0..)
            .zip(clients)
            .map(|(number, client)| machine(number, client))
            .collect::<Result<_>>()?;
        let server = program.before(self, rate)?;
        let before = sent()?;
        let prompt = clients.iter().filter(|client| client.late == 0).count();
        let ends = AtomicBool::new(false);
        let times = thread::scope(|scope| {
            let server = server.as_ref();
            let beside = scope.spawn(|| beside(&ends));
            let running: Vec<_> = (0..)
                .zip(clients.iter().zip(&machines))
                .map(|(number, (client, machine))| {
                    scope.spawn(move || self.machine(program, (number, client), (machine, server)))
                })
                .collect();
            let sender = program.after(self, rate, prompt);
            let times = running
                .into_iter()
                .map(|one| one.join().map_err(|_| anyhow!("a thread panicked"))?);
            let times = times.collect::<Result<Vec<_>>>();
            drop(sender?);
            ends.store(true, Ordering::Relaxed);
            beside.join().map_err(|_| anyhow!("a thread panicked"))??;
            times
        })?;
        let sent = (sent()? - before) as f64 / self.stored as f64;
        for (number, _) in times.iter().enumerate().filter(|(_, time)| time.is_some()) {
            let larger = clients.get(number).map_or(0, |client| client.larger);
            self.judge(program, number, larger)?;
            fs::remove_file(self.target(number))?;
        }
        let ideal = self.stored as f64 * 8.0 / (rate as f64 * 1e6) / GOODPUT;
        Ok(Outcome { sent: sent * GOODPUT, times, ideal })
    }

    /// Waits until a machine beside the server has been asked which groups it listens to; how long that took.
    ///
    /// # Errors
    /// It is not asked in 200 s.
    pub fn question(&self) -> Result<Duration> {
        network::own()?;
        network::switch()?;
        let machine = machine(0, &Client::default())?;
        let _server = Program::Keiki.before(self, 50)?;
        let began = Instant::now();
        loop {
            // The kernel speaks version 2 once it has heard a sound question of that version.
            let said = machine.run(&call!("cat", "/proc/net/igmp"))?;
            if said.lines().any(|line| line.contains("eth0") && line.contains("V2")) {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < Duration::from_secs(200), "{said}");
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// For how long a machine hears a session, at most `most`, where a switch has heard a question who listens just once before, and
    /// forgets who has not answered for so long; the server asks, or nobody does.
    ///
    /// # Errors
    /// The kernel makes no such switch.
    pub fn snooped(&self, forgets: Duration, asks: bool, most: Duration) -> Result<Duration> {
        network::own()?;
        network::switch()?;
        let set = |what: &str, value: u128| {
            run!("ip", "link", "set", "br0", "type", "bridge", what, value.to_string())
        };
        set("mcast_snooping", 1)?;
        // It passes on to all where nobody asks for that long.
        set("mcast_querier_interval", 100_000)?;
        set("mcast_membership_interval", forgets.as_millis() / 10)?;
        let machine = machine(0, &Client::default())?;
        network::asks_who_listens()?;
        if !asks {
            run!(
                "nft",
                "table inet mute { chain out { type filter hook output priority 0; ip protocol igmp drop; }; }"
            )?;
        }
        let _server = Program::Keiki.before(self, 50)?;
        let session = insider::Session::joined(&self.id()?)?;
        thread::scope(|scope| {
            let hears = scope.spawn(|| -> Result<Duration> {
                machine.enter()?;
                let client = session.listen()?;
                let began = Instant::now();
                while client.is_deaf_for() < Duration::from_secs(3) && began.elapsed() < most {
                    thread::sleep(Duration::from_millis(100));
                }
                Ok(began.elapsed())
            });
            hears.join().map_err(|_| anyhow!("a thread panicked"))?
        })
    }

    /// What a machine lists of the repository whose first connection never comes about: the server hears nothing of it.
    ///
    /// # Errors
    /// It lists nothing.
    pub fn listed_by_the_second_connection(&self) -> Result<String> {
        network::own()?;
        network::switch()?;
        let machine = machine(0, &Client::default())?;
        let rules = "table inet deaf { set first { type inet_service; size 1; flags dynamic; }; \
                     chain out { type filter hook output priority 0; \
                     tcp flags syn add @first { tcp sport }; tcp sport @first drop; }; }";
        machine.run(&call!("nft", rules))?;
        let _server = Program::Keiki.before(self, 50)?;
        machine.run(&keiki!("--repo", REPO, "images"))
    }

    fn target(&self, number: usize) -> PathBuf {
        let name = format!("target-{number}");
        self.memory
            .as_ref()
            .map_or_else(|| self.bench.path(&name), |disks| disks.path().join(&name))
    }

    /// How long a machine takes, in seconds; none where it is killed for good, or gets nothing.
    fn machine(
        &self,
        program: Program,
        (number, client): (usize, &Client),
        at: (&Neighbour, Option<&Server>),
    ) -> Result<Option<f64>> {
        if program.restores() {
            sparse::create(&self.target(number), self.size + Bytes::mib(client.larger))?;
        }
        thread::sleep(Duration::from_millis(client.late));
        let began = Instant::now();
        let mut running = program.begin(self, (number, client), at)?;
        match client.fate {
            None => {}
            Some(Fate::Broken(_)) => {
                let end = running.finish(PATIENCE)?;
                let said = end.talk();
                ensure!(!end.success() && said.contains("File too large"), "{number}: {said}");
                return Ok(None);
            }
            Some(Fate::Hangs(after)) => {
                thread::sleep(Duration::from_millis(after));
                run!("kill", "-STOP", running.id().to_string())?;
                // Until the others are done: it is known to the server, and says nothing.
                thread::sleep(Duration::from_secs(15));
                return Ok(None);
            }
            Some(Fate::Deaf(0)) => {}
            Some(Fate::Deaf(after)) => {
                thread::sleep(Duration::from_millis(after));
                at.0.hears_no_multicast()?;
            }
        }
        if let Some(after) = client.killed {
            thread::sleep(Duration::from_millis(after));
            drop(running);
            if !client.comes_again {
                return Ok(None);
            }
            running = program.begin(self, (number, client), at)?;
        }
        let most = if program == Program::Keiki { PATIENCE } else { MOST };
        let ended = program.end(self, (number, client), running, most)?;
        Ok(ended.then(|| began.elapsed().as_secs_f64()))
    }

    /// Compares what a machine got with what it should have; of one that grew its files with those of the source.
    fn judge(&self, program: Program, number: usize, larger: u64) -> Result<()> {
        if larger > 0 {
            let [found, source] = [[self.target(number)], [self.bench.path("disk")]];
            judge::disks(&found)?;
            return volumes::expect_same(&volumes::trees(&source)?, &volumes::trees(&found)?);
        }
        let reference = if program.restores() { self.bench.path("reference") } else { self.file() };
        if !reference.exists() {
            sparse::create(&reference, self.size)?;
            self.bench.restore("lab", std::slice::from_ref(&reference), "")?;
        }
        let hash = |path| Ok::<_, anyhow::Error>(blake3::hash(&fs::read(path)?));
        let same = hash(self.target(number))? == hash(reference)?;
        ensure!(same, "machine {number} has other bytes");
        Ok(())
    }
}

/// Lets what goes out of an interface be no more than so many Mbit/s.
///
/// # Errors
/// There is none of that name.
pub fn shape(interface: &str, rate: impl std::fmt::Display) -> Result<()> {
    run!(
        "tc",
        "qdisc",
        "add",
        "dev",
        interface,
        "root",
        "tbf",
        "rate",
        format!("{rate}mbit"),
        "burst",
        "64k",
        "latency",
        "50ms"
    )?;
    Ok(())
}

/// Plugs a machine into the switch.
fn machine(number: u8, client: &Client) -> Result<Neighbour> {
    let port = format!("port{number}");
    let machine = Neighbour::plugged(&port)?;
    machine.address(100 + number)?;
    if client.lost > 0 {
        machine.lose(client.lost)?;
    }
    if client.fate == Some(Fate::Deaf(0)) {
        machine.hears_no_multicast()?;
    }
    if let Some(rate) = client.port {
        shape(&port, rate)?;
    }
    Ok(machine)
}

/// Bytes that went out of the switch's own port, those of each packet on an Ethernet.
///
/// # Errors
/// There is no switch.
pub fn sent() -> Result<u64> {
    let said = tool::run(&call!("ip", "-json", "-statistics", "link", "show", "br0"))?;
    let said: Value = serde_json::from_str(&said)?;
    let [bytes, packets] = ["bytes", "packets"].map(|what| said[0]["stats64"]["tx"][what].as_u64());
    // The kernel counts no checksums, preambles and gaps.
    Ok(bytes.context("bytes")? + packets.context("packets")? * 24)
}
