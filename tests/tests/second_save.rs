//! What a second save stores when a fiftieth of the files changed, beside the floor and casync; and that ten
//! generations come back, whichever of them are forgotten.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::loops::Mount;
use keiki_tests::second_save::{self, Corpus, Random};
use keiki_tests::tree::Tree;
use keiki_tests::{filesystem, fixtures, run};
use tempfile::TempDir;

fn folder() -> Result<TempDir> {
    Ok(TempDir::new_in(fixtures::folder()?)?)
}

/// Every file of the filesystem in `image`.
fn files(image: &Path) -> Result<Tree> {
    let size = Bytes::new(fs::metadata(image)?.len());
    Tree::of(Mount::new(image, Extent::first(size), "ro")?.folder())
}

#[test]
fn loop_a_second_save_stores_little_more_than_the_changed_blocks() -> Result<()> {
    let (work, bench) = (folder()?, Bench::new()?);
    let [old, new] = ["old.img", "new.img"].map(|name| work.path().join(name));
    second_save::ext4(&old, Bytes::mib(400), |folder| {
        Corpus::of(Path::new("/usr"))?.copy(folder, Bytes::mib(160))
    })?;
    run!("cp", "--sparse=always", &old, &new)?;
    let mut changed = 0;
    filesystem::filled(&new, |folder| {
        changed = second_save::change(folder, 8)?;
        Ok(())
    })?;

    bench.save("disk", std::slice::from_ref(&old))?;
    let before = second_save::size_of(&bench.path("repo"))?;
    let saved = bench.save("disk", std::slice::from_ref(&new))?;
    let stored = second_save::size_of(&bench.path("repo"))?.saturating_sub(before);
    let [blocks, packed] = ["blocks", "blocks.zst"].map(|name| work.path().join(name));
    second_save::changed_blocks(&old, &new, &blocks)?;
    run!("zstd", "-3", "-q", &blocks, "-o", &packed)?;
    let floor = Bytes::new(fs::metadata(&packed)?.len());
    let casync = second_save::casync_growth(work.path(), &old, &new)?;
    println!(
        "{changed} files changed: {stored} stored, {floor} changed blocks, {casync} by casync; {saved}"
    );
    ensure!(
        changed > 20 && floor > Bytes::kib(500),
        "too little changed: {changed} files, {floor}"
    );
    ensure!(stored.get() * 10 <= floor.get() * 12, "{stored} for blocks of {floor}");
    ensure!(stored.get() * 2 <= casync.get(), "{stored}, where casync stores {casync}");
    ensure!(saved["stored_bytes"].as_u64() <= Some(stored.get()), "{saved}");

    let target = work.path().join("target.img");
    bench.run(&format!("restore disk {}", target.display()))?;
    run!("e2fsck", "-fn", &target)?;
    files(&new)?.expect(&files(&target)?)
}

/// Ten generations of a filesystem, some forgotten and pruned on the way; the rest restores to what it was.
fn generations(seed: u64) -> Result<()> {
    let (work, bench) = (folder()?, Bench::new()?);
    let image = work.path().join("disk.img");
    let mut random = Random::new(seed);
    second_save::ext4(&image, Bytes::mib(24), |folder| second_save::fill(folder, 60, seed))?;
    let mut kept: Vec<(String, PathBuf)> = Vec::new();
    for generation in 0..10_u64 {
        let id =
            bench.save("disk", std::slice::from_ref(&image))?["id"].as_str().unwrap().to_owned();
        let copy = work.path().join(format!("{generation}.img"));
        run!("cp", "--sparse=always", &image, &copy)?;
        kept.push((id, copy));
        filesystem::filled(&image, |folder| {
            (0..4).try_for_each(|nth| {
                second_save::change(folder, seed * 100 + generation * 4 + nth).map(drop)
            })
        })?;
        if generation == 4 || generation == 9 {
            kept.retain(|(id, _)| {
                let stays = random.below(2) == 0;
                stays || bench.run(&format!("rm disk@{id}")).is_err()
            });
            bench.run(if random.below(2) == 0 { "prune --now" } else { "prune" })?;
        }
    }
    for (id, copy) in &kept {
        let target = work.path().join("target.img");
        bench.run(&format!("verify disk@{id}"))?;
        bench.run(&format!("restore disk@{id} {}", target.display()))?;
        files(copy)?.expect(&files(&target)?)?;
        fs::remove_file(target)?;
    }
    bench.run("check --read-data").map(drop)
}

#[test]
fn loop_ten_generations_come_back_whichever_are_forgotten() -> Result<()> {
    generations(1)
}

mod only_all {
    use super::generations;

    #[test]
    fn loop_ten_generations_of_twenty_seeds() -> anyhow::Result<()> {
        (2..=21).try_for_each(generations)
    }
}
