//! ext filesystems after a pulled plug: the journal is replayed virtually as e2fsck replays it, and what is
//! saved of them has every file that was synchronized.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use image_core::fs::{State, ext};
use image_core::units::Bytes;
use keiki_tests::{call, pulled, run, sparse, tool, truth};
use tempfile::TempDir;

/// One way to make a journal, and what it then has to show.
struct Variant {
    /// For mke2fs.
    make: &'static str,
    /// For mount; commits only come from fsync.
    mount: &'static str,
    /// `Journal features` as dumpe2fs prints them, all of them.
    features: &'static str,
}

/// What has to be in the part of the log that waits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    Revokes,
    /// It goes on at the start of the ring.
    Wrap,
    Blocks,
}

fn mke2fs(image: &Path, options: &str, size: Bytes) -> Result<()> {
    sparse::create(image, size)?;
    let mut call = call!("mke2fs", "-q", "-F");
    call.args.extend(options.split_whitespace().map(Into::into));
    call.args.push(image.into());
    tool::run(&call).map(drop)
}

/// Folders that are deleted, and files that take their blocks while the journal still has the folders: without
/// revokes a replay would put folders into these files.
fn work(folder: &Path) -> Result<()> {
    let kept = folder.join(pulled::KEPT);
    for round in 0..3 {
        let doomed = folder.join("doomed");
        fs::create_dir(&doomed)?;
        for number in 0..60 {
            let inner = doomed.join(format!("a folder with a name long enough {number}"));
            fs::create_dir(&inner)?;
            for file in 0..20 {
                File::create(inner.join(format!("{file:0>120}")))?;
            }
        }
        pulled::write(&kept, &format!("before {round}"), 5000)?;
        fs::remove_dir_all(&doomed)?;
        pulled::write(&kept, &format!("between {round}"), 5000)?;
    }
    // To the last block: what was freed is used again.
    let mut file = File::create(kept.join("fills"))?;
    while file.write_all(&pulled::content("fills", 1 << 20)).is_ok() {}
    file.sync_all()?;
    file.set_len(6 << 20)?;
    Ok(file.sync_all()?)
}

/// Commits, until what waits of them begins near the end of the ring and goes on at its start.
fn wrap(folder: &Path, image: &Path) -> Result<()> {
    let kept = folder.join(pulled::KEPT);
    for number in 0..4000 {
        pulled::write(&kept, &format!("late {}", number % 50), 700 * (number % 9))?;
        if number % 8 == 0 && Log::of(image)?.wraps {
            return Ok(());
        }
    }
    bail!("the log never went on at its start")
}

impl Variant {
    fn check(&self, shows: Shows) -> Result<()> {
        let folder = TempDir::new()?;
        let image = folder.path().join("image");
        mke2fs(&image, self.make, Bytes::mib(48))?;
        let options = format!("commit=600,{}", self.mount);
        let tree = pulled::pull(&image, &options, |folder| match shows {
            Shows::Wrap => work(folder).and_then(|()| wrap(folder, &image)),
            Shows::Revokes | Shows::Blocks => work(folder),
        })?;
        ensure!(tree.len() > 6, "only {} files", tree.len());
        let filesystem = ext::probe(&truth::source(&image)?)?.context("no ext")?;
        assert_eq!(filesystem.state()?, State::Replayable);
        let log = Log::of(&image)?;
        assert_eq!(log.features, self.features);
        ensure!(log.revokes || shows != Shows::Revokes, "no revokes wait");
        ensure!(log.wraps || shows != Shows::Wrap, "the log does not go on at its start");
        compare_with_e2fsck(&image, &log, self.make.contains("meta_bg"))?;
        let used = filesystem.used()?;
        truth::check(&image, &used, |target| {
            repair(target)?;
            run!("e2fsck", "-fn", target)?;
            tree.expect(&pulled::kept(target)?)
        })?;
        // The kernel's own replay, without e2fsck before it.
        truth::check(&image, &used, |target| {
            tree.expect(&pulled::kept(target)?)?;
            run!("e2fsck", "-fn", target).map(drop)
        })
    }
}

/// `e2fsck -f -p` says with 1 that it corrected something: the counts in the superblock, at least.
fn repair(image: &Path) -> Result<()> {
    let outcome = tool::outcome(&call!("e2fsck", "-f", "-p", image))?;
    ensure!(matches!(outcome.code, Some(0 | 1)), "{:?}: {}", outcome.code, outcome.text());
    Ok(())
}

/// What other programs say of the journal.
struct Log {
    features: String,
    /// Block of the filesystem that holds the journal's superblock.
    at: u64,
    block_size: Bytes,
    revokes: bool,
    wraps: bool,
}

impl Log {
    fn of(image: &Path) -> Result<Self> {
        let text = run!("dumpe2fs", "-h", image)?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        // With -c it leaves the bitmaps alone, whose checksums wait in the journal.
        let log = run!("debugfs", "-c", "-R", "logdump", image)?;
        let numbers: Vec<u64> = log
            .lines()
            .filter(|line| line.starts_with("Found expected sequence"))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        Ok(Self {
            features: field("Journal features:").context("journal features")?,
            at: run!("debugfs", "-c", "-R", "bmap <8> 0", image)?.trim().parse()?,
            block_size: Bytes::new(field("Block size:").context("block size")?.parse()?),
            revokes: log.contains("(revoke table)"),
            wraps: !numbers.is_sorted(),
        })
    }
}

/// Every block that reads otherwise after the virtual replay, and every other one, is what e2fsck makes it;
/// but e2fsck also says in both superblocks that nothing waits any more, and with `meta_bg` it writes the
/// copies of descriptors.
fn compare_with_e2fsck(image: &Path, log: &Log, copies: bool) -> Result<()> {
    let judged = image.with_extension("judged");
    fs::copy(image, &judged)?;
    run!("e2fsck", "-p", "-E", "journal_only", &judged)?;
    let source = truth::source(image)?;
    let ours = ext::replayed(&source)?.context("no ext")?;
    let theirs = truth::source(&judged)?;
    let size = log.block_size.index().context("a block in memory")?;
    let superblock = 1024 / log.block_size.get();
    let (mut replayed, mut other) = (0, BTreeSet::new());
    for number in 0..source.size().units(log.block_size) {
        let at = Bytes::new(number * log.block_size.get());
        let [raw, our, their] = [&source, &ours, &theirs].map(|source| source.read(at, size));
        let (raw, our, their) = (raw?, our?, their?);
        replayed += u64::from(raw != our);
        if our != their && !(copies && raw == our) {
            other.insert(number);
        }
    }
    ensure!(other.is_subset(&[superblock, log.at].into()), "not as e2fsck: blocks {other:?}");
    ensure!(replayed > 2, "only {replayed} blocks were replayed");
    Ok(fs::remove_file(judged)?)
}

macro_rules! variants {
    ($($name:ident: $shows:ident, $make:expr, $mount:expr, $features:expr;)*) => {$(
        #[test]
        fn $name() -> Result<()> {
            Variant { make: $make, mount: $mount, features: $features }.check(Shows::$shows)
        }
    )*};
}

variants! {
    loop_checksums_v3: Revokes, "-t ext4 -b 4096 -J size=16", "rw",
        "journal_incompat_revoke journal_64bit journal_checksum_v3";
    loop_wrapped_in_blocks_of_1_kib: Wrap, "-t ext4 -b 1024 -J size=4", "rw",
        "journal_incompat_revoke journal_64bit journal_checksum_v3";
    loop_no_checksums_wrapped: Wrap, "-t ext4 -b 4096 -J size=4 -O ^metadata_csum,^64bit", "rw",
        "journal_incompat_revoke";
    loop_checksums_v1: Revokes, "-t ext4 -b 1024 -J size=8 -O ^metadata_csum", "journal_checksum",
        "journal_checksum journal_incompat_revoke journal_64bit";
    loop_ext3_in_blocks_of_1_kib: Revokes, "-t ext3 -b 1024 -J size=8", "rw", "journal_incompat_revoke";
}

mod only_all {
    use super::{Result, Shows, Variant};

    variants! {
        loop_blocks_of_2_kib: Revokes, "-t ext4 -b 2048 -J size=8", "rw",
            "journal_incompat_revoke journal_64bit journal_checksum_v3";
        loop_checksums_v3_without_64bit: Revokes, "-t ext4 -b 1024 -J size=8 -O ^64bit", "rw",
            "journal_incompat_revoke journal_checksum_v3";
        loop_async_commits: Revokes, "-t ext4 -b 4096 -J size=16", "data=writeback,journal_async_commit",
            "journal_incompat_revoke journal_64bit journal_async_commit journal_checksum_v3";
        loop_async_commits_with_checksums_v1: Revokes, "-t ext4 -b 1024 -J size=8 -O ^metadata_csum",
            "data=writeback,journal_async_commit",
            "journal_checksum journal_incompat_revoke journal_64bit journal_async_commit";
        loop_no_checksums_with_64bit: Revokes, "-t ext4 -b 1024 -J size=8 -O ^metadata_csum", "rw",
            "journal_incompat_revoke journal_64bit";
        loop_data_in_the_journal: Blocks, "-t ext4 -b 4096 -J size=16", "data=journal",
            "journal_64bit journal_checksum_v3";
        loop_bigalloc: Revokes, "-t ext4 -b 1024 -J size=8 -O bigalloc -C 4096", "rw",
            "journal_incompat_revoke journal_64bit journal_checksum_v3";
        loop_meta_bg: Revokes, "-t ext4 -b 1024 -g 1024 -J size=8 -O meta_bg,^resize_inode", "rw",
            "journal_incompat_revoke journal_64bit journal_checksum_v3";
        loop_uninit_bg: Revokes, "-t ext4 -b 1024 -J size=8 -O ^metadata_csum,uninit_bg,^64bit", "rw",
            "journal_incompat_revoke";
        loop_ext3_wrapped: Wrap, "-t ext3 -b 4096 -J size=4", "rw", "journal_incompat_revoke";
    }
}
