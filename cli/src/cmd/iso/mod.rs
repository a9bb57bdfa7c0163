//! `keiki iso`: make a disc or a stick that boots.

mod stick;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::repo::{Copier, CopyOptions, Local, Repository};
use image_core::report::{Report, Stage};
use image_core::units::Bytes;
use live_iso::boot::Settings;
use live_iso::iso::{self, Parts};
use live_iso::tree::Tree;
use live_iso::{bootloader, packages, system};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use self::stick::Stick;
use super::{Usage, repository, room_for};
use crate::answers::Answers;
use crate::args::Global;
use crate::args::iso::{Iso, Packages};
use crate::exit::Exit;
use crate::medium;
use crate::output::{self, progress::Progress};

/// What a disc takes without images, and a little more.
const DISC: Bytes = Bytes::mib(160);

/// Runs the verb.
///
/// # Errors
/// A tool or a package is missing; the file exists, or cannot be written. Nothing is left of it then, and a stick is not
/// touched before the disc is made.
pub fn run(global: &Global, args: &Iso, progress: &Progress) -> Result<Exit> {
    if let Some(out) = &args.out
        && out.symlink_metadata().is_ok()
    {
        let why = format!("{} exists already; remove it, or name another file", out.display());
        return Err(Error::refused(why).into());
    }
    if let Some(folder) = args.out.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Usage(format!("there is no folder {}", folder.display())).into());
    }
    let source = args.packages.unwrap_or(match medium::is_known() {
        true => Packages::Medium,
        false => Packages::Download,
    });
    lacks_nothing("making a disc", &lacking(args, source))?;
    let mut settings = settings(args)?;
    let stick = args.stick.as_ref().map(|name| Stick::look(name, &args.confirm, progress));
    let stick = stick.transpose()?;
    let work = work(args)?;
    room_for(DISC, work.path()).context("no disc was made")?;
    let made = make(global, args, (source, &mut settings), (work.path(), progress));
    let (parts, disc, exit) = unless_interrupted(made, progress)?;
    let (path, size, space) = match (&args.out, stick) {
        (Some(out), _) => (out.display().to_string(), kept(&disc, out)?, None),
        (None, Some(stick)) => {
            let (size, space) = stick.write(&disc, work.path(), progress)?;
            (stick.path(), size, Some(space))
        }
        (None, None) => return Err(Usage("--out or --stick?".to_owned()).into()),
    };
    progress.finish();
    tell(global, args, (&path, size, space), parts.kernel())
        .with_context(|| format!("{path} is made, {}", output::UNSAID))?;
    Ok(exit)
}

/// The same, or that it was interrupted: a tool that the terminal's Ctrl-C ended too did not fail.
///
/// # Errors
/// Those of `made`.
pub fn unless_interrupted<T>(made: Result<T>, progress: &Progress) -> Result<T> {
    made.or_else(|error| progress.checkpoint().map_err(Into::into).and(Err(error)))
}

/// The packages of the programs that this machine lacks.
fn lacking(args: &Iso, source: Packages) -> Vec<&'static str> {
    let mut lacking = match source {
        Packages::Medium => iso::missing_for_a_copy(&Machine),
        Packages::Download | Packages::Installed => iso::missing(&Machine),
    };
    if args.stick.is_some() {
        lacking.extend(live_iso::stick::missing(&Machine));
    }
    lacking
}

/// A folder for what is made: beside the file that it becomes, so it is renamed into its place when it is whole.
fn work(args: &Iso) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".keiki-iso-");
    let Some(out) = &args.out else {
        return builder.tempdir().context("cannot write to the folder for temporary files");
    };
    let beside = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = builder.tempdir_in(beside.unwrap_or(Path::new(".")));
    made.with_context(|| format!("cannot write beside {}", out.display()))
}

/// What is another one on each disc, but for its images.
fn settings(args: &Iso) -> Result<Settings> {
    let read =
        |path: &PathBuf| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let ssh_key = args.ssh_key.as_ref().map(|path| -> Result<Vec<u8>> {
        let key = read(path)?;
        let is_private = key.starts_with(b"-----BEGIN ");
        let why = format!("{} is no private key of SSH", path.display());
        if is_private { Ok(key) } else { Err(Usage(why).into()) }
    });
    Ok(Settings {
        keymap: args.system.keymap.clone(),
        console: args.system.console,
        answers: args.unattended.as_ref().map(read).transpose()?,
        ssh_key: ssh_key.transpose()?,
        images: Vec::new(),
        server: None,
        rest: None,
        site: None,
    })
}

/// Makes the disc in `work`: what it is made of, where it is, and how that ended.
fn make(
    global: &Global,
    args: &Iso,
    (source, settings): (Packages, &mut Settings),
    (work, progress): (&Path, &Progress),
) -> Result<(Parts, PathBuf, Exit)> {
    let answers = settings.answers.as_deref().map(|text| answers(args, text)).transpose()?;
    // Before anything is fetched: a name that is mistyped is known at once.
    for name in &args.images {
        repository(global)?.resolve(name, progress)?;
    }
    let tree = tree(source, args.system.keymap.as_deref(), progress)?;
    progress.checkpoint()?;
    let exit = match args.images.as_slice() {
        [] => Exit::Done,
        names => {
            let (ids, exit) = copied(global, names, answers.as_ref(), (work, progress))?;
            settings.images = ids;
            exit
        }
    };
    progress.stage(Stage::Build, None);
    let parts = match &tree {
        Some(tree) => {
            let keiki = std::env::current_exe().context("cannot find this program's own file")?;
            let profile = (tree, args.system.profile.into());
            Parts::make(&Machine, profile, &keiki, &cache()?, work, progress)?
        }
        None => {
            let point = medium::attach()?;
            Parts::of_medium(&Machine, &point, &medium::disk(&point)?, work)?
        }
    };
    progress.checkpoint()?;
    progress.stage(Stage::Build, None);
    let disc = work.join("disc.iso");
    parts.write(&Machine, settings, &disc)?;
    progress.checkpoint()?;
    Ok((parts, disc, exit))
}

/// The packages that a live system and its boot loaders are made of; none where they come from a medium. A layout of the
/// keyboard is looked for in them.
///
/// # Errors
/// They cannot be downloaded, or one is not installed; [`Usage`]: there is no such layout.
pub fn tree(source: Packages, keymap: Option<&str>, progress: &Progress) -> Result<Option<Tree>> {
    let tree = match source {
        Packages::Download => Some(packages::download(&Machine, &cache()?, progress)?),
        Packages::Installed => Some(Tree::installed()),
        Packages::Medium => None,
    };
    if let Some(tree) = &tree {
        let mut lacking = system::missing(tree);
        lacking.extend(bootloader::missing(tree));
        lacks_nothing("a live system of what is installed", &lacking)?;
    }
    // What the disc has that runs is installed there, too.
    if let Some(keymap) = keymap
        && !system::has_keymap(tree.as_ref().unwrap_or(&Tree::installed()), keymap)?
    {
        let why = format!("there is no layout {keymap} in the package console-data");
        return Err(Usage(why).into());
    }
    Ok(tree)
}

/// Reads the answer file.
fn answers(args: &Iso, text: &[u8]) -> Result<Answers> {
    let name = args.unattended.as_deref().unwrap_or(Path::new("")).display();
    let parsed = std::str::from_utf8(text).map_err(|error| error.to_string());
    let parsed = parsed.and_then(Answers::parse);
    parsed.map_err(|why| Usage(format!("{name}: {why}")).into())
}

/// Copies images into a new repository, with nothing in it that needs another chunk: what is on a disc is read forwards.
/// Their ids.
fn copied(
    global: &Global,
    names: &[String],
    answers: Option<&Answers>,
    (work, progress): (&Path, &Progress),
) -> Result<(Vec<String>, Exit)> {
    let from = repository(global)?;
    let resolve = |image: &String| from.resolve(image, progress);
    let images = names.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
    if let Some(answers) = answers {
        let named = &answers.image;
        let meant = resolve(named)?;
        if !images.iter().any(|image| image.id == meant.id) {
            let why = format!("the answer file restores {named}, which is none of --image");
            return Err(Usage(why).into());
        }
        let disks = from.root(&meant)?.disks.len();
        let rules = answers.rules.len();
        if rules != disks {
            let (rules, disks) = (output::count(rules, "rule"), output::count(disks, "disk"));
            let why = format!("the answer file has {rules} for disks, and {named} has {disks}");
            return Err(Usage(why).into());
        }
    }
    let into = Parts::images(work);
    let to = Repository::create(Arc::new(Local::new(&into)))?;
    let copier = Copier::new(&from, &images, &to, CopyOptions { flatten: true }, progress)?;
    // Once here, and once in the disc.
    room_for(DISC + copier.needed() + copier.needed(), work).context("no disc was made")?;
    let copied = copier.run(progress)?;
    if let Some((_, error)) = copied.damaged.into_iter().next() {
        return Err(anyhow::Error::new(error).context("no disc was made"));
    }
    let is_whole = copied.images.iter().all(|copied| copied.unreadable.is_zero());
    let ids = images.iter().map(|image| image.id.to_string()).collect();
    Ok((ids, if is_whole { Exit::Done } else { Exit::Unreadable }))
}

/// Makes the disc durable and gives it its name, which nothing may have come to meanwhile; its size.
fn kept(disc: &Path, out: &Path) -> Result<Bytes> {
    let name = || format!("cannot write {}", out.display());
    let file = File::open(disc).with_context(name)?;
    file.sync_all().with_context(name)?;
    let size = file.metadata().with_context(name)?.len();
    // Not every filesystem can rename without replacing; those have links.
    renameat_with(CWD, disc, CWD, out, RenameFlags::NOREPLACE)
        .map_err(std::io::Error::from)
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Err(error),
            _ => fs::hard_link(disc, out),
        })
        .with_context(name)?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or(Path::new("."))).with_context(name)?;
    folder.sync_all().with_context(name)?;
    Ok(Bytes::new(size))
}

fn tell(
    global: &Global,
    args: &Iso,
    (path, size, space): (&str, Bytes, Option<Bytes>),
    kernel: &str,
) -> Result<()> {
    if global.json {
        return output::json(&json!({"file": path, "size": size, "kernel": kernel,
            "images": args.images, "space": space}));
    }
    if global.quiet {
        return Ok(());
    }
    output::say(&match space {
        Some(space) => format!(
            "{path}: kernel {kernel}, read back and equal\nIts partition {} has {space} for images.",
            live_iso::stick::LABEL
        ),
        None => format!(
            "{path}: {size}, kernel {kernel}\nBurn it to a disc, or write it to a stick as it is, for example:\n  \
             dd if={path} of=/dev/STICK bs=4M oflag=direct status=progress"
        ),
    })
}

/// Refuses to begin without packages.
///
/// # Errors
/// One is missing; the command that installs it.
pub fn lacks_nothing(what: &str, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    ensure!(
        names.is_empty(),
        "{what} needs packages that are not installed; install them: apt-get install --no-install-recommends {names}"
    );
    Ok(())
}

/// Where downloaded packages are kept.
///
/// # Errors
/// There is no such place.
pub fn cache() -> Result<PathBuf> {
    let folder =
        |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Ok(cache
        .context("neither HOME nor XDG_CACHE_HOME is set: no place for packages")?
        .join("keiki"))
}
