//! A restore's plan: a drawing and a table of before and after.

use std::cmp::Ordering;

use image_core::image::manifest::Root;
use image_core::plan::identity::{IdKind, NewId};
use image_core::plan::restore::RestorePlan;

use super::drawing::{self, Style};
use super::table::Table;
use super::{count, exact};

/// The plan in words; `targets` says for each one that exists what it is and holds.
pub fn text(plan: &RestorePlan, root: &Root, targets: &[String]) -> String {
    let mut parts = vec![drawing::restore(plan, root, Style::detect()), String::new()];
    let mut table = Table::new(&["volume", "content", ">before", ">after", ">change", "starts at"]);
    for volume in &plan.volumes {
        let entry = root.volumes.get(volume.entry);
        let content = entry.map_or("", |entry| entry.content.as_str());
        let change = match volume.to.cmp(&volume.from) {
            Ordering::Greater => format!("+{}", volume.to - volume.from),
            Ordering::Equal => String::new(),
            Ordering::Less => format!("-{}", volume.from - volume.to),
        };
        let moved = entry.is_some_and(|entry| entry.offset != volume.offset);
        let start = match entry.map(|entry| entry.kind.as_str()) {
            Some("lv") => String::new(),
            _ if entry.is_none_or(|entry| entry.disk.is_none()) => String::new(),
            _ if moved => format!("{} (moved)", volume.offset),
            _ => volume.offset.to_string(),
        };
        table.row([
            volume.id.clone(),
            super::gap(&volume.id).unwrap_or(content).to_owned(),
            volume.from.to_string(),
            volume.to.to_string(),
            change,
            start,
        ]);
    }
    parts.push(table.render());
    if !plan.new_ids.is_empty() {
        parts.push(format!("\n{}", new_identifiers(&plan.new_ids)));
    }
    if !plan.notes.is_empty() {
        parts.push(String::new());
        parts.extend(plan.notes.iter().cloned());
    }
    let tools = if plan.tools.is_empty() {
        String::new()
    } else {
        format!(", using {}", plan.tools.join(", "))
    };
    parts.push(format!("\n{} of data are to be written{tools}", plan.writes));
    // Last, right above the question: what will be lost.
    for (target, what) in plan.targets.iter().zip(targets) {
        parts.push(if target.creates {
            let path = target.path.display();
            format!("{} -> {path}: a new file of {}", target.slot, exact(target.size))
        } else {
            format!("{} -> {what}", target.slot)
        });
    }
    parts.join("\n")
}

/// How many of each kind: the identifiers themselves are random, and nobody compares them before.
fn new_identifiers(ids: &[NewId]) -> String {
    let kinds = [
        (IdKind::Disk, "disk"),
        (IdKind::Partition, "partition"),
        (IdKind::Filesystem, "filesystem or swap area"),
        (IdKind::Pv, "physical volume"),
        (IdKind::Vg, "volume group"),
        (IdKind::Lv, "logical volume"),
    ];
    let counted = kinds.map(|(kind, name)| (ids.iter().filter(|id| id.kind == kind).count(), name));
    let counted =
        counted.into_iter().filter(|(number, _)| *number > 0).map(|(number, name)| {
            match (number, name.split_once(" or ")) {
                (2.., Some((one, other))) => format!("{number} {one}s or {other}s"),
                _ => count(number, name),
            }
        });
    let mut text = format!("New identifiers for {}.", counted.collect::<Vec<_>>().join(", "));
    for id in ids.iter().filter(|id| id.kind == IdKind::VgName) {
        text.push_str(&format!(" The volume group {} becomes {}.", id.old, id.new));
    }
    text.push_str(" What names the old ones on the target is rewritten.");
    text
}

#[cfg(test)]
mod tests {
    use image_core::plan::identity::{IdKind, NewId};

    use super::new_identifiers;

    #[test]
    fn new_identifiers_are_counted_and_groups_named() {
        let new = |kind, old: &str, new: &str| NewId {
            kind,
            id: "x".to_owned(),
            old: old.to_owned(),
            new: new.to_owned(),
        };
        let mut ids = vec![new(IdKind::Disk, "1", "2"), new(IdKind::Filesystem, "3", "4")];
        assert_eq!(
            new_identifiers(&ids),
            "New identifiers for 1 disk, 1 filesystem or swap area. What names the old ones on the target is \
             rewritten."
        );
        ids.extend([new(IdKind::Filesystem, "5", "6"), new(IdKind::VgName, "vg0", "vg0-2")]);
        let text = new_identifiers(&ids);
        assert!(
            text.contains("2 filesystems or swap areas. The volume group vg0 becomes vg0-2."),
            "{text}"
        );
    }
}
