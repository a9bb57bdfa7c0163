//! Random partition tables through a save and a restore by the program, judged by gptman, sgdisk and sfdisk,
//! and by the bytes of unknown partitions and of the space between them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gptman::{GPT, GPTPartitionEntry};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::table::Entry;
use keiki_tests::{call, contents, garbage, judge, sparse, table, tool};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const SECTOR: u64 = 512;

#[derive(Clone, Debug)]
struct Part {
    /// Sectors before it that belong to nobody, and whether bytes stand there.
    gap: u64,
    noisy: bool,
    sectors: u64,
    kind: &'static str,
    number: u32,
    name: String,
    attributes: u64,
}

#[derive(Clone, Debug)]
struct Case {
    parts: Vec<Part>,
    /// Sectors behind the last partition, and whether bytes stand there.
    tail: u64,
    noisy_tail: bool,
    /// By how many sectors the target is larger.
    more: u64,
    grow: String,
}

fn part() -> impl Strategy<Value = Part> {
    let gap = prop_oneof![Just(0), Just(2048), 1..5000_u64, Just(16_384)];
    let kind =
        prop_oneof![2 => Just("raw"), 2 => Just("ext4-1k"), 1 => Just("swap"), 1 => Just("fat12")];
    let sectors = prop_oneof![(1..12_u64).prop_map(|mib| mib * 2048), 2048..20_000_u64];
    let name = "[a-zA-Z0-9 äß🍌]{0,12}";
    let attributes = prop_oneof![Just(0), Just(1 << 2), Just(1 | 1 << 60), any::<u64>()];
    (gap, any::<bool>(), sectors, kind, 1..=128_u32, name, attributes).prop_map(
        |(gap, noisy, sectors, kind, number, name, attributes)| {
            // The smallest ext4 that has a journal.
            let sectors = if kind == "raw" { sectors } else { sectors.max(8 * 2048) };
            Part { gap, noisy, sectors, kind, number, name, attributes }
        },
    )
}

fn case(most: usize) -> impl Strategy<Value = Case> {
    let parts = prop::collection::vec(part(), 1..=most).prop_map(|mut parts| {
        let mut seen = std::collections::BTreeSet::new();
        parts.retain(|part| seen.insert(part.number));
        parts
    });
    let more = prop_oneof![1 => Just(0), 1 => 0..3000_u64, 3 => 0..120_000_u64];
    let grow = prop_oneof![
        Just(""),
        Just("--grow none"),
        Just("--grow proportional"),
        Just("--use-free"),
        Just("--grow proportional --use-free"),
    ];
    (parts, 0..9000_u64, any::<bool>(), more, grow).prop_map(
        |(parts, tail, noisy_tail, more, grow)| {
            let grow = grow.to_owned();
            Case { parts, tail, noisy_tail, more, grow }
        },
    )
}

fn noise(seed: u64, length: Bytes) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length.index().context("length")?];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    Ok(bytes)
}

fn read(path: &Path, extent: Extent) -> Result<Vec<u8>> {
    let mut bytes = vec![0; extent.len().index().context("length")?];
    File::open(path)?.read_exact_at(&mut bytes, extent.start.get())?;
    Ok(bytes)
}

fn sectors(count: u64) -> Bytes {
    Bytes::new(count * SECTOR)
}

/// Fills partitions, and the noisy gaps; the gaps by the partition that they stand before.
fn fill(path: &Path, case: &Case, places: &[Extent], first: Bytes) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let mut end = first;
    let image = path.with_extension("part");
    for (seed, (part, place)) in (1..).zip(case.parts.iter().zip(places)) {
        if part.noisy {
            let gap = Extent::new(end, place.start);
            let mut bytes = read(path, gap)?;
            for (sector, noise) in bytes.chunks_mut(512).zip(noise(seed, gap.len())?.chunks(512)) {
                // What is not zero is the EBR of a logical partition.
                if sector.iter().all(|byte| *byte == 0) {
                    sector.copy_from_slice(noise);
                }
            }
            file.write_all_at(&bytes, gap.start.get())?;
        }
        contents::named(part.kind)?.make(&image, place.len(), seed).or_else(|error| {
            // Too small for its files: then without them.
            ensure!(part.kind == "ext4-1k", "{error:#}");
            sparse::create(&image, place.len())?;
            keiki_tests::run!("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", &image).map(drop)
        })?;
        sparse::copy(&image, Extent::first(place.len()), path, place.start)?;
        end = place.end;
    }
    if case.noisy_tail && case.tail > 0 {
        file.write_all_at(&noise(0, sectors(case.tail))?, end.get())?;
    }
    Ok(std::fs::remove_file(image)?)
}

/// A GPT disk by gptman.
fn gpt(path: &Path, case: &Case) -> Result<()> {
    const FIRST: u64 = 34;
    let total: u64 = case.parts.iter().map(|part| part.gap + part.sectors).sum();
    sparse::create(path, sectors(FIRST + total + case.tail + 33))?;
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut table = GPT::new_from(&mut file, SECTOR, *b"keiki's own disk")?;
    let (mut at, mut places) = (FIRST, Vec::new());
    for (id, part) in (1..).zip(&case.parts) {
        let start = at + part.gap;
        at = start + part.sectors;
        table[part.number] = GPTPartitionEntry {
            partition_type_guid: [0xaf; 16],
            unique_partition_guid: [id; 16],
            starting_lba: start,
            ending_lba: at - 1,
            attribute_bits: part.attributes,
            partition_name: part.name.as_str().into(),
        };
        places.push(Extent::new(sectors(start), sectors(at)));
    }
    table.write_into(&mut file)?;
    GPT::write_protective_mbr_into(&mut file, SECTOR)?;
    fill(path, case, &places, sectors(FIRST))
}

/// An MBR disk by sfdisk: some primary partitions, the others logical.
fn mbr(path: &Path, case: &Case, primary: usize) -> Result<()> {
    let mut script = "label: dos\nunit: sectors\n".to_owned();
    let (mut at, mut places) = (1, Vec::new());
    let (mut lines, mut extended) = (Vec::new(), None);
    for (number, part) in case.parts.iter().enumerate() {
        if number == primary {
            extended = Some(at + 1);
            at += 1;
        }
        // Room for an EBR, and what sfdisk leaves free before a logical partition.
        let start = at + part.gap + if number >= primary { 2048 } else { 0 };
        at = start + part.sectors;
        let slot = if number < primary { number + 1 } else { number - primary + 5 };
        lines.push(format!("{slot}: start={start}, size={}, type=83\n", part.sectors));
        places.push(Extent::new(sectors(start), sectors(at)));
    }
    if let Some(start) = extended {
        lines.insert(
            primary,
            format!("{}: start={start}, size={}, type=5\n", primary + 1, at - start),
        );
    }
    script.extend(lines);
    sparse::create(path, sectors(at + case.tail))?;
    tool::run(&call!("sfdisk", "-q", path).stdin(script.clone())).context(script)?;
    fill(path, case, &places, sectors(1))
}

/// What the table says of each partition besides its place.
fn identities(path: &Path) -> Result<Vec<String>> {
    let mut file = File::open(path)?;
    if let Ok(table) = GPT::find_from(&mut file) {
        let names = table.iter().filter(|(_, entry)| entry.is_used()).map(|(number, entry)| {
            let blank = GPTPartitionEntry { starting_lba: 0, ending_lba: 0, ..entry.clone() };
            format!("{number} {:?} {blank:?}", table.header.disk_guid)
        });
        return Ok(names.collect());
    }
    let table = table::read(path)?;
    Ok(table.entries.iter().map(|entry| format!("{} {:?}", entry.number, entry.rest)).collect())
}

fn by_position(path: &Path) -> Result<Vec<Entry>> {
    let mut entries = table::read(path)?.entries;
    entries.retain(|entry| !entry.is_extended());
    entries.sort_by_key(|entry| entry.extent);
    Ok(entries)
}

fn check(case: &Case, make: impl Fn(&Path, &Case) -> Result<()>) -> Result<()> {
    let bench = Bench::new()?;
    let source = bench.path("source");
    make(&source, case)?;
    bench.save("random", std::slice::from_ref(&source))?;
    let target = bench.path("target");
    let size = Bytes::new(std::fs::metadata(&source)?.len()) + sectors(case.more);
    garbage::fill(&target, size)?;
    let targets: [PathBuf; 1] = [target.clone()];
    let said = bench.restore("random", &targets, &case.grow)?;
    ensure!(identities(&source)? == identities(&target)?, "the table's entries changed");
    judge::disks(&targets)?;
    let [old, new] = [by_position(&source)?, by_position(&target)?];
    ensure!(old.len() == new.len() && old.len() == case.parts.len(), "{new:?}");
    let mut changed = false;
    let (mut old_end, mut new_end) = (sectors(34), sectors(34));
    for (part, (old, new)) in case.parts.iter().zip(old.iter().zip(&new)) {
        ensure!(old.number == new.number, "the order changed: {new:?}");
        let more = new.extent.len().checked_sub(old.extent.len()).context("it shrank")?;
        let id = format!("d0:{}", old.number);
        let told = said["grown"].as_array().into_iter().flatten().find(|one| one["id"] == id);
        let told = told
            .map_or(0, |one| one["to"].as_u64().unwrap_or(0) - one["from"].as_u64().unwrap_or(0));
        ensure!(told == more.get(), "{id} grew by {more}, keiki says {told}");
        ensure!(more.is_zero() || part.kind == "ext4-1k", "{id} grew: {said}");
        let kept = changed || new.extent.start == old.extent.start;
        ensure!(kept, "{id} moved, and nothing before it grew");
        let aligned = new.extent.start.is_aligned(Bytes::MIB);
        ensure!(new.extent.start == old.extent.start || aligned, "{id} moved to an odd place");
        if part.kind == "raw" {
            ensure!(read(&source, old.extent)? == read(&target, new.extent)?, "{id} changed");
        }
        let gap = Extent::new(old_end, old.extent.start.max(old_end));
        // EBRs are the table's business.
        let is_table = |sector: &[u8]| sector.ends_with(&[0x55, 0xaa]);
        let data = |sector: &[u8]| !is_table(sector) && sector.iter().any(|byte| *byte != 0);
        let saved = gap.len() <= Bytes::mib(16) && read(&source, gap)?.chunks(512).any(data);
        if saved {
            let [was, is] = [(&source, old_end), (&target, new_end)]
                .map(|(path, end)| read(path, Extent::first(gap.len()).shifted(end)));
            for (at, (was, is)) in was?.chunks(512).zip(is?.chunks(512)).enumerate() {
                let table = is_table(was) || is_table(is);
                ensure!(table || was == is, "sector {at} of the space before {id} changed");
            }
        }
        changed |= !more.is_zero();
        (old_end, new_end) = (old.extent.end, new.extent.end);
    }
    if case.noisy_tail && case.tail > 0 {
        let tail = Extent::first(sectors(case.tail));
        let [was, is] = [(&source, old_end), (&target, new_end)]
            .map(|(path, end)| read(path, tail.shifted(end)));
        ensure!(was? == is?, "what lies behind the last partition changed");
    }
    if case.more == 0 && !case.grow.contains("--use-free") {
        ensure!(!changed, "something grew on a disk of the same size");
    }
    if case.grow == "--grow none" {
        ensure!(!changed, "something grew though nothing should");
    }
    // The same once more is the same plan.
    let again = bench.run(&format!("restore random ./target --dry-run {}", case.grow))?;
    let offsets = again["plan"]["volumes"].as_array().into_iter().flatten();
    for one in offsets.filter(|one| !one["id"].as_str().unwrap_or("gap").contains("gap")) {
        let found = new.iter().any(|entry| one["offset"] == entry.extent.start.get());
        ensure!(found, "{one} is not where the restore put it");
    }
    on_the_smallest(&bench, &source, case)
}

/// The smallest target that is named does, and one sector less is refused.
fn on_the_smallest(bench: &Bench, source: &Path, case: &Case) -> Result<()> {
    let least = bench.least("random")?;
    let targets = [bench.path("smallest")];
    let [target] = &targets;
    garbage::fill(target, least)?;
    bench.restore("random", &targets, "")?;
    ensure!(identities(source)? == identities(target)?, "the table's entries changed");
    judge::disks(&targets)?;
    let places = by_position(source)?.into_iter().zip(by_position(target)?);
    for (part, (old, new)) in case.parts.iter().zip(places) {
        ensure!(old.number == new.number, "the order changed");
        if part.kind == "raw" {
            let [was, is] = [read(source, old.extent)?, read(target, new.extent)?];
            ensure!(was == is, "partition {} changed", old.number);
        }
    }
    let short = bench.path("short");
    sparse::create(&short, least - sectors(1))?;
    bench.fails(&bench::restore("random", &[short], ""), 3).map(drop)
}

fn cases(count: u32, make: fn(&Path, &Case) -> Result<()>, most: usize) {
    let mut runner = TestRunner::new(Config {
        cases: count,
        max_shrink_iters: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&case(most), |case| {
        check(&case, make).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn loop_a_filesystem_that_ends_within_a_block_comes_onto_the_smallest_disk() -> Result<()> {
    let part = |number, gap, sectors, kind| Part {
        gap,
        noisy: false,
        sectors,
        kind,
        number,
        name: String::new(),
        attributes: 0,
    };
    // 8312 blocks of 1 KiB and half a one: e2fsprogs makes 8193 of them, the map's grain is 4 KiB.
    let parts = vec![part(1, 0, 2048, "raw"), part(2, 16_384, 16_625, "ext4-1k")];
    let grow = String::new();
    check(&Case { parts, tail: 6377, noisy_tail: true, more: 0, grow }, gpt)
}

fn mbr_with_logical(path: &Path, case: &Case) -> Result<()> {
    mbr(path, case, case.parts.len().min(2))
}

#[test]
fn loop_random_gpts() {
    cases(12, gpt, 4);
}

#[test]
fn loop_random_mbrs() {
    cases(6, mbr_with_logical, 5);
}

mod only_all {
    use super::*;

    #[test]
    fn loop_many_random_gpts() {
        cases(120, gpt, 9);
    }

    #[test]
    fn loop_many_random_mbrs() {
        cases(80, mbr_with_logical, 8);
    }
}
