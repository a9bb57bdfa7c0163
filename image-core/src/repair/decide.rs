//! What has to be changed in the files of a system, by what was found; pure.

use std::path::Path;

use super::boot;
use super::facts::{Facts, Sight};
use super::{Act, Plan, Wishes, personal, windows};
use crate::error::{Error, Result};
use crate::fixup::devices::{Disks, Known, Mention, named};
use crate::fixup::tables::{Kind, Mended};
use crate::fixup::{files, lvm_devices, tables, unsteady, words};

/// The system that is repaired, and where its parts are.
#[derive(Debug)]
pub(super) struct System {
    /// The volume with its root.
    pub(super) root: String,
    /// The volume with `/boot`, where that is another one.
    pub(super) boot: Option<String>,
    /// Every volume, with what is known now of where it is mounted.
    pub(super) known: Vec<Known>,
    /// What programs of the system need of it: volumes and their mount points, the root first.
    pub(super) tree: Vec<(String, String)>,
}

/// What has to be done, and what remains.
///
/// # Errors
/// [`Error::Refused`] where there is no system, or several.
pub(super) fn decide(facts: &Facts, wishes: &Wishes<'_>) -> Result<Plan> {
    let named = wishes.personal.filter(|_| wishes.root.is_none());
    if let Some(plan) = named.and_then(|wish| windows::only(facts, wish.name)) {
        return Ok(plan);
    }
    let system = system(facts, wishes.root)?;
    let name = facts.sights.get(&system.root).and_then(|sight| sight.system.clone());
    let mut plan =
        Plan { system: name.unwrap_or_default(), root: system.root.clone(), ..Plan::default() };
    texts(facts, &system, &mut plan);
    lvm(facts, &system, &mut plan);
    if let Some(wish) = &wishes.personal {
        personal::decide(facts, &system, wish, &mut plan);
    }
    boot::esps(facts, wishes, &mut plan);
    boot::initramfs(facts, &system, wishes, &mut plan);
    boot::grub(facts, &system, &mut plan);
    for (volume, why) in &facts.closed {
        plan.steps.push(format!(
            "see for yourself whether {volume} needs anything: it could not be looked into ({why})"
        ));
    }
    Ok(plan)
}

/// The one system that is there, or the one whose root is the volume `wanted`.
fn system(facts: &Facts, wanted: Option<&str>) -> Result<System> {
    let roots: Vec<&String> =
        facts.sights.iter().filter(|(_, sight)| sight.system.is_some()).map(|(id, _)| id).collect();
    let list = |ids: &[&String]| ids.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
    let root = match (wanted, roots.as_slice()) {
        (Some(wanted), _) => roots.iter().find(|id| **id == wanted).copied(),
        (None, [root]) => Some(*root),
        (None, []) => None,
        (None, several) => {
            let several = list(several);
            return Err(Error::refused(format!(
                "there are several systems ({several}); name one with --root"
            )));
        }
    };
    let Some(root) = root else {
        let closed =
            facts.closed.iter().map(|(id, why)| format!("{id}: {why}")).collect::<Vec<_>>();
        let more =
            if closed.is_empty() { String::new() } else { format!(" ({})", closed.join("; ")) };
        let what = wanted.map_or("no Linux system".to_owned(), |id| {
            format!("no Linux system whose root is {id}")
        });
        return Err(Error::refused(format!("there is {what} on the targets{more}")));
    };
    let mut known = facts.known.clone();
    point(&mut known, root, "/");
    let fstab = facts.sights.get(root).and_then(|sight| sight.files.get("etc/fstab"));
    let fstab = fstab.map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default();
    let mut tree = vec![(root.clone(), String::new())];
    let boot = mounted_on(&fstab, "/boot", &known).or_else(|| only_boot(facts, root));
    if let Some(boot) = &boot {
        point(&mut known, boot, "/boot");
        tree.push((boot.clone(), "boot".to_owned()));
    }
    for other in ["/usr", "/var"] {
        let volume = mounted_on(&fstab, other, &known);
        let volume = volume.filter(|volume| facts.sights.contains_key(volume) && volume != root);
        tree.extend(volume.map(|volume| (volume, other.trim_start_matches('/').to_owned())));
    }
    let boot = boot.filter(|boot| facts.sights.contains_key(boot));
    tree.retain(|(id, _)| facts.sights.contains_key(id));
    Ok(System { root: root.clone(), boot, known, tree })
}

fn point(known: &mut [Known], id: &str, point: &str) {
    for one in known.iter_mut() {
        if one.id == id {
            one.point = Some(point.to_owned());
        } else if one.point.as_deref() == Some(point) {
            // Where it was mounted once is not where it belongs.
            one.point = None;
        }
    }
}

/// The volume that `fstab` puts on `point`, by an identifier.
fn mounted_on(fstab: &str, point: &str, known: &[Known]) -> Option<String> {
    let mut lines = fstab.lines().map(str::split_whitespace);
    let device = lines.find_map(|mut words| {
        let device = words.next().filter(|device| !device.starts_with('#'))?;
        (words.next() == Some(point)).then(|| device.to_owned())
    })?;
    named(&device, known).map(|one| one.id.clone())
}

/// The only volume that looks like `/boot` and is no root.
fn only_boot(facts: &Facts, root: &str) -> Option<String> {
    let looks = |sight: &Sight| {
        let file = |name: &String| name.starts_with("grub") || name.starts_with("loader/");
        sight.system.is_none()
            && (sight.ramdisks.keys().any(|path| !path.contains('/'))
                || sight.files.keys().any(file))
    };
    let own = facts.sights.get(root)?;
    if own.ramdisks.keys().any(|path| path.starts_with("boot/")) {
        return None;
    }
    let mut found = facts.sights.iter().filter(|(_, sight)| looks(sight));
    found.next().map(|(id, _)| id.clone()).filter(|_| found.next().is_none())
}

/// A configuration file, and how it is read.
struct Text<'a> {
    volume: &'a str,
    name: &'a str,
    text: &'a [u8],
    form: Form,
}

/// What a file may say of devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Table(Kind),
    /// Words of a kernel command line.
    Words,
    /// `RESUME=` of initramfs-tools.
    Resume,
    /// Names that are only looked for.
    Other,
}

impl Form {
    fn of(name: &str) -> Option<Self> {
        let starts = |start: &str| name.starts_with(start);
        Some(match name {
            "etc/fstab" => Self::Table(Kind::Fstab),
            "etc/crypttab" | "etc/crypttab.initramfs" => Self::Table(Kind::Crypttab),
            "etc/hostname"
            | "etc/os-release"
            | "usr/lib/os-release"
            | "etc/lvm/devices/system.devices" => return None,
            _ if starts("etc/initramfs-tools/") => Self::Resume,
            _ if starts("etc/grub.d/")
                || starts("etc/udev/")
                || starts("etc/systemd/")
                || starts("etc/lvm/") =>
            {
                Self::Other
            }
            _ => Self::Words,
        })
    }

    fn mentions(self, text: &[u8]) -> Vec<Mention> {
        match self {
            Self::Table(kind) => tables::mentions(kind, text),
            Self::Words => words::mentions(text),
            Self::Resume => words::resume_file_mentions(text),
            Self::Other => Vec::new(),
        }
    }

    fn mend(self, text: &[u8], disks: &Disks, known: &[Known]) -> Mended {
        match self {
            Self::Table(kind) => tables::mend(kind, text, disks, known),
            Self::Words => words::mend(text, disks, known),
            Self::Resume => words::mend_resume_file(text, disks, known),
            Self::Other => Mended::default(),
        }
    }
}

/// The files that name devices.
fn texts(facts: &Facts, system: &System, plan: &mut Plan) {
    let mut all = Vec::new();
    for volume in std::iter::once(&system.root).chain(&system.boot) {
        let Some(sight) = facts.sights.get(volume) else { continue };
        for (name, text) in &sight.files {
            if let Some(form) = Form::of(name) {
                all.push(Text { volume, name, text, form });
            }
        }
    }
    for (volume, esp) in &facts.esps {
        all.extend(esp.texts.iter().map(|(name, text)| Text {
            volume,
            name,
            text,
            form: Form::Words,
        }));
    }
    let mentions: Vec<Mention> = all.iter().flat_map(|one| one.form.mentions(one.text)).collect();
    let disks = Disks::learn(&mentions, &system.known);
    for Text { volume, name, text, form } in all {
        let mended = form.mend(text, &disks, &system.known);
        let new = mended.text.map(|new| files::padded(name, new));
        let mut left = mended.left;
        let is_table = matches!(form, Form::Table(_));
        // What a table says was looked at line by line; other files may say more than was looked for.
        let other =
            (!is_table).then(|| unsteady::device(name, new.as_deref().unwrap_or(text))).flatten();
        left.extend(other.filter(|other| !left.contains(other)));
        let file =
            if *volume == *system.root { name.to_owned() } else { format!("{name} on {volume}") };
        for device in left {
            plan.steps.push(format!(
                "find out which volume {device} in {file} was, and name it by its UUID= there: blkid"
            ));
        }
        if let Some(new) = new {
            plan.acts.push(Act::Rewrite {
                volume: volume.to_owned(),
                file: name.to_owned(),
                old: text.to_vec(),
                new,
                why: mended.done,
            });
        }
    }
}

/// LVM's list of devices.
fn lvm(facts: &Facts, system: &System, plan: &mut Plan) {
    let list = Path::new(lvm_devices::FILE[0]).join(lvm_devices::FILE[1]);
    let list = list.to_str().unwrap_or_default();
    let text = facts.sights.get(&system.root).and_then(|sight| sight.files.get(list));
    if text.is_some_and(|text| !facts.pvs.is_empty() && !lvm_devices::finds(text, &facts.pvs)) {
        plan.acts.push(Act::SetAside { volume: system.root.clone() });
    }
}
