//! Where the paths in a crate's sources lead.
//!
//! Every path counts: in `use`, in types, in expressions, in what a macro is given. It is followed through
//! `crate`, `self`, `super`, names that a module imported, and re-exports, so that a room cannot be
//! reached by a back door. Items under `#[cfg(test)]` do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use keiki_tests::sources;
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

/// Names from the crate's root downwards; empty is the root itself.
type Names = Vec<String>;

/// How many imports and re-exports are followed from one name.
const DEPTH: usize = 16;

/// The sources of a crate, and what they name.
#[derive(Default)]
pub struct Crate {
    /// Modules that stand under `#[cfg(test)]`, wherever their file is.
    tests: BTreeSet<Names>,
    files: usize,
    /// Child modules and imported names of each module, with the path that they stand for, as written.
    scope: BTreeMap<(Names, String), Names>,
    /// File, module and path as written: `["super", "x"]`.
    paths: Vec<(String, Names, Names)>,
}

impl Crate {
    /// Reads every `.rs` file below `source`, the folder of `lib.rs`.
    pub fn read(source: &Path) -> Self {
        Self::parse(sources::rust_files(source).unwrap())
    }

    /// Parses files given by their path below `lib.rs`'s folder.
    pub fn parse(files: impl IntoIterator<Item = (PathBuf, String)>) -> Self {
        let mut found = Self::default();
        for (path, text) in files {
            let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let mut module: Names = path
                .with_extension("")
                .iter()
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            if module.last().is_some_and(|last| last == "mod" || last == "lib") {
                module.pop();
            }
            let file = path.display().to_string();
            found.files += 1;
            Reader { found: &mut found, file, module }.visit_file(&syntax);
        }
        found
    }

    /// How many files were read.
    pub fn files(&self) -> usize {
        self.files
    }

    /// Every step out of a room: the file, its room, and where it leads. A path through a re-export gives
    /// one for each room on its way.
    pub fn arrows(&self) -> BTreeSet<(&str, &str, Names)> {
        let mut arrows = BTreeSet::new();
        for (file, module, path) in &self.paths {
            let Some(room) = module.first() else { continue };
            if (0..=module.len()).any(|end| self.tests.contains(&module[..end])) {
                continue;
            }
            for stop in self.stops(module, path) {
                if stop.first().is_some_and(|other| other != room && self.is_room(other)) {
                    arrows.insert((file.as_str(), room.as_str(), stop));
                }
            }
        }
        arrows
    }

    /// Macros and functions at the root are no rooms; a module that is not there (yet) is one.
    fn is_room(&self, name: &str) -> bool {
        let root = self.scope.get(&(Names::new(), name.to_owned()));
        root.is_none_or(|written| written.as_slice() == ["self", name]) && name != "*"
    }

    /// Where `path`, written in `module`, leads: as spelled, and behind every re-export.
    fn stops(&self, module: &[String], path: &[String]) -> Vec<Names> {
        let Some(mut at) = self.start(module, path, 0) else { return Vec::new() };
        let mut stops = vec![at.clone()];
        // Each round replaces the first name that is a re-export; circles of them end here too.
        for _ in 0..DEPTH {
            let Some(next) = self.follow(&at) else { break };
            stops.push(next.clone());
            at = next;
        }
        stops
    }

    /// Where `path` leads as it is spelled; `None` for what is not of this crate.
    fn start(&self, module: &[String], path: &[String], depth: usize) -> Option<Names> {
        if depth > DEPTH {
            // A name that stands for itself: `use serde;`.
            return None;
        }
        let (first, rest) = path.split_first()?;
        let mut at: Names = match first.as_str() {
            "crate" => Names::new(),
            "self" => module.to_vec(),
            "super" => module.split_last()?.1.to_vec(),
            name => {
                let written = self.scope.get(&(module.to_vec(), name.to_owned()))?;
                self.start(module, written, depth + 1)?
            }
        };
        for name in rest {
            match name.as_str() {
                "super" => drop(at.pop()),
                "self" => {}
                _ => at.push(name.clone()),
            }
        }
        Some(at)
    }

    fn follow(&self, path: &[String]) -> Option<Names> {
        (0..path.len()).find_map(|split| {
            let (module, rest) = path.split_at(split);
            let (name, rest) = rest.split_first()?;
            let written = self.scope.get(&(module.to_vec(), name.clone()))?;
            let target = self.start(module, written, 0)?;
            let next = [target.as_slice(), rest].concat();
            (next != path).then_some(next)
        })
    }
}

/// Walks one file.
struct Reader<'a> {
    found: &'a mut Crate,
    file: String,
    module: Names,
}

impl Reader<'_> {
    fn note(&mut self, path: Names) {
        self.found.paths.push((self.file.clone(), self.module.clone(), path));
    }

    fn import(&mut self, tree: &UseTree, prefix: &Names) {
        let with = |name: String| [prefix.as_slice(), &[name]].concat();
        let (path, name) = match tree {
            UseTree::Path(path) => return self.import(&path.tree, &with(path.ident.to_string())),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, prefix));
            }
            UseTree::Name(name) if name.ident == "self" => {
                (prefix.clone(), prefix.last().cloned().unwrap_or_default())
            }
            UseTree::Name(name) => (with(name.ident.to_string()), name.ident.to_string()),
            UseTree::Rename(name) if name.ident == "self" => {
                (prefix.clone(), name.rename.to_string())
            }
            UseTree::Rename(name) => (with(name.ident.to_string()), name.rename.to_string()),
            UseTree::Glob(_) => (with("*".to_owned()), "*".to_owned()),
        };
        self.note(path.clone());
        if name != "*" && name != "_" {
            self.found.scope.insert((self.module.clone(), name), path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !attributes.iter().any(is_test) {
            visit::visit_item(self, item);
        } else if let syn::Item::Mod(item) = item {
            let name = item.ident.to_string();
            self.found.tests.insert([self.module.as_slice(), &[name]].concat());
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        let inner = [self.module.as_slice(), std::slice::from_ref(&name)].concat();
        let written = vec!["self".to_owned(), name.clone()];
        self.found.scope.insert((self.module.clone(), name), written);
        let outer = std::mem::replace(&mut self.module, inner);
        visit::visit_item_mod(self, item);
        self.module = outer;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&item.tree, &Names::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // Tokens have no grammar yet: every `a :: b :: c` in them is taken for a path.
        let text = item.tokens.to_string().replace("::", " :: ");
        let words: Vec<&str> =
            text.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c))).collect();
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let mut path = Names::new();
        let mut joined = false;
        for word in words {
            match word {
                "::" => joined = true,
                name => {
                    if !joined && !path.is_empty() {
                        self.note(std::mem::take(&mut path));
                    }
                    path.push(name.to_owned());
                    joined = false;
                }
            }
        }
        self.note(path);
        visit::visit_macro(self, item);
    }
}

fn is_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}
