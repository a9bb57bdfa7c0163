//! The menu: `keiki` on a terminal, without arguments.
//!
//! Every entry asks its questions, puts together the words of the equivalent command, shows them, and runs
//! them as if they had been typed: parsed by the same definition, carried out by the same verb. So the menu
//! can do nothing that the command line cannot, and nothing otherwise.
//!
//! - `ask` what is asked · `terminal` how that looks · `words` a command as it is typed
//! - `disks` `images` `places` what there is to choose from
//! - `save` `restore` `targets` `growth` `repository` the entries
//! - `live` what else there is on the recovery disc

mod ask;
mod disks;
mod growth;
mod images;
pub mod live;
mod places;
mod repository;
mod restore;
mod save;
mod targets;
mod terminal;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use clap::Parser;
use image_core::error::Error;
use image_core::repo::Location;

use crate::args::Cli;
use crate::cmd;
use crate::exit::Exit;
use crate::network;
use crate::output::progress::Progress;
use ask::{Ask, Item};

pub use terminal::usable;

/// What the entries share.
pub struct Menu<'a> {
    ask: &'a mut dyn Ask,
    /// The repository, once it was chosen; kept as long as the menu is open.
    repo: Option<Location>,
    /// Whether the step was come back to: then it asks, also where it knows the answer.
    again: bool,
    /// Carries out a command as it is typed after `keiki`.
    run: &'a mut dyn FnMut(&[String]) -> Exit,
}

/// Where to go after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Move {
    /// On.
    Next,
    /// On; there was nothing to ask, so nobody comes back here.
    Skip,
    /// To the last question.
    Back,
    /// To the main menu.
    Leave,
}

/// One question of an entry, which fills in a part of a draft.
type Step<D> = fn(&mut Menu<'_>, &mut D) -> Result<Move>;

/// Opens the menu until it is left.
pub fn run() -> Exit {
    let before = terminal::Before::default();
    let interrupted = Arc::new(AtomicBool::new(false));
    if let Err(error) = terminal::watch(&before, &interrupted) {
        return complain(&error);
    }
    let mut terminal = terminal::Terminal::new(before);
    let mut run = |words: &[String]| carry_out(words, &interrupted);
    let repo = std::env::var_os("KEIKI_REPO").filter(|repo| !repo.is_empty()).map(Location::from);
    let mut menu = Menu { ask: &mut terminal, repo, again: false, run: &mut run };
    match menu.main() {
        Ok(()) => Exit::Done,
        Err(error) if is_interrupted(&error) => Exit::Interrupted,
        Err(error) => complain(&error),
    }
}

/// Runs a command with the words after `keiki`.
fn carry_out(words: &[String], interrupted: &Arc<AtomicBool>) -> Exit {
    let all = std::iter::once("keiki").chain(words.iter().map(String::as_str));
    let cli = match Cli::try_parse_from(all) {
        Ok(cli) => cli,
        Err(error) => {
            drop(error.print());
            return Exit::Usage;
        }
    };
    interrupted.store(false, Ordering::Relaxed);
    let progress = Progress::new(&cli.global, Arc::clone(interrupted));
    let ended = cmd::run(&cli, &progress);
    progress.finish();
    let exit = ended.unwrap_or_else(|error| cmd::complain(&cli.global, &error));
    live::log(&format!("keiki {}: exit code {}", words::shown(words).join(" "), exit.code()));
    if interrupted.load(Ordering::Relaxed) { Exit::Interrupted } else { exit }
}

fn complain(error: &anyhow::Error) -> Exit {
    crate::output::talk(&format!("error: {error:#}"));
    Exit::Failed
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Interrupted))
}

/// An entry of the main menu.
type Entry = (&'static str, &'static str, fn(&mut Menu<'_>) -> Result<()>);

const ENTRIES: [Entry; 6] = [
    ("Save a disk", "its used parts, as an image, into the repository", save::run),
    ("Restore an image", "onto a disk, a partition or a file", restore::run),
    ("Clone a disk", "onto another one, with no repository between", restore::clone),
    ("Look into an image", "disks, partitions and filesystems in it", images::look),
    ("Verify an image", "read and check all of its data", images::verify),
    ("Repository", "list, check, remove images; choose another one", repository::run),
];

/// Where the machine was started by `keiki serve` with images.
const SERVER: [Entry; 2] = [
    ("Save to the server", "this machine, once somebody there agrees", save::to_server),
    ("Wait for the server", "somebody there says what is done here, as before this menu", wait),
];

const LIVE: Entry =
    ("This machine", "keyboard, network, shell, where images are, power", live::run);

/// `keiki agent`.
fn wait(menu: &mut Menu<'_>) -> Result<()> {
    menu.act(&["agent".to_owned()]).map(drop)
}

impl Menu<'_> {
    fn main(&mut self) -> Result<()> {
        let version = env!("CARGO_PKG_VERSION");
        // There is nothing behind the menu of the recovery disc.
        let leaves = if live::is_here() { "comes back here" } else { "leaves" };
        self.tell(&format!(
            "Keiki {version}. Arrows and Enter choose, Esc goes back, Ctrl-C {leaves}.\n\
             Nothing is written before you have seen what will be done."
        ));
        let mut entries = ENTRIES.to_vec();
        if live::is_here() {
            if network::site_key().is_some() {
                entries.splice(1..1, SERVER);
            }
            entries.push(LIVE);
            live::keyboard_first(self)?;
        }
        let mut items: Vec<Item> =
            entries.iter().map(|(name, what, _)| Item::new(format!("{name:<20}{what}"))).collect();
        if !live::is_here() {
            items.push(Item::new("Quit"));
        }
        let mut start = 0;
        loop {
            self.tell("");
            if let Some(repo) = &self.repo {
                self.ask.tell(&format!("Repository: {repo}"));
            }
            let chosen = self.ask.choose("What shall be done?", &items, start)?;
            // Esc quits nothing by accident: it only goes to the entry that does.
            let Some(at) = chosen else {
                start = items.len().saturating_sub(1);
                continue;
            };
            let Some((name, _, entry)) = entries.get(at) else { return Ok(()) };
            start = at;
            self.tell(&format!("== {name}"));
            if let Err(error) = entry(self) {
                if error.is::<terminal::Gone>() {
                    return Err(error);
                }
                match is_interrupted(&error) {
                    // What was said has to be read.
                    true if live::is_here() => self.tell("Interrupted."),
                    true => return Err(error),
                    false => self.tell(&format!("error: {}", cmd::message(&error))),
                }
            }
        }
    }

    fn tell(&mut self, text: &str) {
        self.ask.tell(text);
    }

    /// The folder of the repository, which nothing may be written over; one on a web server is on no disk here.
    fn folder(&self) -> Option<PathBuf> {
        self.repo.as_ref().and_then(Location::folder).map(Path::to_owned)
    }

    /// Lets one of `items` be chosen; none for the entry `Back` and for Esc.
    fn choose(&mut self, question: &str, items: &[Item], start: usize) -> Result<Option<usize>> {
        let mut items = items.to_vec();
        items.push(Item::new("Back"));
        let chosen = self.ask.choose(question, &items, start)?;
        Ok(chosen.filter(|at| *at + 1 < items.len()))
    }

    /// Goes through the steps of an entry, forwards and back, until the last one or before the first.
    fn walk<D>(&mut self, draft: &mut D, steps: &[Step<D>]) -> Result<()> {
        let mut asked = Vec::new();
        let mut at = 0;
        self.again = false;
        while let Some(step) = steps.get(at) {
            let moved = step(self, draft)?;
            self.again = moved == Move::Back;
            match moved {
                Move::Next => asked.push(at),
                Move::Skip => {}
                Move::Leave => return Ok(()),
                Move::Back => match asked.pop() {
                    Some(before) => {
                        at = before;
                        continue;
                    }
                    None => return Ok(()),
                },
            }
            at += 1;
        }
        Ok(())
    }

    /// Shows a command and runs it; the words of the repository are added.
    fn act(&mut self, command: &[String]) -> Result<Exit> {
        let words = self.with_repository(command);
        self.tell(&format!("\nThe same as:\n{}\n", words::command(&words)));
        let exit = (self.run)(&words);
        if exit == Exit::Interrupted {
            return Err(Error::Interrupted.into());
        }
        if exit == Exit::Failed && live::is_here() {
            live::tell_gone(self);
        }
        Ok(exit)
    }

    fn with_repository(&self, command: &[String]) -> Vec<String> {
        // What copies from disk to disk knows of none, and a server has its own.
        let knows = |verb: &String| !["clone", "agent"].contains(&verb.as_str());
        let used = self.repo.iter().filter(|_| command.first().is_none_or(knows));
        let repo = used
            .flat_map(|repo| ["--repo".to_owned(), repo.as_typed().to_string_lossy().into_owned()]);
        repo.chain(command.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::ask::scripted::Scripted;
    use super::{Exit, Menu, Move, Step};

    /// Runs `body` with a menu whose questions are answered by `answers`; what was heard, what was run.
    pub fn with_menu(
        answers: &[&str],
        exits: &[Exit],
        body: impl FnOnce(&mut Menu<'_>),
    ) -> (Vec<String>, Vec<String>) {
        let mut ask = Scripted::new(answers);
        let mut ran = Vec::new();
        let mut exits = exits.iter();
        let mut run = |words: &[String]| {
            ran.push(words.join(" "));
            *exits.next().unwrap_or(&Exit::Done)
        };
        body(&mut Menu { ask: &mut ask, repo: None, again: false, run: &mut run });
        (ask.heard, ran)
    }

    #[test]
    fn going_back_passes_what_was_not_asked() {
        let ask: Step<Vec<u8>> = |menu, draft| {
            let items = ["a", "b"].map(super::Item::new);
            let Some(at) = menu.choose("?", &items, 0)? else { return Ok(Move::Back) };
            draft.push(u8::try_from(at)?);
            Ok(Move::Next)
        };
        let skip: Step<Vec<u8>> = |_, _| Ok(Move::Skip);
        let mut draft = Vec::new();
        with_menu(&["a", "<", "b", "Back", "a", "b"], &[], |menu| {
            menu.walk(&mut draft, &[ask, skip, ask]).unwrap();
        });
        assert_eq!(draft, [0, 1, 0, 1]);
        // Before the first step is the way out.
        with_menu(&["a", "<", "<"], &[], |menu| {
            menu.walk(&mut draft, &[ask, skip, ask]).unwrap();
        });
    }

    #[test]
    fn esc_in_the_main_menu_quits_nothing() {
        let (heard, ran) = with_menu(&["<", "<", "Quit"], &[], |menu| menu.main().unwrap());
        assert_eq!(heard.iter().filter(|heard| heard.starts_with("What shall")).count(), 3);
        assert!(ran.is_empty());
    }
}
