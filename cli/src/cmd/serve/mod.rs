//! `keiki serve`: boot machines over the network, and send them an image.

mod link;
mod news;
mod room;
mod rules;
mod shelf;
mod status;
mod system;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Result, bail};
use image_core::exec::real::Machine;
use image_core::report::Report;
use image_core::units::Bytes;
use live_iso::net;
use netboot::board::Board;
use netboot::check;
use netboot::event::{Event, Roster, What};
use netboot::files::Files;
use netboot::interface::Interface;
use netboot::orders::site::Site;
use netboot::orders::starts::Starts;
use netboot::server;
use serde_json::json;

use self::link::Link;
use self::news::News;
use self::room::{Guard, Sending};
use self::system::System;
use super::Usage;
use super::iso::lacks_nothing;
use crate::args::Global;
use crate::args::iso::Packages;
use crate::args::serve::{Also, Serve};
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// How long a Ctrl-C may go unnoticed.
const TICK: Duration = Duration::from_millis(200);

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
        let made = System::make(args, None, progress)?.files(NOWHERE, progress)?;
        progress.finish();
        return prepared(global, bytes(&made)).map(|()| Exit::Done);
    }
    let links = link::find(args)?;
    let boots = !args.no_boot;
    // What is wrong with what was typed is to be known before the network is asked, and before anything is built.
    let found = room::find(global, args, progress)?;
    let site = found.as_ref().map(|found| site(args, found, progress)).transpose()?;
    let mut lacking = Vec::new();
    for link in links.iter().filter(|_| boots) {
        if !link.has_dhcp()? {
            lacking.push(link.interface.name.as_str());
        }
    }
    let wrong = hindrances(&links)?;
    let warn = || {
        wrong.iter().for_each(|wrong| progress.warning(wrong));
        if !lacking.is_empty() {
            progress.warning(&format!("no DHCP server answers on {}{NO_DHCP}", lacking.join(", ")));
        }
    };
    warn();
    let bind = |link: &Link| link.bind(args, site.as_ref(), progress);
    let bound = links.iter().map(bind).collect::<Result<Vec<_>>>()?;
    let system = boots.then(|| System::make(args, site.as_deref(), progress));
    let mut system = system.transpose()?;
    let mut sending = found.as_ref().map(|found| found.send(&links, progress)).transpose()?;
    let guard = match (&found, &site) {
        (Some(found), Some(site)) => Some(found.guard(args, site)?),
        _ => None,
    };
    let rooms = sending.as_ref().map_or_else(Vec::new, |sending| sending.rooms.clone());
    let interfaces = links.iter().map(|link| link.interface.clone()).collect();
    let board = Arc::new(Board::new(rooms, site.clone(), interfaces));
    let (events, told) = server::events();
    let mut running = Vec::new();
    let mut sizes = [Bytes::ZERO; 2];
    for (at, (link, bound)) in links.iter().zip(bound).enumerate() {
        let mut files = match &mut system {
            Some(system) => system.files(link.interface.address, progress)?,
            None => Files::default(),
        };
        sizes = [bytes(&files), room::send_system(link.way(), &mut files)?];
        files.add_answers("", board.clone());
        if let (Some(found), Some(sending)) = (&found, &sending) {
            found.add(sending, at, &mut files)?;
        }
        if let (Some(site), Some(guard)) = (&site, &guard) {
            files.add_answers("", site.clone());
            files.add_answers(net::START, Arc::new(Starts(Arc::clone(site))));
            guard.add(&mut files);
        }
        running.push(bound.serve(files, &events)?);
    }
    drop((system, events));
    progress.finish();
    let address = links.first().map_or(NOWHERE, |link| link.interface.address);
    let watched = board_at(address, site.as_ref().map(|site| site.token()));
    let code = guard.as_ref().and_then(Guard::code);
    tell(global, args, (&links, sizes, &watched, code), sending.as_ref())?;
    // Much was said since then.
    warn();
    let news = site.as_deref().map(|site| (News::new(site), site));
    follow(global, (&told, &board), (sending.as_mut(), news), progress)?;
    drop(running);
    Ok(sending.map_or(Exit::Done, |sending| sending.exit()))
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
    (links, [size, shared], board, code): (&[Link], [Bytes; 2], &str, Option<&str>),
    sending: Option<&Sending>,
) -> Result<()> {
    let boots = !args.no_boot;
    if global.json {
        let network = |link: &Link| {
            let Interface { name, address, .. } = &link.interface;
            json!({"interface": name, "address": address, "dhcp": link.mode(boots)})
        };
        let networks: Vec<_> = links.iter().map(network).collect();
        return output::json(&json!({"networks": networks, "bytes": size, "image": args.image,
            "board": board, "code": code}));
    }
    if global.quiet {
        return Ok(());
    }
    let loads = match size.saturating_sub(shared) {
        _ if args.no_boot => String::new(),
        alone => format!("; each machine loads {alone}, and all of them at once {shared}"),
    };
    let networks: Vec<String> = links.iter().map(|link| link.words(boots)).collect();
    let mut lines = vec![format!("Serving on {}{loads}.", networks.join("; "))];
    for link in links {
        let how = sending.and_then(|sending| sending.how(&link.interface));
        lines.extend(how.map(|how| format!("Any number of machines, at any time: {how}")));
    }
    lines.push(match (sending.is_some(), &args.unattended) {
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
            sending.tell(!global.json && !global.quiet, progress)?;
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

/// What hinders those who are served there, and how to mend it.
fn hindrances(links: &[Link]) -> image_core::error::Result<Vec<String>> {
    let silent = links.iter().map(|link| check::multicast(&link.interface));
    let all = silent.chain([check::buffers()]).collect::<image_core::error::Result<Vec<_>>>()?;
    Ok(all.into_iter().flatten().collect())
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

    use super::line;

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
}
