//! A repository behind a web server, read by the program itself; and what it says where that goes wrong.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_core::exec::Outcome;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::kill::disk;
use keiki_tests::web::{Web, Wire};
use keiki_tests::{run, table, tool};
use serde_json::Value;

/// A disk of 176 MiB, saved as `disk`; the repository's folder is `repo`.
fn saved() -> Result<Bench> {
    let bench = Bench::new()?;
    disk(&bench.path("source"), Bytes::mib(176), 1)?;
    bench.save("disk", &[bench.path("source")])?;
    Ok(bench)
}

/// The program with the words of `line` on another repository.
fn at(bench: &Bench, repository: &str, line: &str) -> Result<Outcome> {
    let mut call = bench.call(line);
    *call.args.get_mut(1).context("--repo comes first")? = repository.into();
    tool::outcome(&call)
}

/// It ends with exit code 0; its JSON.
fn runs(bench: &Bench, repository: &str, line: &str) -> Result<Value> {
    let outcome = at(bench, repository, line)?;
    ensure!(outcome.code == Some(0), "{line}: {:?}: {}", outcome.code, outcome.text());
    Ok(serde_json::from_str(&outcome.text())?)
}

/// It ends with exit code `code`, and says each of `words`.
fn fails(bench: &Bench, repository: &str, (line, code): (&str, i32), words: &[&str]) -> Result<()> {
    let outcome = at(bench, repository, line)?;
    let said = outcome.text();
    ensure!(outcome.code == Some(code), "{line}: {:?}: {said}", outcome.code);
    let json: Value = serde_json::from_str(&said)?;
    let message = json.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
    for word in words {
        ensure!(message.contains(word), "{line}: no {word:?} in: {message}");
    }
    Ok(())
}

/// What a restore from the folder itself makes.
fn restored(bench: &Bench) -> Result<Vec<u8>> {
    bench.run("restore disk ./local")?;
    Ok(fs::read(bench.path("local"))?)
}

/// Every file below a folder, with its hash.
fn files(folder: &Path) -> Result<String> {
    let list = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
    run!("sh", "-c", format!("cd {} && {list}", folder.display()))
}

#[test]
fn every_verb_that_reads_does_so_and_none_that_writes() -> Result<()> {
    let bench = saved()?;
    let web = Web::new(&bench.path("repo"), "")?;
    let before = files(&bench.path("repo"))?;
    let address = web.address("");
    for line in ["images", "show disk", "verify disk", "check --read-data"] {
        ensure!(runs(&bench, &address, line)? == bench.run(line)?, "{line}");
    }
    runs(&bench, &address, "restore disk ./target")?;
    ensure!(fs::read(bench.path("target"))? == restored(&bench)?, "another disk");
    runs(&bench, &address, "copy disk --to ./copied")?;
    let copied = bench.path("copied").display().to_string();
    ensure!(runs(&bench, &copied, "verify disk")? == bench.run("verify disk")?, "another image");
    for line in [
        "save ./source --name other",
        "rm disk",
        "prune",
        "prune --dry-run",
        "check --rebuild",
        "save ./source --name x --fill disk",
    ] {
        fails(&bench, &address, (line, 3), &["can only be read", address.trim_end_matches('/')])?;
    }
    let line = format!("copy disk --to {address}");
    fails(&bench, &bench.path("repo").display().to_string(), (&line, 3), &["can only be read"])?;
    ensure!(files(&bench.path("repo"))? == before, "something was written");
    Ok(())
}

#[test]
fn a_server_that_goes_away_leaves_a_restore_to_be_continued() -> Result<()> {
    let bench = saved()?;
    let web = Web::new(&bench.path("repo"), "")?;
    let wire = Wire::new(&web, 60 << 20)?;
    let address = wire.address("");
    let words =
        [address.as_str(), "packs/", "cannot read", "Connection refused", "(tried 6 times)"];
    fails(&bench, &address, ("restore disk ./target", 1), &words)?;
    ensure!(table::partitions(&bench.path("target")).is_err(), "half a disk has a table");
    let target = bench.path("target").display().to_string();
    let said =
        runs(&bench, &web.address(""), &format!("restore disk ./target --confirm {target}"))?;
    ensure!(!said["continued"].is_null(), "it began anew: {said}");
    ensure!(fs::read(bench.path("target"))? == restored(&bench)?, "another disk");
    Ok(())
}

#[test]
fn a_server_that_lists_nothing_is_told_from_one_that_has_nothing() -> Result<()> {
    let bench = saved()?;
    let web = Web::new(&bench.path("repo"), "Options -Indexes")?;
    let address = web.address("");
    // The catalog stands in.
    for line in ["images", "show disk", "verify disk"] {
        ensure!(runs(&bench, &address, line)? == bench.run(line)?, "{line}");
    }
    fails(
        &bench,
        &address,
        ("check", 1),
        &["does not list folders", "`Options +Indexes` (Apache)"],
    )?;
    let nothing = web.address("packs");
    fails(&bench, &nothing, ("images", 3), &["there is no repository at http://127.0.0.1:"])?;
    Ok(())
}

#[test]
fn a_server_that_sends_whole_files_only_is_refused() -> Result<()> {
    let bench = saved()?;
    let web = Web::new(&bench.path("repo"), "MaxRanges none")?;
    let address = web.address("");
    fails(&bench, &address, ("restore disk ./target", 1), &["sends whole files only", "nginx"])?;
    ensure!(table::partitions(&bench.path("target")).is_err(), "half a disk has a table");
    Ok(())
}

#[test]
fn addresses_that_lead_nowhere_are_told_without_their_password() -> Result<()> {
    let bench = Bench::new()?;
    for (address, code, word) in [
        ("http://anna:geheim@127.0.0.1:1/x", 1, "http://anna:***@127.0.0.1:1/x/keiki: cannot read"),
        ("https://anna:geheim@127.0.0.1/x", 3, "https is not supported"),
        ("http://anna:ge/heim@127.0.0.1/x", 3, "is not the address of a folder"),
        ("http://anna:geheim@/x", 3, "is not the address of a folder"),
    ] {
        fails(&bench, address, ("images", code), &[word])?;
        let talk = at(&bench, address, "images")?;
        let said = talk.text() + &talk.talk();
        ensure!(!said.contains("heim"), "{said}");
    }
    Ok(())
}
