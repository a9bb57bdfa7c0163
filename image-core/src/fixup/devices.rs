//! Names of devices that say where a disk was plugged in, and which volume they meant.
//!
//! Answers: the volume, where the whole system's files leave only one ([`Disks::volume`]). Refuses to guess: a
//! name of which two disks could be meant, or none, stays.

use std::collections::{BTreeMap, BTreeSet};

/// A volume of the system's disks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Known {
    /// `d0:2`, `vg0/root`.
    pub id: String,
    /// The disk that it is a partition of, or is: `d0`; empty for a logical volume.
    pub disk: String,
    /// Its number in the partition table; none for a whole disk.
    pub number: Option<u32>,
    /// `blkid`'s TYPE.
    pub content: String,
    /// What `UUID=` names.
    pub uuid: Option<String>,
    /// What `LABEL=` names.
    pub label: Option<String>,
    /// What `PARTUUID=` names.
    pub part_uuid: Option<String>,
    /// What `PARTLABEL=` names.
    pub part_label: Option<String>,
    /// Where it is or was mounted, as far as the volume itself tells.
    pub point: Option<String>,
    /// How large it is.
    pub size: u64,
}

impl Known {
    fn is(&self, kind: &str) -> bool {
        let ext = |kind: &str| ["ext2", "ext3", "ext4"].contains(&kind);
        match kind {
            "" | "auto" => true,
            _ if ext(kind) => ext(&self.content),
            _ => self.content == kind,
        }
    }
}

/// A name by place, in two parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The disk: `/dev/sda`, `/dev/disk/by-id/ata-X`.
    pub disk: String,
    /// The partition; none for the disk itself.
    pub number: Option<u32>,
}

impl Place {
    /// What `device` says, where it is such a name.
    pub fn of(device: &str) -> Option<Self> {
        if let Some(rest) = device.strip_prefix("/dev/disk/") {
            let by_place =
                ["by-id/", "by-path/", "by-diskseq/"].iter().any(|kind| rest.starts_with(kind));
            let steady = ["by-id/dm-", "by-id/lvm-"].iter().any(|kind| rest.starts_with(kind));
            if !by_place || steady {
                return None;
            }
            return Some(match device.rsplit_once("-part") {
                Some((disk, number)) => {
                    Self { disk: disk.to_owned(), number: Some(digits(number)?) }
                }
                None => Self { disk: device.to_owned(), number: None },
            });
        }
        let name = device.strip_prefix("/dev/")?;
        // Kernel names that end in a digit have a `p` before the partition's number.
        if let Some(rest) = ["nvme", "mmcblk"].iter().find_map(|start| name.strip_prefix(start)) {
            let (disk, number) = match rest.split_once('p') {
                Some((disk, number)) => (disk, Some(digits(number)?)),
                None => (rest, None),
            };
            let fine = !disk.is_empty() && disk.split('n').all(|part| digits(part).is_some());
            let disk = device.get(..device.len() - rest.len() + disk.len())?.to_owned();
            return fine.then_some(Self { disk, number });
        }
        let rest = ["sd", "vd", "hd", "xvd"].iter().find_map(|start| name.strip_prefix(start))?;
        let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        let (letters, number) =
            rest.split_at_checked(letters).filter(|(some, _)| !some.is_empty())?;
        let disk = device.get(..device.len() - number.len())?.to_owned();
        let number = if number.is_empty() { None } else { Some(digits(number)?) };
        (letters.len() <= 4).then_some(Self { disk, number })
    }
}

fn digits(text: &str) -> Option<u32> {
    let fine = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| fine)
}

/// What a volume is known by.
type Field = fn(&Known) -> &Option<String>;

/// The volume that `device` names by its content, its entry in a partition table or its volume group.
pub fn named<'a>(device: &str, known: &'a [Known]) -> Option<&'a Known> {
    let device = device.trim_matches(['"', '\'']);
    const FORMS: [(&str, &str, Field); 4] = [
        ("UUID=", "/dev/disk/by-uuid/", |one| &one.uuid),
        ("PARTUUID=", "/dev/disk/by-partuuid/", |one| &one.part_uuid),
        ("LABEL=", "/dev/disk/by-label/", |one| &one.label),
        ("PARTLABEL=", "/dev/disk/by-partlabel/", |one| &one.part_label),
    ];
    for (tag, folder, field) in FORMS {
        let wanted = device.strip_prefix(tag).or_else(|| device.strip_prefix(folder));
        if let Some(wanted) = wanted.map(|wanted| wanted.trim_matches(['"', '\''])) {
            let is = |text: &String| text.eq_ignore_ascii_case(wanted);
            return known.iter().find(|one| field(one).as_ref().is_some_and(is));
        }
    }
    known.iter().find(|one| {
        one.disk.is_empty()
            && one.id.split_once('/').is_some_and(|(group, volume)| {
                let doubled = |name: &str| name.replace('-', "--");
                device == format!("/dev/{group}/{volume}")
                    || device == format!("/dev/mapper/{}-{}", doubled(group), doubled(volume))
            })
    })
}

/// A file that names a device by its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mention {
    /// The name.
    pub place: Place,
    /// Where it is mounted, where the file says that.
    pub point: Option<String>,
    /// Its content, where the file says that: empty or `auto` where it does not.
    pub kind: String,
}

/// Which disk each name of a disk meant.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Disks {
    meant: BTreeMap<String, String>,
}

impl Disks {
    /// Learns it from all that the system's files say.
    pub fn learn(mentions: &[Mention], known: &[Known]) -> Self {
        let names: BTreeSet<&str> = mentions.iter().map(|one| one.place.disk.as_str()).collect();
        let disks: BTreeSet<&str> =
            known.iter().map(|one| one.disk.as_str()).filter(|disk| !disk.is_empty()).collect();
        let mut meant = BTreeMap::new();
        for name in &names {
            let own: Vec<&Mention> =
                mentions.iter().filter(|one| one.place.disk == **name).collect();
            let proven: BTreeSet<&str> = own
                .iter()
                .flat_map(|mention| proof(mention, known))
                .map(|one| one.disk.as_str())
                .collect();
            let fits =
                |disk: &str| own.iter().all(|mention| candidate(mention, disk, known).is_some());
            let disk = match proven.iter().copied().collect::<Vec<_>>().as_slice() {
                [disk] => Some(*disk),
                // With one name and one disk there is no other way round.
                [] if names.len() == 1 && disks.len() == 1 => {
                    disks.first().copied().filter(|disk| fits(disk))
                }
                _ => None,
            };
            if let Some(disk) = disk {
                meant.insert((*name).to_owned(), disk.to_owned());
            }
        }
        Self { meant }
    }

    /// The volume that is meant, if it is certain.
    pub fn volume<'a>(&self, mention: &Mention, known: &'a [Known]) -> Option<&'a Known> {
        let found = candidate(mention, self.meant.get(&mention.place.disk)?, known)?;
        // What the volume itself says of where it belongs counts more than a number.
        let elsewhere = |point: &String| {
            found.point.as_ref() != Some(point)
                && known.iter().any(|one| one.point.as_ref() == Some(point))
        };
        (!mention.point.as_ref().is_some_and(elsewhere)).then_some(found)
    }
}

fn candidate<'a>(mention: &Mention, disk: &str, known: &'a [Known]) -> Option<&'a Known> {
    known.iter().find(|one| {
        one.disk == disk
            && one.number == mention.place.number
            && one.uuid.is_some()
            && one.is(&mention.kind)
    })
}

/// The volumes that say themselves that they are what is mentioned.
fn proof<'a>(mention: &'a Mention, known: &'a [Known]) -> impl Iterator<Item = &'a Known> {
    known.iter().filter(move |one| {
        !one.disk.is_empty()
            && one.number == mention.place.number
            && one.is(&mention.kind)
            && mention.point.is_some()
            && one.point == mention.point
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Disks, Known, Mention, Place};

    fn place(text: &str) -> Option<(String, Option<u32>)> {
        Place::of(text).map(|place| (place.disk, place.number))
    }

    #[test]
    fn names_by_place_come_apart_into_disk_and_partition() {
        for (text, disk, number) in [
            ("/dev/sda1", "/dev/sda", Some(1)),
            ("/dev/sdab12", "/dev/sdab", Some(12)),
            ("/dev/vdb", "/dev/vdb", None),
            ("/dev/xvda2", "/dev/xvda", Some(2)),
            ("/dev/nvme0n1p3", "/dev/nvme0n1", Some(3)),
            ("/dev/nvme10n2", "/dev/nvme10n2", None),
            ("/dev/mmcblk0p1", "/dev/mmcblk0", Some(1)),
            ("/dev/disk/by-id/ata-X-part2", "/dev/disk/by-id/ata-X", Some(2)),
            ("/dev/disk/by-path/pci-0", "/dev/disk/by-path/pci-0", None),
        ] {
            assert_eq!(place(text), Some((disk.to_owned(), number)), "{text}");
        }
        for other in [
            "UUID=1",
            "/dev/mapper/vg-root",
            "/dev/vg0/root",
            "/dev/sr0",
            "/dev/sd",
            "/dev/sda1x",
            "/dev/nvme0n1p",
            "/dev/nvmexp1",
            "/dev/disk/by-uuid/x",
            "/dev/disk/by-id/dm-name-x",
            "/dev/md0",
            "sda1",
        ] {
            assert_eq!(place(other), None, "{other}");
        }
    }

    fn known(disk: &str, number: u32, content: &str, point: &str) -> Known {
        Known {
            id: format!("{disk}:{number}"),
            disk: disk.to_owned(),
            number: Some(number),
            content: content.to_owned(),
            uuid: Some(format!("uuid-{disk}-{number}")),
            point: (!point.is_empty()).then(|| point.to_owned()),
            ..Known::default()
        }
    }

    fn mention(name: &str, point: &str, kind: &str) -> Mention {
        let point = (!point.is_empty()).then(|| point.to_owned());
        Mention { place: Place::of(name).unwrap(), point, kind: kind.to_owned() }
    }

    fn found(mentions: &[Mention], known: &[Known]) -> Vec<Option<String>> {
        let disks = Disks::learn(mentions, known);
        mentions.iter().map(|one| Some(disks.volume(one, known)?.id.clone())).collect()
    }

    #[test]
    fn one_disk_and_one_name_are_the_same() {
        let known = [known("d0", 1, "ext4", ""), known("d0", 2, "swap", "")];
        let mentions = [mention("/dev/vda1", "/", "ext4"), mention("/dev/vda2", "", "swap")];
        assert_eq!(found(&mentions, &known), [Some("d0:1".into()), Some("d0:2".into())]);
        // One that fits nothing takes the certainty from all of them.
        let more = [mentions.as_slice(), &[mention("/dev/vda3", "/x", "xfs")]].concat();
        assert_eq!(found(&more, &known), [None, None, None]);
    }

    #[test]
    fn of_two_names_only_the_proven_one_is_certain() {
        let known = [known("d0", 1, "ext4", "/"), known("d0", 2, "xfs", "")];
        let mentions = [
            mention("/dev/sda1", "/", "ext4"),
            mention("/dev/sda2", "/srv", "xfs"),
            mention("/dev/sdb1", "/data", "ext4"),
        ];
        assert_eq!(found(&mentions, &known), [Some("d0:1".into()), Some("d0:2".into()), None]);
        // Another controller's name of the same disk.
        let again = [mentions.as_slice(), &[mention("/dev/vda1", "/", "")]].concat();
        assert_eq!(found(&again, &known)[3], Some("d0:1".into()));
    }

    #[test]
    fn two_disks_are_told_apart_by_what_they_say_of_themselves() {
        let known = [
            known("d0", 1, "ext4", "/data"),
            known("d1", 1, "ext4", "/"),
            known("d1", 2, "ext4", "/data"),
        ];
        let mentions = [mention("/dev/sda1", "/", "ext4"), mention("/dev/sdb1", "/data", "ext4")];
        assert_eq!(found(&mentions, &known), [Some("d1:1".into()), Some("d0:1".into())]);
        // The second partition of the same name says that it is something else.
        let mentions = [mention("/dev/sda1", "/", ""), mention("/dev/sda2", "/home", "")];
        assert_eq!(found(&mentions, &known)[1], Some("d1:2".into()));
        let mentions = [mention("/dev/sda1", "/", ""), mention("/dev/sda2", "/", "")];
        assert_eq!(found(&mentions, &known)[1], None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_none(text in "(/dev/)?(sd|nvme|disk/by-id/|x)?[a-z0-9p/-]{0,12}") {
            if let Some(place) = Place::of(&text) {
                prop_assert!(text.starts_with(&place.disk));
                let number = place.number.map(|number| number.to_string()).unwrap_or_default();
                let rest = text[place.disk.len()..].trim_start_matches(['p', '-', 'a', 'r', 't']);
                prop_assert_eq!(rest.trim_start_matches('0'), number.trim_start_matches('0'));
            }
        }

        #[test]
        fn what_is_certain_has_that_number_and_content(
            names in proptest::collection::vec(("[sv]d[ab]", 1_u32..4, "(|/|/srv)", "(|ext4|swap)"), 1..5),
            volumes in proptest::collection::vec(("d[01]", 1_u32..4, "(ext4|swap)", "(|/|/srv)"), 0..6),
        ) {
            let known: Vec<Known> =
                volumes.iter().map(|(disk, number, content, point)| known(disk, *number, content, point)).collect();
            let mentions: Vec<Mention> = names
                .iter()
                .map(|(name, number, point, kind)| mention(&format!("/dev/{name}{number}"), point, kind))
                .collect();
            let disks = Disks::learn(&mentions, &known);
            for one in &mentions {
                if let Some(volume) = disks.volume(one, &known) {
                    prop_assert_eq!(volume.number, one.place.number);
                    prop_assert!(volume.is(&one.kind));
                }
            }
        }
    }
}
