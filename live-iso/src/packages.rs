//! The packages of a distribution, downloaded and unpacked without installing anything.
//!
//! apt resolves what they depend on, as for a system on which nothing is installed, and checks their signatures; it
//! needs no rights for that. Downloads and the unpacked tree are kept in a cache.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};
use tempfile::TempDir;

use crate::kernel::Kernel;
use crate::tree::Tree;
use crate::{TRIPLET, bootloader, system};

/// Names of the kernel's package, the best one first: Debian 12 has a newer kernel beside its own.
const KERNELS: [&str; 3] = ["linux-image-6.12-amd64", "linux-image-amd64", "linux-image-generic"];

/// Package lists are fetched again when they are older than this.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Downloads what a live system and its boot loaders are made of into `cache`, and unpacks it there.
///
/// # Errors
/// [`Error::Io`]: apt is not installed, knows a package not, or cannot download it.
pub fn download(runner: &dyn Runner, cache: &Path) -> Result<Tree> {
    let apt = Apt { runner, cache };
    apt.update()?;
    let mut names: Vec<&str> = system::PARTS.iter().map(|part| part.package).collect();
    names.extend(bootloader::PACKAGES.iter().map(|(package, _)| *package));
    names.push(apt.kernel()?);
    // A line for each package: its address and the name of its file.
    let listed = apt.run("nothing", &["--print-uris", "install"], &names)?;
    let files: Vec<&str> = listed
        .lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    apt.run(ARCHIVES, &["--download-only", "install"], &names)?;
    let hash = blake3::hash(files.join("\n").as_bytes()).to_hex();
    let tree = cache.join(format!("tree-{}", &hash[..16]));
    if !tree.is_dir() {
        unpack(runner, &cache.join(ARCHIVES), &files, &tree)?;
    }
    Ok(Tree::new(tree, TRIPLET))
}

/// The folder of downloaded packages in the cache.
const ARCHIVES: &str = "archives";

/// apt for a system on which nothing is installed: so everything is chosen, down to the C library. Only the sources of
/// packages and the keys that sign them are those of this machine.
struct Apt<'a> {
    runner: &'a dyn Runner,
    cache: &'a Path,
}

impl Apt<'_> {
    /// Runs apt with packages in the folder `archives` of the cache; what it printed.
    fn run(&self, archives: &str, command: &[&str], names: &[&str]) -> Result<String> {
        for folder in [archives, "lists"] {
            let partial = self.cache.join(folder).join("partial");
            fs::create_dir_all(&partial)
                .map_err(|error| Error::io(partial.display().to_string(), "create", error))?;
        }
        let cache = self.cache.display();
        let options = [
            format!("Dir::Cache={cache}"),
            format!("Dir::Cache::archives={archives}/"),
            format!("Dir::State::lists={cache}/lists/"),
            "Dir::State::status=/dev/null".to_owned(),
            "Debug::NoLocking=1".to_owned(),
            "APT::Install-Recommends=0".to_owned(),
            // As root it would be another user, who may not write into the cache.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let options = options.iter().flat_map(|option| ["-o", option]);
        let words = ["-q", "-y"].into_iter().chain(options).chain(command.iter().copied());
        let call = Call::new("apt-get", words.chain(names.iter().copied()));
        Ok(self.runner.check(&call)?.text())
    }

    /// Fetches the lists of packages, if they are old.
    fn update(&self) -> Result<()> {
        let stamp = self.cache.join("updated");
        let age = fs::metadata(&stamp).and_then(|data| data.modified()).ok();
        if age.and_then(|time| time.elapsed().ok()).is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        // apt says of a server that does not answer that it goes on with old lists; here there may be none.
        self.run(ARCHIVES, &["update", "--error-on=any"], &[])?;
        fs::write(&stamp, "")
            .map_err(|error| Error::io(stamp.display().to_string(), "write", error))
    }

    /// The kernel's package that is there.
    fn kernel(&self) -> Result<&'static str> {
        let mut last = None;
        for name in KERNELS {
            match self.run("nothing", &["--print-uris", "install"], &[name]) {
                Ok(_) => return Ok(name),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::unsupported("a distribution without kernels")))
    }
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
