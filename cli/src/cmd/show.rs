//! `keiki show`: one image.

use image_core::image::manifest::{Root, VolumeGroupEntry};
use image_core::plan::restore::{min_target, slots};
use image_core::repo::{ImageInfo, Images};
use serde_json::json;

use super::repository;
use crate::args::Global;
use crate::args::show::Show;
use crate::exit::Exit;
use crate::output::{self, progress::Progress, table::Table};

/// Runs the verb.
///
/// # Errors
/// Of finding and reading the image.
pub fn run(global: &Global, args: &Show, progress: &Progress) -> anyhow::Result<Exit> {
    let repo = repository(global)?;
    let image = repo.resolve(&args.image, progress)?;
    let root = repo.root(&image)?;
    let Images { intact: all, damaged } = repo.images()?;
    let usage = repo.usage(&all, progress)?;
    progress.finish();
    for error in damaged.iter().chain(&usage.damaged) {
        output::damaged_file(error);
    }
    let is_sound = damaged.is_empty() && usage.damaged.is_empty();
    let exit = if is_sound { Exit::Done } else { Exit::Damaged };
    let own = all.iter().zip(&usage.each).find(|(other, _)| other.id == image.id);
    let sizes = own.map(|(_, usage)| *usage).unwrap_or_default();
    if global.json {
        let smallest: Vec<_> = slots(&root)
            .into_iter()
            .map(|slot| {
                let (bytes, volume) = min_target(&root, slot);
                json!({"slot": slot, "bytes": bytes, "volume": volume})
            })
            .collect();
        let record = &image.record;
        output::json(&json!({"image": record.name, "id": image.id, "created": record.created,
            "host": record.host, "parent": record.parent, "content_id": record.root,
            "used_bytes": record.used_bytes, "stored_bytes": sizes.stored_bytes,
            "unique_bytes": sizes.unique_bytes, "tool": root.tool, "disks": root.disks,
            "volumes": root.volumes, "volume_groups": root.volume_groups,
            "min_targets": smallest}))?;
    } else {
        output::say(&text(&image, &root))?;
        output::say(&format!(
            "\n{} in use, {} stored, of which {} unshared with other images",
            image.record.used_bytes, sizes.stored_bytes, sizes.unique_bytes
        ))?;
        let holes = output::holes::text(&root.volumes);
        if !holes.is_empty() {
            output::say(&format!("\n{holes}"))?;
        }
    }
    Ok(exit)
}

fn text(image: &ImageInfo, root: &Root) -> String {
    let record = &image.record;
    let mut parts = vec![format!(
        "{}\nsaved {} on {} by {}",
        output::image(image),
        record.created,
        record.host,
        root.tool
    )];
    for slot in slots(root) {
        let disk = root.disks.iter().find(|disk| disk.id == slot);
        let what = disk.map_or("a volume without its disk".to_owned(), |disk| {
            let size = output::exact(disk.size);
            let head = [Some(size.as_str()), disk.model.as_deref(), disk.serial.as_deref()];
            format!("{}: {}", disk.path, head.into_iter().flatten().collect::<Vec<_>>().join(", "))
        });
        parts.push(format!("{slot}  {what}"));
        parts.push(output::smallest(&min_target(root, slot)));
    }
    parts.push(String::new());
    let mut table = Table::new(&["id", ">size", ">used", "content", "label", "state"]);
    for volume in &root.volumes {
        let state = match &volume.reason {
            Some(reason) => format!("{}: {reason}", volume.state),
            None if volume.is_container => {
                let holds =
                    |group: &&VolumeGroupEntry| group.pvs.iter().any(|pv| pv.volume == volume.id);
                let group = root.volume_groups.iter().find(holds);
                format!("holds {}", group.map_or("", |group| group.name.as_str()))
            }
            None => volume.state.clone(),
        };
        let used = if volume.is_container { String::new() } else { volume.used_bytes.to_string() };
        table.row([
            volume.id.clone(),
            volume.size.to_string(),
            used,
            output::gap(&volume.id).unwrap_or(&volume.content).to_owned(),
            volume.label.clone().unwrap_or_default(),
            state,
        ]);
    }
    parts.push(table.render());
    parts.join("\n")
}
