//! The entries `Save a disk` and `Save to the server`.

use std::path::Path;

use anyhow::Result;
use image_core::image::record::ImageName;

use super::ask::Item;
use super::{Menu, Move, Step, disks, live, places};
use crate::cmd::source;
use crate::exit::Exit;
use crate::output;

/// What was answered so far.
#[derive(Default)]
struct Draft {
    sources: Vec<String>,
    name: String,
}

/// `keiki save`.
pub fn run(menu: &mut Menu<'_>) -> Result<()> {
    let repository: Step<Draft> = |menu, _| places::any(menu);
    menu.walk(&mut Draft::default(), &[repository, first, name, ready])
}

/// `keiki agent --save`: asks the server that this machine was started from.
pub fn to_server(menu: &mut Menu<'_>) -> Result<()> {
    menu.walk(&mut Draft::default(), &[of_this, name, asked])
}

/// Which of its disks, where there are several; a volume group over several takes rules at the server.
fn of_this(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    menu.ask.busy("Looking at the disks...");
    let disks = disks::all()?;
    if disks.len() < 2 {
        return Ok(Move::Skip);
    }
    let blocked = |disk: &disks::Disk| disks::no_source(&disk.path, None);
    let items: Vec<Item> = disks.iter().map(|disk| disk.item(blocked(disk))).collect();
    let Some(at) = menu.choose("Save which disk?", &items, 0)? else { return Ok(Move::Back) };
    draft.sources = disks.get(at).map(|disk| disk.path.display().to_string()).into_iter().collect();
    Ok(Move::Next)
}

fn asked(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let items = [
        Item::new(format!("Ask the server to save this machine as {}", draft.name))
            .with("nothing is saved before somebody agrees there; a key takes it back"),
        Item::new("Main menu"),
    ];
    match menu.choose("Ready. The disk is only read.", &items, 0)? {
        Some(0) => {}
        Some(_) => return Ok(Move::Leave),
        None => return Ok(Move::Back),
    }
    let mut words = vec!["agent".to_owned(), "--save".to_owned(), draft.name.clone()];
    words.extend(draft.sources.iter().flat_map(|disk| ["--disk".to_owned(), disk.clone()]));
    match menu.act(&words)? {
        Exit::Done | Exit::Unreadable => {
            menu.tell("\nThe image is complete, in the repository of the server.");
            Ok(Move::Next)
        }
        _ => {
            menu.tell("\nThere is no new image. Nothing on this machine was changed.");
            Ok(Move::Leave)
        }
    }
}

fn first(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let chosen = pick(menu, "Save which disk?", &[])?;
    Ok(match chosen {
        Some(source) => {
            draft.sources = vec![source];
            Move::Next
        }
        None => Move::Back,
    })
}

/// Lets a source be chosen that is not among `taken`.
pub fn pick(menu: &mut Menu<'_>, question: &str, taken: &[String]) -> Result<Option<String>> {
    menu.ask.busy("Looking at the disks...");
    let disks = match disks::all() {
        Ok(disks) => disks,
        Err(error) => {
            menu.tell(&format!("The disks cannot be listed: {error}"));
            Vec::new()
        }
    };
    let repo = menu.folder();
    let blocked = |path: &Path| {
        let twice = taken.iter().any(|taken| Path::new(taken) == path);
        let twice = twice.then(|| "it was chosen already".to_owned());
        twice.or_else(|| disks::no_source(path, repo.as_deref()))
    };
    // A disk with one partition in use may have others that are not.
    let of_disk = |disk: &disks::Disk| {
        let why = blocked(&disk.path);
        disk.item(why.filter(|_| disk.parts.iter().all(|part| blocked(&part.path).is_some())))
    };
    let mut items: Vec<Item> = disks.iter().map(of_disk).collect();
    items.push(Item::new("An image file..."));
    let mut start = 0;
    loop {
        let Some(at) = menu.choose(question, &items, start)? else { return Ok(None) };
        start = at;
        let chosen = match disks.get(at) {
            Some(disk) => whole_or_part(menu, disk, &blocked)?,
            None => file(menu, taken)?,
        };
        if let Some(source) = chosen {
            menu.tell(&format!("Source: {source}"));
            return Ok(Some(source));
        }
    }
}

fn whole_or_part(
    menu: &mut Menu<'_>,
    disk: &disks::Disk,
    blocked: &dyn Fn(&Path) -> Option<String>,
) -> Result<Option<String>> {
    let path = disk.path.display();
    let mut items = vec![
        Item::new(format!("The whole disk {path}  {}", disk.title))
            .with(&disk.contents)
            .blocked(blocked(&disk.path)),
    ];
    for part in &disk.parts {
        let only = format!("Only {}  {}", part.title, part.size);
        items.push(Item::new(only).blocked(blocked(&part.path)));
    }
    if disk.parts.is_empty() {
        return Ok(Some(path.to_string()));
    }
    let Some(at) = menu.choose("All of it, or a part?", &items, 0)? else { return Ok(None) };
    let part = at.checked_sub(1).and_then(|at| disk.parts.get(at));
    Ok(Some(part.map_or(&disk.path, |part| &part.path).display().to_string()))
}

fn file(menu: &mut Menu<'_>, taken: &[String]) -> Result<Option<String>> {
    let repo = menu.folder();
    let check = |text: &str| {
        if text.is_empty() {
            return Err("Type the path of an image file, or press Esc to go back.".to_owned());
        }
        if taken.iter().any(|taken| taken == text) {
            return Err(format!("{text} was chosen already."));
        }
        let named = source::find(text).map_err(|error| error.to_string())?;
        disks::no_source(&named.path, repo.as_deref()).map_or(Ok(()), Err)
    };
    menu.ask.line("Image file (FILE:2 is a partition in it)", "", &check)
}

fn name(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let check = |text: &str| match text.parse::<ImageName>() {
        _ if text.is_empty() => Err("Type a name, for example that of the machine.".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let Some(name) = menu.ask.line("Name of the image", &draft.name, &check)? else {
        return Ok(Move::Back);
    };
    draft.name = name;
    if let Some(newest) = newest(menu, &draft.name) {
        menu.tell(&format!(
            "There is {newest} already. Both are kept; what they have in common is stored once."
        ));
    }
    Ok(Move::Next)
}

/// The newest image of that name, where there is one.
fn newest(menu: &Menu<'_>, name: &str) -> Option<String> {
    let images = menu.repo.as_ref()?.open().and_then(|repo| repo.images()).ok()?;
    let name = name.parse().ok()?;
    images
        .newest(&name)
        .map(|image| format!("{} of {}", output::image(image), image.record.created))
}

fn ready(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let mut start = 0;
    loop {
        let sources = draft.sources.join(", ");
        let items = [
            Item::new(format!("Save now: {sources} as {}", draft.name)),
            Item::new("Add another disk")
                .with("a volume group over several disks needs all of them"),
            Item::new("Main menu"),
        ];
        match menu.choose("Ready. The source is only read.", &items, start)? {
            Some(0) => {}
            Some(1) => {
                let taken = draft.sources.clone();
                draft.sources.extend(pick(menu, "Which disk as well?", &taken)?);
                continue;
            }
            Some(_) => return Ok(Move::Leave),
            None => return Ok(Move::Back),
        }
        let mut words = vec!["save".to_owned()];
        words.extend(draft.sources.iter().cloned());
        words.extend(["--name".to_owned(), draft.name.clone()]);
        let exit = menu.act(&words)?;
        match exit {
            Exit::Done | Exit::Unreadable => {
                let hint = live::unplug_hint(menu.folder().as_deref());
                menu.tell(&format!(
                    "\nThe image is complete. Next: `Verify an image` reads all of it back; \
                     `Restore an image` puts it onto a disk.{hint}"
                ));
                return Ok(Move::Next);
            }
            _ => menu.tell("\nThere is no new image. Nothing on the source was changed."),
        }
        start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::{Draft, Move, asked, name, ready};
    use crate::exit::Exit;
    use crate::tui::tests::with_menu;

    fn draft() -> Draft {
        Draft { sources: vec!["/dev/x y".to_owned()], name: "lab".to_owned() }
    }

    #[test]
    fn a_name_is_checked_as_it_is_typed() {
        let mut draft = draft();
        let (heard, _) = with_menu(&["a b", "", "web-1"], &[], |menu| {
            assert_eq!(name(menu, &mut draft).unwrap(), Move::Next);
        });
        assert_eq!(draft.name, "web-1");
        for said in ["1 to 64 letters", "Type a name"] {
            assert!(heard.iter().any(|heard| heard.contains(said)), "{heard:?}");
        }
    }

    #[test]
    fn the_server_is_asked_by_a_command() {
        let ask = |exit| {
            let mut draft = draft();
            let mut end = Move::Back;
            let (heard, ran) =
                with_menu(&["Ask"], &[exit], |menu| end = asked(menu, &mut draft).unwrap());
            assert_eq!(ran, ["agent --save lab --disk /dev/x y"]);
            (heard.concat(), end)
        };
        let (heard, end) = ask(Exit::Done);
        assert!(end == Move::Next && heard.contains("complete"), "{heard}");
        let (heard, end) = ask(Exit::Failed);
        assert!(end == Move::Leave && heard.contains("no new image"), "{heard}");
    }

    #[test]
    fn what_failed_can_be_tried_again_with_the_same_words() {
        let (heard, ran) = with_menu(&["Save", "Save"], &[Exit::Refused], |menu| {
            assert_eq!(ready(menu, &mut draft()).unwrap(), Move::Next);
        });
        assert_eq!(ran, ["save /dev/x y --name lab"; 2]);
        assert!(heard.iter().any(|heard| heard.contains("keiki save '/dev/x y' --name lab")));
        assert!(heard.iter().any(|heard| heard.contains("no new image")), "{heard:?}");
    }
}
