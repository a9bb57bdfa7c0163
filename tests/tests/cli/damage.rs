//! One flipped bit in each kind of file of a repository.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::{judge, run, sample_disk, sparse, table};
use serde_json::Value;

use crate::world::{World, assert_no_table, bytes, flip, noise};

/// The volumes that a list of damage names.
fn volumes(damaged: &Value) -> Vec<String> {
    let ranges = damaged["damaged"].as_array().unwrap().iter();
    let mut ids: Vec<String> =
        ranges.map(|one| one["range"]["volume"].as_str().unwrap().to_owned()).collect();
    ids.dedup();
    ids
}

/// Where in the one pack the chunks of each volume begin.
fn chunks(world: &World) -> BTreeMap<String, Vec<i64>> {
    let broken = world.copy_of_repository();
    flip(&broken.path("repo").join(&broken.files("packs")[0]), -1);
    let mut chunks = BTreeMap::<String, Vec<i64>>::new();
    for one in broken.json(4, &["verify", "small"])["damaged"].as_array().unwrap() {
        let id = one["range"]["volume"].as_str().unwrap().to_owned();
        chunks.entry(id).or_default().push(one["offset"].as_i64().unwrap());
    }
    chunks
}

/// Fails unless the partitions that are not `lost` are on `target`, where `plan` says, as on the source.
fn assert_the_rest_is_there(world: &World, plan: &Value, target: &Path, lost: &[String]) {
    let source = world.path("disk.img");
    for (number, part) in (1..).zip(table::partitions(&source).unwrap()) {
        let id = format!("d0:{number}");
        if lost.contains(&id) {
            continue;
        }
        let mut volumes = plan["plan"]["volumes"].as_array().unwrap().iter();
        let planned = volumes.find(|volume| volume["id"] == id.as_str()).unwrap();
        let place = Bytes::new(planned["offset"].as_u64().unwrap());
        let place = Extent::at(place, part.len()).unwrap();
        if number == 1 {
            let copy = target.with_extension("copy");
            sparse::create(&copy, part.len()).unwrap();
            sparse::copy(target, place, &copy, Bytes::ZERO).unwrap();
            run!("e2fsck", "-fn", &copy).unwrap();
            let file = target.with_extension("noise");
            run!("debugfs", "-R", format!("dump noise {}", file.display()), &copy).unwrap();
            assert!(fs::read(&file).unwrap() == noise(4, 2 << 20));
            fs::remove_file(copy).unwrap();
        } else {
            assert!(bytes(&source, part) == bytes(target, place), "{id} differs");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_chunk_names_the_volume_and_nothing_boots() {
    let world = World::saved();
    let chunks = chunks(&world);
    let ids: Vec<&str> = chunks.keys().map(String::as_str).collect();
    assert_eq!(ids, ["d0:1", "d0:2", "d0:3", "d0:gap0"]);
    for (id, offsets) in &chunks {
        let broken = world.copy_of_repository();
        let pack = &broken.files("packs")[0];
        flip(&broken.path("repo").join(pack), offsets[offsets.len() / 2] + 5);
        let verified = broken.json(4, &["verify", "small"]);
        assert_eq!(volumes(&verified), [id.as_str()], "{verified}");
        assert_eq!(verified["damaged"][0]["pack"], pack.as_str());
        let told = id.replace(":gap0", ":gap0 (before the first partition)");
        broken.says(4, &["verify", "small"], &[&format!("damaged: {told}, "), pack, "DAMAGED in"]);
        // Its target is larger, so that growth would follow.
        let target = broken.path("target.img");
        let args = ["restore", "small", target.to_str().unwrap(), "--size", "40MiB"];
        let plan = broken.json(0, &[&args[..], &["--dry-run"]].concat());
        let restored = broken.json(4, &args);
        assert_eq!(volumes(&restored), [id.as_str()], "{restored}");
        assert_eq!(
            (&restored["grown"], &restored["verified"]),
            (&Value::Array(vec![]), &false.into())
        );
        assert_no_table(&target);
        assert_the_rest_is_there(&world, &plan, &target, &volumes(&restored));
        broken.ends(0, &["images"]);
        broken.ends(0, &["show", "small"]);
        broken.ends(0, &["check"]);
        let checked = broken.json(4, &["check", "--read-data"]);
        assert_eq!(checked["damaged"][0]["where"], pack.as_str());
    }
}

#[test]
fn a_flipped_bit_at_the_end_of_a_pack_names_every_volume_in_it() {
    let world = World::saved();
    // The footer's magic, name and length; the trailer's entries and header.
    for at in [-1, -20, -44, -60, -48 - 76 - 30] {
        let broken = world.copy_of_repository();
        let pack = &broken.files("packs")[0];
        flip(&broken.path("repo").join(pack), at);
        let verified = broken.json(4, &["verify", "small"]);
        assert_eq!(volumes(&verified), ["d0:1", "d0:2", "d0:3", "d0:gap0"], "{at}");
        let target = broken.path("target.img");
        broken.ends(4, &["restore", "small", target.to_str().unwrap()]);
        assert_no_table(&target);
        broken.says(4, &["images"], &["damaged: ", pack, "the sizes leave out"]);
        broken.says(4, &["check"], &[pack, "DAMAGED"]);
        // A save stores again what cannot be believed.
        let disk = world.text("disk.img");
        let again = broken.json(0, &["save", &disk, "--name", "again"]);
        assert!(again["new_chunks"].as_u64().unwrap() > 0, "{again}");
        broken.ends(0, &["verify", "again"]);
        broken.ends(0, &["verify", "small"]);
    }
}

#[test]
fn a_flipped_bit_in_a_table_segment_names_its_volume() {
    let world = World::saved();
    let mut seen = Vec::new();
    for table in world.files("tables") {
        for at in [3, 40, -1] {
            let broken = world.copy_of_repository();
            flip(&broken.path("repo").join(&table), at);
            let verified = broken.json(4, &["verify", "small"]);
            let lost = volumes(&verified);
            assert_eq!(lost.len(), 1, "{verified}");
            assert_eq!(verified["damaged"][0]["pack"], table.as_str());
            let target = broken.path("target.img");
            let args = ["restore", "small", target.to_str().unwrap(), "--size", "40MiB"];
            let plan = broken.json(0, &[&args[..], &["--dry-run"]].concat());
            let restored = broken.json(4, &args);
            assert_eq!(volumes(&restored), lost);
            assert_no_table(&target);
            assert_the_rest_is_there(&world, &plan, &target, &lost);
            broken.says(4, &["images"], &["damaged: image small", &table]);
            let checked = broken.json(4, &["check"]);
            assert_eq!(checked["damaged"][0]["where"], format!("image small, {table}"));
            seen.extend(lost);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, ["d0:1", "d0:2", "d0:3", "d0:gap0"]);
}

#[test]
fn a_flipped_bit_in_a_root_names_the_image_and_the_file() {
    let world = World::saved();
    let root = &world.files("roots")[0];
    for at in [0, 20, 700, -1] {
        let broken = world.copy_of_repository();
        flip(&broken.path("repo").join(root), at);
        let target = broken.text("target.img");
        for args in
            [vec!["show", "small"], vec!["verify", "small"], vec!["restore", "small", &target]]
        {
            broken.says(4, &args, &["image small", root]);
            let error = broken.json(4, &args);
            assert_eq!(error["error"]["kind"], "corrupt");
            assert_eq!(error["error"]["where"], format!("image small, {root}"));
        }
        assert!(!Path::new(&target).exists());
        broken.says(4, &["images"], &["small@", "damaged: image small", root]);
        assert_eq!(broken.json(4, &["check"])["damaged"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_flipped_bit_in_a_record_is_not_passed_over_for_an_older_image() {
    let world = World::saved();
    let older = world.json(0, &["show", "small"])["id"].as_str().unwrap().to_owned();
    let saved = world.json(0, &["save", &world.text("disk.img"), "--name", "small"]);
    let newer = saved["id"].as_str().unwrap().to_owned();
    for (lost, kept) in [(&newer, &older), (&older, &newer)] {
        let broken = world.copy_of_repository();
        let file = format!("images/{lost}");
        flip(&broken.path("repo").join(&file), 60);
        let listed = broken.json(4, &["images"]);
        assert_eq!(listed["images"].as_array().unwrap().len(), 1);
        assert_eq!(listed["damaged"][0]["where"], file.as_str());
        broken.says(4, &["check"], &[&file]);
        let (target, by_id) = (broken.text("target.img"), format!("small@{}", &kept[..12]));
        for args in [vec!["show", "small"], vec!["restore", "small", &target], vec!["rm", "small"]]
        {
            broken.says(4, &args, &[&file, &by_id]);
            assert_eq!(broken.json(4, &args)["error"]["where"], file.as_str());
        }
        assert!(!Path::new(&target).exists());
        broken.says(0, &["verify", &by_id], &["warning: ", &file, "is whole"]);
        broken.ends(0, &["restore", &by_id, &target]);
    }
}

#[test]
fn a_flipped_bit_in_the_header_names_the_file() {
    let world = World::saved();
    for at in [0, 30, -1] {
        let broken = world.copy_of_repository();
        flip(&broken.path("repo/keiki"), at);
        let (disk, target) = (world.text("disk.img"), broken.text("target.img"));
        for args in [
            vec!["images"],
            vec!["show", "small"],
            vec!["verify", "small"],
            vec!["restore", "small", &target],
            vec!["check"],
            vec!["rm", "small"],
            vec!["save", &disk, "--name", "other"],
        ] {
            let error = broken.json(4, &args);
            assert_eq!(error["error"]["kind"], "corrupt", "{args:?}");
            assert_eq!(error["error"]["where"], broken.text("repo/keiki"), "{args:?}");
        }
        assert!(!Path::new(&target).exists());
    }
}

#[test]
fn damaged_caches_are_reported_and_made_again() {
    let world = World::saved();
    let caches: Vec<String> =
        std::iter::once("catalog".to_owned()).chain(world.files("locations")).collect();
    for cache in caches {
        for at in [0, 50, -1] {
            let broken = world.copy_of_repository();
            flip(&broken.path("repo").join(&cache), at);
            let target = broken.text("target.img");
            broken.ends(0, &["images"]);
            broken.ends(0, &["verify", "small"]);
            broken.ends(0, &["restore", "small", &target]);
            let copy = broken.copy_of_repository();
            copy.says(0, &["check"], &[&format!("made again: {cache}")]);
            let checked = broken.json(0, &["check"]);
            assert_eq!(checked["rebuilt"], serde_json::json!([cache]));
            let same = |world: &World| fs::read(world.path("repo").join(&cache)).unwrap();
            assert!(same(&broken) == same(&world), "{cache}");
            assert_eq!(broken.json(0, &["check"])["rebuilt"], serde_json::json!([]));
        }
    }
}

#[test]
fn loop_damaged_boot_code_keeps_volume_groups_unlabelled() {
    let world = World::empty();
    let disk = world.path("disk.img");
    sample_disk::make(&disk).unwrap();
    let file = File::options().write(true).open(&disk).unwrap();
    file.write_all_at(&noise(9, 300_000), 40_960).unwrap();
    world.ends(0, &["save", disk.to_str().unwrap(), "--name", "small"]);
    let pv = table::partitions(&disk).unwrap()[2];
    let pv_signature = |disk: &Path| {
        let part = world.path("part");
        sparse::create(&part, pv.len()).unwrap();
        sparse::copy(disk, Extent::at(pv.start, Bytes::MIB).unwrap(), &part, Bytes::ZERO).unwrap();
        judge::signature(&part, "TYPE").unwrap()
    };
    assert_eq!(pv_signature(&disk), "LVM2_member");
    let offsets = chunks(&world);
    flip(&world.path("repo").join(&world.files("packs")[0]), offsets["d0:gap0"][0] + 9);
    let target = world.path("target.img");
    let args = ["restore", "small", target.to_str().unwrap(), "--size", "1GiB"];
    let restored = world.json(4, &args);
    assert_eq!(volumes(&restored), ["d0:gap0"]);
    assert_eq!(restored["grown"], serde_json::json!([]));
    assert_no_table(&target);
    assert_eq!(pv_signature(&target), "");
}
