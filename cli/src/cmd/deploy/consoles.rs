//! The keys of all consoles: whoever stands before any of them can stop what nobody attends.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal of this program. (The live system has no /dev/stdin.)
pub const OWN: &str = "/proc/self/fd/0";

/// Terminals that tell of every key at once; they are as they were when this goes away.
pub struct Consoles(Vec<(File, Termios)>);

impl Consoles {
    /// Opens those of `paths` that are terminals.
    pub fn open(paths: &[PathBuf]) -> Self {
        let open = |path: &PathBuf| {
            let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?);
            let before = tcgetattr(&file).ok()?;
            let mut raw = before.clone();
            raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // What was typed before the question is no answer to it.
            tcsetattr(&file, OptionalActions::Flush, &raw).ok()?;
            Some((file, before))
        };
        Self(paths.iter().filter_map(open).collect())
    }

    /// Waits for a key, at most so long; whether one was pressed.
    pub fn key(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let time = Timespec::try_from(left).ok();
            let mut polled: Vec<_> =
                self.0.iter().map(|(file, _)| PollFd::new(file, PollFlags::IN)).collect();
            let ready = poll(&mut polled, time.as_ref());
            drop(polled);
            let pressed = self.0.iter_mut().any(|(file, _)| {
                let mut keys = [0; 64];
                // A serial line that nobody is at may be ready without having anything to read.
                file.read(&mut keys).is_ok_and(|count| count > 0)
            });
            if pressed {
                return true;
            }
            if ready.is_ok_and(|count| count == 0) || Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Consoles {
    fn drop(&mut self) {
        for (file, before) in &self.0 {
            // Nothing else can be done about a terminal that is gone.
            let _ = tcsetattr(file, OptionalActions::Flush, before);
        }
    }
}
