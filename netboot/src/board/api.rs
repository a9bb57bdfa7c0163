//! What a person, or a program of theirs, may ask and decide: `openapi.json` beside this file is the description.

use std::fmt::Write;

use serde::Deserialize;

use super::{Board, Told};
use crate::files::{Made, Question};
use crate::orders::list::Known;
use crate::orders::site::Site;

/// The description of all this (OpenAPI 3.1).
const DESCRIPTION: &[u8] = include_bytes!("openapi.json");

/// How a machine is to be restored.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// The name that it gets.
    hostname: Option<String>,
    /// The image, where it is not the one that is sent.
    image: Option<String>,
}

/// Which machines are to be restored.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct Meant {
    /// Their ids; all that wait where they are not given.
    machines: Option<Vec<String>>,
}

/// Answers what stands behind `api/`, and `metrics`.
pub(super) fn answer(board: &Board, question: &Question<'_>) -> Option<Made> {
    let name = question.name;
    if name == "api/openapi.json" {
        return Some(Made::new("application/json", DESCRIPTION));
    }
    let is_ours = name == "metrics" || name == "board.json" || name.starts_with("api/");
    if !is_ours {
        return None;
    }
    if let Some(site) = &board.site
        && !site.admits(question.token)
    {
        let why = "the token of this site is needed: Authorization: Bearer TOKEN";
        return Some(Made::said(401, why));
    }
    match (name, question.posted) {
        ("board.json" | "api/machines", None) => Some(Made::json(&board.told())),
        ("metrics", None) => Some(Made::new("text/plain; version=0.0.4", metrics(&board.told()))),
        (name, Some(posted)) => Some(decided(board, board.site.as_deref()?, (name, posted))),
        _ => None,
    }
}

/// Does what a person decided.
fn decided(board: &Board, site: &Site, (name, posted): (&str, &[u8])) -> Made {
    let unknown = || Made::said(404, "there is nothing of that name");
    let parts: Vec<&str> = name.split('/').collect();
    let done = match parts.as_slice() {
        ["api", "restore"] => {
            let meant = match posted.trim_ascii() {
                [] => Ok(Meant::default()),
                posted => serde_json::from_slice(posted),
            };
            let Meant { machines } = match meant {
                Ok(meant) => meant,
                Err(error) => return Made::said(400, &error.to_string()),
            };
            return match site.change(|list| list.call_all(machines.as_deref())) {
                Ok(count) => Made::json(&serde_json::json!({"machines": count})),
                Err(error) => Made::said(500, &error.to_string()),
            };
        }
        ["api", "machines", id, "restore"] => {
            let wish = match posted.trim_ascii() {
                [] => Ok(Wish::default()),
                posted => serde_json::from_slice(posted).map_err(|error| error.to_string()),
            };
            match wish.and_then(|wish| allowed(site, id, wish)) {
                Ok(Wish { hostname, image }) => site.change(|list| list.call(id, hostname, image)),
                Err(why) => return Made::said(400, &why),
            }
        }
        ["api", "machines", id, "stop"] => site.change(|list| list.stop(id)),
        ["api", "machines", id, "forget"] => site.change(|list| list.forget(id)),
        ["api", "machines", id, "wake"] => {
            let macs = |known: &Known| known.machine.macs.clone();
            match site.look(|list, _| list.machine(id).map(macs)) {
                Some(macs) => board.wake(&macs).map(|()| true),
                None => return unknown(),
            }
        }
        _ => return unknown(),
    };
    match done {
        Ok(true) => Made::json(&serde_json::json!({})),
        Ok(false) => Made::said(409, "there is no such machine, or it is at work"),
        Err(error) => Made::said(500, &error.to_string()),
    }
}

/// Looks at a wish before anything is changed by it.
fn allowed(site: &Site, id: &str, wish: Wish) -> Result<Wish, String> {
    if let Some(name) = wish.hostname.as_deref().filter(|name| !is_hostname(name)) {
        return Err(format!(
            "{name:?} is no host name: letters, digits and hyphens, 63 at most between dots"
        ));
    }
    let chosen = site.look(|list, _| {
        list.machine(id).map(|known| {
            let image = wish.image.as_deref().or(known.image.as_deref());
            site.policy().choose(&known.machine, image)
        })
    });
    chosen.transpose()?;
    Ok(wish)
}

/// Whether it is one of RFC 1123 (section 2.1) that Linux takes, which has 64 characters at most.
pub fn is_hostname(name: &str) -> bool {
    let is_label = |label: &str| {
        let sound = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        sound && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    // A number would be taken for an address.
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 64 && name.split('.').all(is_label) && !is_number(last)
}

/// For Prometheus, in its text format 0.0.4.
fn metrics(told: &Told<'_>) -> String {
    let mut text = String::new();
    let mut say = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let states = ["waits", "called", "works", "done", "failed"].map(|state| {
        let count = told.machines.iter().filter(|row| row.state == Some(state)).count();
        (format!("{{state=\"{state}\"}}"), count as f64)
    });
    say("keiki_machines", "gauge", "Machines by what is to become of them.", &states);
    if let Some(image) = &told.image {
        let one = |value: f64| [(String::new(), value)];
        say(
            "keiki_sent_bytes_total",
            "counter",
            "Bytes sent by multicast, on the wire.",
            &one(image.sent_bytes as f64),
        );
        say(
            "keiki_image_blocks",
            "gauge",
            "Blocks of the image that is sent.",
            &one(image.blocks.into()),
        );
        say(
            "keiki_unreadable_blocks",
            "gauge",
            "Blocks of it that cannot be read.",
            &one(image.unreadable_blocks.into()),
        );
        let receiving: Vec<&super::Row> =
            told.machines.iter().filter(|row| row.silent.is_some()).collect();
        say("keiki_receivers", "gauge", "Machines in the session.", &one(receiving.len() as f64));
        let loss = receiving.iter().filter_map(|row| row.loss).fold(0.0, f32::max);
        say(
            "keiki_worst_loss_ratio",
            "gauge",
            "The largest part of the packets that one loses.",
            &one(loss.into()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::is_hostname;

    #[test]
    fn host_names_are_those_of_the_standard() {
        for name in ["a", "lab-01", "lab-01.example.org", "3com", &"x".repeat(63)] {
            assert!(is_hostname(name), "{name}");
        }
        for name in
            ["", "-a", "a-", "a..b", "a_b", "a b", "ä", "a/b", &"x".repeat(64), "a\n", "1", "a.1"]
        {
            assert!(!is_hostname(name), "{name:?}");
        }
    }
}
