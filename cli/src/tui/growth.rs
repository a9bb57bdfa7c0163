//! Asking who gets the space of a larger target.

use anyhow::Result;
use image_core::image::manifest::{Root, VolumeEntry};
use image_core::plan::growth::Amount;

use super::Menu;
use super::ask::Item;

/// Asks for the words of `--grow`; none where the person goes back. `grow` holds those of the last time.
pub fn ask(menu: &mut Menu<'_>, root: &Root, grow: &mut Vec<String>) -> Result<bool> {
    let items = [
        Item::new("Automatic")
            .with("the last partition that can grow; in a volume group the one that holds /"),
        Item::new("Nobody").with("the new space stays free"),
        Item::new("All in proportion").with("every filesystem that can grow gets its part"),
        Item::new("By name...").with("you say which volume gets how much"),
    ];
    let start = match grow.first().map(String::as_str) {
        None | Some("auto") => 0,
        Some("none") => 1,
        Some("proportional") => 2,
        Some(_) => 3,
    };
    loop {
        let question = "The target is larger. Who gets the new space?";
        let chosen = match menu.choose(question, &items, start)? {
            None => return Ok(false),
            Some(0) => Vec::new(),
            Some(1) => vec!["none".to_owned()],
            Some(2) => vec!["proportional".to_owned()],
            Some(_) => {
                let mut named = grow.iter().filter(|word| word.contains('=')).cloned().collect();
                if !by_name(menu, root, &mut named)? {
                    continue;
                }
                named
            }
        };
        let words = if chosen.is_empty() { "automatic".to_owned() } else { chosen.join(", ") };
        menu.tell(&format!("New space: {words}"));
        *grow = chosen;
        return Ok(true);
    }
}

fn can_grow(root: &Root, volume: &VolumeEntry) -> bool {
    let is_pv =
        root.volume_groups.iter().any(|group| group.pvs.iter().any(|pv| pv.volume == volume.id));
    volume.growth.is_some() || (volume.is_container && is_pv)
}

fn by_name(menu: &mut Menu<'_>, root: &Root, named: &mut Vec<String>) -> Result<bool> {
    let volumes: Vec<&VolumeEntry> =
        root.volumes.iter().filter(|volume| can_grow(root, volume)).collect();
    let mut start = 0;
    loop {
        let wish = |volume: &VolumeEntry| {
            let begins = format!("{}=", volume.id);
            named.iter().find_map(|word| word.strip_prefix(&begins)).unwrap_or("").to_owned()
        };
        let item = |volume: &&VolumeEntry| {
            let (id, size, content) = (&volume.id, volume.size, &volume.content);
            let text = format!("{id:<16} {size:>10} {content:<12} {}", wish(volume));
            Item::new(text.trim_end())
        };
        let mut items: Vec<Item> = volumes.iter().map(item).collect();
        items.push(Item::new("That is all"));
        let Some(at) = menu.choose("Which volume gets more?", &items, start)? else {
            return Ok(false);
        };
        let Some(volume) = volumes.get(at) else {
            if named.is_empty() {
                menu.tell("Choose a volume and say how much it gets, or go back.");
                continue;
            }
            return Ok(true);
        };
        let check = |text: &str| match text {
            "" => Ok(()),
            text => text.parse::<Amount>().map(drop),
        };
        let question =
            format!("{} gets (+20GiB, +50%, rest, fixed; empty: nothing said)", volume.id);
        if let Some(amount) = menu.ask.line(&question, &wish(volume), &check)? {
            let begins = format!("{}=", volume.id);
            named.retain(|word| !word.starts_with(&begins));
            if !amount.is_empty() {
                named.push(format!("{begins}{amount}"));
            }
        }
        start = volumes.len();
    }
}

#[cfg(test)]
mod tests {
    use image_core::image::manifest::Root;
    use serde_json::json;

    use super::ask;
    use crate::tui::tests::with_menu;

    fn root() -> Root {
        let mut root = Root::empty("test");
        for id in ["d0:1", "d0:2"] {
            let volume = json!({"id": id, "disk": null, "kind": "partition", "offset": 0,
                "size": 10 << 20, "content": "ext4", "used_bytes": 0, "min_bytes": 10 << 20,
                "state": "clean", "growth": "resize2fs", "is_container": false, "unreadable": [],
                "segments": [null]});
            root.volumes.push(serde_json::from_value(volume).unwrap());
        }
        root
    }

    #[test]
    fn wishes_are_checked_and_can_be_taken_back() {
        let answers = ["By", "That", "d0:1", "20", "+20GiB", "d0:2", "rest", "d0:1", "", "That"];
        let mut grow = Vec::new();
        let (heard, _) = with_menu(&answers, &[], |menu| {
            assert!(ask(menu, &root(), &mut grow).unwrap());
        });
        assert_eq!(grow, ["d0:2=rest"]);
        assert!(heard.iter().any(|heard| heard.contains("not an amount")), "{heard:?}");
        assert!(heard.iter().any(|heard| heard.contains("or go back")), "{heard:?}");
    }

    #[test]
    fn going_back_keeps_what_was_chosen_before() {
        let mut grow = vec!["none".to_owned()];
        with_menu(&["By", "<", "<"], &[], |menu| {
            assert!(!ask(menu, &root(), &mut grow).unwrap());
        });
        assert_eq!(grow, ["none"]);
    }
}
