//! The packages of a distribution, downloaded and unpacked without installing anything.
//!
//! apt resolves what they depend on, as for a system on which nothing is installed, and checks their signatures; it
//! needs no rights for that. Downloads and the unpacked tree are kept in a cache.
//!
//! GRUB for networks comes from a release that may be another one: see [`network_grub`].

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};
use image_core::report::{Report, Stage};
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::cache::{self, ARCHIVES, DRAFT, TREE};
use crate::kernel::Kernel;
use crate::tree::Tree;
use crate::{TRIPLET, bootloader, system};

/// Names of the kernel's package, the best one first: Debian 12 has a newer kernel beside its own.
const KERNELS: [&str; 3] = ["linux-image-6.12-amd64", "linux-image-amd64", "linux-image-generic"];

/// Package lists are fetched again when they are older than this.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// How often is looked at how much is downloaded.
const TICK: Duration = Duration::from_millis(500);

/// Downloads what a live system and its boot loaders are made of into `cache`, and unpacks it there.
///
/// # Errors
/// [`Error::Io`]: apt is not installed, knows a package not, or cannot download it. [`Error::Interrupted`].
pub fn download(runner: &dyn Runner, cache: &Path, report: &dyn Report) -> Result<Tree> {
    report.stage(Stage::Packages, None);
    let apt = Apt { runner, cache, release: None, report };
    apt.update()?;
    let mut names: Vec<&str> = system::PARTS.iter().map(|part| part.package).collect();
    names.extend(bootloader::PACKAGES.iter().map(|(package, _)| *package));
    names.push(apt.kernel()?);
    let listed = apt.run("nothing", &["--print-uris", "install"], &names)?;
    let files = archives(&listed);
    apt.bring(&names, &files)?;
    let folder = cache.join(ARCHIVES);
    files.iter().for_each(|(file, _)| cache::used(&folder.join(file)));
    let all: Vec<&str> = files.iter().map(|(file, _)| *file).collect();
    let hash = blake3::hash(all.join("\n").as_bytes()).to_hex();
    let tree = cache.join(format!("{TREE}{}", &hash[..16]));
    if !tree.is_dir() {
        unpack((runner, report), &folder, &files, &tree)?;
    }
    cache::used(&tree);
    Ok(Tree::new(tree, TRIPLET))
}

/// The files of packages and their sizes, of lines `'ADDRESS' FILE SIZE HASH`.
fn archives(listed: &str) -> Vec<(&str, Bytes)> {
    let lines = listed.lines().filter(|line| line.starts_with('\''));
    let words = lines.map(|line| line.split_whitespace().skip(1));
    words
        .filter_map(|mut words| Some((words.next()?, Bytes::new(words.next()?.parse().ok()?))))
        .collect()
}

fn total(files: &[(&str, Bytes)]) -> Bytes {
    files.iter().fold(Bytes::ZERO, |sum, (_, size)| sum + *size)
}

/// apt for a system on which nothing is installed: so everything is chosen, down to the C library. Only the sources of
/// packages and the keys that sign them are those of this machine.
struct Apt<'a> {
    runner: &'a dyn Runner,
    cache: &'a Path,
    /// A file with sources of packages that is read instead of those of this machine.
    release: Option<&'a Path>,
    report: &'a dyn Report,
}

impl Apt<'_> {
    /// Runs apt with packages in the folder `archives` of the cache; what it printed.
    fn run(&self, archives: &str, command: &[&str], names: &[&str]) -> Result<String> {
        let words = self.words(archives)?;
        let words = words.iter().map(String::as_str).chain(command.iter().copied());
        let call = Call::new("apt-get", words.chain(names.iter().copied()));
        Ok(self.runner.check(&call)?.text())
    }

    /// Downloads packages, whose files these are, and tells meanwhile how much of them has come.
    fn bring(&self, names: &[&str], files: &[(&str, Bytes)]) -> Result<()> {
        let folder = self.cache.join(ARCHIVES);
        let size = |file: &str| {
            let places = [folder.join(file), folder.join("partial").join(file)];
            let found = places.iter().find_map(|place| fs::metadata(place).ok());
            found.map_or(Bytes::ZERO, |data| Bytes::new(data.len()))
        };
        let there = || files.iter().map(|(file, _)| size(file)).fold(Bytes::ZERO, |a, b| a + b);
        let all = total(files);
        let mut before = there();
        let lacking = all.saturating_sub(before);
        self.report.stage(Stage::Packages, Some(lacking).filter(|lacking| !lacking.is_zero()));
        let (over, is_over) = mpsc::channel::<()>();
        let watch = move || {
            while is_over.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let now = there();
                self.report.advance(now.saturating_sub(before));
                before = before.max(now);
            }
        };
        thread::scope(|scope| {
            scope.spawn(watch);
            let ended = self.run(ARCHIVES, &["--download-only", "install"], names);
            drop(over);
            ended.map(drop)
        })
    }

    /// Fetches a package alone into a folder: what it depends on is needed only where it is installed.
    fn fetch(&self, package: &str, folder: &Path) -> Result<()> {
        // apt puts it where it runs.
        let place = ["-C", &folder.display().to_string(), "apt-get"].map(str::to_owned);
        let words = place.into_iter().chain(self.words(ARCHIVES)?);
        let call = Call::new("env", words.chain(["download".to_owned(), package.to_owned()]));
        self.runner.check(&call).map(drop)
    }

    /// The options of all calls.
    fn words(&self, archives: &str) -> Result<Vec<String>> {
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
        let release = self.release.map(|path| {
            // Nothing but that file; the keys stay those of this machine.
            let list = format!("Dir::Etc::sourcelist={}", path.display());
            [list, "Dir::Etc::sourceparts=-".to_owned()]
        });
        let options = options.into_iter().chain(release.into_iter().flatten());
        let options = options.flat_map(|option| ["-o".to_owned(), option]);
        Ok(["-q", "-y"].map(str::to_owned).into_iter().chain(options).collect())
    }

    /// Fetches the lists of packages, if they are old.
    fn update(&self) -> Result<()> {
        let stamp = self.cache.join("updated");
        let age = fs::metadata(&stamp).and_then(|data| data.modified()).ok();
        if age.and_then(|time| time.elapsed().ok()).is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        // apt says of a server that does not answer that it goes on with old lists; here there may be none.
        let updated = self.run(ARCHIVES, &["update", "--error-on=any"], &[]);
        if let Err(error) = updated {
            if !stamp.exists() {
                return Err(error);
            }
            // Where there are, they are good for what was downloaded by them: on a network without an internet.
            let last = "package lists could not be fetched; those of the last time are taken";
            self.report.warning(&format!("{last}: {error}"));
            return Ok(());
        }
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

/// The release of Debian whose GRUB boots over every network, and its package. GRUB asks only since version 2.12 the server
/// that told the name of the boot file, where that is not the one that gave the address, and loads anything where firmware
/// loaded it over HTTP. Its signature is of the same key as that of older ones, so every shim of Debian starts it.
const RELEASE: &str = "trixie";
const GRUB: &str = "grub-efi-amd64-signed";
const LEAST: [u64; 2] = [2, 12];

/// A tree with GRUB for networks: `tree` itself where its package is new enough, else one with that of Debian 13, from the
/// mirror of this machine.
///
/// # Errors
/// [`Error::Io`]: apt knows no mirror of Debian, or cannot download it, or has no key to check it with.
pub fn network_grub(
    runner: &dyn Runner,
    tree: &Tree,
    cache: &Path,
    report: &dyn Report,
) -> Result<Tree> {
    if version(tree)?.as_slice() >= LEAST.as_slice() {
        return Ok(tree.clone());
    }
    report.stage(Stage::Packages, None);
    let cache = cache.join(RELEASE);
    let failed = |error| Error::io(cache.display().to_string(), "write", error);
    fs::create_dir_all(&cache).map_err(failed)?;
    let targets =
        ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"];
    let mirrors = runner.check(&Call::new("apt-get", targets))?.text();
    let mirror = mirrors.lines().find(|line| !line.contains("security")).ok_or_else(|| {
        Error::io(
            "GRUB for networks",
            "download",
            std::io::Error::other("apt knows no mirror of Debian"),
        )
    })?;
    let sources = cache.join("sources.list");
    fs::write(&sources, format!("deb {mirror} {RELEASE} main\n")).map_err(failed)?;
    let apt = Apt { runner, cache: &cache, release: Some(&sources), report };
    apt.update()?;
    let listed = apt.run(ARCHIVES, &["--print-uris", "download"], &[GRUB])?;
    let file = archives(&listed).first().map(|(file, _)| *file);
    let out = cache.join(format!("{TREE}{}", file.unwrap_or_default()));
    if !out.is_dir() {
        let folder = TempDir::with_prefix_in(DRAFT, &cache).map_err(failed)?;
        apt.fetch(GRUB, folder.path())?;
        let archive = folder.path().join(file.unwrap_or_default());
        let words = ["--extract".as_ref(), archive.as_os_str(), folder.path().as_os_str()];
        runner.check(&Call::new("dpkg-deb", words))?;
        match fs::rename(folder.keep(), &out) {
            // Another process was first.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            renamed => renamed.map_err(failed)?,
        }
    }
    cache::used(&out);
    cache::sweep(&cache);
    Ok(Tree::new(out, TRIPLET))
}

/// The version of the signed GRUB in a tree, as the line about it in its section `.sbat` says.
fn version(tree: &Tree) -> Result<Vec<u64>> {
    let bytes = tree.read(Path::new(crate::net::SIGNED))?;
    Ok(version_in(&bytes))
}

fn version_in(bytes: &[u8]) -> Vec<u64> {
    let before = b"Free Software Foundation,grub,";
    let at = bytes.windows(before.len()).position(|part| part == before);
    let rest = at.and_then(|at| bytes.get(at + before.len()..)).unwrap_or_default();
    let text = rest.split(|byte| *byte == b',').next().unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(..text.len().min(20)).unwrap_or_default());
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

/// Unpacks packages into `tree`, which is there as a whole or not at all.
fn unpack(
    (runner, report): (&dyn Runner, &dyn Report),
    archives: &Path,
    files: &[(&str, Bytes)],
    tree: &Path,
) -> Result<()> {
    let failed = |error| Error::io(tree.display().to_string(), "create", error);
    let folder = TempDir::with_prefix_in(DRAFT, tree.parent().unwrap_or(tree)).map_err(failed)?;
    report.stage(Stage::Unpack, Some(total(files)));
    for (file, size) in files {
        report.checkpoint()?;
        let archive = archives.join(file);
        let words = ["--extract".as_ref(), archive.as_os_str(), folder.path().as_os_str()];
        runner.check(&Call::new("dpkg-deb", words))?;
        report.advance(*size);
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

#[cfg(test)]
mod tests {
    use image_core::units::Bytes;

    use super::{LEAST, archives, total, version_in};

    #[test]
    fn apt_lists_files_and_their_sizes() {
        let listed = "Reading package lists...\n'http://x/pool/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 1200 SHA256:00\n\
                      'http://x/pool/b_1_all.deb' b_1_all.deb 34 \n";
        let files = archives(listed);
        assert_eq!(
            files.iter().map(|(file, _)| *file).collect::<Vec<_>>(),
            ["a_1%3a2_amd64.deb", "b_1_all.deb"]
        );
        assert_eq!(total(&files), Bytes::new(1234));
    }

    #[test]
    fn grub_says_which_version_it_is() {
        let line = |version: &str| {
            let line = format!(
                "\0\0sbat,1\ngrub,5,Free Software Foundation,grub,{version},https://x\ngrub.debian,5,"
            );
            version_in(line.as_bytes())
        };
        assert_eq!(line("2.06"), [2, 6]);
        assert!(line("2.06") < LEAST.to_vec() && line("2.12") == LEAST.to_vec());
        assert!(line("2.12.1") >= LEAST.to_vec() && line("3") >= LEAST.to_vec());
        assert!(version_in(b"no GRUB").is_empty());
    }
}
