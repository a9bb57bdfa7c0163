//! A Debian that was in use is saved, and restored to disks half as large again: it boots from them as it
//! did from its own, and its volumes have the new space.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so what failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use image_core::units::Bytes;
use keiki_tests::debian::{self, Layout};
use keiki_tests::garbage::{self, Old};
use keiki_tests::tree::Tree;
use keiki_tests::vm::{self, Firmware, Report, Writes};
use keiki_tests::{judge, keiki, tool, volumes};
use tempfile::TempDir;

#[test]
fn vm_a_gpt_disk_restored_and_grown_boots_by_bios_and_by_uefi() {
    restored_boots(Layout::Gpt, Bytes::ZERO, &[Firmware::Bios, Firmware::Uefi]);
}

/// Saves, restores with `srv_grows` for `vg0/srv` and the rest for `vg0/root`, boots in all these `ways`, and
/// returns what the systems reported.
fn restored_boots(layout: Layout, srv_grows: Bytes, ways: &[Firmware]) -> Vec<Report> {
    let story = Story::begin(layout);
    let targets: Vec<PathBuf> = story.source.iter().map(|disk| target(disk, len(disk))).collect();
    let srv = format!("vg0/srv=+{}", srv_grows.get());
    let grow: &[&str] = if srv_grows.is_zero() { &[] } else { &["--grow", &srv] };
    let reports = story.goes_on(&targets, &[&["--grow", "vg0/root=rest"], grow].concat(), ways);
    let sizes = targets.iter().zip(&story.source);
    let new_space: Bytes = sizes.map(|(new, old)| len(new) - len(old)).sum();
    for after in &reports {
        assert_grown(&story.before, after, "root", "/", new_space - srv_grows);
        assert_grown(&story.before, after, "srv", "/srv", srv_grows);
    }
    reports
}

/// A Debian that has run.
struct Story {
    clock: Instant,
    folder: TempDir,
    source: Vec<PathBuf>,
    before: Report,
    trees: BTreeMap<String, Tree>,
}

impl Story {
    fn begin(layout: Layout) -> Self {
        let clock = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let source = debian::make(layout, folder.path()).unwrap().disks;
        // Kept: what is saved has lived, with a journal, a log and a last mount point.
        let before = vm::boot(Firmware::Bios, &source, Writes::Kept).unwrap();
        assert_eq!(before.health().unwrap(), "running\n", "{}", before.text());
        assert_sound(&before, Firmware::Bios);
        let trees = volumes::trees(&source).unwrap();
        let story = Self { clock, folder, source, before, trees };
        story.say("the source has run");
        story
    }

    fn say(&self, what: &str) {
        println!("{:4} s: {what}", self.clock.elapsed().as_secs());
    }

    /// It is saved, restored to `targets` with these `flags`, judged, and boots in all these `ways`.
    fn goes_on(&self, targets: &[PathBuf], flags: &[&str], ways: &[Firmware]) -> Vec<Report> {
        save_and_restore(self.folder.path(), &self.source, targets, flags);
        self.say("it is restored");
        assert_restored(targets, &self.trees);
        self.say("it is judged");
        let boot = |way: &Firmware| {
            let after = vm::boot(*way, targets, Writes::Discarded).unwrap();
            self.say(&format!("it has run by {way:?}"));
            println!("{}\nconsole:\n{}", after.text(), after.console());
            assert_eq!(after.health().unwrap(), self.before.health().unwrap());
            assert_sound(&after, *way);
            after
        };
        ways.iter().map(boot).collect()
    }
}

/// A disk half as large again as `size`, with an earlier life, beside `source`.
fn target(source: &Path, size: Bytes) -> PathBuf {
    let path = source.with_extension("restored");
    garbage::fill(&path, Bytes::new(size.get() / 2 * 3)).unwrap();
    garbage::plant(&path, &Old::ALL).unwrap();
    path
}

fn len(file: &Path) -> Bytes {
    Bytes::new(std::fs::metadata(file).unwrap().len())
}

fn save_and_restore(folder: &Path, source: &[PathBuf], targets: &[PathBuf], flags: &[&str]) {
    let repo = folder.join("repo");
    let mut save = keiki!("--repo", &repo, "save", "--name", "debian");
    save.args.extend(source.iter().map(Into::into));
    println!("{}", tool::run(&save).unwrap());
    let mut restore = keiki!("--repo", &repo, "restore", "debian");
    restore.args.extend(flags.iter().map(Into::into));
    restore.args.extend(targets.iter().map(Into::into));
    for target in targets {
        restore.args.extend(["--confirm".into(), target.into()]);
    }
    println!("{}", tool::run(&restore).unwrap());
}

/// Before anything else touches the targets: the judges have no complaint, and every file is there.
fn assert_restored(targets: &[PathBuf], trees: &BTreeMap<String, Tree>) {
    judge::disks(targets).unwrap();
    volumes::expect_same(trees, &volumes::trees(targets).unwrap()).unwrap();
}

/// What `health` does not tell: data, swap, volume group, and what the kernel thinks of the disks.
fn assert_sound(report: &Report, way: Firmware) {
    assert_eq!(report.section("firmware").unwrap(), format!("{way:?}").to_uppercase());
    assert_eq!(report.section("srv").unwrap(), "SRV-OK");
    assert_eq!(report.section("vgck").unwrap(), "");
    assert_eq!(report.line("swaps", "partition").unwrap().get(2), Some(&"131068"));
    let complaints: Vec<&str> = report
        .section("kernel")
        .unwrap()
        .lines()
        .filter(|line| {
            ["GPT:", "EXT4-fs", "XFS", "FAT-fs", "vda", "vdb", "I/O"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    assert_eq!(complaints, [""; 0]);
}

/// The logical volume grew by exactly `growth`, and the filesystem at `mount` by what its own tables leave.
fn assert_grown(before: &Report, after: &Report, lv: &str, mount: &str, growth: Bytes) {
    let sizes = |section, key: &str, column: usize| {
        [before, after].map(|report| {
            let line = report.line(section, key).unwrap();
            Bytes::new(line[column].parse::<u64>().unwrap())
        })
    };
    let [old, new] = sizes("lvs", &format!("vg0/{lv}"), 1);
    assert_eq!(new, old + growth, "{lv}:\n{}", after.text());
    let [old, new] = sizes("df", mount, 2);
    let least = old + Bytes::new(growth.get() / 100 * 97);
    assert!(new >= least && new <= old + growth, "{mount}: {old}, then {new}, not {least}");
}

/// The layouts that take the longest; see docs/TESTING.md for the two tiers.
mod only_all {
    use super::{Bytes, Firmware, Layout, Story, assert_grown, len, restored_boots, target};

    #[test]
    fn vm_three_disks_restored_onto_one_boot() {
        let story = Story::begin(Layout::ThreeDisks);
        // All that was on the other two finds room, and half as much again.
        let one = [target(&story.source[0], len(&story.source[0]))];
        let flags = ["--map", "d1=none", "--map", "d2=none", "--grow", "vg0/root=rest"];
        let reports = story.goes_on(&one, &flags, &[Firmware::Uefi, Firmware::Bios]);
        for after in &reports {
            assert_eq!(after.section("pvs").unwrap().lines().count(), 1, "{}", after.text());
            assert_grown(&story.before, after, "srv", "/srv", Bytes::ZERO);
        }
    }

    #[test]
    fn vm_an_mbr_disk_restored_and_grown_boots_by_bios_and_by_uefi() {
        restored_boots(Layout::Mbr, Bytes::ZERO, &[Firmware::Bios, Firmware::Uefi]);
    }

    #[test]
    fn vm_two_disks_restored_and_grown_boot_by_bios_and_by_uefi() {
        restored_boots(Layout::TwoDisks, Bytes::ZERO, &[Firmware::Bios, Firmware::Uefi]);
    }

    #[test]
    fn vm_volumes_in_many_pieces_are_restored_and_grown_and_boot() {
        // More than its own disk has room for: `srv` goes on where `root` is.
        let reports = restored_boots(Layout::Pieces, Bytes::mib(2100), &[Firmware::Uefi]);
        // So both were grown through a view that puts pieces together.
        for (lv, pieces) in [("vg0/root", "3"), ("vg0/srv", "2")] {
            assert_eq!(reports[0].line("lvs", lv).unwrap()[3], pieces, "{}", reports[0].text());
        }
    }
}
