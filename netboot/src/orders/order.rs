//! What a machine is to do, and the site's key, without which no machine does anything.

use std::path::Path;
use std::{fs, io};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use image_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::machine::Disk;
use crate::secret::{hex, keep, random, unhex};

/// What stands before an order where it is signed: so no other signature of the key is one for an order.
const ABOUT: &[u8] = b"keiki order 2\n";

/// A deployment of one machine.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// The machine's id.
    pub machine: String,
    /// The nonce that it said.
    pub nonce: String,
    /// For so many seconds since it said it for the first time: no clock of the machine has to be right.
    pub seconds: u64,
    /// One deployment has one number, however often the machine has to begin again.
    pub number: u64,
    /// The image: `lab@` and its whole id, by which everything that is read is verified; empty where `save` says a name.
    pub image: String,
    /// The disks that it is restored onto, in the order of the image's, or that are saved.
    pub disks: Vec<Disk>,
    /// How it is restored, and what comes after: an answer file, whose rules these disks fit.
    pub answers: String,
    /// The name that it gets.
    pub hostname: Option<String>,
    /// The image is not restored: there is none yet, and these disks, of which nothing is changed, are saved under this name.
    pub save: Option<String>,
    /// What the server knows who carries this out by, as long as it is at work: hexadecimal digits.
    pub grant: String,
}

/// An order with the site's signature.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    /// The order, as JSON: the bytes that are signed.
    order: String,
    /// In hexadecimal digits.
    signature: String,
}

/// The key of a site: who has it can have every machine restored that was booted from it.
#[derive(Clone, Debug)]
pub struct SiteKey(SigningKey);

impl SiteKey {
    /// Reads it from a file; makes both where there is none.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`]: there is something else in the file.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(key) = Self::read(path)? {
            return Ok(key);
        }
        let key = SigningKey::from_bytes(&random()?);
        let text = format!("{}\n", hex(key.as_bytes()));
        let failed = |error| Error::io(path.display().to_string(), "write", error);
        keep(path, text.as_bytes()).map_err(failed)?;
        Ok(Self(key))
    }

    /// Reads it from a file, where there is one.
    ///
    /// # Errors
    /// As [`SiteKey::open`].
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let name = || path.display().to_string();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(name(), "read", error)),
        };
        let none = || {
            let name = name();
            Error::refused(format!("{name}: it is no key, which has 64 hexadecimal digits"))
        };
        let key = unhex(text.trim()).ok_or_else(none)?;
        Ok(Some(Self(SigningKey::from_bytes(&key))))
    }

    /// By which machines know an order of this site: 64 hexadecimal digits.
    pub fn public(&self) -> String {
        hex(self.0.verifying_key().as_bytes())
    }

    /// Signs an order.
    pub fn sign(&self, order: &Order) -> Signed {
        let order = serde_json::to_string(order).unwrap_or_default();
        let signature = self.0.sign(&[ABOUT, order.as_bytes()].concat());
        Signed { order, signature: hex(&signature.to_bytes()) }
    }
}

/// The order, if this key of a site signed it.
///
/// # Errors
/// What is wrong with it, in words.
pub fn verified(signed: &Signed, public: &str) -> std::result::Result<Order, String> {
    let key = unhex(public).and_then(|key| VerifyingKey::from_bytes(&key).ok());
    let key = key.ok_or("what should be the key of the site is none")?;
    let forged = "the order is not signed by the site that this machine was started from";
    let signature = unhex(&signed.signature).ok_or(forged)?;
    let bytes = [ABOUT, signed.order.as_bytes()].concat();
    key.verify_strict(&bytes, &Signature::from_bytes(&signature)).map_err(|_| forged)?;
    serde_json::from_str(&signed.order).map_err(|error| format!("the order: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{Order, SiteKey, verified};
    use crate::secret::{hex, random};

    fn order() -> Order {
        Order {
            machine: "0123456789abcdef".to_owned(),
            nonce: "n".to_owned(),
            seconds: 60,
            number: 1,
            image: "lab@0".to_owned(),
            disks: Vec::new(),
            answers: String::new(),
            hostname: None,
            save: None,
            grant: String::new(),
        }
    }

    #[test]
    fn only_the_key_of_the_site_signs_its_orders() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("state/site.key");
        let key = SiteKey::open(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let again = SiteKey::open(&path).unwrap();
        assert_eq!(key.public(), again.public());
        let signed = key.sign(&order());
        assert_eq!(verified(&signed, &again.public()), Ok(order()));
        let other = SiteKey::open(&work.path().join("other")).unwrap();
        assert!(verified(&signed, &other.public()).is_err());
        for wrong in ["", "zz", &"0".repeat(64), &signed.signature] {
            assert!(verified(&signed, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_order_that_was_changed_is_none() {
        let work = tempfile::tempdir().unwrap();
        let key = SiteKey::open(&work.path().join("key")).unwrap();
        let signed = key.sign(&order());
        for at in 0..signed.order.len() {
            let mut text = signed.order.clone().into_bytes();
            text[at] ^= 1;
            let Ok(order) = String::from_utf8(text) else { continue };
            assert!(verified(&super::Signed { order, ..signed.clone() }, &key.public()).is_err());
        }
        let mut wrong = signed.clone();
        wrong.signature = hex(&random::<64>().unwrap());
        assert!(verified(&wrong, &key.public()).is_err());
        wrong.signature.clear();
        assert!(verified(&wrong, &key.public()).is_err());
    }

    #[test]
    fn what_is_no_key_is_named() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("key");
        std::fs::write(&path, "hello").unwrap();
        assert!(SiteKey::open(&path).unwrap_err().to_string().contains("hexadecimal digits"));
    }
}
