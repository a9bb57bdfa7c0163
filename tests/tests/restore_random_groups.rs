//! Random volume groups through a save and a restore by the program, judged by LVM and by the bytes of every
//! volume.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::proof::{self, Facts};
use keiki_tests::vg::Vg;
use keiki_tests::{contents, garbage, judge, sparse};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// What is done to a group, in MiB; what there is no room for is not done.
#[derive(Clone, Debug)]
enum Step {
    Add(u64, Option<usize>, &'static str),
    AddStriped(u64, u64),
    Extend(usize, u64, Option<usize>),
    Remove(usize),
}

#[derive(Clone, Debug)]
struct Case {
    /// Sizes of the disks in MiB, and by how much the targets are larger.
    disks: Vec<(u64, u64)>,
    extent_kib: u64,
    steps: Vec<Step>,
    grow: &'static str,
}

fn step() -> impl Strategy<Value = Step> {
    let on = || prop::option::of(0..3_usize);
    let kind = prop_oneof![Just("raw"), Just("ext4-1k"), Just("swap")];
    prop_oneof![
        4 => (9..40_u64, on(), kind).prop_map(|(mib, on, kind)| Step::Add(mib, on, kind)),
        1 => (9..40_u64, prop_oneof![Just(4), Just(64)]).prop_map(|(mib, kib)| Step::AddStriped(mib, kib)),
        3 => (0..5_usize, 1..20_u64, on()).prop_map(|(at, mib, on)| Step::Extend(at, mib, on)),
        1 => (0..5_usize).prop_map(Step::Remove),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let disks = prop::collection::vec((40..110_u64, prop_oneof![Just(0), 0..60_u64]), 1..=3);
    let extent_kib = prop_oneof![Just(1024), Just(4096), Just(256)];
    let grow = prop_oneof![
        Just(""),
        Just("--grow none"),
        Just("--grow proportional"),
        Just("--use-free"),
        Just("--grow proportional --use-free"),
    ];
    let steps = prop::collection::vec(step(), 2..9);
    (disks, extent_kib, steps, grow).prop_map(|(disks, extent_kib, steps, grow)| Case {
        disks,
        extent_kib,
        steps,
        grow,
    })
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Makes the group, and fills its volumes.
fn make(bench: &Bench, case: &Case) -> Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for (number, (mib, _)) in case.disks.iter().enumerate() {
        let path = bench.path(&format!("source{number}"));
        sparse::create(&path, Bytes::mib(*mib))?;
        places.push((path, Extent::first(Bytes::mib(*mib))));
    }
    let vg = Vg::create("vg0", &places)?;
    vg.lvm("vgchange", words(&format!("-s {}k vg0", case.extent_kib)))?;
    let mut lvs: Vec<(String, &str)> = Vec::new();
    for (number, step) in case.steps.iter().enumerate() {
        let on = |on: &Option<usize>| on.filter(|on| *on < places.len());
        let name = format!("lv{number}");
        // LVM says no where there is no room, or nothing of that number.
        let done = match step {
            Step::Add(mib, pv, kind) => {
                let done = vg.add(&name, Bytes::mib(*mib), on(pv));
                done.map(|()| lvs.push((name, kind)))
            }
            Step::AddStriped(mib, stripe) => {
                let line = format!(
                    "-an -Zn -Wn --yes --type striped -i 2 -I {stripe} -L {mib}M -n {name} vg0"
                );
                let done = vg.lvm("lvcreate", words(&line));
                done.map(|_| lvs.push((name, "raw")))
            }
            Step::Extend(at, mib, pv) => match lvs.get(*at) {
                Some((lv, _)) => {
                    let size: Bytes = vg.segments()?[lv].iter().map(|run| run.extent.len()).sum();
                    vg.extend(lv, size + Bytes::mib(*mib), on(pv))
                }
                None => Ok(()),
            },
            Step::Remove(at) if *at < lvs.len() && lvs.len() > 1 => {
                let (lv, _) = lvs.remove(*at);
                vg.lvm("lvremove", words(&format!("-f vg0/{lv}"))).map(drop)
            }
            Step::Remove(_) => Ok(()),
        };
        drop(done);
    }
    let image = bench.path("lv");
    for (seed, (lv, kind)) in (1..).zip(&lvs) {
        let size: Bytes = vg.segments()?[lv].iter().map(|run| run.extent.len()).sum();
        contents::named(kind)?.make(&image, size, seed)?;
        vg.put(lv, &image)?;
    }
    Ok(places.into_iter().map(|(path, _)| path).collect())
}

fn check(case: &Case) -> Result<()> {
    let bench = Bench::new()?;
    let sources = make(&bench, case)?;
    let said = bench.save("random", &sources)?;
    ensure!(!said["raw_volumes"].to_string().contains("VG"), "{said}");
    let facts = Facts::of(&sources)?;
    let mut targets = Vec::new();
    for (number, (mib, more)) in case.disks.iter().enumerate() {
        let path = bench.path(&format!("target{number}"));
        garbage::fill(&path, Bytes::mib(mib + more))?;
        targets.push(path);
    }
    bench.restore("random", &targets, case.grow)?;
    judge::disks(&targets)?;
    facts.expect(&Facts::of(&targets)?)?;
    let [old, new] = [&sources, &targets].map(|disks| proof::runs(disks));
    let (old, new) = (old?, new?);
    let size =
        |runs: &[keiki_tests::vg::Segment]| runs.iter().map(|run| run.extent.len()).sum::<Bytes>();
    for (id, was) in old.iter().filter(|(id, _)| id.starts_with("lv ")) {
        let is = new.get(id).context("a volume is missing")?;
        ensure!(size(is) >= size(was), "{id} shrank");
        let raw = facts.raw.contains_key(&id.replace("lv ", "vg0/"));
        ensure!(!raw || size(is) == size(was), "{id} grew, and nobody knows what is in it");
    }
    let same = case.disks.iter().all(|(_, more)| *more == 0) && !case.grow.contains("--use-free");
    if same {
        let [was, is] = [&sources, &targets].map(|disks| proof::places(disks));
        ensure!(was? == is?, "a restore of the same size moved something");
    }
    Ok(())
}

fn cases(count: u32) {
    let config = Config {
        cases: count,
        max_shrink_iters: 30,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&case(), |case| {
        check(&case).map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn loop_random_groups() {
    cases(2);
}

mod only_all {
    #[test]
    fn loop_many_random_groups() {
        super::cases(40);
    }
}
