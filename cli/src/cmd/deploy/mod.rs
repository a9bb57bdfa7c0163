//! Restoring where nobody is asked, by an answer file: what a disc and a machine of a room have in common.
//!
//! - `consoles` the keys of all consoles. - `after` what comes after it.

pub mod after;
pub mod consoles;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use image_core::disk::inventory::{self, DiskInfo};
use image_core::extent::ExtentSet;
use image_core::image::hash::Hash;
use image_core::image::time::Timestamp;
use image_core::io::device::Device;
use image_core::repo::Location;
use image_core::restore::mark;
use image_core::units::Bytes;

use super::target::Candidate;
use crate::answers::Answers;
use crate::args::Cli;
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// Disks that are restored onto, as they were when they were looked at.
pub struct Onto {
    disks: Vec<DiskInfo>,
    /// The path of each, and what confirms it.
    targets: Vec<(String, String)>,
    words: String,
}

impl Onto {
    /// Looks at disks, refusing what may not be overwritten.
    ///
    /// # Errors
    /// [`image_core::error::Error::Refused`] naming the holder.
    pub fn look(disks: Vec<DiskInfo>) -> Result<Self> {
        let (mut targets, mut words) = (Vec::new(), String::new());
        for disk in &disks {
            let candidate = Candidate::look(&disk.path.display().to_string(), None)?;
            let answer = candidate.answers().into_iter().next().unwrap_or_default();
            targets.push((candidate.path.display().to_string(), answer));
            words += &format!("  {}\n", candidate.describe(&ExtentSet::new()));
        }
        Ok(Self { disks, targets, words })
    }

    /// What they are, and what is on them: a line each.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Restores onto them from the repository `repo`, makes the system start here and gives it a name where one is given, and
    /// marks the disks: so the same `order` is not carried out twice.
    ///
    /// # Errors
    /// The restore did not end, or a disk could not be marked.
    pub fn restore(
        &self,
        repo: &str,
        (answers, hostname): (&Answers, Option<&str>),
        order: &Marks,
        progress: &Progress,
    ) -> Result<Exit> {
        let restored = typed(repo, answers.restore(&self.targets), progress)?;
        ensure!(!matches!(restored, Exit::Damaged), "the restore did not end");
        let mut repaired = Exit::Done;
        if answers.repair || hostname.is_some() {
            let words = Answers::repair(&self.targets, hostname);
            repaired = typed(repo, words, progress).unwrap_or_else(|error| {
                // Not every image has a system that could be made to start here, and what is restored stays so.
                let step = format!("not repaired: {}", super::message(&error));
                output::talk(&step);
                progress.step(&step);
                Exit::StepsRemain
            });
        }
        // What could not be read of the source weighs more than what remains to be done.
        let exit = if restored == Exit::Done { repaired } else { restored };
        for (disk, candidate) in self.disks.iter().zip(&self.targets) {
            mark_done(disk, candidate, order.of(exit))?;
        }
        Ok(exit)
    }
}

/// What is noted on a disk once an order is carried out: another thing where something remains to be done.
pub struct Marks {
    clean: Hash,
    rest: Hash,
}

impl Marks {
    /// Those of an order, told from all others by this text.
    pub fn new(order: &str) -> Self {
        let [clean, rest] =
            ["clean", "rest"].map(|end| Hash::of(format!("{order}\0{end}").as_bytes()));
        Self { clean, rest }
    }

    fn of(&self, exit: Exit) -> &Hash {
        if exit == Exit::Done { &self.clean } else { &self.rest }
    }

    /// The first of the disks on which the order was carried out, when, and whether something remained to be done.
    ///
    /// # Errors
    /// A disk cannot be read.
    pub fn find<'a>(
        &self,
        disks: &'a [DiskInfo],
    ) -> Result<Option<(&'a DiskInfo, Timestamp, Exit)>> {
        for disk in disks {
            let source = Device::open_source(&disk.path, None)?;
            for exit in [Exit::Done, Exit::StepsRemain] {
                if let Some(at) = mark::find(&source, self.of(exit))? {
                    return Ok(Some((disk, at, exit)));
                }
            }
        }
        Ok(None)
    }
}

/// The disks that the rules mean; one that fits may come a little later.
pub fn chosen(answers: &Answers, patience: Duration) -> Result<Vec<DiskInfo>> {
    let began = Instant::now();
    loop {
        match answers.choose(&inventory::disks()?) {
            Ok(disks) => return Ok(disks.into_iter().cloned().collect()),
            Err(why) if began.elapsed() >= patience => bail!("the answer file: {why}"),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// Carries out a command as if a person had typed it.
pub fn typed(repo: &str, words: Vec<String>, progress: &Progress) -> Result<Exit> {
    let shown: Vec<&str> = words.iter().map(|word| output::short(word)).collect();
    output::talk(&format!("\nkeiki --repo {} {}\n", Location::from(repo), shown.join(" ")));
    super::run(&parsed(repo, words)?, progress)
}

pub fn parsed(repo: &str, words: Vec<String>) -> Result<Cli> {
    let first = ["keiki", "--repo", repo].map(str::to_owned);
    Cli::try_parse_from(first.into_iter().chain(words)).context("the answer file")
}

fn mark_done(disk: &DiskInfo, (path, _): &(String, String), order: &Hash) -> Result<()> {
    let advice = "it is restored, but that cannot be noted on it: it may be restored again";
    let info = inventory::describe(&disk.path)?;
    let device = Candidate::look(path, None)?.claim(
        info.size,
        info.sector_size.unwrap_or(Bytes::new(512)),
        None,
    )?;
    let marked = mark::put(&device, order).with_context(|| format!("{path}: {advice}"))?;
    ensure!(marked, "{path}: {advice}");
    Ok(())
}
