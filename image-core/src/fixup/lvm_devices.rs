//! LVM's list of the devices that it may use, `/etc/lvm/devices/system.devices` (lvmdevices(8)): a volume group on
//! a device that is not in it does not come up.

/// Where it is: its folder, its name, and what it is called once it is put aside. Without the file LVM uses every
/// device, with an empty one none.
pub const FILE: [&str; 3] = ["etc/lvm/devices", "system.devices", "system.devices.keiki-old"];

/// Whether the list `text` lets LVM find all of `pvs`: their UUIDs, and what tells their disk, `wwid`s and serials,
/// where that is known. A list that names disks otherwise than the machine that it is going to run in sees them is
/// worse than none.
pub fn finds(text: &[u8], pvs: &[(String, Vec<String>)]) -> bool {
    let text = String::from_utf8_lossy(text);
    let entries: Vec<[&str; 3]> = text.lines().filter_map(entry).collect();
    pvs.iter().all(|(pv, disk)| {
        let plain = pv.replace('-', "");
        entries.iter().any(|[kind, name, id]| {
            let own = id.replace('-', "") == plain;
            // These are made of the disk's own identifiers, and go with it.
            let steady = ["sys_wwid", "sys_serial"].contains(kind);
            let same =
                disk.iter().any(|known| !known.is_empty() && name.trim().ends_with(known.as_str()));
            own && steady && same
        })
    })
}

/// `IDTYPE=sys_wwid IDNAME=naa.5000 DEVNAME=/dev/sda3 PVID=x PART=3`.
fn entry(line: &str) -> Option<[&str; 3]> {
    let line = line.trim();
    let field = |key: &str| line.split_whitespace().find_map(|word| word.strip_prefix(key));
    let fields = [field("IDTYPE=")?, field("IDNAME=")?, field("PVID=")?];
    (!line.starts_with('#')).then_some(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::finds;

    const PV: &str = "aBcDeF-aaaa-bbbb-cccc-dddd-eeee-ffffff";

    fn listed(kind: &str, name: &str, pv: &str) -> String {
        format!(
            "# LVM\nVERSION=1.1.2\nIDTYPE={kind} IDNAME={name} DEVNAME=/dev/sda3 PVID={pv} PART=3\n"
        )
    }

    #[test]
    fn only_a_list_with_these_disks_is_believed() {
        let plain = PV.replace('-', "");
        let pvs = |wwid: &str| vec![(PV.to_owned(), vec![wwid.to_owned()])];
        let text = listed("sys_wwid", "naa.5000c500", &plain);
        assert!(finds(text.as_bytes(), &pvs("naa.5000c500")));
        for (text, known) in [
            (text.as_str(), "naa.6000"),
            (text.as_str(), ""),
            (&listed("sys_wwid", "naa.5000c500", "other"), "naa.5000c500"),
            (&listed("devname", "/dev/sda3", &plain), "/dev/sda3"),
            ("", "naa.5000c500"),
        ] {
            assert!(!finds(text.as_bytes(), &pvs(known)), "{text}");
        }
        assert!(!finds(text.as_bytes(), &[(PV.to_owned(), vec![])]));
        assert!(finds(b"", &[]));
    }

    proptest! {
        #[test]
        fn no_text_is_believed_that_does_not_name_the_volume(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!finds(&text, &[(PV.to_owned(), vec!["x".to_owned()])]));
        }
    }
}
