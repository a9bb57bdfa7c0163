//! Restores that are killed, at any point, and then carried out again; and restores onto what is there
//! already. Files are targets: nothing here needs root.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::{call, sparse, table, tool};
use serde_json::Value;

/// Bytes that do not compress, others for each seed.
fn noise(seed: u64, length: Bytes) -> Vec<u8> {
    let mut bytes = vec![0; length.index().unwrap_or(0)];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn put(path: &Path, at: Bytes, bytes: &[u8]) -> Result<()> {
    Ok(File::options().write(true).open(path)?.write_all_at(bytes, at.get())?)
}

/// A disk of `size` with eight partitions of noise and a boot sector.
fn disk(path: &Path, size: Bytes, seed: u64) -> Result<()> {
    sparse::create(path, size)?;
    let mut sgdisk = call!("sgdisk");
    sgdisk.args.extend((1..9).map(|number| format!("-n{number}:0:+20M").into()));
    sgdisk.args.push(path.into());
    tool::run(&sgdisk)?;
    for (number, part) in (0..).zip(table::partitions(path)?) {
        put(path, part.start, &noise(seed + number, part.len()))?;
    }
    put(path, Bytes::ZERO, &noise(seed, Bytes::new(440)))
}

/// Runs a restore and kills it after `delay`; whether it ended before.
fn killed(bench: &Bench, line: &str, delay: Duration) -> Result<bool> {
    let keiki = bench.call(line);
    let delay = format!("{:.3}", delay.as_secs_f64());
    let mut call = call!("timeout", "--signal=KILL", delay, keiki.program);
    call.args.extend(keiki.args);
    let outcome = tool::outcome(&call)?;
    // timeout(1) ends itself by the same signal.
    ensure!(matches!(outcome.code, None | Some(0 | 137)), "{:?}: {}", outcome.code, outcome.talk());
    Ok(outcome.code == Some(0))
}

fn number(said: &Value, field: &str) -> Result<u64> {
    said[field].as_u64().with_context(|| format!("no {field} in {said}"))
}

/// Points in time from the start of something that takes `whole` to its end, like dice but always the same.
fn moments(count: u32, whole: Duration) -> impl Iterator<Item = Duration> {
    let mut dice = 77_u32;
    (0..count).map(move |_| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        whole.mul_f64(f64::from(dice >> 8) / f64::from(1 << 24) * 1.05)
    })
}

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
    let began = Instant::now();
    let undisturbed = bench.run(&line)?;
    let whole = began.elapsed();
    let expected = fs::read(&target)?;
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
    let all = number(&undisturbed, "written_bytes")?;
    let less = continued.iter().filter(|written| **written < all).count();
    ensure!(less * 3 >= usize::try_from(kills)?, "of {kills} only {continued:?} went on ({all})");
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
    let written = bench.path("written");
    let keiki = bench.call(&bench::restore("disk", &target, "--only-changed"));
    // Counted outside of the program, by what it asks the kernel for.
    let mut traced = call!("strace", "-f", "-e", "trace=pwrite64,fallocate", "-o", &written);
    traced.args.push(keiki.program);
    traced.args.extend(keiki.args);
    let outcome = tool::outcome(&traced)?;
    ensure!(outcome.code == Some(0), "{}", outcome.talk());
    let said: Value = serde_json::from_str(&outcome.text())?;
    bench.run("restore disk ./fresh")?;
    ensure!(fs::read(&target[0])? == fs::read(bench.path("fresh"))?, "it is another disk");
    let counted = counted(&fs::read_to_string(&written)?)?;
    let windows = Bytes::MIB.get() * u64::try_from(changed.len())?;
    ensure!(counted * 10 <= windows * 12, "{counted} bytes for {windows} in windows");
    ensure!(number(&said, "written_bytes")? <= counted, "{said}, but {counted} were counted");
    ensure!(number(&said, "written_bytes")? >= windows, "{said}");
    ensure!(before != fs::read(&target[0])?, "nothing had changed");
    Ok(())
}

/// Bytes that were written to or made zeros in a file, as strace tells it. Only the target is written with
/// these calls.
fn counted(trace: &str) -> Result<u64> {
    let mut sum = 0;
    for line in trace.lines().filter(|line| !line.contains("= -1")) {
        let length = match line.contains("pwrite64(") {
            true => line.rsplit("= ").next(),
            false => line.rsplit_once(')').and_then(|(call, _)| call.rsplit(", ").next()),
        };
        sum += length.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    ensure!(sum > 0, "strace saw nothing: {trace}");
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
