//! The `keiki` program under test.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use image_core::exec::Call;
use serde_json::Value;

use crate::{call, tool};

/// The `keiki` program, built from the sources as they are now.
///
/// Cargo builds no binary of another package for a test, so it is asked to, in the way that finds what `cargo
/// test --workspace` built: the whole workspace selected, and a test (the smallest) among what is wanted, or the
/// crates' features would be others and everything would be built once more.
///
/// # Panics
/// It cannot be built: no test of it means anything then.
#[expect(clippy::panic, reason = "a test without its program has failed")]
pub fn keiki() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build().unwrap_or_else(|error| panic!("{error:#}"))).clone()
}

/// `keiki` with arguments, as a [`Call`].
#[macro_export]
macro_rules! keiki {
    ($($arg:expr),* $(,)?) => { $crate::call!($crate::binary::keiki() $(, $arg)*) };
}

fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut call: Call = call!(cargo, "build", "--workspace", "--bin", "keiki");
    call.args.extend(["--test", "house", "--message-format", "json"].map(Into::into));
    call.args.extend(["--manifest-path", manifest].map(Into::into));
    if !cfg!(debug_assertions) {
        call.args.push("--release".into());
    }
    let lines = tool::run(&call)?;
    let executable = lines.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_keiki = message.pointer("/target/name")? == "keiki";
        message.get("executable")?.as_str().filter(|_| is_keiki).map(PathBuf::from)
    });
    executable.context("cargo built no program")
}
