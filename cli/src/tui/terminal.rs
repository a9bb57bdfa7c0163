//! Questions on a terminal, down to a serial console of 80 columns and 24 lines.
//!
//! Lists are dialoguer's. What it lacks is here: lines that never wrap, entries that cannot be chosen, Esc
//! where a line is typed, an arrow key whose bytes arrive one by one and are not taken for Esc, and a
//! terminal that is left as it was however a question ends.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use console::{Key, Term, measure_text_width, style};
use dialoguer::Select;
use dialoguer::theme::Theme;
use image_core::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::ask::{Ask, Check, Item};
use crate::output::drawing::{cut, plain};
use crate::output::wrap;

/// The bytes of one key follow each other within this, also at 1200 baud.
const KEY_TIME: Duration = Duration::from_millis(60);

/// What is asked to stop has stopped within this, unless it waits for something that does not answer.
const STOP_TIME: Duration = Duration::from_secs(5);
const HINT: &str = "\nStill stopping. Where a disk or a share does not answer any more, Ctrl-C once more gives up.";

/// Whether there is a terminal to ask on: one that shows, understands cursor keys, and is typed on.
pub fn usable() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    !dumb && io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// The terminal's own settings while a question has changed them.
#[derive(Clone, Default)]
pub struct Before(Arc<Mutex<Option<Termios>>>);

impl Before {
    /// Puts the settings back, and shows the cursor; also from another thread.
    pub fn restore(&self) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(before) = before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
            drop(Term::stderr().show_cursor());
        }
    }

    /// Whether a question is being asked.
    pub fn is_asking(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// No echo between two keys, and Ctrl-C is a key, as long as the guard lives.
    fn raw(&self) -> io::Result<Raw<'_>> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes = before.output_modes;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let guard = Raw(self);
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(guard)
    }
}

/// Restores the terminal when dropped.
struct Raw<'a>(&'a Before);

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// The terminal.
pub struct Terminal {
    term: Term,
    before: Before,
}

impl Terminal {
    /// Standard error and standard input.
    pub fn new(before: Before) -> Self {
        Self { term: Term::stderr(), before }
    }

    fn width(&self) -> usize {
        usize::from(self.term.size().1).max(20)
    }

    /// Whether another byte comes soon: then an Esc was the beginning of a key.
    fn more_comes() -> bool {
        let stdin = io::stdin();
        let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
        let time = Timespec::try_from(KEY_TIME).ok();
        poll(&mut polled, time.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// The key that an Esc followed by `[A` was, on a line so slow that it came in pieces.
    fn after_escape(&self) -> io::Result<Key> {
        if !Self::more_comes() {
            return Ok(Key::Escape);
        }
        if !matches!(self.term.read_key()?, Key::Char('[' | 'O')) || !Self::more_comes() {
            return Ok(Key::Unknown);
        }
        Ok(match self.term.read_key()? {
            Key::Char('A') => Key::ArrowUp,
            Key::Char('B') => Key::ArrowDown,
            Key::Char('C') => Key::ArrowRight,
            Key::Char('D') => Key::ArrowLeft,
            _ => Key::Unknown,
        })
    }
}

/// What a question ends with where it does not end with an answer.
fn ended(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::Interrupted {
        return Error::Interrupted.into();
    }
    Gone(error).into()
}

/// The terminal does not answer any more: asking again would fail for ever.
#[derive(Debug)]
pub struct Gone(io::Error);

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot ask on this terminal: {}", self.0)
    }
}

impl std::error::Error for Gone {}

/// How lists look: the entry under the cursor stands out, what cannot be chosen is pale.
struct Look {
    blocked: Vec<String>,
    texts: Vec<String>,
    active: Cell<usize>,
}

impl Theme for Look {
    fn format_prompt(&self, f: &mut dyn fmt::Write, prompt: &str) -> fmt::Result {
        write!(f, "{}", style(prompt).for_stderr().bold())
    }

    fn format_select_prompt_item(
        &self,
        f: &mut dyn fmt::Write,
        text: &str,
        active: bool,
    ) -> fmt::Result {
        if active {
            self.active.set(self.texts.iter().position(|other| other == text).unwrap_or(0));
        }
        let mut lines = text.split('\n');
        let first = lines.next().unwrap_or_default();
        let pale = self.blocked.iter().any(|blocked| blocked == text);
        let head = style(first).for_stderr();
        let head = if pale { head.dim() } else { head };
        let head = if active { head.bold() } else { head };
        write!(f, "{} {head}", if active { ">" } else { " " })?;
        lines.try_for_each(|line| {
            let line = style(line).for_stderr();
            write!(f, "\n    {}", if pale { line.dim() } else { line })
        })
    }
}

/// `text` in at most `rows` lines of `width` columns.
fn wrapped(text: &str, width: usize, rows: usize) -> Vec<String> {
    let mut lines = wrap::lines(&plain(text), width);
    if lines.len() > rows {
        let rest = lines.split_off(rows.saturating_sub(1)).join(" ");
        lines.push(rest);
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

/// An entry as it is shown: its line, and those below.
fn shown(item: &Item, width: usize) -> String {
    // dialoguer counts bytes where columns are meant, so a line keeps below both.
    let width = width.saturating_sub(6);
    let mut lines = vec![cut(&plain(&item.text), width)];
    for more in &item.more {
        lines.extend(wrapped(more, width, 2));
    }
    if let Some(why) = &item.blocked {
        lines.extend(wrapped(&format!("not possible: {why}"), width, 3));
    }
    let bytes = |mut line: String| {
        while line.len() > width {
            line.pop();
        }
        line
    };
    lines.into_iter().map(bytes).collect::<Vec<_>>().join("\n")
}

/// How many entries a page has, so that none is higher than `rows`.
fn page(texts: &[String], rows: usize) -> usize {
    let heights: Vec<usize> = texts.iter().map(|text| text.split('\n').count()).collect();
    let fits = |page: &&[usize]| page.iter().sum::<usize>() <= rows;
    let most = (1..=heights.len()).rev().find(|most| heights.chunks(*most).all(|page| fits(&page)));
    most.unwrap_or(1)
}

impl Ask for Terminal {
    fn choose(&mut self, question: &str, items: &[Item], start: usize) -> Result<Option<usize>> {
        drop(self.term.clear_line());
        let width = self.width();
        let texts: Vec<String> = items.iter().map(|item| shown(item, width)).collect();
        // Prompt, hint, and the line that the cursor ends on.
        let rows = usize::from(self.term.size().0).saturating_sub(4);
        let blocked = items.iter().zip(&texts).filter(|(item, _)| item.blocked.is_some());
        let look = Look {
            blocked: blocked.map(|(_, text)| text.clone()).collect(),
            texts: texts.clone(),
            active: Cell::new(start),
        };
        let free = |at: usize| items.get(at).is_some_and(|item| item.blocked.is_none());
        let first = (0..items.len()).find(|at| free(*at)).unwrap_or(0);
        let mut start = if free(start) { start } else { first };
        loop {
            let select = Select::with_theme(&look)
                .with_prompt(cut(question, width.saturating_sub(20)))
                .items(&texts)
                .default(start.min(items.len().saturating_sub(1)))
                .max_length(page(&texts, rows))
                .report(false);
            let raw = self.before.raw().map_err(ended)?;
            let chosen =
                select.interact_on_opt(&self.term).map_err(|dialoguer::Error::IO(e)| ended(e));
            let chosen = match chosen? {
                Some(at) => Some(at),
                None => match self.after_escape().map_err(ended)? {
                    Key::Escape => None,
                    key => {
                        let last = items.len().saturating_sub(1);
                        start = match (key, look.active.get()) {
                            (Key::ArrowUp, 0) => last,
                            (Key::ArrowUp, at) => at - 1,
                            (Key::ArrowDown, at) if at >= last => 0,
                            (Key::ArrowDown, at) => at + 1,
                            (_, at) => at,
                        };
                        continue;
                    }
                },
            };
            drop(raw);
            let why = chosen.and_then(|at| items.get(at)).and_then(|item| item.blocked.as_ref());
            let Some(why) = why else { return Ok(chosen) };
            self.tell(&format!("That is not possible: {why}"));
            start = chosen.unwrap_or(start);
        }
    }

    fn line(&mut self, question: &str, initial: &str, check: Check<'_>) -> Result<Option<String>> {
        let mut text: Vec<char> = initial.chars().collect();
        loop {
            let raw = self.before.raw().map_err(ended)?;
            let typed = self.edit(question, &mut text);
            if matches!(typed, Ok(true)) {
                drop(self.term.write_line(""));
            } else {
                // What was not entered is not left standing as if it were.
                drop(self.term.clear_line());
            }
            drop(raw);
            if !typed.map_err(ended)? {
                return Ok(None);
            }
            let line: String = text.iter().collect::<String>().trim().to_owned();
            match check(&line) {
                Ok(()) => return Ok(Some(line)),
                Err(why) => self.tell(&why),
            }
        }
    }

    fn busy(&mut self, text: &str) {
        drop(self.term.write_str(&cut(text, self.width() - 1)));
    }

    fn tell(&mut self, text: &str) {
        drop(self.term.clear_line());
        let width = self.width().saturating_sub(1);
        // An empty text is an empty line, which `lines` would leave out.
        for line in text.split('\n') {
            for line in wrap::lines(&plain(line), width) {
                drop(self.term.write_line(&line));
            }
        }
    }
}

impl Terminal {
    /// Lets `text` be edited; whether it was entered, not left with Esc.
    fn edit(&self, question: &str, text: &mut Vec<char>) -> io::Result<bool> {
        let mut at = text.len();
        loop {
            self.show(question, text, at)?;
            let key = match self.term.read_key()? {
                Key::Escape => self.after_escape()?,
                key => key,
            };
            match key {
                Key::Enter => return Ok(true),
                Key::Escape => return Ok(false),
                Key::Char('\u{15}') => {
                    text.drain(..at);
                    at = 0;
                }
                // The end of input, as a shell has it.
                Key::Char('\u{4}') if text.is_empty() => return Ok(false),
                Key::Char(char) if !char.is_control() => {
                    text.insert(at, char);
                    at += 1;
                }
                Key::Backspace if at > 0 => {
                    at -= 1;
                    text.remove(at);
                }
                Key::Del if at < text.len() => drop(text.remove(at)),
                Key::ArrowLeft => at = at.saturating_sub(1),
                Key::ArrowRight => at = (at + 1).min(text.len()),
                Key::Home => at = 0,
                Key::End => at = text.len(),
                _ => {}
            }
        }
    }

    /// Draws the line with the cursor before the character `at`; of a long one the part around it.
    fn show(&self, question: &str, text: &[char], at: usize) -> io::Result<()> {
        let width = self.width();
        let question = cut(question, width * 2 / 3);
        let room = width.saturating_sub(measure_text_width(&question) + 4);
        let from = at.saturating_sub(room);
        let part: String = text.iter().skip(from).take(room).collect();
        let ahead: String = text.iter().skip(from).take(at - from).collect();
        self.term.clear_line()?;
        self.term.write_str(&format!("{}: {part}", style(&question).for_stderr().bold()))?;
        let behind = measure_text_width(&part).saturating_sub(measure_text_width(&ahead));
        self.term.move_cursor_left(behind)?;
        self.term.flush()
    }
}

/// Ends the program on a signal while a question is asked; while something is done, the first signal is for
/// that to stop by, and the second ends the program at once, for a disk that does not answer any more.
///
/// # Errors
/// Signals cannot be handled here.
pub fn watch(before: &Before, interrupted: &Arc<std::sync::atomic::AtomicBool>) -> Result<()> {
    use std::sync::atomic::Ordering::Relaxed;
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    let mut signals = signal_hook::iterator::Signals::new(signals).context("signals")?;
    let (before, interrupted) = (before.clone(), Arc::clone(interrupted));
    let watching = move || {
        for _ in signals.forever() {
            let second = interrupted.swap(true, Relaxed);
            if before.is_asking() || second {
                // The question's own way out, where it takes it, is as good.
                std::thread::sleep(KEY_TIME);
                before.restore();
                std::process::exit(crate::exit::Exit::Interrupted.code().into());
            }
            let (asks, stops) = (before.clone(), Arc::clone(&interrupted));
            let hint = move || {
                std::thread::sleep(STOP_TIME);
                if stops.load(Relaxed) && !asks.is_asking() {
                    crate::output::talk(HINT);
                }
            };
            drop(std::thread::Builder::new().name("hint".to_owned()).spawn(hint));
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watching).context("signals")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Item, page, shown, wrapped};

    #[test]
    fn entries_never_wrap() {
        let long = "Samsung SSD 870 EVO with a very long name and a serial number ".repeat(4);
        let item = Item::new(&long).with(&long).blocked(Some(long.clone()));
        for width in [40, 80, 200] {
            let text = shown(&item, width);
            assert!(text.split('\n').all(|line| line.len() <= width - 6), "{text}");
        }
        let text = shown(&Item::new("d\u{e9}j\u{e0} vu\u{1b}[2J"), 80);
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn pages_are_as_long_as_the_screen_allows() {
        let texts = ["a", "b\nb\nb", "c", "d"].map(str::to_owned);
        for (rows, most) in [(6, 4), (5, 3), (4, 2), (3, 1), (1, 1)] {
            assert_eq!(page(&texts, rows), most, "{rows}");
        }
    }

    #[test]
    fn words_are_broken_between_them() {
        assert_eq!(wrapped("one two three", 8, 9), ["one two", "three"]);
        assert_eq!(wrapped("one two three", 8, 1), ["one two~"]);
    }
}
