//! What is left of a folder after the power went: what was flushed, and of the rest what a filesystem may keep.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::faults::{Event, FileId};

/// Pieces of a write reach the disk whole or not at all.
const GRAIN: usize = 4096;

/// What becomes of what was not flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unflushed {
    /// Names are as at the last flush of their folder; bytes and lengths as at the last flush of their file.
    Lost,
    /// Names are as they were last; bytes and lengths as at the last flush of their file.
    Named,
    /// Names are as at some moment since the last flush of anything, as a journal keeps them; bytes arrived or
    /// not, whatever the dice say.
    Some(u64),
}

#[derive(Clone, Default, Debug)]
struct Contents {
    sure: Vec<u8>,
    /// Writes and lengths since.
    since: Vec<Event>,
}

/// A folder as it was, and what was changed in it.
#[derive(Debug)]
pub struct Outage {
    files: BTreeMap<PathBuf, (FileId, Vec<u8>)>,
    folders: BTreeSet<PathBuf>,
    events: Vec<Event>,
}

impl Outage {
    /// The folder `before` with the files `known` in it, which are changed by `add`ed events.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(before: &Path, known: BTreeMap<PathBuf, FileId>) -> Result<Self> {
        let mut files = BTreeMap::new();
        for (path, id) in known {
            let bytes = fs::read(before.join(&path))?;
            files.insert(path, (id, bytes));
        }
        let mut folders = BTreeSet::new();
        find_folders(before, Path::new(""), &mut folders)?;
        Ok(Self { files, folders, events: Vec::new() })
    }

    /// What was changed.
    pub fn add(&mut self, events: Vec<Event>) {
        self.events.extend(events);
    }

    /// Just before and just after every flush, as numbers of events.
    pub fn moments(&self) -> Vec<usize> {
        let flushes = self.events.iter().enumerate().filter(|(_, event)| is_flush(event));
        let both: BTreeSet<usize> = flushes.flat_map(|(at, _)| [at, at + 1]).collect();
        both.into_iter().collect()
    }

    /// Makes the folder `into` what is left after a cut at `moment`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn leaves(&self, moment: usize, unflushed: Unflushed, into: &Path) -> Result<()> {
        let mut dice = Dice(moment as u64);
        if let Unflushed::Some(seed) = unflushed {
            dice.0 ^= seed << 32;
        }
        let events = self.events.get(..moment).context("so much did not happen")?;
        let flushed = events.iter().rposition(is_flush).map_or(0, |at| at + 1);
        // A journal keeps the names as they were at one moment, for all folders.
        let kept = flushed + dice.below(moment - flushed + 1);
        let start: BTreeMap<PathBuf, FileId> =
            self.files.iter().map(|(path, (id, _))| (path.clone(), *id)).collect();
        let (mut live, mut durable, mut journal) = (start.clone(), start.clone(), start);
        let mut files: HashMap<FileId, Contents> = HashMap::new();
        for (id, bytes) in self.files.values() {
            files.insert(*id, Contents { sure: bytes.clone(), since: Vec::new() });
        }
        let mut folders = self.folders.clone();
        for (number, event) in events.iter().enumerate() {
            apply(event, &mut live, &mut durable, &mut files, &mut folders);
            if number < kept {
                journal.clone_from(&live);
            }
        }
        let names = match unflushed {
            Unflushed::Lost => durable,
            Unflushed::Named => live,
            Unflushed::Some(_) => journal,
        };
        for folder in &folders {
            fs::create_dir_all(into.join(folder))?;
        }
        for (path, id) in names {
            let contents = files.get(&id).context("a name without a file")?;
            let mut bytes = contents.sure.clone();
            if matches!(unflushed, Unflushed::Some(_)) {
                contents.since.iter().for_each(|event| arrive(&mut bytes, event, &mut dice));
            }
            fs::write(into.join(&path), bytes).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

fn find_folders(root: &Path, inner: &Path, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(root.join(inner))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let path = inner.join(entry.file_name());
            find_folders(root, &path, found)?;
            found.insert(path);
        }
    }
    Ok(())
}

fn is_flush(event: &Event) -> bool {
    matches!(event, Event::Flush { .. } | Event::FlushFolder { .. })
}

type Names = BTreeMap<PathBuf, FileId>;

fn apply(
    event: &Event,
    live: &mut Names,
    durable: &mut Names,
    files: &mut HashMap<FileId, Contents>,
    folders: &mut BTreeSet<PathBuf>,
) {
    match event {
        Event::Write { file, .. } | Event::Resize { file, .. } => {
            files.entry(*file).or_default().since.push(event.clone());
        }
        Event::Flush { file } => {
            let contents = files.entry(*file).or_default();
            for event in std::mem::take(&mut contents.since) {
                change(&mut contents.sure, &event);
            }
        }
        Event::Create { path, file } => {
            files.entry(*file).or_default();
            live.insert(path.clone(), *file);
        }
        // Folders are made once, when a repository is; that is not what is tried here.
        Event::MakeFolder { path } => drop(folders.insert(path.clone())),
        Event::Rename { from, to } => {
            if let Some(file) = live.remove(from) {
                live.insert(to.clone(), file);
            }
        }
        Event::Remove { path } => drop(live.remove(path)),
        Event::FlushFolder { path } => {
            let inside = |name: &PathBuf| name.parent() == Some(path);
            durable.retain(|name, _| !inside(name));
            let there = live.iter().filter(|(name, _)| inside(name));
            durable.extend(there.map(|(name, file)| (name.clone(), *file)));
        }
    }
}

fn change(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { at, bytes: new, .. } => put(bytes, *at as usize, new),
        Event::Resize { length, .. } => bytes.resize(*length as usize, 0),
        _ => {}
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    let end = at + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(new);
}

/// What of a change reached the disk.
fn arrive(bytes: &mut Vec<u8>, event: &Event, dice: &mut Dice) {
    if let Event::Write { at, bytes: new, .. } = event {
        for (number, piece) in new.chunks(GRAIN).enumerate() {
            if dice.below(2) == 0 {
                put(bytes, *at as usize + number * GRAIN, piece);
            }
        }
    } else if dice.below(2) == 0 {
        change(bytes, event);
    }
}

/// Numbers without rhyme, the same for the same start.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        ((self.0 >> 33) as usize) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file is written, flushed, renamed, its folder flushed, and written again.
    fn outage() -> Outage {
        let events = vec![
            Event::Create { path: "tmp/a".into(), file: 7 },
            Event::Write { file: 7, at: 0, bytes: b"abc".to_vec() },
            Event::Flush { file: 7 },
            Event::Rename { from: "tmp/a".into(), to: "packs/a".into() },
            Event::FlushFolder { path: "packs".into() },
            Event::Write { file: 7, at: 3, bytes: b"def".to_vec() },
        ];
        let folders = ["tmp", "packs"].map(PathBuf::from).into();
        Outage { files: BTreeMap::new(), folders, events }
    }

    fn left(moment: usize, unflushed: Unflushed) -> Vec<(String, String)> {
        let folder = tempfile::TempDir::new().unwrap();
        outage().leaves(moment, unflushed, folder.path()).unwrap();
        let mut found = Vec::new();
        for inner in ["tmp", "packs"] {
            for entry in fs::read_dir(folder.path().join(inner)).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{inner}/{}", entry.file_name().display());
                found.push((name, fs::read_to_string(entry.path()).unwrap()));
            }
        }
        found
    }

    #[test]
    fn only_what_was_flushed_is_sure() {
        let one = |name: &str, bytes: &str| vec![(name.to_owned(), bytes.to_owned())];
        assert_eq!(left(4, Unflushed::Lost), []);
        assert_eq!(left(2, Unflushed::Named), one("tmp/a", ""));
        assert_eq!(left(3, Unflushed::Named), one("tmp/a", "abc"));
        assert_eq!(left(4, Unflushed::Named), one("packs/a", "abc"));
        assert_eq!(left(5, Unflushed::Lost), one("packs/a", "abc"));
        assert_eq!(left(6, Unflushed::Lost), one("packs/a", "abc"));
    }

    #[test]
    fn of_the_rest_some_arrives() {
        let seen: BTreeSet<_> = (0..40).map(|seed| left(6, Unflushed::Some(seed))).collect();
        assert_eq!(seen.len(), 2, "{seen:?}");
        let seen: BTreeSet<_> = (0..40).map(|seed| left(2, Unflushed::Some(seed))).collect();
        assert_eq!(seen.len(), 3, "no name, a name, a name with bytes: {seen:?}");
    }

    #[test]
    fn the_power_goes_before_and_after_each_flush() {
        assert_eq!(outage().moments(), [2, 3, 4, 5]);
    }
}
