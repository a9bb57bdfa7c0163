//! The entry `Repository`.

use anyhow::Result;

use super::ask::Item;
use super::images::{self, Chosen};
use super::{Menu, Move, Step, places};

/// What is done with a repository.
pub fn run(menu: &mut Menu<'_>) -> Result<()> {
    let repository: Step<()> = |menu, ()| places::existing(menu);
    menu.walk(&mut (), &[repository, entries])
}

fn entries(menu: &mut Menu<'_>, (): &mut ()) -> Result<Move> {
    let items = [
        Item::new("List the images").with("what each takes, alone and shared"),
        Item::new("Check").with("whether everything is there; quick"),
        Item::new("Check, reading all data").with("finds every flipped bit; takes its time"),
        Item::new("Remove an image"),
        Item::new("Prune").with("frees what no image needs, a day later"),
        Item::new("Choose another repository"),
    ];
    let mut start = 0;
    loop {
        let repo = menu.repo.as_ref().map(ToString::to_string).unwrap_or_default();
        let question = format!("Repository {repo}");
        let Some(at) = menu.choose(&question, &items, start)? else { return Ok(Move::Leave) };
        start = at;
        let words: &[&str] = match at {
            0 => &["images"],
            1 => &["check"],
            2 => &["check", "--read-data"],
            3 => {
                remove(menu)?;
                continue;
            }
            4 => &["prune"],
            _ => {
                places::choose(menu, false)?;
                continue;
            }
        };
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        menu.act(&words)?;
        menu.tell("");
    }
}

fn remove(menu: &mut Menu<'_>) -> Result<()> {
    menu.walk(&mut Chosen::default(), &[which, surely])
}

fn which(menu: &mut Menu<'_>, chosen: &mut Chosen) -> Result<Move> {
    images::choose(menu, "Remove which image?", chosen)
}

fn surely(menu: &mut Menu<'_>, chosen: &mut Chosen) -> Result<Move> {
    let image = &chosen.word;
    let items = [
        Item::new(format!("No, keep {image}")),
        Item::new(format!("Yes, remove {image}")).with("it cannot be brought back"),
    ];
    let question = format!("Really remove {image}?");
    match menu.choose(&question, &items, 0)? {
        Some(1) => {
            menu.act(&["rm".to_owned(), image.clone()])?;
            Ok(Move::Next)
        }
        Some(_) => Ok(Move::Leave),
        None => Ok(Move::Back),
    }
}

#[cfg(test)]
mod tests {
    use super::{Chosen, Move, surely};
    use crate::tui::tests::with_menu;

    #[test]
    fn only_a_yes_removes() {
        let mut chosen = Chosen { word: "web@12".to_owned(), root: None };
        for (answer, moved, runs) in [
            ("No", Move::Leave, 0),
            ("<", Move::Back, 0),
            ("Back", Move::Back, 0),
            ("Yes", Move::Next, 1),
        ] {
            let (_, ran) = with_menu(&[answer], &[], |menu| {
                assert_eq!(surely(menu, &mut chosen).unwrap(), moved);
            });
            assert_eq!(ran, vec!["rm web@12"; runs]);
        }
    }
}
