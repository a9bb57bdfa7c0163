//! `keiki iso`: make a disc that boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::repo::{Copier, CopyOptions, Local, Repository};
use image_core::report::{Report, Stage};
use image_core::units::Bytes;
use live_iso::iso::{self, Parts, Settings};
use live_iso::tree::Tree;
use live_iso::{packages, system};
use serde_json::json;

use super::{Usage, repository, room_for};
use crate::args::Global;
use crate::args::iso::{Iso, Packages, Profile};
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// Runs the verb.
///
/// # Errors
/// A tool or a package is missing; the file exists, or cannot be written. Nothing is left of it then.
pub fn run(global: &Global, args: &Iso, progress: &Progress) -> anyhow::Result<Exit> {
    if args.out.symlink_metadata().is_ok() {
        let out = args.out.display();
        return Err(Error::refused(format!(
            "{out} exists already; remove it, or name another file"
        ))
        .into());
    }
    lacks_nothing("making a disc", &iso::missing(&Machine))?;
    progress.stage(Stage::Packages, None);
    let tree = match args.packages {
        Packages::Download => packages::download(&Machine, &cache()?)?,
        Packages::Installed => Tree::installed(),
    };
    lacks_nothing("a live system of what is installed", &system::missing(&tree))?;
    if let Some(keymap) = &args.keymap
        && !system::has_keymap(&tree, keymap)?
    {
        let why = format!("there is no layout {keymap} in the package console-data");
        return Err(Usage(why).into());
    }
    progress.checkpoint()?;
    let keiki = std::env::current_exe().context("cannot find this program's own file")?;
    let profile = match args.profile {
        Profile::Small => live_iso::Profile::Small,
        Profile::Full => live_iso::Profile::Full,
    };
    // Beside the file that it becomes: so it is renamed into its place when it is whole.
    let beside = args.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    let work = tempfile::Builder::new()
        .prefix(".keiki-iso-")
        .tempdir_in(beside.unwrap_or(Path::new(".")))
        .with_context(|| format!("cannot write beside {}", args.out.display()))?;
    let images = work.path().join("images");
    let exit = match args.images.as_slice() {
        [] => Exit::Done,
        names => copied(global, names, &images, progress)?,
    };
    progress.stage(Stage::Build, None);
    let parts = Parts::make(&Machine, &tree, profile, &keiki, &cache()?, work.path())?;
    progress.checkpoint()?;
    let disc = work.path().join("disc");
    let settings = Settings { keymap: args.keymap.clone(), console: args.console };
    parts.write(
        &Machine,
        &settings,
        Some(images.as_path()).filter(|images| images.exists()),
        &disc,
    )?;
    let size = kept(&disc, &args.out)?;
    progress.finish();
    let told = if global.json {
        output::json(
            &json!({"file": args.out, "size": size, "kernel": parts.kernel(), "images": args.images}),
        )
    } else if global.quiet {
        Ok(())
    } else {
        output::say(&format!(
            "{}: {size}, kernel {}\nBurn it to a disc, or write it to a stick as it is, for example:\n  \
             dd if={} of=/dev/STICK bs=4M oflag=direct status=progress",
            args.out.display(),
            parts.kernel(),
            args.out.display()
        ))
    };
    told.with_context(|| format!("{} is made, {}", args.out.display(), output::UNSAID))?;
    Ok(exit)
}

/// Copies images into a new repository, with nothing in it that needs another chunk: what is on a disc is read forwards.
fn copied(
    global: &Global,
    names: &[String],
    into: &Path,
    progress: &Progress,
) -> anyhow::Result<Exit> {
    let from = repository(global)?;
    let resolve = |image: &String| from.resolve(image, progress);
    let images = names.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
    let to = Repository::create(Arc::new(Local::new(into)))?;
    let copier = Copier::new(&from, &images, &to, CopyOptions { flatten: true }, progress)?;
    // Once here, and once in the disc.
    room_for(copier.needed() + copier.needed(), into).context("no disc was made")?;
    let copied = copier.run(progress)?;
    if let Some((_, error)) = copied.damaged.into_iter().next() {
        return Err(anyhow::Error::new(error).context("no disc was made"));
    }
    let is_whole = copied.images.iter().all(|copied| copied.unreadable.is_zero());
    Ok(if is_whole { Exit::Done } else { Exit::Unreadable })
}

/// Makes the disc durable and gives it its name; its size.
fn kept(disc: &Path, out: &Path) -> anyhow::Result<Bytes> {
    let name = || format!("cannot write {}", out.display());
    let file = fs::File::open(disc).with_context(name)?;
    file.sync_all().with_context(name)?;
    let size = file.metadata().with_context(name)?.len();
    // Unlike a rename this replaces nothing that came there meanwhile.
    fs::hard_link(disc, out).or_else(|_| fs::rename(disc, out)).with_context(name)?;
    Ok(Bytes::new(size))
}

fn lacks_nothing(what: &str, packages: &[&str]) -> anyhow::Result<()> {
    let names = packages.join(" ");
    ensure!(
        names.is_empty(),
        "{what} needs packages that are not installed; install them: apt-get install --no-install-recommends {names}"
    );
    Ok(())
}

/// Where downloaded packages are kept.
fn cache() -> anyhow::Result<PathBuf> {
    let folder =
        |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    Ok(cache
        .context("neither HOME nor XDG_CACHE_HOME is set: no place for packages")?
        .join("keiki"))
}
