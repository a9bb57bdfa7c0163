//! What a server takes from who has its order: files in pieces, then their places (docs/PROTOCOL.md). Each request can be
//! made again when its answer was lost.

use std::io;

use ureq::Body;
use ureq::http::{Method, Response, StatusCode};

use super::Http;
use super::transfer::{Failure, accepted, whole};
use crate::error::{Error, Result};
use crate::repo::guest::{MAX_PIECE, prefix};
use crate::repo::read::check_path;
use crate::repo::write::{Append, Write};
use crate::units::Bytes;

/// The longest explanation of a server.
const MAX_WORDS: Bytes = Bytes::kib(4);

impl Http {
    fn change(
        &self,
        (method, path, wish): (Method, &str, &str),
        action: &str,
        bytes: &[u8],
    ) -> Result<()> {
        check_path(path)?;
        let target = format!("{path}{wish}");
        let mut is_again = false;
        self.tried(path, (action, None), || {
            let before = std::mem::replace(&mut is_again, true);
            let request = self.request(method.clone(), &target);
            let response = self.run(request.body(bytes).map_err(ureq::Error::from)?)?;
            // Nobody else knows this name: it was done, and the answer was lost.
            let is_done = match response.status() {
                StatusCode::CONFLICT => method == Method::PUT && bytes.is_empty(),
                StatusCode::NOT_FOUND => method == Method::DELETE,
                _ => false,
            };
            if before && is_done { Ok(()) } else { taken(response) }
        })
    }
}

/// Whether it was done, or why not.
fn taken(response: Response<Body>) -> Result<(), Failure> {
    let status = response.status();
    let told = |kind, words| Err(Failure::Told(io::Error::new(kind, words)));
    match status {
        StatusCode::FORBIDDEN => Err(Failure::Other(Error::refused(words(response)))),
        StatusCode::CONFLICT => told(io::ErrorKind::AlreadyExists, words(response)),
        StatusCode::INSUFFICIENT_STORAGE => told(io::ErrorKind::StorageFull, words(response)),
        StatusCode::UNPROCESSABLE_ENTITY => told(io::ErrorKind::Other, words(response)),
        StatusCode::UNAUTHORIZED => told(
            io::ErrorKind::Other,
            "the order is not, or no longer, one of this server".to_owned(),
        ),
        _ => whole(accepted(response)?, MAX_WORDS).map(drop),
    }
}

/// What a server says of why it does not: `{"error": "..."}`.
fn words(response: Response<Body>) -> String {
    let status = response.status();
    let said = whole(response, MAX_WORDS).ok().flatten().unwrap_or_default();
    let said: Option<serde_json::Value> = serde_json::from_slice(&said).ok();
    let words = said.as_ref().and_then(|said| said["error"].as_str());
    let shown = |text: &str| text.chars().filter(|letter| !letter.is_control()).collect();
    words.map_or_else(|| format!("the server says {status}"), shown)
}

impl Write for Http {
    fn create(&self, path: &str) -> Result<Box<dyn Append>> {
        self.change((Method::PUT, path, "?at=0"), "create", b"")?;
        let (files, path) = (self.clone(), path.to_owned());
        Ok(Box::new(Pieces { files, path, at: 0, piece: Vec::new() }))
    }

    /// Not needed here: its own server goes on with a draft by itself.
    fn reopen(&self, path: &str, _: Bytes) -> Result<Box<dyn Append>> {
        Err(Error::refused(format!("{path}: a draft on a server is not opened again")))
    }

    /// It is durable when this returns.
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_path(to)?;
        let wish = format!("?to={to}");
        self.change((Method::POST, from, &wish), &format!("rename to {to}"), b"")
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.change((Method::DELETE, path, ""), "remove", b"")
    }

    fn make_folder(&self, _: &str) -> Result<()> {
        let why = format!("a repository at {} is made where its folder is", self.address);
        Err(Error::refused(why))
    }

    /// The server does that, where it gives a file its name and where it removes one.
    fn flush_folder(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn prefix(&self) -> String {
        self.address.password().map(|grant| prefix(&grant)).unwrap_or_default()
    }
}

/// A file that goes to the server piece by piece.
struct Pieces {
    files: Http,
    path: String,
    /// So much of it is there.
    at: u64,
    /// What is to go there next.
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> Result<()> {
        if !self.piece.is_empty() {
            let wish = format!("?at={}", self.at);
            self.files.change((Method::PUT, &self.path, &wish), "write", &self.piece)?;
            self.at = self.at.saturating_add(Bytes::of(&self.piece).get());
            self.piece.clear();
        }
        Ok(())
    }
}

impl Append for Pieces {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        let most = MAX_PIECE.index().unwrap_or_default();
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(most - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == most {
                self.send()?;
            }
        }
        Ok(())
    }

    /// All of it is at the server; durable is it with its name.
    fn flush(&mut self) -> Result<()> {
        self.send()
    }
}
