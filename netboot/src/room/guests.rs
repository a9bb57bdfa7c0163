//! The side of the repository that takes images: from machines that carry out an order to save.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use image_core::error::{Error, Result};
use image_core::repo::{Guest, Write, guest_status};

use crate::files::{Change, Made, Takes};
use crate::orders::site::Site;

/// Knows who may save.
pub trait Orders: Send + Sync {
    /// The name under which somebody may whose order, with this grant, is at work.
    fn saves(&self, grant: &str) -> Option<String>;
}

impl Orders for Site {
    fn saves(&self, grant: &str) -> Option<String> {
        Self::saves(self, grant)
    }
}

/// Who writes into a repository.
pub struct Guests {
    files: Arc<dyn Write>,
    orders: Arc<dyn Orders>,
    inside: Mutex<BTreeMap<String, Arc<Mutex<Guest>>>>,
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guests({})", self.files.location())
    }
}

impl Guests {
    /// Into the repository `files`, by these orders.
    pub fn new(files: Arc<dyn Write>, orders: Arc<dyn Orders>) -> Self {
        Self { files, orders, inside: Mutex::default() }
    }

    /// Shows those out whose order is not at work any more, with what they left.
    fn tidy(&self) {
        let gone: Vec<_> = {
            let mut inside = lock(&self.inside);
            let gone = inside.extract_if(.., |grant, _| self.orders.saves(grant).is_none());
            gone.collect()
        };
        for (_, guest) in gone {
            // What stays is removed by a later save, once its lock is old.
            drop(lock(&guest).leave());
        }
    }

    fn guest(&self, grant: &str, name: &str) -> Result<Arc<Mutex<Guest>>> {
        let mut inside = lock(&self.inside);
        if let Some(guest) = inside.get(grant) {
            return Ok(Arc::clone(guest));
        }
        let guest = Guest::new(Arc::clone(&self.files), grant, name.parse()?);
        let guest = Arc::new(Mutex::new(guest));
        inside.insert(grant.to_owned(), Arc::clone(&guest));
        Ok(guest)
    }

    fn change(&self, grant: &str, file: &str, change: Change<'_>) -> Result<()> {
        let ended = || Error::refused("the order is not at work any more");
        let name = self.orders.saves(grant).ok_or_else(ended)?;
        let guest = self.guest(grant, &name)?;
        let mut guest = lock(&guest);
        // It may have ended while another request of the same guest was carried out.
        self.orders.saves(grant).ok_or_else(ended)?;
        match change {
            Change::Append { at, bytes } => guest.append(file, at, bytes),
            Change::Finish { to } => guest.finish(file, to),
            Change::Delete => guest.delete(file),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Takes for Guests {
    fn knows(&self, secret: &str) -> bool {
        self.tidy();
        self.orders.saves(secret).is_some()
    }

    fn take(&self, secret: &str, name: &str, change: Change<'_>) -> Made {
        match self.change(secret, name, change) {
            Ok(()) => Made::json(&serde_json::json!({})),
            Err(error) => Made::said(guest_status(&error), &error.to_string()),
        }
    }
}
