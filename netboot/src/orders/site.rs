//! The list of machines with its file and the site's key, and what it answers over HTTP.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use image_core::error::{Error, Result};
use rustix::fs::FlockOperation;

use super::PATH;
use super::list::{Decision, List, Policy};
use super::order::SiteKey;
use super::talk::{Said, Told};
use crate::dhcp::answer::Restored;
use crate::event::Mac;
use crate::files::{Answers, Made, Question};
use crate::secret::{hex, keep, random};

/// The files of a site, in a folder of its own. This one has its key.
pub const KEY: &str = "site.key";
const TOKEN: &str = "token";
const MACHINES: &str = "machines.json";
const LOCK: &str = "lock";

/// What decides over machines; it outlives this program in its folder.
#[derive(Debug)]
pub struct Site {
    key: SiteKey,
    token: String,
    file: PathBuf,
    list: Mutex<List>,
    policy: Box<dyn Policy>,
    began: Instant,
    /// Two that write one list would each forget what the other did.
    _alone: File,
}

impl Site {
    /// Opens the site in this folder, or makes one.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`]: a file there is something else.
    pub fn open(folder: &Path, policy: Box<dyn Policy>) -> Result<Self> {
        let file = folder.join(MACHINES);
        let alone = alone(folder)?;
        let key = SiteKey::open(&folder.join(KEY))?;
        let mut list = match read(&file)? {
            None => List::default(),
            Some(text) => serde_json::from_str::<List>(&text).map_err(|error| {
                let name = file.display();
                Error::refused(format!("{name} is no list of machines ({error}); move it away"))
            })?,
        };
        list.look_up(policy.as_ref());
        let token = kept(&folder.join(TOKEN), || Ok(hex(&random::<16>()?)))?;
        let (list, began) = (Mutex::new(list), Instant::now());
        Ok(Self { key, token, file, list, policy, began, _alone: alone })
    }

    /// By which machines know orders of this site.
    pub fn public(&self) -> String {
        self.key.public()
    }

    /// Without which nobody sees or changes anything.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether somebody knows the token.
    pub fn admits(&self, token: Option<&str>) -> bool {
        token.is_some_and(|token| is(token)(&self.token))
    }

    /// Whether this is the grant of an order that is at work.
    pub fn has_order(&self, grant: &str) -> bool {
        self.list().granted(is(grant)).is_some()
    }

    /// The name under which somebody may save whose order, with this grant, is at work.
    pub fn saves(&self, grant: &str) -> Option<String> {
        self.list().granted(is(grant)).flatten().map(str::to_owned)
    }

    /// What decides.
    pub fn policy(&self) -> &dyn Policy {
        self.policy.as_ref()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the machines; the time is what [`super::list::Now::at`] is to be compared with.
    pub fn look<T>(&self, look: impl FnOnce(&List, Duration) -> T) -> T {
        look(&self.list(), self.began.elapsed())
    }

    /// Changes something, and writes it down.
    ///
    /// # Errors
    /// [`Error::Io`]: it cannot be written down, and is not changed.
    pub fn change<T>(&self, change: impl FnOnce(&mut List) -> T) -> Result<T> {
        let mut list = self.list();
        let before = list.clone();
        let done = change(&mut list);
        self.write(&mut list).inspect_err(|_| *list = before)?;
        Ok(done)
    }

    /// Begins what somebody wanted at a time that has come by this clock, in seconds since 1970.
    ///
    /// # Errors
    /// [`Error::Io`]: it cannot be written down, and does not begin.
    pub fn begin(&self, clock: i64) -> Result<()> {
        let now = self.began.elapsed();
        match self.look(|list, _| list.is_due(clock)) {
            true => self.change(|list| list.begin(clock, now)),
            false => Ok(()),
        }
    }

    /// The adapters of a machine that is to be switched on now, if any.
    pub fn woken(&self) -> Option<Vec<String>> {
        self.list().woken(self.began.elapsed())
    }

    /// Has those of these machines switched on that are off, one after the other; how many these are.
    pub fn wake(&self, choose: impl FnOnce(&List) -> Vec<String>) -> usize {
        let mut list = self.list();
        let ids = choose(&list);
        list.wake(&ids, self.began.elapsed())
    }

    fn write(&self, list: &mut List) -> Result<()> {
        if !list.take_changed() {
            return Ok(());
        }
        let failed = |error| Error::io(self.file.display().to_string(), "write", error);
        let text = serde_json::to_vec_pretty(list).map_err(|error| failed(error.into()))?;
        keep(&self.file, &text).map_err(failed).inspect_err(|_| list.changed())
    }

    fn told(&self, said: Said, from: Ipv4Addr) -> Told {
        let mut list = self.list();
        let decision = list.hear(said, from, self.began.elapsed(), self.policy.as_ref());
        // What is not written down would happen twice.
        if let Err(error) = self.write(&mut list) {
            return Told::Wait {
                why: format!("the server cannot write down what happens: {error}"),
            };
        }
        match decision {
            Decision::Wait(why) => Told::Wait { why },
            Decision::Do(order) => Told::Do { order: self.key.sign(&order) },
            Decision::Known => Told::Known,
            Decision::Stop => Told::Stop,
            Decision::Start(image) => Told::Start { image },
        }
    }
}

impl Restored for Site {
    fn is_restored(&self, mac: Mac, uuid: Option<&[u8; 16]>) -> bool {
        self.list().starts_itself(&mac.to_string(), uuid, self.policy.as_ref())
    }
}

impl Answers for Site {
    fn answer(&self, question: &Question<'_>) -> Option<Made> {
        let posted = question.posted.filter(|_| question.name == PATH)?;
        let said = serde_json::from_slice::<Said>(posted).ok().filter(Said::is_sound);
        let Some(said) = said else {
            return Some(Made::said(400, "it says nothing that a machine would say"));
        };
        let told = self.told(said, question.client?);
        Some(Made::json(&told))
    }
}

/// Whether another secret is the same. Of hashes, so that the time it takes tells nothing of it.
fn is(secret: &str) -> impl Fn(&str) -> bool {
    let hash = blake3::hash(secret.as_bytes());
    move |other| hash == blake3::hash(other.as_bytes())
}

/// Keeps other programs out of a folder.
fn alone(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let failed = |error| Error::io(path.display().to_string(), "open", error);
    fs::create_dir_all(folder).map_err(failed)?;
    let file = File::create(&path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::refused(format!(
            "another keiki serve keeps its machines in {}: name another folder with --state",
            folder.display()
        ))),
    }
}

/// What a file holds, where there is one.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path.display().to_string(), "read", error)),
    }
}

/// The same, made where there is none.
pub(super) fn kept(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    if let Some(text) = secret(path)? {
        return Ok(text);
    }
    let text = make()?;
    let failed = |error| Error::io(path.display().to_string(), "write", error);
    keep(path, format!("{text}\n").as_bytes()).map_err(failed)?;
    Ok(text)
}

/// What a file holds that only its owner reads, where there is one.
pub(super) fn secret(path: &Path) -> Result<Option<String>> {
    let text = read(path)?.map(|text| text.trim().to_owned());
    Ok(text.filter(|text| !text.is_empty()))
}

/// The token of the site in this folder, where there is one.
///
/// # Errors
/// [`Error::Io`]: such as where only root may read it.
pub fn token_of(folder: &Path) -> Result<Option<String>> {
    secret(&folder.join(TOKEN))
}
