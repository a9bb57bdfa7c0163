//! The words `root=` and `resume=` of kernel command lines, wherever they stand: in boot loaders' configuration, in
//! that of programs that make it, in GRUB's environment.

use super::devices::{Disks, Known, Mention, Place, named};
use super::tables::Mended;

/// Behind these a word begins.
const BEFORE: &[u8] = b" \t\n\r\"'=";
/// At these it ends.
const BEHIND: &[u8] = b" \t\n\r\"'";

/// A word that names a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word<'a> {
    key: Key,
    /// Where it starts in the text, with its key.
    at: usize,
    value: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Key {
    Root,
    Resume,
}

const KEYS: [(&[u8], Key); 2] = [(b"root=", Key::Root), (b"resume=", Key::Resume)];

impl<'a> Word<'a> {
    fn end(&self) -> usize {
        self.at + self.length()
    }

    fn length(&self) -> usize {
        let key = KEYS.iter().find(|(_, key)| *key == self.key).map_or(0, |(text, _)| text.len());
        key + self.value.len()
    }

    /// All of them, but for those in comments.
    fn all(text: &'a [u8]) -> Vec<Self> {
        let mut words = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if !line.trim_ascii_start().starts_with(b"#") {
                words.extend(Self::of_line(line, start));
            }
            start += line.len();
        }
        words
    }

    fn of_line(line: &'a [u8], start: usize) -> Vec<Self> {
        let mut words: Vec<Self> = Vec::new();
        for (at, _) in line.iter().enumerate() {
            if words.last().is_some_and(|last| start + at < last.end()) {
                continue;
            }
            let begins = at
                .checked_sub(1)
                .and_then(|before| line.get(before))
                .is_none_or(|byte| BEFORE.contains(byte));
            let rest = line.get(at..).unwrap_or_default();
            let Some((text, key)) = KEYS.iter().find(|(text, _)| begins && rest.starts_with(text))
            else {
                continue;
            };
            let value = rest.get(text.len()..).unwrap_or_default();
            let length = value.iter().position(|byte| BEHIND.contains(byte)).unwrap_or(value.len());
            // GRUB has a variable of that name, whose values are disks of its own: quoted, `hd0,1`, `lvm/vg-root`.
            if let Some(value) =
                value.get(..length).and_then(|value| std::str::from_utf8(value).ok())
            {
                words.push(Word { key: *key, at: start + at, value });
            }
        }
        words
    }
}

/// The names by place of a root and of an image to resume from.
pub fn mentions(text: &[u8]) -> Vec<Mention> {
    let mention = |word: &Word<'_>| mention(word.key, word.value);
    Word::all(text).iter().filter_map(mention).collect()
}

fn mention(key: Key, value: &str) -> Option<Mention> {
    let place = Place::of(value)?;
    Some(match key {
        Key::Root => Mention { place, point: Some("/".to_owned()), kind: String::new() },
        Key::Resume => Mention { place, point: None, kind: "swap".to_owned() },
    })
}

/// What has to become of a device to resume from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resume {
    /// It is there, or it is no device.
    Stays,
    /// It has to be this one.
    Becomes(String),
    /// There is nothing to resume from.
    Goes,
}

/// What has to become of `value`.
pub fn resume(value: &str, disks: &Disks, known: &[Known]) -> Resume {
    // Anything else is `none`, or a variable of some script.
    let device = ["/dev/", "UUID=", "PARTUUID=", "LABEL=", "PARTLABEL="]
        .iter()
        .any(|start| value.starts_with(start));
    if !device || value.contains(['$', '`']) || named(value, known).is_some() {
        return Resume::Stays;
    }
    let meant = mention(Key::Resume, value).and_then(|mention| disks.volume(&mention, known));
    let swaps = || known.iter().filter(|one| one.content == "swap" && one.uuid.is_some());
    // The largest is what installers choose.
    let found =
        meant.or_else(|| swaps().max_by_key(|one| one.size)).and_then(|one| one.uuid.as_ref());
    found.map_or(Resume::Goes, |uuid| Resume::Becomes(format!("UUID={uuid}")))
}

/// Replaces names by place where it is certain which volume they meant, and what to resume from where it is not
/// there.
pub fn mend(text: &[u8], disks: &Disks, known: &[Known]) -> Mended {
    let mut mended = Mended::default();
    let (mut new, mut copied) = (Vec::with_capacity(text.len()), 0);
    for word in Word::all(text) {
        let (old, value) = (text.get(copied..word.at).unwrap_or_default(), word.value);
        let becomes = match word.key {
            Key::Root => root(&word, disks, known, &mut mended),
            Key::Resume => match resume(value, disks, known) {
                Resume::Stays => None,
                Resume::Becomes(new) => Some(format!("resume={new}")),
                Resume::Goes => Some(String::new()),
            },
        };
        let Some(becomes) = becomes else { continue };
        new.extend(old);
        copied = word.end();
        match becomes.as_str() {
            "" => {
                mended.done.push(format!("resume={value} is gone"));
                // With it goes the space before it.
                if new.last() == Some(&b' ') {
                    new.pop();
                }
            }
            becomes => {
                mended.done.push(format!("{} is {becomes}", said(&word)));
                new.extend(becomes.bytes());
            }
        }
    }
    new.extend(text.get(copied..).unwrap_or_default());
    mended.done.dedup();
    mended.text = (!mended.done.is_empty()).then_some(new);
    mended
}

fn said(word: &Word<'_>) -> String {
    let key = if word.key == Key::Root { "root=" } else { "resume=" };
    format!("{key}{}", word.value)
}

fn root(word: &Word<'_>, disks: &Disks, known: &[Known], mended: &mut Mended) -> Option<String> {
    let mention = mention(Key::Root, word.value)?;
    match disks.volume(&mention, known).and_then(|volume| volume.uuid.as_ref()) {
        Some(uuid) => Some(format!("root=UUID={uuid}")),
        None => {
            let name = word.value.to_owned();
            if !mended.left.contains(&name) {
                mended.left.push(name);
            }
            None
        }
    }
}

/// The same for a file of `initramfs-tools`, whose lines may be `RESUME=DEVICE`.
pub fn mend_resume_file(text: &[u8], disks: &Disks, known: &[Known]) -> Mended {
    let mut mended = Mended::default();
    let mut new = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let value =
            std::str::from_utf8(line).ok().and_then(|line| line.trim().strip_prefix("RESUME="));
        let device = value.map(|value| value.trim_matches(['"', '\'']));
        let becomes = match device.map(|device| resume(device, disks, known)) {
            None | Some(Resume::Stays) => {
                new.extend(line);
                continue;
            }
            Some(Resume::Becomes(device)) => device,
            Some(Resume::Goes) => "none".to_owned(),
        };
        mended.done.push(format!("RESUME={} is {becomes}", device.unwrap_or_default()));
        new.extend(format!("RESUME={becomes}\n").bytes());
    }
    mended.text = (!mended.done.is_empty()).then_some(new);
    mended
}

/// The names by place in such a file.
pub fn resume_file_mentions(text: &[u8]) -> Vec<Mention> {
    let text = String::from_utf8_lossy(text);
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("RESUME="));
    values.filter_map(|value| mention(Key::Resume, value.trim_matches(['"', '\'']))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{mend, mend_resume_file, mentions};
    use crate::fixup::devices::{Disks, Known};

    fn known(swap: bool) -> Vec<Known> {
        let root = Known {
            id: "d0:1".to_owned(),
            disk: "d0".to_owned(),
            number: Some(1),
            content: "ext4".to_owned(),
            uuid: Some("r-1".to_owned()),
            point: Some("/".to_owned()),
            ..Known::default()
        };
        let lv = Known {
            id: "vg-0/swap".to_owned(),
            content: "swap".to_owned(),
            uuid: Some("s-1".to_owned()),
            size: 9,
            ..Known::default()
        };
        if swap { vec![root, lv] } else { vec![root] }
    }

    fn mended(text: &str, swap: bool) -> (String, Vec<String>) {
        let known = known(swap);
        let disks = Disks::learn(&mentions(text.as_bytes()), &known);
        let mended = mend(text.as_bytes(), &disks, &known);
        let new = mended.text.unwrap_or_else(|| text.as_bytes().to_vec());
        (String::from_utf8(new).unwrap(), mended.left)
    }

    #[test]
    fn a_root_by_place_becomes_a_uuid() {
        for (old, new) in [
            (
                "\tlinux /vmlinuz root=/dev/vda1 ro quiet\n",
                "\tlinux /vmlinuz root=UUID=r-1 ro quiet\n",
            ),
            ("GRUB_CMDLINE_LINUX=\"root=/dev/sda1\"\n", "GRUB_CMDLINE_LINUX=\"root=UUID=r-1\"\n"),
            ("kernelopts=root=/dev/sda1 ro\n###", "kernelopts=root=UUID=r-1 ro\n###"),
            ("set root='hd0,gpt1'\n", "set root='hd0,gpt1'\n"),
            ("# root=/dev/vda1\n", "# root=/dev/vda1\n"),
            (
                "x-root=/dev/vda1 root=/dev/mapper/vg-root",
                "x-root=/dev/vda1 root=/dev/mapper/vg-root",
            ),
        ] {
            assert_eq!(mended(old, true), (new.to_owned(), vec![]), "{old}");
        }
        let other = "linux root=/dev/vda1\nlinux root=/dev/sdb7 ro\nlinux root=/dev/sdb7\n";
        let new = other.replace("/dev/vda1", "UUID=r-1");
        assert_eq!(mended(other, true), (new, vec!["/dev/sdb7".to_owned()]));
    }

    #[test]
    fn what_is_resumed_from_is_what_is_there() {
        for (old, with, without) in [
            ("ro resume=UUID=gone quiet", "ro resume=UUID=s-1 quiet", "ro quiet"),
            ("ro resume=UUID=S-1", "ro resume=UUID=S-1", "ro"),
            ("resume=/dev/mapper/vg--0-swap", "resume=/dev/mapper/vg--0-swap", ""),
            ("\"quiet resume=/dev/vda5\"", "\"quiet resume=UUID=s-1\"", "\"quiet\""),
            // A file in a filesystem that is there.
            (
                "resume=UUID=r-1 resume_offset=8",
                "resume=UUID=r-1 resume_offset=8",
                "resume=UUID=r-1 resume_offset=8",
            ),
            ("noresume", "noresume", "noresume"),
        ] {
            assert_eq!(mended(old, true).0, with, "{old}");
            assert_eq!(mended(old, false).0, without, "{old}");
        }
    }

    #[test]
    fn the_file_of_initramfs_tools_is_mended_too() {
        let mended = |text: &str, swap| {
            let new = mend_resume_file(text.as_bytes(), &Disks::default(), &known(swap)).text;
            new.map(|new| String::from_utf8(new).unwrap())
        };
        assert_eq!(
            mended("# x\nRESUME=UUID=gone\n", true).as_deref(),
            Some("# x\nRESUME=UUID=s-1\n")
        );
        assert_eq!(mended("RESUME=/dev/vda5", false).as_deref(), Some("RESUME=none\n"));
        for same in ["RESUME=none\n", "RESUME=\"UUID=s-1\"\n", "RESUME=auto", "MODULES=dep\n"] {
            assert_eq!(mended(same, true), None, "{same}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_mended_is_mended_once(
            text in "([\"'=#\n ]|root=|resume=|/dev/vda1|/dev/sdb2|UUID=s-1|UUID=x|ro|é){0,30}",
            swap in any::<bool>(),
        ) {
            let (new, left) = mended(&text, swap);
            let known = known(swap);
            let disks = Disks::learn(&mentions(text.as_bytes()), &known);
            let again = mend(new.as_bytes(), &disks, &known);
            prop_assert!(again.text.is_none(), "{new:?} {again:?}");
            prop_assert_eq!(again.left, left);
        }
    }
}
