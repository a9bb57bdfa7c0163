//! The recovery disc, made by `keiki iso` and booted.

#![allow(clippy::print_stdout, reason = "a test says how long a boot took")]

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use keiki_tests::live::{self, Firmware, Live, Medium};

/// Boots one way; the menu comes, and the kernel says how it was started.
fn reaches_the_menu(firmware: Firmware, medium: Medium) -> Result<()> {
    let disc = live::disc()?;
    let mut machine = Live::boot(firmware, medium, &disc, &[])?;
    machine.shell()?;
    println!("{firmware:?} {medium:?}: a shell after {:.1?}", machine.age());
    let kernel = machine.run("dmesg")?;
    let is_locked = kernel.contains("Secure boot enabled");
    ensure!(is_locked == (firmware == Firmware::SecureBoot), "{kernel}");
    let efi = if firmware == Firmware::Bios { "! test" } else { "test" };
    machine.run(&format!("{efi} -d /sys/firmware/efi")).map(drop)
}

#[test]
fn vm_the_disc_boots_by_bios_from_cd() -> Result<()> {
    reaches_the_menu(Firmware::Bios, Medium::Cd)
}

#[test]
fn vm_the_disc_boots_with_secure_boot_from_usb() -> Result<()> {
    let disc = live::disc()?;
    let mut machine = Live::boot(Firmware::SecureBoot, Medium::Usb, &disc, &[])?;
    machine.shell()?;
    println!("a shell after {:.1?}", machine.age());
    let kernel = machine.run("dmesg")?;
    ensure!(kernel.contains("Secure boot enabled"), "{kernel}");
    // Every program is there with everything that it needs; the tools say what they are.
    for command in [
        "lvm version",
        "mdadm --version",
        "cryptsetup --version",
        "thin_check --version",
        "e2fsck -V",
        "xfs_repair -V",
        "btrfs --version",
        "ntfsfix --version",
        "fsck.fat --help",
        "fsck.exfat -V",
        "fsck.f2fs -V",
        "efibootmgr --version",
        "ssh -V",
        "sshfs --version",
        "mount.nfs -V",
        "mount.cifs -V",
        "xorriso -version",
        "mcopy --version",
        "sgdisk --version",
        "loadkeys --version",
        "keiki --version",
    ] {
        // Some end with other codes than 0; without a library or the program itself it is 127.
        machine.run(&format!("{command} > /dev/null 2>&1; [ $? -ne 127 ]"))?;
    }
    // Volumes, for real: nothing here is activated by itself.
    machine.run(
        "modprobe -a dm-mod dm-thin-pool dm-crypt raid1 xfs btrfs ntfs3 exfat f2fs vfat nfs cifs",
    )?;
    machine.send("poweroff\r")?;
    machine.ended()
}

/// One byte of the kernel is another one: GRUB refuses it where Secure Boot is on.
#[test]
fn vm_a_changed_kernel_is_refused_by_secure_boot() -> Result<()> {
    let work = tempfile::tempdir()?;
    let changed = work.path().join("changed.iso");
    fs::copy(live::disc()?, &changed)?;
    let bytes = fs::read(&changed)?;
    // The header of a kernel's image: "HdrS" at 0x202, a version behind it.
    let at =
        bytes.windows(4).position(|window| window == b"HdrS").context("no kernel")? + (1 << 20);
    let file = fs::File::options().write(true).open(&changed)?;
    let byte = bytes.get(at).context("it ends")? ^ 1;
    file.write_all_at(&[byte], u64::try_from(at)?)?;
    let mut machine = Live::boot(Firmware::SecureBoot, Medium::Cd, &changed, &[])?;
    machine.expect("bad shim signature").map(drop)
}

mod only_all {
    use super::*;

    #[test]
    fn vm_the_disc_boots_in_all_nine_ways() -> Result<()> {
        for (firmware, medium) in live::WAYS {
            reaches_the_menu(firmware, medium)
                .with_context(|| format!("{firmware:?} {medium:?}"))?;
        }
        Ok(())
    }

    #[test]
    fn two_discs_are_the_same_bytes() -> Result<()> {
        let work = tempfile::tempdir()?;
        let [one, two] = ["one", "two"].map(|name| work.path().join(name));
        live::make_disc(&one, &[])?;
        live::make_disc(&two, &[])?;
        ensure!(fs::read(&one)? == fs::read(&two)?);
        Ok(())
    }
}
