//! PVs of several disks put together to the volume groups that they form.

use std::collections::BTreeMap;

use super::label::PvHead;
use super::model::{Vg, VgStamp};
use crate::error::{Error, Result};

/// Every PV that was given, each in exactly one of the three lists.
#[derive(Default, Debug)]
pub struct Assembly {
    /// Complete VGs that can be mapped and laid out anew.
    pub groups: Vec<Group>,
    /// PVs that can only be copied whole.
    pub raw: Vec<RawGroup>,
    /// PVs that no VG uses.
    pub orphans: Vec<usize>,
}

/// A VG with all of its PVs.
#[derive(Debug)]
pub struct Group {
    /// From the newest text.
    pub vg: Vg,
    /// The caller's key of each of `vg.pvs`.
    pub members: Vec<usize>,
}

/// PVs that belong together and cannot be handled.
#[derive(Debug)]
pub struct RawGroup {
    /// Name of their VG, where it can be told.
    pub vg: Option<String>,
    /// The caller's keys.
    pub keys: Vec<usize>,
    /// Why, as a sentence.
    pub reason: String,
}

/// Groups PVs by VG; each comes with a key of the caller's, different from all others.
///
/// The newest text of a VG counts. A PV belongs to a VG when that text lists it and its own metadata, if
/// it has any, is of the same VG.
pub fn assemble(heads: &[(usize, PvHead)]) -> Assembly {
    let mut left: BTreeMap<usize, &PvHead> = heads.iter().map(|(key, head)| (*key, head)).collect();
    let mut by_vg: BTreeMap<&str, Vec<(&VgStamp, &str)>> = BTreeMap::new();
    for (_, head) in heads {
        if let (Some(stamp), Some(text)) = (&head.vg, &head.text) {
            by_vg.entry(&stamp.uuid).or_default().push((stamp, text));
        }
    }
    let mut assembly = Assembly::default();
    for (uuid, mut texts) in by_vg {
        // The newest ends up last.
        texts.sort_by_key(|(stamp, _)| stamp.seqno);
        let Some((stamp, _)) = texts.last() else { continue };
        match form(&texts, &left) {
            Ok((vg, members)) => {
                left.retain(|key, _| !members.contains(key));
                assembly.groups.push(Group { vg, members });
            }
            Err(error) => {
                let keys = members_of(uuid, &texts, &left);
                left.retain(|key, _| !keys.contains(key));
                let reason = error.to_string();
                assembly.raw.push(RawGroup { vg: Some(stamp.name.clone()), keys, reason });
            }
        }
    }
    for (key, head) in left {
        let uuid = &head.uuid;
        let (vg, reason) = match &head.vg {
            Some(stamp) => {
                let reason = format!("VG {} no longer lists the PV {uuid}", stamp.name);
                (Some(stamp.name.clone()), reason)
            }
            None if head.in_use => (None, format!("the VG of the PV {uuid} is missing")),
            None => {
                assembly.orphans.push(key);
                continue;
            }
        };
        assembly.raw.push(RawGroup { vg, keys: vec![key], reason });
    }
    assembly
}

/// The VG that the last of `texts` describes, and the key of each of its PVs.
fn form(texts: &[(&VgStamp, &str)], heads: &BTreeMap<usize, &PvHead>) -> Result<(Vg, Vec<usize>)> {
    let Some((newest, text)) = texts.last() else {
        return Err(Error::refused("no metadata"));
    };
    if texts.iter().any(|(stamp, other)| stamp.seqno == newest.seqno && other != text) {
        let VgStamp { name, seqno, .. } = newest;
        return Err(Error::refused(format!("VG {name} has two different versions {seqno}")));
    }
    let mut vg = Vg::parse(text).map_err(|error| error.on(&format!("VG {}", newest.name)))?;
    if let Some(reason) = vg.unsupported() {
        return Err(Error::refused(reason));
    }
    let mut members = Vec::new();
    for pv in &mut vg.pvs {
        let mine = |head: &PvHead| head.vg.as_ref().is_none_or(|stamp| stamp.uuid == newest.uuid);
        let mut found = heads.iter().filter(|(_, head)| head.uuid == pv.uuid && mine(head));
        let (key, head) = match (found.next(), found.next()) {
            (Some(one), None) if !members.contains(one.0) => one,
            (found, _) => {
                let how = if found.is_some() { "there more than once" } else { "missing" };
                let why = format!("PV {} ({}) of VG {} is {how}", pv.key, pv.uuid, newest.name);
                return Err(Error::refused(why));
            }
        };
        pv.adopt_head(head, vg.extent_size)?;
        members.push(*key);
    }
    Ok((vg, members))
}

/// The PVs that carry metadata of the VG `uuid`, or that its newest readable text lists.
fn members_of(
    uuid: &str,
    texts: &[(&VgStamp, &str)],
    heads: &BTreeMap<usize, &PvHead>,
) -> Vec<usize> {
    let vg = texts.last().and_then(|(_, text)| Vg::parse(text).ok());
    let listed =
        |head: &PvHead| vg.as_ref().is_some_and(|vg| vg.pvs.iter().any(|pv| pv.uuid == head.uuid));
    let is_member = |head: &PvHead| match &head.vg {
        Some(stamp) => stamp.uuid == uuid,
        None => listed(head),
    };
    heads.iter().filter(|(_, head)| is_member(head)).map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use super::assemble;
    use crate::lvm::label::PvHead;
    use crate::lvm::metadata;
    use crate::lvm::model::VgStamp;
    use crate::lvm::sample;
    use crate::units::Bytes;

    /// The PV `index`, carrying `text` if any.
    fn pv(index: usize, text: Option<&str>) -> PvHead {
        let vg = text.map(|text| VgStamp::of(&metadata::parse(text).unwrap()).unwrap());
        let text = text.map(str::to_owned);
        PvHead { text, vg, ..sample::head(index, &[(4096, 1_044_480)]) }
    }

    fn text() -> String {
        sample::text(2048, &[4, 4], &[("root", vec![(2, 0, vec![(0, 1)])])])
    }

    /// Keys of the VGs, then keys and reasons of the rest.
    type Outcome = (Vec<Vec<usize>>, Vec<(Vec<usize>, String)>);

    /// What becomes of these PVs.
    fn outcome(heads: &[(usize, PvHead)]) -> Outcome {
        let assembly = assemble(heads);
        let groups = assembly.groups.into_iter().map(|group| group.members).collect();
        let mut raw: Vec<_> =
            assembly.raw.into_iter().map(|group| (group.keys, group.reason)).collect();
        raw.extend(assembly.orphans.into_iter().map(|key| (vec![key], "orphan".to_owned())));
        (groups, raw)
    }

    #[test]
    fn pvs_find_their_vg_in_any_order() {
        let text = text();
        let orphan = PvHead { in_use: false, ..pv(9, None) };
        let heads = [(5, pv(1, None)), (3, pv(0, Some(&text))), (8, orphan)];
        assert_eq!(outcome(&heads), (vec![vec![3, 5]], vec![(vec![8], "orphan".to_owned())]));
    }

    #[test]
    fn the_newest_text_counts() {
        let old = text();
        let new = old.replace("seqno = 7", "seqno = 8").replace("root", "moved");
        let heads = [(0, pv(0, Some(&old))), (1, pv(1, Some(&new)))];
        let assembly = assemble(&heads);
        assert_eq!(assembly.groups[0].vg.lvs[0].name, "moved");
    }

    #[test]
    fn pvs_that_cannot_be_used_have_a_reason() {
        let text = text();
        let p = |index| sample::uuid('p', index);
        let reason = |heads: &[(usize, PvHead)]| {
            let (groups, raw) = outcome(heads);
            assert_eq!(groups, Vec::<Vec<usize>>::new());
            raw
        };
        let missing = format!("PV pv1 ({}) of VG vg is missing", p(1));
        assert_eq!(reason(&[(0, pv(0, Some(&text)))]), [(vec![0], missing)]);
        let twice = format!("PV pv1 ({}) of VG vg is there more than once", p(1));
        let heads = [(0, pv(0, Some(&text))), (1, pv(1, Some(&text))), (2, pv(1, None))];
        assert_eq!(reason(&heads), [(vec![0, 1, 2], twice)]);
        let alone = format!("the VG of the PV {} is missing", p(1));
        assert_eq!(reason(&[(1, pv(1, None))]), [(vec![1], alone)]);
        let other = text.replace("root", "boot");
        let heads = [(0, pv(0, Some(&text))), (1, pv(1, Some(&other)))];
        let split = "VG vg has two different versions 7".to_owned();
        assert_eq!(reason(&heads), [(vec![0, 1], split)]);
        let thin = text.replace("type = \"striped\"", "type = \"thin-pool\"");
        let heads = [(0, pv(0, Some(&thin))), (1, pv(1, None))];
        assert_eq!(reason(&heads), [(vec![0, 1], "LV vg/root is a thin-pool".to_owned())]);
    }

    #[test]
    fn a_pv_that_went_elsewhere_is_no_member() {
        let text = text();
        let foreign = text.replace(&sample::uuid('v', 0), &sample::uuid('v', 1));
        let foreign = foreign.replacen("vg {", "other {", 1);
        let heads = [(0, pv(0, Some(&text))), (1, pv(1, Some(&foreign)))];
        let (groups, raw) = outcome(&heads);
        assert_eq!((groups.len(), raw.len()), (0, 2));
        assert!(raw[0].1.ends_with("of VG vg is missing"), "{raw:?}");
        let reduced = sample::text(2048, &[4], &[]).replace("seqno = 7", "seqno = 9");
        let heads = [(0, pv(0, Some(&reduced))), (1, pv(1, Some(&text)))];
        let gone = format!("VG vg no longer lists the PV {}", sample::uuid('p', 1));
        assert_eq!(outcome(&heads), (vec![vec![0]], vec![(vec![1], gone)]));
    }

    #[test]
    fn areas_are_compared_with_the_extents() {
        let text = sample::text(2048, &[3], &[]);
        let with = |areas: &[(u64, u64)]| {
            let areas = sample::head(0, areas).metadata_areas;
            let (groups, mut raw) =
                outcome(&[(0, PvHead { metadata_areas: areas, ..pv(0, Some(&text)) })]);
            assert_eq!(groups.len() + raw.len(), 1);
            raw.pop().map(|(_, reason)| reason)
        };
        assert_eq!(with(&[(4096, 4096), (4 << 20, 4096)]), None);
        let overlap = with(&[(4096, 2 << 20)]).unwrap();
        let message =
            "area of the PV header at byte 4096: expected outside the extents 1048576..4194304";
        assert!(overlap.starts_with(message), "{overlap}");
        assert!(with(&[(4 << 20, 4096), (5 << 20, 4096)]).unwrap().ends_with("not supported"));
        let mut head = pv(0, Some(&text));
        head.bootloader_areas =
            vec![crate::lvm::label::Area { offset: Bytes::mib(9), size: Bytes::MIB }];
        assert!(outcome(&[(0, head)]).1[0].1.starts_with("a boot loader area"));
    }
}
