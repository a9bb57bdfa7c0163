//! The kernel of a live system and its modules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use image_core::error::{Error, Result};
use lzma_rust2::XzReader;
use object::{Object, ObjectSection};

use crate::tree::Tree;
use crate::{Profile, staging::Staging};

/// Which modules, by the paths of their files.
const LIST: &str = include_str!("drivers.txt");

/// Where firmware for devices lies.
const FIRMWARE: &str = "lib/firmware";

/// Which modules a profile has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Those of the first stage: what leads to a network, and keyboards.
    First,
    /// All.
    All,
}

/// A kernel that a tree has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// As `uname -r` would print it.
    pub version: String,
    /// Its image in the tree.
    pub image: PathBuf,
}

impl Kernel {
    /// The newest kernel of the tree that has modules.
    ///
    /// # Errors
    /// [`Error::Io`]: there is none.
    pub fn newest(tree: &Tree) -> Result<Self> {
        let mut kernels: Vec<(Vec<u64>, Self)> = Vec::new();
        for version in tree.list(Path::new("lib/modules"))? {
            let image = PathBuf::from(format!("boot/vmlinuz-{version}"));
            if tree.resolve(&image).is_some() {
                kernels.push((numbers(&version), Self { version, image }));
            }
        }
        kernels.sort_by(|a, b| a.0.cmp(&b.0));
        let newest = kernels.pop().map(|(_, kernel)| kernel);
        newest.ok_or_else(|| {
            let missing = "no boot/vmlinuz-VERSION with lib/modules/VERSION; the package linux-image-amd64 has them \
                           (Ubuntu: linux-image-generic)";
            Error::io(
                tree.place(Path::new("")).display().to_string(),
                "find a kernel",
                std::io::Error::other(missing),
            )
        })
    }

    /// The folder of its modules in the tree.
    pub fn modules(&self) -> PathBuf {
        Path::new("lib/modules").join(&self.version)
    }

    /// Puts the modules of a profile that are not there yet into a live system, uncompressed, and what firmware of theirs the
    /// tree has.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Unsupported`]: a module is compressed in a way that is not known.
    pub fn stage(
        &self,
        tree: &Tree,
        (profile, scope): (Profile, Scope),
        staging: &Staging,
    ) -> Result<()> {
        let folder = self.modules();
        let text = |name: &str| {
            tree.read(&folder.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let needs = needs(&text("modules.dep")?);
        let softly = softly(&text("modules.softdep").unwrap_or_default());
        let wanted = wanted(&needs, &softly, &lines(LIST, profile, scope));
        let mut firmware = BTreeSet::new();
        for path in &wanted {
            let plain =
                path.trim_end_matches(".xz").trim_end_matches(".zst").trim_end_matches(".gz");
            let place = folder.join(plain);
            if staging.has(&place) {
                continue;
            }
            let module = unpacked(path, &tree.read(&folder.join(path))?)?;
            firmware.extend(firmware_of(&module));
            staging.file(&place, &module, 0o644)?;
        }
        for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            staging.file(&folder.join(name), &tree.read(&folder.join(name))?, 0o644)?;
        }
        for name in firmware {
            for name in [name.clone(), format!("{name}.xz"), format!("{name}.zst")] {
                let file = Path::new(FIRMWARE).join(&name);
                if tree.resolve(&file).is_some() {
                    staging.file(&file, &tree.read(&file)?, 0o644)?;
                }
            }
        }
        Ok(())
    }
}

/// The numbers of a version, so that 6.9 is older than 6.12.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The beginnings of paths that a profile has (true) and has not (false).
fn lines(list: &str, profile: Profile, scope: Scope) -> Vec<(&str, bool)> {
    let lines = list.lines().filter_map(|line| line.split_once(' '));
    let lines = lines.filter(|(class, _)| !class.starts_with('#'));
    let is_full = profile == Profile::Full;
    let has = |class: &str| match (class, scope) {
        ("first", _) | ("small", Scope::All) => Some(true),
        ("full", Scope::All) => Some(is_full),
        // It has what the line above it has.
        ("full", Scope::First) if is_full => None,
        _ => Some(false),
    };
    lines.filter_map(|(class, path)| Some((path.trim(), has(class)?))).collect()
}

fn is_listed(path: &str, lines: &[(&str, bool)]) -> bool {
    let fitting = lines.iter().filter(|(begins, _)| path.starts_with(begins));
    fitting.max_by_key(|(begins, _)| begins.len()).is_some_and(|(_, listed)| *listed)
}

/// modules.dep: each module's file, and the files of those that it depends on.
fn needs(text: &str) -> BTreeMap<String, Vec<String>> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(path, needs)| {
            (path.to_owned(), needs.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

/// modules.softdep: each module's name, and the names of those that work beside it.
fn softly(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("softdep")
            && let Some(name) = words.next()
        {
            let names = words.filter(|word| !word.ends_with(':')).map(plain);
            all.entry(plain(name)).or_default().extend(names);
        }
    }
    all
}

/// A module's name as the kernel spells it.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    plain(file.split(".ko").next().unwrap_or(file))
}

/// The files of all modules that are listed, of what they need, and of what works beside them.
fn wanted(
    needs: &BTreeMap<String, Vec<String>>,
    softly: &BTreeMap<String, Vec<String>>,
    lines: &[(&str, bool)],
) -> BTreeSet<String> {
    let by_name: BTreeMap<String, &String> =
        needs.keys().map(|path| (name_of(path), path)).collect();
    let mut ahead: Vec<&String> = needs.keys().filter(|path| is_listed(path, lines)).collect();
    let mut wanted = BTreeSet::new();
    while let Some(path) = ahead.pop() {
        if wanted.insert(path.clone()) {
            ahead.extend(needs.get(path).into_iter().flatten());
            let beside = softly.get(&name_of(path)).into_iter().flatten();
            ahead.extend(beside.filter_map(|name| by_name.get(name).copied()));
        }
    }
    wanted
}

/// The module in a file: compressed once only, together with all others, it takes less space and is loaded sooner.
fn unpacked(path: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let failed = |error| Error::io(path, "decompress", error);
    match path.rsplit('.').next() {
        Some("ko") => Ok(bytes.to_vec()),
        Some("xz") => {
            let mut module = Vec::new();
            std::io::copy(&mut XzReader::new(bytes, true), &mut module).map_err(failed)?;
            Ok(module)
        }
        Some("zst") => zstd::stream::decode_all(bytes).map_err(failed),
        _ => Err(Error::unsupported("the compression of this module").on(path)),
    }
}

/// The firmware that a module may ask for, as its section `.modinfo` says.
fn firmware_of(module: &[u8]) -> Vec<String> {
    let file = object::File::parse(module).ok();
    let section = file.as_ref().and_then(|file| file.section_by_name(".modinfo"));
    let Some(bytes) = section.and_then(|section| section.data().ok()) else { return Vec::new() };
    let entries =
        bytes.split(|byte| *byte == 0).filter_map(|entry| entry.strip_prefix(b"firmware="));
    entries.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{LIST, Profile, Scope, is_listed, lines, name_of, needs, numbers, softly, wanted};

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("6.12.9+deb12-amd64") > numbers("6.9.117+deb12-amd64"));
        assert!(numbers("6.12.117+deb12-amd64") > numbers("6.12.9+deb12-amd64"));
    }

    #[test]
    fn what_is_needed_comes_along() {
        let dep = "kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/jbd2/jbd2.ko.xz\n\
                   kernel/fs/jbd2/jbd2.ko.xz:\nkernel/lib/crc16.ko.xz:\nkernel/fs/xfs/xfs.ko.xz:\n\
                   kernel/crypto/crc32c_generic.ko.xz:\nkernel/fs/ext4/rare/rare.ko:\n";
        let soft = "# comment\nsoftdep ext4 pre: crc32c-generic\n";
        let list = [("kernel/fs/ext4/", true), ("kernel/fs/ext4/rare/", false)];
        let wanted = wanted(&needs(dep), &softly(soft), &list);
        let names: Vec<String> = wanted.iter().map(|path| name_of(path)).collect();
        assert_eq!(names, ["crc32c_generic", "ext4", "jbd2", "crc16"]);
    }

    #[test]
    fn the_profiles_differ() {
        let [small, full] =
            [Profile::Small, Profile::Full].map(|profile| lines(LIST, profile, Scope::All));
        assert_eq!(small.len(), full.len());
        let has = |lines: &[(&str, bool)], path: &str| is_listed(path, lines);
        assert!(has(&small, "kernel/drivers/nvme/host/nvme.ko.xz"));
        for path in ["kernel/drivers/scsi/lpfc/lpfc.ko", "kernel/drivers/nvme/host/nvme-fc.ko.zst"]
        {
            assert!(!has(&small, path) && has(&full, path), "{path}");
        }
        assert!(!has(&full, "kernel/drivers/scsi/scsi_debug.ko"));
        assert!(!has(&full, "kernel/drivers/gpu/drm/drm.ko"));
    }

    #[test]
    fn the_first_stage_has_adapters_of_networks_and_no_disks() {
        let rare = "kernel/drivers/net/ethernet/sfc/sfc.ko";
        for profile in [Profile::Small, Profile::Full] {
            let first = lines(LIST, profile, Scope::First);
            let has = |path: &str| is_listed(path, &first);
            assert!(has("kernel/drivers/net/ethernet/intel/igb/igb.ko.xz"));
            assert!(!has("kernel/drivers/scsi/lpfc/lpfc.ko") && !has("kernel/fs/xfs/xfs.ko"));
            assert_eq!(has(rare), profile == Profile::Full);
            // It is a part of the whole.
            let all = lines(LIST, profile, Scope::All);
            let paths = first.iter().filter(|(_, listed)| *listed).map(|(path, _)| path);
            assert!(paths.chain([&rare]).all(|path| !has(path) || is_listed(path, &all)));
        }
    }
}
