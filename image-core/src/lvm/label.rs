//! One physical volume: its label, its header, its metadata areas and the newest text in them.
//!
//! Source: lvm2 `lib/label/label.h`, `lib/format_text/layout.h`, `format-text.c`; all little-endian.

use serde::{Deserialize, Serialize};

use super::metadata;
use super::model::VgStamp;
use super::{
    AREA_IGNORED, AREA_MAGIC, LABEL_ID, LABEL_SECTORS, LABEL_TYPE, PV_IN_USE, SECTOR, SECTOR_LEN,
    crc,
};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::units::Bytes;

/// Longest text read: far beyond what LVM writes, far below what memory holds.
const MAX_TEXT: Bytes = Bytes::mib(64);

/// Where the list of slots begins in a metadata area's header, and how long a slot is.
const SLOTS: usize = 40;

/// A place on a PV, as its header lists them.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Area {
    /// From the start of the PV.
    pub offset: Bytes,
    /// Zero in a data area: all that follows.
    pub size: Bytes,
}

impl Area {
    /// One past its last byte; `None` where no 64-bit number can say it.
    pub fn end(self) -> Option<Bytes> {
        self.offset.checked_add(self.size)
    }
}

/// A place for copies of the VG's metadata text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct MetadataArea {
    /// Header and circular buffer.
    pub area: Area,
    /// LVM was told not to use it (`pvchange --metadataignore y`).
    pub ignored: bool,
}

/// What one PV says of itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct PvHead {
    /// As `pvs` prints it: `xxxxxx-xxxx-xxxx-xxxx-xxxx-xxxx-xxxxxx`.
    pub uuid: String,
    /// Size of the device when LVM last wrote the header; the VG's text has the one that counts.
    pub device_size: Bytes,
    /// Where extents may lie; the VG's text has the exact start.
    pub data_areas: Vec<Area>,
    /// None, one or two copies of the VG's metadata.
    pub metadata_areas: Vec<MetadataArea>,
    /// Space kept free for boot loaders.
    pub bootloader_areas: Vec<Area>,
    /// Which of the first four 512-byte sectors holds the label.
    pub label_sector: u8,
    /// A VG uses it; PVs from before 2016 do not say so.
    pub in_use: bool,
    /// The VG's newest metadata in this PV's areas; none where no area is in use or there is no VG.
    pub text: Option<String>,
    /// Which VG that text describes.
    pub vg: Option<VgStamp>,
}

/// The PV on `source`, if it carries an LVM label.
///
/// # Errors
/// [`Error::Corrupt`] where label, an area in use or the text contradicts its checksum or leaves the
/// device: a damaged copy is not passed over, because the other one might be older.
/// [`Error::Unsupported`] for other label types and unknown header flags.
pub fn read(source: &dyn BlockSource) -> Result<Option<PvHead>> {
    read_head(source).map_err(|error| error.on(&source.name()))
}

fn read_head(source: &dyn BlockSource) -> Result<Option<PvHead>> {
    let length = SECTOR_LEN * usize::from(LABEL_SECTORS);
    if source.size() < Bytes::from(length) {
        return Ok(None);
    }
    let sectors = source.read(Bytes::ZERO, length)?;
    let mut numbered = (0..LABEL_SECTORS).zip(sectors.chunks_exact(SECTOR_LEN));
    let label = numbered.find(|(_, sector)| sector.starts_with(LABEL_ID));
    let Some((number, sector)) = label else {
        return Ok(None);
    };
    let mut head = decode_label(number, sector)?;
    for area in &mut head.metadata_areas {
        let Some(text) = read_area(source, area)? else { continue };
        let stamp = VgStamp::of(&metadata::parse(&text)?)?;
        if head.vg.as_ref().is_none_or(|newest| stamp.seqno > newest.seqno) {
            head.text = Some(text);
            head.vg = Some(stamp);
        }
    }
    Ok(Some(head))
}

fn decode_label(number: u8, sector: &[u8]) -> Result<PvHead> {
    let at = Bytes::from(usize::from(number) * SECTOR_LEN);
    let label = Structure::new("LVM label", at, sector);
    let (sum, found) = (crc(label.slice(20, SECTOR_LEN - 20)?), label.le32(16)?);
    if sum != found {
        return Err(label.corrupt("crc", 16, format!("{sum:#010x}"), format!("{found:#010x}")));
    }
    if label.slice(24, 8)? != LABEL_TYPE {
        return Err(Error::unsupported(format!("LVM label type {:?}", label.text(24, 8)?)));
    }
    if label.le64(8)? != u64::from(number) {
        return Err(label.corrupt("sector", 8, number.to_string(), label.le64(8)?));
    }
    let start = Bytes::from(label.le32(20)?).index().filter(|start| *start >= 32);
    let content = start.and_then(|start| Some((start, sector.get(start..)?)));
    let Some((start, content)) = content else {
        return Err(label.corrupt("offset", 20, "32 to 512", label.le32(20)?));
    };
    decode_header(Structure::new("PV header", at + Bytes::from(start), content), number)
}

fn decode_header(header: Structure<'_>, label_sector: u8) -> Result<PvHead> {
    let mut cursor = 40;
    let data_areas = area_list(header, &mut cursor)?;
    let metadata_areas = area_list(header, &mut cursor)?
        .into_iter()
        .map(|area| MetadataArea { area, ignored: false })
        .collect();
    let mut head = PvHead {
        uuid: dashed(header.array(0)?)
            .ok_or_else(|| header.corrupt("uuid", 0, "32 letters and digits", "something else"))?,
        device_size: Bytes::new(header.le64(32)?),
        data_areas,
        metadata_areas,
        bootloader_areas: Vec::new(),
        label_sector,
        in_use: false,
        text: None,
        vg: None,
    };
    // PVs from before 2012 have no extension: zeros.
    let version = header.le32(cursor)?;
    if version > 2 {
        return Err(Error::unsupported(format!("PV header extension version {version}")));
    }
    if version > 0 {
        let flags = header.le32(cursor + 4)?;
        if flags & !PV_IN_USE != 0 {
            return Err(Error::unsupported(format!("PV header flags {flags:#x}")));
        }
        head.in_use = flags & PV_IN_USE != 0;
        cursor += 8;
        head.bootloader_areas = area_list(header, &mut cursor)?;
    }
    Ok(head)
}

/// The areas from `cursor` to the zero entry; leaves `cursor` behind that.
fn area_list(header: Structure<'_>, cursor: &mut usize) -> Result<Vec<Area>> {
    let mut areas = Vec::new();
    loop {
        let area = Area {
            offset: Bytes::new(header.le64(*cursor)?),
            size: Bytes::new(header.le64(*cursor + 8)?),
        };
        *cursor += 16;
        if area.offset.is_zero() {
            return Ok(areas);
        }
        areas.push(area);
    }
}

/// A UUID as texts have it, from the 32 characters of a header; `None` for foreign characters.
fn dashed(plain: [u8; 32]) -> Option<String> {
    let mut text = String::new();
    for (index, byte) in plain.into_iter().enumerate() {
        if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(char::from(byte));
    }
    is_uuid(&text).then_some(text)
}

/// Whether this is a UUID as LVM writes it.
pub(super) fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'!' || byte == b'#';
    lengths == [6, 4, 4, 4, 4, 4, 6] && parts.iter().all(|part| part.bytes().all(legal))
}

/// The committed text of one area; notes whether LVM ignores the area.
fn read_area(source: &dyn BlockSource, area: &mut MetadataArea) -> Result<Option<String>> {
    let Area { offset, size } = area.area;
    let inside = Extent::at(offset, size).is_some_and(|area| area.end <= source.size());
    if !inside || offset < SECTOR || size <= SECTOR {
        let expected = format!("an area within {} bytes", source.size().get());
        return Err(Error::corrupt(
            "metadata area",
            offset,
            expected,
            format!("{} bytes", size.get()),
        ));
    }
    let bytes = source.read(offset, SECTOR_LEN)?;
    let header = Structure::new("metadata area header", offset, &bytes);
    check_area_header(header, area.area)?;
    let slot = Structure::new("metadata area slot 0", offset, &bytes);
    area.ignored = slot.le32(SLOTS + 20)? & AREA_IGNORED != 0;
    let (start, length) = (Bytes::new(slot.le64(SLOTS)?), Bytes::new(slot.le64(SLOTS + 8)?));
    if area.ignored || (start.is_zero() && length.is_zero()) {
        return Ok(None);
    }
    if start < SECTOR || start >= size {
        return Err(slot.corrupt("offset", SLOTS, format!("512 to {}", size.get()), start.get()));
    }
    let longest = MAX_TEXT.min(size - SECTOR);
    if length.is_zero() || length > longest {
        let expected = format!("1 to {}", longest.get());
        return Err(slot.corrupt("size", SLOTS + 8, expected, length.get()));
    }
    let text = read_ring(source, area.area, start, length)?;
    let (sum, found) = (crc(&text), slot.le32(SLOTS + 16)?);
    if sum != found {
        let place = Structure::new("metadata text", offset + start, &text);
        return Err(place.corrupt("crc", 0, format!("{found:#010x}"), format!("{sum:#010x}")));
    }
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    // Names are ASCII; only the description, a command line, may hold other bytes.
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

fn check_area_header(header: Structure<'_>, area: Area) -> Result<()> {
    let (sum, found) = (crc(header.slice(4, SECTOR_LEN - 4)?), header.le32(0)?);
    if sum != found {
        return Err(header.corrupt("crc", 0, format!("{sum:#010x}"), format!("{found:#010x}")));
    }
    if header.slice(4, 16)? != AREA_MAGIC {
        return Err(header.corrupt("magic", 4, "LVM2's", "something else"));
    }
    for (field, at, expected, found) in [
        ("version", 20, 1, u64::from(header.le32(20)?)),
        ("start", 24, area.offset.get(), header.le64(24)?),
        ("size", 32, area.size.get(), header.le64(32)?),
    ] {
        if expected != found {
            return Err(header.corrupt(field, at, expected.to_string(), found));
        }
    }
    Ok(())
}

/// `length` bytes from `start` of the area's circular buffer, which begins behind the header.
fn read_ring(source: &dyn BlockSource, area: Area, start: Bytes, length: Bytes) -> Result<Vec<u8>> {
    let first = length.min(area.size - start);
    let mut text = vec![0; length.index().unwrap_or_default()];
    let (head, tail) = text.split_at_mut(first.index().unwrap_or_default());
    source.read_at(area.offset + start, head)?;
    source.read_at(area.offset + SECTOR, tail)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Area, PvHead, read};
    use crate::io::BlockSink;
    use crate::io::memory::Memory;
    use crate::lvm::write::{PvImage, pv_image};
    use crate::lvm::{AREA_IGNORED, crc, sample};
    use crate::units::Bytes;

    const AREAS: [(u64, u64); 2] = [(4096, 1_044_480), (4 << 20, 1 << 20)];

    /// A PV of 5 MiB with two metadata areas, and what was written on it.
    fn made() -> (Memory, PvImage, PvHead) {
        let lvs = [("root", vec![(1, 0, vec![(0, 1)])])];
        let mut vg = sample::vg(2048, &[3], &lvs);
        vg.pvs[0].dev_size = Bytes::mib(5);
        let head = sample::head(0, &AREAS);
        let image = pv_image(&vg, 0, &head, &vg.text(9).unwrap()).unwrap();
        let disk = Memory::new(vec![0x55; 5 << 20]);
        for (offset, bytes) in image.text.iter().chain(&image.area_headers).chain([&image.label]) {
            disk.write_at(*offset, bytes).unwrap();
        }
        (disk, image, head)
    }

    /// The area header `image.area_headers[index]` with the slot's fields changed, signed again.
    fn slot(image: &PvImage, index: usize, fields: &[(usize, &[u8])]) -> (Bytes, Vec<u8>) {
        let (offset, mut header) = image.area_headers[index].clone();
        for (at, bytes) in fields {
            header[40 + at..40 + at + bytes.len()].copy_from_slice(bytes);
        }
        let sum = crc(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        (offset, header)
    }

    #[test]
    fn what_was_written_is_read() {
        let (disk, image, head) = made();
        let read = read(&disk).unwrap().unwrap();
        let text = image.text[0].1.split(|byte| *byte == 0).next().unwrap();
        assert_eq!(read.text.as_deref().unwrap().as_bytes(), text);
        let stamp = read.vg.clone().unwrap();
        assert_eq!((stamp.name.as_str(), stamp.seqno), ("vg", 7));
        assert_eq!(read.device_size, Bytes::mib(5));
        let bare = PvHead { text: None, vg: None, device_size: Bytes::ZERO, ..read };
        assert_eq!(bare, head);
    }

    #[test]
    fn devices_without_a_label_are_no_pvs() {
        assert_eq!(read(&Memory::new(vec![0x55; 4096])).unwrap(), None);
        assert_eq!(read(&Memory::new(b"LABELONE".to_vec())).unwrap(), None);
    }

    #[test]
    fn a_text_that_wraps_around_is_put_together() {
        let (disk, image, _) = made();
        let (offset, size) = AREAS[0];
        let text = image.text[0].1.split_inclusive(|byte| *byte == 0).next().unwrap();
        let start = size - 100;
        disk.write_at(Bytes::new(offset + start), &text[..100]).unwrap();
        disk.write_at(Bytes::new(offset + 512), &text[100..]).unwrap();
        let (at, header) = slot(&image, 0, &[(0, &start.to_le_bytes())]);
        disk.write_at(at, &header).unwrap();
        let whole = read(&disk).unwrap().unwrap().text.unwrap();
        assert_eq!(whole.as_bytes(), &text[..text.len() - 1]);
    }

    #[test]
    fn the_newest_text_counts_and_ignored_areas_do_not() {
        let (disk, image, _) = made();
        let newer = String::from_utf8(image.text[1].1.clone()).unwrap();
        let newer = newer.replace("seqno = 7", "seqno = 8");
        let length = newer.find('\0').unwrap() + 1;
        let sum = crc(&newer.as_bytes()[..length]).to_le_bytes();
        disk.write_at(image.text[1].0, newer.as_bytes()).unwrap();
        let (at, header) = slot(&image, 1, &[(16, &sum)]);
        disk.write_at(at, &header).unwrap();
        assert_eq!(read(&disk).unwrap().unwrap().vg.unwrap().seqno, 8);
        let ignored = AREA_IGNORED.to_le_bytes();
        let (at, header) = slot(&image, 1, &[(16, &sum), (20, &ignored)]);
        disk.write_at(at, &header).unwrap();
        let head = read(&disk).unwrap().unwrap();
        assert!(head.metadata_areas[1].ignored && !head.metadata_areas[0].ignored);
        assert_eq!(head.vg.unwrap().seqno, 7);
    }

    #[test]
    fn slots_that_lead_astray_are_refused() {
        let (disk, image, _) = made();
        for (at, value, message) in [
            (
                0,
                511,
                "metadata area slot 0 offset at byte 4136: expected 512 to 1044480, found 511",
            ),
            (0, 1_044_480, "metadata area slot 0 offset at byte 4136"),
            (0, u64::MAX, "metadata area slot 0 offset at byte 4136"),
            (8, 0, "metadata area slot 0 size at byte 4144: expected 1 to 1043968, found 0"),
            (8, u64::MAX, "metadata area slot 0 size at byte 4144"),
            (8, 7, "metadata text crc at byte 4608"),
        ] {
            let (offset, header) = slot(&image, 0, &[(at, &u64::to_le_bytes(value))]);
            disk.write_at(offset, &header).unwrap();
            let error = read(&disk).unwrap_err().to_string();
            assert!(error.starts_with(&format!("memory: {message}")), "{error}");
        }
    }

    #[test]
    fn areas_outside_the_device_are_refused() {
        let (disk, _, _) = made();
        let mut short = disk.into_bytes();
        short.truncate((5 << 20) - 1);
        let error = read(&Memory::new(short)).unwrap_err().to_string();
        let message = "metadata area at byte 4194304: expected an area within 5242879 bytes";
        assert!(error.contains(message), "{error}");
        assert_eq!(Area { offset: Bytes::MAX, size: Bytes::new(1) }.end(), None);
    }

    #[test]
    fn every_flipped_byte_is_noticed_and_placed() {
        let (disk, image, head) = made();
        let whole = read(&disk).unwrap().unwrap();
        let length = image.text[0].1.iter().position(|byte| *byte == 0).unwrap() + 1;
        // The checksum of the label sets out at byte 20; the eight before it are the label's number.
        let places = [
            (532..1024, "LVM label crc at byte 528"),
            (528..532, "LVM label crc at byte 528"),
            (520..528, "LVM label sector at byte 520"),
            (4096..4608, "metadata area header crc at byte 4096"),
            (4608..4608 + length, "metadata text crc at byte 4608"),
            ((4 << 20)..(4 << 20) + 512, "metadata area header crc at byte 4194304"),
        ];
        let mut bytes = disk.into_bytes();
        for (range, message) in places {
            for at in range {
                bytes[at] ^= 0x41;
                let disk = Memory::new(bytes);
                let error = read(&disk).unwrap_err().to_string();
                assert!(error.starts_with(&format!("memory: {message}: ")), "{at}: {error}");
                bytes = disk.into_bytes();
                bytes[at] ^= 0x41;
            }
        }
        assert_eq!(read(&Memory::new(bytes)).unwrap().unwrap(), whole);
        assert_eq!(head.uuid, whole.uuid);
    }

    #[test]
    fn signed_nonsense_in_the_label_does_not_panic() {
        let (disk, _, _) = made();
        let mut bytes = disk.into_bytes();
        for at in 532..800 {
            for value in [0, 1, 0xff] {
                let old = bytes[at];
                bytes[at] = value;
                let sum = crc(&bytes[532..1024]).to_le_bytes();
                bytes[528..532].copy_from_slice(&sum);
                let disk = Memory::new(bytes);
                let _ = read(&disk);
                bytes = disk.into_bytes();
                bytes[at] = old;
            }
        }
    }
}
