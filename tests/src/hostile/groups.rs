//! LVM: labels, metadata areas, and the text of volume groups.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use image_core::error::Error;
use image_core::io::BlockSink;
use image_core::io::memory::Memory;
use image_core::lvm::allocate::{fit, room};
use image_core::lvm::assemble::assemble;
use image_core::lvm::label::{self, PvHead};
use image_core::lvm::map::LvMap;
use image_core::lvm::metadata;
use image_core::lvm::model::Vg;
use image_core::lvm::write::pv_image;
use image_core::units::Bytes;

use super::bases;
use super::edited::{Base, Edited};

/// Physical volumes, in the order of an input's first byte.
pub const LABELS: [&str; 2] = ["lvm", "lvm-two"];

static LABEL_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&LABELS));

/// The label of a physical volume, its areas and their text.
pub fn label(input: &[u8]) {
    let Some((mut edited, wish)) = Edited::decode(&LABEL_BASES, input) else { return };
    if wish.sign {
        sign(&mut edited);
    }
    let _ = judge(&edited);
}

/// The label on `volume`, where it is accepted; proven by what is written for it.
pub fn judge(volume: &Edited<'_>) -> Option<PvHead> {
    let head = match label::read(volume) {
        Ok(head) => head?,
        Err(error) => {
            assert!(!matches!(error, Error::Io { .. }), "a label that leaves its volume: {error}");
            return None;
        }
    };
    let assembly = assemble(&[(7, head.clone())]);
    let raw = assembly.raw.iter().map(|group| group.keys.len()).sum::<usize>();
    let members = assembly.groups.iter().map(|group| group.members.len()).sum::<usize>();
    assert_eq!(raw + members + assembly.orphans.len(), 1, "every volume is told once");
    for group in &assembly.groups {
        model(&group.vg);
        let Ok(text) = group.vg.text(1) else { continue };
        let Ok(image) = pv_image(&group.vg, 0, &head, &text) else { continue };
        let size = group.vg.pvs.first().map_or(Bytes::ZERO, |pv| pv.dev_size);
        // Where the text tells of terabytes, no memory has room for them.
        let Some(length) = size.index().filter(|length| *length <= 64 << 20) else { continue };
        let memory = Memory::new(vec![0; length]);
        for (offset, bytes) in [image.text, image.area_headers, vec![image.label]].concat() {
            if let Err(error) = memory.write_at(offset, &bytes) {
                panic!("a label that leaves its volume: {error}");
            }
        }
        match label::read(&memory) {
            Ok(Some(again)) => assert_eq!(again.uuid, head.uuid),
            other => panic!("what was written reads as {other:?}"),
        }
    }
    Some(head)
}

/// The text itself: what is parsed is written as a text that says the same.
pub fn text(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(file) = metadata::parse(text) {
        let again = metadata::parse(&file.to_text());
        assert!(matches!(&again, Ok(again) if *again == file), "{file:?} became {again:?}");
    }
    if let Ok(vg) = Vg::parse(text) {
        model(&vg);
    }
}

/// A group that was accepted can be mapped, laid out anew and written.
fn model(vg: &Vg) {
    for lv in &vg.lvs {
        let Ok(map) = LvMap::new(vg, lv) else { continue };
        assert_eq!(map.size(), lv.size(vg));
        let _ = map.contiguous();
    }
    let sizes: Vec<Bytes> = vg.pvs.iter().map(|pv| pv.dev_size).collect();
    let _ = (room(vg, &sizes), vg.free_bytes(), vg.to_be_moved(&[0]));
    let wanted: BTreeMap<String, Bytes> =
        vg.lvs.iter().map(|lv| (lv.name.clone(), lv.size(vg))).collect();
    let fitted = fit(vg, &sizes, &wanted);
    for vg in [Some(vg), fitted.as_ref().ok()].into_iter().flatten() {
        let Ok(text) = vg.text(1) else { continue };
        match Vg::parse(&text) {
            Ok(again) => assert_eq!((again.lvs, again.pvs.len()), (vg.lvs.clone(), vg.pvs.len())),
            Err(error) => panic!("a text that is written and then refused: {error}"),
        }
    }
}

/// LVM's checksum: a CRC-32 that begins with 0xf597a6cf and is not inverted at its end.
fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    !hasher.finalize()
}

/// Makes the checksums of label, area headers and text right.
pub fn sign(volume: &mut Edited<'_>) {
    let Some(at) = (0..4).map(|n| n * 512).find(|at| volume.bytes(*at, 8) == b"LABELONE") else {
        return;
    };
    let header = at + usize::try_from(volume.little(at + 20, 4)).unwrap_or(0).min(480);
    // Data areas up to a zero, then metadata areas up to a zero.
    let mut cursor = header + 40;
    let mut areas = Vec::new();
    for list in 0..2 {
        while cursor < at + 512 && volume.little(cursor, 8) != 0 {
            if list == 1 {
                areas.push((volume.little(cursor, 8), volume.little(cursor + 8, 8)));
            }
            cursor += 16;
        }
        cursor += 16;
    }
    for (start, size) in areas {
        let (Ok(start), Ok(size)) = (usize::try_from(start), usize::try_from(size)) else {
            continue;
        };
        if start >= volume.len() || size < 1024 || size > volume.len() {
            continue;
        }
        sign_area(volume, start, size);
    }
    let sum = crc(&volume.bytes(at + 20, 492));
    volume.put(at + 16, &sum.to_le_bytes());
}

fn sign_area(volume: &mut Edited<'_>, start: usize, size: usize) {
    for slot in [start + 40, start + 64] {
        let place = [slot, slot + 8].map(|at| usize::try_from(volume.little(at, 8)).unwrap_or(0));
        let [offset, length] = place;
        if !(512..size).contains(&offset) || length > size - 512 {
            continue;
        }
        // The text goes on behind the header when it reaches the area's end.
        let first = length.min(size - offset);
        let mut text = volume.bytes(start + offset, first);
        text.extend(volume.bytes(start + 512, length - first));
        volume.put(slot + 16, &crc(&text).to_le_bytes());
    }
    let sum = crc(&volume.bytes(start + 4, 508));
    volume.put(start, &sum.to_le_bytes());
}
