//! Boots our recovery disc in QEMU and types on its serial console what a person would type.
//!
//! The machine is emulated (TCG), as in [`crate::vm`]. Nobody waits for its end: it is ended with its session.
//!
//! - `person` what is typed into the menu, and what is done to the machine from outside

mod person;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use expectrl::{Expect, session::OsSession};
use image_core::exec::Call;
use serde_json::Value;
use tempfile::TempDir;

pub use crate::qemu::Firmware;
use crate::{call, fixtures, keiki, network, qemu, tool};

/// How the disc comes into the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// A CD in an IDE drive.
    Cd,
    /// A USB stick.
    Usb,
    /// A disk of a virtual machine.
    Disk,
    /// Nothing: firmware loads it over HTTP, at the cable of [`network`], from where DHCP says.
    Http,
    /// Nothing: firmware loads by PXE what a server at the cable says.
    Pxe,
}

/// All nine ways.
pub const WAYS: [(Firmware, Medium); 9] = [
    (Firmware::Bios, Medium::Cd),
    (Firmware::Bios, Medium::Usb),
    (Firmware::Bios, Medium::Disk),
    (Firmware::Uefi, Medium::Cd),
    (Firmware::Uefi, Medium::Usb),
    (Firmware::Uefi, Medium::Disk),
    (Firmware::SecureBoot, Medium::Cd),
    (Firmware::SecureBoot, Medium::Usb),
    (Firmware::SecureBoot, Medium::Disk),
];

/// Six times what a boot takes on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// The disc, made of this build of `keiki`; made once for each build.
///
/// # Errors
/// `keiki iso` fails; the first time it needs a Debian mirror.
pub fn disc() -> Result<PathBuf> {
    let program = fs::read(crate::binary::keiki())?;
    let name = format!("disc-{}", &blake3::hash(&program).to_hex()[..16]);
    fixtures::once(&name, |out| make_disc(out, &[]).map(drop))
}

/// Makes a disc with more options; what `keiki iso` said. Packages and what takes long to compress are kept with the fixtures.
///
/// # Errors
/// `keiki iso` fails.
pub fn make_disc(out: &Path, options: &[&str]) -> Result<Value> {
    make(keiki!("--json", "iso", "--out", out), options)
}

/// As [`make_disc`], on a stick, or a file that stands for one.
///
/// # Errors
/// `keiki iso` fails.
pub fn make_stick(stick: &str, options: &[&str]) -> Result<Value> {
    make(keiki!("--json", "iso", "--stick", stick), options)
}

fn make(call: Call, options: &[&str]) -> Result<Value> {
    let mut call = call.env("XDG_CACHE_HOME", fixtures::folder()?.join("packages"));
    call.args.extend(options.iter().map(Into::into));
    // Two at once would download the same.
    let _alone = fixtures::exclusive("packages")?;
    Ok(serde_json::from_str(&tool::run(&call)?)?)
}

/// A machine that runs.
pub struct Live {
    session: OsSession,
    began: Instant,
    work: TempDir,
    _alone: fs::File,
}

impl Live {
    /// Boots a machine from `disc`, with more of QEMU's options.
    ///
    /// # Errors
    /// QEMU or OVMF is missing.
    pub fn boot(firmware: Firmware, medium: Medium, disc: &Path, more: &[&str]) -> Result<Self> {
        let work = TempDir::new()?;
        let mut words = machine(firmware, medium, disc, work.path())?.line();
        for word in more {
            words.push(' ');
            words.push_str(word);
        }
        let alone = fixtures::exclusive("qemu")?;
        let mut session = expectrl::spawn(&words).with_context(|| words.clone())?;
        session.set_expect_timeout(Some(PATIENCE));
        Ok(Self { session, began: Instant::now(), work, _alone: alone })
    }

    /// Waits until `text` is on the console; what was said before it, without the terminal's own signs.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        match self.session.expect(text) {
            Ok(found) => Ok(plain(found.before())),
            Err(error) => {
                let mut rest = [0; 8192];
                let length = self.session.try_read(&mut rest).unwrap_or(0);
                let said = plain(rest.get(..length).unwrap_or_default());
                bail!("{text:?} did not come in {PATIENCE:?}: {error}; last: {said}")
            }
        }
    }

    /// As [`Live::expect`], for what takes an emulated machine minutes.
    ///
    /// # Errors
    /// It does not come in half an hour.
    pub fn patiently(&mut self, text: &str) -> Result<String> {
        self.session.set_expect_timeout(Some(Duration::from_secs(1800)));
        let said = self.expect(text);
        self.session.set_expect_timeout(Some(PATIENCE));
        said
    }

    /// Types.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.session.send(text)?)
    }

    /// Waits until the machine has switched itself off.
    ///
    /// # Errors
    /// It does not in time.
    pub fn ended(&mut self) -> Result<()> {
        self.session.expect(expectrl::Eof).context("the machine is not switched off")?;
        Ok(())
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes a picture of its screen (PNG).
    ///
    /// # Errors
    /// QEMU does not answer.
    pub fn picture(&self, out: &Path) -> Result<()> {
        use std::io::{Read, Write};
        let mut monitor =
            std::os::unix::net::UnixStream::connect(self.work.path().join("monitor"))?;
        monitor.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(monitor, "screendump {} -f png", out.display())?;
        let mut said = [0; 4096];
        // Its prompt, then the echo of the command, then the prompt again.
        while !out.exists() && monitor.read(&mut said)? > 0 {}
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Opens the shell of the recovery disc from its main menu, where the cursor is on the first entry.
    ///
    /// # Errors
    /// The menu does not answer.
    pub fn shell(&mut self) -> Result<()> {
        self.expect("What shall be done?")?;
        // The last entry of the main menu, then the fifth of the next one.
        self.send("\x1b[A\r")?;
        self.expect("This machine")?;
        self.expect("Power off")?;
        self.send("\x1b[B\x1b[B\x1b[B\x1b[B\r")?;
        self.expect("keiki:~#").map(drop)
    }

    /// Runs a command in the shell; what it printed.
    ///
    /// # Errors
    /// It fails, or does not end.
    pub fn run(&mut self, command: &str) -> Result<String> {
        // The words are split, so that the echo of the command is not taken for its end.
        self.send(&format!("{command}; echo ==en''ded== $?.\r"))?;
        let said = self.patiently("==ended== ")?;
        let code = self.expect(".")?;
        if code.trim() != "0" {
            bail!("{command}: {code}: {said}");
        }
        Ok(said)
    }
}

/// What a terminal shows of what was sent to it, roughly: without the signs that move its cursor.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => {
                if letters.next() == Some('[') {
                    letters.by_ref().find(|letter| letter.is_ascii_alphabetic());
                }
            }
            '\r' => {}
            other => out.push(other),
        }
    }
    out
}

fn machine(firmware: Firmware, medium: Medium, disc: &Path, work: &Path) -> Result<Call> {
    let mut call = call!("qemu-system-x86_64", "-nodefaults");
    call.args.extend(qemu::machine(firmware, work)?);
    let mut add = |option: &str, value: String| {
        call.args.extend([option.into(), value.into()]);
    };
    add("-vga", "std".to_owned());
    // Ctrl-C is for the machine.
    add("-chardev", "stdio,id=console,signal=off".to_owned());
    add("-serial", "chardev:console".to_owned());
    add("-monitor", format!("unix:{},server,nowait", work.join("monitor").display()));
    let drive = format!("if=none,id=disc,format=raw,file={}", disc.display());
    match medium {
        Medium::Http => {
            // Firmware would ask for PXE first, for minutes.
            for protocol in ["IPv4PXESupport", "IPv6PXESupport"] {
                add("-fw_cfg", format!("name=opt/org.tianocore/{protocol},string=no"));
            }
            call.args.extend(network::ADAPTER.split_whitespace().map(Into::into));
        }
        Medium::Pxe => {
            let adapter = network::ADAPTER.split_whitespace();
            // SeaBIOS has no driver; the adapter's own firmware does what it lacks.
            let own = |word: &str| word.trim_end_matches(",romfile=").into();
            match firmware {
                Firmware::Bios => call.args.extend(adapter.map(own)),
                _ => call.args.extend(adapter.map(Into::into)),
            }
        }
        Medium::Cd => {
            add("-drive", format!("{drive},readonly=on,media=cdrom"));
            add("-device", "ide-cd,drive=disc,bootindex=0".to_owned());
        }
        Medium::Usb => {
            add("-drive", format!("{drive},snapshot=on"));
            add("-device", "qemu-xhci".to_owned());
            add("-device", "usb-storage,drive=disc,bootindex=0".to_owned());
        }
        Medium::Disk => {
            add("-drive", format!("{drive},snapshot=on"));
            add("-device", "virtio-blk-pci,drive=disc,bootindex=0".to_owned());
        }
    }
    Ok(call)
}
