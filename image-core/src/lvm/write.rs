//! A VG as bytes on its PVs: the metadata text, the areas' headers and the label.
//!
//! The counterpart of [`super::label`] and [`super::metadata`]; the same sources.

use super::label::{Area, PvHead};
use super::metadata::{Entry, Section, Value};
use super::model::{Pv, Segment, SegmentKind, Vg};
use super::{
    AREA_IGNORED, AREA_MAGIC, LABEL_ID, LABEL_SECTORS, LABEL_TYPE, PV_IN_USE, SECTOR, SECTOR_LEN,
    crc,
};
use crate::error::{Error, Result};
use crate::units::Bytes;

/// Hints about the machine that the VG was on.
const HINTS: [&str; 3] = ["device", "device_id", "device_id_type"];

/// Bytes for one place on a PV, counted from the PV's start.
pub type Patch = (Bytes, Vec<u8>);

/// What makes a device a PV of its VG. Written in this order, each part durable before the next, an
/// interruption leaves either no PV or a whole one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PvImage {
    /// The VG's metadata, once for each metadata area.
    pub text: Vec<Patch>,
    /// The headers of the metadata areas.
    pub area_headers: Vec<Patch>,
    /// The label with the PV's header; to be written last.
    pub label: Patch,
}

impl Vg {
    /// The metadata text, with `time` (seconds since 1970) as the time of the change. Hints about
    /// devices are dropped; everything else that the original text held is kept.
    ///
    /// # Errors
    /// [`Error::Refused`] where the VG is not supported.
    pub fn text(&self, time: u64) -> Result<String> {
        if let Some(reason) = self.unsupported() {
            return Err(Error::refused(reason));
        }
        let mut file = self.file.clone();
        for root in file.sections_mut() {
            self.name.clone_into(&mut root.name);
            root.set("id", Value::Text(self.uuid.clone()));
            root.set("seqno", integer(self.seqno));
            for part in root.sections_mut() {
                match part.name.as_str() {
                    "physical_volumes" => {
                        part.sections_mut().zip(&self.pvs).for_each(|(to, pv)| set_pv(to, pv));
                    }
                    "logical_volumes" => {
                        for (section, lv) in part.sections_mut().zip(&self.lvs) {
                            section.set("id", Value::Text(lv.uuid.clone()));
                            self.set_segments(section, &lv.segments);
                        }
                    }
                    _ => {}
                }
            }
        }
        let keiki = concat!("keiki ", env!("CARGO_PKG_VERSION"));
        file.set("description", Value::Text(format!("Restored by {keiki}")));
        file.set("creation_host", Value::Text("keiki".to_owned()));
        file.set("creation_time", integer(time));
        Ok(file.to_text())
    }

    fn set_segments(&self, lv: &mut Section, segments: &[Segment]) {
        lv.entries.retain(
            |entry| !matches!(entry, Entry::Section(inner) if inner.name.starts_with("segment")),
        );
        lv.set("segment_count", integer(Bytes::from(segments.len()).get()));
        for (segment, number) in segments.iter().zip(1..) {
            let SegmentKind::Striped { stripe_size, stripes } = &segment.kind else { continue };
            let mut section = Section::new(format!("segment{number}"));
            section.set("start_extent", integer(segment.start_extent));
            section.set("extent_count", integer(segment.extent_count));
            section.set("type", Value::Text("striped".to_owned()));
            section.set("stripe_count", integer(Bytes::from(stripes.len()).get()));
            if stripes.len() > 1 {
                section.set("stripe_size", integer(stripe_size.units(SECTOR)));
            }
            let place = |(pv, pe): &(usize, u64)| {
                let key = self.pvs.get(*pv).map(|pv| pv.key.clone()).unwrap_or_default();
                [Value::Text(key), integer(*pe)]
            };
            section.set("stripes", Value::List(stripes.iter().flat_map(place).collect()));
            section.entries.extend(segment.extra.iter().cloned());
            lv.entries.push(Entry::Section(section));
        }
    }
}

fn integer(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

fn set_pv(section: &mut Section, pv: &Pv) {
    section.entries.retain(|entry| !HINTS.contains(&entry.name()));
    section.set("id", Value::Text(pv.uuid.clone()));
    section.set("dev_size", integer(pv.dev_size.units(SECTOR)));
    section.set("pe_count", integer(pv.pe_count));
}

/// The bytes that make a device of [`Pv::dev_size`] the PV `pv_index` of `vg`. `head` is the PV's as it
/// was; `text` is [`Vg::text`], the same one for all PVs.
///
/// # Errors
/// [`Error::Refused`] where a metadata area is not on the device or the text does not fit into it.
pub fn pv_image(vg: &Vg, pv_index: usize, head: &PvHead, text: &str) -> Result<PvImage> {
    let Some(pv) = vg.pvs.get(pv_index) else {
        return Err(Error::refused(format!("VG {} has no PV {pv_index}", vg.name)));
    };
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    let mut image = PvImage { text: Vec::new(), area_headers: Vec::new(), label: label(pv, head)? };
    for (old, area) in head.metadata_areas.iter().zip(places(pv, head)) {
        if area.end().is_none_or(|end| end > pv.dev_size) || area.offset < SECTOR {
            let why = format!("a metadata area at byte {} is not on it", area.offset.get());
            return Err(Error::refused(format!("PV {} of VG {}: {why}", pv.key, vg.name)));
        }
        // A later change needs room for a second copy beside this one.
        let room = Bytes::new(area.size.saturating_sub(SECTOR).get() / 2).saturating_sub(SECTOR);
        if Bytes::of(&bytes) > room {
            return Err(Error::refused(format!(
                "the metadata of VG {} has {} bytes, a metadata area of PV {} has room for {}",
                vg.name,
                bytes.len(),
                pv.key,
                room.get()
            )));
        }
        let flags = if old.ignored { AREA_IGNORED } else { 0 };
        image.area_headers.push((area.offset, area_header(area, &bytes, flags)));
        let mut sectors = bytes.clone();
        sectors.resize(bytes.len().next_multiple_of(SECTOR_LEN), 0);
        image.text.push((area.offset + SECTOR, sectors));
    }
    Ok(image)
}

/// Where the metadata areas are on the new device: only one behind the extents has moved.
fn places(pv: &Pv, head: &PvHead) -> Vec<Area> {
    let moved = |area: Area| match pv.trailing_area {
        Some(trailing) if area.offset >= pv.pe_start => trailing,
        _ => area,
    };
    head.metadata_areas.iter().map(|area| moved(area.area)).collect()
}

/// Slot 0 names the text that follows the header; slot 1, where LVM announces changes, is empty.
fn area_header(area: Area, text: &[u8], flags: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(SECTOR_LEN);
    body.extend(AREA_MAGIC);
    body.extend(1_u32.to_le_bytes());
    for number in [area.offset, area.size, SECTOR, Bytes::of(text)] {
        body.extend(number.get().to_le_bytes());
    }
    body.extend(crc(text).to_le_bytes());
    body.extend(flags.to_le_bytes());
    body.resize(SECTOR_LEN - 4, 0);
    [crc(&body).to_le_bytes().to_vec(), body].concat()
}

fn label(pv: &Pv, head: &PvHead) -> Result<Patch> {
    let mut body = 32_u32.to_le_bytes().to_vec();
    body.extend(LABEL_TYPE);
    body.extend(pv.uuid.bytes().filter(|byte| *byte != b'-'));
    body.extend(pv.dev_size.get().to_le_bytes());
    push_areas(&mut body, &head.data_areas);
    push_areas(&mut body, &places(pv, head));
    body.extend(2_u32.to_le_bytes());
    body.extend(PV_IN_USE.to_le_bytes());
    push_areas(&mut body, &head.bootloader_areas);
    if body.len() > SECTOR_LEN - 20 || head.label_sector >= LABEL_SECTORS {
        let what =
            format!("PV {}'s header, with its label in sector {}", pv.key, head.label_sector);
        return Err(Error::unsupported(what));
    }
    body.resize(SECTOR_LEN - 20, 0);
    let mut sector = LABEL_ID.to_vec();
    sector.extend(u64::from(head.label_sector).to_le_bytes());
    sector.extend(crc(&body).to_le_bytes());
    sector.extend(body);
    Ok((Bytes::from(usize::from(head.label_sector) * SECTOR_LEN), sector))
}

fn push_areas(body: &mut Vec<u8>, areas: &[Area]) {
    for area in areas.iter().chain([&Area { offset: Bytes::ZERO, size: Bytes::ZERO }]) {
        body.extend(area.offset.get().to_le_bytes());
        body.extend(area.size.get().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::pv_image;
    use crate::lvm::label::Area;
    use crate::lvm::model::Vg;
    use crate::lvm::{metadata, sample};
    use crate::units::Bytes;

    fn vg() -> Vg {
        let lvs = [("root", vec![(4, 128, vec![(0, 0), (0, 2)]), (1, 0, vec![(0, 9)])])];
        sample::vg(2048, &[10], &lvs)
    }

    #[test]
    fn the_text_keeps_what_it_does_not_know() {
        let original = sample::text(2048, &[10], &[("root", vec![(1, 0, vec![(0, 0)])])]);
        let original = original.replace("type =", "tags = [\"t\"] odd { x = 1 } type =");
        let vg = Vg::parse(&original).unwrap();
        let text = vg.text(1234).unwrap();
        let tree = metadata::parse(&text).unwrap();
        let before = metadata::parse(&original).unwrap();
        let (old, new) = (before.section("vg").unwrap(), tree.section("vg").unwrap());
        for key in ["tags", "future_key", "max_lv", "status", "seqno"] {
            assert_eq!(old.value(key), new.value(key), "{key}");
        }
        assert!(text.starts_with("vg {\n"), "LVM finds nothing else: {text}");
        assert!(!text.contains("device"), "{text}");
        assert!(text.contains("tags = [\"t\"]") && text.contains("odd {"), "{text}");
        assert_eq!(tree.text("creation_host").unwrap(), "keiki");
        assert_eq!(tree.number("creation_time", 9999).unwrap(), 1234);
        assert_eq!(Vg::parse(&text).unwrap().lvs, vg.lvs);
    }

    #[test]
    fn names_and_uuids_are_the_models() {
        let mut vg = vg();
        vg.name = "other-2".to_owned();
        vg.uuid = sample::uuid('V', 5);
        vg.pvs[0].uuid = sample::uuid('P', 5);
        vg.lvs[0].uuid = sample::uuid('L', 5);
        let again = Vg::parse(&vg.text(0).unwrap()).unwrap();
        assert_eq!((&again.name, &again.uuid), (&vg.name, &vg.uuid));
        assert_eq!((&again.pvs, &again.lvs), (&vg.pvs, &vg.lvs));
        let image = pv_image(&vg, 0, &sample::head(0, &[]), "").unwrap();
        let plain = sample::uuid('P', 5).replace('-', "");
        assert_eq!(&image.label.1[32..64], plain.as_bytes());
    }

    #[test]
    fn patches_lie_where_the_header_says() {
        let mut vg = vg();
        let text = vg.text(0).unwrap();
        vg.pvs[0].trailing_area = Some(Area { offset: Bytes::mib(30), size: Bytes::MIB });
        vg.pvs[0].dev_size = Bytes::mib(31);
        let head = sample::head(0, &[(4096, 1_044_480), (11 << 20, 1 << 20)]);
        let image = pv_image(&vg, 0, &head, &text).unwrap();
        let places = |patches: &[super::Patch]| -> Vec<u64> {
            patches.iter().map(|patch| patch.0.get()).collect()
        };
        assert_eq!(places(&image.area_headers), [4096, 30 << 20]);
        assert_eq!(places(&image.text), [4608, (30 << 20) + 512]);
        assert_eq!(image.label.0.get(), 512);
        for (_, bytes) in image.text.iter().chain(&image.area_headers).chain([&image.label]) {
            assert_eq!(bytes.len() % 512, 0);
        }
        let bare = pv_image(&vg, 0, &sample::head(0, &[]), &text).unwrap();
        assert_eq!((bare.text.len(), bare.area_headers.len()), (0, 0));
    }

    #[test]
    fn a_text_without_room_is_refused() {
        let (vg, head) = (vg(), sample::head(0, &[(4096, 4096)]));
        let error = pv_image(&vg, 0, &head, &"x".repeat(1280)).unwrap_err().to_string();
        assert_eq!(
            error,
            "the metadata of VG vg has 1281 bytes, a metadata area of PV pv0 has room for 1280"
        );
        assert!(pv_image(&vg, 0, &head, &"x".repeat(1279)).is_ok());
        assert!(pv_image(&vg, 1, &head, "").is_err());
    }

    #[test]
    fn heads_that_do_not_belong_there_are_refused() {
        let vg = vg();
        for (area, ok) in [
            ((4096, 4096), true),
            ((11 << 20, 4096), false),
            ((u64::MAX - 512, 4096), false),
            ((0, 4096), false),
        ] {
            assert_eq!(pv_image(&vg, 0, &sample::head(0, &[area]), "x").is_ok(), ok, "{area:?}");
        }
        let many = sample::head(0, &[(4096, 4096); 25]);
        assert!(pv_image(&vg, 0, &many, "x").is_err());
        let mut odd = sample::head(0, &[]);
        odd.label_sector = 4;
        assert!(pv_image(&vg, 0, &odd, "x").is_err());
    }
}
