//! `keiki serve`: boot machines over the network, and send them an image.

mod news;
mod room;
mod rules;
mod shelf;
mod status;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use image_core::error::Error;
use image_core::exec::real::Machine;
use image_core::report::{Report, Stage};
use image_core::units::Bytes;
use live_iso::boot::{Boot, Settings};
use live_iso::{net, packages};
use netboot::board::Board;
use netboot::dhcp::answer::{BootFiles, Restored};
use netboot::dhcp::kept::Kept;
use netboot::dhcp::leases::{Leases, Range};
use netboot::dhcp::probe;
use netboot::event::{Event, Roster, What};
use netboot::files::Files;
use netboot::interface::{self, Interface};
use netboot::orders::site::Site;
use netboot::server;
use serde_json::json;

use self::news::News;
use self::room::Sending;
use super::Usage;
use super::iso::{cache, lacks_nothing, tree, unless_interrupted};
use crate::args::Global;
use crate::args::iso::Packages;
use crate::args::serve::{Also, Serve};
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// How long a Ctrl-C may go unnoticed.
const TICK: Duration = Duration::from_millis(200);

/// What a person does who has no internet here.
const FETCHED: &str = "what machines boot is fetched from the distribution. Where there is no internet, run \
                       `keiki serve --prepare` before, as the same user where there is; it is kept";

/// What that means, and what a person does.
const NO_DHCP: &str = ": machines get no address, and do not boot. Is it an isolated network? Then hand out addresses with \
                       --dhcp-range";

/// The server's address where there is no server.
const NOWHERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Runs the verb, until it is interrupted.
///
/// # Errors
/// A port is taken, another server hands out addresses, a tool or a package is missing.
pub fn run(global: &Global, args: &Serve, progress: &Progress) -> Result<Exit> {
    if let Some(Also::Status(args)) = &args.also {
        return status::run(global, args);
    }
    if args.packages == Packages::Medium {
        let why = "a disc has no boot loaders for networks: --packages download, or installed";
        return Err(Usage(why.to_owned()).into());
    }
    if !args.no_boot {
        lacks_nothing("booting over a network", &net::missing(&Machine))?;
    }
    if args.prepare {
        let made = files(args, (NOWHERE, None), progress)?;
        progress.finish();
        return prepared(global, bytes(&made)).map(|()| Exit::Done);
    }
    let interface = interface::choose(args.interface.as_deref())?;
    if let Some(range) = &args.dhcp_range {
        fits(range, &interface)?;
    }
    // What is wrong with what was typed is to be known before the network is asked, and before anything is built.
    let found = room::find(global, args, progress)?;
    let site = found.as_ref().map(|found| site(args, found, progress)).transpose()?;
    let lacks_dhcp = !args.no_boot && !has_dhcp(args, &interface)?;
    let warn = || {
        if lacks_dhcp {
            progress.warning(&format!("no DHCP server answers on {}{NO_DHCP}", interface.name));
        }
    };
    warn();
    let names = BootFiles {
        bios: net::BIOS.to_owned(),
        uefi: net::UEFI.to_owned(),
        http: format!("http://{}/{}", interface.address, net::UEFI),
    };
    let restored = site.clone().map(|site| site as Arc<dyn Restored>);
    let names = Some(names).filter(|_| !args.no_boot);
    let leases = args.dhcp_range.map(|range| leases(range, &interface, &args.state, progress));
    let bound = server::bind(&interface, names, leases.transpose()?, restored)?;
    let mut files = match args.no_boot {
        true => Files::default(),
        false => files(args, (interface.address, site.as_deref()), progress)?,
    };
    let size = bytes(&files);
    let pace = room::pace(args, &interface);
    let way = (interface.address, &pace);
    let shared = room::send_system(way, &mut files)?;
    let send = |found: &room::Found| found.send(way, &mut files, progress);
    let mut sending = found.as_ref().map(send).transpose()?.flatten();
    let sent = sending.as_ref().map(|sending| (sending.name.clone(), sending.room.clone()));
    let board = Arc::new(Board::new(sent, site.clone().map(|site| (site, interface.clone()))));
    files.add_answers("", board.clone());
    let mut code = None;
    if let (Some(site), Some(found)) = (&site, &found) {
        files.add_answers("", site.clone());
        code = found.guard(args, site, &mut files)?;
    }
    let (running, events) = bound.serve(files)?;
    progress.finish();
    let watched = board_at(interface.address, site.as_ref().map(|site| site.token()));
    let told = (&interface, [size, shared], watched.as_str(), code.as_deref());
    tell(global, args, told, sending.as_ref())?;
    // Much was said since then.
    warn();
    let news = site.as_deref().map(|site| (News::new(site), site));
    follow(global, (&events, &board), (sending.as_mut(), news), progress)?;
    drop(running);
    Ok(sending.map_or(Exit::Done, |sending| sending.exit()))
}

/// Refuses addresses that clients could not be reached at.
fn fits(range: &Range, interface: &Interface) -> Result<()> {
    let Interface { name, address, mask, .. } = interface;
    let network = |address: &Ipv4Addr| u32::from(*address) & u32::from(*mask);
    let is_here = |end| network(end) == network(address);
    if is_here(&range.first) && is_here(&range.last) {
        return Ok(());
    }
    let why =
        format!("{range} is not in the network of {name}, which is {address} with the mask {mask}");
    Err(Usage(why).into())
}

/// Whether somebody hands out addresses. Two servers that do would quarrel; and beside none nobody gets one.
fn has_dhcp(args: &Serve, interface: &Interface) -> Result<bool> {
    let name = &interface.name;
    match (args.dhcp_range, probe::other_server(interface)) {
        (Some(_), Ok(Some(other))) => Err(Error::refused(format!(
            "the DHCP server {other} answers on {name}: leave --dhcp-range away, and boot files are told beside it; or \
             take it off this network"
        ))
        .into()),
        (Some(_), Err(error)) => Err(anyhow::Error::new(error).context(format!(
            "{name} gets its own address from a DHCP server: give it a fixed one, or leave --dhcp-range away"
        ))),
        (None, Ok(None)) => Ok(false),
        // It cannot be asked where this machine is a client itself; so there is one.
        (None, Ok(Some(_)) | Err(_)) | (Some(_), Ok(None)) => Ok(true),
    }
}

/// Who has which address: as it was written down, and as it is seen now.
fn leases(
    range: Range,
    interface: &Interface,
    state: &Path,
    progress: &Progress,
) -> Result<(Leases, Kept)> {
    let mut leases = Leases::new(range, interface.address);
    let kept = Kept::new(state, &interface.name);
    if let Err(error) = kept.read(&mut leases) {
        progress.warning(&format!(
            "{error}: who has an address and does not answer now may lose it to another machine"
        ));
    }
    for (address, mac) in probe::present(interface, &range)? {
        leases.found(address, mac, kept.now());
    }
    Ok((leases, kept))
}

/// What decides over machines that boot from here.
fn site(args: &Serve, found: &room::Found, progress: &Progress) -> Result<Arc<Site>> {
    found.keeps_out(&args.state)?;
    let rules = rules::read(args)?.with(&found.repo, found.image.as_ref(), progress)?;
    Ok(Arc::new(Site::open(&args.state, Box::new(rules))?))
}

/// Where a person watches and decides; what stands behind the # is told to no server.
fn board_at(address: Ipv4Addr, token: Option<&str>) -> String {
    let token = token.map(|token| format!("#{token}")).unwrap_or_default();
    format!("http://{address}/board{token}")
}

/// Makes everything that machines fetch.
fn files(args: &Serve, way: (Ipv4Addr, Option<&Site>), progress: &Progress) -> Result<Files> {
    unless_interrupted(built(args, way, progress), progress)
}

fn built(
    args: &Serve,
    (server, site): (Ipv4Addr, Option<&Site>),
    progress: &Progress,
) -> Result<Files> {
    let made = tree(args.packages, args.system.keymap.as_deref(), progress);
    let made = made.map_err(|error| match args.packages {
        Packages::Download => error.context(FETCHED),
        _ => error,
    });
    let tree = made?.context("no packages")?;
    let cache = cache()?;
    let grub = packages::network_grub(&Machine, &tree, &cache, progress)?;
    progress.checkpoint()?;
    progress.stage(Stage::Build, None);
    let keiki = std::env::current_exe().context("cannot find this program's own file")?;
    let work = tempfile::tempdir().context("cannot write to the folder for temporary files")?;
    let profile = (&tree, args.system.profile.into());
    let boot = Boot::make(&Machine, profile, &keiki, &cache, work.path(), progress)?;
    let settings = Settings {
        keymap: args.system.keymap.clone(),
        console: args.system.console,
        server: site.map(|_| room::url(server)),
        site: site.map(Site::public),
        ..Settings::default()
    };
    let mut files = Files::default();
    let server = server.to_string();
    for (name, bytes) in net::files(&Machine, (&tree, &grub), &boot, &settings, &server)? {
        files.add(&name, bytes);
    }
    progress.checkpoint()?;
    Ok(files)
}

fn bytes(files: &Files) -> Bytes {
    Bytes::new(u64::try_from(files.size()).unwrap_or(u64::MAX))
}

/// Says what was prepared.
fn prepared(global: &Global, size: Bytes) -> Result<()> {
    if global.json {
        return output::json(&json!({"bytes": size}));
    }
    if global.quiet {
        return Ok(());
    }
    output::say(&format!(
        "Everything is there: {size} for each machine. Now `keiki serve` needs no internet."
    ))
}

/// Says that it runs, and how.
fn tell(
    global: &Global,
    args: &Serve,
    (interface, [size, shared], board, code): (&Interface, [Bytes; 2], &str, Option<&str>),
    sending: Option<&Sending>,
) -> Result<()> {
    let Interface { name, address, .. } = interface;
    if global.json {
        let mode = match (args.no_boot, args.dhcp_range) {
            (true, _) => "none",
            (false, Some(_)) => "lease",
            (false, None) => "proxy",
        };
        return output::json(&json!({"interface": name, "address": address, "dhcp": mode,
            "bytes": size, "image": args.image, "board": board, "code": code}));
    }
    if global.quiet {
        return Ok(());
    }
    let mode = match &args.dhcp_range {
        _ if args.no_boot => "booting nobody".to_owned(),
        Some(range) => format!("handing out {range}"),
        None => "beside the DHCP server of the network".to_owned(),
    };
    let loads = match size.saturating_sub(shared) {
        _ if args.no_boot => String::new(),
        alone => format!("; each machine loads {alone}, and all of them at once {shared}"),
    };
    let mut lines = vec![format!("Serving on {name} ({address}), {mode}{loads}.")];
    if let Some(sending) = sending {
        lines.push(format!("Any number of machines, at any time: {}", sending.how(interface)));
    }
    lines.push(match (args.save || sending.is_some(), &args.unattended) {
        (true, None) => {
            let what = if args.save { "saved or restored" } else { "restored" };
            format!("Say which machines may be {what}, and watch them: {board}")
        }
        _ => format!("Watch it in a browser: {board}"),
    });
    if let Some(code) = code {
        lines.push(format!(
            "The repository is private. Whoever fetches from it by hand types the code {code}."
        ));
    }
    if args.unattended.is_some() {
        lines.push(
            "EVERY machine that boots from here is restored, once, without asking.".to_owned(),
        );
    }
    lines.push(match args.no_boot {
        true => "Ctrl-C ends this.".to_owned(),
        false => "Start machines by their network adapter (PXE). Ctrl-C ends this.".to_owned(),
    });
    output::say(&lines.join("\n"))
}

/// Tells what happens, until the user wants it to end.
fn follow(
    global: &Global,
    (events, board): (&Receiver<Event>, &Board),
    (mut sending, mut news): (Option<&mut Sending>, Option<(News, &Site)>),
    progress: &Progress,
) -> Result<()> {
    let tell = |line: &str| {
        if global.json {
            progress.talk(line);
        } else if !global.quiet {
            output::say(line)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let mut roster = Roster::default();
    let mut failed = String::new();
    while !progress.interrupted() {
        // Once each, though it is tried again and again.
        let why = board.tick().err().map(|error| error.to_string()).unwrap_or_default();
        if why != std::mem::replace(&mut failed, why.clone()) && !why.is_empty() {
            progress.warning(&why);
        }
        if let Some(sending) = sending.as_mut() {
            sending.tell(!global.json && !global.quiet)?;
        }
        if let Some((news, site)) = news.as_mut() {
            news.lines(site).iter().try_for_each(|line| tell(line))?;
        }
        let event = match events.recv_timeout(TICK) {
            Ok(event) => roster.complete(event),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => bail!("all services have ended"),
        };
        match &event.what {
            What::Ended(why) => bail!("{why}"),
            What::Warned(why) => {
                progress.warning(why);
                continue;
            }
            _ => {}
        }
        board.note(&event);
        line(&event).map_or(Ok(()), |line| tell(&line))?;
    }
    Ok(())
}

/// `10.0.0.5  52:54:00:77:00:01  UEFI: fetched shimx64.efi (1 MiB, TFTP)`; none for what nobody wants to know.
fn line(event: &Event) -> Option<String> {
    let what = match &event.what {
        What::Named(file) => format!("is told to boot {file}"),
        What::Leased => "has its address from here".to_owned(),
        What::Lost(why) => (*why).to_owned(),
        What::Ended(why) | What::Warned(why) => why.clone(),
        What::Fetched(by, file, size) => {
            format!("fetched {file} ({}, {by})", Bytes::new(u64::try_from(*size).ok()?))
        }
        What::Seen => return None,
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let address = or_dash(event.address.map(|address| address.to_string()));
    let mac = or_dash(event.mac.map(|mac| mac.to_string()));
    let kind = event.kind.map(|kind| format!("{kind}: ")).unwrap_or_default();
    Some(format!("{address:15}  {mac:17}  {kind}{what}"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netboot::event::{Event, Kind, Mac, What};
    use netboot::interface::Interface;

    use super::{fits, line};

    #[test]
    fn events_are_lines() {
        let mut event = Event {
            address: Some(Ipv4Addr::new(10, 0, 0, 5)),
            mac: Some(Mac([0x52, 0x54, 0, 0x77, 0, 1])),
            kind: Some(Kind::Uefi),
            what: What::Fetched("TFTP", "shimx64.efi".to_owned(), 1 << 20),
        };
        let known = "10.0.0.5         52:54:00:77:00:01  UEFI: fetched shimx64.efi (1 MiB, TFTP)";
        assert_eq!(line(&event).as_deref(), Some(known));
        (event.address, event.mac, event.kind) = (None, None, None);
        assert_eq!(line(&event).unwrap().split_whitespace().nth(1), Some("-"));
        event.what = What::Seen;
        assert_eq!(line(&event), None);
    }

    #[test]
    fn addresses_of_another_network_are_refused() {
        let [address, mask] = [[10, 0, 0, 1], [255, 255, 255, 0]].map(Ipv4Addr::from);
        let here = Interface { name: "eth1".to_owned(), address, mask, mac: Mac::default() };
        assert!(fits(&"10.0.0.50-10.0.0.99".parse().unwrap(), &here).is_ok());
        for far in ["10.0.0.50-10.0.1.99", "10.0.1.50-10.0.1.99", "10.0.0.50-10.9.0.51"] {
            let said = fits(&far.parse().unwrap(), &here).unwrap_err().to_string();
            assert!(said.contains("is not in the network of eth1"), "{said}");
        }
    }
}
