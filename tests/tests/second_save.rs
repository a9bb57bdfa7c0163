//! Ten generations come back, whichever of them are forgotten.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::loops::Mount;
use keiki_tests::second_save::{self, Random};
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
