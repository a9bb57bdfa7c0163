//! What a disc does that has an answer file, before its menu comes: it restores, once, and a key stops it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use image_core::disk::inventory::DiskInfo;
use image_core::image::time::Timestamp;
use live_iso::iso;

use super::deploy::consoles::Consoles;
use super::deploy::{self, Marks, Onto, after};
use crate::answers::{Answers, Then};
use crate::args::Global;
use crate::args::unattended::Unattended;
use crate::exit::Exit;
use crate::medium;
use crate::output::{self, progress::Progress};

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
    let repo = medium::attach()?.join(iso::IMAGES).display().to_string();
    let chosen = deploy::chosen(&answers, PATIENCE)?;
    // The same answers with a newer image are another order.
    let image = image_of(&repo, &answers, progress)?;
    let order = Marks::new(&format!("{text}\0{image}"));
    if let Some((disk, at, _)) = order.find(&chosen)? {
        return was_done(&answers, (disk, at), consoles, progress);
    }
    let onto = Onto::look(chosen.clone())?;
    output::talk(&format!(
        "\nThis disc restores the image {} onto\n\n{}\nPress any key to stop it and see the menu.",
        answers.image,
        onto.words()
    ));
    if after::counted("It begins in", answers.countdown, consoles, progress)? {
        output::talk("Stopped; nothing was done.");
        return Ok(Exit::Interrupted);
    }
    ensure!(
        deploy::chosen(&answers, Duration::ZERO)? == chosen,
        "other disks are there now than before"
    );
    let exit = onto.restore(&repo, (&answers, None), &order, progress)?;
    output::talk(&format!("\nThe image {} is restored.", answers.image));
    after::end(
        answers.then,
        if exit == Exit::Done { after::MOMENT } else { after::WHILE },
        consoles,
        progress,
    )
}

/// The id of the image that the answers name.
fn image_of(repo: &str, answers: &Answers, progress: &Progress) -> Result<String> {
    let cli = deploy::parsed(repo, vec!["show".to_owned(), answers.image.clone()])?;
    let image = super::repository(&cli.global)?.resolve(&answers.image, progress)?;
    Ok(image.id.to_string())
}

/// Says that nothing is to be done, and starts the machine from its disk where that is possible.
fn was_done(
    answers: &Answers,
    (disk, at): (&DiskInfo, Timestamp),
    consoles: &mut Consoles,
    progress: &Progress,
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
        after::start_next(disk)?,
        "take the disc out and start the machine again: its own disk has the system"
    );
    after::end(Then::Reboot, after::MOMENT, consoles, progress)
}
