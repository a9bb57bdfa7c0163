//! The verbs of the program on a small stage, and what must be true whatever went wrong on it.
//!
//! Answers: did a verb do what its exit code says; is everything still there that was there before; does the same
//! verb, run again, end as if nothing had been. What goes wrong is the caller's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use image_core::exec::{Call, Outcome};
use image_core::extent::Extent;
use image_core::image::hash::{ChunkId, Hash};
use image_core::image::pack::parse_tail;
use image_core::units::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::keiki;
use crate::kill::{noise, put};
use crate::{call, filesystem, fixtures, judge, run, sparse, table, tool};

/// What a verb is for, and so what can be asked of it afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// An image `new` of the source.
    Save,
    /// The image `disk` is in a repository that was not there before, too.
    Copy,
    /// The target becomes a copy.
    Restore,
    /// No pack holds what no image needs.
    Prune,
    /// The image `disk` is forgotten.
    Forget,
    /// Words on standard output.
    Tell,
    /// A verdict on standard output.
    Check,
}

/// A verb as it is typed on the stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scene {
    /// Its name in tables.
    pub name: &'static str,
    line: &'static str,
    purpose: Purpose,
}

impl Scene {
    const fn new(name: &'static str, line: &'static str, purpose: Purpose) -> Self {
        Self { name, line, purpose }
    }

    /// Whether it changes the repository.
    pub fn changes_repository(&self) -> bool {
        !matches!(self.purpose, Purpose::Restore | Purpose::Tell)
    }
}

/// A disk into the repository.
pub const SAVE: Scene = Scene::new("save", "save source --name new", Purpose::Save);
/// An image onto a disk.
pub const RESTORE: Scene =
    Scene::new("restore", "restore disk target --confirm target", Purpose::Restore);
/// A disk onto a disk.
pub const CLONE: Scene =
    Scene::new("clone", "clone source target --confirm target", Purpose::Restore);
/// An image into another repository: what happens to that happens to a `target`.
pub const COPY: Scene = Scene::new("copy", "copy disk --to target.repo", Purpose::Copy);
/// What no image needs goes.
pub const PRUNE: Scene = Scene::new("prune", "prune --now", Purpose::Prune);

/// Every verb.
pub const ALL: [Scene; 12] = [
    SAVE,
    RESTORE,
    CLONE,
    COPY,
    Scene::new("verify", "verify disk", Purpose::Tell),
    Scene::new("check", "check --read-data", Purpose::Check),
    Scene::new("check --rebuild", "check --rebuild", Purpose::Check),
    PRUNE,
    Scene::new("rm", "rm disk", Purpose::Forget),
    Scene::new("show", "show disk", Purpose::Tell),
    Scene::new("images", "images", Purpose::Tell),
    Scene::new("inspect", "inspect source", Purpose::Tell),
];

/// The repository that images are copied into.
const OTHER: &str = "target.repo";

/// Images that are there from the beginning, and stay.
const IMAGES: [&str; 2] = ["disk", "kept"];

/// A folder with the source `source`, the target `target`, which was another disk before, and the repository
/// `repo` with the images `disk` and `kept`; with things in its trash, things for it, and a pack to rewrite.
#[derive(Debug)]
pub struct Stage {
    folder: TempDir,
}

impl Stage {
    /// A new one, the same each time.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        static FIRST: OnceLock<Result<TempDir, String>> = OnceLock::new();
        let first = FIRST.get_or_init(|| build().map_err(|error| format!("{error:#}")));
        let first = first.as_ref().map_err(|error| anyhow::anyhow!("the stage: {error}"))?;
        let folder = TempDir::new_in(fixtures::folder()?)?;
        run!("cp", "-r", "--preserve=timestamps", first.path().join("."), folder.path())?;
        Ok(Self { folder })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn build() -> Result<TempDir> {
    let folder = TempDir::new_in(fixtures::folder()?)?;
    let path = |name: &str| folder.path().join(name);
    let typed = |line: &str| run_whole(folder.path(), line);
    let (source, target) = (path("source"), path("target"));
    disk(&source)?;
    let part = table::partitions(&source)?[1];
    let change = |seed, mib: std::ops::Range<u64>| {
        let at = part.start + Bytes::mib(mib.start);
        put(&source, at, &noise(seed, Bytes::mib(mib.end - mib.start)))
    };
    fs::copy(&source, &target)?;
    change(10, 0..4)?;
    typed("save source --name trashed")?;
    change(11, 0..4)?;
    typed("save source --name sparse")?;
    change(12, 1..4)?;
    typed("save source --name kept")?;
    change(13, 1..2)?;
    // Images of one second have no order that is the same each time.
    std::thread::sleep(Duration::from_millis(1100));
    typed("save source --name disk")?;
    typed("rm trashed")?;
    typed("prune")?;
    typed("rm sparse")?;
    change(14, 3..4)?;
    Ok(folder)
}

/// A disk with boot code, an ext4 and noise.
fn disk(path: &Path) -> Result<()> {
    let work = TempDir::new()?;
    sparse::create(path, Bytes::mib(9))?;
    run!("sgdisk", "-n1:2048:+2M", "-n2:0:+4M", path)?;
    let parts = table::partitions(path)?;
    put(path, Bytes::ZERO, &noise(1, Bytes::new(440)))?;
    let (content, image) = (work.path().join("content"), work.path().join("image"));
    fs::create_dir(&content)?;
    fs::write(content.join("noise"), noise(4, Bytes::kib(300)))?;
    filesystem::ext4(&image, parts[0].len(), ["files", &filesystem::uuid()?], &content)?;
    sparse::copy(&image, Extent::first(parts[0].len()), path, parts[0].start)
}

/// The program's call for `line` from within `folder`: what an image says of its source must not depend on what
/// the folder is called.
pub fn call(folder: &Path, line: &str) -> Call {
    within(folder, "exec \"$@\"", line)
}

/// The same by a line of bash, in which it is `"$@"`.
pub fn within(folder: &Path, script: &str, line: &str) -> Call {
    call_in(folder, (script, "repo"), line)
}

fn call_in(folder: &Path, (script, repository): (&str, &str), line: &str) -> Call {
    let script = format!("cd \"$1\" && shift && {script}");
    let mut call = call!("bash", "-c", script, "bash", folder, keiki());
    call.args.extend(["--repo", repository, "--progress", "none"].map(Into::into));
    call.args.extend(line.split_whitespace().map(Into::into));
    call
}

impl Scene {
    /// Its call in `folder`.
    pub fn call(&self, folder: &Path) -> Call {
        call(folder, self.line)
    }

    /// The same by a line of bash, in which it is `"$@"`.
    pub fn within(&self, folder: &Path, script: &str) -> Call {
        within(folder, script, self.line)
    }
}

fn run_whole(folder: &Path, line: &str) -> Result<Value> {
    run_whole_in(folder, "repo", line)
}

fn run_whole_in(folder: &Path, repository: &str, line: &str) -> Result<Value> {
    let call = call_in(folder, ("exec \"$@\"", repository), &format!("{line} --json"));
    let outcome = tool::outcome(&call)?;
    let said = || format!("keiki {line}: {:?}: {}{}", outcome.code, outcome.text(), outcome.talk());
    ensure!(outcome.code == Some(0), "{}", said());
    serde_json::from_str(&outcome.text()).with_context(said)
}

/// What an undisturbed run leaves.
#[derive(Debug)]
pub struct Expected {
    scene: Scene,
    content: Value,
    target: Vec<u8>,
    chunks: BTreeSet<ChunkId>,
    said: String,
    source: Vec<u8>,
    before: Vec<u8>,
}

impl Expected {
    /// Runs it undisturbed.
    ///
    /// # Errors
    /// It ends otherwise than well.
    pub fn of(scene: Scene) -> Result<Self> {
        let stage = Stage::new()?;
        let folder = stage.folder();
        let (source, before) = (fs::read(folder.join("source"))?, fs::read(folder.join("target"))?);
        let outcome = tool::outcome(&scene.call(folder))?;
        ensure!(outcome.code == Some(0), "{}: {}", scene.name, outcome.talk());
        let content = match scene.purpose {
            Purpose::Save => content_id(folder)?,
            Purpose::Copy => ids(folder, "repo")?["disk"].clone(),
            _ => Value::Null,
        };
        let (target, chunks) = (fs::read(folder.join("target"))?, chunks(folder)?);
        let said = outcome.text();
        Ok(Self { scene, content, target, chunks, said, source, before })
    }

    /// What was asked for is done.
    ///
    /// # Errors
    /// It is not.
    pub fn is_done(&self, folder: &Path, outcome: &Outcome) -> Result<()> {
        match self.scene.purpose {
            Purpose::Save => ensure!(content_id(folder)? == self.content, "another content id"),
            Purpose::Copy => {
                let there = ids(folder, OTHER)?;
                ensure!(there.get("disk") == Some(&self.content), "the images are {there:?}");
            }
            Purpose::Restore => {
                ensure!(fs::read(folder.join("target"))? == self.target, "another target");
            }
            Purpose::Prune => {
                let found = chunks(folder)?;
                ensure!(found == self.chunks, "{} chunks, not {}", found.len(), self.chunks.len());
                let trash = fs::read_dir(folder.join("repo/trash"))?.count();
                ensure!(trash == 0, "{trash} files in the trash");
            }
            Purpose::Forget => ensure!(!names(folder)?.contains("disk"), "disk is still there"),
            Purpose::Tell => {
                let said = outcome.text();
                ensure!(said == self.said, "it said {said:?}, not {:?}", self.said);
            }
            Purpose::Check => {
                ensure!(outcome.text().contains("is sound"), "it said {}", outcome.text());
            }
        }
        Ok(())
    }

    /// Nothing was lost, however it `ended`: the source is what it was, the repository is sound and has every image,
    /// and an image or a disk that is not whole does not look as if it were, or says so (5).
    ///
    /// # Errors
    /// What was lost.
    pub fn lost_nothing(&self, folder: &Path, ended: Option<i32>) -> Result<()> {
        ensure!(fs::read(folder.join("source"))? == self.source, "the source was written");
        let checked = run_whole(folder, "check --read-data")?;
        ensure!(checked["damaged"] == serde_json::json!([]), "{checked}");
        if self.scene.purpose == Purpose::Copy {
            self.has_a_copy_or_none(folder)?;
        }
        let mut names = names(folder)?;
        let has_holes = ended == Some(5);
        if self.scene.purpose == Purpose::Save && names.remove("new") {
            let is_other = content_id(folder)? != self.content;
            ensure!(is_other == has_holes, "an image of something else");
        }
        let mut due: BTreeSet<String> = IMAGES.map(str::to_owned).into();
        if self.scene.purpose == Purpose::Forget && !names.contains("disk") {
            due.remove("disk");
        }
        ensure!(names == due, "the images are {names:?}, not {due:?}");
        let target = folder.join("target");
        let bytes = fs::read(&target)?;
        // What was there before is what it was until all of the first and the last MiB is known to be zeros.
        let middle = 1 << 20..bytes.len() - (1 << 20);
        let is_old = bytes[middle.clone()] == self.before[middle];
        let may_change = self.scene.purpose == Purpose::Restore;
        ensure!(may_change || bytes == self.before, "the target was written");
        if !is_old && bytes != self.target && !has_holes {
            // The disk's boot code comes before the table; what makes both of them seen comes last.
            ensure!(bytes[440..512].iter().all(|byte| *byte == 0), "its first sector is there");
            let kind = judge::signature(&target, "PTTYPE")?;
            ensure!(kind.is_empty(), "a {kind} table on a disk that is not whole");
        }
        Ok(())
    }

    /// The other repository, if it is there, is sound and has the image or none.
    fn has_a_copy_or_none(&self, folder: &Path) -> Result<()> {
        if !folder.join(OTHER).join("keiki").exists() {
            return Ok(());
        }
        let checked = run_whole_in(folder, OTHER, "check --read-data")?;
        ensure!(checked["damaged"] == serde_json::json!([]), "{OTHER}: {checked}");
        let there = ids(folder, OTHER)?;
        let is_copy = |(name, id): (&String, &Value)| name == "disk" && *id == self.content;
        ensure!(there.iter().all(is_copy), "the images in {OTHER} are {there:?}");
        Ok(())
    }

    /// Run again without faults, it ends as if nothing had been.
    ///
    /// # Errors
    /// It does not.
    pub fn ends_well(&self, folder: &Path) -> Result<()> {
        let outcome = tool::outcome(&self.scene.call(folder))?;
        let is_gone = self.scene.purpose == Purpose::Forget && outcome.code == Some(3);
        ensure!(
            outcome.code == Some(0) || is_gone,
            "again: {:?}: {}",
            outcome.code,
            outcome.talk()
        );
        self.is_done(folder, &outcome).context("again")?;
        if self.scene.changes_repository() {
            // Where it is only copied from, dead locks stay until the next save.
            let repository = if self.scene.purpose == Purpose::Copy { OTHER } else { "repo" };
            for left in ["tmp", "locks"] {
                for entry in fs::read_dir(folder.join(repository).join(left))? {
                    let name = entry?.file_name();
                    // What was to become a lock may be another session's for a minute.
                    let may_stay = name.to_string_lossy().starts_with("lock-");
                    ensure!(may_stay, "again: {name:?} is left in {left}");
                }
            }
            self.lost_nothing(folder, outcome.code).context("again")?;
        }
        Ok(())
    }
}

fn content_id(folder: &Path) -> Result<Value> {
    Ok(run_whole(folder, "show new")?["content_id"].take())
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    Ok(ids(folder, "repo")?.into_keys().collect())
}

/// The images of a repository, by name.
fn ids(folder: &Path, repository: &str) -> Result<BTreeMap<String, Value>> {
    let images = run_whole_in(folder, repository, "images")?;
    let images = images["images"].as_array().context("no images")?.iter();
    let named = |image: &Value| Some((image["name"].as_str()?.to_owned(), image["id"].clone()));
    images.map(|image| named(image).context("no name")).collect()
}

/// The chunks in all packs outside the trash.
fn chunks(folder: &Path) -> Result<BTreeSet<ChunkId>> {
    let mut chunks = BTreeSet::new();
    for entry in fs::read_dir(folder.join("repo/packs"))? {
        let path: PathBuf = entry?.path();
        let bytes = fs::read(&path)?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        let name: Hash = name.parse()?;
        // Its last 8 MiB hold the trailer.
        let tail = &bytes[bytes.len().saturating_sub(8 << 20)..];
        let trailer = parse_tail(name, tail, Bytes::of(&bytes))?;
        chunks.extend(trailer.chunks.iter().map(|(_, entry)| entry.id));
    }
    if chunks.is_empty() {
        bail!("no chunks");
    }
    Ok(chunks)
}

/// Until somebody comes back some minutes pass: locks that are there are older than what comes now.
///
/// # Errors
/// The folder cannot be read.
pub fn minutes_pass(folder: &Path) -> Result<()> {
    for repository in ["repo", OTHER] {
        let locks = folder.join(repository).join("locks");
        let locks = if locks.exists() { Some(fs::read_dir(locks)?) } else { None };
        for entry in locks.into_iter().flatten() {
            let file = File::options().write(true).open(entry?.path())?;
            file.set_modified(SystemTime::now() - Duration::from_secs(120))?;
        }
    }
    Ok(())
}
