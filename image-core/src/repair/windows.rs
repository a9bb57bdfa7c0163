//! A computer name for a Windows that sysprep generalized: its Setup takes it from an answer file as the machine starts.
//!
//! Where Setup looks for one, and which it takes, stands in Microsoft's "Windows Setup Automation Overview".

use std::path::Path;

use rustix::fs::OFlags;

use super::facts::{Facts, Windows};
use super::personal::{add, rewrite};
use super::{Act, Plan};
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::fixup::personal::HostName;
use crate::fixup::root::Root;
use crate::fixup::unattend::{Answers, LONGEST, Specialize, image_state, is_generalized};
use crate::survey::model::Volume;
use crate::view::{Layout, NTFS, Trial};

/// What is on a volume that is Windows's own.
const SYSTEM: &str = "Windows/System32";
/// What Setup says of the image ("Windows Setup States").
const STATE: &str = "Windows/Setup/State/State.ini";
/// Where a new answer file goes: where Setup keeps the one that it took, so that none of another pass is lost by that.
const FOLDER: &str = "Windows/Panther";
/// Where Setup looks for one on this disk, in this order.
const PLACES: [&str; 7] = [
    "Windows/Panther/Unattend/unattend.xml",
    "Windows/Panther/Unattend/autounattend.xml",
    "Windows/Panther/unattend.xml",
    "Windows/Panther/autounattend.xml",
    "Windows/System32/Sysprep/unattend.xml",
    "unattend.xml",
    "autounattend.xml",
];
/// What ntfs-3g puts behind the name of a file while another one takes its place.
const PUT_ASIDE: &str = ".ntfs-3g-";
/// What there is where nothing can be told from outside.
const BITLOCKER: &str = "BitLocker";

pub(super) fn may_be_on(content: &str) -> bool {
    [NTFS, BITLOCKER].contains(&content)
}

/// Looks for a Windows on `volume`, and notes it in `facts`, or why that cannot be told; nothing is written.
///
/// # Errors
/// [`Error::Interrupted`].
pub(super) fn look(
    runner: &dyn Runner,
    server: &Call,
    (volume, place): (&Volume, &Layout),
    facts: &mut Facts,
) -> Result<()> {
    let seen = match sight(runner, server, volume, place) {
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Ok(None) => return Ok(()),
        Ok(Some(windows)) => Ok(windows),
        Err(error) => Err(error.to_string()),
    };
    facts.windows.insert(volume.id.clone(), seen);
    Ok(())
}

fn sight(
    runner: &dyn Runner,
    server: &Call,
    volume: &Volume,
    place: &Layout,
) -> Result<Option<Windows>> {
    if volume.content == BITLOCKER {
        return Err(Error::refused("it is encrypted by BitLocker"));
    }
    let trial = Trial::open(place, server)?;
    // As it will be mounted to be written: what keeps it from that is known before.
    let seen = check(runner, &trial.path())
        .and_then(|()| trial.mounted(NTFS, "", false, |folder| see(&Root::of(folder)?)));
    trial.close()?;
    seen
}

/// Asks ntfsinfo whether NTFS on `device` is whole, as far as it notes that.
///
/// # Errors
/// [`Error::Refused`]: it is not, or programs are missing; [`Error::Io`].
pub(super) fn check(runner: &dyn Runner, device: &Path) -> Result<()> {
    let tools = [("ntfs-3g", "ntfs-3g"), ("ntfsinfo", "ntfs-3g"), ("setpriv", "util-linux")];
    if let Some((tool, package)) = tools.iter().find(|(tool, _)| runner.find(tool).is_none()) {
        return Err(Error::refused(format!("{tool} is not installed here, package {package}")));
    }
    let outcome = runner.run(&Call::new("ntfsinfo", ["-m".as_ref(), device.as_os_str()]))?;
    if outcome.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    let said = said.lines().next().unwrap_or_default();
    Err(Error::refused(format!("it was not shut down, or is to be checked; ntfsinfo says: {said}")))
}

fn see(root: &Root) -> Result<Option<Windows>> {
    if find(root, SYSTEM)?.is_none() {
        return Ok(None);
    }
    let mut windows =
        Windows { state: read(root, STATE)?, folder: find(root, FOLDER)?, ..Windows::default() };
    for place in PLACES {
        windows.answers.extend(read(root, place)?);
    }
    Ok(Some(windows))
}

/// A path as it is written there: to Windows letters of both sizes are the same.
fn find(root: &Root, path: &str) -> Result<Option<String>> {
    let mut found = ".".to_owned();
    for part in path.split('/') {
        let names = root.list(&found, "")?;
        let is = |path: &String| last(path).eq_ignore_ascii_case(part);
        let Some(next) = names.into_iter().find(is) else { return Ok(None) };
        found = next;
    }
    Ok(Some(found.trim_start_matches("./").to_owned()))
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// A file that may be there: where it is, and what is in it.
fn read(root: &Root, path: &str) -> Result<Option<(String, Vec<u8>)>> {
    let Some(found) = find(root, path)? else {
        let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
        let aside = format!("{name}{PUT_ASIDE}");
        let names = find(root, folder)?.map_or(Ok(Vec::new()), |folder| root.list(&folder, ""))?;
        let is = |path: &&String| last(path).to_ascii_lowercase().starts_with(&aside);
        return match names.iter().find(is) {
            Some(left) => Err(Error::refused(format!(
                "a machine lost its power while {path} was replaced; what it was is {}",
                last(left)
            ))),
            None => Ok(None),
        };
    };
    let text = root.read(&found, OFlags::RDONLY)?.map(|(_, text)| text);
    let text = text.filter(|text| text.len() <= LONGEST);
    let text =
        text.ok_or_else(|| Error::refused(format!("{found} is no file of at most 1 MiB")))?;
    Ok(Some((found, text)))
}

/// What has to be done for every Windows.
pub(super) fn decide(facts: &Facts, name: &HostName, plan: &mut Plan) {
    for (volume, windows) in &facts.windows {
        match windows.as_ref().map_err(Clone::clone).and_then(|it| act(volume, it, name)) {
            Ok(act) => plan.acts.extend(act),
            Err(why) => plan.steps.push(step(volume, name, &why)),
        }
    }
}

/// The plan for disks on which there is no Linux, and perhaps a Windows.
pub(super) fn only(facts: &Facts, name: &HostName) -> Option<Plan> {
    let is_linux = facts.sights.values().any(|sight| sight.system.is_some());
    let may_be = is_linux || !facts.closed.is_empty();
    let (root, windows) = facts.windows.first_key_value().filter(|_| !may_be)?;
    let system = if windows.is_ok() { "Windows" } else { "a system that is no Linux" };
    let mut plan = Plan { system: system.to_owned(), root: root.clone(), ..Plan::default() };
    decide(facts, name, &mut plan);
    Some(plan)
}

/// The answer file that gives `windows` its name, where none does so; or why that cannot be.
fn act(volume: &str, windows: &Windows, name: &HostName) -> Result<Option<Act>, String> {
    let name = name.computer_name().map_err(|error| error.to_string())?;
    let (state, text) = windows.state.as_ref().ok_or(format!("there is no {STATE}"))?;
    let said = image_state(text).ok_or(format!("{state} does not say what image it is"))?;
    if !is_generalized(&said) {
        return Err(format!(
            "{said}: only where sysprep generalized an image a name is given to it; before it is saved: \
             sysprep /generalize /oobe /shutdown"
        ));
    }
    let mut files = Vec::new();
    for (path, text) in &windows.answers {
        let answers = Answers::read(text).map_err(|why| left_alone(path, &why))?;
        files.push((path, text, answers));
    }
    let why = || vec![format!("the computer name {name}")];
    let ahead = files.iter().find(|(_, _, it)| it.specialize() == Specialize::Ahead);
    let (path, text, answers) = match (ahead, files.as_slice()) {
        (Some(file), _) => file,
        (None, []) => {
            let folder = windows.folder.as_ref().ok_or(format!("there is no folder {FOLDER}"))?;
            let path = format!("{folder}/unattend.xml");
            return Ok(Some(add(volume, &path, state, Answers::only(name), why())));
        }
        (None, [file]) if file.2.specialize() == Specialize::Absent => file,
        (None, [(path, ..)]) => {
            return Err(format!(
                "Setup carried out the pass specialize of {path} already, and would pass over it; remove that file \
                 before sysprep generalizes the image"
            ));
        }
        (None, several) => {
            let paths: Vec<&str> = several.iter().map(|(path, ..)| path.as_str()).collect();
            return Err(format!(
                "of {} none has a pass specialize to come, and which Setup would keep cannot be told",
                paths.join(", ")
            ));
        }
    };
    let new = answers.named(name).map_err(|why| left_alone(path, &why))?;
    Ok(new.map(|new| rewrite(volume, path, text, new, why())))
}

fn left_alone(path: &str, why: &str) -> String {
    format!("{path} is left alone, {why}")
}

/// What a person has to do.
fn step(volume: &str, name: &HostName, why: &str) -> String {
    let name = name.computer_name().unwrap_or("NAME");
    format!(
        "give the Windows on {volume}, if there is one, its name once it has started (nothing in it was changed; {why}): \
         powershell Rename-Computer -NewName {name} -Restart"
    )
}
