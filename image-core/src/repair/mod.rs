//! Makes a system that was moved or restored start again.
//!
//! Answers: what keeps it from starting on other hardware, as a plan ([`plan`]) that is a value and for which nothing
//! was written; then does that ([`repair`]). Refuses: to guess. What cannot be told for certain, or not be done here,
//! is a step that remains for the user, with its command. Everything that is read is hostile: files are only looked
//! for within their filesystem. Programs of the system are run only where the plan says so.
//!
//! - `facts`: what was found: values. - `look`: finds it, and writes nothing.
//! - `decide`: the files; pure. - `boot`: boot loaders and the initramfs; pure.
//! - `personal`: a name, ids and keys of the machine's own, where they are wanted. `windows`: its name there.
//! - `carry_out`: does what was planned. - `builder`: the system's own programs.

mod boot;
mod builder;
mod carry_out;
mod decide;
mod facts;
mod look;
mod personal;
#[cfg(test)]
mod tests;
mod windows;

use std::path::PathBuf;
use std::sync::Arc;

pub use carry_out::repair;
pub use facts::Builder;

use crate::error::{Error, Result};
use crate::exec::{Call, Runner};
use crate::fixup::personal::HostName;
use crate::io::Medium;
use crate::report::{Report, Stage};
use crate::survey::Input;
use crate::survey::glance::glance;
use crate::survey::model::Survey;
use crate::units::Bytes;

/// What the user wants.
#[derive(Clone, Copy, Default, Debug)]
pub struct Wishes<'a> {
    /// The volume with the root of the system, where there are several.
    pub root: Option<&'a str>,
    /// Whether programs of the system may be run.
    pub run_programs: bool,
    /// What efibootmgr says of this machine's boot entries; none where it was not started by UEFI.
    pub boot_entries: Option<&'a str>,
    /// Who this machine becomes, of all that have the same image; none where it stays who it is.
    pub personal: Option<Personal<'a>>,
}

/// Who one machine of many becomes.
#[derive(Clone, Copy, Debug)]
pub struct Personal<'a> {
    /// Its host name.
    pub name: &'a HostName,
    /// Random bytes that its ids are made from.
    pub seed: [u8; 32],
}

impl Personal<'_> {
    /// Random bytes of their own for each use.
    fn fill(&self, what: &str, bytes: &mut [u8]) {
        let mut hasher = blake3::Hasher::new_keyed(&self.seed);
        hasher.update(what.as_bytes()).finalize_xof().fill(bytes);
    }

    fn random<const N: usize>(&self, what: &str) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes);
        bytes
    }
}

/// What will be done, and what remains to be done by hand.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Plan {
    /// What the system calls itself.
    pub system: String,
    /// The volume with its root.
    pub root: String,
    /// In this order.
    pub acts: Vec<Act>,
    /// Each with its command.
    pub steps: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    /// A configuration file becomes another one.
    Rewrite {
        /// The volume that it is on.
        volume: String,
        /// Its path from that volume's root.
        file: String,
        /// What it is.
        old: Vec<u8>,
        /// What it becomes.
        new: Vec<u8>,
        /// What changes in it.
        why: Vec<String>,
    },
    /// A file that is not there is written.
    Add {
        /// The volume that it is on.
        volume: String,
        /// Its path from that volume's root.
        file: String,
        /// The file whose owner, mode and attributes it gets.
        like: String,
        /// What is in it.
        new: Vec<u8>,
        /// What it is for.
        why: Vec<String>,
    },
    /// What DHCP clients remember is removed.
    Forget {
        /// The volume that it is on.
        volume: String,
        /// Paths from that volume's root.
        files: Vec<String>,
    },
    /// LVM's list of devices is put aside.
    SetAside {
        /// The volume that it is on.
        volume: String,
    },
    /// The loader for UEFI is copied to where firmware without a boot entry looks.
    Fallback {
        /// The EFI system partition.
        volume: String,
        /// From where, and to which name in `EFI/BOOT`.
        copies: Vec<(String, String)>,
    },
    /// This machine's firmware gets a boot entry.
    BootEntry {
        /// Which of the targets.
        disk: usize,
        /// The EFI system partition's number.
        number: u32,
        /// The program, as firmware writes it.
        loader: String,
        /// What the entry is called.
        label: String,
    },
    /// GRUB for BIOS is written anew, from the files that the system has.
    Grub {
        /// Which of the targets.
        disk: usize,
        /// Where its core goes.
        place: Bytes,
        /// Boot code for the first sector.
        code: Vec<u8>,
        /// The core.
        core: Vec<u8>,
        /// What was wrong.
        why: String,
    },
    /// The system's own programs make its initramfs anew.
    Initramfs {
        /// Which program.
        builder: Builder,
        /// What it needs: volumes, and where they are mounted; the root first.
        tree: Vec<(String, String)>,
        /// What is wrong.
        why: Vec<String>,
        /// The kernels whose initramfs are there.
        kernels: Vec<String>,
        /// The drivers that have to be in it.
        wanted: Vec<String>,
    },
}

impl Act {
    /// What is done, as a person reads it.
    pub fn words(&self) -> String {
        match self {
            Self::Rewrite { volume, file, why, .. } | Self::Add { volume, file, why, .. } => {
                format!("{file} on {volume}: {}", why.join(", "))
            }
            Self::Forget { volume, files } => {
                format!("what DHCP clients remember on {volume}: removed, {}", files.join(", "))
            }
            Self::SetAside { volume } => format!(
                "{} on {volume}: put aside as {}, it names other devices",
                crate::fixup::lvm_devices::FILE[..2].join("/"),
                crate::fixup::lvm_devices::FILE[2]
            ),
            Self::Fallback { volume, copies } => {
                let files: Vec<String> =
                    copies.iter().map(|(from, to)| format!("{from} as EFI/BOOT/{to}")).collect();
                format!(
                    "loader for firmware without a boot entry on {volume}: {}",
                    files.join(", ")
                )
            }
            Self::BootEntry { loader, label, .. } => {
                format!("boot entry \"{label}\" in this machine's firmware: {loader}")
            }
            Self::Grub { place, why, .. } => {
                format!(
                    "GRUB for BIOS from the system's own files, its core at byte {}: {why}",
                    place.get()
                )
            }
            Self::Initramfs { builder, why, .. } => {
                format!(
                    "initramfs by the system's own program ({}): {}",
                    builder.line(),
                    why.join("; ")
                )
            }
        }
    }

    /// Whether it runs programs of the system.
    pub fn runs_programs(&self) -> bool {
        matches!(self, Self::Initramfs { .. })
    }
}

/// Targets that are claimed, and what becomes of them.
pub struct Job<'a> {
    /// What was found when the plan was made.
    pub survey: &'a Survey,
    /// What to do.
    pub plan: &'a Plan,
    /// One for each slot of the survey.
    pub targets: Vec<Arc<dyn Medium>>,
    /// Starts this machine's programs.
    pub runner: &'a dyn Runner,
    /// Described at [`crate::view::OpenView::open`].
    pub server: Call,
}

impl Job<'_> {
    /// Where a target that was claimed is opened once more.
    fn node(&self, slot: usize) -> Option<PathBuf> {
        let planned = || self.survey.slots.get(slot).map(|slot| slot.path.clone());
        self.targets.get(slot)?.node().or_else(planned)
    }
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Repaired {
    /// In words.
    pub done: Vec<String>,
    /// What remains, each with its command.
    pub steps: Vec<String>,
}

/// What is on `inputs`, and what has to be done there; nothing is written.
///
/// # Errors
/// [`Error::Refused`] where there is no system, or several and none is named, or a program of this machine is
/// missing; [`Error::Io`] where a target cannot be read.
pub fn plan(
    inputs: &[Input],
    wishes: Wishes<'_>,
    runner: &dyn Runner,
    server: &Call,
    report: &dyn Report,
) -> Result<(Survey, Plan)> {
    report.stage(Stage::Survey, None);
    check(runner)?;
    let survey = glance(inputs, report)?;
    let mut facts = look::look(runner, server, &survey, wishes.personal.is_some(), report)?;
    if let Some(wish) = wishes.personal {
        for sight in facts.sights.values_mut().filter(|sight| sight.system.is_some()) {
            personal::make_keys(runner, &mut sight.own, wish.name)?;
        }
    }
    let entries = match wishes.boot_entries {
        Some(given) => Some(given.to_owned()),
        None if look::by_uefi() && runner.find("efibootmgr").is_some() => {
            runner.check(&Call::new("efibootmgr", ["-v"])).ok().map(|outcome| outcome.text())
        }
        None => None,
    };
    let wishes = Wishes { boot_entries: entries.as_deref(), ..wishes };
    let plan = decide::decide(&facts, &wishes)?;
    Ok((survey, plan))
}

/// What has to be there for anything at all.
fn check(runner: &dyn Runner) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::refused("only root may mount the filesystems of a system to repair it"));
    }
    let tools = [
        ("e2fsck", "e2fsprogs"),
        ("tune2fs", "e2fsprogs"),
        ("mdir", "mtools"),
        ("mcopy", "mtools"),
        ("chroot", "coreutils"),
    ];
    match tools.iter().find(|(tool, _)| runner.find(tool).is_none()) {
        Some((tool, package)) => {
            Err(Error::refused(format!("{tool} is not installed (package {package})")))
        }
        None => Ok(()),
    }
}
