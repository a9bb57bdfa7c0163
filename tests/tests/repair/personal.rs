//! `keiki repair --hostname`: a machine of a room becomes one of its own, and nothing else changes.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use keiki_tests::tree::Tree;
use keiki_tests::{call, judge, keiki, run, tool};
use rustix::fs::XattrFlags;
use serde_json::{Value, json};

use super::{Scene, list, says_once};

/// The kinds of keys that the image has: how ssh-keygen is told, and how many bits it then tells.
const KEYS: [(&str, &[&str], &str); 3] = [
    ("ecdsa", &["-b", "384"], "384"),
    ("ed25519", &[], "256"),
    ("rsa", &["-b", "3200", "-m", "PEM"], "3200"),
];
const ID: &str = "0123456789abcdef0123456789abcdef\n";
/// What SELinux keeps with a file.
const LABEL: &str = "security.selinux";
const LEASE: &str = "var/lib/dhcp/dhclient.eth0.leases";

/// A system that has nothing left to mend, as it came from its image.
fn cloned() -> Scene {
    let scene = Scene::new();
    scene.repair("", 0);
    scene.root(|root| {
        for folder in ["etc/ssh", "var/lib/dbus", "var/lib/systemd", "var/lib/dhcp"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (name, text) in [
            (
                "etc/hosts",
                "127.0.0.1 localhost\n127.0.1.1 moved.example.org moved\n10.0.0.1 moved\n",
            ),
            ("etc/machine-id", ID),
            ("var/lib/dbus/machine-id", ID),
            ("var/lib/systemd/random-seed", &"seed".repeat(128)),
            (LEASE, "lease { fixed-address 10.0.0.9; }\n"),
            ("etc/ssh/sshd_config", "#HostKey /etc/none\nHostKey /etc/ssh/ssh_host_rsa_key\n"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        for (kind, more, _) in KEYS {
            let path = root.join(format!("etc/ssh/ssh_host_{kind}_key"));
            let mut call =
                call!("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "root@moved", "-f");
            call.args.push(path.into());
            call.args.extend(more.iter().map(Into::into));
            tool::run(&call).unwrap();
        }
        // As on Red Hat.
        let rsa = root.join("etc/ssh/ssh_host_rsa_key");
        run!("chown", "0:42", &rsa).unwrap();
        fs::set_permissions(&rsa, Permissions::from_mode(0o640)).unwrap();
        rustix::fs::setxattr(&rsa, LABEL, b"sshd_key_t\0", XattrFlags::empty()).unwrap();
    });
    scene
}

/// What ssh-keygen says of each key, by its kind; and that its halves belong together.
fn fingerprints(root: &Path) -> BTreeMap<String, String> {
    let one = |(kind, _, bits): &(&str, &[&str], &str)| {
        let path = root.join(format!("etc/ssh/ssh_host_{kind}_key"));
        let public = path.with_extension("pub");
        // It refuses a private key that others may read.
        let own = tempfile::NamedTempFile::new().unwrap();
        fs::write(own.path(), fs::read(&path).unwrap()).unwrap();
        let made = run!("ssh-keygen", "-y", "-f", own.path()).unwrap();
        let words = |text: &str| text.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let told = fs::read_to_string(&public).unwrap();
        assert_eq!(words(made.trim()), words(told.trim()), "{kind}");
        let line = run!("ssh-keygen", "-l", "-f", &public).unwrap();
        assert!(line.starts_with(&format!("{bits} SHA256:")), "{kind}: {line}");
        let pem = fs::read_to_string(&path).unwrap().starts_with("-----BEGIN RSA");
        assert_eq!(pem, *kind == "rsa");
        ((*kind).to_owned(), line)
    };
    let is_there = |(kind, ..): &&(&str, &[&str], &str)| {
        root.join(format!("etc/ssh/ssh_host_{kind}_key")).exists()
    };
    KEYS.iter().filter(is_there).map(one).collect()
}

fn id(root: &Path) -> String {
    let [id, other] = ["etc/machine-id", "var/lib/dbus/machine-id"]
        .map(|name| fs::read_to_string(root.join(name)).unwrap());
    assert_eq!(id, other);
    assert!(
        id.len() == 33 && id.trim().bytes().all(|digit| b"0123456789abcdef".contains(&digit)),
        "{id}"
    );
    id
}

/// Nothing is done, and not a byte of the disk changes; nobody has to confirm it.
fn is_done(scene: &Scene, name: &str) {
    let before = scene.hash();
    let path = scene.moved.disk.display();
    let said = scene.bench.run(&format!("repair {path} --hostname {name}")).unwrap();
    assert_eq!((&said["done"], &said["steps"]), (&json!([]), &json!([])), "{said:#}");
    assert_eq!(scene.hash(), before);
}

#[test]
fn loop_a_machine_gets_a_name_ids_and_keys_and_nothing_else() {
    let scene = cloned();
    let (tree, old) = scene.root(|root| (Tree::of(root).unwrap(), fingerprints(root)));
    let seed = scene.root(|root| fs::read(root.join("var/lib/systemd/random-seed")).unwrap());
    let path = scene.moved.disk.display();
    let before = scene.hash();
    let dry = scene.bench.run(&format!("repair {path} --hostname lab-07 --dry-run")).unwrap();
    assert_eq!(scene.hash(), before);
    let said = scene.repair("--hostname lab-07", 0);
    assert_eq!(list(&said, "done"), list(&dry, "planned"));
    assert_eq!((&said["runs_programs"], &said["steps"]), (&json!(false), &json!([])));
    assert!(
        list(&said, "done").last().unwrap().contains("etc/hostname on d0:3: moved becomes lab-07")
    );
    let mut expected = ["etc/hostname", "etc/hosts", "etc/machine-id"].map(str::to_owned).to_vec();
    for (kind, ..) in KEYS {
        expected.extend(["", ".pub"].map(|end| format!("etc/ssh/ssh_host_{kind}_key{end}")));
    }
    expected.extend(
        ["var/lib/dbus/machine-id", LEASE, "var/lib/systemd/random-seed"].map(str::to_owned),
    );
    let (own, new) = scene.root(|root| {
        let changed = tree.changed(&Tree::of(root).unwrap());
        let changed: Vec<&str> = changed.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(changed, expected);
        assert!(!root.join(LEASE).exists());
        let now = fs::read(root.join("var/lib/systemd/random-seed")).unwrap();
        assert!(now.len() == seed.len() && now != seed);
        let rsa = root.join("etc/ssh/ssh_host_rsa_key");
        let found = fs::metadata(&rsa).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (0, 42, 0o640));
        let mut label = [0; 20];
        let length = rustix::fs::getxattr(&rsa, LABEL, &mut label).unwrap();
        assert_eq!(&label[..length], b"sshd_key_t\0");
        let other = fs::metadata(root.join("etc/ssh/ssh_host_ed25519_key")).unwrap();
        assert_eq!((other.uid(), other.mode() & 0o7777), (0, 0o600));
        (id(root), fingerprints(root))
    });
    assert_eq!(scene.text("etc/hostname"), "lab-07\n");
    assert_eq!(
        scene.text("etc/hosts"),
        "127.0.0.1 localhost\n127.0.1.1 lab-07.example.org lab-07\n10.0.0.1 moved\n"
    );
    assert_ne!(own, ID);
    for (kind, line) in &new {
        assert_ne!(old[kind], *line);
        assert!(line.contains(" root@lab-07 ("), "{line}");
    }
    judge::disks(std::slice::from_ref(&scene.moved.disk)).unwrap();
    is_done(&scene, "lab-07");
    is_done(&scene, "LAB-07");
    // A machine that gets another name is another machine.
    scene.repair("--hostname lab-08.new.org", 0);
    scene.root(|root| {
        assert_ne!(id(root), own);
        assert!(fingerprints(root).values().all(|line| line.contains(" root@lab-08.new.org (")));
    });
    assert!(scene.text("etc/hosts").contains("\n127.0.1.1 lab-08.new.org lab-08\n"));
}

/// A killed repair leaves whole keys, and what it had not done the next one does.
#[test]
fn loop_a_repair_that_is_killed_anywhere_is_run_again() {
    let scene = cloned();
    // It takes longest to make, eleven times.
    scene.root(|root| {
        ["", ".pub"].map(|end| {
            fs::remove_file(root.join(format!("etc/ssh/ssh_host_rsa_key{end}"))).unwrap();
        })
    });
    let whole = scene.bench.path("whole");
    fs::copy(&scene.moved.disk, &whole).unwrap();
    let disk = scene.moved.disk.display().to_string();
    let mut kills = 0;
    loop {
        fs::copy(&whole, &scene.moved.disk).unwrap();
        let keiki = scene.bench.call(&format!("repair {disk} --confirm {disk} --hostname lab-07"));
        // On entering the call: the file that was made lies beside the one whose place it takes.
        let inject = format!("inject=renameat,renameat2:signal=KILL:when={}", kills + 1);
        let mut call = call!("strace", "-f", "--seccomp-bpf", "-e", inject, "-o", "/dev/null");
        call.args.push(keiki.program);
        call.args.extend(keiki.args);
        // The folders that a killed process mounted on go with the bench.
        let call = call.env("TMPDIR", scene.bench.path(""));
        if tool::outcome(&call).unwrap().code == Some(0) {
            break;
        }
        kills += 1;
        // The old half or the new one, and never a part of one; what has the old name is not done.
        scene.root(|root| {
            for kind in ["ecdsa", "ed25519"] {
                let own = tempfile::NamedTempFile::new().unwrap();
                fs::copy(root.join(format!("etc/ssh/ssh_host_{kind}_key")), own.path()).unwrap();
                fs::set_permissions(own.path(), Permissions::from_mode(0o600)).unwrap();
                run!("ssh-keygen", "-y", "-f", own.path()).unwrap();
            }
            assert_eq!(fs::read_to_string(root.join("etc/hostname")).unwrap(), "moved\n");
        });
        scene.repair("--hostname lab-07", 0);
        scene.root(|root| {
            assert_ne!(id(root), ID);
            assert!(fingerprints(root).values().all(|line| line.contains(" root@lab-07 (")));
            assert!(!root.join(LEASE).exists());
            let left = Tree::of(root).unwrap().changed(&Tree::default());
            assert!(left.iter().all(|path| !path.to_str().unwrap().ends_with(".keiki-new")));
        });
        judge::disks(std::slice::from_ref(&scene.moved.disk)).unwrap();
        is_done(&scene, "lab-07");
    }
    // Two ids, the seed, the hosts, two keys of two halves, the name.
    assert_eq!(kills, 9);
}

/// No key is taken away that no other takes the place of; and the next run makes what this one could not.
#[test]
fn loop_keys_that_cannot_be_made_stay_and_are_a_step() {
    let scene = cloned();
    scene.root(|root| {
        fs::remove_file(root.join("var/lib/dbus/machine-id")).unwrap();
        symlink("../../../etc/machine-id", root.join("var/lib/dbus/machine-id")).unwrap();
        fs::remove_file(root.join("etc/hostname")).unwrap();
        fs::remove_file(root.join("etc/ssh/ssh_host_ed25519_key.pub")).unwrap();
        fs::create_dir(root.join("etc/dropbear")).unwrap();
        fs::write(root.join("etc/dropbear/dropbear_rsa_host_key"), "key").unwrap();
    });
    let keys = |root: &Path| Tree::of(&root.join("etc/ssh")).unwrap();
    let before = scene.root(keys);
    let tools = scene.bench.path("tools");
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("ssh-keygen"), "#!/bin/sh\necho no luck >&2\nexit 3\n").unwrap();
    fs::set_permissions(tools.join("ssh-keygen"), Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let disk = scene.moved.disk.display();
    let line = format!("repair {disk} --confirm {disk} --hostname lab-07");
    let outcome = tool::outcome(&scene.bench.call(&line).env("PATH", path)).unwrap();
    assert_eq!(outcome.code, Some(6), "{}", outcome.talk());
    let said: Value = serde_json::from_str(&outcome.text()).unwrap();
    let steps = list(&said, "steps");
    for (kind, ..) in KEYS {
        says_once(&steps, &format!("rm /etc/ssh/ssh_host_{kind}_key; ssh-keygen -A"));
    }
    says_once(&steps, "/etc/dropbear/dropbear_rsa_host_key");
    assert!(steps.len() == 4 && steps[1].contains("no luck"), "{steps:#?}");
    says_once(&list(&said, "done"), "etc/hostname on d0:3: a host without a name becomes lab-07");
    before.expect(&scene.root(keys)).unwrap();
    let new = scene.root(|root| {
        let name = fs::metadata(root.join("etc/hostname")).unwrap();
        let table = fs::metadata(root.join("etc/fstab")).unwrap();
        assert_eq!((name.uid(), name.mode()), (table.uid(), table.mode()));
        assert!(root.join("var/lib/dbus/machine-id").is_symlink());
        id(root)
    });
    assert_ne!(new, ID);
    assert_eq!(list(&scene.repair("--hostname lab-07", 0), "done").len(), 6);
    scene.root(|root| {
        assert_eq!(id(root), new);
        assert!(fingerprints(root).values().all(|line| line.contains(" root@lab-07 (")));
    });
    judge::disks(std::slice::from_ref(&scene.moved.disk)).unwrap();
    is_done(&scene, "lab-07");
}

#[test]
fn loop_without_a_system_no_name_is_given() {
    let scene = Scene::new();
    let empty = scene.bench.path("empty.img");
    File::create(&empty).unwrap().set_len(8 << 20).unwrap();
    let line = format!("repair {0} --confirm {0} --hostname lab-07", empty.display());
    let why = scene.bench.fails(&line, 3).unwrap();
    assert!(why.contains("no Linux system on the targets"), "{why}");
    for name in ["lab_07", "10.0.0.7", ""] {
        let outcome = tool::outcome(&keiki!("repair", &empty, "--hostname", name)).unwrap();
        assert_eq!(outcome.code, Some(2), "{name}: {}", outcome.talk());
        assert!(outcome.talk().contains("host"), "{}", outcome.talk());
    }
}
