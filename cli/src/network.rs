//! Network interfaces of a machine that the live system runs on, where nobody but us looks after them.

use std::fs;
use std::io::{self, ErrorKind, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::repo::{Location, Repository};
use live_iso::{boot, net};

use crate::output;

/// What udhcpc runs when it was given an address.
const SCRIPT: &str = "/usr/lib/keiki/dhcp";

/// The variable that has the code of a private repository.
const CODE: &str = "KEIKI_CODE";

/// What the repository of a server is called there.
pub const REPOSITORY: &str = "repo";

/// How long a server may take to be reached: the port of a switch may say nothing for 50 s after the cable is plugged in.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether a server gives nothing to whom it does not know.
pub fn wants_login(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. }
        if source.kind() == ErrorKind::PermissionDenied && source.raw_os_error().is_none())
}

/// A repository as who knows its code reaches it: from KEIKI_CODE, or from a person, where there is one and its server asks for it.
pub fn known(place: Location) -> Location {
    let Location::Http(address) = &place else { return place };
    if address.has_login() {
        return place;
    }
    let asked = || {
        let is_person = io::stdin().is_terminal() && io::stderr().is_terminal();
        let files = place.files().ok().filter(|_| is_person)?;
        Repository::exists(files.as_ref()).err().filter(wants_login)?;
        output::talk(&format!("{place} is private. Its code (see `keiki serve status`):"));
        let mut line = String::new();
        io::stdin().read_line(&mut line).ok()?;
        Some(line.trim().to_owned()).filter(|code| !code.is_empty())
    };
    let code = std::env::var(CODE).ok().or_else(asked);
    code.map_or_else(|| place.clone(), |code| Location::Http(address.with_login("keiki", &code)))
}

/// The interfaces, switched on; the one that the machine was started by comes first.
pub fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name != "lo").collect();
    names.sort_by_key(|name| (!has_started_us(name), name.clone()));
    for name in &names {
        // Without that a cable is not noticed.
        drop(Machine.check(&Call::new("ip", ["link", "set", name, "up"])));
    }
    names
}

/// Whether the machine was started over the network by this interface, as its boot loader says.
fn has_started_us(name: &str) -> bool {
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let mut words = words.split_whitespace();
    let adapter = words.find_map(|word| word.strip_prefix(net::ADAPTER)).unwrap_or_default();
    let own = fs::read_to_string(format!("/sys/class/net/{name}/address")).unwrap_or_default();
    !adapter.is_empty() && own.trim().eq_ignore_ascii_case(adapter)
}

/// What is known of the interfaces, in words.
pub fn state() -> String {
    let state = |name: String| match address(&name) {
        Some(address) => format!("{name} has the address {address}"),
        None if is_plugged(&name) => format!("{name} is connected, and has no address"),
        None => format!("{name} is not connected"),
    };
    let states: Vec<String> = interfaces().into_iter().map(state).collect();
    match states.is_empty() {
        true => "no adapter for networks is known here".to_owned(),
        false => states.join("; "),
    }
}

/// The address of an interface with the length of its prefix, where it has one.
pub fn address(name: &str) -> Option<String> {
    let said = Machine.check(&Call::new("ip", ["-4", "addr", "show", "dev", name])).ok()?.text();
    let mut words = said.split_whitespace().skip_while(|word| *word != "inet");
    words.nth(1).map(str::to_owned)
}

/// Whether something is at the other end of its cable.
pub fn is_plugged(name: &str) -> bool {
    let carrier = fs::read_to_string(format!("/sys/class/net/{name}/carrier")).unwrap_or_default();
    carrier.trim() == "1"
}

/// The call that gives an interface the address that a DHCP server has for it.
pub fn lease(name: &str) -> Call {
    Call::new("udhcpc", ["-i", name, "-s", SCRIPT, "-n", "-q", "-t", "8", "-T", "3"])
}

/// The repository of the server that this machine was started from, where it was started from one with images.
pub fn server() -> Option<Location> {
    let text = fs::read_to_string(format!("/{}", boot::SERVER)).ok()?;
    Some(Location::from(text.trim()))
}

/// The key of the site that this machine was started by, where that restores machines.
pub fn site_key() -> Option<String> {
    let text = fs::read_to_string(format!("/{}", boot::SITE)).ok()?;
    Some(text.trim().to_owned())
}

/// That repository, once it answers; the machine gets its addresses for that.
///
/// # Errors
/// There is none, or it does not answer.
pub fn reach() -> Result<Location> {
    let server = server().context("this machine was not started from a server with images")?;
    let is_there = || match Repository::exists(server.files()?.as_ref()) {
        Ok(true) => Ok(()),
        // It answers, and asks who this is.
        Err(error) if wants_login(&error) => Ok(()),
        Ok(false) => bail!("there are no images there"),
        Err(error) => Err(error.into()),
    };
    if let Err(failed) = until(PATIENCE, is_there) {
        bail!("the server that this machine was started from cannot be reached: {failed}");
    }
    Ok(server)
}

/// What a server answers, once it does; the machine gets its addresses for that.
///
/// # Errors
/// The last one, where it does not for so long.
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        for name in interfaces() {
            if is_plugged(&name) && address(&name).is_none() {
                // Another interface may be the one.
                drop(Machine.run(&lease(&name)));
            }
            if has_started_us(&name) && address(&name).is_some() {
                break;
            }
        }
        match ask() {
            Err(_) if began.elapsed() < patience => std::thread::sleep(Duration::from_secs(1)),
            answer => return answer,
        }
    }
}
