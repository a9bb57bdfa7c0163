//! Starts programs of this machine.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Call, Outcome, Runner};
use crate::error::{Error, Result};

/// Folders that hold filesystem tools but are not in every user's `PATH`.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// How much is kept of what a program says while it runs beside this one.
const MOST_TALK: u64 = 64 << 10;

/// The machine's own programs.
#[derive(Clone, Copy, Default, Debug)]
pub struct Machine;

impl Machine {
    /// Starts `call` beside this program: it is given `call`'s standard input, which then stays open.
    ///
    /// It gets a process group of its own, so that a Ctrl-C meant for this program does not end it.
    ///
    /// # Errors
    /// [`Error::Io`] where it could not be started.
    pub fn spawn(&self, call: &Call) -> Result<Beside> {
        let mut child =
            self.start(self.command(call)?.process_group(0).stdin(Stdio::piped()), call)?;
        let mut input = child.stdin.take();
        if let Some(pipe) = &mut input {
            // One that ended already closes the pipe; whoever reads its answer or its exit code learns of it.
            drop(pipe.write_all(&call.stdin).and_then(|()| pipe.flush()));
        }
        let answers = child.stdout.take().map(BufReader::new);
        // Read as it comes, so that a program which says much does not wait for ever.
        let talk = child.stderr.take().map(|mut pipe| {
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                let read = Read::by_ref(&mut pipe).take(MOST_TALK).read_to_end(&mut kept);
                read.and_then(|_| std::io::copy(&mut pipe, &mut std::io::sink())).map(|_| kept)
            })
        });
        Ok(Beside { line: call.line(), child, input, answers, talk })
    }

    /// Runs `call` on this program's own terminal, where it may ask a person something; whether it exited with 0.
    ///
    /// # Errors
    /// [`Error::Io`] where it could not be started.
    pub fn attend(&self, call: &Call) -> Result<bool> {
        let mut command = self.command(call)?;
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        let mut child = self.start(&mut command, call)?;
        let status = child.wait().map_err(|source| Error::io(call.line(), "wait for", source))?;
        Ok(status.success())
    }

    fn command(&self, call: &Call) -> Result<Command> {
        let name = call.program.to_string_lossy();
        let path = self.find(&name).ok_or_else(|| {
            let source = std::io::Error::new(ErrorKind::NotFound, "not installed");
            Error::io(call.line(), "start", source)
        })?;
        #[expect(clippy::disallowed_methods, reason = "this is the room that starts programs")]
        let mut command = Command::new(path);
        command
            .args(&call.args)
            .env("LC_ALL", "C")
            .envs(call.env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    fn start(&self, command: &mut Command, call: &Call) -> Result<Child> {
        command.spawn().map_err(|source| Error::io(call.line(), "start", source))
    }
}

impl Runner for Machine {
    fn run(&self, call: &Call) -> Result<Outcome> {
        let stdin = if call.stdin.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child = self.start(self.command(call)?.stdin(stdin), call)?;
        // Fed by a thread, for a program that talks before it has read everything.
        let feeder = child.stdin.take().map(|mut pipe| {
            let bytes = call.stdin.clone();
            std::thread::spawn(move || pipe.write_all(&bytes))
        });
        let output = child
            .wait_with_output()
            .map_err(|source| Error::io(call.line(), "wait for", source))?;
        if let Some(feeder) = feeder {
            // A program that ends without reading all of its input closes the pipe: its exit code tells.
            drop(feeder.join());
        }
        Ok(Outcome { code: output.status.code(), stdout: output.stdout, stderr: output.stderr })
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        if program.contains('/') {
            return Some(PathBuf::from(program)).filter(|path| path.is_file());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(SBIN.iter().map(PathBuf::from))
            .map(|folder| folder.join(OsStr::new(program)))
            .find(|path: &PathBuf| Path::is_file(path))
    }
}

/// A program that runs beside this one; killed when dropped.
#[derive(Debug)]
pub struct Beside {
    line: String,
    child: Child,
    input: Option<ChildStdin>,
    answers: Option<BufReader<ChildStdout>>,
    talk: Option<JoinHandle<std::io::Result<Vec<u8>>>>,
}

impl Beside {
    /// The next line of its standard output; empty when there is no more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if let Some(answers) = &mut self.answers {
            answers.read_line(&mut line).map_err(|source| self.failed("read from", source))?;
        }
        Ok(line)
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_ended(&mut self) -> Result<bool> {
        let status = self.child.try_wait().map_err(|source| self.failed("wait for", source))?;
        Ok(status.is_some())
    }

    /// Writes `text` to its standard input.
    ///
    /// # Errors
    /// [`Error::Io`]: it has ended.
    pub fn tell(&mut self, text: &str) -> Result<()> {
        let told = match &mut self.input {
            Some(pipe) => pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()),
            None => Err(ErrorKind::NotConnected.into()),
        };
        told.map_err(|source| self.failed("write to", source))
    }

    /// Closes its standard input, waits for its end, at most for `patience`, and tells how it ended.
    ///
    /// What it answers until then must fit into its pipe (64 KiB): that is read at the end.
    ///
    /// # Errors
    /// [`Error::Io`]; also where patience ended, and then it is killed.
    pub fn finish(mut self, patience: Duration) -> Result<Outcome> {
        drop(self.input.take());
        let start = Instant::now();
        let status = loop {
            if let Some(status) =
                self.child.try_wait().map_err(|source| self.failed("wait for", source))?
            {
                break status;
            }
            if start.elapsed() > patience {
                return Err(self.failed("wait for", ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let mut outcome = Outcome { code: status.code(), ..Outcome::default() };
        let answers = self.answers.as_mut();
        let read = answers.map_or(Ok(0), |stdout| stdout.read_to_end(&mut outcome.stdout));
        let talk = self.talk.take().map_or(Ok(Ok(Vec::new())), JoinHandle::join);
        let talk = talk.unwrap_or_else(|_| Err(std::io::Error::other("its reader ended")));
        outcome.stderr = read.and(talk).map_err(|source| self.failed("read from", source))?;
        Ok(outcome)
    }

    fn failed(&self, action: &str, source: std::io::Error) -> Error {
        Error::io(self.line.clone(), action, source)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
