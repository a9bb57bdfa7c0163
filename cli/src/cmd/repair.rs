//! `keiki repair`: a system that was moved starts again.

use std::sync::Arc;

use anyhow::Context;
use image_core::disk::claim;
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::io::Medium;
use image_core::repair::{self, Job, Personal, Plan, Repaired, Wishes};
use image_core::report::Report;
use image_core::survey::Input;
use serde_json::json;

use super::restore::{random, refuse_doubles, still_to_do};
use super::source;
use super::target::{self, Candidate};
use crate::args::Global;
use crate::args::repair::Repair;
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// Runs the verb.
///
/// # Errors
/// Any: then nothing was written, or the message says that something was.
pub fn run(global: &Global, args: &Repair, progress: &Progress) -> anyhow::Result<Exit> {
    let mut candidates = Vec::new();
    for target in &args.targets {
        let candidate = Candidate::look(target, None)?;
        if candidate.info.is_none() {
            return Err(Error::refused(format!("there is no disk or file {target}")).into());
        }
        candidates.push(candidate);
    }
    refuse_doubles(&candidates)?;
    let paths: Vec<String> =
        candidates.iter().map(|candidate| candidate.path.display().to_string()).collect();
    let inputs = source::open(&paths, None, source::Purpose::Copy(None))?;
    let server = super::view::server()?;
    let seed = random()?;
    let wishes = Wishes {
        root: args.root.as_deref(),
        run_programs: !args.no_run,
        personal: args.hostname.as_ref().map(|name| Personal { name, seed }),
        ..Wishes::default()
    };
    let (survey, plan) = repair::plan(&inputs, wishes, &Machine, &server, progress)?;
    progress.finish();
    plan.warnings.iter().for_each(|warning| progress.warning(warning));
    if args.dry_run {
        let nothing = Repaired { done: Vec::new(), steps: plan.steps.clone() };
        tell(global, &plan, (&nothing, true), progress)?;
        return Ok(Exit::Done);
    }
    let repaired = if plan.acts.is_empty() {
        Repaired { done: Vec::new(), steps: plan.steps.clone() }
    } else {
        if !global.quiet {
            progress.talk(&words(&plan, &candidates));
        }
        target::confirm(&candidates, &args.confirm)?;
        let targets = claim(&candidates, &inputs)?;
        let job = Job { survey: &survey, plan: &plan, targets, runner: &Machine, server };
        repair::repair(&job, progress).map_err(|error| match error {
            Error::Refused(_) => anyhow::Error::new(error),
            error => anyhow::Error::new(error)
                .context("the repair did not end; what it had done stays, and it can be run again"),
        })?
    };
    progress.finish();
    let exit = if repaired.steps.is_empty() { Exit::Done } else { Exit::StepsRemain };
    tell(global, &plan, (&repaired, false), progress)
        .with_context(|| format!("{} is repaired, {}", paths.join(", "), output::UNSAID))?;
    Ok(exit)
}

/// Opens all targets for writing, each with the sector size that it was looked at with.
fn claim(candidates: &[Candidate], inputs: &[Input]) -> Result<Vec<Arc<dyn Medium>>, Error> {
    let claimed = candidates.iter().zip(inputs).map(|(candidate, input)| {
        claim::check_target(&candidate.path, None)?;
        let device = candidate.claim(input.source.size(), input.source.sector_size(), None)?;
        Ok(Arc::new(device) as Arc<dyn Medium>)
    });
    claimed.collect()
}

/// The plan, as it is shown before it is confirmed.
fn words(plan: &Plan, candidates: &[Candidate]) -> String {
    let targets = candidates.iter().filter_map(Candidate::hardware);
    let mut lines = vec![format!("repair {} (its root is {}) on", plan.system, plan.root)];
    lines.extend(targets.map(|target| format!("  {target}")));
    lines.extend(plan.acts.iter().map(|act| format!("  {}", act.words())));
    if plan.acts.iter().any(repair::Act::runs_programs) {
        lines.push(
            "Programs of that system will be run, as root, with its own files as their root; --no-run \
             leaves them out."
                .to_owned(),
        );
    }
    lines.extend(plan.steps.iter().map(|step| format!("  by hand: {step}")));
    lines.join("\n")
}

fn tell(
    global: &Global,
    plan: &Plan,
    (repaired, dry_run): (&Repaired, bool),
    progress: &Progress,
) -> anyhow::Result<()> {
    let planned: Vec<String> = plan.acts.iter().map(repair::Act::words).collect();
    if global.json {
        let runs: bool = plan.acts.iter().any(repair::Act::runs_programs);
        return output::json(&json!({"system": plan.system, "root": plan.root, "dry_run": dry_run,
            "planned": planned, "runs_programs": runs, "done": repaired.done,
            "steps": repaired.steps, "warnings": plan.warnings}));
    }
    let (said, what) = if dry_run { (&planned, "would do") } else { (&repaired.done, "done") };
    if !global.quiet || dry_run {
        output::say(&format!("{}, its root on {}", plan.system, plan.root))?;
        for line in said {
            output::say(&format!("{what}: {line}"))?;
        }
        if said.is_empty() && repaired.steps.is_empty() {
            output::say("nothing was found that keeps it from starting")?;
        }
    }
    repaired.steps.iter().try_for_each(|step| still_to_do(step, progress))
}
