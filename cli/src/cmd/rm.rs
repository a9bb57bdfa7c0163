//! `keiki rm`: forget an image.

use anyhow::Context;
use image_core::error::Error;
use image_core::repo::{ImageInfo, Images};
use serde_json::json;

use super::{Usage, writable_repository};
use crate::args::Global;
use crate::args::rm::Rm;
use crate::exit::Exit;
use crate::output;

/// What is meant: one image, or with `--all` every one of a name.
fn chosen(images: &Images, args: &Rm) -> anyhow::Result<Vec<ImageInfo>> {
    if args.all && args.image.contains('@') {
        return Err(Usage(format!("--all takes a name alone, not {}", args.image)).into());
    }
    let found = images.resolve(&args.image)?;
    let named: Vec<ImageInfo> = images.named(&found.record.name).into_iter().cloned().collect();
    if args.all {
        return Ok(named);
    }
    if named.len() > 1 && !args.image.contains('@') {
        let list: Vec<String> = named.iter().map(output::image).collect();
        return Err(Error::refused(format!(
            "there are {} images of that name ({}); name one of them, or add --all",
            named.len(),
            list.join(", ")
        ))
        .into());
    }
    Ok(vec![found.clone()])
}

/// Runs the verb.
///
/// # Errors
/// Where several images have that name and neither `@ID` nor `--all` is given.
pub fn run(global: &Global, args: &Rm) -> anyhow::Result<Exit> {
    let repo = writable_repository(global)?;
    let images = repo.images()?;
    let removed = chosen(&images, args)?;
    if let Some(error) = repo.remove(&removed)? {
        output::talk(&format!(
            "warning: the catalog still has it, `keiki check` mends that: {error}"
        ));
    }
    let told = tell(global, &removed);
    told.with_context(|| format!("{} is forgotten, {}", args.image, output::UNSAID))?;
    Ok(Exit::Done)
}

fn tell(global: &Global, removed: &[ImageInfo]) -> anyhow::Result<()> {
    if global.json {
        let ids: Vec<_> = removed.iter().map(|image| &image.id).collect();
        output::json(&json!({"removed": ids}))?;
    } else if !global.quiet {
        for image in removed {
            output::say(&format!("forgot {}", output::image(image)))?;
        }
        output::say("what only it needed stays in the repository until `keiki prune` frees it")?;
    }
    Ok(())
}
