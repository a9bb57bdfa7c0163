//! Exit codes: stable, and in this file only.

use image_core::error::Error;

/// How a run ended, as scripts see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line was wrong.
    Usage = 2,
    /// Refused by a safety rule.
    Refused = 3,
    /// The image or the source is damaged.
    Damaged = 4,
    /// Done, but some sectors could not be read when the image was saved.
    Unreadable = 5,
    /// Restored, but steps remain.
    StepsRemain = 6,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl Exit {
    /// The code that an error of the library ends with.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::Io { .. } | Error::Unsupported { .. } => Self::Failed,
            Error::Corrupt { .. } => Self::Damaged,
            Error::Refused(_) => Self::Refused,
            Error::Interrupted => Self::Interrupted,
        }
    }

    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }
}
