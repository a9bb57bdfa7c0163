//! What no image needs is freed, and nothing else: also where it is damaged, killed or not alone.

use std::fs;

use image_core::units::Bytes;
use keiki_tests::{call, tool};
use serde_json::Value;

use crate::world::{World, bash, flip, noise, program};

const MIB: usize = 1 << 20;

/// `large`, forgotten; `part`, which has the first third of it with a changed block; `other`, forgotten. What
/// `part` needs is a minor part of the first pack, and a delta of it.
fn with_garbage() -> World {
    let world = World::empty();
    let large = noise(1, 12 * MIB);
    let mut part = large[..4 * MIB].to_vec();
    let save = |name: &str, bytes: &[u8]| {
        fs::write(world.path(name), bytes).unwrap();
        let saved = world.json(0, &["save", &world.text(name), "--name", name]);
        format!("{name}@{}", saved["id"].as_str().unwrap())
    };
    let mut gone = vec![save("large", &large), save("part", &part), save("other", &noise(2, MIB))];
    part[9_000] ^= 1;
    save("part", &part);
    for image in gone.drain(..) {
        world.says(0, &["rm", &image], &["until `keiki prune` frees it"]);
    }
    world
}

fn assert_whole(world: &World) {
    world.ends(0, &["verify", "part"]);
    let restored = world.path("restored");
    world.ends(0, &["restore", "part", restored.to_str().unwrap()]);
    assert!(fs::read(&restored).unwrap() == fs::read(world.path("part")).unwrap());
    fs::remove_file(restored).unwrap();
    world.ends(0, &["check", "--read-data"]);
}

fn size(world: &World) -> u64 {
    let folders = ["packs", "trash"].into_iter().flat_map(|folder| world.files(folder));
    folders.map(|file| fs::metadata(world.path("repo").join(file)).unwrap().len()).sum()
}

fn bytes(value: &Value, what: &str) -> u64 {
    value[what]["bytes"].as_u64().unwrap()
}

#[test]
fn space_is_freed_a_day_later_or_at_once() {
    let world = with_garbage();
    let before = size(&world);
    let dry = world.json(0, &["prune", "--now", "--dry-run"]);
    world.says(0, &["prune", "--dry-run"], &["this would be done", "in the trash", "copied"]);
    assert_eq!((size(&world), &dry["dry_run"]), (before, &true.into()));

    let thrown = world.json(0, &["prune"]);
    assert_eq!(thrown["deleted"]["files"], 0);
    assert_eq!(thrown["trashed"], dry["trashed"]);
    assert!(bytes(&thrown, "in_trash") > 13 << 20, "{thrown}");
    assert_eq!(thrown["rewritten"]["files"], 1);
    assert!(size(&world) >= before);
    assert_whole(&world);

    world.says(0, &["prune"], &["nothing freed", "in the trash", "--now"]);
    world.says(0, &["prune", "--now"], &["freed: "]);
    assert!(world.files("trash").is_empty(), "{:?}", world.files("trash"));
    assert!(Bytes::new(size(&world)) < Bytes::new((4 << 20) + 100_000), "{}", size(&world));
    assert_whole(&world);
    world.says(0, &["prune"], &["everything in the repository is needed"]);
    // What the last image alone takes: all that is left.
    let listed = world.json(0, &["images"])["images"][0].clone();
    assert_eq!(listed["stored_bytes"], listed["unique_bytes"]);
    world.ends(0, &["rm", "part"]);
    world.ends(0, &["prune", "--now"]);
    assert_eq!((size(&world), world.files("tables").len(), world.files("roots").len()), (0, 0, 0));
}

#[test]
fn the_trash_is_emptied_once_its_day_is_over() {
    let world = with_garbage();
    world.ends(0, &["prune"]);
    let marks = world.files("trash");
    let mark = marks.iter().find(|file| !file.contains('.')).unwrap();
    let touch = |ago: &str| {
        let script = format!("touch -d '{ago} hours ago' \"$KEIKI_REPO/{mark}\"");
        assert!(bash(&world, &script).success());
    };
    touch("23");
    assert_eq!(world.json(0, &["prune"])["deleted"]["files"], 0);
    touch("25");
    assert!(bytes(&world.json(0, &["prune"]), "deleted") > 13 << 20);
    assert!(world.files("trash").is_empty());
    assert_whole(&world);
}

#[test]
fn a_damaged_repository_is_not_pruned() {
    let world = with_garbage();
    for folder in ["images", "roots", "tables", "packs"] {
        for file in world.files(folder) {
            let broken = world.copy_of_repository();
            flip(&broken.path("repo").join(&file), -1);
            let names = ["images", "roots", "tables", "packs"].map(|folder| broken.files(folder));
            let outcome = broken.run(&["prune", "--now"]);
            // Roots and tables that no image needs are not even read.
            if outcome.code == Some(0) {
                assert!(["roots", "tables"].contains(&folder), "{file}");
                continue;
            }
            assert_eq!(outcome.code, Some(3), "{}", outcome.talk());
            assert!(outcome.talk().contains("nothing is removed"), "{}", outcome.talk());
            let error = broken.json(3, &["prune"])["error"].clone();
            assert_eq!(error["kind"], "refused");
            assert!(error["message"].as_str().unwrap().contains(&file), "{error}");
            let after = ["images", "roots", "tables", "packs"].map(|folder| broken.files(folder));
            assert_eq!(names, after, "{file}");
        }
    }
}

#[test]
fn damaged_data_of_a_sparse_pack_stays_where_it_is_and_is_told() {
    let world = with_garbage();
    let packs = world.files("packs");
    let large =
        |file: &&String| fs::metadata(world.path("repo").join(file)).unwrap().len() > 12 << 20;
    let pack = packs.iter().find(large).unwrap();
    flip(&world.path("repo").join(pack), 2 << 20);
    let pruned = world.json(4, &["prune", "--now"]);
    assert_eq!(pruned["damaged"][0]["where"], pack.as_str());
    assert!(world.files("packs").contains(pack));
    assert_eq!(pruned["rewritten"]["files"], 0);
}

#[test]
fn a_prune_that_is_killed_at_any_system_call_loses_nothing() {
    let world = with_garbage();
    let mut kills = 0;
    for call in ["rename", "unlink", "fsync"] {
        for nth in (1..).step_by(5) {
            let killed = world.copy_of_repository();
            fs::copy(world.path("part"), killed.path("part")).unwrap();
            let mut traced = call!("strace", "-f", "-o", "/dev/null");
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            traced.args.extend(["-e".into(), inject.into(), program().into()]);
            traced.args.extend(["prune", "--now"].map(Into::into));
            let traced = traced.env("KEIKI_REPO", killed.path("repo"));
            let ended = tool::outcome(&traced).unwrap().success();
            assert_whole(&killed);
            killed.ends(0, &["prune", "--now"]);
            assert_whole(&killed);
            assert!(killed.files("trash").is_empty() && killed.files("tmp").is_empty());
            assert!(size(&killed) < (4 << 20) + 100_000, "{call} {nth}: {}", size(&killed));
            if ended {
                break;
            }
            kills += 1;
        }
    }
    assert!(kills >= 6, "{kills}");
}

#[test]
fn nobody_prunes_while_another_saves() {
    let world = with_garbage();
    // A lock of a process that is alive: this one's.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let start = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    let text = format!(
        r#"{{"format":1,"must_understand_to_read":0,"must_understand_to_write":0,"host":"h","boot_id":"{}","pid_namespace":"{}","pid":{},"process_start":{start},"kind":"shared","time":"2026-11-20T17:52:57Z"}}"#,
        boot.trim(),
        namespace.display(),
        std::process::id(),
    );
    let sealed = format!("{text}\n{}\n", blake3::hash(text.as_bytes()).to_hex());
    let lock = world.path("repo/locks/00000000000000000000000000000000.0");
    fs::write(&lock, sealed).unwrap();
    let before = size(&world);
    world.says(3, &["prune", "--now"], &["in use by process", &std::process::id().to_string()]);
    assert_eq!(size(&world), before);
    // Looking is allowed.
    world.ends(0, &["prune", "--dry-run"]);
    fs::remove_file(lock).unwrap();
    world.ends(0, &["prune", "--now"]);
    assert_whole(&world);
}
