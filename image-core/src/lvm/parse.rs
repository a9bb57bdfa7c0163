//! A metadata text as a checked volume group, and what stands in the way of handling it.
//!
//! Source: lvm2 `lib/format_text/import_vsn1.c` (keys and their meaning), `flags.c` (status words).

use std::collections::BTreeMap;

use super::SECTOR;
use super::label::is_uuid;
use super::metadata::{self, Entry, Section, Value};
use super::model::{Lv, MAX_32, Pv, Segment, SegmentKind, Vg, VgStamp};
use crate::error::Result;
use crate::units::Bytes;

/// Keys of a segment that [`Segment`] has as fields.
const SEGMENT_KEYS: [&str; 6] =
    ["start_extent", "extent_count", "type", "stripe_count", "stripe_size", "stripes"];

/// Status words that change nothing about where bytes lie.
const VG_STATUS: [&str; 4] = ["RESIZEABLE", "READ", "WRITE", "EXPORTED"];
const PV_STATUS: [&str; 2] = ["ALLOCATABLE", "EXPORTED"];
const LV_STATUS: [&str; 4] = ["READ", "WRITE", "VISIBLE", "FIXED_MINOR"];

impl VgStamp {
    /// The stamp of a whole text.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it does not describe exactly one VG.
    pub(super) fn of(text: &Section) -> Result<Self> {
        if text.text("contents")? != "Text Format Volume Group" {
            return Err(text.complaint("contents", "a volume group", text.value("contents")));
        }
        if text.number("version", MAX_32)? != 1 {
            return Err(text.complaint("version", "1", text.value("version")));
        }
        let mut sections = text.sections();
        let (Some(vg), None) = (sections.next(), sections.next()) else {
            return Err(text.corrupt("section", "one volume group", "none or several"));
        };
        // One below the largest, so that the next one is a number too.
        let seqno = vg.number("seqno", MAX_32 - 1)?;
        Ok(Self { name: name_of(vg)?, uuid: uuid_of(vg)?, seqno })
    }
}

impl Vg {
    /// Reads and checks a metadata text.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: the grammar, a missing key, segments with gaps, extents outside their PV or
    /// used twice. What is valid but not understood is no error: see [`Vg::unsupported`].
    pub fn parse(text: &str) -> Result<Self> {
        let file = metadata::parse(text)?;
        let VgStamp { name, uuid, seqno } = VgStamp::of(&file)?;
        let empty = Section::new("");
        let root = file.section(&name).unwrap_or(&empty);
        let extent_size = sectors(root, "extent_size", MAX_32)?;
        if extent_size.is_zero() {
            return Err(root.corrupt("extent_size", "more than zero", "0"));
        }
        let part = |name| root.section(name).map(Section::sections).into_iter().flatten();
        let pvs = part("physical_volumes")
            .map(|section| parse_pv(section, extent_size))
            .collect::<Result<Vec<_>>>()?;
        let index: BTreeMap<&str, usize> = pvs.iter().map(|pv| pv.key.as_str()).zip(0..).collect();
        let lvs = part("logical_volumes")
            .map(|section| parse_lv(section, &index, extent_size))
            .collect::<Result<Vec<_>>>()?;
        let unsupported = obstacle(root, &lvs)?;
        let vg = Self { name, uuid, seqno, extent_size, pvs, lvs, file, unsupported };
        vg.check()?;
        Ok(vg)
    }
}

/// A count of sectors that is at most `max`, as bytes.
fn sectors(section: &Section, key: &str, max: u64) -> Result<Bytes> {
    let count = section.number(key, max)?;
    let bytes = SECTOR.checked_mul(count);
    bytes.ok_or_else(|| section.complaint(key, "a size in 64 bits", section.value(key)))
}

fn uuid_of(section: &Section) -> Result<String> {
    let uuid = section.text("id")?;
    if is_uuid(uuid) {
        return Ok(uuid.to_owned());
    }
    Err(section.complaint("id", "a UUID", section.value("id")))
}

/// The section's name, which must be one that LVM allows for VGs and LVs (`man lvm`, VALID NAMES).
fn name_of(section: &Section) -> Result<String> {
    let name = &section.name;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    let odd = name.starts_with('-') || matches!(name.as_str(), "." | "..");
    if odd || name.len() > 127 || !name.bytes().all(legal) {
        return Err(section.corrupt(
            "name",
            "letters, digits and +_.-",
            name.escape_debug().to_string(),
        ));
    }
    Ok(name.clone())
}

fn parse_pv(section: &Section, extent_size: Bytes) -> Result<Pv> {
    let pv = Pv {
        key: section.name.clone(),
        uuid: uuid_of(section)?,
        dev_size: sectors(section, "dev_size", u64::MAX)?,
        pe_start: sectors(section, "pe_start", u64::MAX)?,
        pe_count: section.number("pe_count", MAX_32)?,
        allocatable: section.texts("status")?.contains(&"ALLOCATABLE"),
        trailing_area: None,
    };
    let end = extent_size.checked_mul(pv.pe_count).and_then(|size| size.checked_add(pv.pe_start));
    if end.is_none_or(|end| end > pv.dev_size) {
        let expected = format!("extents within dev_size ({} bytes)", pv.dev_size.get());
        return Err(section.complaint("pe_count", &expected, section.value("pe_count")));
    }
    Ok(pv)
}

fn parse_lv(section: &Section, pvs: &BTreeMap<&str, usize>, extent_size: Bytes) -> Result<Lv> {
    let mut segments = Vec::new();
    for inner in section.sections().filter(|inner| inner.name.starts_with("segment")) {
        segments.push(parse_segment(inner, pvs, extent_size)?);
    }
    if section.number("segment_count", MAX_32)? != Bytes::from(segments.len()).get() {
        let expected = format!("{} segments", segments.len());
        return Err(section.complaint("segment_count", &expected, section.value("segment_count")));
    }
    segments.sort_by_key(|segment| segment.start_extent);
    Ok(Lv { name: name_of(section)?, uuid: uuid_of(section)?, segments, held: false })
}

fn parse_segment(
    section: &Section,
    pvs: &BTreeMap<&str, usize>,
    extent_size: Bytes,
) -> Result<Segment> {
    let extent_count = section.number("extent_count", MAX_32)?;
    if extent_count == 0 {
        return Err(section.corrupt("extent_count", "more than zero", "0"));
    }
    let kind = match section.text("type")? {
        "striped" | "linear" => parse_stripes(section, pvs, extent_count, extent_size)?,
        other => {
            let article = if other.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
            SegmentKind::Unsupported(format!("{article} {other}"))
        }
    };
    let known = |entry: &&Entry| !SEGMENT_KEYS.contains(&entry.name());
    Ok(Segment {
        start_extent: section.number("start_extent", MAX_32)?,
        extent_count,
        kind,
        extra: section.entries.iter().filter(known).cloned().collect(),
    })
}

fn parse_stripes(
    section: &Section,
    pvs: &BTreeMap<&str, usize>,
    extent_count: u64,
    extent_size: Bytes,
) -> Result<SegmentKind> {
    let list = section.value("stripes");
    let Some(Value::List(places)) = list else {
        return Err(section.complaint("stripes", "a list", list));
    };
    let mut stripes = Vec::new();
    for pair in places.chunks(2) {
        let [Value::Text(on), Value::Integer(pe)] = pair else {
            return Err(section.complaint("stripes", "names, each with an extent", list));
        };
        let Some(pv) = pvs.get(on.as_str()) else {
            return Ok(SegmentKind::Unsupported("laid over other LVs".to_owned()));
        };
        let pe = u64::try_from(*pe).ok().filter(|pe| *pe <= MAX_32);
        stripes.push((*pv, pe.ok_or_else(|| section.complaint("stripes", "an extent", list))?));
    }
    let count = Bytes::from(stripes.len()).get();
    if count == 0 || section.number("stripe_count", MAX_32)? != count {
        let expected = format!("{count}, as many as stripes, at least 1");
        return Err(section.complaint("stripe_count", &expected, section.value("stripe_count")));
    }
    if count == 1 {
        return Ok(SegmentKind::Striped { stripe_size: Bytes::ZERO, stripes });
    }
    let stripe_size = sectors(section, "stripe_size", MAX_32)?;
    let expected = "stripes of whole extents and whole chunks";
    let each = extent_size.checked_mul(extent_count / count);
    let whole = |each: Bytes| !stripe_size.is_zero() && each.is_aligned(stripe_size);
    if !extent_count.is_multiple_of(count) || !each.is_some_and(whole) {
        return Err(section.complaint("extent_count", expected, section.value("extent_count")));
    }
    Ok(SegmentKind::Striped { stripe_size, stripes })
}

/// The first thing in the VG that this version does not handle, as a sentence.
fn obstacle(vg: &Section, lvs: &[Lv]) -> Result<Option<String>> {
    let name = &vg.name;
    if let Some(Value::Text(lock)) = vg.value("lock_type")
        && lock != "none"
    {
        return Ok(Some(format!("VG {name} is shared between hosts (lock_type {lock})")));
    }
    if let Some(word) = foreign_status(vg, &VG_STATUS)? {
        return Ok(Some(format!("VG {name} has the status {word}")));
    }
    for pv in vg.section("physical_volumes").into_iter().flat_map(Section::sections) {
        if pv.texts("flags")?.contains(&"MISSING") || pv.texts("status")?.contains(&"MISSING") {
            return Ok(Some(format!("PV {} of VG {name} is marked as missing", pv.name)));
        }
        if let Some(word) = foreign_status(pv, &PV_STATUS)? {
            return Ok(Some(format!("PV {} of VG {name} has the status {word}", pv.name)));
        }
    }
    let sections = vg.section("logical_volumes").into_iter().flat_map(Section::sections);
    for (lv, section) in lvs.iter().zip(sections) {
        let mut kinds = lv.segments.iter().map(|segment| &segment.kind);
        if let Some(SegmentKind::Unsupported(what)) =
            kinds.find(|kind| matches!(kind, SegmentKind::Unsupported(_)))
        {
            return Ok(Some(format!("LV {name}/{} is {what}", lv.name)));
        }
        if let Some(word) = foreign_status(section, &LV_STATUS)? {
            return Ok(Some(format!("LV {name}/{} has the status {word}", lv.name)));
        }
    }
    Ok(None)
}

fn foreign_status<'a>(section: &'a Section, known: &[&str]) -> Result<Option<&'a str>> {
    Ok(section.texts("status")?.into_iter().find(|word| !known.contains(word)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Vg;
    use crate::lvm::allocate::fit;
    use crate::lvm::sample;
    use crate::units::Bytes;

    fn text() -> String {
        let lvs = [
            ("root", vec![(2, 0, vec![(0, 1)]), (4, 128, vec![(0, 6), (1, 0)])]),
            ("swap", vec![(1, 0, vec![(0, 4)])]),
        ];
        sample::text(2048, &[10, 5], &lvs)
    }

    #[test]
    fn contradictions_are_named() {
        for (from, to, message) in [
            ("start_extent = 2", "start_extent = 3", "start_extent of root at byte"),
            ("\"pv0\", 4", "\"pv0\", 1", "not used twice, found 1 of pv 0"),
            ("\"pv0\", 4", "\"pv0\", 2", "expected not used twice, found 2 of pv 0"),
            ("\"pv0\", 4", "\"pv0\", 10", "expected up to 10 of pv 0, found 11"),
            ("\"pv0\", 4", "\"pv0\", 4294967296", "stripes of segment1"),
            ("\"pv0\", 4", "\"pv0\"", "stripes of segment1"),
            ("\"pv0\", 4", "", "stripe_count of segment1"),
            ("extent_count = 4", "extent_count = 3", "extent_count of segment2"),
            ("stripe_size = 128", "stripe_size = 0", "extent_count of segment2"),
            ("stripe_size = 128", "stripe_size = 3000", "extent_count of segment2"),
            ("extent_count = 1 ", "extent_count = 0 ", "extent_count of segment1"),
            ("segment_count = 2", "segment_count = 3", "expected 2 segments, found 3"),
            ("pe_count = 10", "pe_count = 11", "expected extents within dev_size"),
            ("pe_count = 10", "pe_count = 4294967296", "pe_count of pv0"),
            ("pe_start = 2048", "pe_start = 9000000000000000000", "pe_start of pv0"),
            ("extent_size = 2048", "extent_size = 0", "extent_size of vg"),
            ("seqno = 7", "seqno = 4294967295", "seqno of vg"),
            ("p00001-0000", "p00001_0000", "expected a UUID, found \"p00001_0000"),
            ("swap {", "-swap {", "name of -swap"),
            ("swap {", "a/b {", "name of a/b"),
            ("contents = \"Text", "contents = \"Next", "contents of LVM2 metadata text"),
            ("version = 1", "version = 2", "version of LVM2 metadata text"),
            ("contents =", "other { } contents =", "expected one volume group"),
        ] {
            let broken = text().replacen(from, to, 1);
            assert_ne!(broken, text(), "{from} is not there");
            let error = Vg::parse(&broken).unwrap_err().to_string();
            assert!(error.contains(message), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_handled_is_a_sentence() {
        let lv = "swap { id = \"l00001-0000-0000-0000-0000-0000-000000\" status = [";
        for (from, to, reason) in [
            ("swap {", "swap { flags_ = 1", ""),
            ("type = \"striped\"", "type = \"thin-pool\"", "LV vg/root is a thin-pool"),
            ("type = \"striped\"", "type = \"error\"", "LV vg/root is an error"),
            ("type = \"striped\"", "type = \"striped+NEW\"", "LV vg/root is a striped+NEW"),
            ("\"pv0\", 4", "\"lvol0\", 4", "LV vg/swap is laid over other LVs"),
            (lv, &format!("{lv}\"LOCKED\", "), "LV vg/swap has the status LOCKED"),
            ("seqno = 7", "lock_type = \"none\" seqno = 7", ""),
            ("seqno", "lock_type = \"dlm\" seqno", "VG vg is shared between hosts (lock_type dlm)"),
            ("[\"RESIZEABLE\"", "[\"PVMOVE\"", "VG vg has the status PVMOVE"),
            ("[\"ALLOCATABLE\"]", "[\"ODD\"]", "PV pv0 of VG vg has the status ODD"),
            ("flags = [] dev", "flags = [\"MISSING\"] dev", "PV pv0 of VG vg is marked as missing"),
        ] {
            let other = text().replacen(from, to, 1);
            assert_ne!(other, text(), "{from} is not there");
            let vg = Vg::parse(&other).unwrap();
            assert_eq!(vg.unsupported().unwrap_or_default(), reason);
            let sizes: Vec<Bytes> = vg.pvs.iter().map(|pv| pv.dev_size).collect();
            for refusal in [vg.text(0).err(), fit(&vg, &sizes, &BTreeMap::new()).err()] {
                assert_eq!(refusal.map(|error| error.to_string()).unwrap_or_default(), reason);
            }
        }
    }

    #[test]
    fn damaged_texts_do_not_panic() {
        let whole = text().into_bytes();
        for at in 0..whole.len() {
            for byte in [b' ', b'9', b'"', b'}', b'-'] {
                let mut damaged = whole.clone();
                damaged[at] = byte;
                let _ = Vg::parse(&String::from_utf8(damaged).unwrap());
            }
        }
    }
}
