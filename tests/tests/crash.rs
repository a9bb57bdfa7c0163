//! A busy ext4 or XFS whose disk is cut off at random moments: what is mapped of what is left has every file
//! whose fsync had returned.
#![allow(clippy::print_stdout, reason = "a test says what it did, and by which seed")]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use image_core::extent::{Extent, ExtentSet};
use image_core::fs::{State, ext};
use image_core::units::Bytes;
use keiki_tests::loops::Mount;
use keiki_tests::recorder::Recorder;
use keiki_tests::{call, pulled, run, sparse, tool, truth};
use tempfile::TempDir;

const SIZE: Bytes = Bytes::mib(64);

/// Numbers without rhyme, the same for the same seed.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn new(seed: &str) -> Self {
        Self(blake3::Hasher::new().update(seed.as_bytes()).finalize_xof())
    }

    fn below(&mut self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % limit as u64) as usize
    }
}

/// Files whose fsync returned, by name: at which moment, and how long they are.
type Kept = BTreeMap<String, (usize, usize)>;

/// One of them.
type Due<'a> = (&'a String, &'a (usize, usize));

/// Files are written and synchronized one after the other, none of them ever touched again.
fn keep(folder: &Path, disk: &Recorder, numbers: &mut Numbers, count: usize) -> Result<Kept> {
    let mut kept = Kept::new();
    for number in 0..count {
        let inner = folder.join(format!("{}", number / 40));
        fs::create_dir_all(&inner)?;
        let name = format!("{}/{number}", number / 40);
        let length = numbers.below(40_000);
        let mut file = File::create(folder.join(&name))?;
        file.write_all(&pulled::content(&name, length))?;
        file.sync_all()?;
        kept.insert(name, (disk.moment(), length));
    }
    Ok(kept)
}

/// Makes, fills, cuts, renames and deletes files and folders until `done`.
fn churn(folder: &Path, numbers: &mut Numbers, done: &AtomicBool) -> Result<()> {
    let mut turn = 0;
    while !done.load(Ordering::Relaxed) {
        turn += 1;
        let inner = folder.join(format!("{}", numbers.below(6)));
        match numbers.below(12) {
            0 => drop(fs::remove_dir_all(&inner)),
            1 => drop(fs::rename(&inner, folder.join(format!("{}", numbers.below(6))))),
            2 => drop(fs::create_dir_all(inner.join(format!("deep/{turn}")))),
            _ => {
                fs::create_dir_all(&inner)?;
                let path = inner.join(format!("{:0>90}", numbers.below(60)));
                let mut file = OpenOptions::new().append(true).create(true).open(path)?;
                file.write_all(&vec![0xAB; numbers.below(30_000)])?;
                file.set_len(numbers.below(60_000) as u64)?;
                if numbers.below(10) == 0 {
                    file.sync_all()?;
                }
            }
        }
    }
    Ok(())
}

/// A disk with an ext4 that was worked on.
struct Worked {
    disk: Recorder,
    kept: Kept,
    /// The moment when work ended and unmounting began.
    ended: usize,
}

/// How one kind of filesystem is made, mapped and judged.
struct Kind {
    /// The command that makes it, without its last argument.
    make: &'static str,
    mount: &'static str,
    /// What reaches the disk whole or not at all.
    grain: usize,
    map: fn(&Path) -> Result<(State, ExtentSet)>,
    /// Replays the log, or mends, before the kernel sees it.
    replay: Option<fn(&Path) -> Result<()>>,
    check: fn(&Path) -> Result<()>,
}

impl Kind {
    fn ext4(make: &'static str, grain: usize) -> Self {
        let check = |target: &Path| run!("e2fsck", "-fn", target).map(drop);
        Self { make, mount: "commit=1", grain, map: map_ext, replay: Some(repair), check }
    }

    fn xfs(make: &'static str) -> Self {
        let check = |target: &Path| run!("xfs_repair", "-n", target).map(drop);
        Self { make, mount: "rw", grain: 4096, map: pulled::map_xfs, replay: None, check }
    }
}

fn map_ext(image: &Path) -> Result<(State, ExtentSet)> {
    let filesystem = ext::probe(&truth::source(image)?)?.context("no ext")?;
    Ok((filesystem.state()?, filesystem.used()?))
}

/// A disk with a filesystem that was worked on, and what was synchronized on it when.
fn worked_on(kind: &Kind, seed: &str) -> Result<Worked> {
    let folder = TempDir::new()?;
    let image = folder.path().join("image");
    sparse::create(&image, SIZE)?;
    let mut words = kind.make.split_whitespace();
    let mut call = call!(words.next().context("a program")?);
    call.args.extend(words.map(Into::into));
    call.args.push((&image).into());
    tool::run(&call)?;
    let disk = Recorder::new(fs::read(&image)?);
    let (kept, ended) = disk.mounted(kind.mount, |folder| {
        let [keeps, churns] = ["keep", "churn"].map(|name| folder.join(name));
        fs::create_dir(&keeps)?;
        fs::create_dir(&churns)?;
        let (numbers, done) =
            (|what: &str| Numbers::new(&format!("{seed} {what}")), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let churner = scope.spawn(|| churn(&churns, &mut numbers("churn"), &done));
            let kept = keep(&keeps, &disk, &mut numbers("keep"), 300);
            done.store(true, Ordering::Relaxed);
            churner.join().map_err(|_| anyhow::anyhow!("churning panicked"))??;
            Ok((kept?, disk.moment()))
        })
    })?;
    Ok(Worked { disk, kept, ended })
}

/// Cuts at `count` moments. The seed decides the work and the cuts, but the kernel writes when it likes to: what
/// fails is kept.
fn check(kind: &Kind, count: usize) -> Result<()> {
    let seed = std::env::var("KEIKI_SEED").unwrap_or_else(|_| "crash".to_owned());
    println!("{}, KEIKI_SEED={seed}", kind.make);
    let Worked { disk, kept, ended } = worked_on(kind, &seed)?;
    let mut numbers = Numbers::new(&format!("{seed} {}", kind.make));
    let events = disk.moment();
    let mut moments: Vec<usize> = (0..count).map(|_| numbers.below(events)).collect();
    moments.sort_unstable();
    let mut coin = Numbers::new(&format!("{seed} {} coin", kind.make));
    // None, some or all of it: in whatever order the disk wrote.
    let arrives = |moment| coin.below(4) < moment % 5;
    let (mut replayable, mut due_in_all) = (0, 0);
    let folder = TempDir::new()?;
    let image = folder.path().join("image");
    disk.cut(&moments, kind.grain, arrives, |moment, bytes| {
        fs::write(&image, bytes)?;
        let due: Vec<_> = kept.iter().filter(|(_, (when, _))| *when <= moment).collect();
        due_in_all += due.len();
        let result = check_cut(kind, &image, &due, moment % 2 == 0).and_then(|state| {
            // Clean it is before the first flush of its first mount, and again when it was unmounted.
            let may_be_clean = due.is_empty() || moment > ended;
            ensure!(
                state == State::Replayable || state == State::Clean && may_be_clean,
                "{state:?}"
            );
            Ok(state)
        });
        replayable += usize::from(matches!(result, Ok(State::Replayable)));
        result.map(drop).with_context(|| {
            let name = format!("cut-{}-{moment}", kind.make.split(' ').next().unwrap_or_default());
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            let copied = fs::write(&kept, bytes);
            let due = due.len();
            format!("cut at {moment} of {events}, {due} files due; {} {copied:?}", kept.display())
        })
    })?;
    println!("{count} cuts of {events} events, {replayable} replayable, {due_in_all} files due");
    // Each that was clean was allowed to be; of few cuts, one or two fall there.
    ensure!(replayable * 2 > count, "hardly a journal waited");
    Ok(())
}

/// What is mapped of a cut disk has every file that is `due`.
fn check_cut(kind: &Kind, image: &Path, due: &[Due<'_>], by_kernel: bool) -> Result<State> {
    let (state, used) = (kind.map)(image)?;
    truth::check(image, &used, |target| judge(kind, target, due, by_kernel))?;
    Ok(state)
}

/// Every file that is `due` is there, the journal being replayed by the kernel or by the kind's own tool before.
fn judge(kind: &Kind, target: &Path, due: &[Due<'_>], by_kernel: bool) -> Result<()> {
    if let Some(replay) = kind.replay.filter(|_| !by_kernel) {
        replay(target)?;
    }
    {
        let mount = Mount::new(target, Extent::first(SIZE), "rw")?;
        for (name, (_, length)) in due {
            let found = fs::read(mount.folder().join("keep").join(name))
                .with_context(|| (*name).clone())?;
            ensure!(found == pulled::content(name, *length), "{name} is not what it was");
        }
    }
    if let Some(replay) = kind.replay.filter(|_| by_kernel) {
        replay(target)?;
    }
    (kind.check)(target)
}

/// `e2fsck -f -p` says with 1 that it corrected something, as it may.
fn repair(target: &Path) -> Result<()> {
    let outcome = tool::outcome(&call!("e2fsck", "-f", "-p", target))?;
    ensure!(matches!(outcome.code, Some(0 | 1)), "{:?}: {}", outcome.code, outcome.text());
    Ok(())
}

// A small journal goes round many times.
const EXT4_1_KIB: &str = "mke2fs -q -F -t ext4 -b 1024 -O metadata_csum -J size=2";
const EXT4_4_KIB: &str = "mke2fs -q -F -t ext4 -b 4096 -O metadata_csum -J size=4";
// Fewer than 300 MiB need the undocumented switch.
const XFS: &str = "mkfs.xfs -q -f --unsupported -m rmapbt=1";

#[test]
fn loop_a_few_cuts_of_ext4_in_blocks_of_1_kib() -> Result<()> {
    check(&Kind::ext4(EXT4_1_KIB, 1024), 8)
}

#[test]
fn loop_a_few_cuts_of_ext4_in_blocks_of_4_kib() -> Result<()> {
    check(&Kind::ext4(EXT4_4_KIB, 4096), 8)
}

#[test]
fn loop_a_few_cuts_of_xfs() -> Result<()> {
    check(&Kind::xfs(XFS), 8)
}

mod only_all {
    use super::{EXT4_1_KIB, EXT4_4_KIB, Kind, Result, XFS, check};

    #[test]
    fn loop_200_cuts_of_ext4_in_blocks_of_1_kib() -> Result<()> {
        check(&Kind::ext4(EXT4_1_KIB, 1024), 200)
    }

    #[test]
    fn loop_200_cuts_of_ext4_in_blocks_of_4_kib() -> Result<()> {
        check(&Kind::ext4(EXT4_4_KIB, 4096), 200)
    }

    #[test]
    fn loop_200_cuts_of_xfs() -> Result<()> {
        check(&Kind::xfs(XFS), 200)
    }
}
