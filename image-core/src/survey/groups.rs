//! Physical volumes found among the volumes, put together to volume groups and logical volumes.

use std::sync::Arc;

use super::model::{Coverage, Group, GroupPv, Kind, Survey, Volume};
use crate::disk::probe::{self, Usage};
use crate::error::{Error, Result};
use crate::extent::Extent;
use crate::fs::State;
use crate::io::Source;
use crate::io::rescue::is_bad_sector;
use crate::lvm::assemble::{self, RawGroup};
use crate::lvm::label::{self, PvHead};
use crate::lvm::map::{LvMap, LvSource};
use crate::units::Bytes;

/// How much of a physical volume's start is kept for rescue at most.
const LARGEST_HEAD: Bytes = Bytes::mib(4);

/// Turns physical volumes into containers and adds their logical volumes. A group that is not complete
/// or not understood leaves its physical volumes to be copied whole, with the reason.
///
/// # Errors
/// [`Error::Io`]; with `strict`, [`Error::Refused`] for a group that is not understood.
pub fn assemble(survey: &mut Survey, strict: bool) -> Result<()> {
    let heads = heads(survey)?;
    let assembly = assemble::assemble(&heads);
    for group in assembly.groups {
        // What lies in a bootloader area is in no logical volume, and nobody knows what it is.
        let areas = |at: &usize| {
            heads.iter().any(|(key, head)| key == at && !head.bootloader_areas.is_empty())
        };
        if group.members.iter().any(areas) {
            let reason =
                format!("VG {} has a physical volume with a bootloader area", group.vg.name);
            copy_whole(survey, &group.members, &reason, strict)?;
            continue;
        }
        if survey.groups.iter().any(|other| other.vg.name == group.vg.name) {
            let name = &group.vg.name;
            let twice = format!("two volume groups are named {name}; save their disks separately");
            return Err(Error::refused(twice));
        }
        take(survey, group, &heads)?;
    }
    for RawGroup { keys, reason, .. } in assembly.raw {
        if strict {
            return Err(Error::refused(format!(
                "{reason} (without --strict its disks are saved raw)"
            )));
        }
        for at in keys {
            if let Some(volume) = survey.volumes.get_mut(at) {
                volume.state = State::Raw(reason.clone());
            }
        }
    }
    for at in assembly.orphans {
        if let Some(volume) = survey.volumes.get_mut(at) {
            volume.state = State::Raw("it belongs to no volume group".to_owned());
        }
    }
    Ok(())
}

/// Leaves physical volumes to be copied whole.
fn copy_whole(survey: &mut Survey, members: &[usize], reason: &str, strict: bool) -> Result<()> {
    if strict {
        return Err(Error::refused(format!("{reason} (without --strict its disks are saved raw)")));
    }
    for at in members {
        if let Some(volume) = survey.volumes.get_mut(*at) {
            volume.state = State::Raw(reason.to_owned());
        }
    }
    Ok(())
}

/// The labels of all physical volumes. A member of a RAID may show the label of what is inside: that is
/// no physical volume of ours. Nor is what another filesystem claims too: one of the two is stale, and
/// guessing which would lose the other.
fn heads(survey: &mut Survey) -> Result<Vec<(usize, PvHead)>> {
    let mut heads = Vec::new();
    for (at, volume) in survey.volumes.iter_mut().enumerate() {
        let head = match label::read(&volume.source) {
            Ok(Some(head)) => head,
            Ok(None) => continue,
            Err(error @ Error::Io { .. }) if !is_bad_sector(&error) => return Err(error),
            Err(error) => {
                survey.warnings.push(error.on(&volume.id).to_string());
                continue;
            }
        };
        let claimed = probe::signatures(&volume.source)?.into_iter().any(|signature| {
            let container = matches!(signature.usage, Usage::Crypto | Usage::Raid);
            signature.name != "LVM2_member"
                && signature.usage != Usage::Table
                && (container || !signature.copy)
        });
        if !claimed {
            volume.content = "LVM2_member".to_owned();
            volume.uuid = Some(head.uuid.clone());
            volume.is_pv = true;
            heads.push((at, head));
        }
    }
    Ok(heads)
}

fn take(survey: &mut Survey, group: assemble::Group, heads: &[(usize, PvHead)]) -> Result<()> {
    let assemble::Group { vg, members } = group;
    let (mut pvs, mut text) = (Vec::new(), String::new());
    for at in members {
        let head = heads.iter().find(|(key, _)| *key == at).map(|(_, head)| head.clone());
        let (Some(mut head), Some(volume)) = (head, survey.volumes.get_mut(at)) else { continue };
        volume.group = Some(vg.name.clone());
        volume.state = State::Clean;
        volume.coverage = Coverage::Head(head_extent(&head, volume.size()).into());
        let own = head.text.take();
        if let (Some(own), Some(stamp)) = (own, &head.vg)
            && stamp.seqno == vg.seqno
        {
            text = own;
        }
        let source = Arc::clone(&volume.source);
        pvs.push(GroupPv { volume: volume.id.clone(), head, source });
    }
    let sources: Vec<Option<Source>> = pvs.iter().map(|pv| Some(Arc::clone(&pv.source))).collect();
    for lv in &vg.lvs {
        let id = format!("{}/{}", vg.name, lv.name);
        let map = LvMap::new(&vg, lv)?;
        let extent = Extent::first(map.size());
        let source: Source = Arc::new(LvSource::new(id.clone(), map, sources.clone())?);
        let mut volume = Volume::new(id, None, Kind::Lv, extent, source);
        volume.container = Some(vg.name.clone());
        volume.group = Some(vg.name.clone());
        survey.volumes.push(volume);
    }
    survey.groups.push(Group { vg, text, pvs });
    Ok(())
}

/// The bytes before the first physical extent.
fn head_extent(head: &PvHead, size: Bytes) -> Extent {
    let data = head.data_areas.first().map_or(Bytes::MIB, |area| area.offset);
    Extent::first(data.min(LARGEST_HEAD).min(size))
}
