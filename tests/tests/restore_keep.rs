//! Restores onto disks of which something stays.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::kill::{disk, killed, moments, noise, number, put, undisturbed};
use keiki_tests::table::Entry;
use keiki_tests::vg::Vg;
use keiki_tests::{judge, run, sparse, table};

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
    let (_, whole) = undisturbed(&bench, &line)?;
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
    ensure!(continued * 5 >= kills, "of {kills} only {continued} went on");
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
        let (_, whole) = undisturbed(&bench, &line("--keep 11 --keep 12"))?;
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

/// A disk with a partition of noise and the group `vg0` in the rest of it.
fn disk_with_group(path: &Path) -> Result<Vec<(PathBuf, Extent)>> {
    sparse::create(path, Bytes::mib(240))?;
    run!("sgdisk", "-n1:2048:+20M", "-n2:0:0", "-t2:8e00", path)?;
    let parts = table::partitions(path)?;
    put(path, parts[0].start, &noise(3, parts[0].len()))?;
    Ok(vec![(path.to_owned(), parts[1])])
}

fn fill(bench: &Bench, vg: &Vg, lv: &str, seed: u64, size: Bytes) -> Result<blake3::Hash> {
    let (image, content) = (bench.path("lv"), noise(seed, size));
    fs::write(&image, &content)?;
    vg.put(lv, &image)?;
    Ok(blake3::hash(&content))
}

fn content(bench: &Bench, vg: &Vg, lv: &str) -> Result<blake3::Hash> {
    let out = bench.path("out");
    vg.take(lv, &out)?;
    let hash = blake3::hash(&fs::read(&out)?);
    fs::remove_file(out)?;
    Ok(hash)
}

/// The same for a logical volume, which lies since then where others were when the disk was saved.
fn volume_stays(kills: u32) -> Result<()> {
    let bench = Bench::new()?;
    let [source, old, target] = ["source", "old", "target"].map(|name| bench.path(name));
    let places = disk_with_group(&source)?;
    let vg = Vg::create("vg0", &places)?;
    for (lv, size) in [("root", 60), ("data", 40), ("srv", 20)] {
        vg.add(lv, Bytes::mib(size), None)?;
    }
    let root = fill(&bench, &vg, "root", 4, Bytes::mib(60))?;
    fill(&bench, &vg, "data", 5, Bytes::mib(40))?;
    let srv = fill(&bench, &vg, "srv", 6, Bytes::mib(20))?;
    drop(vg);
    bench.save("group", std::slice::from_ref(&source))?;
    fs::copy(&source, &old)?;
    let there = [(old.clone(), places[0].1)];
    let vg = Vg::open(&there)?;
    vg.lvm("lvremove", ["-y", "vg0/root"].map(str::to_owned).into())?;
    // Into the midst of what was root's, and behind all.
    let more = format!("{}:2-9:40-43", vg.devices()[0]);
    vg.lvm("lvextend", ["-l", "+12", "vg0/data", &more].map(str::to_owned).into())?;
    vg.add("other", Bytes::mib(8), None)?;
    let data = fill(&bench, &vg, "data", 7, Bytes::mib(88))?;
    let runs = vg.segments()?.remove("data").context("no data")?;
    ensure!(runs.len() == 3, "it should lie in pieces: {runs:?}");
    let uuid = |vg: &Vg| {
        let words = ["--noheadings", "-o", "lv_uuid", "vg0/data"];
        vg.lvm("lvs", words.map(str::to_owned).into())
    };
    let identity = uuid(&vg)?;
    drop(vg);
    fs::copy(&old, &target)?;
    let line = bench::restore("group", std::slice::from_ref(&target), "--keep vg0/data");
    let is_right = || -> Result<()> {
        let vg = Vg::open(&[(target.clone(), table::partitions(&target)?[1])])?;
        ensure!(content(&bench, &vg, "data")? == data, "what should stay is another");
        ensure!(uuid(&vg)? == identity, "it has another UUID");
        ensure!(content(&bench, &vg, "root")? == root && content(&bench, &vg, "srv")? == srv);
        let names: Vec<String> = vg.segments()?.into_keys().collect();
        ensure!(names == ["data", "root", "srv"], "{names:?}");
        judge::group(&vg)
    };
    let (_, whole) = undisturbed(&bench, &line)?;
    is_right()?;
    let mut continued = 0;
    for moment in moments(kills, whole) {
        fs::copy(&old, &target)?;
        killed(&bench, &line, moment)?;
        for run in &runs {
            ensure!(bytes(&target, run.extent)? == bytes(&old, run.extent)?, "{moment:?}: {run:?}");
        }
        let said = bench.run(&line)?;
        is_right().with_context(|| format!("{moment:?}"))?;
        continued += u32::from(!said["continued"].is_null());
    }
    ensure!(continued * 5 >= kills, "of {kills} only {continued} went on");
    Ok(())
}

#[test]
fn loop_a_logical_volume_stays_while_others_move_around_it() -> Result<()> {
    volume_stays(3)
}

#[test]
fn loop_a_logical_volume_of_a_group_that_the_image_lacks_keeps_its_partition() -> Result<()> {
    let bench = Bench::new()?;
    let [source, target] = ["source", "target"].map(|name| bench.path(name));
    disk(&source, Bytes::mib(176), 1)?;
    bench.save("disk", std::slice::from_ref(&source))?;
    old_disk(&target)?;
    let parts = table::partitions(&target)?;
    let vg = Vg::create("home", &[(target.clone(), parts[1])])?;
    vg.add("data", Bytes::mib(12), None)?;
    let data = fill(&bench, &vg, "data", 7, Bytes::mib(12))?;
    drop(vg);
    let kept = facts(&target, &[11, 12])?;
    bench.restore("disk", std::slice::from_ref(&target), "--keep home/data --keep 12")?;
    is_right(&source, &target, &kept)?;
    let vg = Vg::open(&[(target.clone(), parts[1])])?;
    ensure!(content(&bench, &vg, "data")? == data, "what should stay is another");
    judge::group(&vg)
}

/// Long ones.
mod only_all {
    use super::{Result, stays, volume_stays};

    #[test]
    fn loop_a_logical_volume_stays_after_fifty_killed_restores() -> Result<()> {
        volume_stays(50)
    }

    #[test]
    fn what_stays_is_the_same_after_fifty_killed_restores() -> Result<()> {
        stays(50)
    }
}
