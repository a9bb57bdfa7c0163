//! Who may fetch from a private repository: whose order is at work, and who knows the token or the code.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image_core::error::Result;

use super::site::{Site, kept, secret};
use crate::files::{self, Closed};
use crate::secret::random;

/// So many wrong codes are taken within [`PAUSE`]; then none is, for as long.
const WRONG: u32 = 10;
const PAUSE: Duration = Duration::from_secs(60);

/// The file with the code, in the folder of the site.
const CODE: &str = "code";

/// A door with a code that a person can type.
#[derive(Debug)]
pub struct Door {
    site: Arc<Site>,
    code: String,
    wrong: Mutex<Wrong>,
}

/// What was tried, since when.
#[derive(Debug)]
struct Wrong {
    since: Instant,
    count: u32,
}

impl Wrong {
    /// Notes a try that was wrong.
    fn note(&mut self, now: Instant) {
        if now.duration_since(self.since) >= PAUSE {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        if self.count == WRONG {
            self.since = now;
        }
    }

    fn is_too_often(&self, now: Instant) -> bool {
        self.count >= WRONG && now.duration_since(self.since) < PAUSE
    }
}

impl Door {
    /// The door of this site, whose folder has the code; one is made where there is none.
    ///
    /// # Errors
    /// [`image_core::error::Error::Io`].
    pub fn open(folder: &Path, site: Arc<Site>) -> Result<Self> {
        let digits = |bytes: [u8; 8]| format!("{:08}", u64::from_le_bytes(bytes) % 100_000_000);
        let code = kept(&folder.join(CODE), || random().map(digits))?;
        let wrong = Mutex::new(Wrong { since: Instant::now(), count: 0 });
        Ok(Self { site, code, wrong })
    }

    /// What a person types.
    pub fn code(&self) -> &str {
        &self.code
    }
}

/// The code of the site in this folder, where it ever was private.
///
/// # Errors
/// [`image_core::error::Error::Io`]: such as where only root may read it.
pub fn code_of(folder: &Path) -> Result<Option<String>> {
    secret(&folder.join(CODE))
}

impl files::Door for Door {
    fn open(&self, secret: Option<&str>) -> std::result::Result<(), Closed> {
        let Some(secret) = secret else { return Err(Closed::Unknown) };
        // Nobody guesses these: however often a code was wrong, whoever has one goes on.
        if self.site.admits(Some(secret)) || self.site.has_order(secret) {
            return Ok(());
        }
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if wrong.is_too_often(now) {
            return Err(Closed::Later);
        }
        if blake3::hash(secret.as_bytes()) == blake3::hash(self.code.as_bytes()) {
            return Ok(());
        }
        wrong.note(now);
        Err(Closed::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{PAUSE, WRONG, Wrong};

    #[test]
    fn who_guesses_waits() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut wrong = Wrong { since: begin, count: 0 };
        for second in 0..u64::from(WRONG) {
            assert!(!wrong.is_too_often(at(second)));
            wrong.note(at(second));
        }
        assert!(wrong.is_too_often(at(10)) && wrong.is_too_often(at(68)));
        assert!(!wrong.is_too_often(at(9) + PAUSE));
        // Seldom is not often, however long it goes on.
        for hour in 1..100 {
            wrong.note(at(hour * 3600));
            assert!(!wrong.is_too_often(at(hour * 3600)));
        }
    }
}
