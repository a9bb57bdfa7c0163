//! One flipped bit in any file is found, and the message names the file.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::{CheckOptions, CheckReport, Memory, Read, Repository, Unflushed, Write, sample};
use crate::extent::Extent;
use crate::report::Quiet;
use crate::units::Bytes;

fn sample_repository() -> (Memory, Vec<u8>) {
    let files = Memory::new();
    let data = sample::data(1, 5);
    sample::save(&sample::repository(files.clone()), "web", &data).unwrap();
    (files, data)
}

fn open(files: &Memory) -> crate::error::Result<Repository> {
    Repository::open(Arc::new(files.clone()))
}

fn check(files: &Memory) -> CheckReport {
    let options = CheckOptions { read_data: true, rebuild: false };
    open(files).unwrap().check(options, &Quiet::default()).unwrap()
}

fn length(files: &Memory, path: &str) -> usize {
    files.get(path, Bytes::MAX).unwrap().len()
}

fn path_in(files: &Memory, folder: &str) -> String {
    format!("{folder}/{}", files.list(folder).unwrap()[0].name)
}

/// Every 29th bit of a short file; of a long one some at its start and every 7th of its last KiB.
fn bits(length: usize) -> Vec<usize> {
    let bits = length * 8;
    if length < 4096 {
        return (0..bits).step_by(29).collect();
    }
    (0..bits).step_by(bits / 20).chain((bits - 8192..bits).step_by(97)).collect()
}

#[test]
fn a_flipped_bit_is_found_and_named() {
    let (files, _) = sample_repository();
    for folder in ["images", "roots", "tables", "packs"] {
        let path = path_in(&files, folder);
        for bit in bits(length(&files, &path)) {
            let files = files.after_crash(Unflushed::NamesKept);
            files.damage(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let report = check(&files);
            let named = report.damaged.iter().map(ToString::to_string).any(|e| e.contains(&path));
            assert!(named, "{path}, bit {bit}: {:?}", report.damaged);
            if matches!(folder, "roots" | "tables") {
                let text = report.damaged[0].to_string();
                assert!(text.contains("image web"), "{text}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_a_cache_is_repaired() {
    let (files, data) = sample_repository();
    for path in [path_in(&files, "locations"), "catalog".to_owned()] {
        for bit in bits(length(&files, &path)) {
            let files = files.after_crash(Unflushed::NamesKept);
            files.damage(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            let repository = open(&files).unwrap();
            let image = repository.resolve("web", &Quiet::default()).unwrap();
            assert_eq!(sample::restore(&repository, &image).unwrap(), (data.clone(), vec![]));
            let report = check(&files);
            assert_eq!(report.rebuilt, [path.as_str()], "bit {bit}");
            assert!(report.damaged.is_empty());
            let report = check(&files);
            assert!(report.rebuilt.is_empty(), "{report:?}");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_header_is_named() {
    let (files, _) = sample_repository();
    for bit in bits(length(&files, "keiki")) {
        let files = files.after_crash(Unflushed::NamesKept);
        files.damage("keiki", |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let error = open(&files).err().unwrap().to_string();
        assert!(error.contains("/keiki"), "{error}");
        assert!(Repository::exists(&files).unwrap());
    }
}

#[test]
fn missing_files_are_named() {
    let (files, _) = sample_repository();
    for folder in ["roots", "tables", "packs"] {
        let files = files.after_crash(Unflushed::NamesKept);
        let path = path_in(&files, folder);
        files.delete(&path).unwrap();
        let damaged: Vec<String> = check(&files).damaged.iter().map(ToString::to_string).collect();
        let named = damaged.iter().any(|error| error.contains("image web"));
        assert!(named, "{folder}: {damaged:?}");
    }
}

#[test]
fn lost_chunks_carry_their_place() {
    let (files, data) = sample_repository();
    let pack = path_in(&files, "packs");
    let window = sample::WINDOW.index().unwrap();
    files.damage(&pack, |bytes| bytes[window + 5] ^= 1);
    let repository = open(&files).unwrap();
    let image = repository.resolve("web", &Quiet::default()).unwrap();
    let (bytes, lost) = sample::restore(&repository, &image).unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].offset, Some(sample::WINDOW));
    assert_eq!(format!("packs/{}", lost[0].pack.unwrap()), pack);
    assert!(lost[0].why.contains("stored bytes") && !lost[0].is_unread, "{}", lost[0].why);
    assert!(
        bytes[window..2 * window].iter().all(|byte| *byte == 0xee),
        "nothing was written there"
    );
    assert_eq!((&bytes[..window], &bytes[2 * window..]), (&data[..window], &data[2 * window..]));
}

/// Chunks that lie beside a bad sector are read in the same go as the one on it.
#[test]
fn a_bad_sector_loses_the_chunk_on_it_and_no_other() {
    let (files, data) = sample_repository();
    let pack = path_in(&files, "packs");
    let window = sample::WINDOW.index().unwrap();
    let bad = Extent::at(sample::WINDOW + Bytes::kib(4), Bytes::new(512)).unwrap();
    files.fail_reads(&pack, bad, Errno::IO);
    let repository = open(&files).unwrap();
    let image = repository.resolve("web", &Quiet::default()).unwrap();
    let (bytes, lost) = sample::restore(&repository, &image).unwrap();
    let places: Vec<_> = lost.iter().map(|lost| lost.offset).collect();
    assert_eq!(places, [Some(sample::WINDOW)], "{lost:?}");
    assert!(lost[0].why.contains("Input/output error") && lost[0].is_unread, "{}", lost[0].why);
    let garbage = vec![0xee; window];
    assert!(bytes == [&data[..window], &garbage, &data[2 * window..]].concat());
    // A server that does not answer says nothing of the chunks.
    files.fail_reads(&pack, bad, Errno::TIMEDOUT);
    let error = sample::restore(&repository, &image).unwrap_err().to_string();
    assert!(error.contains(&pack), "{error}");
}

#[test]
fn all_chunks_of_a_pack_without_a_trailer_are_lost() {
    let (files, _) = sample_repository();
    let path = path_in(&files, "packs");
    let whole = length(&files, &path);
    type Damage = fn(&Memory, &str, usize);
    let damages: [(&str, Damage); 3] = [
        ("trailer", |files, path, whole| files.damage(path, |bytes| bytes[whole - 100] ^= 1)),
        ("footer", |files, path, whole| files.damage(path, |bytes| bytes.truncate(whole / 2))),
        ("no such pack", |files, path, _| files.delete(path).unwrap()),
    ];
    for (why, damage) in damages {
        for with_locations in [true, false] {
            let files = files.after_crash(Unflushed::NamesKept);
            damage(&files, &path, whole);
            if !with_locations {
                files.delete(&path_in(&files, "locations")).unwrap();
            }
            let repository = open(&files).unwrap();
            let image = repository.resolve("web", &Quiet::default()).unwrap();
            let (_, lost) = sample::restore(&repository, &image).unwrap();
            assert_eq!(lost.len(), 3, "{why}");
            for lost in lost {
                assert_eq!(lost.offset.is_some(), with_locations);
                let expected =
                    if with_locations || why != "no such pack" { why } else { "no pack" };
                assert!(lost.why.contains(expected), "{expected}: {}", lost.why);
            }
            // The next save stores its chunks again, and then every image is whole again.
            sample::save(&repository, "web", &sample::data(1, 5)).unwrap();
            assert!(sample::restore(&repository, &image).unwrap().1.is_empty());
        }
    }
}

#[test]
fn check_rebuilds_and_tidies_when_told() {
    let (files, _) = sample_repository();
    files.create("tmp/dead.1").unwrap();
    let options = CheckOptions { read_data: false, rebuild: true };
    let report = open(&files).unwrap().check(options, &Quiet::default()).unwrap();
    assert_eq!(report.rebuilt, ["catalog".to_owned(), path_in(&files, "locations")]);
    assert_eq!(report.removed, ["tmp/dead.1"]);
    assert_eq!((report.images, report.packs, report.chunks), (1, 1, 3));
    assert!(report.damaged.is_empty() && report.orphans.is_empty(), "{report:?}");
}

#[test]
fn a_damaged_record_is_not_taken_for_a_missing_image() {
    let (files, _) = sample_repository();
    files.damage(&path_in(&files, "images"), |bytes| bytes[0] ^= 1);
    let repository = open(&files).unwrap();
    let report = Quiet::default();
    let error = repository.resolve("web", &report).unwrap_err();
    assert!(error.to_string().contains("images/"), "{error}");
    assert!(report.warnings()[0].contains("images/"));
    assert_eq!(error.kind(), "corrupt");
    assert_eq!(repository.images().unwrap().damaged.len(), 1);
}

#[test]
fn a_stuck_lock_does_not_outlive_its_time() {
    let (files, data) = sample_repository();
    files.create("locks/gone.0").unwrap().append(b"half a lo").unwrap();
    let repository = open(&files).unwrap();
    assert!(sample::save(&repository, "web", &data).is_err());
    files.age("locks/gone.0", Duration::from_secs(1801));
    sample::save(&repository, "web", &data).unwrap();
}
