//! Clones: what a restore promises holds for them, and the source is never written.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::garbage::{self, Old};
use keiki_tests::loops::Loop;
use keiki_tests::proof::Facts;
use keiki_tests::vg::Vg;
use keiki_tests::{contents, judge, sample_disk, sparse, volumes};
use serde_json::Value;

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

/// A target of `size` with an earlier life.
fn target(bench: &Bench, name: &str, size: Bytes) -> Result<PathBuf> {
    let path = bench.path(name);
    garbage::fill(&path, size)?;
    garbage::plant(&path, &Old::ALL)?;
    Ok(path)
}

/// `keiki clone` of `sources` onto `targets`, confirmed.
fn clone(bench: &Bench, sources: &[&Path], targets: &[&Path], options: &str) -> String {
    let words = |paths: &[&Path]| -> String {
        paths.iter().map(|path| format!(" {}", path.display())).collect()
    };
    let confirm: String =
        targets.iter().map(|path| format!(" --confirm {}", path.display())).collect();
    let repo = bench.path("repo");
    assert!(!repo.exists(), "a clone takes no repository");
    format!("clone{}{}{confirm} {options}", words(sources), words(targets))
}

#[test]
fn loop_a_disk_is_cloned_onto_a_larger_one_full_of_garbage() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let sample = sample_disk::make(&source)?;
    let before = (hash(&source)?, source.metadata()?.modified()?);
    let target = target(&bench, "target", Bytes::mib(1100))?;
    let command =
        clone(&bench, &[&source], &[&target], "--grow vg0/data=+50% --grow vg0/root=rest");
    let plan = bench.run(&format!("{command} --dry-run"))?;
    let said = bench.run(&command)?;
    ensure!(before == (hash(&source)?, source.metadata()?.modified()?), "the source was written");
    ensure!(said["verified"] == true && said["sources"][0] == source.to_str().context("path")?);
    let grown: Vec<&Value> = said["grown"].as_array().into_iter().flatten().collect();
    ensure!(grown.len() == 3 && plan["plan"]["grow"].as_array().is_some_and(|g| g.len() == 2));
    ensure!(
        grown.iter().all(|one| one["id"] == "d0:3" || one["filesystem_grown"] == true),
        "{said}"
    );
    let targets = [target];
    judge::disks(&targets)?;
    volumes::expect_same(&sample.trees, &volumes::trees(&targets)?)?;
    Facts::of(&[source])?.expect(&Facts::of(&targets)?)
}

/// Two physical volumes, and a volume that lies on both.
#[test]
fn loop_two_disks_of_one_group_are_cloned_together() -> Result<()> {
    let bench = Bench::new()?;
    let sources = ["one", "two"].map(|name| bench.path(name));
    let size = Bytes::mib(100);
    for source in &sources {
        sparse::create(source, size)?;
    }
    let places = sources.clone().map(|source| (source, Extent::first(size)));
    let vg = Vg::create("vg0", &places)?;
    let image = bench.path("lv");
    for (name, kind, mib, on) in [("a", "ext4-1k", 120, None), ("b", "raw", 16, Some(1))] {
        vg.add(name, Bytes::mib(mib), on)?;
        contents::named(kind)?.make(&image, Bytes::mib(mib), 5)?;
        vg.put(name, &image)?;
    }
    drop(vg);
    let facts = Facts::of(&sources)?;
    let before = (hash(&sources[0])?, hash(&sources[1])?);
    let targets = [target(&bench, "t1", size)?, target(&bench, "t2", size + Bytes::mib(64))?];
    let [from, to] = [&sources, &targets].map(|both| [both[0].as_path(), both[1].as_path()]);
    let why = bench.fails(&clone(&bench, &[from[0], from[1]], &to[..1], ""), 2)?;
    ensure!(why.contains("as many targets"), "{why}");
    let said = bench.run(&clone(&bench, &from, &to, ""))?;
    ensure!(before == (hash(from[0])?, hash(from[1])?), "a source was written");
    ensure!(said["grown"][0]["id"] == "d1", "{said}");
    judge::disks(&targets)?;
    facts.expect(&Facts::of(&targets)?)
}

/// The source stays attached: two volume groups of one UUID are refused, unless they are wanted.
#[test]
fn loop_a_second_group_of_one_uuid_is_refused() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    sparse::create(&source, Bytes::mib(100))?;
    let vg = Vg::create("twice", &[(source.clone(), Extent::first(Bytes::mib(100)))])?;
    vg.add("home", Bytes::mib(40), None)?;
    let image = bench.path("lv");
    contents::named("ext4-1k")?.make(&image, Bytes::mib(40), 1)?;
    vg.put("home", &image)?;
    drop(vg);
    let facts = Facts::of(std::slice::from_ref(&source))?;
    let target = target(&bench, "target", Bytes::mib(100))?;
    let untouched = hash(&target)?;
    let devices = (Loop::whole(&source)?, Loop::whole(&target)?);
    let (from, to) = (devices.0.device(), devices.1.device());
    let why = bench.fails(&clone(&bench, &[from], &[to], ""), 3)?;
    ensure!(why.contains(from.to_str().context("path")?) && why.contains("twice"), "{why}");
    ensure!(why.contains("--keep-ids"), "{why}");
    ensure!(hash(&target)? == untouched, "it was written");
    let outcome = bench.outcome(&clone(&bench, &[from], &[to], "--keep-ids"))?;
    ensure!(outcome.code == Some(0), "{}", outcome.talk());
    ensure!(outcome.talk().contains("detach one of the two"), "{}", outcome.talk());
    judge::disks(std::slice::from_ref(&target))?;
    facts.expect(&Facts::of(std::slice::from_ref(&target))?)?;
    // Nothing stands in the way of a group with another UUID and name; only once of the same name.
    bench.run(&clone(&bench, &[from], &[to], "--new-ids"))?;
    judge::disks(std::slice::from_ref(&target))?;
    garbage::fill(&bench.path("third"), Bytes::mib(100))?;
    let third = Loop::whole(&bench.path("third"))?;
    let why = bench.fails(&clone(&bench, &[from], &[third.device()], "--new-ids"), 3)?;
    ensure!(why.contains("twice-2") && why.contains("--vg-name"), "{why}");
    Ok(())
}

/// A filesystem of the same UUID on another device is named, and no reason to stop.
#[test]
fn loop_a_second_filesystem_of_one_uuid_is_a_warning() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    contents::named("ext4-1k")?.make(&source, Bytes::mib(40), 1)?;
    let uuid = judge::signature(&source, "UUID")?;
    let target = target(&bench, "target", Bytes::mib(40))?;
    let devices = (Loop::whole(&source)?, Loop::whole(&target)?);
    let (from, to) = (devices.0.device(), devices.1.device());
    let outcome = bench.outcome(&clone(&bench, &[from], &[to], ""))?;
    let talk = outcome.talk();
    ensure!(outcome.code == Some(0), "{talk}");
    let named = format!("{} carries the filesystem UUID {uuid} too", from.display());
    ensure!(talk.contains(&named), "no {named:?} in {talk}");
    Ok(())
}
