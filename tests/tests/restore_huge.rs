//! Disks far larger than what is on them: time and memory follow the used bytes.

#![allow(clippy::print_stdout, reason = "a test says what it did")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::{self, Bench};
use keiki_tests::loops::Mount;
use keiki_tests::{call, judge, run, sparse, table, tool};

/// The most memory that a save or a restore may take.
const MEMORY: Bytes = Bytes::mib(400);
/// A test that reads what is not there would take hours; this is no measure of speed.
const HANGS: Duration = Duration::from_secs(240);

/// Runs keiki; how long it took. It stays below [`MEMORY`].
fn measured(bench: &Bench, line: &str) -> Result<Duration> {
    let keiki = bench.call(line);
    let report = bench.path("memory");
    let mut call: Call = call!("/usr/bin/time", "--format", "%M", "--output", &report);
    call.args.push(keiki.program);
    call.args.extend(keiki.args);
    let began = Instant::now();
    tool::run(&call)?;
    let took = began.elapsed();
    let peak = Bytes::kib(fs::read_to_string(&report)?.trim().parse()?);
    println!("{took:.1?}, {peak} of memory: {line}");
    ensure!(peak < MEMORY, "{line}: {peak} of memory");
    ensure!(took < HANGS, "{line}: took {took:?}");
    Ok(took)
}

/// A GPT disk: ext4, XFS, and a partition of unknown content, of these sizes in GiB, with `used` MiB in each
/// filesystem and a few pieces in the unknown one.
fn disk(path: &Path, gib: [u64; 3], used: usize) -> Result<()> {
    sparse::create(path, Bytes::gib(gib.iter().sum::<u64>() + 1))?;
    for size in gib {
        run!("sgdisk", format!("--new=0:0:+{size}G"), path)?;
    }
    let parts = table::partitions(path)?;
    let [ext4, xfs, raw] = parts.as_slice() else { anyhow::bail!("{parts:?}") };
    let image = path.with_extension("part");
    let ext4_options = "-q -F -t ext4 -N 200000 -J size=16";
    let xfs_options = "-q -f -l size=64m";
    for (program, options, extent) in
        [("mke2fs", ext4_options, ext4), ("mkfs.xfs", xfs_options, xfs)]
    {
        sparse::create(&image, extent.len())?;
        let mut make = Call::new(program, options.split(' '));
        make.args.push(image.clone().into());
        tool::run(&make)?;
        {
            let mount = Mount::new(&image, Extent::first(extent.len()), "rw")?;
            for number in 0..used / 8 {
                let mut bytes = vec![0; 8 << 20];
                blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
                fs::write(mount.folder().join(format!("file {number}")), bytes)?;
            }
        }
        sparse::copy(&image, Extent::first(extent.len()), path, extent.start)?;
    }
    fs::remove_file(&image)?;
    let file = File::options().write(true).open(path)?;
    for place in pieces(*raw) {
        file.write_all_at(&[0x4b; 5000], place.get())?;
    }
    Ok(())
}

/// Where the partition of unknown content is not zero.
fn pieces(raw: Extent) -> [Bytes; 3] {
    let middle = Bytes::new(raw.len().get() / 2).align_down(Bytes::KIB);
    [raw.start, raw.start + middle + Bytes::KIB, raw.end - Bytes::kib(8)]
}

/// Saves and restores `source`, onto a file of its size and onto a larger one; the longest time.
fn round(bench: &Bench, source: &Path) -> Result<Duration> {
    let name = source.file_name().and_then(|name| name.to_str()).context("a name")?;
    let mut longest = measured(bench, &format!("save ./{name} --name {name}"))?;
    let size = Bytes::new(fs::metadata(source)?.len());
    let target: PathBuf = bench.path("target");
    let facts = small_facts(source)?;
    for more in [Bytes::ZERO, Bytes::gib(10)] {
        sparse::create(&target, size + more)?;
        let line = bench::restore(name, std::slice::from_ref(&target), "--grow d0:1=rest");
        let line = if more.is_zero() { line.replace("--grow d0:1=rest", "") } else { line };
        longest = longest.max(measured(bench, &line)?);
        judge::table(&target)?;
        ensure!(facts == small_facts(&target)?, "{name}: what is on it changed");
    }
    fs::remove_file(&target)?;
    Ok(longest)
}

/// The files, and the known pieces of the unknown partition: it is too large to be hashed.
fn small_facts(disk: &Path) -> Result<(Vec<keiki_tests::tree::Tree>, Vec<u8>)> {
    let parts = table::partitions(disk)?;
    let [ext4, xfs, raw] = parts.as_slice() else { anyhow::bail!("{parts:?}") };
    let mut trees = Vec::new();
    for (extent, options) in [(ext4, "ro,noload"), (xfs, "ro,norecovery,nouuid")] {
        trees.push(keiki_tests::tree::Tree::of(Mount::new(disk, *extent, options)?.folder())?);
    }
    let file = File::open(disk)?;
    let mut bytes = Vec::new();
    for place in pieces(*raw) {
        let mut piece = vec![0; 6000];
        file.read_exact_at(&mut piece, place.get())?;
        bytes.extend(piece);
    }
    Ok((trees, bytes))
}

#[test]
fn loop_a_disk_of_4_tib_takes_the_time_of_what_is_on_it() -> Result<()> {
    let bench = Bench::new()?;
    let [small, huge] = ["small", "huge"].map(|name| bench.path(name));
    disk(&small, [2, 2, 1], 32)?;
    disk(&huge, [1024, 1024, 2048], 32)?;
    let [small, huge] = [round(&bench, &small)?, round(&bench, &huge)?];
    // No measure of speed: reading 4 TiB takes an hour.
    ensure!(huge < small * 20 + Duration::from_secs(60), "{small:?} became {huge:?}");
    Ok(())
}

mod only_all {
    use super::*;

    /// Files of ext4 end below 16 TiB, and one of the targets is 10 GiB larger.
    #[test]
    fn loop_16_tib_with_1_gib_in_use() -> Result<()> {
        let bench = Bench::new()?;
        let huge = bench.path("huge");
        disk(&huge, [6144, 4096, 6130], 512)?;
        round(&bench, &huge).map(drop)
    }
}
