//! What a person, or a program of theirs, may ask and decide: `openapi.json` beside this file is the description.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Board, Image, Told, clock};
use crate::files::{Made, Question};
use crate::orders::list::{Group, Known, Wish};
use crate::orders::moment::Moment;
use crate::orders::site::Site;
use crate::orders::talk::is_image_name;

/// The description of all this (OpenAPI 3.1).
const DESCRIPTION: &[u8] = include_bytes!("openapi.json");

/// How several machines are to be restored.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct Wishes {
    /// The ids of those that are meant, of all that wait.
    machines: Option<Vec<String>>,
    /// See [`Wish`].
    image: Option<String>,
    /// See [`Wish`].
    at: Option<Moment>,
}

/// Which machines are put into a group.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Put {
    machines: Vec<String>,
    /// None: into none.
    group: Option<Group>,
}

/// What a machine is saved as.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// The name of the image.
    name: String,
}

/// The name that is posted, if an image may be called so.
fn image_name(posted: &[u8]) -> Result<String, String> {
    let Saved { name } = serde_json::from_slice(posted).map_err(|error| error.to_string())?;
    if is_image_name(&name) {
        return Ok(name);
    }
    Err(format!(
        "{name:?} is no name of an image: 1 to 64 letters, digits, dots, underscores and hyphens"
    ))
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
        ("board.json" | "api/machines", None) => Some(Made::json(&board.told(None))),
        ("metrics", None) => {
            Some(Made::new("text/plain; version=0.0.4", metrics(&board.told(None))))
        }
        (name, None) => {
            let group = name.strip_prefix("api/groups/")?.parse().ok()?;
            let is_there = board.site.as_deref().map_or(Ok(()), |site| is_group(site, &group));
            Some(is_there.map_or_else(|why| why, |()| Made::json(&board.told(Some(&group)))))
        }
        (name, Some(posted)) => Some(decided(board, board.site.as_deref()?, (name, posted))),
    }
}

/// What is posted, or what is meant by nothing.
fn read<T: DeserializeOwned + Default>(posted: &[u8]) -> Result<T, Made> {
    match posted.trim_ascii() {
        [] => Ok(T::default()),
        posted => serde_json::from_slice(posted).map_err(|error| Made::said(400, &plain(&error))),
    }
}

/// What is wrong, without where: whoever typed it on the page has seen no JSON.
fn plain(error: &serde_json::Error) -> String {
    let said = error.to_string();
    said.rsplit_once(" at line ").map_or(said.as_str(), |(why, _)| why).to_owned()
}

/// Does what a person decided.
fn decided(board: &Board, site: &Site, (name, posted): (&str, &[u8])) -> Made {
    let parts: Vec<&str> = name.split('/').collect();
    let done = match parts.as_slice() {
        ["api", "restore"] => wished(site, posted).map(|(machines, wish)| {
            counted(site.change(|list| list.call_all(machines.as_deref(), &wish)))
        }),
        ["api", "groups"] => match serde_json::from_slice(posted) {
            Ok(Put { machines, group }) => {
                Ok(counted(site.change(|list| list.put(&machines, group.as_ref()))))
            }
            Err(error) => Err(Made::said(400, &plain(&error))),
        },
        ["api", "groups", group, what] => match group.parse() {
            Ok(group) => of_group(site, &group, (what, posted)),
            Err(why) => Err(Made::said(400, &why)),
        },
        ["api", "machines", id, what] => of_machine(board, site, id, (what, posted)),
        _ => Err(unknown()),
    };
    done.unwrap_or_else(|why| why)
}

/// Looks at a wish for several machines before anything is changed by it.
fn wished(site: &Site, posted: &[u8]) -> Result<(Option<Vec<String>>, Wish), Made> {
    let Wishes { machines, image, at } = read(posted)?;
    if let Some(image) = image.as_ref().filter(|image| !site.policy().images().contains(image)) {
        return Err(Made::said(400, &format!("there is no image {image}")));
    }
    is_ahead(at.as_ref()).map_err(|why| Made::said(400, &why))?;
    Ok((machines, Wish { hostname: None, image, at }))
}

/// Refuses a time that has been.
fn is_ahead(at: Option<&Moment>) -> Result<(), String> {
    match at.filter(|at| at.seconds <= clock()) {
        Some(at) => Err(format!("{at} is in the past, by the clock of this server")),
        None => Ok(()),
    }
}

fn unknown() -> Made {
    Made::said(404, "there is nothing of that name")
}

/// For how many machines something was done.
fn counted(count: image_core::error::Result<usize>) -> Made {
    match count {
        Ok(count) => Made::json(&serde_json::json!({"machines": count})),
        Err(error) => Made::said(500, &error.to_string()),
    }
}

/// Does what a person decided for all of a group.
fn of_group(site: &Site, group: &Group, (what, posted): (&str, &[u8])) -> Result<Made, Made> {
    let wish = match what {
        "restore" => {
            let (machines, wish) = wished(site, posted)?;
            if machines.is_some() {
                return Err(Made::said(400, "machines: all of the group are meant"));
            }
            Some(wish)
        }
        _ => None,
    };
    is_group(site, group)?;
    let count = match (what, wish) {
        (_, Some(wish)) => site.change(|list| list.call_group(group, &wish)),
        ("stop", None) => site.change(|list| list.stop_group(group)),
        ("wake", None) => Ok(site.wake(|list| list.of(group))),
        _ => return Err(unknown()),
    };
    Ok(counted(count))
}

/// Refuses a group that no machine is in, and none is written down for: its name may be mistyped, and who waits for all of it
/// would wait for nobody.
fn is_group(site: &Site, group: &Group) -> Result<(), Made> {
    site.look(|list, _| {
        let groups: BTreeSet<&Group> =
            list.groups().union(&site.policy().groups()).copied().collect();
        if groups.contains(group) {
            return Ok(());
        }
        let groups: Vec<&str> = groups.into_iter().map(Group::name).collect();
        let there_is = if groups.is_empty() { "none".to_owned() } else { groups.join(", ") };
        let why = format!("no machine is in the group {}; there is: {there_is}", group.name());
        Err(Made::said(404, &why))
    })
}

/// Does what a person decided for one machine.
fn of_machine(
    board: &Board,
    site: &Site,
    id: &str,
    (what, posted): (&str, &[u8]),
) -> Result<Made, Made> {
    let done = match what {
        "restore" => {
            let wish = allowed(site, id, read(posted)?).map_err(|why| Made::said(400, &why))?;
            site.change(|list| list.let_in(id, &wish))
        }
        "save" => {
            let name = image_name(posted).map_err(|why| Made::said(400, &why))?;
            site.change(|list| list.call_to_save(id, &name))
        }
        "stop" => site.change(|list| list.stop(id)),
        "forget" => site.change(|list| list.forget(id)),
        "wake" => {
            let macs = |known: &Known| known.machine.macs.clone();
            let macs = site.look(|list, _| list.machine(id).map(macs)).ok_or_else(unknown)?;
            board.wake(&macs).map(|()| true)
        }
        _ => return Err(unknown()),
    };
    Ok(match done {
        Ok(true) => Made::json(&serde_json::json!({})),
        Ok(false) if site.look(|list, _| list.machine(id).is_none()) => Made::said(
            404,
            "there is no machine with this id; status tells the id of each one, which is not its letters",
        ),
        Ok(false) => {
            Made::said(409, "what it does now does not allow that; status tells what it does")
        }
        Err(error) => Made::said(500, &error.to_string()),
    })
}

/// Looks at a wish before anything is changed by it.
fn allowed(site: &Site, id: &str, wish: Wish) -> Result<Wish, String> {
    if let Some(name) = wish.hostname.as_deref().filter(|name| !is_hostname(name)) {
        return Err(format!(
            "{name:?} is no host name: letters, digits and hyphens, 63 at most between dots"
        ));
    }
    let other = |name: &String| site.look(|list, _| list.named(name, id).cloned());
    if let Some((name, other)) = wish.hostname.as_ref().and_then(|name| Some((name, other(name)?)))
    {
        let tag = site.look(|list, _| list.tag(&other));
        return Err(format!("{tag} has the name {name}; take another one, or forget that machine"));
    }
    is_ahead(wish.at.as_ref())?;
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
fn metrics(told: &Told) -> String {
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
    let mut groups: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for row in &told.machines {
        if let (Some(group), Some(state)) = (&row.group, row.state) {
            *groups.entry((group, state)).or_default() += 1.0;
        }
    }
    let groups: Vec<_> = groups
        .into_iter()
        .map(|((group, state), count)| (format!("{{group=\"{group}\",state=\"{state}\"}}"), count))
        .collect();
    let later = told.machines.iter().filter(|row| row.later.is_some()).count();
    let later = [(String::new(), later as f64)];
    say("keiki_scheduled_machines", "gauge", "Machines that are restored later.", &later);
    say("keiki_group_machines", "gauge", "Those that are in a group, by it and the same.", &groups);
    let labels =
        |image: &Image| format!("{{image=\"{}\",interface=\"{}\"}}", image.name, image.interface);
    let mut of_each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Image) -> f64| {
        let values = told.sent.iter();
        let values = values.map(|image| (labels(image), value(image)));
        say(name, kind, help, &values.collect::<Vec<_>>());
    };
    of_each(
        "keiki_sent_bytes_total",
        "counter",
        "Bytes sent by multicast, on the wire, by image.",
        &|image| image.sent_bytes as f64,
    );
    of_each(
        "keiki_pass_bytes",
        "gauge",
        "Bytes on the wire of an image that is sent once.",
        &|image| image.pass_bytes as f64,
    );
    of_each("keiki_passes", "gauge", "How many times it was sent, repairs included.", &|image| {
        image.passes
    });
    of_each("keiki_sent_bytes_per_second", "gauge", "What is sent of it now.", &|image| {
        image.bytes_per_second.unwrap_or(0) as f64
    });
    of_each("keiki_pace_bytes_per_second", "gauge", "What may be sent of it.", &|image| {
        image.pace_bytes_per_second as f64
    });
    of_each("keiki_image_blocks", "gauge", "Blocks of an image that is sent.", &|image| {
        image.blocks.into()
    });
    of_each("keiki_unreadable_blocks", "gauge", "Blocks of it that cannot be read.", &|image| {
        image.unreadable_blocks.into()
    });
    of_each("keiki_receivers", "gauge", "Machines in its session.", &|image| {
        image.receivers as f64
    });
    of_each(
        "keiki_worst_loss_ratio",
        "gauge",
        "The largest part of the packets that one of them loses.",
        &|image| image.worst_loss.into(),
    );
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
