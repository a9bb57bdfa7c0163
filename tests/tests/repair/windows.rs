//! `keiki repair --hostname` and Windows: real NTFS with the folders of a Windows. No test has seen a Windows.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use image_core::extent::Extent;
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::loops::{Loop, Mount};
use keiki_tests::tree::Tree;
use keiki_tests::{call, run, sparse, table, tool};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde_json::{Value, json};

use super::{Scene, list, says_once};

const OOBE: &[u8] = b"[State]\r\nImageState=IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE\r\n";
const COMPLETE: &[u8] = b"[State]\r\nImageState=IMAGE_STATE_COMPLETE\r\n";
const STATE: &str = "Windows/Setup/State/State.ini";
const ANSWERS: &str = "Windows/Panther/unattend.xml";
/// Who may do what with a file, as ntfs-3g tells and takes it.
const ACL: &str = "system.ntfs_acl";

/// A disk with one NTFS.
struct Machine {
    bench: Bench,
    disk: PathBuf,
    part: Extent,
}

impl Machine {
    /// With nothing on it.
    fn empty() -> Self {
        let bench = Bench::new().unwrap();
        let disk = bench.path("windows.img");
        sparse::create(&disk, Bytes::mib(24)).unwrap();
        run!("sgdisk", "-n1:0:+16M", "-t1:0700", &disk).unwrap();
        let part = table::partitions(&disk).unwrap()[0];
        let image = bench.path("ntfs");
        sparse::create(&image, part.len()).unwrap();
        run!("mkfs.ntfs", "-q", "-F", &image).unwrap();
        sparse::copy(&image, Extent::first(part.len()), &disk, part.start).unwrap();
        Self { bench, disk, part }
    }

    /// With the folders of a Windows, what Setup says of its image, and an answer file.
    fn new(state: &[u8], answers: Option<&[u8]>) -> Self {
        let machine = Self::empty();
        machine.mounted(|root| {
            for folder in ["System32/Sysprep", "Setup/State", "Panther"] {
                fs::create_dir_all(root.join("Windows").join(folder)).unwrap();
            }
            fs::write(root.join("Windows/System32/ntoskrnl.exe"), [7; 100_000]).unwrap();
            fs::write(root.join(STATE), state).unwrap();
            if let Some(answers) = answers {
                fs::write(root.join(ANSWERS), answers).unwrap();
            }
        });
        machine
    }

    /// Looks at it, or changes it.
    fn mounted<T>(&self, work: impl FnOnce(&Path) -> T) -> T {
        let mount = Mount::ntfs(&self.disk, self.part).unwrap();
        work(mount.folder())
    }

    fn text(&self, name: &str) -> String {
        self.mounted(|root| fs::read_to_string(root.join(name)).unwrap())
    }

    fn tree(&self) -> Tree {
        self.mounted(|root| Tree::of(root).unwrap())
    }

    fn hash(&self) -> blake3::Hash {
        blake3::hash(&fs::read(&self.disk).unwrap())
    }

    fn line(&self, name: &str) -> String {
        format!("repair {0} --confirm {0} --hostname {name}", self.disk.display())
    }

    /// It gets its name; what was done.
    fn named(&self, name: &str) -> Vec<String> {
        let before = self.hash();
        let dry = self.bench.run(&format!("{} --dry-run", self.line(name))).unwrap();
        assert_eq!(self.hash(), before);
        let said = self.bench.run(&format!("{} --no-run", self.line(name))).unwrap();
        assert_eq!((&said["system"], &said["root"]), (&json!("Windows"), &json!("d0:1")));
        assert_eq!(list(&said, "done"), list(&dry, "planned"));
        self.is_sound();
        self.is_done(name);
        list(&said, "done")
    }

    /// NTFS as its other programs see it.
    fn is_sound(&self) {
        let device = Loop::part(&self.disk, self.part).unwrap();
        let said = run!("ntfsfix", "-n", device.device()).unwrap();
        assert!(said.contains("was processed successfully"), "{said}");
        run!("ntfsinfo", "-m", device.device()).unwrap();
    }

    /// Nothing is done, and not a byte changes.
    fn is_done(&self, name: &str) {
        let before = self.hash();
        let said = self.bench.run(&self.line(name)).unwrap();
        assert_eq!((&said["done"], &said["steps"]), (&json!([]), &json!([])), "{said:#}");
        assert_eq!(self.hash(), before);
    }

    /// Not a byte changes, and a step says why.
    fn is_a_step(&self, name: &str, why: &str) {
        let before = self.hash();
        let said = self.bench.ends(&self.line(name), 6).unwrap();
        assert_eq!(list(&said, "done"), [""; 0]);
        let steps = list(&said, "steps");
        assert!(steps.len() == 1 && steps[0].contains("d0:1"), "{steps:#?}");
        assert!(steps[0].contains(why) && steps[0].contains("Rename-Computer"), "{steps:#?}");
        assert_eq!(self.hash(), before);
    }
}

fn acl(path: &Path) -> Vec<u8> {
    let mut value = vec![0; 64 << 10];
    let length = getxattr(path, ACL, &mut value).unwrap();
    value.truncate(length);
    value
}

/// An answer file with comments, other passes, and a name that Setup would make up.
fn answers(name: &str) -> String {
    format!(
        "\u{feff}<?xml version='1.0' encoding='utf-8'?>\r\n<!-- of the lab -->\r\n\
         <unattend xmlns=\"urn:schemas-microsoft-com:unattend\" xmlns:wcm=\"http://schemas.microsoft.com/WMIConfig/2002/State\">\r\n\
         <settings pass=\"generalize\" wasPassProcessed=\"true\"></settings>\r\n\
         <settings pass=\"specialize\">\r\n{}{}</settings>\r\n\
         <settings pass=\"oobeSystem\"><component name=\"x\" wcm:action=\"add\"/></settings>\r\n</unattend>\r\n",
        component("amd64", &format!("<TimeZone>UTC</TimeZone><ComputerName>{name}</ComputerName>")),
        if name == "*" { String::new() } else { others(name) }
    )
}

fn component(architecture: &str, inner: &str) -> String {
    format!(
        "<component name=\"Microsoft-Windows-Shell-Setup\" processorArchitecture=\"{architecture}\" \
         publicKeyToken=\"31bf3856ad364e35\" language=\"neutral\" versionScope=\"nonSxS\">{inner}</component>"
    )
}

fn others(name: &str) -> String {
    let inner = format!("<ComputerName>{name}</ComputerName>");
    ["arm64", "x86"].map(|architecture| component(architecture, &inner)).concat()
}

#[test]
fn loop_a_generalized_windows_without_answers_gets_a_file_with_its_name() {
    let machine = Machine::empty();
    // As Windows sees them letters of both sizes are the same; and its own programs write UTF-16.
    let text = String::from_utf8_lossy(OOBE);
    let wide = text.encode_utf16().flat_map(u16::to_le_bytes);
    let state: Vec<u8> = [0xff, 0xfe].into_iter().chain(wide).collect();
    machine.mounted(|root| {
        for folder in ["WINDOWS/system32", "WINDOWS/setup/STATE", "WINDOWS/panther"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("WINDOWS/setup/STATE/state.ini"), state).unwrap();
    });
    let before = machine.tree();
    let done = machine.named("lab-07.example.org");
    assert_eq!(done, ["WINDOWS/panther/unattend.xml on d0:1: the computer name lab-07"]);
    let changed = before.changed(&machine.tree());
    assert_eq!(changed, [Path::new("WINDOWS/panther/unattend.xml")]);
    let text = machine.text("WINDOWS/panther/unattend.xml");
    let amd64 = component("amd64", "<ComputerName>lab-07</ComputerName>");
    let pass = format!("<settings pass=\"specialize\">{amd64}{}</settings>", others("lab-07"));
    let root = "<unattend xmlns=\"urn:schemas-microsoft-com:unattend\">";
    assert!(text.ends_with(&format!("?>\r\n{root}{pass}</unattend>\r\n")), "{text}");
    // Another name takes its place.
    machine.named("lab-08");
    let new = machine.text("WINDOWS/panther/unattend.xml");
    assert_eq!(new, text.replace("lab-07", "lab-08"));
}

#[test]
fn loop_an_answer_file_keeps_all_but_the_name() {
    let machine = Machine::new(OOBE, Some(answers("*").as_bytes()));
    // Passwords may stand in it: who may read it stays as it is.
    let own = machine.mounted(|root| {
        let own = acl(root);
        let [file, other] = [ANSWERS, STATE].map(|name| root.join(name));
        setxattr(&file, ACL, &own, XattrFlags::empty()).unwrap();
        assert_ne!(acl(&other), own);
        acl(&file)
    });
    let before = machine.tree();
    machine.named("lab-07");
    assert_eq!(before.changed(&machine.tree()), [Path::new(ANSWERS)]);
    assert_eq!(machine.text(ANSWERS), answers("lab-07"));
    assert_eq!(machine.mounted(|root| acl(&root.join(ANSWERS))), own);
}

#[test]
fn loop_what_cannot_be_told_or_changed_is_a_step() {
    let broken = answers("*").replace("</unattend>", "");
    let machine = Machine::new(OOBE, Some(broken.as_bytes()));
    machine.is_a_step("lab-07", "Windows/Panther/unattend.xml is left alone, it is no XML");
    machine.mounted(|root| File::create(root.join(ANSWERS)).unwrap().set_len(2 << 20).unwrap());
    machine.is_a_step("lab-07", "is no file of at most 1 MiB");
    machine.mounted(|root| {
        fs::rename(root.join(ANSWERS), root.join("Windows/Panther/x")).unwrap();
        symlink("x", root.join(ANSWERS)).unwrap();
        symlink("/etc/passwd", root.join("unattend.xml")).unwrap();
    });
    machine.is_a_step("lab-07", "is no file of at most 1 MiB");
    // What ntfs-3g leaves where a machine loses its power between two of its steps.
    machine.mounted(|root| {
        fs::remove_file(root.join("unattend.xml")).unwrap();
        fs::rename(root.join(ANSWERS), root.join(format!("{ANSWERS}.ntfs-3g-0000000000"))).unwrap();
    });
    machine.is_a_step("lab-07", "what it was is unattend.xml.ntfs-3g-0000000000");
    let installed = Machine::new(COMPLETE, Some(answers("*").as_bytes()));
    installed.is_a_step("lab-07", "before it is saved: sysprep /generalize /oobe /shutdown");
    let generalized = Machine::new(OOBE, None);
    generalized.is_a_step("a234567890123456", "at most 15 characters");
    generalized.is_a_step("07.example.org", "no name of digits only");
    // In a PATH without it, but with what comes before it.
    let tools = generalized.bench.path("tools");
    fs::create_dir(&tools).unwrap();
    for tool in ["mdir", "mcopy", "ntfsinfo", "setpriv"] {
        symlink(Path::new("/usr/bin").join(tool), tools.join(tool)).unwrap();
    }
    let call = generalized.bench.call(&generalized.line("lab-07")).env("PATH", &tools);
    let outcome = tool::outcome(&call).unwrap();
    assert_eq!(outcome.code, Some(6), "{}", outcome.talk());
    let said: Value = serde_json::from_str(&outcome.text()).unwrap();
    says_once(&list(&said, "steps"), "ntfs-3g is not installed here");
}

#[test]
fn loop_a_windows_that_was_not_shut_down_is_not_written() {
    let dirty = Machine::new(OOBE, None);
    let device = Loop::part(&dirty.disk, dirty.part).unwrap();
    // It has Windows check the volume, by the flag that Windows sets as it mounts one.
    run!("ntfsfix", device.device()).unwrap();
    drop(device);
    dirty.is_a_step("lab-07", "ntfsinfo says: Volume is scheduled for check");
    for head in ["hibr", "HIBR"] {
        let asleep = Machine::new(OOBE, None);
        asleep.mounted(|root| {
            fs::write(root.join("hiberfil.sys"), [head.as_bytes(), &[1; 8192]].concat()).unwrap();
        });
        asleep.is_a_step("lab-07", "Windows is hibernated in it");
    }
    let locked = Machine::empty();
    let file = File::options().write(true).open(&locked.disk).unwrap();
    file.write_all_at(b"\xeb\x58\x90-FVE-FS-", locked.part.start.get()).unwrap();
    locked.is_a_step("lab-07", "encrypted by BitLocker");
}

/// Killed as it is about to put the new file in the old one's place: ntfs-3g ends by itself, and the next run does it.
#[test]
fn loop_a_naming_that_is_killed_is_run_again() {
    let machine = Machine::new(OOBE, Some(answers("*").as_bytes()));
    let keiki = machine.bench.call(&machine.line("lab-07"));
    let inject = "inject=renameat,renameat2:signal=KILL:when=1";
    let mut call = call!("strace", "-f", "--seccomp-bpf", "-e", inject, "-o", "/dev/null");
    call.args.push(keiki.program);
    call.args.extend(keiki.args);
    let call = call.env("TMPDIR", machine.bench.path(""));
    assert_ne!(tool::outcome(&call).unwrap().code, Some(0));
    let uses = || run!("losetup", "--noheadings", "--associated", &machine.disk).unwrap();
    let gone = (0..1000).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        uses().is_empty()
    });
    assert!(gone, "{}", uses());
    machine.is_sound();
    assert_eq!(machine.text(ANSWERS), answers("*"));
    machine.named("lab-07");
    assert_eq!(machine.text(ANSWERS), answers("lab-07"));
    let names = machine.mounted(|root| fs::read_dir(root.join("Windows/Panther")).unwrap().count());
    assert_eq!(names, 1);
}

#[test]
fn loop_beside_a_linux_both_get_the_name() {
    let scene = Scene::new();
    scene.repair("", 0);
    let machine = Machine::new(OOBE, None);
    let disks = [&scene.moved.disk, &machine.disk].map(|disk| disk.display().to_string());
    let [linux, windows] = &disks;
    let both = format!("repair {linux} {windows} --confirm {linux} --confirm {windows}");
    let said = scene.bench.run(&format!("{both} --hostname lab-07")).unwrap();
    let done = list(&said, "done");
    says_once(&done, "Windows/Panther/unattend.xml on d1:1: the computer name lab-07");
    // The name that says that all is done.
    assert!(done.last().unwrap().contains("etc/hostname"), "{done:#?}");
    machine.is_done("lab-07");
    let again = scene.bench.run(&format!("{both} --hostname lab-07")).unwrap();
    assert_eq!((&again["done"], &again["steps"]), (&json!([]), &json!([])));
    // NTFS without a Windows is no system, and without a name nobody looks.
    let data = Machine::empty();
    for (disk, options) in [(&data.disk, "--hostname lab-07"), (&machine.disk, "")] {
        let line = format!("repair {} {options}", disk.display());
        let why = scene.bench.fails(&line, 3).unwrap();
        assert!(why.contains("no Linux system on the targets"), "{why}");
    }
}
