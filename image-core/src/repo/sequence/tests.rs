//! What a server would send, and what a client makes of it.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{Sequence, StoredChunk};
use crate::error::Error;
use crate::image::codec::{Codec, Decoder, Encoder};
use crate::image::hash::ChunkId;
use crate::image::manifest::Root;
use crate::repo::copy::encoded;
use crate::repo::index::{list_packs, read_trailer};
use crate::repo::sample::{self, WINDOW};
use crate::repo::{Delivery, ImageInfo, Lost, Memory, PruneOptions, Read, Write};
use crate::report::Quiet;
use crate::units::Bytes;

fn made(files: &Memory, root: &Root, volumes: &[usize]) -> Sequence {
    Sequence::new(&sample::open(files), root, volumes, &Quiet::default()).unwrap()
}

fn of(files: &Memory, image: &ImageInfo) -> Sequence {
    made(files, &sample::open(files).root(image).unwrap(), &[0])
}

/// All of it, a few at a time.
fn read(sequence: &Sequence) -> Vec<Result<StoredChunk, Lost>> {
    let starts = (0..sequence.len()).step_by(5);
    starts.flat_map(|at| sequence.read(at..sequence.len().min(at + 5)).unwrap()).collect()
}

fn sound(sequence: &Sequence) -> Vec<StoredChunk> {
    read(sequence).into_iter().map(Result::unwrap).collect()
}

/// The windows of `data` that are not zero, each once.
fn expected(data: &[u8]) -> Vec<Delivery> {
    let mut seen = HashSet::new();
    let windows = data.chunks(WINDOW.index().unwrap());
    let windows = windows.filter(|window| window.iter().any(|byte| *byte != 0));
    let chunks = windows.map(|window| (ChunkId::of(window), window.to_vec()));
    let first = chunks.filter(|(id, _)| seen.insert(*id));
    first.map(|(id, plain)| Delivery::Chunk { id, plain }).collect()
}

fn decoded(chunks: &[StoredChunk]) -> Vec<Delivery> {
    let all = StoredChunk::decode_all(chunks, WINDOW).unwrap();
    all.into_iter().map(Result::unwrap).collect()
}

/// Flips a byte of each chunk of a pack of which `wanted` says so; these chunks.
fn spoil(files: &Memory, wanted: &dyn Fn(&ChunkId, bool) -> bool) -> HashSet<ChunkId> {
    let mut spoilt = HashSet::new();
    for pack in list_packs(files).unwrap() {
        for (offset, entry) in read_trailer(files, pack).unwrap().chunks {
            if wanted(&entry.id, entry.base.is_some()) {
                spoilt.insert(entry.id);
                let at = offset.index().unwrap() + 5;
                files.damage(&format!("packs/{}", pack.name), |bytes| bytes[at] ^= 1);
            }
        }
    }
    spoilt
}

/// Puts the packs of another repository beside those that are there.
fn bring(files: &Memory, from: &Memory) {
    for pack in list_packs(from).unwrap() {
        let path = format!("packs/{}", pack.name);
        let mut file = files.create(&path).unwrap();
        file.append(&from.get(&path, Bytes::MAX).unwrap()).unwrap();
        file.flush().unwrap();
    }
}

#[test]
fn every_chunk_comes_once_in_the_order_of_the_disk_and_never_as_a_delta() {
    fn can_be_shared<T: Send + Sync>(_: &T) {}
    let (files, saved) = sample::generations();
    for with_locations in [true, false] {
        // Of 24 windows one is zeros, and at first one is there twice.
        assert_eq!(of(&files, &saved[0].0).len(), 22);
        for (image, data) in &saved {
            let sequence = of(&files, image);
            can_be_shared(&sequence);
            assert!(sequence.lost().is_empty() && !sequence.is_empty());
            let chunks = sound(&sequence);
            assert!(chunks.iter().all(|chunk| !chunk.codec.has_base()));
            let lengths = chunks.iter().map(|chunk| (chunk.id, Bytes::of(&chunk.stored)));
            assert!(lengths.eq(sequence.chunks()));
            assert_eq!(sequence.chunks().len(), sequence.len());
            assert!(decoded(&chunks) == expected(data));
            assert_eq!(sound(&of(&files, image)), chunks, "the same every time");
        }
        for file in files.list("locations").unwrap().iter().filter(|_| with_locations) {
            files.delete(&format!("locations/{}", file.name)).unwrap();
        }
    }
}

#[test]
fn nothing_is_pruned_while_it_is_there() {
    let (files, saved) = sample::generations();
    let prune = || {
        let options = PruneOptions { now: true, dry_run: false };
        sample::open(&files).prune(options, &Quiet::default())
    };
    let sequence = of(&files, &saved[0].0);
    assert!(matches!(prune(), Err(Error::Refused(_))));
    drop(sequence);
    prune().unwrap();
}

#[test]
fn what_volumes_share_comes_with_the_first_of_them() {
    let (files, saved) = sample::generations();
    let roots: Vec<Root> =
        saved.iter().map(|(image, _)| sample::open(&files).root(image).unwrap()).collect();
    let mut root = roots[2].clone();
    root.volumes.extend([roots[0].volumes[0].clone(), roots[2].volumes[0].clone()]);
    let both = [&saved[2].1[..], &saved[0].1].concat();
    assert!(decoded(&sound(&made(&files, &root, &[0, 1, 2, 7]))) == expected(&both));
    let other = [&saved[0].1[..], &saved[2].1].concat();
    assert!(decoded(&sound(&made(&files, &root, &[1, 2]))) == expected(&other));
    assert!(made(&files, &root, &[]).is_empty());
    let sequence = made(&files, &root, &[0]);
    assert!(matches!(sequence.read(20..sequence.len() + 1), Err(Error::Refused(_))));
    assert_eq!(sequence.read(3..3).unwrap(), []);
}

#[test]
fn what_becomes_damaged_is_lost_and_what_was_is_not_in_it() {
    let (files, saved) = sample::generations();
    let (image, data) = &saved[2];
    let sequence = of(&files, image);
    // A base; the deltas of it; and some that are neither.
    let spoilt = spoil(&files, &|id, is_delta| !is_delta && id.0[0] % 2 == 0);
    let mut lost = HashSet::new();
    for chunk in read(&sequence) {
        match chunk {
            Ok(chunk) => assert!(!spoilt.contains(&chunk.id)),
            Err(one) => {
                assert!(one.pack.is_some() && !one.is_unread, "{one:?}");
                lost.insert(one.id);
            }
        }
    }
    assert!(lost.len() > 3 && lost.len() < 20, "{}", lost.len());
    // Only of deltas it is seen before they are read.
    let later = of(&files, image);
    let early: HashSet<ChunkId> = later.lost().iter().map(|lost| lost.id).collect();
    assert!(early.is_subset(&lost) && early.is_disjoint(&spoilt));
    assert_eq!(early.len() + later.len(), sequence.len());
    // Another save that did not know of these packs.
    let elsewhere = Memory::new();
    sample::save(&sample::repository(elsewhere.clone()), "web", data).unwrap();
    bring(&files, &elsewhere);
    for _ in 0..2 {
        assert!(decoded(&sound(&sequence)) == expected(data));
    }
    let again = of(&files, image);
    assert!(again.lost().is_empty() && decoded(&sound(&again)) == expected(data));
    for name in list_packs(&files).unwrap().iter().map(|pack| pack.name) {
        files.delete(&format!("packs/{name}")).unwrap();
    }
    let lost = |chunk: Result<_, Lost>| chunk.is_err_and(|lost| lost.is_unread);
    assert!(read(&sequence).into_iter().all(lost));
    let gone = of(&files, image);
    assert_eq!((gone.lost().len(), gone.len()), (sequence.len(), 0));
}

#[test]
fn another_copy_is_taken_only_where_it_is_the_same() {
    // Bytes that compress, differently at each level.
    let text: Vec<u8> =
        (0..40_000_u32).flat_map(|at| (at * at / 7).to_string().into_bytes()).collect();
    let text = &text[..4 * WINDOW.index().unwrap()];
    let (files, same) = (Memory::new(), Memory::new());
    let image = sample::save(&sample::repository(files.clone()), "web", text).unwrap();
    // With one window more, so that it is another pack.
    let more = [text, &sample::data(1, 1)].concat();
    sample::save(&sample::repository(same.clone()), "web", &more).unwrap();
    let sequence = of(&files, &image);
    let before = sound(&sequence);
    assert!(before.iter().all(|chunk| chunk.codec == Codec::ZSTD));
    spoil(&files, &|_, _| true);
    assert!(read(&sequence).iter().all(Result::is_err));
    // The samples are encoded at level 1, which encoding again does not give.
    let plain = &text[..WINDOW.index().unwrap()];
    assert_ne!(encoded(&mut None, plain).unwrap().1, before[0].stored);
    bring(&files, &same);
    assert_eq!(sound(&sequence), before);
}

#[test]
fn a_damaged_table_is_an_error_that_names_it() {
    let (files, saved) = sample::generations();
    let root = sample::open(&files).root(&saved[0].0).unwrap();
    let table = format!("tables/{}", root.volumes[0].segments[0].unwrap());
    files.damage(&table, |bytes| bytes[50] ^= 1);
    let ended = Sequence::new(&sample::open(&files), &root, &[0], &Quiet::default());
    let error = ended.err().unwrap();
    assert!(
        matches!(error, Error::Corrupt { .. }) && error.to_string().contains(&table),
        "{error}"
    );
}

/// A chunk of text, as it is sent.
fn chunk() -> StoredChunk {
    let plain = b"what is sent ".repeat(1000);
    let mut stored = Vec::new();
    let codec = Encoder::new(3).unwrap().encode(&plain, &mut stored).unwrap();
    StoredChunk { id: ChunkId::of(&plain), codec, plain_len: Bytes::of(&plain), stored }
}

#[test]
fn only_the_chunk_itself_is_decoded() {
    let right = chunk();
    let with = |change: &dyn Fn(&mut StoredChunk)| {
        let mut chunk = chunk();
        change(&mut chunk);
        chunk
    };
    let wrong = [
        with(&|chunk| chunk.id.0[3] ^= 1),
        with(&|chunk| chunk.plain_len += Bytes::new(1)),
        with(&|chunk| chunk.plain_len = Bytes::MAX),
        with(&|chunk| chunk.plain_len = Bytes::ZERO),
        with(&|chunk| chunk.codec = Codec::STORED),
        with(&|chunk| chunk.codec = Codec::PREFIX),
        with(&|chunk| chunk.codec = Codec::PATCH),
        with(&|chunk| chunk.codec = Codec(9)),
        with(&|chunk| chunk.stored.clear()),
        with(&|chunk| chunk.stored.push(0)),
        with(&|chunk| chunk.stored = vec![0; 5 << 20]),
    ];
    let mut chunks = vec![right.clone()];
    chunks.extend(wrong);
    chunks.push(right);
    let all = StoredChunk::decode_all(&chunks, WINDOW).unwrap();
    let sound: Vec<usize> = (0..all.len()).filter(|at| all[*at].is_ok()).collect();
    assert_eq!(sound, [0, chunks.len() - 1]);
    assert!(StoredChunk::decode_all(&chunks, Bytes::new(1000)).is_err());
}

proptest! {
    #[test]
    fn hostile_chunks_never_panic(
        codec in 0u8..5,
        mut stored in prop::collection::vec(any::<u8>(), 0..300),
        plain_len in prop_oneof![0u64..400, any::<u64>()],
        magic: bool,
    ) {
        if magic {
            stored.splice(0..0, [0x28, 0xb5, 0x2f, 0xfd]);
        }
        let (codec, plain_len) = (Codec(codec), Bytes::new(plain_len));
        let id = ChunkId::of(&stored);
        let is_plain = codec == Codec::STORED && plain_len == Bytes::of(&stored) && !stored.is_empty();
        let chunk = StoredChunk { id, codec, plain_len, stored };
        prop_assert_eq!(chunk.decode(&mut Decoder::new(WINDOW).unwrap()).is_ok(), is_plain);
    }

    #[test]
    fn flipped_bytes_are_found(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut changed = chunk();
        let at = at.index(changed.stored.len());
        changed.stored[at] ^= 1 << bit;
        let decoded = changed.decode(&mut Decoder::new(WINDOW).unwrap());
        // A bit of the frame's header may mean nothing.
        prop_assert!(decoded.is_err() || decoded.unwrap() == chunk().decode(&mut Decoder::new(WINDOW).unwrap()).unwrap());
    }
}
