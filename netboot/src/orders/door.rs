//! Who may fetch from a private repository: whose order is at work, and who knows the token or the code.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use image_core::error::Result;

use super::site::{Site, kept, secret};
use crate::files::{self, Closed};
use crate::secret::random;

/// So many wrong codes are taken from one address within [`PAUSE`], and so many from all; then none is, for as long.
const WRONG: u32 = 10;
const WRONG_OF_ALL: u32 = 60;
const PAUSE: Duration = Duration::from_secs(60);

/// The file with the code, in the folder of the site.
const CODE: &str = "code";

/// A door with a code that a person can type.
#[derive(Debug)]
pub struct Door {
    site: Arc<Site>,
    code: String,
    wrong: Mutex<Guesses>,
}

/// What was tried, since when.
#[derive(Debug)]
struct Wrong {
    since: Instant,
    count: u32,
}

impl Wrong {
    fn new(since: Instant) -> Self {
        Self { since, count: 0 }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= PAUSE
    }

    /// Notes a try that was wrong, of `most` that are taken.
    fn note(&mut self, now: Instant, most: u32) {
        if self.is_over(now) {
            *self = Self::new(now);
        }
        self.count += 1;
        if self.count == most {
            self.since = now;
        }
    }

    fn is_too_often(&self, now: Instant, most: u32) -> bool {
        self.count >= most && !self.is_over(now)
    }
}

/// The wrong codes of all, and of each address: one who guesses keeps nobody else out, until too many do.
#[derive(Debug)]
struct Guesses {
    all: Wrong,
    from: BTreeMap<Option<Ipv4Addr>, Wrong>,
}

impl Guesses {
    fn note(&mut self, client: Option<Ipv4Addr>, now: Instant) {
        // So there are no more than were taken of all.
        self.from.retain(|_, wrong| !wrong.is_over(now));
        self.from.entry(client).or_insert_with(|| Wrong::new(now)).note(now, WRONG);
        self.all.note(now, WRONG_OF_ALL);
    }

    fn is_too_often(&self, client: Option<Ipv4Addr>, now: Instant) -> bool {
        let is_one = self.from.get(&client).is_some_and(|wrong| wrong.is_too_often(now, WRONG));
        is_one || self.all.is_too_often(now, WRONG_OF_ALL)
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
        let all = Wrong::new(Instant::now());
        let wrong = Mutex::new(Guesses { all, from: BTreeMap::new() });
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
    fn open(
        &self,
        secret: Option<&str>,
        client: Option<Ipv4Addr>,
    ) -> std::result::Result<(), Closed> {
        let Some(secret) = secret else { return Err(Closed::Unknown) };
        // Nobody guesses these: however often a code was wrong, whoever has one goes on.
        if self.site.admits(Some(secret)) || self.site.has_order(secret) {
            return Ok(());
        }
        // Such as the grant of an order that is not at work any more: who has it asks again and again.
        if secret.len() != self.code.len() {
            return Err(Closed::Unknown);
        }
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if wrong.is_too_often(client, now) {
            return Err(Closed::Later);
        }
        if blake3::hash(secret.as_bytes()) == blake3::hash(self.code.as_bytes()) {
            return Ok(());
        }
        wrong.note(client, now);
        Err(Closed::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};

    use super::{Guesses, PAUSE, WRONG, WRONG_OF_ALL, Wrong};

    #[test]
    fn who_guesses_waits() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut wrong = Wrong::new(begin);
        for second in 0..u64::from(WRONG) {
            assert!(!wrong.is_too_often(at(second), WRONG));
            wrong.note(at(second), WRONG);
        }
        assert!(wrong.is_too_often(at(10), WRONG) && wrong.is_too_often(at(68), WRONG));
        assert!(!wrong.is_too_often(at(9) + PAUSE, WRONG));
        // Seldom is not often, however long it goes on.
        for hour in 1..100 {
            wrong.note(at(hour * 3600), WRONG);
            assert!(!wrong.is_too_often(at(hour * 3600), WRONG));
        }
    }

    #[test]
    fn one_who_guesses_keeps_nobody_else_out_but_many_do() {
        let now = Instant::now();
        let client = |number| Some(Ipv4Addr::from(0x0A00_0000 + number));
        let mut guesses = Guesses { all: Wrong::new(now), from: BTreeMap::new() };
        for _ in 0..WRONG {
            guesses.note(client(1), now);
        }
        assert!(guesses.is_too_often(client(1), now) && !guesses.is_too_often(client(2), now));
        for number in WRONG..WRONG_OF_ALL {
            assert!(!guesses.is_too_often(client(2), now));
            guesses.note(client(number), now);
        }
        assert!(guesses.is_too_often(client(2), now), "of all it is too often");
        assert!(!guesses.is_too_often(client(1), now + PAUSE));
        guesses.note(client(1), now + PAUSE);
        assert_eq!(guesses.from.len(), 1, "the others are forgotten");
    }
}
