//! What of the targets stays, as typed.

use std::path::Path;

use image_core::error::Error;
use image_core::image::manifest::Root;
use image_core::plan::keep::Wish;
use image_core::plan::restore::resolve;

/// What each `--keep` names, among these targets: the slot and the path of each.
///
/// # Errors
/// [`Error::Refused`] for what is on none of them.
pub fn wishes(
    typed: &[String],
    root: &Root,
    targets: &[(&str, &Path)],
) -> Result<Vec<Wish>, Error> {
    let wish = |text: &String| {
        let instead = text.rsplit_once('=').filter(|(_, place)| resolve(root, place).is_ok());
        let (what, instead) = match instead {
            Some((what, place)) => (what, Some(place.to_owned())),
            None => (text.as_str(), None),
        };
        let (target, name) = named(what, targets).ok_or_else(|| {
            let paths: Vec<String> =
                targets.iter().map(|(_, path)| path.display().to_string()).collect();
            Error::refused(format!(
                "--keep {text}: that is on none of {}; write TARGET:NUMBER for a partition, VG/LV for a logical \
                 volume",
                paths.join(", ")
            ))
        })?;
        Ok(Wish { target, name, instead })
    };
    typed.iter().map(wish).collect()
}

/// Understands `3`, `disk.img:3`, `d0:3`, `sdb3`, `/dev/nvme0n1p3`, `/dev/disk/by-id/...-part3`; and of logical
/// volumes `vg0/data`, `/dev/vg0/data`, `disk.img:vg0/data`.
fn named(text: &str, targets: &[(&str, &Path)]) -> Option<(Option<usize>, String)> {
    if is_number(text) {
        return Some((None, text.to_owned()));
    }
    let real = std::fs::canonicalize(text).ok();
    let texts = [Some(text.to_owned()), real.map(|path| path.display().to_string())];
    for text in texts.iter().flatten() {
        for (at, (slot, path)) in targets.iter().enumerate() {
            let number = text.rsplit_once(':').and_then(|(on, number)| {
                (on == *slot || calls(on, path)).then_some(number).filter(|name| is_number(name))
            });
            if let Some(number) = number.or_else(|| number_behind(text, path)) {
                return Some((Some(at), number.to_owned()));
            }
        }
    }
    // The name tells its group, and no two on the targets have one name.
    let name = match text.rsplit_once(':') {
        Some((on, name)) => {
            targets.iter().any(|(slot, path)| on == *slot || calls(on, path)).then_some(name)?
        }
        None => bare(text),
    };
    let is_volume = name.split('/').count() == 2 && !name.starts_with('/') && !name.ends_with('/');
    is_volume.then(|| (None, name.to_owned()))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn calls(text: &str, path: &Path) -> bool {
    names(path).iter().any(|name| name == bare(text))
}

/// What the disk `path` may be called.
fn names(path: &Path) -> Vec<String> {
    let real = std::fs::canonicalize(path).unwrap_or_default();
    [path, &real]
        .map(|path| bare(&path.display().to_string()).to_owned())
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect()
}

fn bare(text: &str) -> &str {
    text.strip_prefix("/dev/").unwrap_or(text)
}

/// The number behind the disk's name: the node of a partition is gone while a disk has no table.
fn number_behind<'a>(text: &'a str, path: &Path) -> Option<&'a str> {
    names(path).iter().find_map(|name| {
        let rest = bare(text).strip_prefix(name.as_str())?;
        let number = match name.ends_with(|last: char| last.is_ascii_digit()) {
            true => rest.strip_prefix('p').or_else(|| rest.strip_prefix("-part"))?,
            false => rest.strip_prefix("-part").unwrap_or(rest),
        };
        Some(number).filter(|number| is_number(number))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::named;

    #[test]
    fn partitions_are_named_as_disks_and_kernels_name_them() {
        let paths = ["/dev/sdx", "/dev/nvme9n1", "/dev/disk/by-id/x-1", "disk.img"];
        let slots = ["d0", "d1", "d2", "d3"];
        let targets: Vec<(&str, &Path)> =
            slots.into_iter().zip(paths.iter().map(|path| Path::new(*path))).collect();
        let find = |text: &str| {
            named(text, &targets).map(|(target, name)| (target, name.parse::<u32>().unwrap()))
        };
        assert_eq!(find("3"), Some((None, 3)));
        for (text, target, number) in [
            ("sdx3", 0, 3),
            ("/dev/sdx12", 0, 12),
            ("/dev/sdx:3", 0, 3),
            ("d0:3", 0, 3),
            ("nvme9n1p2", 1, 2),
            ("/dev/disk/by-id/x-1-part4", 2, 4),
            ("disk.img:7", 3, 7),
        ] {
            assert_eq!(find(text), Some((Some(target), number)), "{text}");
        }
        for text in ["vg0/data", "/dev/vg0/data", "disk.img:vg0/data", "d0:vg0/data"] {
            assert_eq!(named(text, &targets), Some((None, "vg0/data".to_owned())), "{text}");
        }
        for text in [
            "other.img:vg0/data",
            "/a",
            "vg0/",
            "a/b/c",
            "sdx",
            "sdxp3",
            "nvme9n12",
            "other.img:3",
            "sdx3a",
            "d4:1",
            "disk.img:",
            "",
        ] {
            assert_eq!(named(text, &targets), None, "{text}");
        }
    }
}
