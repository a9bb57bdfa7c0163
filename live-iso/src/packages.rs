//! The packages of a distribution, downloaded and unpacked without installing anything.
//!
//! apt resolves what they depend on, as for a system on which nothing is installed, and checks their signatures; it
//! needs no rights for that. Downloads and the unpacked tree are kept in a cache.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};

use tempfile::TempDir;

use crate::kernel::Kernel;
use crate::tree::Tree;
use crate::{TRIPLET, bootloader, system};

/// Names of the kernel's package, the best one first: Debian 12 has a newer kernel beside its own.
const KERNELS: [&str; 3] = ["linux-image-6.12-amd64", "linux-image-amd64", "linux-image-generic"];

/// Downloads what a live system and its boot loaders are made of into `cache`, and unpacks it there.
///
/// # Errors
/// [`Error::Io`]: apt is not installed, knows a package not, or cannot download it.
pub fn download(runner: &dyn Runner, cache: &Path) -> Result<Tree> {
    let [archives, nothing] = ["archives", "nothing"].map(|name| cache.join(name));
    for folder in [&archives, &nothing] {
        let partial = folder.join("partial");
        fs::create_dir_all(&partial)
            .map_err(|error| Error::io(partial.display().to_string(), "create", error))?;
    }
    let mut names: Vec<&str> = system::PARTS.iter().map(|part| part.package).collect();
    names.extend(bootloader::PACKAGES);
    names.push(kernel(runner)?);
    // A line for each package: its address and the name of its file.
    let listed = runner.check(&apt(&nothing, "--print-uris", &names))?.text();
    let files: Vec<&str> = listed
        .lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    runner.check(&apt(&archives, "--download-only", &names))?;
    let hash = blake3::hash(files.join("\n").as_bytes()).to_hex();
    let tree = cache.join(format!("tree-{}", &hash[..16]));
    if !tree.is_dir() {
        unpack(runner, &archives, &files, &tree)?;
    }
    Ok(Tree::new(tree, TRIPLET))
}

/// apt for a system on which nothing is installed: so everything is chosen, down to the C library.
fn apt(archives: &Path, option: &str, names: &[&str]) -> Call {
    let archives = format!("Dir::Cache::archives={}/", archives.display());
    let options = [
        &archives,
        "Dir::State::status=/dev/null",
        "Debug::NoLocking=1",
        "APT::Install-Recommends=0",
    ];
    let options = options.iter().flat_map(|option| ["-o", option]);
    let words = ["-q", "-y"].into_iter().chain(options).chain([option, "install"]);
    Call::new("apt-get", words.chain(names.iter().copied()))
}

/// Unpacks packages into `tree`, which is there as a whole or not at all.
fn unpack(runner: &dyn Runner, archives: &Path, files: &[&str], tree: &Path) -> Result<()> {
    let failed = |error| Error::io(tree.display().to_string(), "create", error);
    let folder = TempDir::new_in(tree.parent().unwrap_or(tree)).map_err(failed)?;
    for file in files {
        let archive = archives.join(file);
        let words = ["--extract".as_ref(), archive.as_os_str(), folder.path().as_os_str()];
        runner.check(&Call::new("dpkg-deb", words))?;
    }
    // Where the distribution has everything in `usr`, its base package has these links.
    for name in ["bin", "sbin", "lib", "lib64"] {
        if !folder.path().join(name).exists() {
            symlink(Path::new("usr").join(name), folder.path().join(name)).map_err(failed)?;
        }
    }
    let unpacked = Tree::new(folder.path(), TRIPLET);
    let root = folder.path().display().to_string();
    runner.check(&Call::new("depmod", ["-b", &root, &Kernel::newest(&unpacked)?.version]))?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).map_err(failed)?;
    match fs::rename(folder.keep(), tree) {
        // Another process was first.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        renamed => renamed.map_err(failed),
    }
}

/// The kernel's package that apt knows.
fn kernel(runner: &dyn Runner) -> Result<&'static str> {
    for name in KERNELS {
        let shown = runner.run(&Call::new("apt-cache", ["show", "--no-all-versions", name]))?;
        if shown.success() && !shown.stdout.is_empty() {
            return Ok(name);
        }
    }
    let tried = format!("apt knows none of {}; is `apt-get update` needed?", KERNELS.join(", "));
    Err(Error::io("the kernel's package", "find", std::io::Error::other(tried)))
}
