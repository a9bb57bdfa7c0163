//! The program is killed (SIGKILL) at any of the calls it makes to the kernel for its source, its target and its
//! repository; nothing is lost by that, and run again it ends as if nothing had been.
#![allow(clippy::print_stdout, reason = "a test says what it did")]

use anyhow::{Context, Result, ensure};
use keiki_tests::faults::{Fault, Faulty, How, Op};
use keiki_tests::scenes::{self, Expected, Scene, Stage};
use keiki_tests::tool;
use rustix::process::Signal;

/// Kills it at `kills` different calls, or at every one where there are no more.
fn killed(scene: Scene, kills: u64) -> Result<()> {
    let expected = Expected::of(scene)?;
    let calls = calls(scene)?;
    let kills = kills.min(calls);
    let mut died = 0;
    for number in 0..kills {
        // Spread evenly, but not at the same places for each number of kills.
        let at = (number * calls + calls / 2) / kills;
        // The last call may have been carried out, or not.
        let how = if number % 2 == 0 { How::Kills } else { How::Signals(Signal::KILL) };
        let stage = Stage::new()?;
        let faulty = Faulty::new(stage.folder())?;
        faulty.fail(vec![Fault::new(&Op::ALL, "", how).between(at, 1)]);
        let outcome = tool::outcome(&scene.call(faulty.folder()))?;
        faulty.fail(Vec::new());
        drop(faulty);
        died += u64::from(outcome.code.is_none());
        let judge = || {
            if outcome.code == Some(0) {
                expected.is_done(stage.folder(), &outcome)?;
            }
            expected.lost_nothing(stage.folder(), outcome.code)?;
            expected.ends_well(stage.folder())
        };
        judge().with_context(|| format!("{} killed at call {at} of {calls}", scene.name))?;
    }
    println!("{}: killed at {died} of {calls} calls", scene.name);
    // Others of the same run may come in another order, and the last ones not at all.
    ensure!(died * 10 >= kills * 9, "of {kills} only {died} died");
    Ok(())
}

/// How many calls it makes.
fn calls(scene: Scene) -> Result<u64> {
    let stage = Stage::new()?;
    let faulty = Faulty::new(stage.folder())?;
    faulty.fail(vec![Fault::new(&Op::ALL, "", How::Ends).between(u64::MAX, 0)]);
    let outcome = tool::outcome(&scene.call(faulty.folder()))?;
    ensure!(outcome.code == Some(0), "{}: {}", scene.name, outcome.talk());
    faulty.met().first().copied().context("no fault")
}

#[test]
fn loop_a_killed_save_is_saved_again() -> Result<()> {
    killed(scenes::SAVE, 6)
}

#[test]
fn loop_a_killed_restore_is_restored_again() -> Result<()> {
    killed(scenes::RESTORE, 6)
}

#[test]
fn loop_a_killed_prune_is_pruned_again() -> Result<()> {
    killed(scenes::PRUNE, 6)
}

#[test]
fn loop_a_killed_copy_is_copied_again() -> Result<()> {
    killed(scenes::COPY, 6)
}

mod only_all {
    use super::{Result, killed, scenes};

    #[test]
    fn loop_200_killed_saves() -> Result<()> {
        killed(scenes::SAVE, 200)
    }

    #[test]
    fn loop_200_killed_restores() -> Result<()> {
        killed(scenes::RESTORE, 200)
    }

    #[test]
    fn loop_200_killed_prunes() -> Result<()> {
        killed(scenes::PRUNE, 200)
    }

    #[test]
    fn loop_200_killed_copies() -> Result<()> {
        killed(scenes::COPY, 200)
    }

    #[test]
    fn loop_200_killed_clones() -> Result<()> {
        killed(scenes::CLONE, 200)
    }
}
