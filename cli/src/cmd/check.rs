//! `keiki check`: look after the repository.

use std::io::{self, ErrorKind};

use image_core::error::Error;
use image_core::repo::{CheckOptions, Repository};
use image_core::report::Report;
use serde_json::{Value, json};

use super::{location, repository};
use crate::args::Global;
use crate::args::check::Check;
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// Runs the verb.
///
/// # Errors
/// Of a repository that cannot be read; damage is exit code 4.
pub fn run(global: &Global, args: &Check, progress: &Progress) -> anyhow::Result<Exit> {
    let repo = repository(global)?;
    let options = CheckOptions { read_data: args.read_data, rebuild: args.rebuild };
    let report = match repo.check(options, progress) {
        Err(Error::Io { source, .. }) if !args.rebuild && is_read_only(&source) => {
            progress.warning(&format!(
                "the repository can only be read ({source}): its catalog and locations are left alone"
            ));
            Repository::open_read_only(location(global)?.files()?)?.check(options, progress)?
        }
        other => other?,
    };
    progress.finish();
    let damaged: Vec<Value> = report.damaged.iter().map(output::damaged_file).collect();
    if global.json {
        output::json(&json!({"images": report.images, "packs": report.packs,
            "chunks": report.chunks, "damaged": damaged, "orphans": report.orphans,
            "rebuilt": report.rebuilt, "removed": report.removed,
            "unreadable": report.unreadable.iter().map(|(image, bytes)| json!({
                "image": image.record.name, "id": image.id, "bytes": bytes})).collect::<Vec<_>>()}))?;
    } else {
        for file in &report.rebuilt {
            output::say(&format!("made again: {file}"))?;
        }
        for file in &report.removed {
            output::say(&format!("removed, left by a save that did not end: {file}"))?;
        }
        if !report.orphans.is_empty() && !global.quiet {
            let files = output::count(report.orphans.len(), "file");
            output::say(&format!("needed by no image, and harmless: {files}"))?;
            for file in report.orphans.iter().filter(|_| global.verbose > 0) {
                output::say(&format!("    {file}"))?;
            }
        }
        for (image, bytes) in &report.unreadable {
            output::say(&format!(
                "{}: {bytes} could not be read when it was saved (`keiki show` lists them)",
                output::image(image)
            ))?;
        }
        let verdict = if damaged.is_empty() { "is sound" } else { "is DAMAGED" };
        let how = if args.read_data {
            "all stored data was read and checked"
        } else {
            "stored data was not read (--read-data does that)"
        };
        if !damaged.is_empty() || !global.quiet {
            output::say(&format!(
                "the repository {verdict}: {}, {}, {}; {how}",
                output::count(report.images, "image"),
                output::count(report.packs, "pack"),
                output::count(report.chunks, "chunk"),
            ))?;
        }
    }
    Ok(if damaged.is_empty() { Exit::Done } else { Exit::Damaged })
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}
