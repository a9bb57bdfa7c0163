//! Shares and removable media of the recovery disc, attached in its menu: served by real servers, taken away while something
//! is done, and brought back.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

use std::path::Path;

use anyhow::{Context, Result};
use keiki_tests::bench::Bench;
use keiki_tests::live::{self, Firmware, Live, Medium};
use keiki_tests::proof::Facts;
use keiki_tests::sample_disk;
use keiki_tests::shares::{self, Share, Shares};

/// The machine's way to the servers.
const NETWORK: [&str; 2] = ["-nic", "user,model=virtio-net-pci,id=nic"];

/// A drive of a file, and the disk that it is, by its serial.
fn disk(file: &Path, serial: &str) -> [String; 4] {
    let drive = format!("if=none,id={serial},format=raw,discard=unmap,file={}", file.display());
    let device = format!("virtio-blk-pci,drive={serial},serial={serial}");
    ["-drive".to_owned(), drive, "-device".to_owned(), device]
}

/// Boots the disc with disks and a network.
fn boot(disks: &[[String; 4]], network: bool) -> Result<Live> {
    let disks = disks.iter().flatten().map(String::as_str);
    let network = NETWORK.iter().copied().filter(|_| network);
    let more: Vec<&str> = disks.chain(network).collect();
    Live::boot(Firmware::Bios, Medium::Cd, &live::disc()?, &more)
}

/// Saves the disk as `lab` with the repository that was chosen; up to the last question.
fn save(machine: &mut Live) -> Result<()> {
    machine
        .walk(&[("Save which disk?", "/dev/vda"), ("All of it, or a part?", "The whole disk")])?;
    machine.answer("Name of the image", "lab")?;
    machine.choose("Ready. The source is only read.", "Save now")
}

/// Restores `lab` onto the empty disk with the repository that was chosen, from the main menu.
fn restore(machine: &mut Live) -> Result<()> {
    machine.walk(&[
        ("What shall be done?", "Restore an image"),
        ("Restore which image?", "lab"),
        ("All of it, or one volume?", "Everything"),
        ("Where to, the disk d0", "/dev/vda"),
        ("Identifiers", "The same"),
        ("Ready.", "Restore"),
    ])?;
    machine.expect("Type y to write to it")?;
    machine.send("y\r")
}

/// One boot: each share is attached, saved to, and restored from onto the emptied disk.
#[test]
fn vm_a_disk_is_saved_to_and_restored_from_each_share() -> Result<()> {
    live::disc()?;
    let bench = Bench::new()?;
    let file = bench.path("disk");
    sample_disk::make(&file)?;
    let facts = Facts::of(std::slice::from_ref(&file))?;
    let servers = Shares::serve()?;
    let mut machine = boot(&[disk(&file, "SHARED-1")], true)?;
    machine.network()?;
    println!("the network is up after {:.1?}", machine.age());
    for share in shares::ALL {
        if share == shares::ALL[0] {
            // Nothing was chosen yet: whoever saves is asked.
            machine.choose("What shall be done?", "Save a disk")?;
            attach(&mut machine, &servers, share)?;
        } else {
            another(&mut machine)?;
            attach(&mut machine, &servers, share)?;
            machine.walk(&[("Repository /", "Back"), ("What shall be done?", "Save a disk")])?;
        }
        save(&mut machine).with_context(|| format!("{share:?}"))?;
        machine.expect("The image is complete.")?;
        println!("{share:?}: saved after {:.1?}", machine.age());
    }
    for share in shares::ALL {
        machine.commands(&["dd if=/dev/zero of=/dev/vda bs=4M; sync"])?;
        another(&mut machine)?;
        machine.choose("where images are kept", &folder(share))?;
        machine.choose("Repository /", "Back")?;
        restore(&mut machine)?;
        machine.expect("Restored.").with_context(|| format!("{share:?}"))?;
        println!("{share:?}: restored after {:.1?}", machine.age());
        machine.choose("Shall the system on it start", "No")?;
        machine.commands(&["sync"])?;
        let now = Facts::of(std::slice::from_ref(&file))?;
        facts.expect(&now).with_context(|| format!("{share:?}"))?;
    }
    machine.power_off()
}

/// Where images are kept on a share.
fn folder(share: Share) -> String {
    format!("/media/{}/keiki", share.name())
}

/// From the main menu to where a repository is chosen.
fn another(machine: &mut Live) -> Result<()> {
    machine.walk(&[("What shall be done?", "Repository"), ("Repository /", "Choose another")])
}

/// Attaches a share where a repository is chosen, and chooses a new folder on it.
fn attach(machine: &mut Live, servers: &Shares, share: Share) -> Result<()> {
    machine.choose("where images are kept", "Attach a disk or a share")?;
    machine.attach(share, &servers.address(share))?;
    machine.choose("where images are kept", "Another folder")?;
    machine.answer("Folder (Esc goes back)", &folder(share))
}
