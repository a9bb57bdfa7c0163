//! Programs that do the same work, measured in turn: wall time, CPU time, memory and stored bytes.
//!
//! - [`results`]: ratios, goals, and a table of them. [`chart`]: bars of all cases.
//! - [`page`]: what was measured where, put into a page between two markers.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::units::Bytes;

use crate::second_save::size_of;
use crate::{call, run, tool};

pub mod chart;
pub mod page;
pub mod results;

pub use results::Results;

/// One way to do the work of a case.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// What a table calls it.
    pub name: &'static str,
    /// Whose it is.
    pub role: Role,
    /// For bash: it writes into the folder `$out`, which is what counts as stored, and `$aside`, which is not.
    pub script: &'static str,
    /// For bash: what has to be done before each run, and is not measured.
    pub before: &'static str,
    /// What is wanted.
    pub goals: &'static [Goal],
}

impl Way {
    /// A way of ours; the first of a case is the one that the peers are compared with.
    pub const fn own(name: &'static str, script: &'static str, goals: &'static [Goal]) -> Self {
        Self { name, role: Role::Own, script, before: "", goals }
    }

    /// What people would use instead.
    pub const fn peer(name: &'static str, script: &'static str, goals: &'static [Goal]) -> Self {
        Self { role: Role::Peer, ..Self::own(name, script, goals) }
    }

    /// A part of the work that nobody can do without.
    pub const fn floor(name: &'static str, script: &'static str, goals: &'static [Goal]) -> Self {
        Self { role: Role::Floor, ..Self::own(name, script, goals) }
    }

    /// The same with something to be done before each run.
    pub const fn after(self, before: &'static str) -> Self {
        Self { before, ..self }
    }
}

/// Whose way to do the work it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Ours.
    Own,
    /// Another program's.
    Peer,
    /// No program's: only what all of them have to do. Charts leave it out.
    Floor,
}

/// What is wanted of our first way beside another one, or of one of ours.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// Ours is at most this part of the other's.
    Part(Measure, f64),
    /// No process of it has more in memory.
    Memory(Bytes),
}

/// What is measured of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// Time from start to end.
    Wall,
    /// Time of all processes, user and system.
    Cpu,
    /// Bytes stored.
    Stored,
    /// The most that one of the processes had in memory.
    Memory,
}

impl Measure {
    /// All of them, in the order of a table's columns.
    pub const ALL: [Self; 4] = [Self::Wall, Self::Cpu, Self::Stored, Self::Memory];

    /// That of one run.
    pub fn of(self, cost: &Cost) -> f64 {
        match self {
            Self::Wall => cost.wall,
            Self::Cpu => cost.cpu,
            Self::Stored => cost.stored.get() as f64,
            Self::Memory => cost.memory.get() as f64,
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wall => "wall",
            Self::Cpu => "CPU",
            Self::Stored => "bytes",
            Self::Memory => "memory",
        })
    }
}

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Seconds from start to end.
    pub wall: f64,
    /// Seconds of all processes, user and system.
    pub cpu: f64,
    /// The most that one of its processes had in memory.
    pub memory: Bytes,
    /// By what `$out` grew.
    pub stored: Bytes,
}

/// Where programs are measured, and what their scripts know.
#[derive(Debug)]
pub struct Stand {
    /// `$run`, with `out` and `aside` in it, empty before each run.
    pub folder: PathBuf,
    /// Variables of the scripts.
    pub variables: Vec<(&'static str, PathBuf)>,
    /// Functions of the scripts.
    pub functions: &'static str,
}

impl Stand {
    /// Runs a script once, not measured, in empty folders.
    ///
    /// # Errors
    /// It fails.
    pub fn prepare(&self, script: &str) -> Result<()> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        for folder in [self.out(), self.folder.join("aside")] {
            fs::create_dir_all(folder)?;
        }
        self.run(script).map(drop)
    }

    /// All `ways` in turn, `rounds` times; each with cold caches if `cold` says so.
    ///
    /// # Errors
    /// One of them fails.
    pub fn compare(&self, ways: &[Way], rounds: usize, cold: bool) -> Result<Vec<Vec<Cost>>> {
        let round = || ways.iter().map(|way| self.measure(way, cold).context(way.name)).collect();
        (0..rounds).map(|_| round()).collect()
    }

    /// What others left to be written is written before, so that nobody waits for it.
    fn measure(&self, way: &Way, cold: bool) -> Result<Cost> {
        self.prepare(way.before)?;
        let before = size_of(&self.out())?;
        run!("sync")?;
        if cold {
            fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the caches")?;
        }
        let cost = self.run(way.script)?;
        let stored = size_of(&self.out())?;
        ensure!(stored >= before, "less is stored than before");
        Ok(Cost { stored: stored.saturating_sub(before), ..cost })
    }

    fn run(&self, script: &str) -> Result<Cost> {
        let report = self.folder.with_extension("time");
        let script = format!("set -e -o pipefail\n{}\n{script}", self.functions);
        let mut call =
            call!("/usr/bin/time", "-f", "%e %U %S %M", "-o", &report, "bash", "-c", script);
        for (name, value) in &self.variables {
            call = call.env(name, value);
        }
        let aside = self.folder.join("aside");
        for (name, value) in [("run", &self.folder), ("out", &self.out()), ("aside", &aside)] {
            call = call.env(name, value);
        }
        tool::run(&call)?;
        parse(&fs::read_to_string(&report)?).context("what time(1) says")
    }

    fn out(&self) -> PathBuf {
        self.folder.join("out")
    }
}

fn parse(report: &str) -> Option<Cost> {
    let mut words = report.split_whitespace();
    let mut next = || words.next()?.parse::<f64>().ok();
    let (wall, user, system) = (next()?, next()?, next()?);
    let memory = Bytes::kib(words.next()?.parse().ok()?);
    Some(Cost { wall, cpu: user + system, memory, stored: Bytes::ZERO })
}

/// The bytes that partclone says are in use in an ext4, one after another, in the file `out`.
///
/// # Errors
/// partclone fails.
pub fn used_bytes(image: &Path, out: &Path) -> Result<()> {
    let script = r#"partclone.ext4 -L /dev/null -c -a0 -s "$0" -o "$1" 2> /dev/null"#;
    run!("bash", "-c", script, image, out)?;
    Ok(())
}
