//! What a machine boots over the network: the same system as the disc's, and boot loaders that fetch its first stage. That
//! fetches the rest, which it knows by its hash.

use std::path::Path;

use image_core::error::{Error, Result};
use image_core::exec::{Call, Runner};
use tempfile::TempDir;

use crate::boot::{Boot, Settings};
use crate::iso::lacking;
use crate::tree::Tree;
use crate::{bootloader, name};

/// What firmware starts: of BIOS, and of UEFI with Secure Boot or without.
pub const BIOS: &str = "keiki.pxe";
/// See [`BIOS`].
pub const UEFI: &str = "shimx64.efi";

/// The folder of kernel and system.
pub const FOLDER: &str = "boot";

/// How the word begins that tells the kernel's command line which adapter the machine was started by.
pub const ADAPTER: &str = "keiki.adapter=";

/// The name of what the first stage fetches.
pub fn system() -> String {
    format!("{FOLDER}/{}", name::SYSTEM)
}

/// What shim starts, and what that reads first: its names for them, in the folder that it was fetched from.
const GRUB: &str = "grubx64.efi";
const KEYS: &str = "mmx64.efi";
const MENU: &str = "grub/grub.cfg";

/// Where they are in packages. This signed GRUB is the one that was made for networks.
const FILES: [(&str, &str); 2] = [(UEFI, bootloader::SHIM), (KEYS, bootloader::KEYS)];
pub(crate) const SIGNED: &str = "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed";

/// The modules of GRUB for BIOS that it takes on a network, besides those that show a menu and start Linux.
const MODULES: &str = "pxe tftp http normal linux serial terminal configfile test echo ls all_video minicmd reboot \
                       halt sleep smbios biosdisk chain";

/// The folder of what GRUB for BIOS does first, by adapter and UUID of the machine: the server knows who was restored and starts from
/// its own disk, and this firmware cannot be told. UEFI can, by the system that it starts.
pub const START: &str = "start";

/// Programs that make all that, and the packages that have them.
const TOOLS: [(&str, &str); 3] =
    [("grub-mkimage", "grub-common"), ("depmod", "kmod"), ("dpkg-deb", "dpkg")];

/// The packages of the programs that this machine lacks.
pub fn missing(runner: &dyn Runner) -> Vec<&'static str> {
    lacking(runner, &TOOLS)
}

/// The files that a server at `server` (an address, for HTTP) offers, by their names; `grub` is the tree with the signed
/// GRUB of [`crate::packages::network_grub`].
///
/// # Errors
/// [`Error::Io`]: a file is missing in a tree; a tool fails.
pub fn files(
    runner: &dyn Runner,
    (tree, grub): (&Tree, &Tree),
    boot: &Boot,
    settings: &Settings,
    server: &str,
) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = vec![(GRUB.to_owned(), grub.read(Path::new(SIGNED))?)];
    for (name, paths) in FILES {
        files.push((name.to_owned(), bootloader::read(tree, paths)?));
    }
    files.push((BIOS.to_owned(), core(runner, tree, server)?));
    let archives = [name::FIRST, name::PROGRAM, name::SETTINGS];
    // GRUB fills in the adapter that it was loaded by.
    let menu =
        bootloader::menu(&settings.console, &archives, &format!(" {ADAPTER}$net_default_mac"));
    // Every loader has another idea of where it came from; the address in words is the same for all.
    let first = match &settings.site {
        Some(_) => format!(
            "if [ \"$grub_platform\" = pc ]; then\n    smbios --type 1 --get-uuid 8 --set uuid\n    \
             source /{START}/$net_default_mac/$uuid\nfi\n"
        ),
        None => String::new(),
    };
    files.push((MENU.to_owned(), format!("set root=(http,{server})\n{first}{menu}").into_bytes()));
    let rest = boot.read(name::SYSTEM)?;
    let (hash, length) = (blake3::hash(&rest).to_hex(), rest.len());
    files.push((system(), rest));
    let rest = Some(format!("http://{server}/{FOLDER} {hash} {length}"));
    boot.settings(&Settings { rest, ..settings.clone() }, None)?;
    for name in [&[name::KERNEL], archives.as_slice()].concat() {
        files.push((format!("{FOLDER}/{name}"), boot.read(name)?));
    }
    Ok(files)
}

/// GRUB for BIOS. It is told where its menu is: what it would take for its server is the one of DHCP, which may be
/// another machine.
fn core(runner: &dyn Runner, tree: &Tree, server: &str) -> Result<Vec<u8>> {
    let failed = |error| Error::io("GRUB's core for networks", "make", error);
    let folder = TempDir::new().map_err(failed)?;
    let [first, out] = ["first.cfg", "core"].map(|name| folder.path().join(name));
    let prefix = format!("(http,{server})/grub");
    std::fs::write(&first, format!("set prefix={prefix}\nconfigfile {prefix}/grub.cfg\n"))
        .map_err(failed)?;
    let mut call = Call::new("grub-mkimage", ["-O", "i386-pc-pxe", "-p", &prefix, "-d"]);
    call.args.push(tree.place(Path::new("usr/lib/grub/i386-pc")).into());
    call.args.extend(["-c".into(), first.into(), "-o".into(), out.clone().into()]);
    call.args.extend(MODULES.split_whitespace().map(Into::into));
    runner.check(&call)?;
    std::fs::read(&out).map_err(failed)
}
