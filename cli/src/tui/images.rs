//! Choosing an image, looking into it, verifying it.

use anyhow::{Context, Result};
use image_core::image::manifest::Root;
use image_core::repo::{ImageInfo, Repository};

use super::ask::Item;
use super::{Menu, Move, places};
use crate::cmd;
use crate::output;

/// An image that was chosen.
#[derive(Clone, Default)]
pub struct Chosen {
    /// `name@id`.
    pub word: String,
    /// What is in it.
    pub root: Option<Root>,
}

/// Lets an image be chosen, the newest first, and reads what is in it.
pub fn choose(menu: &mut Menu<'_>, question: &str, chosen: &mut Chosen) -> Result<Move> {
    let repo = match repository(menu) {
        Ok(repo) => repo,
        Err(error) => return failed(menu, &error),
    };
    let mut images = match repo.images() {
        Ok(images) => images,
        Err(error) => return failed(menu, &error.into()),
    };
    for error in &images.damaged {
        menu.tell(&format!("warning: {error}; what this record named is not listed"));
    }
    images.intact.sort_by_key(|image| std::cmp::Reverse(image.record.created));
    let images = images.intact;
    if images.is_empty() {
        menu.tell("There are no images in this repository yet: save a disk first.");
        return Ok(Move::Back);
    }
    let items: Vec<Item> = images.iter().map(item).collect();
    let mut start = images.iter().position(|i| output::image(i) == chosen.word).unwrap_or(0);
    loop {
        let Some(at) = menu.choose(question, &items, start)? else { return Ok(Move::Back) };
        let Some(image) = images.get(at) else { return Ok(Move::Back) };
        match repo.root(image) {
            Ok(root) => {
                *chosen = Chosen { word: output::image(image), root: Some(root) };
                menu.tell(&format!("Image: {}", chosen.word));
                return Ok(Move::Next);
            }
            Err(error) => menu.tell(&format!("This image cannot be read: {error}")),
        }
        start = at;
    }
}

fn item(image: &ImageInfo) -> Item {
    let record = &image.record;
    let id = image.id.to_string();
    let id = id.get(..8).unwrap_or(&id);
    let created = record.created.to_string().replace('T', " ");
    let minute = created.get(..16).unwrap_or(&created);
    Item::new(format!(
        "{:<16} {minute} UTC  {:>8}  from {} ({id})",
        record.name, record.used_bytes, record.host
    ))
}

fn repository(menu: &Menu<'_>) -> Result<Repository> {
    Ok(menu.repo.as_ref().context("no repository was chosen")?.open()?)
}

/// Says what went wrong in a step, which ends the entry.
pub fn failed(menu: &mut Menu<'_>, error: &anyhow::Error) -> Result<Move> {
    menu.tell(&format!("error: {}", cmd::message(error)));
    Ok(Move::Leave)
}

/// `keiki show`.
pub fn look(menu: &mut Menu<'_>) -> Result<()> {
    with_image(menu, |menu, chosen| {
        let move_on = choose(menu, "Look into which image?", chosen)?;
        if move_on == Move::Next {
            menu.act(&["show".to_owned(), chosen.word.clone()])?;
        }
        Ok(move_on)
    })
}

/// `keiki verify`.
pub fn verify(menu: &mut Menu<'_>) -> Result<()> {
    with_image(menu, |menu, chosen| {
        let move_on = choose(menu, "Verify which image?", chosen)?;
        if move_on == Move::Next {
            menu.act(&["verify".to_owned(), chosen.word.clone()])?;
        }
        Ok(move_on)
    })
}

/// One step after the repository.
fn with_image(menu: &mut Menu<'_>, step: super::Step<Chosen>) -> Result<()> {
    let repository: super::Step<Chosen> = |menu, _| places::existing(menu);
    menu.walk(&mut Chosen::default(), &[repository, step])
}
