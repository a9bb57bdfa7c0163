//! Boots our recovery disc in QEMU and types on its serial console what a person would type.
//!
//! The machine is emulated (TCG), as in [`crate::vm`]. Nobody waits for its end: it is ended with its session.
//!
//! - `person` what is typed into the menu, and what is done to the machine from outside

mod person;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use expectrl::session::OsSession;
use expectrl::{Captures, Expect, Needle};
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

/// How often the console is looked at.
const TICK: Duration = Duration::from_millis(20);

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
    patience: Duration,
    began: Instant,
    words: String,
    work: TempDir,
    alone: Arc<fs::File>,
}

impl Live {
    /// Boots a machine from `disc`, with more of QEMU's options.
    ///
    /// # Errors
    /// QEMU or OVMF is missing.
    pub fn boot(firmware: Firmware, medium: Medium, disc: &Path, more: &[&str]) -> Result<Self> {
        let work = TempDir::new()?;
        let call = machine(firmware, medium, disc, work.path())?;
        let alone = Arc::new(fixtures::exclusive("qemu")?);
        Self::start(&call, more, work, alone)
    }

    /// Boots another machine over the network while this one runs, at the cable `tap` with this number.
    ///
    /// # Errors
    /// QEMU or OVMF is missing.
    pub fn beside(
        &self,
        (firmware, medium): (Firmware, Medium),
        number: u8,
        more: &[&str],
    ) -> Result<Self> {
        let work = TempDir::new()?;
        let mut call = machine(firmware, medium, Path::new(""), work.path())?;
        for word in &mut call.args {
            let own = word.to_string_lossy().replace("tap0", &format!("tap{number}"));
            let mac = format!("netdev=net,mac=52:54:00:12:34:{number:02x}");
            *word = own.replace("netdev=net", &mac).into();
        }
        Self::start(&call, more, work, Arc::clone(&self.alone))
    }

    /// Starts a machine again that has [ended](Live::ended): its firmware has the variables that it had.
    ///
    /// # Errors
    /// QEMU is missing.
    pub fn again(self) -> Result<Self> {
        Self::spawned(self.words, self.work, self.alone)
    }

    fn start(call: &Call, more: &[&str], work: TempDir, alone: Arc<fs::File>) -> Result<Self> {
        let mut words = call.line();
        for word in more {
            words.push(' ');
            words.push_str(word);
        }
        Self::spawned(words, work, alone)
    }

    fn spawned(words: String, work: TempDir, alone: Arc<fs::File>) -> Result<Self> {
        let session = expectrl::spawn(&words).with_context(|| words.clone())?;
        Ok(Self { session, patience: PATIENCE, began: Instant::now(), words, work, alone })
    }

    /// Waits until `text` is on the console; what was said before it, without the terminal's own signs.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        match self.wait(text) {
            Ok(found) => Ok(plain(found.before())),
            Err(error) => {
                let mut rest = [0; 8192];
                let length = self.session.try_read(&mut rest).unwrap_or(0);
                let said = plain(rest.get(..length).unwrap_or_default());
                bail!("{text:?} did not come in {:?}: {error}; last: {said}", self.patience)
            }
        }
    }

    /// Waits for something on the console. The session's own waiting takes all of a core, which the machine needs.
    fn wait<N: Needle>(&mut self, needle: N) -> Result<Captures, expectrl::Error> {
        let end = Instant::now() + self.patience;
        loop {
            let found = self.session.check(&needle)?;
            if !found.is_empty() {
                return Ok(found);
            }
            if Instant::now() > end {
                return Err(expectrl::Error::ExpectTimeout);
            }
            std::thread::sleep(TICK);
        }
    }

    /// As [`Live::expect`], for what takes an emulated machine minutes.
    ///
    /// # Errors
    /// It does not come in half an hour.
    pub fn patiently(&mut self, text: &str) -> Result<String> {
        self.expect_within(text, Duration::from_secs(1800))
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
        self.wait(expectrl::Eof).context("the machine is not switched off")?;
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

    /// Waits in the shell until a device is there: the kernel finds what is at USB some seconds after it began.
    ///
    /// # Errors
    /// It does not come in half an hour.
    pub fn device(&mut self, path: &str) -> Result<()> {
        self.run(&format!("until [ -e {path} ]; do sleep 1; done")).map(drop)
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
