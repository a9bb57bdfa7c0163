//! XFS after a pulled plug: the kernel replays its log on an overlay, and what is then saved of it has every file
//! that was synchronized, replayed by the kernel again and judged by xfs_repair.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::fs::State;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::loops::Mount;
use keiki_tests::tree::Tree;
use keiki_tests::vg::Vg;
use keiki_tests::{call, garbage, pulled, run, sparse, tool, truth};
use tempfile::TempDir;

const SIZE: Bytes = Bytes::mib(96);
/// Of a record of the log.
const MAGIC: [u8; 4] = 0xFEED_BABE_u32.to_be_bytes();
const ORPHAN: &str = "orphan";

fn make(image: &Path, options: &str) -> Result<()> {
    sparse::create(image, SIZE)?;
    // Fewer than 300 MiB need the undocumented switch.
    let mut call = call!("mkfs.xfs", "-q", "-f", "--unsupported");
    call.args.extend(options.split_whitespace().map(Into::into));
    call.args.push(image.into());
    tool::run(&call).map(drop)
}

/// What is on the disk with a clean log before: folders to be deleted, and a file in so many pieces that its
/// extent map takes blocks.
fn before(image: &Path) -> Result<()> {
    let mount = Mount::new(image, Extent::first(SIZE), "rw")?;
    for number in 0..40 {
        let inner = mount.folder().join("doomed").join(format!("folder {number}"));
        fs::create_dir_all(&inner)?;
        for file in 0..30 {
            fs::write(inner.join(format!("{file:0>100}")), pulled::content("doomed", 9000))?;
        }
    }
    let orphan = File::create(mount.folder().join(ORPHAN))?;
    for piece in 0..1500 {
        orphan.write_all_at(&[0xAB; 4096], piece * 8192)?;
    }
    Ok(orphan.sync_all()?)
}

/// Deletes what was there, one file of it while it is open, and writes where it was. Returns that file.
fn work(folder: &Path) -> Result<File> {
    let kept = folder.join(pulled::KEPT);
    let orphan = File::open(folder.join(ORPHAN))?;
    fs::remove_file(folder.join(ORPHAN))?;
    for number in 0..300_usize {
        if number % 10 == 0 {
            fs::remove_dir_all(folder.join("doomed").join(format!("folder {}", number / 10)))?;
        }
        pulled::write(&kept, &format!("{number:0>60}"), number * 97)?;
    }
    Ok(orphan)
}

fn pull(image: &Path, options: &str) -> Result<Tree> {
    make(image, options)?;
    before(image)?;
    pulled::pull(image, "rw", work)
}

fn check(options: &str) -> Result<()> {
    let folder = TempDir::new()?;
    let image = folder.path().join("image");
    let tree = pull(&image, options)?;
    ensure!(tree.len() == 300, "{} files", tree.len());
    let bytes = blake3::hash(&fs::read(&image)?);
    let (state, used) = pulled::map_xfs(&image)?;
    ensure!(blake3::hash(&fs::read(&image)?) == bytes, "the source was written");
    assert_eq!(state, State::Replayable);
    ensure!(used.total().get() * 10 < SIZE.get() * 9, "{} bytes mapped", used.total().get());
    truth::check(&image, &used, |target| {
        tree.expect(&pulled::kept(target)?)?;
        run!("xfs_repair", "-n", target).map(drop)
    })
}

#[test]
fn loop_all_files_after_a_replay() -> Result<()> {
    check("-m reflink=1,rmapbt=1")
}

#[test]
fn loop_all_files_after_a_replay_in_blocks_of_1_kib() -> Result<()> {
    check("-b size=1024 -m rmapbt=0")
}

#[test]
fn loop_a_striped_logical_volume_over_two_disks() -> Result<()> {
    let bench = Bench::new()?;
    let image = bench.path("image");
    let tree = pull(&image, "")?;
    let sources = ["source0", "source1"].map(|name| bench.path(name));
    for source in &sources {
        sparse::create(source, Bytes::mib(61))?;
    }
    {
        let vg = Vg::create("vg0", &places(&sources)?)?;
        let striped = "-an -Zn -Wn --yes --type striped -i 2 -I 64 -n srv -L 96M vg0";
        vg.lvm("lvcreate", striped.split(' ').map(str::to_owned).collect())?;
        vg.put("srv", &image)?;
    }
    let saved = bench.save("striped", &sources)?;
    assert_eq!(saved["raw_volumes"], serde_json::json!([]));
    let shown = bench.run("show striped")?;
    let volumes = shown["volumes"].as_array().context("volumes")?;
    let lv = volumes.iter().find(|volume| volume["id"] == "vg0/srv").context("vg0/srv")?;
    assert_eq!(lv["state"], "replayable");
    let targets = ["target0", "target1"].map(|name| bench.path(name));
    for target in &targets {
        garbage::fill(target, Bytes::mib(61))?;
    }
    bench.restore("striped", &targets, "")?;
    let out = bench.path("out");
    Vg::open(&places(&targets)?)?.take("srv", &out)?;
    tree.expect(&pulled::kept(&out)?)?;
    run!("xfs_repair", "-n", &out).map(drop)
}

/// Whole files as physical volumes.
fn places(files: &[PathBuf]) -> Result<Vec<(PathBuf, Extent)>> {
    let place = |file: &PathBuf| {
        let size = Bytes::new(fs::metadata(file)?.len());
        Ok((file.clone(), Extent::first(size)))
    };
    files.iter().map(place).collect()
}

#[test]
fn loop_what_the_kernel_does_not_replay_is_saved_whole() -> Result<()> {
    let folder = TempDir::new()?;
    let image = folder.path().join("image");
    pull(&image, "")?;
    // A record of the log that is older than those that may have been torn when the plug was pulled.
    let bytes = fs::read(&image)?;
    let sectors = (0..).zip(bytes.chunks(512)).filter(|(_, sector)| sector.starts_with(&MAGIC));
    let mut records: Vec<(&[u8], u64)> =
        sectors.map(|(number, sector)| (&sector[16..24], number)).collect();
    records.sort_unstable();
    let (_, number) = records[records.len() - 60];
    let file = File::options().write(true).open(&image)?;
    file.write_all_at(&[0xFF; 100], (number + 1) * 512 + 64)?;
    let (state, used) = pulled::map_xfs(&image)?;
    let State::Raw(reason) = state else { anyhow::bail!("{state:?}") };
    ensure!(reason.starts_with("the log is dirty, and could not be replayed here: "), "{reason}");
    assert_eq!(used, Extent::first(SIZE).into());
    Ok(())
}
