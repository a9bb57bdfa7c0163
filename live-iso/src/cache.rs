//! What is kept for the next time: packages, what they unpack to, and archives that take long to compress. What nothing was
//! made of for 90 days is removed; a packed program after a week, for each build of it is another one.

use std::fs::{self, File};
use std::io::Result;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Where downloaded packages are, below the cache.
pub(crate) const ARCHIVES: &str = "archives";

/// How names begin of what is being made; a process that was ended leaves it.
pub(crate) const DRAFT: &str = "draft-";

/// How names begin of unpacked packages, and of compressed systems.
pub(crate) const TREE: &str = "tree-";
/// See [`TREE`].
pub(crate) const FIRST: &str = "first-";
/// See [`TREE`].
pub(crate) const SYSTEM: &str = "system-";

/// See [`TREE`]; of this program.
pub(crate) const PROGRAM: &str = "program-";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long what has such a name is kept, where it is ours.
fn longest(name: &str) -> Option<Duration> {
    let has = |begins: &[&str]| begins.iter().any(|begin| name.starts_with(begin));
    match () {
        () if has(&[PROGRAM]) => Some(DAY * 7),
        () if has(&[DRAFT, TREE, FIRST, SYSTEM]) => Some(DAY * 90),
        () => None,
    }
}

/// Notes that something is used now. Where that is not possible it goes too early, and is made once more.
pub(crate) fn used(path: &Path) {
    drop(File::open(path).and_then(|file| file.set_modified(SystemTime::now())));
}

/// Removes what was not used for long: only what has one of our names, for the folder may have more in it. What cannot be
/// removed stays.
pub(crate) fn sweep(cache: &Path) {
    drop(sweep_folder(cache, &longest));
    drop(sweep_folder(&cache.join(ARCHIVES), &|name| name.ends_with(".deb").then_some(DAY * 90)));
}

fn sweep_folder(folder: &Path, longest: &dyn Fn(&str) -> Option<Duration>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Of a link it is the link's own.
        let data = entry.metadata()?;
        let age = data.modified()?.elapsed().unwrap_or_default();
        let longest = entry.file_name().to_str().and_then(longest);
        if longest.is_some_and(|longest| age > longest) {
            let path = entry.path();
            drop(if data.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use super::{DAY, sweep, used};

    #[test]
    fn what_was_not_used_for_long_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path();
        let ours = [
            ("tree-1", 100),
            ("system-1", 100),
            ("draft-7", 100),
            ("program-1", 8),
            ("tree-2", 100),
            ("archives/a_1.deb", 100),
            ("system-2", 80),
            ("program-2", 6),
        ];
        let others = ["notes", "updated", "archives/notes", "archives/partial", "my-tree-1"];
        let make = |(name, days): (&str, u32)| {
            let path = cache.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if name.starts_with("tree") {
                fs::create_dir_all(path.join("usr")).unwrap();
                std::os::unix::fs::symlink(cache.join("notes"), path.join("usr/link")).unwrap();
            } else {
                fs::write(&path, "").unwrap();
            }
            let old = SystemTime::now() - DAY * days;
            File::open(&path).unwrap().set_modified(old).unwrap();
        };
        ours.into_iter().chain(others.map(|name| (name, 100))).for_each(make);
        used(&cache.join("tree-2"));
        used(&cache.join("archives/a_1.deb"));
        sweep(cache);
        let there = |name: &str| cache.join(name).exists();
        assert_eq!(
            ours.map(|(name, _)| there(name)),
            [false, false, false, false, true, true, true, true]
        );
        assert!(others.into_iter().all(there));
        // A cache that is not there is swept, too.
        sweep(&cache.join("none"));
    }
}
