//! Restores onto less than there was: smaller disks, fewer disks, some volumes only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::proof::{self, Facts};
use keiki_tests::tree::Tree;
use keiki_tests::vg::Vg;
use keiki_tests::{contents, garbage, judge, run, sample_disk, sparse, table, volumes};

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize())
}

/// A target full of garbage is refused, with these words, before a byte of it is written.
fn refuses(bench: &Bench, image: &str, size: Bytes, words: &[&str]) -> Result<()> {
    let target = bench.path("refused");
    garbage::fill(&target, size)?;
    let before = hash(&target)?;
    let why = bench.fails(&bench::restore(image, std::slice::from_ref(&target), ""), 3)?;
    for word in words {
        ensure!(why.contains(word), "no {word:?} in: {why}");
    }
    ensure!(before == hash(&target)?, "it was written");
    Ok(fs::remove_file(target)?)
}

/// A new target, full of garbage and old signatures.
fn old_disk(bench: &Bench, name: &str, size: Bytes) -> Result<PathBuf> {
    let path = bench.path(name);
    garbage::fill(&path, size)?;
    garbage::plant(&path, &garbage::Old::ALL)?;
    Ok(path)
}

#[test]
fn loop_a_smaller_disk_takes_what_free_extents_leave() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    sample_disk::make(&source)?;
    bench.save("sample", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    let least = bench.least("sample")?;
    let inspected = bench.run("inspect ./source")?;
    ensure!(inspected["min_target_bytes"] == least.get(), "{inspected}");
    ensure!(least < Bytes::mib(670), "{least}");
    let two_percent = Bytes::new(sample_disk::SIZE.get() / 50 * 49).align_down(Bytes::new(512));
    for size in [two_percent, least] {
        let (_, said) = proof::restores_as(&bench, "sample", &facts, &[size], "")?;
        ensure!(said["grown"].as_array().is_some_and(Vec::is_empty), "{said}");
    }
    refuses(&bench, "sample", least - Bytes::new(512), &["too small", "vg0/data needs"])?;
    let sixty_percent = Bytes::new(sample_disk::SIZE.get() / 5 * 2);
    refuses(&bench, "sample", sixty_percent, &["too small", &least.get().to_string()])
}

#[test]
fn loop_partitions_move_left_and_swap_shrinks() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    sparse::create(&source, Bytes::mib(300))?;
    run!(
        "sgdisk",
        "-n1:2048:+40M",
        "-t1:ef00",
        "-n2:100352:+64M",
        "-n3:0:+100M",
        "-t3:8200",
        "-n4:0:+72M",
        &source
    )?;
    let kinds = ["fat16", "ext4-1k", "swap", "ext4-4k"];
    for (seed, (extent, kind)) in (1..).zip(table::partitions(&source)?.into_iter().zip(kinds)) {
        let image = bench.path("part");
        contents::named(kind)?.make(&image, extent.len(), seed)?;
        sparse::copy(&image, Extent::first(extent.len()), &source, extent.start)?;
    }
    bench.save("parts", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    let least = bench.least("parts")?;
    ensure!(least == Bytes::mib(241) + Bytes::new(33 * 512), "{least}");
    let starts = |path: &Path| -> Result<Vec<u64>> {
        let parts = table::partitions(path)?;
        Ok(parts.iter().map(|extent| extent.start.units(Bytes::MIB)).collect())
    };
    for (size, expected) in [
        (Bytes::mib(294), [1, 49, 113, 213]),
        (Bytes::mib(282), [1, 45, 109, 209]),
        (Bytes::mib(270), [1, 41, 105, 197]),
        (least, [1, 41, 105, 169]),
    ] {
        let (targets, _) = proof::restores_as(&bench, "parts", &facts, &[size], "")?;
        let found = starts(&targets[0])?;
        ensure!(found == expected, "{size}: {found:?}");
    }
    refuses(&bench, "parts", least - Bytes::new(512), &["too small", "d0:4 needs"])
}

/// Three disks of one group: the first has a partition more; one volume over two of them, one striped.
fn three_disks(bench: &Bench) -> Result<Vec<PathBuf>> {
    let disks = [0, 1, 2].map(|number| bench.path(&format!("disk{number}")));
    for disk in &disks {
        sparse::create(disk, Bytes::mib(140))?;
    }
    run!("sgdisk", "-n1:2048:+20M", "-n2:0:0", "-t2:8e00", &disks[0])?;
    run!("sgdisk", "-n1:2048:0", "-t1:8e00", &disks[2])?;
    let (first, third) = (table::partitions(&disks[0])?, table::partitions(&disks[2])?);
    let whole = Extent::first(Bytes::mib(140));
    let places = [first[1], whole, third[0]];
    let pvs: Vec<(PathBuf, Extent)> = disks.iter().cloned().zip(places).collect();
    let vg = Vg::create("vg0", &pvs)?;
    vg.add("root", Bytes::mib(60), Some(0))?;
    vg.extend("root", Bytes::mib(100), Some(1))?;
    let arguments = "-an -Zn -Wn --yes -i2 -n wide -L 80m vg0".split(' ').map(str::to_owned);
    let mut arguments: Vec<String> = arguments.collect();
    arguments.extend(vg.devices().into_iter().skip(1));
    vg.lvm("lvcreate", arguments)?;
    vg.add("swap", Bytes::mib(72), Some(2))?;
    for (seed, (lv, kind)) in
        (1..).zip([("root", "ext4-1k"), ("wide", "ext4-4k"), ("swap", "swap")])
    {
        let size: Bytes = vg.segments()?[lv].iter().map(|run| run.extent.len()).sum();
        let image = bench.path("lv");
        contents::named(kind)?.make(&image, size, seed)?;
        vg.put(lv, &image)?;
        fs::remove_file(image)?;
    }
    let image = bench.path("boot");
    contents::named("ext2")?.make(&image, first[0].len(), 9)?;
    sparse::copy(&image, Extent::first(first[0].len()), &disks[0], first[0].start)?;
    Ok(disks.to_vec())
}

/// What is in the volumes, and what identifies them, without the disks and partitions they lie on.
fn in_volumes(facts: &Facts) -> (&BTreeMap<String, Tree>, BTreeMap<&String, &Vec<String>>) {
    (&facts.trees, facts.seen.iter().filter(|(id, _)| id.contains('/')).collect())
}

#[test]
fn loop_three_disks_of_a_group_come_onto_one_or_two() -> Result<()> {
    let bench = Bench::new()?;
    let sources = three_disks(&bench)?;
    bench.save("three", &sources)?;
    let facts = Facts::of(&sources)?;
    for (sizes, options) in [
        (&[300][..], "--map d1=none --map d2=none"),
        (&[500], "--map d1=none --map d2=none"),
        (&[160, 160], "--map d1=none --grow none"),
    ] {
        let targets: Vec<PathBuf> = (0..)
            .zip(sizes)
            .map(|(at, mib)| old_disk(&bench, &format!("target{at}"), Bytes::mib(*mib)))
            .collect::<Result<_>>()?;
        let plan =
            bench.run(&format!("{} --dry-run", bench::restore("three", &targets, options)))?;
        let notes = plan["plan"]["notes"].to_string();
        ensure!(notes.contains("vg0/wide is no longer striped"), "{notes}");
        let said = bench.restore("three", &targets, options)?;
        judge::disks(&targets).with_context(|| options.to_owned())?;
        let found = Facts::of(&targets)?;
        ensure!(in_volumes(&found) == in_volumes(&facts), "{options}: {found:#?}");
        let grew = said["grown"].to_string().contains("vg0/");
        ensure!(grew == (sizes == [500]), "{said}");
    }
    let target = old_disk(&bench, "target0", Bytes::mib(200))?;
    let before = hash(&target)?;
    let targets = std::slice::from_ref(&target);
    for (options, code, words) in [
        ("--map d1=none --map d2=none", 3, "are missing"),
        ("--map d1=none", 2, "where does d2 go?"),
        ("--map d0=none --map d2=none", 3, "d0 cannot be left out: d0:1 is on it"),
        ("--map d7=none", 2, "no disk d7"),
    ] {
        let why = bench.fails(&bench::restore("three", targets, options), code)?;
        ensure!(why.contains(words), "{options}: {why}");
    }
    ensure!(before == hash(&target)?, "it was written");
    Ok(())
}

#[test]
fn loop_only_named_volumes_get_their_data() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let sample = sample_disk::make(&source)?;
    bench.save("sample", std::slice::from_ref(&source))?;
    let target = old_disk(&bench, "target", Bytes::mib(900))?;
    let targets = std::slice::from_ref(&target);
    let options = "--only vg0/data --only 2";
    let plan = bench.run(&format!("{} --dry-run", bench::restore("sample", targets, options)))?;
    let notes = plan["plan"]["notes"].to_string();
    ensure!(notes.contains("vg0/root is left empty: it is not among those"), "{notes}");
    bench.restore("sample", targets, options)?;
    let kept = |tree: &BTreeMap<String, Tree>| -> BTreeMap<String, Tree> {
        let named = tree.iter().filter(|(id, _)| ["vg0/data", "d0:2"].contains(&id.as_str()));
        named.map(|(id, tree)| (id.clone(), tree.clone())).collect()
    };
    let found = Facts::of(targets)?;
    volumes::expect_same(&kept(&sample.trees), &found.trees)?;
    for id in ["d0:1", "vg0/root", "vg0/swap"] {
        ensure!(found.seen[id] == ["blkid ends Some(2)"], "{id}: {:?}", found.seen[id]);
    }
    // Some volumes alone, each onto a file.
    let [root, boot] = ["root", "boot"].map(|name| bench.path(name).display().to_string());
    bench.run(&format!("restore sample --map vg0/root={root} --map 2={boot}"))?;
    for (id, name) in [("vg0/root", "root"), ("d0:2", "boot")] {
        let alone = volumes::trees(&[bench.path(name)])?;
        ensure!(alone.values().eq([&sample.trees[id]]), "{id} differs");
    }
    for (options, code, words) in [
        ("--only 9", 3, "the image has no volume 9; it has d0:gap0"),
        ("--only 3", 3, "d0:3 only holds other volumes"),
        ("--map vg0/root=./x", 2, "one target too many"),
    ] {
        let why = bench.fails(&bench::restore("sample", targets, options), code)?;
        ensure!(why.contains(words), "{options}: {why}");
    }
    Ok(())
}

#[test]
fn loop_an_excluded_volume_has_its_place_and_no_bytes() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let sample = sample_disk::make(&source)?;
    let saved = source.display();
    let said =
        bench.run(&format!("save {saved} --name less --exclude vg0/data --exclude {saved}:1"))?;
    ensure!(said["used_bytes"].as_u64() < Some(60 << 20), "{said}");
    let shown = bench.run("show less")?;
    let states = shown["volumes"].as_array().context("volumes")?.iter();
    let excluded: Vec<_> = states.filter(|v| v["state"] == "excluded").map(|v| &v["id"]).collect();
    ensure!(excluded == ["d0:1", "vg0/data"], "{shown}");
    let target = old_disk(&bench, "target", Bytes::mib(900))?;
    let before = Extent::new(Bytes::mib(4), Bytes::mib(36));
    let middle = |path: &Path| -> Result<Vec<u8>> {
        let mut bytes = vec![0; before.len().index().context("length")?];
        File::open(path)?.read_exact_at(&mut bytes, before.start.get())?;
        Ok(bytes)
    };
    let garbage = middle(&target)?;
    let targets = std::slice::from_ref(&target);
    let plan = bench.run(&format!("{} --dry-run", bench::restore("less", targets, "")))?;
    let notes = plan["plan"]["notes"].to_string();
    ensure!(notes.contains("d0:1 is left empty: it was excluded when it was saved"), "{notes}");
    let done = bench.restore("less", targets, "")?;
    ensure!(done["grown"].to_string().contains("vg0/root"), "{done}");
    let found = Facts::of(targets)?;
    let ids: Vec<&str> = found.trees.keys().map(String::as_str).collect();
    ensure!(ids == ["d0:2", "vg0/root"], "{ids:?}");
    let expected = |id: &str| (id.to_owned(), sample.trees[id].clone());
    volumes::expect_same(&ids.iter().map(|id| expected(id)).collect(), &found.trees)?;
    for id in ["d0:1", "vg0/data"] {
        ensure!(found.seen[id] == ["blkid ends Some(2)"], "{id}: {:?}", found.seen[id]);
    }
    // Only where an old signature could stand: a few blocks of 8192.
    let now = middle(&target)?;
    let blocks = garbage.chunks(4096).zip(now.chunks(4096));
    let changed: Vec<_> = blocks.filter(|(was, is)| was != is).map(|(_, is)| is).collect();
    ensure!(changed.len() < 32, "{} blocks of the excluded volume changed", changed.len());
    ensure!(changed.concat().iter().all(|byte| *byte == 0), "they are not zeros");
    for (line, words) in [
        (format!("save {saved} --name no --exclude 9"), "no volume 9 to exclude; there is d0:gap0"),
        (format!("save {saved} --name no --exclude 3"), "d0:3 only holds other volumes"),
        ("restore less --map vg0/data=./x".to_owned(), "vg0/data was excluded"),
        (bench::restore("less", targets, "--only 1"), "d0:1 was excluded"),
    ] {
        let why = bench.fails(&line, 3)?;
        ensure!(why.contains(words), "{line}: {why}");
    }
    Ok(())
}
