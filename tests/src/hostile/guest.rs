//! A repository that takes a save over HTTP, new for each input; and what a save says to it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use image_core::image::hash::Hash;
use image_core::image::header::seal;
use image_core::repo::{Memory, Read, Repository, Write};
use image_core::units::Bytes;
use netboot::files::{Change, Made, Takes};
use netboot::room::guests::{Guests, Orders};

use crate::format_sample;

/// What proves that one may save; a real one is random.
const GRANT: &str = "0123456789abcdef0123456789abcdef";

/// The folders that only get files by name of what is in them.
const NAMED: [&str; 3] = ["tables", "roots", "images"];

/// An order to save, at work or not any more.
struct Order(AtomicBool);

impl Orders for Order {
    fn saves(&self, grant: &str) -> Option<String> {
        let works = self.0.load(Ordering::Relaxed) && grant == GRANT;
        works.then(|| format_sample::NAME.to_owned())
    }
}

struct Inside {
    files: Memory,
    order: Arc<Order>,
    guests: Arc<Guests>,
}

/// What takes files.
pub struct Host {
    /// What is there before each input, by path.
    before: BTreeMap<String, Vec<u8>>,
    inside: Mutex<Inside>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

impl Host {
    /// With small files of the format's sample, all but one image, whose record a guest may add.
    ///
    /// # Errors
    /// The sample cannot be read.
    pub fn new() -> Result<Self> {
        let mut before = BTreeMap::new();
        let images = sample("images")?.into_iter().skip(1);
        for (path, bytes) in sample("tables")?.into_iter().chain(sample("roots")?).chain(images) {
            before.insert(path, bytes);
        }
        let inside = Mutex::new(inside(&before)?);
        Ok(Self { before, inside })
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everything as it was.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn renew(&self) -> Result<()> {
        *self.inside() = inside(&self.before)?;
        Ok(())
    }

    /// The order ends.
    ///
    /// # Panics
    /// What was there is not, or a guest has left something that is not what its name says.
    pub fn judge(&self) {
        let inside = self.inside();
        inside.order.0.store(false, Ordering::Relaxed);
        assert!(!inside.guests.knows(GRANT));
        let get = |path: &str| {
            inside.files.get(path, Bytes::mib(64)).unwrap_or_else(|error| panic!("{error}"))
        };
        for (path, bytes) in &self.before {
            assert!(get(path) == *bytes, "{path} was changed");
        }
        for path in inside.files.paths() {
            match path.split_once('/') {
                None => assert!(["keiki", "catalog"].contains(&path.as_str()), "{path}"),
                Some((folder, name)) if NAMED.contains(&folder) => {
                    assert_eq!(Hash::of(&get(&path)).to_string(), name, "{folder}");
                }
                Some((folder, _)) => assert!(["packs", "locations"].contains(&folder), "{path}"),
            }
        }
    }

    /// The paths of what is there.
    pub fn paths(&self) -> Vec<String> {
        self.inside().files.paths()
    }

    fn guests(&self) -> Arc<Guests> {
        Arc::clone(&self.inside().guests)
    }
}

impl Takes for Host {
    fn knows(&self, secret: &str) -> bool {
        self.guests().knows(secret)
    }

    fn take(&self, secret: &str, name: &str, change: Change<'_>) -> Made {
        self.guests().take(secret, name, change)
    }
}

/// The files of a folder of the format's sample, in order.
fn sample(folder: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let all = fs::read_dir(format_sample::folder().join("repository").join(folder))?;
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((format!("{folder}/{name}"), fs::read(path)?))
    };
    all.map(read).collect()
}

fn inside(before: &BTreeMap<String, Vec<u8>>) -> Result<Inside> {
    let files = Memory::new();
    // With its folders.
    Repository::create(Arc::new(files.clone()))?;
    for (path, bytes) in before {
        let mut file = files.create(path)?;
        file.append(bytes)?;
        file.flush()?;
    }
    let order = Arc::new(Order(AtomicBool::new(true)));
    let guests = Arc::new(Guests::new(Arc::new(files.clone()), order.clone()));
    Ok(Inside { files, order, guests })
}

/// What a guest says: to take its lock, add a table and a record, and what else a guest says.
///
/// # Errors
/// The sample cannot be read.
pub fn requests() -> Result<Vec<Vec<u8>>> {
    let session = format!("{}{}", &Hash::of(GRANT.as_bytes()).to_string()[..16], "0".repeat(16));
    let say = |line: &str, body: &[u8]| {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {GRANT}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let lock = seal(
        br#"{"format":1,"must_understand_to_read":0,"must_understand_to_write":0,"host":"x","boot_id":null,"pid_namespace":null,"pid":7,"process_start":null,"kind":"shared","time":"2026-11-21T23:45:50Z"}"#
            .to_vec(),
    );
    let put = |draft: &str, to: &str, bytes: &[u8]| {
        let file = format!("/repo/tmp/{draft}");
        [say(&format!("PUT {file}?at=0"), bytes), say(&format!("POST {file}?to={to}"), b"")]
            .concat()
    };
    let begins = put(&format!("lock-{session}.0"), &format!("locks/{session}.0"), &lock);
    let mut all = Vec::new();
    for (path, bytes) in
        [sample("images")?, sample("tables")?].iter().filter_map(BTreeMap::first_key_value)
    {
        all.push([begins.clone(), put(&format!("{session}.1"), path, bytes)].concat());
    }
    let file = format!("/repo/tmp/{session}.2");
    all.push(
        [
            begins,
            say(&format!("PUT {file}?at=0"), b""),
            say(&format!("PUT {file}?at=0"), b"cata"),
            say(&format!("PUT {file}?at=4"), b"log"),
            say(&format!("POST {file}?to=catalog"), b""),
            say(&format!("PUT {file}?at=0"), b"x"),
            say(&format!("DELETE {file}"), b""),
            say(&format!("DELETE /repo/locks/{session}.0"), b""),
        ]
        .concat(),
    );
    Ok(all)
}
