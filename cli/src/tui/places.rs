//! Choosing the repository.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use image_core::disk::location;
use image_core::repo::{Local, Repository};
use image_core::sys::{mounts, space};

use super::ask::Item;
use super::{Menu, Move, live};

/// A mount of a server that does not answer must not keep the menu from opening.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Folders of one mount point that are looked into.
const MOST_FOLDERS: usize = 200;

/// Asks for a repository that is there, unless one was chosen.
pub fn existing(menu: &mut Menu<'_>) -> Result<Move> {
    match menu.repo.as_deref().map(checked_existing) {
        Some(Ok(())) if !menu.again => return Ok(Move::Skip),
        Some(Err(why)) => menu.tell(&why),
        Some(Ok(())) | None => {}
    }
    choose(menu, true)
}

/// Asks for a repository, or the place for a new one, unless one was chosen.
pub fn any(menu: &mut Menu<'_>) -> Result<Move> {
    match menu.repo.as_deref().map(checked) {
        Some(Ok(())) if !menu.again => return Ok(Move::Skip),
        Some(Err(why)) => menu.tell(&why),
        Some(Ok(())) | None => {}
    }
    choose(menu, false)
}

/// Asks for a repository.
pub fn choose(menu: &mut Menu<'_>, must_exist: bool) -> Result<Move> {
    let mut found = found();
    if let Some(repo) = &menu.repo
        && is_repository(repo)
        && !found.contains(repo)
    {
        found.insert(0, repo.clone());
    }
    let mut items: Vec<Item> = found.iter().map(|path| Item::new(describe(path))).collect();
    items.push(Item::new("Another folder...").with(if must_exist {
        "where images were saved before"
    } else {
        "an existing repository, or a new or empty folder to make one in"
    }));
    if live::is_here() {
        items.push(
            Item::new("Attach a disk or a share...").with("then its folders are offered here"),
        );
    }
    loop {
        let question = "Repository: the folder where images are kept";
        let Some(at) = menu.choose(question, &items, 0)? else { return Ok(Move::Back) };
        if at > found.len() {
            if live::attach(menu)? {
                return choose(menu, must_exist);
            }
            continue;
        }
        let path = match found.get(at) {
            Some(path) => path.clone(),
            None => {
                let check = |text: &str| {
                    let path = Path::new(text);
                    if must_exist { checked_existing(path) } else { checked(path) }
                };
                let here = || std::env::current_dir().unwrap_or_default().join("");
                let hint = menu.repo.clone().unwrap_or_else(here).display().to_string();
                match menu.ask.line("Folder (Esc goes back)", &hint, &check)? {
                    Some(text) => PathBuf::from(text),
                    None => continue,
                }
            }
        };
        let new = if is_repository(&path) { "" } else { "a new one, " };
        menu.tell(&format!("Repository: {} ({new}{})", path.display(), free(&path)));
        menu.repo = Some(path);
        return Ok(Move::Next);
    }
}

fn is_repository(path: &Path) -> bool {
    Repository::exists(&Local::new(path)).unwrap_or(false)
}

fn checked_existing(path: &Path) -> Result<(), String> {
    if path.as_os_str().is_empty() {
        return Err("Type the path of a folder.".to_owned());
    }
    match Repository::exists(&Local::new(path)) {
        Ok(true) => Ok(()),
        Ok(false) if path.exists() => Err(format!("{} holds no images.", path.display())),
        Ok(false) => Err(format!("There is no folder {}.", path.display())),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a repository is there or could be made.
fn checked(path: &Path) -> Result<(), String> {
    if path.as_os_str().is_empty() {
        return Err("Type the path of a folder.".to_owned());
    }
    if Repository::exists(&Local::new(path)).map_err(|error| error.to_string())? {
        return Ok(());
    }
    location::check_new_repository(path).map_err(|error| error.to_string())?;
    let name = path.display();
    match path.read_dir().map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{name} has other files in it; name a folder of its own.")),
        Err(_) if path.exists() => Err(format!("{name} is no folder that can be read.")),
        // A mistyped path would make folders that nobody looks for.
        Err(_) => match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) if !parent.is_dir() => {
                Err(format!("There is no folder {}.", parent.display()))
            }
            _ => Ok(()),
        },
    }
}

fn describe(path: &Path) -> String {
    let count = Repository::open(std::sync::Arc::new(Local::new(path)))
        .and_then(|repo| repo.images())
        .map(|images| crate::output::count(images.intact.len(), "image"));
    let count = count.unwrap_or_else(|error| format!("cannot be read: {error}"));
    format!("{}  ({count}, {})", path.display(), free(path))
}

/// `12 GiB free`, of the filesystem that a path lies or would lie on.
fn free(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = absolute.ancestors().find(|path| path.exists());
    match there.map(space::free) {
        Some(Ok(free)) => format!("{free} free"),
        _ => "free space is not known".to_owned(),
    }
}

/// Repositories at the mount points and in their folders, as far as they answer in time.
fn found() -> Vec<PathBuf> {
    let (send, receive) = mpsc::channel();
    let look = move || {
        let virtual_kinds =
            ["proc", "sysfs", "devtmpfs", "tmpfs", "devpts", "cgroup2", "overlay", "squashfs"];
        let mounts = mounts::mounts(Path::new("/")).unwrap_or_default();
        let real = mounts.into_iter().filter(|m| !virtual_kinds.contains(&m.fs_type.as_str()));
        let usual = ["/mnt", "/media", "/srv", "/backup"].map(PathBuf::from);
        for point in real.map(|mount| mount.point).chain(usual) {
            let folders = point.read_dir().into_iter().flatten().flatten();
            let folders = folders.take(MOST_FOLDERS).map(|entry| entry.path());
            for path in std::iter::once(point.clone()).chain(folders) {
                if is_repository(&path) && send.send(path).is_err() {
                    return;
                }
            }
        }
    };
    drop(std::thread::Builder::new().name("places".to_owned()).spawn(look));
    let end = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    while let Ok(path) = receive.recv_timeout(end.saturating_duration_since(Instant::now())) {
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{checked, checked_existing};
    use crate::tui::tests::with_menu;

    #[test]
    fn a_folder_is_checked_as_it_is_typed() {
        let folder =
            tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("full")).unwrap();
        std::fs::write(path.join("full/letter"), "").unwrap();
        assert_eq!(checked(&path.join("new")), Ok(()));
        assert!(checked(&path.join("mistyped/new")).unwrap_err().contains("no folder"));
        assert!(checked(&path.join("full")).unwrap_err().contains("other files"));
        assert!(checked(std::path::Path::new("")).unwrap_err().contains("Type"));
        assert!(checked_existing(&path.join("new")).unwrap_err().contains("no folder"));
        assert!(checked_existing(path).unwrap_err().contains("no images"));
        let (full, new) = (path.join("full"), path.join("new"));
        let answers = ["Another", full.to_str().unwrap(), "<", "Another", new.to_str().unwrap()];
        let (heard, _) = with_menu(&answers, &[], |menu| {
            super::any(menu).unwrap();
            assert_eq!(menu.repo.as_deref(), Some(new.as_path()));
            assert_eq!(super::any(menu).unwrap(), super::Move::Skip);
        });
        assert!(heard.iter().any(|heard| heard.contains("a new one, ")), "{heard:?}");
    }
}
