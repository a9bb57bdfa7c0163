//! The entries `Restore an image` and `Clone a disk`, which only begin differently.

use anyhow::Result;
use image_core::clone::Source;
use image_core::image::manifest::{Root, VolumeEntry};
use image_core::plan::restore::{min_target, slots};
use image_core::units::Bytes;

use super::ask::Item;
use super::images::{self, Chosen};
use super::targets::{self, Need, Target};
use super::{Menu, Move, Step, disks, growth, live, places, save};
use crate::exit::Exit;

/// What was answered so far.
#[derive(Default)]
struct Draft {
    image: Chosen,
    /// The disks to clone; none where an image is restored.
    sources: Vec<String>,
    /// One volume only.
    volume: Option<String>,
    targets: Vec<Target>,
    grow: Vec<String>,
    /// Whether the target gets identifiers of its own.
    new_ids: bool,
}

/// `keiki restore`.
pub fn run(menu: &mut Menu<'_>) -> Result<()> {
    let repository: Step<Draft> = |menu, _| places::existing(menu);
    let image: Step<Draft> = |menu, draft| {
        let before = draft.image.word.clone();
        let moved = images::choose(menu, "Restore which image?", &mut draft.image)?;
        if before != draft.image.word {
            (draft.volume, draft.grow) = (None, Vec::new());
        }
        Ok(moved)
    };
    menu.walk(&mut Draft::default(), &[repository, image, what, whereto, grow, identifiers, ready])
}

/// `keiki clone`.
pub fn clone(menu: &mut Menu<'_>) -> Result<()> {
    menu.walk(&mut Draft::default(), &[sources, whereto, grow, identifiers, ready])
}

fn sources(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let mut sources = Vec::new();
    let mut question = "Clone which disk?";
    loop {
        match save::pick(menu, question, &sources)? {
            Some(source) => sources.push(source),
            None if sources.pop().is_none() => return Ok(Move::Back),
            None => {}
        }
        if sources.is_empty() {
            continue;
        }
        let items = [
            Item::new(format!("Go on with {}", sources.join(", "))),
            Item::new("Add another disk")
                .with("a volume group over several disks needs all of them"),
        ];
        question = match menu.choose("Is that all?", &items, 0)? {
            Some(0) => break,
            Some(_) => "Which disk as well?",
            None => {
                sources.pop();
                "Clone which disk?"
            }
        };
    }
    menu.ask.busy("Looking at the source...");
    let survey = match disks::survey(&sources) {
        Ok(survey) => survey,
        Err(why) => {
            menu.tell(&format!("That cannot be cloned: {why}"));
            return Ok(Move::Back);
        }
    };
    let root = Source::new(&survey, 1).root("menu")?;
    if sources != draft.sources {
        draft.grow.clear();
    }
    (draft.sources, draft.image.root) = (sources, Some(root));
    Ok(Move::Next)
}

/// The volumes that can be restored alone.
fn volumes(root: &Root) -> Vec<&VolumeEntry> {
    let own = |volume: &&VolumeEntry| !volume.is_container && volume.kind != "gap";
    root.volumes.iter().filter(own).collect()
}

fn what(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let Some(root) = &draft.image.root else { return Ok(Move::Back) };
    let volumes = volumes(root);
    if root.disks.is_empty() && volumes.len() < 2 {
        return Ok(Move::Skip);
    }
    let all = crate::output::count(slots(root).len(), "disk");
    let mut items = vec![Item::new(format!("Everything ({all})"))];
    items.extend(volumes.iter().map(|volume| {
        let label = volume.last_mounted.as_ref().or(volume.label.as_ref());
        let label = label.or(volume.name.as_ref()).map_or("", String::as_str);
        let (id, size, content) = (&volume.id, volume.size, &volume.content);
        Item::new(format!("Only {id:<16} {size:>10} {content:<8} {label}").trim_end())
    }));
    let start = volumes.iter().position(|volume| Some(&volume.id) == draft.volume.as_ref());
    let start = start.map_or(0, |at| at + 1);
    let Some(at) = menu.choose("All of it, or one volume?", &items, start)? else {
        return Ok(Move::Back);
    };
    let chosen = at.checked_sub(1).and_then(|at| volumes.get(at)).map(|volume| volume.id.clone());
    menu.tell(&format!("Restore: {}", chosen.as_deref().unwrap_or("everything")));
    if chosen != draft.volume {
        draft.grow.clear();
    }
    draft.volume = chosen;
    Ok(Move::Next)
}

/// What each target has to be.
fn needs(root: &Root, volume: Option<&String>) -> Vec<Need> {
    let of_volume = |volume: &VolumeEntry| Need {
        what: format!("the volume {} ({} {})", volume.id, volume.size, volume.content),
        least: volume.min_bytes,
        size: volume.size,
        partition: true,
    };
    let find = |id: &str| root.volumes.iter().find(|volume| volume.id == id);
    if let Some(volume) = volume {
        return find(volume).map(of_volume).into_iter().collect();
    }
    let need = |slot: &str| match root.disks.iter().find(|disk| disk.id == slot) {
        Some(disk) => Some(Need {
            what: format!("the disk {slot} ({})", disk.size),
            least: min_target(root, slot).0,
            size: disk.size,
            partition: false,
        }),
        None => find(slot).map(of_volume),
    };
    slots(root).into_iter().filter_map(need).collect()
}

fn whereto(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let Some(root) = &draft.image.root else { return Ok(Move::Back) };
    let needs = needs(root, draft.volume.as_ref());
    let mut targets: Vec<Target> = Vec::new();
    while let Some(need) = needs.get(targets.len()) {
        let taken = targets.iter().map(|target| &target.word).chain(&draft.sources);
        let taken: Vec<String> = taken.cloned().collect();
        match targets::pick(menu, need, &taken)? {
            Some(target) => targets.push(target),
            None if targets.pop().is_none() => return Ok(Move::Back),
            None => {}
        }
    }
    draft.targets = targets;
    Ok(Move::Next)
}

fn grow(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let Some(root) = &draft.image.root else { return Ok(Move::Back) };
    let needs = needs(root, draft.volume.as_ref());
    let larger = needs.iter().zip(&draft.targets).any(|(need, target)| target.size > need.size);
    // One volume alone grows whenever it can; there is nobody to share with.
    if !larger || draft.volume.is_some() {
        draft.grow.clear();
        return Ok(Move::Skip);
    }
    Ok(if growth::ask(menu, root, &mut draft.grow)? { Move::Next } else { Move::Back })
}

fn identifiers(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    if draft.volume.is_some() {
        draft.new_ids = false;
        return Ok(Move::Skip);
    }
    let items = [
        Item::new("The same").with("it takes the old one's place; the two must not start together"),
        Item::new("New ones").with("it runs beside the old one; what names them is rewritten"),
    ];
    let question = "Identifiers (UUIDs, the names of volume groups)?";
    let Some(at) = menu.choose(question, &items, usize::from(draft.new_ids))? else {
        return Ok(Move::Back);
    };
    draft.new_ids = at == 1;
    menu.tell(&format!("Identifiers: {}", if draft.new_ids { "new ones" } else { "the same" }));
    Ok(Move::Next)
}

/// The words after `keiki`.
fn words(draft: &Draft) -> Vec<String> {
    let mut words = match draft.sources.as_slice() {
        [] => vec!["restore".to_owned(), draft.image.word.clone()],
        sources => [&["clone".to_owned()], sources].concat(),
    };
    words.extend(draft.targets.iter().map(|target| target.word.clone()));
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if let Some(volume) = &draft.volume {
        flag("--volume", volume.clone());
    }
    let needs = draft.image.root.as_ref().map(|root| needs(root, draft.volume.as_ref()));
    let sizes = needs.unwrap_or_default().into_iter().map(|need| need.size);
    let resized = draft
        .targets
        .iter()
        .zip(sizes)
        .find(|(target, size)| target.creates && target.size != *size);
    if let Some((target, _)) = resized {
        flag("--size", exact(target.size));
    }
    draft.grow.iter().for_each(|who| flag("--grow", who.clone()));
    if draft.new_ids {
        words.push("--new-ids".to_owned());
    }
    words
}

/// A size as it is typed, to the byte.
fn exact(size: Bytes) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.into_iter().find(|(_, bits)| size.is_aligned(Bytes::new(1 << bits)));
    whole.map_or(size.get().to_string(), |(unit, bits)| format!("{}{unit}", size.get() >> bits))
}

fn ready(menu: &mut Menu<'_>, draft: &mut Draft) -> Result<Move> {
    let words = words(draft);
    let existing = draft.targets.iter().any(|target| !target.creates);
    let (verb, done) =
        if draft.sources.is_empty() { ("Restore", "Restored") } else { ("Clone", "Cloned") };
    let go = if existing {
        Item::new(verb).with("shows the plan and what will be lost, and asks you to confirm")
    } else {
        Item::new(format!("{verb} now")).with("the target is a new file: nothing is overwritten")
    };
    let items = [go, Item::new("Only show the plan"), Item::new("Main menu")];
    let mut start = 0;
    loop {
        match menu.choose("Ready.", &items, start)? {
            Some(0) => {}
            Some(1) => {
                menu.act(&[words.as_slice(), &["--dry-run".to_owned()]].concat())?;
                start = 0;
                continue;
            }
            Some(_) => return Ok(Move::Leave),
            None => return Ok(Move::Back),
        }
        let exit = menu.act(&words)?;
        menu.tell("");
        menu.tell(&next(exit, done, draft));
        match exit {
            Exit::Done | Exit::StepsRemain | Exit::Unreadable => {
                // Elsewhere the disk may be meant for another machine.
                if live::is_here() && draft.volume.is_none() {
                    repair(menu, draft)?;
                }
                return Ok(Move::Next);
            }
            _ => start = 0,
        }
    }
}

/// Offers to make what was restored start on the machine that it is in now.
fn repair(menu: &mut Menu<'_>, draft: &Draft) -> Result<()> {
    let items = [
        Item::new("Yes").with("looks what could keep it from starting, and shows that first"),
        Item::new("No").with("the disk goes into another machine, or has no Linux to start"),
    ];
    let question = "Shall the system on it start on this machine?";
    if menu.choose(question, &items, 0)? == Some(0) {
        let targets = draft.targets.iter().map(|target| target.word.clone());
        let words: Vec<String> = std::iter::once("repair".to_owned()).chain(targets).collect();
        menu.act(&words)?;
        menu.tell("");
    }
    Ok(())
}

/// What was done, and what is to be done next.
fn next(exit: Exit, done: &str, draft: &Draft) -> String {
    let device = draft.targets.iter().any(|target| target.word.starts_with("/dev/"));
    let words = match exit {
        Exit::Done if !device || draft.volume.is_some() => {
            return format!("{done}. Nothing else is to be done.");
        }
        Exit::Done if draft.new_ids => {
            "Next: start from the new disk. The old one may stay where it is."
        }
        Exit::Done => {
            "Next: shut down, take either the old or the new disk out (they carry the same \
             identifiers and must not start together), and start from the new one."
        }
        Exit::StepsRemain => "The steps named above remain.",
        Exit::Unreadable => "Sectors that could not be read are zeros now.",
        Exit::Refused | Exit::Usage => {
            return "Nothing was written. Try again, or go back and change it.".to_owned();
        }
        Exit::Damaged => {
            return "What was to be written is damaged. Another image of the same disk may be whole: \
                    `Verify an image` tells."
                .to_owned();
        }
        Exit::Failed | Exit::Interrupted => {
            return "That failed. If writing had begun, the target cannot be used as it is: do it again \
                    once the reason is gone."
                .to_owned();
        }
    };
    format!("{done}. {words}")
}

#[cfg(test)]
mod tests {
    use image_core::image::manifest::Root;
    use image_core::units::Bytes;
    use serde_json::json;

    use super::{
        Chosen, Draft, Exit, Move, Target, exact, identifiers, ready, repair, what, words,
    };
    use crate::tui::tests::with_menu;

    fn root() -> Root {
        let mut root = Root::empty("test");
        let disk = json!({"id": "d0", "path": "/dev/x", "size": 10_u64 << 30, "sector_size": 512});
        root.disks.push(serde_json::from_value(disk).unwrap());
        for id in ["d0:1", "d0:2"] {
            let volume = json!({"id": id, "disk": "d0", "kind": "partition", "offset": 0,
                "size": 1_u64 << 30, "content": "ext4", "used_bytes": 0, "min_bytes": 1 << 20,
                "state": "clean", "growth": "resize2fs", "is_container": false, "unreadable": [],
                "segments": [null]});
            root.volumes.push(serde_json::from_value(volume).unwrap());
        }
        root
    }

    fn draft(size: Bytes, creates: bool) -> Draft {
        Draft {
            image: Chosen { word: "web@12".to_owned(), root: Some(root()) },
            targets: vec![Target { word: "/dev/x".to_owned(), size, creates }],
            ..Draft::default()
        }
    }

    #[test]
    fn every_choice_is_a_flag() {
        let mut new = draft(Bytes::gib(12), true);
        new.grow = vec!["d0:1=rest".to_owned()];
        assert_eq!(words(&new).join(" "), "restore web@12 /dev/x --size 12GiB --grow d0:1=rest");
        let mut one = draft(Bytes::gib(1), false);
        with_menu(&["Only d0:2"], &[], |menu| {
            assert_eq!(what(menu, &mut one).unwrap(), Move::Next);
        });
        assert_eq!(words(&one).join(" "), "restore web@12 /dev/x --volume d0:2");
        assert_eq!([exact(Bytes::new(1025)), exact(Bytes::mib(1025))], ["1025", "1025MiB"]);
    }

    #[test]
    fn a_restored_system_is_repaired_if_wanted() {
        for (answer, expected) in [("Yes", vec!["repair /dev/x"]), ("No", vec![])] {
            let (_, ran) = with_menu(&[answer], &[Exit::Done], |menu| {
                repair(menu, &draft(Bytes::gib(10), false)).unwrap();
            });
            assert_eq!(ran, expected);
        }
    }

    #[test]
    fn a_clone_names_sources_and_then_targets() {
        let mut clone = draft(Bytes::gib(10), false);
        clone.sources = vec!["/dev/a".to_owned()];
        for (ids, flag, what) in [
            ("The same", "", "Cloned. Next: shut down"),
            ("New", " --new-ids", "Cloned. Next: start"),
        ] {
            let (heard, ran) = with_menu(&[ids, "Clone"], &[Exit::Done], |menu| {
                menu.repo = Some("/backup".into());
                assert_eq!(identifiers(menu, &mut clone).unwrap(), Move::Next);
                assert_eq!(ready(menu, &mut clone).unwrap(), Move::Next);
            });
            assert_eq!(ran, [format!("clone /dev/a /dev/x{flag}")]);
            assert!(heard.last().unwrap().starts_with(what), "{heard:?}");
        }
    }

    #[test]
    fn a_wrong_confirmation_can_be_typed_again() {
        let mut draft = draft(Bytes::gib(10), false);
        let (heard, ran) =
            with_menu(&["Only", "Restore", "Restore"], &[Exit::Done, Exit::Refused], |menu| {
                assert_eq!(ready(menu, &mut draft).unwrap(), Move::Next);
            });
        let plain = "restore web@12 /dev/x";
        assert_eq!(ran, [format!("{plain} --dry-run").as_str(), plain, plain]);
        assert!(heard.iter().any(|heard| heard.contains("Nothing was written")), "{heard:?}");
        assert!(heard.last().unwrap().contains("take either the old or the new disk out"));
    }
}
