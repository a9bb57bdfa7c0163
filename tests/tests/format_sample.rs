//! The current program reads, verifies and restores the sample image that is kept with the sources.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::sync::Arc;

use image_core::repo::{CheckOptions, Local, Repository};
use image_core::report::Quiet;
use keiki_tests::format_sample::{NAME, folder, parts};
use keiki_tests::{keiki, tool};

/// Where this fails because the format was changed on purpose: `scripts/format-sample`.
#[test]
fn the_kept_image_is_sound_and_restores_to_known_bytes() {
    let repository = folder().join("repository");
    let files = Arc::new(Local::new(&repository));
    let opened = Repository::open_read_only(files).unwrap();
    let options = CheckOptions { read_data: true, rebuild: false };
    let report = opened.check(options, &Quiet::default()).unwrap();
    assert!(report.damaged.is_empty() && report.orphans.is_empty(), "{report:?}");
    assert_eq!(report.images, 1);

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
