//! A stick with images on it is pulled out of the recovery disc's machine while a disk is restored from it, and plugged in
//! again.

#![allow(clippy::print_stdout, reason = "a test says how long things took")]

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use image_core::units::Bytes;
use keiki_tests::bench::Bench;
use keiki_tests::live::{self, Firmware, Live, Medium};
use keiki_tests::{filesystem, kill, sparse, table};

/// As fast as a slow stick: the restore takes a while, in which it is pulled out.
const SPEED: u64 = 12 << 20;

/// Attaches the stick where a repository is chosen, which is then offered.
fn attach(machine: &mut Live) -> Result<()> {
    machine.walk(&[
        ("where images are kept", "Attach a disk or a share"),
        ("Where are images kept?", "A disk, a stick"),
        ("Attach which one?", "/dev/sd"),
        ("where images are kept", "/media/sd"),
    ])
}

/// From the chosen repository to where the restore asks for the last time.
fn restore(machine: &mut Live) -> Result<()> {
    machine.walk(&[
        ("Restore which image?", "lab"),
        ("All of it, or one volume?", "Everything"),
        ("Where to, the disk d0", "/dev/vda"),
        ("Identifiers", "The same"),
        ("Ready.", "Restore"),
    ])
}

#[test]
fn vm_a_stick_pulled_out_leaves_a_disk_that_does_not_boot_and_the_next_run_goes_on() -> Result<()> {
    let bench = Bench::new()?;
    let [source, target, stick] = ["source", "target", "stick"].map(|name| bench.path(name));
    kill::disk(&source, Bytes::mib(164), 5)?;
    bench.save("lab", std::slice::from_ref(&source))?;
    let folder = bench.path("on-the-stick");
    fs::create_dir(&folder)?;
    fs::rename(bench.path("repo"), folder.join("keiki"))?;
    filesystem::ext4(&stick, Bytes::mib(256), ["STICK", &filesystem::uuid()?], &folder)?;
    sparse::create(&target, Bytes::mib(164))?;

    let limit = format!("throttle-group,id=slow,x-bps-total={SPEED}");
    let file = format!("driver=file,node-name=file,filename={}", stick.display());
    let disk = format!("if=none,id=target,format=raw,file={}", target.display());
    #[rustfmt::skip]
    let more = [
        "-device", "qemu-xhci,id=usb", "-object", &limit, "-blockdev", &file,
        "-blockdev", "driver=throttle,node-name=stick,throttle-group=slow,file=file",
        "-device", "usb-storage,id=plugged,bus=usb.0,drive=stick",
        "-drive", &disk, "-device", "virtio-blk-pci,drive=target,serial=TARGET",
    ];
    let mut machine = Live::boot(Firmware::Bios, Medium::Cd, &live::disc()?, &more)?;
    machine.choose("What shall be done?", "Restore an image")?;
    attach(&mut machine)?;
    restore(&mut machine)?;
    machine.expect("Type y to write to it")?;
    machine.send("y\r")?;
    machine.expect("MiB of ")?;
    sleep(Duration::from_secs(4));
    machine.outside("device_del plugged")?;
    println!("pulled out after {:.1?}", machine.age());
    let said = machine.expect("was pulled out")?;
    println!("told after {:.1?}: {said}", machine.age());
    ensure!(said.contains("error: ") && said.contains("/media/sda is gone"), "{said}");
    machine.choose("Ready.", "Main menu")?;
    let log = machine.commands(&["grep 'keiki .*restore' /run/keiki/log", "sync"])?;
    ensure!(log.concat().contains("exit code 1"), "{log:?}");
    let half = fs::read(&target)?;
    ensure!(half.get(..512) == Some(&[0; 512]), "the target has boot code, or a table");
    ensure!(table::partitions(&target).is_err(), "the target has a table");
    ensure!(half.iter().any(|byte| *byte != 0), "nothing was restored yet");

    machine.outside("device_add usb-storage,id=plugged,bus=usb.0,drive=stick")?;
    // Until the kernel knows it.
    sleep(Duration::from_secs(5));
    machine.walk(&[
        ("What shall be done?", "This machine"),
        ("This machine", "Attach a disk or a share"),
        ("Where are images kept?", "A disk, a stick"),
        ("Attach which one?", "/dev/sd"),
        ("What is it for?", "To restore from it"),
        ("This machine", "Back"),
        ("What shall be done?", "Restore an image"),
        ("where images are kept", "/media/sd"),
    ])?;
    restore(&mut machine)?;
    machine.expect("the last 6 characters of its serial")?;
    machine.send("TARGET\r")?;
    machine.expect("Restored.")?;
    println!("restored after {:.1?}", machine.age());
    machine.choose("Shall the system on it start", "No")?;
    machine.power_off()?;
    let parts = table::partitions(&source)?;
    ensure!(parts == table::partitions(&target)?, "another table is restored");
    let (source, target) = (fs::read(&source)?, fs::read(&target)?);
    for part in parts {
        let [start, end] = [part.start, part.end].map(|at| at.index().unwrap_or(0));
        ensure!(source.get(start..end) == target.get(start..end), "other bytes are restored");
    }
    Ok(())
}
