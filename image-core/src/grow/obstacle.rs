//! What would keep a growth from being done, found before anything is written.

use std::fmt;
use std::fs::File;
use std::path::Path;

use super::{Growth, is_root};
use crate::exec::Runner;
use crate::fs::GrowthTool;
use crate::view::{Need, View};

/// Why a volume's filesystem cannot be grown here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Obstacle {
    /// The volume's id.
    pub volume: String,
    /// A whole sentence without its full stop.
    pub why: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be grown: {}", self.volume, self.why)
    }
}

/// Everything that keeps `growths` from being done: missing tools, rights, kernel drivers.
///
/// The targets need not exist yet. What only their contents can tell (damage) shows when they grow.
pub fn check(runner: &dyn Runner, growths: &[Growth]) -> Vec<Obstacle> {
    let root = is_root();
    let obstacle = |growth: &Growth, why| Obstacle { volume: growth.volume.clone(), why };
    growths
        .iter()
        .flat_map(|growth| reasons(runner, growth, root).map(move |why| obstacle(growth, why)))
        .collect()
}

fn reasons(runner: &dyn Runner, growth: &Growth, root: bool) -> impl Iterator<Item = String> {
    let (need, package, tools): (_, _, &[&str]) = match growth.tool {
        GrowthTool::Resize2fs => (Need::Path, "e2fsprogs", &["e2fsck", "resize2fs"]),
        GrowthTool::XfsGrowfs => (Need::Mount, "xfsprogs", &["xfs_growfs"]),
        GrowthTool::Swap => return vec!["a swap area stays as it is".to_owned()].into_iter(),
    };
    let view = View::of(&growth.layout, need, root);
    let mut why: Vec<String> = tools
        .iter()
        .filter(|tool| runner.find(tool).is_none())
        .map(|tool| format!("{tool} is not installed (package {package})"))
        .collect();
    if need == Need::Mount && !root {
        why.push("only root may mount it".to_owned());
    }
    if need == Need::Mount && !kernel_knows("xfs") {
        why.push("this kernel has no XFS driver".to_owned());
    }
    if view.takes_loop() && root && !opens("/dev/loop-control") {
        why.push("this kernel has no loop driver (/dev/loop-control)".to_owned());
    }
    if view.takes_fuse() {
        why.extend(fuse(runner, root));
    }
    why.into_iter()
}

/// A volume in several pieces, or any volume without root's rights, is served by FUSE.
fn fuse(runner: &dyn Runner, root: bool) -> Option<String> {
    if cfg!(not(feature = "fuse")) {
        return Some("this program was built without FUSE".to_owned());
    }
    if !opens("/dev/fuse") {
        return Some("this kernel has no FUSE driver, or /dev/fuse is not ours to open".to_owned());
    }
    let helper = ["fusermount3", "fusermount"].iter().any(|name| runner.find(name).is_some());
    (!root && !helper)
        .then(|| "without root's rights it takes fusermount3 (package fuse3)".to_owned())
}

/// Opening is the test: it also makes the kernel load the driver's module.
fn opens(path: &str) -> bool {
    File::options().read(true).write(true).open(path).is_ok()
}

/// Whether the kernel has the filesystem driver, or a module of it that mount(2) would load.
fn kernel_knows(filesystem: &str) -> bool {
    let mentions = |path: &Path, word: &str| {
        std::fs::read_to_string(path)
            .is_ok_and(|text| text.split_ascii_whitespace().any(|found| found.ends_with(word)))
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = Path::new("/lib/modules").join(release.trim()).join("modules.dep");
    mentions(Path::new("/proc/filesystems"), filesystem)
        || [".ko:", ".ko.xz:", ".ko.zst:", ".ko.gz:"]
            .iter()
            .any(|suffix| mentions(&modules, &format!("/{filesystem}{suffix}")))
}
