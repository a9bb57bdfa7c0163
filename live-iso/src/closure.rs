//! What a program needs besides itself: its dynamic loader and libraries, and theirs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use image_core::error::{Error, Result};
use object::build::elf::{Builder, Dynamic};
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH};

use crate::tree::Tree;

/// What the dynamic section of an ELF file names.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Needs {
    interpreter: Option<String>,
    libraries: Vec<String>,
    /// Folders that are searched first, with `$ORIGIN` for the file's own.
    folders: Vec<String>,
}

/// Whether the bytes begin as an ELF file does.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

/// The program without what only a debugger reads: sections that are not loaded, symbols apart from dynamic ones.
///
/// # Errors
/// [`Error::Unsupported`]: it is no ELF file that can be written again.
pub fn stripped(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut elf = parsed(bytes)?;
    for section in &mut elf.sections {
        section.delete = section.name.starts_with(b".debug")
            || [&b".symtab"[..], b".strtab"].contains(&&section.name[..]);
    }
    for symbol in &mut elf.symbols {
        symbol.delete = true;
    }
    elf.delete_orphans();
    let mut out = Vec::new();
    elf.write(&mut out).map_err(|error| Error::unsupported(format!("ELF: {error}")))?;
    Ok(out)
}

fn parsed(bytes: &[u8]) -> Result<Builder<'_>> {
    Builder::read(bytes).map_err(|error| Error::unsupported(format!("ELF: {error}")))
}

fn needs(bytes: &[u8]) -> Result<Needs> {
    let elf = parsed(bytes)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    let mut needs = Needs { interpreter: elf.interp_data().map(text), ..Needs::default() };
    for entry in elf.dynamic_data().unwrap_or_default() {
        match entry {
            Dynamic::String { tag: DT_NEEDED, val } => needs.libraries.push(text(val)),
            Dynamic::String { tag: DT_RUNPATH | DT_RPATH, val } => {
                needs.folders.extend(text(val).split(':').map(str::to_owned));
            }
            _ => {}
        }
    }
    Ok(needs)
}

/// Everything that the files of the tree and the bytes of `others` need: paths in the tree, links not followed.
///
/// # Errors
/// [`Error::Io`]: a library is not in the tree; [`Error::Unsupported`]: a file is no ELF file.
pub fn closure(tree: &Tree, files: &[PathBuf], others: &[&[u8]]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut ahead: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for path in files {
        ahead.push((path.clone(), tree.read(path)?));
    }
    ahead.extend(others.iter().map(|bytes| (PathBuf::new(), bytes.to_vec())));
    while let Some((path, bytes)) = ahead.pop() {
        if !is_elf(&bytes) {
            continue;
        }
        let name = path.display().to_string();
        let needs = needs(&bytes).map_err(|error| error.on(&name))?;
        let origin = tree.resolve(&path).unwrap_or_default();
        let origin = origin.parent().unwrap_or(Path::new(""));
        let folder = |folder: &String| {
            let at = folder.replace("$ORIGIN", &format!("/{}", origin.display()));
            PathBuf::from(at.trim_start_matches('/'))
        };
        let folders: Vec<PathBuf> = needs.folders.iter().map(folder).collect();
        let loader =
            needs.interpreter.iter().map(|path| PathBuf::from(path.trim_start_matches('/')));
        let loader =
            loader.map(|path| (path.display().to_string(), tree.resolve(&path).map(|_| path)));
        let libraries =
            needs.libraries.iter().map(|name| (name.clone(), tree.library(name, &folders)));
        for (needed, place) in loader.chain(libraries) {
            let place = place.ok_or_else(|| {
                let missing = format!("{needed}, which {name} needs, is not there");
                Error::io(needed, "find", std::io::Error::other(missing))
            })?;
            if found.insert(place.clone()) {
                let bytes = tree.read(&place)?;
                ahead.push((place, bytes));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use image_core::exec::real::Machine;
    use image_core::exec::{Call, Runner};

    use super::{closure, stripped};
    use crate::tree::Tree;

    fn this_machine() -> Tree {
        Tree::new("/", "x86_64-linux-gnu")
    }

    /// The dynamic loader itself says what it would load.
    #[test]
    fn the_loader_agrees() {
        let tree = this_machine();
        for name in ["ls", "sgdisk", "mke2fs", "mount"] {
            let path = tree.program(name).unwrap();
            let found = closure(&tree, std::slice::from_ref(&path), &[]).unwrap();
            let resolved: BTreeSet<PathBuf> =
                found.iter().map(|path| tree.resolve(path).unwrap()).collect();
            let said = Machine.check(&Call::new("ldd", [tree.place(&path)])).unwrap().text();
            let words = said.split_whitespace().filter(|word| word.starts_with('/'));
            let loaded: BTreeSet<PathBuf> = words
                .map(|word| tree.resolve(Path::new(word.trim_start_matches('/'))).unwrap())
                .collect();
            assert!(loaded.len() > 1, "{said}");
            assert_eq!(resolved, loaded, "{name}");
        }
    }

    #[test]
    fn a_stripped_program_is_smaller_and_runs() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("hello.c");
        std::fs::write(&source, "#include <stdio.h>\nint main(void) { puts(\"hello\"); }\n")
            .unwrap();
        let program = folder.path().join("hello");
        let args = ["-g".as_ref(), source.as_os_str(), "-o".as_ref(), program.as_os_str()];
        Machine.check(&Call::new("cc", args)).unwrap();
        let bytes = std::fs::read(&program).unwrap();
        let small = stripped(&bytes).unwrap();
        assert!(small.len() < bytes.len(), "{} {}", small.len(), bytes.len());
        std::fs::write(&program, &small).unwrap();
        let said = Machine.check(&Call::new(&program, [""; 0])).unwrap();
        assert_eq!(said.text(), "hello\n");
        assert!(stripped(b"#!/bin/sh\n").is_err());
    }
}
