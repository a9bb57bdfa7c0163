//! What is read of a system that gets new identifiers: GRUB's core, programs of UEFI, configuration files.

use std::sync::LazyLock;

use image_core::fixup::{References, files, grub, loader, unsteady};

use super::bases;
use super::edited::{Base, Edited};

/// A disk that begins with GRUB, in the order of an input's first byte.
pub const GRUBS: [&str; 1] = ["grub"];
/// What GRUB's core in the base names.
pub const NAMED: &str = "0f5fae4c-2b6e-4d38-9c3e-1f2a9e4b7c11";
const RENAMED: &str = "7d7d7d7d-0000-4000-8000-000000000001";

static GRUB_BASES: LazyLock<Vec<Base>> = LazyLock::new(|| bases(&GRUBS));

/// Boot code and core of GRUB. With signing, what it names changes: that takes longer.
pub fn grub(input: &[u8]) {
    if let Some((edited, wish)) = Edited::decode(&GRUB_BASES, input) {
        let _ = changed(&edited, wish.sign);
    }
}

/// How many places of the core on `disk` change when what it names gets another name, or something that it does not name.
pub fn changed(disk: &Edited<'_>, named: bool) -> Option<usize> {
    let place = grub::core_of(&disk.bytes(0, 512))?;
    let at = place.index().filter(|at| *at < disk.len())?;
    let mut core = disk.bytes(at, disk.len() - at);
    let mut references = References::default();
    references.id(if named { NAMED } else { RENAMED }, RENAMED);
    let changes = grub::changes(&core, place, &references).ok()?;
    for change in &changes {
        let part = core.get_mut(change.at..change.at + change.bytes.len());
        let Some(part) = part else { panic!("a change beyond the core's end: {}", change.at) };
        part.copy_from_slice(&change.bytes);
    }
    match grub::changes(&core, place, &references) {
        Ok(again) if named => assert_eq!(again, [], "what was renamed is named again"),
        Ok(_) => {}
        Err(error) => panic!("a core that was changed and is understood no more: {error}"),
    }
    Some(changes.len())
}

/// A program of UEFI: whether it may be changed.
pub fn program(input: &[u8]) {
    let _ = loader::may_change(input);
}

/// Configuration files: fstab, crypttab, GRUB's environment and scripts, lvm.conf. The first byte says which.
pub fn configuration(input: &[u8]) {
    const NAMES: [&str; 5] = [
        "etc/fstab",
        "etc/crypttab",
        "boot/grub/grubenv",
        "boot/grub/grub.cfg",
        "etc/lvm/lvm.conf",
    ];
    let Some((number, text)) = input.split_first() else { return };
    let name = NAMES[usize::from(*number) % NAMES.len()];
    let references = references();
    let _ = unsteady::device(name, text);
    if name == "etc/lvm/lvm.conf" {
        let _ = references.apply_to_lvm(text);
        return;
    }
    let Some(new) = references.apply(text).map(|new| files::padded(name, new)) else { return };
    assert_eq!(references.apply(&new), None, "{:?} changes twice", String::from_utf8_lossy(text));
    assert!(name != "boot/grub/grubenv" || new.len() >= 1024);
}

/// What new identifiers replace.
fn references() -> References {
    let mut references = References::default();
    references.id(NAMED, RENAMED);
    references.id("C0FF-EE00", "7D7D-7D7D");
    references.label("orchid", RENAMED);
    references.partition_label("root", RENAMED);
    references.group("vg0", "vg7");
    references.volume("vg0", "vg7", "root-lv");
    references
}
