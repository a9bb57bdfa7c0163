//! Partition tables through a save and restores by the program: numbers with holes, partitions that move
//! behind a grown one, boot code, logical partitions, hybrid MBRs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::proof::{self, Facts};
use keiki_tests::table::Entry;
use keiki_tests::{call, contents, judge, run, sparse, table, tool};

/// A disk of `size` with the table that sfdisk makes of `script`, its partitions (extended ones left out)
/// filled with `kinds`; nothing where that is empty.
fn disk(path: &Path, mib: u64, script: &str, kinds: &[&str]) -> Result<Vec<Entry>> {
    sparse::create(path, Bytes::mib(mib))?;
    tool::run(&call!("sfdisk", "-q", path).stdin(script))?;
    let entries = table::read(path)?.entries;
    let data: Vec<&Entry> = entries.iter().filter(|entry| !entry.is_extended()).collect();
    ensure!(data.len() == kinds.len(), "{entries:?}");
    let image = path.with_extension("part");
    for (seed, (entry, kind)) in (1..).zip(data.into_iter().zip(kinds)) {
        if !kind.is_empty() {
            contents::named(kind)?.make(&image, entry.extent.len(), seed)?;
            if kind.starts_with("fat") {
                // mkfs.vfat writes 0: it was not told where the file will lie.
                let sector = u32::try_from(entry.extent.start.units(Bytes::new(512)))?;
                write(&image, 28, &sector.to_le_bytes())?;
            }
            sparse::copy(&image, Extent::first(entry.extent.len()), path, entry.extent.start)?;
        }
    }
    Ok(entries)
}

fn write(path: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    Ok(File::options().write(true).open(path)?.write_all_at(bytes, at)?)
}

fn read(path: &Path, at: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    File::open(path)?.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// Boot code in the first sector and in the space before the first partition.
fn install_boot_code(path: &Path, from: u64, end: u64) -> Result<()> {
    write(path, 0, &noise(1, 440))?;
    write(path, from, &noise(2, usize::try_from(end - from)?))
}

fn hidden_sectors(path: &Path, entry: &Entry) -> Result<u64> {
    let bytes = read(path, entry.extent.start.get() + 28, 4)?;
    Ok(u64::from(u32::from_le_bytes(bytes.try_into().map_err(|_| anyhow::anyhow!("four"))?)))
}

fn numbered(path: &Path, number: u32) -> Result<Entry> {
    let entries = table::read(path)?.entries;
    entries.into_iter().find(|entry| entry.number == number).with_context(|| number.to_string())
}

const ESP: &str = "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
const BIOS_BOOT: &str = "type=21686148-6449-6E6F-744E-656564454649";

/// Numbers 1, 2 and 7, the ESP and swap behind root: they move, and hidden sectors follow.
#[test]
fn loop_what_lies_behind_a_grown_partition_moves() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let script = format!(
        "label: gpt\nfirst-lba: 34\nstart=40, size=2000, {BIOS_BOOT}\n\
         start=2048, size=64M, name=\"root\"\n7: size=40M, {ESP}, name=\"EFI, far\", \
         attrs=\"RequiredPartition GUID:60\"\n20: size=24M, type=swap\n"
    );
    let old = disk(&source, 140, &script, &["", "ext4-1k", "fat32", "swap"])?;
    install_boot_code(&source, 34 * 512, 40 * 512)?;
    write(&source, 40 * 512, &noise(3, 2000 * 512))?;
    bench.save("gpt", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    for (mib, options, grown) in
        [(140, "", 0), (205, "", 65), (205, "--grow d0:2=+30MiB --grow d0:20=rest", 30)]
    {
        let (targets, said) =
            proof::restores_as(&bench, "gpt", &facts, &[Bytes::mib(mib)], options)?;
        let new = table::read(&targets[0])?.entries;
        ensure!(new.len() == 4 && new[0] == old[0], "{new:?}");
        ensure!(new[1].extent.start == old[1].extent.start, "{new:?}");
        let [more, moved] =
            [new[1].extent.len() - old[1].extent.len(), new[2].extent.start - old[2].extent.start];
        ensure!([more, moved] == [Bytes::mib(grown); 2], "{options}: {more} {moved}");
        ensure!(new[2].extent.len() == old[2].extent.len(), "{new:?}");
        let hidden = hidden_sectors(&targets[0], &new[2])?;
        ensure!(hidden == new[2].extent.start.units(Bytes::new(512)), "{hidden}: {new:?}");
        for (at, length) in [(0, 440), (34 * 512, 6 * 512), (40 * 512, 2000 * 512)] {
            let [was, is] = [&source, &targets[0]].map(|path| read(path, at, length));
            ensure!(was? == is?, "{options}: {length} bytes at {at} changed");
        }
        ensure!(said["warnings"].as_array().is_some_and(Vec::is_empty), "{said}");
        let swap = numbered(&targets[0], 20)?;
        let area = bench.path("swap");
        sparse::create(&area, swap.extent.len())?;
        sparse::copy(&targets[0], swap.extent, &area, Bytes::ZERO)?;
        let pages = u32::from_le_bytes(read(&area, 1028, 4)?.try_into().unwrap_or_default());
        ensure!(u64::from(pages) + 1 == swap.extent.len().units(Bytes::BLOCK), "{pages} pages");
        ensure!(run!("swaplabel", &area)?.contains("L4"), "the label of the swap area is lost");
    }
    Ok(())
}

/// DOS alignment, boot code in the gap, logical partitions with space between them.
#[test]
fn loop_an_mbr_with_logical_partitions() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    let script = "label: dos\nlabel-id: 0xcafe1234\nunit: sectors\nstart=63, size=81920, type=c, bootable\n\
        start=83968, size=225280, type=f\n\
        5: start=86016, size=65536, type=82\n6: start=157696, size=147456, type=83\n";
    let old = disk(&source, 152, script, &["fat16", "swap", "ext3"])?;
    install_boot_code(&source, 512, 63 * 512)?;
    // What some loaders leave between logical partitions.
    write(&source, 154_000 * 512, &noise(4, 3000))?;
    bench.save("mbr", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    for (mib, options, [fat, swap, last]) in [
        (152, "", [0, 0, 0]),
        (192, "", [0, 0, 40]),
        (192, "--grow none", [0, 0, 0]),
        (192, "--grow d0:5=+16MiB --grow d0:6=rest", [0, 16, 24]),
    ] {
        let (targets, _) = proof::restores_as(&bench, "mbr", &facts, &[Bytes::mib(mib)], options)?;
        let new = table::read(&targets[0])?.entries;
        let by = |number: u32| -> Result<Bytes> {
            let [was, is] = [&old, &new].map(|list| list.iter().find(|e| e.number == number));
            let [was, is] = [was.context("was")?, is.context("is")?];
            Ok(is.extent.len() - was.extent.len())
        };
        for (number, mib) in [(1, fat), (5, swap), (6, last)] {
            ensure!(by(number)? == Bytes::mib(mib), "{options}: {new:?}");
        }
        for (at, length) in [(0, 440), (512, 62 * 512)] {
            let [was, is] = [&source, &targets[0]].map(|path| read(path, at, length));
            ensure!(was? == is?, "{options}: {length} bytes at {at} changed");
        }
        // The gap keeps its distance to the partition before it.
        let [was, is] = [(&source, &old), (&targets[0], &new)].map(|(path, list)| {
            let before = list.iter().find(|entry| entry.number == 5).context("5")?;
            let distance = Bytes::new((154_000 - 86_016 - 65_536) * 512);
            read(path, (before.extent.end + distance).get(), 3000)
        });
        ensure!(was? == is?, "{options}: what lies between the logical partitions changed");
        let moved = numbered(&targets[0], 1)?;
        ensure!(hidden_sectors(&targets[0], &moved)? == 63, "the FAT did not move");
    }
    Ok(())
}

/// A hybrid MBR shows some GPT partitions to systems that know no GPT; they are kept in step.
#[test]
fn loop_a_hybrid_mbr_stays_in_step() -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    disk(&source, 120, "label: gpt\nsize=40M\nsize=40M\n", &["ext4-1k", "fat16"])?;
    run!("sgdisk", "--hybrid=1:2", &source)?;
    judge::table(&source).context("the source")?;
    bench.save("hybrid", std::slice::from_ref(&source))?;
    let facts = Facts::of(std::slice::from_ref(&source))?;
    for mib in [120, 170] {
        let (targets, _) = proof::restores_as(&bench, "hybrid", &facts, &[Bytes::mib(mib)], "")?;
        let new = table::read(&targets[0])?.entries;
        let mbr = read(&targets[0], 446, 64)?;
        for number in [1, 2] {
            let entry = mbr.as_chunks::<16>().0.iter().find(|entry| {
                let start = u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]);
                let start = Bytes::new(u64::from(start) * 512);
                new.iter().any(|one| one.number == number && one.extent.start == start)
            });
            let entry = entry.with_context(|| format!("partition {number} in {mbr:?}"))?;
            let sectors = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
            let length = numbered(&targets[0], number)?.extent.len();
            ensure!(Bytes::new(u64::from(sectors) * 512) == length, "{number}: {entry:?}");
            ensure!(entry[4] == 0x83, "{number}: {entry:?}");
        }
    }
    Ok(())
}

/// An explicit wish that cannot be met changes nothing on the target.
#[test]
fn loop_what_cannot_be_done_is_refused_before_any_write() -> Result<()> {
    let bench = Bench::new()?;
    let (source, target) = (bench.path("source"), bench.path("target"));
    disk(&source, 90, "label: gpt\nsize=40M\nsize=40M\n", &["ext2", "fat16"])?;
    bench.save("gpt", &[source])?;
    for (mib, options, words) in [
        (81, "", "too small"),
        (120, "--grow d0:2=rest", "no tool makes vfat larger"),
        (120, "--grow d0:1=+31MiB", "d0:1"),
        (120, "--grow d0:1=rest --grow d0:1=fixed", "twice"),
        (120, "--volume d0:9", "d0:9"),
    ] {
        keiki_tests::garbage::fill(&target, Bytes::mib(mib))?;
        let before = std::fs::read(&target)?;
        let targets: [PathBuf; 1] = [target.clone()];
        let why = bench.fails(&bench::restore("gpt", &targets, options), 3)?;
        ensure!(why.contains(words), "{options}: {why}");
        ensure!(std::fs::read(&target)? == before, "{options}: the target was written");
    }
    Ok(())
}
