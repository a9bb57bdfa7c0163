//! `keiki serve` in trouble: what it serves cannot be read, what it writes down has no room, it is killed, it gets a signal.
//! What is seen stands in docs/RELIABILITY.md too.

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use keiki_tests::bench::Bench;
use keiki_tests::faults::{Fault, Faulty, How, Op};
use keiki_tests::network::{self, Neighbour};
use keiki_tests::site::{Site, make_disk};
use keiki_tests::{call, keiki, sparse, tool};
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
        Site::start(self.call(), self.faulty.folder().join("state"))
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
            std::fs::write(stage.bench.path("state/machines.json"), "{}")?;
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
    // Nothing is done that would be forgotten.
    let full = || Fault::new(&[Op::Write, Op::Create], "state", How::NoSpace);
    stage.faulty.fail(vec![full()]);
    let (status, said) = site.ask("agent", "", Some(MACHINE))?;
    ensure!(
        status == 200
            && said.contains("cannot write down what happens")
            && said.contains("No space left"),
        "{said}"
    );
    stage.faulty.fail(Vec::new());
    ensure!(site.ask("agent", "", Some(MACHINE))?.0 == 200);
    let (id, _) = machines(&site)?.pop().context("no machine")?;
    stage.faulty.fail(vec![full()]);
    let (status, said) = put(&site, &id, "full")?;
    ensure!(status == 500 && said.contains("No space left"), "{status} {said}");
    ensure!(
        machines(&site)? == [(id.clone(), String::new())],
        "it counts, and is not written down"
    );
    stage.faulty.fail(Vec::new());
    ensure!(put(&site, &id, "0")?.0 == 200);
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
    let machine = Neighbour::plugged("port0")?;
    machine.address(100)?;
    let site = stage.serve()?;
    stage.faulty.fail(vec![Fault::new(&[Op::Read], "repo/packs", How::Fails(Errno::IO))]);
    let target = stage.bench.path("target");
    sparse::create(&target, image_core::units::Bytes::mib(24))?;
    let restore = keiki!(
        "--repo",
        "http://10.77.0.1/repo",
        "--progress",
        "none",
        "restore",
        "lab",
        &target,
        "--confirm",
        &target
    );
    let outcome = tool::outcome(&machine.call(&restore))?;
    let said = outcome.talk();
    ensure!(
        matches!(outcome.code, Some(1 | 4)) && said.contains("error: "),
        "{:?} {said}",
        outcome.code
    );
    let told = site.status()?;
    ensure!(
        told["sent"][0]["unreadable_blocks"].as_u64().is_some_and(|blocks| blocks > 0),
        "{told}"
    );
    let (code, said) = site.interrupt()?;
    ensure!(code == Some(4), "{code:?} {said}");
    Ok(())
}
