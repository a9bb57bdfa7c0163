//! Every mapper through a save and restores by the program: in a partition, on a disk without a table, as an
//! image of one partition, onto targets full of garbage and old signatures, of the same size and larger.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::contents::{self, Content};
use keiki_tests::proof::{self, Facts};
use keiki_tests::{run, sparse, table};
use serde_json::Value;

/// A GPT disk with each of `contents` in a partition, and 3 MiB behind them.
fn disk(path: &Path, contents: &[Content]) -> Result<()> {
    let size: Bytes = contents.iter().map(|content| content.size).sum();
    sparse::create(path, size + Bytes::mib(5))?;
    for content in contents {
        run!("sgdisk", format!("--new=0:0:+{}M", content.size.units(Bytes::MIB)), path)?;
    }
    let image = path.with_extension("part");
    for (seed, (content, extent)) in (1..).zip(contents.iter().zip(table::partitions(path)?)) {
        content.make(&image, extent.len(), seed)?;
        sparse::copy(&image, Extent::first(extent.len()), path, extent.start)?;
    }
    Ok(std::fs::remove_file(image)?)
}

/// The volumes that grew with their filesystem.
fn grown(said: &Value) -> Vec<&str> {
    let list = said.get("grown").and_then(Value::as_array).into_iter().flatten();
    list.filter(|one| one["filesystem_grown"] == true)
        .filter_map(|one| one["id"].as_str())
        .collect()
}

/// Those of `alone` (all where that is empty) are also restored onto a file of their own.
fn on_one_disk(contents: &[Content], alone: &[&str]) -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    disk(&source, contents)?;
    let said = bench.save("all", std::slice::from_ref(&source))?;
    let raw: Vec<_> = said["raw_volumes"].as_array().context("raw_volumes")?.iter().collect();
    let unknown = contents.iter().filter(|content| content.name == "raw").count();
    ensure!(raw.len() == unknown, "saved whole: {raw:?}");
    let facts = Facts::of(std::slice::from_ref(&source))?;
    let size = Bytes::new(std::fs::metadata(&source)?.len());
    let (targets, said) = proof::restores_as(&bench, "all", &facts, &[size], "")?;
    ensure!(grown(&said).is_empty() && said["verified"] == true, "{said}");
    ensure!(table::read(&targets[0])? == table::read(&source)?, "the offsets changed");
    let larger = [size + Bytes::mib(240) + Bytes::kib(68)];
    let (_, said) = proof::restores_as(&bench, "all", &facts, &larger, "--grow proportional")?;
    let can: Vec<String> = (1..)
        .zip(contents)
        .filter(|(_, content)| content.grows && content.name != "swap")
        .map(|(number, _)| format!("d0:{number}"))
        .collect();
    ensure!(grown(&said) == can, "{said}");
    let (targets, said) = proof::restores_as(&bench, "all", &facts, &larger, "--grow none")?;
    ensure!(grown(&said).is_empty(), "{said}");
    let [new, old] = [&targets[0], &source].map(|disk| table::read(disk).map(|t| t.entries));
    ensure!(new? == old?, "the offsets changed");
    let alone = |content: &Content| alone.is_empty() || alone.contains(&content.name);
    for (number, content) in (1..).zip(contents).filter(|(_, content)| alone(content)) {
        one_volume(&bench, &source, &format!("d0:{number}"), *content)?;
    }
    Ok(())
}

/// One volume of the image `all` onto a file of its own.
fn one_volume(bench: &Bench, source: &Path, id: &str, content: Content) -> Result<()> {
    let number: usize = id.rsplit(':').next().context("a number")?.parse()?;
    let extent = table::partitions(source)?[number - 1];
    let alone = bench.path("alone");
    sparse::create(&alone, extent.len())?;
    sparse::copy(source, extent, &alone, Bytes::ZERO)?;
    let facts = Facts::of(std::slice::from_ref(&alone)).context(content.name)?;
    onto_bare_targets(bench, "all", &format!("--volume {id}"), &facts, content, extent.len())
}

/// Equal and larger targets without a table.
fn onto_bare_targets(
    bench: &Bench,
    image: &str,
    options: &str,
    facts: &Facts,
    content: Content,
    size: Bytes,
) -> Result<()> {
    let expected = facts;
    let check = |size: Bytes, more: &str, grows: bool| -> Result<()> {
        let options = format!("{options} {more}");
        let (_, said) = proof::restores_as(bench, image, expected, &[size], &options)
            .with_context(|| format!("{} onto {size}", content.name))?;
        ensure!(grown(&said).len() == usize::from(grows), "{}: {said}", content.name);
        Ok(())
    };
    check(size, "", false)?;
    if content.name != "raw" {
        // A raw volume has no end of its own: on a larger target it is another one.
        check(size + Bytes::mib(70) + Bytes::kib(4), "", content.grows)?;
        check(size + Bytes::mib(70), "--grow none", false)?;
    }
    Ok(())
}

/// A disk that is one filesystem, and the image of one partition.
fn bare(contents: &[Content]) -> Result<()> {
    for (seed, content) in (50..).zip(contents) {
        let bench = Bench::new()?;
        let source = bench.path("source");
        content.make(&source, content.size, seed)?;
        let facts = Facts::of(std::slice::from_ref(&source))?;
        bench.save("bare", std::slice::from_ref(&source))?;
        onto_bare_targets(&bench, "bare", "", &facts, *content, content.size)?;
    }
    Ok(())
}

fn single(contents: &[Content]) -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    disk(&source, contents)?;
    for (number, (content, extent)) in (1..).zip(contents.iter().zip(table::partitions(&source)?)) {
        let name = format!("p{number}");
        bench.run(&format!("save ./source:{number} --name {name}"))?;
        let alone = bench.path("alone");
        sparse::create(&alone, extent.len())?;
        sparse::copy(&source, extent, &alone, Bytes::ZERO)?;
        let facts = Facts::of(std::slice::from_ref(&alone))?;
        onto_bare_targets(&bench, &name, "", &facts, *content, extent.len())?;
    }
    Ok(())
}

fn chosen(names: &[&str]) -> Result<Vec<Content>> {
    names.iter().map(|name| contents::named(name)).collect()
}

#[test]
fn loop_partitions_come_back_and_grow() -> Result<()> {
    on_one_disk(&chosen(&["ext4-1k", "fat32", "swap", "raw", "ext2"])?, &["swap"])
}

#[test]
fn loop_filesystems_without_a_table_come_back_and_grow() -> Result<()> {
    bare(&chosen(&["ext4-4k", "fat16"])?)
}

#[test]
fn loop_images_of_one_partition_come_back_and_grow() -> Result<()> {
    single(&chosen(&["ext4-meta-bg"])?)
}

/// A target that is smaller than the filesystem is refused before anything is written.
#[test]
fn loop_a_target_that_is_too_small_stays_as_it_is() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target) = (bench.path("source"), bench.path("target"));
    contents::named("ext4-1k")?.make(&source, Bytes::mib(64), 1)?;
    bench.save("bare", &[source])?;
    keiki_tests::garbage::fill(&target, Bytes::mib(63))?;
    let before = std::fs::read(&target)?;
    let targets: [PathBuf; 1] = [target.clone()];
    let why = bench.fails(&bench::restore("bare", &targets, ""), 3)?;
    ensure!(why.contains("too small") && why.contains("d0"), "{why}");
    ensure!(std::fs::read(&target)? == before, "the target was written");
    Ok(())
}

mod only_all {
    use super::*;

    #[test]
    fn loop_every_mapper_on_one_disk() -> Result<()> {
        on_one_disk(&contents::ALL, &[])
    }

    #[test]
    fn loop_every_mapper_without_a_table() -> Result<()> {
        bare(&contents::ALL)
    }

    #[test]
    fn loop_every_mapper_as_an_image_of_one_partition() -> Result<()> {
        single(&contents::ALL)
    }
}
