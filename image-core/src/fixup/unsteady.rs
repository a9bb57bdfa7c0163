//! Names of devices that say no more than where a disk is plugged in: with a second disk of the same content
//! attached, they may mean the other one.

/// Kernel names of disks, and udev's names of hardware and of ports.
const UNSTEADY: [&[u8]; 9] = [
    b"/dev/sd",
    b"/dev/vd",
    b"/dev/hd",
    b"/dev/xvd",
    b"/dev/nvme",
    b"/dev/mmcblk",
    b"/dev/disk/by-id/",
    b"/dev/disk/by-path/",
    b"/dev/disk/by-diskseq/",
];

/// These names of udev are made of identifiers.
const STEADY: [&[u8]; 2] = [b"/dev/disk/by-id/dm-", b"/dev/disk/by-id/lvm-"];

/// The first such device that the configuration file `name` uses: a word of fstab and crypttab, a pattern of
/// LVM, elsewhere a value. Comments and titles of boot entries say such names too.
pub fn device(name: &str, text: &[u8]) -> Option<String> {
    let is_list = name.starts_with("etc/lvm/") || ["etc/fstab", "etc/crypttab"].contains(&name);
    let lines =
        text.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().starts_with(b"#"));
    let mut words = lines.flat_map(|line| {
        line.split(|byte| byte.is_ascii_whitespace() || b"\"',|^$".contains(byte))
    });
    words.find_map(|word| {
        let value = match word.iter().position(|byte| *byte == b'=') {
            Some(at) => word.get(at.saturating_add(1)..)?,
            None if is_list => word,
            None => return None,
        };
        let begins = |starts: &[&[u8]]| starts.iter().any(|start| value.starts_with(start));
        let found = begins(&UNSTEADY) && !begins(&STEADY);
        found.then(|| String::from_utf8_lossy(value).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::device;

    #[test]
    fn names_by_place_are_found_and_others_are_not() {
        for (name, text, found) in [
            ("etc/fstab", "# /dev/sdb1\nUUID=x / ext4\n\t/dev/sda2 /home ext4\n", "/dev/sda2"),
            ("etc/crypttab", "x /dev/disk/by-id/ata-Y-part1 none\n", "/dev/disk/by-id/ata-Y-part1"),
            ("grub/grub.cfg", "linux /v root=/dev/nvme0n1p2 ro\n", "/dev/nvme0n1p2"),
            ("etc/default/grub", "GRUB_CMDLINE_LINUX=\"resume=/dev/sda3\"\n", "/dev/sda3"),
            ("etc/lvm/lvm.conf", "\tfilter = [ \"a|^/dev/sda2$|\", \"r|.*|\" ]\n", "/dev/sda2"),
            ("etc/systemd/system/x.mount", "What=/dev/vdb1\n", "/dev/vdb1"),
        ] {
            assert_eq!(device(name, text.as_bytes()).as_deref(), Some(found), "{text}");
        }
        for (name, text) in [
            ("etc/fstab", "/dev/mapper/vg-root /\n/dev/sr0 /cd iso9660\n/dev/disk/by-uuid/x /y\n"),
            ("etc/fstab", "/dev/disk/by-id/dm-uuid-LVM-x / ext4\n"),
            ("etc/lvm/lvm.conf", "\t# filter = [ \"a|/dev/sda|\" ]\n"),
            ("grub/grub.cfg", "menuentry 'Other (on /dev/sda1)' {\n"),
        ] {
            assert_eq!(device(name, text.as_bytes()), None, "{text}");
        }
    }
}
