//! What it means to run a program.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// A program with its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Name, looked up in `PATH` and the `sbin` folders, or a path.
    pub program: OsString,
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// Set on top of the caller's environment (which is passed on, with `LC_ALL=C`).
    pub env: Vec<(OsString, OsString)>,
    /// What it reads from standard input.
    pub stdin: Vec<u8>,
}

impl Call {
    /// `program` with `args`.
    pub fn new<A: AsRef<OsStr>>(
        program: impl Into<OsString>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            env: Vec::new(),
            stdin: Vec::new(),
        }
    }

    /// The same call with an environment variable set.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The same call with bytes on standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// As a person would type it.
    pub fn line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// How a program ended and what it said.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both outputs as text, for messages.
    pub fn talk(&self) -> String {
        let both = [self.stdout.as_slice(), self.stderr.as_slice()].concat();
        String::from_utf8_lossy(&both).trim().to_owned()
    }

    /// This end of `line` as an error that quotes what it said.
    pub fn failure(&self, line: &str) -> Error {
        let how = self.code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
        Error::io(line, "finish", std::io::Error::other(format!("{how}: {}", self.talk())))
    }
}

/// Runs programs to their end.
pub trait Runner: Send + Sync {
    /// Runs `call` and waits for its end; any exit code is an `Ok`.
    ///
    /// # Errors
    /// [`Error::Io`] where it could not be started.
    fn run(&self, call: &Call) -> Result<Outcome>;

    /// Where `program` is installed, if it is.
    fn find(&self, program: &str) -> Option<PathBuf>;

    /// Runs `call` and takes any end but exit code 0 for an error that quotes what it said.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn check(&self, call: &Call) -> Result<Outcome> {
        let outcome = self.run(call)?;
        if outcome.success() {
            return Ok(outcome);
        }
        Err(outcome.failure(&call.line()))
    }
}
