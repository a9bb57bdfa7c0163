//! The keyboard's layout.

use std::fs;
use std::path::Path;

use anyhow::Result;
use image_core::exec::Call;

use super::super::Menu;
use super::super::ask::Item;
use super::check;

/// Where layouts are kept, in a folder for each family.
const FOLDER: &str = "/usr/share/keymaps/i386";

/// Layouts that come first, with the names of the countries.
const USUAL: [(&str, &str); 16] = [
    ("us", "United States"),
    ("uk", "United Kingdom"),
    ("de-latin1-nodeadkeys", "Germany, Austria"),
    ("sg-latin1", "Switzerland, German"),
    ("fr_CH-latin1", "Switzerland, French"),
    ("fr-latin9", "France"),
    ("be2-latin1", "Belgium"),
    ("es", "Spain"),
    ("la-latin1", "Latin America"),
    ("pt-latin1", "Portugal"),
    ("br-abnt2", "Brazil"),
    ("it", "Italy"),
    ("pl", "Poland"),
    ("cz-lat2", "Czechia"),
    ("se-latin1", "Sweden"),
    ("dk-latin1", "Denmark"),
];

/// Asks for the layout when the menu opens on the machine's own screen, once.
pub fn first(menu: &mut Menu<'_>) -> Result<()> {
    let done = Path::new("/run/keiki/keyboard");
    // A serial console has the keyboard of another machine.
    let is_screen = std::env::var("TERM").is_ok_and(|term| term == "linux");
    let is_known = done.exists() || Path::new("/etc/keiki/keymap").exists();
    if !super::is_here() || !is_screen || is_known {
        return Ok(());
    }
    fs::write(done, "")?;
    run(menu)
}

/// Asks for the layout and loads it.
pub fn run(menu: &mut Menu<'_>) -> Result<()> {
    let there = layouts();
    let usual = USUAL.iter().filter(|(name, _)| there.iter().any(|there| there == name));
    let usual: Vec<&(&str, &str)> = usual.collect();
    let mut items: Vec<Item> =
        usual.iter().map(|(name, place)| Item::new(format!("{place:<22}{name}"))).collect();
    items.push(Item::new("Another one..."));
    let Some(at) = menu.choose("Keyboard", &items, 0)? else { return Ok(()) };
    let name = match usual.get(at) {
        Some((name, _)) => (*name).to_owned(),
        None => {
            let question = "A part of its name, or nothing for all of them";
            let is_there = |part: &str| match named(&there, part).is_empty() {
                true => Err(format!("No layout has {part:?} in its name.")),
                false => Ok(()),
            };
            let Some(part) = menu.ask.line(question, "", &is_there)? else { return Ok(()) };
            let names = named(&there, &part);
            let items: Vec<Item> = names.iter().map(|name| Item::new(*name)).collect();
            let Some(at) = menu.choose("Keyboard", &items, 0)? else { return Ok(()) };
            names.get(at).map_or(String::new(), |name| (*name).to_owned())
        }
    };
    check(&Call::new("loadkeys", ["-q", &name]))?;
    menu.tell(&format!("The keyboard is {name}."));
    Ok(())
}

/// Those with this in their names, in any case.
fn named<'a>(layouts: &'a [String], part: &str) -> Vec<&'a str> {
    let part = part.to_lowercase();
    let fitting = layouts.iter().filter(|name| name.to_lowercase().contains(&part));
    fitting.map(String::as_str).collect()
}

/// All layouts, by name.
fn layouts() -> Vec<String> {
    let families = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let files = families.flat_map(|family| fs::read_dir(family.path()).into_iter().flatten());
    let names = files
        .flatten()
        .filter_map(|file| file.file_name().to_str()?.strip_suffix(".kmap.gz").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn layouts_are_found_by_a_part_of_their_names() {
        let layouts = ["br-abnt2", "de-latin1", "fr_CH-latin1", "us"].map(str::to_owned);
        assert_eq!(named(&layouts, "Latin"), ["de-latin1", "fr_CH-latin1"]);
        assert_eq!(named(&layouts, "_ch"), ["fr_CH-latin1"]);
        assert_eq!((named(&layouts, "").len(), named(&layouts, "x").len()), (4, 0));
    }
}
