//! What firmware starts: shim and the distribution's signed GRUB for UEFI, a core of GRUB for BIOS, one menu for all.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};

use crate::boot::Serial;
use crate::name;
use crate::tree::Tree;

/// Packages with boot loaders, by their names in Debian and Ubuntu, and what is taken of them (the keys' manager may be in
/// another one, which shim-signed depends on).
pub const PACKAGES: [(&str, &str); 4] = [
    ("shim-signed", SHIM),
    ("grub-efi-amd64-signed", SIGNED[1].1),
    ("shim-signed", KEYS),
    ("grub-pc-bin", HYBRID),
];

/// Where shim is: in Ubuntu, where that is not installed, only by the name of the newest one.
pub(crate) const SHIM: &str =
    "usr/lib/shim/shimx64.efi.signed|usr/lib/shim/shimx64.efi.signed.latest";

/// Where the keys' manager is; the one without `.signed` is signed too where it is the only one.
pub(crate) const KEYS: &str = "usr/lib/shim/mmx64.efi.signed|usr/lib/shim/mmx64.efi";

/// What shim needs beside it in `EFI/BOOT`: names there, and paths in packages. The signed GRUB made for CDs is the one
/// that looks for `/boot/grub/grub.cfg` on the medium that has `/.disk/info`.
const SIGNED: [(&str, &str); 3] = [
    ("BOOTX64.EFI", SHIM),
    ("grubx64.efi", "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"),
    ("mmx64.efi", KEYS),
];

/// Modules of GRUB for BIOS: to find the medium, read it, and show a menu on the screen and on a serial console.
const MODULES: &str = "biosdisk iso9660 part_msdos part_gpt fat normal linux serial terminal configfile test echo ls \
                       search search_label search_fs_uuid search_fs_file all_video minicmd reboot halt sleep";

/// The MBR's boot code of a hybrid medium.
const HYBRID: &str = "usr/lib/grub/i386-pc/boot_hybrid.img";

/// The label of the EFI system partition.
pub const ESP_LABEL: &str = "KEIKI-EFI";

const KIB: u64 = 1024;

/// The packages that a tree lacks, of those with boot loaders.
pub fn missing(tree: &Tree) -> Vec<&'static str> {
    let lacks = |(_, paths): &&(&str, &str)| tree.one_of(paths).is_none();
    let packages: BTreeSet<&str> =
        PACKAGES.iter().filter(lacks).map(|(package, _)| *package).collect();
    packages.into_iter().collect()
}

/// What one of [`PACKAGES`] has.
///
/// # Errors
/// [`Error::Io`]: it is not in the tree.
pub(crate) fn read(tree: &Tree, paths: &str) -> Result<Vec<u8>> {
    tree.read(&tree.one_of(paths).unwrap_or_else(|| paths.into()))
}

/// Makes the El Torito image and the MBR's boot code in `folder`, and the EFI system partition as the file `esp`, with
/// files dated `date`.
///
/// # Errors
/// [`Error::Io`]: a file is missing in the tree; a tool fails.
pub fn make(runner: &dyn Runner, tree: &Tree, date: u32, folder: &Path, esp: &Path) -> Result<()> {
    system_partition(runner, tree, date, esp)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes)
            .map_err(|error| Error::io(path.display().to_string(), "write", error))
    };
    write(name::HYBRID, &tree.read(Path::new(HYBRID))?)?;
    let modules = tree.place(Path::new("usr/lib/grub/i386-pc"));
    let out = folder.join(name::ELTORITO);
    let mut call = Call::new("grub-mkimage", ["-O", "i386-pc-eltorito", "-p", "/boot/grub", "-d"]);
    call.args.extend([modules.into(), "-o".into(), out.into()]);
    call.args.extend(MODULES.split_whitespace().map(Into::into));
    runner.check(&call).map(drop)
}

fn system_partition(runner: &dyn Runner, tree: &Tree, date: u32, image: &Path) -> Result<()> {
    let folder = image.parent().unwrap_or(Path::new("."));
    let failed = |error| Error::io(image.display().to_string(), "create", error);
    let mut files = Vec::new();
    let mut size = 0;
    for (name, paths) in SIGNED {
        let place = folder.join(name);
        let bytes = read(tree, paths)?;
        size += u64::try_from(bytes.len()).unwrap_or(u64::MAX) + 64 * KIB;
        fs::write(&place, bytes).and_then(|()| dated(&place, date)).map_err(failed)?;
        files.push(place);
    }
    // The FAT of it fits into what was added for each file.
    let size = size.next_multiple_of(64 * KIB);
    let file = fs::File::create(image).map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    drop(file);
    let image_text = image.display().to_string();
    runner.check(&Call::new(
        "mkfs.fat",
        ["--invariant", "-n", ESP_LABEL, "-i", "4b45494b", &image_text],
    ))?;
    let mtools = |program: &str, words: &[&str]| {
        let words = ["-i", &image_text].into_iter().chain(words.iter().copied());
        runner.check(&Call::new(program, words).env("SOURCE_DATE_EPOCH", date.to_string()))
    };
    mtools("mmd", &["::EFI", "::EFI/BOOT"])?;
    for place in files {
        mtools("mcopy", &["-m", &place.display().to_string(), "::EFI/BOOT/"])?;
        fs::remove_file(place).map_err(failed)?;
    }
    Ok(())
}

/// Gives a file a date, in seconds since 1970.
pub(crate) fn dated(path: &Path, date: u32) -> std::io::Result<()> {
    let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(date.into());
    // Reading is enough: a folder cannot be opened for writing.
    fs::File::open(path)?.set_modified(date)
}

/// GRUB's menu, the same for every firmware, that loads these archives; `more` is told to the kernel. The kernel's last console is
/// the screen: it is where the system talks to whoever looks at no serial console.
pub fn menu(serial: &Serial, archives: &[&str], more: &str) -> String {
    use crate::name::KERNEL;
    let Serial { unit, speed } = serial;
    let arguments =
        format!("console=ttyS{unit},{speed} console=tty0 quiet loglevel=3 raid=noautodetect{more}");
    let archives: String = archives.iter().map(|name| format!(" /boot/{name}")).collect();
    format!(
        "serial --unit={unit} --speed={speed}\n\
         terminal_input console serial\n\
         terminal_output console serial\n\
         set timeout=3\n\
         set default=0\n\
         menuentry \"Keiki: save, restore and clone disks\" {{\n\
         \x20   linux /boot/{KERNEL} {arguments}\n\
         \x20   initrd{archives}\n\
         }}\n\
         menuentry \"Keiki, with everything that the kernel says\" {{\n\
         \x20   linux /boot/{KERNEL} {arguments} loglevel=7\n\
         \x20   initrd{archives}\n\
         }}\n\
         menuentry \"Reboot\" {{\n    reboot\n}}\n\
         menuentry \"Power off\" {{\n    halt\n}}\n"
    )
}
