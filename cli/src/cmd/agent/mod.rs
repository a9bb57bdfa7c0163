//! `keiki agent`: a machine of a room, which does what the server's orders say.
//!
//! - `own` what this machine is. - `line` the way to the server.

mod line;
mod own;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use image_core::disk::inventory::DiskInfo;
use image_core::image::record::ImageName;
use image_core::repo::{Address, ORDERED};
use image_core::report::Report;
use netboot::orders::machine::{Machine, tag};
use netboot::orders::order::{self, Order, Signed};
use netboot::orders::talk::{Doing, Told};
use netboot::secret::{hex, random};

use self::line::Line;
use super::Usage;
use super::deploy::consoles::{self, Consoles};
use super::deploy::{Marks, Onto, after, typed};
use crate::answers::{Answers, Then};
use crate::args::Global;
use crate::args::agent::Agent;
use crate::exit::Exit;
use crate::output::progress::{Progress, Watch};
use crate::{network, output, tui};

/// How often the server is asked, and told how far it is.
const PERIOD: Duration = Duration::from_secs(2);
/// Orders are for a nonce that is younger than an hour; so it is made anew before that.
const YOUNG: Duration = Duration::from_secs(1800);
/// For so long it is tried to tell the server how it ended.
const FAREWELL: Duration = Duration::from_secs(60);
/// The same where somebody takes back what he asked for, and waits for the menu.
const BRIEFLY: Duration = Duration::from_secs(6);

/// Runs the verb. In the live system it returns when somebody pressed a key, or for the machine to start again; elsewhere when
/// it is restored, or cannot be.
///
/// # Errors
/// The server cannot be reached, or the restore failed.
pub fn run(global: &Global, args: &Agent, progress: &Progress) -> Result<Exit> {
    if global.json {
        let why = "keiki agent tells the server what becomes of the machine, and prints no JSON: see keiki serve status --json";
        return Err(Usage(why.to_owned()).into());
    }
    let mut paths = args.consoles.clone();
    let here = tui::live::is_here();
    if (here || args.save.is_some()) && paths.is_empty() {
        paths.push(consoles::OWN.into());
    }
    let mut consoles = Consoles::open(&paths);
    let ended = waiting(args, &mut consoles, progress);
    progress.finish();
    match ended {
        Err(error) if here => {
            let exit = super::complain(global, &error);
            output::talk("\nPress any key for the menu.");
            while !consoles.key(Duration::from_secs(3600)) {}
            Ok(exit)
        }
        ended => ended,
    }
}

/// What an order has to be for.
struct Site {
    line: Line,
    key: String,
    /// The repository of the server.
    repo: String,
}

/// The server; none where a key was pressed before it answered.
fn site(args: &Agent, consoles: &mut Consoles, progress: &Progress) -> Result<Option<Site>> {
    if let (Some(server), Some(key)) = (&args.server, &args.site_key) {
        let server = server.trim_end_matches('/');
        let (line, repo) = (Line::new(server), format!("{server}/{}", network::REPOSITORY));
        return Ok(Some(Site { line, key: key.clone(), repo }));
    }
    let key = network::site_key()
        .context("this machine was not started by `keiki serve` with images: name the server")?;
    output::talk("Looking for the server that this machine was started from.");
    let repo = loop {
        progress.checkpoint()?;
        match network::reach() {
            Ok(repo) => break repo.as_typed().to_string_lossy().into_owned(),
            Err(why) if tui::live::is_here() => {
                // Whoever switches the server on an hour later goes to no machine for it.
                output::talk(&format!(
                    "{why:#}. It is tried again; press any key to see the menu instead."
                ));
                if consoles.key(PERIOD) {
                    return Ok(None);
                }
            }
            Err(why) => return Err(why),
        }
    };
    let server = repo
        .strip_suffix(network::REPOSITORY)
        .context("the server's repository has another name")?;
    Ok(Some(Site { line: Line::new(server.trim_end_matches('/')), key, repo }))
}

/// Asks until there is an order, and carries it out.
fn waiting(args: &Agent, consoles: &mut Consoles, progress: &Progress) -> Result<Exit> {
    let Some(site) = site(args, consoles, progress)? else { return Ok(Exit::Interrupted) };
    let here = tui::live::is_here();
    let (mut nonce, mut made) = (hex(&random::<16>()?), Instant::now());
    let mut said = String::new();
    loop {
        progress.checkpoint()?;
        if made.elapsed() > YOUNG {
            (nonce, made) = (hex(&random::<16>()?), Instant::now());
        }
        let machine = own::machine(&args.disks)?;
        let doing = args.save.as_ref().map(|name| Doing::Asks { name: name.to_string() });
        let told = site.line.say(&machine, &nonce, doing.unwrap_or(Doing::Waits));
        let words = match &told {
            Ok(Told::Wait { why }) => format!("It waits: {}.", plain(why)),
            Ok(_) => String::new(),
            Err(why) => format!("The server does not answer: {why}"),
        };
        if said.is_empty() {
            output::talk(&introduction(&machine, args.save.as_ref()));
        }
        if !words.is_empty() && words != said {
            output::talk(&words);
            said = words;
        }
        match told {
            Ok(Told::Do { order }) => {
                let ended =
                    ordered(&site, (&machine, &nonce, made), (args, &order), consoles, progress);
                progress.watch().interrupt(false);
                // The order is used up, however it ended.
                (nonce, made) = (hex(&random::<16>()?), Instant::now());
                match ended {
                    Ok(Some(exit)) => return Ok(exit),
                    Ok(None) => {}
                    Err(error) if here && args.save.is_none() => {
                        output::talk(&format!("error: {}", super::message(&error)))
                    }
                    Err(error) => return Err(error),
                }
                said = "-".to_owned();
            }
            Ok(Told::Stop) if args.save.is_some() => {
                bail!("somebody at the server said no; nothing is saved")
            }
            Ok(Told::Start { image }) if args.save.is_none() => {
                return was_done(args, &plain(&image), consoles, progress);
            }
            Ok(_) | Err(_) => {}
        }
        let asks = args.save.is_some();
        if consoles.key(PERIOD) || asks && progress.interrupted() {
            if asks {
                site.line.last(&machine, &nonce, &Doing::AsksNoMore, BRIEFLY);
                output::talk("It asks no more; nothing is saved.");
            }
            return Ok(Exit::Interrupted);
        }
    }
}

/// What somebody on the network said, without signs that move a cursor.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(400).collect()
}

fn introduction(machine: &Machine, save: Option<&ImageName>) -> String {
    let kind: String = [&machine.model, &machine.serial]
        .into_iter()
        .flatten()
        .map(|part| format!(", {part}"))
        .collect();
    let tag = tag(&machine.id());
    let more = match save {
        Some(name) => format!(
            "\nIt asks the server to save it as {name}. Nothing is saved before somebody agrees there: on its page, beside {tag}.\n\
             Press any key to take that back."
        ),
        None if tui::live::is_here() => "\nPress any key to see the menu instead.".to_owned(),
        None => String::new(),
    };
    format!("\nThis machine is {tag}{kind}.{more}")
}

/// Carries out an order, and tells the server how it ended; none where this machine waits again then.
fn ordered(
    site: &Site,
    (machine, nonce, made): (&Machine, &str, Instant),
    (args, signed): (&Agent, &Signed),
    consoles: &mut Consoles,
    progress: &Progress,
) -> Result<Option<Exit>> {
    let watch = progress.watch();
    // What remained of an order before is not of this one.
    watch.take_steps();
    let mut begun = "; a disk that was begun does not start";
    let ended = site.line.while_telling(machine, nonce, &watch, || {
        let (order, answers, disks) = checked(site, (machine, nonce, made), (args, signed))?;
        if order.save.is_some() {
            begun = "; there is no new image";
        }
        carry_out((site, args), (&order, &answers, disks), consoles, progress)
    });
    let ended = ended.map_err(|error| match progress.interrupted() {
        true => anyhow!("it was stopped{begun}"),
        false => error,
    });
    let doing = match &ended {
        Ok(Some((Exit::Done, _))) => Doing::Done { remains: None },
        Ok(Some((_, None))) => Doing::Done {
            remains: Some("but not all of it could be read: see keiki show".to_owned()),
        },
        Ok(Some((exit, _))) => Doing::Done { remains: Some(remains(*exit, &watch.take_steps())) },
        Ok(None) => Doing::Failed { why: "somebody at the machine stopped it".to_owned() },
        Err(error) => Doing::Failed { why: super::message(error) },
    };
    progress.finish();
    site.line.last(machine, nonce, &doing, FAREWELL);
    // Where a key was pressed, and where somebody runs this by hand, it ends.
    let Some((exit, then)) = ended? else { return Ok(Some(Exit::Interrupted)) };
    if !tui::live::is_here() || args.save.is_some() {
        return Ok(Some(exit));
    }
    let Some(then) = then else { return Ok(None) };
    let seconds = if exit == Exit::Done { after::MOMENT } else { after::WHILE };
    after::end(then, seconds, consoles, progress).map(Some)
}

/// Bytes of steps that are told: the server keeps 400 letters of what a machine says.
const MOST_STEPS: usize = 250;

/// What remains to be done by hand. Of what was restored before, nothing is known but that something did.
fn remains(exit: Exit, steps: &[String]) -> String {
    let holes = "what could not be read when the image was saved is zeros there: see keiki show";
    let holes = (exit == Exit::Unreadable).then_some(holes);
    let all = steps.len() + usize::from(holes.is_some());
    // No step is torn: half a command does something else.
    let whole = steps.iter().scan(MOST_STEPS, |left, step| {
        *left = left.checked_sub(step.len() + "; ".len())?;
        Some(step.as_str())
    });
    let mut said: Vec<&str> = holes.into_iter().chain(whole).collect();
    if said.is_empty() || said.len() < all {
        said.push("what remains is on its screen, or run keiki repair");
    }
    said.join("; ")
}

/// The order, if it is one for this machine as it is now.
fn checked(
    site: &Site,
    (machine, nonce, made): (&Machine, &str, Instant),
    (args, signed): (&Agent, &Signed),
) -> Result<(Order, Answers, Vec<DiskInfo>)> {
    let order = order::verified(signed, &site.key).map_err(|why| anyhow!(why))?;
    ensure!(order.machine == machine.id(), "the order is for another machine");
    ensure!(order.nonce == nonce, "the order was for this machine, before it started again");
    ensure!(made.elapsed() < Duration::from_secs(order.seconds), "the order is too old");
    let answers = Answers::parse(&order.answers).map_err(|why| anyhow!("the order: {why}"))?;
    let restores = order.save.is_none();
    ensure!(
        !restores || args.save.is_none(),
        "it asks to be saved, and the order is to restore it"
    );
    ensure!(!restores || answers.image == order.image, "the order names two images");
    let disks = own::chosen(args, &answers)?;
    ensure!(own::are(&disks, &order.disks), "other disks fit the rules here than the order names");
    Ok((order, answers, disks))
}

/// None where a key stopped it before it began; a save has nothing that comes after it.
type Ended = Option<(Exit, Option<Then>)>;

fn carry_out(
    (site, args): (&Site, &Agent),
    (order, answers, disks): (&Order, &Answers, Vec<DiskInfo>),
    consoles: &mut Consoles,
    progress: &Progress,
) -> Result<Ended> {
    let repo = as_ordered(&site.repo, &order.grant);
    if let Some(name) = &order.save {
        return save((&repo, name), (args, answers, disks), consoles, progress);
    }
    let image = output::short(&order.image);
    let order_is = (&site.key, &order.machine, order.number, &order.image);
    let marks = Marks::new(&format!("{order_is:?}"));
    if let Some((_, _, exit)) = marks.find(&disks)? {
        output::talk(&format!("It was restored already: {image}."));
        return Ok(Some((exit, Some(answers.then))));
    }
    let onto = Onto::look(disks.clone())?;
    let name = order.hostname.as_ref().map(|name| format!(", as {name},")).unwrap_or_default();
    output::talk(&format!(
        "\nThe image {image} is restored{name} onto\n\n{}\nPress any key to stop it.",
        onto.words()
    ));
    if after::counted("It begins in", answers.countdown, consoles, progress)? {
        output::talk("Stopped; nothing was done.");
        return Ok(None);
    }
    are_still(args, answers, &disks)?;
    let named = (answers, order.hostname.as_deref());
    let exit = onto.restore(&repo, named, &marks, progress)?;
    output::talk(&format!("\nThe image {image} is restored."));
    if let [disk, ..] = disks.as_slice()
        && tui::live::is_here()
        && !after::start_next(disk).unwrap_or(false)
    {
        output::talk(
            "The firmware is not told to start from the disk; it does so by itself where nothing else comes first.",
        );
    }
    Ok(Some((exit, Some(answers.then))))
}

/// Refuses disks that are others now: one that came up late may fit the rules too.
fn are_still(args: &Agent, answers: &Answers, disks: &[DiskInfo]) -> Result<()> {
    ensure!(own::chosen(args, answers)? == disks, "other disks fit the rules now than before");
    Ok(())
}

/// The repository, for who carries out an order. The grant is shown nowhere, and in no program's arguments.
fn as_ordered(repo: &str, grant: &str) -> String {
    let address = Address::of(repo).map(|address| address.with_login(ORDERED, grant));
    address.map_or_else(|| repo.to_owned(), |address| address.as_typed())
}

/// Saves disks, of which nothing is changed.
fn save(
    (repo, name): (&str, &str),
    (args, answers, disks): (&Agent, &Answers, Vec<DiskInfo>),
    consoles: &mut Consoles,
    progress: &Progress,
) -> Result<Ended> {
    // What is not this name cannot be an option of the command below.
    let name: ImageName = name.parse()?;
    let paths: Vec<String> = disks.iter().map(|disk| disk.path.display().to_string()).collect();
    output::talk(&format!(
        "\nThe server saves what is on this machine as {name}; nothing is changed here:\n\n  {}\n\nPress any key to stop it.",
        paths.join("\n  ")
    ));
    if after::counted("It begins in", answers.countdown, consoles, progress)? {
        output::talk("Stopped; nothing was done.");
        return Ok(None);
    }
    are_still(args, answers, &disks)?;
    let mut words = vec!["save".to_owned(), format!("--name={name}")];
    words.extend(paths);
    let exit = typed(repo, words, progress)?;
    output::talk(&format!("\nIt is saved as {name}."));
    Ok(Some((exit, None)))
}

/// Says that nothing is to be done, and starts the machine from its disk.
fn was_done(
    args: &Agent,
    image: &str,
    consoles: &mut Consoles,
    progress: &Progress,
) -> Result<Exit> {
    output::talk(&format!(
        "It was restored ({}), and is not restored again unless somebody says so at the server.",
        output::short(image)
    ));
    if !tui::live::is_here() {
        return Ok(Exit::Done);
    }
    for disk in &own::offered(&args.disks)? {
        if after::start_next(disk)? {
            return after::end(Then::Reboot, after::MOMENT, consoles, progress);
        }
    }
    bail!("let the firmware start it from its disk: it has its own system");
}

/// What is told while something works.
fn works(watch: &Watch) -> Doing {
    let (stage, done, total) = watch.now();
    let stage = if stage.is_empty() { "begins".to_owned() } else { stage };
    Doing::Works { stage, done, total, note: watch.note() }
}
