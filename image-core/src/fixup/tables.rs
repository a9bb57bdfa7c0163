//! `fstab` and `crypttab`: names by place become identifiers.

use super::devices::{Disks, Known, Mention, Place};

/// A text that was looked through.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Mended {
    /// The new text; none where the old one stays.
    pub text: Option<Vec<u8>>,
    /// What became of what: `/dev/sda1 is UUID=...`.
    pub done: Vec<String>,
    /// What stays though it should not: the names.
    pub left: Vec<String>,
}

/// Which of the two tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// fstab(5): device, mount point, type, options.
    Fstab,
    /// crypttab(5): name, device, key file, options.
    Crypttab,
}

/// One line that is no comment.
struct Line<'a> {
    mention: Mention,
    device: &'a str,
    /// Where the device stands in the line.
    at: usize,
    options: &'a str,
}

impl<'a> Line<'a> {
    fn of(kind: Kind, line: &'a [u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?;
        if line.trim_start().starts_with('#') {
            return None;
        }
        let mut words = line.split([' ', '\t']).filter(|word| !word.trim().is_empty());
        let (device, point, content, options) = match kind {
            Kind::Fstab => {
                let (device, point) = (words.next()?, words.next()?);
                let content = words.next().unwrap_or_default();
                let is_path = point.starts_with('/') && !point.contains('\\');
                (
                    device,
                    is_path.then(|| point.to_owned()),
                    content,
                    words.next().unwrap_or_default(),
                )
            }
            Kind::Crypttab => {
                let device = words.nth(1)?;
                (device, None, "crypto_LUKS", words.nth(1).unwrap_or_default())
            }
        };
        let device = device.trim();
        let place = Place::of(device)?;
        let at = device.as_ptr().addr().checked_sub(line.as_ptr().addr())?;
        let mention = Mention { place, point, kind: content.trim().to_owned() };
        Some(Self { mention, device, at, options })
    }

    /// Nothing waits for it when the system starts.
    fn is_optional(&self) -> bool {
        self.options.split(',').any(|option| option.trim() == "noauto")
    }
}

/// The names by place in `text`, and what it says of them.
pub fn mentions(kind: Kind, text: &[u8]) -> Vec<Mention> {
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| Line::of(kind, line));
    lines.filter(|line| !line.is_optional()).map(|line| line.mention).collect()
}

/// Replaces the names of which it is certain which volume they meant.
pub fn mend(kind: Kind, text: &[u8], disks: &Disks, known: &[Known]) -> Mended {
    let mut mended = Mended::default();
    let mut new = Vec::with_capacity(text.len());
    for whole in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = Line::of(kind, whole) else {
            new.extend(whole);
            continue;
        };
        match disks.volume(&line.mention, known).and_then(|volume| volume.uuid.as_ref()) {
            Some(uuid) => {
                new.extend(whole.get(..line.at).unwrap_or_default());
                new.extend(format!("UUID={uuid}").bytes());
                new.extend(whole.get(line.at + line.device.len()..).unwrap_or_default());
                mended.done.push(format!("{} is UUID={uuid}", line.device));
            }
            None => {
                new.extend(whole);
                mended.left.extend((!line.is_optional()).then(|| line.device.to_owned()));
            }
        }
    }
    mended.text = (!mended.done.is_empty()).then_some(new);
    mended
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Kind, mend, mentions};
    use crate::fixup::devices::{Disks, Known};

    fn known() -> Vec<Known> {
        let volume = |number, content: &str, point: Option<&str>| Known {
            id: format!("d0:{number}"),
            disk: "d0".to_owned(),
            number: Some(number),
            content: content.to_owned(),
            uuid: Some(format!("id-{number}")),
            point: point.map(str::to_owned),
            ..Known::default()
        };
        vec![
            volume(1, "ext4", Some("/")),
            volume(2, "swap", None),
            volume(3, "crypto_LUKS", None),
            volume(4, "vfat", None),
        ]
    }

    fn mended(kind: Kind, text: &str) -> (String, Vec<String>) {
        let known = known();
        let disks = Disks::learn(&mentions(kind, text.as_bytes()), &known);
        let mended = mend(kind, text.as_bytes(), &disks, &known);
        let new = mended.text.unwrap_or_else(|| text.as_bytes().to_vec());
        (String::from_utf8(new).unwrap(), mended.left)
    }

    #[test]
    fn only_the_names_change() {
        let old = "# /dev/sda1 was here\n/dev/sda1\t/ ext4 errors=remount-ro 0  1\n\n \
                   /dev/sda2 none swap sw 0 0\r\nUUID=9 /x ext4\n/dev/sda4 /boot/efi vfat umask=0077";
        let new = "# /dev/sda1 was here\nUUID=id-1\t/ ext4 errors=remount-ro 0  1\n\n \
                   UUID=id-2 none swap sw 0 0\r\nUUID=9 /x ext4\nUUID=id-4 /boot/efi vfat umask=0077";
        assert_eq!(mended(Kind::Fstab, old), (new.to_owned(), vec![]));
    }

    #[test]
    fn what_is_not_certain_stays_and_is_named() {
        let text = "/dev/sda1 / ext4\n/dev/sdb1 /data ext4\n/dev/sda4 /y xfs\n/dev/sdc1 /usb auto noauto,user\n";
        let (new, left) = mended(Kind::Fstab, text);
        assert_eq!(new, text.replace("/dev/sda1", "UUID=id-1"));
        assert_eq!(left, ["/dev/sdb1", "/dev/sda4"]);
    }

    #[test]
    fn crypttab_names_its_device_second() {
        let text = "# name device\ncrypt /dev/sda3 none luks,discard\nother UUID=7 none\n";
        assert_eq!(mended(Kind::Crypttab, text).0, text.replace("/dev/sda3", "UUID=id-3"));
    }

    proptest! {
        #[test]
        fn whatever_is_mended_is_mended_once(text in "([/#a-z0-9=\t ]|/dev/sda|/dev/vdb1|\n){0,60}") {
            for kind in [Kind::Fstab, Kind::Crypttab] {
                let (new, _) = mended(kind, &text);
                prop_assert_eq!(text.lines().count(), new.lines().count());
                let known = known();
                let disks = Disks::learn(&mentions(kind, text.as_bytes()), &known);
                prop_assert!(mend(kind, new.as_bytes(), &disks, &known).text.is_none());
            }
        }
    }
}
