//! The table of rooms, and what contradicts it.

use std::collections::{BTreeMap, BTreeSet};

use crate::resolve::Crate;

/// Which rooms a room may know.
pub struct Table {
    open: BTreeSet<String>,
    arrows: BTreeMap<String, BTreeSet<String>>,
}

impl Table {
    /// Reads the block marked `rooms` of a Markdown text: a line `open: ROOM...` and lines
    /// `ROOM... -> ROOM...`, where `-` is nothing and `*` is every room of the lines above.
    pub fn parse(text: &str) -> Self {
        let block = text.split("```rooms\n").nth(1).and_then(|rest| rest.split("```").next());
        let mut table = Self { open: BTreeSet::new(), arrows: BTreeMap::new() };
        for line in block.expect("a block marked rooms").lines() {
            if let Some(open) = line.strip_prefix("open:") {
                table.open = words(open).collect();
                continue;
            }
            let (left, right) = line.split_once("->").unwrap_or_else(|| panic!("no arrow: {line}"));
            let mut known: BTreeSet<String> = words(right).collect();
            known.remove("-");
            if known.remove("*") {
                known.extend(table.arrows.keys().cloned());
            }
            for room in words(left) {
                table.arrows.insert(room, known.clone());
            }
        }
        table.refuse_circles();
        table
    }

    fn refuse_circles(&self) {
        for (room, known) in &self.arrows {
            let mut seen = BTreeSet::new();
            let mut open: Vec<&String> = known.iter().collect();
            while let Some(next) = open.pop() {
                let through = self.arrows.get(next).unwrap_or_else(|| panic!("no line for {next}"));
                assert!(!through.contains(room), "the room {room} knows {room} through {next}");
                if seen.insert(next) {
                    open.extend(through);
                }
            }
        }
    }

    /// One line for every arrow between two rooms that is not in the table.
    pub fn violations(&self, library: &Crate) -> Vec<String> {
        let mut wrong = BTreeMap::new();
        for (file, from, to) in library.arrows() {
            // The rooms that are open to all may know each other, and none above them.
            let drawn = self.arrows.get(from).is_some_and(|known| known.contains(&to[0]));
            if drawn || self.open.contains(&to[0]) {
                continue;
            }
            let line = format!("{file}: {from} may not know {} ({})", to[0], to.join("::"));
            wrong.entry((file.to_owned(), to[0].clone())).or_insert(line);
        }
        wrong.into_values().collect()
    }
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}
