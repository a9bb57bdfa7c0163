//! Decisions, on facts that are made up.

use std::collections::BTreeMap;

use super::decide::decide;
use super::facts::{Builder, Code, Disk, EspSight, Facts, HostKey, Own, Sight, Windows};
use super::{Act, Personal, Plan, Wishes};
use crate::fixup::devices::Known;
use crate::fixup::drivers::Kernel;
use crate::fixup::ramdisk::Ramdisk;
use crate::fixup::unattend::Answers;

const RUN: Wishes<'_> =
    Wishes { root: None, run_programs: true, boot_entries: None, personal: None };

fn known(number: u32, content: &str) -> Known {
    Known {
        id: format!("d0:{number}"),
        disk: "d0".to_owned(),
        number: Some(number),
        content: content.to_owned(),
        uuid: Some(format!("id-{number}")),
        part_uuid: Some(format!("part-{number}")),
        ..Known::default()
    }
}

/// A disk on a controller by `driver`, with an EFI system partition and a root, of a system that `builder` serves.
fn facts(driver: Option<&str>, builder: Option<Builder>) -> Facts {
    let disk = Disk {
        id: "d0".to_owned(),
        path: "/dev/x".into(),
        is_device: driver.is_some(),
        drivers: driver.iter().map(|name| (*name).to_owned()).collect(),
        code: Code::Other,
        ..Disk::default()
    };
    let kernel = Kernel {
        modules: ["nvme", "ahci", "sd_mod"].map(str::to_owned).into(),
        builtin: ["virtio_pci".to_owned()].into(),
    };
    let ramdisk =
        Ramdisk { modules: ["ahci", "sd_mod"].map(str::to_owned).into(), lvm_devices: false };
    let root = Sight {
        system: Some("Orchid".to_owned()),
        builders: builder.into_iter().collect(),
        kernels: [("6.1".to_owned(), kernel)].into(),
        ramdisks: [("boot/initrd.img-6.1".to_owned(), Some(ramdisk))].into(),
        ..Sight::default()
    };
    let files = [
        "EFI/debian/shimx64.efi",
        "EFI/debian/grubx64.efi",
        "EFI/BOOT/BOOTX64.EFI",
        "EFI/BOOT/grubx64.efi",
    ];
    let esp = EspSight { files: files.map(str::to_owned).to_vec(), ..EspSight::default() };
    Facts {
        disks: vec![disk],
        known: vec![known(1, "vfat"), known(2, "ext4")],
        sights: [("d0:2".to_owned(), root)].into(),
        esps: [("d0:1".to_owned(), esp)].into(),
        ..Facts::default()
    }
}

fn decided(facts: &Facts) -> Plan {
    decide(facts, &RUN).unwrap()
}

fn why(plan: &Plan) -> Vec<String> {
    let why = |act: &Act| match act {
        Act::Initramfs { why, .. } => Some(why.join("; ")),
        _ => None,
    };
    plan.acts.iter().filter_map(why).collect()
}

#[test]
fn an_initramfs_is_made_anew_only_for_a_driver_that_it_lacks() {
    let debian = Some(Builder::UpdateInitramfs);
    let plan = decided(&facts(Some("ahci"), debian));
    assert_eq!((plan.acts, plan.steps), (vec![], Vec::<String>::new()));
    let lacks = ["boot/initrd.img-6.1 lacks nvme".to_owned()];
    assert_eq!(why(&decided(&facts(Some("nvme"), debian))), lacks);
    // Where nobody knows the controller, any of the usual ones.
    assert_eq!(why(&decided(&facts(None, debian))), lacks);
    // What the kernel does not have at all no initramfs can have.
    let plan = decided(&facts(Some("megaraid_sas"), debian));
    assert!(
        plan.acts.is_empty() && plan.steps.len() == 1 && plan.steps[0].contains("megaraid_sas")
    );
    let plan = decided(&facts(Some("nvme"), None));
    assert!(plan.acts.is_empty() && plan.steps.len() == 1, "{:?}", plan.steps);
    let plan =
        decide(&facts(Some("nvme"), debian), &Wishes { run_programs: false, ..RUN }).unwrap();
    assert!(plan.acts.is_empty() && plan.steps[0].ends_with("update-initramfs -u -k all"));
}

#[test]
fn one_that_cannot_be_read_is_made_anew_where_it_is_for_one_machine() {
    for (builder, file, text, made) in [
        (Builder::UpdateInitramfs, "etc/initramfs-tools/conf.d/x", "MODULES=dep\n", true),
        (Builder::UpdateInitramfs, "etc/initramfs-tools/initramfs.conf", "MODULES=most\n", false),
        (Builder::Dracut, "etc/hostname", "x", true),
        (Builder::Dracut, "etc/dracut.conf.d/x.conf", "hostonly=\"no\"\n", false),
        (Builder::Mkinitcpio, "etc/hostname", "x", true),
    ] {
        let mut facts = facts(Some("ahci"), Some(builder));
        let root = facts.sights.get_mut("d0:2").unwrap();
        root.ramdisks = [("boot/initrd.img-6.1".to_owned(), None)].into();
        root.files.insert(file.to_owned(), text.into());
        assert_eq!(why(&decided(&facts)).len(), usize::from(made), "{builder:?} {text}");
    }
}

#[test]
fn a_boot_entry_is_made_only_by_the_machine_that_starts_the_disk() {
    let entries = |given: Option<&str>, driver| {
        let wishes = Wishes { boot_entries: given, ..RUN };
        decide(&facts(driver, None), &wishes).unwrap().acts
    };
    let made = entries(Some("BootCurrent: 0001\n"), Some("ahci"));
    let expected = Act::BootEntry {
        disk: 0,
        number: 1,
        loader: r"\EFI\debian\shimx64.efi".to_owned(),
        label: "debian".to_owned(),
    };
    assert_eq!(made, [expected]);
    assert_eq!(entries(None, Some("ahci")), []);
    assert!(entries(Some(""), None).iter().all(|act| !matches!(act, Act::BootEntry { .. })));
    let there = "Boot0001* debian\tHD(1,GPT,PART-1,0x800)/File(\\EFI\\DEBIAN\\SHIMX64.EFI)\n";
    assert_eq!(entries(Some(there), Some("ahci")), []);
}

#[test]
fn an_esp_with_several_loaders_needs_a_person() {
    let mut facts = facts(Some("ahci"), None);
    let esp = facts.esps.get_mut("d0:1").unwrap();
    esp.files = ["EFI/a/grubx64.efi", "EFI/b/grubx64.efi"].map(str::to_owned).to_vec();
    let plan = decided(&facts);
    assert!(
        plan.acts.is_empty() && plan.steps[0].contains("efibootmgr --create"),
        "{:?}",
        plan.steps
    );
}

#[test]
fn of_several_systems_one_is_named() {
    let mut facts = facts(Some("ahci"), None);
    let other = facts.sights["d0:2"].clone();
    facts.sights.insert("d0:3".to_owned(), other);
    assert!(decide(&facts, &RUN).unwrap_err().to_string().contains("d0:2, d0:3"));
    assert_eq!(decide(&facts, &Wishes { root: Some("d0:3"), ..RUN }).unwrap().root, "d0:3");
    decide(&facts, &Wishes { root: Some("d0:1"), ..RUN }).unwrap_err();
    facts.sights = BTreeMap::new();
    decide(&facts, &RUN).unwrap_err();
}

#[test]
fn boot_is_where_fstab_says_or_where_it_looks_like_it() {
    let boot = |fstab: &str| {
        let mut facts = facts(Some("ahci"), None);
        facts.known.extend([known(3, "ext4"), known(4, "ext4")]);
        let root = facts.sights.get_mut("d0:2").unwrap();
        root.ramdisks = BTreeMap::new();
        root.files.insert("etc/fstab".to_owned(), fstab.into());
        let text =
            || (("grub/grub.cfg").to_owned(), b"linux root=/dev/sda2 resume=UUID=gone\n".to_vec());
        for id in ["d0:3", "d0:4"] {
            facts
                .sights
                .insert(id.to_owned(), Sight { files: [text()].into(), ..Sight::default() });
        }
        if fstab.is_empty() {
            facts.sights.remove("d0:4");
        }
        let plan = decided(&facts);
        let volume = |act: &Act| match act {
            Act::Rewrite { volume, .. } => Some(volume.clone()),
            _ => None,
        };
        plan.acts.iter().filter_map(volume).collect::<Vec<_>>()
    };
    assert_eq!(boot("UUID=id-4 /boot ext4\n"), ["d0:4"]);
    assert_eq!(boot(""), ["d0:3"]);
    assert_eq!(boot("# nothing\n"), [""; 0]);
}

/// A system with `/var` on a volume of its own, called `old`, and what becomes of it as `lab-07`.
fn renamed(change: impl FnOnce(&mut Facts)) -> Plan {
    let mut facts = facts(Some("ahci"), None);
    facts.known.push(known(3, "ext4"));
    let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
    let id = "0123456789abcdef0123456789abcdef";
    let root = facts.sights.get_mut("d0:2").unwrap();
    root.files.extend([file("etc/fstab", "UUID=id-3 /var ext4\n")]);
    let key = HostKey {
        private: b"-".to_vec(),
        public: Some(b"ssh-ed25519 A root@old".to_vec()),
        new: Some(Ok([b"new".to_vec(), b"public".to_vec()])),
    };
    root.own = Own {
        files: [file("etc/hostname", "old\n"), file("etc/machine-id", id)].into(),
        keys: [("etc/ssh/ssh_host_ed25519_key".to_owned(), key)].into(),
        ..Own::default()
    };
    let own = Own {
        files: [
            file("lib/dbus/machine-id", id),
            file("lib/systemd/random-seed", "12345"),
            // What has this name here is no host name.
            file("etc/hostname", "x"),
        ]
        .into(),
        leases: vec!["lib/dhcp/dhclient.leases".to_owned()],
        ..Own::default()
    };
    facts.sights.insert("d0:3".to_owned(), Sight { own, ..Sight::default() });
    change(&mut facts);
    let name = "lab-07".parse().unwrap();
    let personal = Some(Personal { name: &name, seed: [7; 32] });
    decide(&facts, &Wishes { personal, ..RUN }).unwrap()
}

#[test]
fn who_a_machine_is_lies_on_its_root_and_its_var_and_its_name_comes_last() {
    let plan = renamed(|_| ());
    let words: Vec<String> = plan.acts.iter().map(Act::words).collect();
    let expected = [
        "etc/machine-id on d0:2: an id of its own",
        "lib/dbus/machine-id on d0:3: an id of its own",
        "lib/systemd/random-seed on d0:3: random numbers of its own",
        "what DHCP clients remember on d0:3: removed, lib/dhcp/dhclient.leases",
        "etc/ssh/ssh_host_ed25519_key on d0:2: a key of its own",
        "etc/ssh/ssh_host_ed25519_key.pub on d0:2: the public half of it",
        "etc/hostname on d0:2: old becomes lab-07",
    ];
    assert_eq!(words, expected);
    let new = |act: &Act| match act {
        Act::Rewrite { new, .. } => new.clone(),
        _ => Vec::new(),
    };
    let [id, same, seed] = [0, 1, 2].map(|at| new(&plan.acts[at]));
    assert!(id == same && id.len() == 33 && seed.len() == 5 && seed != b"12345");
    assert!(!plan.acts.iter().any(Act::runs_programs) && plan.steps.is_empty());
}

#[test]
fn an_id_on_a_command_line_is_a_step() {
    let steps = renamed(|facts| {
        let files = &mut facts.sights.get_mut("d0:2").unwrap().files;
        files.insert("boot/grub/grub.cfg".to_owned(), b"linux /v systemd.machine_id=0 ro".to_vec());
    })
    .steps;
    assert!(steps.len() == 1 && steps[0].contains("boot/grub/grub.cfg on d0:2"), "{steps:?}");
}

#[test]
fn a_machine_that_has_its_name_keeps_its_ids_and_replaces_only_keys_of_others() {
    let named = |public: Option<&[u8]>| {
        renamed(|facts| {
            let own = &mut facts.sights.get_mut("d0:2").unwrap().own;
            own.files.insert("etc/hostname".to_owned(), b"# ours\nLab-07\n".to_vec());
            for key in own.keys.values_mut() {
                key.public = public.map(<[u8]>::to_vec);
            }
        })
    };
    assert_eq!(named(Some(b"ssh-ed25519 A root@lab-07\n")), named(Some(b"ssh-ed25519 B x@LAB-07")));
    assert_eq!(named(Some(b"ssh-ed25519 A root@lab-07\n")).acts, []);
    assert_eq!(named(Some(b"ssh-ed25519 A root@old\n")).acts.len(), 2);
    // Without a public half nobody can tell whose it is.
    let acts = named(None).acts;
    assert!(matches!(acts.as_slice(), [Act::Rewrite { .. }, Act::Add { .. }]), "{acts:?}");
}

#[test]
fn a_windows_gets_its_name_where_nothing_else_may_be_the_system() {
    let windows = |change: &dyn Fn(&mut Facts)| {
        renamed(|facts| {
            facts.windows.insert("d0:4".to_owned(), Err("no luck".to_owned()));
            change(facts);
        })
    };
    let only = windows(&|facts| facts.sights = BTreeMap::new());
    assert!(only.acts.is_empty() && only.root == "d0:4" && only.steps.len() == 1, "{only:?}");
    let beside = windows(&|_| ());
    assert_eq!((beside.root.as_str(), beside.steps), ("d0:2", only.steps));
    // Told once; what can be done by now is done.
    let named = windows(&|facts| {
        let own = &mut facts.sights.get_mut("d0:2").unwrap().own;
        own.files.insert("etc/hostname".to_owned(), b"lab-07\n".to_vec());
        own.keys.clear();
    });
    assert!(named.acts.is_empty() && named.steps.is_empty(), "{named:?}");
    let mut facts = facts(None, None);
    facts.sights = BTreeMap::new();
    facts.windows.insert("d0:4".to_owned(), Ok(Windows::default()));
    facts.closed.push(("d0:5".to_owned(), "crypto_LUKS is not looked into".to_owned()));
    let name = "lab-07".parse().unwrap();
    let personal = Some(Personal { name: &name, seed: [7; 32] });
    decide(&facts, &Wishes { personal, ..RUN }).unwrap_err();
}

const OOBE: &str = "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE";
const ANSWERS: [&str; 3] =
    ["Windows/Panther/Unattend/Unattend.xml", "Windows/Panther/unattend.xml", "Unattend.xml"];

/// What is planned for a Windows in `state` with answer files that have these passes.
fn for_windows(state: &str, passes: &[&str], name: &str) -> Plan {
    let file = |(path, pass): (&&str, &&str)| {
        let text =
            format!("<unattend xmlns=\"urn:schemas-microsoft-com:unattend\">{pass}</unattend>");
        ((*path).to_owned(), text.into_bytes())
    };
    let state = format!("[State]\r\nImageState={state}\r\n");
    let windows = Windows {
        state: Some(("Windows/Setup/State/State.ini".to_owned(), state.into_bytes())),
        folder: Some("Windows/Panther".to_owned()),
        answers: ANSWERS.iter().zip(passes).map(file).collect(),
    };
    let facts = Facts { windows: [("d0:3".to_owned(), Ok(windows))].into(), ..Facts::default() };
    let name = name.parse().unwrap();
    let personal = Some(Personal { name: &name, seed: [7; 32] });
    decide(&facts, &Wishes { personal, ..RUN }).unwrap()
}

#[test]
fn the_answer_file_that_setup_takes_gets_the_name() {
    let ahead = "<settings pass=\"specialize\"/>";
    let done = "<settings pass=\"specialize\" wasPassProcessed=\"true\"/>";
    let other = "<settings pass=\"oobeSystem\"/>";
    let file = |passes: &[&str]| {
        let plan = for_windows(OOBE, passes, "lab-07.example.org");
        assert!(plan.system == "Windows" && plan.root == "d0:3" && plan.steps.is_empty());
        match plan.acts.as_slice() {
            [Act::Rewrite { volume, file, old, new, why }] if volume == "d0:3" => {
                assert!(old != new && *why == ["the computer name lab-07"]);
                file.clone()
            }
            acts => panic!("{acts:?}"),
        }
    };
    for (passes, place) in
        [(&[ahead][..], 0), (&[other], 0), (&[other, ahead, ahead], 1), (&[done, other, ahead], 2)]
    {
        assert_eq!(file(passes), ANSWERS[place], "{passes:?}");
    }
    let plan = for_windows("IMAGE_STATE_GENERALIZE_RESEAL_TO_AUDIT", &[], "lab-07");
    let [Act::Add { file, like, new, .. }] = plan.acts.as_slice() else { panic!("{plan:?}") };
    assert_eq!((file.as_str(), like.as_str()), (ANSWERS[1], "Windows/Setup/State/State.ini"));
    assert_eq!(*new, Answers::only("lab-07"));
}

#[test]
fn what_setup_would_not_read_is_not_written() {
    let done = "<settings pass=\"specialize\" wasPassProcessed=\"true\"/>";
    let other = "<settings pass=\"oobeSystem\"/>";
    for (state, passes, name, words) in [
        ("IMAGE_STATE_COMPLETE", &[][..], "lab-07", "IMAGE_STATE_COMPLETE: only where sysprep"),
        ("?", &[], "lab-07", "does not say what image it is"),
        (OOBE, &[], "a234567890123456", "at most 15 characters"),
        (OOBE, &[], "07.example.org", "no name of digits only"),
        (OOBE, &[done], "lab-07", "carried out the pass specialize of Windows/Panther/Unattend/"),
        (OOBE, &[other, done], "lab-07", "none has a pass specialize to come"),
        (OOBE, &[other, "<"], "lab-07", "Windows/Panther/unattend.xml is left alone, it is no XML"),
    ] {
        let plan = for_windows(state, passes, name);
        assert!(plan.acts.is_empty() && plan.steps.len() == 1, "{plan:?}");
        let step = &plan.steps[0];
        assert!(step.contains(words) && step.contains("Rename-Computer -NewName "), "{step}");
    }
}
