//! `keiki restore`: an image onto disks, partitions or files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::fixup;
use image_core::grow::{self, Growth, Obstacle};
use image_core::image::manifest::{Root, VolumeEntry, unreadable_list};
use image_core::io::Medium;
use image_core::plan::growth::Policy;
use image_core::plan::identity::Renewal;
use image_core::plan::restore::{self as planning, Request, RestorePlan, Target};
use image_core::repo::ImageInfo;
use image_core::report::Report;
use image_core::restore::{self, Job, Restored, Stored, Windows};
use image_core::survey::carriers::{self, Carrier};
use image_core::units::Bytes;
use netboot::room::client::Room;
use serde_json::{Value, json};

use super::keep;
use super::mapping::{self, Mapping};
use super::target::{self, Candidate};
use super::{Usage, location, repository};
use crate::args::Global;
use crate::args::restore::{Onto, Restore};
use crate::exit::Exit;
use crate::output::{self, holes, progress::Progress};

/// Runs the verb.
///
/// # Errors
/// Any: then the targets have no partition table, or were not touched.
pub fn run(global: &Global, args: &Restore, progress: &Progress) -> anyhow::Result<Exit> {
    let repo = repository(global)?;
    let image = repo.resolve(&args.image, progress)?;
    let root = mapping::alone(repo.root(&image)?, args.volume.as_ref(), &args.onto.map)?;
    let stored = Stored { repo: &repo, root: &root };
    let room = room(global, &image, stored, progress)?;
    let origin = Origin {
        verb: "restore",
        done: "restored",
        title: output::image(&image),
        object: json!({"image": args.image}),
        root: &root,
        windows: room.as_ref().map_or(&stored as &dyn Windows, |room| room),
        sources: &[],
        repository: location(global)?.folder(),
    };
    onto(global, (&args.onto, &args.targets), &origin, progress)
}

/// The room in which a server sends the image to many at once, where it does.
fn room<'a>(
    global: &Global,
    image: &ImageInfo,
    stored: Stored<'a>,
    progress: &Progress,
) -> anyhow::Result<Option<Room<'a>>> {
    let location = location(global)?;
    if location.folder().is_some() {
        return Ok(None);
    }
    match Room::find(location.files()?, image.id, stored, progress) {
        Ok(room) => Ok(room),
        Err(Error::Interrupted) => Err(Error::Interrupted.into()),
        // It is a faster way, and no other one.
        Err(error) => {
            progress.warning(&format!("no multicast, everything is fetched by HTTP: {error}"));
            Ok(None)
        }
    }
}

/// What comes onto the targets, and how it is spoken of.
pub struct Origin<'a> {
    /// What is done: `restore`.
    pub verb: &'static str,
    /// What was done: `restored`.
    pub done: &'static str,
    /// The image or the sources, in words.
    pub title: String,
    /// The same as fields of the JSON object.
    pub object: Value,
    /// What there is.
    pub root: &'a Root,
    /// Its data.
    pub windows: &'a dyn Windows,
    /// Disks and files that it is read from: none of them may be a target.
    pub sources: &'a [PathBuf],
    /// The repository, which no target may hold.
    pub repository: Option<&'a Path>,
}

/// Plans, shows the plan, asks, and writes.
///
/// # Errors
/// As [`run`].
pub fn onto(
    global: &Global,
    (args, targets): (&Onto, &[String]),
    origin: &Origin<'_>,
    progress: &Progress,
) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let root = origin.root;
    let Mapping { names, left_out } = Mapping::of(root, targets, &args.map)?;
    let mut candidates = Vec::new();
    for (_, name) in &names {
        candidates.push(Candidate::look(name, origin.repository)?);
    }
    let mut request = Request {
        targets: planned_targets(root, &names, &candidates, args),
        left_out,
        only: args.only.clone(),
        policy: policy(args)?,
        renewal: renewal(args)?,
        blocked: BTreeMap::new(),
        keep: keep::wishes(&args.keep, root, &slots_of(&names, &candidates))?,
        before: candidates.iter().map(|candidate| candidate.before.clone()).collect(),
    };
    refuse_doubles(&candidates)?;
    refuse_sources(origin.sources, &candidates)?;
    let plan = plan(root, &mut request, &|growths| grow::check(&Machine, growths))?;
    let obstacles = fixup::check(&Machine, &restore::renewals(root, &plan)?);
    if !obstacles.is_empty() {
        return Err(Error::refused(format!("no new identifiers: {}", obstacles.join("; "))).into());
    }
    let targets: Vec<String> =
        (0..).zip(&candidates).map(|(at, one)| one.describe(&plan.kept_on(at))).collect();
    let words = output::plan::text(&plan, root, &targets);
    if args.dry_run {
        if global.json {
            output::json(&json!({"plan": plan}))?;
        } else {
            output::say(&words)?;
            plan.warnings.iter().for_each(|warning| progress.warning(warning));
        }
        return Ok(Exit::Done);
    }
    if !global.quiet {
        progress.talk(&words);
    }
    plan.warnings.iter().for_each(|warning| progress.warning(warning));
    let blocks: Vec<_> = candidates
        .iter()
        .filter(|candidate| candidate.info.as_ref().is_some_and(|info| info.sector_size.is_some()))
        .map(|candidate| candidate.path.clone())
        .collect();
    if !blocks.is_empty() {
        judge_carriers(
            &carriers::find(&restore::identifiers(root, &plan), &blocks)?,
            args.keep_ids,
            progress,
        )?;
    }
    progress.finish();
    target::confirm(&candidates, &args.confirm)?;
    let targets = claim(&candidates, &plan, origin.repository)?;
    let touched = AtomicBool::new(false);
    let job = Job {
        windows: origin.windows,
        root,
        plan: &plan,
        targets,
        unused: args.unused.into(),
        read_back: args.verify.into(),
        only_changed: args.only_changed,
        fresh: args.fresh,
        touched: &touched,
        runner: &Machine,
        server: super::view::server()?,
    };
    let restored = restore::restore(&job, progress).map_err(|error| match error {
        Error::Refused(_) => {
            remove_new(&plan);
            anyhow::Error::new(error)
        }
        error if !touched.load(Ordering::Relaxed) => {
            remove_new(&plan);
            anyhow::Error::new(error).context("nothing was written")
        }
        error => unfinished(origin.verb, &plan, error),
    })?;
    progress.finish();
    let volumes = written(origin, &plan);
    let exit = exit(&volumes, &restored);
    let seconds = began.elapsed().as_secs_f64();
    let told = tell(global, (origin, &plan), (&volumes, &restored), seconds, progress);
    holes::tell(&volumes);
    match exit {
        // It was said on standard error too.
        Exit::Damaged => Ok(exit),
        _ => told
            .with_context(|| format!("{} is {}, {}", paths(&plan), origin.done, output::UNSAID))
            .map(|()| exit),
    }
}

/// The slot and the path of each target.
fn slots_of<'a>(
    names: &'a [(String, String)],
    candidates: &'a [Candidate],
) -> Vec<(&'a str, &'a Path)> {
    let paths = candidates.iter().map(|candidate| candidate.path.as_path());
    names.iter().map(|(slot, _)| slot.as_str()).zip(paths).collect()
}

/// Opens all targets for writing, or leaves none behind that was made for it.
fn claim(
    candidates: &[Candidate],
    plan: &RestorePlan,
    repository: Option<&Path>,
) -> Result<Vec<Arc<dyn Medium>>, Error> {
    let mut targets = Vec::new();
    let mut made = Vec::new();
    for (candidate, target) in candidates.iter().zip(&plan.targets) {
        match candidate.claim(target.size, target.sector_size, repository) {
            Ok(device) => targets.push(Arc::new(device) as Arc<dyn Medium>),
            Err(error) => {
                remove(&made);
                return Err(error);
            }
        }
        made.extend(target.creates.then_some(&target.path));
    }
    Ok(targets)
}

/// Removes the target files that were made for a restore which wrote nothing to them.
fn remove_new(plan: &RestorePlan) {
    let made: Vec<&PathBuf> =
        plan.targets.iter().filter(|target| target.creates).map(|target| &target.path).collect();
    remove(&made);
}

fn remove(files: &[&PathBuf]) {
    for file in files {
        // What led here is what the user has to know.
        drop(std::fs::remove_file(file));
    }
}

/// The targets, as they were named.
fn paths(plan: &RestorePlan) -> String {
    let paths = plan.targets.iter().map(|target| target.path.display().to_string());
    paths.collect::<Vec<_>>().join(", ")
}

/// What a restore that did not end leaves behind, said before the reason.
fn unfinished(verb: &str, plan: &RestorePlan, error: Error) -> anyhow::Error {
    let left = format!(
        "the {verb} did not end, and {} cannot be used; run it again, and it goes on from there",
        paths(plan)
    );
    anyhow::Error::new(error).context(left)
}

/// The volumes that were written, with what could not be read of them when they were: of a clone's source that is
/// known by now.
fn written(origin: &Origin<'_>, plan: &RestorePlan) -> Vec<VolumeEntry> {
    let full = plan.volumes.iter().filter(|volume| volume.empty.is_none());
    let entry = |at: usize| {
        let mut entry = origin.root.volumes.get(at)?.clone();
        entry.unreadable = unreadable_list(&origin.windows.unreadable(at));
        entry.hit = origin.windows.hit(at);
        Some(entry)
    };
    full.filter_map(|volume| entry(volume.entry)).collect()
}

fn exit(volumes: &[VolumeEntry], restored: &Restored) -> Exit {
    let unreadable = volumes.iter().any(|volume| !volume.unreadable.is_empty());
    match restored {
        _ if !restored.damaged.is_empty() => Exit::Damaged,
        _ if unreadable => Exit::Unreadable,
        _ if !restored.steps.is_empty() => Exit::StepsRemain,
        _ => Exit::Done,
    }
}

fn tell(
    global: &Global,
    (origin, plan): (&Origin<'_>, &RestorePlan),
    (volumes, restored): (&[VolumeEntry], &Restored),
    seconds: f64,
    progress: &Progress,
) -> anyhow::Result<()> {
    output::damage::tell(&restored.damaged);
    let targets: Vec<_> = plan.targets.iter().map(|target| &target.path).collect();
    if global.json {
        let damaged = output::damage::objects(&restored.damaged);
        let mut object = json!({"targets": targets,
            "written_bytes": restored.written, "skipped_bytes": restored.skipped,
            "continued": restored.continued,
            "grown": restored.grown, "verified": restored.verified, "damaged": damaged,
            "unreadable": holes::ranges(volumes), "hit": holes::hits(volumes),
            "steps": restored.steps, "warnings": plan.warnings, "new_ids": plan.new_ids,
            "seconds": seconds});
        if let (Value::Object(all), Value::Object(more)) = (&mut object, &origin.object) {
            all.extend(more.clone());
        }
        return output::json(&object);
    }
    let paths: Vec<String> = targets.iter().map(|path| path.display().to_string()).collect();
    let paths = paths.join(", ");
    if !restored.damaged.is_empty() {
        return output::say(&format!(
            "{paths}: {} is DAMAGED in the repository; all that it still has was written, but no \
             partition table: the disk does not boot",
            output::damage::volumes(&restored.damaged)
        ));
    }
    if global.quiet {
        return restored.steps.iter().try_for_each(|step| still_to_do(step, progress));
    }
    let checked = if restored.verified { ", read back and equal" } else { "" };
    output::say(&format!(
        "{} {} to {paths}: {} written{checked}, in {seconds:.1} s",
        origin.done, origin.title, restored.written
    ))?;
    for grown in &restored.grown {
        let entry = origin.root.volumes.iter().find(|volume| volume.id == grown.id);
        let how = match entry.map(|entry| entry.content.as_str()) {
            Some(content) if grown.filesystem_grown => format!("its {content} fills it"),
            Some("LVM2_member") => "its volume group has the space".to_owned(),
            _ => "its content did NOT grow".to_owned(),
        };
        output::say(&format!("{} grew from {} to {}: {how}", grown.id, grown.from, grown.to))?;
    }
    restored.steps.iter().try_for_each(|step| still_to_do(step, progress))
}

pub(super) fn still_to_do(step: &str, progress: &Progress) -> anyhow::Result<()> {
    progress.step(step);
    output::say(&format!("still to do: {step}"))
}

fn renewal(args: &Onto) -> anyhow::Result<Option<Renewal>> {
    if !args.new_ids {
        return Ok(None);
    }
    Ok(Some(Renewal { seed: random()?, vg_name: args.vg_name.clone() }))
}

/// New identifiers come from the kernel's random numbers.
pub(super) fn random() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut seed))
        .context("cannot read random numbers")?;
    Ok(seed)
}

fn policy(args: &Onto) -> Result<Policy, Usage> {
    let mut policy = Policy { use_free: args.use_free, ..Policy::default() };
    for argument in &args.grow {
        policy.add(argument).map_err(|why| Usage(format!("--grow {argument}: {why}")))?;
    }
    Ok(policy)
}

fn planned_targets(
    root: &Root,
    names: &[(String, String)],
    candidates: &[Candidate],
    args: &Onto,
) -> Vec<Target> {
    names
        .iter()
        .zip(candidates)
        .map(|((slot, _), candidate)| {
            let disk = root.disks.iter().find(|disk| disk.id == *slot);
            let volume = root.volumes.iter().find(|volume| volume.id == *slot);
            let source_size =
                disk.map(|disk| disk.size).or(volume.map(|volume| volume.size)).unwrap_or_default();
            let file_sectors =
                args.sector_size.or(disk.map(|disk| disk.sector_size)).unwrap_or(Bytes::new(512));
            let info = candidate.info.as_ref();
            Target {
                slot: slot.clone(),
                path: candidate.path.clone(),
                size: info.map_or(args.size.unwrap_or(source_size), |info| info.size),
                sector_size: info.and_then(|info| info.sector_size).unwrap_or(file_sectors),
                creates: info.is_none(),
            }
        })
        .collect()
}

/// Plans, and plans again without the growth that this machine has no tools for, as `check` knows it.
fn plan(
    root: &Root,
    request: &mut Request,
    check: &dyn Fn(&[Growth]) -> Vec<Obstacle>,
) -> Result<RestorePlan, Error> {
    loop {
        let plan = planning::plan(root, request)?;
        let obstacles = check(&restore::growths(&plan)?);
        if obstacles.is_empty() {
            return Ok(plan);
        }
        let mut blocked: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for obstacle in obstacles {
            let asked = plan.grow.iter().any(|growth| growth.id == obstacle.volume && growth.asked);
            if asked || request.blocked.contains_key(&obstacle.volume) {
                return Err(Error::refused(obstacle.to_string()));
            }
            blocked.entry(obstacle.volume).or_default().push(obstacle.why);
        }
        request.blocked.extend(blocked.into_iter().map(|(id, whys)| (id, whys.join("; "))));
    }
}

/// Two attached disks with one identifier: a warning; with one volume group: a refusal, unless the user
/// wants it so.
fn judge_carriers(carriers: &[Carrier], keep_ids: bool, report: &dyn Report) -> Result<(), Error> {
    for carrier in carriers {
        let path = carrier.path.display();
        if carrier.namesake {
            return Err(Error::refused(format!(
                "{path} carries {} already; choose another with --vg-name",
                carrier.what
            )));
        }
        if carrier.volume_group.is_some() && !keep_ids {
            return Err(Error::refused(format!(
                "{path} carries {} too; detach it first, or add --new-ids; with --keep-ids you must \
                 detach one of the two before booting",
                carrier.what
            )));
        }
        report.warning(&format!(
            "{path} carries {} too: detach one of the two before booting",
            carrier.what
        ));
    }
    Ok(())
}

/// Refuses one target named twice.
pub(super) fn refuse_doubles(candidates: &[Candidate]) -> Result<(), Error> {
    for (at, candidate) in candidates.iter().enumerate() {
        for other in candidates.iter().skip(at + 1) {
            if std::path::absolute(&candidate.path).ok() == std::path::absolute(&other.path).ok() {
                let path = candidate.path.display();
                return Err(Error::refused(format!("{path} is named as a target twice")));
            }
            if candidate.info.is_some() && other.info.is_some() {
                image_core::disk::claim::distinct(&candidate.path, &other.path)?;
            }
        }
    }
    Ok(())
}

/// Refuses a target that is a source, or shares bytes with one.
fn refuse_sources(sources: &[PathBuf], candidates: &[Candidate]) -> Result<(), Error> {
    for candidate in candidates.iter().filter(|candidate| candidate.info.is_some()) {
        for source in sources {
            image_core::disk::claim::distinct(source, &candidate.path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use image_core::image::manifest::VolumeEntry;
    use serde_json::json;

    use image_core::error::Error;
    use image_core::extent::Extent;
    use image_core::image::manifest::Root;
    use image_core::pipeline::write::Damage;
    use image_core::units::Bytes;

    use super::{Exit, Growth, Obstacle, Restore, Restored, Target, exit, plan, planning, policy};
    use crate::args::{Cli, Verb};

    fn volume(id: &str, disk: &str, growth: Option<&str>) -> VolumeEntry {
        let volume = json!({"id": id, "disk": disk, "kind": "disk", "offset": 0, "size": 10 << 20,
            "content": "ext4", "used_bytes": 0, "min_bytes": 10 << 20, "state": "clean",
            "growth": growth, "is_container": false, "unreadable": [], "segments": [null]});
        serde_json::from_value(volume).unwrap()
    }

    /// Two disks with an ext4 each.
    fn root() -> Root {
        let mut root = Root::empty("test");
        for id in ["d0", "d1"] {
            let disk = json!({"id": id, "path": "/dev/x", "size": 10 << 20, "sector_size": 512});
            root.disks.push(serde_json::from_value(disk).unwrap());
            root.volumes.push(volume(id, id, Some("resize2fs")));
        }
        root
    }

    fn typed(words: &[&str]) -> Restore {
        let words = ["keiki", "restore", "image"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Restore(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_graver_exit_code_counts() {
        let mut root = root();
        let mut restored = Restored::default();
        assert_eq!(exit(&root.volumes, &restored), Exit::Done);
        restored.steps.push("grow it".to_owned());
        assert_eq!(exit(&root.volumes, &restored), Exit::StepsRemain);
        root.volumes[0].unreadable = vec![Extent::first(Bytes::new(512))];
        assert_eq!(exit(&root.volumes, &restored), Exit::Unreadable);
        restored.damaged.push(Damage {
            volume: "d0".to_owned(),
            range: Extent::first(Bytes::MIB),
            pack: String::new(),
            offset: Bytes::ZERO,
            why: String::new(),
        });
        assert_eq!(exit(&root.volumes, &restored), Exit::Damaged);
    }

    #[test]
    fn missing_tools_stop_only_what_was_asked_for() {
        let lacks = |growths: &[Growth]| -> Vec<Obstacle> {
            let why = ["e2fsck is missing", "resize2fs is missing"];
            let obstacle = |growth: &Growth, why: &str| Obstacle {
                volume: growth.volume.clone(),
                why: why.to_owned(),
            };
            growths.iter().flat_map(|growth| why.map(|why| obstacle(growth, why))).collect()
        };
        let planned = |words: &[&str]| {
            let target = |slot: &str| Target {
                slot: slot.to_owned(),
                path: slot.into(),
                size: Bytes::mib(20),
                sector_size: Bytes::new(512),
                creates: true,
            };
            let mut request = planning::Request {
                targets: vec![target("d0"), target("d1")],
                policy: policy(&typed(words).onto).unwrap(),
                ..planning::Request::default()
            };
            plan(&root(), &mut request, &lacks)
        };
        let plan = planned(&[]).unwrap();
        assert!(plan.grow.is_empty() && plan.warnings.len() == 2, "{:?}", plan.warnings);
        assert!(plan.warnings[0].contains("e2fsck is missing; resize2fs is missing"));
        let why = planned(&["--grow", "d1=rest"]).unwrap_err();
        assert!(matches!(&why, Error::Refused(_)), "{why}");
        assert!(why.to_string().contains("d1 cannot be grown: e2fsck is missing"), "{why}");
    }
}
