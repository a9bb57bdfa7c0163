//! What the options of a restore promise.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::{Extent, ExtentSet};
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::proof::{self, Facts};
use keiki_tests::{contents, garbage, judge, run, sample_disk, sparse, table, truth};

/// A disk of 160 MiB without a volume group, whose metadata would tell the time of the restore.
fn small_disk(path: &Path) -> Result<()> {
    sparse::create(path, Bytes::mib(160))?;
    run!("sgdisk", "-n1:2048:+40M", "-n2:0:+64M", "-n3:0:+20M", "-n4:0:+8M", path)?;
    let image = path.with_extension("part");
    let kinds = ["fat16", "ext4-1k", "swap", "raw"];
    for (seed, (extent, kind)) in (1..).zip(table::partitions(path)?.into_iter().zip(kinds)) {
        contents::named(kind)?.make(&image, extent.len(), seed)?;
        sparse::copy(&image, Extent::first(extent.len()), path, extent.start)?;
    }
    Ok(())
}

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

#[test]
fn loop_unused_bytes_are_kept_zeroed_or_discarded() -> Result<()> {
    let bench = Bench::new()?;
    let [source, zeros, target] = ["source", "zeros", "target"].map(|name| bench.path(name));
    small_disk(&source)?;
    bench.save("small", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    let size = Bytes::mib(200);
    sparse::create(&zeros, size)?;
    bench.restore("small", std::slice::from_ref(&zeros), "")?;
    for (how, same) in [("zero", true), ("keep", false), ("discard", true)] {
        garbage::fill(&target, size)?;
        let targets: [PathBuf; 1] = [target.clone()];
        bench.restore("small", &targets, &format!("--unused {how}"))?;
        judge::disks(&targets)?;
        facts.expect(&Facts::of(&targets)?)?;
        // resize2fs writes the time, so the filesystem that grew is compared by its files above.
        let grown = table::partitions(&target)?[1];
        let [was, is] = [&zeros, &target].map(|path| outside(path, grown));
        ensure!((was? == is?) == same, "{how}: unused bytes are not as asked for");
        let allocated = Bytes::new(fs::metadata(&target)?.blocks() * 512);
        match how {
            "discard" => ensure!(allocated < Bytes::mib(90), "{allocated} are still allocated"),
            "keep" => ensure!(allocated > Bytes::mib(150), "only {allocated} are allocated"),
            _ => {}
        }
    }
    Ok(())
}

/// The hash of the disk without the bytes `without`.
fn outside(path: &Path, without: Extent) -> Result<blake3::Hash> {
    let bytes = fs::read(path)?;
    let [start, end] = [without.start, without.end].map(|at| at.index().unwrap_or_default());
    Ok(blake3::Hasher::new().update(&bytes[..start]).update(&bytes[end..]).finalize())
}

#[test]
fn loop_reading_back_less_restores_the_same() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    small_disk(&source)?;
    bench.save("small", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    for (how, verified) in [("none", false), ("sample", false), ("full", true)] {
        let options = format!("--verify {how}");
        let sizes = [Bytes::mib(200)];
        let (_, said) = proof::restores_as(&bench, "small", &facts, &sizes, &options)?;
        ensure!(said["verified"] == verified, "{how}: {said}");
    }
    Ok(())
}

#[test]
fn loop_a_dry_run_writes_nothing_and_says_what_a_run_does() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let sample = sample_disk::make(&source)?;
    bench.save("sample", std::slice::from_ref(&source))?;
    let target = bench.path("target");
    let size = Bytes::mib(1000);
    garbage::fill(&target, size)?;
    garbage::plant(&target, &garbage::Old::ALL)?;
    let before = (hash(&target)?, fs::metadata(&target)?.modified()?);
    let options = "--grow vg0/data=+50% --grow vg0/root=rest";
    let targets: [PathBuf; 1] = [target.clone()];
    let said = bench.run(&format!("restore sample ./target --dry-run {options}"))?;
    ensure!(before == (hash(&target)?, fs::metadata(&target)?.modified()?), "it was written");
    // Unconfirmed, nothing happens either.
    let why = bench.fails(&format!("restore sample ./target {options}"), 3)?;
    ensure!(why.contains("--confirm") && why.contains("target"), "{why}");
    ensure!(before.0 == hash(&target)?, "it was written without a confirmation");
    // A file that does not exist is not made.
    bench.run("restore sample ./new --size 2GiB --dry-run")?;
    ensure!(!bench.path("new").exists(), "a dry run made a file");

    let plan = &said["plan"];
    let keys = ["targets", "volumes", "writes", "grow", "tools", "warnings"];
    ensure!(keys.iter().all(|key| plan.get(key).is_some()), "{said}");
    let figures = |value: &serde_json::Value| -> Vec<(String, u64, u64)> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|one| {
            Some((one["id"].as_str()?.to_owned(), one["from"].as_u64()?, one["to"].as_u64()?))
        })
        .filter(|(_, from, to)| from != to)
        .collect()
    };
    let done = bench.restore("sample", &targets, options)?;
    ensure!(figures(&plan["volumes"]) == figures(&done["grown"]), "{said}\n{done}");
    ensure!(figures(&done["grown"]).len() == 3, "{done}");
    judge::disks(&targets)?;
    let trees = keiki_tests::volumes::trees(&targets)?;
    keiki_tests::volumes::expect_same(&sample.trees, &trees)?;
    let planned: BTreeMap<String, u64> = plan["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| Some((one["id"].as_str()?.to_owned(), one["offset"].as_u64()?)))
        .collect();
    for entry in table::read(&target)?.entries {
        let id = format!("d0:{}", entry.number);
        ensure!(planned.get(&id) == Some(&entry.extent.start.get()), "{id}: {planned:?}");
    }
    Ok(())
}

/// On a target of the same size every used byte is where it was, and nothing else is promised.
#[test]
fn loop_a_restore_of_the_same_size_keeps_every_used_byte() -> Result<()> {
    let bench = Bench::new()?;
    let [source, target] = ["source", "target"].map(|name| bench.path(name));
    small_disk(&source)?;
    bench.save("small", std::slice::from_ref(&source))?;
    let size = Bytes::mib(160);
    garbage::fill(&target, size)?;
    bench.restore("small", std::slice::from_ref(&target), "")?;
    let parts = table::partitions(&source)?;
    ensure!(parts == table::partitions(&target)?, "the offsets changed");
    // Cylinder, head and sector of the protective MBR are what GPT says, not what sgdisk wrote there.
    let chs = [447..450, 451..454]
        .map(|range| Extent::new(Bytes::new(range.start), Bytes::new(range.end)));
    let mut used = ExtentSet::from(Extent::first(Bytes::MIB)).subtract(&chs.into_iter().collect());
    for extent in &parts {
        let image = bench.path("part");
        sparse::create(&image, extent.len())?;
        sparse::copy(&source, *extent, &image, Bytes::ZERO)?;
        let map = match image_core::fs::probe(&truth::source(&image)?)? {
            Some(filesystem) => filesystem.used()?,
            None => Extent::first(extent.len()).into(),
        };
        used = used.union(&map.shifted(extent.start));
    }
    used.insert(Extent::new(size - Bytes::new(33 * 512), size));
    ensure!(used.total() > Bytes::mib(10) && used.total() < Bytes::mib(60), "{}", used.total());
    let [was, is] = [&source, &target].map(File::open);
    let (was, is) = (was?, is?);
    for extent in used.iter() {
        let length = extent.len().index().context("length")?;
        let mut bytes = [vec![0; length], vec![0; length]];
        was.read_exact_at(&mut bytes[0], extent.start.get())?;
        is.read_exact_at(&mut bytes[1], extent.start.get())?;
        let differs = bytes[0].iter().zip(&bytes[1]).position(|(was, is)| was != is);
        ensure!(differs.is_none(), "{extent} changed, first at byte {differs:?} of it");
    }
    let why = bench.fails(&bench::restore("small", &[target.clone(), target], ""), 2)?;
    ensure!(why.contains("one target too many"), "{why}");
    Ok(())
}
