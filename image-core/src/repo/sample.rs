//! Small images for this room's tests: one volume, saved and restored without any other room.

use std::sync::Arc;

use crate::error::Result;
use crate::extent::Extent;
use crate::image::chunk::compact;
use crate::image::codec::Stored;
use crate::image::hash::ChunkId;
use crate::image::header::Version;
use crate::image::manifest::{Root, VolumeEntry};
use crate::image::record::Record;
use crate::image::segment::{SegmentReader, SegmentWriter};
use crate::image::time::Timestamp;
use crate::pipeline::encode::ChunkEncoder;
use crate::repo::{
    Added, ChunkFeed, Delivery, ImageInfo, Lost, Memory, Repository, Saver, WantSet, Write,
};
use crate::report::{Quiet, Report};
use crate::units::Bytes;

/// Windows of the sample images: small, so that a volume has many.
pub(super) const WINDOW: Bytes = Bytes::kib(64);

/// `windows` windows that do not compress and differ from each other and from those of other seeds; the
/// third is zero, the fourth is like the first.
pub(super) fn data(seed: u8, windows: usize) -> Vec<u8> {
    let window = WINDOW.index().unwrap();
    let mut bytes = vec![0; window * windows];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    if windows > 3 {
        bytes[2 * window..3 * window].fill(0);
        bytes.copy_within(..window, 3 * window);
    }
    bytes
}

/// The same with some bytes changed in some of its windows: in the `count`th of every eighth.
pub(super) fn changed(data: &[u8], seed: u8, count: usize) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for (number, window) in bytes.chunks_mut(WINDOW.index().unwrap()).enumerate() {
        if number % 8 == count % 8 {
            let at = usize::from(seed) * 4096 % window.len();
            let end = window.len().min(at + 100);
            blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut window[at..end]);
        }
    }
    bytes
}

fn volume(size: Bytes) -> VolumeEntry {
    let volume = serde_json::json!({
        "id": "d0", "kind": "disk", "offset": 0, "size": size, "content": "raw", "used_bytes": size,
        "min_bytes": size, "state": "raw", "is_container": false, "unreadable": [], "segments": []
    });
    serde_json::from_value(volume).unwrap()
}

/// Saves `data` as the only volume of an image.
pub(super) fn save(repository: &Repository, name: &str, data: &[u8]) -> Result<ImageInfo> {
    let mut saver = repository.saver(&Quiet::default())?;
    let images = repository.images()?;
    let name = name.parse()?;
    let parent = images.newest(&name);
    let root = add_beside(&mut saver, data, parent, &Quiet::default())?;
    let root = saver.put_root(&root)?;
    let record = Record {
        version: Version::CURRENT,
        parent: parent.map(|image| image.id),
        name,
        created: Timestamp::now(),
        host: "sample".into(),
        root,
        used_bytes: Bytes::of(data),
    };
    saver.put_record(record, &Quiet::default())
}

/// Adds the chunks and the table of `data`; the root that names them.
pub(super) fn add(saver: &mut Saver, data: &[u8]) -> Result<Root> {
    add_beside(saver, data, None, &Quiet::default())
}

/// The same, with what changed since `parent` as deltas.
pub(super) fn add_beside(
    saver: &mut Saver,
    data: &[u8],
    parent: Option<&ImageInfo>,
    report: &dyn Report,
) -> Result<Root> {
    let parent = parent.and_then(|parent| saver.bases(parent, WINDOW, |_| vec![Some(0)], report));
    let mut encoder = ChunkEncoder::new(WINDOW, 1, parent.as_ref(), report)?;
    let mut writer = SegmentWriter::new(WINDOW, Bytes::of(data));
    let mut stored = Vec::new();
    for (index, window) in (0..).zip(data.chunks(WINDOW.index().unwrap())) {
        let mut buffer = window.to_vec();
        let used = [Extent::first(Bytes::of(window))];
        let (mut state, plain_len) = compact(&mut buffer, &used, &[]);
        let plain = &buffer[..plain_len];
        if !plain.is_empty() {
            let id = ChunkId::of(plain);
            let (codec, base) = encoder.encode((0, index), plain, &mut stored)?;
            let known = saver.known().contains(&id);
            let plain_len = Bytes::of(plain);
            let added = saver.add(id, &Stored { codec, base, plain_len, bytes: &stored })?;
            assert_eq!(added == Added::Known, known);
            state.chunk = Some(id);
        }
        writer.push(index, &state)?;
    }
    let mut volume = volume(Bytes::of(data));
    let segment = writer.finish()?;
    volume.segments.push(segment.map(|bytes| saver.put_segment(&bytes)).transpose()?);
    let mut root = Root::empty("sample");
    root.window = WINDOW;
    root.volumes.push(volume);
    Ok(root)
}

/// Restores an image onto garbage; the bytes, and the chunks that were lost.
pub(super) fn restore(repository: &Repository, image: &ImageInfo) -> Result<(Vec<u8>, Vec<Lost>)> {
    let root = repository.root(image)?;
    let mut target = vec![0xee; root.volumes[0].size.index().unwrap()];
    let mut feed = repository.feed(root.window)?;
    let mut lost = Vec::new();
    for (volume, _, segment) in root.segments() {
        let bytes = repository.segment(segment)?;
        let windows = SegmentReader::new(&bytes, root.window, volume.size)?;
        let windows: Vec<_> = windows.collect::<Result<_>>()?;
        let mut wanted = WantSet::new(segment, windows.iter().filter_map(|(_, state)| state.chunk));
        let mut put = |index: u64, range: Extent, piece: &[u8]| {
            let start = range.start + root.window.checked_mul(index).unwrap();
            let start = start.index().unwrap();
            target[start..start + piece.len()].copy_from_slice(piece);
        };
        for (index, state) in &windows {
            state.zero.iter().for_each(|z| put(*index, z, &vec![0; z.len().index().unwrap()]));
        }
        while let Some(delivery) = feed.next(&wanted)? {
            assert!(wanted.remove(&delivery.id()));
            match delivery {
                Delivery::Lost(one) => lost.push(one),
                Delivery::Chunk { id, plain } => {
                    for (index, state) in windows.iter().filter(|(_, s)| s.chunk == Some(id)) {
                        state.pieces(&plain)?.for_each(|(range, piece)| put(*index, range, piece));
                    }
                }
            }
        }
    }
    Ok((target, lost))
}

/// A new repository in `files`.
pub(super) fn repository(files: impl Write + 'static) -> Repository {
    Repository::create(Arc::new(files)).unwrap()
}

/// Three generations of one disk: the repository, and each generation with what it holds.
pub(super) fn generations() -> (Memory, Vec<(ImageInfo, Vec<u8>)>) {
    let files = Memory::new();
    let repository = repository(files.clone());
    let mut data = data(1, 24);
    let mut saved = Vec::new();
    for (seed, count) in [(2, 0), (3, 1), (4, 1)] {
        saved.push((save(&repository, "web", &data).unwrap(), data.clone()));
        data = changed(&data, seed, count);
    }
    (files, saved)
}

/// The repository whose files these are.
pub(super) fn open(files: &Memory) -> Repository {
    Repository::open(Arc::new(files.clone())).unwrap()
}
