//! Every parser of foreign bytes stands its corpus: what fuzzing found worth keeping, what it found to be wrong, and
//! changes of all that. docs/FUZZING.md tells how these come to be.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]
#![allow(clippy::print_stdout, reason = "what stands above a panic names the input")]

use std::alloc::System;
use std::collections::BTreeSet;
use std::time::Instant;

use cap::Cap;
use keiki_tests::hostile::edited::{Base, Edited};
use keiki_tests::hostile::mutate::Mutator;
use keiki_tests::hostile::{TARGETS, corpus, run, seeds};
use keiki_tests::hostile::{ext, fat, filesystems, groups, guest, loaders, network, tables, xfs};
use keiki_tests::sources;

/// Whatever an input says, all of this together takes no GiB: beyond that the process is aborted.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, 1 << 30);

/// Changed inputs of each target.
const CHANGED: usize = 2000;
/// No single input takes a debug build longer.
const LONGEST: u64 = 20;

fn stands(target: &str) {
    if target == "http" {
        what_a_guest_says_is_done();
    }
    let mut inputs = seeds::seeds(target).unwrap();
    inputs.extend(corpus::kept(target).unwrap());
    let sound = inputs.len();
    for (name, input) in corpus::found(target).unwrap() {
        println!("{name}");
        inputs.push(input);
    }
    assert!(sound > 0, "nothing is kept for {target}");
    let mut slowest = 0;
    for (number, input) in inputs.iter().enumerate() {
        println!("{target}: kept input {number}");
        slowest = slowest.max(timed(target, input));
    }
    let mut mutator = Mutator::new(target);
    for number in 0..CHANGED {
        let [one, other] = [number, number * 7 + 1].map(|at| &inputs[at % inputs.len()]);
        let input = mutator.mutated(one, other);
        // The last line that stands above a panic is the input to be kept.
        println!("{target}: {}", hex(&input));
        slowest = slowest.max(timed(target, &input));
    }
    assert!(slowest < LONGEST, "one input took {slowest} s");
}

fn timed(target: &str, input: &[u8]) -> u64 {
    let start = Instant::now();
    run(target, input);
    start.elapsed().as_secs()
}

fn hex(input: &[u8]) -> String {
    input.iter().take(300).map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! targets {
    ($($name:ident)*) => {
        const NAMED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                stands(stringify!($name));
            }
        )*
    };
}

targets! {
    tables signatures restore_record ext journal xfs fat swap lvm_label lvm_text record root segment trailer chunk
    delta repository listing grub program configuration moved ramdisk dhcp multicast room http tftp
}

/// Else nothing that is made of what a guest says would reach what looks at files. It shares its server with the target `http`.
fn what_a_guest_says_is_done() {
    let (_, before) = network::guest(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut added = Vec::new();
    for request in guest::requests().unwrap() {
        let (said, now) = network::guest(&request).unwrap();
        let answers = |status: &str| said.matches(&format!("HTTP/1.1 {status}")).count();
        assert!(answers("200") >= 4 && answers("") == answers("200"), "{said}");
        added.extend(now.into_iter().filter(|path| !before.contains(path)));
    }
    added.retain(|path| !path.starts_with("locks/"));
    let folders: Vec<&str> = added.iter().filter_map(|path| path.split('/').next()).collect();
    assert_eq!(folders, ["images", "catalog"]);
}

#[test]
fn every_target_is_tested_and_fuzzed() {
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names, NAMED.iter().map(|name| (*name).to_owned()).collect());
    let fuzz = sources::workspace().join("fuzz");
    let files = std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap();
    let files =
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned());
    assert_eq!(names, files.collect());
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        let text = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{name}\", input)")), "{text}");
    }
}

/// Else whatever is made of these would be refused at the first look, and nothing behind that be tried.
#[test]
fn what_inputs_change_is_sound() {
    use filesystems::{EXT, FAT, JOURNAL, SWAP, XFS, map};
    let load = |name: &str| -> &'static Base { Box::leak(Box::new(Base::load(name).unwrap())) };
    let signed = |name: &str, sign: fn(&mut Edited<'_>)| {
        let mut edited = Edited::of(load(name));
        sign(&mut edited);
        edited
    };
    for name in EXT.iter().chain(&JOURNAL) {
        let (as_is, signed) = (Edited::of(load(name)), signed(name, ext::sign));
        assert!(ext::used(&as_is).unwrap().subtract(&map(&as_is).unwrap()).is_empty(), "{name}");
        assert_eq!(map(&signed), map(&as_is), "{name}");
    }
    for name in XFS {
        let (as_is, signed) = (Edited::of(load(name)), signed(name, xfs::sign));
        assert!(!xfs::used(&as_is, xfs::BY_BLOCK).unwrap().is_empty(), "{name}");
        assert_eq!(xfs::used(&as_is, xfs::BY_BLOCK), xfs::used(&as_is, xfs::BY_COUNT), "{name}");
        assert_eq!(map(&signed).unwrap(), map(&as_is).unwrap(), "{name}");
    }
    for name in FAT {
        assert!(!fat::used(&Edited::of(load(name))).unwrap().is_empty(), "{name}");
    }
    for name in FAT.iter().chain(&SWAP) {
        assert!(map(&Edited::of(load(name))).is_some(), "{name}");
    }
    for name in tables::TABLES {
        let table = tables::judge(&Edited::of(load(name)));
        assert_eq!(tables::judge(&signed(name, tables::sign)), table, "{name}");
        assert!(table.unwrap().partitions().len() > 2, "{name}");
    }
    for name in groups::LABELS {
        let head = groups::judge(&Edited::of(load(name)));
        assert_eq!(groups::judge(&signed(name, groups::sign)), head, "{name}");
        assert!(head.unwrap().vg.is_some(), "{name}");
    }
    assert!(tables::found_record(&Edited::of(load("record"))), "record");
    assert_eq!(loaders::changed(&Edited::of(load("grub")), true), Some(3));
}
