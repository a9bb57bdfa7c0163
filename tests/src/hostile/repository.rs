//! A repository of which one file is not what it was: the catalog, locations, and every other one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use image_core::error::{Error, Result};
use image_core::extent::Extent;
use image_core::image::chunk::WindowState;
use image_core::image::hash::{ChunkId, Hash};
use image_core::image::segment::{SegmentReader, segment_span};
use image_core::repo::{
    CheckOptions, ChunkFeed, Delivery, FileInfo, Read, Repository, WantSet, check_path,
    listed_names,
};
use image_core::report::Quiet;
use image_core::units::Bytes;

use super::edited::{Base, Edited};
use crate::format_sample;

/// The files of the sample, by path.
static FILES: LazyLock<BTreeMap<String, (Vec<u8>, Base)>> = LazyLock::new(|| {
    let mut files = BTreeMap::new();
    let folder = format_sample::folder().join("repository");
    if let Err(error) = collect(&folder, &folder, &mut files) {
        panic!("{error:#}");
    }
    files
});

fn collect(
    root: &Path,
    folder: &Path,
    files: &mut BTreeMap<String, (Vec<u8>, Base)>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, files)?;
        } else {
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let bytes = fs::read(&path)?;
            let base = Base::new(&bytes)?;
            files.insert(name, (bytes, base));
        }
    }
    Ok(())
}

/// A web server's page of a folder: names lead nowhere else, and a page of these names has the same ones.
pub fn listing(input: &[u8]) {
    let names = listed_names(input);
    for name in &names {
        assert!(check_path(name).is_ok() && !name.contains('/'), "{name:?}");
    }
    let page: String = names.iter().map(|name| format!("<a href=\"{name}\">")).collect();
    assert_eq!(listed_names(page.as_bytes()), names);
}

/// The number of files, the first of which an input that begins with 0 changes.
pub fn count() -> usize {
    FILES.len()
}

/// The sample with one file changed.
struct Changed {
    path: &'static str,
    bytes: Vec<u8>,
}

impl Changed {
    fn file(&self, path: &str) -> Result<&[u8]> {
        let kept = FILES.get(path).filter(|_| path != self.path).map(|(bytes, _)| bytes.as_slice());
        kept.or_else(|| (path == self.path).then_some(self.bytes.as_slice()))
            .ok_or_else(|| Error::io(path, "read", io::Error::from(io::ErrorKind::NotFound)))
    }
}

impl Read for Changed {
    fn location(&self) -> String {
        "changed".to_owned()
    }

    fn get(&self, path: &str, max: Bytes) -> Result<Vec<u8>> {
        let bytes = self.file(path)?;
        if Bytes::of(bytes) > max {
            return Err(Error::corrupt(path, Bytes::ZERO, "less", "more"));
        }
        Ok(bytes.to_vec())
    }

    fn range(&self, path: &str, range: Extent) -> Result<Vec<u8>> {
        let bytes = self.file(path)?;
        let part = range
            .start
            .index()
            .zip(range.end.index())
            .and_then(|(start, end)| bytes.get(start..end));
        part.map(<[u8]>::to_vec)
            .ok_or_else(|| Error::io(path, "read", io::Error::from(io::ErrorKind::UnexpectedEof)))
    }

    fn list(&self, folder: &str) -> Result<Vec<FileInfo>> {
        let names = FILES.keys().filter_map(|path| {
            let name = match folder {
                "" => path,
                folder => path.strip_prefix(folder)?.strip_prefix('/')?,
            };
            (!name.contains('/')).then_some((path, name))
        });
        names
            .map(|(path, name)| {
                let size = Bytes::of(self.file(path)?);
                Ok(FileInfo { name: name.to_owned(), size, modified: SystemTime::UNIX_EPOCH })
            })
            .collect()
    }
}

/// One file is changed; the repository is opened, checked, and every image in it read.
pub fn repository(input: &[u8]) {
    let Some((number, _)) = input.split_first() else { return };
    let Some((path, (_, base))) = FILES.iter().nth(usize::from(*number) % FILES.len()) else {
        return;
    };
    let Some((edited, wish)) = Edited::decode(std::slice::from_ref(base), input) else { return };
    let mut bytes = edited.bytes(0, edited.len());
    if wish.sign {
        sign(path, &mut bytes);
    }
    let Ok(repository) = Repository::open_read_only(Arc::new(Changed { path, bytes })) else {
        return;
    };
    let _ = repository.check(CheckOptions::default(), &Quiet::default());
    let Ok(images) = repository.images() else { return };
    for image in &images.intact {
        let Ok(root) = repository.root(image) else { continue };
        let Ok(mut feed) = repository.feed(root.window) else { continue };
        // Where one segment is concerned, that one; of the others a few.
        let own = |segment: &Hash| path.ends_with(&segment.to_string());
        let is_one = root.segments().any(|(_, _, segment)| own(&segment));
        let segments = root.segments().filter(|(_, _, segment)| !is_one || own(segment));
        for (volume, number, segment) in segments.take(2) {
            let Ok(bytes) = repository.segment(segment) else { continue };
            let span = segment_span(number, root.window, volume.size).len();
            let Ok(reader) = SegmentReader::new(&bytes, root.window, span) else { continue };
            let windows: Vec<(u64, WindowState)> = reader.flatten().collect();
            read(&mut feed, segment, windows.iter().filter_map(|(_, state)| state.chunk));
        }
    }
}

/// Every chunk that is wanted is delivered as it was or lost, once.
fn read(feed: &mut dyn ChunkFeed, segment: Hash, chunks: impl Iterator<Item = ChunkId>) {
    let mut wanted = WantSet::new(segment, chunks);
    while let Ok(Some(delivery)) = feed.next(&wanted) {
        assert!(wanted.remove(&delivery.id()), "a chunk that nobody asked for");
        if let Delivery::Chunk { id, plain } = delivery {
            assert_eq!(ChunkId::of(&plain), id);
        }
    }
}

/// Makes the checksum right with which some files end.
fn sign(path: &str, bytes: &mut Vec<u8>) {
    if path.starts_with("locations/") {
        let end = bytes.len().saturating_sub(32);
        let sum = blake3::hash(&bytes[..end]);
        bytes.truncate(end);
        bytes.extend(sum.as_bytes());
    } else if !path.contains('/') {
        // A line of JSON, and a line with its checksum.
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        *bytes = image_core::image::header::seal(bytes[..end].to_vec());
    }
}
