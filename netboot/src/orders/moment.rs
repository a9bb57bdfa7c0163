//! A point in time that somebody chose, with the offset of his clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A point in time as RFC 3339 writes it: `2026-11-23T02:00:00+01:00`; seconds may be left away.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct Moment {
    text: String,
    /// Since 1970.
    pub seconds: i64,
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = seconds(text).ok_or_else(|| {
            format!("{text:?} is no time with an offset, such as 2026-11-23T02:00:00+01:00 or 2026-11-23T01:00Z")
        })?;
        Ok(Self { text: text.to_owned(), seconds })
    }
}

impl TryFrom<String> for Moment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.text
    }
}

impl fmt::Display for Moment {
    /// As people read it: `2026-11-23 02:00 (UTC+01:00)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (time, offset) = self.text.split_at(16.min(self.text.len()));
        let offset =
            offset.trim_start_matches([':', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
        let offset = if offset == "Z" { "" } else { offset };
        write!(f, "{} (UTC{offset})", time.replace('T', " "))
    }
}

/// Seconds since 1970 of a time in this form, and nothing but it.
fn seconds(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once('T')?;
    let (time, offset) = match rest.strip_suffix('Z') {
        Some(time) => (time, 0),
        None => {
            let at = rest.rfind(['+', '-'])?;
            let (time, offset) = rest.split_at_checked(at)?;
            let sign = if offset.starts_with('-') { -1 } else { 1 };
            let [hour, minute] = numbers(offset.get(1..)?, ':', [2, 2])?;
            (
                time,
                if hour > 23 || minute > 59 {
                    return None;
                } else {
                    sign * (hour * 3600 + minute * 60)
                },
            )
        }
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = match numbers(time, ':', [2, 2]) {
        Some([hour, minute]) => [hour, minute, 0],
        None => numbers(time, ':', [2, 2, 2])?,
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return None,
    };
    let is_sound = (1..=longest).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    (is_sound && year >= 1970).then_some(seconds)
}

/// Numbers of so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let parts: Vec<&str> = text.split(between).collect();
    let is_right = parts.iter().map(|part| part.len()).eq(digits)
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let numbers: Vec<i64> = parts.iter().filter_map(|part| part.parse().ok()).collect();
    is_right.then(|| numbers.try_into().ok()).flatten()
}

/// Days since 1970; years begin in March, so the leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::Moment;

    #[test]
    fn times_are_those_of_the_standard() {
        // As date -u +%s tells them.
        for (text, seconds, words) in [
            ("1970-01-01T00:00Z", 0, "1970-01-01 00:00 (UTC)"),
            ("2026-11-23T02:00:00+01:00", 1_795_395_600, "2026-11-23 02:00 (UTC+01:00)"),
            ("2024-02-29T23:59:59-03:30", 1_709_263_799, "2024-02-29 23:59 (UTC-03:30)"),
            ("2000-03-01T00:00Z", 951_868_800, "2000-03-01 00:00 (UTC)"),
        ] {
            let moment: Moment = text.parse().unwrap();
            assert_eq!((moment.seconds, moment.to_string().as_str()), (seconds, words));
            let written = serde_json::to_string(&moment).unwrap();
            assert_eq!(serde_json::from_str::<Moment>(&written).unwrap(), moment);
        }
        for wrong in [
            "",
            "2026-11-23",
            "2026-11-23T02:00",
            "2026-11-23T02:00:00",
            "2026-11-23T24:00Z",
            "2026-02-29T00:00Z",
            "2026-13-01T00:00Z",
            "2026-11-31T00:00Z",
            "2026-11-23T02:00+1:00",
            "2026-11-23T02:00+24:00",
            "+2026-11-23T02:00Z",
            "2026-11-23T02:00:00.5Z",
            "2026-11-23T-2:00Z",
            "2026-11-23 02:00Z",
            "99999-11-23T02:00Z",
            "2026-11-23T02:00é+01:00",
        ] {
            assert!(wrong.parse::<Moment>().is_err(), "{wrong}");
        }
    }
}
