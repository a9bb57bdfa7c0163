//! What was measured where, for a page that is written by hand around it.

use std::fs;
use std::thread;

use anyhow::{Context, Result, ensure};
use image_core::exec::Call;
use image_core::units::Bytes;

use super::Results;
use crate::{run, tool};

const START: &str = "<!-- measured -->";
const END: &str = "<!-- /measured -->";

/// The page `text` with `measured` in the place of what stands between its markers.
///
/// # Errors
/// It has not exactly one of each, in order.
pub fn with_measured(text: &str, measured: &str) -> Result<String> {
    let once = |marker: &str| ensure_once(text, marker);
    let (start, end) = (once(START)? + START.len(), once(END)?);
    ensure!(start <= end, "{END} stands before {START}");
    let (before, after) = (text.get(..start), text.get(end..));
    let (before, after) = before.zip(after).context("a page")?;
    Ok(format!("{before}\n{}\n{after}", measured.trim_end()))
}

fn ensure_once(text: &str, marker: &str) -> Result<usize> {
    let mut places = text.match_indices(marker);
    let place = places.next().with_context(|| format!("the page has no {marker}"))?;
    ensure!(places.next().is_none(), "the page has {marker} twice");
    Ok(place.0)
}

/// When and where `results` were measured, beside which programs (each with the option that asks for its version), all
/// tables, and the goals that were missed.
///
/// # Errors
/// A program is missing, or the machine says nothing of itself.
pub fn measured(results: &[Results], programs: &[(&str, &str)]) -> Result<String> {
    let versions = programs.iter().map(|(program, option)| {
        let name = program.split('.').next().unwrap_or(program);
        Ok(format!("{name} {}", version(program, option)?))
    });
    let versions = versions.collect::<Result<Vec<_>>>()?.join(", ");
    let date = run!("date", "-u", "+%F")?;
    let rounds = results.iter().map(|results| results.rounds.len()).max().unwrap_or_default();
    let mut text = format!("{}, {rounds} rounds, on {}.\n\n{versions}.\n", date.trim(), machine()?);
    text.push_str(
        "\n![Wall and CPU time of keiki as parts of those of other programs](benchmarks.svg)\n",
    );
    for results in results {
        text.push_str(&format!("\n## {}\n\n{}", results.title, results.table()));
    }
    text.push_str("\n## Missed goals\n\n");
    let missed: Vec<String> = results.iter().flat_map(Results::missed).collect();
    missed.iter().for_each(|line| text.push_str(&format!("- {line}\n")));
    if missed.is_empty() {
        text.push_str("None.\n");
    }
    Ok(text)
}

/// Processor, cores, memory, kernel and system.
fn machine() -> Result<String> {
    let field = |path: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.with_context(|| format!("{path} has no {name}"))?;
        Ok(value.trim_matches([' ', '\t', ':', '=', '"']).to_owned())
    };
    let memory = field("/proc/meminfo", "MemTotal")?;
    let memory = memory.trim_end_matches(" kB").parse().context("the size of the memory")?;
    // Behind the first - stands who built it.
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "{} cores ({}), {} of memory, Linux {}, {}",
        thread::available_parallelism()?,
        // Not every architecture names it.
        field("/proc/cpuinfo", "model name").unwrap_or_else(|_| "unknown processor".to_owned()),
        Bytes::kib(memory),
        kernel.split('-').next().unwrap_or(&kernel).trim(),
        field("/etc/os-release", "PRETTY_NAME")?,
    ))
}

fn version(program: &str, option: &str) -> Result<String> {
    let outcome = tool::outcome(&Call::new(program, [option]))?;
    let said = format!("{} {}", outcome.text(), outcome.talk());
    number(&said).with_context(|| format!("{program} says no version"))
}

/// The first word that is a version.
fn number(said: &str) -> Option<String> {
    let mut words = said.split_whitespace().map(|word| word.trim_start_matches('v'));
    let word = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(word.trim_end_matches(',').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::results::tests::results;

    #[test]
    fn what_stands_between_the_markers_is_replaced() {
        let page = |inside: &str| format!("# Page\n\n{START}\n{inside}\n{END}\n\nBy hand.\n");
        assert_eq!(with_measured(&page("old\n## A"), "new\n\n").unwrap(), page("new"));
        assert_eq!(
            with_measured(&format!("{START}{END}"), "x").unwrap(),
            format!("{START}\nx\n{END}")
        );
        for (wrong, word) in [
            (format!("{START} {START} {END}"), "twice"),
            (format!("{END} {START}"), "before"),
            (format!("{START} x"), "has no"),
        ] {
            let error = with_measured(&wrong, "x").unwrap_err().to_string();
            assert!(error.contains(word), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_page_says_where_and_beside_what() {
        let text = measured(&[results()], &[("bash", "--version")]).unwrap();
        for part in ["3 rounds", "cores (", "bash ", "## A case\n\n| |", "- A case: ours takes"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("Partclone : v0.3.23 (cff7) ", "0.3.23"),
            ("*** Zstandard CLI (64-bit) v1.5.4, by Yann", "1.5.4"),
            ("fsarchiver 0.8.7 (2023-03-19)", "0.8.7"),
            ("casync 2\n+FUSE", "2"),
        ] {
            assert_eq!(number(said).as_deref(), Some(version));
        }
    }
}
