//! The EFI system partition, whose files mtools read and write: a kernel need not know FAT.

use std::path::Path;

use super::{References, Renewal, Renewed, Traits, files};
use crate::error::Result;
use crate::exec::{Call, Runner};
use crate::view::{Need, OpenView, View};

/// A configuration file is not longer.
const LONGEST: usize = 1 << 20;

pub(super) fn renew(
    runner: &dyn Runner,
    server: &Call,
    renewal: &Renewal,
    references: &References,
) -> Result<Renewed> {
    let view = View::of(&renewal.layout, Need::Path, true);
    let view = OpenView::open(&renewal.layout, view, server)?;
    let done = rewrite(runner, &view.path(), references);
    view.close()?;
    done
}

fn rewrite(runner: &dyn Runner, image: &Path, references: &References) -> Result<Renewed> {
    let listing = runner.check(&mtools("mdir", image, ["-/", "-b", "::"]))?.text();
    let all: Vec<&str> = listing.lines().filter_map(|line| line.strip_prefix("::/")).collect();
    let mut renewed = Renewed { traits: traits(&all), ..Renewed::default() };
    for name in all.into_iter().filter(|name| is_configuration(name)) {
        let inside = format!("::/{name}");
        let old = runner.check(&mtools("mtype", image, [inside.as_str()]))?.stdout;
        let Some(new) = references.apply(&old).filter(|_| old.len() <= LONGEST) else { continue };
        let new = files::padded(name, new);
        // -o: over the file that is there, without a question; `-` is standard input.
        runner.check(&mtools("mcopy", image, ["-o", "-", inside.as_str()]).stdin(new.clone()))?;
        if runner.check(&mtools("mtype", image, [inside.as_str()]))?.stdout != new {
            let source = std::io::Error::other("it has another content than was written");
            return Err(crate::error::Error::io(name, "rewrite", source));
        }
        renewed.changed.push(name.to_owned());
    }
    Ok(renewed)
}

fn mtools<const N: usize>(program: &str, image: &Path, args: [&str; N]) -> Call {
    let mut call = Call::new(program, ["-i".as_ref(), image.as_os_str()]);
    call.args.extend(args.map(Into::into));
    // Without it, mtools refuse volumes whose size is no multiple of their imagined tracks.
    call.env("MTOOLS_SKIP_CHECK", "1")
}

/// GRUB's and systemd-boot's files.
fn is_configuration(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let grub = name.ends_with("/grub.cfg") || name.ends_with("/grubenv");
    grub || name.starts_with("loader/entries/") && name.ends_with(".conf")
}

/// UEFI specification 3.5.1.1: firmware without a boot entry starts `\EFI\BOOT\BOOT<machine>.EFI`.
fn traits(all: &[&str]) -> Traits {
    let lower: Vec<String> = all.iter().map(|name| name.to_ascii_lowercase()).collect();
    let efi =
        |folder: &str| lower.iter().any(|name| name.starts_with(folder) && name.ends_with(".efi"));
    Traits {
        no_fallback: efi("efi/") && !efi("efi/boot/boot"),
        unified_kernel: efi("efi/linux/"),
        ..Traits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::{is_configuration, traits};

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
    }
}
