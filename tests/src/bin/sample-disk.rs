//! Makes the sample disk, for scripts/quickstart: `sample-disk OUT.img`.

use std::path::PathBuf;

use anyhow::{Context, Result};

fn main() -> Result<()> {
    let path: PathBuf = std::env::args_os().nth(1).context("usage: sample-disk OUT.img")?.into();
    keiki_tests::sample_disk::make(&path)?;
    Ok(())
}
