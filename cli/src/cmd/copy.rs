//! `keiki copy`: images into another repository.

use std::time::Instant;

use anyhow::Context;
use image_core::repo::{Copied, CopiedImage, Copier, CopyOptions, ImageInfo, Repository};
use serde_json::{Value, json};

use super::{open_or_create, repository, room_for};
use crate::args::Global;
use crate::args::copy::Copy;
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// Runs the verb.
///
/// # Errors
/// Any but damage of an image, which is exit code 4.
pub fn run(global: &Global, args: &Copy, progress: &Progress) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let into = args.to.writable()?;
    let from = repository(global)?;
    let resolve = |image: &String| from.resolve(image, progress);
    let images = args.images.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
    let to = open_or_create(into, global.quiet, progress)?;
    let options = CopyOptions { flatten: args.flatten };
    let copier =
        Copier::new(&from, &images, &to, options, progress).context("nothing was copied")?;
    room_for(copier.needed(), into).context("nothing was copied")?;
    let copied = copier
        .run(progress)
        .context("not everything was copied; the same command goes on where it ended")?;
    progress.finish();
    let damaged: Vec<Value> =
        copied.damaged.iter().map(|(_, error)| output::damaged_file(error)).collect();
    for holed in copied.images.iter().filter(|copied| !copied.unreadable.is_zero()) {
        output::talk(&format!(
            "UNREADABLE: {} of {} could not be read when it was saved; `keiki show` lists that",
            holed.unreadable,
            output::image(&holed.image)
        ));
    }
    let told = if global.json {
        output::json(&object(&copied, &damaged, began.elapsed().as_secs_f64()))
    } else if global.quiet {
        Ok(())
    } else {
        output::say(&text(&copied, &to, began.elapsed().as_secs_f64()))
    };
    told.with_context(|| format!("what is whole was copied, {}", output::UNSAID))?;
    let is_whole = copied.images.iter().all(|copied| copied.unreadable.is_zero());
    Ok(match (damaged.is_empty(), is_whole) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Unreadable,
        (true, true) => Exit::Done,
    })
}

fn object(copied: &Copied, damaged: &[Value], seconds: f64) -> Value {
    let image = |CopiedImage { image, was_there, unreadable }: &CopiedImage| {
        json!({"name": image.record.name, "id": image.id, "was_there": was_there,
            "unreadable_bytes": unreadable})
    };
    let images: Vec<Value> = copied.images.iter().map(image).collect();
    json!({"images": images, "copied_chunks": copied.copied_chunks,
        "known_chunks": copied.known_chunks, "stored_bytes": copied.stored_bytes,
        "damaged": damaged, "seconds": seconds})
}

fn text(copied: &Copied, to: &Repository, seconds: f64) -> String {
    let place = to.location();
    let mut lines = Vec::new();
    for CopiedImage { image, was_there, .. } in &copied.images {
        let name = output::image(image);
        lines.push(match was_there {
            true => format!("{name} is in {place} already"),
            false => format!("copied {name} to {place}"),
        });
        lines.extend(newer(image, to));
    }
    for (image, _) in &copied.damaged {
        lines.push(format!("{} is DAMAGED and was not copied", output::image(image)));
    }
    if copied.copied_chunks == 0 && copied.images.iter().any(|copied| !copied.was_there) {
        lines.push("all of its data was there: nothing had to be added".to_owned());
    }
    if copied.copied_chunks > 0 {
        let Copied { copied_chunks, known_chunks, stored_bytes, .. } = copied;
        lines.push(format!(
            "{stored_bytes} were added there in {seconds:.1} s: {copied_chunks} chunks; {known_chunks} were there already"
        ));
    }
    lines.join("\n")
}

/// What the name alone means there, if that is not this image.
fn newer(image: &ImageInfo, to: &Repository) -> Option<String> {
    let images = to.images().ok()?;
    let newest = images.newest(&image.record.name).filter(|newest| newest.id != image.id)?;
    let (name, newest, this) = (&image.record.name, output::image(newest), output::image(image));
    Some(format!("  {name} alone means the newer {newest} there; name this one {this}"))
}
