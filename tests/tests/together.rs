//! Several of the program's processes in one repository at once, also where its clock is another, and machines whose
//! clock is wrong.
#![allow(clippy::print_stdout, reason = "a test says what it did")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image_core::exec::Outcome;
use keiki_tests::faults::{Fault, Faulty, How, Op};
use keiki_tests::scenes::{self, Stage};
use keiki_tests::tool;
use rustix::process::Signal;
use serde_json::Value;

const SAVE: &str = "save source --name new";
const COPY: &str = "copy disk --to other";

const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn run(folder: &Path, line: &str) -> Result<Outcome> {
    tool::outcome(&scenes::call(folder, line))
}

fn json(folder: &Path, line: &str) -> Result<Value> {
    let outcome = run(folder, &format!("{line} --json"))?;
    ensure!(outcome.code == Some(0), "{line}: {:?}: {}", outcome.code, outcome.talk());
    serde_json::from_str(&outcome.text()).context("no JSON")
}

/// Runs several at once.
fn at_once(folder: &Path, lines: &[&str]) -> Result<Vec<Outcome>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            lines.iter().map(|line| scope.spawn(move || run(folder, line))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|ended| ended.map_err(|_| anyhow::anyhow!("a panic"))?).collect()
    })
}

/// Every image that is listed is whole, and nothing is left of those that worked here.
fn is_sound(folder: &Path, names: &[&str]) -> Result<()> {
    let checked = json(folder, "check --read-data")?;
    ensure!(checked["damaged"] == serde_json::json!([]), "{checked}");
    for name in names {
        json(folder, &format!("verify {name}"))?;
    }
    for left in ["tmp", "locks"] {
        let count = fs::read_dir(folder.join("repo").join(left))?.count();
        ensure!(count == 0, "{count} files are left in {left}");
    }
    Ok(())
}

/// A repository on a share whose clock is ahead or behind.
fn shared(ahead: Duration, behind: Duration) -> Result<(Stage, Faulty)> {
    let stage = Stage::new()?;
    let faulty = Faulty::new(stage.folder())?;
    faulty.shift_clock(ahead, behind);
    Ok((stage, faulty))
}

fn saves_beside_each_other(ahead: Duration, behind: Duration, rounds: usize) -> Result<()> {
    for round in 0..rounds {
        let (stage, faulty) = shared(ahead, behind)?;
        let lines =
            ["save source --name one", "save target --name two", "save source --name three"];
        for outcome in at_once(faulty.folder(), &lines)? {
            ensure!(outcome.code == Some(0), "{round}: {:?}: {}", outcome.code, outcome.talk());
        }
        drop(faulty);
        is_sound(stage.folder(), &["one", "two", "three", "disk", "kept"])?;
        let [one, three] =
            ["one", "three"].map(|name| json(stage.folder(), &format!("show {name}")));
        ensure!(one?["content_id"] == three?["content_id"], "the same disk is another");
    }
    Ok(())
}

/// Both end well, or one is told who the other is; whatever they do, every image is whole.
fn beside_a_prune(line: &str, (ahead, behind): (Duration, Duration), rounds: usize) -> Result<()> {
    let mut refused = 0;
    for round in 0..rounds {
        let (stage, faulty) = shared(ahead, behind)?;
        let lines = [line, "prune --now"];
        let ended = at_once(faulty.folder(), &lines)?;
        drop(faulty);
        for outcome in &ended {
            let talk = outcome.talk();
            ensure!(matches!(outcome.code, Some(0 | 3)), "{round}: {:?}: {talk}", outcome.code);
            if outcome.code == Some(3) {
                ensure!(talk.contains("is in use by process"), "{talk}");
                refused += 1;
            }
        }
        let folder = stage.folder();
        is_sound(folder, &["disk", "kept"])?;
        for line in lines.iter().zip(&ended).filter(|(_, ended)| ended.code != Some(0)) {
            json(folder, line.0)?;
        }
        let made = if line == SAVE { vec!["disk", "kept", "new"] } else { vec!["disk", "kept"] };
        is_sound(folder, &made)?;
        if line == COPY {
            let [repo, old, other] = ["repo", "old", "other"].map(|name| folder.join(name));
            fs::rename(&repo, old)?;
            fs::rename(other, repo)?;
            is_sound(folder, &["disk"])?;
        }
    }
    println!("{refused} of {rounds} were refused");
    Ok(())
}

#[test]
fn loop_saves_go_together_also_where_the_clock_is_another() -> Result<()> {
    saves_beside_each_other(Duration::ZERO, Duration::ZERO, 1)?;
    saves_beside_each_other(YEAR, Duration::ZERO, 1)?;
    saves_beside_each_other(Duration::ZERO, YEAR, 1)
}

#[test]
fn loop_a_save_and_a_prune_go_together_also_where_the_clock_is_another() -> Result<()> {
    beside_a_prune(SAVE, (Duration::ZERO, Duration::ZERO), 2)?;
    beside_a_prune(SAVE, (YEAR, Duration::ZERO), 1)?;
    beside_a_prune(SAVE, (Duration::ZERO, YEAR), 1)
}

#[test]
fn loop_a_copy_and_a_prune_go_together() -> Result<()> {
    beside_a_prune(COPY, (Duration::ZERO, Duration::ZERO), 2)?;
    beside_a_prune(COPY, (Duration::ZERO, YEAR), 1)
}

#[test]
fn two_saves_make_one_new_repository() -> Result<()> {
    makes_one(12)
}

fn makes_one(rounds: usize) -> Result<()> {
    for round in 0..rounds {
        let stage = Stage::new()?;
        let folder = stage.folder();
        fs::remove_dir_all(folder.join("repo"))?;
        let lines =
            ["save source --name one", "save target --name two", "save source --name three"];
        for outcome in at_once(folder, &lines)? {
            ensure!(outcome.code == Some(0), "{round}: {:?}: {}", outcome.code, outcome.talk());
        }
        is_sound(folder, &["one", "two", "three"])?;
    }
    Ok(())
}

/// Whoever holds the repository and stops, be it for days, loses nothing but its own work.
#[test]
fn loop_a_save_that_sleeps_beside_a_prune_ends_with_an_image_or_says_why() -> Result<()> {
    let stage = Stage::new()?;
    let faulty = Faulty::new(stage.folder())?;
    let folder = faulty.folder();
    // It stops where it has written its pack.
    let stops = Fault::new(&[Op::Rename], "repo/tmp", How::Signals(Signal::STOP)).between(0, 1);
    faulty.fail(vec![stops]);
    let ended = std::thread::scope(|scope| -> Result<Outcome> {
        let save = scope.spawn(|| run(folder, "save source --name new"));
        let began = std::time::Instant::now();
        while faulty.met() == [0] {
            ensure!(began.elapsed() < Duration::from_secs(60), "it did not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Days pass: its lock is gone.
        let locks: Vec<_> = fs::read_dir(stage.folder().join("repo/locks"))?.collect();
        ensure!(locks.len() == 1, "{locks:?}");
        let pid = holder(&stage.folder().join("repo/locks"))?;
        locks.into_iter().try_for_each(|lock| fs::remove_file(lock?.path()))?;
        let pruned = run(stage.folder(), "prune --now")?;
        rustix::process::kill_process(pid, Signal::CONT)?;
        ensure!(pruned.code == Some(0), "{}", pruned.talk());
        save.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    drop(faulty);
    ensure!(ended.code == Some(3), "{:?}: {}", ended.code, ended.talk());
    ensure!(ended.talk().contains("start it again"), "{}", ended.talk());
    println!("{}", ended.talk());
    is_sound(stage.folder(), &["disk", "kept"])?;
    json(stage.folder(), "save source --name new")?;
    is_sound(stage.folder(), &["disk", "kept", "new"])
}

/// The process that holds the only lock.
fn holder(locks: &Path) -> Result<rustix::process::Pid> {
    let lock = fs::read_dir(locks)?.next().context("no lock")??;
    let text = fs::read_to_string(lock.path())?;
    let json: Value = serde_json::from_str(text.lines().next().context("empty")?)?;
    let pid = json["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    pid.and_then(rustix::process::Pid::from_raw).context("no process")
}

/// A disk without its clock's battery saves the newest image all the same.
#[test]
fn an_image_saved_by_a_clock_that_is_behind_is_the_newest() -> Result<()> {
    let stage = Stage::new()?;
    let folder = stage.folder();
    json(folder, "save target --name twice")?;
    let script = "exec faketime -f -3650d \"$@\"";
    let call = scenes::within(folder, script, "save source --name twice");
    let saved = tool::outcome(&call.env("FAKETIME_DONT_FAKE_MONOTONIC", "1"))?;
    ensure!(saved.code == Some(0), "{}", saved.talk());
    ensure!(saved.talk().contains("set the clock"), "{}", saved.talk());
    json(folder, "save source --name other")?;
    let [twice, other] = ["twice", "other"].map(|name| json(folder, &format!("show {name}")));
    ensure!(twice?["content_id"] == other?["content_id"], "the older image passes for the newest");
    Ok(())
}

mod only_all {
    use super::{Duration, Result, YEAR};

    #[test]
    fn loop_many_saves_beside_each_other() -> Result<()> {
        super::saves_beside_each_other(Duration::ZERO, Duration::ZERO, 20)
    }

    #[test]
    fn loop_many_saves_beside_prunes() -> Result<()> {
        super::beside_a_prune(super::SAVE, (Duration::ZERO, Duration::ZERO), 40)?;
        super::beside_a_prune(super::SAVE, (Duration::ZERO, YEAR), 10)
    }

    #[test]
    fn loop_many_copies_beside_prunes() -> Result<()> {
        super::beside_a_prune(super::COPY, (Duration::ZERO, Duration::ZERO), 40)
    }

    #[test]
    fn many_saves_make_one_new_repository() -> Result<()> {
        super::makes_one(30)
    }
}
