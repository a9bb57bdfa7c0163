//! What the program says to people and scripts, on the image that is kept with the sources: needs no root.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use image_core::exec::{Call, Outcome};
use keiki_tests::format_sample::{NAME, folder};
use keiki_tests::{binary, keiki, tool};
use serde_json::Value;

/// `keiki` on that image's repository, its arguments in words.
fn keiki(line: &str) -> Outcome {
    let mut call = keiki!("--repo", folder().join("repository"));
    call.args.extend(line.split(' ').map(Into::into));
    tool::outcome(&call).unwrap()
}

fn code_and_talk(outcome: &Outcome) -> (Option<i32>, String) {
    (outcome.code, outcome.talk())
}

/// By how much each volume grows, of those that do.
fn growth(line: &str) -> Vec<(String, u64)> {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("target.img");
    let outcome = keiki(&format!("--json restore {NAME} {} {line} --dry-run", target.display()));
    assert!(outcome.success(), "{line}: {}", outcome.talk());
    assert!(!target.exists(), "a dry run made its target");
    let object: Value = serde_json::from_str(&outcome.text()).unwrap();
    let volumes = object.pointer("/plan/volumes").unwrap().as_array().unwrap();
    let number = |volume: &Value, key: &str| volume.get(key).unwrap().as_u64().unwrap();
    let grown = |volume: &Value| {
        let more = (number(volume, "to") - number(volume, "from")) >> 20;
        (more > 0).then(|| (volume.get("id").unwrap().as_str().unwrap().to_owned(), more))
    };
    volumes.iter().filter_map(grown).collect()
}

fn pairs(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(id, more)| ((*id).to_owned(), *more)).collect()
}

#[test]
fn named_volumes_get_what_was_asked_for() {
    let line = "--size 164MiB --grow vg0/root=+52MiB";
    assert_eq!(growth(line), pairs(&[("d0:3", 100), ("vg0/root", 52)]));
    let line = "--size 164MiB --grow vg0/root=+50% --grow 2=+20MiB";
    assert_eq!(growth(line), pairs(&[("d0:2", 20), ("d0:3", 80), ("vg0/root", 40)]));
    assert_eq!(growth("--size 164MiB --grow none"), []);
}

#[test]
fn refusals_name_what_to_type() {
    let refused = |line: &str, expected: &str| {
        let (code, talk) = code_and_talk(&keiki(line));
        assert_eq!(code, Some(3), "{line}: {talk}");
        assert!(talk.contains(expected), "{line}: {talk}");
    };
    let needs =
        "small.img is too small: it has 32 MiB, and d0:1 needs a target of 57 MiB (59785728 bytes)";
    refused(&format!("restore {NAME} small.img --size 32MiB"), needs);
    refused("show sampel", "there is no image sampel; there is: sample");
    refused(&format!("restore {NAME} x.img --volume 7"), "it has d0:gap0, d0:1, d0:2, d0:3, vg0/");
}

#[test]
fn usage_errors_are_short_and_whole() {
    let plain = tool::outcome(&Call::new(binary::keiki(), [""; 0])).unwrap();
    let (code, talk) = code_and_talk(&plain);
    assert_eq!(code, Some(2));
    assert!(talk.lines().count() <= 24 && talk.contains("Example:"), "{talk}");
    assert!(!talk.contains('\u{1b}'), "colours without a terminal: {talk}");

    let outcome = keiki("--json restore");
    let object: Value = serde_json::from_str(&outcome.text()).unwrap();
    assert_eq!(object.pointer("/error/kind").unwrap(), "usage");
    let message = object.pointer("/error/message").unwrap().as_str().unwrap();
    assert!(message.contains("not provided: <IMAGE>"), "{message}");
}

#[test]
fn each_thing_is_said_once_and_short_work_says_no_progress() {
    let outcome = keiki(&format!("--progress plain verify {NAME}"));
    assert!(outcome.success());
    assert!(outcome.text().contains("is whole"), "{}", outcome.text());
    let said = outcome.talk();
    let mut lines: Vec<&str> = said.lines().collect();
    let all = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert!(lines.len() == all && !said.contains("0 B"), "{said}");

    let outcome = keiki(&format!("--progress jsonl verify {NAME}"));
    let talk = outcome.talk();
    let last: Value = serde_json::from_str(talk.lines().last().unwrap()).unwrap();
    assert_eq!(last.get("stage").unwrap(), "check");
    assert_eq!(last.get("bytes"), last.get("total"), "{talk}");
}
