//! What people and scripts read: tables, progress, JSON.

pub mod damage;
pub mod drawing;
pub mod holes;
pub mod plan;
pub mod progress;
pub mod table;
pub mod wrap;

use std::io::Write;

use anyhow::Context;
use console::Term;
use image_core::error::Error;
use image_core::repo::ImageInfo;
use image_core::units::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

/// An image as a person names it: `server@3f2a9c0b7d11`.
pub fn image(image: &ImageInfo) -> String {
    image.to_string()
}

/// The same of `server@` and its whole id; any other text as it is.
pub fn short(named: &str) -> &str {
    let id = named.split_once('@').map_or("", |(_, id)| id);
    let is_whole = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let length = if is_whole { named.len() - 52 } else { named.len() };
    named.get(..length).unwrap_or(named)
}

/// `1 pack`, `2 packs`.
pub fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A size that a person may have to type, or to compare with another: `838860800 bytes (800 MiB)`.
pub fn exact(size: Bytes) -> String {
    format!("{} bytes ({size})", size.get())
}

/// Where what lies beside partitions is, in words; none for other volumes.
pub fn gap(id: &str) -> Option<&'static str> {
    match id.rsplit_once(":gap")?.1 {
        "0" => Some("before the first partition"),
        _ => Some("beside the partitions"),
    }
}

/// A volume as a person is told of it: `d0:2`, `d0:gap0 (before the first partition)`.
pub fn volume(id: &str) -> String {
    gap(id).map_or_else(|| id.to_owned(), |place| format!("{id} ({place})"))
}

/// The smallest target that would do, and which volume sets it.
pub fn smallest((size, by): &(Bytes, Option<String>)) -> String {
    let by = by.as_ref().map_or(String::new(), |id| format!(", set by {}", volume(id)));
    format!("    the smallest target that would do: {}{by}", exact(*size))
}

/// Names a damaged file of the repository on standard error, and returns it as `--json` prints it.
pub fn damaged_file(error: &Error) -> Value {
    talk(&format!("damaged: {error}"));
    json!({"where": error.subject(), "message": error.to_string()})
}

/// Prints `value` as the one JSON object on standard output.
///
/// # Errors
/// A closed or full pipe: the caller fails.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string(value)?;
    print(&text)
}

/// Said where a verb did what was asked for and then could not print that.
pub const UNSAID: &str = "but the report of that is lost";

/// Prints a text on standard output.
///
/// # Errors
/// A closed or full pipe: the caller fails.
pub fn say(text: &str) -> anyhow::Result<()> {
    print(&wrap::for_terminal(&Term::stdout(), text))
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Prints a text on standard error; nobody can be told if that fails.
pub fn talk(text: &str) {
    let text = wrap::for_terminal(&Term::stderr(), text);
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

#[cfg(test)]
mod tests {
    use super::{short, volume};

    #[test]
    fn a_whole_id_is_nothing_to_read() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(short(&format!("lab@{id}")), "lab@0123456789ab");
        for other in ["", "lab", "lab@0123456789abcdef", "--hostname=pc@home", "lab@é"] {
            assert_eq!(short(other), other);
        }
        let other = format!("{}g", &id[1..]);
        assert_eq!(short(&format!("lab@{other}")), format!("lab@{other}"));
    }

    #[test]
    fn a_person_is_told_where_a_gap_is() {
        assert_eq!(volume("d0:gap0"), "d0:gap0 (before the first partition)");
        assert_eq!(volume("d1:gap2"), "d1:gap2 (beside the partitions)");
        assert_eq!(["d0:1", "gap0/gap1", "d0"].map(volume), ["d0:1", "gap0/gap1", "d0"]);
    }
}
