//! The current program reads, verifies and restores the sample image that is kept with the sources.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use image_core::image::codec::Codec;
use image_core::image::pack::parse_tail;
use image_core::repo::{CheckOptions, Local, Repository};
use image_core::report::Quiet;
use image_core::units::Bytes;
use keiki_tests::format_sample::{NAME, folder, parts};
use keiki_tests::{keiki, tool};

/// The codecs of all chunks.
fn codecs(packs: &Path) -> Vec<Codec> {
    let mut codecs = Vec::new();
    for pack in fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = fs::read(&pack).unwrap();
        let name = pack.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let trailer = parse_tail(name, &bytes, Bytes::of(&bytes)).unwrap();
        codecs.extend(trailer.chunks.iter().map(|(_, entry)| entry.codec));
    }
    codecs
}

/// Where this fails because the format was changed on purpose: `scripts/format-sample`.
#[test]
fn the_kept_image_is_sound_and_restores_to_known_bytes() {
    let repository = folder().join("repository");
    let files = Arc::new(Local::new(&repository));
    let opened = Repository::open_read_only(files).unwrap();
    let options = CheckOptions { read_data: true, rebuild: false };
    let report = opened.check(options, &Quiet::default()).unwrap();
    assert!(report.damaged.is_empty() && report.orphans.is_empty(), "{report:?}");
    assert_eq!(report.images, 2);
    let codecs = codecs(&repository.join("packs"));
    for codec in [Codec::ZSTD, Codec::PATCH, Codec::PREFIX] {
        assert!(codecs.contains(&codec), "no chunk with codec {codec}");
    }

    tool::run(&keiki!("--repo", &repository, "verify", NAME)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let disk = out.path().join("disk.img");
    tool::run(&keiki!("--repo", &repository, "restore", NAME, &disk)).unwrap();
    let parts = parts().unwrap();
    assert_eq!(parts.len(), 7);
    for part in parts {
        assert_eq!(part.again(&disk).unwrap(), part);
    }
}
