//! A runner that plays back what a test wrote down.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::{Call, Outcome, Runner};
use crate::error::{Error, Result};

/// Answers calls in order; a call that was not expected is an error.
#[derive(Default, Debug)]
pub struct Scripted {
    script: Mutex<VecDeque<(String, Outcome)>>,
}

impl Scripted {
    /// Expects these command lines, and answers each with its outcome.
    pub fn new<L: Into<String>>(script: impl IntoIterator<Item = (L, Outcome)>) -> Self {
        let script = script.into_iter().map(|(line, outcome)| (line.into(), outcome)).collect();
        Self { script: Mutex::new(script) }
    }

    /// How many expected calls have not come.
    pub fn left(&self) -> usize {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Runner for Scripted {
    fn run(&self, call: &Call) -> Result<Outcome> {
        let next = self.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        match next {
            Some((line, outcome)) if line == call.line() => Ok(outcome),
            other => {
                let expected = other.map_or("no call".to_owned(), |(line, _)| line);
                let source = std::io::Error::other(format!("the script expects {expected}"));
                Err(Error::io(call.line(), "start", source))
            }
        }
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        Some(PathBuf::from("/usr/sbin").join(program))
    }
}
