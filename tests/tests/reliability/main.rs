//! Every fault on every verb of the program: how it ends, what a person reads, and that nothing was lost by it.
//!
//! What is seen stands in docs/RELIABILITY.md, and is compared with it. The quick tests try each fault at two of the
//! calls that it may hit; `only_all` at many, and writes the table anew where `KEIKI_RELIABILITY=write` says so.

mod table;
mod troubles;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use image_core::exec::Outcome;
use image_core::image::time::Timestamp;
use keiki_tests::faults::Faulty;
use keiki_tests::scenes::{self, Expected, Scene, Stage};
use keiki_tests::tool;

use troubles::{TROUBLES, Trouble};

/// How a verb ends in trouble.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Cell {
    /// The exit codes that were seen, whichever call was hit.
    codes: BTreeSet<i32>,
    /// What was read when the first call was hit.
    words: String,
}

/// The cells of one verb, by trouble; no cell where the verb makes no such call.
type Column = BTreeMap<usize, Cell>;

/// Tries every trouble on `scene`, at `points` calls each.
fn tried(scene: Scene, points: u64) -> Result<Column> {
    let expected = Expected::of(scene)?;
    let mut column = Column::new();
    for (number, trouble) in TROUBLES.iter().enumerate() {
        let mut cell = Cell::default();
        let calls = trouble.calls(scene)?;
        let points = if trouble.has_points() { points.min(calls) } else { calls.min(1) };
        for point in 0..points {
            let after = point * calls / points;
            let (code, words) = hit(scene, trouble, after, &expected).with_context(|| {
                format!("{}: {} at call {after} of {calls}", scene.name, trouble.name())
            })?;
            cell.codes.insert(code);
            if point == 0 {
                cell.words = words;
            }
        }
        if points > 0 {
            column.insert(number, cell);
        }
    }
    Ok(column)
}

/// Runs a verb in trouble; its exit code, and what a person reads.
fn hit(scene: Scene, trouble: &Trouble, after: u64, expected: &Expected) -> Result<(i32, String)> {
    let stage = Stage::new()?;
    let faulty = Faulty::new(stage.folder())?;
    trouble.begin(&faulty, after);
    let outcome = tool::outcome(&trouble.call(scene, faulty.folder()))?;
    trouble.end(&faulty);
    drop(faulty);
    let words = words(&outcome);
    let judge = || {
        let Some(code) = outcome.code.filter(|code| *code != 137) else { bail!("it hung or died") };
        ensure!(matches!(code, 0 | 1 | 3 | 4 | 5 | 130), "no exit code of ours: {code}");
        ensure!(!words.contains("panicked"), "it panicked");
        if code == 0 {
            ensure!(!trouble.never_well(), "a wrong 0");
            expected.is_done(stage.folder(), &outcome).context("a wrong 0")?;
        } else {
            let why = ["error: ", "damaged: ", "UNREADABLE: "];
            ensure!(why.iter().any(|sign| words.contains(sign)), "no word of why");
        }
        scenes::minutes_pass(stage.folder())?;
        expected.lost_nothing(stage.folder(), outcome.code)?;
        expected.ends_well(stage.folder())?;
        Ok(code)
    };
    let code = judge().with_context(|| format!("{:?}: {words}", outcome.code))?;
    Ok((code, words))
}

/// What is read on standard error, names and days that differ each time left out.
fn words(outcome: &Outcome) -> String {
    let text = String::from_utf8_lossy(&outcome.stderr);
    let text = text.replace(&Timestamp::now().day(), "…");
    let is_hex = |word: &str| word.len() >= 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut plain = String::new();
    for word in text.split_inclusive(|sign: char| !sign.is_ascii_alphanumeric()) {
        let bare = word.trim_end_matches(|sign: char| !sign.is_ascii_alphanumeric());
        plain += &if is_hex(bare) { word.replace(bare, "…") } else { word.to_owned() };
    }
    let said = plain.lines().filter(|line| {
        ["error: ", "warning: ", "damaged: ", "UNREADABLE: "]
            .iter()
            .any(|sign| line.starts_with(sign))
    });
    said.collect::<Vec<_>>().join("\n")
}

/// Tries each trouble at a few calls: what is seen must stand in the table.
fn few(name: &str) -> Result<()> {
    let scene = scene(name)?;
    table::contains(scene, &tried(scene, 2)?)
}

fn scene(name: &str) -> Result<Scene> {
    scenes::ALL.into_iter().find(|scene| scene.name == name).context("no such verb")
}

macro_rules! verbs {
    ($($test:ident $name:literal)*) => {
        $(#[test]
        fn $test() -> Result<()> {
            few($name)
        })*
    };
}

verbs! {
    loop_save_in_trouble "save"
    loop_restore_in_trouble "restore"
    loop_clone_in_trouble "clone"
    loop_copy_in_trouble "copy"
    loop_verify_in_trouble "verify"
    loop_check_in_trouble "check"
    loop_rebuild_in_trouble "check --rebuild"
    loop_prune_in_trouble "prune"
    loop_rm_in_trouble "rm"
    loop_show_in_trouble "show"
    loop_images_in_trouble "images"
    loop_inspect_in_trouble "inspect"
}

mod only_all {
    use super::{Result, scenes, table, tried};

    #[test]
    fn loop_every_verb_in_every_trouble() -> Result<()> {
        let columns = std::thread::scope(|scope| {
            let threads = scenes::ALL.map(|scene| scope.spawn(move || tried(scene, 16)));
            threads.into_iter().map(|thread| thread.join().expect("a panic")).collect::<Vec<_>>()
        });
        let mut seen = Vec::new();
        let mut failed = Vec::new();
        for (scene, column) in scenes::ALL.into_iter().zip(columns) {
            match column {
                Ok(column) => seen.push((scene, column)),
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        anyhow::ensure!(failed.is_empty(), "{}", failed.join("\n\n"));
        table::is(&seen)
    }
}
