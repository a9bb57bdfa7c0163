//! `keiki inspect`: what is on these disks.

use image_core::image::manifest::Root;
use image_core::plan::restore as planning;
use image_core::save::{name_of, outline, state_name};
use image_core::survey::Wishes;
use image_core::survey::model::{Survey, Volume};
use image_core::units::Bytes;
use serde_json::{Value, json};

use super::source;
use crate::args::Global;
use crate::args::inspect::Inspect;
use crate::exit::Exit;
use crate::output::{self, progress::Progress, table::Table};

/// Runs the verb.
///
/// # Errors
/// Of reading the disks.
pub fn run(global: &Global, args: &Inspect, progress: &Progress) -> anyhow::Result<Exit> {
    let inputs = source::open(&args.sources, args.sector_size, source::Purpose::Look)?;
    let survey = source::survey(&inputs, Wishes::default(), &[], progress)?;
    progress.finish();
    let outline = outline(&survey)?;
    if global.json {
        output::json(&object(&survey, &outline))?;
    } else {
        output::say(&text(&survey, &outline))?;
        for warning in &survey.warnings {
            output::talk(&format!("warning: {warning}"));
        }
    }
    Ok(Exit::Done)
}

fn object(survey: &Survey, outline: &Root) -> Value {
    let disks: Vec<Value> = survey
        .slots
        .iter()
        .map(|slot| {
            let kind = slot.table.as_ref().map_or("none", |table| table.kind());
            json!({"id": slot.id, "path": slot.path, "size": slot.source.size(),
                "sector_size": slot.source.sector_size(), "model": slot.hardware.model,
                "serial": slot.hardware.serial,
                "table": {"kind": kind, "id": slot.table.as_ref().map(|table| table.id())}})
        })
        .collect();
    let volumes: Vec<Value> =
        survey.volumes.iter().map(|volume| volume_object(survey, volume)).collect();
    let groups: Vec<Value> = survey
        .groups
        .iter()
        .map(|group| {
            let pvs: Vec<&str> = group.pvs.iter().map(|pv| pv.volume.as_str()).collect();
            let lvs: Vec<String> = group
                .vg
                .lvs
                .iter()
                .map(|lv| format!("{}/{}", group.vg.name, lv.name))
                .collect();
            json!({"name": group.vg.name, "uuid": group.vg.uuid, "extent_size": group.vg.extent_size,
                "free_bytes": group.vg.free_bytes(), "pvs": pvs, "lvs": lvs})
        })
        .collect();
    let smallest: Bytes = planning::slots(outline)
        .into_iter()
        .map(|slot| planning::min_target(outline, slot).0)
        .max()
        .unwrap_or_default();
    json!({"disks": disks, "volumes": volumes, "volume_groups": groups,
        "min_target_bytes": smallest, "warnings": survey.warnings})
}

fn volume_object(survey: &Survey, volume: &Volume) -> Value {
    let disk = volume.slot.and_then(|slot| survey.slots.get(slot)).map(|slot| slot.id.as_str());
    json!({"id": volume.id, "disk": disk, "container": volume.container, "kind": name_of(&volume.kind),
        "name": volume.name, "offset": volume.extent.start, "size": volume.size(),
        "content": volume.content, "label": volume.label, "uuid": volume.uuid,
        "used_bytes": volume.used().total(), "min_bytes": volume.min_bytes(),
        "state": state_name(&volume.state), "reason": volume.reason()})
}

fn text(survey: &Survey, outline: &Root) -> String {
    let mut parts = Vec::new();
    for slot in &survey.slots {
        let table = slot.table.as_ref().map_or("no partition table", |table| table.kind());
        let (model, serial) = (slot.hardware.model.as_deref(), slot.hardware.serial.as_deref());
        let head = [Some(output::exact(slot.source.size()).as_str()), Some(table), model, serial]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ");
        parts.push(format!("{}  {}: {head}", slot.id, slot.path.display()));
        if planning::slots(outline).contains(&slot.id.as_str()) {
            parts.push(output::smallest(&planning::min_target(outline, &slot.id)));
        }
    }
    // Volumes that were picked out of a disk stand alone.
    let slots = planning::slots(outline).into_iter();
    for picked in slots.filter(|id| survey.slots.iter().all(|slot| slot.id != *id)) {
        parts.push(picked.to_owned());
        parts.push(output::smallest(&planning::min_target(outline, picked)));
    }
    let mut table = Table::new(&["id", ">size", ">used", "content", "label", "state"]);
    for volume in &survey.volumes {
        let state = match volume.reason() {
            Some(reason) => format!("{}: {reason}", state_name(&volume.state)),
            None if volume.is_container() => {
                format!("holds {}", volume.group.as_deref().unwrap_or(""))
            }
            None => state_name(&volume.state).to_owned(),
        };
        let used =
            if volume.is_container() { String::new() } else { volume.used().total().to_string() };
        table.row([
            volume.id.clone(),
            volume.size().to_string(),
            used,
            output::gap(&volume.id).unwrap_or(&volume.content).to_owned(),
            volume.label.clone().unwrap_or_default(),
            state,
        ]);
    }
    parts.push(String::new());
    parts.push(table.render());
    for group in &survey.groups {
        parts.push(format!(
            "\nvolume group {}: {} free, extents of {}",
            group.vg.name,
            group.vg.free_bytes(),
            group.vg.extent_size
        ));
    }
    parts.join("\n")
}
