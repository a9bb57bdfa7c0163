//! What comes after a restore that nobody attended: the machine starts again, from its own disk, or is switched off.

use std::time::Duration;

use anyhow::Result;
use image_core::disk::inventory::DiskInfo;
use image_core::disk::table;
use image_core::exec::real::Machine;
use image_core::exec::{Call, Runner};
use image_core::io::device::Device;
use image_core::report::Report;

use super::consoles::Consoles;
use crate::answers::Then;
use crate::exit::Exit;
use crate::output::{self, progress::Progress};

/// Seconds in which a key stops what comes after the restore, and where something remains to be read.
pub const MOMENT: u16 = 10;
/// See [`MOMENT`].
pub const WHILE: u16 = 60;

/// Lets UEFI start the system on `disk` next time, once; `false` where it has no entry for it, and on a BIOS.
pub fn start_next(disk: &DiskInfo) -> Result<bool> {
    let Ok(said) = Machine.check(&Call::new("efibootmgr", ["-v"])) else { return Ok(false) };
    let source = Device::open_source(&disk.path, None)?;
    let Some(found) = table::read(&source)? else { return Ok(false) };
    let ids: Vec<&str> =
        found.table.partitions().iter().filter_map(|part| part.uuid.as_deref()).collect();
    let said = said.text();
    let Some(number) = entry_of(&said, &ids) else { return Ok(false) };
    Machine.check(&Call::new("efibootmgr", ["--quiet", "--bootnext", number]))?;
    Ok(true)
}

/// The number of the first active entry that names one of these partitions; `efibootmgr -v` writes a line each:
/// `Boot0003* debian`, a tab, `HD(1,GPT,GUID,0x800,0x100000)/File(...)`.
fn entry_of<'a>(said: &'a str, ids: &[&str]) -> Option<&'a str> {
    said.lines().find_map(|line| {
        let (number, rest) = line.strip_prefix("Boot")?.split_at_checked(4)?;
        let rest = rest.strip_prefix('*')?.to_lowercase();
        let named = ids.iter().any(|id| rest.contains(&format!("gpt,{}", id.to_lowercase())));
        (named && number.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(number)
    })
}

/// What comes last, unless a key is pressed.
pub fn end(then: Then, seconds: u16, consoles: &mut Consoles, progress: &Progress) -> Result<Exit> {
    let (words, command) = match then {
        Then::Menu => return Ok(Exit::Done),
        Then::Reboot => ("The machine starts again in", "reboot"),
        Then::Poweroff => ("The machine is switched off in", "poweroff"),
    };
    output::talk("Press any key to see the menu instead.");
    if counted(words, seconds, consoles, progress)? {
        return Ok(Exit::Done);
    }
    Machine.check(&Call::new("sync", [""; 0]))?;
    // Init does that when this has ended, for it waits for it.
    Machine.check(&Call::new(command, [""; 0]))?;
    Ok(Exit::Done)
}

/// Counts down; whether a key was pressed.
///
/// # Errors
/// [`image_core::error::Error::Interrupted`].
pub fn counted(
    words: &str,
    seconds: u16,
    consoles: &mut Consoles,
    progress: &Progress,
) -> Result<bool> {
    for left in (1..=seconds).rev() {
        // Not every second is worth a line on a slow console.
        if left % 10 == 0 || left <= 5 || left == seconds {
            output::talk(&format!("{words} {left} s."));
        }
        if consoles.key(Duration::from_secs(1)) {
            return Ok(true);
        }
        progress.checkpoint()?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::entry_of;

    #[test]
    fn the_entry_of_a_disk_is_found() {
        let said = "BootCurrent: 0001\nTimeout: 0 seconds\nBootOrder: 0001,0000\n\
                    Boot0000* UEFI QEMU\tPciRoot(0x0)/Pci(0x3,0x0)\n\
                    Boot0002  old\tHD(1,GPT,ABCD-1,0x800,0x1000)/File(\\EFI\\OLD)\n\
                    Boot00A3* debian\tHD(1,GPT,abcd-1,0x800,0x1000)/File(\\EFI\\DEBIAN\\SHIMX64.EFI)\n";
        assert_eq!(entry_of(said, &["zzzz", "ABCD-1"]), Some("00A3"));
        assert_eq!(entry_of(said, &["abcd-2"]), None);
        assert_eq!(entry_of(said, &[]), None);
    }
}
