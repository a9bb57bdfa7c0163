//! The one error type of the library: what went wrong, where, and what the user's exit code will be.
//!
//! Four kinds, because callers do four things: retry or give up (`Io`), distrust the data (`Corrupt`),
//! fall back to a raw copy (`Unsupported`), or ask the user for another choice (`Refused`).

use std::io;

use crate::units::Bytes;

/// Result of everything in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. The message names the subject (a path, a volume), the structure and the offset.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system said no: reading, writing, opening, starting a program.
    #[error("{subject}: cannot {action}{}: {}", position(.offset), cause(.source))]
    Io {
        /// The file, disk or program.
        subject: String,
        /// A verb phrase: `read 4096 bytes`, `create`, `flush`.
        action: String,
        /// Byte position in the subject, where there is one.
        offset: Option<Bytes>,
        /// The cause.
        source: io::Error,
    },
    /// Bytes contradict their specification or their checksum.
    #[error("{subject}{structure} at byte {}: expected {expected}, found {found}", .offset.get())]
    Corrupt {
        /// The file, disk or volume with `": "` behind it, or empty.
        subject: String,
        /// The on-disk structure and field, as its specification names it.
        structure: String,
        /// Byte position of the structure in the subject.
        offset: Bytes,
        /// What the specification asks for.
        expected: String,
        /// What was there.
        found: String,
    },
    /// Valid perhaps, but beyond what this version understands.
    #[error("{subject}{what} is not supported")]
    Unsupported {
        /// The file, disk or volume with `": "` behind it, or empty.
        subject: String,
        /// A noun phrase: `incompat feature 0x4000000`.
        what: String,
    },
    /// A safety rule forbids it; nothing was written.
    #[error("{0}")]
    Refused(String),
    /// The user asked to stop (SIGINT, SIGTERM).
    #[error("interrupted")]
    Interrupted,
}

/// The cause; where the standard library speaks of its buffers, in words that say something of a file.
fn cause(source: &io::Error) -> String {
    match (source.kind(), source.get_ref()) {
        (io::ErrorKind::UnexpectedEof, None) => "it ends before that".to_owned(),
        _ => source.to_string(),
    }
}

fn position(offset: &Option<Bytes>) -> String {
    offset.map_or_else(String::new, |offset| format!(" at byte {}", offset.get()))
}

impl Error {
    /// An IO error without a position.
    pub fn io(subject: impl Into<String>, action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { subject: subject.into(), action: action.into(), offset: None, source }
    }

    /// An IO error at a byte position.
    pub fn io_at(
        subject: impl Into<String>,
        action: impl Into<String>,
        offset: Bytes,
        source: io::Error,
    ) -> Self {
        Self::Io { subject: subject.into(), action: action.into(), offset: Some(offset), source }
    }

    /// Bytes at `offset` that contradict `structure`'s specification.
    pub fn corrupt(
        structure: impl Into<String>,
        offset: Bytes,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Corrupt {
            subject: String::new(),
            structure: structure.into(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Something this version does not understand; `what` is a noun phrase.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { subject: String::new(), what: what.into() }
    }

    /// A safety rule says no; `why` is a whole sentence without its full stop.
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }

    /// The same error, naming the file, disk or volume it is about (unless it names one already).
    #[must_use]
    pub fn on(mut self, name: &str) -> Self {
        if let Self::Corrupt { subject, .. } | Self::Unsupported { subject, .. } = &mut self
            && subject.is_empty()
        {
            *subject = format!("{name}: ");
        }
        self
    }

    /// The file, disk or volume that it is about; empty where it names none.
    pub fn subject(&self) -> &str {
        match self {
            Self::Io { subject, .. } => subject,
            Self::Corrupt { subject, .. } | Self::Unsupported { subject, .. } => {
                subject.trim_end_matches(": ")
            }
            Self::Refused(_) | Self::Interrupted => "",
        }
    }

    /// The kind as `--json` names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::Interrupted => "io",
            Self::Corrupt { .. } => "corrupt",
            Self::Unsupported { .. } => "unsupported",
            Self::Refused(_) => "refused",
        }
    }
}
