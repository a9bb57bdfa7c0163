//! Which target each disk or volume goes to, as typed.

use std::collections::BTreeMap;

use image_core::error::Error;
use image_core::image::manifest::Root;
use image_core::plan::refuse;
use image_core::plan::restore as planning;
use image_core::units::Bytes;

use super::Usage;

/// What `--map DISK=none` leaves out.
const NONE: &str = "none";

/// Where everything goes.
#[derive(Debug)]
pub struct Mapping {
    /// Disk or loose volume, and the target as typed.
    pub names: Vec<(String, String)>,
    /// Disks that are left out.
    pub left_out: Vec<String>,
}

/// The image reduced to the volume that is named, or to those that `maps` names where it names no disks;
/// else all of it.
///
/// # Errors
/// [`Usage`] for what is no map; [`Error::Refused`] for a volume that has no data.
pub fn alone(root: Root, volume: Option<&String>, maps: &[String]) -> anyhow::Result<Root> {
    if let Some(volume) = volume {
        return Ok(reduced(&root, &[volume])?);
    }
    let mapped = parsed(maps)?;
    let slots = planning::slots(&root);
    let is_volume =
        |name: &&String| !slots.contains(&name.as_str()) && planning::resolve(&root, name).is_ok();
    if mapped.is_empty() || !mapped.keys().all(|name| is_volume(&name)) {
        return Ok(root);
    }
    Ok(reduced(&root, &mapped.keys().collect::<Vec<_>>())?)
}

fn parsed(maps: &[String]) -> Result<BTreeMap<String, String>, Usage> {
    let mut mapped = BTreeMap::new();
    for map in maps {
        let (slot, target) = map.split_once('=').ok_or_else(|| {
            Usage(format!("--map {map} is not DISK=TARGET (example: d0=/dev/sdb)"))
        })?;
        if mapped.insert(slot.to_owned(), target.to_owned()).is_some() {
            return Err(Usage(format!("--map names {slot} twice")));
        }
    }
    Ok(mapped)
}

/// The image reduced to some volumes, which then restores like an image of these alone.
fn reduced(root: &Root, names: &[&String]) -> Result<Root, Error> {
    let mut volumes = Vec::new();
    for name in names {
        let mut volume = planning::resolve(root, name)?.clone();
        refuse::without_data(&volume)?;
        // Alone, it starts where its target does.
        (volume.disk, volume.container, volume.offset) = (None, None, Bytes::ZERO);
        volumes.push(volume);
    }
    Ok(Root { disks: Vec::new(), volumes, volume_groups: Vec::new(), ..root.clone() })
}

impl Mapping {
    /// Which target is named for each disk or loose volume.
    ///
    /// # Errors
    /// [`Usage`] where targets and maps contradict each other or what there is.
    pub fn of(root: &Root, targets: &[String], maps: &[String]) -> anyhow::Result<Self> {
        let slots = planning::slots(root);
        let have = slots.join(", ");
        let mut mapped = BTreeMap::new();
        for (name, target) in parsed(maps)? {
            // A volume that stands alone is also called by its number.
            let calls = |slot: &&&str| {
                slot.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with(':'))
            };
            let Some(slot) = slots.iter().find(calls) else {
                return Err(Usage(format!("there is no disk {name}; there is {have}")).into());
            };
            if mapped.insert(*slot, target).is_some() {
                return Err(Usage(format!("--map names {slot} twice")).into());
            }
        }
        let mut given = targets.iter().cloned();
        let (mut names, mut left_out) = (Vec::new(), Vec::new());
        for slot in &slots {
            let target = mapped.get(slot).cloned();
            if target.as_deref() == Some(NONE) {
                left_out.push((*slot).to_owned());
                continue;
            }
            let target = target.or_else(|| given.next());
            let target = target.ok_or_else(|| nowhere(root, slot, &have))?;
            names.push(((*slot).to_owned(), target));
        }
        match given.next() {
            Some(extra) => {
                Err(Usage(format!("{extra} is one target too many: there is {have}")).into())
            }
            None => Ok(Self { names, left_out }),
        }
    }
}

fn nowhere(root: &Root, slot: &str, have: &str) -> Usage {
    let out = match root.disks.len() > 1 && root.disks.iter().any(|disk| disk.id == slot) {
        true => {
            format!("; --map {slot}={NONE} leaves out a disk that only has physical volumes")
        }
        false => String::new(),
    };
    Usage(format!("where does {slot} go? There is {have}; name a target for each{out}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use image_core::error::Error;
    use image_core::image::manifest::{EXCLUDED, Root, VolumeEntry};
    use image_core::units::Bytes;
    use serde_json::json;

    use super::{Mapping, alone, reduced};
    use crate::args::restore::Restore;
    use crate::args::{Cli, Verb};

    fn volume(id: &str, disk: &str) -> VolumeEntry {
        let volume = json!({"id": id, "disk": disk, "kind": "disk", "offset": 1 << 20,
            "size": 10 << 20, "content": "ext4", "used_bytes": 0, "min_bytes": 10 << 20,
            "state": "clean", "is_container": false, "unreadable": [], "segments": [null]});
        serde_json::from_value(volume).unwrap()
    }

    /// Two disks with an ext4 each, and a partition more.
    fn root() -> Root {
        let mut root = Root::empty("test");
        for id in ["d0", "d1"] {
            let disk = json!({"id": id, "path": "/dev/x", "size": 40 << 20, "sector_size": 512});
            root.disks.push(serde_json::from_value(disk).unwrap());
            root.volumes.push(volume(id, id));
        }
        root.volumes.push(volume("d1:2", "d1"));
        root
    }

    fn typed(words: &[&str]) -> Restore {
        let words = ["keiki", "restore", "image"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Restore(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn named(words: &[&str]) -> Result<Vec<String>, String> {
        let typed = typed(words);
        let root = alone(root(), typed.volume.as_ref(), &typed.onto.map);
        let root = root.map_err(|error| error.to_string())?;
        let mapping = Mapping::of(&root, &typed.targets, &typed.onto.map);
        let mapping = mapping.map_err(|error| error.to_string())?;
        let mut names: Vec<String> =
            mapping.names.into_iter().map(|(slot, target)| format!("{slot}={target}")).collect();
        names.extend(mapping.left_out.into_iter().map(|slot| format!("without {slot}")));
        Ok(names)
    }

    #[test]
    fn targets_go_to_disks_in_order_unless_they_are_mapped() {
        assert_eq!(named(&["a", "b"]).unwrap(), ["d0=a", "d1=b"]);
        assert_eq!(named(&["--map", "d0=b", "a"]).unwrap(), ["d0=b", "d1=a"]);
        assert_eq!(named(&["--map", "d0=none", "a"]).unwrap(), ["d1=a", "without d0"]);
        for (words, why) in [
            (&["a"][..], "name a target for each; --map d1=none leaves out"),
            (&["a", "b", "c"], "one target too many"),
            (&["a", "b", "--map", "d0=none"], "one target too many"),
            (&["a", "--map", "d7=b"], "no disk d7"),
            (&["a", "--map", "d0"], "is not DISK=TARGET"),
            (&["a", "--map", "d0=b", "--map", "d0=c"], "d0 twice"),
        ] {
            let error = named(words).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn volumes_in_a_map_are_restored_alone() {
        assert_eq!(named(&["--map", "d1:2=b"]).unwrap(), ["d1:2=b"]);
        for (words, why) in [
            (&["a", "--map", "d1:2=b"][..], "a is one target too many"),
            (&["a", "--map", "d1:2=b", "--map", "d0=c"], "no disk d1:2"),
        ] {
            let error = named(words).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn one_volume_of_a_disk_stands_alone() {
        let mut root = root();
        let alone = reduced(&root, &[&"d1".to_owned()]).unwrap();
        assert_eq!((alone.disks.len(), alone.volumes.len()), (0, 1));
        assert_eq!(alone.volumes[0].offset, Bytes::ZERO);
        root.volumes[0].state = EXCLUDED.to_owned();
        root.volumes[1].is_container = true;
        for name in ["d0", "d1", "d2"] {
            let alone = reduced(&root, &[&name.to_owned()]);
            assert!(matches!(alone, Err(Error::Refused(_))), "{name}");
        }
    }
}
