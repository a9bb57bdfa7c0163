//! What a repair reads of a system that has moved: configuration files, and its initramfs.

use image_core::fixup::devices::{Disks, Known};
use image_core::fixup::drivers::{Kernel, USUAL};
use image_core::fixup::tables::{self, Kind, Mended};
use image_core::fixup::unattend::{Answers, Specialize, image_state};
use image_core::fixup::{lvm_devices, personal, ramdisk, words};

/// Configuration files. The first byte says which.
pub fn moved(input: &[u8]) {
    let Some((number, text)) = input.split_first() else { return };
    let known = known();
    match number % 6 {
        0 => mended(text, &tables::mentions(Kind::Fstab, text), &|text, disks| {
            tables::mend(Kind::Fstab, text, disks, &known)
        }),
        1 => mended(text, &tables::mentions(Kind::Crypttab, text), &|text, disks| {
            tables::mend(Kind::Crypttab, text, disks, &known)
        }),
        2 => mended(text, &words::mentions(text), &|text, disks| words::mend(text, disks, &known)),
        3 => mended(text, &words::resume_file_mentions(text), &|text, disks| {
            words::mend_resume_file(text, disks, &known)
        }),
        4 => assert!(!lvm_devices::finds(text, &[(String::new(), Vec::new())])),
        _ => {
            let kernel = Kernel::of(text, text);
            assert!(kernel.lacks(&USUAL).len() <= USUAL.len());
            renamed(text);
        }
    }
}

/// What tells one machine from another.
fn renamed(text: &[u8]) {
    let Ok(name) = "lab-07".parse() else { return };
    if let Some(new) = personal::hosts(text, "old", &name) {
        assert_eq!(personal::hosts(&new, "old", &name), None);
    }
    assert!(image_state(text).is_none_or(|state| !state.contains(char::is_control)));
    if let Some(new) =
        Answers::read(text).and_then(|answers| answers.named("lab-07")).ok().flatten()
    {
        let again = Answers::read(&new).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(again.named("lab-07"), Ok(None));
        assert_ne!(again.specialize(), Specialize::Absent);
    }
    personal::host_keys(text).iter().for_each(|path| assert!(!path.is_empty()));
    let kind = personal::key_kind("etc/ssh/ssh_host_rsa_key", Some(text));
    let bits = kind.and_then(|kind| kind.bits).unwrap_or(256);
    assert!((256..=8192).contains(&bits), "{kind:?}");
}

fn mended(
    text: &[u8],
    mentions: &[image_core::fixup::devices::Mention],
    mend: &dyn Fn(&[u8], &Disks) -> Mended,
) {
    let disks = Disks::learn(mentions, &known());
    if let Some(new) = mend(text, &disks).text {
        let again = mend(&new, &disks).text;
        assert_eq!(again, None, "{:?} is mended twice", String::from_utf8_lossy(text));
    }
}

/// A disk with a root and a swap area.
fn known() -> Vec<Known> {
    let volume = |number: u32, content: &str, point: Option<&str>| Known {
        id: format!("d0:{number}"),
        disk: "d0".to_owned(),
        number: Some(number),
        content: content.to_owned(),
        uuid: Some(format!("id-{number}")),
        point: point.map(str::to_owned),
        ..Known::default()
    };
    vec![volume(1, "ext4", Some("/")), volume(2, "crypto_LUKS", None), volume(3, "swap", None)]
}

/// An initramfs.
pub fn ramdisk(input: &[u8]) {
    let _ = ramdisk::read(input);
}
