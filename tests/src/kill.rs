//! Restores that are killed, and disks to restore.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::units::Bytes;
use serde_json::Value;

use crate::bench::Bench;
use crate::{call, sparse, table, tool};

/// Bytes that do not compress, others for each seed.
pub fn noise(seed: u64, length: Bytes) -> Vec<u8> {
    let mut bytes = vec![0; length.index().unwrap_or(0)];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes `bytes` at a position of a file.
///
/// # Errors
/// It cannot be written.
pub fn put(path: &Path, at: Bytes, bytes: &[u8]) -> Result<()> {
    Ok(File::options().write(true).open(path)?.write_all_at(bytes, at.get())?)
}

/// A disk of `size` with eight partitions of noise and a boot sector.
///
/// # Errors
/// It cannot be made.
pub fn disk(path: &Path, size: Bytes, seed: u64) -> Result<()> {
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

/// A restore each of whose writes takes longer, so that on any machine it takes some seconds, in which it brings
/// its records up to date.
fn slow(bench: &Bench, line: &str) -> Call {
    let keiki = bench.call(line);
    let delay = "inject=pwrite64:delay_enter=15000";
    let mut call = call!("strace", "-f", "--seccomp-bpf", "-e", delay, "-o", "/dev/null");
    call.args.push(keiki.program);
    call.args.extend(keiki.args);
    call
}

/// Runs a restore to its end, as slowly as [`killed`] does; what it said, and how long it took.
///
/// # Errors
/// It does not end with exit code 0.
pub fn undisturbed(bench: &Bench, line: &str) -> Result<(Value, Duration)> {
    let began = Instant::now();
    let outcome = tool::outcome(&slow(bench, line))?;
    let whole = began.elapsed();
    ensure!(outcome.code == Some(0), "{:?}: {}", outcome.code, outcome.talk());
    Ok((serde_json::from_str(&outcome.text())?, whole))
}

/// Runs a restore and kills it after `delay`; whether it ended before.
///
/// # Errors
/// It cannot be started, or ends otherwise.
pub fn killed(bench: &Bench, line: &str, delay: Duration) -> Result<bool> {
    let slow = slow(bench, line);
    let delay = format!("{:.3}", delay.as_secs_f64());
    // It kills strace and what that runs: they are of one process group.
    let mut call = call!("timeout", "--signal=KILL", delay, slow.program);
    call.args.extend(slow.args);
    let outcome = tool::outcome(&call)?;
    // timeout(1) ends itself by the same signal.
    ensure!(matches!(outcome.code, None | Some(0 | 137)), "{:?}: {}", outcome.code, outcome.talk());
    Ok(outcome.code == Some(0))
}

/// A number among what the program said.
///
/// # Errors
/// There is none of that name.
pub fn number(said: &Value, field: &str) -> Result<u64> {
    said[field].as_u64().with_context(|| format!("no {field} in {said}"))
}

/// Points in time from the start of something that takes `whole` to its end, like dice but always the same.
pub fn moments(count: u32, whole: Duration) -> impl Iterator<Item = Duration> {
    let mut dice = 77_u32;
    (0..count).map(move |_| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        whole.mul_f64(f64::from(dice >> 8) / f64::from(1 << 24) * 1.05)
    })
}
