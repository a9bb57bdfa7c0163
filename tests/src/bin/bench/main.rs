//! Compares the time, memory and bytes of saves, restores and maps with those of other programs, in one run and in turn,
//! and writes docs/BENCHMARKS.md. `cases` has the cases, `corpus` what they work on, `floor` what nobody can do
//! without.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use keiki_tests::measure::{Results, Stand, Way, chart, page};
use keiki_tests::{fixtures, sources};

use cases::{CASES, Case, FUNCTIONS, PROGRAMS};
use corpus::{Made, Maker, Source};

mod cases;
mod corpus;
mod floor;

const USAGE: &str = "usage: bench KEIKI [--quick] [--case NAME]... [--from FOLDER]
       bench --floor LEVEL FILE

  --quick        small sizes, one round, no goals: tries the benchmark itself
  --case NAME    only this case
  --from FOLDER  whose files are saved (/usr)

Only a run of all cases that is not quick changes docs; the others leave the page in the target folder, in bench.";

/// What the arguments ask for.
struct Wanted {
    keiki: PathBuf,
    quick: bool,
    cases: Vec<String>,
    from: PathBuf,
}

impl Wanted {
    fn parse(keiki: String, mut args: impl Iterator<Item = String>) -> Result<Self> {
        let keiki = fs::canonicalize(&keiki).with_context(|| format!("no {keiki}\n{USAGE}"))?;
        let mut wanted = Self { keiki, quick: false, cases: Vec::new(), from: "/usr".into() };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} of what?\n{USAGE}"));
            match arg.as_str() {
                "--quick" => wanted.quick = true,
                "--case" => wanted.cases.push(value()?),
                "--from" => wanted.from = value()?.into(),
                _ => bail!("{arg}?\n{USAGE}"),
            }
        }
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        for name in &wanted.cases {
            ensure!(names.contains(&name.as_str()), "no case {name}; there are {names:?}");
        }
        Ok(wanted)
    }

    fn has(&self, case: &Case) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|name| name == case.name)
    }

    /// Where the page goes, and the chart beside it.
    fn folder(&self) -> Result<PathBuf> {
        if self.cases.is_empty() && !self.quick {
            return Ok(sources::workspace().join("docs"));
        }
        let folder = fixtures::folder()?.with_file_name("bench");
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

fn main() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let first = args.next().context(USAGE)?;
    if first == "--floor" {
        let level = args.next().and_then(|level| level.parse().ok()).context("which level?")?;
        floor::floor(level, Path::new(&args.next().context("which file?")?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = Wanted::parse(first, args)?;
    let maker = Maker { from: wanted.from.clone(), divisor: if wanted.quick { 8 } else { 1 } };
    let mut all = Vec::new();
    for source in Source::ALL {
        let cases: Vec<_> =
            CASES.iter().filter(|case| case.on == source && wanted.has(case)).collect();
        if cases.is_empty() {
            continue;
        }
        let stand = Measured::new(maker.make(source)?, &wanted.keiki)?;
        for case in cases {
            let results = stand.compare(case, wanted.quick).context(case.name)?;
            say(&format!("## {}\n\n{}", results.title, results.table()))?;
            all.push(results);
        }
    }
    write(&wanted.folder()?, &all)?;
    let missed: Vec<String> = all.iter().flat_map(Results::missed).collect();
    if missed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("Missed goals:\n{}", missed.join("\n")))?;
    Ok(ExitCode::FAILURE)
}

/// A source, and where it is measured.
struct Measured {
    stand: Stand,
    _source: Made,
}

impl Measured {
    fn new(source: Made, keiki: &Path) -> Result<Self> {
        let folder = source.folder.path();
        let mut variables = source.variables.clone();
        variables.push(("keiki", keiki.to_owned()));
        variables.push(("bench", std::env::current_exe()?));
        variables.push(("saved", folder.join("saved")));
        let stand = Stand { folder: folder.join("run"), variables, functions: FUNCTIONS };
        Ok(Self { stand, _source: source })
    }

    fn compare(&self, case: &Case, quick: bool) -> Result<Results> {
        let mut ways = case.ways.to_vec();
        let mut rounds = 3;
        if quick {
            ways = ways.into_iter().map(|way| Way { goals: &[], ..way }).collect();
            rounds = 1;
        }
        self.stand.prepare(case.prepare)?;
        let rounds = self.stand.compare(&ways, rounds, case.cold)?;
        Ok(Results { title: case.title.to_owned(), ways, rounds })
    }
}

/// The page that is kept, with `results` in it, and their chart.
fn write(folder: &Path, results: &[Results]) -> Result<()> {
    let kept = fs::read_to_string(sources::workspace().join("docs/BENCHMARKS.md"))?;
    let text = page::with_measured(&kept, &page::measured(results, &PROGRAMS)?)?;
    fs::write(folder.join("benchmarks.svg"), chart::svg(results))?;
    fs::write(folder.join("BENCHMARKS.md"), text)?;
    say(&format!("{} is written.", folder.join("BENCHMARKS.md").display()))
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
