//! GRUB for BIOS, put in place by hand or by GRUB's own program: grub-install wants a real disk.
//!
//! Source: GRUB 2.06's `include/grub/i386/pc/boot.h` (the fields of `boot.img` and of `diskboot.img`, the
//! first sector of the core) and `include/grub/offsets.h`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use image_core::extent::Extent;
use image_core::units::Bytes;
use tempfile::TempDir;

use crate::loops::{Loop, Mount};
use crate::{call, filesystem, run, tool};

/// The boot code as the package has it.
pub const BOOT_CODE_FILE: &str = "/usr/lib/grub/i386-pc/boot.img";

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
/// Fields of the decompressor, which begins with the core's second sector.
const COMPRESSED_SIZE: usize = 0x08;
const UNCOMPRESSED_SIZE: usize = 0x0c;
/// The bytes of sector 0 that boot code may have: the MBR's signature and table follow.
const BOOT_CODE: usize = 440;
/// What the BIOS boot partition and the gap behind an MBR hold.
const ROOM: u64 = 2047;

/// Writes boot code to sector 0 of `disk` and the core to `place`, without error correction; it reads
/// `/grub/grub.cfg` on the filesystem `boot`. `work` is for files in between.
///
/// # Errors
/// GRUB is missing or does not fit.
pub fn install(disk: &Path, place: Bytes, boot: &str, work: &Path) -> Result<()> {
    let mut core = core(boot, work)?;
    let mut code = fs::read(BOOT_CODE_FILE).context("grub-pc-bin is missing")?;
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

/// The same by the program that grub-install calls last, which finds the place itself and adds error
/// correction.
///
/// # Errors
/// GRUB is missing or refuses; there are no loop devices.
pub fn setup(disk: &Path, boot: &str) -> Result<()> {
    let folder = TempDir::new()?;
    let (content, image) = (folder.path().join("content"), folder.path().join("image"));
    fs::create_dir(&content)?;
    fs::copy(BOOT_CODE_FILE, content.join("boot.img")).context("grub-pc-bin is missing")?;
    fs::write(content.join("core.img"), core(boot, folder.path())?)?;
    // It wants its own files on some block device.
    filesystem::ext4(&image, Bytes::mib(8), ["", &filesystem::uuid()?], &content)?;
    let mount = Mount::new(&image, Extent::first(Bytes::mib(8)), "ro")?;
    let device = Loop::whole(disk)?;
    let map = folder.path().join("device.map");
    let devices = [device.device(), mount.device()].map(Path::display);
    fs::write(&map, format!("(hd0) {}\n(hd1) {}\n", devices[0], devices[1]))?;
    let program = "/usr/lib/grub/i386-pc/grub-bios-setup";
    run!(program, "--skip-fs-probe", "-m", &map, "-d", mount.folder(), device.device())?;
    Ok(())
}

/// What the core of `disk` decompresses to, by xz; it begins at `place`.
///
/// # Errors
/// There is none.
pub fn decompressed(disk: &Path, place: Bytes) -> Result<Vec<u8>> {
    let mut head = [0; 1024];
    let file = File::open(disk)?;
    file.read_exact_at(&mut head, place.get())?;
    let field = |at: usize| head[512 + at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let (packed, plain) = field(COMPRESSED_SIZE).zip(field(UNCOMPRESSED_SIZE)).context("fields")?;
    let code = fs::metadata("/usr/lib/grub/i386-pc/lzma_decompress.img")?.len();
    let mut stream = vec![0; usize::try_from(packed)?];
    file.read_exact_at(&mut stream, place.get() + 512 + code)?;
    // As the only member of an .lzma file, whose header is: properties, dictionary, size.
    let header = [&[0x5d][..], &65536_u32.to_le_bytes(), &u64::from(plain).to_le_bytes()];
    let call = call!("xz", "--decompress", "--stdout", "--format=lzma");
    let outcome = tool::outcome(&call.stdin([header.concat(), stream].concat()))?;
    ensure!(outcome.code == Some(0), "{}", outcome.talk());
    ensure!(outcome.stdout.len() == usize::try_from(plain)?, "{plain}");
    Ok(outcome.stdout)
}

/// GRUB for UEFI in one file without a signature, as grub-install makes it where there is no shim: it looks for
/// the filesystem `boot`.
///
/// # Errors
/// GRUB is missing.
pub fn efi(boot: &str, work: &Path) -> Result<PathBuf> {
    image("x86_64-efi", &[], boot, work)
}

/// A core that looks for the filesystem `boot`, as grub-install leaves it in `/boot/grub/i386-pc`.
///
/// # Errors
/// GRUB is missing.
pub fn core(boot: &str, work: &Path) -> Result<Vec<u8>> {
    Ok(fs::read(image("i386-pc", &["biosdisk"], boot, work)?)?)
}

fn image(format: &str, modules: &[&str], boot: &str, work: &Path) -> Result<PathBuf> {
    let (config, image) = (work.join("load.cfg"), work.join(format));
    fs::write(&config, format!("search.fs_uuid {boot} root\nset prefix=($root)/grub\n"))?;
    let mut call = call!("grub-mkimage", "-O", format, "-p", "/grub", "-c", &config, "-o", &image);
    let all =
        "part_gpt part_msdos ext2 search_fs_uuid serial terminal normal linux echo configfile";
    call.args.extend(modules.iter().copied().chain(all.split(' ')).map(Into::into));
    tool::run(&call)?;
    Ok(image)
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    let field = image.get_mut(at..at + bytes.len()).context("the image is too short")?;
    field.copy_from_slice(bytes);
    Ok(())
}
