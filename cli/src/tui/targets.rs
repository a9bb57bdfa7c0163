//! Choosing what is overwritten.

use std::path::{Path, PathBuf};

use anyhow::Result;
use image_core::units::Bytes;

use super::ask::Item;
use super::{Menu, disks};
use crate::cmd::target::Candidate;

/// What a target has to be.
#[derive(Clone, Debug)]
pub struct Need {
    /// What that is, in words.
    pub what: String,
    /// The least size.
    pub least: Bytes,
    /// The size that it had.
    pub size: Bytes,
    /// Whether a partition will do.
    pub partition: bool,
}

/// A target that was chosen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// As it is typed.
    pub word: String,
    /// Its size.
    pub size: Bytes,
    /// Whether it is a file that does not exist yet.
    pub creates: bool,
}

/// Lets a target be chosen that is none of `taken`.
pub fn pick(menu: &mut Menu<'_>, need: &Need, taken: &[String]) -> Result<Option<Target>> {
    menu.ask.busy("Looking at the disks...");
    let disks = disks::all().unwrap_or_default();
    let repo = menu.folder();
    let blocked = |path: &Path, size: Bytes| {
        let twice = taken.iter().any(|taken| Path::new(taken) == path);
        let twice = twice.then(|| "it was chosen already".to_owned());
        let small = || (size < need.least).then(|| format!("too small: {} are needed", need.least));
        twice.or_else(|| disks::no_target(path, repo.as_deref())).or_else(small)
    };
    let (mut items, mut places) = (Vec::new(), Vec::new());
    for disk in &disks {
        items.push(disk.item(blocked(&disk.path, disk.size)));
        places.push((disk.path.clone(), disk.size));
        for part in disk.parts.iter().filter(|_| need.partition) {
            let text = format!("  {}  {}", part.title, part.size);
            items.push(Item::new(text).blocked(blocked(&part.path, part.size)));
            places.push((part.path.clone(), part.size));
        }
    }
    items.push(Item::new("An image file...").with("a new one, or one that is overwritten"));
    let question = format!("Where to, {}?", need.what);
    let mut start = 0;
    loop {
        let Some(at) = menu.choose(&question, &items, start)? else { return Ok(None) };
        start = at;
        let chosen = match places.get(at) {
            Some((path, size)) => {
                let word = path.display().to_string();
                Some(Target { word, size: *size, creates: false })
            }
            None => file(menu, need, taken)?,
        };
        if let Some(target) = chosen {
            let new = if target.creates { ", a new file" } else { "" };
            menu.tell(&format!("Target: {} ({}{new})", target.word, target.size));
            return Ok(Some(target));
        }
    }
}

/// A file that exists, or a new one and its size.
fn file(menu: &mut Menu<'_>, need: &Need, taken: &[String]) -> Result<Option<Target>> {
    let repo = menu.folder();
    let mut typed = String::new();
    loop {
        let check = |text: &str| check_file(text, need, taken, repo.as_deref());
        let Some(word) = menu.ask.line("Image file", &typed, &check)? else { return Ok(None) };
        let found = Candidate::look(&word, repo.as_deref()).ok();
        if let Some(info) = found.and_then(|found| found.info) {
            return Ok(Some(Target { word, size: info.size, creates: false }));
        }
        typed.clone_from(&word);
        if let Some(size) = size(menu, need)? {
            return Ok(Some(Target { word, size, creates: true }));
        }
    }
}

fn check_file(
    text: &str,
    need: &Need,
    taken: &[String],
    repo: Option<&Path>,
) -> Result<(), String> {
    if text.is_empty() {
        return Err("Type the path of a file, or press Esc to go back.".to_owned());
    }
    if taken.iter().any(|taken| taken == text) {
        return Err(format!("{text} was chosen already."));
    }
    let found = Candidate::look(text, repo).map_err(|error| crate::cmd::message(&error))?;
    match &found.info {
        Some(info) if info.size < need.least => {
            Err(format!("{text} has {}; {} are needed.", info.size, need.least))
        }
        Some(_) => Ok(()),
        None => {
            let path = std::path::absolute(&found.path).unwrap_or(PathBuf::from(text));
            match path.parent() {
                Some(folder) if folder.is_dir() => Ok(()),
                Some(folder) => Err(format!("There is no folder {}.", folder.display())),
                None => Err(format!("{text} is no file.")),
            }
        }
    }
}

/// How large a new file becomes.
fn size(menu: &mut Menu<'_>, need: &Need) -> Result<Option<Bytes>> {
    let items = [
        Item::new(format!("{}, as it was", need.size)),
        Item::new("Another size...").with("it takes room only for what is written"),
    ];
    loop {
        match menu.choose("How large shall the new file be?", &items, 0)? {
            Some(0) => return Ok(Some(need.size)),
            Some(_) => {}
            None => return Ok(None),
        }
        let check = |text: &str| match text.parse::<Bytes>()? {
            size if size < need.least => {
                Err(format!("That is too small: {} are needed.", need.least))
            }
            _ => Ok(()),
        };
        if let Some(size) = menu.ask.line("Size (200GiB, 1.5T)", "", &check)? {
            return Ok(size.parse().ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use image_core::units::Bytes;

    use super::{Need, file};
    use crate::tui::tests::with_menu;

    #[test]
    fn a_file_is_checked_as_it_is_typed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("small"), [1; 99]).unwrap();
        let need = Need {
            what: "d0".to_owned(),
            least: Bytes::mib(8),
            size: Bytes::mib(24),
            partition: false,
        };
        let answers =
            [&path("small"), &path("none/x"), "", &path("new"), "Another", "1MiB", "huge", "32MiB"];
        let mut chosen = None;
        let (heard, _) = with_menu(&answers, &[], |menu| chosen = file(menu, &need, &[]).unwrap());
        for said in
            ["99 B; 8 MiB are needed", "no folder", "Type the path", "too small", "not a size"]
        {
            assert!(heard.iter().any(|heard| heard.contains(said)), "{said}: {heard:?}");
        }
        let chosen = chosen.unwrap();
        assert_eq!((chosen.word, chosen.size, chosen.creates), (path("new"), Bytes::mib(32), true));
    }
}
