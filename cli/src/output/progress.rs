//! Progress on a terminal, in a log, or for a program: bytes, rate, time left, stage.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use image_core::report::{Report, Stage};
use image_core::units::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::args::{Global, ProgressKind};

/// Lines come at most this often, and the first one of a stage only when it lasts as long.
const PERIOD: Duration = Duration::from_secs(2);

/// Shows progress and remembers whether the user asked to stop.
pub struct Progress {
    /// Counts the bytes and knows the rate; on the screen only where a bar was asked for.
    bar: ProgressBar,
    lines: Option<Lines>,
    quiet: bool,
    /// The last note of the stage.
    note: Arc<Mutex<Option<String>>>,
    /// What remains to be done by hand.
    steps: Arc<Mutex<Vec<String>>>,
    interrupted: Arc<AtomicBool>,
}

/// Lines are written by a thread of their own, so that a disk that hangs is seen to hang.
struct Lines {
    shared: Arc<Shared>,
    _stop: Sender<()>,
}

struct Shared {
    bar: ProgressBar,
    json: bool,
    out: Mutex<Out>,
}

struct Out {
    to: Box<dyn Write + Send>,
    stage: Option<Stage>,
    told: Instant,
    /// The line before, which is not said twice: where nothing is known but the stage.
    last: String,
}

impl Progress {
    /// Progress as the command line asks for it; `interrupted` is set by the signal handlers.
    pub fn new(global: &Global, interrupted: Arc<AtomicBool>) -> Self {
        let terminal = std::io::stderr().is_terminal() && global.progress_fd.is_none();
        let kind = match global.progress {
            ProgressKind::Auto if global.quiet => ProgressKind::None,
            ProgressKind::Auto if terminal => ProgressKind::Bar,
            ProgressKind::Auto => ProgressKind::Plain,
            kind => kind,
        };
        let draw = match kind {
            ProgressKind::Bar => ProgressDrawTarget::stderr_with_hz(8),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, draw);
        let lines = match kind {
            ProgressKind::Plain => Some(Lines::new(&bar, false, global)),
            ProgressKind::Jsonl => Some(Lines::new(&bar, true, global)),
            _ => None,
        };
        Self {
            bar,
            lines,
            quiet: global.quiet,
            note: Arc::default(),
            steps: Arc::default(),
            interrupted,
        }
    }

    /// Takes the bar off the screen, before a question or a result; the next stage brings it back.
    pub fn finish(&self) {
        if let Some(lines) = &self.lines {
            lines.shared.end(true);
        }
        self.bar.disable_steady_tick();
        self.bar.finish_and_clear();
    }

    /// The same for another thread.
    pub fn watch(&self) -> Watch {
        Watch {
            bar: self.bar.clone(),
            note: Arc::clone(&self.note),
            steps: Arc::clone(&self.steps),
            interrupted: Arc::clone(&self.interrupted),
        }
    }

    /// Notes what remains to be done by hand, for whoever watches.
    pub fn step(&self, step: &str) {
        locked(&self.steps).push(step.to_owned());
    }

    /// Prints a text on standard error, above the bar.
    pub fn talk(&self, text: &str) {
        self.bar.suspend(|| super::talk(text));
    }
}

/// What a progress shows, for another thread.
pub struct Watch {
    bar: ProgressBar,
    note: Arc<Mutex<Option<String>>>,
    steps: Arc<Mutex<Vec<String>>>,
    interrupted: Arc<AtomicBool>,
}

impl Watch {
    /// The stage in words, and bytes of it: done, and in all where that is known.
    pub fn now(&self) -> (String, u64, Option<u64>) {
        (self.bar.message(), self.bar.position(), self.bar.length())
    }

    /// What was noted last in this stage, if anything.
    pub fn note(&self) -> Option<String> {
        locked(&self.note).clone()
    }

    /// What remains to be done by hand, which is not told again.
    pub fn take_steps(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.steps))
    }

    /// Interrupts the work as the user would, or lets other work begin after that.
    pub fn interrupt(&self, stops: bool) {
        self.interrupted.store(stops, Ordering::Relaxed);
    }
}

impl Lines {
    fn new(bar: &ProgressBar, json: bool, global: &Global) -> Self {
        let out =
            Out { to: output(global), stage: None, told: Instant::now(), last: String::new() };
        let shared = Arc::new(Shared { bar: bar.clone(), json, out: Mutex::new(out) });
        let (stop, stopped) = mpsc::channel();
        let ticking = Arc::clone(&shared);
        let tick = move || {
            while stopped.recv_timeout(PERIOD / 10) == Err(RecvTimeoutError::Timeout) {
                ticking.tick();
            }
        };
        // Without the thread there are no lines, and the work goes on.
        drop(thread::Builder::new().name("progress".to_owned()).spawn(tick));
        Self { shared, _stop: stop }
    }
}

impl Shared {
    /// Begins a stage. A program is told at once, a person only what takes time.
    fn begin(&self, stage: Stage) {
        let mut out = locked(&self.out);
        (out.stage, out.told) = (Some(stage), Instant::now());
        if self.json {
            self.line(&mut out);
        }
    }

    /// Ends the last stage; a program is told its final figures where all work ends with it.
    fn end(&self, all: bool) {
        let mut out = locked(&self.out);
        if self.json && all {
            self.line(&mut out);
        }
        out.stage = None;
    }

    fn tick(&self) {
        let mut out = locked(&self.out);
        if out.told.elapsed() >= PERIOD {
            out.told = Instant::now();
            self.line(&mut out);
        }
    }

    fn line(&self, out: &mut Out) {
        let Some(stage) = out.stage else { return };
        let (done, total) = (self.bar.position(), self.bar.length());
        let rate = self.bar.per_sec();
        let line = if self.json {
            serde_json::json!({"stage": stage.name(), "bytes": done, "total": total,
                "bytes_per_second": rate as u64, "seconds_left": seconds_left(rate, done, total)})
            .to_string()
        } else {
            format!("{}{}", words(stage), figures(done, total, rate))
        };
        if line != out.last {
            // Nobody can be told that this failed.
            drop(writeln!(out.to, "{line}").and_then(|()| out.to.flush()));
            out.last = line;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a person reads for a stage.
fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Survey => "looking at the source",
        Stage::Index => "reading the repository",
        Stage::Estimate => "estimating the space it takes",
        Stage::Save => "saving",
        Stage::Wipe => "clearing the target",
        Stage::Write => "writing",
        Stage::Verify => "reading back",
        Stage::Grow => "growing filesystems",
        Stage::Finish => "writing tables",
        Stage::Check => "checking",
        Stage::Rewrite => "rewriting",
        Stage::Packages => "fetching packages",
        Stage::Unpack => "unpacking packages",
        Stage::Compress => "compressing",
        Stage::Build => "building",
        Stage::Repair => "repairing",
        Stage::Copy => "copying",
    }
}

/// `: 1.5 GiB of 8 GiB, 98 MiB/s, 1:08 left`; less where less is known.
fn figures(done: u64, total: Option<u64>, rate: f64) -> String {
    let mut text = String::new();
    if let Some(total) = total {
        text = format!(": {} of {}", Bytes::new(done), Bytes::new(total));
    } else if done > 0 {
        text = format!(": {}", Bytes::new(done));
    }
    if total.is_some() || done > 0 {
        text += &format!(", {}/s", Bytes::new(rate as u64));
    }
    if let Some(left) = seconds_left(rate, done, total) {
        text += &format!(", {} left", clock(left));
    }
    text
}

/// What is left at this rate; none where that is a guess.
fn seconds_left(rate: f64, done: u64, total: Option<u64>) -> Option<u64> {
    let rate = rate as u64;
    total.filter(|_| rate > 0).map(|total| total.saturating_sub(done).div_ceil(rate))
}

/// Seconds as `0:42`, `12:05`, `3:12:05`.
pub fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        return format!("{hours}:{minutes:02}:{seconds:02}");
    }
    format!("{minutes}:{seconds:02}")
}

/// The bar, in our own figures.
fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{msg} {wide_bar} {percent}%{figures}"
    } else {
        "{msg}{figures} {spinner}"
    };
    let figures_of = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = out.write_str(&figures(state.pos(), state.len(), state.per_sec()));
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    // Without UTF-8 a terminal makes three signs of each block, and wraps.
    let ascii = |style: ProgressStyle| style.progress_chars("#>-").tick_chars("|/-\\ ");
    let style = if super::drawing::is_utf8() { style } else { ascii(style) };
    style.with_key("figures", figures_of)
}

/// Standard error, or the descriptor that the user named.
fn output(global: &Global) -> Box<dyn Write + Send> {
    match global.progress_fd {
        Some(fd) => {
            match std::fs::OpenOptions::new().append(true).open(format!("/proc/self/fd/{fd}")) {
                Ok(file) => Box::new(file),
                Err(_) => Box::new(std::io::stderr()),
            }
        }
        None => Box::new(std::io::stderr()),
    }
}

impl Report for Progress {
    fn stage(&self, stage: Stage, total: Option<Bytes>) {
        // No line in between tells the last stage with the figures of this one.
        if let Some(lines) = &self.lines {
            lines.shared.end(false);
        }
        match total {
            Some(total) => self.bar.set_length(total.get()),
            None => self.bar.unset_length(),
        }
        self.bar.set_style(style(total.is_some()));
        self.bar.set_message(words(stage));
        *locked(&self.note) = None;
        self.bar.reset();
        if !self.bar.is_hidden() {
            self.bar.enable_steady_tick(Duration::from_millis(250));
        }
        if let Some(lines) = &self.lines {
            lines.shared.begin(stage);
        }
    }

    fn advance(&self, bytes: Bytes) {
        self.bar.inc(bytes.get());
    }

    fn note(&self, message: &str) {
        *locked(&self.note) = Some(message.to_owned());
        if !self.quiet {
            self.talk(message);
        }
    }

    fn warning(&self, message: &str) {
        self.talk(&format!("warning: {message}"));
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::{clock, figures};

    #[test]
    fn figures_say_what_is_known_and_no_more() {
        let mib = |count: u64| count << 20;
        assert_eq!(figures(0, None, 0.0), "");
        assert_eq!(figures(mib(3), None, 1048576.0), ": 3 MiB, 1 MiB/s");
        assert_eq!(figures(0, Some(mib(8)), 0.0), ": 0 B of 8 MiB, 0 B/s");
        let half = figures(mib(4), Some(mib(8)), 1048576.0);
        assert_eq!(half, ": 4 MiB of 8 MiB, 1 MiB/s, 0:04 left");
    }

    #[test]
    fn times_read_like_a_clock() {
        let times = [(7, "0:07"), (725, "12:05"), (11_525, "3:12:05")];
        times.into_iter().for_each(|(seconds, text)| assert_eq!(clock(seconds), text));
    }
}
