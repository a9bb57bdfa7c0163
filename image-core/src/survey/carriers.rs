//! Other block devices of this machine that carry the identifiers of an image: after a restore there
//! would be two of each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{inventory, probe, table};
use crate::error::{Error, Result};
use crate::fs;
use crate::io::Source;
use crate::io::device::Device;
use crate::lvm::label;

/// The identifiers that matter.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Identifiers {
    /// Volume groups: name and UUID.
    pub volume_groups: Vec<(String, String)>,
    /// New names of volume groups, which another group may have.
    pub names: Vec<String>,
    /// Disk GUIDs and MBR signatures.
    pub tables: Vec<String>,
    /// UUIDs and serials of filesystems and swap areas.
    pub filesystems: Vec<String>,
}

/// A device that carries one of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carrier {
    /// The device.
    pub path: PathBuf,
    /// The volume group, or none for another identifier.
    pub volume_group: Option<String>,
    /// Whether it is another volume group, of a name that was about to be given.
    pub namesake: bool,
    /// What it carries, in words.
    pub what: String,
}

/// The disks and partitions of this machine, other than `except` and what lies on them, that carry one of
/// `identifiers`. Devices that cannot be read carry nothing.
///
/// # Errors
/// [`Error::Io`] where the machine's devices cannot be listed.
pub fn find(identifiers: &Identifiers, except: &[PathBuf]) -> Result<Vec<Carrier>> {
    let except: Vec<PathBuf> =
        except.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
    let mut carriers = Vec::new();
    for disk in inventory::disks()? {
        let on_target = |path: &Path| except.iter().any(|target| target == path);
        let partitions = disk.partitions.iter().map(|partition| partition.path.as_path());
        if on_target(&disk.path) {
            continue;
        }
        for path in std::iter::once(disk.path.as_path()).chain(partitions) {
            if !on_target(path)
                && let Ok(device) = Device::open_source(path, None)
            {
                look(Arc::new(device), path, identifiers, &mut carriers)?;
            }
        }
    }
    Ok(carriers)
}

fn look(
    source: Source,
    path: &Path,
    identifiers: &Identifiers,
    carriers: &mut Vec<Carrier>,
) -> Result<()> {
    let mut add = |volume_group: Option<String>, namesake: bool, what: String| {
        carriers.push(Carrier { path: path.to_owned(), volume_group, namesake, what });
    };
    match table::read(&source) {
        Ok(Some(found)) if identifiers.tables.iter().any(|id| id == found.table.id()) => {
            add(None, false, format!("the disk identifier {}", found.table.id()));
        }
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        _ => {}
    }
    if let Ok(Some(head)) = label::read(&source)
        && let Some(stamp) = head.vg
    {
        let (name, uuid) = (stamp.name, stamp.uuid);
        if identifiers.volume_groups.iter().any(|(_, id)| *id == uuid) {
            add(Some(name.clone()), false, format!("the volume group {name} ({uuid})"));
        } else if identifiers.names.contains(&name) {
            add(Some(name.clone()), true, format!("a volume group named {name}"));
        }
    }
    let carried = uuid(&source);
    if let Some(uuid) = carried.filter(|uuid| identifiers.filesystems.contains(uuid)) {
        add(None, false, format!("the filesystem UUID {uuid}"));
    }
    Ok(())
}

/// What the content of a device calls itself.
fn uuid(source: &Source) -> Option<String> {
    if let Ok(Some(filesystem)) = fs::probe(source) {
        return filesystem.identity().uuid.clone();
    }
    let signatures = probe::signatures(source).unwrap_or_default();
    signatures.into_iter().filter(|signature| !signature.copy).find_map(|signature| signature.uuid)
}
