//! A folder with a repository in it, to save into and restore from by the program itself.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image_core::exec::{Call, Outcome};
use image_core::units::Bytes;
use serde_json::Value;
use tempfile::TempDir;

use crate::{keiki, tool};

/// The folder, and the repository `repo` in it; deleted when dropped.
#[derive(Debug)]
pub struct Bench {
    folder: TempDir,
}

impl Bench {
    /// An empty folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self { folder: TempDir::new()? })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program with the words of `line`, among which those beginning with `./` are in the folder.
    pub fn call(&self, line: &str) -> Call {
        let mut call = keiki!("--repo", self.path("repo"), "--progress", "none", "--json");
        call.args.extend(line.split_whitespace().map(|word| match word.strip_prefix("./") {
            Some(name) => self.path(name).into(),
            None => word.into(),
        }));
        call
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn outcome(&self, line: &str) -> Result<Outcome> {
        tool::outcome(&self.call(line))
    }

    /// Runs it; its JSON.
    ///
    /// # Errors
    /// Any end but exit code 0.
    pub fn run(&self, line: &str) -> Result<Value> {
        self.ends(line, 0)
    }

    /// Runs it; its JSON.
    ///
    /// # Errors
    /// Any end but exit code `code`.
    pub fn ends(&self, line: &str, code: i32) -> Result<Value> {
        let outcome = self.outcome(line)?;
        if outcome.code != Some(code) {
            bail!("keiki {line}: {:?}: {}{}", outcome.code, outcome.text(), outcome.talk());
        }
        serde_json::from_str(&outcome.text()).with_context(|| format!("keiki {line}: no JSON"))
    }

    /// Runs it; the message with which it ends with exit code `code`.
    ///
    /// # Errors
    /// It ends otherwise.
    pub fn fails(&self, line: &str, code: i32) -> Result<String> {
        let outcome = self.outcome(line)?;
        let said = outcome.text();
        ensure!(outcome.code == Some(code), "keiki {line}: {:?}: {said}", outcome.code);
        let json: Value = serde_json::from_str(&said)?;
        let message = json.pointer("/error/message").and_then(Value::as_str);
        Ok(message.with_context(|| said.clone())?.to_owned())
    }

    /// Saves `sources` as the image `name`.
    ///
    /// # Errors
    /// Any end but exit code 0.
    pub fn save(&self, name: &str, sources: &[PathBuf]) -> Result<Value> {
        self.run(&format!("save {} --name {name}", words(sources)))
    }

    /// The smallest target that `show` names for the first disk of an image.
    ///
    /// # Errors
    /// As [`Bench::run`].
    pub fn least(&self, name: &str) -> Result<Bytes> {
        let said = self.run(&format!("show {name}"))?;
        let bytes = said["min_targets"][0]["bytes"].as_u64();
        Ok(Bytes::new(bytes.with_context(|| said.to_string())?))
    }

    /// Restores the image `name` onto existing `targets`.
    ///
    /// # Errors
    /// Any end but exit code 0.
    pub fn restore(&self, name: &str, targets: &[PathBuf], options: &str) -> Result<Value> {
        self.run(&restore(name, targets, options))
    }
}

/// The words of a restore onto existing targets.
pub fn restore(name: &str, targets: &[PathBuf], options: &str) -> String {
    let confirm: String =
        targets.iter().map(|path| format!(" --confirm {}", path.display())).collect();
    format!("restore {name} {}{confirm} {options}", words(targets))
}

fn words(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| Path::display(path).to_string()).collect::<Vec<_>>().join(" ")
}
