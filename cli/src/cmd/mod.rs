//! The verbs: resolve what was typed, plan, show, do, say what was done.

pub mod agent;
pub mod check;
pub mod clone;
pub mod copy;
pub mod deploy;
pub mod images;
pub mod inspect;
pub mod iso;
mod keep;
pub mod mapping;
pub mod prune;
pub mod repair;
pub mod rest;
pub mod restore;
pub mod rm;
pub mod save;
pub mod serve;
pub mod show;
pub mod source;
pub mod target;
pub mod unattended;
pub mod verify;
pub mod view;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use image_core::disk::location as places;
use image_core::error::Error;
use image_core::repo::{Local, Location, Repository};
use image_core::sys::space;
use image_core::units::Bytes;

use crate::args::{Cli, Global, Verb};
use crate::exit::Exit;
use crate::output;
use crate::output::progress::Progress;

/// A mistake on the command line that only shows once it is looked at: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Carries out what was typed.
///
/// # Errors
/// Whatever ended it; [`complain`] turns it into words and an exit code.
pub fn run(cli: &Cli, progress: &Progress) -> anyhow::Result<Exit> {
    let global = &cli.global;
    match &cli.verb {
        Verb::Inspect(args) => inspect::run(global, args, progress),
        Verb::Save(args) => save::run(global, args, progress),
        Verb::Images(_) => images::run(global, progress),
        Verb::Show(args) => show::run(global, args, progress),
        Verb::Verify(args) => verify::run(global, args, progress),
        Verb::Restore(args) => restore::run(global, args, progress),
        Verb::Clone(args) => clone::run(global, args, progress),
        Verb::Copy(args) => copy::run(global, args, progress),
        Verb::Repair(args) => repair::run(global, args, progress),
        Verb::Rm(args) => rm::run(global, args),
        Verb::Prune(args) => prune::run(global, args, progress),
        Verb::Check(args) => check::run(global, args, progress),
        Verb::Iso(args) => iso::run(global, args, progress),
        Verb::Serve(args) => serve::run(global, args, progress),
        Verb::Agent(args) => agent::run(global, args, progress),
        Verb::Rest(args) => rest::run(args, progress),
        Verb::Unattended(args) => unattended::run(global, args, progress),
        Verb::ServeView { .. } => Ok(Exit::Done),
    }
}

/// Tells the user what went wrong, and returns the exit code for it.
pub fn complain(global: &Global, error: &anyhow::Error) -> Exit {
    let (exit, kind, subject) = match (error.downcast_ref::<Error>(), error.downcast_ref::<Usage>())
    {
        (Some(error), _) => (Exit::of(error), error.kind(), error.subject()),
        (None, Some(_)) => (Exit::Usage, "usage", ""),
        (None, None) => (Exit::Failed, "io", ""),
    };
    let message = message(error);
    // Standard output may be what failed.
    if !global.json || output::json(&error_json(kind, &message, subject)).is_err() {
        output::talk(&format!("error: {message}"));
    }
    exit
}

/// The chain of causes, down to the library's error, which names its own cause.
pub fn message(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        if cause.is::<Error>() {
            break;
        }
    }
    // A server that refuses says so by itself.
    let denied = |error: &Error| {
        matches!(error, Error::Io { source, .. }
            if source.kind() == ErrorKind::PermissionDenied && source.raw_os_error().is_some())
    };
    let hint = if error.downcast_ref().is_some_and(denied) { "; try it as root" } else { "" };
    parts.join(": ") + hint
}

/// An error as `--json` prints it.
pub fn error_json(kind: &str, message: &str, subject: &str) -> serde_json::Value {
    serde_json::json!({"error": {"kind": kind, "message": message, "where": subject}})
}

/// Opens the repository that the command line names.
///
/// # Errors
/// [`Usage`] where none is named.
pub fn repository(global: &Global) -> anyhow::Result<Repository> {
    Ok(location(global)?.open()?)
}

/// The same for a verb that writes, which a web server takes from nobody.
///
/// # Errors
/// [`Usage`] where none is named, [`Error::Refused`] where it can only be read.
pub fn writable_repository(global: &Global) -> anyhow::Result<Repository> {
    location(global)?.writable()?;
    repository(global)
}

/// The location that the command line names.
///
/// # Errors
/// [`Usage`] where none is named.
pub fn location(global: &Global) -> anyhow::Result<&Location> {
    let missing =
        || Usage("which repository? Name its folder with --repo, or set KEIKI_REPO".to_owned());
    Ok(global.repo.as_ref().ok_or_else(missing)?)
}

/// Opens the repository at `path`, or makes one there and says so.
///
/// # Errors
/// Where a new one would be forgotten, or cannot be made.
pub fn open_or_create(path: &Path, quiet: bool, progress: &Progress) -> anyhow::Result<Repository> {
    let files = Arc::new(Local::new(path));
    if Repository::exists(files.as_ref())? {
        return Ok(Repository::open(files)?);
    }
    places::check_new_repository(path)?;
    if !quiet {
        progress.talk(&format!("making a new repository at {}", path.display()));
    }
    Ok(Repository::open_or_create(files)?)
}

/// Refuses what takes more space than there is below `path`.
///
/// # Errors
/// [`Error::Refused`] then.
pub fn room_for(needed: Bytes, path: &Path) -> anyhow::Result<()> {
    let free = space::free(path).with_context(|| format!("free space of {}", path.display()))?;
    if needed > free {
        return Err(Error::refused(format!(
            "it will take about {needed}, but {} has only {free} free",
            path.display()
        ))
        .into());
    }
    Ok(())
}
