//! What a disc does that has an answer file, before its menu comes: it restores, once, and a key stops it.

mod consoles;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use image_core::disk::inventory::{self, DiskInfo};
use image_core::disk::table;
use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::extent::ExtentSet;
use image_core::image::hash::Hash;
use image_core::image::time::Timestamp;
use image_core::io::device::Device;
use image_core::restore::mark;
use live_iso::iso;

use self::consoles::Consoles;
use super::target::Candidate;
use crate::answers::{Answers, Then};
use crate::args::unattended::Unattended;
use crate::args::{Cli, Global};
use crate::exit::Exit;
use crate::medium;
use crate::network;
use crate::output::{self, progress::Progress};

/// Seconds in which a key stops what comes after the restore, and where something remains to be read.
const MOMENT: u16 = 10;
const WHILE: u16 = 60;

/// How long a disk may take until the kernel knows it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the verb. Whatever happens, it returns only when somebody pressed a key, or for the machine to start again.
///
/// # Errors
/// None that was not said and confirmed by a key.
pub fn run(global: &Global, args: &Unattended, progress: &Progress) -> Result<Exit> {
    let mut consoles = Consoles::open(&args.consoles);
    match carry_out(args, &mut consoles, progress) {
        Ok(exit) => Ok(exit),
        Err(error) => {
            progress.finish();
            let exit = super::complain(global, &error);
            output::talk("\nPress any key for the menu.");
            while !consoles.key(Duration::from_secs(3600)) {}
            Ok(exit)
        }
    }
}

fn carry_out(args: &Unattended, consoles: &mut Consoles, progress: &Progress) -> Result<Exit> {
    let text = fs::read_to_string(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let answers = Answers::parse(&text).map_err(|why| anyhow!("the answer file: {why}"))?;
    let repo = repository()?;
    let chosen = chosen(&answers, PATIENCE)?;
    // The same answers with a newer image are another order.
    let image = image_of(&repo, &answers, progress)?;
    let order = Hash::of(format!("{text}\0{image}").as_bytes());
    if let Some((disk, at)) = done_before(&chosen, &order)? {
        return was_done(&answers, (disk, at), consoles);
    }
    let mut targets = Vec::new();
    let mut lines = Vec::new();
    for disk in &chosen {
        let candidate = Candidate::look(&disk.path.display().to_string(), None)?;
        let answer = candidate.answers().into_iter().next().unwrap_or_default();
        targets.push((candidate.path.display().to_string(), answer));
        lines.push(format!("  {}\n", candidate.describe(&ExtentSet::new())));
    }
    output::talk(&format!(
        "\nThis disc restores the image {} onto\n\n{}\nPress any key to stop it and see the menu.",
        answers.image,
        lines.concat()
    ));
    if counted("It begins in", answers.countdown, consoles) {
        output::talk("Stopped; nothing was done.");
        return Ok(Exit::Interrupted);
    }
    ensure!(
        self::chosen(&answers, Duration::ZERO)? == chosen,
        "other disks are there now than before"
    );
    let restored = typed(&repo, answers.restore(&targets), progress)?;
    ensure!(!matches!(restored, Exit::Damaged), "the restore did not end");
    let repaired = match answers.repair {
        true => typed(&repo, Answers::repair(&targets), progress).unwrap_or_else(|error| {
            // Not every image has a system that could be made to start here, and what is restored stays so.
            output::talk(&format!("not repaired: {}", super::message(&error)));
            Exit::StepsRemain
        }),
        false => Exit::Done,
    };
    for (disk, candidate) in chosen.iter().zip(&targets) {
        mark_done(disk, candidate, &order)?;
    }
    let is_clean = restored == Exit::Done && repaired == Exit::Done;
    output::talk(&format!("\nThe image {} is restored.", answers.image));
    end(answers.then, if is_clean { MOMENT } else { WHILE }, consoles)
}

/// Where the images are: on the server that this machine was started from, or on its disc.
fn repository() -> Result<String> {
    if network::server().is_none() {
        return Ok(medium::attach()?.join(iso::IMAGES).display().to_string());
    }
    output::talk("Looking for the server that this machine was started from.");
    Ok(network::reach()?.as_typed().to_string_lossy().into_owned())
}

/// The disks that the rules mean; one that fits may come a little later.
fn chosen(answers: &Answers, patience: Duration) -> Result<Vec<DiskInfo>> {
    let began = Instant::now();
    loop {
        match answers.choose(&inventory::disks()?) {
            Ok(disks) => return Ok(disks.into_iter().cloned().collect()),
            Err(why) if began.elapsed() >= patience => bail!("the answer file: {why}"),
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// The id of the image that the answers name.
fn image_of(repo: &str, answers: &Answers, progress: &Progress) -> Result<String> {
    let cli = parsed(repo, vec!["show".to_owned(), answers.image.clone()])?;
    let image = super::repository(&cli.global)?.resolve(&answers.image, progress)?;
    Ok(image.id.to_string())
}

/// Carries out a command as if a person had typed it.
fn typed(repo: &str, words: Vec<String>, progress: &Progress) -> Result<Exit> {
    output::talk(&format!("\nkeiki --repo {repo} {}\n", words.join(" ")));
    super::run(&parsed(repo, words)?, progress)
}

fn parsed(repo: &str, words: Vec<String>) -> Result<Cli> {
    let first = ["keiki", "--repo", repo].map(str::to_owned);
    Cli::try_parse_from(first.into_iter().chain(words)).context("the answer file")
}

/// The first of the disks on which the order was carried out, and when.
fn done_before<'a>(
    disks: &'a [DiskInfo],
    order: &Hash,
) -> Result<Option<(&'a DiskInfo, Timestamp)>> {
    for disk in disks {
        let source = Device::open_source(&disk.path, None)?;
        if let Some(at) = mark::find(&source, order)? {
            return Ok(Some((disk, at)));
        }
    }
    Ok(None)
}

/// Says that nothing is to be done, and starts the machine from its disk where that is possible.
fn was_done(
    answers: &Answers,
    (disk, at): (&DiskInfo, Timestamp),
    consoles: &mut Consoles,
) -> Result<Exit> {
    output::talk(&format!(
        "\nThis disc restored the image {} onto {} at {at}. It does that once: to do it again, choose Restore in the menu.",
        answers.image,
        disk.path.display()
    ));
    if answers.then == Then::Menu {
        return Ok(Exit::Done);
    }
    ensure!(
        start_next(disk)?,
        "take the disc out and start the machine again: its own disk has the system"
    );
    end(Then::Reboot, MOMENT, consoles)
}

/// Lets UEFI start the system on `disk` next time, once; `false` where it has no entry for it, and on a BIOS.
fn start_next(disk: &DiskInfo) -> Result<bool> {
    let Ok(said) = Machine.check(&Call::new("efibootmgr", ["-v"])) else { return Ok(false) };
    let source = Device::open_source(&disk.path, None)?;
    let Some(found) = table::read(&source)? else { return Ok(false) };
    let ids: Vec<&str> =
        found.table.partitions().iter().filter_map(|part| part.uuid.as_deref()).collect();
    let said = said.text();
    let Some(number) = entry_of(&said, &ids) else { return Ok(false) };
    Machine.check(&Call::new("efibootmgr", ["--quiet", "--bootnext", number]))?;
    Ok(true)
}

/// The number of the first active entry that names one of these partitions; `efibootmgr -v` writes a line each:
/// `Boot0003* debian`, a tab, `HD(1,GPT,GUID,0x800,0x100000)/File(...)`.
fn entry_of<'a>(said: &'a str, ids: &[&str]) -> Option<&'a str> {
    said.lines().find_map(|line| {
        let (number, rest) = line.strip_prefix("Boot")?.split_at_checked(4)?;
        let rest = rest.strip_prefix('*')?.to_lowercase();
        let named = ids.iter().any(|id| rest.contains(&format!("gpt,{}", id.to_lowercase())));
        (named && number.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(number)
    })
}

fn mark_done(disk: &DiskInfo, (path, _): &(String, String), order: &Hash) -> Result<()> {
    let advice = "it is restored, but that cannot be noted on it: take the disc out, or it is restored again";
    let info = inventory::describe(&disk.path)?;
    let device = Candidate::look(path, None)?.claim(
        info.size,
        info.sector_size.unwrap_or(image_core::units::Bytes::new(512)),
        None,
    )?;
    let marked = mark::put(&device, order).with_context(|| format!("{path}: {advice}"))?;
    ensure!(marked, "{path}: {advice}");
    Ok(())
}

/// What comes last, unless a key is pressed.
fn end(then: Then, seconds: u16, consoles: &mut Consoles) -> Result<Exit> {
    let (words, command) = match then {
        Then::Menu => return Ok(Exit::Done),
        Then::Reboot => ("The machine starts again in", "reboot"),
        Then::Poweroff => ("The machine is switched off in", "poweroff"),
    };
    output::talk("Press any key to see the menu instead.");
    if counted(words, seconds, consoles) {
        return Ok(Exit::Done);
    }
    Machine.check(&Call::new("sync", [""; 0]))?;
    // Init does that when this has ended, for it waits for it.
    Machine.check(&Call::new(command, [""; 0]))?;
    Ok(Exit::Done)
}

/// Counts down; whether a key was pressed.
fn counted(words: &str, seconds: u16, consoles: &mut Consoles) -> bool {
    for left in (1..=seconds).rev() {
        // Not every second is worth a line on a slow console.
        if left % 10 == 0 || left <= 5 || left == seconds {
            output::talk(&format!("{words} {left} s."));
        }
        if consoles.key(Duration::from_secs(1)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::entry_of;

    #[test]
    fn the_entry_of_a_disk_is_found() {
        let said = "BootCurrent: 0001\nTimeout: 0 seconds\nBootOrder: 0001,0000\n\
                    Boot0000* UEFI QEMU\tPciRoot(0x0)/Pci(0x3,0x0)\n\
                    Boot0002  old\tHD(1,GPT,ABCD-1,0x800,0x1000)/File(\\EFI\\OLD)\n\
                    Boot00A3* debian\tHD(1,GPT,abcd-1,0x800,0x1000)/File(\\EFI\\DEBIAN\\SHIMX64.EFI)\n";
        assert_eq!(entry_of(said, &["zzzz", "ABCD-1"]), Some("00A3"));
        assert_eq!(entry_of(said, &["abcd-2"]), None);
        assert_eq!(entry_of(said, &[]), None);
    }
}
