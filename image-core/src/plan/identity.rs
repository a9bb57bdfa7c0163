//! New identifiers for everything that a restore writes, so that it can run beside its source.
//!
//! They are a part of the plan: made from a seed, so that planning twice gives the same ones.

use serde::Serialize;
use uuid::Uuid;

use super::restore::{GroupPlan, RestorePlan};
use crate::disk::table::Table;
use crate::error::{Error, Result};
use crate::image::manifest::{Root, VolumeEntry};

/// What the user asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renewal {
    /// Random bytes that the new identifiers are made from.
    pub seed: [u8; 32],
    /// The new name of the only volume group; else `NAME-2`.
    pub vg_name: Option<String>,
}

/// What an identifier belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum IdKind {
    /// A disk: GUID or MBR signature.
    Disk,
    /// A partition: PARTUUID.
    Partition,
    /// A filesystem or swap area: UUID or serial.
    Filesystem,
    /// A physical volume.
    Pv,
    /// A volume group: UUID.
    Vg,
    /// A volume group: name.
    VgName,
    /// A logical volume.
    Lv,
}

/// One identifier that changes.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct NewId {
    /// Of what.
    pub kind: IdKind,
    /// The disk, volume or volume group, as the image calls it.
    pub id: String,
    /// As it was.
    pub old: String,
    /// As it is on the targets.
    pub new: String,
}

/// The contents whose UUID can be changed.
const RENEWABLE: [&str; 6] = ["ext2", "ext3", "ext4", "xfs", "vfat", "swap"];

/// Gives everything in `plan` new identifiers.
///
/// # Errors
/// [`Error::Refused`] for a name that no volume group can have or that does not tell which one it is for, and
/// where a volume group is not understood: two of one UUID would be left.
pub(super) fn renew(root: &Root, renewal: &Renewal, plan: &mut RestorePlan) -> Result<()> {
    let mut made = Made { renewal, ids: Vec::new(), tools: Vec::new() };
    for (target, table) in plan.targets.iter().zip(&mut plan.tables) {
        if let Some(table) = table {
            let kept: Vec<&str> = plan.kept.iter().map(|kept| kept.id.as_str()).collect();
            made.table(&target.slot, table, &kept);
        }
    }
    for volume in plan.volumes.iter().filter(|volume| volume.empty.is_none()) {
        let Some(entry) = root.volumes.get(volume.entry) else { continue };
        made.volume(entry, &mut plan.warnings)?;
    }
    let names: Vec<String> = root.volume_groups.iter().map(|group| group.name.clone()).collect();
    if renewal.vg_name.is_some() && plan.groups.len() != 1 {
        return Err(Error::refused(format!(
            "--vg-name names one volume group, and there are {}",
            plan.groups.len()
        )));
    }
    for group in &mut plan.groups {
        made.group(group, &names)?;
    }
    plan.new_ids = made.ids;
    for tool in made.tools {
        if !plan.tools.iter().any(|have| have == tool) {
            plan.tools.push(tool.to_owned());
        }
    }
    Ok(())
}

struct Made<'a> {
    renewal: &'a Renewal,
    ids: Vec<NewId>,
    /// Programs that change identifiers and references.
    tools: Vec<&'static str>,
}

impl Made<'_> {
    /// Random bytes of an identifier of its own.
    fn bytes<const N: usize>(&self, kind: IdKind, id: &str, old: &str) -> [u8; N] {
        let mut bytes = [0; N];
        let mut hasher = blake3::Hasher::new_keyed(&self.renewal.seed);
        for word in [format!("{kind:?}").as_str(), id, old] {
            hasher.update(word.as_bytes()).update(&[0]);
        }
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    fn note(&mut self, kind: IdKind, id: &str, old: &str, new: String) -> String {
        let (id, old) = (id.to_owned(), old.to_owned());
        self.ids.push(NewId { kind, id, old, new: new.clone() });
        new
    }

    fn uuid(&mut self, kind: IdKind, id: &str, old: &str) -> String {
        let new = uuid::Builder::from_random_bytes(self.bytes(kind, id, old)).into_uuid();
        self.note(kind, id, old, new.to_string())
    }

    /// 32 letters and digits in LVM's groups.
    fn lvm(&mut self, kind: IdKind, id: &str, old: &str) -> String {
        const LETTERS: &[u8; 62] =
            b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut new = String::new();
        for (at, byte) in self.bytes::<32>(kind, id, old).into_iter().enumerate() {
            if [6, 10, 14, 18, 22, 26].contains(&at) {
                new.push('-');
            }
            new.extend(LETTERS.get(usize::from(byte) % LETTERS.len()).map(|c| char::from(*c)));
        }
        self.note(kind, id, old, new)
    }

    /// A partition of a GPT that is `kept` keeps its own; in an MBR it has that of the disk.
    fn table(&mut self, disk: &str, table: &mut Table, kept: &[&str]) {
        match table {
            Table::Gpt(gpt) => {
                gpt.guid = self.uuid(IdKind::Disk, disk, &gpt.guid);
                for partition in &mut gpt.partitions {
                    let id = format!("{disk}:{}", partition.number);
                    if let Some(uuid) = &mut partition.uuid
                        && !kept.contains(&id.as_str())
                    {
                        *uuid = self.uuid(IdKind::Partition, &id, uuid);
                    }
                }
            }
            Table::Mbr(mbr) => {
                let number = u32::from_le_bytes(self.bytes(IdKind::Disk, disk, &mbr.signature));
                // Zero would be none.
                let new = format!("{:08x}", number.max(1));
                let old = mbr.signature.clone();
                mbr.signature = self.note(IdKind::Disk, disk, &old, new);
                for partition in &mut mbr.partitions {
                    if let Some(uuid) = &mut partition.uuid {
                        let id = format!("{disk}:{}", partition.number);
                        let new = uuid.replacen(&old, &mbr.signature, 1);
                        *uuid = self.note(IdKind::Partition, &id, uuid, new);
                    }
                }
            }
        }
    }

    fn volume(&mut self, entry: &VolumeEntry, warnings: &mut Vec<String>) -> Result<()> {
        if entry.is_container || entry.kind == "gap" {
            return Ok(());
        }
        // Members of two sets of one UUID would be mixed up.
        let set = match entry.content.as_str() {
            "LVM2_member" => Some("a volume group that is not understood"),
            "linux_raid_member" => Some("a RAID"),
            "zfs_member" => Some("a ZFS pool"),
            _ => None,
        };
        if let Some(set) = set {
            return Err(Error::refused(format!(
                "{} belongs to {set}, which would keep its UUID; leave --new-ids away, and detach one of the \
                 two disks before booting",
                entry.id
            )));
        }
        let Some(old) = &entry.uuid else { return Ok(()) };
        // Where the kernel mounts an XFS for its files, it replays its log: a dirty one is clean then.
        let known = RENEWABLE.contains(&entry.content.as_str())
            && (["clean", "replayable"].contains(&entry.state.as_str()) || entry.content == "xfs");
        match entry.content.as_str() {
            _ if !known => warnings.push(format!(
                "{} keeps its UUID {old}: its {} cannot be given a new one",
                entry.id, entry.content
            )),
            "vfat" => {
                let [a, b, c, d] = self.bytes(IdKind::Filesystem, &entry.id, old);
                let new = format!("{a:02X}{b:02X}-{c:02X}{d:02X}");
                self.note(IdKind::Filesystem, &entry.id, old, new);
            }
            _ => drop(self.uuid(IdKind::Filesystem, &entry.id, old)),
        }
        self.tools.extend(match entry.content.as_str() {
            _ if !known => [].iter(),
            "vfat" => ["mdir", "mtype", "mcopy", "mmd"].iter(),
            "xfs" => ["xfs_admin"].iter(),
            "swap" => [].iter(),
            _ => ["e2fsck", "tune2fs"].iter(),
        });
        Ok(())
    }

    fn group(&mut self, group: &mut GroupPlan, taken: &[String]) -> Result<()> {
        let vg = &mut group.vg;
        let old = vg.name.clone();
        let name = match &self.renewal.vg_name {
            Some(name) => name.clone(),
            None => free_name(&old, taken),
        };
        check_name(&name, vg.lvs.iter().map(|lv| lv.name.len()).max().unwrap_or(0))?;
        vg.uuid = self.lvm(IdKind::Vg, &old, &vg.uuid);
        vg.name = self.note(IdKind::VgName, &old, &old, name);
        for (pv, head) in vg.pvs.iter_mut().zip(&mut group.pvs) {
            pv.uuid = self.lvm(IdKind::Pv, &format!("{old}/{}", pv.key), &pv.uuid);
            head.head.uuid.clone_from(&pv.uuid);
        }
        for lv in &mut vg.lvs {
            lv.uuid = self.lvm(IdKind::Lv, &format!("{old}/{}", lv.name), &lv.uuid);
        }
        Ok(())
    }
}

/// `NAME-2`, or the first number behind it that no other group of the image has.
fn free_name(old: &str, taken: &[String]) -> String {
    let mut names = (2_u32..).map(|number| format!("{old}-{number}"));
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// lvm(8), "Valid names": letters, digits and `+_.-`, not `-` first, `.` and `..` excluded; device-mapper has
/// room for 127 bytes of both names, with hyphens doubled.
fn check_name(name: &str, longest_lv: usize) -> Result<()> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte));
    let short = name.len() + name.matches('-').count() + longest_lv < 126;
    if plain && short && !name.is_empty() && !name.starts_with('-') && name != "." && name != ".." {
        return Ok(());
    }
    Err(Error::refused(format!("{name:?} cannot be the name of a volume group")))
}

/// The UUID that the plan gives a filesystem or swap area; `None` where it keeps its own.
pub fn filesystem<'a>(plan: &'a RestorePlan, volume: &str) -> Option<&'a str> {
    let of = |new: &&NewId| new.kind == IdKind::Filesystem && new.id == volume;
    plan.new_ids.iter().find(of).map(|new| new.new.as_str())
}

/// A serial as `blkid` writes it, `1A2B-3C4D`, as a number.
pub fn fat_serial(text: &str) -> Option<u32> {
    u32::from_str_radix(&text.replace('-', ""), 16).ok()
}

/// A UUID as a number.
pub fn parse(text: &str) -> Option<Uuid> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{check_name, fat_serial, free_name};

    #[test]
    fn names_are_free_and_valid() {
        let taken = ["vg", "vg-2"].map(str::to_owned);
        assert_eq!(free_name("vg", &taken), "vg-3");
        assert_eq!(free_name("other", &taken), "other-2");
        assert!(check_name("vg0-2", 20).is_ok());
        let long = "v".repeat(110);
        for wrong in ["", "-a", ".", "..", "a b", "a/b", "ä", &long] {
            assert!(check_name(wrong, 20).is_err(), "{wrong}");
        }
        assert_eq!(fat_serial("1A2B-3C4D"), Some(0x1a2b_3c4d));
    }
}
