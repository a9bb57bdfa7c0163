//! `keiki serve` in trouble: what it serves cannot be read, what it writes down has no room, it is killed, it gets a signal.
//! What is seen stands in docs/RELIABILITY.md too.

#![allow(clippy::print_stdout, reason = "a test says what was told")]

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::exec::real::{Beside, Machine};
use keiki_tests::bench::{self, Bench};
use keiki_tests::faults::{Fault, Faulty, How, Op};
use keiki_tests::network::{self, Neighbour};
use keiki_tests::room::REPO;
use keiki_tests::site::{self, SIZE, Site, make_disk};
use keiki_tests::{call, keiki, sparse, tool, volumes};
use rustix::io::Errno;
use rustix::process::Signal;
use serde_json::{Value, json};

/// What keeping a file asks for.
const KEEP: [Op; 5] = [Op::Create, Op::Write, Op::Flush, Op::Rename, Op::FlushFolder];

/// A repository with an image and a folder for the state, both behind faults, in a network of their own.
struct Stage {
    bench: Bench,
    faulty: Faulty,
}

impl Stage {
    fn new() -> Result<Self> {
        let bench = Bench::new()?;
        make_disk(&bench, &bench.path("disk"), "lab")?;
        bench.save("lab", &[bench.path("disk")])?;
        network::own()?;
        network::switch()?;
        let faulty = Faulty::new(&bench.path(""))?;
        Ok(Self { bench, faulty })
    }

    fn call(&self) -> Call {
        let repo = self.faulty.folder().join("repo");
        keiki!(
            "--repo",
            repo,
            "--progress",
            "none",
            "serve",
            "--no-boot",
            "--interface",
            "br0",
            "--image",
            "lab"
        )
    }

    fn serve(&self) -> Result<Site> {
        self.serve_at(500)
    }

    /// The same, at so many Mbit/s.
    fn serve_at(&self, rate: u32) -> Result<Site> {
        let mut call = self.call();
        call.args.extend(["--rate".into(), rate.to_string().into()]);
        Site::start(call, self.faulty.folder().join("state"))
    }

    /// Lets a machine restore the image by hand onto a disk with this number.
    fn restore(&self, machine: &Neighbour, number: u8) -> Result<Beside> {
        let target = self.target(number);
        sparse::create(&target, SIZE)?;
        let mut restore = keiki!("--repo", REPO, "--progress", "none");
        let words = bench::restore("lab", &[target], "");
        restore.args.extend(words.split_whitespace().map(Into::into));
        Ok(Machine.spawn(&machine.call(&restore))?)
    }

    fn target(&self, number: u8) -> PathBuf {
        self.bench.path(&format!("target-{number}"))
    }

    /// The only pack.
    fn pack(&self) -> Result<PathBuf> {
        let mut packs = fs::read_dir(self.bench.path("repo/packs"))?;
        Ok(packs.next().context("no pack")??.path())
    }

    /// How a server ends that does not begin to serve with this fault: its code and its words.
    fn begins(&self, fault: Fault, state: &str) -> Result<(Option<i32>, String)> {
        self.faulty.fail(vec![fault]);
        let state = self.faulty.folder().join(state);
        let mut bounded = call!("timeout", "--signal=KILL", "120", "env");
        bounded.args.push(format!("KEIKI_STATE={}", state.display()).into());
        let serve = self.call();
        bounded.args.push(serve.program);
        bounded.args.extend(serve.args);
        let outcome = tool::outcome(&bounded)?;
        self.faulty.fail(Vec::new());
        Ok((outcome.code, outcome.talk()))
    }
}

#[test]
fn net_a_server_that_cannot_begin_says_why() -> Result<()> {
    let stage = Stage::new()?;
    let (code, said) = stage.serve()?.interrupt()?;
    ensure!(code == Some(0), "{code:?} {said}");
    let fails = How::Fails;
    let once = |on: &[Op], path: &str, how| Fault::new(on, path, how).between(0, 1);
    for (fault, state, ends, words) in [
        (
            Fault::new(&[Op::Read], "repo", fails(Errno::IO)),
            "state",
            1,
            "repo/keiki: cannot read: Input/output error",
        ),
        (
            once(&[Op::List], "repo", fails(Errno::IO)),
            "state",
            1,
            "repo/images: cannot list: Input/output error",
        ),
        (Fault::new(&[Op::Read], "repo", How::Ends), "state", 4, "repository header at byte 0"),
        (
            Fault::new(&[Op::Read], "state/site.key", fails(Errno::IO)),
            "state",
            1,
            "site.key: cannot read: Input/output error",
        ),
        (
            Fault::new(&[Op::Write, Op::Create], "new", How::NoSpace),
            "new",
            1,
            "No space left on device",
        ),
        (
            Fault::new(&Op::CHANGES, "newer", fails(Errno::ROFS)),
            "newer",
            1,
            "Read-only file system",
        ),
        (once(&[Op::Read], "repo", How::Signals(Signal::INT)), "state", 130, "interrupted"),
        (once(&[Op::Read], "repo", How::Signals(Signal::TERM)), "state", 130, "interrupted"),
        (
            Fault::new(&[Op::Read], "state/machines.json", How::Ends),
            "state",
            3,
            "is no list of machines",
        ),
    ] {
        if words.contains("list of machines") {
            // There is none before something happened.
            fs::write(stage.bench.path("state/machines.json"), "{}")?;
        }
        let fault_is = format!("{fault:?}");
        let (code, said) = stage.begins(fault, state)?;
        ensure!(
            code == Some(ends) && said.contains("error: ") && said.contains(words),
            "{fault_is}: {code:?} {said}"
        );
    }
    Ok(())
}

/// A machine, as it says what it is.
const MACHINE: &str = r#"{"machine": {"macs": ["02:00:00:00:00:05"], "memory": 1, "disks": []}, "nonce": "n", "doing": {"what": "waits"}}"#;

/// The machines: their ids and groups.
fn machines(site: &Site) -> Result<Vec<(String, String)>> {
    let told: Value = serde_json::from_str(&site.ask("api/machines", site.token(), None)?.1)?;
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let rows = told["machines"].as_array().context("no machines")?.iter();
    Ok(rows.map(|row| (text(row, "id"), text(row, "group"))).collect())
}

/// Puts a machine into a group; the answer, if there is one.
fn put(site: &Site, id: &str, group: &str) -> Result<(u16, String)> {
    let wish = json!({"machines": [id], "group": group}).to_string();
    site.ask("api/groups", site.token(), Some(&wish))
}

#[test]
fn net_what_was_decided_is_written_down_or_refused() -> Result<()> {
    let stage = Stage::new()?;
    let mut site = stage.serve()?;
    let full = || Fault::new(&[Op::Write, Op::Create], "state", How::NoSpace);
    stage.faulty.fail(vec![full()]);
    // Of who only waits nothing is written down.
    let (status, said) = site.ask("agent", "", Some(MACHINE))?;
    ensure!(status == 200 && said.contains("somebody has to say"), "{status} {said}");
    let (id, _) = machines(&site)?.pop().context("no machine")?;
    // Nothing is done that would be forgotten.
    let (status, said) = put(&site, &id, "full")?;
    ensure!(status == 500 && said.contains("No space left"), "{status} {said}");
    ensure!(
        machines(&site)? == [(id.clone(), String::new())],
        "it counts, and is not written down"
    );
    stage.faulty.fail(Vec::new());
    ensure!(put(&site, &id, "0")?.0 == 200);
    stage.faulty.fail(vec![full()]);
    let other = MACHINE.replace("\"memory\": 1", "\"memory\": 2");
    let (status, said) = site.ask("agent", "", Some(&other))?;
    ensure!(
        status == 200
            && said.contains("cannot write down what happens")
            && said.contains("No space left"),
        "{said}"
    );
    stage.faulty.fail(Vec::new());
    // A power cut of the process at every call: the list is the old one or the new one.
    let mut kills = 0;
    loop {
        let (old, new) = (kills.to_string(), (kills + 1).to_string());
        stage.faulty.fail(vec![Fault::new(&KEEP, "state", How::Kills).between(kills, 1)]);
        let answer = put(&site, &id, &new);
        stage.faulty.fail(Vec::new());
        if let Ok((status, said)) = answer {
            ensure!(status == 200, "{status} {said}");
            break;
        }
        drop(site);
        site = stage.serve()?;
        let found = machines(&site)?;
        ensure!(
            found == [(id.clone(), old)] || found == [(id.clone(), new.clone())],
            "{kills}: {found:?}"
        );
        ensure!(put(&site, &id, &new)?.0 == 200);
        kills += 1;
    }
    ensure!(kills >= 5, "only {kills} calls were hit");
    let (code, said) = site.interrupt()?;
    ensure!(code == Some(0), "{code:?} {said}");
    Ok(())
}

#[test]
fn net_what_cannot_be_read_is_told_to_all() -> Result<()> {
    let stage = Stage::new()?;
    let machine = plugged(1)?.remove(0);
    let site = stage.serve()?;
    stage.faulty.fail(vec![Fault::new(&[Op::Read], "repo/packs", How::Fails(Errno::IO))]);
    let (code, said) = site::end(stage.restore(&machine, 0)?)?;
    ensure!(matches!(code, Some(1 | 4)) && said.contains("error: "), "{code:?} {said}");
    ensure!(unreadable(&site)? > 0);
    let (code, said) = site.interrupt()?;
    ensure!(code == Some(4), "{code:?} {said}");
    Ok(())
}

/// How many blocks cannot be read.
fn unreadable(site: &Site) -> Result<u64> {
    let told = site.status()?;
    told["sent"][0]["unreadable_blocks"].as_u64().with_context(|| told.to_string())
}

/// So many machines, each in its own network.
fn plugged(count: u8) -> Result<Vec<Neighbour>> {
    let plug = |number| {
        let machine = Neighbour::plugged(&format!("port{number}"))?;
        machine.address(100 + number)?;
        Ok(machine)
    };
    (0..count).map(plug).collect()
}

/// For some seconds nothing can be read: machines wait, and get all of it by multicast.
#[test]
fn net_a_disk_that_hiccups_costs_only_time() -> Result<()> {
    let stage = Stage::new()?;
    let machines = plugged(2)?;
    let site = stage.serve_at(15)?;
    let running = (0..).zip(&machines).map(|(number, machine)| stage.restore(machine, number));
    let running = running.collect::<Result<Vec<_>>>()?;
    // Later all of it would be read already.
    site.until(|rows| rows.iter().filter(|row| row["blocks"].is_u64()).count() == 2)?;
    stage.faulty.fail(vec![Fault::new(&[Op::Read], "repo/packs", How::Fails(Errno::IO))]);
    thread::sleep(Duration::from_secs(5));
    let (lacking, met) = (unreadable(&site)?, stage.faulty.met());
    stage.faulty.fail(Vec::new());
    ensure!(lacking > 1 && met[0] > 0, "{lacking} {met:?}");
    for (number, running) in (0..).zip(running) {
        let (code, said) = site::end(running)?;
        let is_sound = code == Some(0) && !said.contains("fetched") && !said.contains("again");
        ensure!(is_sound, "{number}: {code:?} {said}");
        let trees =
            [stage.bench.path("disk"), stage.target(number)].map(|disk| volumes::trees(&[disk]));
        let [source, target] = trees;
        volumes::expect_same(&source?, &target?)?;
    }
    ensure!(unreadable(&site)? == 0);
    let metrics = site.ask("metrics", site.token(), None)?.1;
    let is_told = |line: &str| line.starts_with("keiki_unreadable_blocks{") && line.ends_with(" 0");
    ensure!(metrics.lines().any(is_told), "{metrics}");
    let (code, said) = site.interrupt()?;
    println!("{lacking} blocks, {met:?} calls: {said}");
    let pack = stage.pack()?.file_name().context("a name")?.to_string_lossy().into_owned();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("read again")).collect();
    let first = said.lines().find(|line| line.contains("it is tried again")).context("not told")?;
    for word in ["chunk ", &pack, "at byte ", "Input/output error"] {
        ensure!(first.contains(word), "{word}: {said}");
    }
    ensure!(said.matches("it is tried again").count() == 1 && lines.len() == 1, "{said}");
    ensure!(code == Some(0), "{code:?} {said}");
    Ok(())
}

/// What changed in the repository since the room opened comes onto no disk, by no way.
#[test]
fn net_an_image_that_changes_while_it_is_sent_is_told_by_all() -> Result<()> {
    let stage = Stage::new()?;
    let machines = plugged(2)?;
    let pack = stage.pack()?;
    let sound = fs::read(&pack)?;
    let mut flipped = sound.clone();
    flipped[sound.len() * 3 / 4] ^= 1;
    let another: Vec<u8> = sound.iter().rev().copied().collect();
    for (what, bytes) in [("a bit", flipped), ("another file", another)] {
        let site = stage.serve()?;
        let changed = stage.bench.path("changed");
        fs::write(&changed, bytes)?;
        fs::rename(&changed, &pack)?;
        let running = (0..).zip(&machines).map(|(number, machine)| stage.restore(machine, number));
        for (number, running) in (0..).zip(running.collect::<Result<Vec<_>>>()?) {
            let (code, said) = site::end(running)?;
            println!("{what}, {number}: {said}");
            ensure!(
                code == Some(4) && said.contains("damaged: ") && said.contains("packs/"),
                "{code:?} {said}"
            );
            let start = fs::read(stage.target(number))?;
            ensure!(start[446..512].iter().all(|byte| *byte == 0), "{what}: it has a table");
            is_right_where_written(&stage, &start)?;
        }
        ensure!(unreadable(&site)? > 0, "{what}");
        let (code, said) = site.interrupt()?;
        println!("{what}: {said}");
        let told =
            said.lines().find(|line| line.contains("nobody gets this")).context("not told")?;
        ensure!(told.contains("chunk ") && told.contains("at byte "), "{told}");
        ensure!(code == Some(4), "{code:?} {said}");
        fs::write(&pack, &sound)?;
    }
    Ok(())
}

/// Whether each 4 KiB of a disk is what the source has there, or nothing.
fn is_right_where_written(stage: &Stage, target: &[u8]) -> Result<()> {
    let source = fs::read(stage.bench.path("disk"))?;
    // The first and last MiB of a disk without a table are not the image's.
    let inner = 1 << 20..source.len() - (1 << 20);
    let pairs = source[inner.clone()].chunks(4096).zip(target[inner].chunks(4096));
    for (at, (right, found)) in pairs.enumerate() {
        let is_nothing = found.iter().all(|byte| *byte == 0);
        ensure!(is_nothing || right == found, "other bytes 4 KiB * {at} behind the first MiB");
    }
    Ok(())
}
