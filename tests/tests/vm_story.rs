//! The whole story: a Debian is saved in the live system, its disk is lost, and a disc with its image brings it back, larger
//! and on another controller, with nobody there.

#![allow(clippy::print_stdout, reason = "a test says how far it is")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::debian::{self, Layout};
use keiki_tests::garbage::{self, Old};
use keiki_tests::live::{self, Firmware, Live, Medium};
use keiki_tests::loops::Mount;
use keiki_tests::vm::{self, Controller, Writes};
use keiki_tests::{judge, run, sparse, volumes};

/// A disk of a machine, on this controller.
fn disk(file: &Path, device: &str) -> [String; 4] {
    let drive = format!("if=none,id=disk,format=raw,cache=unsafe,file={}", file.display());
    [
        "-drive".to_owned(),
        drive,
        "-device".to_owned(),
        format!("{device},drive=disk,serial=THE-DISK"),
    ]
}

/// Saves `source` in the live system to a USB disk; the folder of the repository, as the disk had it.
fn saved(bench: &Bench, source: &Path) -> Result<PathBuf> {
    let usb = bench.path("usb");
    let size = Bytes::mib(1500);
    sparse::create(&usb, size)?;
    run!("mke2fs", "-q", "-t", "ext4", &usb)?;
    let mut more = disk(source, "virtio-blk-pci").to_vec();
    let drive = format!("if=none,id=usb,format=raw,file={}", usb.display());
    let stick = ["-device", "qemu-xhci", "-drive", &drive, "-device", "usb-storage,drive=usb"];
    more.extend(stick.map(str::to_owned));
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let mut machine = Live::boot(Firmware::Uefi, Medium::Cd, &live::disc()?, &more)?;
    machine.shell()?;
    machine.device("/dev/sda")?;
    machine.run("mkdir /media/usb && mount /dev/sda /media/usb")?;
    machine.run("keiki --repo /media/usb/keiki save /dev/vda --name server --progress plain")?;
    machine.run("umount /media/usb && poweroff")?;
    machine.ended()?;
    let repo = bench.path("repo");
    let mount = Mount::new(&usb, image_core::extent::Extent::first(size), "ro")?;
    run!("cp", "-r", mount.folder().join("keiki"), &repo)?;
    Ok(repo)
}

mod only_all {
    use super::*;

    #[test]
    fn vm_a_lost_debian_comes_back_by_itself() -> Result<()> {
        let clock = Instant::now();
        let say = |what: &str| println!("{:4} s: {what}", clock.elapsed().as_secs());
        let bench = Bench::new()?;
        let source = debian::make(Layout::Gpt, &bench.path(""))?.disks;
        let before = vm::boot(Firmware::Bios, &source, Writes::Kept)?;
        let trees = volumes::trees(&source)?;
        say("the system has run");
        let [first] = source.as_slice() else { anyhow::bail!("{source:?}") };
        let repo = saved(&bench, first)?;
        say("it is saved");
        let size = fs::metadata(first)?.len();
        fs::remove_file(first)?;

        let answers = bench.path("answers.toml");
        let text = "image = \"server\"\ncountdown = 10\ngrow = [\"vg0/root=rest\"]\n\n[[disk]]\nserial = \"THE-DISK\"\n";
        fs::write(&answers, text)?;
        let disc = bench.path("disc");
        let [repo, answers] = [repo, answers].map(|path| path.display().to_string());
        let options = ["--repo", &repo, "--image", "server", "--unattended", &answers];
        live::make_disc(&disc, &options)?;
        say("the disc is made");

        for (device, controller) in
            [("ide-hd,bus=ide.2", Controller::Sata), ("nvme", Controller::Nvme)]
        {
            let target = bench.path("target");
            garbage::fill(&target, Bytes::new(size / 2 * 3))?;
            garbage::plant(&target, &Old::ALL)?;
            let more = disk(&target, device);
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            let mut machine = Live::boot(Firmware::Uefi, Medium::Usb, &disc, &more)?;
            machine.expect("will be lost")?;
            machine.expect("It begins in")?;
            machine.patiently("The image server is restored.")?;
            machine.expect("The machine starts again in")?;
            machine.ended()?;
            drop(machine);
            say(&format!("it is restored to {controller:?}"));
            judge::disks(std::slice::from_ref(&target))?;
            let (mut expected, mut found) =
                (trees.clone(), volumes::trees(std::slice::from_ref(&target))?);
            if controller == Controller::Sata {
                // Its driver was not in there; that it is now, the first boot shows.
                expected
                    .values_mut()
                    .chain(found.values_mut())
                    .for_each(|t| t.forget("initrd.img-"));
            }
            volumes::expect_same(&expected, &found)?;
            let restored = blake3::hash(&fs::read(&target)?);
            for firmware in [Firmware::Uefi, Firmware::Bios, Firmware::SecureBoot] {
                let mut machine = Live::boot(firmware, Medium::Usb, &disc, &more)?;
                machine.expect("This disc restored the image server onto")?;
                drop(machine);
            }
            ensure!(blake3::hash(&fs::read(&target)?) == restored, "it was restored again");
            say("three boots restored nothing");
            for firmware in [Firmware::Bios, Firmware::Uefi, Firmware::SecureBoot] {
                let disks = std::slice::from_ref(&target);
                let after = vm::boot_on(firmware, controller, disks, Writes::Discarded)?;
                ensure!(after.health()? == before.health()?, "{}", after.text());
                ensure!(after.section("srv")? == "SRV-OK", "{}", after.text());
                let size = |report: &vm::Report| -> Result<u64> {
                    Ok(report.line("lvs", "vg0/root")?.get(1).copied().unwrap_or("0").parse()?)
                };
                ensure!(size(&after)? > size(&before)?, "{}", after.text());
                say(&format!("it has run by {firmware:?}"));
            }
        }
        Ok(())
    }
}
