//! Does what was planned: files first, then the initramfs, then what starts the system.

use super::facts::{Builder, Facts, Sight};
use super::{Act, Job, Repaired, builder, look, windows};
use crate::error::{Error, Result};
use crate::exec::Call;
use crate::fixup::esp::Esp;
use crate::fixup::lvm_devices;
use crate::fixup::root::Root;
use crate::grow;
use crate::report::{Report, Stage};
use crate::survey::model::Volume;
use crate::units::Bytes;
use crate::view::{NTFS, Need, OpenView, View};

/// How much of what a program said stands in a step.
const LONGEST_TALK: usize = 400;

/// Carries the plan out.
///
/// # Errors
/// [`Error::Refused`] where a file is not what it was when the plan was made; [`Error::Corrupt`] where a filesystem is
/// damaged; [`Error::Io`]. What was done before that stays done, and the same repair may be run again.
pub fn repair(job: &Job<'_>, report: &dyn Report) -> Result<Repaired> {
    report.stage(Stage::Repair, None);
    let mut repaired = Repaired { steps: job.plan.steps.clone(), ..Repaired::default() };
    // The root comes last: a host name says that everything is done that goes with it.
    let is_root = |volume: &&Volume| volume.id == job.plan.root;
    let volumes = || job.survey.volumes.iter();
    for volume in volumes().filter(|it| !is_root(it)).chain(volumes().filter(is_root)) {
        let acts: Vec<&Act> = job.plan.acts.iter().filter(|act| is_in(act, &volume.id)).collect();
        if !acts.is_empty() {
            report.checkpoint()?;
            in_volume(job, volume, &acts)?;
        }
    }
    for act in &job.plan.acts {
        report.checkpoint()?;
        let step = match act {
            // In its volume, above.
            Act::Rewrite { .. }
            | Act::Add { .. }
            | Act::Forget { .. }
            | Act::SetAside { .. }
            | Act::Fallback { .. } => None,
            Act::Initramfs { builder, tree, kernels, wanted, .. } => {
                initramfs(job, *builder, tree, (kernels, wanted))?
            }
            Act::Grub { disk, place, code, core, .. } => {
                grub(job, *disk, *place, [code, core])?;
                None
            }
            Act::BootEntry { .. } => boot_entry(job, act)?,
        };
        match step {
            Some(step) => repaired.steps.push(step),
            None => repaired.done.push(act.words()),
        }
    }
    job.targets.iter().try_for_each(|target| target.flush())?;
    Ok(repaired)
}

fn is_in(act: &Act, id: &str) -> bool {
    match act {
        Act::Rewrite { volume, .. }
        | Act::Add { volume, .. }
        | Act::Forget { volume, .. }
        | Act::SetAside { volume }
        | Act::Fallback { volume, .. } => volume == id,
        _ => false,
    }
}

/// The changes of files on one volume.
fn in_volume(job: &Job<'_>, volume: &Volume, acts: &[&Act]) -> Result<()> {
    let layout = look::place(job.survey, &volume.id, &|slot| job.node(slot))?;
    let kind = look::mounted_as(&volume.content);
    let need = if kind.is_some() { Need::Mount } else { Need::Path };
    let view = View::of(&layout, need, true);
    let changed = OpenView::with(&layout, view, &job.server, |view| match kind {
        Some((kind, options)) => {
            before(job, volume, view)?;
            view.mounted(kind, options, false, |folder| {
                let root = Root::of(folder)?;
                acts.iter().try_for_each(|act| in_filesystem(&root, act))
            })?;
            after(job, volume, view)
        }
        None => {
            let esp = Esp { runner: job.runner, image: &view.path() };
            acts.iter().try_for_each(|act| in_esp(&esp, act))
        }
    });
    changed.map(drop).map_err(|error| error.on(&volume.id))
}

fn in_filesystem(root: &Root, act: &Act) -> Result<()> {
    match act {
        Act::Rewrite { file, old, new, .. } => root.replace(file, old, new),
        Act::Add { file, like, new, .. } => root.add(file, like, new),
        Act::Forget { files, .. } => files.iter().try_for_each(|file| root.remove(file)),
        Act::SetAside { .. } => root.set_aside(lvm_devices::FILE).map(drop),
        _ => Ok(()),
    }
}

fn in_esp(esp: &Esp<'_>, act: &Act) -> Result<()> {
    match act {
        Act::Rewrite { file, old, new, .. } => {
            if esp.read(file)? != *old {
                return Err(Error::refused(format!(
                    "{file} is not what it was when the plan was made; run it again"
                )));
            }
            esp.write(file, new.clone())
        }
        Act::Fallback { copies, .. } => esp.copy(copies),
        _ => Ok(()),
    }
}

/// An ext filesystem that was not unmounted is for its own tool; XFS replays its log as it is mounted; NTFS that was
/// not unmounted is not touched.
fn before(job: &Job<'_>, volume: &Volume, view: &OpenView) -> Result<()> {
    match volume.content.as_str() {
        NTFS => windows::check(job.runner, &view.path()),
        content if content.starts_with("ext") => grow::ext::replay(job.runner, &view.path()),
        _ => Ok(()),
    }
}

/// Where ext was last mounted must not become where it was mounted here; NTFS is looked at by another program.
fn after(job: &Job<'_>, volume: &Volume, view: &OpenView) -> Result<()> {
    if volume.content == NTFS {
        return windows::check(job.runner, &view.path());
    }
    if !volume.content.starts_with("ext") {
        return Ok(());
    }
    let needs = volume.needs.as_ref().and_then(|needs| needs.last_mounted.clone());
    let call = Call::new(
        "tune2fs",
        ["-M".into(), needs.unwrap_or_default().into(), view.path().into_os_string()],
    );
    job.runner.check(&call).map(drop)
}

/// Runs the system's own program; a step where that did not help.
fn initramfs(
    job: &Job<'_>,
    builder: Builder,
    tree: &[(String, String)],
    (kernels, wanted): (&[String], &[String]),
) -> Result<Option<String>> {
    let mut branches = Vec::new();
    for (id, point) in tree {
        let volume = job.survey.volumes.iter().find(|volume| volume.id == *id);
        let volume = volume.ok_or_else(|| Error::refused(format!("there is no volume {id}")))?;
        let layout = look::place(job.survey, id, &|slot| job.node(slot))?;
        let view = OpenView::open(&layout, View::of(&layout, Need::Mount, true), &job.server)?;
        before(job, volume, &view)?;
        branches.push((view, volume, point.as_str()));
    }
    let mounted: Vec<(&OpenView, &str, &str)> = branches
        .iter()
        .filter_map(|(view, volume, point)| {
            Some((view, look::mounted_as(&volume.content)?.0, *point))
        })
        .collect();
    let built = OpenView::rooted(&mounted, |folder| {
        let failed = builder::build(job.runner, builder, folder)?;
        Ok((failed, sights(folder, tree)?))
    });
    let mut closed = Ok(());
    for (view, volume, _) in branches {
        let told = after(job, volume, &view);
        closed = closed.and(told).and(view.close().map(drop));
    }
    let (failed, sights) = built?;
    closed?;
    let still = still_missing(&sights, (kernels, wanted));
    let why = match (failed, still.is_empty()) {
        (Some(said), _) => said.chars().take(LONGEST_TALK).collect(),
        (None, false) => still.join("; "),
        (None, true) => return Ok(None),
    };
    Ok(Some(format!(
        "rebuild the initramfs in the repaired system, from a rescue system in a chroot: {} (here it ended with: {why})",
        builder.line()
    )))
}

/// What is there now, of all of the system's volumes.
fn sights(folder: &std::path::Path, tree: &[(String, String)]) -> Result<Facts> {
    let mut facts = Facts::default();
    for (id, point) in tree {
        let root = Root::of(&folder.join(point))?;
        let sight = Sight { files: Default::default(), ..look::see(&root)? };
        facts.sights.insert(id.clone(), sight);
    }
    Ok(facts)
}

fn still_missing(facts: &Facts, (versions, wanted): (&[String], &[String])) -> Vec<String> {
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let mut missing = Vec::new();
    let kernels = || facts.sights.values().flat_map(|sight| &sight.kernels);
    for (path, ramdisk) in facts.sights.values().flat_map(|sight| &sight.ramdisks) {
        let version = crate::fixup::drivers::version(path)
            .filter(|found| versions.iter().any(|one| one == found));
        let kernel = version.and_then(|version| kernels().find(|(name, _)| *name == version));
        if let (Some((_, kernel)), Some(ramdisk)) = (kernel, ramdisk) {
            let lacks = kernel.missing(&wanted, ramdisk);
            if !lacks.is_empty() {
                missing.push(format!("{path} still lacks {}", lacks.join(", ")));
            }
        }
    }
    missing
}

/// The core first: until it is durable, the first sector leads to the old one.
fn grub(job: &Job<'_>, disk: usize, place: Bytes, [code, core]: [&[u8]; 2]) -> Result<()> {
    let target = job.targets.get(disk).ok_or_else(|| Error::refused("there is no such target"))?;
    for (at, bytes) in [(place, core), (Bytes::ZERO, code)] {
        target.write_at(at, bytes)?;
        target.flush()?;
        if target.direct()?.read(at, bytes.len())? != bytes {
            let source = std::io::Error::other("the target returns other bytes than were written");
            return Err(Error::io_at(target.name(), "read back GRUB", at, source));
        }
    }
    Ok(())
}

/// A machine's firmware may refuse; the system starts by the fallback then.
fn boot_entry(job: &Job<'_>, act: &Act) -> Result<Option<String>> {
    let Act::BootEntry { disk, number, loader, label } = act else { return Ok(None) };
    let Some(path) = job.survey.slots.get(*disk).map(|slot| slot.path.clone()) else {
        return Ok(None);
    };
    let number = number.to_string();
    let mut call = Call::new(
        "efibootmgr",
        ["--create", "--part", &number, "--loader", loader, "--label", label],
    );
    call.args.extend(["--disk".into(), path.into()]);
    match job.runner.check(&call) {
        Ok(_) => Ok(None),
        Err(error) => Ok(Some(format!("make a boot entry ({error}): {}", call.line()))),
    }
}
