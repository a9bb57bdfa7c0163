//! Images whose chunks are deltas come back as they were; what a lost base costs is named.

use std::collections::HashSet;

use super::index::{PackFile, list_packs, read_trailer};
use super::{CheckOptions, CheckReport, ImageInfo, Memory, Read, Unflushed, Write, sample};
use crate::image::hash::ChunkId;
use crate::image::pack::Entry;
use crate::report::Quiet;
use crate::units::Bytes;

fn check(files: &Memory) -> CheckReport {
    let options = CheckOptions { read_data: true, rebuild: false };
    sample::open(files).check(options, &Quiet::default()).unwrap()
}

/// Every pack with its entries and where they begin.
fn packs(files: &Memory) -> Vec<(PackFile, Vec<(Bytes, Entry)>)> {
    let packs = list_packs(files).unwrap().into_iter();
    packs.map(|pack| (pack, read_trailer(files, pack).unwrap().chunks)).collect()
}

fn restored(files: &Memory, image: &ImageInfo) -> (Vec<u8>, usize) {
    let (bytes, lost) = sample::restore(&sample::open(files), image).unwrap();
    (bytes, lost.len())
}

#[test]
fn deltas_are_based_on_full_chunks_and_restore() {
    let (files, saved) = sample::generations();
    let all: Vec<Entry> =
        packs(&files).into_iter().flat_map(|(_, chunks)| chunks).map(|(_, entry)| entry).collect();
    let full = |entry: &&Entry| entry.base.is_none();
    let full: HashSet<ChunkId> = all.iter().filter(full).map(|entry| entry.id).collect();
    let deltas: Vec<&Entry> = all.iter().filter(|entry| entry.base.is_some()).collect();
    // Three windows each: the third generation's are deltas of the first one's chunks, not of the second's.
    assert_eq!(deltas.len(), 6);
    assert!(deltas.iter().all(|delta| full.contains(&delta.base.unwrap())));
    assert!(deltas.iter().all(|delta| delta.stored_len < 9000), "{deltas:?}");
    for with_locations in [true, false] {
        for (image, data) in &saved {
            assert!(restored(&files, image) == (data.clone(), 0));
        }
        let report = check(&files);
        assert!(report.damaged.is_empty() && report.orphans.is_empty(), "{report:?}");
        assert_eq!(report.rebuilt.is_empty(), with_locations);
        for file in files.list("locations").unwrap() {
            files.delete(&format!("locations/{}", file.name)).unwrap();
        }
    }
}

#[test]
fn a_lost_base_is_damage_of_all_that_need_it_and_is_stored_again() {
    let (files, saved) = sample::generations();
    let packs = packs(&files);
    let deltas = packs.iter().flat_map(|(_, chunks)| chunks).map(|(_, entry)| entry);
    let bases: HashSet<ChunkId> = deltas.filter_map(|entry| entry.base).collect();
    let (first, offset) = packs
        .iter()
        .find_map(|(pack, chunks)| {
            let (offset, _) = chunks.iter().find(|(_, entry)| bases.contains(&entry.id))?;
            Some((*pack, *offset))
        })
        .unwrap();
    let path = format!("packs/{}", first.name);
    let flip = |files: &Memory, at: usize| files.damage(&path, |bytes| bytes[at] ^= 1);
    for whole_pack in [false, true] {
        let files = files.after_crash(Unflushed::NamesKept);
        let at = if whole_pack { first.size } else { offset + Bytes::new(5) };
        flip(&files, at.index().unwrap() - usize::from(whole_pack) * 100);
        let (_, lost) = sample::restore(&sample::open(&files), &saved[2].0).unwrap();
        assert!(!lost.is_empty());
        for lost in lost {
            assert_eq!(format!("packs/{}", lost.pack.unwrap()), path, "{}", lost.why);
        }
        let report = check(&files);
        let named = report.damaged.iter().filter(|error| error.to_string().contains(&path));
        assert!(named.count() > 0, "{:?}", report.damaged);
        // A save of the same bytes notices a trailer that is gone, and what cannot be had without it.
        let again = sample::save(&sample::open(&files), "web", &saved[2].1).unwrap();
        assert_eq!(restored(&files, &again).1 == 0, whole_pack);
    }
}

#[test]
fn a_damaged_parent_or_base_means_full_chunks_and_a_warning() {
    let (files, saved) = sample::generations();
    let parent = &saved[2].0;
    let next = sample::changed(&saved[2].1, 9, 4);
    let save = |files: &Memory| {
        let report = Quiet::default();
        let mut saver = sample::open(files).saver(&report).unwrap();
        let root = sample::add_beside(&mut saver, &next, Some(parent), &report).unwrap();
        saver.put_root(&root).unwrap();
        drop(saver);
        let deltas = packs(files).into_iter().flat_map(|(_, chunks)| chunks);
        (deltas.filter(|(_, entry)| entry.base.is_some()).count() - 6, report.warnings())
    };
    assert_eq!(save(&files.after_crash(Unflushed::NamesKept)), (3, vec![]));
    let root = format!("roots/{}", parent.record.root);
    let table = sample::open(&files).root(parent).unwrap().volumes[0].segments[0].unwrap();
    for path in [root, format!("tables/{table}")] {
        let files = files.after_crash(Unflushed::NamesKept);
        files.damage(&path, |bytes| bytes[40] ^= 1);
        let (deltas, warnings) = save(&files);
        assert_eq!(deltas, 0);
        assert!(warnings.len() == 1 && warnings[0].contains("stored in full"), "{warnings:?}");
    }
    for (pack, chunks) in packs(&files).into_iter().filter(|(_, chunks)| chunks.len() > 6) {
        let files = files.after_crash(Unflushed::NamesKept);
        files.damage(&format!("packs/{}", pack.name), |bytes| {
            for (offset, _) in &chunks {
                bytes[offset.index().unwrap()] ^= 1;
            }
        });
        let (deltas, warnings) = save(&files);
        assert_eq!(deltas, 0);
        assert!(warnings.len() == 1 && warnings[0].contains("stored in full"), "{warnings:?}");
    }
}

#[test]
fn a_chunk_that_two_packs_hold_is_taken_from_the_sound_one() {
    let (files, saved) = sample::generations();
    // Another save that did not know of the first one's packs.
    let elsewhere = Memory::new();
    sample::save(&sample::repository(elsewhere.clone()), "web", &saved[2].1).unwrap();
    let copy = list_packs(&elsewhere).unwrap()[0];
    let path = format!("packs/{}", copy.name);
    let bytes = elsewhere.get(&path, Bytes::MAX).unwrap();
    let mut file = files.create(&path).unwrap();
    file.append(&bytes).unwrap();
    file.flush().unwrap();
    for (pack, chunks) in packs(&files).into_iter().filter(|(pack, _)| *pack != copy) {
        files.damage(&format!("packs/{}", pack.name), |bytes| {
            for (offset, _) in &chunks {
                bytes[offset.index().unwrap()] ^= 1;
            }
        });
    }
    assert!(restored(&files, &saved[2].0) == (saved[2].1.clone(), 0));
    assert!(restored(&files, &saved[0].0).1 > 0);
}

#[test]
fn packs_in_the_trash_are_read_and_not_known() {
    let (files, saved) = sample::generations();
    for pack in list_packs(&files).unwrap() {
        let name = pack.name;
        files.rename(&format!("packs/{name}"), &format!("trash/2026-11-20.packs.{name}")).unwrap();
    }
    for with_locations in [true, false] {
        for (image, data) in &saved {
            assert!(restored(&files, image) == (data.clone(), 0));
        }
        assert!(check(&files).damaged.is_empty());
        if with_locations {
            files
                .delete(&format!("locations/{}", files.list("locations").unwrap()[0].name))
                .unwrap();
        }
    }
    sample::save(&sample::open(&files), "web", &saved[2].1).unwrap();
    assert_eq!(list_packs(&files).unwrap().len(), 1, "everything was stored again");
}
