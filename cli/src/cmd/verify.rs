//! `keiki verify`: can this image be restored?

use image_core::verify;
use serde_json::json;

use super::repository;
use crate::args::Global;
use crate::args::verify::Verify;
use crate::exit::Exit;
use crate::output::{self, holes, progress::Progress};

/// Runs the verb.
///
/// # Errors
/// Of a repository that cannot be read; damage is exit code 4.
pub fn run(global: &Global, args: &Verify, progress: &Progress) -> anyhow::Result<Exit> {
    let repo = repository(global)?;
    let image = repo.resolve(&args.image, progress)?;
    let root = repo.root(&image)?;
    let verified = verify::verify(&repo, &root, progress)?;
    progress.finish();
    let lost = root.unreadable_bytes();
    if global.json {
        let damaged = output::damage::objects(&verified.damaged);
        output::json(&json!({"image": args.image, "chunks": verified.chunks,
            "bytes": verified.bytes, "damaged": damaged,
            "unreadable": holes::ranges(&root.volumes), "hit": holes::hits(&root.volumes)}))?;
    } else {
        output::damage::tell(&verified.damaged);
        let checked = format!("{} chunks with {} are intact", verified.chunks, verified.bytes);
        if !verified.damaged.is_empty() {
            let volumes = output::damage::volumes(&verified.damaged);
            output::say(&format!("{} is DAMAGED in {volumes}; {checked}", output::image(&image)))?;
        } else if !global.quiet {
            let how = if lost.is_zero() { "whole" } else { "as it was saved, with holes" };
            output::say(&format!("{} is {how}: {checked}", output::image(&image)))?;
        }
    }
    holes::tell(&root.volumes);
    Ok(match (verified.damaged.is_empty(), lost.is_zero()) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Unreadable,
        (true, true) => Exit::Done,
    })
}
