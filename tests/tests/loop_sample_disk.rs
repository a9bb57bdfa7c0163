//! The sample disk is what it says.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use keiki_tests::{sample_disk, volumes};

#[test]
fn loop_the_sample_disk_can_be_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.img");
    let sample = sample_disk::make(&path).unwrap();
    let ids: Vec<&str> = sample.trees.keys().map(String::as_str).collect();
    assert_eq!(ids, ["d0:1", "d0:2", "vg0/data", "vg0/root"]);
    assert!(sample.trees.values().all(|tree| tree.len() >= 3));
    let again = volumes::trees(&[path]).unwrap();
    volumes::expect_same(&sample.trees, &again).unwrap();
}
