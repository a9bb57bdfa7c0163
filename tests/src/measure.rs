//! Programs that do the same work, measured in turn: wall time, CPU time, memory and stored bytes.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image_core::units::Bytes;

use crate::second_save::size_of;
use crate::{call, run, tool};

/// One way to do the work of a case.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// What a table calls it.
    pub name: &'static str,
    /// For bash: it writes into the folder `$out`, and finds its input in other variables.
    pub script: &'static str,
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
    /// What is in `$out` afterwards.
    pub stored: Bytes,
}

/// What was measured in several rounds.
#[derive(Clone, Copy, Default, Debug)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Of these values.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or_default();
        let last = values.len().saturating_sub(1);
        Self { median: at(values.len() / 2), least: at(0), most: at(last) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} ({:.2} to {:.2})", self.median, self.least, self.most))
    }
}

/// Where programs are measured, and what their scripts know.
#[derive(Debug)]
pub struct Stand {
    /// The folder `$out`, empty before each run.
    pub out: PathBuf,
    /// Variables of the scripts.
    pub variables: Vec<(&'static str, PathBuf)>,
}

impl Stand {
    /// Runs a script once. What others left to be written is written before, so that nobody waits for it.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, script: &str) -> Result<Cost> {
        if self.out.exists() {
            fs::remove_dir_all(&self.out)?;
        }
        fs::create_dir_all(&self.out)?;
        run!("sync")?;
        let report = self.out.with_extension("time");
        let script = format!("set -e -o pipefail\n{script}");
        let mut call =
            call!("/usr/bin/time", "-f", "%e %U %S %M", "-o", &report, "bash", "-c", script)
                .env("out", &self.out)
                .env("RESTIC_PASSWORD", "none");
        for (name, value) in &self.variables {
            call = call.env(name, value);
        }
        tool::run(&call)?;
        let cost = parse(&fs::read_to_string(&report)?).context("what time(1) says")?;
        Ok(Cost { stored: size_of(&self.out)?, ..cost })
    }

    /// All `ways` in turn, `rounds` times: of each round the costs in their order.
    ///
    /// # Errors
    /// One of them fails.
    pub fn compare(&self, ways: &[Way], rounds: usize) -> Result<Vec<Vec<Cost>>> {
        let round = || ways.iter().map(|way| self.run(way.script).context(way.name)).collect();
        (0..rounds).map(|_| round()).collect()
    }
}

fn parse(report: &str) -> Option<Cost> {
    let mut words = report.split_whitespace();
    let mut next = || words.next()?.parse::<f64>().ok();
    let (wall, user, system) = (next()?, next()?, next()?);
    let memory = Bytes::kib(words.next()?.parse().ok()?);
    Some(Cost { wall, cpu: user + system, memory, stored: Bytes::ZERO })
}

/// A Markdown table of what [`Stand::compare`] measured; ratios are those of the first way to each other one, round by
/// round, and the median of these.
pub fn table(ways: &[Way], rounds: &[Vec<Cost>]) -> String {
    let mut text =
        "| | wall s | CPU s | memory | stored | our wall | our CPU | our bytes |\n".to_owned();
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for (at, way) in ways.iter().enumerate() {
        let of = |value: &dyn Fn(&Cost) -> f64| {
            Spread::of(rounds.iter().filter_map(|round| round.get(at)).map(value))
        };
        let ratio = |value: fn(&Cost) -> f64| {
            let ratio = ratio(rounds, at, value).median;
            if at > 0 && ratio.is_finite() { format!("{ratio:.2}") } else { String::new() }
        };
        let size = |value: &dyn Fn(&Cost) -> Bytes| {
            rounds.iter().filter_map(|round| round.get(at)).map(value).max().unwrap_or_default()
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            way.name,
            of(&|cost| cost.wall),
            of(&|cost| cost.cpu),
            size(&|cost| cost.memory),
            size(&|cost| cost.stored),
            ratio(|cost| cost.wall),
            ratio(|cost| cost.cpu),
            ratio(|cost| cost.stored.get() as f64),
        ));
    }
    text
}

/// What the first way takes of what the one at `at` takes.
pub fn ratio(rounds: &[Vec<Cost>], at: usize, value: fn(&Cost) -> f64) -> Spread {
    Spread::of(rounds.iter().filter_map(|round| {
        let (own, other) = (round.first()?, round.get(at)?);
        Some(value(own) / value(other))
    }))
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
