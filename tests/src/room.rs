//! A room of machines that are restored at once, by real processes: each in its own network, at one switch.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use image_core::exec::Call;
use image_core::exec::real::Machine;
use image_core::extent::Extent;
use image_core::units::Bytes;
use serde_json::Value;

use crate::bench::{self, Bench};
use crate::network::{self, Neighbour};
use crate::{call, filesystem, judge, keiki, run, sparse, tool, volumes};

/// The server's address for repositories.
const REPO: &str = "http://10.77.0.1/repo";

/// How long a machine may take; no figure, only the end of a test that hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Bytes of a symbol in those of its packet on an Ethernet.
const GOODPUT: f64 = 1408.0 / 1506.0;

/// The number of a target that is restored without a network.
const REFERENCE: usize = 1000;

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
        Ok(Self { bench, size, stored })
    }

    /// Restores all `clients` from a server that sends so many Mbit/s. Their targets are compared with one that was restored
    /// without a network.
    ///
    /// # Errors
    /// A machine that should end does not, or its target differs.
    pub fn play(&self, rate: u64, clients: &[Client]) -> Result<Outcome> {
        network::own()?;
        network::switch()?;
        let rate_said = rate.to_string();
        let mut serve = keiki!("--repo", self.bench.path("repo"), "serve", "--interface", "br0");
        let options = ["--no-boot", "--image", "lab", "--rate", &rate_said];
        serve.args.extend(options.map(Into::into));
        let mut server = Machine.spawn(&serve)?;
        let said = server.answer()?;
        if !said.starts_with("Serving on") {
            bail!("{said}{}", server.finish(PATIENCE)?.talk());
        }
        let machines: Vec<Neighbour> = (0..)
            .zip(clients)
            .map(|(number, client)| machine(number, client))
            .collect::<Result<_>>()?;
        let before = sent()?;
        let times = thread::scope(|scope| {
            let running: Vec<_> = (0..)
                .zip(clients.iter().zip(&machines))
                .map(|(number, (client, machine))| {
                    scope.spawn(move || self.restore(number, client, machine))
                })
                .collect();
            let times = running
                .into_iter()
                .map(|one| one.join().map_err(|_| anyhow!("a thread panicked"))?);
            times.collect::<Result<Vec<_>>>()
        })?;
        let sent = (sent()? - before) as f64 / self.stored as f64;
        for (number, _) in times.iter().enumerate().filter(|(_, time)| time.is_some()) {
            let larger = clients.get(number).map_or(0, |client| client.larger);
            self.judge(number, larger)?;
        }
        let ideal = self.stored as f64 * 8.0 / (rate as f64 * 1e6) / GOODPUT;
        Ok(Outcome { sent: sent * GOODPUT, times, ideal })
    }

    fn target(&self, number: usize) -> PathBuf {
        self.bench.path(&format!("target-{number}"))
    }

    /// How long a machine takes, in seconds; none where it is killed for good.
    fn restore(&self, number: usize, client: &Client, machine: &Neighbour) -> Result<Option<f64>> {
        sparse::create(&self.target(number), self.size + Bytes::mib(client.larger))?;
        thread::sleep(Duration::from_millis(client.late));
        let call = self.call(number, Some(machine));
        let began = Instant::now();
        if let Some(after) = client.killed {
            let running = Machine.spawn(&call)?;
            thread::sleep(Duration::from_millis(after));
            // Killed when it is dropped.
            drop(running);
            if !client.comes_again {
                return Ok(None);
            }
        }
        let end = Machine.spawn(&call)?.finish(PATIENCE)?;
        ensure!(end.success(), "machine {number}: {}{}", end.text(), end.talk());
        ensure!(!end.talk().contains("HTTP"), "machine {number}: {}", end.talk());
        Ok(Some(began.elapsed().as_secs_f64()))
    }

    fn call(&self, number: usize, machine: Option<&Neighbour>) -> Call {
        let target = self.target(number);
        let words = bench::restore("lab", &[target], "");
        let mut call = match machine {
            Some(_) => keiki!("--progress", "none", "--repo", REPO),
            None => keiki!("--progress", "none", "--repo", self.bench.path("repo")),
        };
        call.args.extend(words.split_whitespace().map(Into::into));
        machine.map_or(call.clone(), |machine| machine.call(&call))
    }

    /// Compares a target with one that was restored from the folder; of one that grew its files with those of the source.
    fn judge(&self, number: usize, larger: u64) -> Result<()> {
        if larger > 0 {
            let [found, source] = [[self.target(number)], [self.bench.path("disk")]];
            judge::disks(&found)?;
            return volumes::expect_same(&volumes::trees(&source)?, &volumes::trees(&found)?);
        }
        let reference = self.target(REFERENCE);
        if !reference.exists() {
            sparse::create(&reference, self.size)?;
            tool::run(&self.call(REFERENCE, None))?;
        }
        let hash = |path| Ok::<_, anyhow::Error>(blake3::hash(&fs::read(path)?));
        let same = hash(self.target(number))? == hash(reference)?;
        ensure!(same, "machine {number} has other bytes");
        Ok(())
    }
}

/// Plugs a machine into the switch.
fn machine(number: u8, client: &Client) -> Result<Neighbour> {
    let port = format!("port{number}");
    let machine = Neighbour::plugged(&port)?;
    machine.address(100 + number)?;
    if client.lost > 0 {
        machine.lose(client.lost)?;
    }
    if let Some(rate) = client.port {
        run!(
            "tc",
            "qdisc",
            "add",
            "dev",
            &port,
            "root",
            "tbf",
            "rate",
            format!("{rate}mbit"),
            "burst",
            "32k",
            "limit",
            "128k"
        )?;
    }
    Ok(machine)
}

/// Bytes that went out of the switch's own port, those of each packet on an Ethernet.
fn sent() -> Result<u64> {
    let said = tool::run(&call!("ip", "-json", "-statistics", "link", "show", "br0"))?;
    let said: Value = serde_json::from_str(&said)?;
    let [bytes, packets] = ["bytes", "packets"].map(|what| said[0]["stats64"]["tx"][what].as_u64());
    // The kernel counts no checksums, preambles and gaps.
    Ok(bytes.context("bytes")? + packets.context("packets")? * 24)
}
