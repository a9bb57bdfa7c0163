//! The table in docs/RELIABILITY.md: made from what was seen, and compared with it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keiki_tests::scenes::Scene;
use keiki_tests::sources;

use crate::troubles::TROUBLES;
use crate::{Cell, Column};

const BEGIN: &str = "<!-- made by the test `reliability`: see above -->\n";
const END: &str = "<!-- until here -->\n";
const ADVICE: &str = "KEIKI_RELIABILITY=write cargo test --workspace --test reliability only_all";

fn path() -> PathBuf {
    sources::workspace().join("docs/RELIABILITY.md")
}

/// The document, and where the tables are in it.
fn document() -> Result<(String, std::ops::Range<usize>)> {
    let text = fs::read_to_string(path())?;
    let start = text.find(BEGIN).context("no beginning of the tables")? + BEGIN.len();
    let end = text.find(END).context("no end of the tables")?;
    Ok((text, start..end))
}

/// What was seen stands there: these codes are among those, with the same words.
pub fn contains(scene: Scene, seen: &Column) -> Result<()> {
    let (text, tables) = document()?;
    let tables = &text[tables];
    for (number, trouble) in TROUBLES.iter().enumerate() {
        let begins = format!("| {} | {} |", scene.name, trouble.name());
        let row = tables.lines().find(|line| line.starts_with(&begins));
        let Some(cell) = seen.get(&number) else {
            ensure!(row.is_none(), "{begins} does not happen\n{ADVICE}");
            continue;
        };
        let row = row.with_context(|| format!("{begins} {cell:?} is not there\n{ADVICE}"))?;
        let mut fields = row[begins.len()..].split('|').map(str::trim);
        let codes: BTreeSet<&str> = fields.next().unwrap_or_default().split(' ').collect();
        let new = cell.codes.iter().find(|code| !codes.contains(code.to_string().as_str()));
        ensure!(new.is_none(), "{begins} it ended with {new:?}: {}\n{ADVICE}", cell.words);
        let words = fields.next().unwrap_or_default();
        ensure!(words == as_field(cell), "{begins}\n{}, not\n{words}\n{ADVICE}", as_field(cell));
    }
    Ok(())
}

/// What was seen is what stands there, or is written there now.
pub fn is(seen: &[(Scene, Column)]) -> Result<()> {
    let (mut text, tables) = document()?;
    let made = made(seen);
    if std::env::var("KEIKI_RELIABILITY").is_ok_and(|what| what == "write") {
        text.replace_range(tables, &made);
        return Ok(fs::write(path(), text)?);
    }
    let different = text[tables.clone()].lines().zip(made.lines()).find(|(old, new)| old != new);
    ensure!(text[tables] == made, "docs/RELIABILITY.md: {different:?}\n{ADVICE}");
    Ok(())
}

fn made(seen: &[(Scene, Column)]) -> String {
    let mut text = String::from("\n| |");
    for (scene, _) in seen {
        let _ = write!(text, " {} |", scene.name);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(seen.len()));
    for (number, trouble) in TROUBLES.iter().enumerate() {
        let _ = write!(text, "| {} |", trouble.name());
        for (_, column) in seen {
            let codes = column.get(&number).map_or("-".to_owned(), codes);
            let _ = write!(text, " {codes} |");
        }
        text.push('\n');
    }
    text += "\n| verb | trouble | ends | what is read when it begins with the first call |\n|---|---|---|---|\n";
    for (scene, column) in seen {
        for (number, cell) in column {
            let name = TROUBLES.get(*number).map(crate::Trouble::name).unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {name} | {} | {} |",
                scene.name,
                codes(cell),
                as_field(cell)
            );
        }
    }
    text.push('\n');
    text
}

fn codes(cell: &Cell) -> String {
    cell.codes.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

fn as_field(cell: &Cell) -> String {
    cell.words.replace('|', "/").replace('\n', "<br>")
}
