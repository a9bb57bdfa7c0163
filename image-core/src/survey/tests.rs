//! Surveys of disks in memory: what is found, what is doubted, what is left out and said so.

use std::sync::Arc;

use super::model::{Coverage, Survey, Volume};
use super::{Input, Wishes, survey};
use crate::disk::fixtures::{gpt_bytes, wanted};
use crate::error::{Error, Result};
use crate::exec::real::Machine;
use crate::exec::{Call, Runner};
use crate::fs::State;
use crate::io::memory::Memory;
use crate::lvm::label::{Area, PvHead};
use crate::lvm::write::pv_image;
use crate::lvm::{model::Vg, sample};
use crate::plan::restore;
use crate::report::Quiet;
use crate::save;
use crate::units::Bytes;

/// The smallest target for the only disk.
fn least(survey: &Survey) -> (Bytes, Option<String>) {
    restore::min_target(&save::outline(survey).unwrap(), "d0")
}

const MIB: usize = 1 << 20;
const SECTOR: Bytes = Bytes::new(512);

fn ext4() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(2 << 20).unwrap();
    let path = file.path().to_str().unwrap();
    let call = Call::new("mke2fs", ["-q", "-t", "ext4", "-O", "^has_journal", "-L", "here", path]);
    Machine.check(&call).expect("install e2fsprogs");
    std::fs::read(file.path()).unwrap()
}

/// Partitions of 2 MiB from the first MiB on, with these contents.
fn disk(contents: &[&[u8]], size: usize) -> Vec<u8> {
    let list: Vec<_> =
        (0..).zip(contents).map(|(at, _)| wanted(at + 1, 1 + 2 * u64::from(at), 2)).collect();
    let mut disk = gpt_bytes(Bytes::from(size), SECTOR, 128, &list);
    for (at, bytes) in contents.iter().enumerate() {
        disk[(1 + 2 * at) * MIB..][..bytes.len()].copy_from_slice(bytes);
    }
    disk
}

fn input(bytes: Vec<u8>, select: Option<&str>) -> Input {
    Input {
        path: "disk".into(),
        source: Arc::new(Memory::new(bytes)),
        hardware: Default::default(),
        select: select.map(str::to_owned),
        whole: true,
    }
}

fn surveyed(disks: Vec<Vec<u8>>, wishes: Wishes) -> Result<Survey> {
    let inputs: Vec<Input> = disks.into_iter().map(|disk| input(disk, None)).collect();
    survey(&inputs, wishes, &Quiet::default())
}

fn one(bytes: Vec<u8>) -> Survey {
    surveyed(vec![bytes], Wishes::default()).unwrap()
}

fn find<'a>(survey: &'a Survey, id: &str) -> &'a Volume {
    survey.volumes.iter().find(|volume| volume.id == id).unwrap()
}

fn ids(survey: &Survey) -> Vec<&str> {
    survey.volumes.iter().map(|volume| volume.id.as_str()).collect()
}

/// The volume's only reason, with its content.
fn raw(survey: &Survey, id: &str) -> (String, String) {
    let volume = find(survey, id);
    assert_eq!(volume.coverage, Coverage::Whole);
    (volume.content.clone(), volume.reason().unwrap().to_owned())
}

/// A physical volume of 2 MiB: one extent, which an LV fills.
fn pv(extents: u64) -> Vec<u8> {
    pv_but(extents, |_, _| ())
}

/// The same, but for what `change` does to the group and the volume's head.
fn pv_but(extents: u64, change: impl FnOnce(&mut Vg, &mut PvHead)) -> Vec<u8> {
    let lvs = [("root", vec![(extents, 0, vec![(0, 0)])])];
    let mut vg = Vg::parse(&sample::text(2048, &[extents], &lvs)).unwrap();
    let mut head = sample::head(0, &[(4096, 520_192)]);
    change(&mut vg, &mut head);
    let image = pv_image(&vg, 0, &head, &vg.text(0).unwrap()).unwrap();
    let mut bytes = vec![0; MIB + MIB * usize::try_from(extents).unwrap()];
    for (at, part) in image.text.into_iter().chain(image.area_headers).chain([image.label]) {
        let at = at.index().unwrap();
        bytes[at..at + part.len()].copy_from_slice(&part);
    }
    bytes
}

#[test]
fn a_proven_map_is_all_that_is_read_of_a_filesystem() {
    let survey = one(disk(&[&ext4(), &[7; 99]], 6 * MIB));
    let volume = find(&survey, "d0:1");
    assert_eq!((volume.content.as_str(), volume.label.as_deref()), ("ext4", Some("here")));
    assert_eq!(volume.state, State::Clean);
    assert!(volume.used().total() < Bytes::MIB && !volume.used().is_empty());
    assert_eq!(raw(&survey, "d0:2"), ("raw".into(), "its content is not known".into()));
    assert_eq!(ids(&survey), ["d0:gap0", "d0:1", "d0:2"]);
    let tail = Bytes::new(33 * 512);
    assert_eq!(least(&survey), (Bytes::mib(5) + tail, Some("d0:2".to_owned())));
}

#[test]
fn a_glance_knows_what_there_is_but_not_what_is_used() {
    let input = input(disk(&[&ext4(), &[7; 99]], 6 * MIB), None);
    let survey = super::glance::glance(&[input], &Quiet::default()).unwrap();
    let volume = find(&survey, "d0:1");
    assert_eq!((volume.content.as_str(), volume.label.as_deref()), ("ext4", Some("here")));
    assert!(volume.used().is_empty() && volume.needs.is_some());
    assert_eq!(ids(&survey), ["d0:1", "d0:2"]);
}

#[test]
fn two_claims_on_one_volume_are_copied_whole() {
    let mut swapped = ext4();
    swapped[4086..4096].copy_from_slice(b"SWAPSPACE2");
    let mut member = ext4();
    member[4096..4100].copy_from_slice(b"\xfc\x4e\x2b\xa9");
    member[4100] = 1;
    member[4096 + 144] = 8;
    let mut locked = ext4();
    locked[..8].copy_from_slice(b"LUKS\xba\xbe\0\x01");
    let survey = one(disk(&[&swapped, &member, &locked], 8 * MIB));
    raw(&survey, "d0:1");
    assert_eq!(
        raw(&survey, "d0:2"),
        ("linux_raid_member".into(), "linux_raid_member is not understood".into())
    );
    assert_eq!(raw(&survey, "d0:3").0, "crypto_LUKS");
    assert_eq!(find(&survey, "d0:3").state, State::Locked);
}

#[test]
fn a_filesystem_over_a_physical_volume_is_not_taken_for_one() {
    let survey = one(disk(&[&pv(1)], 4 * MIB));
    assert_eq!(ids(&survey), ["d0:gap0", "d0:1", "vg/root"]);
    assert!(find(&survey, "d0:1").is_container());
    let mut both = pv(1);
    both[1024..2048].copy_from_slice(&ext4()[1024..2048]);
    let survey = one(disk(&[&both], 4 * MIB));
    assert_eq!(ids(&survey), ["d0:gap0", "d0:1"]);
    let (_, reason) = raw(&survey, "d0:1");
    assert_eq!(reason, "it carries the signatures of both LVM2_member and ext4 (at byte 1024)");
}

#[test]
fn a_group_that_is_not_whole_is_copied_raw_or_refused() {
    let lvs = [("root", vec![(1, 0, vec![(0, 0)])])];
    let text = sample::text(2048, &[1, 1], &lvs);
    let vg = Vg::parse(&text).unwrap();
    let image =
        pv_image(&vg, 0, &sample::head(0, &[(4096, 1_044_480)]), &vg.text(0).unwrap()).unwrap();
    let mut bytes = vec![0; 2 * MIB];
    for (at, part) in image.text.into_iter().chain(image.area_headers).chain([image.label]) {
        let at = at.index().unwrap();
        bytes[at..at + part.len()].copy_from_slice(&part);
    }
    let survey = one(bytes.clone());
    assert_eq!(ids(&survey), ["d0"]);
    assert!(raw(&survey, "d0").1.contains("is missing"));
    let strict = Wishes { strict: true, ..Wishes::default() };
    assert!(matches!(surveyed(vec![bytes], strict), Err(Error::Refused(_))));
    let twins = vec![disk(&[&pv(1)], 4 * MIB), disk(&[&pv(1)], 4 * MIB)];
    let survey = surveyed(twins, Wishes::default()).unwrap();
    assert!(raw(&survey, "d1:1").1.contains("more than once"));
}

/// Nothing of such a disk is in a logical volume for sure, so all of it is saved.
#[test]
fn physical_volumes_of_no_group_that_is_understood_are_copied_whole() {
    let strict = Wishes { strict: true, ..Wishes::default() };
    let boots = pv_but(1, |_, head| {
        let area = Area { offset: Bytes::kib(600), size: Bytes::kib(64) };
        head.bootloader_areas.push(area);
    });
    let survey = one(boots.clone());
    assert_eq!(ids(&survey), ["d0"]);
    assert!(raw(&survey, "d0").1.contains("a bootloader area"));
    assert!(matches!(surveyed(vec![boots], strict), Err(Error::Refused(_))));
    let alone = pv_but(1, |_, head| head.metadata_areas.clear());
    assert!(raw(&one(alone), "d0").1.ends_with("is missing"));
    // A header that contradicts itself.
    let mut damaged = pv(1);
    damaged[4096 + 8] ^= 1;
    let survey = one(damaged);
    assert_eq!(ids(&survey), ["d0"]);
    raw(&survey, "d0");
}

#[test]
fn two_groups_of_one_name_are_refused() {
    let other = pv_but(1, |vg, _| {
        vg.uuid = sample::uuid('w', 0);
        vg.pvs[0].uuid = sample::uuid('q', 0);
    });
    let error = surveyed(vec![pv(1), other], Wishes::default()).err().unwrap().to_string();
    assert!(error.contains("two volume groups are named vg"), "{error}");
}

#[test]
fn bare_disks_are_volumes_and_old_tables_under_them_are_none() {
    let mut old = disk(&[&[1; 4096]], 2 * MIB + 2 * MIB);
    let filesystem = ext4();
    old[..512].fill(0);
    old[1024..2 * MIB].copy_from_slice(&filesystem[1024..]);
    old.truncate(2 * MIB);
    let survey = one(old);
    assert_eq!(ids(&survey), ["d0"]);
    assert_eq!(find(&survey, "d0").content, "ext4");
    let survey = one(pv(2));
    assert_eq!(ids(&survey), ["d0", "vg/root"]);
    assert_eq!(least(&survey), (Bytes::mib(3), Some("vg/root".to_owned())));
}

#[test]
fn a_table_inside_a_partition_is_only_bytes() {
    let nested = disk(&[&[1; 4096]], 2 * MIB + 2 * MIB);
    let survey = one(disk(&[&nested[..2 * MIB]], 4 * MIB));
    assert_eq!(ids(&survey), ["d0:gap0", "d0:1"]);
    raw(&survey, "d0:1");
}

#[test]
fn gaps_with_content_are_saved_and_large_ones_are_named() {
    let mut bytes = gpt_bytes(
        Bytes::mib(24),
        SECTOR,
        128,
        &[wanted(1, 1, 1), wanted(2, 3, 1), wanted(3, 21, 1)],
    );
    bytes[2 * MIB + 5] = 1;
    let survey = one(bytes.clone());
    assert_eq!(ids(&survey), ["d0:gap0", "d0:1", "d0:gap1", "d0:2", "d0:3"]);
    assert!(
        survey.warnings[0].contains("d0:gap2: 17 MiB outside of all partitions"),
        "{:?}",
        survey.warnings
    );
    // Asked for, but there is nothing in it.
    let all = Wishes { all_gaps: true, ..Wishes::default() };
    assert_eq!(ids(&surveyed(vec![bytes.clone()], all).unwrap()).len(), 5);
    bytes[10 * MIB] = 1;
    assert_eq!(ids(&surveyed(vec![bytes.clone()], all).unwrap()).len(), 6);
    bytes[23 * MIB] = 1;
    let survey = one(bytes);
    assert_eq!(least(&survey), (Bytes::mib(7), Some("d0:gap3".to_owned())));

    let survey = one(gpt_bytes(Bytes::mib(4), SECTOR, 128, &[]));
    assert_eq!(find(&survey, "d0:gap0").size(), Bytes::MIB);
    assert!(survey.warnings[0].contains("no partitions"), "{:?}", survey.warnings);
}

#[test]
fn one_volume_can_be_picked_out() {
    let inputs = [input(disk(&[&ext4(), &pv(1)], 6 * MIB), Some("vg/root"))];
    let picked = survey(&inputs, Wishes::default(), &Quiet::default()).unwrap();
    assert_eq!(ids(&picked), ["vg/root"]);
    assert!(picked.groups.is_empty() && !picked.slots[0].whole);
    let inputs = [input(disk(&[&ext4(), &pv(1)], 6 * MIB), Some("2"))];
    let error = survey(&inputs, Wishes::default(), &Quiet::default()).err().unwrap().to_string();
    assert!(error.contains("has no volume 2; it has 1, 2, vg/root"), "{error}");
}
