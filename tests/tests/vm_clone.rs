//! A clone with new identifiers runs in one machine with its source, and alone by every way that the source has.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so what failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use keiki_tests::debian::{self, Layout};
use keiki_tests::garbage::{self, Old};
use keiki_tests::loops::Loop;
use keiki_tests::vm::{self, Firmware, Report, Writes};
use keiki_tests::{grub, judge, keiki, table, tool};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn vm_a_clone_runs_beside_its_source_and_alone() {
    let cloned = Cloned::new(Layout::Gpt, grub_by_its_setup);
    cloned.beside_its_source(true);
    cloned.alone(Firmware::Bios);
    assert_eq!(cloned.steps, [""; 0]);
}

/// GRUB's core for BIOS as grub-install leaves it, with error correction.
fn grub_by_its_setup(disks: &[PathBuf]) {
    let parts = table::partitions(&disks[0]).unwrap();
    let boot = Loop::part(&disks[0], parts[parts.len() - 2]).unwrap();
    let boot = judge::signature(boot.device(), "UUID").unwrap();
    grub::setup(&disks[0], &boot).unwrap();
}

/// A Debian and its clone.
struct Cloned {
    _folder: TempDir,
    sources: Vec<PathBuf>,
    clones: Vec<PathBuf>,
    steps: Vec<String>,
    clock: Instant,
}

impl Cloned {
    fn new(layout: Layout, prepare: impl FnOnce(&[PathBuf])) -> Self {
        let clock = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let sources = debian::make(layout, folder.path()).unwrap().disks;
        prepare(&sources);
        let clones: Vec<PathBuf> = sources.iter().map(|disk| target(disk)).collect();
        let mut call = keiki!("clone", "--json", "--new-ids");
        call.args.extend(sources.iter().chain(&clones).map(Into::into));
        for clone in &clones {
            call.args.extend(["--confirm".into(), clone.into()]);
        }
        let outcome = tool::outcome(&call).unwrap();
        println!("{}{}", outcome.text(), outcome.talk());
        let said: Value = serde_json::from_str(&outcome.text()).unwrap();
        let steps: Vec<String> = serde_json::from_value(said["steps"].clone()).unwrap();
        assert_eq!(outcome.code, Some(if steps.is_empty() { 0 } else { 6 }));
        judge::disks(&clones).unwrap();
        let cloned = Self { _folder: folder, sources, clones, steps, clock };
        cloned.say("it is cloned");
        cloned
    }

    fn say(&self, what: &str) {
        println!("{:4} s: {what}", self.clock.elapsed().as_secs());
    }

    fn boot(&self, way: Firmware, disks: &[PathBuf]) -> Report {
        let report = vm::boot(way, disks, Writes::Discarded).unwrap();
        self.say(&format!("{} disks have run by {way:?}", disks.len()));
        println!("{}\nconsole:\n{}", report.text(), report.console());
        assert_eq!(report.health().unwrap(), "running\n");
        assert_eq!(report.section("firmware").unwrap(), format!("{way:?}").to_uppercase());
        assert_eq!(report.section("srv").unwrap(), "SRV-OK");
        assert_eq!(report.section("vgck").unwrap(), "");
        report
    }

    /// The clone, and nothing else in the machine.
    fn alone(&self, way: Firmware) {
        runs_from(&self.boot(way, &self.clones), "vg0--2");
    }

    /// Both in one machine; the firmware starts the first.
    fn beside_its_source(&self, clone_first: bool) {
        let (first, second) =
            if clone_first { (&self.clones, &self.sources) } else { (&self.sources, &self.clones) };
        let report = self.boot(Firmware::Uefi, &[first.as_slice(), second].concat());
        runs_from(&report, if clone_first { "vg0--2" } else { "vg0" });
        let blkid = report.section("blkid").unwrap();
        let words = ["UUID", "UUID_SUB", "PARTUUID", "PTUUID"];
        for word in words {
            let ids = values(blkid, word);
            let unique: BTreeSet<&str> = ids.iter().copied().collect();
            assert_eq!(unique.len(), ids.len(), "{word}s of {blkid}");
        }
        // ESP, /boot, three volumes and a physical volume, or two; of both.
        let pvs = report.section("pvs").unwrap();
        let count = 2 * (5 + self.sources.len());
        assert_eq!(values(blkid, "UUID").len(), count, "{blkid}");
        assert_eq!(pvs.lines().count(), 2 * self.sources.len(), "{pvs}");
        for (column, list) in [(1, pvs), (0, report.section("lv_uuids").unwrap())] {
            let all: Vec<&str> =
                list.lines().filter_map(|line| line.split_whitespace().nth(column)).collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{list}");
        }
        let lvs = report.section("lv_uuids").unwrap();
        let ids: BTreeSet<&str> =
            lvs.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!((ids.len(), lvs.lines().count()), (6, 6), "{lvs}");
        let groups: BTreeSet<&str> =
            pvs.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
        assert_eq!(groups.len(), 2, "{pvs}");
    }
}

/// A disk of the same size with an earlier life.
fn target(source: &Path) -> PathBuf {
    let path = source.with_extension("clone");
    let size = std::fs::metadata(source).unwrap().len();
    garbage::fill(&path, image_core::units::Bytes::new(size)).unwrap();
    garbage::plant(&path, &Old::ALL).unwrap();
    path
}

/// What blkid says of `word` in every line that has it.
fn values<'a>(blkid: &'a str, word: &str) -> Vec<&'a str> {
    let start = format!(" {word}=\"");
    blkid.lines().filter_map(|line| line.split_once(&start)?.1.split('"').next()).collect()
}

/// Everything that is mounted is the disk's own, and so is the swap area.
fn runs_from(report: &Report, group: &str) {
    let mounted = |place: &str| report.line("lsblk", place).unwrap()[0].to_owned();
    assert_eq!(mounted("/"), format!("{group}-root"));
    assert_eq!(mounted("/srv"), format!("{group}-srv"));
    assert_eq!(mounted("[SWAP]"), format!("{group}-swap"));
    let disk = |part: &str| part.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    assert_eq!(disk(&mounted("/boot")), "vda");
    assert_eq!(disk(&mounted("/boot/efi")), "vda");
}

/// What takes the longest; see docs/TESTING.md for the two tiers.
mod only_all {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use image_core::extent::Extent;
    use keiki_tests::{filesystem, sparse};

    use super::{Cloned, Firmware, Layout, Loop, grub, grub_by_its_setup, judge, table};

    #[test]
    fn vm_a_source_runs_beside_its_clone_which_boots_by_uefi() {
        let cloned = Cloned::new(Layout::Gpt, grub_by_its_setup);
        cloned.beside_its_source(false);
        cloned.alone(Firmware::Uefi);
    }

    #[test]
    fn vm_a_clone_of_an_mbr_disk_runs_beside_its_source_and_alone() {
        let cloned = Cloned::new(Layout::Mbr, grub_by_its_setup);
        cloned.beside_its_source(true);
        cloned.alone(Firmware::Bios);
        assert_eq!(cloned.steps, [""; 0]);
    }

    /// GRUB's core stands there without error correction.
    #[test]
    fn vm_a_clone_of_two_disks_runs_beside_its_sources_and_alone() {
        let cloned = Cloned::new(Layout::TwoDisks, |_| ());
        cloned.beside_its_source(true);
        cloned.alone(Firmware::Bios);
        assert_eq!(cloned.steps, [""; 0]);
    }

    /// Where GRUB's core for BIOS cannot be changed, that is a step that remains; UEFI needs nothing of it.
    #[test]
    fn vm_a_clone_whose_core_of_grub_is_not_understood_boots_by_uefi() {
        let cloned = Cloned::new(Layout::Gpt, |disks| {
            let disk = File::options().write(true).open(&disks[0]).unwrap();
            disk.write_all_at(&[9; 900], (1 << 20) + 20_000).unwrap();
        });
        assert_eq!(cloned.steps.len(), 1, "{:?}", cloned.steps);
        assert!(cloned.steps[0].contains("grub-install DISK"), "{:?}", cloned.steps);
        cloned.alone(Firmware::Uefi);
    }

    /// GRUB in one file that names `/boot`, without shim, and started by an entry in the firmware, which the
    /// clone cannot have: only the clone starts in a machine without one.
    #[test]
    fn vm_a_clone_boots_by_uefi_without_the_entry_that_its_source_has() {
        let cloned = Cloned::new(Layout::Gpt, |disks| {
            let work = tempfile::tempdir().unwrap();
            let [.., esp, boot, _] = table::partitions(&disks[0]).unwrap()[..] else { panic!() };
            let uuid = Loop::part(&disks[0], boot).unwrap();
            let uuid = judge::signature(uuid.device(), "UUID").unwrap();
            let image = work.path().join("esp");
            let esp_uuid = Loop::part(&disks[0], esp).unwrap();
            let serial = judge::signature(esp_uuid.device(), "UUID").unwrap().replace('-', "");
            let program = grub::efi(&uuid, work.path()).unwrap();
            let files = [("EFI/debian/grubx64.efi", program.as_path())];
            filesystem::fat32(&image, esp.len(), ["ESP", &serial], &files).unwrap();
            // What is a hole in the image must not be what was there.
            let disk = File::options().write(true).open(&disks[0]).unwrap();
            let zeros = vec![0; esp.len().index().unwrap()];
            disk.write_all_at(&zeros, esp.start.get()).unwrap();
            sparse::copy(&image, Extent::first(esp.len()), &disks[0], esp.start).unwrap();
        });
        assert_eq!(cloned.steps, [""; 0]);
        cloned.alone(Firmware::Uefi);
    }
}
