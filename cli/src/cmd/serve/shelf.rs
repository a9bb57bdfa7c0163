//! The images that a person can choose from, as they are now: machines save new ones meanwhile.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use image_core::repo::{ImageInfo, Repository};

/// Every watcher asks once in a second; records are read once in that long.
const FRESH: Duration = Duration::from_secs(2);

/// An image as people write it, and with its whole id.
pub type Named = (String, String);

/// The images of a repository.
pub struct Shelf {
    repo: Repository,
    seen: Mutex<Option<(Instant, Vec<Named>)>>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({})", self.repo.location())
    }
}

impl Shelf {
    /// Those of this repository.
    pub fn new(repo: Repository) -> Self {
        Self { repo, seen: Mutex::new(None) }
    }

    /// All of them, the newest first. What cannot be read now is as it was.
    pub fn images(&self) -> Vec<Named> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = seen.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH);
        if !is_fresh && let Ok(images) = self.repo.images() {
            let both = |image: &ImageInfo| (crate::output::image(image), whole(image));
            *seen = Some((Instant::now(), images.intact.iter().rev().map(both).collect()));
        }
        seen.as_ref().map(|(_, images)| images.clone()).unwrap_or_default()
    }
}

/// Its name and its whole id.
pub fn whole(image: &ImageInfo) -> String {
    format!("{}@{}", image.record.name, image.id)
}
