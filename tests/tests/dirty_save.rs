//! Disks that were pulled without a shutdown, through the program: what is saved of them has every file that
//! was synchronized. Beside it, what partclone makes of the same filesystems.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::loops::Loop;
use keiki_tests::tree::Tree;
use keiki_tests::{call, garbage, pulled, run, sparse, tool};
use serde_json::Value;

/// So many files of a size, written and synchronized one by one.
fn write_files(folder: &Path, count: usize, length: usize) -> Result<()> {
    (0..count).try_for_each(|number| {
        pulled::write(&folder.join(pulled::KEPT), &format!("file {number}"), length)
    })
}

/// How many files of `tree` are in the filesystem in `image` as they were; none where it cannot be mounted.
fn intact(tree: &Tree, image: &Path) -> usize {
    pulled::kept(image).map_or(0, |found| tree.len() - tree.missing_from(&found))
}

/// What partclone makes of `image`: its exit code, the size of its image, and how many files of `tree` are in what
/// it restores from that onto garbage.
fn partclone(bench: &Bench, program: &str, image: &Path, tree: &Tree) -> Result<String> {
    let [saved, target] = ["partclone.img", "partclone.target"].map(|name| bench.path(name));
    let log = bench.path("partclone.log");
    let outcome = tool::outcome(&call!(program, "-L", &log, "-c", "-s", image, "-o", &saved))?;
    garbage::fill(&target, Bytes::new(fs::metadata(image)?.len()))?;
    {
        // Files it would only overwrite after truncating them.
        let device = Loop::whole(&target)?;
        run!("partclone.restore", "-L", &log, "-s", &saved, "-o", device.device())?;
    }
    let (code, size) = (outcome.code.unwrap_or(-1), fs::metadata(&saved)?.len());
    let kept = intact(tree, &target);
    Ok(format!("{program} ends {code}, stores {size} bytes, {kept} of {} files", tree.len()))
}

fn volume(of: &Value) -> Result<&Value> {
    of.pointer("/volumes/0").context("a volume")
}

#[test]
fn loop_ext4_keeps_every_file_that_was_synchronized() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let size = Bytes::mib(512);
    sparse::create(&source, size)?;
    run!("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", &source)?;
    let tree = pulled::pull(&source, "commit=600", |folder| write_files(folder, 56, 2 << 20))?;
    let bytes = fs::read(&source)?;
    let inspected = bench.run("inspect ./source")?;
    assert_eq!(volume(&inspected)?["state"], "replayable");
    let saved = bench.save("pulled", std::slice::from_ref(&source))?;
    assert_eq!(saved["raw_volumes"], serde_json::json!([]));
    assert_eq!(volume(&bench.run("show pulled")?)?["state"], "replayable");
    ensure!(fs::read(&source)? == bytes, "the source was written");
    let stored = saved["stored_bytes"].as_u64().context("stored_bytes")?;
    let live = 56 * (2 << 20);
    ensure!(stored * 10 < live * 12, "{stored} bytes stored of {live}");
    let target = bench.path("target");
    garbage::fill(&target, size)?;
    bench.restore("pulled", std::slice::from_ref(&target), "")?;
    let ours = intact(&tree, &target);
    println!("ext4, {} files synchronized", tree.len());
    println!("  keiki: replayable, stores {stored} bytes, {ours} of {} files", tree.len());
    println!("  {}", partclone(&bench, "partclone.ext4", &source, &tree)?);
    tree.expect(&pulled::kept(&target)?)?;
    run!("e2fsck", "-fn", &target)?;
    // Growing replays the journal first (e2fsck -f -p), and only then moves anything.
    let larger = bench.path("larger");
    garbage::fill(&larger, size + Bytes::mib(300))?;
    let said = bench.restore("pulled", std::slice::from_ref(&larger), "")?;
    assert_eq!(said.pointer("/grown/0/filesystem_grown"), Some(&Value::Bool(true)), "{said}");
    run!("e2fsck", "-fn", &larger)?;
    let grown = bench.run("inspect ./larger")?;
    assert_eq!(volume(&grown)?["state"], "clean");
    tree.expect(&pulled::kept(&larger)?)
}

#[test]
fn loop_xfs_keeps_every_file_that_was_synchronized() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let size = Bytes::mib(320);
    sparse::create(&source, size)?;
    run!("mkfs.xfs", "-q", "-f", &source)?;
    let tree = pulled::pull(&source, "rw", |folder| write_files(folder, 207, 200 << 10))?;
    let bytes = blake3::hash(&fs::read(&source)?);
    assert_eq!(volume(&bench.run("inspect ./source")?)?["state"], "replayable");
    let saved = bench.save("pulled", std::slice::from_ref(&source))?;
    assert_eq!(saved["raw_volumes"], serde_json::json!([]));
    ensure!(blake3::hash(&fs::read(&source)?) == bytes, "the source was written");
    let stored = saved["stored_bytes"].as_u64().context("stored_bytes")?;
    let live = 207 * (200 << 10);
    ensure!(stored * 10 < live * 12, "{stored} bytes stored of {live}");
    let target = bench.path("target");
    garbage::fill(&target, size)?;
    bench.restore("pulled", std::slice::from_ref(&target), "")?;
    let ours = intact(&tree, &target);
    println!("XFS, {} files synchronized", tree.len());
    println!("  keiki: replayable, stores {stored} bytes, {ours} of {} files", tree.len());
    println!("  {}", partclone(&bench, "partclone.xfs", &source, &tree)?);
    tree.expect(&pulled::kept(&target)?)?;
    run!("xfs_repair", "-n", &target)?;
    // It is mounted to be grown, which replays its log.
    let larger = bench.path("larger");
    garbage::fill(&larger, size + Bytes::mib(200))?;
    let said = bench.restore("pulled", std::slice::from_ref(&larger), "")?;
    assert_eq!(said.pointer("/grown/0/filesystem_grown"), Some(&Value::Bool(true)), "{said}");
    run!("xfs_repair", "-n", &larger)?;
    tree.expect(&pulled::kept(&larger)?)
}
