//! The images of a repository, and what a user's `NAME`, `NAME@ID` or `NAME@2026-11-20` means.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::image::hash::Hash;
use crate::image::record::{ImageName, MAX_RECORD, Record};
use crate::repo::read::{Read, is_missing};
use crate::units::Bytes;

/// An image: its record and the record's name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct ImageInfo {
    /// BLAKE3 of the record: the image id.
    pub id: Hash,
    /// The record.
    pub record: Record,
}

/// With the beginning of its id, as a person can type it: `lab@0123456789ab`.
impl fmt::Display for ImageInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:.12}", self.record.name, self.id.to_string())
    }
}

impl ImageInfo {
    /// The image with this id; none where there is none.
    pub(super) fn find(files: &dyn Read, id: Hash) -> Result<Option<Self>> {
        match read_record(files, id) {
            Ok(record) => Ok(Some(Self { id, record })),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// All images of a repository.
#[derive(Default, Debug)]
pub struct Images {
    /// Those whose record is intact, the oldest first.
    pub intact: Vec<ImageInfo>,
    /// What is wrong with the other records; each error names its file.
    pub damaged: Vec<Error>,
}

impl Images {
    /// Reads all records: they are the truth, whatever the catalog says.
    pub(super) fn read(files: &dyn Read) -> Result<Self> {
        let mut images = Self::default();
        for file in files.list("images")? {
            let Ok(id) = file.name.parse() else { continue };
            match ImageInfo::find(files, id) {
                // None where it was removed since the folder was listed.
                Ok(image) => images.intact.extend(image),
                Err(error) if super::index::is_damage(&error) => images.damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        images.intact.sort_unstable_by_key(|image| (image.record.created, image.id));
        Ok(images)
    }

    /// The newest image of a name.
    pub fn newest(&self, name: &ImageName) -> Option<&ImageInfo> {
        newest(&self.named(name))
    }

    /// All images of a name, the oldest first.
    pub fn named(&self, name: &ImageName) -> Vec<&ImageInfo> {
        self.intact.iter().filter(|image| &image.record.name == name).collect()
    }

    /// The image that `text` means.
    ///
    /// # Errors
    /// `Refused` where there is none (naming similar names) or where an id's prefix fits several;
    /// `Corrupt` where a damaged record may be what is meant: only an id tells then.
    pub fn resolve(&self, text: &str) -> Result<&ImageInfo> {
        let (name, which) = match text.split_once('@') {
            Some((name, which)) => (name, Some(which)),
            None => (text, None),
        };
        let name: ImageName = name.parse()?;
        let found = match which {
            // A damaged record might be the one that is meant.
            _ if !self.damaged.is_empty() && which.is_none_or(|which| which.contains('-')) => {
                return Err(self.undecided(text, &name));
            }
            None => self.newest(&name),
            Some(day) if day.contains('-') => {
                let mut of_day = self.named(&name);
                of_day.retain(|image| image.record.created.day() == day);
                newest(&of_day)
            }
            Some(prefix) => self.by_prefix(&name, prefix)?,
        };
        found.ok_or_else(|| self.unknown(text, &name))
    }

    fn by_prefix(&self, name: &ImageName, prefix: &str) -> Result<Option<&ImageInfo>> {
        let prefix = prefix.to_ascii_lowercase();
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::refused(format!(
                "{prefix:?} is neither the beginning of an image id nor a day like 2026-11-20"
            )));
        }
        let mut all = self.named(name);
        all.retain(|image| image.id.to_string().starts_with(&prefix));
        match all.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            several => {
                let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
                let ids = ids.join(", ");
                Err(Error::refused(format!("{name}@{prefix} fits several images: {ids}")))
            }
        }
    }

    /// Which image is the newest of its name, or of its day, cannot be told beside a damaged record.
    fn undecided(&self, text: &str, name: &ImageName) -> Error {
        let files: Vec<&str> = self.damaged.iter().map(Error::subject).collect();
        let files = files.join(", ");
        let advice = match self.newest(name) {
            Some(image) => {
                format!("the newest intact one is {image}: name it so to take it")
            }
            None => format!("no intact record is of {name}"),
        };
        let found = format!("a damaged record, which may be of a newer {text}; {advice}");
        Error::corrupt("image record", Bytes::ZERO, "the hash that is its name", found).on(&files)
    }

    fn unknown(&self, text: &str, name: &ImageName) -> Error {
        if let Some(damaged) = self.damaged.first() {
            let found = format!("no intact record of it, and: {damaged}");
            return Error::corrupt("images", Bytes::ZERO, text, found);
        }
        let lower = name.as_str().to_ascii_lowercase();
        let mut near: Vec<(usize, &str)> = Vec::new();
        for image in &self.intact {
            let other = image.record.name.as_str();
            let distance = edits(&lower, &other.to_ascii_lowercase());
            if distance <= 1 + lower.len() / 3 && !near.contains(&(distance, other)) {
                near.push((distance, other));
            }
        }
        near.sort_unstable();
        let near: Vec<&str> = near.into_iter().take(5).map(|(_, name)| name).collect();
        match near.as_slice() {
            [] => Error::refused(format!("there is no image {text}")),
            names => {
                let names = names.join(", ");
                Error::refused(format!("there is no image {text}; there is: {names}"))
            }
        }
    }
}

/// Of images saved in the same second, one that is another's parent is the older.
fn newest<'a>(images: &[&'a ImageInfo]) -> Option<&'a ImageInfo> {
    let last = images.iter().map(|image| image.record.created).max()?;
    let of_last = images.iter().filter(|image| image.record.created == last);
    let is_parent =
        |image: &ImageInfo| of_last.clone().any(|other| other.record.parent == Some(image.id));
    let youngest = of_last.clone().rfind(|image| !is_parent(image));
    youngest.or_else(|| of_last.clone().next_back()).copied()
}

/// Number of characters to insert, remove or change (Levenshtein's distance).
fn edits(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut above_left = i;
        let mut left = i + 1;
        for (b, cell) in other.bytes().zip(row.iter_mut().skip(1)) {
            let changed = above_left + usize::from(a != b);
            above_left = *cell;
            *cell = changed.min(left + 1).min(above_left + 1);
            left = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// A record's path.
pub(super) fn record_path(id: Hash) -> String {
    format!("images/{id}")
}

fn read_record(files: &dyn Read, id: Hash) -> Result<Record> {
    let path = record_path(id);
    let bytes = super::read_named(files, &path, id, MAX_RECORD)?;
    Record::parse(&bytes).map_err(|error| error.on(&path))
}

#[cfg(test)]
mod tests {
    use super::{ImageInfo, Images, edits};
    use crate::error::Error;
    use crate::image::hash::Hash;
    use crate::image::header::Version;
    use crate::image::record::Record;
    use crate::units::Bytes;

    fn image(name: &str, created: &str, id: u8, parent: Option<u8>) -> ImageInfo {
        let record = Record {
            version: Version::CURRENT,
            name: name.parse().unwrap(),
            created: created.parse().unwrap(),
            host: "h".into(),
            parent: parent.map(|id| Hash([id; 32])),
            root: Hash::of(b""),
            used_bytes: Bytes::ZERO,
        };
        ImageInfo { id: Hash([id; 32]), record }
    }

    fn images() -> Images {
        let intact = vec![
            image("web", "2026-11-19T10:00:00Z", 0xa1, None),
            image("web", "2026-11-19T12:00:00Z", 0xa2, None),
            image("Web", "2026-11-20T12:00:00Z", 0xb2, Some(0xb1)),
            image("web", "2026-11-20T12:00:00Z", 0xb1, None),
            image("mail", "2026-11-21T12:00:00Z", 0xc1, None),
        ];
        Images { intact, damaged: Vec::new() }
    }

    #[test]
    fn images_are_found_by_name_id_and_day() {
        for (text, id) in [
            ("web", 0xb2),
            ("WEB", 0xb2),
            ("web@2026-11-19", 0xa2),
            ("web@a1", 0xa1),
            ("web@A2A2", 0xa2),
            ("mail", 0xc1),
        ] {
            assert_eq!(images().resolve(text).unwrap().id, Hash([id; 32]), "{text}");
        }
    }

    #[test]
    fn refusals_help() {
        for (text, hint) in [
            ("web@a", "web@a1a1a1a1a1a1, web@a2a2a2a2a2a2"),
            ("wbe", "there is: "),
            ("nothing-like-it", "there is no image nothing-like-it"),
            ("web@2026-11-18", "no image web@2026-11-18"),
            ("web@c1", "no image"),
            ("web@xyz", "day like"),
            ("web@", "day like"),
            ("we b", "not an image name"),
        ] {
            let error = images().resolve(text).unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn beside_a_damaged_record_only_an_id_is_clear() {
        let mut images = images();
        images.damaged.push(Error::corrupt("file", Bytes::ZERO, "a", "b").on("images/ff"));
        for (text, hint) in
            [("web", "web@b2b2b2b2b2b2"), ("web@2026-11-19", ""), ("new", "no intact")]
        {
            let error = images.resolve(text).unwrap_err();
            assert_eq!((error.kind(), error.subject()), ("corrupt", "images/ff"), "{text}");
            assert!(error.to_string().to_lowercase().contains(hint), "{text}: {error}");
        }
        assert_eq!(images.resolve("web@a1").unwrap().id, Hash([0xa1; 32]));
    }

    #[test]
    fn edit_distances() {
        for (one, other, distance) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3)] {
            assert_eq!(edits(one, other), distance);
            assert_eq!(edits(other, one), distance);
        }
    }
}
