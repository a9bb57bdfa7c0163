//! The root: disks, volumes and volume groups of an image, and the hashes of the volumes' tables.
//!
//! It names chunks by nothing but those tables, and says nothing about where chunks lie.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::image::checked_window;
use crate::image::hash::Hash;
use crate::image::header::{FORMAT, encode_json, parse_json};
use crate::image::segment::segment_count;
use crate::units::Bytes;

/// The largest root that a reader takes.
pub const MAX_ROOT: Bytes = Bytes::mib(16);

/// The state of a volume that was named to be excluded: its place is in the image, its bytes are not.
pub const EXCLUDED: &str = "excluded";

/// Volumes and disks are at most this long, so that sums of sizes cannot overflow.
const MAX_SIZE: Bytes = Bytes::new(1 << 60);

/// An image's layout; its content id is the BLAKE3 of the JSON exactly as stored.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct Root {
    /// Format version.
    pub format: u32,
    /// One bit for each extension without which the image cannot be read.
    pub must_understand_to_read: u64,
    /// One bit for each extension without which the image cannot be changed.
    pub must_understand_to_write: u64,
    /// The grid on which every volume is cut.
    pub window: Bytes,
    /// Name and version of the program that saved.
    pub tool: String,
    /// `bios` or `uefi`: how the saved machine had been booted, where that is known.
    pub boot_mode: Option<String>,
    /// What `efibootmgr -v` said on the saved machine.
    pub efibootmgr: Option<String>,
    /// The operating system found on the volumes.
    pub os: Option<String>,
    /// The disks, in the order in which the user named them.
    pub disks: Vec<DiskEntry>,
    /// The volumes, in the order in which `show` lists them.
    pub volumes: Vec<VolumeEntry>,
    /// The LVM volume groups.
    pub volume_groups: Vec<VolumeGroupEntry>,
}

/// One saved disk.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct DiskEntry {
    /// `d0`, `d1`, ...
    pub id: String,
    /// The path it had when it was saved.
    pub path: String,
    /// Its length.
    pub size: Bytes,
    /// Its logical sector size.
    pub sector_size: Bytes,
    /// Its model, as the kernel told it.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its World Wide Name.
    pub wwn: Option<String>,
    /// Its partition table, as the room that knows tables wrote it.
    pub table: Option<serde_json::Value>,
}

/// One address space whose used bytes were saved.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct VolumeEntry {
    /// `d0:1`, `d0:gap0`, `vg0/root`, `d0`.
    pub id: String,
    /// The disk it lies on, where it is one.
    pub disk: Option<String>,
    /// The container it lies in: a volume group's name.
    pub container: Option<String>,
    /// `partition`, `lv`, `disk` or `gap`.
    pub kind: String,
    /// The partition's or logical volume's name.
    pub name: Option<String>,
    /// Its start in its disk or container.
    pub offset: Bytes,
    /// Its length.
    pub size: Bytes,
    /// What is in it, by blkid's TYPE names; `raw` where unknown.
    pub content: String,
    /// The filesystem's label.
    pub label: Option<String>,
    /// The filesystem's UUID.
    pub uuid: Option<String>,
    /// Number of used bytes.
    pub used_bytes: Bytes,
    /// The smallest size it could have.
    pub min_bytes: Bytes,
    /// `clean`, `replayable`, `hibernated`, `locked`, `raw` or `excluded`.
    pub state: String,
    /// Why it was saved raw, or not at all.
    pub reason: Option<String>,
    /// The filesystem's block size.
    pub block_size: Option<Bytes>,
    /// The largest sector size of a disk on which the filesystem works.
    pub sector_limit: Option<Bytes>,
    /// How it can grow.
    pub growth: Option<String>,
    /// Where it was last mounted.
    pub last_mounted: Option<String>,
    /// Its data is a container's head, kept for rescue and never restored verbatim.
    pub is_container: bool,
    /// Used ranges that could not be read, ascending; they are restored as zeros.
    pub unreadable: Vec<Extent>,
    /// What these ranges hit, where that was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit: Option<Hit>,
    /// The table segments; `None` where none of its windows is used.
    pub segments: Vec<Option<Hash>>,
}

/// What of a filesystem could not be read.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, Debug)]
pub struct Hit {
    /// Paths of files, the first thousand of them; what is no UTF-8 is escaped.
    pub files: Vec<String>,
    /// How many more files.
    pub more_files: u64,
    /// Whether bytes of the filesystem's own structures are among it, so that it has to be checked.
    pub structures: bool,
    /// Why files may be missing here.
    pub incomplete: Option<String>,
}

/// So many unreadable ranges of a volume are listed.
pub const MOST_RANGES: usize = 10_000;

/// The list of `holes`: exact, or where there are too many of them, with the smallest of what lies between them.
pub fn unreadable_list(holes: &ExtentSet) -> Vec<Extent> {
    let all: Vec<Extent> = holes.iter().collect();
    let mut between: Vec<Bytes> = all
        .windows(2)
        .filter_map(|two| Some(two.get(1)?.start.saturating_sub(two.first()?.end)))
        .collect();
    between.sort_unstable();
    let too_many = all.len().saturating_sub(MOST_RANGES);
    let joined = too_many.checked_sub(1).and_then(|at| between.get(at).copied());
    let mut list: Vec<Extent> = Vec::new();
    for hole in all {
        match list.last_mut() {
            Some(last) if joined.is_some_and(|joined| hole.start - last.end <= joined) => {
                last.end = hole.end;
            }
            _ => list.push(hole),
        }
    }
    list
}

/// One LVM volume group.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct VolumeGroupEntry {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// The size of its extents.
    pub extent_size: Bytes,
    /// Its metadata text.
    pub text: String,
    /// Its physical volumes.
    pub pvs: Vec<PvEntry>,
    /// Its logical volumes, by volume id.
    pub lvs: Vec<String>,
}

/// One LVM physical volume.
#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub struct PvEntry {
    /// Its UUID.
    pub uuid: String,
    /// The volume or disk that is the physical volume.
    pub volume: String,
    /// Its label and metadata areas, as the room that knows LVM wrote them.
    pub head: serde_json::Value,
}

impl VolumeEntry {
    /// How many of its bytes could not be read.
    pub fn unreadable_bytes(&self) -> Bytes {
        self.unreadable.iter().map(|range| range.len()).fold(Bytes::ZERO, Bytes::saturating_add)
    }
}

impl Root {
    /// The file's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        encode_json(self)
    }

    /// Parses and checks a root whose hash the caller has checked.
    ///
    /// # Errors
    /// `Unsupported` for a newer format, an unknown flag or a window size beyond 64 KiB to 4 MiB;
    /// `Corrupt` where ids, sizes or table counts contradict each other.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let root: Self = parse_json("root", bytes)?;
        root.check()?;
        Ok(root)
    }

    /// A root without disks and volumes, as this version of the format has it.
    pub fn empty(tool: impl Into<String>) -> Self {
        Self {
            format: FORMAT,
            must_understand_to_read: 0,
            must_understand_to_write: 0,
            window: super::WINDOW,
            tool: tool.into(),
            boot_mode: None,
            efibootmgr: None,
            os: None,
            disks: Vec::new(),
            volumes: Vec::new(),
            volume_groups: Vec::new(),
        }
    }

    /// Every stored table segment: its volume, its number there, and its hash.
    pub fn segments(&self) -> impl Iterator<Item = (&VolumeEntry, u64, Hash)> {
        self.volumes.iter().flat_map(|volume| {
            (0..).zip(&volume.segments).filter_map(move |(at, hash)| Some((volume, at, (*hash)?)))
        })
    }

    /// Sum of the volumes' used bytes.
    pub fn used_bytes(&self) -> Bytes {
        self.volumes.iter().fold(Bytes::ZERO, |sum, volume| sum.saturating_add(volume.used_bytes))
    }

    /// How many bytes could not be read, of all volumes together.
    pub fn unreadable_bytes(&self) -> Bytes {
        self.volumes
            .iter()
            .map(VolumeEntry::unreadable_bytes)
            .fold(Bytes::ZERO, Bytes::saturating_add)
    }

    fn check(&self) -> Result<()> {
        checked_window(self.window)?;
        let disks = unique("disk id", self.disks.iter().map(|disk| disk.id.as_str()))?;
        let volumes = unique("volume id", self.volumes.iter().map(|volume| volume.id.as_str()))?;
        let groups = self.volume_groups.iter().map(|group| group.name.as_str());
        unique("volume group name", groups)?;
        for disk in &self.disks {
            let sector = disk.sector_size.get();
            if !sector.is_power_of_two() || !(512..=65536).contains(&sector) {
                let expected = "a power of two from 512 to 65536";
                return Err(wrong(&disk.id, "sector size", expected, sector));
            }
            at_most(&disk.id, "size", disk.size, MAX_SIZE)?;
        }
        self.volumes.iter().try_for_each(|volume| self.check_volume(volume))?;
        for pv in self.volume_groups.iter().flat_map(|group| &group.pvs) {
            if !disks.contains(pv.volume.as_str()) && !volumes.contains(pv.volume.as_str()) {
                return Err(wrong(&pv.uuid, "physical volume", "a volume's id", &pv.volume));
            }
        }
        Ok(())
    }

    fn check_volume(&self, volume: &VolumeEntry) -> Result<()> {
        let limit = match &volume.disk {
            None => MAX_SIZE,
            Some(id) => match self.disks.iter().find(|disk| &disk.id == id) {
                Some(disk) => disk.size,
                None => return Err(wrong(&volume.id, "disk", "a disk's id", id)),
            },
        };
        let end = volume.offset.saturating_add(volume.size);
        at_most(&volume.id, "end", end, limit)?;
        at_most(&volume.id, "used bytes", volume.used_bytes, volume.size)?;
        let mut at = Bytes::ZERO;
        for range in &volume.unreadable {
            if range.start < at || range.end <= range.start || range.end > volume.size {
                let expected = "ascending ranges within the volume";
                return Err(wrong(&volume.id, "unreadable ranges", expected, range));
            }
            at = range.end;
        }
        let segments = segment_count(self.window, volume.size);
        if u64::try_from(volume.segments.len()) != Ok(segments) {
            let found = volume.segments.len();
            return Err(wrong(&volume.id, "tables", &format!("{segments} segments"), found));
        }
        Ok(())
    }
}

fn at_most(id: &str, field: &str, found: Bytes, limit: Bytes) -> Result<()> {
    if found <= limit {
        return Ok(());
    }
    Err(wrong(id, field, &format!("at most {}", limit.get()), found.get()))
}

fn wrong(id: &str, field: &str, expected: &str, found: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("root, {id}: {field}"), Bytes::ZERO, expected, found.to_string())
}

/// Checks charset and uniqueness of ids: they stand in file names, messages and command lines.
fn unique<'a>(what: &str, ids: impl Iterator<Item = &'a str>) -> Result<BTreeSet<&'a str>> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._+:/-".contains(&byte);
    let mut seen = BTreeSet::new();
    for id in ids {
        if !(1..=256).contains(&id.len()) || !id.bytes().all(allowed) {
            let expected = "1 to 256 of A-Z a-z 0-9 . _ + : / -";
            return Err(Error::corrupt(what, Bytes::ZERO, expected, format!("{id:?}")));
        }
        if !seen.insert(id) {
            return Err(Error::corrupt(what, Bytes::ZERO, "each id once", format!("{id} twice")));
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        DiskEntry, MOST_RANGES, PvEntry, Root, VolumeEntry, VolumeGroupEntry, unreadable_list,
    };
    use crate::error::Error;
    use crate::extent::{Extent, ExtentSet};
    use crate::image::hash::Hash;
    use crate::units::Bytes;

    fn volume(id: &str, size: Bytes) -> VolumeEntry {
        VolumeEntry {
            id: id.into(),
            disk: Some("d0".into()),
            container: None,
            kind: "partition".into(),
            name: None,
            offset: Bytes::MIB,
            size,
            content: "ext4".into(),
            label: None,
            uuid: None,
            used_bytes: Bytes::ZERO,
            min_bytes: Bytes::ZERO,
            state: "clean".into(),
            reason: None,
            block_size: Some(Bytes::BLOCK),
            sector_limit: None,
            growth: None,
            last_mounted: None,
            is_container: false,
            unreadable: vec![Extent::new(Bytes::new(512), Bytes::new(1024))],
            hit: None,
            segments: vec![Some(Hash::of(b"table")), None],
        }
    }

    fn root() -> Root {
        let disk = DiskEntry {
            id: "d0".into(),
            path: "/dev/sda".into(),
            size: Bytes::gib(100),
            sector_size: Bytes::new(512),
            model: None,
            serial: Some("S1".into()),
            wwn: None,
            table: Some(serde_json::json!({"b": 1, "a": [2]})),
        };
        let pv = PvEntry { uuid: "u".into(), volume: "d0:1".into(), head: serde_json::Value::Null };
        let group = VolumeGroupEntry {
            name: "vg0".into(),
            uuid: "v".into(),
            extent_size: Bytes::mib(4),
            text: "text".into(),
            pvs: vec![pv],
            lvs: vec!["vg0/root".into()],
        };
        let mut root = Root::empty("keiki 0.1.0");
        root.disks.push(disk);
        root.volumes.push(volume("d0:1", Bytes::gib(20)));
        root.volume_groups.push(group);
        root
    }

    #[test]
    fn roots_round_trip_to_the_same_bytes() {
        let bytes = root().encode().unwrap();
        let parsed = Root::parse(&bytes).unwrap();
        assert_eq!(parsed, root());
        assert_eq!(parsed.encode().unwrap(), bytes);
        assert_eq!(parsed.segments().count(), 1);
    }

    #[test]
    fn a_list_of_holes_covers_them_and_is_bounded() {
        let hole = |at: u64| Extent::at(Bytes::new(at), Bytes::new(512)).unwrap();
        let few: ExtentSet = (0..100).map(|at| hole(at * 8192)).collect();
        assert_eq!(unreadable_list(&few), few.iter().collect::<Vec<_>>());
        let many: ExtentSet = (0..30_000).map(|at| hole(at * 8192 + at * at % 7 * 512)).collect();
        let list = unreadable_list(&many);
        assert!(list.len() <= MOST_RANGES, "{}", list.len());
        let list: ExtentSet = list.into_iter().collect();
        assert!(many.subtract(&list).is_empty() && list.total() > many.total());
    }

    #[test]
    fn contradictions_are_named() {
        type Damage = fn(&mut Root);
        let cases: [(&str, Damage); 12] = [
            ("each id once", |root| root.volumes.push(volume("d0:1", Bytes::gib(20)))),
            ("volume id", |root| root.volumes[0].id = "d0:\u{7}".into()),
            ("disk's id", |root| root.volumes[0].disk = Some("d9".into())),
            ("end", |root| root.volumes[0].size = Bytes::gib(100)),
            ("end", |root| root.volumes[0].offset = Bytes::MAX),
            ("used bytes", |root| root.volumes[0].used_bytes = Bytes::gib(21)),
            ("2 segments", |root| root.volumes[0].segments.clear()),
            ("sector size", |root| root.disks[0].sector_size = Bytes::ZERO),
            ("sector size", |root| root.disks[0].sector_size = Bytes::new(1 << 63)),
            ("unreadable", |root| {
                root.volumes[0].unreadable[0].start = Bytes::new(2000);
            }),
            ("a volume's id", |root| root.volume_groups[0].pvs[0].volume = "d0:2".into()),
            ("window size 1000", |root| root.window = Bytes::new(1000)),
        ];
        for (expected, damage) in cases {
            let mut root = root();
            damage(&mut root);
            let error = Root::parse(&root.encode().unwrap()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_newer_format_is_unsupported_even_if_its_shape_is_unknown() {
        let json = br#"{"format":2,"must_understand_to_read":0,"must_understand_to_write":0}"#;
        assert!(matches!(Root::parse(json), Err(Error::Unsupported { .. })));
        let deep = "[".repeat(100_000);
        assert!(matches!(Root::parse(deep.as_bytes()), Err(Error::Corrupt { .. })));
    }

    proptest! {
        #[test]
        fn hostile_roots_never_panic(
            edits in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"0129-\"{[,]}n".to_vec())), 1..6),
            start in any::<u64>(),
            window in 0u32..64,
        ) {
            let mut root = root();
            root.volumes[0].unreadable[0] = Extent { start: Bytes::new(start), end: Bytes::ZERO };
            root.volumes[0].offset = Bytes::new(start.rotate_left(7));
            root.window = Bytes::new(1 << window);
            let mut bytes = root.encode().unwrap();
            prop_assert!(Root::parse(&bytes).is_err());
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = Root::parse(&bytes);
        }
    }
}
