//! What a person does with the menu: chooses entries by their words, answers questions, waits.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use expectrl::Regex;

use super::{Live, PATIENCE, plain};
use crate::shares::{PASSWORD, Share};

const DOWN: &str = "\x1b[B";
/// Ctrl-U: an answer that is proposed is taken away.
const CLEAR: &str = "\x15";
/// More entries than any list has.
const MOST: usize = 40;

impl Live {
    /// Chooses the entry that begins so, of the list below these words.
    ///
    /// # Errors
    /// There is none.
    pub fn choose(&mut self, question: &str, entry: &str) -> Result<()> {
        self.expect(question)?;
        let mut seen = Vec::new();
        for _ in 0..MOST {
            let found = self.wait(Regex("> ([^\r\n]+)[\r\n]"));
            let found = found.with_context(|| format!("{question}: {entry}: {seen:?}"))?;
            let at = plain(found.get(1).unwrap_or_default());
            if at.starts_with(entry) {
                return self.send("\r");
            }
            seen.push(at);
            self.send(DOWN)?;
        }
        bail!("{question} does not offer {entry}, but {seen:?}")
    }

    /// Chooses one entry after the other, each of the list below the words before it.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn walk(&mut self, steps: &[(&str, &str)]) -> Result<()> {
        steps.iter().try_for_each(|(question, entry)| self.choose(question, entry))
    }

    /// Restores an image onto a disk, from where the image is chosen.
    ///
    /// # Errors
    /// Something else is asked.
    pub fn restore(&mut self, image: &str, disk: &str) -> Result<()> {
        self.walk(&[
            ("Restore which image?", image),
            ("All of it, or one volume?", "Everything"),
            ("Where to, the disk d0", disk),
            ("Identifiers", "The same"),
            ("Ready.", "Restore"),
        ])?;
        self.expect("Type y to write to it")?;
        self.send("y\r")
    }

    /// Types a line when asked with these words.
    ///
    /// # Errors
    /// The question does not come.
    pub fn answer(&mut self, question: &str, line: &str) -> Result<()> {
        self.expect(question)?;
        self.send(&format!("{CLEAR}{line}\r"))
    }

    /// As [`Live::expect`], with another patience.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn expect_within(&mut self, text: &str, patience: Duration) -> Result<String> {
        let usual = std::mem::replace(&mut self.patience, patience);
        let said = self.expect(text);
        self.patience = usual;
        said
    }

    /// Gets the machine an address, from the main menu and back to it.
    ///
    /// # Errors
    /// It gets none.
    pub fn network(&mut self) -> Result<()> {
        self.walk(&[
            ("What shall be done?", "This machine"),
            ("This machine", "Network"),
            ("Network", "eth0"),
            ("How does eth0", "By DHCP"),
        ])?;
        self.expect("eth0: 10.0.2.15/24")?;
        self.walk(&[("Network", "Back"), ("This machine", "Back")])
    }

    /// Attaches a share, from the entry `This machine` or from choosing the repository.
    ///
    /// # Errors
    /// It cannot be.
    pub fn attach(&mut self, share: Share, address: &str) -> Result<()> {
        let (entry, question) = match share {
            Share::Nfs => ("An NFS share", "SERVER:/FOLDER"),
            Share::Smb => ("A share of Windows", "USER@SERVER/SHARE"),
            Share::Ssh => ("A folder of a machine with SSH", "USER@SERVER:/FOLDER"),
        };
        self.choose("Where are images kept?", entry)?;
        self.answer(question, address)?;
        if share != Share::Nfs {
            // SSH asks whether it is the right machine, unless it knows that already.
            let asked = self.wait(Regex("yes/no|assword")).context("no password asked")?;
            if asked.get(0) == Some(b"yes/no".as_slice()) {
                self.send("yes\r")?;
                self.expect("assword")?;
            }
            self.expect(": ")?;
            self.send(&format!("{PASSWORD}\r"))?;
        }
        self.expect("Attached as /media/").map(drop)
    }

    /// Runs commands in the shell, from the main menu and back to it; what they printed.
    ///
    /// # Errors
    /// One of them fails.
    pub fn commands(&mut self, commands: &[&str]) -> Result<Vec<String>> {
        self.walk(&[("What shall be done?", "This machine"), ("This machine", "Shell")])?;
        self.expect("keiki:~#")?;
        let said = commands.iter().map(|command| self.run(command)).collect();
        self.send("exit\r")?;
        self.choose("This machine", "Back")?;
        said
    }

    /// Switches the machine off from the main menu and waits until it is.
    ///
    /// # Errors
    /// It does not.
    pub fn power_off(&mut self) -> Result<()> {
        self.walk(&[
            ("What shall be done?", "This machine"),
            ("This machine", "Power off"),
            ("Power off?", "Power off now"),
        ])?;
        self.ended()
    }

    /// Does something to the machine from outside: a command of QEMU's monitor.
    ///
    /// # Errors
    /// QEMU does not answer, or with an error.
    pub fn outside(&self, command: &str) -> Result<()> {
        let mut monitor = UnixStream::connect(self.work.path().join("monitor"))?;
        monitor.set_read_timeout(Some(PATIENCE))?;
        prompt(&mut monitor)?;
        writeln!(monitor, "{command}")?;
        let said = prompt(&mut monitor)?;
        if said.contains("Error") || said.contains("not found") {
            bail!("{command}: {said}");
        }
        Ok(())
    }
}

/// What QEMU's monitor says until it asks for a command.
fn prompt(monitor: &mut UnixStream) -> Result<String> {
    let (mut said, mut byte) = (Vec::new(), [0]);
    while !said.ends_with(b"(qemu) ") {
        monitor.read_exact(&mut byte).context("QEMU's monitor")?;
        said.extend(byte);
    }
    Ok(plain(&said))
}
