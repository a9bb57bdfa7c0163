//! Damage in words and in JSON.

use std::collections::BTreeMap;

use image_core::pipeline::write::Damage;
use image_core::units::Bytes;
use serde_json::{Value, json};

/// Lines for one volume; `--json` has them all.
const MOST_LINES: usize = 5;

/// The damaged ranges as `--json` prints them. Naming files needs readable filesystems, which is to come.
pub fn objects(damaged: &[Damage]) -> Vec<Value> {
    let object = |damage: &&Damage| {
        json!({"pack": damage.pack, "offset": damage.offset,
            "range": {"volume": damage.volume, "start": damage.range.start,
                "length": damage.range.len()},
            "files": [], "why": why(damage)})
    };
    by_volume(damaged).values().flatten().map(object).collect()
}

/// Names the damaged ranges on standard error.
pub fn tell(damaged: &[Damage]) {
    for (id, ranges) in by_volume(damaged) {
        let volume = super::volume(id);
        for damage in ranges.iter().take(MOST_LINES) {
            super::talk(&format!(
                "damaged: {volume}, {} from byte {} on: {}: {}",
                damage.range.len(),
                damage.range.start.get(),
                damage.pack,
                why(damage)
            ));
        }
        if let Some(more) = ranges.get(MOST_LINES..).filter(|more| !more.is_empty()) {
            let bytes: Bytes = more.iter().map(|damage| damage.range.len()).sum();
            super::talk(&format!(
                "damaged: {volume}, {bytes} in {} more places (--json lists them)",
                more.len()
            ));
        }
    }
}

/// The ids of the damaged volumes: `d0:1, vg0/root`.
pub fn volumes(damaged: &[Damage]) -> String {
    by_volume(damaged).into_keys().map(super::volume).collect::<Vec<_>>().join(", ")
}

/// In order: they arrive as they are found.
fn by_volume(damaged: &[Damage]) -> BTreeMap<&str, Vec<&Damage>> {
    let mut volumes = BTreeMap::<&str, Vec<&Damage>>::new();
    for damage in damaged {
        volumes.entry(&damage.volume).or_default().push(damage);
    }
    volumes.values_mut().for_each(|ranges| ranges.sort_by_key(|damage| damage.range.start));
    volumes
}

/// What is wrong, without the name of the file, which stands beside it.
fn why(damage: &Damage) -> &str {
    let file = damage.why.strip_prefix(&damage.pack).and_then(|why| why.strip_prefix(": "));
    file.unwrap_or(&damage.why)
}
