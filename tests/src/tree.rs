//! What a filesystem holds: one line for every file, to compare before and after.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Every path below a folder, with its kind, mode, owner and content.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Tree(BTreeMap<PathBuf, String>);

impl Tree {
    /// Forgets the files whose names begin like this: what is made anew on the target is judged in another way.
    pub fn forget(&mut self, name: &str) {
        let is_named = |path: &Path| {
            path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
        };
        self.0.retain(|path, _| !is_named(path));
    }

    /// Reads everything below `root`, without following symbolic links.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn of(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.add(root, Path::new(""))?;
        Ok(tree)
    }

    fn add(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(root.join(folder))? {
            let entry = entry?;
            let inside = folder.join(entry.file_name());
            let meta = entry.metadata()?;
            let content = content(&entry.path(), &meta).with_context(|| format!("{inside:?}"))?;
            let line = format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
            self.0.insert(inside.clone(), line);
            if meta.is_dir() {
                self.add(root, &inside)?;
            }
        }
        Ok(())
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many paths of this tree `found` does not have, or has otherwise.
    pub fn missing_from(&self, found: &Self) -> usize {
        self.0.iter().filter(|(path, line)| found.0.get(*path) != Some(line)).count()
    }

    /// The paths that are in one of both only, or differ.
    pub fn changed(&self, found: &Self) -> Vec<PathBuf> {
        let both = self.0.keys().chain(found.0.keys().filter(|path| !self.0.contains_key(*path)));
        both.filter(|path| self.0.get(*path) != found.0.get(*path)).cloned().collect()
    }

    /// Fails, naming the first paths that differ, unless `found` is the same tree.
    ///
    /// # Errors
    /// They differ.
    pub fn expect(&self, found: &Self) -> Result<()> {
        let mut differences = Vec::new();
        for path in self.changed(found) {
            let [was, is] = [self, found].map(|tree| tree.0.get(&path).map_or("-", String::as_str));
            differences.push(format!("{}: expected {was}, found {is}", path.display()));
        }
        if differences.is_empty() {
            return Ok(());
        }
        let count = differences.len();
        differences.truncate(20);
        bail!("{count} paths differ:\n{}", differences.join("\n"))
    }
}

fn content(path: &Path, meta: &Metadata) -> Result<String> {
    if meta.is_symlink() {
        return Ok(format!("-> {}", fs::read_link(path)?.display()));
    }
    if !meta.is_file() {
        return Ok(format!("device {}", meta.rdev()));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(path)?)?;
    Ok(format!("{} bytes {}", meta.len(), hasher.finalize().to_hex()))
}

#[cfg(test)]
mod tests {
    use super::Tree;

    #[test]
    fn one_changed_byte_and_one_missing_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("in")).unwrap();
        for name in ["in/kept", "in/changed", "lost"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let before = Tree::of(folder.path()).unwrap();
        before.expect(&before.clone()).unwrap();
        std::fs::write(folder.path().join("in/changed"), "in/chAnged").unwrap();
        std::fs::remove_file(folder.path().join("lost")).unwrap();
        let talk = before.expect(&Tree::of(folder.path()).unwrap()).unwrap_err().to_string();
        assert!(talk.starts_with("2 paths differ"), "{talk}");
        assert!(talk.contains("in/changed: expected") && talk.contains("lost: expected"), "{talk}");
    }
}
