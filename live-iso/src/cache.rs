//! What is kept for the next time: packages, what they unpack to, and archives that take long to compress. What no disc was
//! made of for 90 days is removed.

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

const LONGEST: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Notes that something is used now. Where that is not possible it goes too early, and is made once more.
pub(crate) fn used(path: &Path) {
    drop(File::open(path).and_then(|file| file.set_modified(SystemTime::now())));
}

/// Removes what was not used for long: only what has one of our names, for the folder may have more in it. What cannot be
/// removed stays.
pub(crate) fn sweep(cache: &Path) {
    let made =
        |name: &str| [DRAFT, TREE, FIRST, SYSTEM].iter().any(|begin| name.starts_with(begin));
    drop(sweep_folder(cache, &made));
    drop(sweep_folder(&cache.join(ARCHIVES), &|name| name.ends_with(".deb")));
}

fn sweep_folder(folder: &Path, is_ours: &dyn Fn(&str) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Of a link it is the link's own.
        let data = entry.metadata()?;
        let age = data.modified()?.elapsed().unwrap_or_default();
        if age > LONGEST && entry.file_name().to_str().is_some_and(is_ours) {
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

    use super::{LONGEST, sweep, used};

    #[test]
    fn what_was_not_used_for_long_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path();
        let [ours, others] = [
            ["tree-1", "tree-2", "system-1", "archives/a_1.deb", "draft-7"],
            ["notes", "updated", "archives/notes", "archives/partial", "my-tree-1"],
        ];
        let make = |name: &&str| {
            let path = cache.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if name.starts_with("tree") {
                fs::create_dir_all(path.join("usr")).unwrap();
                std::os::unix::fs::symlink(cache.join("notes"), path.join("usr/link")).unwrap();
            } else {
                fs::write(&path, "").unwrap();
            }
            let old = SystemTime::now() - LONGEST * 2;
            File::open(&path).unwrap().set_modified(old).unwrap();
        };
        ours.iter().chain(&others).for_each(make);
        used(&cache.join("tree-2"));
        used(&cache.join("archives/a_1.deb"));
        sweep(cache);
        let there = |name: &&str| cache.join(name).exists();
        assert_eq!(ours.map(|name| there(&name)), [false, true, false, true, false]);
        assert!(others.iter().all(there));
        // A cache that is not there is swept, too.
        sweep(&cache.join("none"));
    }
}
