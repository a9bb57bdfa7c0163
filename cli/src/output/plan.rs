//! A restore's plan: a drawing and a table of before and after.

use std::cmp::Ordering;

use image_core::image::manifest::Root;
use image_core::plan::restore::RestorePlan;

use super::drawing::{self, Style};
use super::exact;
use super::table::Table;

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
            content.to_owned(),
            volume.from.to_string(),
            volume.to.to_string(),
            change,
            start,
        ]);
    }
    parts.push(table.render());
    if !plan.new_ids.is_empty() {
        let mut table = Table::new(&["new identifiers", "of", "before", "after"]);
        for new in &plan.new_ids {
            table.row([
                image_core::save::name_of(&new.kind),
                new.id.clone(),
                new.old.clone(),
                new.new.clone(),
            ]);
        }
        parts.push(format!("\n{}", table.render()));
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
