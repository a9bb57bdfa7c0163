//! Choosing the repository.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use image_core::disk::location;
use image_core::error::Error;
use image_core::repo::{Location, Repository};
use image_core::sys::{mounts, space};

use super::ask::Item;
use super::{Menu, Move, live};
use crate::network;

/// A mount of a server that does not answer must not keep the menu from opening.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Folders of one mount point that are looked into.
const MOST_FOLDERS: usize = 200;

/// Asks for a repository that is there, unless one was chosen.
pub fn existing(menu: &mut Menu<'_>) -> Result<Move> {
    match menu.repo.as_ref().map(checked_existing) {
        Some(Ok(())) if !menu.again => return Ok(Move::Skip),
        Some(Err(why)) => menu.tell(&why),
        Some(Ok(())) | None => {}
    }
    choose(menu, true)
}

/// Asks for a repository, or the place for a new one, unless one was chosen.
pub fn any(menu: &mut Menu<'_>) -> Result<Move> {
    match menu.repo.as_ref().map(checked) {
        Some(Ok(())) if !menu.again => return Ok(Move::Skip),
        Some(Err(why)) => menu.tell(&why),
        Some(Ok(())) | None => {}
    }
    choose(menu, false)
}

/// What can be chosen where a repository is asked for.
#[derive(Clone)]
enum Choice {
    Place(Location),
    Own,
    Server,
    Typed,
    Attach,
}

/// Asks for a repository.
pub fn choose(menu: &mut Menu<'_>, must_exist: bool) -> Result<Move> {
    choose_beside(menu, must_exist, &[])
}

/// The same, the cursor on the first one that is not among those that are `known`.
fn choose_beside(menu: &mut Menu<'_>, must_exist: bool, known: &[Location]) -> Result<Move> {
    let check =
        |place: &Location| if must_exist { checked_existing(place) } else { checked(place) };
    let mut places: Vec<Location> = found().into_iter().map(Location::Folder).collect();
    if let Some(repo) = &menu.repo
        && is_repository(repo)
        && !places.contains(repo)
    {
        places.insert(0, repo.clone());
    }
    if live::is_here() && !must_exist {
        let new = live::new_places().into_iter().filter(|place| {
            let on_it = |at: &Location| at.folder().map(Path::parent) == Some(place.parent());
            !places.iter().any(on_it)
        });
        places.extend(new.map(Location::Folder).collect::<Vec<_>>());
    }
    places.retain(|place| check(place).is_ok());
    let mut choices: Vec<(Item, Choice)> = places
        .iter()
        .map(|place| (Item::new(describe(place)), Choice::Place(place.clone())))
        .collect();
    if must_exist && live::offers_own() {
        choices.push((live::own_item(), Choice::Own));
    }
    if must_exist && live::is_here() && network::server().is_some() {
        let server =
            Item::new("The server that started this machine").with("the images that it serves");
        choices.push((server, Choice::Server));
    }
    if live::is_here() {
        let attach = Item::new("Attach a disk or a share...").with("then it is offered here");
        choices.push((attach, Choice::Attach));
    }
    let typed = Item::new("Another folder...").with(if must_exist {
        "where images were saved before, or http://SERVER/PATH"
    } else {
        "an existing repository, or a new or empty folder to make one in"
    });
    choices.push((typed, Choice::Typed));
    let items: Vec<Item> = choices.iter().map(|(item, _)| item.clone()).collect();
    let start = places.iter().position(|place| !known.contains(place)).unwrap_or(0);
    loop {
        let question = "Repository: the folder where images are kept";
        let Some(at) = menu.choose(question, &items, start)? else { return Ok(Move::Back) };
        let place = match choices.get(at).map(|(_, choice)| choice.clone()) {
            None => continue,
            Some(Choice::Place(place)) => place,
            Some(Choice::Own) => match live::own(menu)? {
                true => return choose_beside(menu, must_exist, &places),
                false => continue,
            },
            Some(Choice::Server) => {
                menu.ask.busy("Asking the network for an address");
                match network::reach() {
                    Ok(server) => server,
                    Err(error) => {
                        menu.tell(&format!("{error}"));
                        continue;
                    }
                }
            }
            Some(Choice::Attach) => {
                let purpose = if must_exist { live::Purpose::Restore } else { live::Purpose::Save };
                match live::attach(menu, purpose)? {
                    true => return choose_beside(menu, must_exist, &places),
                    false => continue,
                }
            }
            Some(Choice::Typed) => {
                let here = || match live::is_here() {
                    true => PathBuf::from("/media/"),
                    false => std::env::current_dir().unwrap_or_default().join(""),
                };
                let hint = menu.folder().unwrap_or_else(here).display().to_string();
                let check = |text: &str| check(&Location::from(text));
                match menu.ask.line("Folder (Esc goes back)", &hint, &check)? {
                    Some(text) => Location::from(text),
                    None => continue,
                }
            }
        };
        take(menu, place);
        return Ok(Move::Next);
    }
}

/// Asks for a repository on a web server; whether one was named.
pub fn web(menu: &mut Menu<'_>) -> Result<bool> {
    let check = |text: &str| match Location::from(text) {
        Location::Folder(_) => Err(format!("{text:?} is not like http://192.168.1.5/backup.")),
        address @ Location::Http(_) => checked_existing(&address),
    };
    let typed = menu.ask.line("http://SERVER[:PORT]/PATH", "http://", &check)?;
    let place = typed.map(Location::from);
    let is_named = place.is_some();
    place.into_iter().for_each(|place| take(menu, place));
    Ok(is_named)
}

fn take(menu: &mut Menu<'_>, place: Location) {
    let new = if is_repository(&place) { "" } else { "a new one, " };
    menu.tell(&format!("Repository: {place} ({new}{})", free(&place)));
    menu.repo = Some(place);
}

fn exists(place: &Location) -> Result<bool, Error> {
    Repository::exists(place.files()?.as_ref())
}

fn is_repository(place: &Location) -> bool {
    exists(place).unwrap_or(false)
}

fn checked_existing(place: &Location) -> Result<(), String> {
    match (exists(place), place.folder()) {
        (_, Some(path)) if path.as_os_str().is_empty() => {
            Err("Type the path of a folder.".to_owned())
        }
        (Ok(true), _) => Ok(()),
        (Ok(false), Some(path)) if !path.exists() => {
            Err(format!("There is no folder {}.", path.display()))
        }
        (Ok(false), _) => Err(format!("{place} holds no images.")),
        (Err(error), _) => Err(error.to_string()),
    }
}

/// Whether a repository is there or could be made.
fn checked(place: &Location) -> Result<(), String> {
    let path = place.writable().map_err(|error| error.to_string())?;
    if path.as_os_str().is_empty() {
        return Err("Type the path of a folder.".to_owned());
    }
    if exists(place).map_err(|error| error.to_string())? {
        return match space::is_read_only(path) {
            Ok(true) => Err(format!("{} can only be read.", path.display())),
            _ => Ok(()),
        };
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

fn describe(place: &Location) -> String {
    let count = place
        .open()
        .and_then(|repo| repo.images())
        .map(|images| crate::output::count(images.intact.len(), "image"));
    let count = count.unwrap_or_else(|error| format!("cannot be read: {error}"));
    format!("{place}  ({count}, {})", free(place))
}

/// `12 GiB free`, of the filesystem that a folder lies or would lie on.
fn free(place: &Location) -> String {
    let Some(path) = place.folder() else { return "only to read".to_owned() };
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
                // A folder of programs has a file `keiki` too.
                let is_one =
                    is_repository(&Location::from(path.as_path())) && path.join("packs").is_dir();
                if is_one && send.send(path).is_err() {
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
    use super::{Location, checked, checked_existing};
    use crate::tui::tests::with_menu;

    #[test]
    fn a_folder_is_checked_as_it_is_typed() {
        let folder =
            tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let path = folder.path();
        std::fs::create_dir(path.join("full")).unwrap();
        std::fs::write(path.join("full/letter"), "").unwrap();
        assert_eq!(checked(&path.join("new").into()), Ok(()));
        assert!(checked(&path.join("mistyped/new").into()).unwrap_err().contains("no folder"));
        assert!(checked(&path.join("full").into()).unwrap_err().contains("other files"));
        assert!(checked(&"".into()).unwrap_err().contains("Type"));
        assert!(checked_existing(&path.join("new").into()).unwrap_err().contains("no folder"));
        assert!(checked_existing(&path.into()).unwrap_err().contains("no images"));
        let (full, new) = (path.join("full"), path.join("new"));
        let answers = ["Another", full.to_str().unwrap(), "<", "Another", new.to_str().unwrap()];
        let (heard, _) = with_menu(&answers, &[], |menu| {
            super::any(menu).unwrap();
            assert_eq!(menu.folder(), Some(new.clone()));
            assert_eq!(super::any(menu).unwrap(), super::Move::Skip);
        });
        assert!(heard.iter().any(|heard| heard.contains("a new one, ")), "{heard:?}");
    }

    #[test]
    fn an_address_is_only_for_reading() {
        let address = Location::from("http://anna:geheim@127.0.0.1:1/x");
        let why = checked(&address).unwrap_err();
        assert!(why.contains("http://anna:***@127.0.0.1:1/x can only be read"), "{why}");
        let why = checked_existing(&address).unwrap_err();
        assert!(why.contains("Connection refused") && !why.contains("geheim"), "{why}");
        assert!(checked_existing(&"https://x/".into()).unwrap_err().contains("not supported"));
        let (heard, _) = with_menu(&["<"], &[], |menu| assert!(!super::web(menu).unwrap()));
        assert!(heard.iter().any(|heard| heard.contains("http://SERVER")), "{heard:?}");
    }
}
