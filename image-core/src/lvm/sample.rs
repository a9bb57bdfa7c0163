//! Volume groups for this room's tests.

use std::fmt::Write as _;

use super::label::{Area, MetadataArea, PvHead};
use super::model::Vg;
use crate::units::Bytes;

/// Extents, stripe size in sectors, and (PV, first extent) of each stripe.
pub type Segment = (u64, u64, Vec<(usize, u64)>);

/// A UUID that tells what it is of.
pub fn uuid(kind: char, number: usize) -> String {
    format!("{kind}{number:05}-0000-0000-0000-0000-0000-000000")
}

/// The text of the VG `vg`: extents of `extent` sectors, PVs of so many extents from sector 2048 on.
pub fn text(extent: u64, pvs: &[u64], lvs: &[(&str, Vec<Segment>)]) -> String {
    let mut text = format!(
        "vg {{ id = \"{}\" seqno = 7 format = \"lvm2\" status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\n\
         flags = [] tags = [\"a\\\"b\"] future_key = [1, 2.50] extent_size = {extent} max_lv = 0\n\
         physical_volumes {{\n",
        uuid('v', 0)
    );
    for (index, count) in pvs.iter().enumerate() {
        let size = 2048 + count * extent;
        let _ = writeln!(
            text,
            "pv{index} {{ id = \"{}\" device = \"/dev/sda\" device_id = \"x\" status = [\"ALLOCATABLE\"]\n\
             flags = [] dev_size = {size} pe_start = 2048 pe_count = {count} }}",
            uuid('p', index)
        );
    }
    text += "}\nlogical_volumes {\n";
    for (index, (name, segments)) in lvs.iter().enumerate() {
        let _ = writeln!(
            text,
            "{name} {{ id = \"{}\" status = [\"READ\", \"WRITE\", \"VISIBLE\"] flags = []\n\
             segment_count = {}",
            uuid('l', index),
            segments.len()
        );
        let mut start = 0;
        for (number, (count, stripe, stripes)) in segments.iter().enumerate() {
            let list: Vec<_> = stripes.iter().map(|(pv, pe)| format!("\"pv{pv}\", {pe}")).collect();
            let _ = writeln!(
                text,
                "segment{} {{ start_extent = {start} extent_count = {count} type = \"striped\"\n\
                 stripe_count = {} stripe_size = {stripe} stripes = [{}] }}",
                number + 1,
                stripes.len(),
                list.join(", ")
            );
            start += count;
        }
        text += "}\n";
    }
    text + "}\n}\ncontents = \"Text Format Volume Group\" version = 1 description = \"\" creation_time = 5\n"
}

/// The same, parsed.
pub fn vg(extent: u64, pvs: &[u64], lvs: &[(&str, Vec<Segment>)]) -> Vg {
    Vg::parse(&text(extent, pvs, lvs)).unwrap()
}

/// A header with these metadata areas (offset and size), of the PV `index`.
pub fn head(index: usize, areas: &[(u64, u64)]) -> PvHead {
    let area =
        |(offset, size): &(u64, u64)| Area { offset: Bytes::new(*offset), size: Bytes::new(*size) };
    PvHead {
        uuid: uuid('p', index),
        device_size: Bytes::ZERO,
        data_areas: vec![area(&(1 << 20, 0))],
        metadata_areas: areas
            .iter()
            .map(|place| MetadataArea { area: area(place), ignored: false })
            .collect(),
        bootloader_areas: Vec::new(),
        label_sector: 1,
        in_use: true,
        text: None,
        vg: None,
    }
}

/// What lies where, without the text behind it.
pub type Layout = (Vec<(Bytes, u64)>, Vec<(String, Vec<super::model::Segment>)>);

/// The layout of `vg`.
pub fn layout(vg: &Vg) -> Layout {
    let pvs = vg.pvs.iter().map(|pv| (pv.dev_size, pv.pe_count)).collect();
    (pvs, vg.lvs.iter().map(|lv| (lv.name.clone(), lv.segments.clone())).collect())
}
