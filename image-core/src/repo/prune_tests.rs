//! Pruning frees what no image needs and nothing else, whatever happens meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::index::{list_packs, read_trailer};
use super::{
    Amount, ChunkFeed, Delivery, ImageInfo, Memory, PruneOptions, PruneReport, Read, Repository,
    Unflushed, WantSet, Write, sample,
};
use crate::error::{Error, Result};
use crate::image::hash::ChunkId;
use crate::image::record::Record;
use crate::image::segment::SegmentReader;
use crate::report::Quiet;
use crate::units::Bytes;

const LATER: PruneOptions = PruneOptions { now: false, dry_run: false };
const NOW: PruneOptions = PruneOptions { now: true, dry_run: false };
const HOUR: Duration = Duration::from_secs(3600);

/// Images with what they hold.
type Saved = Vec<(ImageInfo, Vec<u8>)>;

fn open(files: &Memory) -> Repository {
    Repository::open(Arc::new(files.clone())).unwrap()
}

fn prune(files: &Memory, options: PruneOptions) -> Result<PruneReport> {
    open(files).prune(options, &Quiet::default())
}

fn pruned(files: &Memory, options: PruneOptions) -> PruneReport {
    let report = prune(files, options).unwrap();
    assert!(report.damaged.is_empty(), "{:?}", report.damaged);
    report
}

/// All files but locks; the catalog, which may be out of date, by its name.
fn state(files: &Memory) -> Vec<String> {
    files.paths().into_iter().filter(|path| !path.starts_with("locks/")).collect()
}

/// Every image is whole, and a check finds no damage.
fn assert_whole(files: &Memory, saved: &Saved) {
    let repository = open(files);
    for (image, data) in saved {
        let (bytes, lost) = sample::restore(&repository, image).unwrap();
        assert!(lost.is_empty() && &bytes == data, "{}: {lost:?}", image.record.name);
    }
    let options = super::CheckOptions { read_data: true, rebuild: false };
    let check = repository.check(options, &Quiet::default()).unwrap();
    assert!(check.damaged.is_empty(), "{:?}", check.damaged);
}

/// Three generations, each a delta of the first; another image that has most of these chunks in a sparse pack;
/// one with nothing in common. All but the last generation and a part of the sparse pack are forgotten.
fn with_garbage() -> (Memory, Saved) {
    let files = Memory::new();
    let repository = sample::repository(files.clone());
    let mut data = sample::data(1, 24);
    let mut generations = Vec::new();
    for (seed, count) in [(2, 0), (3, 1), (4, 1)] {
        generations.push((sample::save(&repository, "web", &data).unwrap(), data.clone()));
        data = sample::changed(&data, seed, count);
    }
    let large = sample::data(5, 30);
    let large_image = sample::save(&repository, "large", &large).unwrap();
    let part = large[..10 * sample::WINDOW.index().unwrap()].to_vec();
    let part_image = sample::save(&repository, "part", &part).unwrap();
    let other = sample::save(&repository, "other", &sample::data(6, 8)).unwrap();
    let last = generations.pop().unwrap();
    let mut gone: Vec<ImageInfo> = generations.into_iter().map(|(image, _)| image).collect();
    gone.extend([large_image, other]);
    repository.remove(&gone).unwrap();
    (files, vec![last, (part_image, part)])
}

#[test]
fn what_no_image_needs_goes_and_what_one_needs_stays() {
    let (files, saved) = with_garbage();
    let before = state(&files);
    let dry = pruned(&files, PruneOptions { now: true, dry_run: true });
    assert_eq!(state(&files), before, "a dry run changes nothing");
    let done = pruned(&files, NOW);
    // The other image's pack, the large one's which was rewritten, and the second generation's: what is left of
    // it are deltas that the third one needs.
    assert_eq!(done.images, 2);
    assert_eq!(done.rewritten, Amount { files: 1, bytes: sample::WINDOW.checked_mul(8).unwrap() });
    assert_eq!(
        (done.trashed, done.rewritten, done.deleted),
        (dry.trashed, dry.rewritten, dry.deleted)
    );
    assert_eq!((done.trashed, done.in_trash), (done.deleted, Amount::default()));
    let freed = done.deleted.bytes;
    assert!(freed > sample::WINDOW.checked_mul(28 + 6).unwrap(), "{freed}");
    assert!(!files.paths().iter().any(|path| path.starts_with("trash/")), "{:?}", files.paths());
    assert_whole(&files, &saved);
    let check = open(&files).check(super::CheckOptions::default(), &Quiet::default()).unwrap();
    assert!(check.orphans.is_empty() && check.rebuilt.is_empty(), "{check:?}");

    let after = state(&files);
    let again = pruned(&files, NOW);
    assert_eq!((again.trashed, again.rewritten, again.deleted), Default::default());
    assert_eq!(state(&files), after, "a second time there is nothing to do");
    for file in files.list("locations").unwrap() {
        files.delete(&format!("locations/{}", file.name)).unwrap();
    }
    assert_whole(&files, &saved);
}

#[test]
fn the_trash_is_kept_for_a_day() {
    let (files, saved) = with_garbage();
    let thrown = pruned(&files, LATER);
    assert_eq!((thrown.deleted, thrown.in_trash), (Amount::default(), thrown.trashed));
    let mark = files.list("trash").unwrap().into_iter().find(|file| file.size.is_zero()).unwrap();
    let mark = format!("trash/{}", mark.name);
    files.age(&mark, 23 * HOUR);
    assert_eq!(pruned(&files, LATER).deleted, Amount::default());
    // A copy of the repository that lost its mark is as young as can be.
    let copy = files.after_crash(Unflushed::NamesKept);
    copy.delete(&mark).unwrap();
    assert_eq!(pruned(&copy, LATER).deleted, Amount::default());
    copy.age(&mark, 25 * HOUR);
    for files in [&copy, &files] {
        files.age(&mark, HOUR);
        assert_eq!(pruned(files, LATER).deleted, thrown.trashed);
        assert!(files.list("trash").unwrap().is_empty());
        assert_whole(files, &saved);
    }
}

#[test]
fn what_is_thrown_away_later_makes_the_days_trash_young_again() {
    let (files, saved) = with_garbage();
    let thrown = pruned(&files, LATER);
    let mark = files.list("trash").unwrap().into_iter().find(|file| file.size.is_zero()).unwrap();
    files.age(&format!("trash/{}", mark.name), 25 * HOUR);
    open(&files).remove(&[saved[1].0.clone()]).unwrap();
    // What was there is removed after the day's mark was renewed.
    let again = pruned(&files, LATER);
    assert!(again.trashed.files > 0);
    assert_eq!(again.deleted, Amount::default());
    assert_eq!(again.in_trash.files, thrown.trashed.files + again.trashed.files);
}

#[test]
fn what_is_needed_is_taken_out_of_the_trash() {
    let (files, saved) = with_garbage();
    pruned(&files, NOW);
    let away: Vec<String> = state(&files)
        .into_iter()
        .filter(|path| ["packs/", "roots/", "tables/"].iter().any(|one| path.starts_with(one)))
        .collect();
    for path in &away {
        files.rename(path, &format!("trash/2020-02-20.{}", path.replace('/', "."))).unwrap();
    }
    files.create("trash/2020-02-20").unwrap();
    files.age("trash/2020-02-20", 1000 * HOUR);
    let dry = pruned(&files, PruneOptions { now: true, dry_run: true });
    let back = pruned(&files, NOW);
    assert_eq!((back.taken_back.files, back.deleted), (away.len(), Amount::default()));
    assert_eq!((dry.taken_back, dry.deleted), (back.taken_back, back.deleted));
    assert!(away.iter().all(|path| state(&files).contains(path)));
    assert_whole(&files, &saved);
}

#[test]
fn nothing_is_removed_where_anything_is_damaged() {
    let (files, _) = with_garbage();
    let mut paths = state(&files);
    paths.retain(|path| {
        ["images/", "packs/", "roots/", "tables/"].iter().any(|one| path.starts_with(one))
    });
    let needed: Vec<String> = {
        let files = files.after_crash(Unflushed::NamesKept);
        pruned(&files, NOW);
        state(&files)
    };
    let mut refused = 0;
    for path in &paths {
        for lost in [false, true] {
            let files = files.after_crash(Unflushed::NamesKept);
            match lost {
                true => files.delete(path).unwrap(),
                false => files.damage(path, |bytes| *bytes.last_mut().unwrap() ^= 1),
            }
            let before = state(&files);
            let is_needed = needed.contains(path);
            match prune(&files, NOW) {
                Err(Error::Refused(why)) => {
                    assert!(why.contains("nothing is removed"), "{path}: {why}");
                    assert_eq!(state(&files), before, "{path}");
                    refused += 1;
                }
                // Of what nothing needs only a trailer is looked at. A lost record is a forgotten image, and the
                // sparse pack is needed in part.
                Ok(_) if lost => assert!(!is_needed || path.starts_with("images/"), "{path}"),
                Ok(_) => assert!(!is_needed && !path.starts_with("packs/"), "{path}"),
                Err(other) => panic!("{path}: {other}"),
            }
        }
    }
    assert!(refused >= 12, "{refused}");
}

/// A repository as it is after a crash: the lock of the dead process, which is this one, is stale.
fn after_crash(files: &Memory, unflushed: Unflushed) -> Memory {
    let after = files.after_crash(unflushed);
    after.forget_locks();
    after
}

#[test]
fn a_crash_at_every_step_loses_nothing_and_the_next_prune_finishes() {
    let (before, saved) = with_garbage();
    for options in [LATER, NOW] {
        let whole = before.after_crash(Unflushed::NamesKept);
        pruned(&whole, options);
        let needed = |files: &Memory| -> Vec<String> {
            state(files).into_iter().filter(|path| !path.starts_with("trash/")).collect()
        };
        for step in 0.. {
            let files = before.after_crash(Unflushed::NamesKept);
            files.stop_after(step);
            let ended = prune(&files, options).is_ok();
            for unflushed in [Unflushed::NamesLost, Unflushed::NamesKept] {
                let after = after_crash(&files, unflushed);
                assert_whole(&after, &saved);
                pruned(&after, options);
                assert_whole(&after, &saved);
                assert_eq!(needed(&after), needed(&whole), "step {step}, {unflushed:?}");
                pruned(&after, NOW);
                assert!(after.list("trash").unwrap().is_empty(), "{:?}", after.paths());
                assert_whole(&after, &saved);
            }
            if ended {
                assert!(step > 40, "{step} steps are too few");
                break;
            }
        }
    }
}

#[test]
fn a_full_place_loses_nothing() {
    let (before, saved) = with_garbage();
    for space in (0..).step_by(70_000) {
        let files = before.after_crash(Unflushed::NamesKept);
        files.fill_after(space);
        let ended = prune(&files, NOW);
        let after = files.after_crash(Unflushed::NamesKept);
        assert_whole(&after, &saved);
        match ended {
            Ok(_) => {
                assert!(space > 500_000, "rewriting wants space: {space}");
                break;
            }
            // What nothing needs is gone all the same.
            Err(Error::Io { .. }) if space > 0 => {
                let dead = before.list("packs").unwrap().len() - after.list("packs").unwrap().len();
                assert!(dead > 0, "{space}");
            }
            Err(Error::Io { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// A pack of another repository that has the same chunks, beside those that are there.
fn add_copies(files: &Memory, data: &[u8]) -> String {
    let elsewhere = Memory::new();
    sample::save(&sample::repository(elsewhere.clone()), "web", data).unwrap();
    let path = format!("packs/{}", elsewhere.list("packs").unwrap()[0].name);
    let bytes = elsewhere.get(&path, Bytes::MAX).unwrap();
    let mut file = files.create(&path).unwrap();
    file.append(&bytes).unwrap();
    file.flush().unwrap();
    path
}

#[test]
fn of_two_copies_the_damaged_one_is_not_the_one_that_stays() {
    let (files, saved) = with_garbage();
    let (image, data) = &saved[0];
    let packs: Vec<String> =
        list_packs(&files).unwrap().iter().map(|pack| format!("packs/{}", pack.name)).collect();
    let copy = add_copies(&files, data);
    let damage = |files: &Memory, path: &str| {
        let name = path.trim_start_matches("packs/").parse().unwrap();
        let pack = list_packs(files).unwrap().into_iter().find(|pack| pack.name == name).unwrap();
        let offsets: Vec<Bytes> =
            read_trailer(files, pack).unwrap().chunks.into_iter().map(|(at, _)| at).collect();
        files.damage(path, |bytes| {
            offsets.iter().for_each(|offset| bytes[offset.index().unwrap()] ^= 1);
        });
    };
    // Sound both: the copies go, or what they are copies of.
    let sound = files.after_crash(Unflushed::NamesKept);
    pruned(&sound, NOW);
    assert_whole(&sound, &saved);
    let chunks = list_packs(&sound).unwrap().into_iter();
    let ids: Vec<ChunkId> = chunks
        .flat_map(|pack| read_trailer(&sound, pack).unwrap().chunks)
        .map(|(_, entry)| entry.id)
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "no chunk is there twice");

    for old_is_damaged in [true, false] {
        let files = files.after_crash(Unflushed::NamesKept);
        for path in if old_is_damaged { packs.as_slice() } else { std::slice::from_ref(&copy) } {
            damage(&files, path);
        }
        for again in [false, true] {
            let report = Quiet::default();
            let done = open(&files).prune(NOW, &report).unwrap();
            let (bytes, lost) = sample::restore(&open(&files), image).unwrap();
            assert!(lost.is_empty() && &bytes == data, "{lost:?}");
            // A damaged copy is told; where there is a sound one in full, the damaged one goes.
            assert!(again || !done.damaged.is_empty() || !report.warnings().is_empty());
        }
    }
}

#[test]
fn a_restore_goes_on_while_its_packs_are_rewritten_and_removed() {
    let (files, saved) = with_garbage();
    let (image, _) = &saved[1];
    let repository = open(&files);
    let root = repository.root(image).unwrap();
    let segment = root.volumes[0].segments[0].unwrap();
    let bytes = repository.segment(segment).unwrap();
    let ids = || {
        let windows = SegmentReader::new(&bytes, root.window, root.volumes[0].size).unwrap();
        windows.filter_map(|next| next.unwrap().1.chunk)
    };
    // Its feed has its index already, and knows its packs; nothing of them was read.
    let mut feed = repository.feed(root.window).unwrap();
    let missing = WantSet::new(segment, [ChunkId::of(b"missing")]);
    assert!(matches!(feed.next(&missing).unwrap(), Some(Delivery::Lost(_))));
    assert_eq!(pruned(&files, NOW).rewritten.files, 1);
    let mut wanted = WantSet::new(segment, ids());
    while let Some(delivery) = feed.next(&wanted).unwrap() {
        assert!(matches!(delivery, Delivery::Chunk { .. }), "{delivery:?}");
        wanted.remove(&delivery.id());
    }
}

#[test]
fn a_save_that_slept_while_it_was_pruned_leaves_no_image() {
    for (options, slept) in [(LATER, true), (NOW, true), (NOW, false)] {
        let (files, saved) = with_garbage();
        let repository = open(&files);
        let data = sample::data(9, 8);
        let mut saver = repository.saver(&Quiet::default()).unwrap();
        let root = sample::add(&mut saver, &data).unwrap();
        let root = saver.put_root(&root).unwrap();
        assert!(prune(&files, options).is_err(), "it holds a lock");
        if slept {
            let lock = format!("locks/{}", files.list("locks").unwrap()[0].name);
            files.damage(&lock, Vec::clear);
            files.age(&lock, HOUR);
            pruned(&files, options);
        }
        let record = Record { root, ..saved[0].0.record.clone() };
        let put = saver.put_record(record, &Quiet::default());
        assert_eq!(put.is_ok(), !slept);
        assert_eq!(open(&files).images().unwrap().intact.len(), if slept { 2 } else { 3 });
        assert_whole(&files, &saved);
    }
}

#[test]
fn a_delta_that_is_left_behind_without_its_base_is_no_damage() {
    let files = Memory::new();
    let repository = sample::repository(files.clone());
    let window = sample::WINDOW.index().unwrap();
    let first = sample::data(1, 2);
    let mut second = sample::changed(&first, 2, 0);
    second.extend(sample::data(3, 12));
    let mut third = second.clone();
    third[..2 * window].copy_from_slice(&sample::data(4, 2));
    let mut saved = Saved::new();
    for data in [first, second, third] {
        saved.push((sample::save(&repository, "web", &data).unwrap(), data));
    }
    let gone: Vec<ImageInfo> = saved.drain(..2).map(|(image, _)| image).collect();
    repository.remove(&gone).unwrap();
    assert_eq!(pruned(&files, NOW).rewritten, Amount::default());
    let packs = list_packs(&files).unwrap().into_iter();
    let entries = packs.flat_map(|pack| read_trailer(&files, pack).unwrap().chunks);
    let entries: Vec<_> = entries.map(|(_, entry)| entry).collect();
    let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
    let is_lost = |base: ChunkId| !ids.contains(&base);
    assert_eq!(
        entries.iter().filter_map(|entry| entry.base).filter(|base| is_lost(*base)).count(),
        1
    );
    assert_whole(&files, &saved);
    // It is stored again where it is needed again.
    let again = sample::save(&repository, "web", &sample::changed(&sample::data(1, 2), 2, 0));
    assert!(sample::restore(&repository, &again.unwrap()).unwrap().1.is_empty());
}

/// Ten generations; any of them are forgotten at any time, with prunes between.
fn generations(seed: u8) {
    let mut bytes = blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof();
    let mut random = |below: u64| {
        let mut number = [0; 8];
        bytes.fill(&mut number);
        usize::try_from(u64::from_le_bytes(number) % below).unwrap()
    };
    let files = Memory::new();
    let repository = sample::repository(files.clone());
    let mut data = sample::data(seed, 24);
    let mut saved = Saved::new();
    for generation in 0..10_u8 {
        saved.push((sample::save(&repository, "web", &data).unwrap(), data.clone()));
        for _ in 0..random(4) {
            data = sample::changed(&data, generation * 7 + seed, random(8));
        }
        // Some windows are as they were in some generation.
        let (_, old) = &saved[random(saved.len() as u64)];
        let at = random(24) * sample::WINDOW.index().unwrap();
        let end = at + sample::WINDOW.index().unwrap();
        data[at..end].copy_from_slice(&old[at..end]);
        if random(3) == 0 {
            forget_some(&files, &mut saved, &mut random);
        }
    }
    forget_some(&files, &mut saved, &mut random);
    pruned(&files, NOW);
    let bytes = files.list("packs").unwrap().iter().map(|pack| pack.size.get()).sum::<u64>();
    let infos: Vec<ImageInfo> = saved.iter().map(|(image, _)| image.clone()).collect();
    let usage = repository.usage_together(&infos, &Quiet::default()).unwrap().each[0];
    // At least half of every pack is needed; trailers and footers come on top.
    assert!(bytes <= 2 * usage.stored_bytes.get() + 20_000, "{bytes} for {usage:?}");
}

fn forget_some(files: &Memory, saved: &mut Saved, random: &mut dyn FnMut(u64) -> usize) {
    let mut gone = Vec::new();
    saved.retain(|(image, _)| {
        let stays = random(2) == 0;
        gone.extend((!stays).then(|| image.clone()));
        stays
    });
    open(files).remove(&gone).unwrap();
    pruned(files, if random(2) == 0 { NOW } else { LATER });
    assert_whole(files, saved);
}

#[test]
fn generations_restore_to_what_they_were_whichever_are_forgotten() {
    (1..=12).for_each(generations);
}

#[test]
fn saves_restores_and_prunes_at_once_harm_nobody() {
    let (files, saved) = with_garbage();
    let in_use = |error: &Error| error.to_string().contains("in use");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..8 {
                    prune(&files, NOW)
                        .map_or_else(|error| assert!(in_use(&error), "{error}"), drop);
                }
            });
        }
        scope.spawn(|| {
            for seed in 20..28 {
                let data = sample::changed(&sample::data(20, 12), seed, 1);
                match sample::save(&open(&files), "busy", &data) {
                    Ok(image) => {
                        let (bytes, lost) = sample::restore(&open(&files), &image).unwrap();
                        assert!(lost.is_empty() && bytes == data, "{lost:?}");
                        if let Err(error) = open(&files).remove(&[image]) {
                            assert!(in_use(&error), "{error}");
                        }
                    }
                    Err(error) => assert!(in_use(&error), "{error}"),
                }
            }
        });
        scope.spawn(|| {
            for _ in 0..20 {
                for (image, data) in &saved {
                    let (bytes, lost) = sample::restore(&open(&files), image).unwrap();
                    assert!(lost.is_empty() && &bytes == data, "{lost:?}");
                }
            }
        });
    });
    pruned(&files, NOW);
    assert_whole(&files, &saved);
}
