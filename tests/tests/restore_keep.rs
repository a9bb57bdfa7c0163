//! Restores onto disks of which something stays. Files are targets: only volume groups need root.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::kill::{disk, killed, moments, noise, number};
use keiki_tests::table::Entry;
use keiki_tests::{run, table};

const SIZE: Bytes = Bytes::mib(230);

/// A disk full of noise, with partitions of its own: number 11 lies where those of the image would, number 12
/// reaches to the end.
fn old_disk(path: &Path) -> Result<()> {
    fs::write(path, noise(9, SIZE))?;
    run!("sgdisk", "-o", path)?;
    run!("sgdisk", "-n3:2048:+50M", "-n11:122880:+20M", "-c11:data", "-t11:a504", path)?;
    run!("sgdisk", "-n12:409600:0", "-A12:set:63", path)?;
    Ok(())
}

fn entries(path: &Path) -> Result<Vec<Entry>> {
    Ok(table::read(path)?.entries)
}

fn bytes(path: &Path, extent: Extent) -> Result<blake3::Hash> {
    let all = fs::read(path)?;
    let range = extent.start.index().zip(extent.end.index());
    let part = range.and_then(|(start, end)| all.get(start..end));
    Ok(blake3::hash(part.context("the file is too short")?))
}

/// The hash of each partition of these numbers, with its entry.
fn facts(path: &Path, numbers: &[u32]) -> Result<Vec<(Entry, blake3::Hash)>> {
    let all = entries(path)?;
    let own = all.into_iter().filter(|entry| numbers.contains(&entry.number));
    own.map(|entry| Ok((entry.clone(), bytes(path, entry.extent)?))).collect()
}

/// What every restore of the image onto such a disk has to leave.
fn is_right(source: &Path, target: &Path, kept: &[(Entry, blake3::Hash)]) -> Result<()> {
    ensure!(facts(target, &[11, 12])? == kept, "what should stay is another");
    let saved = facts(source, &[1, 2, 3, 4, 5, 6, 7, 8])?;
    let there = facts(target, &[1, 2, 3, 4, 5, 6, 7, 8])?;
    ensure!(saved.len() == 8 && there.len() == 8, "{there:?}");
    for ((old, hash), (new, found)) in saved.iter().zip(&there) {
        ensure!((old.number, &old.rest) == (new.number, &new.rest), "{old:?} became {new:?}");
        ensure!(hash == found, "partition {} is another", old.number);
    }
    ensure!(entries(target)?.len() == 10, "{:?}", entries(target)?);
    run!("sgdisk", "-v", target).map(drop)
}

/// Kills a restore so often: what stays is never touched, and each time the restore then ends right.
fn stays(kills: u32) -> Result<()> {
    let bench = Bench::new()?;
    let [source, old, target] = ["source", "old", "target"].map(|name| bench.path(name));
    disk(&source, Bytes::mib(176), 1)?;
    bench.save("disk", std::slice::from_ref(&source))?;
    old_disk(&old)?;
    fs::copy(&old, &target)?;
    let kept = facts(&target, &[11, 12])?;
    let keep = format!("--keep {}:11 --keep 12", target.display());
    let line = bench::restore("disk", std::slice::from_ref(&target), &keep);
    let plan = bench.run(&format!("{line} --dry-run"))?;
    let stays = plan.pointer("/plan/kept").and_then(|kept| kept.as_array()).map(Vec::len);
    ensure!(stays == Some(2), "{plan}");
    let began = Instant::now();
    bench.run(&line)?;
    let whole = began.elapsed();
    is_right(&source, &target, &kept)?;
    let mut continued = 0;
    for moment in moments(kills, whole) {
        fs::copy(&old, &target)?;
        killed(&bench, &line, moment)?;
        for (entry, hash) in &kept {
            ensure!(
                bytes(&target, entry.extent)? == *hash,
                "{moment:?}: {} was touched",
                entry.number
            );
        }
        let said = bench.run(&line)?;
        is_right(&source, &target, &kept).with_context(|| format!("{moment:?}"))?;
        ensure!(number(&said, "written_bytes")? > 0, "{said}");
        continued += u32::from(!said["continued"].is_null());
    }
    ensure!(continued * 3 >= kills, "of {kills} only {continued} went on");
    Ok(())
}

#[test]
fn what_stays_is_the_same_after_killed_restores() -> Result<()> {
    stays(4)
}

#[test]
fn an_interrupted_restore_is_not_followed_by_one_that_forgets_what_stays() -> Result<()> {
    let bench = Bench::new()?;
    let [source, target] = ["source", "target"].map(|name| bench.path(name));
    disk(&source, Bytes::mib(176), 1)?;
    bench.save("disk", std::slice::from_ref(&source))?;
    let line = |options: &str| bench::restore("disk", std::slice::from_ref(&target), options);
    let mut cut = false;
    for _ in 0..8 {
        old_disk(&target)?;
        let began = Instant::now();
        bench.run(&line("--keep 11 --keep 12"))?;
        let whole = began.elapsed();
        old_disk(&target)?;
        killed(&bench, &line("--keep 11 --keep 12"), whole.mul_f64(0.6))?;
        cut = table::partitions(&target).is_err();
        if cut {
            break;
        }
    }
    ensure!(cut, "no restore was killed in time");
    let kept = bytes(&target, Extent::new(Bytes::mib(60), Bytes::mib(80)))?;
    for options in ["", "--keep 12"] {
        let why = bench.fails(&line(options), 3)?;
        ensure!(why.contains("name it with --keep again"), "{why}");
    }
    ensure!(kept == bytes(&target, Extent::new(Bytes::mib(60), Bytes::mib(80)))?, "it was touched");
    let why = bench.fails(&line("--keep 13"), 3)?;
    ensure!(why.contains("the partitions there are 3, 11, 12"), "{why}");
    bench.run(&line("--keep 12 --fresh")).map(drop)
}

/// Long ones.
mod only_all {
    use super::{Result, stays};

    #[test]
    fn what_stays_is_the_same_after_fifty_killed_restores() -> Result<()> {
        stays(50)
    }
}
