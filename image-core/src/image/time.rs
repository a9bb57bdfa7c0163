//! Points in time as records name them: UTC, whole seconds, RFC 3339.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::units::Bytes;

/// Seconds since 1970-01-01T00:00:00Z; in text `2026-11-20T17:52:57Z`, years 1970 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(u64);

const DAY: u64 = 86_400;
const END: u64 = 253_402_300_800;

impl Timestamp {
    /// This machine's clock now.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// So many seconds later.
    #[must_use]
    pub fn later(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds).min(END - 1))
    }

    /// The UTC day: `2026-11-20`.
    pub fn day(self) -> String {
        let (year, month, day) = civil(self.0 / DAY);
        format!("{year:04}-{month:02}-{day:02}")
    }
}

impl From<SystemTime> for Timestamp {
    /// Clamped to the years that the text form can show.
    fn from(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self(seconds.min(END - 1))
    }
}

/// Year, month and day of a day counted from 1970: years begin in March, so the leap day is their last.
fn civil(days: u64) -> (u64, u64, u64) {
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (day, month) =
        (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// The inverse of [`civil`]; the date is plausible and not before 1970.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.0 % DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{}T{hour:02}:{minute:02}:{second:02}Z", self.day())
    }
}

impl FromStr for Timestamp {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        parse(text).filter(|time| time.to_string() == text).ok_or_else(|| {
            let expected = "a time like 2026-11-20T17:52:57Z";
            Error::corrupt("time", Bytes::ZERO, expected, format!("{text:?}"))
        })
    }
}

/// Lenient: the caller compares the text form with what was parsed.
fn parse(text: &str) -> Option<Timestamp> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let plausible =
        year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24;
    plausible.then(|| Timestamp(days(year, month, day) * DAY + hour * 3600 + minute * 60 + second))
}

impl TryFrom<String> for Timestamp {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(time: Timestamp) -> Self {
        time.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{END, Timestamp};

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_197_177, "2026-11-20T17:52:57Z"),
            (END - 1, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp(seconds).to_string(), text);
        }
        for wrong in ["2026-02-30T00:00:00Z", "2026-11-20 17:52:57Z", "2026-11-20T24:00:00Z", "x"] {
            assert!(wrong.parse::<Timestamp>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(seconds in 0..END) {
            prop_assert_eq!(Timestamp(seconds).to_string().parse::<Timestamp>().unwrap(), Timestamp(seconds));
        }

        #[test]
        fn hostile_text_never_panics(text in "\\PC{0,24}") {
            let _ = text.parse::<Timestamp>();
        }
    }
}
