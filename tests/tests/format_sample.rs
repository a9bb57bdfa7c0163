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
use keiki_tests::format_sample::{HOLED, NAME, Part, folder, parts};
use keiki_tests::{keiki, tool};
use serde_json::{Value, json};

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

/// Where this fails the program is wrong, never the sample.
#[test]
fn the_kept_image_is_sound_and_restores_to_known_bytes() {
    let repository = folder().join("repository");
    let files = Arc::new(Local::new(&repository));
    let opened = Repository::open_read_only(files).unwrap();
    let options = CheckOptions { read_data: true, rebuild: false };
    let report = opened.check(options, &Quiet::default()).unwrap();
    assert!(report.damaged.is_empty() && report.orphans.is_empty(), "{report:?}");
    assert_eq!(report.images, 3);
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
    for part in &parts {
        assert_eq!(part.again(&disk).unwrap(), *part);
    }

    // What could not be read is said for ever, and is zeros; everything else is there.
    let holed = out.path().join("holed.img");
    let restored = keiki!("--json", "--repo", &repository, "restore", HOLED, &holed);
    let restored = tool::outcome(&restored).unwrap();
    assert_eq!(restored.code, Some(5), "{}", restored.talk());
    let said: Value = serde_json::from_str(&restored.text()).unwrap();
    let [hole] = said["unreadable"].as_array().unwrap().as_slice() else { panic!("{said}") };
    assert_eq!((&hole["volume"], &hole["length"]), (&json!("d0:2"), &json!(512)), "{said}");
    assert_eq!(said["hit"][0]["files"], json!(["/more"]), "{said}");
    let mut expected = fs::read(&disk).unwrap();
    let boot = parts.iter().find(|part| part.what == "d0:2").unwrap().extent.start;
    let at = boot.index().unwrap() + usize::try_from(hole["start"].as_u64().unwrap()).unwrap();
    assert!(expected[at..at + 512].iter().any(|byte| *byte != 0));
    expected[at..at + 512].fill(0);
    let found = fs::read(&holed).unwrap();
    for Part { what, extent, .. } in &parts {
        let [start, end] = [extent.start, extent.end].map(|at| at.index().unwrap());
        assert!(expected[start..end] == found[start..end], "{what} is restored to other bytes");
    }
}
