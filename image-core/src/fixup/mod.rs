//! What changes on a restored system before it may start: its filesystems' UUIDs, and everything in its files
//! that names an identifier which is another one now.
//!
//! Answers: before the first write, what stands in the way ([`check`]); then the change ([`renew`]), one volume
//! at a time, on views. Refuses: to follow a link out of the restored system, and to guess: what it cannot
//! change is a step that remains for the user.
//!
//! - [`references`]: what is replaced in a text; pure. - [`files`]: which files of a mounted filesystem.
//! - `root`: a mounted filesystem out of which no path leads.
//! - `unsteady`: names in them that may mean another disk; pure.
//! - [`esp`]: the same on FAT, by mtools. - `loader`: programs of UEFI; pure.
//! - [`grub`]: the core of GRUB for BIOS; pure.
//! - Of a system that has moved, pure: [`devices`]: names of devices by their place. [`tables`], [`words`]: `fstab`,
//!   `crypttab` and kernel command lines with such names. [`ramdisk`], [`drivers`]: what an initramfs has and needs.
//!   [`lvm_devices`]: LVM's list of devices.
//! - [`personal`]: names, ids and keys that machines of one image must not share; pure. [`unattend`]: the same for Windows.
//! - [`identity`]: a filesystem's own UUID, by its tools.

pub mod devices;
pub mod drivers;
pub(crate) mod esp;
pub mod files;
pub mod grub;
pub(crate) mod identity;
pub mod loader;
pub mod lvm_devices;
pub mod personal;
pub mod ramdisk;
pub mod references;
pub(crate) mod root;
pub mod tables;
pub mod unattend;
pub mod unsteady;
pub mod words;

pub use references::References;

use crate::error::Result;
use crate::exec::{Call, Runner};
use crate::view::{Layout, Need, OpenView, View};

/// A restored volume that is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Renewal {
    /// Its id, for messages.
    pub volume: String,
    /// What is on it: `ext4`, `xfs`, `vfat`.
    pub content: String,
    /// The UUID that it gets from a tool; none where it keeps its own or has its new one already.
    pub uuid: Option<String>,
    /// Where it was last mounted, as ext remembers it: that of our own mount must not stay.
    pub last_mounted: Option<String>,
    /// Where it lies.
    pub layout: Layout,
}

/// What was found and changed on a volume.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Renewed {
    /// The files that were rewritten, from the volume's root.
    pub changed: Vec<String>,
    /// Devices that files name by where they are plugged in: `/dev/sda1 in etc/fstab`.
    pub unsteady: Vec<String>,
    /// What the restored system is, as far as this volume tells.
    pub traits: Traits,
}

/// What decides which steps remain.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traits {
    /// Its initramfs waits for devices by their old identifiers, or may do so.
    pub initramfs_knows: bool,
    /// It makes its initramfs by dracut.
    pub dracut: bool,
    /// An EFI system partition without a loader in the place where firmware without boot entries looks.
    pub no_fallback: bool,
    /// Unified kernel images, whose command line is sealed.
    pub unified_kernel: bool,
    /// A boot loader for UEFI that names something and is signed, or would become longer.
    pub sealed_loader: bool,
    /// Windows' boot configuration, which names disks and partitions.
    pub windows: bool,
}

impl Traits {
    /// What either of them tells.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            initramfs_knows: self.initramfs_knows || other.initramfs_knows,
            dracut: self.dracut || other.dracut,
            no_fallback: self.no_fallback || other.no_fallback,
            unified_kernel: self.unified_kernel || other.unified_kernel,
            sealed_loader: self.sealed_loader || other.sealed_loader,
            windows: self.windows || other.windows,
        }
    }
}

/// Everything that keeps `renewals` from being done, in whole sentences without their full stop.
pub fn check(runner: &dyn Runner, renewals: &[Renewal]) -> Vec<String> {
    let mut why = Vec::new();
    if !renewals.is_empty() && !rustix::process::geteuid().is_root() {
        why.push("only root may mount the restored filesystems".to_owned());
    }
    let mut need = |tool: &str, package: &str| {
        let missing = format!("{tool} is not installed (package {package})");
        if runner.find(tool).is_none() && !why.contains(&missing) {
            why.push(missing);
        }
    };
    for renewal in renewals {
        match renewal.content.as_str() {
            "vfat" => ["mcopy", "mdir"].iter().for_each(|tool| need(tool, "mtools")),
            "xfs" => need("xfs_admin", "xfsprogs"),
            _ => ["e2fsck", "tune2fs"].iter().for_each(|tool| need(tool, "e2fsprogs")),
        }
    }
    why
}

/// Rewrites the references in the volume's files, then changes its UUID. `server` is described at
/// [`crate::view::OpenView::open`].
///
/// # Errors
/// [`crate::error::Error::Corrupt`]: the filesystem is damaged. Any other: something was not changed.
pub fn renew(
    runner: &dyn Runner,
    server: &Call,
    renewal: &Renewal,
    references: &References,
) -> Result<Renewed> {
    let is_esp = renewal.content == "vfat";
    let need = if is_esp { Need::Path } else { Need::Mount };
    let view = View::of(&renewal.layout, need, true);
    let renewed = OpenView::with(&renewal.layout, view, server, |view| {
        if is_esp {
            esp::rewrite(runner, &view.path(), references)
        } else {
            identity::renew(runner, view, renewal, references)
        }
    });
    renewed.map(|(renewed, _)| renewed).map_err(|error| error.on(&renewal.volume))
}
