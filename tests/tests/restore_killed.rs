//! Restores that are killed, at any point, and then carried out again; and restores onto what is there
//! already. Files are targets: nothing here needs root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::kill::{disk, killed, moments, noise, number, put, undisturbed};
use keiki_tests::{call, table, tool};
use serde_json::Value;

/// Kills a restore so often, each time followed by one that ends; all targets become the same.
fn goes_on(kills: u32) -> Result<()> {
    let bench = Bench::new()?;
    let [source, old, target] = ["source", "old", "target"].map(|name| bench.path(name));
    let size = Bytes::mib(176);
    disk(&source, size, 1)?;
    bench.save("disk", std::slice::from_ref(&source))?;
    fs::write(&old, noise(9, size))?;
    fs::copy(&old, &target)?;
    let line = bench::restore("disk", std::slice::from_ref(&target), "");
    let (said, whole) = undisturbed(&bench, &line)?;
    let expected = fs::read(&target)?;
    let all = number(&said, "written_bytes")?;
    let mut continued = Vec::new();
    for moment in moments(kills, whole) {
        fs::copy(&old, &target)?;
        killed(&bench, &line, moment)?;
        let said = bench.run(&line)?;
        ensure!(said["verified"] == true, "{moment:?}: {said}");
        ensure!(fs::read(&target)? == expected, "{moment:?}: it is another disk");
        if !said["continued"].is_null() {
            continued.push(number(&said, "written_bytes")?);
        }
    }
    let less = continued.iter().filter(|written| **written < all).count();
    ensure!(less * 5 >= usize::try_from(kills)?, "of {kills} only {continued:?} went on ({all})");
    Ok(())
}

#[test]
fn a_killed_restore_goes_on_and_ends_as_if_nothing_had_been() -> Result<()> {
    goes_on(5)
}

#[test]
fn a_delta_restore_writes_what_changed_and_little_else() -> Result<()> {
    let bench = Bench::new()?;
    let [source, target] = ["source", "target"].map(|name| bench.path(name));
    let size = Bytes::mib(176);
    disk(&source, size, 1)?;
    bench.save("disk", std::slice::from_ref(&source))?;
    let target: [PathBuf; 1] = [target];
    bench.run("restore disk ./target")?;
    // One percent of the disk's blocks, in every fourth window.
    let parts = table::partitions(&source)?;
    let changed: Vec<Bytes> = (3..90).step_by(4).map(Bytes::mib).collect();
    for at in &changed {
        put(&source, parts[0].start + *at + Bytes::kib(300), &noise(at.get(), Bytes::kib(80)))?;
    }
    bench.save("disk", std::slice::from_ref(&source))?;
    let before = fs::read(&target[0])?;
    let traces = bench.path("traces");
    fs::create_dir(&traces)?;
    let keiki = bench.call(&bench::restore("disk", &target, "--only-changed"));
    // Counted outside of the program, by what it asks the kernel for. A file for each thread, for in a common one
    // they interrupt each other's lines.
    let of_thread = traces.join("thread");
    let mut traced = call!("strace", "-ff", "-e", "trace=pwrite64,fallocate", "-o", of_thread);
    traced.args.push(keiki.program);
    traced.args.extend(keiki.args);
    let outcome = tool::outcome(&traced)?;
    ensure!(outcome.code == Some(0), "{}", outcome.talk());
    let said: Value = serde_json::from_str(&outcome.text())?;
    bench.run("restore disk ./fresh")?;
    ensure!(fs::read(&target[0])? == fs::read(bench.path("fresh"))?, "it is another disk");
    let counted = counted(&traces)?;
    let windows = Bytes::MIB.get() * u64::try_from(changed.len())?;
    ensure!(counted * 10 <= windows * 12, "{counted} bytes for {windows} in windows");
    ensure!(number(&said, "written_bytes")? <= counted, "{said}, but {counted} were counted");
    ensure!(number(&said, "written_bytes")? >= windows, "{said}");
    ensure!(before != fs::read(&target[0])?, "nothing had changed");
    Ok(())
}

/// Bytes that were written to or made zeros in a file, as strace's files in `traces` tell it. Only the target is
/// written with these calls.
fn counted(traces: &Path) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(traces)? {
        for line in
            fs::read_to_string(thread?.path())?.lines().filter(|line| !line.contains("= -1"))
        {
            let length = match line.contains("pwrite64(") {
                true => line.rsplit("= ").next(),
                false => line.rsplit_once(')').and_then(|(call, _)| call.rsplit(", ").next()),
            };
            sum += length.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
        }
    }
    ensure!(sum > 0, "strace saw nothing");
    Ok(sum)
}

/// Long ones.
mod only_all {
    use super::{Result, goes_on};

    #[test]
    fn fifty_killed_restores_go_on() -> Result<()> {
        goes_on(50)
    }
}
