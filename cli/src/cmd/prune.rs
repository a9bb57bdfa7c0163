//! `keiki prune`: free what no image needs.

use std::io::ErrorKind;

use anyhow::Context;
use image_core::error::Error;
use image_core::repo::{Amount, PruneOptions, PruneReport};
use serde_json::{Value, json};

use super::writable_repository;
use crate::args::Global;
use crate::args::prune::Prune;
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// What helps where there is no space at all.
const FULL: &str = "pruning needs a little space itself; the files in the repository's folder `locations` may be \
                    removed for that, `keiki check` makes them again";

/// Runs the verb.
///
/// # Errors
/// Of a repository that is damaged or in use: nothing was removed then.
pub fn run(global: &Global, args: &Prune, progress: &Progress) -> anyhow::Result<Exit> {
    let options = PruneOptions { now: args.now, dry_run: args.dry_run };
    let report = writable_repository(global)?.prune(options, progress).map_err(|error| {
        let is_full =
            matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::StorageFull);
        let error = anyhow::Error::new(error);
        if is_full { error.context(FULL) } else { error }
    })?;
    progress.finish();
    let damaged: Vec<Value> = report.damaged.iter().map(output::damaged_file).collect();
    let exit = if damaged.is_empty() { Exit::Done } else { Exit::Damaged };
    let told = if global.json {
        let PruneReport { images, trashed, rewritten, taken_back, deleted, in_trash, .. } = report;
        output::json(&json!({"dry_run": args.dry_run, "images": images, "trashed": trashed,
            "rewritten": rewritten, "taken_back": taken_back, "deleted": deleted,
            "in_trash": in_trash, "damaged": damaged}))
    } else if !global.quiet {
        output::say(&text(&report, args))
    } else {
        Ok(())
    };
    let did = if args.dry_run { "nothing was done" } else { "the repository is pruned" };
    told.with_context(|| format!("{did}, {}", output::UNSAID))?;
    Ok(exit)
}

fn text(report: &PruneReport, args: &Prune) -> String {
    let amount = |of: Amount| format!("{} ({})", output::count(of.files, "file"), of.bytes);
    let mut lines = Vec::new();
    if args.dry_run {
        lines.push("this would be done:".to_owned());
    }
    if report.taken_back.files > 0 {
        lines.push(format!(
            "taken out of the trash, for an image needs it: {}",
            amount(report.taken_back)
        ));
    }
    if report.trashed.files > 0 {
        lines.push(format!("thrown away, for no image needs it: {}", amount(report.trashed)));
    }
    if report.rewritten.files > 0 {
        lines.push(format!(
            "copied before, of {} that no image needs most of: {}",
            output::count(report.rewritten.files, "pack"),
            report.rewritten.bytes
        ));
    }
    match (report.deleted.files, report.in_trash.files) {
        (0, 0) => lines.push("everything in the repository is needed".to_owned()),
        (0, _) => lines.push("nothing freed yet".to_owned()),
        _ => lines.push(format!("freed: {}", amount(report.deleted))),
    }
    if report.in_trash.files > 0 {
        lines.push(format!(
            "in the trash: {}; the first prune after a day frees that, `keiki prune --now` at once",
            amount(report.in_trash)
        ));
    }
    lines.join("\n")
}
