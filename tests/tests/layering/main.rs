//! Which room of the library may know which: the table in docs/ARCHITECTURE.md, held against the sources.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says so what failed")]

mod resolve;
mod rooms;

use keiki_tests::sources;
use resolve::Crate;
use rooms::Table;

const ARCHITECTURE: &str = include_str!("../../../docs/ARCHITECTURE.md");

#[test]
fn no_arrow_runs_that_is_not_drawn() {
    let source = sources::workspace().join("image-core/src");
    let library = Crate::read(&source);
    assert!(library.files() > 10, "only {} files in {source:?}", library.files());
    let wrong = Table::parse(ARCHITECTURE).violations(&library);
    assert!(
        wrong.is_empty(),
        "arrows that docs/ARCHITECTURE.md does not draw:\n{}",
        wrong.join("\n")
    );
}

/// What builds recovery media, and what serves them, know of the library what docs/ARCHITECTURE.md says, and nothing else.
#[test]
fn builders_and_servers_know_little_of_the_library() {
    know_only("live-iso/src", "-", &["error", "exec", "report", "units"]);
    know_only("netboot/src", "room/", &["error"]);
}

/// What is in `but` may know more.
fn know_only(folder: &str, but: &str, rooms: &[&str]) {
    let mut sources = sources::rust_files(&sources::workspace().join(folder)).unwrap();
    sources.retain(|(path, _)| !path.starts_with(but));
    assert!(sources.len() > 5, "only {} files", sources.len());
    let named = sources.iter().flat_map(|(path, text)| {
        let rooms = text.split("image_core::").skip(1);
        rooms.map(move |rest| (path, rest.split(|c: char| !c.is_alphanumeric()).next().unwrap()))
    });
    let wrong: Vec<_> = named.filter(|(_, room)| !rooms.contains(room)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// A library of three rooms: `fs` may know `io`, and nobody may know `lvm`.
fn planted(fs: &str) -> Vec<String> {
    let table = Table::parse("```rooms\nopen: error\nio -> -\nlvm -> io\nfs -> io\n```\n");
    let files = [
        ("lib.rs", "pub mod io; pub mod fs; pub mod lvm; pub use lvm::Vg as Group;"),
        ("io/mod.rs", "pub mod source; pub use source::Source; pub use crate::lvm::Lv;"),
        ("io/source.rs", "pub struct Source;"),
        ("lvm/mod.rs", "pub struct Vg; pub struct Lv; pub fn map() {}"),
        ("fs/mod.rs", "mod ext; mod xfs; mod lvmish { pub struct Vg; }"),
        ("fs/ext.rs", fs),
        ("fs/xfs.rs", "#[cfg(test)] mod tests;"),
        ("fs/xfs/tests.rs", "use crate::lvm::Vg;"),
    ];
    let library = Crate::parse(files.map(|(path, text)| (path.into(), text.to_owned())));
    let mut wrong = table.violations(&library);
    wrong.retain(|line| line.starts_with("fs/"));
    wrong
}

#[test]
fn the_check_finds_planted_arrows_however_they_are_spelled() {
    for arrow in [
        "use crate::lvm::Vg;",
        "use crate::{io::Source, lvm::{self, Vg}};",
        "use super::super::lvm::Vg;",
        "use crate::Group;",
        "use crate::io::Lv;",
        "use crate::{self as root}; fn f() { root::lvm::map() }",
        "fn f() { crate::lvm::map() }",
        "fn f(vg: &super::super::lvm::Vg) {}",
        "fn f() { use crate::lvm::map; }",
        "impl From<crate::lvm::Vg> for u8 {}",
        "fn f() -> String { format!(\"{}\", crate::lvm::map()) }",
        "mod inner { fn f() { super::super::super::lvm::map() } }",
        "use super::*; use crate::lvm::*;",
        "use crate::disk::Gpt;",
    ] {
        assert_eq!(planted(arrow).len(), 1, "{arrow}: {:?}", planted(arrow));
    }
}

#[test]
fn the_check_lets_drawn_arrows_and_tests_pass() {
    for free in [
        "use crate::io::Source; use crate::error::Error; use std::io; fn f() { io::stdin(); }",
        "use super::lvmish::Vg; fn f(vg: Vg) { self::f(vg) }",
        "#[cfg(test)] mod tests { use crate::lvm::Vg; }",
        "use lvm::Vg;",
    ] {
        assert_eq!(planted(free), Vec::<String>::new(), "{free}");
    }
}

#[test]
#[should_panic(expected = "the room io knows io through lvm")]
fn the_table_has_no_circles() {
    Table::parse("```rooms\nio -> lvm\nlvm -> io\n```\n");
}
