//! A save that dies at any step leaves no image, or a complete one, and never harms those before it.

use std::sync::Arc;

use super::{CheckOptions, Memory, Read, Repository, Unflushed, sample};
use crate::error::Error;
use crate::report::Quiet;

/// A repository with one image, and what that image holds.
fn with_image() -> (Memory, Vec<u8>) {
    let files = Memory::new();
    let old = sample::data(1, 8);
    sample::save(&sample::repository(files.clone()), "old", &old).unwrap();
    (files, old)
}

fn open(files: &Memory) -> Repository {
    Repository::open(Arc::new(files.clone())).unwrap()
}

/// Everything that is listed as an image is whole; the check agrees. Whether "new" is there.
fn assert_sound(files: &Memory, old: &[u8], new: &[u8]) -> bool {
    let repository = open(files);
    let images = repository.images().unwrap();
    assert!(images.damaged.is_empty(), "{:?}", images.damaged);
    for image in &images.intact {
        let expected = if image.record.name.as_str() == "old" { old } else { new };
        let (bytes, lost) = sample::restore(&repository, image).unwrap();
        assert!(lost.is_empty() && bytes == expected, "{lost:?}");
    }
    let check =
        repository.check(CheckOptions { read_data: true, rebuild: false }, &Quiet::default());
    let check = check.unwrap();
    assert!(check.damaged.is_empty(), "{:?}", check.damaged);
    assert!(repository.resolve("old", &Quiet::default()).is_ok());
    repository.resolve("new", &Quiet::default()).is_ok()
}

#[test]
fn a_crash_at_every_step_leaves_no_image_or_a_complete_one() {
    let (before, old) = with_image();
    let new = sample::data(2, 8);
    for step in 0.. {
        let files = before.after_crash(Unflushed::NamesKept);
        files.stop_after(step);
        let saved = sample::save(&open(&files), "new", &new).is_ok();
        for unflushed in [Unflushed::NamesLost, Unflushed::NamesKept] {
            let after = files.after_crash(unflushed);
            after.forget_locks();
            let exists = assert_sound(&after, &old, &new);
            assert!(exists || !saved, "step {step}, {unflushed:?}: reported, but not there");
            sample::save(&open(&after), "new", &new).unwrap();
            assert!(assert_sound(&after, &old, &new), "the next save works");
            assert!(after.list("tmp").unwrap().is_empty(), "step {step}: {:?}", after.paths());
        }
        if saved {
            assert!(step > 20, "{step} steps are too few for a save");
            return;
        }
    }
}

#[test]
fn a_full_place_leaves_nothing_that_looks_like_an_image() {
    let (before, old) = with_image();
    let new = sample::data(2, 8);
    let mut fits = false;
    for space in (0..).step_by(20_000) {
        let files = before.after_crash(Unflushed::NamesKept);
        files.fill_after(space);
        let saved = sample::save(&open(&files), "new", &new);
        let after = files.after_crash(Unflushed::NamesKept);
        assert_eq!(assert_sound(&after, &old, &new), saved.is_ok());
        assert!(after.list("locks").unwrap().is_empty());
        match saved {
            Ok(_) => {
                fits = true;
                break;
            }
            Err(Error::Io { source, .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
                assert!(after.list("tmp").unwrap().is_empty());
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(fits);
}

#[test]
fn what_a_killed_save_stored_is_used_by_the_next() {
    let files = Memory::new();
    let repository = sample::repository(files.clone());
    let data = sample::data(1, 8);
    let mut killed = repository.saver(&Quiet::default()).unwrap();
    sample::add(&mut killed, &data).unwrap();
    killed.finish_packs().unwrap();
    drop(killed);
    assert!(repository.images().unwrap().intact.is_empty());
    sample::save(&repository, "web", &data).unwrap();
    assert_eq!(files.list("packs").unwrap().len(), 1);
}

#[test]
fn a_pack_that_goes_away_during_the_save_is_missed() {
    let (files, old) = with_image();
    let repository = open(&files);
    let mut saver = repository.saver(&Quiet::default()).unwrap();
    let root = sample::add(&mut saver, &old).unwrap();
    let record = repository.resolve("old", &Quiet::default()).unwrap().record;
    saver.put_root(&root).unwrap();
    for pack in files.list("packs").unwrap() {
        super::Write::delete(&files, &format!("packs/{}", pack.name)).unwrap();
    }
    let error = saver.put_record(record, &Quiet::default()).unwrap_err().to_string();
    assert!(error.contains("went away"), "{error}");
}

#[test]
fn a_root_whose_chunks_were_never_added_is_refused() {
    let (files, _) = with_image();
    let elsewhere = sample::repository(Memory::new());
    let mut saver = elsewhere.saver(&Quiet::default()).unwrap();
    let root = sample::add(&mut saver, &sample::data(9, 8)).unwrap();
    let table = elsewhere.segment(root.volumes[0].segments[0].unwrap()).unwrap();
    let mut saver = open(&files).saver(&Quiet::default()).unwrap();
    assert!(saver.put_root(&root).is_err(), "its table is missing");
    saver.put_segment(&table).unwrap();
    let error = saver.put_root(&root).unwrap_err().to_string();
    assert!(error.contains("intact packs"), "{error}");
}
