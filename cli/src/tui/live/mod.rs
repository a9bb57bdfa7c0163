//! What the menu offers besides when it is all that runs on a machine: our recovery disc. There it is the only one
//! who could mount a disk, ask for an address, or switch the machine off.
//!
//! - `storage` disks and shares where images are kept · `network` addresses · `keyboard` its layout

mod keyboard;
mod network;
mod storage;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use image_core::exec::Call;
use image_core::exec::Runner;
use image_core::exec::real::Machine;

use super::Menu;
use super::ask::Item;

pub use keyboard::first as keyboard_first;
pub use storage::{Purpose, attach, new_places, offers_own, own, own_item, tell_gone};

/// What happened on this machine, for whoever has to find out why.
const LOG: &str = "/run/keiki/log";

/// Whether this is the recovery disc.
pub fn is_here() -> bool {
    std::env::var_os("KEIKI_LIVE").is_some_and(|value| !value.is_empty())
}

/// The entry `This machine`.
pub fn run(menu: &mut Menu<'_>) -> Result<()> {
    type Entry = (&'static str, &'static str, fn(&mut Menu<'_>) -> Result<()>);
    let entries: [Entry; 8] = [
        ("Attach a disk or a share", "where images are kept; also a web server", |menu| {
            attach(menu, Purpose::Any).map(drop)
        }),
        ("Detach", "so that it is safe to unplug", storage::detach),
        ("Network", "addresses, by DHCP or by hand", network::run),
        ("Keyboard", "its layout", keyboard::run),
        ("Shell", "commands of Linux; `exit` comes back", shell),
        ("Copy the log", "onto a disk or a share that is attached", copy_log),
        ("Reboot", "", |menu| end(menu, "Reboot", "reboot")),
        ("Power off", "", |menu| end(menu, "Power off", "poweroff")),
    ];
    let items: Vec<Item> = entries
        .iter()
        .map(|(name, what, _)| Item::new(format!("{name:<26}{what}").trim_end().to_owned()))
        .collect();
    let mut start = 0;
    while let Some(at) = menu.choose("This machine", &items, start)? {
        start = at;
        if let Some((_, _, entry)) = entries.get(at)
            && let Err(error) = entry(menu)
        {
            if super::is_interrupted(&error) {
                return Err(error);
            }
            menu.tell(&format!("error: {}", crate::cmd::message(&error)));
        }
    }
    Ok(())
}

/// Shows a command and runs it on the menu's terminal, where it may ask a person; whether it succeeded.
fn attend(menu: &mut Menu<'_>, call: &Call) -> Result<bool> {
    menu.tell(&format!("\n{}\n", call.line()));
    let succeeded = Machine.attend(call)?;
    log(&format!("{}: {}", call.line(), if succeeded { "done" } else { "failed" }));
    Ok(succeeded)
}

/// Runs a command and takes any end but success for an error.
fn check(call: &Call) -> Result<String> {
    let ended = Machine.check(call);
    log(&format!("{}: {}", call.line(), if ended.is_ok() { "done" } else { "failed" }));
    Ok(ended?.text())
}

/// Notes something in the machine's log. What cannot be noted is not worth failing for.
pub fn log(line: &str) {
    if is_here()
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(LOG)
    {
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = uptime.split_whitespace().next().unwrap_or("?");
        drop(writeln!(file, "[{seconds}] {line}"));
    }
}

fn shell(menu: &mut Menu<'_>) -> Result<()> {
    let mounted = menu.repo.as_ref().map(|repo| format!("The repository is {}. ", repo));
    menu.tell(&format!("{}`exit` comes back to the menu.", mounted.unwrap_or_default()));
    let mut call = Call::new("bash", ["-l"]);
    if let Some(repo) = &menu.repo {
        call = call.env("KEIKI_REPO", repo.as_typed());
    }
    Machine.attend(&call).map(drop)?;
    Ok(())
}

fn copy_log(menu: &mut Menu<'_>) -> Result<()> {
    let Some(folder) = storage::choose_attached(menu, "Copy the log where?", true)? else {
        return Ok(());
    };
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let path = folder.join(format!("keiki-log-{}.txt", now.as_secs()));
    let kernel = Machine.check(&Call::new("dmesg", [""; 0])).map(|said| said.text());
    let ours = fs::read_to_string(LOG).unwrap_or_default();
    let text = format!("{ours}\n== kernel\n{}", kernel.unwrap_or_else(|error| error.to_string()));
    let failed = || format!("cannot write {}", path.display());
    let mut file = fs::File::create(&path).with_context(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)?;
    menu.tell(&format!("The log is in {}.", path.display()));
    Ok(())
}

fn end(menu: &mut Menu<'_>, name: &str, command: &str) -> Result<()> {
    let items = [Item::new(format!("{name} now")), Item::new("No, go on")];
    if menu.ask.choose(&format!("{name}?"), &items, 0)? == Some(0) {
        log(command);
        check(&Call::new("sync", [""; 0]))?;
        check(&Call::new(command, [""; 0]))?;
        menu.tell("The machine goes down.");
        // Until it does.
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
    Ok(())
}

/// What to do before what holds the repository is unplugged; nothing where that is no matter.
pub fn unplug_hint(repo: Option<&Path>) -> &'static str {
    if is_here() && repo.is_some_and(is_attached) {
        " Before you unplug where it is kept: `This machine`, `Detach`."
    } else {
        ""
    }
}

/// Whether a folder lies on what a person attached.
fn is_attached(point: &Path) -> bool {
    point.starts_with(storage::MEDIA)
}
