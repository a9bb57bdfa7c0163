//! Boots disks in QEMU and takes down what the system on them reports.
//!
//! The machine is emulated (TCG): the same everywhere, with no rights and no virtual CPU support needed.
//! It ends by itself: the system powers off after its report, a kernel panic or a reboot ends it, and a
//! time limit ends what hangs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image_core::exec::Call;
use tempfile::TempDir;

pub use crate::qemu::Firmware;
use crate::{call, fixtures, qemu, tool};

/// What the disks are plugged into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Controller {
    /// `/dev/vda`.
    VirtioBlk,
    /// `/dev/sda`, by virtio's SCSI.
    VirtioScsi,
    /// `/dev/nvme0n1`.
    Nvme,
    /// `/dev/sda`, by SATA's AHCI.
    Sata,
}

impl Controller {
    /// The devices that one disk of that number takes, and that all of them take.
    fn devices(self, number: usize) -> (String, Option<&'static str>) {
        match self {
            Self::VirtioBlk => ("virtio-blk-pci".to_owned(), None),
            Self::VirtioScsi => {
                ("scsi-hd,bus=scsi0.0".to_owned(), Some("virtio-scsi-pci,id=scsi0"))
            }
            Self::Nvme => (format!("nvme,serial=keiki{number}"), None),
            Self::Sata => (format!("ide-hd,bus=sata0.{number}"), Some("ich9-ahci,id=sata0")),
        }
    }
}

/// What becomes of what the machine writes to its disks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// It is forgotten; the files stay as they are.
    Discarded,
    /// It stays in the files.
    Kept,
}

/// Seconds: six times what a boot takes on a quiet machine with two cores, and the 90 s that systemd waits
/// for a device that is missing.
const LIMIT: &str = "240";
const BEGIN: &str = "KEIKI-REPORT-BEGIN";
const END: &str = "KEIKI-REPORT-END";

/// What a system said of itself; the sections are in [`crate::debian`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    text: String,
    console: String,
}

impl Report {
    /// The lines of one section, trimmed.
    ///
    /// # Errors
    /// There is no such section.
    pub fn section(&self, name: &str) -> Result<&str> {
        let head = format!("== {name}\n");
        let (_, rest) = self
            .text
            .split_once(&head)
            .with_context(|| format!("no section {name} in the report:\n{}", self.text))?;
        Ok(rest.split("== ").next().unwrap_or_default().trim())
    }

    /// `systemctl is-system-running` and the failed units: what a restored system has to equal.
    ///
    /// # Errors
    /// The report lacks them.
    pub fn health(&self) -> Result<String> {
        Ok(format!("{}\n{}", self.section("state")?, self.section("failed")?))
    }

    /// The words of the line in which `key` is a word: in a section that is a list, what it says of `key`.
    ///
    /// # Errors
    /// There is no such section, or no such line.
    pub fn line(&self, section: &str, key: &str) -> Result<Vec<&str>> {
        let mut lines =
            self.section(section)?.lines().map(|line| line.split_whitespace().collect());
        lines
            .find(|words: &Vec<&str>| words.contains(&key))
            .with_context(|| format!("{section} does not name {key}:\n{}", self.text))
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the machine said on its console, from the firmware on.
    pub fn console(&self) -> &str {
        &self.console
    }
}

/// Boots a machine with `disks` and waits for its end.
///
/// # Errors
/// QEMU is missing, or the system did not report within the time limit: the error ends with the last
/// lines of its console.
pub fn boot(firmware: Firmware, disks: &[PathBuf], writes: Writes) -> Result<Report> {
    boot_on(firmware, Controller::VirtioBlk, disks, writes)
}

/// The same with the disks on another `controller`.
///
/// # Errors
/// As [`boot`].
pub fn boot_on(
    firmware: Firmware,
    controller: Controller,
    disks: &[PathBuf],
    writes: Writes,
) -> Result<Report> {
    let work = TempDir::new()?;
    let call = machine((firmware, controller), disks, writes, work.path())?;
    // One at a time: two emulated machines on two cores take each other's time.
    let _alone = fixtures::exclusive("qemu")?;
    let outcome = tool::outcome(&call)?;
    let said = |log: &str| {
        let bytes = fs::read(work.path().join(log)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    };
    let (report, console) = (said("report"), said("console"));
    let text = report.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let Some((text, _)) = text else {
        let lines: Vec<&str> = console.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
        bail!(
            "no report from the system by {firmware:?}; QEMU ended with {:?} (124: after {LIMIT} s) \
             and said {:?}\nreport so far:\n{report}\nthe console's last lines:\n{tail}",
            outcome.code,
            outcome.talk()
        );
    };
    Ok(Report { text: text.to_owned(), console })
}

fn machine(
    (firmware, controller): (Firmware, Controller),
    disks: &[PathBuf],
    writes: Writes,
    work: &Path,
) -> Result<Call> {
    let mut call = call!("timeout", "--kill-after=5", LIMIT, "qemu-system-x86_64");
    call.args.extend(qemu::machine(firmware, work)?);
    let mut add = |option: &str, value: String| {
        call.args.extend([option.into(), value.into()]);
    };
    for option in ["-nic", "-vga", "-monitor"] {
        add(option, "none".to_owned());
    }
    for log in ["console", "report"] {
        add("-serial", format!("file:{}", work.join(log).display()));
    }
    let snapshot = if writes == Writes::Discarded { "on" } else { "off" };
    for (number, disk) in disks.iter().enumerate() {
        let file = disk.display();
        let drive = format!("if=none,id=d{number},format=raw,cache=unsafe,discard=unmap");
        add("-drive", format!("{drive},snapshot={snapshot},file={file}"));
        let (device, shared) = controller.devices(number);
        if let Some(shared) = shared.filter(|_| number == 0) {
            add("-device", shared.to_owned());
        }
        add("-device", format!("{device},drive=d{number},bootindex={number}"));
    }
    Ok(call)
}
