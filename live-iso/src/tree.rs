//! A folder that packages were unpacked into, or the root of this machine: where files of a live system come from.

use std::fs;
use std::path::{Component, Path, PathBuf};

use image_core::error::{Error, Result};

use crate::TRIPLET;

/// How many links may lead to each other.
const LINKS: u32 = 40;

/// Where a distribution has programs.
const PROGRAMS: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// Where a distribution has libraries, with `*` for the architecture's triplet.
const LIBRARIES: [&str; 6] = ["usr/lib/*", "lib/*", "usr/lib64", "lib64", "usr/lib", "lib"];

/// The root of a system that does not have to run.
///
/// Paths in it are written without a `/` in front: `usr/bin/ssh`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    root: PathBuf,
    triplet: &'static str,
}

impl Tree {
    /// The system below `root`, of an architecture whose libraries lie in folders named `triplet`.
    pub fn new(root: impl Into<PathBuf>, triplet: &'static str) -> Self {
        Self { root: root.into(), triplet }
    }

    /// This machine's own system.
    pub fn installed() -> Self {
        Self::new("/", TRIPLET)
    }

    /// Where a path of the tree is on this machine; links are not followed.
    pub fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// The path that `path` leads to, with all links followed inside the tree; none where there is nothing.
    pub fn resolve(&self, path: &Path) -> Option<PathBuf> {
        let mut found = PathBuf::new();
        let mut ahead: Vec<PathBuf> = parts(path);
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == Path::new("..") {
                found.pop();
                continue;
            }
            let next = found.join(part);
            let Ok(target) = fs::read_link(self.place(&next)) else {
                found = next;
                continue;
            };
            links += 1;
            if links > LINKS {
                return None;
            }
            if target.is_absolute() {
                found = PathBuf::new();
            }
            ahead.extend(parts(&target));
        }
        fs::symlink_metadata(self.place(&found)).ok().map(|_| found)
    }

    /// The path of a program, links not followed.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        self.first(PROGRAMS.iter().map(|folder| Path::new(folder).join(name)))
    }

    /// The path of a library; `besides` are folders that are looked into first.
    pub fn library(&self, name: &str, besides: &[PathBuf]) -> Option<PathBuf> {
        let usual = LIBRARIES.iter().map(|folder| folder.replace('*', self.triplet).into());
        self.first(besides.iter().cloned().chain(usual).map(|folder: PathBuf| folder.join(name)))
    }

    /// The first of some paths, divided by `|`, at which there is something: a file has different places in different
    /// releases.
    pub fn one_of(&self, paths: &str) -> Option<PathBuf> {
        paths.split('|').map(PathBuf::from).find(|path| self.resolve(path).is_some())
    }

    fn first(&self, paths: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
        paths
            .into_iter()
            .find(|path| self.resolve(path).is_some_and(|found| self.place(&found).is_file()))
    }

    /// What a file of the tree holds; links are followed inside the tree.
    ///
    /// # Errors
    /// [`Error::Io`]: it is not there, or cannot be read.
    pub fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let place = self.place(&self.resolve(path).unwrap_or_else(|| path.to_owned()));
        fs::read(&place).map_err(|error| Error::io(place.display().to_string(), "read", error))
    }

    /// The names in a folder of the tree, in order; none where it is not there.
    ///
    /// # Errors
    /// [`Error::Io`]: it cannot be listed.
    pub fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let Some(found) = self.resolve(folder) else { return Ok(Vec::new()) };
        let place = self.place(&found);
        let failed = |error| Error::io(place.display().to_string(), "list", error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&place).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// The names in a path, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().into())
        .collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::Tree;

    #[test]
    fn links_stay_inside_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["usr/bin", "usr/lib/x86_64-linux-gnu", "etc/alternatives"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        symlink("usr/bin", at("bin")).unwrap();
        fs::write(at("usr/bin/real"), "real").unwrap();
        symlink("/etc/alternatives/tool", at("usr/bin/tool")).unwrap();
        symlink("../../../../usr/bin/real", at("etc/alternatives/tool")).unwrap();
        symlink("/etc/passwd", at("usr/bin/outside")).unwrap();
        symlink("round", at("usr/bin/round")).unwrap();
        let tree = Tree::new(folder.path(), "x86_64-linux-gnu");
        assert_eq!(tree.program("tool").as_deref(), Some(Path::new("usr/bin/tool")));
        let found = tree.resolve(Path::new("bin/tool"));
        assert_eq!(found.as_deref(), Some(Path::new("usr/bin/real")));
        assert_eq!(tree.read(Path::new("/bin/tool")).unwrap(), b"real");
        assert_eq!(tree.resolve(Path::new("usr/bin/outside")), None);
        assert_eq!(tree.program("round"), None);
        fs::write(at("usr/lib/x86_64-linux-gnu/liba.so.1"), "").unwrap();
        let library = tree.library("liba.so.1", &["usr/none".into()]);
        assert_eq!(library.as_deref(), Some(Path::new("usr/lib/x86_64-linux-gnu/liba.so.1")));
        assert_eq!(tree.list(Path::new("etc")).unwrap(), ["alternatives"]);
        assert!(tree.list(Path::new("none")).unwrap().is_empty());
        assert_eq!(
            tree.one_of("none|usr/bin/round|bin/real|bin/tool").as_deref(),
            Some(Path::new("bin/real"))
        );
        assert_eq!(tree.one_of("none|usr/none"), None);
    }
}
