//! What `--json` prints is frozen: fields may be added to `docs/schema`, never renamed.

use keiki_tests::schema;
use serde_json::{Map, Value, json};

use crate::world::{World, flip};

/// The schema for what `keiki ARGS --json` printed.
pub fn of(args: &[&str], value: &Value) -> &'static str {
    match args.first().copied() {
        _ if value.get("error").is_some() => "error",
        Some("restore" | "clone") if args.contains(&"--dry-run") => "plan",
        Some("inspect") => "inspect",
        Some("save") => "save",
        Some("copy") => "copy",
        Some("images") => "images",
        Some("show") => "show",
        Some("verify") => "verify",
        Some("restore" | "clone") => "restore",
        Some("rm") => "rm",
        Some("check") => "check",
        Some("prune") => "prune",
        Some("repair") => "repair",
        other => panic!("no schema for {other:?}"),
    }
}

/// Fails unless `value` is as the schema `name` says.
#[track_caller]
pub fn check(name: &str, value: &Value) {
    schema::check(name, value).unwrap();
}

/// Every field that a schema asks for, as paths into an example; lists are entered by their first entry.
fn required(schema: &Value, example: &Value, at: &str, out: &mut Vec<(String, String)>) {
    for name in schema["required"].as_array().into_iter().flatten() {
        out.push((at.to_owned(), name.as_str().unwrap().to_owned()));
    }
    for (name, inner) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        let (inner, path) = match (&inner["items"], &example[name]) {
            (Value::Null, _) => (inner, format!("{at}/{name}")),
            (items, _) => (items, format!("{at}/{name}/0")),
        };
        if let Some(value) = example.pointer(path.strip_prefix(at).unwrap()) {
            required(inner, value, &path, out);
        }
    }
}

#[test]
fn every_field_is_there_and_a_missing_one_is_noticed() {
    let world = World::saved();
    let [disk, target, copy] = ["disk.img", "target.img", "copy.img"].map(|name| world.text(name));
    let examples = [
        ("inspect", world.json(0, &["inspect", &disk])),
        ("save", world.json(0, &["save", &disk, "--name", "again"])),
        ("images", world.json(0, &["images"])),
        ("show", world.json(0, &["show", "small"])),
        ("plan", world.json(0, &["restore", "small", &target, "--size", "40MiB", "--dry-run"])),
        ("restore", world.json(0, &["restore", "small", &target, "--size", "40MiB"])),
        ("plan", world.json(0, &["clone", &disk, &copy, "--dry-run"])),
        ("restore", world.json(0, &["clone", &disk, &copy, "--size", "40MiB"])),
        ("copy", world.json(0, &["copy", "small", "--to", &world.text("other")])),
        ("rm", world.json(0, &["rm", "again"])),
        ("prune", world.json(0, &["prune"])),
        ("check", world.json(0, &["check", "--rebuild"])),
        ("error", world.json(3, &["show", "missing"])),
    ];
    flip(&world.path("repo").join(&world.files("packs")[0]), 100);
    let damaged = world.json(4, &["verify", "small"]);
    let mut checked = 0;
    for (name, example) in examples.into_iter().chain([("verify", damaged)]) {
        let mut fields = Vec::new();
        required(&schema::of(name).unwrap(), &example, "", &mut fields);
        for (object, field) in fields {
            let mut less = example.clone();
            let object = less.pointer_mut(&object).unwrap().as_object_mut().unwrap();
            assert!(object.remove(&field).is_some(), "{name} has no {field}");
            assert!(
                !schema::complaints(name, &less).unwrap().is_empty(),
                "{name} does not miss {field}"
            );
            checked += 1;
        }
    }
    // As many as the contract names, at least: a schema that asks for nothing proves nothing.
    assert!(checked > 110, "only {checked} fields");
}

#[test]
fn wrong_types_are_noticed() {
    let record = json!({"error": {"kind": "sad", "message": "", "where": 1}});
    assert_eq!(schema::complaints("error", &record).unwrap().len(), 3);
}
