//! House rules that no lint of the compiler holds; CONTRIBUTING.md says them in words.

#![allow(clippy::unwrap_used, reason = "a test says so what failed")]

use std::path::{Path, PathBuf};

use keiki_tests::sources;
use syn::visit::{self, Visit};
use syn::{Attribute, UseTree};

/// Lines of code in a file, its unit tests not counted, at which it has to be split.
const MOST_LINES: usize = 500;
/// Names that say nothing of what a file answers.
const EMPTY_NAMES: [&str; 9] =
    ["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "shared"];

#[test]
fn the_sources_keep_the_house_rules() {
    let mut files = Vec::new();
    for package in ["image-core", "live-iso", "netboot", "cli", "tests"] {
        for (path, text) in sources::rust_files(&sources::workspace().join(package)).unwrap() {
            files.push((Path::new(package).join(path), text));
        }
    }
    assert!(files.len() > 20, "only {} files", files.len());
    let wrong: Vec<String> = files.iter().flat_map(|(path, text)| complaints(path, text)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_finds_planted_faults() {
    let long = "fn f() {}\n".repeat(MOST_LINES + 1);
    for (path, text, word) in [
        ("cli/src/x.rs", long.as_str(), "lines of code"),
        ("cli/src/utils/mod.rs", "", "utils"),
        ("cli/src/common.rs", "", "common"),
        ("cli/src/x.rs", "mod helpers {}", "helpers"),
        ("cli/src/x.rs", "use a::{b, c::*};", "glob"),
        ("cli/src/x.rs", "fn f() { std::process::Command::new(\"ls\"); }", "starts a program"),
        ("cli/src/x.rs", "use std::process::{Command, exit};", "starts a program"),
        ("image-core/src/io/x.rs", "#![allow(unsafe_code)]", "unsafe_code"),
        ("tests/tests/x.rs", "#[test] #[ignore] fn f() {}", "ignore"),
    ] {
        let found = complaints(Path::new(path), text);
        assert_eq!(found.len(), 1, "{path} {text}: {found:?}");
        assert!(found[0].starts_with(path) && found[0].contains(word), "{found:?}");
    }
    for (path, text) in [
        ("cli/src/x.rs", "#[cfg(test)] mod tests { use super::*; }"),
        ("tests/tests/x.rs", "use proptest::prelude::*;"),
        ("tests/tests/x.rs", "#[test] #[ignore = \"started by g\"] fn f() {}"),
        ("image-core/src/exec/real.rs", "use std::process::Command;"),
        ("image-core/src/sys/ioctl.rs", "#![expect(unsafe_code)]"),
        ("cli/src/x.rs", "use clap::Command;"),
    ] {
        assert_eq!(complaints(Path::new(path), text), Vec::<String>::new());
    }
}

fn complaints(path: &Path, text: &str) -> Vec<String> {
    let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut reader = Reader { path: path.to_owned(), complaints: Vec::new() };
    let lines = lines_of_code(text);
    if lines > MOST_LINES {
        reader.complain(&format!("{lines} lines of code: split it"));
    }
    for name in path.with_extension("").iter() {
        reader.name(&name.to_string_lossy());
    }
    reader.visit_file(&syntax);
    reader.complaints
}

/// Lines that are neither empty nor comment, up to the unit tests, which stand last.
fn lines_of_code(text: &str) -> usize {
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

struct Reader {
    path: PathBuf,
    complaints: Vec<String>,
}

impl Reader {
    fn complain(&mut self, what: &str) {
        let line = format!("{}: {what}", self.path.display());
        if !self.complaints.contains(&line) {
            self.complaints.push(line);
        }
    }

    /// A file of whole-program tests, or the tests that stand beside a room's code.
    fn is_test_file(&self) -> bool {
        let name = self.path.file_stem().unwrap_or_default().to_string_lossy();
        self.path.starts_with("tests/tests") || name.ends_with("tests")
    }

    fn name(&mut self, name: &str) {
        if EMPTY_NAMES.contains(&name) {
            self.complain(&format!("the name {name} says nothing"));
        }
    }

    /// `names` leads to the standard library's way to start a program.
    fn path(&mut self, names: &[String]) {
        let starts = names.windows(2).any(|pair| pair == ["process", "Command"]);
        if starts && !self.path.starts_with("image-core/src/exec") {
            self.complain("starts a program outside image-core's exec room");
        }
    }

    fn import(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, prefix)),
            UseTree::Name(name) => self.path(&with(&name.ident)),
            UseTree::Rename(name) => self.path(&with(&name.ident)),
            UseTree::Glob(_) if self.is_test_file() => {}
            UseTree::Glob(_) => self.complain("imports by glob"),
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.name(&item.ident.to_string());
        if item.attrs.iter().any(is_test) {
            return;
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.path(&names);
        visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        // A test that another one starts in a process of its own says so.
        let started = matches!(&attribute.meta, syn::Meta::NameValue(pair)
            if quote_text(&pair.value).starts_with("started by "));
        if attribute.path().is_ident("ignore") && !started {
            self.complain("#[ignore] skips a test in silence");
        }
        let lint = attribute.path().is_ident("allow") || attribute.path().is_ident("expect");
        let lifts = |word: &str| {
            attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains(word))
        };
        if lint && lifts("unsafe_code") && !self.path.starts_with("image-core/src/sys") {
            self.complain("lifts unsafe_code outside image-core's sys room");
        }
        visit::visit_attribute(self, attribute);
    }
}

/// The text of a string literal.
fn quote_text(value: &syn::Expr) -> String {
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => text.value(),
        _ => String::new(),
    }
}

fn is_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}
