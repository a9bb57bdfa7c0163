//! A copied image is the image: same ids, same bytes; whatever happens on the way it is there or it is not.

use std::collections::HashSet;
use std::sync::Arc;

use super::index::{Index, list_packs, read_trailer};
use super::{
    CheckOptions, Copied, Copier, CopyOptions, ImageInfo, Memory, PruneOptions, Read, Repository,
    Unflushed, Write, sample,
};
use crate::error::{Error, Result};
use crate::image::hash::ChunkId;
use crate::image::pack::Entry;
use crate::image::segment::SegmentReader;
use crate::report::{Impatient, Quiet, Report};
use crate::units::Bytes;

const PLAIN: CopyOptions = CopyOptions { flatten: false };
const FLAT: CopyOptions = CopyOptions { flatten: true };

fn empty() -> Memory {
    let files = Memory::new();
    sample::repository(files.clone());
    files
}

fn copy_with(
    from: &Repository,
    images: &[ImageInfo],
    to: &Memory,
    options: CopyOptions,
    report: &dyn Report,
) -> Result<Copied> {
    Copier::new(from, images, &sample::open(to), options, report)?.run(report)
}

fn copy(from: &Memory, image: &ImageInfo, to: &Memory, options: CopyOptions) -> Copied {
    let images = std::slice::from_ref(image);
    copy_with(&sample::open(from), images, to, options, &Quiet::default()).unwrap()
}

/// Every image of the repository is one of those, and whole; everything else is clean, too. Their number.
fn assert_sound(files: &Memory, saved: &[(ImageInfo, Vec<u8>)]) -> usize {
    let repository = sample::open(files);
    let images = repository.images().unwrap();
    assert!(images.damaged.is_empty(), "{:?}", images.damaged);
    for image in &images.intact {
        let (_, expected) = saved.iter().find(|(saved, _)| saved == image).unwrap();
        let (bytes, lost) = sample::restore(&repository, image).unwrap();
        assert!(lost.is_empty() && bytes == *expected, "{lost:?}");
    }
    let options = CheckOptions { read_data: true, rebuild: false };
    let report = repository.check(options, &Quiet::default()).unwrap();
    assert!(report.damaged.is_empty(), "{:?}", report.damaged);
    images.intact.len()
}

/// The entries of all packs.
fn entries(files: &Memory) -> Vec<Entry> {
    let packs = list_packs(files).unwrap().into_iter();
    let chunks = packs.flat_map(|pack| read_trailer(files, pack).unwrap().chunks);
    chunks.map(|(_, entry)| entry).collect()
}

/// The chunks of an image, each once, in the order of the disk.
fn chunks(files: &Memory, image: &ImageInfo) -> Vec<ChunkId> {
    let repository = sample::open(files);
    let root = repository.root(image).unwrap();
    let mut seen = HashSet::new();
    let segments = root.segments().flat_map(|(volume, _, segment)| {
        let table = repository.segment(segment).unwrap();
        let windows = SegmentReader::new(&table, root.window, volume.size).unwrap();
        windows.filter_map(|window| window.unwrap().1.chunk).collect::<Vec<_>>()
    });
    segments.filter(|id| seen.insert(*id)).collect()
}

#[test]
fn a_copy_has_the_same_ids_and_bytes_and_what_is_there_is_not_copied_again() {
    let (from, saved) = sample::generations();
    let before = from.paths();
    let to = empty();
    for (number, (image, _)) in saved.iter().enumerate() {
        let all = chunks(&from, image).len();
        let copied = copy(&from, image, &to, PLAIN);
        assert!(copied.damaged.is_empty() && !copied.images[0].was_there);
        assert_eq!(copied.images[0].image, *image);
        assert_eq!(assert_sound(&to, &saved), number + 1);
        let new = if number == 0 { all } else { 3 };
        assert_eq!(copied.copied_chunks, new as u64, "generation {number}");
        assert_eq!(copied.known_chunks, (all - new) as u64);
        assert_eq!(
            sample::open(&to).root(image).unwrap(),
            sample::open(&from).root(image).unwrap()
        );
    }
    let again = copy(&from, &saved[1].0, &to, PLAIN);
    assert!(again.images[0].was_there);
    assert_eq!((again.copied_chunks, again.stored_bytes), (0, Bytes::ZERO));
    assert_eq!(from.paths(), before, "nothing is left where they were");
    assert!(to.list("tmp").unwrap().is_empty() && to.list("locks").unwrap().is_empty());
}

#[test]
fn bases_come_along_and_chunks_are_in_the_order_of_the_disk() {
    let (from, saved) = sample::generations();
    let (to, image) = (empty(), &saved[2].0);
    let copied = copy(&from, image, &to, PLAIN);
    assert_eq!(assert_sound(&to, &saved), 1);
    let there = entries(&to);
    let deltas: Vec<&Entry> = there.iter().filter(|entry| entry.base.is_some()).collect();
    assert!(deltas.len() >= 3, "{} deltas", deltas.len());
    assert_eq!(there.len() as u64, copied.copied_chunks);
    let wanted = chunks(&from, image);
    let own = |entry: &&Entry| wanted.contains(&entry.id);
    let order: Vec<ChunkId> = there.iter().filter(own).map(|entry| entry.id).collect();
    assert_eq!(order, wanted, "a restore reads forward");
    for delta in deltas {
        let base = delta.base.unwrap();
        if wanted.contains(&base) {
            continue;
        }
        let at = |id| there.iter().position(|entry| entry.id == id).unwrap();
        assert!(at(base) < at(delta.id) && there[at(base)].base.is_none());
    }
}

#[test]
fn flattened_images_need_no_other_chunk() {
    let (from, saved) = sample::generations();
    assert!(entries(&from).iter().any(|entry| entry.base.is_some()));
    let to = empty();
    let all: Vec<ImageInfo> = saved.iter().map(|(image, _)| image.clone()).collect();
    copy_with(&sample::open(&from), &all, &to, FLAT, &Quiet::default()).unwrap();
    assert_eq!(assert_sound(&to, &saved), 3);
    assert!(entries(&to).iter().all(|entry| !entry.codec.has_base()));

    // Where they are deltas already, too.
    let to = empty();
    copy(&from, &saved[2].0, &to, PLAIN);
    let copied = copy(&from, &saved[2].0, &to, FLAT);
    assert!(copied.images[0].was_there && copied.copied_chunks == 6, "{copied:?}");
    assert_eq!(assert_sound(&to, &saved), 1);
    let index = Index::build(&to, list_packs(&to).unwrap(), &Quiet::default()).unwrap();
    let ids = chunks(&to, &saved[2].0);
    let places = index.locate(&to, ids.iter().copied()).unwrap();
    assert!(places.len() == ids.len() && places.iter().all(|place| place.entry.base.is_none()));
    sample::open(&to).prune(PruneOptions { now: true, dry_run: false }, &Quiet::default()).unwrap();
    assert_eq!(assert_sound(&to, &saved), 1);
    assert_eq!(copy(&from, &saved[2].0, &to, FLAT).copied_chunks, 0);
}

#[test]
fn what_it_takes_is_known_before() {
    let (from, saved) = sample::generations();
    for options in [PLAIN, FLAT] {
        let to = empty();
        for (image, _) in &saved {
            let images = std::slice::from_ref(image);
            let report = Quiet::default();
            let copier =
                Copier::new(&sample::open(&from), images, &sample::open(&to), options, &report)
                    .unwrap();
            let needed = copier.needed();
            let copied = copier.run(&report).unwrap();
            let (stored, tables) = (copied.stored_bytes, copied.copied_chunks * 120);
            assert!(needed >= stored, "{needed} for {stored}");
            let most = stored.get() + stored.get() / 20 + tables;
            assert!(needed.get() <= most, "{needed} for {stored}");
        }
    }
}

#[test]
fn a_crash_at_every_step_leaves_no_image_or_a_complete_one() {
    let (from, saved) = sample::generations();
    let before = empty();
    copy(&from, &saved[0].0, &before, PLAIN);
    let rest = [saved[1].0.clone(), saved[2].0.clone()];
    for step in 0.. {
        let to = before.after_crash(Unflushed::NamesKept);
        to.stop_after(step);
        let done = copy_with(&sample::open(&from), &rest, &to, PLAIN, &Quiet::default()).is_ok();
        for unflushed in [Unflushed::NamesLost, Unflushed::NamesKept] {
            let after = to.after_crash(unflushed);
            after.forget_locks();
            let there = assert_sound(&after, &saved);
            assert!(there == 3 || !done, "step {step}, {unflushed:?}: reported, but not there");
            copy_with(&sample::open(&from), &rest, &after, PLAIN, &Quiet::default()).unwrap();
            assert_eq!(assert_sound(&after, &saved), 3, "step {step}: the next copy works");
            assert!(after.list("tmp").unwrap().is_empty(), "step {step}: {:?}", after.paths());
        }
        assert!(from.list("locks").unwrap().is_empty());
        if done {
            assert!(step > 40, "{step} steps are too few for two images");
            return;
        }
    }
}

#[test]
fn a_full_place_has_no_image_and_nothing_is_left_there() {
    let (from, saved) = sample::generations();
    for space in (0..).step_by(50_000) {
        let to = empty();
        to.fill_after(space);
        let images = [saved[2].0.clone()];
        let done = copy_with(&sample::open(&from), &images, &to, PLAIN, &Quiet::default());
        let after = to.after_crash(Unflushed::NamesKept);
        assert_eq!(assert_sound(&after, &saved), usize::from(done.is_ok()));
        assert!(after.list("locks").unwrap().is_empty() && after.list("tmp").unwrap().is_empty());
        match done {
            Ok(_) => {
                assert!(space > 1 << 20);
                return;
            }
            Err(Error::Io { source, .. }) => {
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn an_interrupted_copy_goes_on() {
    let (from, saved) = sample::generations();
    let images = [saved[2].0.clone()];
    let mut least = u64::MAX;
    for checkpoints in 0.. {
        let to = empty();
        let report = Impatient::new(checkpoints);
        match copy_with(&sample::open(&from), &images, &to, PLAIN, &report) {
            Err(Error::Interrupted) => assert_eq!(assert_sound(&to, &saved), 0),
            other => {
                assert!(other.is_ok() && checkpoints > 4, "{other:?} after {checkpoints}");
                break;
            }
        }
        least = least.min(copy(&from, &saved[2].0, &to, PLAIN).copied_chunks);
        assert_eq!(assert_sound(&to, &saved), 1);
    }
    assert_eq!(least, 0, "what was stored is used");
}

#[test]
fn a_flipped_bit_where_it_was_never_makes_an_image() {
    let (from, saved) = sample::generations();
    let files = ["images", "roots", "tables", "packs"].map(|folder| {
        let names = from.list(folder).unwrap().into_iter();
        names.map(|file| format!("{folder}/{}", file.name)).collect::<Vec<_>>()
    });
    let (mut damaged, mut whole) = (0, 0);
    for path in files.into_iter().flatten() {
        let bits = from.get(&path, Bytes::MAX).unwrap().len() * 8;
        for bit in (3..bits).step_by(bits / 12).chain([bits - 900]) {
            let from = from.after_crash(Unflushed::NamesKept);
            from.damage(&path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            for options in [PLAIN, FLAT] {
                let to = empty();
                let copied = copy(&from, &saved[2].0, &to, options);
                let there = assert_sound(&to, &saved);
                assert_eq!((there, copied.damaged.len()), (copied.images.len(), 1 - there));
                for (_, error) in &copied.damaged {
                    let text = error.to_string();
                    assert!(text.contains(&path) && text.starts_with("image web, "), "{text}");
                }
                (damaged, whole) = (damaged + 1 - there, whole + there);
            }
        }
    }
    assert!(damaged > 30 && whole > 30, "{damaged} damaged, {whole} whole");
}

#[test]
fn one_damaged_image_does_not_keep_others() {
    let (from, saved) = sample::generations();
    let other = sample::save(&sample::open(&from), "other", &sample::data(9, 8)).unwrap();
    let table = sample::open(&from).root(&saved[1].0).unwrap().volumes[0].segments[0].unwrap();
    from.damage(&format!("tables/{table}"), |bytes| bytes[40] ^= 1);
    let to = empty();
    let images = [saved[0].0.clone(), saved[1].0.clone(), other.clone()];
    let copied = copy_with(&sample::open(&from), &images, &to, PLAIN, &Quiet::default()).unwrap();
    let there: Vec<_> = copied.images.iter().map(|copied| copied.image.id).collect();
    assert_eq!(there, [saved[0].0.id, other.id]);
    assert_eq!(copied.damaged[0].0, saved[1].0);
}

#[test]
fn a_chunk_that_is_damaged_in_one_pack_is_taken_from_another() {
    let (from, saved) = sample::generations();
    let elsewhere = empty();
    sample::save(&sample::open(&elsewhere), "web", &saved[2].1).unwrap();
    let pack = list_packs(&elsewhere).unwrap()[0];
    let path = format!("packs/{}", pack.name);
    let bytes = elsewhere.get(&path, Bytes::MAX).unwrap();
    for other in list_packs(&from).unwrap() {
        let chunks = read_trailer(&from, other).unwrap().chunks;
        from.damage(&format!("packs/{}", other.name), |bytes| {
            chunks.iter().for_each(|(offset, _)| bytes[offset.index().unwrap()] ^= 1);
        });
    }
    let mut file = from.create(&path).unwrap();
    file.append(&bytes).unwrap();
    file.flush().unwrap();
    let to = empty();
    assert!(copy(&from, &saved[2].0, &to, PLAIN).damaged.is_empty());
    assert_eq!(assert_sound(&to, &saved), 1);
}

#[test]
fn a_pack_that_the_copy_lost_is_brought_again() {
    let (from, saved) = sample::generations();
    let to = empty();
    copy(&from, &saved[2].0, &to, PLAIN);
    let pack = list_packs(&to).unwrap()[0];
    to.delete(&format!("packs/{}", pack.name)).unwrap();
    let copied = copy(&from, &saved[2].0, &to, PLAIN);
    assert!(copied.images[0].was_there && copied.copied_chunks > 20);
    assert_eq!(assert_sound(&to, &saved), 1);
}

#[test]
fn the_same_repository_is_refused_and_a_copy_of_it_is_not() {
    let (from, saved) = sample::generations();
    let images = [saved[0].0.clone()];
    let read_only = Repository::open_read_only(Arc::new(from.clone())).unwrap();
    for source in [sample::open(&from), read_only] {
        let error = copy_with(&source, &images, &from, PLAIN, &Quiet::default()).unwrap_err();
        assert!(
            matches!(error, Error::Refused(_)) && error.to_string().contains("same"),
            "{error}"
        );
    }
    assert!(from.list("locks").unwrap().is_empty());
    let twin = from.after_crash(Unflushed::NamesKept);
    assert_eq!(sample::open(&twin).id(), sample::open(&from).id());
    assert!(copy(&from, &saved[0].0, &twin, PLAIN).images[0].was_there);
}

#[test]
fn a_repository_that_is_only_read_needs_no_lock_and_its_trash_will_do() {
    let (from, saved) = sample::generations();
    let pack = list_packs(&from).unwrap()[0].name;
    let trashed = format!("trash/2026-11-20.packs.{pack}");
    from.rename(&format!("packs/{pack}"), &trashed).unwrap();
    let before = from.paths();
    let read_only = Repository::open_read_only(Arc::new(from.clone())).unwrap();
    let to = empty();
    copy_with(&read_only, &[saved[2].0.clone()], &to, PLAIN, &Quiet::default()).unwrap();
    assert_eq!(assert_sound(&to, &saved), 1);
    assert_eq!(from.paths(), before);
}

#[test]
fn a_full_repository_can_be_copied_from() {
    let (from, saved) = sample::generations();
    from.fill_after(0);
    let (to, report) = (empty(), Quiet::default());
    copy_with(&sample::open(&from), &[saved[2].0.clone()], &to, PLAIN, &report).unwrap();
    assert_eq!(assert_sound(&to, &saved), 1);
    assert!(report.warnings()[0].contains("do not prune"), "{:?}", report.warnings());
    assert!(from.list("locks").unwrap().is_empty() && from.list("tmp").unwrap().is_empty());
}

#[test]
fn nobody_prunes_either_repository_meanwhile() {
    let (from, saved) = sample::generations();
    let (to, report) = (empty(), Quiet::default());
    let images = [saved[2].0.clone()];
    let copier =
        Copier::new(&sample::open(&from), &images, &sample::open(&to), PLAIN, &report).unwrap();
    let now = PruneOptions { now: true, dry_run: false };
    for files in [&from, &to] {
        let error = sample::open(files).prune(now, &report).unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error}");
    }
    copier.run(&report).unwrap();
    for files in [&from, &to] {
        sample::open(files).prune(now, &report).unwrap();
    }
    assert_eq!(assert_sound(&to, &saved), 1);
    assert_eq!(assert_sound(&from, &saved), 3);
}
