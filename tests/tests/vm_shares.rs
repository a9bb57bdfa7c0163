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
    machine.choose("What shall be done?", "Restore an image")?;
    machine.restore("lab", "/dev/vda")
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
    machine.choose("where images are kept", &folder(share))
}

mod only_all {
    use std::fs;
    use std::path::PathBuf;
    use std::thread::sleep;
    use std::time::{Duration, Instant};

    use anyhow::{bail, ensure};
    use image_core::units::Bytes;
    use keiki_tests::{keiki, kill, run, sparse, tool};

    use super::*;

    /// More than a pack, which does not compress.
    const DATA: Bytes = Bytes::mib(330);
    /// A save to a server that is gone has ended within that.
    const LONGEST: Duration = Duration::from_secs(400);

    /// The key on the disc opens a folder of a machine that knows it, with no password; one that knows only another key wants a
    /// password, and a wrong one does not open it.
    #[test]
    fn vm_the_key_on_the_disc_opens_a_folder_by_ssh() -> Result<()> {
        let bench = Bench::new()?;
        let [ours, others] = ["ours", "others"].map(|name| bench.path(name));
        for key in [&ours, &others] {
            run!("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)?;
        }
        let disc = bench.path("disc");
        live::make_disc(&disc, &["--ssh-key", &ours.display().to_string()])?;
        let servers = Shares::serve()?;
        let mut machine = Live::boot(Firmware::Bios, Medium::Cd, &disc, &NETWORK)?;
        machine.network()?;
        machine.choose("What shall be done?", "This machine")?;
        let attach = |machine: &mut Live, known: &Path| {
            servers.allow(&known.with_extension("pub"))?;
            machine.walk(&[
                ("This machine", "Attach a disk or a share"),
                ("Where are images kept?", "A folder of a machine with SSH"),
            ])?;
            machine.answer("USER@SERVER:/FOLDER", &servers.address(Share::Ssh))
        };
        attach(&mut machine, &ours)?;
        machine.expect("yes/no")?;
        machine.send("yes\r")?;
        let said = machine.expect("Attached as /media/ssh")?;
        ensure!(!said.contains("assword"), "{said}");
        attach(&mut machine, &others)?;
        for _ in 0..3 {
            machine.expect("assword: ")?;
            machine.send("wrong\r")?;
        }
        machine.expect("That did not work.")?;
        machine.walk(&[("This machine", "Back")])?;
        machine.power_off()
    }

    /// Waits until a save has closed a pack and begun another one; the closed one.
    fn closed_pack(repo: &Path) -> Result<PathBuf> {
        let begin = Instant::now();
        let files = |folder: &str| fs::read_dir(repo.join(folder)).into_iter().flatten().flatten();
        while begin.elapsed() < LONGEST {
            let grows = files("tmp").any(|file| file.metadata().is_ok_and(|m| m.len() > 4 << 20));
            if let Some(pack) = files("packs").next().filter(|_| grows) {
                return Ok(pack.path());
            }
            sleep(Duration::from_millis(50));
        }
        bail!("no pack is written to {}", repo.display())
    }

    /// The image is whole, restores to the disk that was saved, and nothing of it was stored twice.
    fn is_right(bench: &Bench, repo: &Path, kept: &Path) -> Result<()> {
        tool::run(&keiki!("--repo", repo, "check", "--read-data"))?;
        let copy = bench.path("copy");
        tool::run(&keiki!("--repo", repo, "restore", "lab", &copy))?;
        let start = Bytes::mib(1).index().unwrap_or(0);
        let [before, after] = [fs::read(bench.path("disk"))?, fs::read(&copy)?];
        let end = start + DATA.index().unwrap_or(0);
        ensure!(before.get(start..end) == after.get(start..end), "other bytes are restored");
        fs::remove_file(&copy)?;
        ensure!(kept.exists(), "{} was written once more", kept.display());
        let sizes = fs::read_dir(repo.join("packs"))?.map(|file| Ok(file?.metadata()?.len()));
        let stored: u64 = sizes.sum::<Result<u64>>()?;
        ensure!(stored < (DATA + Bytes::mib(8)).get(), "{stored} bytes are stored");
        Ok(())
    }

    /// A server hangs, another ends, a connection breaks, each in the middle of a save. It comes to an end, and is started
    /// again once the server is back.
    #[test]
    fn vm_a_save_to_a_share_that_vanishes_ends_and_goes_on_later() -> Result<()> {
        live::disc()?;
        let bench = Bench::new()?;
        let file = bench.path("disk");
        sparse::create(&file, DATA + Bytes::mib(4))?;
        run!("sgdisk", format!("-n1:2048:+{}M", DATA.get() >> 20), &file)?;
        kill::put(&file, Bytes::mib(1), &kill::noise(7, DATA))?;
        let mut servers = Shares::serve()?;
        let mut machine = boot(&[disk(&file, "VANISH-1")], true)?;
        machine.network()?;
        for share in [Share::Ssh, Share::Smb, Share::Nfs] {
            if share == Share::Ssh {
                machine.choose("What shall be done?", "Save a disk")?;
                attach(&mut machine, &servers, share)?;
            } else {
                another(&mut machine)?;
                attach(&mut machine, &servers, share)?;
                machine
                    .walk(&[("Repository /", "Back"), ("What shall be done?", "Save a disk")])?;
            }
            save(&mut machine)?;
            let repo = servers.folder(share).join("keiki");
            let kept = closed_pack(&repo)?;
            let gone = Instant::now();
            if share == Share::Nfs {
                servers.hang(true)?;
                sleep(Duration::from_secs(5));
                machine.send("\x03")?;
                machine.expect("Still stopping")?;
                machine.send("\x03")?;
                machine.choose("What shall be done?", "Save a disk")?;
                println!("{share:?}: left after {:.1?}", gone.elapsed());
                servers.hang(false)?;
                // It may take longer to answer than the menu looks for what it can offer.
                machine.choose("where images are kept", "Another folder")?;
                machine.answer("Folder (Esc goes back)", &folder(share))?;
                save(&mut machine)?;
            } else {
                servers.end(share);
                let said = machine.expect_within("There is no new image.", LONGEST)?;
                println!("{share:?}: ended after {:.1?}", gone.elapsed());
                let error = said.split_once("error: ").map_or("", |(_, error)| error);
                println!("{error}");
                ensure!(error.contains(&format!("/media/{}", share.name())), "{said}");
                servers.start(share)?;
                if share == Share::Smb {
                    machine.choose("Ready. The source is only read.", "Save now")?;
                } else {
                    ensure!(error.contains("the connection broke"), "{error}");
                    machine.walk(&[
                        ("Ready. The source is only read.", "Main menu"),
                        ("What shall be done?", "This machine"),
                        ("This machine", "Attach a disk or a share"),
                    ])?;
                    machine.attach(share, &servers.address(share))?;
                    machine.walk(&[
                        ("This machine", "Back"),
                        ("What shall be done?", "Save a disk"),
                        ("where images are kept", &folder(share)),
                    ])?;
                    save(&mut machine)?;
                }
            }
            machine.expect_within("The image is complete.", LONGEST)?;
            println!("{share:?}: saved after {:.1?}", machine.age());
            is_right(&bench, &repo, &kept).with_context(|| format!("{share:?}"))?;
        }
        machine.power_off()
    }
}
