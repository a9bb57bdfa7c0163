//! Block devices as sources and targets, with sectors of 512 and of 4096 bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::garbage::{self, Old};
use keiki_tests::loops::Loop;
use keiki_tests::proof::Facts;
use keiki_tests::table::Disk;
use keiki_tests::vg::Vg;
use keiki_tests::{call, contents, judge, run, sparse, table, tool};

const SECTORS: [Bytes; 2] = [Bytes::new(512), Bytes::new(4096)];

/// What makes a filesystem that also lives on sectors of 4096 bytes.
const CAPABLE: [&str; 4] = [
    "mkfs.xfs -q -f -s size=4096 -m uuid=c0ffee00-0000-4000-8000-000000000001",
    "mke2fs -q -F -t ext4 -b 4096",
    "mkswap -q -L swap",
    "",
];
const SIZES: [u64; 4] = [320, 64, 32, 8];

/// A GPT disk of these sectors with a filesystem of each of `made_by` in it.
fn disk(path: &Path, sector: Bytes, made_by: &[&str]) -> Result<()> {
    sparse::create(path, Bytes::mib(SIZES.iter().sum::<u64>() + 6))?;
    {
        let device = Loop::with_sectors(path, sector)?;
        for mib in &SIZES[..made_by.len()] {
            run!("sgdisk", format!("--new=0:0:+{mib}M"), device.device())?;
        }
    }
    let image = path.with_extension("part");
    for (made_by, extent) in made_by.iter().zip(table::partitions(path)?) {
        if made_by.is_empty() {
            contents::named("raw")?.make(&image, extent.len(), 1)?;
        } else {
            sparse::create(&image, extent.len())?;
            let mut words = made_by.split(' ');
            let mut make = call!(words.next().context("a program")?);
            make.args.extend(words.map(Into::into));
            make.args.push(image.clone().into());
            tool::run(&make)?;
            if !made_by.starts_with("mkswap") && !made_by.starts_with("mkfs.vfat") {
                keiki_tests::filesystem::filled(&image, |folder| {
                    Ok(std::fs::write(folder.join("file"), made_by.repeat(70_000))?)
                })?;
            }
        }
        sparse::copy(&image, Extent::first(extent.len()), path, extent.start)?;
    }
    Ok(())
}

/// Restores `name` onto a loop device on garbage with signatures where the source's partitions are; the
/// file behind it is judged.
fn onto_loop(bench: &Bench, name: &str, source: &Path, size: Bytes, sector: Bytes) -> Result<()> {
    let target = bench.path("target");
    garbage::fill(&target, size)?;
    garbage::plant(&target, &Old::ALL)?;
    let device = Loop::with_sectors(&target, sector)?;
    let said = bench.restore(name, &[device.device().to_owned()], "")?;
    ensure!(said["verified"] == true, "{said}");
    judge::table(device.device())?;
    drop(device);
    let place = Disk::open(&target)?;
    ensure!((place.path() != target) == (sector == Bytes::BLOCK), "not a table of its sectors");
    judge::disks(std::slice::from_ref(&target))?;
    let [was, is] = [source, &target].map(|disk| Facts::of(&[disk.to_owned()]));
    was?.expect(&is?)
}

fn save_and_restore(ways: &[(Bytes, &[Bytes])]) -> Result<()> {
    for (from, sectors) in ways {
        let from = *from;
        let bench = Bench::new()?;
        let source = bench.path("source");
        disk(&source, from, &CAPABLE)?;
        {
            let device = Loop::with_sectors(&source, from)?;
            bench.save("device", &[device.device().to_owned()])?;
        }
        // The sector size of a file is told by its table.
        let said = bench.save("file", std::slice::from_ref(&source))?;
        ensure!(said["new_chunks"] == 0, "a file gives other bytes than its device: {said}");
        let size = Bytes::new(std::fs::metadata(&source)?.len());
        for to in *sectors {
            if *to == from {
                onto_loop(&bench, "device", &source, size, from)?;
            }
            onto_loop(&bench, "file", &source, size + Bytes::mib(40), *to)
                .with_context(|| format!("from sectors of {from} to {to}"))?;
        }
        // And into a file, which keeps the sector size of the image.
        let copy: PathBuf = bench.path("copy");
        bench.run("restore file ./copy")?;
        let [was, is] = [&source, &copy].map(|disk| Facts::of(std::slice::from_ref(disk)));
        was?.expect(&is?)?;
    }
    Ok(())
}

#[test]
fn loop_devices_with_large_sectors_save_and_restore() -> Result<()> {
    let [small, large] = SECTORS;
    save_and_restore(&[(large, &[large]), (small, &[large])])
}

/// Filesystems with smaller blocks than the target's sectors cannot be used there.
#[test]
fn loop_small_sectors_are_not_restored_onto_large_ones() -> Result<()> {
    for (made_by, number, content) in [
        ("mkfs.vfat -F 32", 2, "vfat"),
        ("mke2fs -q -F -t ext4 -b 1024", 2, "ext4"),
        ("mkfs.xfs -q -f", 1, "xfs"),
    ] {
        let bench = Bench::new()?;
        let source = bench.path("source");
        let all = if number == 1 { vec![made_by] } else { vec!["", made_by] };
        disk(&source, Bytes::new(512), &all)?;
        bench.save("small", std::slice::from_ref(&source))?;
        for options in [String::new(), format!("--volume d0:{number}")] {
            refused(&bench, "small", &options, &[&format!("d0:{number}"), content])?;
        }
    }
    Ok(())
}

#[test]
fn loop_small_blocks_in_a_volume_group_are_not_restored_onto_large_sectors() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    sparse::create(&source, Bytes::mib(120))?;
    let vg = Vg::create("vg0", &[(source.clone(), Extent::first(Bytes::mib(120)))])?;
    vg.add("home", Bytes::mib(40), None)?;
    let image = bench.path("lv");
    contents::named("ext4-1k")?.make(&image, Bytes::mib(40), 1)?;
    vg.put("home", &image)?;
    drop(vg);
    bench.save("vg", &[source])?;
    refused(&bench, "vg", "", &["vg0/home", "ext4"])?;
    refused(&bench, "vg", "--volume vg0/home", &["vg0/home", "ext4"])
}

/// The restore onto sectors of 4096 bytes is refused with these words, and writes nothing.
fn refused(bench: &Bench, name: &str, options: &str, words: &[&str]) -> Result<()> {
    let target = bench.path("target");
    garbage::fill(&target, Bytes::mib(440))?;
    let device = Loop::with_sectors(&target, Bytes::BLOCK)?;
    let why = bench.fails(&bench::restore(name, &[device.device().to_owned()], options), 3)?;
    for word in words.iter().chain(&["4096"]) {
        ensure!(why.contains(word), "{why:?} does not name {word}");
    }
    drop(device);
    let untouched = bench.path("untouched");
    garbage::fill(&untouched, Bytes::mib(440))?;
    ensure!(std::fs::read(&target)? == std::fs::read(&untouched)?, "the target was written");
    Ok(())
}

mod only_all {
    use super::*;

    #[test]
    fn loop_devices_of_both_sector_sizes_save_and_restore() -> Result<()> {
        save_and_restore(&SECTORS.map(|from| (from, &SECTORS[..])))
    }
}
