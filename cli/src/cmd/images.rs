//! `keiki images`: what the repository holds.

use serde_json::{Value, json};

use super::repository;
use crate::args::Global;
use crate::exit::Exit;
use crate::output::{self, progress::Progress, table::Table};

/// Runs the verb.
///
/// # Errors
/// Of reading the repository.
pub fn run(global: &Global, progress: &Progress) -> anyhow::Result<Exit> {
    let repo = repository(global)?;
    let images = repo.images()?;
    let (images, damaged) = (images.intact, images.damaged);
    let sizes = repo.usage(&images, progress)?;
    progress.finish();
    let damaged: Vec<Value> =
        damaged.iter().chain(&sizes.damaged).map(output::damaged_file).collect();
    if !sizes.damaged.is_empty() {
        output::talk("the sizes leave out what is damaged");
    }
    let sizes = sizes.each;
    let exit = if damaged.is_empty() { Exit::Done } else { Exit::Damaged };
    if global.json {
        let list: Vec<_> = images
            .iter()
            .zip(&sizes)
            .map(|(image, sizes)| {
                let record = &image.record;
                json!({"name": record.name, "id": image.id, "created": record.created,
                    "host": record.host, "used_bytes": record.used_bytes,
                    "stored_bytes": sizes.stored_bytes, "unique_bytes": sizes.unique_bytes,
                    "parent": record.parent})
            })
            .collect();
        output::json(&json!({"images": list, "damaged": damaged}))?;
        return Ok(exit);
    }
    if images.is_empty() {
        output::say("no images yet; `keiki save SOURCE --name NAME` makes one")?;
        return Ok(exit);
    }
    let mut table = Table::new(&["image", "created", "host", ">used", ">stored", ">unshared"]);
    for (image, sizes) in images.iter().zip(&sizes) {
        table.row([
            output::image(image),
            image.record.created.to_string(),
            image.record.host.clone(),
            image.record.used_bytes.to_string(),
            sizes.stored_bytes.to_string(),
            sizes.unique_bytes.to_string(),
        ]);
    }
    output::say(&table.render())?;
    Ok(exit)
}
