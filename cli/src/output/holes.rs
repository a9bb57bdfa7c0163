//! What could not be read of a source, in words and in JSON.

use image_core::image::manifest::VolumeEntry;
use serde_json::{Value, json};

use super::{count, exact};

/// Lines for the ranges of one volume, and for its files; `--json` has them all.
const MOST_LINES: usize = 10;

fn holed(volumes: &[VolumeEntry]) -> impl Iterator<Item = &VolumeEntry> {
    volumes.iter().filter(|volume| !volume.unreadable.is_empty())
}

/// The unreadable ranges as `--json` prints them.
pub fn ranges(volumes: &[VolumeEntry]) -> Vec<Value> {
    let of =
        |volume: &VolumeEntry| {
            let id = volume.id.clone();
            volume.unreadable.clone().into_iter().map(
                move |range| json!({"volume": id, "start": range.start, "length": range.len()}),
            )
        };
    holed(volumes).flat_map(of).collect()
}

/// What they hit, as `--json` prints it.
pub fn hits(volumes: &[VolumeEntry]) -> Vec<Value> {
    let of = |volume: &VolumeEntry| {
        let hit = volume.hit.clone().unwrap_or_default();
        json!({"volume": volume.id, "files": hit.files, "more_files": hit.more_files,
            "structures": hit.structures, "incomplete": hit.incomplete})
    };
    holed(volumes).map(of).collect()
}

/// What could not be read of each volume, and what that hits; empty where everything could be.
pub fn text(volumes: &[VolumeEntry]) -> String {
    holed(volumes).map(one).collect::<Vec<_>>().join("\n")
}

/// The same on standard error.
pub fn tell(volumes: &[VolumeEntry]) {
    let text = text(volumes);
    if !text.is_empty() {
        super::talk(&text);
    }
}

fn one(volume: &VolumeEntry) -> String {
    let mut what = super::gap(&volume.id).unwrap_or(&volume.content).to_owned();
    let names = [&volume.label, &volume.name, &volume.last_mounted];
    if let Some(name) = names.into_iter().flatten().next() {
        what.push_str(&format!(" {name:?}"));
    }
    let mut lines = vec![format!(
        "UNREADABLE: {} ({what}): {} in {} could not be read; a restore has zeros there",
        volume.id,
        volume.unreadable_bytes(),
        count(volume.unreadable.len(), "place")
    )];
    let ranges = volume.unreadable.iter();
    shortened(
        &mut lines,
        ranges.map(|range| format!("  from byte {}: {}", range.start.get(), exact(range.len()))),
        "place",
    );
    let Some(hit) = &volume.hit else { return lines.join("\n") };
    if hit.structures {
        lines.push(format!(
            "  structures of the {} itself are hit: have it checked (fsck) after a restore",
            volume.content
        ));
    }
    let files =
        hit.files.len().saturating_add(usize::try_from(hit.more_files).unwrap_or(usize::MAX));
    if files > 0 {
        lines.push(format!(
            "  {} hit:",
            if files == 1 { "1 file is".to_owned() } else { format!("{files} files are") }
        ));
        shortened(&mut lines, hit.files.iter().map(|file| format!("    {file}")), "file");
    }
    match &hit.incomplete {
        Some(why) => lines.push(format!("  more files may be hit: {why}")),
        None if files == 0 && !hit.structures => lines.push("  no file is hit".to_owned()),
        None => {}
    }
    lines.join("\n")
}

fn shortened(lines: &mut Vec<String>, all: impl ExactSizeIterator<Item = String>, what: &str) {
    let more = all.len().saturating_sub(MOST_LINES);
    lines.extend(all.take(MOST_LINES));
    if more > 0 {
        lines.push(format!("    and {} more (--json lists them)", count(more, what)));
    }
}
