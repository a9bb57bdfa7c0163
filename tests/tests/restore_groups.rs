//! Volume groups through a save and restores by the program: their shapes, and who of them grows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::contents;
use keiki_tests::proof::{self, Facts};
use keiki_tests::vg::Vg;
use keiki_tests::{run, sparse, table};
use serde_json::Value;

/// Makes the content `kind` in the volume `lv`.
fn put(vg: &Vg, lv: &str, kind: &str, seed: u64, bench: &Bench) -> Result<()> {
    let size: Bytes = vg.segments()?[lv].iter().map(|run| run.extent.len()).sum();
    let image = bench.path("lv");
    contents::named(kind)?.make(&image, size, seed)?;
    vg.put(lv, &image)?;
    Ok(fs::remove_file(image)?)
}

fn whole(disk: &Path) -> Result<(PathBuf, Extent)> {
    Ok((disk.to_owned(), Extent::first(Bytes::new(fs::metadata(disk)?.len()))))
}

/// By how many MiB each volume grew, in the order of their ids; those that did not are left out.
fn growth(said: &Value) -> Result<Vec<(String, u64)>> {
    let list = said["grown"].as_array().context("grown")?;
    let mut grown = Vec::new();
    for one in list {
        let [from, to] = ["from", "to"].map(|key| one[key].as_u64().unwrap_or_default());
        let id = one["id"].as_str().context("id")?.to_owned();
        let lv = id.contains('/');
        ensure!(!lv || one["filesystem_grown"] == true, "{said}");
        grown.push((id, (to - from) >> 20));
    }
    grown.sort();
    Ok(grown)
}

fn lvs(said: &Value) -> Result<Vec<(String, u64)>> {
    Ok(growth(said)?.into_iter().filter(|(id, _)| id.contains('/')).collect())
}

fn pairs(list: &[(&str, u64)]) -> Vec<(String, u64)> {
    list.iter().map(|(id, mib)| ((*id).to_owned(), *mib)).collect()
}

/// A disk that is a physical volume: `root` (linear, in two fragments), `srv` and `swap`.
fn whole_disk(bench: &Bench) -> Result<PathBuf> {
    let source = bench.path("source");
    sparse::create(&source, Bytes::mib(261))?;
    let vg = Vg::create("vg0", &[whole(&source)?])?;
    vg.add("root", Bytes::mib(40), None)?;
    vg.add("srv", Bytes::mib(80), None)?;
    vg.add("swap", Bytes::mib(20), None)?;
    vg.extend("root", Bytes::mib(72), None)?;
    ensure!(vg.segments()?["root"].len() == 2, "root is in one piece");
    put(&vg, "root", "ext4-1k", 1, bench)?;
    put(&vg, "srv", "ext4-4k", 2, bench)?;
    put(&vg, "swap", "swap", 3, bench)?;
    Ok(source)
}

/// A size of the target, options, and who grows by how many MiB.
type Way = (Bytes, &'static str, &'static [(&'static str, u64)]);

/// The size of [`whole_disk`], and 100 MiB more.
const SAME: Bytes = Bytes::mib(261);
const LARGER: Bytes = Bytes::mib(361);

fn share_out(ways: &[Way]) -> Result<()> {
    let bench = Bench::new()?;
    let source = whole_disk(&bench)?;
    bench.save("vg", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    for (size, options, expected) in ways {
        let (_, said) = proof::restores_as(&bench, "vg", &facts, &[*size], options)?;
        let found = lvs(&said)?;
        ensure!(found == pairs(expected), "{options}: {found:?}");
    }
    let target = bench.path("refused");
    sparse::create(&target, LARGER)?;
    for (options, words) in [
        ("--grow vg0/root=+104MiB", "vg0/root"),
        ("--grow vg0/root=rest --grow vg0/srv=rest", "vg0/srv"),
        ("--grow vg0/nothing=rest", "vg0/nothing"),
    ] {
        let line = bench::restore("vg", std::slice::from_ref(&target), options);
        let why = bench.fails(&line, 3)?;
        ensure!(why.contains(words), "{options}: {why}");
    }
    ensure!(fs::metadata(&target)?.len() == LARGER.get(), "the size changed");
    Ok(())
}

#[test]
fn loop_new_space_is_shared_out() -> Result<()> {
    share_out(&[
        (SAME, "", &[]),
        (LARGER, "--grow vg0/srv=rest --grow vg0/root=+25%", &[("vg0/root", 24), ("vg0/srv", 76)]),
        (LARGER, "--grow vg0/swap=+44MiB --use-free", &[("vg0/swap", 44)]),
    ])
}

/// Two disks in one command, one of them in a partition; a volume over both, one striped over both.
fn two_disks(bench: &Bench) -> Result<[PathBuf; 2]> {
    let sources = ["source0", "source1"].map(|name| bench.path(name));
    let [first, second] = &sources;
    sparse::create(first, Bytes::mib(210))?;
    run!("sgdisk", "-n1:2048:+20M", "-n2:0:0", "-t2:8e00", first)?;
    sparse::create(second, Bytes::mib(181))?;
    let parts = table::partitions(first)?;
    let raw = bench.path("raw");
    contents::named("raw")?.make(&raw, parts[0].len(), 9)?;
    sparse::copy(&raw, Extent::first(parts[0].len()), first, parts[0].start)?;
    let vg = Vg::create("vg0", &[(first.clone(), parts[1]), whole(second)?])?;
    vg.add("root", Bytes::mib(48), Some(0))?;
    let striped = "-an -Zn -Wn --yes --type striped -i 2 -I 64 -n fast -L 96M vg0";
    vg.lvm("lvcreate", striped.split(' ').map(str::to_owned).collect())?;
    vg.extend("root", Bytes::mib(88), Some(1))?;
    put(&vg, "root", "ext4-1k", 1, bench)?;
    put(&vg, "fast", "ext4-4k", 2, bench)?;
    drop(vg);
    Ok(sources)
}

/// Restores onto targets of these sizes; who grows.
fn over_two_disks(ways: &[([Bytes; 2], &str, &str)]) -> Result<()> {
    let bench = Bench::new()?;
    let sources = two_disks(&bench)?;
    bench.save("vg", &sources)?;
    let facts = Facts::of(&sources)?;
    let [same, _] = TWO_DISKS;
    let (targets, _) = proof::restores_as(&bench, "vg", &facts, &same, "")?;
    let maps = [&sources, targets.as_slice()].map(proof::places);
    let [before, after] = maps;
    ensure!(before? == after?, "a restore of the same size moved something");
    for (sizes, options, grown) in ways {
        let (_, said) = proof::restores_as(&bench, "vg", &facts, sizes, options)?;
        let found: Vec<String> = lvs(&said)?.into_iter().map(|(id, _)| id).collect();
        ensure!(found.concat() == *grown, "{sizes:?} {options}: {said}");
    }
    // One disk of two is no group: it is saved whole, and said so.
    let said = bench.save("half", &sources[1..])?;
    let raw = said["raw_volumes"].to_string();
    ensure!(raw.contains("vg0"), "{said}");
    Ok(())
}

/// The sizes of [`two_disks`], and larger ones.
const TWO_DISKS: [[Bytes; 2]; 2] =
    [[Bytes::mib(210), Bytes::mib(181)], [Bytes::mib(290), Bytes::mib(241)]];

#[test]
fn loop_a_group_over_two_disks() -> Result<()> {
    over_two_disks(&[(TWO_DISKS[1], "--grow vg0/fast=rest", "vg0/fast")])
}

const GPT: &str = "label: gpt\nsize=20M\nsize=40M\ntype=E6D6D379-F507-44C2-A23C-238F2A3DF928\n";
const MBR: &str =
    "label: dos\nsize=20M, type=c\nsize=40M, type=83\ntype=5\nsize=30M, type=83\ntype=8e\n";

/// A size in MiB, options, and who grows.
type Growth = (u64, &'static str, &'static [(&'static str, u64)]);

/// The physical volume behind other partitions; with an MBR it is the last logical one.
fn last_partition(ways: &[(&str, &[Growth])]) -> Result<()> {
    for (script, sizes) in ways {
        let name = script.lines().next().unwrap_or_default();
        let bench = Bench::new()?;
        let source = bench.path("source");
        sparse::create(&source, Bytes::mib(300))?;
        keiki_tests::tool::run(&keiki_tests::call!("sfdisk", "-q", &source).stdin(*script))?;
        let parts = table::read(&source)?.entries;
        let kinds = ["fat12", "ext2", "ext3"];
        let data = parts.iter().filter(|part| !part.is_extended());
        for (seed, (part, kind)) in
            (1..).zip(data.zip(&kinds[..parts.len().saturating_sub(1).min(3)]))
        {
            let image = bench.path("part");
            contents::named(kind)?.make(&image, part.extent.len(), seed)?;
            sparse::copy(&image, Extent::first(part.extent.len()), &source, part.extent.start)?;
        }
        let pv = parts.last().context("a partition")?;
        let vg = Vg::create("vg0", &[(source.clone(), pv.extent)])?;
        vg.add("home", Bytes::mib(60), None)?;
        put(&vg, "home", "ext4-1k", 7, &bench)?;
        drop(vg);
        bench.save("vg", std::slice::from_ref(&source))?;
        let facts = Facts::of(std::slice::from_ref(&source))?;
        for (mib, options, expected) in *sizes {
            let (targets, said) =
                proof::restores_as(&bench, "vg", &facts, &[Bytes::mib(*mib)], options)
                    .with_context(|| name.to_owned())?;
            ensure!(lvs(&said)? == pairs(expected), "{name} {options}: {said}");
            let places = table::read(&targets[0])?.entries;
            ensure!(places.len() == parts.len(), "{places:?}");
        }
    }
    Ok(())
}

#[test]
fn loop_a_physical_volume_as_the_last_partition() -> Result<()> {
    last_partition(&[
        (GPT, &[(400, "--grow d0:2=rest", &[])]),
        (MBR, &[(400, "", &[("vg0/home", 100)])]),
    ])
}

mod only_all {
    use super::*;

    #[test]
    fn loop_every_way_to_share_out_new_space() -> Result<()> {
        share_out(&[
            // 100 MiB are new; 260 - 172 = 88 MiB were free.
            (LARGER, "--grow none", &[]),
            (LARGER, "", &[("vg0/root", 100)]),
            (LARGER, "--grow proportional", &[("vg0/root", 44), ("vg0/srv", 52)]),
            (SAME, "--grow vg0/srv=rest --use-free", &[("vg0/srv", 88)]),
            (SAME, "--use-free", &[("vg0/root", 88)]),
        ])
    }

    #[test]
    fn loop_one_disk_of_two_grows() -> Result<()> {
        let [same, larger] = TWO_DISKS;
        over_two_disks(&[
            (larger, "", "vg0/root"),
            ([larger[0], same[1]], "", "vg0/root"),
            ([same[0], larger[1]], "--grow none", ""),
        ])
    }

    #[test]
    fn loop_every_growth_of_the_last_partition() -> Result<()> {
        let home: &[(&str, u64)] = &[("vg0/home", 100)];
        let ways: [Growth; 3] = [(300, "", &[]), (400, "", home), (400, "--grow d0:2=rest", &[])];
        last_partition(&[(GPT, &ways), (MBR, &ways)])
    }
}
