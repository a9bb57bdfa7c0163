//! Which files some bytes of a filesystem belong to.
//!
//! Best effort on a disk that fails: what cannot be read or contradicts itself is left out, and the answer says that
//! it may be incomplete.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::Error;

/// So many files are named.
pub const MOST_FILES: usize = 1000;
/// So many inodes are remembered as hit, and so many folders to look for their names in.
const MOST_INODES: usize = 1 << 20;
/// So many entries of folders within their inodes are remembered.
const MOST_EARLY: usize = 4 << 20;
/// Deeper than any path that a kernel opens.
const MOST_PARENTS: usize = 4096;

/// Who owns some bytes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Owners {
    /// Paths of files and folders, sorted; what is no UTF-8 is escaped.
    pub files: Vec<String>,
    /// How many more there are.
    pub more_files: u64,
    /// Whether some of the bytes belong to the filesystem's own structures, folders among them.
    pub structures: bool,
    /// Why files may be missing.
    pub incomplete: Option<String>,
}

impl Owners {
    /// Remembers the first reason for which files may be missing.
    pub(super) fn doubt(&mut self, error: &Error) {
        self.incomplete.get_or_insert_with(|| error.to_string());
    }

    /// Names `paths`, as many as may be.
    pub(super) fn name(&mut self, paths: BTreeSet<Vec<u8>>) {
        let more = paths.len().saturating_sub(MOST_FILES);
        self.more_files = u64::try_from(more).unwrap_or(u64::MAX);
        self.files = paths.into_iter().take(MOST_FILES).map(printable).collect();
    }
}

/// A path as text.
fn printable(path: Vec<u8>) -> String {
    match String::from_utf8(path) {
        Ok(text) if !text.chars().any(char::is_control) => text,
        Ok(text) => text.escape_debug().to_string(),
        Err(error) => error.as_bytes().escape_ascii().to_string(),
    }
}

/// Names of inodes, found by looking through all folders.
pub(super) struct Names {
    root: u64,
    hit: BTreeSet<u64>,
    folders: BTreeSet<u64>,
    /// Folder and name of each hit inode, one for every link.
    links: BTreeMap<u64, Vec<(u64, Vec<u8>)>>,
    parents: HashMap<u64, (u64, Vec<u8>)>,
    /// Entries that were seen before it is known what is hit.
    early: Vec<(u64, u64, Vec<u8>)>,
    is_full: bool,
}

impl Names {
    /// Of a filesystem whose root folder is the inode `root`.
    pub(super) fn new(root: u64) -> Self {
        Self {
            root,
            hit: BTreeSet::new(),
            folders: BTreeSet::new(),
            links: BTreeMap::new(),
            parents: HashMap::new(),
            early: Vec::new(),
            is_full: false,
        }
    }

    /// Notes that bytes of this inode are among those that are asked for.
    pub(super) fn hit(&mut self, inode: u64) {
        match self.hit.len() < MOST_INODES {
            true => drop(self.hit.insert(inode)),
            false => self.is_full = true,
        }
    }

    /// Notes that this inode is a folder; whether it is to be looked through.
    pub(super) fn folder(&mut self, inode: u64) -> bool {
        self.is_full |= self.folders.len() >= MOST_INODES;
        !self.is_full && self.folders.insert(inode)
    }

    /// Whether any inode is hit: without one no folder need be looked through.
    pub(super) fn any(&self) -> bool {
        !self.hit.is_empty()
    }

    /// The same as [`Names::entry`], while it is still looked for what is hit: of folders within their inodes.
    pub(super) fn early(&mut self, parent: u64, inode: u64, name: &[u8]) {
        match self.early.len() < MOST_EARLY {
            true => self.early.push((parent, inode, name.to_vec())),
            false => self.is_full = true,
        }
    }

    /// Notes that the folder `parent` calls `inode` by this name.
    pub(super) fn entry(&mut self, parent: u64, inode: u64, name: &[u8]) {
        if name == b"." || name == b".." {
            return;
        }
        if self.hit.contains(&inode) {
            let links = self.links.entry(inode).or_default();
            if links.len() < MOST_FILES {
                links.push((parent, name.to_vec()));
            }
        }
        if self.folders.contains(&inode) {
            self.parents.entry(inode).or_insert_with(|| (parent, name.to_vec()));
        }
    }

    fn path(&self, parent: u64, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = parent;
        while at != self.root && names.len() < MOST_PARENTS {
            let Some((parent, name)) = self.parents.get(&at) else { break };
            names.push(name);
            at = *parent;
        }
        let mut path = Vec::new();
        if at != self.root {
            path.extend_from_slice(format!("<inode {at}>").as_bytes());
        }
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }

    /// Gives the hit inodes their paths.
    pub(super) fn tell(mut self, owners: &mut Owners) {
        for (parent, inode, name) in std::mem::take(&mut self.early) {
            self.entry(parent, inode, &name);
        }
        let mut paths = BTreeSet::new();
        for inode in &self.hit {
            match self.links.get(inode) {
                _ if *inode == self.root => drop(paths.insert(b"/".to_vec())),
                None => drop(paths.insert(format!("<inode {inode}>").into_bytes())),
                Some(links) => {
                    paths.extend(links.iter().map(|(parent, name)| self.path(*parent, name)));
                }
            }
        }
        if self.is_full {
            owners.doubt(&Error::unsupported("so many folders or hit files"));
        }
        owners.name(paths);
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST_FILES, Names, Owners};

    #[test]
    fn paths_lead_from_the_root_and_circles_end() {
        let mut names = Names::new(2);
        assert!([2, 11, 12].iter().all(|folder| names.folder(*folder)));
        [20, 21, 22, 23, 2].iter().for_each(|inode| names.hit(*inode));
        names.early(2, 11, b"home");
        names.entry(11, 20, b"a");
        names.entry(2, 20, b"link \xff");
        // A folder that is in itself, and one in a folder that nobody names.
        names.entry(12, 12, b"round");
        names.entry(12, 21, b"b\n");
        names.entry(99, 22, b"c");
        names.entry(11, 11, b"..");
        let mut owners = Owners::default();
        names.tell(&mut owners);
        let circle = owners.files.iter().position(|path| path.contains("round")).unwrap();
        assert!(owners.files.remove(circle).len() < 60_000);
        assert_eq!(owners.files, ["/", "/home/a", "/link \\xff", "<inode 23>", "<inode 99>/c"]);
    }

    #[test]
    fn not_more_files_are_named_than_may_be() {
        let mut owners = Owners::default();
        owners.name((0..MOST_FILES + 5).map(|at| format!("/{at:05}").into_bytes()).collect());
        assert_eq!((owners.files.len(), owners.more_files), (MOST_FILES, 5));
    }
}
