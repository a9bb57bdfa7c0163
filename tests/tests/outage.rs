//! The power goes just before and just after every flush of a small run; of what was not flushed nothing, the names,
//! or some of it is there. Nothing is lost by that, and run again it ends as if nothing had been.
#![allow(clippy::print_stdout, reason = "a test says what it did")]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use keiki_tests::faults::Faulty;
use keiki_tests::outage::{Outage, Unflushed};
use keiki_tests::scenes::{self, Expected, Scene, Stage};
use keiki_tests::{fixtures, tool};
use tempfile::TempDir;

/// What happens to a run.
fn recorded(scene: Scene) -> Result<Outage> {
    let stage = Stage::new()?;
    let faulty = Faulty::new(stage.folder())?;
    let mut outage = Outage::new(stage.folder(), faulty.files()?)?;
    faulty.events();
    let outcome = tool::outcome(&scene.call(faulty.folder()))?;
    ensure!(outcome.code == Some(0), "{}: {}", scene.name, outcome.talk());
    outage.add(faulty.events());
    Ok(outage)
}

/// Cuts at one of so many moments, each time with all of `ends`.
fn cut(scene: Scene, one_of: usize, ends: &[Unflushed]) -> Result<()> {
    let (expected, outage) = (Expected::of(scene)?, recorded(scene)?);
    let moments = outage.moments();
    ensure!(moments.len() > 10, "{}: only {moments:?}", scene.name);
    let chosen: Vec<usize> = moments.iter().skip(one_of / 2).step_by(one_of).copied().collect();
    for moment in &chosen {
        for unflushed in ends {
            let folder = TempDir::new_in(fixtures::folder()?)?;
            let judge = || {
                outage.leaves(*moment, *unflushed, folder.path())?;
                scenes::minutes_pass(folder.path())?;
                expected.lost_nothing(folder.path(), None)?;
                expected.ends_well(folder.path())
            };
            if let Err(error) = judge() {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR"))
                    .join(format!("outage-{}-{moment}", scene.name));
                drop(fs::remove_dir_all(&kept));
                outage.leaves(*moment, *unflushed, &kept)?;
                let last = *moments.last().unwrap_or(&0);
                return Err(error).with_context(|| {
                    format!("{} cut at {moment} of {last}, {unflushed:?}; {kept:?}", scene.name)
                });
            }
        }
    }
    let (cuts, of) = (chosen.len() * ends.len(), moments.len());
    println!("{}: {cuts} cuts at {} of {of} moments", scene.name, chosen.len());
    Ok(())
}

const FEW: [Unflushed; 2] = [Unflushed::Lost, Unflushed::Some(1)];

#[test]
fn loop_a_save_without_power_is_saved_again() -> Result<()> {
    cut(scenes::SAVE, 8, &FEW)
}

#[test]
fn loop_a_restore_without_power_is_restored_again() -> Result<()> {
    cut(scenes::RESTORE, 8, &FEW)
}

#[test]
fn loop_a_prune_without_power_is_pruned_again() -> Result<()> {
    cut(scenes::PRUNE, 16, &FEW)
}

#[test]
fn loop_a_copy_without_power_is_copied_again() -> Result<()> {
    cut(scenes::COPY, 16, &FEW)
}

mod only_all {
    use super::{Result, Scene, Unflushed, cut, scenes};

    fn every(scene: Scene) -> Result<()> {
        let some = (1..4).map(Unflushed::Some);
        let ends: Vec<_> = [Unflushed::Lost, Unflushed::Named].into_iter().chain(some).collect();
        cut(scene, 1, &ends)
    }

    #[test]
    fn loop_the_power_goes_at_every_flush_of_a_save() -> Result<()> {
        every(scenes::SAVE)
    }

    #[test]
    fn loop_the_power_goes_at_every_flush_of_a_restore() -> Result<()> {
        every(scenes::RESTORE)
    }

    #[test]
    fn loop_the_power_goes_at_every_flush_of_a_prune() -> Result<()> {
        every(scenes::PRUNE)
    }

    #[test]
    fn loop_the_power_goes_at_every_flush_of_a_copy() -> Result<()> {
        every(scenes::COPY)
    }

    #[test]
    fn loop_the_power_goes_at_every_flush_of_a_clone() -> Result<()> {
        every(scenes::CLONE)
    }
}
