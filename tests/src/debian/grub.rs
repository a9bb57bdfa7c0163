//! GRUB for BIOS, put in place by hand: grub-install wants a real disk.
//!
//! Source: GRUB 2.06's `include/grub/i386/pc/boot.h` (the fields of `boot.img` and of `diskboot.img`, the
//! first sector of the core).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image_core::units::Bytes;

use crate::run;

const SECTOR: Bytes = Bytes::new(512);
/// `GRUB_BOOT_MACHINE_KERNEL_SECTOR`: where the core begins, u64.
const KERNEL_SECTOR: usize = 0x5c;
/// `GRUB_BOOT_MACHINE_BOOT_DRIVE`: 0xff means the disk that the BIOS started from.
const BOOT_DRIVE: usize = 0x64;
/// `GRUB_BOOT_MACHINE_DRIVE_CHECK`: a jump that two NOPs take out on hard disks.
const DRIVE_CHECK: usize = 0x66;
/// The only block list of the core's first sector: u64 start, u16 sectors, u16 segment.
const BLOCK_LIST: usize = 500;
/// The segment that the rest of the core is loaded to.
const LOAD_SEGMENT: u16 = 0x820;
/// The bytes of sector 0 that boot code may have: the MBR's signature and table follow.
const BOOT_CODE: usize = 440;
/// What the BIOS boot partition and the gap behind an MBR hold.
const ROOM: u64 = 2047;

/// Writes boot code to sector 0 of `disk` and the core to `place`; it reads `/grub/grub.cfg` on the
/// filesystem `boot`.
pub(super) fn install(disk: &Path, place: Bytes, boot: &str, work: &Path) -> Result<()> {
    let (config, core) = (work.join("load.cfg"), work.join("core.img"));
    fs::write(&config, format!("search.fs_uuid {boot} root\nset prefix=($root)/grub\n"))?;
    run!(
        "grub-mkimage",
        "-O",
        "i386-pc",
        "-p",
        "/grub",
        "-c",
        &config,
        "-o",
        &core,
        "biosdisk",
        "part_gpt",
        "part_msdos",
        "ext2",
        "search_fs_uuid",
        "serial",
        "terminal",
        "normal",
        "linux",
        "echo",
        "configfile"
    )?;
    let mut core = fs::read(&core)?;
    let mut code = fs::read("/usr/lib/grub/i386-pc/boot.img").context("grub-pc-bin is missing")?;
    let sectors = Bytes::of(&core).align_up(SECTOR).units(SECTOR);
    ensure!(sectors <= ROOM, "GRUB's core has {sectors} sectors");
    let first = place.units(SECTOR);
    put(&mut code, KERNEL_SECTOR, &first.to_le_bytes())?;
    put(&mut code, BOOT_DRIVE, &[0xff])?;
    put(&mut code, DRIVE_CHECK, &[0x90, 0x90])?;
    put(&mut core, BLOCK_LIST, &(first + 1).to_le_bytes())?;
    put(&mut core, BLOCK_LIST + 8, &u16::try_from(sectors - 1)?.to_le_bytes())?;
    put(&mut core, BLOCK_LIST + 10, &LOAD_SEGMENT.to_le_bytes())?;
    let file = OpenOptions::new().write(true).open(disk)?;
    file.write_all_at(code.get(..BOOT_CODE).context("boot.img is too short")?, 0)?;
    file.write_all_at(&core, place.get())?;
    Ok(())
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    let field = image.get_mut(at..at + bytes.len()).context("the image is too short")?;
    field.copy_from_slice(bytes);
    Ok(())
}
