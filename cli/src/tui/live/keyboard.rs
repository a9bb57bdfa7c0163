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
            let items: Vec<Item> = there.iter().map(Item::new).collect();
            let Some(at) = menu.choose("Keyboard", &items, 0)? else { return Ok(()) };
            there.get(at).cloned().unwrap_or_default()
        }
    };
    check(&Call::new("loadkeys", ["-q", &name]))?;
    menu.tell(&format!("The keyboard is {name}."));
    Ok(())
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
