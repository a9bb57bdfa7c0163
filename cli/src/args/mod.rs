//! The command line as it is typed: one file a verb.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use image_core::image::record::ImageName;
use image_core::repo::Location;

pub mod agent;
pub mod check;
pub mod clone;
pub mod config;
pub mod copy;
pub mod images;
pub mod inspect;
pub mod iso;
pub mod prune;
pub mod repair;
pub mod rest;
pub mod restore;
pub mod rm;
pub mod save;
pub mod serve;
pub mod show;
pub mod unattended;
pub mod verify;

/// Saves the used parts of disks, and restores them, grown, onto others.
#[derive(Parser, Debug)]
#[command(name = "keiki", version, max_term_width = 80)]
#[command(
    after_help = "Without arguments, on a terminal: a menu that asks for everything.\nExample:\n  keiki --repo /backup save /dev/sda --name server"
)]
pub struct Cli {
    /// What every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The repository: the folder where images are kept, or http://SERVER/PATH to
    /// read them from a web server
    #[arg(
        long,
        env = "KEIKI_REPO",
        value_parser = location(),
        hide_env_values = true,
        value_name = "LOCATION",
        global = true
    )]
    pub repo: Option<Location>,
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t = ProgressKind::Auto, value_name = "KIND", global = true)]
    pub progress: ProgressKind,
    /// Write progress to this file descriptor instead of standard error
    #[arg(long, value_name = "N", global = true)]
    pub progress_fd: Option<i32>,
    /// Say only what matters
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,
}

/// Where a repository is, as it is typed; an address is looked at when it is used, for what clap says of a value has the
/// password in it.
fn location() -> impl TypedValueParser<Value = Location> {
    PathBufValueParser::new().map(Location::from)
}

/// Checks that a word can mean an image: `NAME`, `NAME@ID` or `NAME@2026-11-20`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn image(text: &str) -> Result<String, String> {
    let (name, which) = text.split_once('@').unwrap_or((text, "0"));
    name.parse::<ImageName>().map_err(|error| error.to_string())?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = !which.is_empty() && which.bytes().all(|byte| byte.is_ascii_hexdigit());
    let day: Vec<&str> = which.split('-').collect();
    let is_day = day.iter().map(|part| part.len()).eq([4, 2, 2]) && day.into_iter().all(digits);
    if is_id || is_day {
        return Ok(text.to_owned());
    }
    Err(format!("{which:?} is neither the beginning of an image id nor a day like 2026-11-20"))
}

/// How progress is shown.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressKind {
    /// A bar on a terminal, plain lines elsewhere
    Auto,
    /// A bar
    Bar,
    /// A line now and then
    Plain,
    /// One JSON object a line
    Jsonl,
    /// Nothing
    None,
}

/// The verbs; each one's help stands in its own file.
#[derive(Subcommand, Debug)]
pub enum Verb {
    Inspect(inspect::Inspect),
    Save(save::Save),
    Images(images::Images),
    Show(show::Show),
    Verify(verify::Verify),
    Restore(restore::Restore),
    Clone(clone::Clone),
    Copy(copy::Copy),
    Repair(repair::Repair),
    Rm(rm::Rm),
    Prune(prune::Prune),
    Check(check::Check),
    Iso(iso::Iso),
    Serve(serve::Serve),
    // For machines rather than for people.
    #[command(hide = true)]
    Agent(agent::Agent),
    #[command(name = "__rest", hide = true)]
    Rest(rest::Rest),
    #[command(name = "__unattended", hide = true)]
    Unattended(unattended::Unattended),
    /// Serves a volume of a restore target to a filesystem tool
    #[command(name = "__serve-view", hide = true)]
    ServeView {
        /// Where
        mountpoint: PathBuf,
    },
}
