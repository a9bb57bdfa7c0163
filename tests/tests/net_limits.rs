//! What hinders machines, as the board says it: real processes, each in its own network at one switch.

use std::fs;

use anyhow::{Result, ensure};
use image_core::exec::real::Machine;
use image_core::units::Bytes;
use keiki_tests::room::{REPO, shape};
use keiki_tests::site::{self, World, are};
use keiki_tests::{bench, call, keiki, sparse};
use serde_json::Value;

/// Waits until the board says such words of what hinders a machine.
fn says(world: &World, is_it: impl Fn(&Value) -> bool, words: &str) -> Result<Value> {
    let says = |row: &&Value| {
        is_it(row) && row["limit"].as_str().is_some_and(|limit| limit.contains(words))
    };
    let rows = world.site.until(|rows| rows.iter().any(|row| says(&row)))?;
    world.site.conforms()?;
    Ok(rows.iter().find(says).cloned().unwrap_or_default())
}

/// One is behind a port of a tenth, and to another one no multicast comes: the board says how each gets the image, and why.
#[test]
fn net_who_is_slow_and_who_fetches_are_told() -> Result<()> {
    let world = World::new(2, &["--rate", "50"])?;
    shape("port0", 4)?;
    shape("port1", 12)?;
    world.machines[1].hears_no_multicast()?;
    let key = world.site.key.as_str();
    let agents = [world.agent(0, key)?, world.agent(1, key)?];
    world.site.until(are(2, "waits"))?;
    world.site.post("api/restore", "{}")?;
    let of = |number: usize| {
        let target = world.target(number).display().to_string();
        move |row: &Value| row["disks"][0].as_str().is_some_and(|disk| disk.starts_with(&target))
    };
    says(&world, of(0), "slow ports")?;
    says(&world, of(1), "nothing comes by multicast any more")?;
    for (number, agent) in agents.into_iter().enumerate() {
        let (code, said) = site::end(agent)?;
        ensure!(code == Some(0) && world.is_restored(number)?, "{number}: {code:?} {said}");
    }
    Ok(())
}

/// Its memory for blocks is full, for its disk takes some MiB in a second. Nobody gave it an order: what is known of it is what it says in
/// the session.
#[test]
fn net_a_disk_that_is_behind_is_told() -> Result<()> {
    let world = World::new(1, &["--rate", "200"])?;
    // More than a machine keeps in memory.
    let mut bytes = vec![0; 112 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let source = world.bench.path("disk-large");
    fs::write(&source, &bytes)?;
    world.bench.save("large", &[source])?;
    let target = world.target(0);
    sparse::create(&target, Bytes::of(&bytes))?;
    let delay = "inject=pwrite64:delay_enter=400000";
    let mut slow = call!("strace", "-f", "--seccomp-bpf", "-e", delay, "-o", "/dev/null");
    let restore = keiki!("--progress", "none", "--repo", REPO);
    slow.args.push(restore.program);
    slow.args.extend(restore.args);
    slow.args.extend(bench::restore("large", &[target], "").split_whitespace().map(Into::into));
    let running = Machine.spawn(&world.machines[0].call(&slow))?;
    let row = says(&world, |_| true, "its disk")?;
    ensure!(
        row["id"].is_null() && row["bytes_per_second"].is_u64() && row["seconds_left"].is_u64(),
        "{row}"
    );
    drop(running);
    Ok(())
}
