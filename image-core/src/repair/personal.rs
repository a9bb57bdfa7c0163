//! A name, ids and keys of a machine's own, where a whole room has the same image.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::Personal;
use super::decide::System;
use super::facts::{Facts, HostKey, Own};
use super::{Act, Plan, windows};
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::fixup::personal::{self, HostName, KeyKind};
use crate::fixup::root::Root;
use crate::sys::mount_namespace::{self, Mounting};
use crate::view::Scratch;

const NAME: &str = "etc/hostname";
const HOSTS: &str = "etc/hosts";
/// The second one is D-Bus's; elsewhere it is a link to the first, or absent.
const IDS: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];
/// What random numbers begin with.
const SEED: &str = "var/lib/systemd/random-seed";
/// What DHCP clients remember: their address, and what they call themselves.
const LEASES: [(&str, &str); 6] = [
    ("var/lib/dhcp", ".leases"),
    ("var/lib/dhclient", ".leases"),
    ("var/lib/dhclient", ".lease"),
    ("var/lib/NetworkManager", ".lease"),
    ("var/lib/dhcpcd", ".lease"),
    ("var/lib/dhcpcd", "duid"),
];
/// Where host keys are without being named, and how their names begin and end.
const KEYS: [(&str, &str, &str); 2] =
    [("etc/ssh", "ssh_host_", "_key"), ("etc/dropbear", "dropbear_", "_host_key")];
/// More are not made; a system has three or four.
const MOST_KEYS: usize = 16;
/// A name where there was none has the owner, mode and label of the first of these; the last ones make it a system.
const LIKE: [&str; 3] = ["etc/fstab", "etc/os-release", "usr/lib/os-release"];
/// How much of what ssh-keygen said stands in a step.
const LONGEST_TALK: usize = 400;

/// What machines must not share, of the filesystem `root`: the system's, or its `/var`.
pub(super) fn see(root: &Root) -> Result<Own> {
    let mut own = Own::default();
    let mut inodes = Vec::new();
    // One file under two names, by a link, is one file.
    let mut once = |name: &str| -> Result<Option<Vec<u8>>> {
        let Some((file, text)) = root.read(name, OFlags::RDONLY)? else { return Ok(None) };
        let inode = file.metadata().map(|found| found.ino()).unwrap_or_default();
        let is_new = !inodes.contains(&inode);
        inodes.push(inode);
        Ok(is_new.then_some(text))
    };
    let with_var = |name: &'static str| std::iter::once(name).chain(name.strip_prefix("var/"));
    for name in [NAME, HOSTS, SEED].into_iter().chain(IDS).flat_map(with_var) {
        own.files.extend(once(name)?.map(|text| (name.to_owned(), text)));
    }
    for (folder, end) in LEASES {
        for folder in with_var(folder) {
            for path in root.list(folder, end)?.into_iter().filter(|path| is_shown(path)) {
                own.leases.extend(once(&path)?.map(|_| path));
            }
        }
    }
    for path in keys_of(root)? {
        if let Some(private) = once(&path)? {
            let public = once(&format!("{path}.pub"))?;
            own.keys.insert(path, HostKey { private, public, new: None });
        }
    }
    Ok(own)
}

/// What is said of it goes to a terminal.
fn is_shown(path: &str) -> bool {
    !path.contains(char::is_control)
}

/// The host keys where they are looked for, and those that sshd's configuration names, there or not.
fn keys_of(root: &Root) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for (folder, start, end) in KEYS {
        let named = |path: &String| path.rsplit('/').next().is_some_and(|it| it.starts_with(start));
        keys.extend(root.list(folder, end)?.into_iter().filter(named));
    }
    let more = root.list("etc/ssh/sshd_config.d", ".conf")?;
    for config in std::iter::once("etc/ssh/sshd_config".to_owned()).chain(more) {
        let text = root.read(&config, OFlags::RDONLY)?;
        keys.extend(text.map(|(_, text)| personal::host_keys(&text)).unwrap_or_default());
    }
    keys.retain(|path| is_shown(path));
    Ok(keys)
}

/// Has ssh-keygen make keys of the same kinds for the host `name`, where it has none of its own. They are nowhere but in
/// memory, and nobody else sees them there.
///
/// # Errors
/// [`Error::Io`]: there is no place for them. That ssh-keygen cannot make one is noted.
pub(super) fn make_keys(runner: &dyn Runner, own: &mut Own, name: &HostName) -> Result<()> {
    let wanted: Vec<_> = own.keys.iter_mut().filter(|(_, key)| !key.is_of(name)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let folder = Scratch::new()?;
    let device = Path::new("keiki-keys");
    let memory = Mounting { device, kind: "tmpfs", options: "mode=700", read_only: false };
    mount_namespace::mounted(memory, folder.path(), || {
        for (path, key) in wanted.into_iter().take(MOST_KEYS) {
            if let Some(kind) = personal::key_kind(path, key.public.as_deref()) {
                // OpenSSH before 6.5 reads no other form.
                let is_pem = !key.private.starts_with(b"-----BEGIN OPENSSH");
                key.new = Some(made(runner, kind, is_pem, name, folder.path())?);
            }
        }
        Ok(())
    })
}

/// Both halves of a new key; or why there are none.
fn made(
    runner: &dyn Runner,
    KeyKind { name: kind, bits }: KeyKind,
    is_pem: bool,
    name: &HostName,
    folder: &Path,
) -> Result<Result<[Vec<u8>; 2], String>> {
    if runner.find("ssh-keygen").is_none() {
        return Ok(Err("ssh-keygen is not installed here, package openssh-client".to_owned()));
    }
    let [private, public] = [folder.join("key"), folder.join("key.pub")];
    let comment = format!("root@{name}");
    let mut call = Call::new("ssh-keygen", ["-q", "-t", kind, "-N", "", "-C", &comment, "-f"]);
    call.args.push(private.clone().into());
    if let Some(bits) = bits {
        call.args.extend(["-b".into(), bits.to_string().into()]);
    }
    if is_pem && kind != "ed25519" {
        call.args.extend(["-m".into(), "PEM".into()]);
    }
    let outcome = runner.run(&call)?;
    if !outcome.success() {
        let said: String = outcome.talk().chars().take(LONGEST_TALK).collect();
        return Ok(Err(format!("ssh-keygen makes no {kind} key: {said}")));
    }
    let taken = |path: &Path| -> Result<Vec<u8>> {
        let failed = |source| Error::io(path.display().to_string(), "read", source);
        let text = std::fs::read(path).map_err(failed)?;
        std::fs::remove_file(path).map_err(failed)?;
        Ok(text)
    };
    Ok(Ok([taken(&private)?, taken(&public)?]))
}

impl HostKey {
    fn is_of(&self, name: &HostName) -> bool {
        self.public.as_ref().is_some_and(|text| personal::is_key_of(text, name))
    }
}

/// What has to be done. The name comes last: a system that has it has got everything else.
pub(super) fn decide(facts: &Facts, system: &System, wish: &Personal<'_>, plan: &mut Plan) {
    let Some(root) = facts.sights.get(&system.root) else { return };
    let written = root.own.files.get(NAME);
    let old = written.and_then(|text| personal::name(text));
    let is_named = old.as_ref().is_some_and(|old| wish.name.is(old));
    let old = old.unwrap_or_default();
    let why = || {
        let from = if old.is_empty() { "a host without a name" } else { &old };
        vec![format!("{from} becomes {}", wish.name)]
    };
    if !is_named {
        for (volume, point) in &system.tree {
            ids(facts, (volume, point), wish, plan);
        }
        let hosts = root.own.files.get(HOSTS);
        let changed = hosts.and_then(|text| personal::hosts(text, &old, wish.name));
        if let (Some(text), Some(new)) = (hosts, changed) {
            plan.acts.push(rewrite(&system.root, HOSTS, text, new, why()));
        }
        plan.steps.extend(given_ids(facts, system));
    }
    let steps = plan.steps.len();
    windows::decide(facts, wish.name, plan);
    if is_named {
        // Told once.
        plan.steps.truncate(steps);
    }
    keys(&root.own, &system.root, wish.name, is_named, plan);
    if !is_named {
        let new = format!("{}\n", wish.name).into_bytes();
        plan.acts.push(match written {
            Some(text) => rewrite(&system.root, NAME, text, new, why()),
            None => {
                let like = LIKE.into_iter().find(|name| root.files.contains_key(*name));
                add(&system.root, NAME, like.unwrap_or_default(), new, why())
            }
        });
    }
}

/// Files that give an id to every machine which reads them; machine-id(5): it comes before the one in `/etc`.
fn given_ids<'a>(facts: &'a Facts, system: &'a System) -> impl Iterator<Item = String> + 'a {
    const WORD: &[u8] = b"systemd.machine_id=";
    let has = |text: &[u8]| text.windows(WORD.len()).any(|word| word == WORD);
    let volumes = std::iter::once(&system.root).chain(&system.boot);
    let sights = volumes.filter_map(|id| Some((id, facts.sights.get(id)?)));
    let files = sights.flat_map(|(id, sight)| sight.files.iter().map(move |file| (id, file)));
    files.filter(move |(_, (_, text))| has(text)).map(|(volume, (name, _))| {
        format!(
            "take systemd.machine_id= out of {name} on {volume}, it is that of every machine with this image: edit it"
        )
    })
}

pub(super) fn rewrite(volume: &str, file: &str, old: &[u8], new: Vec<u8>, why: Vec<String>) -> Act {
    Act::Rewrite { volume: volume.to_owned(), file: file.to_owned(), old: old.to_vec(), new, why }
}

pub(super) fn add(volume: &str, file: &str, like: &str, new: Vec<u8>, why: Vec<String>) -> Act {
    let [volume, file, like] = [volume, file, like].map(str::to_owned);
    Act::Add { volume, file, like, new, why }
}

/// The ids of one volume, which the system mounts on `point`, and what its DHCP clients remember.
fn ids(facts: &Facts, (volume, point): (&str, &str), wish: &Personal<'_>, plan: &mut Plan) {
    let prefix = match point {
        "" => "",
        "var" => "var/",
        _ => return,
    };
    let Some(own) = facts.sights.get(volume).map(|sight| &sight.own) else { return };
    let id = uuid::Builder::from_random_bytes(wish.random("machine-id")).into_uuid();
    for (path, text) in &own.files {
        let in_system = format!("{prefix}{path}");
        let (new, why) = if IDS.contains(&in_system.as_str()) && personal::is_machine_id(text) {
            (format!("{}\n", id.simple()).into_bytes(), "an id of its own")
        } else if in_system == SEED && !text.is_empty() {
            let mut new = vec![0; text.len()];
            wish.fill(SEED, &mut new);
            (new, "random numbers of its own")
        } else {
            continue;
        };
        plan.acts.push(rewrite(volume, path, text, new, vec![why.to_owned()]));
    }
    let is_lease = |path: &&String| {
        let in_system = format!("{prefix}{path}");
        LEASES.iter().any(|(folder, _)| in_system.starts_with(&format!("{folder}/")))
    };
    let files: Vec<String> = own.leases.iter().filter(is_lease).cloned().collect();
    if !files.is_empty() {
        plan.acts.push(Act::Forget { volume: volume.to_owned(), files });
    }
}

/// Each key by itself: who finds one that is not the host's own replaces it, also where an earlier run could not.
fn keys(own: &Own, volume: &str, name: &HostName, is_named: bool, plan: &mut Plan) {
    for (path, key) in own.keys.iter().filter(|(_, key)| !key.is_of(name)) {
        let [private, public] = match &key.new {
            Some(Ok(new)) => new.clone(),
            Some(Err(why)) => {
                plan.steps.push(format!(
                    "make a new SSH host key on {name}, {path} is that of every machine with this image ({why}): \
                     rm /{path}; ssh-keygen -A"
                ));
                continue;
            }
            // Nothing tells whether this was done already.
            None if is_named => continue,
            None => {
                plan.steps.push(format!(
                    "make a new host key in place of /{path}, which every machine with this image has; for \
                     dropbear: dropbearkey, for others: ssh-keygen -f /{path}"
                ));
                continue;
            }
        };
        let [half, other] = ["a key of its own", "the public half of it"];
        // In this order: by the public half it is told later whether this was done.
        plan.acts.push(rewrite(volume, path, &key.private, private, vec![half.to_owned()]));
        let (file, why) = (format!("{path}.pub"), vec![other.to_owned()]);
        plan.acts.push(match &key.public {
            Some(old) => rewrite(volume, &file, old, public, why),
            None => add(volume, &file, path, public, why),
        });
    }
}
