//! The EFI system partition, whose files mtools read and write: a kernel need not know FAT.

use std::path::Path;

use super::{References, Renewed, Traits, files, loader, unsteady};
use crate::error::{Error, Result};
use crate::exec::{Call, Runner};

/// A configuration file is not longer.
const LONGEST: usize = 1 << 20;

/// Rewrites the references in the files of `image`.
pub(super) fn rewrite(
    runner: &dyn Runner,
    image: &Path,
    references: &References,
) -> Result<Renewed> {
    let esp = Esp { runner, image };
    let all = esp.list()?;
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut renewed = Renewed { traits: traits(&all), ..Renewed::default() };
    for name in all.iter().copied().filter(|name| is_configuration(name)) {
        let old = esp.read(name)?;
        let new = references.apply(&old).filter(|_| old.len() <= LONGEST);
        let device = unsteady::device(name, new.as_deref().unwrap_or(&old));
        renewed.unsteady.extend(device.map(|device| format!("{device} in {name}")));
        if let Some(new) = new {
            esp.write(name, files::padded(name, new))?;
            renewed.changed.push(name.to_owned());
        }
    }
    for name in all.iter().copied().filter(|name| is_loader(name)) {
        let old = esp.read(name)?;
        let Some(new) = references.apply(&old) else { continue };
        if new.len() == old.len() && loader::may_change(&old) {
            esp.write(name, new)?;
            renewed.changed.push(name.to_owned());
        } else {
            renewed.traits.sealed_loader = true;
        }
    }
    if let Some(copies) = renewed.traits.no_fallback.then(|| fallback(&all)).flatten() {
        esp.copy(&copies)?;
        renewed.traits.no_fallback = false;
    }
    Ok(renewed)
}

/// The files of a FAT filesystem.
pub(crate) struct Esp<'a> {
    /// Starts mtools.
    pub(crate) runner: &'a dyn Runner,
    /// A device or file with just the filesystem.
    pub(crate) image: &'a Path,
}

impl Esp<'_> {
    /// The paths of all its files.
    pub(crate) fn list(&self) -> Result<Vec<String>> {
        let listing = self.runner.check(&mtools("mdir", self.image, ["-/", "-b", "::"]))?.text();
        Ok(listing.lines().filter_map(|line| line.strip_prefix("::/")).map(str::to_owned).collect())
    }

    /// The content of a file.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let inside = format!("::/{name}");
        Ok(self.runner.check(&mtools("mtype", self.image, [inside.as_str()]))?.stdout)
    }

    /// Writes a file, and reads it back. FAT knows no way to do that at once.
    pub(crate) fn write(&self, name: &str, new: Vec<u8>) -> Result<()> {
        let inside = format!("::/{name}");
        // -o: over the file that is there, without a question; `-` is standard input.
        let copy = mtools("mcopy", self.image, ["-o", "-", inside.as_str()]);
        self.runner.check(&copy.stdin(new.clone()))?;
        if self.read(name)? != new {
            let source = std::io::Error::other("it has another content than was written");
            return Err(Error::io(name, "rewrite", source));
        }
        Ok(())
    }

    /// Copies files, from and to, into `EFI/BOOT`; the last one is the one that firmware looks for.
    pub(crate) fn copy(&self, files: &Copies) -> Result<()> {
        // A folder that is empty is in no listing of all files, and mmd asks where it is there.
        let folders = self.runner.check(&mtools("mdir", self.image, ["-b", "::/EFI"]))?.text();
        if !folders.lines().any(|name| name.eq_ignore_ascii_case("::/EFI/BOOT/")) {
            self.runner.check(&mtools("mmd", self.image, ["::/EFI/BOOT"]))?;
        }
        files
            .iter()
            .try_for_each(|(from, to)| self.write(&format!("EFI/BOOT/{to}"), self.read(from)?))
    }
}

/// Files of an EFI system partition, and under which names they have to be in `EFI/BOOT`.
pub(crate) type Copies = Vec<(String, String)>;

fn mtools<const N: usize>(program: &str, image: &Path, args: [&str; N]) -> Call {
    let mut call = Call::new(program, ["-i".as_ref(), image.as_os_str()]);
    call.args.extend(args.map(Into::into));
    // Without it, mtools refuse volumes whose size is no multiple of their imagined tracks.
    call.env("MTOOLS_SKIP_CHECK", "1")
}

/// The files of GRUB, systemd-boot, rEFInd and others; a board's firmware reads the last ones.
pub(crate) fn is_configuration(name: &str) -> bool {
    const NAMES: [&str; 10] = [
        "grub.cfg",
        "grubenv",
        "refind.conf",
        "refind_linux.conf",
        "limine.conf",
        "syslinux.cfg",
        "extlinux.conf",
        "cmdline.txt",
        "uenv.txt",
        "armbianenv.txt",
    ];
    let name = name.to_ascii_lowercase();
    let last = name.rsplit('/').next().unwrap_or_default();
    NAMES.contains(&last) || name.starts_with("loader/entries/") && name.ends_with(".conf")
}

/// Programs into which grub-install may have built what they look for. Not Windows' own, and not
/// unified kernels, whose command line is of any length.
fn is_loader(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let other = ["efi/microsoft/", "efi/linux/"].iter().any(|folder| name.starts_with(folder));
    name.starts_with("efi/") && name.ends_with(".efi") && !other
}

/// What has to be copied to `EFI/BOOT`, and under which names there, so that firmware without a boot entry
/// starts the only system on it; nothing where there are several, or a loader that is not shim's or GRUB's.
pub(crate) fn fallback(all: &[&str]) -> Option<Copies> {
    let find = |wanted: &str| find(all, wanted);
    for machine in MACHINES {
        let named = |name: &str| format!("{name}{machine}.efi");
        let Some(grub) = find(&named("grub")) else { continue };
        let boot = format!("BOOT{}.EFI", machine.to_ascii_uppercase());
        // Beside shim, GRUB keeps its name; and its configuration is looked for beside it by some.
        let Some(shim) = find(&named("shim")) else { return Some(vec![(grub, boot)]) };
        return Some(beside(all, machine).into_iter().chain([(shim, boot)]).collect());
    }
    None
}

/// The program that starts the only system on it.
pub(crate) fn loader(all: &[&str]) -> Option<String> {
    fallback(all)?.pop().map(|(from, _)| from)
}

/// What has to be copied to `EFI/BOOT` beside a shim that is there already: it starts nothing without its GRUB. Not
/// where there is a program that makes boot entries (`fbx64.efi`), which shim starts too.
pub(crate) fn beside_shim(all: &[&str]) -> Option<Copies> {
    let there =
        |name: &str| all.iter().any(|have| have.to_ascii_lowercase() == format!("efi/boot/{name}"));
    let lonely = |machine: &&&str| {
        there(&format!("boot{machine}.efi"))
            && find(all, &format!("shim{machine}.efi")).is_some()
            && !["grub", "fb"].iter().any(|name| there(&format!("{name}{machine}.efi")))
    };
    let machine = MACHINES.iter().find(lonely)?;
    let copies: Copies =
        beside(all, machine).into_iter().filter(|(_, name)| !there(name)).collect();
    copies.iter().any(|(_, name)| name.starts_with("grub")).then_some(copies)
}

/// How names of programs end, by the machine that they are for.
const MACHINES: [&str; 3] = ["x64", "aa64", "ia32"];

/// What shim needs beside it.
fn beside(all: &[&str], machine: &str) -> Copies {
    let named = |name: &str| format!("{name}{machine}.efi");
    let others = [named("mm"), "grub.cfg".to_owned(), named("grub")];
    others.into_iter().filter_map(|name| Some((find(all, &name)?, name))).collect()
}

/// The only file of that name in a folder of a system in `EFI`.
fn find(all: &[&str], wanted: &str) -> Option<String> {
    let is_wanted = |name: &&&str| {
        let lower = name.to_ascii_lowercase();
        let rest = lower.strip_prefix("efi/").and_then(|rest| rest.split_once('/'));
        rest.is_some_and(|(folder, rest)| rest == wanted && folder != "boot")
    };
    let mut places = all.iter().filter(is_wanted);
    places.next().map(|name| (*name).to_owned()).filter(|_| places.next().is_none())
}

/// UEFI specification 3.5.1.1: firmware without a boot entry starts `\EFI\BOOT\BOOT<machine>.EFI`.
pub(crate) fn traits(all: &[&str]) -> Traits {
    let lower: Vec<String> = all.iter().map(|name| name.to_ascii_lowercase()).collect();
    let efi =
        |folder: &str| lower.iter().any(|name| name.starts_with(folder) && name.ends_with(".efi"));
    Traits {
        no_fallback: efi("efi/") && !efi("efi/boot/boot"),
        unified_kernel: efi("efi/linux/"),
        windows: lower.iter().any(|name| name == "efi/microsoft/boot/bcd"),
        ..Traits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{beside_shim, fallback, is_configuration, is_loader, traits};

    #[test]
    fn loaders_and_their_files_are_known_by_their_paths() {
        assert!(
            is_configuration("EFI/debian/grub.cfg") && is_configuration("loader/entries/a.conf")
        );
        assert!(
            !is_configuration("EFI/debian/grubx64.efi") && !is_configuration("loader/loader.conf")
        );
        assert!(traits(&["EFI/debian/grubx64.efi"]).no_fallback);
        assert!(!traits(&["EFI/debian/grubx64.efi", "EFI/BOOT/BOOTX64.EFI"]).no_fallback);
        assert!(!traits(&["data/x"]).no_fallback);
        assert!(traits(&["EFI/Linux/a.efi"]).unified_kernel);
        assert!(traits(&["EFI/Microsoft/Boot/BCD"]).windows);
        assert!(is_configuration("EFI/refind/refind.conf") && is_configuration("cmdline.txt"));
        assert!(is_loader("EFI/arch/grubx64.efi") && !is_loader("EFI/Linux/a.efi"));
        assert!(!is_loader("EFI/Microsoft/Boot/bootmgfw.efi") && !is_loader("vmlinuz.efi"));
    }

    #[test]
    fn the_only_system_can_start_without_a_boot_entry() {
        let debian = ["EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/debian/grub.cfg"];
        let copies = fallback(&debian).unwrap();
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let expected = [
            pair("EFI/debian/grub.cfg", "grub.cfg"),
            pair("EFI/debian/grubx64.efi", "grubx64.efi"),
            pair("EFI/debian/shimx64.efi", "BOOTX64.EFI"),
        ];
        assert_eq!(copies, expected);
        let arch = fallback(&["EFI/arch/grubx64.efi"]).unwrap();
        assert_eq!(arch, [pair("EFI/arch/grubx64.efi", "BOOTX64.EFI")]);
        assert_eq!(fallback(&["EFI/a/grubx64.efi", "EFI/b/grubx64.efi"]), None);
        assert_eq!(fallback(&["EFI/refind/refind_x64.efi"]), None);
    }

    #[test]
    fn a_shim_gets_back_the_grub_that_it_starts() {
        let debian = ["EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/BOOT/BOOTX64.EFI"];
        let copies = beside_shim(&debian).unwrap();
        assert_eq!(copies, [("EFI/debian/grubx64.efi".to_owned(), "grubx64.efi".to_owned())]);
        for more in ["EFI/BOOT/grubx64.efi", "EFI/BOOT/fbx64.efi"] {
            assert_eq!(beside_shim(&[debian.as_slice(), &[more]].concat()), None);
        }
        assert_eq!(beside_shim(&debian[..2]), None);
        assert_eq!(beside_shim(&["EFI/BOOT/BOOTX64.EFI", "EFI/arch/grubx64.efi"]), None);
    }
}
