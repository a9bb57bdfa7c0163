//! What is replaced in a text: identifiers, labels, and the names of logical volumes.
//!
//! A text is bytes: configuration files are in no certain encoding, and what is not replaced stays as it is.

/// Old and new identifiers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct References {
    pairs: Vec<Pair>,
    /// Names of volume groups as `lvm.conf` has them.
    quoted: Vec<Pair>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Pair {
    old: Vec<u8>,
    new: Vec<u8>,
    /// Bytes besides letters and digits that would make it part of a longer word, before and behind it.
    joins: [&'static [u8]; 2],
    /// Whether letters and digits may touch it: 32 random characters cannot be meant otherwise.
    alone: bool,
    any_case: bool,
}

/// Shorter identifiers (FAT serials, MBR PARTUUIDs) also occur inside of longer ones.
const SHORT: usize = 16;

impl References {
    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    fn push(&mut self, old: &str, new: &str, joins: [&'static [u8]; 2]) {
        let (old, new) = (old.as_bytes().to_vec(), new.as_bytes().to_vec());
        self.pairs.push(Pair { old, new, joins, alone: true, any_case: false });
    }

    /// A UUID, PARTUUID or serial; also as systemd writes it in the names of units (`\x2d` for a hyphen).
    pub fn id(&mut self, old: &str, new: &str) {
        let joins: [&[u8]; 2] = if old.len() < SHORT { [b"-", b"-"] } else { [b"", b""] };
        let escaped = |id: &str| id.replace('-', r"\x2d");
        self.push(&escaped(old), &escaped(new), joins);
        self.push(old, new, joins);
        for pair in self.pairs.iter_mut().rev().take(2) {
            pair.any_case = true;
        }
    }

    /// A UUID of LVM: with hyphens, and without as in `PVID=` and device-mapper's UUIDs.
    pub fn lvm_id(&mut self, old: &str, new: &str) {
        self.push(old, new, [b"", b""]);
        let plain = |id: &str| id.replace('-', "");
        self.push(&plain(old), &plain(new), [b"", b""]);
        if let Some(pair) = self.pairs.last_mut() {
            pair.alone = false;
        }
    }

    /// The volume group `old`, now called `new`.
    pub fn group(&mut self, old: &str, new: &str) {
        self.push(&format!("rd.lvm.vg={old}"), &format!("rd.lvm.vg={new}"), [b"", NAME]);
        for end in ["\"", "/"] {
            let [old, new] = [old, new].map(|name| format!("\"{name}{end}").into_bytes());
            let pair = Pair { old, new, joins: [b"", b""], alone: false, any_case: false };
            self.quoted.push(pair);
        }
    }

    /// The filesystem with this label: two attached disks have it, so it is named by its new UUID.
    pub fn label(&mut self, label: &str, uuid: &str) {
        if is_plain(label) {
            self.push(&format!("LABEL={label}"), &format!("UUID={uuid}"), [PART, LABEL]);
            self.push(&format!("LABEL=\"{label}\""), &format!("UUID=\"{uuid}\""), [PART, b""]);
            for (old, new) in [
                ("by-label/", "by-uuid/"),
                ("--label ", "--fs-uuid "),
                ("search.fs_label ", "search.fs_uuid "),
            ] {
                self.push(&format!("{old}{label}"), &format!("{new}{uuid}"), [b"", LABEL]);
            }
        }
    }

    /// The same for the name of a GPT's partition.
    pub fn partition_label(&mut self, label: &str, uuid: &str) {
        if is_plain(label) {
            for (old, new) in [("PARTLABEL=", "PARTUUID="), ("by-partlabel/", "by-partuuid/")] {
                self.push(&format!("{old}{label}"), &format!("{new}{uuid}"), [b"", LABEL]);
            }
        }
    }

    /// The logical volume `lv` of the group `old`, now called `new`: as device-mapper names it (hyphens
    /// doubled), as LVM does, and as GRUB and dracut do.
    pub fn volume(&mut self, old: &str, new: &str, lv: &str) {
        let doubled = |name: &str| name.replace('-', "--");
        for place in ["mapper/", "lvm/"] {
            let name = |vg: &str| format!("{place}{}-{}", doubled(vg), doubled(lv));
            self.push(&name(old), &name(new), [b"", NAME]);
        }
        for place in ["/dev/", "rd.lvm.lv="] {
            let name = |vg: &str| format!("{place}{vg}/{lv}");
            self.push(&name(old), &name(new), [b"", NAME]);
        }
    }

    /// `text` with everything replaced; `None` where there is nothing to replace.
    pub fn apply(&self, text: &[u8]) -> Option<Vec<u8>> {
        replace(&self.pairs, text)
    }

    /// The same for a text in which quotes stand around the names of volume groups: `lvm.conf`, whose comments
    /// have examples of such names.
    pub fn apply_to_lvm(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut changed = false;
        let lines = text.split_inclusive(|byte| *byte == b'\n').flat_map(|line| {
            let comment = line.trim_ascii_start().starts_with(b"#");
            let new = (!comment).then(|| replace(&self.quoted, line)).flatten();
            changed |= new.is_some();
            new.unwrap_or_else(|| line.to_vec())
        });
        let new: Vec<u8> = lines.collect();
        changed.then_some(new)
    }
}

fn replace(pairs: &[Pair], text: &[u8]) -> Option<Vec<u8>> {
    // A boot loader has millions of bytes, and few of them begin anything.
    let mut begins = [false; 256];
    for first in pairs.iter().filter_map(|pair| pair.old.first()) {
        for byte in [first.to_ascii_lowercase(), first.to_ascii_uppercase()] {
            if let Some(begins) = begins.get_mut(usize::from(byte)) {
                *begins = true;
            }
        }
    }
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let (mut at, mut changed) = (0, false);
    while let Some((first, rest)) = text.get(at..).and_then(|rest| Some((rest.first()?, rest))) {
        let before = text.get(..at).and_then(|before| before.last());
        let may_begin = begins.get(usize::from(*first)).is_some_and(|begins| *begins);
        let fits = |pair: &&Pair| may_begin && pair.fits(before, rest);
        match pairs.iter().find(fits) {
            Some(pair) => {
                out.extend(&pair.new);
                at += pair.old.len();
                changed = true;
            }
            None => {
                out.push(*first);
                at += 1;
            }
        }
    }
    changed.then_some(out)
}

/// Whether a label stands in files as it is, without quotes and escapes.
fn is_plain(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || LABEL.contains(&b))
}

/// What labels may consist of besides letters and digits.
const LABEL: &[u8] = b"+_.-/:@";

/// The end of `PART`, which makes another key of `LABEL=`.
const PART: &[u8] = b"T";

/// What else the name of a logical volume may consist of (lvm(8), "Valid names").
const NAME: &[u8] = b"+_.-";

impl Pair {
    fn fits(&self, before: Option<&u8>, rest: &[u8]) -> bool {
        let Some((found, behind)) = rest.split_at_checked(self.old.len()) else { return false };
        let same =
            if self.any_case { found.eq_ignore_ascii_case(&self.old) } else { found == self.old };
        if !same || self.old.is_empty() {
            return false;
        }
        let touches = |byte: Option<&u8>, joins: &[u8], word: bool| {
            byte.is_some_and(|b| {
                self.alone && word && b.is_ascii_alphanumeric() || joins.contains(b)
            })
        };
        let [before_joins, behind_joins] = self.joins;
        // What begins with a path or a key may follow anything.
        let word = self.old.first().is_some_and(u8::is_ascii_hexdigit) && !self.old.contains(&b'/');
        // systemd's escapes end in a letter or digit: `uuid\x2d` before an identifier.
        !touches(before, before_joins, word && !self.old.contains(&b'\\'))
            && !touches(behind.first(), behind_joins, true)
    }
}

#[cfg(test)]
mod tests {
    use super::References;

    const OLD: &str = "0a1b2c3d-1111-2222-3333-0123456789ab";
    const NEW: &str = "ffffffff-aaaa-4bbb-8ccc-dddddddddddd";
    const LVM: [&str; 2] =
        ["aBcDeF-aaaa-bbbb-cccc-dddd-eeee-ffffff", "111111-2222-3333-4444-5555-6666-777777"];

    fn references() -> References {
        let mut references = References::default();
        references.id(OLD, NEW);
        references.id("1111-2222", "AAAA-BBBB");
        references.id("c0ffee42-01", "12345678-01");
        references.lvm_id(LVM[0], LVM[1]);
        references.group("vg-a", "vg-a-2");
        references.volume("vg-a", "vg-a-2", "root");
        references.volume("vg-a", "vg-a-2", "my-swap");
        references
    }

    fn becomes(old: &str, new: &str) {
        let found = references().apply(old.as_bytes());
        let found = found.map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(found.as_deref(), (old != new).then_some(new), "{old}");
    }

    #[test]
    fn identifiers_are_replaced_wherever_a_system_writes_them() {
        for place in
            ["UUID=@ / ext4", "UUID=\"@\"", "/dev/disk/by-uuid/@", "--fs-uuid --set=root @\n"]
        {
            becomes(&place.replace('@', OLD), &place.replace('@', NEW));
            becomes(&place.replace('@', &OLD.to_uppercase()), &place.replace('@', NEW));
        }
        let escaped = |id: &str| format!(r"dev-disk-by\x2duuid-{}.swap", id.replace('-', r"\x2d"));
        becomes(&escaped(OLD), &escaped(NEW));
        becomes("UUID=1111-2222 /boot/efi", "UUID=AAAA-BBBB /boot/efi");
        becomes("root=PARTUUID=C0FFEE42-01 ro", "root=PARTUUID=12345678-01 ro");
        becomes(&format!("lvmid/{0}/{0}", LVM[0]), &format!("lvmid/{0}/{0}", LVM[1]));
        let plain = LVM.map(|id| id.replace('-', ""));
        becomes(&format!("LVM-{0}{0}", plain[0]), &format!("LVM-{0}{0}", plain[1]));
        becomes(&format!("PVID={} x", plain[0]), &format!("PVID={} x", plain[1]));
    }

    #[test]
    fn names_of_volumes_are_replaced_as_a_whole() {
        becomes("root=/dev/mapper/vg--a-root ro", "root=/dev/mapper/vg--a--2-root ro");
        becomes("/dev/mapper/vg--a-my--swap none", "/dev/mapper/vg--a--2-my--swap none");
        becomes("/dev/vg-a/root / ext4", "/dev/vg-a-2/root / ext4");
        becomes("rd.lvm.lv=vg-a/root rd.lvm.vg=vg-a", "rd.lvm.lv=vg-a-2/root rd.lvm.vg=vg-a-2");
        becomes("root='lvm/vg--a-root'", "root='lvm/vg--a--2-root'");
    }

    #[test]
    fn labels_become_identifiers() {
        let mut references = References::default();
        references.label("root", NEW);
        references.label("/", "AAAA-BBBB");
        references.label("two words", OLD);
        references.partition_label("root", OLD);
        for (old, new) in [
            ("LABEL=root / ext4", format!("UUID={NEW} / ext4")),
            ("root=LABEL=root ro", format!("root=UUID={NEW} ro")),
            ("LABEL=\"root\" / ext4", format!("UUID=\"{NEW}\" / ext4")),
            ("LABEL=/ / ext4", "UUID=AAAA-BBBB / ext4".to_owned()),
            ("/dev/disk/by-label/root /", format!("/dev/disk/by-uuid/{NEW} /")),
            ("search --set=root --label root\n", format!("search --set=root --fs-uuid {NEW}\n")),
            ("PARTLABEL=root / ext4", format!("PARTUUID={OLD} / ext4")),
            ("/dev/disk/by-partlabel/root", format!("/dev/disk/by-partuuid/{OLD}")),
        ] {
            let found = references.apply(old.as_bytes()).unwrap_or_default();
            assert_eq!(String::from_utf8(found).unwrap(), new, "{old}");
        }
        for same in ["LABEL=roots", "LABEL=root-2", "LABEL=/home", "LABEL=two words", "XLABEL=/x"] {
            assert_eq!(references.apply(same.as_bytes()), None, "{same}");
        }
    }

    #[test]
    fn groups_are_renamed_where_lvm_is_told_what_to_activate() {
        let old =
            "\t# volume_list = [ \"vg-a\" ]\n\tvolume_list = [ \"vg-a\", \"vg-a/x\", \"vg-ab\" ]\n";
        let new = "\t# volume_list = [ \"vg-a\" ]\n\tvolume_list = [ \"vg-a-2\", \"vg-a-2/x\", \"vg-ab\" ]\n";
        assert_eq!(references().apply_to_lvm(old.as_bytes()), Some(new.into()));
        assert_eq!(references().apply_to_lvm(b"# \"vg-a\"\n"), None);
        assert_eq!(references().apply(b"\"vg-a\""), None);
    }

    #[test]
    fn what_only_looks_alike_stays() {
        for same in [
            // The serial inside of a UUID, a longer PARTUUID, another volume, another group.
            "UUID=00000000-1111-2222-0000-000000000000",
            "PARTUUID=c0ffee42-010",
            "/dev/mapper/vg--a-root2 /dev/mapper/vg--a-root-x /dev/mapper/vg--a--b-root",
            "/dev/vg-a/rootfs /dev/vg-a-b/root rd.lvm.vg=vg-abc",
            "0a1b2c3d-1111-2222-3333-0123456789abc",
            "",
        ] {
            becomes(same, same);
        }
    }
}
