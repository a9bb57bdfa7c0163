//! What is expensive and made once: it stands in `target/keiki-fixtures`, shared by all test programs.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder `keiki-fixtures` in the target folder that this program was built into.
///
/// # Errors
/// It cannot be made, or this program does not lie in a target folder.
pub fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program lies is unknown")?;
    // <target>/<profile>/deps/<test> or <target>/<profile>/<program>
    let profile = program
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("this program does not lie in a target folder")?;
    let folder = profile.with_file_name("keiki-fixtures");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {folder:?}"))?;
    Ok(folder)
}

/// The fixture `name`, made by `make` at the path that it is given unless it is there already.
///
/// # Errors
/// Those of `make`; what it left behind is not taken for the fixture.
pub fn once(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let path = folder()?.join(name);
    let _alone = exclusive(name)?;
    if !path.exists() {
        let part = path.with_extension("part");
        // Whoever was ended while he made it has left this.
        drop(std::fs::remove_file(&part));
        make(&part).with_context(|| format!("cannot make the fixture {name}"))?;
        std::fs::rename(&part, &path)?;
    }
    Ok(path)
}

/// Waits until no other test program on this machine holds `name`; free again when dropped.
///
/// # Errors
/// The lock file cannot be made.
pub fn exclusive(name: &str) -> Result<File> {
    let path = folder()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot create {path:?}"))?;
    file.lock().with_context(|| format!("cannot lock {path:?}"))?;
    Ok(file)
}
